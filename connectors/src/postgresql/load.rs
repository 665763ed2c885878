//! A batch into the table, the table before it, and what the table holds after.

use std::fs::File;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::sync::mpsc;

use super::client::{copy_header, copy_rows, copy_trailer, open};
use super::schema::{found, missing, staged_definitions};
use super::{PostgreSql, ddl};
use crate::batch::Change;
use crate::fit::{Limits, NOTE_COLUMN, fit};
use crate::mapping::{Column, Mapping};
use crate::pgwire::{Connection, Row, said};
use crate::statement::{each, fill, identifier, is_plain, text};
use crate::tally::{edges, hour_tally, positions};
use crate::target::{Bounds, HourTally, Loaded, StagedBatch, TargetError};

/// Rows that are read and sent together; three such pieces are in memory.
const ROWS: usize = 4_096;

/// Each statement sees what was committed before it, whatever the server's default: what the lock's last holder did too.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

impl PostgreSql {
    fn within(&self) -> Duration {
        Duration::from_secs(self.settings.load_timeout_s)
    }

    async fn open(&self) -> Result<Connection, TargetError> {
        open(&self.settings, self.password.as_ref(), self.within()).await
    }

    async fn ask(
        &self,
        connection: &Connection,
        template: &str,
        values: &[(&str, &str)],
    ) -> Result<(Vec<Row>, u64), TargetError> {
        connection.run(&fill(template, values), self.within()).await
    }

    fn place(&self, mapping: &Mapping) -> [(&'static str, String); 7] {
        let table = self.settings.table_name(&mapping.table);
        [
            ("target", self.table(mapping)),
            ("target_text", text(&self.table(mapping))),
            ("ledger", self.ledger()),
            ("schema_text", text(&self.settings.schema)),
            ("table_text", text(table)),
            ("table_key", text(&self.shown(mapping))),
            ("stage", identifier(&format!("sendlake_stage_{table}"))),
        ]
    }

    pub(super) async fn prepare_table(&self, mapping: &Mapping) -> Result<Vec<String>, TargetError> {
        let connection = self.open().await?;
        let place = self.place(mapping);
        let values = place.each_ref().map(|(name, value)| (*name, value.as_str()));
        let ask =
            async |template: &str| Ok::<_, TargetError>(self.ask(&connection, template, &values).await?.0);
        ask(BEGIN).await?;
        ask(include_str!("sql/lock.sql")).await?;
        let schema = &self.settings.schema;
        if ask(include_str!("sql/schema.sql")).await?.is_empty() {
            ask(&format!("CREATE SCHEMA {}", identifier(schema))).await?;
        }
        ask(include_str!("sql/ledger.sql")).await?;
        let shown = self.shown(mapping);
        let mut changed = Vec::new();
        let there = found(ask(include_str!("sql/columns.sql")).await?);
        if there.is_empty() {
            for statement in each(&ddl::table(&self.settings, mapping), &[]) {
                connection.run(&statement, self.within()).await?;
            }
            changed.push(format!("made table {shown} with {} columns", mapping.columns.len() + 1));
        } else {
            for (_, definition) in missing(&shown, &there, mapping)? {
                let mut values = values.to_vec();
                values.push(("column", &definition));
                self.ask(&connection, include_str!("sql/add_column.sql"), &values).await?;
                changed.push(format!(
                    "added column {definition} to {shown}; rows that are there have NULL in it, `sendlake export backfill \
                     {} --from DAY --to DAY --replace` fills them",
                    self.connector
                ));
            }
        }
        let unique = ask(include_str!("sql/unique.sql")).await?;
        if count_of(&unique) == 0 {
            return Err(TargetError::Schema(format!(
                "table {shown}: no unique index on (event_id, event_date), by which rows are told apart; make it with \
                 ALTER TABLE {shown} ADD PRIMARY KEY (event_id, event_date)"
            )));
        }
        ask("COMMIT").await?;
        Ok(changed)
    }

    /// One transaction. What fails before COMMIT leaves nothing; where the answer to COMMIT is lost, the ledger tells the
    /// next try.
    pub(super) async fn load_batch(&self, batch: &StagedBatch) -> Result<Loaded, TargetError> {
        let within = self.within();
        tokio::time::timeout(within, self.transaction(batch)).await.map_err(|_| {
            TargetError::Away(format!(
                "{}: the batch was not loaded within {} s and is rolled back; raise load_timeout_s, or lower batch_bytes",
                self.shown(&batch.mapping),
                within.as_secs()
            ))
        })?
    }

    async fn transaction(&self, batch: &StagedBatch) -> Result<Loaded, TargetError> {
        let StagedBatch { connector, batch_id, change, rows, days: (first, last), mapping, .. } = batch;
        if ![connector, batch_id, &mapping.table, first, last].into_iter().all(|value| is_plain(value)) {
            return Err(TargetError::Local(format!(
                "batch {batch_id:?}: quotes in its id, connector, table or days"
            )));
        }
        let staged = if *change == Change::Delete { mapping.keys() } else { (**mapping).clone() };
        let names: Vec<String> = staged.names().chain([NOTE_COLUMN]).map(identifier).collect();
        let assignments: Vec<String> = names.iter().map(|name| format!("{name} = EXCLUDED.{name}")).collect();
        let mut pairs = self.place(mapping).to_vec();
        pairs.extend([
            ("connector", text(connector)),
            ("batch_id", text(batch_id)),
            ("source_table", text(&mapping.table)),
            ("change", text(change.as_str())),
            ("rows_staged", rows.to_string()),
            ("mapping_version", text(&mapping.version)),
            ("first_day", text(first)),
            ("last_day", text(last)),
            ("stage_columns", staged_definitions(&staged.columns).join(",\n  ")),
            ("names", names.join(", ")),
            ("assignments", assignments.join(", ")),
        ]);
        let values: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();

        let connection = self.open().await?;
        let ask = async |template: &str| self.ask(&connection, template, &values).await;
        ask(BEGIN).await?;
        ask(include_str!("sql/lock.sql")).await?;
        // Committed by who held the lock before, if anybody: this statement's snapshot is younger.
        if count_of(&ask(include_str!("sql/is_loaded.sql")).await?.0) > 0 {
            return Ok(Loaded::default());
        }
        let there = found(ask(include_str!("sql/columns.sql")).await?.0);
        if let Some((column, _)) = missing(&self.shown(mapping), &there, mapping)?.first() {
            return Err(TargetError::Schema(format!(
                "table {}, column {column}: it is missing, dropped since the table was prepared; the next run adds it again",
                self.shown(mapping)
            )));
        }
        ask(include_str!("sql/stage.sql")).await?;
        let copied = self.copy(&connection, batch, staged.columns, &values).await?;
        if copied != *rows {
            return Err(TargetError::Local(format!(
                "batch {batch_id}: its file has {copied} rows and not {rows}"
            )));
        }
        if *change != Change::Delete {
            self.make_months(&connection, &values).await?;
        }
        let (_, changed) = match change {
            Change::Add => ask(include_str!("sql/add.sql")).await?,
            Change::Replace => ask(include_str!("sql/replace.sql")).await?,
            Change::Delete => ask(include_str!("sql/delete.sql")).await?,
        };
        ask(include_str!("sql/record.sql")).await?;
        ask("COMMIT").await?;
        Ok(Loaded { rows: Some(changed), job_id: None })
    }

    /// Sends the file as it is read; returns how many rows.
    async fn copy(
        &self,
        connection: &Connection,
        batch: &StagedBatch,
        columns: Vec<Column>,
        values: &[(&str, &str)],
    ) -> Result<u64, TargetError> {
        let failed = |error: &tokio_postgres::Error| said(&connection.place, error);
        let sql = fill(include_str!("sql/copy.sql"), values);
        let sink = connection.client.copy_in::<_, Bytes>(&sql).await.map_err(|error| failed(&error))?;
        let mut sink = pin!(sink);
        let (sender, mut pieces) = mpsc::channel(2);
        let file = batch.file.clone();
        let reader = tokio::task::spawn_blocking(move || read_pieces(file, &columns, &sender));
        sink.send(copy_header()).await.map_err(|error| failed(&error))?;
        while let Some(piece) = pieces.recv().await {
            sink.send(piece).await.map_err(|error| failed(&error))?;
        }
        // Before the end is sent: without it the server takes nothing.
        reader.await.map_err(|error| TargetError::Local(format!("staged file: {error}")))??;
        sink.send(copy_trailer()).await.map_err(|error| failed(&error))?;
        sink.finish().await.map_err(|error| failed(&error))
    }

    /// Partitions for the months of the staged rows, where the table is partitioned by day and they are missing.
    async fn make_months(&self, connection: &Connection, values: &[(&str, &str)]) -> Result<(), TargetError> {
        let by = self.ask(connection, include_str!("sql/partitioned.sql"), values).await?.0;
        if by.first().and_then(|row| row.first()).and_then(Option::as_deref) != Some("event_date") {
            return Ok(());
        }
        for row in self.ask(connection, include_str!("sql/months.sql"), values).await?.0 {
            let [Some(month), Some(from), Some(to)] = row.as_slice() else { continue };
            let table = values.iter().find(|(name, _)| *name == "table_text").map_or("", |(_, table)| table);
            let name = format!("{}_{month}", table.trim_matches('\''));
            let partition = format!("{}.{}", identifier(&self.settings.schema), identifier(&name));
            let (from, to) = (text(from), text(to));
            let mut values = values.to_vec();
            values.extend([("partition_name", partition.as_str()), ("from_day", &from), ("to_day", &to)]);
            let has = self.ask(connection, include_str!("sql/partition_of_month.sql"), &values).await?.0;
            if count_of(&has) == 0 {
                self.ask(connection, include_str!("sql/month.sql"), &values).await?;
            }
        }
        Ok(())
    }

    pub(super) async fn tally_hours(
        &self,
        mapping: &Mapping,
        bounds: &Bounds,
    ) -> Result<Vec<HourTally>, TargetError> {
        let Some(positions) = positions(bounds) else { return Ok(Vec::new()) };
        let [first_day, last_day, from, to] = edges(bounds);
        let pairs = [
            ("target", self.table(mapping)),
            ("first_day", first_day),
            ("last_day", last_day),
            ("from", from),
            ("to", to),
            ("positions", positions),
        ];
        let values = pairs.each_ref().map(|(name, value)| (*name, value.as_str()));
        let connection = self.open().await?;
        let (rows, _) = self.ask(&connection, include_str!("sql/tally.sql"), &values).await?;
        let unreadable = |row: &Row| {
            TargetError::JobFailed(format!("{}: a tally that cannot be read: {row:?}", self.shown(mapping)))
        };
        rows.iter().map(|row| hour_tally(row).ok_or_else(|| unreadable(row))).collect()
    }
}

fn count_of(rows: &[Row]) -> u64 {
    rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok()).unwrap_or_default()
}

fn read_pieces(file: PathBuf, columns: &[Column], pieces: &mpsc::Sender<Bytes>) -> Result<(), TargetError> {
    let failed = |error: String| TargetError::Local(format!("staged file {}: {error}", file.display()));
    let opened = File::open(&file).map_err(|error| failed(error.to_string()))?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(opened).map_err(|error| failed(error.to_string()))?;
    let reader = builder.with_batch_size(ROWS).build().map_err(|error| failed(error.to_string()))?;
    let limits = Limits { parses_json: true, ..Limits::default() };
    for batch in reader {
        let batch = batch.map_err(|error| failed(error.to_string()))?;
        let piece = match fit(&batch, columns, &limits).map_err(|error| failed(error.to_string()))? {
            Some(fitted) => copy_rows(&fitted.batch, columns, Some(&fitted.notes))?,
            None => copy_rows(&batch, columns, None)?,
        };
        // Nobody listens any more: the load has failed, and says why itself.
        if pieces.blocking_send(piece).is_err() {
            break;
        }
    }
    Ok(())
}
