//! Swaps files of the table for others in one commit, fenced by the lease's number.
//!
//! The fence is in the log. The commit carries `txn('rewrite', epoch)`: Delta's conflict check refuses it when
//! another commit with that name got in after the version it was built on, and it is built only on a version
//! whose number is not above ours and that still names every file to be replaced. Appends carry other names
//! and remove nothing, so neither side stops the other.

use std::collections::{BTreeMap, HashSet};

use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, FinalizedCommit};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::logstore::get_actions;
use deltalake::protocol::DeltaOperation;
use deltalake::{DeltaTable, DeltaTableError};
use serde_json::Value;
use uuid::Uuid;

use super::MaintainError;
use super::lease::Lease;
use crate::append::is_conflict;
use crate::table::{EventsTable, LakeError, Pinned};

/// The name under which rewrites stand in Delta's log; its version is the lease's number.
pub const REWRITE_TXN: &str = "rewrite";
/// In front of a spool's incarnation: how many of its rows were ever removed.
pub const REMOVED_TXN: &str = "removed:";
/// Under which key of `commitInfo` a rewrite names itself.
const MARK: &str = "sendlakeRewrite";
/// How often a swap starts over because appends keep getting in between.
const TRIES_MAX: usize = 24;

/// What goes, what comes.
pub(crate) struct Swap {
    /// Paths of live files, as the log has them.
    pub remove: HashSet<String>,
    pub add: Vec<Add>,
    /// Rows of each spool that are gone with it.
    pub dropped: BTreeMap<Uuid, u64>,
    /// Whether any row is gone or differs.
    pub data_change: bool,
    /// For the log: how large files were meant to be.
    pub target_file_bytes: u64,
}

impl EventsTable {
    /// The highest lease number that a rewrite of this table was committed under; 0 before the first.
    pub async fn rewrite_epoch(&self) -> Result<u64, LakeError> {
        let pinned = self.pin(None).await?;
        self.transaction(&pinned.table, REWRITE_TXN).await
    }

    /// How many rows of a spool were ever removed from the table, by retention or erasure.
    pub async fn removed_rows(&self, pinned: &Pinned, incarnation: Uuid) -> Result<u64, LakeError> {
        self.transaction(&pinned.table, &removed_txn(incarnation)).await
    }

    /// Commits a swap, on the newest version that allows it. Returns the version that holds it.
    pub(crate) async fn swap(&self, lease: &Lease, swap: Swap) -> Result<u64, MaintainError> {
        let mark = lease.next_mark();
        let mut base = None;
        let mut tries = 0;
        loop {
            let pinned = self.pin(None).await?;
            let base = *base.get_or_insert(pinned.version);
            if tries > 0
                && let Some(version) = self.landed(&mark, base, pinned.version).await?
            {
                tracing::info!(version, "a rewrite landed although its answer was an error");
                return Ok(version);
            }
            let error = match self.try_swap(lease, &swap, &mark, &pinned).await? {
                Ok(commit) => {
                    let version = commit.version;
                    if let Err(error) = self.advance(commit.snapshot).await {
                        tracing::debug!(%error, "could not take over the state after a rewrite");
                    }
                    return Ok(version);
                }
                Err(error) => error,
            };
            tries += 1;
            if is_conflict(&error) && tries < TRIES_MAX {
                tracing::debug!(%error, tries, "a rewrite is committed again on a newer version");
                continue;
            }
            let newest = self.pin(None).await?.version;
            return match self.landed(&mark, base, newest).await? {
                Some(version) => Ok(version),
                None => Err(self.failed("commit a rewrite of")(error).into()),
            };
        }
    }

    /// One try on one version. The outer error is ours (fenced, gone), the inner one Delta's.
    async fn try_swap(
        &self,
        lease: &Lease,
        swap: &Swap,
        mark: &str,
        pinned: &Pinned,
    ) -> Result<Result<FinalizedCommit, DeltaTableError>, MaintainError> {
        let newest = self.transaction(&pinned.table, REWRITE_TXN).await?;
        if newest > lease.epoch() {
            return Err(MaintainError::Fenced { ours: lease.epoch(), newest });
        }
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        let live = state.log_data().into_iter().filter(|file| swap.remove.contains(file.path().as_ref()));
        let removes: Vec<_> = live.map(|file| file.remove_action(swap.data_change)).collect();
        if removes.len() != swap.remove.len() {
            let there: HashSet<&str> = removes.iter().map(|remove| remove.path.as_str()).collect();
            let path = swap.remove.iter().find(|path| !there.contains(path.as_str())).cloned();
            return Err(MaintainError::Gone { path: path.unwrap_or_default() });
        }
        let mut transactions = vec![transaction(REWRITE_TXN, lease.epoch())];
        for (incarnation, rows) in &swap.dropped {
            let before = self.removed_rows(pinned, *incarnation).await?;
            transactions.push(transaction(&removed_txn(*incarnation), before.saturating_add(*rows)));
        }
        let actions = removes.into_iter().map(Action::Remove).chain(
            swap.add.iter().map(|add| Action::Add(Add { data_change: swap.data_change, ..add.clone() })),
        );
        let properties = CommitProperties::default()
            .with_application_transactions(transactions)
            .with_metadata([(MARK.to_owned(), Value::String(mark.to_owned()))])
            .with_cleanup_expired_logs(Some(false));
        lease.keep().await?;
        Ok(CommitBuilder::from(properties)
            .with_actions(actions.collect())
            .build(Some(state), self.log_store.clone(), swap.operation())
            .await)
    }

    /// The version between two others that carries this mark, if there is one.
    async fn landed(&self, mark: &str, after: u64, through: u64) -> Result<Option<u64>, LakeError> {
        for version in after.saturating_add(1)..=through {
            let entry = self.log_store.read_commit_entry(version).await;
            let Some(entry) = entry.map_err(self.failed("read a commit of"))? else { continue };
            let actions = get_actions(version, &entry).map_err(self.failed("read a commit of"))?;
            let marked = actions.iter().any(|action| match action {
                Action::CommitInfo(info) => info.info.get(MARK).and_then(Value::as_str) == Some(mark),
                _ => false,
            });
            if marked {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    async fn transaction(&self, table: &DeltaTable, app_id: &str) -> Result<u64, LakeError> {
        let state = table.snapshot().map_err(self.failed("read the state of"))?;
        let version = state.transaction_version(self.log_store.as_ref(), app_id).await;
        let version = version.map_err(self.failed("read the transactions of"))?;
        Ok(version.and_then(|version| u64::try_from(version).ok()).unwrap_or(0))
    }
}

impl Swap {
    /// What the log calls it.
    fn operation(&self) -> DeltaOperation {
        if !self.dropped.is_empty() {
            DeltaOperation::Delete { predicate: None }
        } else if self.data_change {
            DeltaOperation::Update { predicate: None }
        } else {
            let target_size = i64::try_from(self.target_file_bytes).unwrap_or(i64::MAX);
            DeltaOperation::Optimize { predicate: None, target_size }
        }
    }
}

fn removed_txn(incarnation: Uuid) -> String {
    format!("{REMOVED_TXN}{incarnation}")
}

fn transaction(app_id: &str, version: u64) -> Transaction {
    Transaction::new(app_id, i64::try_from(version).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use deltalake::kernel::transaction::TransactionError;
    use sendlake_control::clock::{ManualClock, SeededEntropy};
    use sendlake_control::id::Ids;

    use crate::store::open_store;
    use crate::testing::{NOON, events, lsns};

    use super::*;

    const SPOOL: Uuid = Uuid::from_u128(5);
    const TTL_MS: i64 = 60_000;

    fn swap(files: &[String]) -> Swap {
        let remove = files.iter().cloned().collect();
        Swap { remove, add: Vec::new(), dropped: BTreeMap::new(), data_change: false, target_file_bytes: 0 }
    }

    /// Both have looked at the same version before either commits: the moment that a lease cannot protect.
    #[tokio::test]
    async fn a_commit_on_a_version_before_another_rewrite_is_refused_whatever_the_numbers() {
        let store = open_store("memory://", &Default::default()).unwrap();
        let clock = Arc::new(ManualClock::new(NOON));
        let ids = Ids { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(1)) };
        let older = Lease::take(&store, "one", &ids, TTL_MS, 0).await.unwrap().unwrap();
        clock.advance_millis(TTL_MS);
        let newer = Lease::take(&store, "two", &ids, TTL_MS, 0).await.unwrap().unwrap();
        for (first, second) in [(&older, &newer), (&newer, &newer)] {
            let (one, two) =
                (EventsTable::open(&store).await.unwrap(), EventsTable::open(&store).await.unwrap());
            let committed = one.committed_lsn(SPOOL).await.unwrap();
            for batch in 0..4 {
                let from = committed + batch * 5 + 1;
                one.append(SPOOL, events(SPOOL, from..=from + 4)).await.unwrap();
            }
            let pinned = two.pin(None).await.unwrap();
            let files: Vec<String> = two.files(&pinned).unwrap().into_iter().map(|file| file.path).collect();
            let (ours, theirs) = files.split_at(files.len() / 2);
            // Their clocks agree that it is their turn: to each of them.
            clock.advance_millis(if first.epoch() == 1 { -TTL_MS } else { 0 });
            let landed = one.try_swap(first, &swap(ours), "first", &pinned).await;
            clock.advance_millis(if first.epoch() == 1 { TTL_MS } else { 0 });
            landed.unwrap().unwrap();
            // No file in common, no row changed: it is the name in the log that conflicts.
            let refused = two.try_swap(second, &swap(theirs), "second", &pinned).await.unwrap().unwrap_err();
            assert!(
                matches!(
                    &refused,
                    DeltaTableError::Transaction { source: TransactionError::CommitConflict(_) }
                ),
                "{refused}"
            );
            let now = two.pin(None).await.unwrap();
            let left = two.files(&now).unwrap().len();
            assert_eq!(left, theirs.len());
        }
        let table = EventsTable::open(&store).await.unwrap();
        assert!(lsns(&table.pin(None).await.unwrap().table, SPOOL).await.len() < 40);
    }
}
