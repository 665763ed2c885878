//! The loop that carries the outbox to the lake: wait, gather, append, trim; when storage fails, keep the rows
//! and try again.

mod drain;
mod overflow;

use std::sync::Arc;
use std::time::Duration;

use sendlake_control::clock::{Clock, Timestamp};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use self::drain::Step;
use self::overflow::Overflow;
use crate::outbox::Outbox;
use crate::table::{EventsTable, LakeError};

/// The first pause after a failure; it doubles up to [`LakeWriterSettings::retry_ms_max`].
const RETRY_MS_FIRST: u64 = 250;

/// How often rows become a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LakeWriterSettings {
    /// The longest that an event waits for company before it is committed.
    pub commit_interval_ms: u64,
    /// The most rows of one commit; this many waiting rows are not kept waiting.
    pub commit_rows_max: usize,
    /// The longest pause between tries while storage fails.
    pub retry_ms_max: u64,
    /// Above this many rows waiting in the outbox the oldest go to files beside it, where it has a place for them.
    pub spill_rows: u64,
    /// How long a spilled file stays after the lake has its rows: longer than the longest query.
    pub spill_grace_ms: u64,
}

impl Default for LakeWriterSettings {
    fn default() -> Self {
        Self {
            commit_interval_ms: 10_000,
            commit_rows_max: 50_000,
            retry_ms_max: 30_000,
            spill_rows: 200_000,
            spill_grace_ms: 120_000,
        }
    }
}

/// How far the lake is, for health checks and `lake status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LakeStatus {
    /// This spool's events up to here are durable in the lake.
    pub lsn: u64,
    /// The table's version after this writer's last commit; `None` before the first.
    pub version: Option<u64>,
    pub last_commit_at: Option<Timestamp>,
    /// Why the lake cannot be written now, since when; `None` while all is well. Events wait in the outbox.
    pub last_error: Option<LakeFault>,
}

/// A failure that the writer is retrying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LakeFault {
    /// When it first failed; later failures of the same outage do not move it.
    pub since: Timestamp,
    pub reason: String,
}

/// Why the writer gave up. Anything that may pass is retried instead.
#[derive(Debug, thiserror::Error)]
pub enum LakeWriterError {
    #[error(
        "the lake table at {table} holds events of spool {incarnation} up to LSN {committed_lsn}, but the spool \
         ends at {last_lsn}: it was restored from an older copy, or another process writes under its identity. \
         Open the spool under a new incarnation; under the old one its next events would be taken for old ones"
    )]
    SpoolBehindLake { table: Url, incarnation: Uuid, committed_lsn: u64, last_lsn: u64 },
    /// [`LakeError::Forked`].
    #[error("{0}")]
    Forked(LakeError),
}

/// Why a flush did not end with everything in the lake. The events are safe in the outbox.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlushError {
    #[error("the lake could not be written, and will be tried again: {0}")]
    Failed(String),
    #[error("the lake's writer has stopped")]
    Stopped,
}

/// What others hold of a running writer.
#[derive(Clone, Debug)]
pub struct LakeHandle {
    status: watch::Receiver<LakeStatus>,
    flushes: mpsc::Sender<Flush>,
}

type Flush = oneshot::Sender<Result<LakeStatus, FlushError>>;

impl LakeHandle {
    /// Commits at once. Resolves when every event logged before this call is durable in the lake, or when
    /// a try failed.
    pub async fn flush(&self) -> Result<LakeStatus, FlushError> {
        let (answer, answered) = oneshot::channel();
        self.flushes.send(answer).await.map_err(|_| FlushError::Stopped)?;
        answered.await.map_err(|_| FlushError::Stopped)?
    }

    pub fn status(&self) -> LakeStatus {
        self.status.borrow().clone()
    }

    /// A receiver that also tells when the status changes.
    pub fn watch(&self) -> watch::Receiver<LakeStatus> {
        self.status.clone()
    }
}

/// Writes one spool's events to the lake. There is one per spool.
pub struct LakeWriter {
    outbox: Arc<dyn Outbox>,
    table: Arc<EventsTable>,
    clock: Arc<dyn Clock>,
    settings: LakeWriterSettings,
    status: watch::Sender<LakeStatus>,
    flushes: mpsc::Receiver<Flush>,
    /// Keeps the channel open when no handle is left.
    _flush: mpsc::Sender<Flush>,
    /// What is known to be durable and trimmed; `None` until the table was asked.
    after_lsn: Option<u64>,
}

enum Failure {
    /// Storage or outbox: try again.
    Passing(LakeError),
    Final(LakeWriterError),
}

impl From<LakeError> for Failure {
    fn from(error: LakeError) -> Self {
        match error {
            LakeError::Forked { .. } => Self::Final(LakeWriterError::Forked(error)),
            error => Self::Passing(error),
        }
    }
}

impl LakeWriter {
    pub fn new(
        outbox: Arc<dyn Outbox>,
        table: Arc<EventsTable>,
        clock: Arc<dyn Clock>,
        settings: LakeWriterSettings,
    ) -> (Self, LakeHandle) {
        let (flush, flushes) = mpsc::channel(16);
        let (status, watch) = watch::channel(LakeStatus::default());
        let handle = LakeHandle { status: watch, flushes: flush.clone() };
        let writer = Self { outbox, table, clock, settings, status, flushes, _flush: flush, after_lsn: None };
        (writer, handle)
    }

    /// Runs until `shutdown`, then commits what is left, once. A failure then only means that the rest is
    /// committed after the next start.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), LakeWriterError> {
        let overflow = Overflow::new(Arc::clone(&self.outbox), &self.settings, self.status.subscribe());
        // Beside each other: a try at a bucket that is away may last minutes, and rows come in meanwhile.
        tokio::select! {
            ended = self.keep_carrying(shutdown) => ended,
            () = overflow.run() => Ok(()),
        }
    }

    async fn keep_carrying(&mut self, shutdown: CancellationToken) -> Result<(), LakeWriterError> {
        let mut waiting: Vec<Flush> = Vec::new();
        let mut retry_ms = RETRY_MS_FIRST;
        loop {
            while let Ok(flush) = self.flushes.try_recv() {
                waiting.push(flush);
            }
            // Read before the last round, so that nothing logged before the signal is left behind.
            let last = shutdown.is_cancelled();
            match self.carry().await {
                Ok(()) => {
                    retry_ms = RETRY_MS_FIRST;
                    self.recovered();
                    answer(&mut waiting, &Ok(self.status.borrow().clone()));
                    if last {
                        return Ok(());
                    }
                    self.gather(&shutdown, &mut waiting).await;
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(error)) => {
                    let reason = error.to_string();
                    self.failed(&reason);
                    answer(&mut waiting, &Err(FlushError::Failed(reason)));
                    if last {
                        return Ok(());
                    }
                    self.pause(jittered(retry_ms, self.clock.now()), &shutdown, &mut waiting).await;
                    retry_ms = retry_ms.saturating_mul(2).min(self.settings.retry_ms_max.max(RETRY_MS_FIRST));
                }
            }
        }
    }

    /// Moves everything that the outbox holds now into the table, the oldest first.
    async fn carry(&mut self) -> Result<(), Failure> {
        self.carry_other_spools().await?;
        let mut after_lsn = match self.after_lsn {
            Some(lsn) => lsn,
            None => self.reconcile().await?,
        };
        loop {
            let step = self.next_step(after_lsn).await?;
            let (last_lsn, more, appended) = match step {
                Step::Nothing => return Ok(()),
                Step::Rows(rows) => {
                    let last_lsn = rows.last().map_or(after_lsn, |row| row.lsn);
                    // A short read is all there was at one moment.
                    let more = rows.len() >= self.settings.commit_rows_max.max(1);
                    (last_lsn, more, self.table.append(self.outbox.incarnation(), rows).await?)
                }
                Step::Files(files) => {
                    let last_lsn = files.last().map_or(after_lsn, |file| file.last_lsn);
                    (last_lsn, true, self.carry_files(files).await?)
                }
            };
            if self.outbox.last_lsn().is_some_and(|logged_lsn| logged_lsn < appended.lsn) {
                // We never commit what we have not logged: somebody else did, under this spool's identity.
                return Err(Failure::Final(self.behind(appended.lsn, last_lsn)));
            }
            // The table may have more: a commit whose answer was lost. Only what was compared with it is trimmed.
            after_lsn = appended.lsn.min(last_lsn);
            self.outbox.trim(after_lsn).await.map_err(LakeError::from)?;
            self.after_lsn = Some(after_lsn);
            let now = self.clock.now();
            self.status.send_modify(|status| {
                status.lsn = after_lsn;
                status.version = Some(appended.version);
                status.last_commit_at = Some(now);
            });
            tracing::debug!(lsn = after_lsn, version = appended.version, "committed events to the lake");
            if !more {
                return Ok(());
            }
        }
    }

    fn behind(&self, committed_lsn: u64, last_lsn: u64) -> LakeWriterError {
        LakeWriterError::SpoolBehindLake {
            table: self.table.url().clone(),
            incarnation: self.outbox.incarnation(),
            committed_lsn,
            last_lsn,
        }
    }

    /// Waits for a first row, then for company: until the interval is over, a commit is full, or somebody
    /// asks for a flush or the end.
    async fn gather(&mut self, shutdown: &CancellationToken, waiting: &mut Vec<Flush>) {
        let after_lsn = self.after_lsn.unwrap_or(0);
        tokio::select! {
            () = shutdown.cancelled() => return,
            flush = self.flushes.recv() => { waiting.extend(flush); return }
            () = self.outbox.wait(after_lsn) => {}
        }
        let full_at = after_lsn.saturating_add(self.settings.commit_rows_max.max(1) as u64);
        tokio::select! {
            () = shutdown.cancelled() => {}
            flush = self.flushes.recv() => waiting.extend(flush),
            () = tokio::time::sleep(Duration::from_millis(self.settings.commit_interval_ms)) => {}
            // LSNs have no holes: an event above this one means that many are waiting.
            () = self.outbox.wait(full_at.saturating_sub(1)) => {}
        }
    }

    async fn pause(&mut self, pause_ms: u64, shutdown: &CancellationToken, waiting: &mut Vec<Flush>) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            flush = self.flushes.recv() => waiting.extend(flush),
            () = tokio::time::sleep(Duration::from_millis(pause_ms)) => {}
        }
    }

    /// Says so once per outage, however long it lasts.
    fn failed(&self, reason: &str) {
        let now = self.clock.now();
        let since = self.status.borrow().last_error.as_ref().map(|fault| fault.since);
        if since.is_none() {
            tracing::warn!(
                reason,
                "the lake cannot be written; events wait in the outbox and are tried again"
            );
        }
        let fault = LakeFault { since: since.unwrap_or(now), reason: reason.to_owned() };
        self.status.send_modify(|status| status.last_error = Some(fault));
    }

    fn recovered(&self) {
        // The borrow ends here: the status cannot change while somebody looks at it.
        let fault = self.status.borrow().last_error.clone();
        if let Some(fault) = fault {
            tracing::info!(since = %fault.since, "the lake can be written again");
            self.status.send_modify(|status| status.last_error = None);
        }
    }
}

/// A pause of three quarters to five quarters of `pause_ms`, so that the nodes of an installation do not all come back
/// to their bucket at once. The clock's last digits are random enough for that.
fn jittered(pause_ms: u64, now: Timestamp) -> u64 {
    let percent = now.0.unsigned_abs() % 51 + 75;
    pause_ms.saturating_mul(percent) / 100
}

fn answer(waiting: &mut Vec<Flush>, result: &Result<LakeStatus, FlushError>) {
    for flush in waiting.drain(..) {
        // Whoever asked may have left.
        let _ = flush.send(result.clone());
    }
}

#[cfg(test)]
mod faults;
#[cfg(test)]
mod tests;
