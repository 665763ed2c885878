//! One question to a lake, asked as a server asks it and counted: the history of one message.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use async_trait::async_trait;
use sendlake_control::clock::Timestamp;
use sendlake_control::feedback_loop::FeedbackLoop;
use sendlake_control::id::TenantId;
use sendlake_ingest::quotas::PublishedQuotas;
use sendlake_ingest::store::open_store;
use sendlake_ingest::table::EventsTable;
use sendlake_query::output::{Format, to_bytes};
use sendlake_query::{
    DomainRow, EngineLimits, EventSnapshot, EventSource, QueryEngine, QueryLimits, QueryOutput, Scope,
    SourceError, Surroundings,
};
use serde_json::Value;

use crate::counting::{CountingStore, Requests};

/// A lake with nothing of it in this process's memory but Delta's log, as a server that has just started has it.
pub(crate) struct Lake {
    engine: QueryEngine,
    store: Arc<CountingStore>,
}

/// What one question cost.
pub(crate) struct Asked {
    pub took: Duration,
    pub requests: Requests,
    pub output: QueryOutput,
}

impl Lake {
    pub(crate) async fn open(folder: &Path) -> anyhow::Result<Self> {
        let store = open_store(&folder.to_string_lossy(), &Default::default())?;
        let (store, counting) = CountingStore::around(&store)?;
        let table = EventsTable::open_existing(&store).await?.context("there is no lake")?;
        let limits = EngineLimits {
            query: QueryLimits { time: Duration::from_secs(600), memory_bytes: 4 << 30, rows: 1_000_000 },
            ..EngineLimits::default()
        };
        let engine = QueryEngine::new(Arc::new(Source(Arc::new(table))), Arc::new(Nothing), limits)?;
        Ok(Self { engine, store: counting })
    }

    pub(crate) async fn ask(&self, scope: &Scope, sql: &str) -> anyhow::Result<Asked> {
        let before = self.store.requests();
        let started = Instant::now();
        let output = self.engine.query(scope, sql, self.engine.limits().query).await?;
        let took = started.elapsed();
        Ok(Asked { took, requests: self.store.requests().since(before), output })
    }

    /// The rows of a small answer, each as values by column.
    pub(crate) async fn rows(&self, sql: &str) -> anyhow::Result<Vec<Value>> {
        let asked = self.ask(&Scope::AllTenants, sql).await?;
        let answer: Value = serde_json::from_slice(&to_bytes(&asked.output, Format::Json)?)?;
        Ok(answer.get("rows").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Asks for the history of a message, which must have one.
    pub(crate) async fn history(&self, scope: &Scope, message_id: &str) -> anyhow::Result<Asked> {
        let sql = format!("SELECT * FROM message_history WHERE message_id = '{message_id}' ORDER BY step");
        let asked = self.ask(scope, &sql).await?;
        ensure!(asked.output.num_rows() > 0, "message {message_id} has no history");
        Ok(asked)
    }
}

/// Drops what the system keeps of a folder's files in memory, as far as it lets us: dirty pages are written first.
pub(crate) fn forget(folder: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            forget(&entry.path())?;
        } else {
            let file = std::fs::File::open(entry.path())?;
            rustix::fs::fsync(&file)?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
        }
    }
    Ok(())
}

/// The lake at its newest version, without an outbox.
struct Source(Arc<EventsTable>);

#[async_trait]
impl EventSource for Source {
    async fn snapshot(&self) -> Result<EventSnapshot, SourceError> {
        let failed = |error: &dyn std::fmt::Display| SourceError(error.to_string());
        let snapshot = self.0.snapshot(None, 0).await.map_err(|error| failed(&error))?;
        let cold = snapshot.table.table_provider().build().await.map_err(|error| failed(&error))?;
        Ok(EventSnapshot {
            cold: Arc::new(cold),
            hot: Vec::new(),
            spilled: Vec::new(),
            version: i64::try_from(snapshot.version).ok(),
        })
    }
}

/// No domains, no published limits, no time.
struct Nothing;

#[async_trait]
impl Surroundings for Nothing {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }

    async fn domains(&self) -> Result<Vec<DomainRow>, SourceError> {
        Ok(Vec::new())
    }

    async fn feedback_loops(&self) -> Result<Vec<FeedbackLoop>, SourceError> {
        Ok(Vec::new())
    }

    async fn published_quotas(&self) -> Result<Option<PublishedQuotas>, SourceError> {
        Ok(None)
    }
}

/// The scope of one tenant.
pub(crate) fn scope_of(tenant: &str) -> anyhow::Result<Scope> {
    Ok(Scope::Tenant(TenantId::new(tenant)?))
}
