//! Computes rollups anew from every event, and compares: nothing but what was erased or has expired may differ.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::kernels::numeric::neg_wrapping;
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Int64Type};
use arrow::util::display::array_value_to_string;
use futures::TryStreamExt;
use sendlake_control::clock::Timestamp;
use serde::Serialize;

use super::refresh::above;
use super::schema::{LABELS, ROLLUP_SCHEMA, SOURCE_SCHEMA, sums};
use super::table::{Grain, PinnedRollup, RollupTable};
use super::{Rollups, sum};
use crate::maintain::source::{self, Columns, DataFile};
use crate::table::{EventsTable, LakeError, Pinned};

/// Partial sums that are held at a time before they are folded.
const HELD_ROWS: usize = 200_000;
const CHUNK_ROWS: usize = 250_000;
const BATCH_ROWS: usize = 8_192;
/// So many differences are told one by one.
const TOLD_MAX: usize = 10;

/// What comparing one rollup with its events gave.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    pub rollup: &'static str,
    /// The version of `events` that the rollup holds.
    pub events_version: u64,
    /// Events up to there.
    pub events: u64,
    /// Rows of the rollup, with sums that share their labels added up.
    pub rows: u64,
    /// Labels whose sums differ in a way that nothing explains.
    pub wrong: u64,
    /// Labels with more in the rollup than in `events`, of which rows were removed since: erased, or expired.
    pub gone: u64,
    /// The first of those that are wrong.
    pub first: Vec<Difference>,
}

/// One set of labels whose sums are not what its events give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `bucket_at` and the labels that are not null, as `name=value`.
    pub labels: String,
    /// The sums that differ, as `name+n` where the rollup has n too many and `name-n` where it has too few.
    pub sums: String,
}

impl Rollups {
    /// Reads every event and every row of both rollups. Holds one row for each set of labels in memory.
    pub async fn verify(&self, events: &EventsTable, now: Timestamp) -> Result<Vec<Compared>, LakeError> {
        let mut compared = Vec::new();
        for table in self.tables() {
            compared.push(table.compare(events, now).await?);
        }
        Ok(compared)
    }
}

impl RollupTable {
    async fn compare(&self, events: &EventsTable, now: Timestamp) -> Result<Compared, LakeError> {
        let pinned = self.pin().await?;
        let pinned_events = events.pin(None).await?;
        let since = self.grain().first_day(now);
        let mut held = Held { grain: self.grain(), since, rows: 0, batches: Vec::new() };
        let read = recompute(events, &pinned_events, &pinned, &mut held).await?;
        let recomputed = std::mem::take(&mut held.batches);
        let stored = self.stored(&pinned, since).await?;
        let rows = stored.iter().map(|batch| batch.num_rows() as u64).sum();
        let recomputed = sum::fold(self.grain(), since, recomputed).await?;
        let negated = recomputed.iter().map(negate).collect::<Result<Vec<_>, LakeError>>()?;
        let rest = sum::fold(self.grain(), since, stored.into_iter().chain(negated).collect()).await?;

        let mut compared = Compared {
            rollup: self.grain().table_name(),
            events_version: pinned.positions.events_version.unwrap_or(0),
            events: read,
            rows,
            ..Compared::default()
        };
        let mut removed = 0_u64;
        for incarnation in pinned.positions.lsn.keys() {
            removed = removed.saturating_add(events.removed_rows(&pinned_events, *incarnation).await?);
        }
        judge(&rest, removed, &mut compared)?;
        Ok(compared)
    }

    async fn stored(&self, pinned: &PinnedRollup, since: Option<i32>) -> Result<Vec<RecordBatch>, LakeError> {
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        let files = state.log_data().into_iter().map(|file| DataFile::of(&file)).collect();
        let store = self.log_store.object_store(None);
        let mut rows = source::read(store, files, ROLLUP_SCHEMA.clone(), Columns::Some, BATCH_ROWS);
        let mut held = Held { grain: self.grain(), since, rows: 0, batches: Vec::new() };
        while let Some(batch) = rows.try_next().await.map_err(|fault| LakeError::Unreadable {
            table: self.url().clone(),
            path: fault.path,
            reason: fault.reason,
        })? {
            held.add(vec![batch]).await?;
        }
        sum::fold(self.grain(), since, held.batches).await
    }
}

/// The sums of every event at or below the rollup's positions. Returns how many events those are.
async fn recompute(
    events: &EventsTable,
    pinned: &Pinned,
    rollup: &PinnedRollup,
    held: &mut Held,
) -> Result<u64, LakeError> {
    let state = pinned.table.snapshot().map_err(events.failed("read the state of"))?;
    let files = state.log_data().into_iter().map(|file| DataFile::of(&file)).collect();
    let store = events.log_store.object_store(None);
    let mut rows = source::read(store, files, SOURCE_SCHEMA.clone(), Columns::Some, BATCH_ROWS);
    let (mut chunk, mut chunk_rows, mut read) = (Vec::new(), 0, 0_u64);
    loop {
        let batch = rows.try_next().await.map_err(|fault| LakeError::Unreadable {
            table: events.url().clone(),
            path: fault.path,
            reason: fault.reason,
        })?;
        let last = batch.is_none();
        if let Some(batch) = batch
            && let Some(covered) = covered(&batch, rollup)?
        {
            chunk_rows += covered.num_rows();
            chunk.push(covered);
        }
        if (last && chunk_rows > 0) || chunk_rows >= CHUNK_ROWS {
            read = read.saturating_add(chunk_rows as u64);
            held.add(sum::partials(SOURCE_SCHEMA.clone(), std::mem::take(&mut chunk)).await?).await?;
            chunk_rows = 0;
        }
        if last {
            return Ok(read);
        }
    }
}

fn covered(batch: &RecordBatch, rollup: &PinnedRollup) -> Result<Option<RecordBatch>, LakeError> {
    let new = above(batch, &rollup.positions, &mut |_, _| {})?;
    let old: BooleanArray = new.iter().map(|new| new.map(|new| !new)).collect();
    let rows = filter_record_batch(batch, &old)?;
    Ok((rows.num_rows() > 0).then_some(rows))
}

/// Sums that are folded whenever they are many.
struct Held {
    grain: Grain,
    since: Option<i32>,
    rows: usize,
    batches: Vec<RecordBatch>,
}

impl Held {
    async fn add(&mut self, batches: Vec<RecordBatch>) -> Result<(), LakeError> {
        self.rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        self.batches.extend(batches);
        if self.rows > HELD_ROWS {
            self.batches = sum::fold(self.grain, self.since, std::mem::take(&mut self.batches)).await?;
            // Sums that cannot be folded further are not tried again with each batch.
            self.rows = 0;
        }
        Ok(())
    }
}

/// The same labels with every sum negated, so that adding both up leaves the differences.
fn negate(batch: &RecordBatch) -> Result<RecordBatch, LakeError> {
    let columns = batch.columns().iter().zip(ROLLUP_SCHEMA.fields()).map(|(column, field)| {
        if *field.data_type() == DataType::Int64 { neg_wrapping(column) } else { Ok(Arc::clone(column)) }
    });
    Ok(RecordBatch::try_new(ROLLUP_SCHEMA.clone(), columns.collect::<Result<Vec<ArrayRef>, _>>()?)?)
}

/// Sorts differences into those that removed rows explain and those that nothing does.
fn judge(rest: &[RecordBatch], removed: u64, compared: &mut Compared) -> Result<(), LakeError> {
    let names = sums();
    let mut left = removed;
    for batch in rest {
        let of = |name: &str| batch.column_by_name(name).map(|column| column.as_primitive::<Int64Type>());
        let columns: Vec<_> = names.iter().filter_map(|name| Some((name.as_str(), of(name)?))).collect();
        let basis = batch.column_by_name("basis").map(|column| cast(column, &DataType::Utf8)).transpose()?;
        for row in 0..batch.num_rows() {
            let differing: Vec<(&str, i64)> = columns
                .iter()
                .map(|(name, column)| (*name, column.value(row)))
                .filter(|(_, rest)| *rest != 0)
                .collect();
            if differing.is_empty() {
                continue;
            }
            let extra = differing.iter().find(|(name, _)| *name == "events").map_or(0, |(_, rest)| *rest);
            let extra = u64::try_from(extra).unwrap_or(0);
            // An event that answers a delivery counts twice, once for each basis; only one of them is taken off.
            let counted =
                basis.as_ref().is_none_or(|basis| basis.as_string::<i32>().value(row) == "occurred");
            let explained = extra > 0 && removed > 0 && differing.iter().all(|(_, rest)| *rest >= 0);
            if explained && (!counted || extra <= left) {
                left -= if counted { extra } else { 0 };
                compared.gone += 1;
                continue;
            }
            compared.wrong += 1;
            if compared.first.len() < TOLD_MAX {
                compared.first.push(Difference { labels: labels(batch, row)?, sums: told(&differing) });
            }
        }
    }
    Ok(())
}

fn labels(batch: &RecordBatch, row: usize) -> Result<String, LakeError> {
    let mut said = Vec::new();
    for name in std::iter::once("bucket_at").chain(LABELS) {
        if let Some(column) = batch.column_by_name(name).filter(|column| column.is_valid(row)) {
            said.push(format!("{name}={}", array_value_to_string(column, row)?));
        }
    }
    Ok(said.join(" "))
}

fn told(differing: &[(&str, i64)]) -> String {
    differing.iter().map(|(name, rest)| format!("{name}{rest:+}")).collect::<Vec<_>>().join(" ")
}
