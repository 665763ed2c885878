//! Removes files that no version names any more, and never one that somebody may still need.
//!
//! A file goes when it is older than the grace, the newest version does not name it, and no version within the
//! grace did. The grace is longer than any commit takes, so a file that is written now and named later is safe.
//! Files that sendlake did not write are reported and left alone.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::LazyLock;

use deltalake::logstore::LogStoreRef;
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectMeta;
use object_store::path::Path;
use regex::Regex;
use sendlake_control::clock::Timestamp;

use super::MaintainError;
use super::lease::Lease;
use super::log::{LogListing, newest_state};
use crate::table::failed;

/// The shortest grace: far longer than a commit or a rewrite takes from its first file to its log entry, and than
/// a query holds the version that it has pinned.
pub const GRACE_MS_MIN: i64 = 3_600_000;
/// So many files are removed between two looks at the lease.
const BATCH_FILES: usize = 500;

/// The names that Delta writers give to data files, in a folder of one day or right in the table's.
static DATA_FILE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"^([a-z_]+=[^/]+/)*part-\d{5}-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}[-.]c\d{3}[.a-z0-9]*\.parquet$").ok()
});

/// What a vacuum found, and removed unless it was a rehearsal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vacuumed {
    /// Paths below the table's folder.
    pub files: Vec<String>,
    pub bytes: u64,
    /// Unnamed files that are too young to go, and their size.
    pub young: usize,
    pub young_bytes: u64,
    /// Half-written files that a crash left on local storage.
    pub stages: Vec<PathBuf>,
    /// Files that are not ours. They stay.
    pub foreign: Vec<String>,
}

/// Looks through a table's folder and removes what nobody needs. With `dry_run` it only looks.
///
/// `grace_ms` shorter than [`GRACE_MS_MIN`] counts as that.
pub async fn vacuum(
    log_store: &LogStoreRef,
    lease: &Lease,
    grace_ms: i64,
    dry_run: bool,
) -> Result<Vacuumed, MaintainError> {
    let found = survey(log_store, lease.now(), grace_ms).await?;
    if !dry_run {
        for batch in found.files.chunks(BATCH_FILES) {
            lease.keep().await?;
            remove(log_store, batch).await?;
        }
        for stage in &found.stages {
            if let Err(error) = std::fs::remove_file(stage) {
                tracing::debug!(%error, path = %stage.display(), "a half-written file stays");
            }
        }
        sweep_folders(log_store, &found.files);
    }
    Ok(found)
}

/// What [`vacuum`] would do at `now`. Needs no lease.
pub async fn survey(
    log_store: &LogStoreRef,
    now: Timestamp,
    grace_ms: i64,
) -> Result<Vacuumed, MaintainError> {
    let cutoff = now.plus_millis(-grace_ms.max(GRACE_MS_MIN));
    // A state that is made up of a log with holes names too few files.
    LogListing::of(log_store).await?.check(log_store)?;
    // The folder first, the newest version second: what is named in between is then known to be.
    let listed = list(log_store).await?;
    let (live, removed_at) = named(log_store).await?;
    let mut found = Vacuumed::default();
    for meta in listed {
        let path = meta.location.as_ref();
        if live.contains(path) || path.starts_with('_') || path.contains("/_") {
            continue;
        }
        let removed_at_ms = removed_at.get(path).copied();
        let ours = removed_at_ms.is_some() || DATA_FILE.as_ref().is_some_and(|names| names.is_match(path));
        let young = meta.last_modified.timestamp_micros() > cutoff.0
            || removed_at_ms.is_some_and(|at_ms| at_ms > cutoff.as_millis());
        match (ours, young) {
            (false, _) => found.foreign.push(path.to_owned()),
            (true, true) => {
                found.young += 1;
                found.young_bytes += meta.size;
            }
            (true, false) => {
                found.bytes += meta.size;
                found.files.push(path.to_owned());
            }
        }
    }
    found.stages = stages(log_store, cutoff);
    Ok(found)
}

/// Removes files that a commit of this lease has just taken out of the table, without waiting for the grace: for
/// erasure. Queries that hold an older version fail on them, and are asked again. Refuses files that are live.
pub async fn remove_now(
    log_store: &LogStoreRef,
    lease: &Lease,
    paths: &[String],
) -> Result<usize, MaintainError> {
    let (live, removed) = named(log_store).await?;
    let gone: Vec<String> =
        paths.iter().filter(|path| removed.contains_key(*path) && !live.contains(*path)).cloned().collect();
    for batch in gone.chunks(BATCH_FILES) {
        lease.keep().await?;
        remove(log_store, batch).await?;
    }
    sweep_folders(log_store, &gone);
    Ok(gone.len())
}

/// Every file below the table's folder but the log's.
async fn list(log_store: &LogStoreRef) -> Result<Vec<ObjectMeta>, MaintainError> {
    let store = log_store.object_store(None);
    let log = log_store.log_path().clone();
    store
        .list(None)
        .try_filter(|meta| std::future::ready(!meta.location.prefix_matches(&log)))
        .try_collect()
        .await
        .map_err(|source| MaintainError::Storage { action: format!("list {}", log_store.root_url()), source })
}

/// The files that the newest version names, and those that it says were removed, with the time in milliseconds.
async fn named(log_store: &LogStoreRef) -> Result<(HashSet<String>, HashMap<String, i64>), MaintainError> {
    let table = newest_state(log_store).await?;
    let table_failed = || failed(log_store.root_url().clone(), "read the files of");
    let state = table.snapshot().map_err(table_failed())?;
    let live = state.log_data().into_iter().map(|file| file.object_store_path().to_string()).collect();
    let mut removed = HashMap::new();
    let mut tombstones = state.all_tombstones(log_store.as_ref());
    while let Some(tombstone) = tombstones.try_next().await.map_err(table_failed())? {
        let at_ms = tombstone.deletion_timestamp().unwrap_or(0);
        removed.insert(tombstone.path().into_owned(), at_ms);
    }
    Ok((live, removed))
}

async fn remove(log_store: &LogStoreRef, paths: &[String]) -> Result<(), MaintainError> {
    let store = log_store.object_store(None);
    let locations: Vec<_> = paths.iter().map(|path| Ok(Path::from(path.as_str()))).collect();
    let mut deleted = store.delete_stream(futures::stream::iter(locations).boxed());
    while let Some(result) = deleted.next().await {
        match result {
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(source) => {
                let action = format!("remove files of {}", log_store.root_url());
                return Err(MaintainError::Storage { action, source });
            }
        }
    }
    Ok(())
}

/// Files named `…#1` that local storage stages, of writers that died.
pub(crate) fn stages(log_store: &LogStoreRef, cutoff: Timestamp) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = log_store.root_url().to_file_path().into_iter().collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file()
                && is_stage(&entry.file_name().to_string_lossy())
                && is_older(&entry, cutoff)
            {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

fn is_stage(name: &str) -> bool {
    name.rsplit_once('#').is_some_and(|(name, digits)| {
        let staged =
            name.ends_with(".parquet") || name.ends_with(".json") || name.ends_with("_last_checkpoint");
        staged && !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
    })
}

fn is_older(entry: &std::fs::DirEntry, cutoff: Timestamp) -> bool {
    let modified = entry.metadata().and_then(|meta| meta.modified());
    let since_epoch = modified.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    since_epoch.is_some_and(|since| i64::try_from(since.as_micros()).is_ok_and(|micros| micros <= cutoff.0))
}

/// Folders of days that have nothing in them any more, on local storage. One that is in use is not empty, and
/// stays.
fn sweep_folders(log_store: &LogStoreRef, removed: &[String]) {
    let Ok(root) = log_store.root_url().to_file_path() else { return };
    let folders: BTreeSet<&str> = removed.iter().filter_map(|path| Some(path.rsplit_once('/')?.0)).collect();
    for folder in folders {
        let _ = std::fs::remove_dir(root.join(folder));
    }
}

#[cfg(test)]
mod tests;
