//! Rows as Parquet files that no commit names yet: one for each day, its columns encoded on several threads, since
//! encoding is most of what a commit costs.

use std::collections::{BTreeSet, HashMap};

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{filter_record_batch, max, min};
use arrow::datatypes::{Date32Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use bytes::Bytes;
use deltalake::DeltaTableError;
use deltalake::kernel::Add;
use object_store::path::Path;
use object_store::{ObjectStoreExt, WriteMultipart};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::{
    ArrowColumnChunk, ArrowColumnWriter, ArrowLeafColumn, ArrowWriterOptions, compute_leaves,
};
use parquet::errors::ParquetError;
use sendlake_control::clock::Timestamp;

use super::statistics::statistics;
use super::{lsns, threads};
use crate::table::digest::{SHA256_TAG, sha256};
use crate::table::layout::{self, PARTITION_COLUMN, ROW_GROUP_ROWS_MAX};
use crate::table::{EventsTable, LakeError};

/// Larger files go to a bucket in parts of this size.
const PART_BYTES: usize = 8 << 20;

impl EventsTable {
    /// Writes sorted rows of one spool as files of the table, one for each day.
    pub(super) async fn encode(&self, batch: RecordBatch) -> Result<Vec<Add>, LakeError> {
        // Encoding takes long enough to hold up the runtime's own threads.
        let files = tokio::task::spawn_blocking(move || encoded(&batch)).await??;
        let mut adds = Vec::with_capacity(files.len());
        for file in files {
            self.write(&file.add.path, file.content).await.map_err(self.failed("write Parquet files of"))?;
            adds.push(file.add);
        }
        Ok(adds)
    }

    async fn write(&self, path: &str, content: Bytes) -> Result<(), DeltaTableError> {
        let (store, path) = (self.log_store.object_store(None), Path::from(path));
        if content.len() <= PART_BYTES {
            store.put(&path, content.into()).await?;
            return Ok(());
        }
        let upload = store.put_multipart(&path).await?;
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        upload.put(content);
        upload.finish().await?;
        Ok(())
    }
}

struct EncodedFile {
    add: Add,
    content: Bytes,
}

fn encoded(batch: &RecordBatch) -> Result<Vec<EncodedFile>, ArrowError> {
    let Some((place, _)) = batch.schema().column_with_name(PARTITION_COLUMN) else {
        return Err(ArrowError::SchemaError(format!("a batch of events has no column {PARTITION_COLUMN}")));
    };
    let dates = batch.column(place).as_primitive::<Date32Type>();
    let days: BTreeSet<i32> = dates.values().iter().copied().collect();
    let rows_of = |day: i32| {
        let mut rows = batch.clone();
        if days.len() > 1 {
            let wanted = dates.values().iter().map(|date| Some(*date == day)).collect();
            rows = filter_record_batch(batch, &wanted)?;
        }
        // Its value stands in the file's path and in the log.
        rows.remove_column(place);
        Ok::<_, ArrowError>(rows)
    };
    days.iter().map(|day| encoded_day(*day, &rows_of(*day)?)).collect()
}

fn encoded_day(day: i32, rows: &RecordBatch) -> Result<EncodedFile, ArrowError> {
    let content = Bytes::from(encoded_file(rows)?);
    let digest = sha256(&content);
    let date = Timestamp::from_secs(i64::from(day) * 86_400).to_chrono().format("%Y-%m-%d").to_string();
    let recorded = rows.column_by_name("recorded_at").and_then(|column| column.as_primitive_opt());
    let newest = recorded.and_then(max::<TimestampMicrosecondType>);
    let add = Add {
        path: format!("{PARTITION_COLUMN}={date}/{}", file_name(rows, &digest)?),
        partition_values: HashMap::from([(PARTITION_COLUMN.to_owned(), Some(date))]),
        size: i64::try_from(content.len()).unwrap_or(i64::MAX),
        modification_time: Timestamp(newest.unwrap_or_default()).as_millis(),
        data_change: true,
        stats: Some(statistics(rows)?),
        tags: Some(HashMap::from([(SHA256_TAG.to_owned(), Some(digest))])),
        deletion_vector: None,
        base_row_id: None,
        default_row_commit_version: None,
        clustering_provider: None,
    };
    Ok(EncodedFile { add, content })
}

/// Named after its content, so that a second try writes over the first one's file, and nothing ever writes anything else
/// over a file that a commit may name.
fn file_name(rows: &RecordBatch, digest: &str) -> Result<String, ArrowError> {
    let lsns = lsns(rows)?;
    let (first, last) = (min(lsns).unwrap_or_default(), max(lsns).unwrap_or_default());
    Ok(format!("part-{first}-{last}-{}.zstd.parquet", digest.get(..32).unwrap_or(digest)))
}

fn encoded_file(rows: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    // Readers take the types from Parquet itself; Arrow's own schema would be a tenth of a small file.
    let options =
        ArrowWriterOptions::new().with_properties(layout::writer_properties()).with_skip_arrow_metadata(true);
    let writer = ArrowWriter::try_new_with_options(Vec::new(), rows.schema(), options)?;
    let (mut file, columns) = writer.into_serialized_writer()?;
    for number in 0..rows.num_rows().div_ceil(ROW_GROUP_ROWS_MAX) {
        let from = number * ROW_GROUP_ROWS_MAX;
        let group = rows.slice(from, ROW_GROUP_ROWS_MAX.min(rows.num_rows() - from));
        let mut row_group = file.next_row_group()?;
        for chunk in encoded_columns(columns.create_column_writers(number)?, &group)? {
            chunk.append_to_row_group(&mut row_group)?;
        }
        row_group.close()?;
    }
    Ok(file.into_inner()?)
}

/// One column of a row group, its place in the file, and about how much there is to encode.
struct Job {
    place: usize,
    bytes: usize,
    writer: ArrowColumnWriter,
    leaf: ArrowLeafColumn,
}

fn encoded_columns(
    writers: Vec<ArrowColumnWriter>,
    rows: &RecordBatch,
) -> Result<Vec<ArrowColumnChunk>, ArrowError> {
    let mut done = std::thread::scope(|scope| {
        let shares = dealt(jobs(writers, rows)?, threads());
        let working: Vec<_> = shares.into_iter().map(|share| scope.spawn(|| finished(share))).collect();
        let mut done = Vec::new();
        for thread in working {
            let ended = |_| ParquetError::General("a thread that encodes columns ended early".to_owned());
            done.extend(thread.join().map_err(ended)??);
        }
        Ok::<_, ArrowError>(done)
    })?;
    done.sort_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, chunk)| chunk).collect())
}

fn jobs(writers: Vec<ArrowColumnWriter>, rows: &RecordBatch) -> Result<Vec<Job>, ArrowError> {
    let mut writers = writers.into_iter().enumerate();
    let mut jobs = Vec::with_capacity(rows.num_columns() + 1);
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let bytes = column.to_data().get_slice_memory_size()?;
        for leaf in compute_leaves(field, column)? {
            let Some((place, writer)) = writers.next() else { break };
            jobs.push(Job { place, bytes, writer, leaf });
        }
    }
    Ok(jobs)
}

/// Deals jobs out, the largest first, each to whoever has least to do.
fn dealt(mut jobs: Vec<Job>, threads: usize) -> Vec<Vec<Job>> {
    jobs.sort_by_key(|job| std::cmp::Reverse(job.bytes));
    let mut shares: Vec<(usize, Vec<Job>)> = (0..threads.max(1)).map(|_| (0, Vec::new())).collect();
    for job in jobs {
        if let Some((load, share)) = shares.iter_mut().min_by_key(|(load, _)| *load) {
            *load += job.bytes;
            share.push(job);
        }
    }
    shares.into_iter().map(|(_, share)| share).collect()
}

fn finished(share: Vec<Job>) -> Result<Vec<(usize, ArrowColumnChunk)>, ParquetError> {
    let one = |mut job: Job| {
        job.writer.write(&job.leaf)?;
        Ok((job.place, job.writer.close()?))
    };
    share.into_iter().map(one).collect()
}
