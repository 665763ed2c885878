//! New events to partial sums. What a refresh costs depends on how many events are new, not on how many there are.

use std::collections::BTreeMap;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use deltalake::kernel::{Action, Add};
use deltalake::protocol::{DeltaOperation, SaveMode};
use futures::TryStreamExt;
use sendlake_control::clock::Timestamp;
use uuid::Uuid;

use super::schema::{PARTITION_COLUMN, SOURCE_SCHEMA};
use super::table::{PinnedRollup, Positions, RollupTable};
use super::{Rollups, sum};
use crate::maintain::source::{self, Columns, DataFile};
use crate::table::changes::Changes;
use crate::table::{EventsTable, LakeError, Pinned};

/// Events that are summed at a time: what bounds the memory of the first refresh of a large lake.
const CHUNK_ROWS: usize = 250_000;
const BATCH_ROWS: usize = 8_192;
/// How often one refresh starts over because others changed a rollup meanwhile.
const CONFLICTS_MAX: usize = 8;
/// So many versions of `events` without a new row are let pass before a rollup takes note. It must not fall so far behind
/// that the log no longer tells what is new.
const VERSIONS_BEHIND_MAX: u64 = 50;

/// What a refresh did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// Both rollups hold this version of `events`.
    pub events_version: u64,
    /// Events that were new to at least one of them.
    pub events: u64,
    /// Rows of partial sums that were appended to both.
    pub rows: u64,
    /// Files of `events` that were read.
    pub files: u64,
    /// Whether the log told what is new. If not, every file that may hold it was read.
    pub from_log: bool,
}

impl Rollups {
    /// Takes in every event that `events` holds now and a rollup does not. `now` decides which minutes are too old to be
    /// kept. Safe to call from several processes at once: each event counts once.
    pub async fn refresh(&self, events: &EventsTable, now: Timestamp) -> Result<Refreshed, LakeError> {
        let mut done = Refreshed { from_log: true, ..Refreshed::default() };
        for _ in 0..=CONFLICTS_MAX {
            if self.try_refresh(events, now, &mut done).await? {
                return Ok(done);
            }
        }
        Err(LakeError::Busy { table: self.hourly.url().clone(), tries: CONFLICTS_MAX })
    }

    /// One try for each rollup that is behind. False when somebody else was faster with one of them.
    async fn try_refresh(
        &self,
        events: &EventsTable,
        now: Timestamp,
        done: &mut Refreshed,
    ) -> Result<bool, LakeError> {
        // Rollups first: then none of them can be ahead of the version of events that is pinned.
        let mut targets = Vec::new();
        for table in self.tables() {
            targets.push(Target { table, pinned: table.pin().await?, adds: Vec::new(), rows: 0 });
        }
        let pinned = events.pin(None).await?;
        done.events_version = pinned.version;
        targets.retain(|target| target.pinned.positions.events_version != Some(pinned.version));
        let behind = targets.iter().map(|target| target.pinned.positions.events_version);
        let Some(after) = behind.min() else { return Ok(true) };

        let changes = events.changes(after, &pinned).await?;
        let mut seen = Seen::default();
        if !changes.files.is_empty() {
            done.from_log &= changes.from_log;
            self.sum(events, &changes, now, &mut targets, &mut seen).await?;
        }
        done.events += seen.events;
        done.files += changes.files.len() as u64;
        let mut all_first = true;
        for target in targets {
            let rows = target.rows;
            match target.commit(&pinned, &changes, &seen).await? {
                true => done.rows += rows,
                false => all_first = false,
            }
        }
        Ok(all_first)
    }

    /// Reads the changed files once, and writes partial sums for each target.
    async fn sum(
        &self,
        events: &EventsTable,
        changes: &Changes,
        now: Timestamp,
        targets: &mut [Target<'_>],
        seen: &mut Seen,
    ) -> Result<(), LakeError> {
        let files = changes.files.iter().map(|(path, bytes)| DataFile {
            path: path.clone(),
            bytes: *bytes,
            rows: None,
            modified_at_ms: 0,
            partition: Default::default(),
            sha256: None,
        });
        let store = events.log_store.object_store(None);
        let mut rows = source::read(store, files.collect(), SOURCE_SCHEMA.clone(), Columns::Some, BATCH_ROWS);
        let (mut chunk, mut chunk_rows) = (Vec::new(), 0);
        loop {
            let batch = rows.try_next().await.map_err(|fault| LakeError::Unreadable {
                table: events.url().clone(),
                path: fault.path,
                reason: fault.reason,
            })?;
            let last = batch.is_none();
            if let Some(batch) = batch {
                chunk_rows += batch.num_rows();
                chunk.push(batch);
            }
            if (last && chunk_rows > 0) || chunk_rows >= CHUNK_ROWS {
                sum_chunk(&std::mem::take(&mut chunk), now, targets, seen).await?;
                chunk_rows = 0;
            }
            if last {
                return Ok(());
            }
        }
    }
}

async fn sum_chunk(
    chunk: &[RecordBatch],
    now: Timestamp,
    targets: &mut [Target<'_>],
    seen: &mut Seen,
) -> Result<(), LakeError> {
    // Mostly the rollups stand at the same version: then what is new to one is new to all.
    let mut before: Option<(Positions, u64, Vec<RecordBatch>)> = None;
    let mut events = 0;
    for target in targets {
        let positions = &target.pinned.positions;
        let (new, partials) = match before.take() {
            Some((same, new, partials)) if same == *positions => (new, partials),
            _ => {
                let mut new = Vec::new();
                for batch in chunk {
                    new.extend(new_rows(batch, positions, seen)?);
                }
                let rows = new.iter().map(|batch| batch.num_rows() as u64).sum();
                (rows, sum::partials(SOURCE_SCHEMA.clone(), new).await?)
            }
        };
        target.add(now, partials.clone()).await?;
        events = events.max(new);
        before = Some((positions_of(target), new, partials));
    }
    seen.events += events;
    Ok(())
}

fn positions_of(target: &Target<'_>) -> Positions {
    target.pinned.positions.clone()
}

/// A rollup that is behind, and what it is to get.
struct Target<'a> {
    table: &'a RollupTable,
    pinned: PinnedRollup,
    adds: Vec<Add>,
    rows: u64,
}

impl Target<'_> {
    async fn add(&mut self, now: Timestamp, partials: Vec<RecordBatch>) -> Result<(), LakeError> {
        let grain = self.table.grain();
        let rows = sum::fold(grain, grain.first_day(now), partials).await?;
        let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
        if count > 0 {
            self.adds.extend(self.table.write(&self.pinned, &rows).await?);
            self.rows += count as u64;
        }
        Ok(())
    }

    /// Sums and positions in one commit. False when somebody else was faster.
    async fn commit(self, events: &Pinned, changes: &Changes, seen: &Seen) -> Result<bool, LakeError> {
        let mut positions = self.pinned.positions.clone();
        let behind = events.version.saturating_sub(positions.events_version.unwrap_or(0));
        let first = positions.events_version.is_none();
        if changes.appends.is_empty() && seen.events == 0 && !first && behind < VERSIONS_BEHIND_MAX {
            return Ok(true);
        }
        positions.events_version = Some(events.version);
        let told = changes.appends.iter().map(|append| (append.incarnation, append.lsn));
        for (incarnation, lsn) in told.chain(seen.lsn.iter().map(|(incarnation, lsn)| (*incarnation, *lsn))) {
            let position = positions.lsn.entry(incarnation).or_default();
            *position = lsn.max(*position);
        }
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec![PARTITION_COLUMN.to_owned()]),
            predicate: None,
        };
        let actions = self.adds.into_iter().map(Action::Add).collect();
        let version = self.table.commit(&self.pinned, actions, &positions, operation).await?;
        Ok(version.is_some())
    }
}

/// What was read.
#[derive(Default)]
struct Seen {
    /// Events that were new to at least one rollup.
    events: u64,
    /// Per spool the highest LSN among them.
    lsn: BTreeMap<Uuid, u64>,
}

/// The rows that are new to a rollup at these positions.
fn new_rows(
    batch: &RecordBatch,
    positions: &Positions,
    seen: &mut Seen,
) -> Result<Option<RecordBatch>, LakeError> {
    let new = above(batch, positions, &mut |incarnation, lsn| {
        let highest = seen.lsn.entry(incarnation).or_default();
        *highest = lsn.max(*highest);
    })?;
    if new.true_count() == batch.num_rows() {
        return Ok((batch.num_rows() > 0).then(|| batch.clone()));
    }
    let rows = filter_record_batch(batch, &new)?;
    Ok((rows.num_rows() > 0).then_some(rows))
}

/// Which rows lie above the positions of their spools. Tells each of those to `found`.
pub(super) fn above(
    batch: &RecordBatch,
    positions: &Positions,
    found: &mut dyn FnMut(Uuid, u64),
) -> Result<BooleanArray, LakeError> {
    let missing = |name: &str| ArrowError::SchemaError(format!("a file of events has no column {name}"));
    let spools = batch.column_by_name("incarnation").ok_or_else(|| missing("incarnation"))?;
    let lsns = batch.column_by_name("lsn").ok_or_else(|| missing("lsn"))?;
    let (spools, lsns) = (spools.as_string::<i32>(), lsns.as_primitive::<Int64Type>());
    let mut new = Vec::with_capacity(batch.num_rows());
    // Rows of one spool mostly stand together.
    let mut spool: Option<(&str, Uuid, u64)> = None;
    for row in 0..batch.num_rows() {
        let (name, lsn) = (spools.value(row), u64::try_from(lsns.value(row)).unwrap_or(0));
        let (incarnation, position) = match spool {
            Some((known, incarnation, position)) if known == name => (incarnation, position),
            _ => {
                let incarnation = Uuid::parse_str(name)
                    .map_err(|_| ArrowError::ParseError(format!("{name:?} is no spool's incarnation")))?;
                let position = positions.lsn.get(&incarnation).copied().unwrap_or(0);
                spool = Some((name, incarnation, position));
                (incarnation, position)
            }
        };
        new.push(lsn > position);
        if lsn > position {
            found(incarnation, lsn);
        }
    }
    Ok(new.into())
}
