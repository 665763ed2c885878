//! A batch into the table, the table before it, and what the table holds after.

use std::time::Duration;

use chrono::NaiveDate;

use super::Redshift;
use super::schema::{Found, Plan, definitions, found, plan, staged_type_of, value_of};
use super::settings::JsonType;
use crate::batch::Change;
use crate::fit::NOTE_COLUMN;
use crate::mapping::Mapping;
use crate::statement::{each, fill, identifier, is_plain, text};
use crate::tally::{edges, hour_tally, positions};
use crate::target::{Bounds, HourTally, JobLog, Loaded, StagedBatch, TargetError};

/// Of the statements of a transaction, the one that changes the table: after those of `stage.sql`.
const CHANGE: usize = 4;

impl Redshift {
    async fn found(
        &self,
        mapping: &Mapping,
    ) -> Result<std::collections::BTreeMap<String, Found>, TargetError> {
        let sql = fill(
            include_str!("sql/columns.sql"),
            &[
                ("schema_text", &text(&self.settings.schema)),
                ("table_text", &text(self.settings.table_name(&mapping.table))),
            ],
        );
        Ok(found(self.client.ask(&sql).await?))
    }

    fn plan(
        &self,
        mapping: &Mapping,
        there: &std::collections::BTreeMap<String, Found>,
    ) -> Result<Plan, TargetError> {
        plan(&self.shown(mapping), there, mapping, self.settings.json)
    }

    pub(super) async fn prepare_table(&self, mapping: &Mapping) -> Result<Vec<String>, TargetError> {
        let shown = self.shown(mapping);
        self.client.change(&fill(include_str!("sql/ledger.sql"), &[("ledger", &self.ledger())])).await?;
        let mut there = self.found(mapping).await?;
        if there.is_empty() {
            let columns = definitions(mapping, self.settings.json).join(",\n  ");
            let values = [("target", self.table(mapping)), ("columns", columns)];
            let values = values.each_ref().map(|(name, value)| (*name, value.as_str()));
            self.client.change(&fill(include_str!("sql/table.sql"), &values)).await?;
            there = self.found(mapping).await?;
            self.plan(mapping, &there)?;
            return Ok(vec![format!("made table {shown} with {} columns", mapping.columns.len() + 1)]);
        }
        let mut changed = Vec::new();
        for (name, definition) in self.plan(mapping, &there)?.add {
            let values = [("target", self.table(mapping)), ("column", definition.clone())];
            let values = values.each_ref().map(|(name, value)| (*name, value.as_str()));
            let added = self.client.change(&fill(include_str!("sql/add_column.sql"), &values)).await;
            // Another loader may have been first: then it is there now.
            if let Err(error) = added
                && !self.found(mapping).await?.contains_key(&name)
            {
                return Err(error);
            }
            changed.push(format!(
                "added column {definition} to {shown}; rows that are there have NULL in it, `sendlake export backfill {} \
                 --from DAY --to DAY --replace` fills them",
                self.connector
            ));
        }
        self.plan(mapping, &self.found(mapping).await?)?;
        Ok(changed)
    }

    pub(super) async fn load_batch(
        &self,
        batch: &StagedBatch,
        log: &dyn JobLog,
    ) -> Result<Loaded, TargetError> {
        let mapping = &batch.mapping;
        let names = Names::of(self, batch)?;
        if self.is_loaded(&names).await? {
            self.bucket.remove(&batch.connector, &batch.batch_id).await;
            return Ok(Loaded { rows: None, job_id: batch.job_id.clone() });
        }
        let plan = self.plan(mapping, &self.found(mapping).await?)?;
        if let Some((column, _)) = plan.add.first() {
            return Err(TargetError::Schema(format!(
                "table {}, column {column}: it is missing, dropped since the table was prepared; the next run adds it again",
                self.shown(mapping)
            )));
        }
        let staged = if batch.change == Change::Delete { mapping.keys() } else { (**mapping).clone() };
        let mut limits = plan.limits(mapping);
        limits.parses_json = self.settings.json == JsonType::Super;
        let uploaded = self.bucket.upload(batch, &staged.columns, limits, self.settings.compression).await?;
        let statements = names.transaction(self, &staged, &uploaded.manifest_url, uploaded.noted);
        let within = Duration::from_secs(self.settings.load_timeout_s);
        let done = self.client.transact(&statements, batch.attempt, log, within).await?;
        self.bucket.remove(&batch.connector, &batch.batch_id).await;
        Ok(Loaded { rows: done.rows.get(CHANGE).copied().flatten(), job_id: done.job_id })
    }

    async fn is_loaded(&self, names: &Names) -> Result<bool, TargetError> {
        let values = names.values();
        let rows = self.client.ask(&fill(include_str!("sql/is_loaded.sql"), &values)).await?;
        Ok(rows.first().and_then(|row| row.first()).is_some_and(|count| count.as_deref() != Some("0")))
    }

    pub(super) async fn tally_hours(
        &self,
        mapping: &Mapping,
        bounds: &Bounds,
    ) -> Result<Vec<HourTally>, TargetError> {
        let Some(positions) = positions(bounds) else { return Ok(Vec::new()) };
        let [first_day, last_day, from, to] = edges(bounds);
        let values = [
            ("target", self.table(mapping)),
            ("first_day", first_day),
            ("last_day", last_day),
            ("from", from),
            ("to", to),
            ("positions", positions),
        ];
        let values = values.each_ref().map(|(name, value)| (*name, value.as_str()));
        let rows = self.client.ask(&fill(include_str!("sql/tally.sql"), &values)).await?;
        rows.iter()
            .map(|row| {
                hour_tally(row).ok_or_else(|| {
                    TargetError::JobFailed(format!(
                        "{}: a tally that cannot be read: {row:?}",
                        self.shown(mapping)
                    ))
                })
            })
            .collect()
    }
}

/// What a batch's statements name.
struct Names {
    change: Change,
    pairs: Vec<(&'static str, String)>,
}

impl Names {
    fn of(redshift: &Redshift, batch: &StagedBatch) -> Result<Self, TargetError> {
        let StagedBatch { connector, batch_id, change, rows, days: (first, last), mapping, .. } = batch;
        let odd = |what: &str| TargetError::Local(format!("batch {batch_id}: {what}"));
        if !is_plain(connector) || !is_plain(&mapping.table) {
            return Err(odd("its connector or table has quotes in its name"));
        }
        if batch_id.is_empty() || !batch_id.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(odd("its id is not hexadecimal"));
        }
        for day in [first, last] {
            NaiveDate::parse_from_str(day, "%Y-%m-%d").map_err(|_| odd("its days are no days"))?;
        }
        let pairs = vec![
            ("target", redshift.table(mapping)),
            ("ledger", redshift.ledger()),
            ("stage", identifier(&format!("sendlake_load_{batch_id:.16}"))),
            ("batch_id", text(batch_id)),
            ("connector", text(connector)),
            ("source_table", text(&mapping.table)),
            ("change", text(change.as_str())),
            ("rows_staged", rows.to_string()),
            ("mapping_version", text(&mapping.version)),
            ("first_day", text(first)),
            ("last_day", text(last)),
        ];
        Ok(Self { change: *change, pairs })
    }

    fn values(&self) -> Vec<(&str, &str)> {
        self.pairs.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    fn get(&self, name: &str) -> &str {
        self.pairs.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    /// The batch's one transaction.
    fn transaction(
        &self,
        redshift: &Redshift,
        staged: &Mapping,
        manifest_url: &str,
        noted: bool,
    ) -> Vec<String> {
        let (stage, json) = (self.get("stage"), redshift.settings.json);
        let mut stage_columns: Vec<String> = staged
            .columns
            .iter()
            .map(|column| format!("{} {}", identifier(&column.name), staged_type_of(column)))
            .collect();
        let note = identifier(NOTE_COLUMN);
        if noted {
            stage_columns.push(format!("{note} VARCHAR(65535)"));
        }
        let mut columns: Vec<(String, String)> = staged
            .columns
            .iter()
            .map(|column| (identifier(&column.name), value_of(column, stage, json)))
            .collect();
        let note_value = if noted { format!("LEFT({stage}.{note}, 1000)") } else { "NULL".to_owned() };
        columns.push((note, note_value));
        let (names, staged_values): (Vec<_>, Vec<_>) = columns.iter().cloned().unzip();
        // Those that ON compares are equal already.
        let compared = ["event_id", "event_date"].map(identifier);
        let assignments: Vec<String> = columns
            .iter()
            .filter(|(name, _)| !compared.contains(name))
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        let iam_role = match redshift.settings.iam_role.as_str() {
            "default" => "default".to_owned(),
            arn => text(arn),
        };
        let more = [
            ("stage_columns", stage_columns.join(",\n  ")),
            ("manifest_url", text(manifest_url)),
            ("iam_role", iam_role),
            ("names", names.join(", ")),
            ("values", staged_values.join(", ")),
            ("assignments", assignments.join(", ")),
        ];
        let mut values = self.values();
        values.extend(more.iter().map(|(name, value)| (*name, value.as_str())));
        let change = match self.change {
            Change::Add => include_str!("sql/add.sql"),
            Change::Replace => include_str!("sql/replace.sql"),
            Change::Delete => include_str!("sql/delete.sql"),
        };
        let mut statements = each(include_str!("sql/stage.sql"), &values);
        statements.push(fill(change, &values));
        statements.push(fill(include_str!("sql/record.sql"), &values));
        statements.push(fill(include_str!("sql/drop_stage.sql"), &values));
        statements
    }
}
