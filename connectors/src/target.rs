//! What a destination is to the rest: the trait that each implements, what it is handed, and how it fails.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use sendlake_control::clock::Timestamp;
use uuid::Uuid;

use crate::batch::Change;
use crate::mapping::Mapping;

/// A destination: a warehouse, a database, a bucket of files.
///
/// Every method may be called again after any failure, also by another process that knows nothing of the first; each must
/// then end in the same rows. That rests on `event_id`, not on the ledger.
#[async_trait]
pub trait Target: Send + Sync {
    /// Makes the table and what else is needed, and adds columns that it lacks; never changes or drops one. Returns what was
    /// changed, a line each, nothing when all was there. A column of another type than the mapping's, or one that is not
    /// nullable and unknown to the mapping, is [`TargetError::Schema`].
    async fn prepare(&self, mapping: &Mapping) -> Result<Vec<String>, TargetError>;

    /// Brings the staged rows into the table, so that it holds each `event_id` once, and returns when that is durable and
    /// seen by readers. Where a job has a name, `log` is told it before the job is submitted; after a crash `batch.job_id`
    /// has the last name told, to be asked about before anything is submitted again.
    async fn load(&self, batch: &StagedBatch, log: &dyn JobLog) -> Result<Loaded, TargetError>;

    /// What the table holds by hour of `occurred_at`. Hours without rows are left out.
    async fn tally(&self, mapping: &Mapping, bounds: &Bounds) -> Result<Vec<HourTally>, TargetError>;
}

/// Takes note of the job before it is submitted, durably.
#[async_trait]
pub trait JobLog: Send + Sync {
    async fn submitting(&self, job_id: &str) -> Result<(), TargetError>;
}

/// One batch, cut and written to a local Parquet file that stays until the batch is committed.
#[derive(Clone, Debug)]
pub struct StagedBatch {
    /// Of the connector: part of the names of jobs, staging tables and objects.
    pub connector: String,
    /// 32 hexadecimal digits, the same for the same rows.
    pub batch_id: String,
    pub change: Change,
    /// 1 for the first try. Raised when a job failed for good and its name is used up.
    pub attempt: u32,
    /// The job that was last submitted for this batch, if one was.
    pub job_id: Option<String>,
    /// Parquet in the shape of [`Mapping::arrow_schema`], Zstandard inside; `mapping.keys()` for [`Change::Delete`]. Each
    /// `event_id` is in it once.
    pub file: PathBuf,
    pub rows: u64,
    pub bytes: u64,
    /// The first and the last `event_date` of its rows, `2026-01-31`: what a MERGE needs to look at.
    pub days: (String, String),
    /// Of the table; also for a deletion.
    pub mapping: Arc<Mapping>,
}

/// What a load did, as far as the destination tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Rows that were added, replaced or deleted; fewer than staged when some were there already. `None` where the
    /// destination does not say.
    pub rows: Option<u64>,
    /// The destination's name for the work, to look it up there.
    pub job_id: Option<String>,
}

/// Which rows a tally counts.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Of `occurred_at`: from the first, before the second.
    pub from: Timestamp,
    pub to: Timestamp,
    /// Per spool the last LSN that is counted; rows of other spools are not.
    pub positions: BTreeMap<Uuid, u64>,
}

/// One hour's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HourTally {
    /// When the hour begins.
    pub hour: Timestamp,
    pub rows: u64,
    /// Different values of `event_id`.
    pub events: u64,
    /// The sum of `lsn`, of all rows.
    pub lsn_sum: u64,
}

/// Why a destination did not do what was asked. The text says what happened, where, and what to do; it never holds a
/// credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Nobody answered, or with an error that may pass: tried again with growing pauses.
    #[error("{0}")]
    Away(String),
    /// The destination does not accept who we are, or what we may do: tried again rarely, since somebody must act.
    #[error("{0}")]
    Credentials(String),
    /// A limit of the destination is used up: tried again after so many seconds.
    #[error("{said}")]
    Quota { said: String, retry_after_s: u64 },
    /// The table is not what the mapping says: nothing is loaded until somebody has acted.
    #[error("{0}")]
    Schema(String),
    /// The job ended without success and its name is used up: tried again as the next attempt.
    #[error("{0}")]
    JobFailed(String),
    /// The settings, or what the destination says about our request: nothing is loaded until somebody has acted.
    #[error("{0}")]
    Refused(String),
    /// The staged file or the ledger.
    #[error("{0}")]
    Local(String),
}

impl TargetError {
    /// The word for it in `export status` and in the ledger.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Away(_) => "away",
            Self::Credentials(_) => "credentials",
            Self::Quota { .. } => "quota",
            Self::Schema(_) => "schema",
            Self::JobFailed(_) => "job_failed",
            Self::Refused(_) => "refused",
            Self::Local(_) => "local",
        }
    }

    /// Whether trying again is of no use until somebody has acted; it is tried all the same, rarely.
    pub fn needs_a_person(&self) -> bool {
        matches!(self, Self::Credentials(_) | Self::Schema(_) | Self::Refused(_))
    }
}
