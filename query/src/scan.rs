//! The plan node that every scan of events and of rollups ends in: it lets through the rows of one tenant, in the shape
//! that queries see, and nothing else, in either direction.
//!
//! To the optimizer it is a leaf. What it reads from is not among its children, so no filter, dynamic filter,
//! limit, sort or statistic can pass it, whatever rules a later version brings.

use std::fmt;
use std::sync::Arc;

use arrow::array::{
    Array, BooleanArray, RecordBatch, RecordBatchOptions, Scalar, StringArray, new_null_array,
};
use arrow::compute::kernels::cmp::eq;
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, ReplaceChildrenOptions,
    SendableRecordBatchStream, displayable,
};
use futures::{StreamExt, future};
use sendlake_control::id::TenantId;

/// The source of rows failed below the tenant's filter. Kept apart from errors of the caller's own
/// expressions, because this text may speak of anybody's rows.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct SourceFailed(String);

impl SourceFailed {
    pub(crate) fn wrap(error: DataFusionError) -> DataFusionError {
        if matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) {
            return error;
        }
        DataFusionError::External(Box::new(Self(error.strip_backtrace())))
    }
}

/// Reads `source`, keeps one tenant's rows (all rows when bound to none), and gives them `schema`.
#[derive(Debug)]
pub(crate) struct ScopedScanExec {
    source: Arc<dyn ExecutionPlan>,
    shape: Arc<Shape>,
    properties: Arc<PlanProperties>,
}

#[derive(Debug)]
struct Shape {
    /// The tenant, and where `tenant_id` stands in the source.
    bound: Option<(TenantId, usize)>,
    /// For each column of `schema` its place in the source; `None` reads as null.
    columns: Vec<Option<usize>>,
    schema: SchemaRef,
}

impl ScopedScanExec {
    /// `schema` is what queries see of the table, projected. Fails when a bound scan's source has no `tenant_id`.
    pub(crate) fn try_new(
        source: Arc<dyn ExecutionPlan>,
        tenant: Option<&TenantId>,
        schema: SchemaRef,
    ) -> Result<Self> {
        let source_schema = source.schema();
        let bound = match tenant {
            Some(tenant) => Some((tenant.clone(), source_schema.index_of("tenant_id")?)),
            None => None,
        };
        let columns = schema.fields().iter().map(|field| source_schema.index_of(field.name()).ok()).collect();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            datafusion::physical_plan::Partitioning::UnknownPartitioning(
                source.properties().partitioning.partition_count(),
            ),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Ok(Self {
            source,
            shape: Arc::new(Shape { bound, columns, schema }),
            properties: Arc::new(properties),
        })
    }

    /// What is read from, which no plan shows.
    #[cfg(test)]
    pub(crate) fn source(&self) -> &Arc<dyn ExecutionPlan> {
        &self.source
    }
}

impl Shape {
    /// The tenant's rows of one batch. Nothing of the user's has run yet, and nothing is computed from a
    /// foreign row but the comparison of its `tenant_id`.
    fn apply(&self, batch: &RecordBatch) -> Result<RecordBatch> {
        let own = match &self.bound {
            Some((tenant, tenant_at)) => filter_record_batch(batch, &rows_of(tenant, batch, *tenant_at)?)?,
            None => batch.clone(),
        };
        let rows = own.num_rows();
        let columns = self.columns.iter().zip(self.schema.fields()).map(|(place, field)| {
            let column = place.and_then(|place| own.columns().get(place));
            match column {
                None => Ok(new_null_array(field.data_type(), rows)),
                Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
                Some(column) => cast(column, field.data_type()),
            }
        });
        let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), columns, &options)?)
    }
}

fn rows_of(tenant: &TenantId, batch: &RecordBatch, tenant_at: usize) -> Result<BooleanArray, ArrowError> {
    let Some(column) = batch.columns().get(tenant_at) else {
        return Err(ArrowError::SchemaError("a batch of the lake has no tenant_id".to_owned()));
    };
    let column = cast(column, &DataType::Utf8)?;
    let mine = Scalar::new(StringArray::from(vec![tenant.as_str()]));
    eq(&column as &dyn arrow::array::Datum, &mine)
}

impl DisplayAs for ScopedScanExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.shape.schema.fields().iter().map(|field| field.name().as_str());
        let columns = columns.collect::<Vec<_>>().join(", ");
        match &self.shape.bound {
            Some((tenant, _)) => write!(f, "ScopedScanExec: tenant={tenant}, columns=[{columns}]"),
            None => {
                let source = displayable(self.source.as_ref()).indent(false).to_string();
                let source = source.lines().map(str::trim).collect::<Vec<_>>().join(" <- ");
                write!(f, "ScopedScanExec: columns=[{columns}], source=[{source}]")
            }
        }
    }
}

impl ExecutionPlan for ScopedScanExec {
    fn name(&self) -> &'static str {
        "ScopedScanExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() {
            return Ok(self);
        }
        Err(DataFusionError::Internal("ScopedScanExec takes no children".to_owned()))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() {
            return Ok(self);
        }
        Err(DataFusionError::Internal("ScopedScanExec takes no children".to_owned()))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let source = self.source.execute(partition, context).map_err(SourceFailed::wrap)?;
        let shape = Arc::clone(&self.shape);
        let rows = source
            .map(move |batch| {
                let batch = batch.map_err(SourceFailed::wrap)?;
                shape.apply(&batch).map_err(SourceFailed::wrap)
            })
            .filter(|batch| future::ready(!matches!(batch, Ok(batch) if batch.num_rows() == 0)));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    // The default says the same of a leaf today. It is spelled out because a yes would drop the user's filter.
    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::all_unsupported(result))
    }
}
