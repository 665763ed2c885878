//! What an operator is told when a table cannot be read or written: which file of its log is damaged, or what a bucket
//! refuses, and what to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use deltalake::DeltaTableError;
use deltalake::logstore::LogStoreRef;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use super::{LakeError, failed};
use crate::store::refusal;

/// The newest entries of a log that are looked at: a checkpoint stands for those before.
const ENTRIES_READ_MAX: usize = 300;

/// An error's first line, short enough for a terminal, and what to do where that is known.
pub(super) fn told(error: &DeltaTableError) -> String {
    let text = error.to_string();
    let first: String = text.lines().next().unwrap_or_default().chars().take(400).collect();
    match refusal(error) {
        Some(refusal) => format!("{first}; {refusal}"),
        None => first,
    }
}

/// The error that says most about a failure to read a table: damage to its log, where there is some.
pub(super) async fn diagnosed(
    log_store: &LogStoreRef,
    action: &'static str,
    error: DeltaTableError,
) -> LakeError {
    match damage(&log_store.object_store(None)).await {
        Some(what) => LakeError::Damaged { table: log_store.root_url().clone(), what },
        None => failed(log_store.root_url().clone(), action)(error),
    }
}

/// Refuses a table whose log has an empty entry. Delta readers take one for a commit without changes, and so lose the
/// rows of the commit that it was.
pub(super) async fn refuse_empty_entries(log_store: &LogStoreRef, version: u64) -> Result<(), LakeError> {
    let after =
        Path::from(format!("_delta_log/{:020}.json", version.saturating_sub(ENTRIES_READ_MAX as u64)));
    let store = log_store.object_store(None);
    let log = Path::from("_delta_log");
    let mut newest = store.list_with_offset(Some(&log), &after);
    // A listing that fails is no damage; what it keeps from being read will say so.
    while let Ok(Some(found)) = newest.try_next().await {
        if found.size == 0 && entry_version(&found.location).is_some() {
            let what = format!("{} is empty", found.location);
            return Err(LakeError::Damaged { table: log_store.root_url().clone(), what });
        }
    }
    Ok(())
}

/// The first damage that a log shows; `None` when it looks whole, or cannot be looked at.
async fn damage(store: &Arc<dyn ObjectStore>) -> Option<String> {
    let log = Path::from("_delta_log");
    let found: Vec<_> = store.list(Some(&log)).try_collect().await.ok()?;
    let mut entries = BTreeMap::new();
    let mut checkpoint = None;
    for file in found {
        let name = file.location.filename().unwrap_or_default();
        if let Some(version) = entry_version(&file.location) {
            entries.insert(version, file.location);
        } else if name.contains(".checkpoint.") {
            checkpoint = checkpoint.max(name.split('.').next().and_then(|name| name.parse::<u64>().ok()));
        }
    }
    let needed_from = checkpoint.map_or(0, |version| version + 1);
    let newest = *entries.keys().next_back()?;
    let missing: Vec<u64> = (needed_from..newest).filter(|version| !entries.contains_key(version)).collect();
    if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
        let more = if first == last { String::new() } else { format!(" (and others up to {last:020}.json)") };
        return Some(format!("_delta_log/{first:020}.json is missing{more}, while later entries are there"));
    }
    for location in entries.values().rev().take(ENTRIES_READ_MAX) {
        let text = store.get(location).await.ok()?.bytes().await.ok()?;
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let whole = lines.clone().all(|line| serde_json::from_slice::<serde_json::Value>(line).is_ok());
        if !whole || lines.count() == 0 {
            return Some(format!("{location} is cut off or is not JSON ({} bytes)", text.len()));
        }
    }
    None
}

/// The version of a log entry; `None` for checkpoints, sidecars and whatever else lies there.
fn entry_version(location: &Path) -> Option<u64> {
    let version = location.filename()?.strip_suffix(".json")?;
    (version.len() == 20).then(|| version.parse().ok())?
}

#[cfg(test)]
mod tests;
