//! Opens what a data folder holds: control store, spool and lake. For the server, and for commands beside it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use async_trait::async_trait;
use sendlake_control::ControlStore;
use sendlake_control::clock::Timestamp;
use sendlake_control::domain::Domain;
use sendlake_control::export::ExportBatch;
use sendlake_control::feedback_loop::FeedbackLoop;
use sendlake_control::id::{Ids, TenantId};
use sendlake_control::secret::{Keyring, MasterKey};
use sendlake_ingest::domain_tables::{Kind, ReportTable, ReportTables};
use sendlake_ingest::event::to_batch;
use sendlake_ingest::maintain::plan::PlanSettings;
use sendlake_ingest::maintain::rewrite::RewriteSettings;
use sendlake_ingest::maintain::round::{Maintainer, MaintenanceSettings};
use sendlake_ingest::outbox::Outbox;
use sendlake_ingest::quotas::{PublishedQuotas, QuotasTable};
use sendlake_ingest::rollups::Rollups;
use sendlake_ingest::rollups::table::{Grain, PinnedRollup};
use sendlake_ingest::store::{LakeStore, StoreError, durable, open_store_by};
use sendlake_ingest::table::{EventsTable, LakeError, Pinned};
use sendlake_query::{
    DomainRow, EngineLimits, EventSnapshot, EventSource, QueryEngine, QueryLimits, RollupSnapshot,
    SourceError, Surroundings, TableProvider,
};
use sendlake_sender::spool::{Sealer, SpoolReader, SpoolSettings};
use tokio::sync::OnceCell;

use crate::config::Config;
use crate::system;

/// Where the master key may come from besides its file.
const MASTER_KEY_VARIABLE: &str = "SENDLAKE_MASTER_KEY";

/// Most events of the outbox that one query reads beside the lake.
const HOT_ROWS_MAX: usize = 500_000;

/// Most batches of exports that SQL sees, the newest first.
const EXPORT_BATCHES_MAX: i64 = 100_000;

/// Longest wait for the lake to say what its newest version is. A query gives up sooner than its client does.
const LAKE_ANSWER_MAX: Duration = Duration::from_secs(10);

/// Opens the control store; makes it, its master key and the data folder where there are none.
pub async fn open_control(config: &Config, ids: &Ids) -> anyhow::Result<ControlStore> {
    let dir = &config.storage.dir;
    durable::create_dir(dir).with_context(|| format!("cannot make the data folder {}", dir.display()))?;
    refuse_lost_control(config)?;
    let master = master_key(config, ids, !config.control_path().exists())?;
    ControlStore::open(&config.control_path(), master, ids.clone()).await.map_err(Into::into)
}

/// A queue without the control store that holds its keys cannot be read: a fresh one beside it would look like
/// a first start, and be none.
fn refuse_lost_control(config: &Config) -> anyhow::Result<()> {
    let (control, spool) = (config.control_path(), config.spool_dir().join("spool.redb"));
    if spool.exists() && !control.exists() {
        bail!(
            "{} is missing, but there is a queue in {}, sealed under the keys that it holds; restore it from your \
             backup, or move spool/ away to start anew (mail that waits in it is not sent)",
            control.display(),
            config.spool_dir().display()
        );
    }
    Ok(())
}

/// Opens the control store of an existing data folder, for reading.
pub async fn read_control(config: &Config, ids: &Ids) -> anyhow::Result<ControlStore> {
    let path = config.control_path();
    if !path.exists() {
        bail!(
            "{} is no data folder: it holds no control.db; name one with --dir, or make one with `sendlake serve`",
            config.storage.dir.display()
        );
    }
    ControlStore::open_read_only(&path, master_key(config, ids, false)?, ids.clone())
        .await
        .map_err(Into::into)
}

fn master_key(config: &Config, ids: &Ids, may_create: bool) -> anyhow::Result<MasterKey> {
    if let Ok(text) = std::env::var(MASTER_KEY_VARIABLE) {
        return Ok(MasterKey::from_base64(&text, &format!("environment variable {MASTER_KEY_VARIABLE}"))?);
    }
    let path = config.master_key_path();
    if may_create {
        return Ok(MasterKey::load_or_create(&path, ids.entropy.as_ref())?);
    }
    MasterKey::load(&path)?.with_context(|| {
        format!(
            "the master key {} is missing, and without it nothing sealed in {} can be read; restore the file from \
             your backup, or set {MASTER_KEY_VARIABLE}",
            path.display(),
            config.storage.dir.display()
        )
    })
}

/// How the spool of this folder is set up.
pub fn spool_settings(config: &Config) -> SpoolSettings {
    SpoolSettings {
        dir: config.spool_dir(),
        node_id: config.node.id.clone(),
        free_space_floor_bytes: config.spool.free_space_floor_bytes,
        outbox_rows_max: config.spool.outbox_rows_max,
        cache_bytes: config.spool.cache_bytes,
    }
}

/// Before the stores of a known folder are opened, and made where they are missing: says so, as an unmounted
/// volume looks the same. An empty file in the spool's place is no spool.
pub fn tell_what_is_missing(config: &Config) -> anyhow::Result<()> {
    let spool = config.spool_dir().join("spool.redb");
    match std::fs::metadata(&spool) {
        Ok(file) if file.len() == 0 => bail!(
            "{} is empty, so the queue that it held is lost; restore spool/ from a backup, or remove the file to start \
             with an empty queue",
            spool.display()
        ),
        Ok(_) => {}
        Err(_) => tracing::warn!(path = %spool.display(), "there is no spool here: an empty one is made"),
    }
    Ok(())
}

/// The lake's place. Nothing is asked of it yet.
pub fn open_place(config: &Config) -> Result<LakeStore, StoreError> {
    open_store_by(&system::ids().clock, &config.lake_place(), &config.storage.options)
}

/// Asks the lake's place whether it can be read and written. Returns whether it holds a lake; makes none.
pub async fn try_lake(config: &Config) -> anyhow::Result<bool> {
    let store = open_place(config)?;
    store.probe().await?;
    Ok(EventsTable::open_existing(&store).await?.is_some())
}

/// The lake's events table, asked nothing yet: it is opened by its first use, and made where there is none.
pub fn open_lake(config: &Config) -> anyhow::Result<Arc<EventsTable>> {
    let store = open_place(config)?;
    Ok(Arc::new(EventsTable::lazy(&store)?))
}

/// What keeps the lake in shape, as it is configured.
pub fn maintainer(config: &Config, events: Arc<EventsTable>) -> anyhow::Result<Maintainer> {
    let store = open_place(config)?;
    Ok(Maintainer { store, events, settings: maintenance_settings(config) })
}

/// How the lake is kept.
pub fn maintenance_settings(config: &Config) -> MaintenanceSettings {
    let settings = &config.maintenance;
    let hours_ms = |hours: u32| i64::from(hours).saturating_mul(3_600_000);
    MaintenanceSettings {
        plan: PlanSettings {
            target_file_bytes: settings.target_file_bytes,
            small_files_min: settings.small_files_min,
            settle_ms: i64::from(settings.settle_s).saturating_mul(1_000),
        },
        rewrite: rewrite_settings(config),
        retention_days: settings.retention_days,
        vacuum_grace_ms: hours_ms(settings.vacuum_grace_h),
        log_retention_ms: hours_ms(settings.log_retention_h),
        ignored_readers: settings.ignored_readers.clone(),
    }
}

/// What one rewrite of the lake's files may use.
pub fn rewrite_settings(config: &Config) -> RewriteSettings {
    RewriteSettings {
        memory_bytes: config.maintenance.memory_bytes,
        spill_dir: config.sort_dir(),
        target_file_bytes: config.maintenance.target_file_bytes,
    }
}

/// The lake's table of published limits, likewise.
pub fn open_quotas(config: &Config) -> anyhow::Result<Arc<QuotasTable>> {
    let store = open_place(config)?;
    Ok(Arc::new(QuotasTable::lazy(&store)?))
}

/// The lake's tables of DMARC and TLS reports, likewise.
pub fn open_report_tables(config: &Config) -> anyhow::Result<ReportTables> {
    Ok(ReportTables::lazy(&open_place(config)?)?)
}

/// A query engine over a data folder, beside a server or without one: the lake, and the spool's events where
/// this folder has a spool.
pub async fn open_reading(config: &Config, ids: &Ids) -> anyhow::Result<(QueryEngine, Option<SpoolReader>)> {
    let control = Arc::new(read_control(config, ids).await?);
    let sealer = sealer(&control);
    let spool = if config.spool_dir().exists() {
        Some(SpoolReader::open(&config.spool_dir(), sealer, &config.node.id)?)
    } else {
        None
    };
    let outbox = spool.clone().map(|reader| Arc::new(reader) as Arc<dyn Outbox>);
    let store = open_place(config)?;
    let lake = EventsTable::open_existing(&store).await?.with_context(|| {
        format!(
            "there is no lake at {}; is its volume mounted, or is storage.lake_url wrong?",
            config.lake_place()
        )
    })?;
    let surroundings = NodeSurroundings { control, lake: store, ids: ids.clone() };
    let engine = open_engine(config, Arc::new(lake), outbox, surroundings)?;
    Ok((engine, spool))
}

/// A query engine over the lake and the events that have not reached it.
pub fn open_engine(
    config: &Config,
    table: Arc<EventsTable>,
    outbox: Option<Arc<dyn Outbox>>,
    surroundings: NodeSurroundings,
) -> anyhow::Result<QueryEngine> {
    let limits = EngineLimits {
        query: QueryLimits {
            time: Duration::from_millis(config.sql.time_ms_max),
            memory_bytes: config.sql.memory_bytes_max,
            rows: config.sql.rows_max,
        },
        concurrent_queries: config.sql.concurrent_max,
        footer_cache_bytes: config.sql.footer_cache_bytes,
        ..EngineLimits::default()
    };
    let rollups = LakeRollups { store: surroundings.lake.clone(), opened: OnceCell::new() };
    Ok(QueryEngine::new(Arc::new(LakeSource { table, outbox, rollups }), Arc::new(surroundings), limits)?)
}

/// What queries read besides events: the clock, sending domains, the published limits.
pub struct NodeSurroundings {
    pub control: Arc<ControlStore>,
    pub lake: LakeStore,
    pub ids: Ids,
}

#[async_trait]
impl Surroundings for NodeSurroundings {
    fn now(&self) -> Timestamp {
        self.ids.now()
    }

    async fn domains(&self) -> Result<Vec<DomainRow>, SourceError> {
        let domains = self.control.domains(None).await.map_err(|error| SourceError(error.to_string()))?;
        let row = |domain: Domain| DomainRow {
            tenant_id: domain.tenant_id,
            domain: domain.domain,
            created_at: domain.created_at,
            warm_at: domain.warm_at,
        };
        Ok(domains.into_iter().map(row).collect())
    }

    async fn feedback_loops(&self) -> Result<Vec<FeedbackLoop>, SourceError> {
        self.control.feedback_loops().await.map_err(|error| SourceError(error.to_string()))
    }

    async fn published_quotas(&self) -> Result<Option<PublishedQuotas>, SourceError> {
        let failed = |error: LakeError| SourceError(error.to_string());
        match QuotasTable::open_existing(&self.lake).await.map_err(failed)? {
            Some(table) => table.load().await.map_err(failed),
            None => Ok(None),
        }
    }

    async fn export_batches(&self) -> Result<Vec<ExportBatch>, SourceError> {
        let found = self.control.export_batches(None, EXPORT_BATCHES_MAX).await;
        found.map_err(|error| SourceError(error.to_string()))
    }

    async fn reports(&self, kind: Kind) -> Result<Option<Arc<dyn TableProvider>>, SourceError> {
        let failed = |error: &dyn std::fmt::Display| SourceError(error.to_string());
        let opened = ReportTable::open_existing(&self.lake, kind).await.map_err(|e| failed(&e))?;
        let Some(table) = opened else { return Ok(None) };
        let pinned = table.pin().await.map_err(|e| failed(&e))?;
        let provider = pinned.table_provider().build().await.map_err(|e| failed(&e))?;
        Ok(Some(Arc::new(provider)))
    }
}

/// What queries read: the lake's table at one version, and the spool's events past it.
struct LakeSource {
    table: Arc<EventsTable>,
    outbox: Option<Arc<dyn Outbox>>,
    rollups: LakeRollups,
}

/// The rollups, from the first time that a query asks for them and they are there.
struct LakeRollups {
    store: LakeStore,
    opened: OnceCell<Rollups>,
}

impl LakeRollups {
    async fn pin(&self) -> Result<Vec<(Grain, PinnedRollup)>, LakeError> {
        if self.opened.get().is_none()
            && let Some(rollups) = Rollups::open_existing(&self.store).await?
        {
            // Two queries may both have opened them; either will do.
            let _ = self.opened.set(rollups);
        }
        let mut pinned = Vec::new();
        for table in self.opened.get().iter().flat_map(|rollups| rollups.tables()) {
            pinned.push((table.grain(), table.pin().await?));
        }
        Ok(pinned)
    }
}

impl LakeSource {
    async fn read(&self) -> Result<(EventSnapshot, Pinned), SourceError> {
        let failed = |error: &dyn std::fmt::Display| SourceError(error.to_string());
        let reading = self.table.snapshot(self.outbox.as_ref(), HOT_ROWS_MAX);
        let snapshot = match tokio::time::timeout(LAKE_ANSWER_MAX, reading).await {
            Ok(snapshot) => snapshot.map_err(|e| failed(&e))?,
            Err(_) => {
                return Err(SourceError(format!(
                    "the lake at {} does not answer within {} s; events are kept, ask again when it can be reached",
                    self.table.url(),
                    LAKE_ANSWER_MAX.as_secs()
                )));
            }
        };
        if !snapshot.hot_complete {
            let text = format!(
                "more than {HOT_ROWS_MAX} events wait for the lake, too many for one query; see why the lake is not \
                 written (`sendlake serve` logs it), and ask again when they have gone"
            );
            return Err(SourceError(text));
        }
        let hot = to_batch(&snapshot.hot).map_err(|e| failed(&e))?;
        let cold = snapshot.table.table_provider().build().await.map_err(|e| failed(&e))?;
        let events = EventSnapshot {
            cold: Arc::new(cold),
            hot: vec![hot],
            spilled: snapshot.spilled,
            version: i64::try_from(snapshot.version).ok(),
        };
        Ok((events, Pinned { table: snapshot.table, version: snapshot.version, committed_lsn: 0 }))
    }

    /// A rollup that was pinned before `events`, and the events that it does not hold.
    async fn rollup(
        &self,
        grain: Grain,
        rollup: PinnedRollup,
        events: &EventSnapshot,
        pinned: &Pinned,
    ) -> Result<RollupSnapshot, SourceError> {
        let failed = |error: &dyn std::fmt::Display| SourceError(error.to_string());
        let changes = self.table.changes(rollup.positions.events_version, pinned).await;
        let files = changes.map_err(|e| failed(&e))?.files.into_keys();
        let provider = pinned.table.table_provider().with_file_paths(files);
        let cold = provider.build().await.map_err(|e| failed(&e))?;
        let stored = rollup.table.table_provider().build().await.map_err(|e| failed(&e))?;
        let lsn = rollup.positions.lsn.into_iter();
        Ok(RollupSnapshot {
            grain,
            stored: Some(Arc::new(stored)),
            uncounted: EventSnapshot { cold: Arc::new(cold), ..events.clone() },
            counted_lsn: lsn.map(|(incarnation, lsn)| (incarnation.to_string(), lsn)).collect(),
        })
    }
}

#[async_trait]
impl EventSource for LakeSource {
    async fn snapshot(&self) -> Result<EventSnapshot, SourceError> {
        Ok(self.read().await?.0)
    }

    async fn snapshot_with_rollups(&self) -> Result<(EventSnapshot, Vec<RollupSnapshot>), SourceError> {
        let rollups = self.rollups.pin().await.map_err(|error| SourceError(error.to_string()))?;
        let (events, pinned) = self.read().await?;
        if rollups.is_empty() {
            return Ok((events.clone(), RollupSnapshot::nothing_counted(&events)));
        }
        let mut snapshots = Vec::new();
        for (grain, rollup) in rollups {
            snapshots.push(self.rollup(grain, rollup, &events, &pinned).await?);
        }
        Ok((events, snapshots))
    }
}

/// Seals the spool's values with the tenants' data keys.
pub fn sealer(control: &ControlStore) -> Arc<dyn Sealer> {
    Arc::new(KeyringSealer(control.keyring()))
}

struct KeyringSealer(Arc<Keyring>);

impl Sealer for KeyringSealer {
    fn seal(&self, tenant: &TenantId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, String> {
        self.0.seal(tenant, aad, plain).map_err(|error| error.to_string())
    }

    fn open(&self, tenant: &TenantId, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String> {
        self.0.open(tenant, aad, sealed).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests;
