//! What the writer takes to the lake next: spilled files before the rows behind them, and at a start what was left over
//! from the last run.

use std::sync::Arc;

use super::{Failure, LakeWriter, LakeWriterError};
use crate::append::Appended;
use crate::event::LoggedEvent;
use crate::outbox::OutboxError;
use crate::spill::{Spill, SpillError, SpillFile};
use crate::table::LakeError;

/// One commit's worth.
pub(super) enum Step {
    Nothing,
    Files(Vec<SpillFile>),
    Rows(Vec<LoggedEvent>),
}

impl From<SpillError> for LakeError {
    fn from(error: SpillError) -> Self {
        Self::Outbox(OutboxError(error.to_string()))
    }
}

impl LakeWriter {
    /// The oldest events above `after_lsn`. Rows first, then the list of files: rows that left the store in
    /// between are in a file that the list names, and then the files come first.
    pub(super) async fn next_step(&self, after_lsn: u64) -> Result<Step, LakeError> {
        let outbox = Arc::clone(&self.outbox);
        let rows_max = self.settings.commit_rows_max.max(1);
        let read = move || -> Result<_, LakeError> {
            let rows = outbox.read(after_lsn, rows_max)?;
            let files = outbox.spill().map_or(Ok(Vec::new()), |spill| spill.files())?;
            Ok((rows, files))
        };
        let (rows, files) = tokio::task::spawn_blocking(read).await??;
        let (own, over): (Vec<_>, Vec<_>) = files
            .into_iter()
            .filter(|file| file.incarnation == self.outbox.incarnation())
            .partition(|file| file.last_lsn > after_lsn);
        if let Some(spill) = self.outbox.spill() {
            spill.retire_all(&over).await?;
        }
        if own.is_empty() {
            self.tell_gap(after_lsn, rows.first().map(|row| row.lsn)).await?;
            return Ok(if rows.is_empty() { Step::Nothing } else { Step::Rows(rows) });
        }
        self.tell_gap(after_lsn, own.first().map(|file| file.first_lsn)).await?;
        Ok(Step::Files(commit_of(&own, rows_max as u64)))
    }

    /// Numbers follow each other, from the first one of this log. Where they do not, events are gone: that is told, and
    /// noted before those after them are taken to the lake, whose books have a place for numbers without a row.
    async fn tell_gap(&self, after_lsn: u64, next_lsn: Option<u64>) -> Result<(), LakeError> {
        let incarnation = self.outbox.incarnation();
        // A log of unknown beginning may start anywhere.
        let began_at = self.outbox.first_lsn().or((after_lsn > 0).then_some(1));
        let (Some(next_lsn), Some(began_at)) = (next_lsn, began_at) else { return Ok(()) };
        let (first_lsn, last_lsn) = (began_at.max(after_lsn.saturating_add(1)), next_lsn.saturating_sub(1));
        if first_lsn > last_lsn {
            return Ok(());
        }
        let is_new = match self.outbox.spill().map(Arc::clone) {
            None => true,
            Some(spill) => {
                let note = move || spill.note_missing(incarnation, first_lsn, last_lsn);
                tokio::task::spawn_blocking(note).await??
            }
        };
        if is_new {
            tracing::error!(
                first_lsn,
                last_lsn,
                %incarnation,
                "events are neither in the lake nor in the spool; was a file of spilled events moved away? \
                 `sendlake lake verify` says so from now on"
            );
        }
        Ok(())
    }

    /// Appends the rows of files that follow each other in one spool.
    pub(super) async fn carry_files(&self, files: Vec<SpillFile>) -> Result<Appended, LakeError> {
        let (Some(incarnation), Some(through_lsn)) =
            (files.first().map(|file| file.incarnation), files.last().map(|file| file.last_lsn))
        else {
            return Err(LakeError::Outbox(OutboxError("there are no spilled files to carry".to_owned())));
        };
        let read = files.clone();
        let read = move || -> Result<Vec<_>, SpillError> {
            let batches = read.iter().map(SpillFile::read).collect::<Result<Vec<_>, _>>()?;
            Ok(batches.into_iter().flatten().collect())
        };
        let batches = tokio::task::spawn_blocking(read).await??;
        let appended = self.table.append_batch(incarnation, through_lsn, batches).await?;
        if let Some(spill) = self.outbox.spill() {
            for file in files.iter().filter(|file| file.last_lsn <= appended.lsn) {
                spill.retire(file).await;
            }
        }
        Ok(appended)
    }

    /// Files that this node's earlier spools left: they reach the lake under their own identity.
    pub(super) async fn carry_other_spools(&self) -> Result<(), Failure> {
        let Some(spill) = self.outbox.spill().map(Arc::clone) else { return Ok(()) };
        let mut files = list(&spill).await?;
        files.retain(|file| file.incarnation != self.outbox.incarnation());
        while let Some(other) = files.first().map(|file| file.incarnation) {
            let mut theirs = files;
            files = theirs.split_off(theirs.partition_point(|file| file.incarnation <= other));
            let committed_lsn = self.table.committed_lsn(other).await?;
            let over = theirs.partition_point(|file| file.last_lsn <= committed_lsn);
            for file in theirs.drain(..over) {
                spill.retire(&file).await;
            }
            while !theirs.is_empty() {
                let next = commit_of(&theirs, self.settings.commit_rows_max.max(1) as u64);
                let rest = theirs.split_off(next.len());
                theirs = rest;
                self.carry_files(next).await?;
            }
        }
        Ok(())
    }

    /// Finds how far the table is, and trims what a commit before the last stop had already made durable: after
    /// making sure that it is the same events that the table holds.
    pub(super) async fn reconcile(&mut self) -> Result<u64, Failure> {
        let incarnation = self.outbox.incarnation();
        let committed_lsn = self.table.committed_lsn(incarnation).await?;
        if let Some(last_lsn) = self.outbox.last_lsn()
            && last_lsn < committed_lsn
        {
            return Err(Failure::Final(self.behind(committed_lsn, last_lsn)));
        }
        loop {
            let outbox = Arc::clone(&self.outbox);
            let rows_max = self.settings.commit_rows_max.max(1);
            let read = tokio::task::spawn_blocking(move || outbox.read(0, rows_max));
            let mut rows = read.await.map_err(LakeError::from)?.map_err(LakeError::from)?;
            rows.retain(|row| row.lsn <= committed_lsn);
            let Some(last_lsn) = rows.last().map(|row| row.lsn) else { break };
            let ids = rows.iter().map(|row| (row.lsn, row.event.event_id)).collect();
            let shared_lsn = self.table.shared_lsn(incarnation, ids).await?;
            if shared_lsn < last_lsn {
                return Err(Failure::Final(self.forked(shared_lsn, committed_lsn)));
            }
            self.outbox.trim(last_lsn).await.map_err(LakeError::from)?;
        }
        self.after_lsn = Some(committed_lsn);
        self.status.send_modify(|status| status.lsn = committed_lsn);
        Ok(committed_lsn)
    }

    fn forked(&self, shared_lsn: u64, committed_lsn: u64) -> LakeWriterError {
        let table = self.table.url().clone();
        let incarnation = self.outbox.incarnation();
        LakeWriterError::Forked(LakeError::Forked { table, incarnation, shared_lsn, committed_lsn })
    }
}

async fn list(spill: &Arc<Spill>) -> Result<Vec<SpillFile>, LakeError> {
    let spill = Arc::clone(spill);
    Ok(tokio::task::spawn_blocking(move || spill.files()).await??)
}

/// The first of these files, up to `rows_max` rows, and at least one.
fn commit_of(files: &[SpillFile], rows_max: u64) -> Vec<SpillFile> {
    let mut rows = 0_u64;
    let within = files.iter().take_while(|file| {
        rows = rows.saturating_add(file.rows());
        rows <= rows_max
    });
    let count = within.count().max(1);
    files.iter().take(count).cloned().collect()
}
