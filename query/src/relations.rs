//! The small relations beside `events`: `as_of`, `domains`, `feedback_loops`, `published_quotas`, `export_batches`. A tenant's rows are picked
//! out before the engine sees any, so that nothing of another tenant's is in its plan.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use sendlake_control::clock::Timestamp;
use sendlake_control::export::ExportBatch;
use sendlake_control::feedback_loop::FeedbackLoop;
use sendlake_ingest::quotas::PublishedQuotas;

use crate::scope::Scope;
use crate::source::{DomainRow, SourceError, Surroundings};

pub(crate) const AS_OF: &str = "as_of";
pub(crate) const DOMAINS: &str = "domains";
pub(crate) const FEEDBACK_LOOPS: &str = "feedback_loops";
pub(crate) const PUBLISHED_QUOTAS: &str = "published_quotas";
pub(crate) const EXPORT_BATCHES: &str = "export_batches";

/// The names of all of them.
pub(crate) const NAMES: &[&str] = &[AS_OF, DOMAINS, FEEDBACK_LOOPS, PUBLISHED_QUOTAS, EXPORT_BATCHES];

/// What was read of them for one query; what the query does not name is not read.
pub(crate) struct Relations {
    as_of: Vec<Timestamp>,
    domains: Option<Vec<DomainRow>>,
    loops: Vec<FeedbackLoop>,
    published: Option<PublishedQuotas>,
    exports: Vec<ExportBatch>,
    wanted: HashSet<&'static str>,
}

impl Relations {
    /// Reads what `wanted` names. `as_of` holds `instants`, or the clock's reading where there are none.
    pub(crate) async fn read(
        source: &dyn Surroundings,
        instants: &[Timestamp],
        wanted: HashSet<&'static str>,
    ) -> Result<Self, SourceError> {
        let as_of = if instants.is_empty() { vec![source.now()] } else { instants.to_vec() };
        let domains = if wanted.contains(DOMAINS) { Some(source.domains().await?) } else { None };
        let loops = if wanted.contains(FEEDBACK_LOOPS) { source.feedback_loops().await? } else { Vec::new() };
        let published =
            if wanted.contains(PUBLISHED_QUOTAS) { source.published_quotas().await? } else { None };
        let exports =
            if wanted.contains(EXPORT_BATCHES) { source.export_batches().await? } else { Vec::new() };
        Ok(Self { as_of, domains, loops, published, exports, wanted })
    }

    /// Tables with the rows that `scope` may see, each under its name.
    pub(crate) fn tables(self, scope: &Scope) -> Result<Vec<(&'static str, MemTable)>> {
        let wanted = self.wanted.clone();
        let domains = self.domains.unwrap_or_default();
        let mut tables = Vec::new();
        if wanted.contains(AS_OF) {
            tables.push((AS_OF, table(vec![("as_of", instants(self.as_of.into_iter().map(Some)))])?));
        }
        if wanted.contains(DOMAINS) {
            tables.push((DOMAINS, domain_table(&domains, scope)?));
        }
        if wanted.contains(FEEDBACK_LOOPS) {
            tables.push((FEEDBACK_LOOPS, loop_table(&self.loops, scope)?));
        }
        if wanted.contains(PUBLISHED_QUOTAS) {
            tables.push((PUBLISHED_QUOTAS, quota_table(self.published, scope)?));
        }
        if wanted.contains(EXPORT_BATCHES) {
            tables.push((EXPORT_BATCHES, export_table(&self.exports, scope)?));
        }
        Ok(tables)
    }
}

/// The ledger is the operator's: a batch holds rows of every tenant.
fn export_table(batches: &[ExportBatch], scope: &Scope) -> Result<MemTable> {
    let rows: &[ExportBatch] = if scope.tenant().is_none() { batches } else { &[] };
    let text = |of: fn(&ExportBatch) -> &str| texts(rows.iter().map(of));
    let optional = |of: fn(&ExportBatch) -> Option<&str>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<StringArray>())
    };
    let number = |of: fn(&ExportBatch) -> Option<i64>| -> ArrayRef {
        Arc::new(rows.iter().map(of).collect::<Int64Array>())
    };
    let instant =
        |of: fn(&ExportBatch) -> Option<i64>| instants(rows.iter().map(|row| of(row).map(Timestamp)));
    table(vec![
        ("connector", text(|row| &row.connector)),
        ("batch_id", text(|row| &row.batch_id)),
        ("source_table", text(|row| &row.source_table)),
        ("change", text(|row| &row.change)),
        ("incarnation", text(|row| &row.incarnation)),
        ("after_lsn", number(|row| Some(row.after_lsn))),
        ("through_lsn", number(|row| Some(row.through_lsn))),
        ("first_day", optional(|row| row.first_day.as_deref())),
        ("last_day", optional(|row| row.last_day.as_deref())),
        ("mapping_version", text(|row| &row.mapping_version)),
        ("backfill_id", optional(|row| row.backfill_id.as_deref())),
        ("state", text(|row| &row.state)),
        ("attempt", number(|row| Some(row.attempt))),
        ("job_id", optional(|row| row.job_id.as_deref())),
        ("rows_staged", number(|row| row.rows_staged)),
        ("bytes_staged", number(|row| row.bytes_staged)),
        ("rows_loaded", number(|row| row.rows_loaded)),
        ("planned_at", instant(|row| Some(row.planned_at))),
        ("staged_at", instant(|row| row.staged_at)),
        ("submitted_at", instant(|row| row.submitted_at)),
        ("committed_at", instant(|row| row.committed_at)),
    ])
}

fn domain_table(domains: &[DomainRow], scope: &Scope) -> Result<MemTable> {
    let seen = |row: &&DomainRow| scope.tenant().is_none_or(|tenant| *tenant == row.tenant_id);
    let rows: Vec<&DomainRow> = domains.iter().filter(seen).collect();
    table(vec![
        ("tenant_id", texts(rows.iter().map(|row| row.tenant_id.as_str()))),
        ("domain", texts(rows.iter().map(|row| row.domain.as_str()))),
        ("created_at", instants(rows.iter().map(|row| Some(row.created_at)))),
        ("warm_at", instants(rows.iter().map(|row| row.warm_at))),
    ])
}

/// Addresses are the installation's: every tenant's mail may leave from them.
fn loop_table(loops: &[FeedbackLoop], scope: &Scope) -> Result<MemTable> {
    let seen = |row: &&FeedbackLoop| {
        row.identity_kind == "ip" || scope.tenant().is_none_or(|tenant| *tenant == row.tenant_id)
    };
    let rows: Vec<&FeedbackLoop> = loops.iter().filter(seen).collect();
    table(vec![
        ("tenant_id", texts(rows.iter().map(|row| row.tenant_id.as_str()))),
        ("provider", texts(rows.iter().map(|row| row.provider.as_str()))),
        ("identity_kind", texts(rows.iter().map(|row| row.identity_kind.as_str()))),
        ("identity", texts(rows.iter().map(|row| row.identity.as_str()))),
        ("since", instants(rows.iter().map(|row| Some(row.since)))),
    ])
}

/// Rows for all tenants (`*`) are an operator's: their reasons may count everybody's mail.
fn quota_table(published: Option<PublishedQuotas>, scope: &Scope) -> Result<MemTable> {
    let version = published.as_ref().map(|published| i64::try_from(published.version).unwrap_or(i64::MAX));
    let mut rows = published.map(|published| published.rows).unwrap_or_default();
    rows.retain(|row| scope.tenant().is_none_or(|tenant| tenant.as_str() == row.tenant_id));
    let number = |values: Vec<Option<i64>>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    table(vec![
        ("tenant_id", texts(rows.iter().map(|row| row.tenant_id.as_str()))),
        ("stream", texts(rows.iter().map(|row| row.stream.as_str()))),
        ("identity_kind", texts(rows.iter().map(|row| row.identity_kind.as_str()))),
        ("identity", texts(rows.iter().map(|row| row.identity.as_str()))),
        ("provider", texts(rows.iter().map(|row| row.provider.as_str()))),
        ("window_s", number(rows.iter().map(|row| Some(row.window_s)).collect())),
        ("limit_messages", number(rows.iter().map(|row| row.limit_messages).collect())),
        ("state", texts(rows.iter().map(|row| row.state.as_str()))),
        ("reason", texts(rows.iter().map(|row| row.reason.as_str()))),
        ("inputs", texts(rows.iter().map(|row| row.inputs.as_str()))),
        ("view_version", texts(rows.iter().map(|row| row.view_version.as_str()))),
        ("as_of", instants(rows.iter().map(|row| Some(row.as_of)))),
        ("valid_until", instants(rows.iter().map(|row| Some(row.valid_until)))),
        ("version", number(rows.iter().map(|_| version).collect())),
    ])
}

fn texts<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(values))
}

fn instants(values: impl Iterator<Item = Option<Timestamp>>) -> ArrayRef {
    let values = values.map(|value| value.map(|at| at.0));
    Arc::new(values.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
}

fn table(columns: Vec<(&str, ArrayRef)>) -> Result<MemTable> {
    let nullable = |name: &str| {
        let unknown_yet =
            ["staged_at", "submitted_at", "committed_at", "job_id", "backfill_id", "first_day", "last_day"];
        matches!(name, "warm_at" | "limit_messages" | "rows_staged" | "bytes_staged" | "rows_loaded")
            || unknown_yet.contains(&name)
    };
    let fields = columns.iter().map(|(name, array)| {
        let kind = match array.data_type() {
            DataType::Timestamp(..) => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            other => other.clone(),
        };
        Field::new(*name, kind, nullable(name))
    });
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let columns = columns.into_iter().map(|(_, array)| array).collect();
    let batch = RecordBatch::try_new(schema.clone(), columns)?;
    MemTable::try_new(schema, vec![vec![batch]])
}
