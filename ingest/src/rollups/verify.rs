//! Computes rollups anew from every event, and compares: nothing but what was erased or has expired may differ.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, PrimitiveArray, RecordBatch};
use arrow::compute::kernels::numeric::neg_wrapping;
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Date32Type, Int64Type};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use deltalake::DeltaTableError;
use futures::TryStreamExt;
use sendlake_control::clock::Timestamp;
use serde::Serialize;

use super::refresh::above;
use super::schema::{LABELS, PARTITION_COLUMN, ROLLUP_SCHEMA, SOURCE_SCHEMA, sums};
use super::table::{Grain, PinnedRollup, RollupTable};
use super::{Rollups, sum};
use crate::maintain::retention::holds_only_kept;
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
    /// Labels with more in the rollup than in `events`, of days that `events` no longer has: expired.
    pub expired: u64,
    /// Labels with more in the rollup than in `events`, of days that `events` has. As many rows as they have too many
    /// were removed by other means than the end of a day: erased. Nothing is known of removed rows but how many they
    /// were, so that is all that is compared.
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
        // Hours first: they are never dropped, so they tell how many events went with their days.
        let (hourly, expired) = self.hourly.compare(events, now, 0).await?;
        let (minute, _) = self.minute.compare(events, now, expired).await?;
        Ok(vec![minute, hourly])
    }
}

impl RollupTable {
    /// `expired` of the removed events are known to have gone with their days. Returns how many this rollup knows.
    async fn compare(
        &self,
        events: &EventsTable,
        now: Timestamp,
        expired: u64,
    ) -> Result<(Compared, u64), LakeError> {
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
        let days = days_of(&pinned_events).map_err(events.failed("read the state of"))?;
        let (over, there): (Vec<_>, Vec<_>) =
            by_day(&rest, &days)?.into_iter().partition(|part| part.is_over);
        // Each removed event was in one bucket by when it occurred, and in one at most by the delivery that it answers.
        let mut left = Left { occurred: removed, cohort: removed };
        compared.expired = judge(&over, &mut left, &mut compared)?;
        let known = removed.saturating_sub(left.occurred);
        let others = removed.saturating_sub(known.max(expired));
        // Feedback comes after the delivery that it answers. So feedback that expired is missed in a day that is still
        // there only where days went out of turn.
        let out_of_turn = last_day(&over)? > days.iter().min().copied();
        let mut left = Left { occurred: others, cohort: if out_of_turn { left.cohort } else { others } };
        compared.gone = judge(&there, &mut left, &mut compared)?;
        Ok((compared, known))
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

/// The days since the epoch that `events` has any file of.
fn days_of(pinned: &Pinned) -> Result<HashSet<i32>, DeltaTableError> {
    let day = |text: &str| Timestamp::parse(&format!("{text}T00:00:00Z")).map(Timestamp::days);
    // of a day that is over, retention leaves what stays for ever
    let files = pinned.table.snapshot()?.log_data().into_iter().filter(|file| !holds_only_kept(file));
    Ok(files.filter_map(|file| day(DataFile::of(&file).day())).collect())
}

/// Differences of days that `events` still has, or has not any more.
struct Part {
    rows: RecordBatch,
    is_over: bool,
}

fn by_day(rest: &[RecordBatch], days: &HashSet<i32>) -> Result<Vec<Part>, LakeError> {
    let mut parts = Vec::new();
    for batch in rest {
        let over = bucket_days(batch)?.values().iter().map(|day| Some(!days.contains(day)));
        let over: BooleanArray = over.collect();
        let there = arrow::compute::not(&over)?;
        for (wanted, is_over) in [(over, true), (there, false)] {
            parts.push(Part { rows: filter_record_batch(batch, &wanted)?, is_over });
        }
    }
    Ok(parts)
}

/// The last day that the rollup has events too many of.
fn last_day(parts: &[Part]) -> Result<Option<i32>, LakeError> {
    let mut last = None;
    for Part { rows, .. } in parts {
        let events = rows.column_by_name("events").and_then(|column| column.as_primitive_opt::<Int64Type>());
        let events = events.ok_or_else(|| ArrowError::SchemaError("there is no column events".to_owned()))?;
        let days = bucket_days(rows)?.values().iter().zip(events.values());
        last = last.max(days.filter(|(_, events)| **events != 0).map(|(day, _)| *day).max());
    }
    Ok(last)
}

fn bucket_days(batch: &RecordBatch) -> Result<&PrimitiveArray<Date32Type>, ArrowError> {
    let column = batch.column_by_name(PARTITION_COLUMN).and_then(|column| column.as_primitive_opt());
    column.ok_or_else(|| ArrowError::SchemaError(format!("there is no {PARTITION_COLUMN}")))
}

/// Removed events that no difference was put down to yet.
struct Left {
    occurred: u64,
    cohort: u64,
}

impl Left {
    /// Takes off what a set of labels has too many. False when that is more than is left, or not a number of events.
    fn explain(&mut self, basis: &str, differing: &[(&str, i64)]) -> bool {
        let events = differing.iter().find(|(name, _)| *name == "events").map_or(0, |(_, rest)| *rest);
        let left = if basis == "occurred" { &mut self.occurred } else { &mut self.cohort };
        let explained = u64::try_from(events).is_ok_and(|events| (1..=*left).contains(&events))
            && differing.iter().all(|(_, rest)| *rest >= 0);
        if explained {
            *left -= events.unsigned_abs();
        }
        explained
    }
}

/// How many of the differences removed rows explain. The others are wrong.
fn judge(parts: &[Part], left: &mut Left, compared: &mut Compared) -> Result<u64, LakeError> {
    let names = sums();
    let mut explained = 0;
    for Part { rows: batch, .. } in parts {
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
            let basis = basis.as_ref().map_or("occurred", |basis| basis.as_string::<i32>().value(row));
            if left.explain(basis, &differing) {
                explained += 1;
                continue;
            }
            compared.wrong += 1;
            if compared.first.len() < TOLD_MAX {
                compared.first.push(Difference { labels: labels(batch, row)?, sums: told(&differing) });
            }
        }
    }
    Ok(explained)
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
