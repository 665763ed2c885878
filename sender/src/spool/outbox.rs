//! The spool as the lake sees it: events in commit order, dropped once they are durable there.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use sendlake_ingest::event::LoggedEvent;
use sendlake_ingest::outbox::{Outbox, OutboxError};
use sendlake_ingest::spill::Spill;
use uuid::Uuid;

use super::entry::decode_event;
use super::read::{SpoolReader, open_table};
use super::table::OUTBOX;
use super::{Spool, SpoolError};

/// Rows dropped in one turn of the writing thread: mail waits no longer than that for its own.
const TRIM_ROWS_MAX: u64 = 5_000;

impl SpoolReader {
    /// Up to `max_rows` events above `after_lsn`, in order, as of one moment.
    pub fn events(&self, after_lsn: u64, max_rows: usize) -> Result<Vec<LoggedEvent>, SpoolError> {
        let Some(outbox) = open_table(&self.begin()?, OUTBOX)? else { return Ok(Vec::new()) };
        outbox
            .range(after_lsn.saturating_add(1)..)?
            .take(max_rows)
            .map(|row| {
                let (lsn, sealed) = row?;
                Ok(LoggedEvent {
                    incarnation: self.incarnation(),
                    node_id: Arc::clone(self.node_id()),
                    lsn: lsn.value(),
                    event: decode_event(self.sealer(), sealed.value())?,
                })
            })
            .collect()
    }
}

fn failed(error: SpoolError) -> OutboxError {
    OutboxError(error.to_string())
}

#[async_trait]
impl Outbox for Spool {
    fn incarnation(&self) -> Uuid {
        self.reader().incarnation()
    }

    fn read(&self, after_lsn: u64, max_rows: usize) -> Result<Vec<LoggedEvent>, OutboxError> {
        self.reader().events(after_lsn, max_rows).map_err(failed)
    }

    async fn wait(&self, after_lsn: u64) {
        let mut last_lsn = self.writer.last_lsn();
        if last_lsn.wait_for(|lsn| *lsn > after_lsn).await.is_err() {
            // the writer has stopped: nothing more will come
            std::future::pending::<()>().await;
        }
    }

    fn last_lsn(&self) -> Option<u64> {
        Some(*self.writer.last_lsn().borrow())
    }

    fn first_lsn(&self) -> Option<u64> {
        self.reader().first_lsn().ok().flatten()
    }

    fn spill(&self) -> Option<&Arc<Spill>> {
        Some(self.reader().spill())
    }

    async fn trim(&self, through_lsn: u64) -> Result<(), OutboxError> {
        let mut trimmed_lsn = 0;
        while trimmed_lsn < through_lsn {
            let trimmed = Arc::clone(&self.outbox_trimmed);
            let step = self.writer.write(
                move |tables| tables.trim(through_lsn, TRIM_ROWS_MAX),
                move |trimmed_lsn| {
                    trimmed.fetch_max(*trimmed_lsn, Ordering::Relaxed);
                },
            );
            trimmed_lsn = step.await.map_err(failed)?;
        }
        Ok(())
    }
}

/// A reader beside a running server: sees its events, never waits for them and never trims.
#[async_trait]
impl Outbox for SpoolReader {
    fn incarnation(&self) -> Uuid {
        SpoolReader::incarnation(self)
    }

    fn read(&self, after_lsn: u64, max_rows: usize) -> Result<Vec<LoggedEvent>, OutboxError> {
        self.events(after_lsn, max_rows).map_err(failed)
    }

    async fn wait(&self, _after_lsn: u64) {
        std::future::pending::<()>().await;
    }

    fn last_lsn(&self) -> Option<u64> {
        SpoolReader::last_lsn(self).ok()
    }

    fn first_lsn(&self) -> Option<u64> {
        SpoolReader::first_lsn(self).ok().flatten()
    }

    fn spill(&self) -> Option<&Arc<Spill>> {
        Some(SpoolReader::spill(self))
    }

    async fn trim(&self, _through_lsn: u64) -> Result<(), OutboxError> {
        Err(OutboxError("this process only reads the spool; the server trims it".into()))
    }
}
