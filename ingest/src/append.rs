//! Appending events exactly once, whatever fails on the way.
//!
//! Rows and the spool's LSN become visible in one Delta commit, whose `txn` carries the spool's incarnation
//! and the last LSN. An error says nothing about whether that commit landed: the table is asked again, and
//! its answer counts.

use deltalake::DeltaTableError;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, FinalizedCommit, TransactionError};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::operations::write::WriterStatsConfig;
use deltalake::operations::write::writer::{DeltaWriter, WriterConfig};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::state::DeltaTableState;
use uuid::Uuid;

use crate::event::{EVENTS_SCHEMA, LoggedEvent, to_batch};
use crate::table::layout::{self, PARTITION_COLUMN};
use crate::table::{EventsTable, LakeError, Pinned};

/// How often one append starts over because others changed the table meanwhile.
const CONFLICTS_MAX: usize = 8;

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
        let last_lsn = rows.iter().map(|row| row.lsn).max().unwrap_or(0);
        let _turn = self.appending.lock().await;

        let mut encoded: Option<Encoded> = None;
        let mut rows = rows;
        let mut conflicts = 0;
        loop {
            let pinned = self.pin(Some(incarnation)).await?;
            if pinned.committed_lsn >= last_lsn {
                return Ok(Appended { version: pinned.version, lsn: pinned.committed_lsn });
            }
            let adds = match &encoded {
                Some(ready) if ready.after_lsn == pinned.committed_lsn => ready.adds.clone(),
                _ => {
                    rows.retain(|row| row.lsn > pinned.committed_lsn);
                    let adds;
                    (rows, adds) = self.encode(&pinned, rows).await?;
                    encoded = Some(Encoded { after_lsn: pinned.committed_lsn, adds: adds.clone() });
                    adds
                }
            };
            let error = match self.commit(&pinned, incarnation, adds, last_lsn).await {
                Ok(commit) => {
                    let version = commit.version;
                    // Should reading our own commit back fail, the next pin reads it again.
                    if let Err(error) = self.advance(commit.snapshot).await {
                        tracing::debug!(%error, "could not take over the state after a commit");
                    }
                    return Ok(Appended { version, lsn: last_lsn });
                }
                Err(error) => error,
            };
            if is_conflict(&error) && conflicts < CONFLICTS_MAX {
                conflicts += 1;
                continue;
            }
            return match self.pin(Some(incarnation)).await {
                Ok(now) if now.committed_lsn >= last_lsn => {
                    tracing::info!(lsn = last_lsn, %error, "a commit landed although its answer was an error");
                    Ok(Appended { version: now.version, lsn: now.committed_lsn })
                }
                _ => Err(self.failed("append to")(error)),
            };
        }
    }

    /// Writes rows as Parquet files that no commit names yet. Hands the rows back, sorted.
    async fn encode(
        &self,
        pinned: &Pinned,
        mut rows: Vec<LoggedEvent>,
    ) -> Result<(Vec<LoggedEvent>, Vec<Add>), LakeError> {
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        let stats = WriterStatsConfig::from_config(state.snapshot().table_configuration());
        let config = WriterConfig::new(
            EVENTS_SCHEMA.clone(),
            vec![PARTITION_COLUMN.to_owned()],
            Some(layout::writer_properties()),
            None,
            None,
            stats.num_indexed_cols,
            stats.stats_columns,
        );
        let mut writer = DeltaWriter::new(self.log_store.object_store(None), config);
        let runtime = tokio::runtime::Handle::current();
        // Sorting and compressing take long enough to hold up the runtime's own threads.
        let work = move || {
            layout::sort(&mut rows);
            let batch = to_batch(&rows)?;
            let adds = runtime.block_on(async {
                match writer.write(&batch).await {
                    Ok(()) => writer.close().await,
                    Err(error) => {
                        // The first error counts; parts of an upload that stay behind are vacuumed later.
                        let _ = writer.abort().await;
                        Err(error)
                    }
                }
            });
            Ok((rows, adds))
        };
        let (rows, adds) = tokio::task::spawn_blocking(work).await?.map_err(LakeError::Encode)?;
        Ok((rows, adds.map_err(self.failed("write Parquet files of"))?))
    }

    async fn commit(
        &self,
        pinned: &Pinned,
        incarnation: Uuid,
        adds: Vec<Add>,
        last_lsn: u64,
    ) -> Result<FinalizedCommit, DeltaTableError> {
        let state: &DeltaTableState = pinned.table.snapshot()?;
        let lsn = i64::try_from(last_lsn).map_err(|_| {
            DeltaTableError::Generic(format!("LSN {last_lsn} does not fit a Delta transaction"))
        })?;
        let operation = DeltaOperation::Write {
            mode: SaveMode::Append,
            partition_by: Some(vec![PARTITION_COLUMN.to_owned()]),
            predicate: None,
        };
        let properties = CommitProperties::default()
            .with_application_transaction(Transaction::new(incarnation, lsn))
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
