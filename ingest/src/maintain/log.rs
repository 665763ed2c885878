//! A table's log as files: what there is, what is missing, which names its transactions have; checkpoints and the
//! end of old entries.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use deltalake::kernel::Action;
use deltalake::logstore::{LogStoreRef, get_actions};
use deltalake::{DeltaTable, checkpoints};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sendlake_control::clock::Timestamp;

use super::MaintainError;
use crate::table::{failed, version};

/// A checkpoint is made when this many entries have come since the last one.
const CHECKPOINT_EVERY: u64 = 20;

/// The files of one log.
#[derive(Clone, Debug, Default)]
pub struct LogListing {
    /// Entry files by version.
    pub commits: BTreeMap<u64, ObjectMeta>,
    /// Complete checkpoints by version, each with its parts.
    pub checkpoints: BTreeMap<u64, Vec<ObjectMeta>>,
}

impl LogListing {
    /// Lists the log of a table.
    pub async fn of(log_store: &LogStoreRef) -> Result<Self, MaintainError> {
        let store = log_store.object_store(None);
        let mut listing = store.list(Some(log_store.log_path()));
        let (mut found, mut parts) = (Self::default(), BTreeMap::<u64, (usize, Vec<ObjectMeta>)>::new());
        while let Some(meta) = listing.try_next().await.map_err(|source| MaintainError::Storage {
            action: format!("list the log of {}", log_store.root_url()),
            source,
        })? {
            match LogFile::of(&meta.location) {
                Some(LogFile::Commit(version)) => {
                    found.commits.insert(version, meta);
                }
                Some(LogFile::Checkpoint { version, parts: expected }) => {
                    let (count, files) = parts.entry(version).or_default();
                    *count = expected;
                    files.push(meta);
                }
                None => {}
            }
        }
        let complete = parts.into_iter().filter(|(_, (expected, files))| files.len() == *expected);
        found.checkpoints = complete.map(|(version, (_, files))| (version, files)).collect();
        Ok(found)
    }

    pub fn newest(&self) -> Option<u64> {
        let commit = self.commits.keys().next_back();
        commit.max(self.checkpoints.keys().next_back()).copied()
    }

    /// The oldest entry, and since when it has been there.
    pub fn oldest_entry(&self) -> Option<(u64, Timestamp)> {
        self.commits.first_key_value().map(|(version, meta)| (*version, written_at(meta)))
    }

    pub fn last_checkpoint(&self) -> Option<(u64, Timestamp)> {
        let (version, files) = self.checkpoints.last_key_value()?;
        files.first().map(|meta| (*version, written_at(meta)))
    }

    /// Versions without an entry between the last checkpoint (or the beginning) and the newest: without them nobody
    /// can say what the table holds.
    pub fn holes(&self) -> Vec<u64> {
        let first = self.last_checkpoint().map_or(0, |(version, _)| version.saturating_add(1));
        let newest = self.commits.keys().next_back().copied().unwrap_or(0);
        (first..=newest).filter(|version| !self.commits.contains_key(version)).take(16).collect()
    }

    /// Refuses to go on where the log has a hole.
    pub fn check(&self, log_store: &LogStoreRef) -> Result<(), MaintainError> {
        match self.holes().first() {
            None => Ok(()),
            Some(version) => {
                Err(MaintainError::Hole { table: log_store.root_url().clone(), version: *version })
            }
        }
    }
}

fn written_at(meta: &ObjectMeta) -> Timestamp {
    Timestamp(meta.last_modified.timestamp_micros())
}

/// What a file of the log is.
enum LogFile {
    Commit(u64),
    Checkpoint { version: u64, parts: usize },
}

impl LogFile {
    /// `<20 digits>.json`, `<20 digits>.checkpoint.parquet` or `<20 digits>.checkpoint.<part>.<parts>.parquet`.
    fn of(path: &Path) -> Option<Self> {
        let mut words = path.filename()?.split('.');
        let digits = words.next().filter(|digits| digits.len() == 20)?;
        let version = digits.parse().ok()?;
        match (words.next()?, words.next(), words.next(), words.next(), words.next()) {
            ("json", None, ..) => Some(Self::Commit(version)),
            ("checkpoint", Some("parquet"), None, ..) => Some(Self::Checkpoint { version, parts: 1 }),
            ("checkpoint", Some(_), Some(parts), Some("parquet"), None) => {
                Some(Self::Checkpoint { version, parts: parts.parse().ok()? })
            }
            _ => None,
        }
    }
}

/// Every application's transaction that the log knows at its newest version: spools with their LSN, `rewrite`
/// with its lease, readers with their positions.
pub async fn transactions(log_store: &LogStoreRef) -> Result<BTreeMap<String, i64>, MaintainError> {
    let listing = LogListing::of(log_store).await?;
    listing.check(log_store)?;
    let mut known = BTreeMap::new();
    let mut first = 0;
    if let Some((version, files)) = listing.checkpoints.last_key_value() {
        for file in files {
            known.extend(checkpointed(log_store, &file.location).await?);
        }
        first = version.saturating_add(1);
    }
    let table_failed = || failed(log_store.root_url().clone(), "read a commit of");
    for version in listing.commits.range(first..).map(|(version, _)| *version) {
        let Some(entry) = log_store.read_commit_entry(version).await.map_err(table_failed())? else {
            continue;
        };
        for action in get_actions(version, &entry).map_err(table_failed())? {
            if let Action::Txn(txn) = action {
                known.insert(txn.app_id, txn.version);
            }
        }
    }
    Ok(known)
}

async fn checkpointed(log_store: &LogStoreRef, path: &Path) -> Result<BTreeMap<String, i64>, MaintainError> {
    let unreadable = |reason: String| MaintainError::Source { path: path.to_string(), reason };
    let store = log_store.object_store(None);
    let bytes = async { store.get(path).await?.bytes().await }.await;
    let bytes = bytes.map_err(|source| MaintainError::Storage { action: format!("read {path}"), source })?;
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| unreadable(error.to_string()))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), ["txn"]);
    let reader = builder.with_projection(mask).build().map_err(|error| unreadable(error.to_string()))?;
    let mut known = BTreeMap::new();
    for batch in reader {
        let batch = batch.map_err(|error| unreadable(error.to_string()))?;
        let Some(txn) = batch.column_by_name("txn").and_then(|column| column.as_struct_opt()) else {
            continue;
        };
        let names = txn.column_by_name("appId").and_then(|column| column.as_string_opt::<i32>());
        let versions =
            txn.column_by_name("version").and_then(|column| column.as_primitive_opt::<Int64Type>());
        let (Some(names), Some(versions)) = (names, versions) else { continue };
        for row in 0..batch.num_rows() {
            if txn.is_valid(row) && names.is_valid(row) && versions.is_valid(row) {
                known.insert(names.value(row).to_owned(), versions.value(row));
            }
        }
    }
    Ok(known)
}

/// Makes a checkpoint of the newest version when enough has come since the last one. Returns its version then.
pub(crate) async fn checkpoint(
    log_store: &LogStoreRef,
    at_least: Option<u64>,
) -> Result<Option<u64>, MaintainError> {
    let listing = LogListing::of(log_store).await?;
    listing.check(log_store)?;
    let newest = listing.newest().unwrap_or(0);
    let last = listing.last_checkpoint().map_or(0, |(version, _)| version);
    if newest.saturating_sub(last) < at_least.unwrap_or(CHECKPOINT_EVERY) || newest == last {
        return Ok(None);
    }
    let table = newest_state(log_store).await?;
    let made = checkpoints::create_checkpoint(&table, None).await;
    made.map_err(failed(log_store.root_url().clone(), "make a checkpoint of"))?;
    Ok(Some(version(&table)))
}

/// Removes entries that are older than `before` and that a checkpoint covers. Returns how many.
///
/// An entry that is gone can no longer be travelled back to; whoever reads the table is not affected.
pub async fn clean_log(log_store: &LogStoreRef, before: Timestamp) -> Result<usize, MaintainError> {
    let listing = LogListing::of(log_store).await?;
    listing.check(log_store)?;
    let Some((covered, _)) = listing.last_checkpoint() else { return Ok(0) };
    checkpoints::cleanup_expired_logs_for(covered, log_store.as_ref(), before.as_millis(), None)
        .await
        .map_err(|error| failed(log_store.root_url().clone(), "remove old log entries of")(error).into())
}

/// The table as it is now, read anew.
pub(crate) async fn newest_state(log_store: &LogStoreRef) -> Result<DeltaTable, MaintainError> {
    let mut table = DeltaTable::new(log_store.clone());
    table.load().await.map_err(failed(log_store.root_url().clone(), "open"))?;
    Ok(table)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use crate::table::{EventsTable, log_store};
    use crate::testing::{event, lake};

    use super::*;

    const SPOOL: Uuid = Uuid::from_u128(7);

    #[tokio::test(flavor = "multi_thread")]
    async fn transactions_are_read_from_checkpoint_and_entries_alike() {
        let dir = tempfile::tempdir().unwrap();
        let store = lake(&dir);
        let table = EventsTable::open(&store).await.unwrap();
        for lsn in 1..=30 {
            table.append(SPOOL, vec![event(SPOOL, lsn)]).await.unwrap();
        }
        let log = log_store(&store, EventsTable::NAME).unwrap();
        assert_eq!(transactions(&log).await.unwrap(), [(SPOOL.to_string(), 30)].into());
        assert_eq!(checkpoint(&log, None).await.unwrap(), Some(30));
        assert_eq!(checkpoint(&log, None).await.unwrap(), None, "nothing has come since");
        table.append(Uuid::from_u128(8), vec![event(Uuid::from_u128(8), 1)]).await.unwrap();
        let known = transactions(&log).await.unwrap();
        assert_eq!(known.len(), 2);
        assert_eq!(known[&SPOOL.to_string()], 30);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn old_entries_go_behind_a_checkpoint_and_the_table_reads_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = lake(&dir);
        let table = EventsTable::open(&store).await.unwrap();
        for lsn in 1..=30 {
            table.append(SPOOL, vec![event(SPOOL, lsn)]).await.unwrap();
        }
        let log = log_store(&store, EventsTable::NAME).unwrap();
        let later = Timestamp::from_secs(4_000_000_000);
        assert_eq!(clean_log(&log, later).await.unwrap(), 0, "no checkpoint covers them");
        checkpoint(&log, None).await.unwrap();
        assert_eq!(clean_log(&log, Timestamp::from_secs(1)).await.unwrap(), 0, "they are young");
        assert_eq!(clean_log(&log, later).await.unwrap(), 30);
        // A writer that saw none of it goes on, and so does a new one.
        table.append(SPOOL, vec![event(SPOOL, 31)]).await.unwrap();
        let reopened = EventsTable::open(&store).await.unwrap();
        reopened.append(SPOOL, vec![event(SPOOL, 32)]).await.unwrap();
        assert_eq!(table.committed_lsn(SPOOL).await.unwrap(), 32);
        let listing = LogListing::of(&log).await.unwrap();
        assert_eq!(listing.oldest_entry().unwrap().0, 30);
        assert!(listing.holes().is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_hole_is_named_before_anything_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = lake(&dir);
        let table = EventsTable::open(&store).await.unwrap();
        for lsn in 1..=30 {
            table.append(SPOOL, vec![event(SPOOL, lsn)]).await.unwrap();
        }
        std::fs::remove_file(dir.path().join("events/_delta_log/00000000000000000017.json")).unwrap();
        let log = log_store(&store, EventsTable::NAME).unwrap();
        assert_eq!(LogListing::of(&log).await.unwrap().holes(), [17]);
        for said in [
            checkpoint(&log, None).await.unwrap_err().to_string(),
            clean_log(&log, Timestamp::from_secs(4_000_000_000)).await.unwrap_err().to_string(),
        ] {
            assert!(said.contains("entry 17") && said.contains("restore"), "{said}");
        }
    }
}
