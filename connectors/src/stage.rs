//! A slice of the lake as one local Parquet file: the columns that leave, masked, on the disk before anybody is told.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, MapArray, RecordBatch, StringArray, new_null_array,
};
use arrow::compute::{cast, filter_record_batch};
use arrow::datatypes::{DataType, Date32Type};
use arrow::error::ArrowError;
use aws_lc_rs::hmac;
use chrono::NaiveDate;
use data_encoding::HEXLOWER;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use sendlake_ingest::store::durable::sync_dir;
use sendlake_ingest::table::LakeError;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use crate::mapping::{Column, Kind, Mapping, Mask};

/// Rows of one row group: what the writer keeps in memory.
const ROW_GROUP_ROWS: usize = 65_536;
/// A smaller one goes on where the day changes.
const ROW_GROUP_ROWS_MIN: usize = 1_024;
/// And the most octets of one, before compression.
const ROW_GROUP_BYTES: usize = 48 << 20;

/// A staged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedFile {
    pub path: PathBuf,
    pub rows: u64,
    pub bytes: u64,
    /// First and last `event_date` of its rows, `2026-01-31`; empty for a file without rows.
    pub days: (String, String),
}

/// Why a slice could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error("the staged file {path} cannot be written: {reason}; free space there, or make the folder writable", path = path.display())]
    File { path: PathBuf, reason: String },
}

/// What is done to rows on their way out.
pub struct Shape {
    mapping: Mapping,
    /// Empty for all.
    tenants: BTreeSet<String>,
    mask_key: hmac::Key,
}

impl Shape {
    /// `mask_key`: the connector's own, 32 octets.
    pub fn new(mapping: Mapping, tenants: &[String], mask_key: &[u8; 32]) -> Self {
        let mask_key = hmac::Key::new(hmac::HMAC_SHA256, mask_key);
        Self { mapping, tenants: tenants.iter().cloned().collect(), mask_key }
    }

    /// The columns of the lake that it reads.
    pub fn columns(&self) -> Vec<&str> {
        self.mapping.names().collect()
    }

    /// Rows of the lake in the shape that they leave in.
    pub fn apply(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        let rows = self.of_tenants(rows)?;
        let schema = self.mapping.arrow_schema();
        let columns = self.mapping.columns.iter().zip(schema.fields()).map(|(column, field)| {
            let Some(values) = rows.column_by_name(&column.name) else {
                return Ok(new_null_array(field.data_type(), rows.num_rows()));
            };
            self.shaped(column, values, field.data_type())
        });
        let columns = columns.collect::<Result<Vec<_>, ArrowError>>()?;
        RecordBatch::try_new(Arc::clone(&schema), columns)
    }

    fn of_tenants(&self, rows: &RecordBatch) -> Result<RecordBatch, ArrowError> {
        if self.tenants.is_empty() {
            return Ok(rows.clone());
        }
        let tenants = rows.column_by_name("tenant_id").and_then(|column| column.as_string_opt::<i32>());
        let tenants = tenants.ok_or_else(|| ArrowError::SchemaError("rows have no tenant_id".to_owned()))?;
        let keep: BooleanArray = tenants
            .iter()
            .map(|tenant| Some(tenant.is_some_and(|tenant| self.tenants.contains(tenant))))
            .collect();
        filter_record_batch(rows, &keep)
    }

    fn shaped(&self, column: &Column, values: &ArrayRef, wanted: &DataType) -> Result<ArrayRef, ArrowError> {
        let values = match (column.kind, values.data_type()) {
            (Kind::Json, DataType::Map(..)) => Arc::new(objects(values.as_map())) as ArrayRef,
            (Kind::Json, DataType::Utf8) => Arc::new(json(values.as_string())) as ArrayRef,
            (_, found) if found == wanted => Arc::clone(values),
            _ => cast(values, wanted)?,
        };
        let masked = |mask: &dyn Fn(&str) -> Option<String>| -> ArrayRef {
            let masked = values.as_string::<i32>().iter().map(|value| value.and_then(mask));
            Arc::new(masked.collect::<StringArray>())
        };
        Ok(match column.mask {
            None => values,
            Some(Mask::Null) => new_null_array(wanted, values.len()),
            Some(Mask::Domain) => masked(&|value| Some(value.rsplit_once('@')?.1.to_owned())),
            Some(Mask::Hash) => masked(&|value| Some(self.hash(value))),
        })
    }

    fn hash(&self, value: &str) -> String {
        let tag = hmac::sign(&self.mask_key, value.as_bytes());
        HEXLOWER.encode(tag.as_ref()).chars().take(32).collect()
    }
}

/// Maps as JSON objects.
fn objects(maps: &MapArray) -> StringArray {
    let object = |row: usize| {
        if maps.is_null(row) {
            return None;
        }
        let entries = maps.value(row);
        let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
        let entry = |(key, value): (Option<&str>, Option<&str>)| {
            Some((key?.to_owned(), value.map_or(Value::Null, |value| Value::String(value.to_owned()))))
        };
        Some(
            Value::Object(keys.iter().zip(values.iter()).filter_map(entry).collect::<Map<_, _>>())
                .to_string(),
        )
    };
    (0..maps.len()).map(object).collect()
}

/// JSON as it is; any other text as a JSON string, so that a warehouse's parser takes it and nothing is lost.
fn json(texts: &StringArray) -> StringArray {
    let valid = |text: &str| match serde_json::from_str::<IgnoredAny>(text) {
        Ok(_) => text.to_owned(),
        Err(_) => Value::String(text.to_owned()).to_string(),
    };
    texts.iter().map(|text| text.map(valid)).collect()
}

/// Writes the rows to `path`, synced, in the place of what was there. One thread reads while another writes. Memory: one row
/// group, and the few thousand rows on their way.
pub async fn stage(
    mut rows: BoxStream<'static, Result<RecordBatch, LakeError>>,
    shape: &Shape,
    path: &Path,
) -> Result<StagedFile, StageError> {
    let failed = |reason: String| StageError::File { path: path.to_owned(), reason };
    let partial = path.with_extension("partial");
    let writer = create(&partial, shape).map_err(|error| failed(error.to_string()))?;
    let (give, take) = mpsc::channel(1);
    let writing = tokio::task::spawn_blocking(move || write(writer, take));
    while let Some(batch) = rows.try_next().await? {
        let batch = shape.apply(&batch).map_err(LakeError::from)?;
        // Nobody takes it any more: writing has failed, and says why below.
        if give.send(batch).await.is_err() {
            break;
        }
    }
    drop(give);
    let written = writing.await.map_err(|error| failed(error.to_string()))?;
    let Written { writer, rows, days } = written.map_err(|error| failed(error.to_string()))?;
    let close = || -> io::Result<u64> {
        let file = writer.into_inner().map_err(io::Error::other)?;
        file.sync_all()?;
        let bytes = file.metadata()?.len();
        std::fs::rename(&partial, path)?;
        path.parent().map_or(Ok(()), sync_dir)?;
        Ok(bytes)
    };
    let bytes = tokio::task::block_in_place(close).map_err(|error| failed(error.to_string()))?;
    let (first, last) = days.map_or((String::new(), String::new()), |(first, last)| (day(first), day(last)));
    Ok(StagedFile { path: path.to_owned(), rows, bytes, days: (first, last) })
}

/// A file with all its rows, not closed yet.
struct Written {
    writer: ArrowWriter<File>,
    rows: u64,
    days: Option<(i32, i32)>,
}

fn write(
    mut writer: ArrowWriter<File>,
    mut batches: mpsc::Receiver<RecordBatch>,
) -> Result<Written, ParquetError> {
    let (mut rows, mut days, mut days_of_group) = (0, None, None);
    while let Some(batch) = batches.blocking_recv() {
        let found = days_of(&batch);
        // A row group of one day can leave as it is, into a file of that day. A small one is not worth it.
        if found != days_of_group && writer.in_progress_rows() >= ROW_GROUP_ROWS_MIN {
            writer.flush()?;
        }
        days_of_group = found;
        days = match (days, found) {
            (Some((a, b)), Some((c, d))) => Some((i32::min(a, c), i32::max(b, d))),
            (known, found) => known.or(found),
        };
        rows += batch.num_rows() as u64;
        writer.write(&batch)?;
        if writer.in_progress_size() > ROW_GROUP_BYTES {
            writer.flush()?;
        }
    }
    Ok(Written { writer, rows, days })
}

/// First and last day of some rows.
fn days_of(batch: &RecordBatch) -> Option<(i32, i32)> {
    let dates = batch.column_by_name("event_date")?.as_primitive_opt::<Date32Type>()?;
    arrow::compute::min(dates).zip(arrow::compute::max(dates))
}

fn create(path: &Path, shape: &Shape) -> Result<ArrowWriter<File>, ParquetError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // A file of its own: a run that was given up may still be writing the last rows into the old one.
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build();
    ArrowWriter::try_new(File::create_new(path)?, shape.mapping.arrow_schema(), Some(properties))
}

/// A Date32 as text, `2026-01-31`.
pub(crate) fn day(date32: i32) -> String {
    NaiveDate::from_epoch_days(date32).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use arrow::array::{MapBuilder, StringBuilder};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    #[test]
    fn json_stays_json_and_other_text_becomes_a_string() {
        let texts: StringArray =
            [Some(r#"{"a":1}"#), Some("a \"b\"\n"), None, Some("")].into_iter().collect();
        let made = json(&texts);
        assert_eq!((made.value(0), made.value(1), made.value(3)), (r#"{"a":1}"#, r#""a \"b\"\n""#, r#""""#));
        assert!(made.is_null(2));
        let mut maps = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        maps.keys().append_value("k\"");
        maps.values().append_value("v");
        maps.append(true).unwrap();
        maps.append(true).unwrap();
        maps.append(false).unwrap();
        let made = objects(&maps.finish());
        assert_eq!((made.value(0), made.value(1), made.is_null(2)), (r#"{"k\"":"v"}"#, "{}", true));
    }

    #[test]
    fn masks_hide_and_tenants_are_kept_apart() {
        let mask = |name: &str, mask| (name.to_owned(), mask);
        let masks: BTreeMap<_, _> = [
            mask("recipient", Mask::Hash),
            mask("user_agent", Mask::Null),
            mask("reported_by", Mask::Domain),
        ]
        .into();
        let mapping = Mapping::of_events(&[], &[], &masks).unwrap();
        let shape = Shape::new(mapping, &["acme".to_owned()], &[7; 32]);
        let column = |values: &[Option<&str>]| -> ArrayRef {
            Arc::new(values.iter().copied().collect::<StringArray>())
        };
        let names = ["tenant_id", "recipient", "user_agent", "reported_by"];
        let fields: Vec<_> = names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
        let rows = RecordBatch::try_new(
            Arc::new(Schema::new(fields)),
            vec![
                column(&[Some("acme"), Some("zebra"), Some("acme")]),
                column(&[Some("a@x.example"), Some("b@x.example"), None]),
                column(&[Some("Mozilla"), None, Some("x")]),
                column(&[Some("fbl@mail.example"), None, Some("no address")]),
            ],
        )
        .unwrap();
        let kept = shape.of_tenants(&rows).unwrap();
        assert_eq!(kept.num_rows(), 2);
        let shaped = |name: &str| {
            let column = shape.mapping.columns.iter().find(|column| column.name == name).unwrap();
            let values = shape.shaped(column, kept.column_by_name(name).unwrap(), &DataType::Utf8).unwrap();
            let values = values.as_string::<i32>().iter().map(|value| value.map(str::to_owned));
            values.collect::<Vec<_>>()
        };
        let hashed = shaped("recipient");
        assert_eq!(hashed[0].as_ref().unwrap().len(), 32);
        assert_eq!((hashed[0].clone(), &hashed[1]), (Some(shape.hash("a@x.example")), &None));
        assert_eq!(shaped("user_agent"), [None, None]);
        assert_eq!(shaped("reported_by"), [Some("mail.example".to_owned()), None]);
    }
}
