//! The Delta table `quotas`: made or opened once, replaced whole by one commit, read whole. Any Delta reader can
//! read it: protocol 1, no partitions, one file per version.
//!
//! The log gets one entry per publication and a checkpoint with every hundredth. Replaced files and old entries
//! stay until maintenance removes them, as with `events`.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, StructType};
use deltalake::logstore::LogStoreRef;
use deltalake::operations::create::CreateBuilder;
use deltalake::operations::write::WriterStatsConfig;
use deltalake::operations::write::writer::{DeltaWriter, WriterConfig};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaTable, DeltaTableError};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sendlake_control::clock::Timestamp;
use tokio::sync::Mutex;
use url::Url;

use super::{PublishedQuotas, QuotaRow};
use crate::append::is_conflict;
use crate::store::LakeStore;
use crate::table::{
    LakeError, check_columns, complete_columns, exists, failed, load_table, log_store, version,
};

/// How often one publication starts over because others published meanwhile.
const CONFLICTS_MAX: usize = 8;

/// The Arrow schema of the table: the fields of [`QuotaRow`], in their order.
pub static QUOTAS_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    Arc::new(Schema::new(vec![
        Field::new("tenant_id", DataType::Utf8, false),
        Field::new("stream", DataType::Utf8, false),
        Field::new("identity_kind", DataType::Utf8, false),
        Field::new("identity", DataType::Utf8, false),
        Field::new("provider", DataType::Utf8, false),
        Field::new("window_s", DataType::Int64, false),
        Field::new("limit_messages", DataType::Int64, true),
        Field::new("state", DataType::Utf8, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("inputs", DataType::Utf8, false),
        Field::new("view_version", DataType::Utf8, false),
        Field::new("as_of", instant.clone(), false),
        Field::new("valid_until", instant, false),
    ]))
});

/// What the log keeps minima and maxima of. Not of `reason` and `inputs`: text that may name somebody would outlive
/// its row there.
const INDEXED: &[&str] = &["tenant_id", "stream", "window_s", "limit_messages", "as_of", "valid_until"];

/// The published limits in the lake.
pub struct QuotasTable {
    log_store: LogStoreRef,
    url: Url,
    /// Whether it may be made, and given columns.
    for_writing: bool,
    /// `None` until the table was opened, or made, by its first use.
    latest: Mutex<Option<DeltaTable>>,
    /// Publications of one process take turns; those of several meet in Delta's log.
    publishing: Mutex<()>,
}

impl QuotasTable {
    /// The table's name, which is its folder below the lake's.
    pub const NAME: &str = "quotas";

    /// Opens the table, making it when it is not there and adding columns that it lacks. Safe to call from several processes at once.
    pub async fn open(store: &LakeStore) -> Result<Self, LakeError> {
        let table = Self::lazy(store)?;
        table.pin().await?;
        Ok(table)
    }

    /// The table without a request: it is opened, or made when it is not there, by its first use.
    pub fn lazy(store: &LakeStore) -> Result<Self, LakeError> {
        let log_store = log_store(store, Self::NAME)?;
        let url = log_store.root_url().clone();
        let latest = Mutex::new(None);
        Ok(Self { log_store, url, for_writing: true, latest, publishing: Mutex::new(()) })
    }

    /// Opens the table if it is there, for whoever only reads.
    pub async fn open_existing(store: &LakeStore) -> Result<Option<Self>, LakeError> {
        let table = Self { for_writing: false, ..Self::lazy(store)? };
        if !exists(&table.log_store).await? {
            return Ok(None);
        }
        table.pin().await?;
        Ok(Some(table))
    }

    async fn load_table(&self) -> Result<DeltaTable, LakeError> {
        if self.for_writing && !exists(&self.log_store).await? {
            match create(&self.log_store).await {
                Ok(_) => tracing::info!(table = %self.url, "made the quotas table"),
                // Somebody else may have been first; then theirs is the table.
                Err(_) if exists(&self.log_store).await? => {}
                Err(error) => return Err(error),
            }
        }
        let mut table = DeltaTable::new(Arc::clone(&self.log_store));
        load_table(&mut table).await?;
        check_columns(&self.url, &table, &QUOTAS_SCHEMA)?;
        if self.for_writing {
            complete_columns(&self.log_store, &mut table, &QUOTAS_SCHEMA).await?;
        }
        Ok(table)
    }

    /// Where the table lies; every Delta reader can open it there.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The table at its newest version, for queries.
    pub async fn pin(&self) -> Result<DeltaTable, LakeError> {
        let mut latest = self.latest.lock().await;
        match latest.as_mut() {
            None => Ok(latest.insert(self.load_table().await?).clone()),
            Some(table) => {
                table.update_state().await.map_err(self.failed("refresh"))?;
                Ok(table.clone())
            }
        }
    }

    /// Whether there is a version above `known`. Costs one request for a log entry that mostly is not there.
    pub async fn is_newer_than(&self, known: u64) -> Result<bool, LakeError> {
        // Entries behind the newest version may be gone from the log: what was seen already counts first.
        let seen = self.latest.lock().await.as_ref().map(version);
        let seen = match seen {
            Some(seen) => seen,
            None => version(&self.pin().await?),
        };
        if seen > known {
            return Ok(true);
        }
        let next = self.log_store.read_commit_entry(known.saturating_add(1)).await;
        Ok(next.map_err(self.failed("look for a new version of"))?.is_some())
    }

    /// The newest publication's version; `None` when nothing was published yet. Cheap while nothing is new.
    pub async fn latest_version(&self) -> Result<Option<u64>, LakeError> {
        let known = self.latest.lock().await.as_ref().map_or(0, version);
        let newest = if self.is_newer_than(known).await? { version(&self.pin().await?) } else { known };
        Ok(Some(newest).filter(|version| *version > 0))
    }

    /// The newest publication; `None` when there is none, or one without rows.
    pub async fn load(&self) -> Result<Option<PublishedQuotas>, LakeError> {
        let table = self.pin().await?;
        let state = table.snapshot().map_err(self.failed("read the state of"))?;
        let store = self.log_store.object_store(None);
        let mut rows = Vec::new();
        let files: Vec<_> = state.log_data().into_iter().map(|file| file.object_store_path()).collect();
        for file in files {
            let read = async { store.get(&file).await?.bytes().await };
            let bytes = read.await.map_err(|error| self.failed("read a file of")(error.into()))?;
            let parts = ParquetRecordBatchReaderBuilder::try_new(bytes)
                .and_then(|builder| builder.build())
                .map_err(|error| self.failed("read a file of")(error.into()))?;
            for batch in parts {
                rows.extend(from_batch(&batch?)?);
            }
        }
        Ok((!rows.is_empty()).then(|| PublishedQuotas { version: version(&table), rows }))
    }

    /// Replaces all rows in one commit. Returns its version. A publication that another one overtakes is
    /// made again on top of it, so the last one to end stands.
    pub async fn publish(&self, rows: &[QuotaRow]) -> Result<u64, LakeError> {
        let _turn = self.publishing.lock().await;
        let adds = self.encode(rows).await?;
        let mut conflicts = 0;
        loop {
            let table = self.pin().await?;
            let state = table.snapshot().map_err(self.failed("read the state of"))?;
            let mut actions: Vec<Action> =
                state.log_data().into_iter().map(|file| Action::Remove(file.remove_action(true))).collect();
            actions.extend(adds.iter().cloned().map(Action::Add));
            let operation =
                DeltaOperation::Write { mode: SaveMode::Overwrite, partition_by: None, predicate: None };
            // One try at the next version: a later one would leave the rows of whoever was faster in place.
            let properties =
                CommitProperties::default().with_max_retries(0).with_cleanup_expired_logs(Some(false));
            let committed = CommitBuilder::from(properties)
                .with_actions(actions)
                .build(Some(state), self.log_store.clone(), operation)
                .await;
            match committed {
                Ok(commit) => return Ok(commit.version),
                Err(error) if is_conflict(&error) && conflicts < CONFLICTS_MAX => conflicts += 1,
                Err(error) => return Err(self.failed("publish to")(error)),
            }
        }
    }

    /// Writes rows as a Parquet file that no commit names yet.
    async fn encode(&self, rows: &[QuotaRow]) -> Result<Vec<Add>, LakeError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let table = self.pin().await?;
        let state = table.snapshot().map_err(self.failed("read the state of"))?;
        let stats = WriterStatsConfig::from_config(state.snapshot().table_configuration());
        let config = WriterConfig::new(
            QUOTAS_SCHEMA.clone(),
            Vec::new(),
            None,
            None,
            None,
            stats.num_indexed_cols,
            Some(INDEXED.iter().map(|name| (*name).to_owned()).collect()),
        );
        let mut writer = DeltaWriter::new(self.log_store.object_store(None), config);
        writer.write(&to_batch(rows)?).await.map_err(self.failed("write a file of"))?;
        writer.close().await.map_err(self.failed("write a file of"))
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(DeltaTableError) -> LakeError {
        failed(self.url.clone(), action)
    }
}

impl fmt::Debug for QuotasTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QuotasTable({})", self.url)
    }
}

async fn create(log_store: &LogStoreRef) -> Result<DeltaTable, LakeError> {
    let schema: StructType = QUOTAS_SCHEMA.as_ref().try_into_kernel()?;
    CreateBuilder::new()
        .with_log_store(Arc::clone(log_store))
        .with_table_name(QuotasTable::NAME)
        .with_comment("The limits in force: replaced whole by each publication, obeyed by the sender")
        .with_columns(schema.fields().cloned())
        .with_configuration([
            ("delta.checkpointInterval", Some("100")),
            ("delta.logRetentionDuration", Some("interval 7 days")),
        ])
        // One try at version 0. A second would add our metadata to the table of whoever was faster.
        .with_commit_properties(CommitProperties::default().with_max_retries(0))
        .await
        .map_err(failed(log_store.root_url().clone(), "make"))
}

fn to_batch(rows: &[QuotaRow]) -> Result<RecordBatch, ArrowError> {
    let text = |value: fn(&QuotaRow) -> &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(rows.iter().map(value)))
    };
    let instant = |value: fn(&QuotaRow) -> Timestamp| -> ArrayRef {
        let micros = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| value(row).0));
        Arc::new(micros.with_timezone("UTC"))
    };
    RecordBatch::try_new(
        QUOTAS_SCHEMA.clone(),
        vec![
            text(|row| &row.tenant_id),
            text(|row| &row.stream),
            text(|row| &row.identity_kind),
            text(|row| &row.identity),
            text(|row| &row.provider),
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.window_s))),
            Arc::new(rows.iter().map(|row| row.limit_messages).collect::<Int64Array>()),
            text(|row| &row.state),
            text(|row| &row.reason),
            text(|row| &row.inputs),
            text(|row| &row.view_version),
            instant(|row| row.as_of),
            instant(|row| row.valid_until),
        ],
    )
}

/// Rows of a file that any Delta writer may have written.
fn from_batch(batch: &RecordBatch) -> Result<Vec<QuotaRow>, ArrowError> {
    let column = |name: &str| -> Result<ArrayRef, ArrowError> {
        let field = QUOTAS_SCHEMA.field_with_name(name)?;
        match batch.column_by_name(name) {
            Some(found) => arrow::compute::cast(found, field.data_type()),
            // Written before there was this column.
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
            None => Err(ArrowError::SchemaError(format!("a file of the quotas table has no column {name}"))),
        }
    };
    let text = |name: &str| Ok::<StringArray, ArrowError>(column(name)?.as_string::<i32>().clone());
    let number = |name: &str| Ok::<Int64Array, ArrowError>(column(name)?.as_primitive::<Int64Type>().clone());
    let instant = |name: &str| {
        let array = column(name)?.as_primitive::<TimestampMicrosecondType>().clone();
        Ok::<TimestampMicrosecondArray, ArrowError>(array)
    };
    let (tenant_id, stream) = (text("tenant_id")?, text("stream")?);
    let (identity_kind, identity, provider) = (text("identity_kind")?, text("identity")?, text("provider")?);
    let (window_s, limit_messages) = (number("window_s")?, number("limit_messages")?);
    let (state, reason, inputs) = (text("state")?, text("reason")?, text("inputs")?);
    let (view_version, as_of, valid_until) =
        (text("view_version")?, instant("as_of")?, instant("valid_until")?);
    let rows = (0..batch.num_rows()).map(|row| QuotaRow {
        tenant_id: tenant_id.value(row).to_owned(),
        stream: stream.value(row).to_owned(),
        identity_kind: identity_kind.value(row).to_owned(),
        identity: identity.value(row).to_owned(),
        provider: provider.value(row).to_owned(),
        window_s: window_s.value(row),
        limit_messages: limit_messages.is_valid(row).then(|| limit_messages.value(row)),
        state: state.value(row).to_owned(),
        reason: reason.value(row).to_owned(),
        inputs: inputs.value(row).to_owned(),
        view_version: view_version.value(row).to_owned(),
        as_of: Timestamp(as_of.value(row)),
        valid_until: Timestamp(valid_until.value(row)),
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests;
