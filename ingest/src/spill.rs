//! Events that wait too long for the lake: moved out of the spool's store into synced Parquet files beside it, so that
//! neither the store nor a query's memory grows with an outage.
//!
//! A file is named `<incarnation>-<first_lsn>-<last_lsn>.parquet`. Its name counts: it holds every event of that
//! spool from the first to the last number, except those that were erased. Rows lie in clear, as in the lake.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Display;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch, StringArray};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::errors::ParquetError;
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use crate::event::{EVENTS_SCHEMA, LoggedEvent, to_batch};
use crate::store::durable::{create_dir, sync_dir};
use crate::table::layout;

const EXTENSION: &str = "parquet";
/// What a crash leaves of a file that was not finished.
const STAGED: &str = "staged";
/// A note of events that were in no file and nowhere else when their turn came.
const MISSING: &str = "missing";

/// Spilled events could not be written or read. None is lost by a failed write: they are still in the spool's store.
#[derive(Debug, thiserror::Error)]
pub enum SpillError {
    #[error(
        "waiting events cannot be moved to {}: {reason}; free some space, or mend the folder: until then they stay in \
         the spool's store", path.display()
    )]
    Write { path: PathBuf, reason: String },
    #[error("the folder of spilled events {} cannot be read: {source}", path.display())]
    Folder { path: PathBuf, source: io::Error },
    #[error(
        "spilled events cannot be read from {}: {reason}; restore the file from a backup. Moving it away gives up \
         events {first_lsn} to {last_lsn} of spool {incarnation}", path.display()
    )]
    Damaged { path: PathBuf, incarnation: Uuid, first_lsn: u64, last_lsn: u64, reason: String },
}

/// One file of spilled events.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpillFile {
    pub incarnation: Uuid,
    pub first_lsn: u64,
    pub last_lsn: u64,
    pub path: PathBuf,
}

/// The folder of a node's spilled events. The server that owns the spool writes there, one writer at a time; others
/// only read.
#[derive(Debug)]
pub struct Spill {
    dir: PathBuf,
    /// Events in files that the lake is not known to have.
    waiting_rows: AtomicU64,
    /// The last number that was written here since the start; the store may have it for a moment longer.
    written_lsn: AtomicU64,
    /// Files that the lake has, and since when that is known: queries that began earlier may still read them.
    retired: Mutex<HashMap<PathBuf, Instant>>,
}

impl Spill {
    /// The folder of the server that owns the spool. Removes what a crash left unfinished. The folder need not exist.
    pub fn open(dir: PathBuf) -> Result<Self, SpillError> {
        for path in paths(&dir)? {
            if path.extension().is_some_and(|extension| extension == STAGED) {
                // Nothing refers to it: its events are still in the store.
                let _ = std::fs::remove_file(path);
            }
        }
        let spill = Self::beside(dir);
        let rows = spill.files()?.iter().map(SpillFile::rows).sum();
        spill.waiting_rows.store(rows, Ordering::Relaxed);
        Ok(spill)
    }

    /// The same folder for whoever reads beside the server.
    pub fn beside(dir: PathBuf) -> Self {
        Self {
            dir,
            waiting_rows: AtomicU64::new(0),
            written_lsn: AtomicU64::new(0),
            retired: Mutex::default(),
        }
    }

    /// All files, by spool and number. What has another kind of name is somebody else's and left alone.
    pub fn files(&self) -> Result<Vec<SpillFile>, SpillError> {
        let mut files: Vec<_> =
            paths(&self.dir)?.into_iter().filter_map(|path| SpillFile::parse(path, EXTENSION)).collect();
        files.sort_unstable();
        Ok(files)
    }

    /// Keeps a note that these events were nowhere when those after them went to the lake. True the first time.
    /// Blocking.
    pub fn note_missing(&self, incarnation: Uuid, first_lsn: u64, last_lsn: u64) -> Result<bool, SpillError> {
        let path = SpillFile::named(&self.dir, incarnation, first_lsn, last_lsn).path.with_extension(MISSING);
        let failed = |source| SpillError::Folder { path: self.dir.clone(), source };
        create_dir(&self.dir).map_err(failed)?;
        match File::create_new(&path) {
            Ok(_) => sync_dir(&self.dir).map(|()| true).map_err(failed),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(failed(error)),
        }
    }

    /// The notes of [`Spill::note_missing`], by spool and number; `path` is the note's. Whoever accepts the loss
    /// removes the note.
    pub fn missing(&self) -> Result<Vec<SpillFile>, SpillError> {
        let notes = paths(&self.dir)?.into_iter().filter_map(|path| SpillFile::parse(path, MISSING));
        let mut notes: Vec<_> = notes.collect();
        notes.sort_unstable();
        Ok(notes)
    }

    /// The last number that was spilled of a spool; 0 when there is none.
    pub fn last_lsn(&self, incarnation: Uuid) -> Result<u64, SpillError> {
        let files = self.files()?;
        let own = files.iter().filter(|file| file.incarnation == incarnation);
        Ok(own.map(|file| file.last_lsn).max().unwrap_or(0))
    }

    /// Events that wait in files, as the owner of the folder counts them.
    pub fn waiting_rows(&self) -> u64 {
        self.waiting_rows.load(Ordering::Relaxed)
    }

    /// Events up to here that this process has written to files: they wait there, also where the store still has them.
    pub fn written_lsn(&self) -> u64 {
        self.written_lsn.load(Ordering::SeqCst)
    }

    /// Writes events that follow each other in one spool's log as one file; it is on the disk when this returns.
    /// Blocking. Nothing is written for no events.
    pub fn write(&self, rows: &[LoggedEvent]) -> Result<Option<SpillFile>, SpillError> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(None) };
        let file = SpillFile::named(&self.dir, first.incarnation, first.lsn, last.lsn);
        let failed =
            |reason: &dyn Display| SpillError::Write { path: file.path.clone(), reason: reason.to_string() };
        let batch = to_batch(rows).and_then(|batch| layout::sort(&batch)).map_err(|e| failed(&e))?;
        self.put(&file.path, &[batch]).map_err(|e| failed(&e))?;
        self.waiting_rows.fetch_add(file.rows(), Ordering::SeqCst);
        self.written_lsn.fetch_max(file.last_lsn, Ordering::SeqCst);
        Ok(Some(file))
    }

    /// Puts other rows in the place of a file's, at once for all readers. For erasure: numbers stay what they were.
    pub fn replace(&self, file: &SpillFile, batches: &[RecordBatch]) -> Result<(), SpillError> {
        let failed = |e: ParquetError| SpillError::Write { path: file.path.clone(), reason: e.to_string() };
        self.put(&file.path, batches).map_err(failed)
    }

    /// From now on the events above `after_lsn` count as those of spool `to`, with their numbers. For a spool that
    /// turns out to be one of two copies.
    pub fn relabel(&self, from: Uuid, after_lsn: u64, to: Uuid) -> Result<(), SpillError> {
        for file in
            self.files()?.into_iter().filter(|file| file.incarnation == from && file.last_lsn > after_lsn)
        {
            let first_lsn = file.first_lsn.max(after_lsn.saturating_add(1));
            let renamed = SpillFile::named(&self.dir, to, first_lsn, file.last_lsn);
            std::fs::rename(&file.path, &renamed.path)
                .and_then(|()| sync_dir(&self.dir))
                .map_err(|source| SpillError::Folder { path: self.dir.clone(), source })?;
        }
        Ok(())
    }

    /// The lake has all of this file. It stays until [`Spill::sweep`] finds that no query can still read it.
    pub async fn retire(&self, file: &SpillFile) {
        let mut retired = self.retired.lock().await;
        if let Entry::Vacant(unknown) = retired.entry(file.path.clone()) {
            unknown.insert(Instant::now());
            let rows = file.rows();
            let less = |waiting: u64| Some(waiting.saturating_sub(rows));
            let _ = self.waiting_rows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// Retires files that end at or before what the lake has, but for those that fill a gap noted as missing: the lake
    /// has what lies behind them, and not them.
    pub async fn retire_all(&self, over: &[SpillFile]) -> Result<(), SpillError> {
        let missing = if over.is_empty() { Vec::new() } else { self.missing()? };
        for file in over.iter().filter(|file| !missing.iter().any(|gap| gap.overlaps(file))) {
            self.retire(file).await;
        }
        Ok(())
    }

    /// Removes files that were retired longer than `grace` ago.
    pub async fn sweep(&self, grace: Duration) {
        let mut retired = self.retired.lock().await;
        let over: Vec<PathBuf> =
            retired.iter().filter(|(_, at)| at.elapsed() >= grace).map(|(path, _)| path.clone()).collect();
        for path in over {
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Harmless: the lake has it, and the next sweep tries again.
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "a spilled file cannot be removed yet");
                    continue;
                }
            }
            retired.remove(&path);
        }
    }

    /// Stage, sync, read back, rename, sync the folder.
    fn put(&self, path: &Path, batches: &[RecordBatch]) -> Result<(), ParquetError> {
        create_dir(&self.dir)?;
        let staged = path.with_extension(STAGED);
        let written = write_staged(&staged, batches).and_then(|()| {
            std::fs::rename(&staged, path)?;
            Ok(sync_dir(&self.dir)?)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&staged);
        }
        written
    }
}

fn write_staged(path: &Path, batches: &[RecordBatch]) -> Result<(), ParquetError> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    // The list of sorted columns counts columns of the lake's files, which lack the day.
    let properties = layout::writer_properties().into_builder().set_sorting_columns(None).build();
    let mut writer = ArrowWriter::try_new(file.try_clone()?, EVENTS_SCHEMA.clone(), Some(properties))?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.close()?;
    file.sync_all()?;
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let found = ParquetRecordBatchReaderBuilder::try_new(file)?.metadata().file_metadata().num_rows();
    if usize::try_from(found).is_ok_and(|found| found == rows) {
        Ok(())
    } else {
        Err(ParquetError::General(format!("{rows} rows were written, {found} are there")))
    }
}

impl SpillFile {
    fn named(dir: &Path, incarnation: Uuid, first_lsn: u64, last_lsn: u64) -> Self {
        let path = dir.join(format!("{incarnation}-{first_lsn}-{last_lsn}.{EXTENSION}"));
        Self { incarnation, first_lsn, last_lsn, path }
    }

    fn parse(path: PathBuf, kind: &str) -> Option<Self> {
        if path.extension().is_none_or(|extension| extension != kind) {
            return None;
        }
        let (incarnation, lsns) =
            path.file_stem()?.to_str()?.split_at_checked(uuid::fmt::Hyphenated::LENGTH)?;
        let (first_lsn, last_lsn) = lsns.strip_prefix('-')?.split_once('-')?;
        let (first_lsn, last_lsn) = (first_lsn.parse().ok()?, last_lsn.parse().ok()?);
        let incarnation = Uuid::try_parse(incarnation).ok()?;
        (first_lsn > 0 && first_lsn <= last_lsn).then_some(Self { incarnation, first_lsn, last_lsn, path })
    }

    /// Whether any number is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.incarnation == other.incarnation
            && self.first_lsn <= other.last_lsn
            && other.first_lsn <= self.last_lsn
    }

    /// How many events went into it.
    pub fn rows(&self) -> u64 {
        (self.last_lsn - self.first_lsn).saturating_add(1)
    }

    /// All rows within the numbers of its name, as events of the spool of its name, with [`EVENTS_SCHEMA`]. Blocking.
    pub fn read(&self) -> Result<Vec<RecordBatch>, SpillError> {
        self.rows_read().map_err(|reason| self.damaged(&reason))
    }

    /// The numbers and ids of its events. Blocking.
    pub fn event_ids(&self) -> Result<Vec<(u64, Uuid)>, SpillError> {
        let pairs = |batch: &RecordBatch| -> Option<Vec<(u64, Uuid)>> {
            let lsns = batch.column_by_name("lsn")?.as_primitive_opt::<Int64Type>()?;
            let ids = batch.column_by_name("event_id")?.as_string_opt::<i32>()?;
            let pairs = lsns.values().iter().zip(ids.iter());
            pairs.map(|(lsn, id)| Some((lsn.cast_unsigned(), Uuid::try_parse(id?).ok()?))).collect()
        };
        let batches = self.read()?;
        let pairs = batches.iter().map(pairs).collect::<Option<Vec<_>>>();
        pairs.map(|pairs| pairs.concat()).ok_or_else(|| self.damaged(&"an event has no id"))
    }

    fn damaged(&self, reason: &dyn Display) -> SpillError {
        SpillError::Damaged {
            path: self.path.clone(),
            incarnation: self.incarnation,
            first_lsn: self.first_lsn,
            last_lsn: self.last_lsn,
            reason: reason.to_string(),
        }
    }

    fn rows_read(&self) -> Result<Vec<RecordBatch>, ParquetError> {
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&self.path)?)?;
        let reader = reader.with_batch_size(8_192).build()?;
        reader.map(|batch| self.as_named(&batch?)).collect()
    }

    fn as_named(&self, batch: &RecordBatch) -> Result<RecordBatch, ParquetError> {
        let rows = batch.num_rows();
        let columns = EVENTS_SCHEMA.fields().iter().map(|field| match batch.column_by_name(field.name()) {
            _ if field.name() == "incarnation" => {
                let name = self.incarnation.to_string();
                Ok(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(name, rows))) as _)
            }
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => arrow::compute::cast(column, field.data_type()),
            // Written before the column was there.
            None => Ok(arrow::array::new_null_array(field.data_type(), rows)),
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        let batch = RecordBatch::try_new(EVENTS_SCHEMA.clone(), columns)?;
        let within = |lsn: &i64| (self.first_lsn..=self.last_lsn).contains(&lsn.cast_unsigned());
        let lsns = batch.column_by_name("lsn").and_then(|column| column.as_primitive_opt::<Int64Type>());
        match lsns {
            None => Err(ParquetError::General("there is no column lsn".to_owned())),
            Some(lsns) if lsns.values().iter().all(within) => Ok(batch),
            Some(lsns) => {
                let wanted = lsns.values().iter().map(|lsn| Some(within(lsn))).collect();
                Ok(filter_record_batch(&batch, &wanted)?)
            }
        }
    }
}

fn paths(dir: &Path) -> Result<Vec<PathBuf>, SpillError> {
    let failed = |source| SpillError::Folder { path: dir.to_owned(), source };
    match std::fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests;
