//! What is new in the table since a version: read from the commits in between, so that it costs what is new and not
//! what is stored.

use std::collections::BTreeMap;

use deltalake::kernel::{Action, Add};
use deltalake::logstore::get_actions;
use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::{EventsTable, LakeError, Pinned};

/// Log entries that are fetched at the same time.
const FETCHES_MAX: usize = 8;

/// What came into the table after one version, up to another.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The appends of ingest in between, oldest first. Empty when the log no longer tells.
    pub appends: Vec<Append>,
    /// Files of the later version: path below the table's folder, and size in bytes. A row that came after the earlier one
    /// is in one of them, and in no other file; they hold older rows too where a rewrite mixed both, so take the rows
    /// above your LSN of each spool.
    pub files: BTreeMap<String, u64>,
    /// Whether the log still told. If not, `files` are all files of the later version.
    pub from_log: bool,
}

/// One commit of ingest: a spool's events up to `lsn`.
#[derive(Clone, Debug)]
pub struct Append {
    pub version: u64,
    pub incarnation: Uuid,
    /// The spool's events up to here are in this version.
    pub lsn: u64,
    /// Its files, as they were written. A rewrite may have replaced them since.
    pub adds: Vec<Add>,
}

impl EventsTable {
    /// What came after version `after`, up to the pinned one; with `None`, everything.
    ///
    /// Fetches each log entry in between. Log clean-up may have removed some: then [`Changes::from_log`] is false.
    pub async fn changes(&self, after: Option<u64>, pinned: &Pinned) -> Result<Changes, LakeError> {
        let Some(after) = after else { return self.all(pinned) };
        let versions = after.saturating_add(1)..=pinned.version;
        let mut entries = stream::iter(versions)
            .map(|version| async move { Ok((version, self.log_store.read_commit_entry(version).await?)) })
            .buffered(FETCHES_MAX);
        let mut seen = Seen::default();
        while let Some((version, entry)) =
            entries.try_next().await.map_err(self.failed("read a commit of"))?
        {
            let Some(entry) = entry else { return self.all(pinned) };
            seen.commit(version, get_actions(version, &entry).map_err(self.failed("read a commit of"))?);
        }
        Ok(Changes { appends: seen.appends, files: seen.files, from_log: true })
    }

    fn all(&self, pinned: &Pinned) -> Result<Changes, LakeError> {
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        let files =
            state.log_data().into_iter().map(|file| (file.path().into_owned(), bytes(file.size()))).collect();
        Ok(Changes { appends: Vec::new(), files, from_log: false })
    }
}

/// The commits so far.
#[derive(Default)]
struct Seen {
    appends: Vec<Append>,
    /// Files that are still in the table and can hold rows that came after.
    files: BTreeMap<String, u64>,
}

impl Seen {
    fn commit(&mut self, version: u64, actions: Vec<Action>) {
        let mut adds = Vec::new();
        let mut spool = None;
        let (mut replaces, mut replaces_new) = (false, false);
        for action in actions {
            match action {
                Action::Add(add) => adds.push(add),
                Action::Remove(remove) => {
                    replaces = true;
                    replaces_new |= self.files.remove(&remove.path).is_some();
                }
                Action::Txn(txn) => {
                    // Ingest's transactions are named after spools; maintenance has words for its own.
                    let incarnation = Uuid::parse_str(&txn.app_id).ok();
                    spool = incarnation.zip(u64::try_from(txn.version).ok()).or(spool);
                }
                _ => {}
            }
        }
        if let Some((incarnation, lsn)) = spool.filter(|_| !replaces) {
            self.appends.push(Append { version, incarnation, lsn, adds: adds.clone() });
        }
        // A rewrite of older files alone holds nothing new.
        if !replaces || replaces_new {
            self.files.extend(adds.into_iter().map(|add| (add.path, bytes(add.size))));
        }
    }
}

fn bytes(size: i64) -> u64 {
    size.try_into().unwrap_or(0)
}

#[cfg(test)]
mod tests;
