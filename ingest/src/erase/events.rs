//! The events table: rewritten day by day until a version holds nothing of the erased any more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::{StreamExt, TryStreamExt, stream};

use super::edit::EraseEdit;
use super::keys::{self, ErasedKeys};
use super::look::Looked;
use super::{Erase, EraseError, TableErased};
use crate::maintain::MaintainError;
use crate::maintain::lease::Lease;
use crate::maintain::source::DataFile;
use crate::table::EventsTable;

/// How often the table is looked through. Each pass reads only files that are new since the last.
const PASSES_MAX: usize = 64;
/// Files looked into at the same time.
const LOOKS_AT_ONCE: usize = 2;

/// What is known of a file: whether it was looked through, and for how many messages.
type Known = HashMap<String, usize>;

impl Erase {
    /// Rewrites what is concerned. Returns what was done, and the messages whose events went.
    pub(super) async fn erase_events(
        &self,
        lease: &Lease,
    ) -> Result<(TableErased, HashSet<String>), EraseError> {
        let mut done = TableErased { table: EventsTable::NAME.to_owned(), ..TableErased::default() };
        let mut messages = HashSet::new();
        let mut clean = Known::new();
        let is_taken_elsewhere = keys::is_wanted(&self.store).await.map_err(MaintainError::from)?;
        for _ in 0..PASSES_MAX {
            let pinned = self.events.pin(None).await?;
            let files = self.events.files(&pinned)?;
            let concerned = self.concerned(&files, &mut messages, &mut clean).await?;
            if concerned.is_empty() {
                done.version = pinned.version;
                return Ok((done, messages));
            }
            let mut days: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for file in &concerned {
                days.entry(file.day()).or_default().push(file.path.clone());
            }
            for paths in days.into_values() {
                let erased = is_taken_elsewhere.then(|| ErasedKeys::new(&self.store, &self.ids));
                let edit = Arc::new(EraseEdit::new(self.whose.clone(), messages.clone(), erased));
                match self.events.rewrite(lease, &paths, Some(edit.clone()), &self.settings).await {
                    Ok(rewritten) => {
                        done.rows_erased += rewritten.dropped.values().sum::<u64>();
                        done.rows_redacted += edit.redacted.load(Ordering::Relaxed);
                        done.files_replaced += paths.len() as u64;
                    }
                    // A maintainer without our lease was faster: its files are looked at in the next pass.
                    Err(MaintainError::Gone { path }) => tracing::debug!(%path, "replaced meanwhile"),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Err(EraseError::Unsteady { table: self.events.url().to_string() })
    }

    /// The files that have to be written anew. First every new file is read for the address, which also tells the
    /// messages; then those without it are read for events of these messages.
    async fn concerned(
        &self,
        files: &[DataFile],
        messages: &mut HashSet<String>,
        clean: &mut Known,
    ) -> Result<Vec<DataFile>, EraseError> {
        let pinned = self.events.pin(None).await?;
        let state = pinned.table.snapshot().map_err(Self::failed("read the state of", self.events.url()))?;
        let schema = state.snapshot().arrow_schema();
        let store = self.events.log_store.object_store(None);
        let known = Arc::new(messages.clone());
        let looks = stream::iter(files.iter().filter(|file| !clean.contains_key(&file.path)))
            .map(async |file| {
                let looked = match self.look(&store, file, &schema, Arc::clone(&known)).await {
                    Err(error) if self.is_gone(file).await? => {
                        tracing::debug!(%error, "replaced while it was read");
                        Looked::default()
                    }
                    looked => looked?,
                };
                Ok::<_, EraseError>((file, looked))
            })
            .buffered(LOOKS_AT_ONCE);
        let looks: Vec<(&DataFile, Looked)> = looks.try_collect().await?;
        let mut concerned = Vec::new();
        for (file, looked) in looks {
            messages.extend(looked.messages);
            if looked.concerned {
                concerned.push(file.clone());
            } else {
                clean.insert(file.path.clone(), 0);
            }
        }
        if messages.is_empty() {
            return Ok(concerned);
        }
        let all = Arc::new(messages.clone());
        for file in files {
            let Some(checked) = clean.get_mut(&file.path) else { continue };
            if *checked == all.len() {
                continue;
            }
            let looked = self.look_for_messages(&store, file, &schema, Arc::clone(&all)).await;
            match looked {
                Ok(looked) if looked.concerned => {
                    clean.remove(&file.path);
                    concerned.push(file.clone());
                }
                Ok(_) => *checked = all.len(),
                Err(error) if self.is_gone(file).await? => {
                    tracing::debug!(%error, "replaced while it was read")
                }
                Err(error) => return Err(error),
            }
        }
        Ok(concerned)
    }

    /// Whether the newest version names the file no more.
    async fn is_gone(&self, file: &DataFile) -> Result<bool, EraseError> {
        let pinned = self.events.pin(None).await?;
        Ok(!self.events.files(&pinned)?.iter().any(|there| there.path == file.path))
    }
}
