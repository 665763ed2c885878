//! One round of maintenance, in order: old days go, small files are joined, checkpoints are made, old log entries
//! and unnamed files go. Each part can be asked for alone, and rehearsed.

use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use serde::Serialize;

use super::MaintainError;
use super::lease::Lease;
use super::log::{LogListing, checkpoint, clean_log};
use super::plan::{Job, PlanSettings, day_text, plan};
use super::reader::{ReaderPosition, registered, tables};
use super::retention::Expired;
use super::rewrite::{RewriteSettings, sweep_dead};
use super::status::{LakeReport, report};
use super::vacuum::{survey, vacuum};
use crate::store::LakeStore;
use crate::table::{EventsTable, log_store};

/// How a lake is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaintenanceSettings {
    pub plan: PlanSettings,
    pub rewrite: RewriteSettings,
    /// Days of events that are kept; 0 for all.
    pub retention_days: u32,
    /// How long a file that no version names any more is kept, in milliseconds.
    pub vacuum_grace_ms: i64,
    /// How long log entries are kept that a checkpoint covers, in milliseconds.
    pub log_retention_ms: i64,
    /// Readers that retention does not wait for.
    pub ignored_readers: Vec<String>,
}

/// One thing that maintenance did, would do, or left.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Step {
    /// `compacted`, `expired`, `checkpointed`, `cleaned`, `vacuumed`; `left` where something stands in the way,
    /// `found` for what somebody should know.
    pub step: &'static str,
    pub table: String,
    /// The UTC day, where it is about one.
    pub day: Option<String>,
    /// Files read, removed or found.
    pub files: u64,
    pub bytes: u64,
    pub rows: Option<u64>,
    /// In words.
    pub detail: String,
}

/// Keeps one lake.
#[derive(Clone, Debug)]
pub struct Maintainer {
    pub store: LakeStore,
    pub events: Arc<EventsTable>,
    pub settings: MaintenanceSettings,
}

impl Maintainer {
    /// The whole round. `told` hears of each step as it is done. What keeps files from being joined or days from going
    /// (a full disk, most of all) does not keep unnamed files: removing them is what makes room. The first error is
    /// told at the end, but for a lost lease, which ends the round.
    pub async fn round(
        &self,
        lease: &Lease,
        told: &(dyn Fn(&Step) + Send + Sync),
    ) -> Result<Vec<Step>, MaintainError> {
        let mut steps = Vec::new();
        let mut take = |done: Vec<Step>| {
            done.iter().for_each(told);
            steps.extend(done);
        };
        let mut first = Trouble::default();
        take(first.pass(self.expire(lease, false).await)?);
        let joined = self.compact(lease, None, false, &mut |step| take(vec![step])).await;
        first.pass(joined)?;
        for table in tables(&self.store).await? {
            take(first.pass(self.keep_log(lease, &table, false).await)?);
            take(first.pass(self.vacuum(lease, &table, false).await)?);
        }
        first.0.map_or(Ok(steps), Err)
    }

    /// Joins small files, of one day or of all. A file that cannot be read is told and left, and those beside it are
    /// joined without it.
    pub async fn compact(
        &self,
        lease: &Lease,
        day: Option<&str>,
        dry_run: bool,
        told: &mut (dyn FnMut(Step) + Send),
    ) -> Result<(), MaintainError> {
        if !dry_run {
            // Also where nothing is left to join: whoever died may have died after its commit.
            sweep_dead(lease, &self.settings.rewrite.spill_dir).await;
        }
        let pinned = self.events.pin(None).await?;
        let jobs = plan(&self.events.files(&pinned)?, &self.settings.plan, lease.now());
        let wanted = |job: &Job| day.is_none_or(|day| day == job.day);
        for job in jobs.into_iter().filter(wanted) {
            if dry_run {
                told(to_be_joined(job));
            } else {
                self.join(lease, job, told).await?;
            }
        }
        Ok(())
    }

    /// Joins what of a job can be read.
    async fn join(
        &self,
        lease: &Lease,
        mut job: Job,
        told: &mut (dyn FnMut(Step) + Send),
    ) -> Result<(), MaintainError> {
        while job.files.len() > 1 {
            let step = to_be_joined(job.clone());
            match self.events.rewrite(lease, &job.paths(), None, &self.settings.rewrite).await {
                Ok(done) => {
                    told(Step {
                        rows: Some(done.rows_written),
                        detail: format!(
                            "now {} of {} bytes, version {}",
                            counted(done.files_written as u64, "file"),
                            done.bytes_written,
                            done.version
                        ),
                        ..step
                    });
                    return Ok(());
                }
                Err(MaintainError::Source { path, reason }) => {
                    let before = job.files.len();
                    let (bad, good): (Vec<_>, Vec<_>) =
                        job.files.into_iter().partition(|file| file.path == path);
                    job.files = good;
                    let bytes = bad.iter().map(|file| file.bytes).sum();
                    let detail = MaintainError::Source { path, reason }.to_string();
                    told(Step { step: "left", files: bad.len() as u64, bytes, rows: None, detail, ..step });
                    if job.files.len() == before {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes days out of the table that are past their time and read by everybody.
    pub async fn expire(&self, lease: &Lease, dry_run: bool) -> Result<Vec<Step>, MaintainError> {
        let days = i64::from(self.settings.retention_days);
        if days == 0 {
            return Ok(Vec::new());
        }
        let first_day = day_text(lease.now().plus_secs(-days.saturating_mul(86_400)));
        let readers = self.readers().await?;
        let expired =
            self.events.expire(lease, &first_day, &readers, &self.settings.rewrite, dry_run).await?;
        Ok(expired.into_iter().map(step_of).collect())
    }

    /// Makes a checkpoint when it is time, and removes entries that are past theirs.
    pub async fn keep_log(
        &self,
        lease: &Lease,
        table: &str,
        dry_run: bool,
    ) -> Result<Vec<Step>, MaintainError> {
        let log = log_store(&self.store, table)?;
        let mut steps = Vec::new();
        if dry_run {
            return Ok(steps);
        }
        lease.keep().await?;
        if let Some(version) = checkpoint(&log, None).await? {
            let detail = format!("version {version}");
            steps.push(Step { step: "checkpointed", table: table.into(), detail, ..Step::default() });
        }
        let before = lease.now().plus_millis(-self.settings.log_retention_ms.max(0));
        let entries = clean_log(&log, before).await?;
        if entries > 0 {
            let oldest = LogListing::of(&log).await?.oldest_entry().map_or(0, |(version, _)| version);
            let detail = format!("old log entries are gone; the oldest is {oldest}");
            steps.push(Step {
                step: "cleaned",
                table: table.into(),
                files: entries as u64,
                detail,
                ..Step::default()
            });
        }
        Ok(steps)
    }

    /// Removes files that nothing names; tells of those that are not ours.
    pub async fn vacuum(
        &self,
        lease: &Lease,
        table: &str,
        dry_run: bool,
    ) -> Result<Vec<Step>, MaintainError> {
        let log = log_store(&self.store, table)?;
        let found = if dry_run {
            survey(&log, lease.now(), self.settings.vacuum_grace_ms).await?
        } else {
            vacuum(&log, lease, self.settings.vacuum_grace_ms, false).await?
        };
        let mut steps = Vec::new();
        let gone = found.files.len() + found.stages.len();
        if gone > 0 {
            let files = found.files.iter().map(String::as_str).take(3).collect::<Vec<_>>().join(", ");
            let detail = match found.stages.len() {
                0 => files,
                stages => format!("{files} and {} of writers that died", counted(stages as u64, "part")),
            };
            let (table, bytes) = (table.into(), found.bytes);
            steps.push(Step {
                step: "vacuumed",
                table,
                files: gone as u64,
                bytes,
                detail,
                ..Step::default()
            });
        }
        if let Some(first) = found.foreign.first() {
            let detail = format!("not written by a Delta writer, left alone: {first}");
            let files = found.foreign.len() as u64;
            steps.push(Step { step: "found", table: table.into(), files, detail, ..Step::default() });
        }
        Ok(steps)
    }

    /// The readers that retention waits for.
    pub async fn readers(&self) -> Result<Vec<ReaderPosition>, MaintainError> {
        let mut readers = registered(&self.store).await?;
        readers.retain(|reader| !self.settings.ignored_readers.contains(&reader.reader));
        Ok(readers)
    }

    /// What the lake looks like; see [`report`].
    pub async fn status(&self, now: Timestamp) -> Result<LakeReport, MaintainError> {
        report(&self.store, &self.settings, now).await
    }

    /// What a round would join now. Needs no lease, and changes nothing.
    pub async fn outlook(&self, now: Timestamp) -> Result<Vec<Step>, MaintainError> {
        let pinned = self.events.pin(None).await?;
        let files = self.events.files(&pinned)?;
        let jobs = plan(&files, &self.settings.plan, now);
        Ok(jobs.into_iter().map(to_be_joined).collect())
    }
}

/// The first error of a round that goes on all the same.
#[derive(Default)]
struct Trouble(Option<MaintainError>);

impl Trouble {
    /// What was done, or nothing and a note of the error. A lost lease is not for the end: nothing may follow it.
    fn pass<T: Default>(&mut self, result: Result<T, MaintainError>) -> Result<T, MaintainError> {
        match result {
            Err(error @ (MaintainError::Lease(_) | MaintainError::Fenced { .. })) => Err(error),
            Err(error) => {
                self.0.get_or_insert(error);
                Ok(T::default())
            }
            done => done,
        }
    }
}

fn to_be_joined(job: Job) -> Step {
    Step {
        step: "compacted",
        table: EventsTable::NAME.into(),
        files: job.files.len() as u64,
        bytes: job.bytes(),
        rows: job.files.iter().map(|file| file.rows).sum(),
        detail: "to be joined".into(),
        day: Some(job.day),
    }
}

fn step_of(expired: Expired) -> Step {
    let table = EventsTable::NAME.to_owned();
    match expired {
        Expired::Gone { day, files, bytes, rows, kept, version } => {
            let mut detail =
                version.map_or_else(|| "to go".to_owned(), |version| format!("version {version}"));
            if kept > 0 {
                detail.push_str(&format!(", {} of suppressions stay", counted(kept, "change")));
            }
            Step {
                step: "expired",
                table,
                day: Some(day),
                files: files as u64,
                bytes,
                rows: Some(rows),
                detail,
            }
        }
        Expired::AwaitedBy { day, reader, incarnation, lsn } => Step {
            step: "left",
            table,
            day: Some(day),
            detail: format!(
                "{reader} has not read event {lsn} of spool {incarnation} yet; see why it is behind, or name it in \
                 maintenance.ignored_readers"
            ),
            ..Step::default()
        },
        Expired::Unreadable { day, path, reason } => Step {
            step: "left",
            table,
            day: Some(day),
            files: 1,
            detail: format!(
                "the day is past its time, but {path} cannot be read ({reason}), so nobody can say whose rows would go; \
                 restore the file from a copy of the lake's storage"
            ),
            ..Step::default()
        },
    }
}

fn counted(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests;
