//! Where rows come from: one consistent reading of the lake and of the events that are still on their way, and the
//! few small things that the views need besides.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use sendlake_control::clock::Timestamp;
use sendlake_control::export::ExportBatch;
use sendlake_control::feedback_loop::FeedbackLoop;
use sendlake_control::id::TenantId;
use sendlake_ingest::domain_tables::Kind;
use sendlake_ingest::quotas::PublishedQuotas;
use sendlake_ingest::read::Spilled;
use sendlake_ingest::rollups::table::Grain;

/// What a query reads from. Asked once per query, so that everything in the query sees the same rows.
#[async_trait]
pub trait EventSource: Send + Sync {
    /// One reading. Hot rows first, version second, so that no row falls between the two.
    async fn snapshot(&self) -> Result<EventSnapshot, SourceError>;

    /// One reading with the rollups: each event is in what a rollup holds or among those that it has yet to count, never
    /// in both. For that, rollups are read first. Where there are none, every event has yet to be counted.
    async fn snapshot_with_rollups(&self) -> Result<(EventSnapshot, Vec<RollupSnapshot>), SourceError> {
        let events = self.snapshot().await?;
        Ok((events.clone(), RollupSnapshot::nothing_counted(&events)))
    }
}

/// One consistent reading: each event is in `cold`, in `spilled` or in `hot`, never in two of them.
#[derive(Clone)]
pub struct EventSnapshot {
    /// The lake at one version. Columns are matched by name with `EVENTS_SCHEMA`: their order does not
    /// matter, types may differ where a cast loses nothing (string views, dictionaries), extra columns are
    /// ignored and missing ones read as null.
    pub cold: Arc<dyn TableProvider>,
    /// Rows that `cold` does not hold yet, each batch with exactly `EVENTS_SCHEMA`.
    pub hot: Vec<RecordBatch>,
    /// Files with rows that `cold` does not hold yet. Read as files: there may be more than memory holds.
    pub spilled: Vec<Spilled>,
    /// The version of the lake's table that was pinned; none before its first commit.
    pub version: Option<i64>,
}

/// One rollup in the same reading.
#[derive(Clone, Debug)]
pub struct RollupSnapshot {
    pub grain: Grain,
    /// Its rows in the lake, with the columns of `ROLLUP_SCHEMA`; matched like those of events.
    pub stored: Option<Arc<dyn TableProvider>>,
    /// Events that may be missing in `stored`: all that are, and others beside them.
    pub uncounted: EventSnapshot,
    /// Per spool (incarnation) the LSN up to which its events are in `stored`.
    pub counted_lsn: BTreeMap<String, u64>,
}

impl RollupSnapshot {
    /// Rollups that hold nothing yet.
    pub fn nothing_counted(events: &EventSnapshot) -> Vec<Self> {
        let empty =
            |grain| Self { grain, stored: None, uncounted: events.clone(), counted_lsn: BTreeMap::new() };
        Grain::ALL.map(empty).into()
    }
}

impl fmt::Debug for EventSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hot_rows = self.hot.iter().map(RecordBatch::num_rows).sum::<usize>();
        f.debug_struct("EventSnapshot")
            .field("version", &self.version)
            .field("hot_rows", &hot_rows)
            .field("spilled", &self.spilled)
            .finish_non_exhaustive()
    }
}

/// What views read besides events. Each is asked for only by a query that names it.
#[async_trait]
pub trait Surroundings: Send + Sync {
    /// What `as_of` holds unless a query brings its own instants.
    fn now(&self) -> Timestamp;

    /// Every tenant's sending domains.
    async fn domains(&self) -> Result<Vec<DomainRow>, SourceError>;

    /// Every enrolment in a provider's feedback loop.
    async fn feedback_loops(&self) -> Result<Vec<FeedbackLoop>, SourceError>;

    /// The limits that the sender obeys at this moment; none before the first publication.
    async fn published_quotas(&self) -> Result<Option<PublishedQuotas>, SourceError>;

    /// The newest batches of exports, as their ledger has them; none where nothing is exported.
    async fn export_batches(&self) -> Result<Vec<ExportBatch>, SourceError> {
        Ok(Vec::new())
    }

    /// A table of reports at one version; none before its first report. Columns are matched like those of events.
    async fn reports(&self, _kind: Kind) -> Result<Option<Arc<dyn TableProvider>>, SourceError> {
        Ok(None)
    }
}

/// One row of `domains`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainRow {
    pub tenant_id: TenantId,
    pub domain: String,
    pub created_at: Timestamp,
    /// Set for a domain that sent in volume before, elsewhere: it needs no warm-up.
    pub warm_at: Option<Timestamp>,
}

/// The lake or the outbox could not be read. The text is for the operator: it may name paths.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);
