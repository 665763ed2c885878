//! Erasing a person, or a tenant, from every table of the lake: rows rewritten under the lease, replaced files
//! removed at once, the log checkpointed and its old entries expired.
//!
//! - [`forms`]: an address in text, in the forms it takes · [`edit`](self::edit): what happens to a row
//! - [`keys`]: which rows went, for whoever has taken them elsewhere
//! - `look`: whether a file is concerned · `events`, `other`: the tables · `remove`: what is left behind, removed
//!
//! What is not here: the spool, the control store, and the order in which they come (the binary has that).

mod edit;
mod events;
pub mod forms;
pub mod keys;
mod look;
mod other;
mod remove;

use std::sync::Arc;

use deltalake::DeltaTableError;
use object_store::path::Path;
use object_store::{ObjectStore, PutMode, PutOptions, PutPayload};
use sendlake_control::clock::Timestamp;
use sendlake_control::id::Ids;
use serde::{Deserialize, Serialize};

pub use self::edit::Whose;
pub(crate) use self::edit::holds;
use crate::maintain::MaintainError;
use crate::maintain::lease::{Lease, LeaseError};
use crate::maintain::rewrite::RewriteSettings;
use crate::store::LakeStore;
use crate::table::{EventsTable, LakeError};

/// The folder of receipts, below the lake's.
const RECEIPTS: &str = "_receipts";
/// How long a lease is taken for; it is renewed while work goes on.
const LEASE_MS: i64 = 60_000;
/// How often somebody else's lease is looked at again, and how often in all: about two minutes.
const LEASE_PAUSE_MS: u64 = 500;
const LEASE_TRIES: usize = 240;

/// Why an erasure did not end. What it did so far stands; the next run goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error(transparent)]
    Maintain(#[from] MaintainError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(
        "maintenance by {holder} holds the lake's lease until {until}; nothing was rewritten: erase again after that"
    )]
    Busy { holder: String, until: Timestamp },
    #[error(
        "cannot look into {file}: {reason}; what it holds cannot be erased before it is restored or taken out of the \
         table (`sendlake lake verify` says which files are damaged)"
    )]
    Unreadable { file: String, reason: String },
    #[error("cannot {action} {place}: {source}; what was erased so far stands: erase again")]
    Storage { action: &'static str, place: String, source: object_store::Error },
    #[error(
        "the table at {table} changes faster than it can be rewritten; erase again when there is less to do"
    )]
    Unsteady { table: String },
    #[error(
        "everything is erased, but the receipt could not be kept at {place}: {source}; the audit log has it (`sendlake \
         audit`)"
    )]
    Receipt { place: String, source: object_store::Error },
}

/// An erasure over one lake.
pub struct Erase {
    pub store: LakeStore,
    pub events: Arc<EventsTable>,
    pub whose: Whose,
    pub settings: RewriteSettings,
    pub ids: Ids,
    /// Who takes the lease, in words.
    pub holder: String,
}

/// What was done to the lake.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LakeErased {
    pub tables: Vec<TableErased>,
    /// What may still hold something, and when it can go.
    pub left: Vec<String>,
}

/// What was done to one table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableErased {
    pub table: String,
    /// The version that holds nothing any more.
    pub version: u64,
    pub rows_erased: u64,
    /// Rows of others in which the address was replaced.
    pub rows_redacted: u64,
    /// Files that were written anew without it.
    pub files_replaced: u64,
    /// Files that no version names and that held it: those replaced now or earlier.
    pub files_removed: u64,
    pub log_entries_expired: u64,
}

impl LakeErased {
    /// Whether there was anything to erase.
    pub fn found_any(&self) -> bool {
        self.tables.iter().any(|table| {
            table.rows_erased + table.rows_redacted + table.files_replaced + table.files_removed > 0
        })
    }
}

impl Erase {
    /// Erases until a version of each table, pinned after this call, holds nothing. Events that are logged
    /// meanwhile are its caller's business: flush the outbox first, and suppress before that.
    ///
    /// Memory: that of the rewrite, and the ids of the erased messages. Every file is read once.
    pub async fn run(&self) -> Result<LakeErased, EraseError> {
        let mut done = LakeErased::default();
        let lease = self.lease().await?;
        let result = self.tables(&lease, &mut done).await;
        // The next maintainer need not wait for its end; if this fails, it does.
        if let Err(error) = lease.release().await {
            tracing::debug!(%error, "the lease runs out by itself");
        }
        result?;
        keys::note_end(&self.store, &self.ids).await.map_err(MaintainError::from)?;
        Ok(done)
    }

    async fn tables(&self, lease: &Lease, done: &mut LakeErased) -> Result<(), EraseError> {
        let (mut erased, messages) = self.erase_events(lease).await?;
        self.remove_files(EventsTable::NAME, &messages, &mut erased, &mut done.left).await?;
        done.tables.push(erased);
        let mut ignored = Vec::new();
        let names = crate::verify::names(&self.store, &mut ignored).await.map_err(|source| {
            EraseError::Storage { action: "list", place: self.store.url.to_string(), source }
        })?;
        for name in names.into_iter().filter(|name| name != EventsTable::NAME) {
            lease.keep().await?;
            let mut erased = self.erase_other(&name).await?;
            self.remove_files(&name, &messages, &mut erased, &mut done.left).await?;
            done.tables.push(erased);
        }
        Ok(())
    }

    async fn lease(&self) -> Result<Lease, EraseError> {
        let floor = self.events.rewrite_epoch().await?;
        for _ in 0..LEASE_TRIES {
            if let Some(lease) = Lease::take(&self.store, &self.holder, &self.ids, LEASE_MS, floor).await? {
                return Ok(lease);
            }
            tokio::time::sleep(std::time::Duration::from_millis(LEASE_PAUSE_MS)).await;
        }
        let record = Lease::newest(&self.store).await?;
        let (holder, until) =
            record.map_or_else(Default::default, |record| (record.holder, Some(record.expires_at)));
        Err(EraseError::Busy { holder, until: until.unwrap_or_else(|| self.ids.now()) })
    }

    fn failed(action: &'static str, table: &url::Url) -> impl FnOnce(DeltaTableError) -> EraseError {
        let table = table.clone();
        move |error| crate::table::failed(table, action)(error).into()
    }
}

/// Keeps a receipt beside the tables, under an id that no other has.
pub async fn keep_receipt(store: &LakeStore, id: &str, receipt: Vec<u8>) -> Result<(), EraseError> {
    let lake = Path::from_url_path(store.url.path()).unwrap_or_default();
    let path = lake.join(RECEIPTS).join(format!("{id}.json"));
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.root.put_opts(&path, PutPayload::from(receipt), options).await {
        // The answer to our own first try got lost.
        Ok(_) | Err(object_store::Error::AlreadyExists { .. }) => Ok(()),
        Err(source) => {
            Err(EraseError::Receipt { place: format!("{}{RECEIPTS}/{id}.json", store.url), source })
        }
    }
}

#[cfg(test)]
mod tests;
