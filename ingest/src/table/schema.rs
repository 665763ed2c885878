//! Which columns a table must have, and how a newer build adds those that it knows and the table lacks: one additive
//! commit, by whoever is first, while others append. Files written before keep reading; the new columns are null there.

use arrow::datatypes::Schema;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, MetadataExt, StructField, StructType};
use deltalake::logstore::LogStoreRef;
use deltalake::protocol::DeltaOperation;
use deltalake::{DeltaTable, DeltaTableError};
use url::Url;

use super::{LakeError, failed};

/// How often the columns are looked at again because others changed the table meanwhile.
const TRIES_MAX: usize = 8;

/// Refuses a table that rows of this version do not fit: a key column is missing, or a column has another type. Missing
/// nullable columns are no reason: they read as null. A table may have more columns: later versions add them, and rows
/// written here leave those null.
pub(crate) fn check_columns(url: &Url, table: &DeltaTable, schema: &Schema) -> Result<(), LakeError> {
    missing(url, table, schema).map(drop)
}

/// The same, and adds the missing nullable columns. Safe to call by several processes at once.
pub(crate) async fn complete_columns(
    log_store: &LogStoreRef,
    table: &mut DeltaTable,
    schema: &Schema,
) -> Result<(), LakeError> {
    let url = log_store.root_url().clone();
    let mut tries = 0;
    loop {
        let fields = missing(&url, table, schema)?;
        if fields.is_empty() {
            return Ok(());
        }
        let names = fields.iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", ");
        let added = add(log_store, table, fields.clone()).await;
        tries += 1;
        // Whatever the answer says, the table has the last word: our commit may have landed, or another's.
        table.update_state().await.map_err(failed(url.clone(), "refresh"))?;
        match added {
            Ok(version) => tracing::info!(table = %url, version, columns = names, "added columns"),
            Err(error) if tries >= TRIES_MAX && !missing(&url, table, schema)?.is_empty() => {
                return Err(failed(url, "add columns to")(error));
            }
            Err(error) => tracing::debug!(table = %url, %error, "looking at the columns again"),
        }
    }
}

/// The nullable columns of `schema` that the table lacks.
fn missing(url: &Url, table: &DeltaTable, schema: &Schema) -> Result<Vec<StructField>, LakeError> {
    let ours: StructType = schema.try_into_kernel()?;
    let theirs = table.snapshot().map_err(failed(url.clone(), "read the schema of"))?.schema();
    let refused = |column: &StructField, found: String| LakeError::Column {
        table: url.clone(),
        what: format!("{:?}: {found}", column.name()),
    };
    let mut missing = Vec::new();
    for field in ours.fields() {
        match theirs.field(field.name()) {
            Some(there) if there.data_type() != field.data_type() => {
                let found = format!("it is {} there and {} here", there.data_type(), field.data_type());
                return Err(refused(field, found));
            }
            Some(there) if field.is_nullable() && !there.is_nullable() => {
                return Err(refused(field, "it may not be null there".to_owned()));
            }
            Some(_) => {}
            None if field.is_nullable() => missing.push(field.clone()),
            None => return Err(refused(field, "it is not there, and no row may be without it".to_owned())),
        }
    }
    let unknown = theirs.fields().find(|there| !there.is_nullable() && ours.field(there.name()).is_none());
    match unknown {
        Some(there) => {
            Err(refused(there, "this version does not know it, and it may not be null".to_owned()))
        }
        None => Ok(missing),
    }
}

/// Commits new metadata on top of what `table` holds. Appends that get in between do not matter; other metadata does,
/// and is an error.
async fn add(
    log_store: &LogStoreRef,
    table: &DeltaTable,
    fields: Vec<StructField>,
) -> Result<u64, DeltaTableError> {
    let state = table.snapshot()?;
    let schema = StructType::try_new(state.schema().fields().cloned().chain(fields.iter().cloned()))?;
    let metadata = state.metadata().clone().with_schema(&schema)?;
    let properties = CommitProperties::default().with_cleanup_expired_logs(Some(false));
    let committed = CommitBuilder::from(properties)
        .with_actions(vec![Action::Metadata(metadata)])
        .build(Some(state), log_store.clone(), DeltaOperation::AddColumn { fields })
        .await?;
    Ok(committed.version)
}

#[cfg(test)]
mod tests;
