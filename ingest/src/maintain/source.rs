//! Reads the files of a pinned version, one after another, in the shape of the table, and says which file it was
//! when one cannot be read.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use bytes::Bytes;
use deltalake::kernel::LogicalFileView;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

use crate::table::digest::{self, SHA256_TAG};
use crate::table::layout::PARTITION_COLUMN;

/// Files up to this size are fetched whole: one request instead of several.
const WHOLE_BYTES_MAX: u64 = 8 << 20;
/// So many files are opened ahead of the one that is read.
const OPEN_AHEAD: usize = 4;
/// How much of a larger file's end is fetched first: mostly the whole footer.
const FOOTER_BYTES: usize = 256 << 10;

/// One file that a version of the table names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataFile {
    /// Below the table's folder.
    pub path: String,
    pub bytes: u64,
    /// As the log has it; `None` when whoever wrote the file kept no statistics.
    pub rows: Option<u64>,
    /// When it was written, in milliseconds since the epoch, by the writer's clock.
    pub modified_at_ms: i64,
    /// Values of the partition columns, as text.
    pub partition: HashMap<String, Option<String>>,
    /// Of its bytes as they were written; `None` for files of writers that do not say.
    pub sha256: Option<String>,
}

impl DataFile {
    pub(crate) fn of(view: &LogicalFileView) -> Self {
        #[expect(deprecated, reason = "the one way to an action's tags")]
        let tags = view.add_action().tags;
        Self {
            sha256: tags.and_then(|tags| tags.get(SHA256_TAG).cloned()).flatten(),
            path: view.path().into_owned(),
            bytes: u64::try_from(view.size()).unwrap_or(0),
            rows: view.num_records().map(|rows| rows as u64),
            modified_at_ms: view.modification_time(),
            partition: view.partition_values_map(),
        }
    }

    /// The UTC day that all its rows are of, `2026-01-31`; empty for a file without one.
    pub fn day(&self) -> &str {
        self.partition.get(PARTITION_COLUMN).and_then(Option::as_deref).unwrap_or("")
    }
}

/// A file could not be read, or is not what the log says.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot read {path}: {reason}")]
pub(crate) struct SourceFault {
    pub path: String,
    pub reason: String,
}

/// Which columns are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// All there are. A column that only the file has is an error, since a rewrite would lose it.
    All,
    /// Those of the schema given.
    Some,
}

/// All rows of `files`, in the columns of `schema`: a column that a file does not have is null.
pub(crate) fn read(
    store: Arc<dyn ObjectStore>,
    files: Vec<DataFile>,
    schema: SchemaRef,
    columns: Columns,
    batch_rows: usize,
) -> BoxStream<'static, Result<RecordBatch, SourceFault>> {
    stream::iter(files)
        .map(move |file| {
            let (store, schema) = (Arc::clone(&store), Arc::clone(&schema));
            async move { open(store, file, schema, columns, batch_rows).await }
        })
        .buffered(OPEN_AHEAD)
        .try_flatten()
        .boxed()
}

async fn open(
    store: Arc<dyn ObjectStore>,
    file: DataFile,
    schema: SchemaRef,
    columns: Columns,
    batch_rows: usize,
) -> Result<BoxStream<'static, Result<RecordBatch, SourceFault>>, SourceFault> {
    let fault = {
        let path = file.path.clone();
        move |reason: String| SourceFault { path: path.clone(), reason }
    };
    let reader = FileReader::open(store, &file, columns).await.map_err(&fault)?;
    let builder =
        ParquetRecordBatchStreamBuilder::new(reader).await.map_err(|error| fault(error.to_string()))?;
    let in_file = builder.metadata().file_metadata().num_rows();
    if let Some(rows) = file.rows
        && i64::try_from(rows) != Ok(in_file)
    {
        return Err(fault(format!("it holds {in_file} rows where the log says {rows}")));
    }
    let foreign =
        builder.schema().fields().iter().find(|field| schema.field_with_name(field.name()).is_err());
    if let (Some(foreign), Columns::All) = (foreign, columns) {
        return Err(fault(format!("it has a column {:?} that the table has not", foreign.name())));
    }
    let wanted = builder
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| schema.field_with_name(field.name()).is_ok())
        .map(|(index, _)| index)
        .collect::<Vec<_>>();
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let batches = builder
        .with_projection(mask)
        .with_batch_size(batch_rows)
        .build()
        .map_err(|error| fault(error.to_string()))?;
    let shaped = batches.map(move |batch| {
        let batch = batch.map_err(|error| fault(error.to_string()))?;
        shape(&batch, &file, &schema).map_err(|error| fault(error.to_string()))
    });
    Ok(shaped.boxed())
}

/// The batch in the columns of the table, with those that stand in the file's path.
fn shape(batch: &RecordBatch, file: &DataFile, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let rows = batch.num_rows();
    let columns = schema.fields().iter().map(|field| -> Result<ArrayRef, ArrowError> {
        if let Some(column) = batch.column_by_name(field.name()) {
            return match column.data_type() == field.data_type() {
                true => Ok(Arc::clone(column)),
                false => cast(column, field.data_type()),
            };
        }
        match file.partition.get(field.name()) {
            Some(Some(value)) => {
                let text: StringArray = std::iter::repeat_n(Some(value.as_str()), rows).collect();
                cast(&text, field.data_type())
            }
            _ => Ok(new_null_array(field.data_type(), rows)),
        }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// A Parquet file in an object store: fetched whole when it is small, in ranges when not.
struct FileReader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    bytes: u64,
    whole: Option<Bytes>,
}

impl FileReader {
    async fn open(store: Arc<dyn ObjectStore>, file: &DataFile, columns: Columns) -> Result<Self, String> {
        let path = Path::parse(&file.path).map_err(|error| error.to_string())?;
        if file.bytes > WHOLE_BYTES_MAX {
            // Read twice: a flipped bit that is rewritten would get a good digest, and nobody would ever know.
            if let (Some(expected), Columns::All) = (&file.sha256, columns) {
                let digest = digest::sha256_of(&store, &path).await.map_err(|error| error.to_string())?;
                check_digest(&digest, expected)?;
            }
            return Ok(Self { store, path, bytes: file.bytes, whole: None });
        }
        let whole =
            async { store.get(&path).await?.bytes().await }.await.map_err(|error| error.to_string())?;
        if whole.len() as u64 != file.bytes {
            return Err(format!("it has {} bytes where the log says {}", whole.len(), file.bytes));
        }
        if let Some(expected) = &file.sha256 {
            check_digest(&digest::sha256(&whole), expected)?;
        }
        Ok(Self { store, path, bytes: file.bytes, whole: Some(whole) })
    }
}

fn check_digest(digest: &str, expected: &str) -> Result<(), String> {
    if digest == expected {
        return Ok(());
    }
    Err(format!("its bytes have changed since they were written: their SHA-256 is not {expected}"))
}

impl AsyncFileReader for FileReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move {
            match &self.whole {
                Some(bytes) => slice(bytes, &range),
                None => self.store.get_range(&self.path, range).await.map_err(external),
            }
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move {
            match &self.whole {
                Some(bytes) => ranges.iter().map(|range| slice(bytes, range)).collect(),
                None => self.store.get_ranges(&self.path, &ranges).await.map_err(external),
            }
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let bytes = self.bytes;
            let reader = ParquetMetaDataReader::new()
                .with_arrow_reader_options(options)
                .with_prefetch_hint(Some(FOOTER_BYTES));
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}

fn slice(bytes: &Bytes, range: &Range<u64>) -> ParquetResult<Bytes> {
    let start = usize::try_from(range.start).unwrap_or(usize::MAX);
    let end = usize::try_from(range.end).unwrap_or(usize::MAX);
    if start > end || end > bytes.len() {
        return Err(ParquetError::EOF(format!("bytes {start}..{end} of a file of {}", bytes.len())));
    }
    Ok(bytes.slice(start..end))
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}
