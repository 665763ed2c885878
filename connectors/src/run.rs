//! One run of a connector: finish what was begun, plan what is new, load it batch by batch, and move the position.
//!
//! The order is what makes it safe to stop anywhere: planned in the ledger, staged on the disk, told to the ledger before it
//! is submitted, committed in the destination, then in the ledger, and only then the position that retention waits for.

mod backfill;
mod erasure;
mod in_place;

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sendlake_control::clock::Timestamp;
use sendlake_control::export::ExportBatch;
use sendlake_control::id::Ids;
use sendlake_control::{ControlError, ControlStore};
use sendlake_ingest::document::DocumentError;
use sendlake_ingest::maintain::MaintainError;
use sendlake_ingest::maintain::lease::{Lease, LeaseError};
use sendlake_ingest::maintain::reader::ReaderPosition;
use sendlake_ingest::store::LakeStore;
use sendlake_ingest::store::durable::create_dir;
use sendlake_ingest::table::slice::{LsnRange, Reached};
use sendlake_ingest::table::{EventsTable, LakeError};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::batch::{Change, Slice};
use crate::mapping::Mapping;
use crate::plan;
use crate::settings::{ExportSettings, Start};
use crate::stage::{Shape, StageError, stage};
use crate::target::{JobLog, Loaded, StagedBatch, Target, TargetError};

/// How long the right to run a connector lasts without a sign of life.
const LEASE_MS: i64 = 60_000;
/// A job that failed for good is tried so often under another name before the run is given up.
const ATTEMPTS_PER_RUN: u32 = 3;
/// The first pause after a failure; it doubles up to the longest.
const RETRY_S_FIRST: u64 = 15;
const RETRY_S_MAX: u64 = 1_800;
/// The pause where somebody must act first.
const RETRY_S_PERSON: u64 = 600;

/// One configured destination, connected.
pub struct Connector {
    pub name: String,
    pub settings: ExportSettings,
    pub mapping: Arc<Mapping>,
    pub target: Arc<dyn Target>,
}

/// What all connectors of a process share.
pub struct Exporter {
    pub control: Arc<ControlStore>,
    pub lake: Arc<EventsTable>,
    pub store: LakeStore,
    /// The folder of staged files.
    pub staging: PathBuf,
    /// Who takes the lease: a name that no other installation's process has.
    pub holder: String,
    pub ids: Ids,
    /// Connectors whose table was made ready by this process, and for which list of columns.
    pub prepared: Mutex<BTreeMap<String, String>>,
}

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    pub batches: u64,
    pub rows: u64,
    pub bytes: u64,
    /// What was changed in the destination to make it ready, a line each.
    pub prepared: Vec<String>,
}

/// Why a run did not end.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Maintain(#[from] MaintainError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(transparent)]
    Stage(#[from] StageError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(
        "the connector is being run by {holder} until {until}, if that does not go on; wait, or ask for the status there"
    )]
    Busy { holder: String, until: Timestamp },
    #[error("the ledger names a batch that makes no sense: {0}")]
    Ledger(String),
}

impl ExportError {
    /// The word for it in `export status`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Target(error) => error.kind(),
            Self::Busy { .. } => "busy",
            Self::Stage(StageError::File { .. }) => "local",
            Self::Control(_) | Self::Ledger(_) => "ledger",
            _ => "lake",
        }
    }

    /// When to try again after so many failures in a row before this one.
    fn retry_after_s(&self, failures: i64) -> u64 {
        match self {
            Self::Target(TargetError::Quota { retry_after_s, .. }) => *retry_after_s,
            Self::Target(error) if error.needs_a_person() => RETRY_S_PERSON,
            _ => {
                let doublings = u32::try_from(failures.clamp(0, 10)).unwrap_or(0);
                RETRY_S_FIRST.saturating_mul(1 << doublings).min(RETRY_S_MAX)
            }
        }
    }
}

/// The name that retention knows a connector by.
pub fn reader_name(connector: &str) -> String {
    format!("export-{connector}")
}

impl Exporter {
    /// Loads everything that is new now, and takes note of how it went. Of several processes that try, one does it.
    pub async fn run(&self, connector: &Connector) -> Result<Ran, ExportError> {
        let ran = self.under_lease(&connector.name, self.work(connector, false)).await;
        self.take_note(&connector.name, ran).await
    }

    /// Loads one batch of a backfill, if there is one to be loaded.
    pub async fn run_backfill(&self, connector: &Connector) -> Result<Ran, ExportError> {
        let ran = self.under_lease(&connector.name, self.work(connector, true)).await;
        self.take_note(&connector.name, ran).await
    }

    /// Keeps how a run went, or that it could not begin.
    pub async fn take_note<T>(&self, connector: &str, ran: Result<T, ExportError>) -> Result<T, ExportError> {
        match ran {
            Ok(ran) => {
                self.control.export_ran(connector).await?;
                Ok(ran)
            }
            Err(error @ ExportError::Busy { .. }) => Err(error),
            Err(error) => {
                let failures = self.control.export_connector(connector).await?.failures;
                let after_s = i64::try_from(error.retry_after_s(failures)).unwrap_or(i64::MAX);
                let retry_at = self.ids.now().plus_secs(after_s);
                self.control.export_failed(connector, error.kind(), &error.to_string(), retry_at).await?;
                Err(error)
            }
        }
    }

    /// Does `work` as the only one that works on the connector.
    pub(crate) async fn under_lease<T>(
        &self,
        connector: &str,
        work: impl Future<Output = Result<T, ExportError>>,
    ) -> Result<T, ExportError> {
        // The lease keeps other installations away, the lock other processes of this one; it goes with the process.
        let _lock = self.lock(connector)?;
        let lease = Lease::take_export(&self.store, connector, &self.holder, &self.ids, LEASE_MS).await?;
        let Some(lease) = lease else {
            return Err(ExportError::Busy {
                holder: "another process".to_owned(),
                until: self.ids.now().plus_millis(LEASE_MS),
            });
        };
        let ran = tokio::select! {
            ran = work => ran,
            error = keep(&lease) => Err(error.into()),
        };
        lease.release().await?;
        ran
    }

    fn lock(&self, connector: &str) -> Result<File, ExportError> {
        let path = self.staging.join(connector).join("lock");
        let failed =
            |error: std::io::Error| StageError::File { path: path.clone(), reason: error.to_string() };
        create_dir(&self.staging.join(connector)).map_err(failed)?;
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(ExportError::Busy {
                holder: "another process of this installation".to_owned(),
                until: self.ids.now().plus_millis(LEASE_MS),
            }),
            Err(TryLockError::Error(error)) => Err(failed(error).into()),
        }
    }

    async fn work(&self, connector: &Connector, backfill: bool) -> Result<Ran, ExportError> {
        let mut ran = Ran { prepared: self.prepare(connector).await?, ..Ran::default() };
        let version = &connector.mapping.version;
        self.control.drop_planned_exports(&connector.name, version).await?;
        let mut position = self.position(connector).await?;
        if backfill {
            self.load_backfill(connector, &position, &mut ran).await?;
            return Ok(ran);
        }
        // A backfill's job that is under way is ended too: what follows an erasure must come after it.
        for batch in self.control.open_export_batches(&connector.name).await? {
            if batch.backfill_id.is_none() || batch.state == "submitted" {
                self.load(connector, &batch, &mut position, &mut ran).await?;
            }
        }
        self.plan_erasures(connector).await?;
        for batch in &self.open_batches(connector).await? {
            self.load(connector, batch, &mut position, &mut ran).await?;
        }
        let reached = self.lake.reached().await?;
        let files = self.lake.slice_files(&reached.pinned)?;
        let rows = plan::rows_per_batch(&files, connector.settings.batch_bytes);
        let ranges = plan::live(&reached.lsn, &position.lsn, rows);
        let planned: Vec<_> =
            ranges.iter().map(|range| planned(connector, range, Change::Add, None)).collect();
        self.control.plan_export(&planned).await?;
        for batch in &self.open_batches(connector).await? {
            self.load(connector, batch, &mut position, &mut ran).await?;
        }
        self.keep_manifests(connector).await?;
        Ok(ran)
    }

    /// Batches of live loads that are not committed, oldest first.
    async fn open_batches(&self, connector: &Connector) -> Result<Vec<ExportBatch>, ExportError> {
        let mut open = self.control.open_export_batches(&connector.name).await?;
        open.retain(|batch| batch.backfill_id.is_none());
        Ok(open)
    }

    /// Makes the destination's table ready, once per process and list of columns.
    async fn prepare(&self, connector: &Connector) -> Result<Vec<String>, ExportError> {
        let mut prepared = self.prepared.lock().await;
        if prepared.get(&connector.name) == Some(&connector.mapping.version) {
            return Ok(Vec::new());
        }
        let changed = connector.target.prepare(&connector.mapping).await?;
        for line in &changed {
            tracing::info!(connector = connector.name, "{line}");
        }
        prepared.insert(connector.name.clone(), connector.mapping.version.clone());
        Ok(changed)
    }

    /// How far the connector is: what retention was told, or what the ledger has committed where that is more.
    pub async fn position(&self, connector: &Connector) -> Result<ReaderPosition, ExportError> {
        let reader = reader_name(&connector.name);
        let mut position = match ReaderPosition::kept(&self.store, &reader).await? {
            Some(position) => position,
            None => {
                let reached = match connector.settings.start {
                    Start::Beginning => BTreeMap::new(),
                    Start::Now => self.lake.reached().await?.lsn,
                };
                let position = ReaderPosition { reader, lsn: reached };
                position.keep(&self.store).await?;
                position
            }
        };
        for (incarnation, lsn) in self.control.export_positions(&connector.name).await? {
            let Ok(incarnation) = Uuid::parse_str(&incarnation) else { continue };
            let known = position.lsn.entry(incarnation).or_default();
            *known = u64::try_from(lsn).unwrap_or(0).max(*known);
        }
        Ok(position)
    }

    /// One batch, whatever state it is in, to its end.
    async fn load(
        &self,
        connector: &Connector,
        batch: &ExportBatch,
        position: &mut ReaderPosition,
        ran: &mut Ran,
    ) -> Result<(), ExportError> {
        let staged = self.staged(connector, batch).await?;
        let loaded = match staged.rows {
            0 => Loaded { rows: Some(0), job_id: None },
            _ => self.load_staged(connector, batch, staged.clone()).await?,
        };
        self.control.export_committed(batch, loaded.rows, loaded.job_id.as_deref()).await?;
        if let Err(error) = tokio::fs::remove_file(&staged.file).await {
            tracing::debug!(%error, "a staged file stays until the next start");
        }
        ran.batches += 1;
        ran.rows += staged.rows;
        ran.bytes += staged.bytes;
        if batch.backfill_id.is_none()
            && let Ok(incarnation) = Uuid::parse_str(&batch.incarnation)
        {
            let through = u64::try_from(batch.through_lsn).unwrap_or(0);
            let known = position.lsn.entry(incarnation).or_default();
            *known = through.max(*known);
            position.keep(&self.store).await?;
        }
        tracing::info!(
            connector = connector.name,
            batch = batch.batch_id,
            rows = staged.rows,
            loaded = loaded.rows,
            "exported a batch"
        );
        Ok(())
    }

    async fn load_staged(
        &self,
        connector: &Connector,
        batch: &ExportBatch,
        mut staged: StagedBatch,
    ) -> Result<Loaded, ExportError> {
        let log = LedgerLog { control: &self.control, batch };
        for _ in 1..ATTEMPTS_PER_RUN {
            match connector.target.load(&staged, &log).await {
                Err(TargetError::JobFailed(said)) => {
                    tracing::warn!(
                        connector = connector.name,
                        batch = batch.batch_id,
                        said,
                        "a load job failed"
                    );
                    self.control.export_next_attempt(batch).await?;
                    staged.attempt += 1;
                    staged.job_id = None;
                }
                Err(error @ TargetError::Schema(_)) => {
                    // Somebody may have changed the table: it is looked at again before the next try.
                    self.prepared.lock().await.remove(&connector.name);
                    return Err(error.into());
                }
                result => return Ok(result?),
            }
        }
        let result = connector.target.load(&staged, &log).await;
        if let Err(TargetError::JobFailed(_)) = &result {
            self.control.export_next_attempt(batch).await?;
        }
        Ok(result?)
    }

    /// The batch's file: the one that is there, if it is whole, or made now.
    async fn staged(&self, connector: &Connector, batch: &ExportBatch) -> Result<StagedBatch, ExportError> {
        let path = self.staging.join(&connector.name).join(format!("{}.parquet", batch.batch_id));
        let change: Change = batch.change.parse().map_err(ExportError::Ledger)?;
        let known = batch
            .rows_staged
            .zip(batch.bytes_staged)
            .zip(batch.first_day.clone().zip(batch.last_day.clone()));
        let on_disk = tokio::fs::metadata(&path).await.map(|file| file.len()).ok();
        let bytes_known = known.as_ref().and_then(|((_, bytes), _)| u64::try_from(*bytes).ok());
        let (rows, bytes, days) = match known {
            Some(((rows, _), days)) if on_disk.is_some() && on_disk == bytes_known => {
                (u64::try_from(rows).unwrap_or(0), bytes_known.unwrap_or(0), days)
            }
            _ => {
                let shape = self.shape(connector, change);
                let rows = match &batch.erasure {
                    Some(erasure) => self.erased_rows(erasure, change, &shape).await?,
                    None => {
                        let reached = self.lake.reached().await?;
                        let mut files = self.lake.slice_files(&reached.pinned)?;
                        // Day after day, so that what is staged is cut by days at no cost.
                        files.sort_by(|one, other| one.day().cmp(other.day()));
                        self.lake.slice(&files, &range_of(batch)?, &shape.columns())?
                    }
                };
                let file = stage(rows, &shape, &path).await?;
                self.control.export_staged(batch, file.rows, file.bytes, &file.days).await?;
                (file.rows, file.bytes, file.days)
            }
        };
        Ok(StagedBatch {
            connector: connector.name.clone(),
            batch_id: batch.batch_id.clone(),
            change,
            attempt: u32::try_from(batch.attempt).unwrap_or(1),
            job_id: batch.job_id.clone(),
            file: path,
            rows,
            bytes,
            days,
            mapping: Arc::clone(&connector.mapping),
        })
    }

    fn shape(&self, connector: &Connector, change: Change) -> Shape {
        let purpose = format!("export mask/{}", connector.name);
        let key = self.control.keyring().derive(&purpose);
        let mapping = match change {
            Change::Delete => connector.mapping.keys(),
            Change::Add | Change::Replace => (*connector.mapping).clone(),
        };
        Shape::new(mapping, &connector.settings.tenants, &key)
    }
}

/// Renews the lease for as long as it is asked to; ends when somebody has taken over.
async fn keep(lease: &Lease) -> LeaseError {
    loop {
        tokio::time::sleep(Duration::from_millis(LEASE_MS.unsigned_abs() / 4)).await;
        if let Err(error @ LeaseError::Lost { .. }) = lease.keep().await {
            return error;
        }
    }
}

fn planned(
    connector: &Connector,
    range: &LsnRange,
    change: Change,
    backfill_id: Option<&str>,
) -> ExportBatch {
    let slice = Slice {
        table: connector.mapping.table.clone(),
        incarnation: range.incarnation,
        after_lsn: range.after_lsn,
        through_lsn: range.through_lsn,
        days: range.days.clone(),
    };
    let part = backfill_id.map_or(0, |_| 1);
    let lsn = |lsn: u64| i64::try_from(lsn).unwrap_or(i64::MAX);
    ExportBatch {
        batch_id: match backfill_id {
            // The same days may be loaded again and again: each time is another batch.
            Some(id) => slice.batch_id(part, change, &format!("{}/{id}", connector.mapping.version)),
            None => slice.batch_id(part, change, &connector.mapping.version),
        },
        source_table: slice.table,
        change: change.as_str().to_owned(),
        incarnation: range.incarnation.to_string(),
        after_lsn: lsn(range.after_lsn),
        through_lsn: lsn(range.through_lsn),
        first_day: range.days.as_ref().map(|(first, _)| first.clone()),
        last_day: range.days.as_ref().map(|(_, last)| last.clone()),
        backfill_id: backfill_id.map(str::to_owned),
        ..blank(connector)
    }
}

/// A batch that says nothing yet.
fn blank(connector: &Connector) -> ExportBatch {
    ExportBatch {
        connector: connector.name.clone(),
        mapping_version: connector.mapping.version.clone(),
        state: "planned".to_owned(),
        attempt: 1,
        ..ExportBatch::default()
    }
}

fn range_of(batch: &ExportBatch) -> Result<LsnRange, ExportError> {
    let wrong = |what: &str| {
        ExportError::Ledger(format!("{what} of batch {} of {}", batch.batch_id, batch.connector))
    };
    let lsn = |lsn: i64| u64::try_from(lsn).map_err(|_| wrong("an LSN"));
    Ok(LsnRange {
        incarnation: Uuid::parse_str(&batch.incarnation).map_err(|_| wrong("the incarnation"))?,
        after_lsn: lsn(batch.after_lsn)?,
        through_lsn: lsn(batch.through_lsn)?,
        // Days of a live batch are what it turned out to hold, and no limit.
        days: match batch.backfill_id {
            Some(_) => batch.first_day.clone().zip(batch.last_day.clone()),
            None => None,
        },
    })
}

/// Tells the ledger of a job before it is submitted.
struct LedgerLog<'a> {
    control: &'a ControlStore,
    batch: &'a ExportBatch,
}

#[async_trait]
impl JobLog for LedgerLog<'_> {
    async fn submitting(&self, job_id: &str) -> Result<(), TargetError> {
        let noted = self.control.export_submitting(self.batch, job_id).await;
        noted.map_err(|error| TargetError::Local(error.to_string()))
    }
}

/// What the lake has that a connector has not: events, and the age of the oldest commit among them is the operator's to see.
pub fn behind(reached: &Reached, position: &ReaderPosition) -> u64 {
    let missing = reached
        .lsn
        .iter()
        .map(|(incarnation, lsn)| lsn.saturating_sub(position.lsn.get(incarnation).copied().unwrap_or(0)));
    missing.sum()
}

#[cfg(test)]
pub(crate) mod tests;
