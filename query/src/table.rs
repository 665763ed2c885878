//! A base table, `events`, a rollup or a table of reports: the lake at one version and rows that it does not hold yet, bound to one scope.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, ScalarValue, plan_datafusion_err};
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::{ListingOptions, ListingTable, ListingTableConfig, ListingTableUrl};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::{MemTable, TableType};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, col, lit};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::union::UnionExec;
use sendlake_ingest::domain_tables::Kind;
use sendlake_ingest::event::EVENTS_SCHEMA;
use sendlake_ingest::read::Spilled;
use sendlake_ingest::rollups::schema::ROLLUP_SCHEMA;
use url::Url;

use crate::filter;
use crate::scan::{ScopedScanExec, SourceFailed};
use crate::scope::Scope;
use crate::source::EventSnapshot;

/// A table as one scope sees it: `events`, one that holds sums of them, or one of reports. Reports no statistics: those of the files count
/// everybody's rows.
#[derive(Debug)]
pub(crate) struct ScopedTable {
    /// What queries see. Has `tenant_id`.
    schema: SchemaRef,
    snapshot: EventSnapshot,
    scope: Scope,
    since_day: Option<i32>,
}

impl ScopedTable {
    /// `since_day` lets the source skip files of earlier days; it promises nothing about their rows.
    pub(crate) fn new(snapshot: EventSnapshot, scope: Scope, since_day: Option<i32>) -> Self {
        Self { schema: EVENTS_SCHEMA.clone(), snapshot, scope, since_day }
    }

    /// What a rollup holds in the lake.
    pub(crate) fn rollup(stored: Arc<dyn TableProvider>, scope: Scope) -> Self {
        Self::stored(ROLLUP_SCHEMA.clone(), stored, scope)
    }

    /// A table of reports; without rows where the lake has none.
    pub(crate) fn reports(kind: Kind, stored: Option<Arc<dyn TableProvider>>, scope: Scope) -> Result<Self> {
        let stored = match stored {
            Some(stored) => stored,
            None => Arc::new(MemTable::try_new(kind.schema(), vec![Vec::new()])?),
        };
        Ok(Self::stored(kind.schema(), stored, scope))
    }

    /// A table of which the lake holds everything.
    fn stored(schema: SchemaRef, stored: Arc<dyn TableProvider>, scope: Scope) -> Self {
        let snapshot = EventSnapshot { cold: stored, hot: Vec::new(), spilled: Vec::new(), version: None };
        Self { schema, snapshot, scope, since_day: None }
    }

    async fn scan_cold(
        &self,
        state: &dyn Session,
        schema: &SchemaRef,
        filters: &[Expr],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let cold = &self.snapshot.cold;
        let cold_schema = cold.schema();
        let mut columns: BTreeSet<usize> =
            schema.fields().iter().filter_map(|field| cold_schema.index_of(field.name()).ok()).collect();
        if self.scope.tenant().is_some() {
            columns.insert(cold_schema.index_of("tenant_id")?);
        }
        if self.since_day.max(filter::first_day(filters)).is_some() {
            columns.insert(cold_schema.index_of("event_date")?);
        }
        let wanted = self.wanted(filters, &cold_schema);
        let support = cold.supports_filters_pushdown(&wanted.iter().collect::<Vec<_>>())?;
        let supported = wanted.into_iter().zip(support);
        let pushed: Vec<Expr> = supported
            .filter(|(_, support)| *support != TableProviderFilterPushDown::Unsupported)
            .map(|(filter, _)| filter)
            .collect();

        let columns = columns.into_iter().collect::<Vec<_>>();
        let plan = cold.scan(state, Some(&columns), &pushed, None).await?;
        let config = state.config_options();
        let spread = plan.repartitioned(config.execution.target_partitions, config)?;
        Ok(spread.unwrap_or(plan))
    }

    /// The rows of files: planned like cold ones, and then those taken out that the lake holds too.
    async fn scan_spilled(
        &self,
        spilled: &Spilled,
        state: &dyn Session,
        schema: &SchemaRef,
        filters: &[Expr],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let urls = spilled.files.iter().map(|file| {
            let url = Url::from_file_path(&file.path);
            let url =
                url.map_err(|()| plan_datafusion_err!("{} has no absolute path", file.path.display()))?;
            ListingTableUrl::try_new(url, None)
        });
        let options = ListingOptions::new(Arc::new(ParquetFormat::default()));
        let config = ListingTableConfig::new_with_multi_paths(urls.collect::<Result<Vec<_>>>()?)
            .with_listing_options(options)
            .with_schema(EVENTS_SCHEMA.clone());
        let files = ListingTable::try_new(config)?;
        let lsn = col("lsn").gt(lit(spilled.above_lsn.cast_signed()));
        let columns = schema.fields().iter().map(|field| field.name().as_str());
        let columns: BTreeSet<usize> = columns
            .chain(["tenant_id", "lsn"])
            .map(|name| EVENTS_SCHEMA.index_of(name))
            .collect::<Result<_, _>>()?;
        let columns = columns.into_iter().collect::<Vec<_>>();
        let mut wanted = self.wanted(filters, &EVENTS_SCHEMA);
        wanted.push(lsn.clone());
        let plan = files.scan(state, Some(&columns), &wanted, None).await?;
        let within = DFSchema::try_from(plan.schema())?;
        Ok(Arc::new(FilterExec::try_new(state.create_physical_expr(lsn, &within)?, plan)?))
    }

    /// What a source may skip rows by: the tenant, the first day, and the harmless among the caller's own filters.
    fn wanted(&self, filters: &[Expr], source: &SchemaRef) -> Vec<Expr> {
        let mut wanted = Vec::new();
        if let Some(tenant) = self.scope.tenant() {
            wanted.extend(filter::equals("tenant_id", tenant.as_str(), source));
        }
        // A message has no events before it was made: what asks for one reads no older days.
        if let Some(day) = self.since_day.max(filter::first_day(filters)) {
            let since = col("event_date").gt_eq(Expr::Literal(ScalarValue::Date32(Some(day)), None));
            wanted.extend(filter::for_source(&since, source));
        }
        wanted.extend(filters.iter().filter_map(|filter| filter::for_source(filter, source)));
        wanted
    }

    fn scan_hot(&self, schema: &SchemaRef) -> Result<Arc<dyn ExecutionPlan>> {
        let fields = schema.fields().iter();
        let mut columns =
            fields.map(|field| self.schema.index_of(field.name())).collect::<Result<Vec<_>, _>>()?;
        let tenant_at = self.schema.index_of("tenant_id")?;
        if !columns.contains(&tenant_at) {
            columns.push(tenant_at);
        }
        let hot = vec![self.snapshot.hot.clone()];
        Ok(MemorySourceConfig::try_new_exec(&hot, self.schema.clone(), Some(columns))?)
    }

    fn bind(&self, source: Arc<dyn ExecutionPlan>, schema: &SchemaRef) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(ScopedScanExec::try_new(source, self.scope.tenant(), schema.clone())?))
    }
}

#[async_trait]
impl TableProvider for ScopedTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// `limit` is left alone: it counts rows of this scope, and the source has others too.
    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = match projection {
            Some(columns) => Arc::new(self.schema.project(columns)?),
            None => self.schema.clone(),
        };
        let cold = self.scan_cold(state, &schema, filters).await.map_err(SourceFailed::wrap)?;
        let mut parts = vec![self.bind(cold, &schema)?];
        for spilled in &self.snapshot.spilled {
            let rows =
                self.scan_spilled(spilled, state, &schema, filters).await.map_err(SourceFailed::wrap)?;
            parts.push(self.bind(rows, &schema)?);
        }
        if !self.snapshot.hot.is_empty() {
            parts.push(self.bind(self.scan_hot(&schema)?, &schema)?);
        }
        match parts.pop() {
            Some(only) if parts.is_empty() => Ok(only),
            last => UnionExec::try_new(parts.into_iter().chain(last).collect()),
        }
    }

    /// Inexact throughout: whatever the source makes of a filter, it is applied again to what comes back.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let verdict = |filter: &&Expr| {
            if filter::is_harmless(filter, &self.schema) {
                TableProviderFilterPushDown::Inexact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok::<_, DataFusionError>(filters.iter().map(verdict).collect())
    }
}

#[cfg(test)]
mod tests;
