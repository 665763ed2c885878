//! A batch into the table by steps that can each be done twice, the table before it, and what the table holds after.

use std::fs::File;
use std::path::PathBuf;

use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tokio::sync::mpsc;

use super::client::{Problem, UNKNOWN_TABLE};
use super::schema::{found, missing, staged_definitions, value_of};
use super::{ClickHouse, ddl};
use crate::batch::Change;
use crate::fit::{Fitted, Limits, NOTE_COLUMN, fit};
use crate::mapping::{Column, Mapping};
use crate::pgwire::Row;
use crate::statement::{fill, identifier, is_plain, text};
use crate::tally::{edges, hour_tally, positions};
use crate::target::{Bounds, HourTally, Loaded, StagedBatch, TargetError};

/// Of one piece: always the same, so that the same rows have the same token; far below `max_insert_block_size`, so that a
/// piece is one block and is taken whole or not.
const PIECE_ROWS: usize = 32_768;

/// What a staged batch may span: a backfill of many months is one batch.
const MANY_MONTHS: (&str, &str) = ("max_partitions_per_insert_block", "0");
/// Seen everywhere when it is answered; the subquery is run once, by who was asked.
const DELETE_WHOLLY: [(&str, &str); 3] = [
    ("lightweight_deletes_sync", "2"),
    ("allow_nondeterministic_mutations", "1"),
    ("mutations_execute_subqueries_on_initiator", "1"),
];

impl ClickHouse {
    pub(super) async fn prepare_table(&self, mapping: &Mapping) -> Result<Vec<String>, TargetError> {
        let settings = &self.client.settings;
        let place = ddl::place(settings, mapping);
        let values = place.each_ref().map(|(name, value)| (*name, value.as_str()));
        let shown = self.shown(mapping);
        let has = self.client.ask(&fill(include_str!("sql/has_database.sql"), &values)).await?;
        if is_none(&has) {
            self.client.change(&fill(include_str!("sql/database.sql"), &values), &[]).await?;
        }
        self.client.change(&fill(include_str!("sql/ledger.sql"), &values), &[]).await?;
        let columns = async || {
            let rows = self.client.ask(&fill(include_str!("sql/columns.sql"), &values)).await?;
            Ok::<_, Problem>(found(rows))
        };
        let mut there = columns().await?;
        let mut changed = Vec::new();
        if there.is_empty() {
            self.client.change(&ddl::table(settings, mapping), &[]).await?;
            there = columns().await?;
            changed.push(format!("made table {shown} with {} columns", mapping.columns.len() + 2));
        }
        let engine = self.client.ask(&fill(include_str!("sql/engine.sql"), &values)).await?;
        let is_ours = engine.first().is_some_and(|row| match row.as_slice() {
            [Some(engine), Some(key)] => {
                engine.ends_with("ReplacingMergeTree") && key.split(", ").any(|column| column == "event_id")
            }
            _ => false,
        });
        if !is_ours {
            return Err(TargetError::Schema(format!(
                "table {shown}: found {engine:?}, wanted a ReplacingMergeTree(load_version) whose ORDER BY has event_id; make \
                 it as `sendlake export ddl` prints it"
            )));
        }
        for (_, definition) in missing(&shown, &there, mapping, settings.json)? {
            let mut values = values.to_vec();
            values.push(("column", &definition));
            self.client.change(&fill(include_str!("sql/add_column.sql"), &values), &[]).await?;
            changed.push(format!(
                "added column {definition} to {shown}; rows that are there have NULL in it, `sendlake export backfill {} \
                 --from DAY --to DAY --replace` fills them",
                self.connector
            ));
        }
        Ok(changed)
    }

    pub(super) async fn load_batch(&self, batch: &StagedBatch) -> Result<Loaded, TargetError> {
        let StagedBatch { connector, batch_id, change, rows, days: (first, last), mapping, .. } = batch;
        if ![connector, batch_id, &mapping.table, first, last].into_iter().all(|value| is_plain(value)) {
            return Err(TargetError::Local(format!(
                "batch {batch_id:?}: quotes in its id, connector, table or days"
            )));
        }
        let settings = &self.client.settings;
        let staged = if *change == Change::Delete { mapping.keys() } else { (**mapping).clone() };
        let names: Vec<String> = staged.names().chain([NOTE_COLUMN]).map(identifier).collect();
        let taken: Vec<String> =
            staged.columns.iter().map(|column| value_of(column, settings.json)).collect();
        let stage = format!("sendlake_stage_{connector}_{batch_id}_{}", change.as_str());
        let mut pairs = ddl::place(settings, mapping).to_vec();
        pairs.extend([
            ("stage", format!("{}.{}", identifier(&settings.database), identifier(&stage))),
            ("stage_columns", staged_definitions(&staged.columns).join(",\n  ")),
            ("names", names.join(", ")),
            ("values", format!("{}, {}", taken.join(", "), identifier(NOTE_COLUMN))),
            ("connector", text(connector)),
            ("batch_id", text(batch_id)),
            ("source_table", text(&mapping.table)),
            ("change", text(change.as_str())),
            ("rows_staged", rows.to_string()),
            ("mapping_version", text(&mapping.version)),
            ("first_day", text(first)),
            ("last_day", text(last)),
        ]);
        let mut values: Vec<(&str, &str)> =
            pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();

        let loaded = self.client.ask(&fill(include_str!("sql/is_loaded.sql"), &values)).await?;
        if !is_none(&loaded) {
            self.client.change(&fill(include_str!("sql/drop_stage.sql"), &values), &[]).await?;
            return Ok(Loaded::default());
        }
        let there = found(self.client.ask(&fill(include_str!("sql/columns.sql"), &values)).await?);
        if let Some((column, _)) = missing(&self.shown(mapping), &there, mapping, settings.json)?.first() {
            return Err(TargetError::Schema(format!(
                "table {}, column {column}: it is missing, dropped since the table was prepared; the next run adds it again",
                self.shown(mapping)
            )));
        }
        // Another loader of this batch that has ended takes the staging table away: the next try finds the ledger's row.
        let ended = |problem: Problem| match problem.code {
            Some(UNKNOWN_TABLE) => {
                TargetError::Away(format!("another loader has ended this batch: {}", problem.error))
            }
            _ => problem.error,
        };
        let version = self.stage(batch, staged.columns, &values).await.map_err(ended)?;
        values.push(("version", &version));
        let one = format!("sendlake-load-{}", self.shown(mapping));
        let rows = match change {
            Change::Add => {
                self.client
                    .change_alone(&one, &fill(include_str!("sql/add.sql"), &values), &[MANY_MONTHS])
                    .await
            }
            Change::Replace => {
                let sql = fill(include_str!("sql/replace.sql"), &values);
                let rows = self.client.change_alone(&one, &sql, &[MANY_MONTHS]).await.map_err(ended)?;
                let sql = fill(include_str!("sql/outdate.sql"), &values);
                self.client.change_alone(&one, &sql, &DELETE_WHOLLY).await.map(|_| rows)
            }
            Change::Delete => {
                let sql = fill(include_str!("sql/delete.sql"), &values);
                self.client.change_alone(&one, &sql, &DELETE_WHOLLY).await.map(|_| None)
            }
        };
        let rows = rows.map_err(ended)?;
        self.client.change(&fill(include_str!("sql/record.sql"), &values), &[]).await?;
        self.client.change(&fill(include_str!("sql/drop_stage.sql"), &values), &[]).await?;
        Ok(Loaded { rows, job_id: None })
    }

    /// Fills the batch's staging table; returns a version that is higher than all before, by the server's clock.
    async fn stage(
        &self,
        batch: &StagedBatch,
        columns: Vec<Column>,
        values: &[(&str, &str)],
    ) -> Result<String, Problem> {
        let local = |error: TargetError| Problem { code: None, error };
        self.client.change(&fill(include_str!("sql/stage.sql"), values), &[]).await?;
        let insert = fill(include_str!("sql/insert_stage.sql"), values);
        let (sender, mut pieces) = mpsc::channel(1);
        let file = batch.file.clone();
        let reader = tokio::task::spawn_blocking(move || read_pieces(file, &columns, &sender));
        let mut number = 0_u32;
        while let Some(piece) = pieces.recv().await {
            let token = format!("{}-{number}", batch.batch_id);
            let settings = [("insert_deduplication_token", token.as_str()), MANY_MONTHS];
            self.client.insert(&insert, &settings, piece).await?;
            number += 1;
        }
        let read =
            reader.await.map_err(|error| local(TargetError::Local(format!("staged file: {error}"))))?;
        read.map_err(local)?;
        let counted = self.client.ask(&fill(include_str!("sql/count_stage.sql"), values)).await?;
        match counted.first().map(Vec::as_slice) {
            Some([Some(events), Some(version)]) if *events == batch.rows.to_string() => Ok(version.clone()),
            told => {
                let told = format!("{told:?}");
                // Whatever is in it, it is not this batch: the next try begins it anew.
                self.client.change(&fill(include_str!("sql/drop_stage.sql"), values), &[]).await?;
                Err(local(TargetError::Away(format!(
                    "batch {}: its staging table has {told} and not {} events; it is dropped and filled again by the next \
                     try",
                    batch.batch_id, batch.rows
                ))))
            }
        }
    }

    pub(super) async fn tally_hours(
        &self,
        mapping: &Mapping,
        bounds: &Bounds,
    ) -> Result<Vec<HourTally>, TargetError> {
        let Some(positions) = positions(bounds) else { return Ok(Vec::new()) };
        let [first_day, last_day, from, to] = edges(bounds);
        let mut pairs = ddl::place(&self.client.settings, mapping).to_vec();
        pairs.extend([
            ("first_day", first_day),
            ("last_day", last_day),
            ("from", from),
            ("to", to),
            ("positions", positions),
        ]);
        let values: Vec<(&str, &str)> = pairs.iter().map(|(name, value)| (*name, value.as_str())).collect();
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

/// Whether a count is 0.
fn is_none(rows: &[Row]) -> bool {
    rows.first().and_then(|row| row.first()).is_some_and(|count| count.as_deref() == Some("0"))
}

/// The file in pieces of Parquet, with the column of notes.
fn read_pieces(file: PathBuf, columns: &[Column], pieces: &mpsc::Sender<Bytes>) -> Result<(), TargetError> {
    let failed = |error: String| TargetError::Local(format!("staged file {}: {error}", file.display()));
    let opened = File::open(&file).map_err(|error| failed(error.to_string()))?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(opened).map_err(|error| failed(error.to_string()))?;
    let reader = builder.with_batch_size(PIECE_ROWS).build().map_err(|error| failed(error.to_string()))?;
    let limits = Limits { parses_json: true, ..Limits::default() };
    for batch in reader {
        let batch = batch.map_err(|error| failed(error.to_string()))?;
        let fitted = match fit(&batch, columns, &limits).map_err(|error| failed(error.to_string()))? {
            Some(fitted) => fitted,
            None => Fitted { notes: vec![None; batch.num_rows()], batch },
        };
        let rows = fitted.with_notes().map_err(|error| failed(error.to_string()))?;
        let level = ZstdLevel::try_new(1).unwrap_or_default();
        let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties))
            .map_err(|error| failed(error.to_string()))?;
        writer.write(&rows).map_err(|error| failed(error.to_string()))?;
        let piece = writer.into_inner().map_err(|error| failed(error.to_string()))?;
        // Nobody listens any more: the load has failed, and says why itself.
        if pieces.blocking_send(Bytes::from(piece)).is_err() {
            break;
        }
    }
    Ok(())
}
