//! What an erasure leaves behind of a table, removed at once: replaced files that hold the erased, whoever replaced
//! them; and the log's old entries, behind a new checkpoint.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::logstore::LogStoreRef;
use deltalake::protocol::checkpoints::create_checkpoint;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use sendlake_control::clock::Timestamp;

use super::{Erase, EraseError, TableErased, Whose};
use crate::maintain::source::DataFile;
use crate::maintain::vacuum::stages;
use crate::table::{log_store, version};
use crate::verify;

/// Nobody takes longer than this from the first byte of a file to the commit that names it, nor from the version
/// that a commit is built on to its log entry. Younger files and log entries are left alone: a file may be about to
/// be committed, and the name of a removed entry could be taken by a commit that nobody would ever read.
pub(super) const COMMIT_SECS_MAX: i64 = 3_600;
/// A file that nobody has committed is looked at so often, a second apart, before it is left for later.
const LOOKS_MAX: usize = 5;

impl Erase {
    /// Removes files of a table that no version names and that hold the erased, and expires its log.
    pub(super) async fn remove_files(
        &self,
        name: &str,
        messages: &HashSet<String>,
        done: &mut TableErased,
        left: &mut Vec<String>,
    ) -> Result<(), EraseError> {
        let log_store = log_store(&self.store, name)?;
        let url = log_store.root_url().clone();
        let mut table = DeltaTable::new(Arc::clone(&log_store));
        table.load().await.map_err(Self::failed("open", &url))?;
        let messages = Arc::new(messages.clone());
        // Under full-speed ingest there is always some file on its way; one and the same is not, for seconds.
        let mut pending: Option<HashSet<Path>> = None;
        for look in 1.. {
            let mut fresh = self.remove_dead(&mut table, &log_store, &messages, done).await?;
            if let Some(before) = &pending {
                fresh.retain(|path| before.contains(path));
            }
            if fresh.is_empty() {
                break;
            }
            if look == LOOKS_MAX {
                left.extend(fresh.iter().map(|path| {
                    format!("{url}{path} was written within the last hour and is in no version yet: erase again when it is older")
                }));
                break;
            }
            pending = Some(fresh);
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        let long_ago = self.ids.now().plus_secs(-COMMIT_SECS_MAX);
        for stage in stages(&log_store, long_ago) {
            // Half a file of a writer that ended. It may hold anything, and nobody needs it.
            done.files_removed += u64::from(std::fs::remove_file(stage).is_ok());
        }
        let telling = self.entries_that_tell(&log_store).await?;
        if done.files_replaced + done.files_removed > 0 || !telling.is_empty() {
            self.expire_log(&mut table, &log_store, done).await?;
        }
        left.extend(telling.iter().filter(|entry| !self.is_old(entry)).map(|entry| {
            format!(
                "{url}{} has it in its statistics and is younger than an hour: erase again when it is older",
                entry.location
            )
        }));
        Ok(())
    }

    /// Removes concerned files that are certain to be dead. Returns those that may be about to be committed.
    async fn remove_dead(
        &self,
        table: &mut DeltaTable,
        log_store: &LogStoreRef,
        messages: &Arc<HashSet<String>>,
        done: &mut TableErased,
    ) -> Result<HashSet<Path>, EraseError> {
        let url = log_store.root_url().clone();
        let store = log_store.object_store(None);
        // Listed first: a file that is committed after that is live in the version that follows.
        let objects = self.objects(log_store).await?;
        table.update_state().await.map_err(Self::failed("refresh", &url))?;
        let state = table.snapshot().map_err(Self::failed("read the state of", &url))?;
        let live: HashSet<String> = state.log_data().iter().map(|view| view.path().into_owned()).collect();
        let schema = state.snapshot().arrow_schema();
        let replaced = verify::replaced(log_store, &objects, version(table)).await;
        let mut fresh = HashSet::new();
        for object in objects {
            let path = object.location.as_ref();
            if path.starts_with("_delta_log/") || !path.contains(".parquet") || live.contains(path) {
                continue;
            }
            let file = DataFile {
                path: path.to_owned(),
                bytes: object.size,
                rows: None,
                modified_at_ms: object.last_modified.timestamp_millis(),
                partition: HashMap::new(),
                sha256: None,
            };
            let concerned = match self.look(&store, &file, &schema, Arc::clone(messages)).await {
                Ok(looked) => looked.concerned,
                // Half a file, or one of another shape, may hold anything; a live one it is not.
                Err(_) => true,
            };
            let dead = replaced.contains(path) || self.is_old(&object);
            if concerned && !dead {
                fresh.insert(object.location);
            } else if concerned {
                match store.delete(&object.location).await {
                    Ok(()) => done.files_removed += 1,
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(source) => {
                        return Err(EraseError::Storage {
                            action: "remove",
                            place: format!("{url}{}", object.location),
                            source,
                        });
                    }
                }
            }
        }
        Ok(fresh)
    }

    /// Writes a checkpoint, and removes entries behind it that are old enough.
    async fn expire_log(
        &self,
        table: &mut DeltaTable,
        log_store: &LogStoreRef,
        done: &mut TableErased,
    ) -> Result<(), EraseError> {
        let url = log_store.root_url().clone();
        table.update_state().await.map_err(Self::failed("refresh", &url))?;
        create_checkpoint(table, None).await.map_err(Self::failed("checkpoint", &url))?;
        let checkpoint = version(table);
        let store = log_store.object_store(None);
        for object in self.objects(log_store).await? {
            let number =
                object.location.as_ref().strip_prefix("_delta_log/").and_then(|name| name.split_once('.'));
            let number = number.and_then(|(number, _)| number.parse::<u64>().ok());
            if number.is_some_and(|number| number < checkpoint) && self.is_old(&object) {
                match store.delete(&object.location).await {
                    Ok(()) => done.log_entries_expired += 1,
                    Err(object_store::Error::NotFound { .. }) => {}
                    Err(source) => {
                        let place = format!("{url}{}", object.location);
                        return Err(EraseError::Storage { action: "remove", place, source });
                    }
                }
            }
        }
        Ok(())
    }

    /// Log entries with the address in them: of writers that keep statistics where sendlake keeps none.
    async fn entries_that_tell(&self, log_store: &LogStoreRef) -> Result<Vec<ObjectMeta>, EraseError> {
        let Whose::Recipient { forms, .. } = &self.whose else { return Ok(Vec::new()) };
        let store = log_store.object_store(None);
        let mut telling = Vec::new();
        for object in self.objects(log_store).await? {
            let path = object.location.as_ref();
            if !path.starts_with("_delta_log/") || !path.ends_with(".json") {
                continue;
            }
            match async { store.get(&object.location).await?.bytes().await }.await {
                Ok(text) if forms.is_in(&text) => telling.push(object),
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => {
                    let place = format!("{}{path}", log_store.root_url());
                    return Err(EraseError::Storage { action: "read", place, source });
                }
            }
        }
        Ok(telling)
    }

    async fn objects(&self, log_store: &LogStoreRef) -> Result<Vec<ObjectMeta>, EraseError> {
        verify::objects(log_store).await.map_err(|source| EraseError::Storage {
            action: "list",
            place: log_store.root_url().to_string(),
            source,
        })
    }

    fn is_old(&self, object: &ObjectMeta) -> bool {
        let modified = Timestamp(object.last_modified.timestamp_micros());
        modified.plus_secs(COMMIT_SECS_MAX) < self.ids.now()
    }
}
