//! One rollup in the lake: made or opened once, pinned with how far it has come, changed by one kind of commit.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, StructType, Transaction};
use deltalake::logstore::{LogStoreRef, get_actions};
use deltalake::operations::create::CreateBuilder;
use deltalake::operations::write::WriterStatsConfig;
use deltalake::operations::write::writer::{DeltaWriter, WriterConfig};
use deltalake::protocol::DeltaOperation;
use deltalake::{DeltaTable, DeltaTableError};
use sendlake_control::clock::Timestamp;
use tokio::sync::Mutex;
use url::Url;
use uuid::Uuid;

use super::schema::{self, PARTITION_COLUMN, ROLLUP_SCHEMA};
use crate::append::is_conflict;
use crate::maintain::MaintainError;
use crate::maintain::log::transactions;
use crate::store::LakeStore;
use crate::table::{LakeError, check_columns, exists, failed, log_store, version};

/// The transaction that names the version of `events` that a rollup holds.
const EVENTS_VERSION: &str = "events_version";

/// Whole days before today that minutes are kept for.
const MINUTE_DAYS_KEPT: i32 = 14;

/// The width of a rollup's buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grain {
    Minute,
    Hour,
}

impl Grain {
    pub const ALL: [Grain; 2] = [Grain::Minute, Grain::Hour];

    /// The table's name, which is its folder below the lake's.
    pub fn table_name(self) -> &'static str {
        match self {
            Grain::Minute => "rollup_1m",
            Grain::Hour => "rollup_hourly",
        }
    }

    /// What SQL's `date_trunc` calls it.
    pub fn unit(self) -> &'static str {
        match self {
            Grain::Minute => "minute",
            Grain::Hour => "hour",
        }
    }

    /// The first day that is kept at `now`, since the epoch: fourteen before today for minutes; `None` where all are.
    pub fn first_day(self, now: Timestamp) -> Option<i32> {
        match self {
            Grain::Minute => Some(now.days().saturating_sub(MINUTE_DAYS_KEPT)),
            Grain::Hour => None,
        }
    }
}

/// How far a rollup has come in `events`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// The version of `events` that it holds; `None` when it holds nothing yet.
    pub events_version: Option<u64>,
    /// Per spool the LSN up to which that version goes.
    pub lsn: BTreeMap<Uuid, u64>,
}

impl Positions {
    fn transactions(&self) -> Vec<Transaction> {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let version = self.events_version.map(|version| Transaction::new(EVENTS_VERSION, signed(version)));
        let spools = self.lsn.iter().map(|(incarnation, lsn)| Transaction::new(incarnation, signed(*lsn)));
        version.into_iter().chain(spools).collect()
    }

    /// What a commit says; `None` for one that is not of ours.
    fn told_by(actions: &[Action]) -> Option<Self> {
        let mut positions = Self::default();
        for action in actions {
            let Action::Txn(txn) = action else { continue };
            let number = u64::try_from(txn.version).unwrap_or(0);
            if txn.app_id == EVENTS_VERSION {
                positions.events_version = Some(number);
            } else if let Ok(incarnation) = Uuid::parse_str(&txn.app_id) {
                positions.lsn.insert(incarnation, number);
            }
        }
        positions.events_version.is_some().then_some(positions)
    }
}

/// One version of a rollup.
#[derive(Clone)]
pub struct PinnedRollup {
    pub table: DeltaTable,
    pub version: u64,
    pub positions: Positions,
}

/// A rollup in the lake. One per process is enough.
pub struct RollupTable {
    grain: Grain,
    pub(super) log_store: LogStoreRef,
    url: Url,
    latest: Mutex<PinnedRollup>,
}

impl RollupTable {
    /// Opens the table, making it when it is not there. Safe to call from several processes at once.
    pub async fn open(store: &LakeStore, grain: Grain) -> Result<Self, LakeError> {
        let log_store = log_store(store, grain.table_name())?;
        if !exists(&log_store).await? {
            match create(&log_store, grain).await {
                Ok(_) => tracing::info!(table = %log_store.root_url(), "made a rollup table"),
                // Somebody else may have been first; then theirs is the table.
                Err(_) if exists(&log_store).await? => {}
                Err(error) => return Err(error),
            }
        }
        Self::load(log_store, grain).await
    }

    /// Opens the table if it is there, for whoever only reads.
    pub async fn open_existing(store: &LakeStore, grain: Grain) -> Result<Option<Self>, LakeError> {
        let log_store = log_store(store, grain.table_name())?;
        if exists(&log_store).await? { Self::load(log_store, grain).await.map(Some) } else { Ok(None) }
    }

    async fn load(log_store: LogStoreRef, grain: Grain) -> Result<Self, LakeError> {
        let url = log_store.root_url().clone();
        let mut table = DeltaTable::new(Arc::clone(&log_store));
        table.load().await.map_err(failed(url.clone(), "open"))?;
        check_columns(&url, &table, &ROLLUP_SCHEMA)?;
        let positions = positions_at(&log_store, version(&table), None).await?;
        let latest = PinnedRollup { version: version(&table), table, positions };
        Ok(Self { grain, log_store, url, latest: Mutex::new(latest) })
    }

    pub fn grain(&self) -> Grain {
        self.grain
    }

    /// Where the table lies; every Delta reader can open it there.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The newest version now, and how far it has come.
    pub async fn pin(&self) -> Result<PinnedRollup, LakeError> {
        let mut latest = self.latest.lock().await;
        let mut table = latest.table.clone();
        table.update_state().await.map_err(self.failed("refresh"))?;
        let now = version(&table);
        if now != latest.version {
            let known = (latest.version, &latest.positions);
            let positions = positions_at(&self.log_store, now, Some(known)).await?;
            *latest = PinnedRollup { table, version: now, positions };
        }
        Ok(latest.clone())
    }

    /// Writes rows as Parquet files that no commit names yet: one for each day.
    pub(super) async fn write(
        &self,
        pinned: &PinnedRollup,
        rows: &[RecordBatch],
    ) -> Result<Vec<Add>, LakeError> {
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        let stats = WriterStatsConfig::from_config(state.snapshot().table_configuration());
        let config = WriterConfig::new(
            ROLLUP_SCHEMA.clone(),
            vec![PARTITION_COLUMN.to_owned()],
            Some(schema::writer_properties()),
            None,
            None,
            stats.num_indexed_cols,
            stats.stats_columns,
        );
        let mut writer = DeltaWriter::new(self.log_store.object_store(None), config);
        for batch in rows {
            writer.write(batch).await.map_err(self.failed("write Parquet files of"))?;
        }
        writer.close().await.map_err(self.failed("write Parquet files of"))
    }

    /// Makes `actions` and `positions` the next version after `pinned`. `None` when somebody else made it first: then
    /// nothing has changed, and what was computed may count what that one has counted.
    ///
    /// Each commit says all positions, so that any one of them tells how far the rollup is.
    pub(super) async fn commit(
        &self,
        pinned: &PinnedRollup,
        actions: Vec<Action>,
        positions: &Positions,
        operation: DeltaOperation,
    ) -> Result<Option<u64>, LakeError> {
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        let nonce = actions.iter().find_map(|action| match action {
            Action::Add(add) => Some(add.path.clone()),
            _ => None,
        });
        let properties = CommitProperties::default()
            .with_application_transactions(positions.transactions())
            // One try at the next version: on a later one, sums would be added to sums that are not known.
            .with_max_retries(0)
            .with_cleanup_expired_logs(Some(false));
        let committed = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(state), self.log_store.clone(), operation)
            .await;
        match committed {
            Ok(commit) => Ok(Some(commit.version)),
            // An error says nothing about whether the commit landed: the table is asked.
            Err(error) => match self.landed(pinned.version, nonce.as_deref(), positions).await {
                Ok(true) => Ok(Some(pinned.version.saturating_add(1))),
                Ok(false) if is_conflict(&error) => Ok(None),
                _ => Err(self.failed("commit to")(error)),
            },
        }
    }

    /// Whether the version after `before` is the one that we tried to make.
    async fn landed(
        &self,
        before: u64,
        path: Option<&str>,
        positions: &Positions,
    ) -> Result<bool, LakeError> {
        let next = before.saturating_add(1);
        let entry = self.log_store.read_commit_entry(next).await.map_err(self.failed("read a commit of"))?;
        let Some(entry) = entry else { return Ok(false) };
        let actions = get_actions(next, &entry).map_err(self.failed("read a commit of"))?;
        let ours = |action: &Action| matches!(action, Action::Add(add) if Some(add.path.as_str()) == path);
        Ok(match path {
            // Names of files are never given twice.
            Some(_) => actions.iter().any(ours),
            None => Positions::told_by(&actions).as_ref() == Some(positions),
        })
    }

    pub(super) fn failed(&self, action: &'static str) -> impl FnOnce(DeltaTableError) -> LakeError {
        failed(self.url.clone(), action)
    }
}

impl fmt::Debug for RollupTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RollupTable({})", self.url)
    }
}

impl fmt::Debug for PinnedRollup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedRollup({} at {}, {:?})", self.table.table_url(), self.version, self.positions)
    }
}

/// What the newest commit of ours at or below `version` says. Looks no further back than what is `known`.
async fn positions_at(
    log_store: &LogStoreRef,
    version: u64,
    known: Option<(u64, &Positions)>,
) -> Result<Positions, LakeError> {
    let url = log_store.root_url();
    for version in (1..=version).rev() {
        if let Some((at, positions)) = known
            && at == version
        {
            return Ok(positions.clone());
        }
        let entry = log_store.read_commit_entry(version).await;
        let entry = entry.map_err(failed(url.clone(), "read a commit of"))?;
        // Cleaned up; the checkpoint that stands for it knows every transaction.
        let Some(entry) = entry else { return positions_of_log(log_store).await };
        let actions = get_actions(version, &entry).map_err(failed(url.clone(), "read a commit of"))?;
        if let Some(positions) = Positions::told_by(&actions) {
            return Ok(positions);
        }
    }
    Ok(Positions::default())
}

async fn positions_of_log(log_store: &LogStoreRef) -> Result<Positions, LakeError> {
    let known = transactions(log_store).await.map_err(|error| match error {
        MaintainError::Lake(error) => error,
        other => LakeError::NoPositions { table: log_store.root_url().clone(), reason: other.to_string() },
    })?;
    let known = known.into_iter().map(|(app_id, version)| Action::Txn(Transaction::new(app_id, version)));
    Ok(Positions::told_by(&known.collect::<Vec<_>>()).unwrap_or_default())
}

async fn create(log_store: &LogStoreRef, grain: Grain) -> Result<DeltaTable, LakeError> {
    let schema: StructType = ROLLUP_SCHEMA.as_ref().try_into_kernel()?;
    let comment = format!("Partial sums of events by {}: add up rows that share their labels", grain.unit());
    CreateBuilder::new()
        .with_log_store(Arc::clone(log_store))
        .with_table_name(grain.table_name())
        .with_comment(comment)
        .with_columns(schema.fields().cloned())
        .with_partition_columns([PARTITION_COLUMN])
        .with_configuration(schema::configuration().into_iter().map(|(key, value)| (key, Some(value))))
        // One try at version 0. A second would add our metadata to the table of whoever was faster.
        .with_commit_properties(CommitProperties::default().with_max_retries(0))
        .await
        .map_err(failed(log_store.root_url().clone(), "make"))
}
