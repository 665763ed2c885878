//! The events of this node's spool for many readers at once: the newest in memory, older ones from the spool's store, and
//! what has left that from the lake. Nothing is kept for a reader that is behind: the lake is the queue.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;
use sendlake_control::clock::Timestamp;
use sendlake_control::endpoint::replay::ReplaySelection;
use sendlake_control::id::TenantId;
use sendlake_ingest::event::LoggedEvent;
use sendlake_ingest::outbox::Outbox;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Events that memory holds for readers: some seconds' worth.
const RECENT_EVENTS_MAX: usize = 20_000;
/// And no longer than this: a person may be erased meanwhile.
const RECENT_MAX: Duration = Duration::from_secs(60);
/// Events in one reading of the store.
const PAGE_EVENTS: usize = 2_000;
/// Log numbers that one question to the lake covers.
const SLICE_LSNS: u64 = 500_000;
/// Events in one answer of the lake.
const SLICE_EVENTS: usize = 1_000;
/// Readers that catch up at once.
const CATCHING_UP_MAX: usize = 2;
/// A new endpoint begins that many numbers back, and takes what was recorded since it was made: it may have been made a
/// moment before this node heard of it.
const BEGIN_BACK: u64 = 20_000;

/// The log cannot be read now.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// Where a replay has got in what the lake holds: the last event that was settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub recorded_at: Timestamp,
    pub lsn: u64,
    pub event_id: Uuid,
}

/// The lake, asked for one tenant's events: those in it and those on their way into it.
#[async_trait]
pub trait Lake: Send + Sync {
    /// Events of one spool with numbers above `after_lsn` and up to `through_lsn`, in order, at most `max`.
    async fn slice(
        &self,
        tenant: &TenantId,
        incarnation: Uuid,
        after_lsn: u64,
        through_lsn: u64,
        max: usize,
    ) -> Result<Vec<LoggedEvent>, Unreadable>;

    /// The lowest number above `after_lsn` that is there of one spool, whoever's; `None` when there is none.
    async fn oldest_lsn(&self, incarnation: Uuid, after_lsn: u64) -> Result<Option<u64>, Unreadable>;

    /// The events with these numbers, of those that are there.
    async fn by_lsn(
        &self,
        tenant: &TenantId,
        incarnation: Uuid,
        lsns: &[u64],
    ) -> Result<Vec<LoggedEvent>, Unreadable>;

    /// The selected events after a place, in the order of places, at most `max`.
    async fn selected(
        &self,
        tenant: &TenantId,
        selection: &ReplaySelection,
        after: Option<Place>,
        max: usize,
    ) -> Result<Vec<LoggedEvent>, Unreadable>;
}

/// What came after a number.
#[derive(Debug, Default)]
pub struct Batch {
    /// Of the tenant that was asked for, in order.
    pub events: Vec<Arc<LoggedEvent>>,
    /// Everything up to here was looked at.
    pub through_lsn: u64,
    /// When the last of all these was recorded, where that is known.
    pub through_at: Option<Timestamp>,
    /// Numbers that the lake does not remember any more.
    pub skipped: u64,
}

/// Events that were read together.
struct Page {
    after_lsn: u64,
    through_lsn: u64,
    through_at: Option<Timestamp>,
    by_tenant: HashMap<TenantId, Vec<Arc<LoggedEvent>>>,
    events: usize,
    read_at: Instant,
}

/// The log of this node, shared by all endpoints.
pub struct EventLog {
    outbox: Arc<dyn Outbox>,
    lake: Arc<dyn Lake>,
    recent: RwLock<VecDeque<Arc<Page>>>,
    /// The last number that is in memory, or was.
    tail: watch::Sender<u64>,
    catching_up: Semaphore,
}

impl EventLog {
    pub fn new(outbox: Arc<dyn Outbox>, lake: Arc<dyn Lake>) -> Self {
        let tail = watch::Sender::new(outbox.last_lsn().unwrap_or(0));
        let catching_up = Semaphore::new(CATCHING_UP_MAX);
        Self { outbox, lake, recent: RwLock::default(), tail, catching_up }
    }

    pub fn incarnation(&self) -> Uuid {
        self.outbox.incarnation()
    }

    pub fn lake(&self) -> &Arc<dyn Lake> {
        &self.lake
    }

    /// Where an endpoint begins that was never here.
    pub fn beginning(&self) -> u64 {
        self.tail.borrow().saturating_sub(BEGIN_BACK)
    }

    /// Takes the log's end, as it is now, for where [`EventLog::follow`] begins.
    pub fn begin(&self) {
        self.recent.write().clear();
        self.tail.send_replace(self.outbox.last_lsn().unwrap_or(0));
    }

    /// Follows the spool's log until `stop`. One at a time.
    pub async fn follow(&self, stop: CancellationToken) {
        let mut at = *self.tail.borrow();
        while stop.run_until_cancelled(self.outbox.wait(at)).await.is_some() {
            match self.read_store(at, PAGE_EVENTS).await {
                Ok(rows) => at = self.remember(at, rows),
                Err(error) => {
                    tracing::warn!(%error, "webhooks cannot read new events; tried again");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }

    fn remember(&self, at: u64, rows: Vec<LoggedEvent>) -> u64 {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
            // They came and went: readers find them in the lake.
            let last_lsn = self.outbox.last_lsn().unwrap_or(at);
            self.recent.write().clear();
            self.tail.send_replace(last_lsn);
            return last_lsn;
        };
        let (first_lsn, through_lsn) = (first.lsn, last.lsn);
        let mut page = Page {
            after_lsn: at,
            through_lsn,
            through_at: Some(last.event.recorded_at),
            by_tenant: HashMap::new(),
            events: rows.len(),
            read_at: Instant::now(),
        };
        for row in rows {
            page.by_tenant.entry(row.event.tenant_id.clone()).or_default().push(Arc::new(row));
        }
        let mut recent = self.recent.write();
        if first_lsn != at + 1 {
            // What is between has left the store already.
            recent.clear();
            page.after_lsn = first_lsn - 1;
        }
        recent.push_back(Arc::new(page));
        let mut events: usize = recent.iter().map(|page| page.events).sum();
        while let Some(oldest) = recent.front()
            && (events > RECENT_EVENTS_MAX || oldest.read_at.elapsed() > RECENT_MAX)
            && recent.len() > 1
        {
            events -= recent.pop_front().map_or(0, |page| page.events);
        }
        drop(recent);
        self.tail.send_replace(through_lsn);
        through_lsn
    }

    async fn read_store(&self, after_lsn: u64, max: usize) -> Result<Vec<LoggedEvent>, Unreadable> {
        let outbox = Arc::clone(&self.outbox);
        let read = tokio::task::spawn_blocking(move || outbox.read(after_lsn, max)).await;
        read.map_err(|error| Unreadable(error.to_string()))?.map_err(|error| Unreadable(error.to_string()))
    }

    /// What one tenant has above a number: waits until there is something, for whichever tenant.
    pub async fn after(&self, tenant: &TenantId, after_lsn: u64) -> Result<Batch, Unreadable> {
        let mut tail = self.tail.subscribe();
        if tail.wait_for(|lsn| *lsn > after_lsn).await.is_err() {
            std::future::pending::<()>().await;
        }
        match self.in_memory(tenant, after_lsn) {
            Some(batch) => Ok(batch),
            None => self.catch_up(tenant, after_lsn).await,
        }
    }

    /// `None` where memory does not reach back so far.
    fn in_memory(&self, tenant: &TenantId, after_lsn: u64) -> Option<Batch> {
        let recent = self.recent.read();
        // pages follow each other: those that end above it are the last ones
        let first = recent.partition_point(|page| page.through_lsn <= after_lsn);
        let oldest = recent.get(first)?;
        if oldest.after_lsn > after_lsn || oldest.read_at.elapsed() > RECENT_MAX {
            return None;
        }
        let mut batch = Batch { through_lsn: after_lsn, ..Batch::default() };
        for page in recent.range(first..) {
            let events = page.by_tenant.get(tenant).into_iter().flatten();
            batch.events.extend(events.filter(|event| event.lsn > after_lsn).cloned());
            batch.through_lsn = page.through_lsn;
            batch.through_at = page.through_at;
            if batch.events.len() >= PAGE_EVENTS {
                break;
            }
        }
        Some(batch)
    }

    async fn catch_up(&self, tenant: &TenantId, after_lsn: u64) -> Result<Batch, Unreadable> {
        let _turn = self.catching_up.acquire().await.map_err(|error| Unreadable(error.to_string()))?;
        let tail = *self.tail.borrow();
        // The store first: what is gone from there is in the lake, or in files that the lake's engine reads with it.
        let rows = self.read_store(after_lsn, PAGE_EVENTS).await?;
        if let Some(last) = rows.last()
            && rows.first().is_some_and(|first| first.lsn == after_lsn + 1)
        {
            let (through_lsn, through_at) = (last.lsn, Some(last.event.recorded_at));
            let own = rows.into_iter().filter(|row| row.event.tenant_id == *tenant).map(Arc::new).collect();
            return Ok(Batch { events: own, through_lsn, through_at, skipped: 0 });
        }
        let stored = rows.first().map_or(tail, |first| first.lsn - 1);
        let through_lsn = stored.min(after_lsn.saturating_add(SLICE_LSNS));
        let incarnation = self.incarnation();
        let found = self.lake.slice(tenant, incarnation, after_lsn, through_lsn, SLICE_EVENTS).await?;
        let skipped = match found.first() {
            Some(first) if first.lsn == after_lsn + 1 => 0,
            _ => {
                let oldest = self.lake.oldest_lsn(incarnation, after_lsn).await?;
                // Numbers above the tail are not looked at yet.
                oldest.unwrap_or(through_lsn + 1).min(tail + 1) - after_lsn - 1
            }
        };
        let is_cut = found.len() >= SLICE_EVENTS;
        let last = found.last().map(|last| (last.lsn, last.event.recorded_at));
        let through_lsn = match last {
            Some((last_lsn, _)) if is_cut => last_lsn,
            // whatever was skipped needs no second look
            _ => through_lsn.max(after_lsn + skipped),
        };
        Ok(Batch {
            events: found.into_iter().map(Arc::new).collect(),
            through_lsn,
            through_at: last.map(|(_, at)| at),
            skipped,
        })
    }

    /// One tenant's events with these numbers, of those that are still there; an erased one is not.
    pub async fn by_lsn(&self, tenant: &TenantId, lsns: &[u64]) -> Result<Vec<LoggedEvent>, Unreadable> {
        let (outbox, wanted) = (Arc::clone(&self.outbox), lsns.to_vec());
        let read = move || -> Result<Vec<LoggedEvent>, Unreadable> {
            let mut found = Vec::new();
            for lsn in wanted {
                let rows = outbox.read(lsn - 1, 1).map_err(|error| Unreadable(error.to_string()))?;
                found.extend(rows.into_iter().filter(|row| row.lsn == lsn));
            }
            Ok(found)
        };
        let read = tokio::task::spawn_blocking(read).await;
        let mut found = read.map_err(|error| Unreadable(error.to_string()))??;
        let missing: Vec<u64> =
            lsns.iter().copied().filter(|lsn| found.iter().all(|row| row.lsn != *lsn)).collect();
        if !missing.is_empty() {
            found.extend(self.lake.by_lsn(tenant, self.incarnation(), &missing).await?);
        }
        found.retain(|row| row.event.tenant_id == *tenant);
        Ok(found)
    }
}
