//! The `events` table in the lake: made or opened once, refreshed cheaply, pinned for each reader.
//!
//! What is *not* here: writing rows ([`crate::append`]), hot rows ([`crate::read`]), compaction, retention.

pub mod changes;
pub mod digest;
mod fault;
mod known;
pub mod layout;
mod schema;
pub mod slice;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::CommitProperties;
use deltalake::kernel::{Action, StructType};
use deltalake::logstore::{LogStoreRef, StorageConfig, default_logstore, get_actions};
use deltalake::operations::create::CreateBuilder;
use deltalake::table::state::DeltaTableState;
use deltalake::{DeltaTable, DeltaTableError};
use tokio::sync::Mutex;
use url::Url;
use uuid::Uuid;

pub(crate) use self::schema::{check_columns, complete_columns};
use crate::event::EVENTS_SCHEMA;
use crate::outbox::OutboxError;
use crate::store::{LakeStore, StoreError, refusal};

/// Above this many new commits, their transactions are looked up when asked for instead of read one by one.
const COMMITS_READ_MAX: u64 = 64;

/// What can go wrong between this installation and its lake. Nothing is lost by any of these: rows stay in
/// the outbox until they are known to be in the table.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    #[error("cannot {action} the lake table at {table}: {}", fault::told(source))]
    Table { action: &'static str, table: Url, source: Box<DeltaTableError> },
    #[error(
        "the log of the lake table at {table} is damaged: {what}. Put that file back from a backup, or from the bucket's \
         earlier versions of it; nothing is lost meanwhile: events wait in the outbox, and no file of the table is changed"
    )]
    Damaged { table: Url, what: String },
    #[error(transparent)]
    Place(#[from] StoreError),
    #[error(
        "the lake table at {table} does not fit what this version writes, because of column {what}; it was \
         made by another version of sendlake, or by another program: use that version, or set storage.lake_url to a new \
         location"
    )]
    Column { table: Url, what: String },
    #[error("cannot encode events for the lake: {0}")]
    Encode(#[from] ArrowError),
    #[error("an event of spool {found} was offered as one of spool {expected}")]
    ForeignEvent { expected: Uuid, found: Uuid },
    #[error(
        "the lake table at {table} holds other events of spool {incarnation} than this one: they agree up to LSN \
         {shared_lsn}, the lake's end at {committed_lsn}. Two copies of one spool have been running. Start this one \
         again: what the lake lacks then goes there under a new incarnation. See to it that only one copy runs"
    )]
    Forked { table: Url, incarnation: Uuid, shared_lsn: u64, committed_lsn: u64 },
    #[error(
        "there is no lake at {table}, but this spool has handed {events} events over to one: is its volume mounted, is \
         storage.lake_url right, was its _delta_log/ moved away? To begin an empty lake there on purpose, start once with \
         `sendlake serve --new-lake`; what the other lake holds stays there"
    )]
    Elsewhere { table: Url, events: u64 },
    #[error("there is a lake at {table} already: start without --new-lake")]
    NotNew { table: Url },
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error(
        "cannot read {path} of the lake table at {table}: {reason}; restore the file from a copy of the lake's storage"
    )]
    Unreadable { table: Url, path: String, reason: String },
    #[error("events cannot be summed: {0}")]
    Sum(String),
    #[error(
        "the log of the rollup at {table} no longer says which events it holds ({reason}); while no server runs, remove \
         that folder: it is computed anew from all events"
    )]
    NoPositions { table: Url, reason: String },
    #[error(
        "others changed the lake table at {table} each of {tries} times; what they did stands, try again"
    )]
    Busy { table: Url, tries: usize },
    #[error("the work was cancelled: {0}")]
    Cancelled(#[from] tokio::task::JoinError),
}

impl LakeError {
    /// Whether trying again is of no use until somebody changes something: a start should end with it. Other errors
    /// may pass, and events wait in the outbox meanwhile.
    pub fn stays(&self) -> bool {
        match self {
            Self::Column { .. } | Self::Elsewhere { .. } | Self::NotNew { .. } => true,
            Self::Place(error) => !matches!(error, StoreError::Away { .. }),
            Self::Table { source, .. } => refusal(source.as_ref()).is_some(),
            _ => false,
        }
    }
}

/// The `events` table. One per process is enough: it is shared by the writer and all readers.
pub struct EventsTable {
    pub(crate) log_store: LogStoreRef,
    store: LakeStore,
    /// The columns that it is given when it lacks them.
    schema: SchemaRef,
    /// Whether it may be made, and given columns.
    for_writing: bool,
    url: Url,
    /// `None` until the table was opened, or made, by its first use.
    latest: Mutex<Option<Latest>>,
    /// Appends of one process take turns; those of several processes meet in Delta's log.
    pub(crate) appending: Mutex<()>,
}

/// The newest version seen, and what it says about each spool.
struct Latest {
    table: DeltaTable,
    /// Per Delta application id (a spool's incarnation): the LSN it has committed, as far as it was looked
    /// up or seen in a commit.
    committed: HashMap<String, u64>,
}

/// One version of the table, and how far one spool had come in it.
#[derive(Clone)]
pub struct Pinned {
    pub table: DeltaTable,
    pub version: u64,
    /// Every event of the asked spool at or below this LSN is in this version; 0 when there is none.
    pub committed_lsn: u64,
}

impl EventsTable {
    /// The table's name, which is its folder below the lake's.
    pub const NAME: &str = "events";

    /// Opens the table for writing: makes it when it is not there, and adds columns that it lacks. Safe to call from
    /// several processes at once. A bucket is probed first ([`LakeStore::probe`]).
    pub async fn open(store: &LakeStore) -> Result<Self, LakeError> {
        Self::open_as(store, EVENTS_SCHEMA.clone()).await
    }

    /// The same for a given list of columns.
    async fn open_as(store: &LakeStore, schema: SchemaRef) -> Result<Self, LakeError> {
        let table = Self::lazy_as(store, schema, true)?;
        table.pin(None).await?;
        Ok(table)
    }

    /// The table without a request: its first use opens it as [`EventsTable::open`] does. So a node can start while
    /// its lake is away.
    pub fn lazy(store: &LakeStore) -> Result<Self, LakeError> {
        Self::lazy_as(store, EVENTS_SCHEMA.clone(), true)
    }

    fn lazy_as(store: &LakeStore, schema: SchemaRef, for_writing: bool) -> Result<Self, LakeError> {
        let log_store = log_store(store, Self::NAME)?;
        let url = log_store.root_url().clone();
        let (store, latest) = (store.clone(), Mutex::new(None));
        Ok(Self { log_store, store, schema, for_writing, url, latest, appending: Mutex::new(()) })
    }

    /// Opens the table if it is there, for commands that only read.
    pub async fn open_existing(store: &LakeStore) -> Result<Option<Self>, LakeError> {
        let table = Self::lazy_as(store, EVENTS_SCHEMA.clone(), false)?;
        if !table.exists().await? {
            return Ok(None);
        }
        table.pin(None).await?;
        Ok(Some(table))
    }

    /// Whether the table was ever made.
    pub async fn exists(&self) -> Result<bool, LakeError> {
        exists(&self.log_store).await
    }

    async fn load(&self) -> Result<Latest, LakeError> {
        if self.for_writing {
            self.store.probe().await?;
            if !self.exists().await? {
                match create(&self.log_store).await {
                    Ok(_) => tracing::info!(table = %self.url, "made the events table"),
                    // Somebody else may have been first; then theirs is the table.
                    Err(_) if self.exists().await? => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let mut table = DeltaTable::new(Arc::clone(&self.log_store));
        load_table(&mut table).await?;
        check_columns(&self.url, &table, &EVENTS_SCHEMA)?;
        if self.for_writing {
            complete_columns(&self.log_store, &mut table, &self.schema).await?;
        }
        Ok(Latest { table, committed: HashMap::new() })
    }

    /// Where the table lies; every Delta reader can open it there.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The highest LSN that the newest version holds for a spool; 0 when it holds none of its events.
    pub async fn committed_lsn(&self, incarnation: Uuid) -> Result<u64, LakeError> {
        Ok(self.pin(Some(incarnation)).await?.committed_lsn)
    }

    /// The newest version now: what was committed before this call, by any process, is in it.
    ///
    /// With an `incarnation` also how far that spool had come in this version. Costs one listing of the new
    /// part of the log, and reading what is new in it.
    pub async fn pin(&self, incarnation: Option<Uuid>) -> Result<Pinned, LakeError> {
        let (mut pinned, committed) = self.pin_with(incarnation.as_slice()).await?;
        pinned.committed_lsn = committed.into_values().next().unwrap_or(0);
        Ok(pinned)
    }

    /// The same, with how far several spools had come. `committed_lsn` of the version is left at 0.
    pub(crate) async fn pin_with(
        &self,
        incarnations: &[Uuid],
    ) -> Result<(Pinned, HashMap<Uuid, u64>), LakeError> {
        let mut guard = self.latest.lock().await;
        let latest = match guard.as_mut() {
            None => guard.insert(self.load().await?),
            Some(latest) => {
                // Taken out while the table moves: should any step fail, nothing stale is left to be believed.
                let known = std::mem::take(&mut latest.committed);
                let before = version(&latest.table);
                if let Err(error) = latest.table.update_state().await {
                    return Err(fault::diagnosed(&self.log_store, "refresh", error).await);
                }
                latest.committed = self.committed_since(known, before, version(&latest.table)).await?;
                latest
            }
        };
        let mut committed = HashMap::new();
        for incarnation in incarnations {
            committed.insert(*incarnation, self.committed_in(latest, *incarnation).await?);
        }
        let pinned =
            Pinned { table: latest.table.clone(), version: version(&latest.table), committed_lsn: 0 };
        Ok((pinned, committed))
    }

    /// Takes over the state that a commit of this process produced, so that readers see it without a listing.
    pub(crate) async fn advance(&self, state: DeltaTableState) -> Result<(), LakeError> {
        let mut guard = self.latest.lock().await;
        let Some(latest) = guard.as_mut() else { return Ok(()) };
        let before = version(&latest.table);
        if state.version() <= before {
            return Ok(());
        }
        let known = std::mem::take(&mut latest.committed);
        latest.table.state = Some(state);
        latest.committed = self.committed_since(known, before, version(&latest.table)).await?;
        Ok(())
    }

    /// What is known per spool at version `before`, carried on to version `after`.
    async fn committed_since(
        &self,
        mut known: HashMap<String, u64>,
        before: u64,
        after: u64,
    ) -> Result<HashMap<String, u64>, LakeError> {
        if after.saturating_sub(before) > COMMITS_READ_MAX {
            return Ok(HashMap::new());
        }
        for version in before.saturating_add(1)..=after {
            let entry =
                self.log_store.read_commit_entry(version).await.map_err(self.failed("read a commit of"))?;
            // Cleaned up already: ask the table's state instead.
            let Some(entry) = entry else { return Ok(HashMap::new()) };
            for action in get_actions(version, &entry).map_err(self.failed("read a commit of"))? {
                if let Action::Txn(txn) = action {
                    known.insert(txn.app_id, txn.version.try_into().unwrap_or(0));
                }
            }
        }
        Ok(known)
    }

    async fn committed_in(&self, latest: &mut Latest, incarnation: Uuid) -> Result<u64, LakeError> {
        let app_id = incarnation.to_string();
        if let Some(lsn) = latest.committed.get(&app_id) {
            return Ok(*lsn);
        }
        let state = latest.table.snapshot().map_err(self.failed("read the state of"))?;
        let lsn = state
            .transaction_version(self.log_store.as_ref(), &app_id)
            .await
            .map_err(self.failed("read the transactions of"))?
            .and_then(|lsn| u64::try_from(lsn).ok())
            .unwrap_or(0);
        latest.committed.insert(app_id, lsn);
        Ok(lsn)
    }

    pub(crate) fn failed(&self, action: &'static str) -> impl FnOnce(DeltaTableError) -> LakeError {
        failed(self.url.clone(), action)
    }
}

impl fmt::Debug for EventsTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EventsTable({})", self.url)
    }
}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({} at {}, lsn {})", self.table.table_url(), self.version, self.committed_lsn)
    }
}

pub(crate) fn version(table: &DeltaTable) -> u64 {
    table.version().unwrap_or(0)
}

pub(crate) fn failed(table: Url, action: &'static str) -> impl FnOnce(DeltaTableError) -> LakeError {
    move |error| LakeError::Table { action, table, source: Box::new(error) }
}

/// A log over our own object store, for any scheme. Delta's registry of schemes knows only those whose
/// crates register themselves, and would open its own, unsynced, local store.
pub(crate) fn log_store(store: &LakeStore, name: &str) -> Result<LogStoreRef, LakeError> {
    let url = store.table_url(name);
    let config = StorageConfig::default();
    let prefixed =
        config.decorate_store(Arc::clone(&store.root), &url).map_err(failed(url.clone(), "find"))?;
    Ok(default_logstore(Arc::from(prefixed), Arc::clone(&store.root), &url, &config))
}

pub(crate) async fn exists(log_store: &LogStoreRef) -> Result<bool, LakeError> {
    log_store.is_delta_table_location().await.map_err(failed(log_store.root_url().clone(), "look for"))
}

/// Reads the newest version of a table, or says what is wrong with its log.
pub(crate) async fn load_table(table: &mut DeltaTable) -> Result<(), LakeError> {
    let log_store = table.log_store();
    if let Err(error) = table.load().await {
        return Err(fault::diagnosed(&log_store, "open", error).await);
    }
    fault::refuse_empty_entries(&log_store, version(table)).await
}

async fn create(log_store: &LogStoreRef) -> Result<DeltaTable, LakeError> {
    let schema: StructType = EVENTS_SCHEMA.as_ref().try_into_kernel()?;
    CreateBuilder::new()
        .with_log_store(Arc::clone(log_store))
        .with_table_name(EventsTable::NAME)
        .with_comment("Every fact about every message: one row per event, never updated")
        .with_columns(schema.fields().cloned())
        .with_partition_columns([layout::PARTITION_COLUMN])
        .with_configuration(layout::configuration().into_iter().map(|(key, value)| (key, Some(value))))
        // One try at version 0. A second would add our metadata to the table of whoever was faster.
        .with_commit_properties(CommitProperties::default().with_max_retries(0))
        .await
        .map_err(failed(log_store.root_url().clone(), "make"))
}

#[cfg(test)]
mod tests;
