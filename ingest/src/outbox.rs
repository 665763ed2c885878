//! The seam between a spool, which logs events, and what reads them: the lake's writer and hot queries.

use std::sync::Arc;

use async_trait::async_trait;
use uuid::Uuid;

use crate::event::LoggedEvent;
use crate::spill::Spill;

/// A store of events in commit order that have not all reached the lake yet.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// The identity of this log. Its numbers mean nothing under another one.
    fn incarnation(&self) -> Uuid;

    /// Up to `max_rows` events with an LSN above `after_lsn`, in LSN order, as of one moment.
    /// Blocking (it reads from disk); call it from a blocking thread where that matters.
    fn read(&self, after_lsn: u64, max_rows: usize) -> Result<Vec<LoggedEvent>, OutboxError>;

    /// Resolves when there are events above `after_lsn`.
    async fn wait(&self, after_lsn: u64);

    /// The LSN of the newest event ever logged here, trimmed or not; 0 when there is none, `None` when the
    /// store cannot tell. It is what shows that a spool was restored from an older copy.
    fn last_lsn(&self) -> Option<u64> {
        None
    }

    /// The number that this log began with under its identity; `None` when the store cannot tell. Numbers from here on
    /// that are neither here nor in the lake are lost.
    fn first_lsn(&self) -> Option<u64> {
        None
    }

    /// Where events go that wait for longer than this store should hold them; `None` where there is no such place.
    fn spill(&self) -> Option<&Arc<Spill>> {
        None
    }

    /// Drops every event at or below `through_lsn`: they are durable in the lake or among the spilled ones. Other
    /// writes get their turn meanwhile, however many events there are.
    async fn trim(&self, through_lsn: u64) -> Result<(), OutboxError>;
}

/// How many events of this log are neither in its store nor in its spilled files: they went to a lake. 0 when the store
/// cannot tell. Blocking, as [`Outbox::read`] is.
pub fn handed_over(outbox: &dyn Outbox) -> Result<u64, OutboxError> {
    let (Some(first_lsn), Some(last_lsn)) = (outbox.first_lsn(), outbox.last_lsn()) else { return Ok(0) };
    // Rows first: those that leave the store in between are in a file.
    let rows = outbox.read(0, 1)?;
    let files = outbox.spill().map_or(Ok(Vec::new()), |spill| spill.files());
    let files = files.map_err(|error| OutboxError(error.to_string()))?;
    let own = files.iter().filter(|file| file.incarnation == outbox.incarnation());
    let oldest = rows.first().map(|row| row.lsn).into_iter().chain(own.map(|file| file.first_lsn)).min();
    Ok(oldest.unwrap_or(last_lsn + 1).saturating_sub(first_lsn))
}

/// The outbox's store failed, or holds what cannot be read. The text says what and where.
#[derive(Debug, thiserror::Error)]
#[error("outbox: {0}")]
pub struct OutboxError(pub String);
