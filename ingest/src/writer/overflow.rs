//! Keeps the outbox small while the lake is behind: moves its oldest rows to files, and removes files that are over.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{LakeStatus, LakeWriterSettings};
use crate::outbox::{Outbox, OutboxError};
use crate::spill::{Spill, SpillError};

/// Rows of one file: what is in memory at once, and what one trim takes.
const FILE_ROWS_MAX: u64 = 50_000;
/// A disk that is full now may have room later.
const RETRY_AFTER: Duration = Duration::from_secs(1);

pub(super) struct Overflow {
    outbox: Arc<dyn Outbox>,
    spill_rows: u64,
    grace: Duration,
    status: watch::Receiver<LakeStatus>,
}

impl Overflow {
    pub(super) fn new(
        outbox: Arc<dyn Outbox>,
        settings: &LakeWriterSettings,
        status: watch::Receiver<LakeStatus>,
    ) -> Self {
        let grace = Duration::from_millis(settings.spill_grace_ms);
        Self { outbox, spill_rows: settings.spill_rows.max(1), grace, status }
    }

    /// Runs as long as it is asked to.
    pub(super) async fn run(mut self) {
        let Some(spill) = self.outbox.spill().map(Arc::clone) else { return std::future::pending().await };
        let mut failing = false;
        loop {
            match self.relieve(&spill).await {
                Ok(after_lsn) => {
                    failing = false;
                    self.wait(after_lsn, &spill).await;
                }
                Err(error) => {
                    if !failing {
                        tracing::warn!(%error, "waiting events cannot be moved out of the spool; tried again");
                    }
                    failing = true;
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    /// Until the outbox holds too much again. Meanwhile files go whose time is over.
    async fn wait(&mut self, after_lsn: u64, spill: &Spill) {
        tokio::select! {
            () = self.outbox.wait(after_lsn.saturating_add(self.spill_rows)) => {}
            // The lake has more: what the outbox holds begins later. The sender lives as long as the writer.
            _ = self.status.changed() => {}
            () = tokio::time::sleep(self.grace.max(RETRY_AFTER)) => {}
        }
        spill.sweep(self.grace).await;
    }

    /// Moves rows until the outbox holds half of what it may. Returns the LSN that its rows begin after.
    async fn relieve(&mut self, spill: &Arc<Spill>) -> Result<u64, OutboxError> {
        let failed = |error: SpillError| OutboxError(error.to_string());
        let committed_lsn = self.status.borrow_and_update().lsn;
        let mut files = spill.files().map_err(failed)?;
        files.retain(|file| file.incarnation == self.outbox.incarnation());
        let spilled_lsn = files.iter().map(|file| file.last_lsn).max().unwrap_or(0);
        // The lake took these rows from the outbox while they were being written here.
        files.retain(|file| file.last_lsn <= committed_lsn);
        spill.retire_all(&files).await.map_err(failed)?;
        let mut after_lsn = spilled_lsn.max(committed_lsn);
        let last_lsn = || self.outbox.last_lsn().unwrap_or(0);
        if last_lsn().saturating_sub(after_lsn) > self.spill_rows {
            // Numbers say so, rows count: what was trimmed before this start leaves a long way from nought.
            let outbox = Arc::clone(&self.outbox);
            let first = run(move || outbox.read(after_lsn, 1)).await?;
            after_lsn = first.first().map_or_else(last_lsn, |row| row.lsn.saturating_sub(1));
        }
        if last_lsn().saturating_sub(after_lsn) <= self.spill_rows {
            return Ok(after_lsn);
        }
        // A stop between a file and its trim left these in both places.
        self.outbox.trim(spilled_lsn).await?;
        let file_rows = FILE_ROWS_MAX.min(self.spill_rows.div_ceil(2));
        while last_lsn().saturating_sub(after_lsn) > self.spill_rows / 2 {
            let (outbox, spill) = (Arc::clone(&self.outbox), Arc::clone(spill));
            let rows_max = usize::try_from(file_rows).unwrap_or(usize::MAX);
            let write = move || {
                let rows = outbox.read(after_lsn, rows_max)?;
                spill.write(&rows).map_err(|error| OutboxError(error.to_string()))
            };
            let Some(file) = run(write).await? else { break };
            self.outbox.trim(file.last_lsn).await?;
            after_lsn = file.last_lsn;
            tracing::info!(
                first_lsn = file.first_lsn,
                last_lsn = file.last_lsn,
                waiting_rows = spill_rows(&self.outbox),
                "moved waiting events to a file"
            );
        }
        Ok(after_lsn)
    }
}

async fn run<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, OutboxError> + Send + 'static,
) -> Result<T, OutboxError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| OutboxError(format!("the work was cancelled: {error}")))?
}

fn spill_rows(outbox: &Arc<dyn Outbox>) -> u64 {
    outbox.spill().map_or(0, |spill| spill.waiting_rows())
}
