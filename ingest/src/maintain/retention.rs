//! The end of old days. A day goes when every registered reader has taken all of its rows; what the list of suppressions
//! is put together from stays, alone.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::error::ArrowError;
use deltalake::kernel::LogicalFileView;
use futures::TryStreamExt;
use serde_json::Value;
use uuid::Uuid;

use super::MaintainError;
use super::commit::Swap;
use super::lease::Lease;
use super::reader::ReaderPosition;
use super::rewrite::{Edit, RewriteSettings};
use super::source::{self, Columns, DataFile};
use crate::event::EventType;
use crate::table::EventsTable;

const BATCH_ROWS: usize = 65_536;
/// Whoever asked not to be written to did so for good: without these a lost list could not be put together again.
const KEPT_FOR_EVER: [EventType; 2] = [EventType::SuppressionAdded, EventType::SuppressionRemoved];

/// What became of one expired day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expired {
    /// Gone from the table, in this version (`None` when it was a rehearsal).
    /// `rows` are gone, `kept` rows stay in a file of their own.
    Gone { day: String, files: usize, bytes: u64, rows: u64, kept: u64, version: Option<u64> },
    /// Still there: this reader has not taken all of it.
    AwaitedBy { day: String, reader: String, incarnation: Uuid, lsn: u64 },
    /// Still there: this file of it cannot be read, so nobody knows whose rows would go.
    Unreadable { day: String, path: String, reason: String },
}

/// A spool's rows among those of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    rows: u64,
    /// Those of them that stay.
    kept: u64,
    last_lsn: u64,
}

/// Leaves what stays for ever.
struct OnlyKept;

impl Edit for OnlyKept {
    fn apply(&self, rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let types = rows.column_by_name("event_type").and_then(|column| column.as_string_opt::<i32>());
        let types = types.ok_or_else(|| ArrowError::SchemaError("rows have no event_type".to_owned()))?;
        filter_record_batch(&rows, &stays(types))
    }
}

fn stays(types: &StringArray) -> BooleanArray {
    types.iter().map(|kind| Some(kind.is_some_and(is_kept))).collect()
}

fn is_kept(event_type: &str) -> bool {
    KEPT_FOR_EVER.iter().any(|kept| kept.as_str() == event_type)
}

impl EventsTable {
    /// Takes every day before `first_day` (`2026-01-31`) out of the table that all of `readers` have read, but for changes of
    /// the list of suppressions. Each day is one commit, which says how many rows of each spool were ever removed. With
    /// `dry_run` it only looks.
    pub async fn expire(
        &self,
        lease: &Lease,
        first_day: &str,
        readers: &[ReaderPosition],
        settings: &RewriteSettings,
        dry_run: bool,
    ) -> Result<Vec<Expired>, MaintainError> {
        let pinned = self.pin(None).await?;
        let mut days: BTreeMap<String, Vec<DataFile>> = BTreeMap::new();
        let mut only_kept: BTreeMap<String, bool> = BTreeMap::new();
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        for view in state.log_data().into_iter() {
            let file = DataFile::of(&view);
            if !file.day().is_empty() && file.day() < first_day {
                *only_kept.entry(file.day().to_owned()).or_insert(true) &= holds_only_kept(&view);
                days.entry(file.day().to_owned()).or_default().push(file);
            }
        }
        let mut outcome = Vec::new();
        // a day of which only what stays is left is done, and not read again each time
        days.retain(|day, _| !only_kept.get(day).copied().unwrap_or(false));
        for (day, files) in days {
            lease.keep().await?;
            let shares = match self.shares(&files).await {
                Err(MaintainError::Source { path, reason }) => {
                    outcome.push(Expired::Unreadable { day, path, reason });
                    continue;
                }
                shares => shares?,
            };
            if let Some(awaited) = awaited(&day, &shares, readers) {
                outcome.push(awaited);
                continue;
            }
            let all: u64 = shares.values().map(|share| share.rows).sum();
            let kept: u64 = shares.values().map(|share| share.kept).sum();
            let rows = all - kept;
            if rows == 0 && all > 0 {
                continue;
            }
            let bytes = files.iter().map(|file| file.bytes).sum();
            let count = files.len();
            let version = if dry_run {
                None
            } else if kept > 0 {
                let paths: Vec<String> = files.into_iter().map(|file| file.path).collect();
                Some(self.rewrite(lease, &paths, Some(Arc::new(OnlyKept)), settings).await?.version)
            } else {
                let remove: HashSet<String> = files.into_iter().map(|file| file.path).collect();
                let dropped = shares.iter().map(|(spool, share)| (*spool, share.rows)).collect();
                let swap = Swap { remove, add: Vec::new(), dropped, data_change: true, target_file_bytes: 0 };
                Some(self.swap(lease, swap).await?)
            };
            outcome.push(Expired::Gone { day, files: count, bytes, rows, kept, version });
        }
        Ok(outcome)
    }

    /// Whose rows these files hold.
    async fn shares(&self, files: &[DataFile]) -> Result<BTreeMap<Uuid, Share>, MaintainError> {
        let schema = Schema::new(vec![
            Field::new("incarnation", DataType::Utf8, false),
            Field::new("lsn", DataType::Int64, false),
            Field::new("event_type", DataType::Utf8, false),
        ]);
        let store = self.log_store.object_store(None);
        let mut rows = source::read(store, files.to_vec(), schema.into(), Columns::Some, BATCH_ROWS);
        let mut shares: BTreeMap<Uuid, Share> = BTreeMap::new();
        let fault = |reason: String| MaintainError::Source { path: "an expired day".into(), reason };
        while let Some(batch) = rows
            .try_next()
            .await
            .map_err(|fault| MaintainError::Source { path: fault.path, reason: fault.reason })?
        {
            let spools = batch.column(0).as_string::<i32>();
            let lsns = batch.column(1).as_primitive::<Int64Type>();
            let types = batch.column(2).as_string::<i32>();
            for ((spool, lsn), kind) in spools.iter().zip(lsns.iter()).zip(types.iter()) {
                let spool =
                    Uuid::parse_str(spool.unwrap_or_default()).map_err(|error| fault(error.to_string()))?;
                let share = shares.entry(spool).or_default();
                share.rows += 1;
                share.kept += u64::from(kind.is_some_and(is_kept));
                share.last_lsn = share.last_lsn.max(lsn.and_then(|lsn| u64::try_from(lsn).ok()).unwrap_or(0));
            }
        }
        Ok(shares)
    }
}

/// Whether the log says that a file holds nothing but rows that stay. One without statistics may hold anything.
pub(crate) fn holds_only_kept(file: &LogicalFileView) -> bool {
    let Some(stats) = file.stats().and_then(|text| serde_json::from_str::<Value>(&text).ok()) else {
        return false;
    };
    // nothing of the vocabulary lies between the two
    ["/minValues/event_type", "/maxValues/event_type"]
        .iter()
        .all(|place| stats.pointer(place).and_then(Value::as_str).is_some_and(is_kept))
}

/// The first reader that still needs rows of this day.
fn awaited(day: &str, shares: &BTreeMap<Uuid, Share>, readers: &[ReaderPosition]) -> Option<Expired> {
    for reader in readers {
        for (incarnation, share) in shares {
            if !reader.has_read(*incarnation, share.last_lsn) {
                return Some(Expired::AwaitedBy {
                    day: day.to_owned(),
                    reader: reader.reader.clone(),
                    incarnation: *incarnation,
                    lsn: share.last_lsn,
                });
            }
        }
    }
    None
}

#[cfg(test)]
mod tests;
