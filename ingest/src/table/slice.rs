//! Rows by their place in a spool's log, at one version: what somebody reads who takes each event once. A rewrite moves rows
//! between files and a position stays true; so it is positions that readers keep, never files.

use std::collections::BTreeMap;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use deltalake::kernel::LogicalFileView;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use serde_json::Value;
use uuid::Uuid;

use super::{EventsTable, LakeError, Pinned};
use crate::event::EVENTS_SCHEMA;
use crate::maintain::MaintainError;
use crate::maintain::log::transactions;
use crate::maintain::source::{self, Columns, DataFile};

const BATCH_ROWS: usize = 8_192;

/// Events of one spool above one LSN, up to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LsnRange {
    pub incarnation: Uuid,
    pub after_lsn: u64,
    pub through_lsn: u64,
    /// First and last `event_date`, `2026-01-31`, both within; `None` for all days.
    pub days: Option<(String, String)>,
}

/// What a version's files say about themselves, as far as it matters for a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceFile {
    pub(crate) file: DataFile,
    /// Least and greatest incarnation and LSN; `None` where whoever wrote the file kept no statistics.
    pub spools: Option<(String, String)>,
    pub lsns: Option<(u64, u64)>,
}

/// The newest version, and how far each spool has come in it.
#[derive(Clone)]
pub struct Reached {
    pub pinned: Pinned,
    /// Per spool the last LSN that the version holds, or held.
    pub lsn: BTreeMap<Uuid, u64>,
}

impl EventsTable {
    /// The newest version and every spool's LSN in it. Costs a listing of the log and its newest entries.
    pub async fn reached(&self) -> Result<Reached, MaintainError> {
        // Positions first: then the version holds them all.
        let known = transactions(&self.log_store).await?;
        let pinned = self.pin(None).await?;
        let lsn = known
            .into_iter()
            .filter_map(|(app_id, lsn)| Some((Uuid::parse_str(&app_id).ok()?, u64::try_from(lsn).ok()?)))
            .collect();
        Ok(Reached { pinned, lsn })
    }

    /// The files of a version, with what narrows a slice down.
    pub fn slice_files(&self, pinned: &Pinned) -> Result<Vec<SliceFile>, LakeError> {
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        Ok(state.log_data().into_iter().map(|view| SliceFile::of(&view)).collect())
    }

    /// The rows of a slice in no order, in those columns of the table that are named; `event_id` once each. Files are read one
    /// after another: memory does not grow with the slice.
    pub fn slice(
        &self,
        files: &[SliceFile],
        range: &LsnRange,
        columns: &[&str],
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, LakeError> {
        let schema = schema_of(columns)?;
        let files = files.iter().filter(|file| file.may_hold(range)).map(|file| file.file.clone()).collect();
        let store = self.log_store.object_store(None);
        let (table, range) = (self.url().clone(), range.clone());
        let rows = source::read(store, files, schema, Columns::Some, BATCH_ROWS);
        let rows = rows.map_err(move |fault| LakeError::Unreadable {
            table: table.clone(),
            path: fault.path,
            reason: fault.reason,
        });
        let kept = rows.map(move |batch| Ok(within(&batch?, &range)?));
        Ok(kept.try_filter(|batch| std::future::ready(batch.num_rows() > 0)).boxed())
    }
}

/// The columns named, and those by which rows are picked.
fn schema_of(columns: &[&str]) -> Result<SchemaRef, LakeError> {
    let mut fields = Vec::new();
    for field in EVENTS_SCHEMA.fields() {
        if columns.contains(&field.name().as_str()) || ["incarnation", "lsn"].contains(&field.name().as_str())
        {
            fields.push(field.clone());
        }
    }
    match columns.iter().find(|name| EVENTS_SCHEMA.field_with_name(name).is_err()) {
        Some(name) => Err(ArrowError::SchemaError(format!("events has no column {name}")).into()),
        None => Ok(Schema::new(fields).into()),
    }
}

fn within(batch: &RecordBatch, range: &LsnRange) -> Result<RecordBatch, ArrowError> {
    let missing = |name: &str| ArrowError::SchemaError(format!("a file of events has no column {name}"));
    let spools = batch.column_by_name("incarnation").ok_or_else(|| missing("incarnation"))?;
    let lsns = batch.column_by_name("lsn").ok_or_else(|| missing("lsn"))?;
    let (spools, lsns) = (spools.as_string::<i32>(), lsns.as_primitive::<Int64Type>());
    let wanted = range.incarnation.to_string();
    let keep: BooleanArray = (0..batch.num_rows())
        .map(|row| {
            let lsn = u64::try_from(lsns.value(row)).unwrap_or(0);
            Some(lsn > range.after_lsn && lsn <= range.through_lsn && spools.value(row) == wanted)
        })
        .collect();
    match keep.true_count() == keep.len() {
        true => Ok(batch.clone()),
        false => filter_record_batch(batch, &keep),
    }
}

impl SliceFile {
    fn of(view: &LogicalFileView) -> Self {
        let stats = view.stats().and_then(|text| serde_json::from_str::<Value>(&text).ok());
        let of = |side: &str, column: &str| stats.as_ref()?.get(side)?.get(column).cloned();
        let spools = of("minValues", "incarnation").zip(of("maxValues", "incarnation"));
        let lsns = of("minValues", "lsn").zip(of("maxValues", "lsn"));
        Self {
            file: DataFile::of(view),
            spools: spools.and_then(|(min, max)| Some((min.as_str()?.to_owned(), max.as_str()?.to_owned()))),
            lsns: lsns.and_then(|(min, max)| Some((min.as_u64()?, max.as_u64()?))),
        }
    }

    /// The UTC day of all its rows, `2026-01-31`.
    pub fn day(&self) -> &str {
        self.file.day()
    }

    /// Below the table's folder.
    pub fn path(&self) -> &str {
        &self.file.path
    }

    pub fn bytes(&self) -> u64 {
        self.file.bytes
    }

    /// `None` when whoever wrote the file kept no statistics.
    pub fn rows(&self) -> Option<u64> {
        self.file.rows
    }

    /// Whether a row of the slice may be in it.
    pub fn may_hold(&self, range: &LsnRange) -> bool {
        let day = self.file.day();
        let in_days =
            range.days.as_ref().is_none_or(|(first, last)| day >= first.as_str() && day <= last.as_str());
        let incarnation = range.incarnation.to_string();
        let of_spool =
            self.spools.as_ref().is_none_or(|(min, max)| *min <= incarnation && incarnation <= *max);
        let of_range = self.lsns.is_none_or(|(min, max)| max > range.after_lsn && min <= range.through_lsn);
        in_days && of_spool && of_range
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, StringArray};

    use super::*;
    use crate::testing::{event, lake};

    const ONE: Uuid = Uuid::from_u128(7);
    const TWO: Uuid = Uuid::from_u128(8);

    async fn lsns(table: &EventsTable, files: &[SliceFile], range: &LsnRange) -> Vec<i64> {
        let batches: Vec<RecordBatch> =
            table.slice(files, range, &["event_id"]).unwrap().try_collect().await.unwrap();
        let mut found = Vec::new();
        for batch in batches {
            assert_eq!(batch.num_columns(), 3, "the one asked for, and where it stands");
            let ids: &StringArray = batch.column_by_name("event_id").unwrap().as_string();
            assert_eq!(ids.null_count(), 0);
            found.extend(batch.column_by_name("lsn").unwrap().as_primitive::<Int64Type>().values().iter());
        }
        found.sort_unstable();
        found
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_slice_is_a_spools_rows_between_two_positions() {
        let dir = tempfile::tempdir().unwrap();
        let table = EventsTable::open(&lake(&dir)).await.unwrap();
        for first in [1_u64, 11, 21] {
            for spool in [ONE, TWO] {
                let rows = (first..first + 10).map(|lsn| event(spool, lsn)).collect();
                table.append(spool, rows).await.unwrap();
            }
        }
        let reached = table.reached().await.unwrap();
        assert_eq!(reached.lsn, [(ONE, 30), (TWO, 30)].into());
        let files = table.slice_files(&reached.pinned).unwrap();
        let range =
            |after_lsn, through_lsn| LsnRange { incarnation: ONE, after_lsn, through_lsn, days: None };
        assert_eq!(lsns(&table, &files, &range(0, 30)).await, (1..=30).collect::<Vec<_>>());
        assert_eq!(lsns(&table, &files, &range(8, 12)).await, [9, 10, 11, 12]);
        assert_eq!(lsns(&table, &files, &range(30, 40)).await, Vec::<i64>::new());
        let read = files.iter().filter(|file| file.may_hold(&range(8, 12))).count();
        assert!(read <= 4, "{read} of {} files are read for two commits of two spools", files.len());
        let day = files[0].file.day().to_owned();
        let days = Some((day.clone(), day));
        assert!(!lsns(&table, &files, &LsnRange { days, ..range(0, 30) }).await.is_empty());
        let days = Some(("1999-01-01".to_owned(), "1999-12-31".to_owned()));
        assert!(lsns(&table, &files, &LsnRange { days, ..range(0, 30) }).await.is_empty());
    }
}
