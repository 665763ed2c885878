//! One Parquet file: is it there, whole, what the log says it is, sorted, and free of values that outlive erasure.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimestampMicrosecondType};
use arrow::row::{OwnedRow, RowConverter, SortField};
use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use sendlake_control::clock::Timestamp;
use uuid::Uuid;

use super::Depth;
use super::finding::Finding;
use super::ledger::Rows;
use super::log::leak;
use crate::event::EVENTS_SCHEMA;
use crate::table::digest;
use crate::table::layout::may_be_indexed;

/// A file as the log names it.
#[derive(Clone, Debug)]
pub(super) struct Named {
    pub path: Path,
    pub size: u64,
    /// `numRecords` of its statistics.
    pub rows: Option<u64>,
    /// The day of its partition, in days since the epoch.
    pub day: Option<i32>,
    pub sha256: Option<String>,
    /// It belongs to `events`, whose rows, order and statistics are checked.
    pub is_events: bool,
}

/// What a look at a file gave.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub rows: u64,
    pub bytes: u64,
    pub entries: Rows,
    /// It is not there: replaced meanwhile, or lost.
    pub gone: bool,
    pub findings: Vec<Finding>,
}

const RESTORE: &str = "restore it from a backup or from the bucket's older versions, under the same name; \
                       `sendlake lake verify` then says whether it is the right one";
const RANGE_FOR_FOOTER: u64 = 64 << 10;
const BATCH_ROWS: usize = 8_192;

impl Named {
    /// Reads the footer, or all of it. `place` is the file's URL.
    pub async fn look(&self, store: &Arc<dyn ObjectStore>, depth: Depth, place: &str) -> Seen {
        let read = match depth {
            Depth::Quick => self.read_footer(store).await.map(Read::Footer),
            Depth::Whole => whole(store, &self.path).await.map(Read::Whole),
        };
        let (named, place) = (self.clone(), place.to_owned());
        match read {
            Err(Unread::Gone) => Seen { gone: true, ..Seen::default() },
            Err(Unread::Failed(problem)) => {
                Seen { findings: vec![named.damaged(&place, &problem)], ..Seen::default() }
            }
            // Decoding takes long enough to hold up the runtime's own threads.
            Ok(read) => {
                tokio::task::spawn_blocking(move || named.judge(read, &place)).await.unwrap_or_else(|ended| {
                    let finding = self.damaged(self.path.as_ref(), &format!("decoding it failed: {ended}"));
                    Seen { findings: vec![finding], ..Seen::default() }
                })
            }
        }
    }

    fn judge(&self, read: Read, place: &str) -> Seen {
        let mut seen = Seen::default();
        match read {
            Read::Footer((size, metadata)) => {
                seen.bytes = size;
                self.check_size(size, place, &mut seen.findings);
                match metadata {
                    Ok(metadata) => {
                        seen.rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
                        self.check_footer(&metadata, place, &mut seen.findings);
                        self.check_rows(seen.rows, place, &mut seen.findings);
                    }
                    Err(error) => seen.findings.push(self.damaged(place, &error.to_string())),
                }
            }
            Read::Whole(bytes) => {
                seen.bytes = bytes.len() as u64;
                self.check_size(seen.bytes, place, &mut seen.findings);
                let is_whole = seen.findings.is_empty();
                if let Some(expected) = &self.sha256
                    && is_whole
                    && digest::sha256(&bytes) != *expected
                {
                    seen.findings.push(Finding::error(
                        "file",
                        place,
                        format!(
                            "its bytes have changed since they were written: their SHA-256 is not {expected}"
                        ),
                        RESTORE,
                    ));
                }
                if let Err(problem) = self.decode(bytes, place, &mut seen)
                    && seen.findings.is_empty()
                {
                    seen.findings.push(self.damaged(place, &problem));
                }
            }
        }
        seen
    }

    fn decode(&self, bytes: Bytes, place: &str, seen: &mut Seen) -> Result<(), String> {
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
        self.check_footer(builder.metadata(), place, &mut seen.findings);
        let reader = builder.with_batch_size(BATCH_ROWS).build().map_err(|error| error.to_string())?;
        let mut check = if self.is_events { Some(RowCheck::new(self.day)) } else { None };
        for batch in reader {
            let batch = batch.map_err(|error| error.to_string())?;
            seen.rows += batch.num_rows() as u64;
            if let Some(check) = &mut check {
                check.take(&batch, seen.rows, &mut seen.entries)?;
            }
        }
        self.check_rows(seen.rows, place, &mut seen.findings);
        if let Some(check) = check {
            check.tell(place, &mut seen.findings);
        }
        Ok(())
    }

    fn check_size(&self, found: u64, place: &str, findings: &mut Vec<Finding>) {
        if found != self.size {
            let how = if found < self.size { "cut short" } else { "longer than it was" };
            let what = format!("the file is {how}: it has {found} bytes, the log says {}", self.size);
            findings.push(Finding::error("file", place, what, RESTORE));
        }
    }

    fn check_rows(&self, found: u64, place: &str, findings: &mut Vec<Finding>) {
        match self.rows {
            Some(expected) if expected != found => {
                let what = format!("the file has {found} rows, the log says {expected}");
                findings.push(Finding::error("file", place, what, RESTORE));
            }
            None => findings.push(Finding::warning(
                "file",
                place,
                "the log does not say how many rows the file has: another program added it".to_owned(),
                "find out which (commitInfo in the log names it): only sendlake may write to this table",
            )),
            Some(_) => {}
        }
    }

    /// No minima, maxima or filters of a column that may hold an address.
    fn check_footer(&self, metadata: &ParquetMetaData, place: &str, findings: &mut Vec<Finding>) {
        if !self.is_events {
            return;
        }
        let mut leaking: Vec<&str> = Vec::new();
        for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
            let name = column.column_path().parts().first().map_or("", String::as_str);
            let has_values = column
                .statistics()
                .is_some_and(|known| known.min_bytes_opt().is_some() || known.max_bytes_opt().is_some());
            let indexed = has_values || column.bloom_filter_offset().is_some();
            if indexed && !may_be_indexed(name) && !leaking.contains(&name) {
                leaking.push(name);
            }
        }
        findings
            .extend(leaking.into_iter().map(|column| leak(place.to_owned(), column, "the file's footer")));
    }

    fn damaged(&self, place: &str, problem: &str) -> Finding {
        let rows = self.rows.map_or_else(|| "its rows".to_owned(), |rows| format!("its {rows} rows"));
        Finding::error("file", place, format!("the file cannot be read, nor can {rows}: {problem}"), RESTORE)
    }

    async fn read_footer(&self, store: &Arc<dyn ObjectStore>) -> Result<Footer, Unread> {
        let size = store.head(&self.path).await?.size;
        let mut wanted = RANGE_FOR_FOOTER.min(size);
        loop {
            let tail = store.get_range(&self.path, size - wanted..size).await?;
            let mut reader = ParquetMetaDataReader::new();
            match reader.try_parse_sized(&tail, size) {
                Ok(()) => return Ok((size, reader.finish())),
                Err(ParquetError::NeedMoreData(needed))
                    if (needed as u64) > wanted && needed as u64 <= size =>
                {
                    wanted = needed as u64;
                }
                Err(error) => return Ok((size, Err(error))),
            }
        }
    }
}

type Footer = (u64, Result<ParquetMetaData, ParquetError>);

enum Read {
    Footer(Footer),
    Whole(Bytes),
}

enum Unread {
    Gone,
    Failed(String),
}

impl From<object_store::Error> for Unread {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Gone,
            other => Self::Failed(other.to_string()),
        }
    }
}

async fn whole(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<Bytes, Unread> {
    Ok(store.get(path).await?.bytes().await?)
}

/// Rows against their partition and the declared order.
struct RowCheck {
    day: Option<i32>,
    order: Option<RowConverter>,
    last: Option<OwnedRow>,
    /// The first row that is in another day's file, and the first out of order, by number.
    wrong_day: Option<u64>,
    unsorted: Option<u64>,
}

/// As `layout::sort` sorts; what comes after these settles ties.
const ORDER: [&str; 3] = ["tenant_id", "message_id", "recorded_at"];

impl RowCheck {
    fn new(day: Option<i32>) -> Self {
        let fields = ORDER.iter().filter_map(|name| {
            let field = EVENTS_SCHEMA.field_with_name(name).ok()?;
            Some(SortField::new(field.data_type().clone()))
        });
        Self {
            day,
            order: RowConverter::new(fields.collect()).ok(),
            last: None,
            wrong_day: None,
            unsorted: None,
        }
    }

    /// Checks a batch that ends at row `end` of its file, and enters its rows.
    fn take(&mut self, batch: &RecordBatch, end: u64, entries: &mut Rows) -> Result<(), String> {
        let begin = end - batch.num_rows() as u64;
        self.days(batch, begin)?;
        self.order(batch, begin)?;
        let (event_ids, spools) = (uuids(batch, "event_id")?, uuids(batch, "incarnation")?);
        entries.event_ids.extend(event_ids);
        entries.incarnations.extend(spools);
        let lsns = column(batch, "lsn")?;
        entries.lsns.extend(lsns.as_primitive::<Int64Type>().values().iter().map(|lsn| lsn.cast_unsigned()));
        Ok(())
    }

    fn days(&mut self, batch: &RecordBatch, begin: u64) -> Result<(), String> {
        let Some(day) = self.day else { return Ok(()) };
        let occurred = column(batch, "occurred_at")?;
        let instants = occurred.as_primitive::<TimestampMicrosecondType>().values();
        if let Some(row) = instants.iter().position(|at| Timestamp(*at).days() != day) {
            self.wrong_day.get_or_insert(begin + row as u64);
        }
        Ok(())
    }

    fn order(&mut self, batch: &RecordBatch, begin: u64) -> Result<(), String> {
        let Some(order) = &self.order else { return Ok(()) };
        let columns = ORDER.iter().map(|name| column(batch, name)).collect::<Result<Vec<_>, _>>()?;
        let rows = order.convert_columns(&columns).map_err(|error| error.to_string())?;
        for (number, row) in rows.iter().enumerate() {
            let before =
                if number == 0 { self.last.as_ref().map(OwnedRow::row) } else { Some(rows.row(number - 1)) };
            if before.is_some_and(|before| before > row) {
                self.unsorted.get_or_insert(begin + number as u64);
                break;
            }
        }
        self.last = rows.num_rows().checked_sub(1).map(|last| rows.row(last).owned());
        Ok(())
    }

    fn tell(self, place: &str, findings: &mut Vec<Finding>) {
        if let Some(row) = self.wrong_day {
            findings.push(Finding::error(
                "rows",
                place,
                format!("row {row} did not occur on the day of its partition: queries by event_date miss it"),
                "find out who wrote the file (commitInfo in the log names the engine); `sendlake lake compact` cannot \
                 mend it: append its rows again where they belong",
            ));
        }
        if let Some(row) = self.unsorted {
            findings.push(Finding::error(
                "rows",
                place,
                format!("row {row} is out of the order (tenant_id, message_id, recorded_at) that the footer declares"),
                "find out who wrote the file; `sendlake lake compact` writes it anew, sorted",
            ));
        }
    }
}

/// A column as this version writes it, whatever type of text or number the file has. None of its values is null.
fn column(batch: &RecordBatch, name: &str) -> Result<ArrayRef, String> {
    let schema: &SchemaRef = &EVENTS_SCHEMA;
    let field = schema.field_with_name(name).map_err(|error| error.to_string())?;
    let found = batch.column_by_name(name).ok_or_else(|| format!("it has no column {name}"))?;
    let cast = arrow::compute::cast(found, field.data_type()).map_err(|error| error.to_string())?;
    if !field.is_nullable() && cast.null_count() > 0 {
        return Err(format!("column {name}, which every event has, is null in some rows"));
    }
    Ok(cast)
}

fn uuids(batch: &RecordBatch, name: &str) -> Result<Vec<Uuid>, String> {
    let texts = column(batch, name)?;
    debug_assert_eq!(texts.data_type(), &DataType::Utf8);
    let parse = |text: Option<&str>| {
        let text = text.unwrap_or("");
        Uuid::try_parse(text).map_err(|_| format!("column {name} holds a value that is no UUID"))
    };
    texts.as_string::<i32>().iter().map(parse).collect()
}
