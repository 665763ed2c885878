//! Runs one query for one scope: parsed and checked, bound to a snapshot, within its limits, on threads that
//! deliver no mail.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::catalog::{
    CatalogProvider, CatalogProviderList, MemoryCatalogProvider, MemoryCatalogProviderList,
    MemorySchemaProvider,
};
use datafusion::datasource::ViewTable;
use datafusion::error::DataFusionError;
use datafusion::execution::cache::cache_manager::CacheManagerConfig;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::execution::{FunctionRegistry, SendableRecordBatchStream};
use datafusion::physical_plan::execute_stream;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use datafusion::sql::parser::Statement;
use futures::StreamExt;
use sendlake_control::clock::Timestamp;
use sendlake_ingest::domain_tables::Kind;
use sendlake_sql::{VIEWS, View};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::classify::classify_reply;
use crate::error::QueryError;
use crate::limits::{EngineLimits, QueryLimits};
use crate::pause::{Stop, stoppable};
use crate::relations::{self, Relations};
use crate::rollups;
use crate::scope::Scope;
use crate::source::{EventSource, SourceError, Surroundings};
use crate::statement;
use crate::table::ScopedTable;

/// Planning recurses; pages of a stack that are never touched cost nothing.
const STACK_BYTES: usize = 64 << 20;

const CATALOG: &str = "sendlake";
const SCHEMA: &str = "public";

/// What a query gave.
#[derive(Clone, Debug)]
pub struct QueryOutput {
    /// Column names are unique: a second `x` is called `x_2`.
    pub schema: SchemaRef,
    pub batches: Vec<RecordBatch>,
    /// There were more rows than the limit.
    pub truncated: bool,
    /// From the request to the last row.
    pub elapsed: Duration,
    /// The version of the lake's table that was read; none before its first commit.
    pub version: Option<i64>,
}

impl QueryOutput {
    pub fn num_rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// At which instants a query judges, and how far back it has to look.
#[derive(Clone, Debug, Default)]
pub struct Instants {
    /// The rows of `as_of`; empty for one row, the clock's.
    pub as_of: Vec<Timestamp>,
    /// Events of earlier days (days since the epoch) are not read: for whoever knows that the statement asks for
    /// none, as that spares it the files of years.
    pub since_day: Option<i32>,
}

/// Answers SQL over `events`, the rollups and the views. One per process; cheap to share behind an [`Arc`].
pub struct QueryEngine {
    inner: Arc<Inner>,
    limits: EngineLimits,
    running: Arc<Semaphore>,
    threads: Threads,
}

struct Inner {
    source: Arc<dyn EventSource>,
    surroundings: Arc<dyn Surroundings>,
    /// Functions and settings, the same for every session.
    base: SessionState,
}

/// A runtime of its own, so that a query that hogs its thread delays other queries at most. Its threads end
/// in the background: dropping a runtime inside another one would panic.
struct Threads(Option<tokio::runtime::Runtime>);

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl QueryEngine {
    /// Starts the query threads. Fails when the system gives no threads.
    pub fn new(
        source: Arc<dyn EventSource>,
        surroundings: Arc<dyn Surroundings>,
        limits: EngineLimits,
    ) -> Result<Self, QueryError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(limits.threads.max(1))
            .thread_name("sendlake-query")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| QueryError::Internal(format!("query threads do not start: {error}")))?;
        let base = base_state(&limits)
            .map_err(|error| QueryError::Internal(format!("the query engine does not start: {error}")))?;
        Ok(Self {
            inner: Arc::new(Inner { source, surroundings, base }),
            limits,
            running: Arc::new(Semaphore::new(limits.concurrent_queries)),
            threads: Threads(Some(runtime)),
        })
    }

    pub fn limits(&self) -> EngineLimits {
        self.limits
    }

    /// Runs one statement for `scope`. `limits` can only lower the engine's own.
    ///
    /// The answer or [`QueryError::TimeLimit`] comes at the limit at the latest; work that does not pause goes
    /// on behind it until it does, and counts against the concurrent queries until then.
    pub async fn query(
        &self,
        scope: &Scope,
        sql: &str,
        limits: QueryLimits,
    ) -> Result<QueryOutput, QueryError> {
        self.query_as_of(scope, sql, limits, &[]).await
    }

    /// The same, judged at `as_of` instead of now; several instants give the rows of each.
    pub async fn query_as_of(
        &self,
        scope: &Scope,
        sql: &str,
        limits: QueryLimits,
        as_of: &[Timestamp],
    ) -> Result<QueryOutput, QueryError> {
        let limits = limits.at_most(self.limits.query);
        let too_many = || QueryError::TooManyQueries { limit: self.limits.concurrent_queries };
        let permit = Arc::clone(&self.running).try_acquire_owned().map_err(|_| too_many())?;
        // A few KiB of text are read here; more is refused before anything looks at it.
        if sql.len() > statement::SQL_BYTES_MAX {
            return Err(QueryError::TooLong { bytes: sql.len(), limit_bytes: statement::SQL_BYTES_MAX });
        }
        let instants = Instants { as_of: as_of.to_vec(), since_day: None };
        self.run_within(scope, sql, limits, instants, Some(permit)).await
    }

    /// Runs a statement of the installation's own over every tenant's rows. It takes no place among the concurrent
    /// queries, and `limits` are all that bounds it: callers see to it that few run at once.
    pub async fn judge(
        &self,
        sql: &str,
        limits: QueryLimits,
        instants: Instants,
    ) -> Result<QueryOutput, QueryError> {
        self.run_within(&Scope::AllTenants, sql, limits, instants, None).await
    }

    async fn run_within(
        &self,
        scope: &Scope,
        sql: &str,
        limits: QueryLimits,
        instants: Instants,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<QueryOutput, QueryError> {
        let Some(runtime) = &self.threads.0 else {
            return Err(QueryError::Internal("the query threads have ended".to_owned()));
        };
        let (inner, work_scope, sql) = (Arc::clone(&self.inner), scope.clone(), sql.to_owned());
        let stop = Stop::default();
        let stopped = stop.clone();
        let task = runtime.spawn(async move {
            let output = inner.run(&work_scope, &sql, limits, &instants, &stopped).await;
            drop(permit);
            output
        });
        let mut work = StopOnDrop { task, stop };
        match tokio::time::timeout(limits.time, &mut work.task).await {
            Ok(Ok(output)) => output,
            Ok(Err(ended)) => Err(QueryError::internal(&ended.to_string(), scope)),
            Err(_) => Err(QueryError::TimeLimit { limit: limits.time }),
        }
    }

    /// A session with `events` and every view, bound to `scope` and to one snapshot, for surfaces that plan for
    /// themselves (Postgres wire, Flight). It is bound to the tenant, but checks no statement: call
    /// [`SQLOptions`] and [`QueryEngine::check`] on what comes from outside.
    pub async fn session(&self, scope: &Scope) -> Result<SessionContext, QueryError> {
        let (session, _) =
            self.inner.session(scope, &Reads::everything(), self.limits.query, &Instants::default()).await?;
        Ok(session)
    }

    /// The checks of [`QueryEngine::query`] alone: one read-only statement of bounded size.
    pub fn check(scope: &Scope, sql: &str) -> Result<(), QueryError> {
        statement::parse(sql, scope).map(|_| ())
    }
}

/// A query whose caller went away stops at its next pause.
struct StopOnDrop<T> {
    task: tokio::task::JoinHandle<T>,
    stop: Stop,
}

impl<T> Drop for StopOnDrop<T> {
    fn drop(&mut self) {
        self.stop.now();
        self.task.abort();
    }
}

impl Inner {
    async fn run(
        &self,
        scope: &Scope,
        sql: &str,
        limits: QueryLimits,
        instants: &Instants,
        stop: &Stop,
    ) -> Result<QueryOutput, QueryError> {
        let began = Instant::now();
        let failed = |error: DataFusionError| QueryError::from_datafusion(&error, scope, limits.memory_bytes);
        let statement = statement::parse(sql, scope)?;
        let reads = Reads::of(&self.base, &statement).map_err(failed)?;
        let (session, version) = self.session(scope, &reads, limits, instants).await?;
        let state = session.state();
        let plan = state.statement_to_plan(statement).await.map_err(failed)?;
        read_only().verify_plan(&plan).map_err(failed)?;
        let plan = state.create_physical_plan(&plan).await.map_err(failed)?;
        let plan = stoppable(plan, stop).map_err(failed)?;
        let stream = execute_stream(plan, session.task_ctx()).map_err(failed)?;
        let schema = unique_names(&stream.schema());
        let (batches, truncated) = collect(stream, &schema, scope, limits).await?;
        Ok(QueryOutput { schema, batches, truncated, elapsed: began.elapsed(), version })
    }

    async fn session(
        &self,
        scope: &Scope,
        reads: &Reads,
        limits: QueryLimits,
        instants: &Instants,
    ) -> Result<(SessionContext, Option<i64>), QueryError> {
        let failed = |error: DataFusionError| QueryError::from_datafusion(&error, scope, limits.memory_bytes);
        let source_failed = |error: SourceError| QueryError::source_failed(error.to_string(), scope);
        let relations = Relations::read(self.surroundings.as_ref(), &instants.as_of, reads.relations.clone());
        let relations = relations.await.map_err(source_failed)?;
        let (snapshot, mut rollups) = match reads.rollups.is_empty() {
            true => (self.source.snapshot().await.map_err(source_failed)?, Vec::new()),
            false => self.source.snapshot_with_rollups().await.map_err(source_failed)?,
        };
        rollups.retain(|rollup| reads.rollups.contains(rollup.grain.table_name()));
        let version = snapshot.version;
        let environment = RuntimeEnv {
            memory_pool: Arc::new(GreedyMemoryPool::new(limits.memory_bytes)),
            ..self.base.runtime_env().as_ref().clone()
        };
        let environment = Arc::new(environment);
        let session = self.empty_session(&environment).map_err(failed)?;
        let events = ScopedTable::new(snapshot, scope.clone(), instants.since_day);
        session.register_table("events", Arc::new(events)).map_err(failed)?;
        for rollup in rollups {
            let name = rollup.grain.table_name();
            let scratch = self.empty_session(&environment).map_err(failed)?;
            let relation = rollups::relation(&scratch, rollup, scope, self.surroundings.now()).await;
            session.register_table(name, Arc::new(relation.map_err(failed)?)).map_err(failed)?;
        }
        for kind in &reads.reports {
            let stored = self.surroundings.reports(*kind).await.map_err(source_failed)?;
            let table = ScopedTable::reports(*kind, stored, scope.clone()).map_err(failed)?;
            session.register_table(kind.table_name(), Arc::new(table)).map_err(failed)?;
        }
        for (name, table) in relations.tables(scope).map_err(failed)? {
            session.register_table(name, Arc::new(table)).map_err(failed)?;
        }
        for view in &reads.views {
            let plan = session.state().create_logical_plan(view.sql).await.map_err(failed)?;
            let table = ViewTable::new(plan, Some(view.sql.to_owned()));
            session.register_table(view.name, Arc::new(table)).map_err(failed)?;
        }
        Ok((session, version))
    }

    fn empty_session(&self, environment: &Arc<RuntimeEnv>) -> Result<SessionContext, DataFusionError> {
        let state = SessionStateBuilder::new_from_existing(self.base.clone())
            .with_catalog_list(empty_catalog()?)
            .with_runtime_env(Arc::clone(environment))
            .build();
        Ok(SessionContext::new_with_state(state))
    }
}

fn base_state(limits: &EngineLimits) -> Result<SessionState, DataFusionError> {
    let config = SessionConfig::new()
        .with_target_partitions(limits.threads.max(1))
        .with_default_catalog_and_schema(CATALOG, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true);
    // Footers are all that is kept between queries. Files come from Delta's log with what it says about them: there is
    // nothing to list, and what the engine would keep about spilled files is in their footers.
    let caches = CacheManagerConfig::default()
        .with_metadata_cache_limit(limits.footer_cache_bytes)
        .with_file_statistics_cache_limit(0)
        .with_list_files_cache_limit(0);
    // A sort that outgrows its memory fails; it does not fill the disk that the spool lives on.
    let environment = RuntimeEnvBuilder::new()
        .with_cache_manager(caches)
        .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
        .build_arc()?;
    let mut state = SessionStateBuilder::new()
        .with_config(config)
        .with_runtime_env(environment)
        .with_default_features()
        .build();
    for name in statement::REMOVED_FUNCTIONS {
        state.deregister_udf(name)?;
    }
    state.register_udf(Arc::new(classify_reply()))?;
    Ok(state)
}

/// A catalog of its own for each session, so that what one registers no other sees.
fn empty_catalog() -> Result<Arc<dyn CatalogProviderList>, DataFusionError> {
    let catalog = MemoryCatalogProvider::new();
    catalog.register_schema(SCHEMA, Arc::new(MemorySchemaProvider::new()))?;
    let catalogs = MemoryCatalogProviderList::new();
    catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
    Ok(Arc::new(catalogs))
}

fn read_only() -> SQLOptions {
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false)
}

/// What a statement reads besides `events`. Planning all the views would cost more than most queries do.
struct Reads {
    /// In dependency order.
    views: Vec<&'static View>,
    relations: HashSet<&'static str>,
    rollups: HashSet<&'static str>,
    reports: Vec<Kind>,
}

impl Reads {
    fn everything() -> Self {
        Self {
            views: VIEWS.iter().collect(),
            relations: relations::NAMES.iter().copied().collect(),
            rollups: rollups::names().into(),
            reports: Kind::ALL.into(),
        }
    }

    fn of(state: &SessionState, statement: &Statement) -> Result<Self, DataFusionError> {
        let asks_for_schema = !matches!(statement, Statement::Statement(statement)
            if matches!(statement.as_ref(), datafusion::sql::sqlparser::ast::Statement::Query(_)));
        let references = state.resolve_table_references(statement)?;
        if asks_for_schema || references.iter().any(|table| table.schema() == Some("information_schema")) {
            return Ok(Self::everything());
        }
        let mut wanted: HashSet<String> = references.iter().map(|table| table.table().to_owned()).collect();
        let mut views = Vec::new();
        let dialect = state.config_options().sql_parser.dialect;
        for view in VIEWS.iter().rev().filter(|_| !wanted.is_empty()).collect::<Vec<_>>() {
            if wanted.contains(view.name) {
                views.push(view);
                let statement = state.sql_to_statement(view.sql, &dialect)?;
                let references = state.resolve_table_references(&statement)?;
                wanted.extend(references.iter().map(|table| table.table().to_owned()));
            }
        }
        views.reverse();
        let relations = relations::NAMES.iter().copied().filter(|name| wanted.contains(*name)).collect();
        let rollups = rollups::names().into_iter().filter(|name| wanted.contains(*name)).collect();
        let reports = Kind::ALL.into_iter().filter(|kind| wanted.contains(kind.table_name())).collect();
        Ok(Self { views, relations, rollups, reports })
    }
}

/// Takes rows up to the limit, and one look further to know whether there are more.
async fn collect(
    mut stream: SendableRecordBatchStream,
    schema: &SchemaRef,
    scope: &Scope,
    limits: QueryLimits,
) -> Result<(Vec<RecordBatch>, bool), QueryError> {
    let (mut batches, mut rows, mut bytes) = (Vec::new(), 0, 0_usize);
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(|error| QueryError::from_datafusion(&error, scope, limits.memory_bytes))?;
        let room = limits.rows.saturating_sub(rows);
        let kept = batch.slice(0, room.min(batch.num_rows()));
        if kept.num_rows() > 0 {
            rows += kept.num_rows();
            bytes = bytes.saturating_add(kept.get_array_memory_size());
            if bytes > limits.memory_bytes {
                return Err(QueryError::MemoryLimit { limit_bytes: limits.memory_bytes });
            }
            batches.push(
                renamed(&kept, schema).map_err(|error| QueryError::internal(&error.to_string(), scope))?,
            );
        }
        if batch.num_rows() > room {
            return Ok((batches, true));
        }
    }
    Ok((batches, false))
}

fn renamed(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), batch.columns().to_vec(), &options)
}

/// A join of two tables may yield one name twice, which no JSON object can hold.
fn unique_names(schema: &SchemaRef) -> SchemaRef {
    let mut seen = HashSet::new();
    let fields = schema.fields().iter().map(|field| {
        let mut name = field.name().clone();
        let mut number = 2;
        while !seen.insert(name.clone()) {
            name = format!("{}_{number}", field.name());
            number += 1;
        }
        Arc::new(field.as_ref().clone().with_name(name))
    });
    Arc::new(arrow::datatypes::Schema::new_with_metadata(
        fields.collect::<Vec<_>>(),
        schema.metadata().clone(),
    ))
}

#[cfg(test)]
mod tests;
