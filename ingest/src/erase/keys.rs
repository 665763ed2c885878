//! What was erased, by key and without a word about whom: a small Parquet file beside the tables for each rewrite, so that
//! whoever has taken these rows elsewhere can take them out there too.
//!
//! The file is durable before the rewrite is committed, and counts once the erasure has ended: until then the lake may still
//! hold the rows, and a reader that forgot them would read them again.

use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use sendlake_control::id::Ids;

use crate::document::{self, DocumentError};
use crate::event::EVENTS_SCHEMA;
use crate::store::LakeStore;

/// Below the lake's folder.
const FOLDER: &str = "_erased";
/// Of the note that an erasure has ended; the files before it count from then on.
const ENDED: &str = ".ended";
const EXTENSION: &str = ".parquet";

/// The columns of `events` by which a row is known, and none that says anything about a person.
pub const KEY_COLUMNS: [&str; 8] =
    ["event_id", "event_type", "occurred_at", "recorded_at", "event_date", "tenant_id", "incarnation", "lsn"];

/// Those columns, and `change`: `delete` for a row that is gone, `replace` for one in which something was replaced.
pub static ERASED_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let known = EVENTS_SCHEMA.fields().iter().filter(|field| KEY_COLUMNS.contains(&field.name().as_str()));
    let mut fields: Vec<Arc<Field>> = known.cloned().collect();
    fields.push(Arc::new(Field::new("change", DataType::Utf8, false)));
    Arc::new(Schema::new(fields))
});

/// Collects the keys of one rewrite.
pub(super) struct ErasedKeys {
    store: LakeStore,
    ids: Ids,
    writer: Mutex<Option<ArrowWriter<Vec<u8>>>>,
}

impl ErasedKeys {
    pub fn new(store: &LakeStore, ids: &Ids) -> Self {
        Self { store: store.clone(), ids: ids.clone(), writer: Mutex::default() }
    }

    /// Takes note of those rows of `rows` that `which` picks.
    pub fn add(
        &self,
        rows: &RecordBatch,
        which: &BooleanArray,
        change: &'static str,
    ) -> Result<(), ArrowError> {
        if which.true_count() == 0 {
            return Ok(());
        }
        let rows = filter_record_batch(rows, which)?;
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in ERASED_SCHEMA.fields() {
            columns.push(match rows.column_by_name(field.name()) {
                Some(column) => arrow::compute::cast(column, field.data_type())?,
                None => Arc::new(std::iter::repeat_n(Some(change), rows.num_rows()).collect::<StringArray>()),
            });
        }
        let keys = RecordBatch::try_new(ERASED_SCHEMA.clone(), columns)?;
        let mut writer = self.writer.lock();
        let failed = |error: ParquetError| ArrowError::ParquetError(error.to_string());
        let writer = match writer.as_mut() {
            Some(writer) => writer,
            None => writer.insert(create().map_err(failed)?),
        };
        writer.write(&keys).map_err(failed)
    }

    /// Makes them durable, under a name that is later than all before it.
    pub async fn keep(&self) -> Result<(), DocumentError> {
        let Some(writer) = self.writer.lock().take() else { return Ok(()) };
        let name = next_name(&self.store, &self.ids, EXTENSION).await?;
        let octets =
            writer.into_inner().map_err(|error| DocumentError::made(&self.store, FOLDER, &name, error))?;
        document::write(&self.store, FOLDER, &name, octets).await
    }
}

fn create() -> Result<ArrowWriter<Vec<u8>>, ParquetError> {
    let properties =
        WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?)).build();
    ArrowWriter::try_new(Vec::new(), ERASED_SCHEMA.clone(), Some(properties))
}

/// Notes that an erasure has ended: the lake holds none of what was noted before.
pub(super) async fn note_end(store: &LakeStore, ids: &Ids) -> Result<(), DocumentError> {
    let names = document::names(store, FOLDER).await?;
    if !names.last().is_some_and(|newest| newest.ends_with(EXTENSION)) {
        return Ok(());
    }
    let name = next_name(store, ids, ENDED).await?;
    document::write(store, FOLDER, &name, Vec::new()).await
}

/// A number higher than all before it, and an id: whoever erases holds the lease, and is alone here.
async fn next_name(store: &LakeStore, ids: &Ids, extension: &str) -> Result<String, DocumentError> {
    let names = document::names(store, FOLDER).await?;
    let number = |name: &String| name.split('-').next()?.parse::<u64>().ok();
    let last = names.iter().filter_map(number).max().unwrap_or(0);
    Ok(format!("{:010}-{}{extension}", last.saturating_add(1), ids.uuid()))
}

/// The files of erasures that have ended, oldest first.
pub async fn ended(store: &LakeStore) -> Result<Vec<String>, DocumentError> {
    let mut names = document::names(store, FOLDER).await?;
    let last = names.iter().filter(|name| name.ends_with(ENDED)).max().cloned();
    names.retain(|name| name.ends_with(EXTENSION) && last.as_ref().is_some_and(|last| name < last));
    Ok(names)
}

/// The keys in one of these files, with [`ERASED_SCHEMA`].
pub async fn read(store: &LakeStore, name: &str) -> Result<Vec<RecordBatch>, DocumentError> {
    let failed = |error: &dyn std::fmt::Display| DocumentError::made(store, FOLDER, name, error);
    let lake = Path::from_url_path(store.url.path()).unwrap_or_default();
    let got = async { store.root.get(&lake.join(FOLDER).join(name)).await?.bytes().await };
    let octets: Bytes = got.await.map_err(|error| failed(&error))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(octets).and_then(|builder| builder.build());
    let rows = reader.map_err(|error| failed(&error))?.collect::<Result<Vec<_>, _>>();
    rows.map_err(|error| failed(&error))
}

/// Whether anybody reads what is new to take it elsewhere, and would have to be told.
pub(super) async fn is_wanted(store: &LakeStore) -> Result<bool, DocumentError> {
    Ok(!crate::maintain::reader::names(store).await?.is_empty())
}
