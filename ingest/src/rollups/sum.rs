//! Runs the two statements of rollups over rows in memory.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use deltalake::datafusion::common::ScalarValue;
use deltalake::datafusion::datasource::MemTable;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::functions::expr_fn::date_trunc;
use deltalake::datafusion::prelude::{DataFrame, Expr, SessionConfig, SessionContext, col, lit};
use sendlake_sql::rollups::{FOLD, PARTIALS};

use super::schema::ROLLUP_SCHEMA;
use super::table::Grain;
use crate::table::LakeError;

/// Partial sums by minute of events with the columns of `SOURCE_SCHEMA`.
pub(super) async fn partials(
    schema: SchemaRef,
    events: Vec<RecordBatch>,
) -> Result<Vec<RecordBatch>, LakeError> {
    run("events", schema, events, PARTIALS, Ok).await
}

/// Partial sums as a rollup of `grain` keeps them: in its buckets, added up, without days before `first_day`, sorted.
pub(super) async fn fold(
    grain: Grain,
    first_day: Option<i32>,
    partials: Vec<RecordBatch>,
) -> Result<Vec<RecordBatch>, LakeError> {
    let first = |day| Expr::Literal(ScalarValue::Date32(Some(day)), None);
    let kept = first_day.map(|day| col("bucket_date").gt_eq(first(day)));
    let bucket = date_trunc(lit(grain.unit()), col("bucket_at"));
    run("partials", ROLLUP_SCHEMA.clone(), partials, FOLD, move |rows| {
        let rows = match kept {
            Some(kept) => rows.filter(kept)?,
            None => rows,
        };
        rows.with_column("bucket_at", bucket)
    })
    .await
}

/// Runs `sql` over `batches`, called `name` and made ready by `prepare`. On a thread of its own: summing takes long enough
/// to hold up others.
async fn run(
    name: &'static str,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    sql: &'static str,
    prepare: impl FnOnce(DataFrame) -> Result<DataFrame, DataFusionError> + Send + 'static,
) -> Result<Vec<RecordBatch>, LakeError> {
    let runtime = tokio::runtime::Handle::current();
    let work = async move {
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let rows = context.read_table(Arc::new(MemTable::try_new(schema, vec![batches])?))?;
        context.register_table(name, prepare(rows)?.into_view())?;
        let sorted =
            context.sql(sql).await?.sort_by(vec![col("bucket_date"), col("tenant_id"), col("bucket_at")])?;
        let batches = sorted.collect().await?;
        batches.iter().map(shaped).collect::<Result<Vec<_>, DataFusionError>>()
    };
    let summed = tokio::task::spawn_blocking(move || runtime.block_on(work)).await?;
    summed.map_err(|error| LakeError::Sum(error.strip_backtrace()))
}

/// The batch in the columns of [`ROLLUP_SCHEMA`], in their order and with their types.
fn shaped(batch: &RecordBatch) -> Result<RecordBatch, DataFusionError> {
    let columns = ROLLUP_SCHEMA.fields().iter().map(|field| {
        let column = batch.column_by_name(field.name()).ok_or_else(|| {
            DataFusionError::Internal(format!("a statement of rollups gives no column {}", field.name()))
        })?;
        Ok(cast(column, field.data_type())?)
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>, DataFusionError>>()?;
    Ok(RecordBatch::try_new(ROLLUP_SCHEMA.clone(), columns)?)
}
