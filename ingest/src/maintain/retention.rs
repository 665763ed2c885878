//! The end of old days. A day goes whole, and only when every registered reader has taken all of its rows.

use std::collections::{BTreeMap, HashSet};

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use futures::TryStreamExt;
use uuid::Uuid;

use super::MaintainError;
use super::commit::Swap;
use super::lease::Lease;
use super::reader::ReaderPosition;
use super::source::{self, Columns, DataFile};
use crate::table::EventsTable;

const BATCH_ROWS: usize = 65_536;

/// What became of one expired day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expired {
    /// Gone from the table, in this version (`None` when it was a rehearsal).
    Gone { day: String, files: usize, bytes: u64, rows: u64, version: Option<u64> },
    /// Still there: this reader has not taken all of it.
    AwaitedBy { day: String, reader: String, incarnation: Uuid, lsn: u64 },
    /// Still there: this file of it cannot be read, so nobody knows whose rows would go.
    Unreadable { day: String, path: String, reason: String },
}

/// A spool's rows among those of a day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    rows: u64,
    last_lsn: u64,
}

impl EventsTable {
    /// Takes every day before `first_day` (`2026-01-31`) out of the table that all of `readers` have read. Each day
    /// is one commit, which says how many rows of each spool were ever removed. With `dry_run` it only looks.
    pub async fn expire(
        &self,
        lease: &Lease,
        first_day: &str,
        readers: &[ReaderPosition],
        dry_run: bool,
    ) -> Result<Vec<Expired>, MaintainError> {
        let pinned = self.pin(None).await?;
        let mut days: BTreeMap<String, Vec<DataFile>> = BTreeMap::new();
        for file in self.files(&pinned)? {
            if !file.day().is_empty() && file.day() < first_day {
                days.entry(file.day().to_owned()).or_default().push(file);
            }
        }
        let mut outcome = Vec::new();
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
            let rows = shares.values().map(|share| share.rows).sum();
            let bytes = files.iter().map(|file| file.bytes).sum();
            let count = files.len();
            let version = if dry_run {
                None
            } else {
                let remove: HashSet<String> = files.into_iter().map(|file| file.path).collect();
                let dropped = shares.iter().map(|(spool, share)| (*spool, share.rows)).collect();
                let swap = Swap { remove, add: Vec::new(), dropped, data_change: true, target_file_bytes: 0 };
                Some(self.swap(lease, swap).await?)
            };
            outcome.push(Expired::Gone { day, files: count, bytes, rows, version });
        }
        Ok(outcome)
    }

    /// Whose rows these files hold.
    async fn shares(&self, files: &[DataFile]) -> Result<BTreeMap<Uuid, Share>, MaintainError> {
        let schema = Schema::new(vec![
            Field::new("incarnation", DataType::Utf8, false),
            Field::new("lsn", DataType::Int64, false),
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
            for (spool, lsn) in spools.iter().zip(lsns.iter()) {
                let spool =
                    Uuid::parse_str(spool.unwrap_or_default()).map_err(|error| fault(error.to_string()))?;
                let share = shares.entry(spool).or_default();
                share.rows += 1;
                share.last_lsn = share.last_lsn.max(lsn.and_then(|lsn| u64::try_from(lsn).ok()).unwrap_or(0));
            }
        }
        Ok(shares)
    }
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
