//! Appending events exactly once, whatever fails on the way.
//!
//! Rows and the spool's LSN become visible in one Delta commit, whose `txn` carries the spool's incarnation
//! and the last LSN. An error says nothing about whether that commit landed: the table is asked again, and
//! its answer counts.

mod columns;
mod encode;
mod overlap;
mod statistics;

use arrow::array::{AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::{concat_batches, filter_record_batch, kernels};
use arrow::datatypes::Int64Type;
use arrow::error::ArrowError;
use deltalake::DeltaTableError;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, FinalizedCommit, TransactionError};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::state::DeltaTableState;
use uuid::Uuid;

use crate::event::{EVENTS_SCHEMA, LoggedEvent};
use crate::maintain::rewrite::REMOVED_TXN;
use crate::table::layout::{self, PARTITION_COLUMN};
use crate::table::{EventsTable, LakeError, Pinned};

/// How often one append starts over because others changed the table meanwhile.
const CONFLICTS_MAX: usize = 8;
/// How many threads work on one commit at most: more would wait for the largest column.
const THREADS_MAX: usize = 4;

/// Where rows ended up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// A version that holds the rows; the first one when this call wrote it.
    pub version: u64,
    /// The spool's events up to here are durable in the table.
    pub lsn: u64,
}

impl EventsTable {
    /// Appends events of one spool, of which there are none missing between what the table holds and the
    /// first. Those that the table already holds are left out, so repeating a call is safe.
    ///
    /// On an error the rows may or may not be in the table; the next call finds out.
    pub async fn append(&self, incarnation: Uuid, rows: Vec<LoggedEvent>) -> Result<Appended, LakeError> {
        if let Some(foreign) = rows.iter().find(|row| row.incarnation != incarnation) {
            return Err(LakeError::ForeignEvent { expected: incarnation, found: foreign.incarnation });
        }
        let through_lsn = rows.iter().map(|row| row.lsn).max().unwrap_or(0);
        let batch = tokio::task::spawn_blocking(move || {
            let batch = columns::sorted(&rows);
            // Freeing so many small values takes a while, and nobody has to wait for it.
            tokio::task::spawn_blocking(move || drop(rows));
            batch
        });
        let batch = batch.await??;
        self.append_sorted(incarnation, through_lsn, batch).await
    }

    /// Appends rows in Arrow form: each batch with [`EVENTS_SCHEMA`], rows in any order, all of one spool and none
    /// above `through_lsn`. With them everything of that spool up to `through_lsn` is in the table. The same rules
    /// hold as for [`EventsTable::append`].
    ///
    /// Rows are left out only where the table holds the very same events. Other events under the same numbers
    /// mean that two copies of one spool are at work: [`LakeError::Forked`].
    pub async fn append_batch(
        &self,
        incarnation: Uuid,
        through_lsn: u64,
        batches: Vec<RecordBatch>,
    ) -> Result<Appended, LakeError> {
        let batch = tokio::task::spawn_blocking(move || -> Result<_, LakeError> {
            let batch = concat_batches(&EVENTS_SCHEMA, &batches)?;
            drop(batches);
            check(&batch, incarnation, through_lsn)?;
            Ok(layout::sort(&batch)?)
        });
        self.append_sorted(incarnation, through_lsn, batch.await??).await
    }

    async fn append_sorted(
        &self,
        incarnation: Uuid,
        through_lsn: u64,
        batch: RecordBatch,
    ) -> Result<Appended, LakeError> {
        let _turn = self.appending.lock().await;

        let mut encoded: Option<Encoded> = None;
        let mut compared_lsn = 0;
        let mut conflicts = 0;
        loop {
            let pinned = self.pin(Some(incarnation)).await?;
            if pinned.committed_lsn > compared_lsn {
                self.compare(&pinned, incarnation, &batch).await?;
                compared_lsn = pinned.committed_lsn;
            }
            if pinned.committed_lsn >= through_lsn {
                return Ok(Appended { version: pinned.version, lsn: pinned.committed_lsn });
            }
            let (adds, rows) = match &encoded {
                Some(ready) if ready.after_lsn == pinned.committed_lsn => (ready.adds.clone(), ready.rows),
                _ => {
                    let missing = above(&batch, pinned.committed_lsn)?;
                    let rows = missing.num_rows() as u64;
                    let adds = self.encode(missing).await?;
                    encoded = Some(Encoded { after_lsn: pinned.committed_lsn, adds: adds.clone(), rows });
                    (adds, rows)
                }
            };
            // A log that begins above 1, or events erased on their way: numbers without a row are counted, so that
            // rows and removed ones always make up the committed number.
            let absent = (through_lsn - pinned.committed_lsn).saturating_sub(rows);
            let removed = match absent {
                0 => None,
                absent => Some(self.removed_rows(&pinned, incarnation).await?.saturating_add(absent)),
            };
            let error = match self.commit(&pinned, incarnation, adds, through_lsn, removed).await {
                Ok(commit) => {
                    let version = commit.version;
                    // Should reading our own commit back fail, the next pin reads it again.
                    if let Err(error) = self.advance(commit.snapshot).await {
                        tracing::debug!(%error, "could not take over the state after a commit");
                    }
                    return Ok(Appended { version, lsn: through_lsn });
                }
                Err(error) => error,
            };
            if is_conflict(&error) && conflicts < CONFLICTS_MAX {
                conflicts += 1;
                continue;
            }
            return match self.pin(Some(incarnation)).await {
                Ok(now) if now.committed_lsn >= through_lsn => {
                    self.compare(&now, incarnation, &batch).await?;
                    tracing::info!(lsn = through_lsn, %error, "a commit landed although its answer was an error");
                    Ok(Appended { version: now.version, lsn: now.committed_lsn })
                }
                _ => Err(self.failed("append to")(error)),
            };
        }
    }

    async fn commit(
        &self,
        pinned: &Pinned,
        incarnation: Uuid,
        adds: Vec<Add>,
        last_lsn: u64,
        removed: Option<u64>,
    ) -> Result<FinalizedCommit, DeltaTableError> {
        let state: &DeltaTableState = pinned.table.snapshot()?;
        let number = |number: u64| {
            let fits = i64::try_from(number);
            fits.map_err(|_| DeltaTableError::Generic(format!("{number} does not fit a Delta transaction")))
        };
        let mut transactions = vec![Transaction::new(incarnation, number(last_lsn)?)];
        if let Some(removed) = removed {
            transactions.push(Transaction::new(format!("{REMOVED_TXN}{incarnation}"), number(removed)?));
        }
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec![PARTITION_COLUMN.to_owned()]),
            predicate: None,
        };
        let properties = CommitProperties::default()
            .with_application_transactions(transactions)
            // Maintenance removes old log entries, under its lease; a writer never does.
            .with_cleanup_expired_logs(Some(false));
        CommitBuilder::from(properties)
            .with_actions(adds.into_iter().map(Action::Add).collect())
            .build(Some(state), self.log_store.clone(), operation)
            .await
    }
}

/// Files that hold the rows above `after_lsn`, ready to be committed.
struct Encoded {
    after_lsn: u64,
    adds: Vec<Add>,
    rows: u64,
}

/// How many threads work on one commit.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| cores.get().min(THREADS_MAX))
}

/// All rows of one spool, and none above the LSN that the commit will claim.
fn check(batch: &RecordBatch, incarnation: Uuid, through_lsn: u64) -> Result<(), LakeError> {
    let expected = incarnation.to_string();
    let foreign = text(batch, "incarnation")?.iter().flatten().find(|found| *found != expected);
    if let Some(foreign) = foreign {
        let found = Uuid::parse_str(foreign).unwrap_or_default();
        return Err(LakeError::ForeignEvent { expected: incarnation, found });
    }
    let last_lsn = kernels::aggregate::max(lsns(batch)?).unwrap_or(0).cast_unsigned();
    if last_lsn > through_lsn {
        let text = format!("a row has LSN {last_lsn}, the commit would end at {through_lsn}");
        return Err(ArrowError::InvalidArgumentError(text).into());
    }
    Ok(())
}

/// The rows above `after_lsn`, in their order.
fn above(batch: &RecordBatch, after_lsn: u64) -> Result<RecordBatch, ArrowError> {
    let after_lsn = i64::try_from(after_lsn).unwrap_or(i64::MAX);
    let lsns = lsns(batch)?;
    if lsns.values().iter().all(|lsn| *lsn > after_lsn) {
        return Ok(batch.clone());
    }
    let wanted = lsns.values().iter().map(|lsn| Some(*lsn > after_lsn)).collect();
    filter_record_batch(batch, &wanted)
}

fn lsns(batch: &RecordBatch) -> Result<&Int64Array, ArrowError> {
    let column = batch.column_by_name("lsn").and_then(|column| column.as_primitive_opt::<Int64Type>());
    column.ok_or_else(|| ArrowError::SchemaError("a batch of events has no column lsn".to_owned()))
}

fn text<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a StringArray, ArrowError> {
    let column = batch.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
    column.ok_or_else(|| ArrowError::SchemaError(format!("a batch of events has no column {name}")))
}

/// Whether another commit got in between, so that trying again on a newer version may work.
pub(crate) fn is_conflict(error: &DeltaTableError) -> bool {
    match error {
        DeltaTableError::VersionAlreadyExists(_) => true,
        DeltaTableError::Transaction { source } => {
            matches!(source, TransactionError::CommitConflict(_) | TransactionError::MaxCommitAttempts(_))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests;
