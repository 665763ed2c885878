//! The one rewrite: exact files of the table are read, edited, sorted and written anew, and swapped in one
//! commit. Compaction is a rewrite without an edit, erasure one with an edit.
//!
//! Memory is bounded by [`RewriteSettings::memory_bytes`] for sorting, whatever the files hold: beyond it rows are
//! spilled to the given folder. Beside it there is one row group being encoded, the files that are read ahead, and
//! up to two finished files on their way to storage.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use deltalake::DeltaTableError;
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use deltalake::datafusion::execution::memory_pool::GreedyMemoryPool;
use deltalake::datafusion::execution::runtime_env::RuntimeEnvBuilder;
use deltalake::datafusion::execution::{SendableRecordBatchStream, TaskContext};
use deltalake::datafusion::physical_expr::expressions::Column;
use deltalake::datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use deltalake::datafusion::physical_plan::ExecutionPlan;
use deltalake::datafusion::physical_plan::sorts::sort::SortExec;
use deltalake::datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use deltalake::datafusion::prelude::{SessionConfig, SessionContext};
use deltalake::kernel::Add;
use deltalake::operations::write::WriterStatsConfig;
use deltalake::operations::write::writer::{DeltaWriter, WriterConfig};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use tokio_util::sync::CancellationToken;
use url::Url;
use uuid::Uuid;

use super::MaintainError;
use super::commit::Swap;
pub use super::commit::{REMOVED_TXN, REWRITE_TXN};
use super::lease::Lease;
pub use super::source::DataFile;
use super::source::{self, Columns, SourceFault};
use crate::table::digest::Digests;
use crate::table::layout::{self, PARTITION_COLUMN, SORT_COLUMNS};
use crate::table::{EventsTable, LakeError, Pinned, failed};

/// Rows per step. Small, since a row is wide and the sort holds several batches of each spilled run.
const BATCH_ROWS: usize = 2_048;
/// What the sort keeps free for merging its runs.
const MERGE_RESERVE_MAX: usize = 16 << 20;
/// How often a running rewrite looks after its lease.
const LEASE_LOOK: Duration = Duration::from_secs(2);

/// What a rewrite may use, and what it makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewriteSettings {
    /// Memory for sorting, in bytes; at least 32 MiB are used.
    pub memory_bytes: usize,
    /// Where runs that do not fit are spilled. Made when missing; what is spilled is removed at the end, and what a
    /// crash leaves by the next rewrite.
    pub spill_dir: PathBuf,
    /// Files are closed when they reach about this size.
    pub target_file_bytes: u64,
}

/// Changes rows on their way through a rewrite: it may drop rows and change values, and must leave `incarnation`,
/// `lsn` and `event_date` of those it keeps as they are.
pub trait Edit: Send + Sync {
    /// Called with some thousand rows at a time, in no order, with all columns of the table.
    fn apply(&self, rows: RecordBatch) -> Result<RecordBatch, ArrowError>;

    /// Called when all rows were applied and written, right before the commit, which an error prevents.
    fn before_commit(&self) -> BoxFuture<'_, Result<(), MaintainError>> {
        std::future::ready(Ok(())).boxed()
    }
}

/// What a rewrite did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The version that holds it.
    pub version: u64,
    pub files_read: usize,
    pub files_written: usize,
    pub bytes_read: u64,
    pub bytes_written: u64,
    pub rows_read: u64,
    pub rows_written: u64,
    /// Whether any row is gone or differs.
    pub data_change: bool,
    /// Rows that are gone, per spool.
    pub dropped: BTreeMap<Uuid, u64>,
}

impl EventsTable {
    /// The files of one version, in no order.
    pub fn files(&self, pinned: &Pinned) -> Result<Vec<DataFile>, MaintainError> {
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        Ok(state.log_data().into_iter().map(|view| DataFile::of(&view)).collect())
    }

    /// Replaces `files` (paths of one pinned version) by sorted ones with the same rows, or those that `edit`
    /// leaves, in one commit. Appends go on meanwhile; a rewrite by anybody else makes this one fail without
    /// effect. When rows are dropped, the commit also says how many of each spool were ever removed.
    ///
    /// On an error nothing has changed, or, when storage lost the answer to the commit and cannot be asked, the
    /// commit stands whole.
    pub async fn rewrite(
        &self,
        lease: &Lease,
        files: &[String],
        edit: Option<Arc<dyn Edit>>,
        settings: &RewriteSettings,
    ) -> Result<Rewritten, MaintainError> {
        let pinned = self.pin(None).await?;
        let mut days: BTreeMap<String, Vec<DataFile>> = BTreeMap::new();
        let mut wanted: HashSet<&str> = files.iter().map(String::as_str).collect();
        for file in self.files(&pinned)? {
            if wanted.remove(file.path.as_str()) {
                days.entry(file.day().to_owned()).or_default().push(file);
            }
        }
        if let Some(path) = wanted.into_iter().next() {
            return Err(MaintainError::Gone { path: path.to_owned() });
        }
        let mut done = Rewritten { version: pinned.version, ..Rewritten::default() };
        if days.is_empty() {
            return Ok(done);
        }
        let spill = SpillFolder::make(&settings.spill_dir, &lease.next_mark())?;
        sweep_dead(lease, &settings.spill_dir).await;
        let mut adds = Vec::new();
        for files in days.into_values() {
            let day = self.day_writer(&pinned, files, edit.clone(), settings, &spill)?;
            let (written, tally) = attended(lease, day).await?;
            done.add(&written, &tally);
            adds.extend(written);
        }
        let dropped_rows = done.dropped.values().sum();
        if done.rows_read != done.rows_written.saturating_add(dropped_rows) {
            return Err(MaintainError::Miscounted {
                read: done.rows_read,
                dropped: dropped_rows,
                written: done.rows_written,
            });
        }
        if let Some(edit) = &edit {
            edit.before_commit().await?;
        }
        done.version = self
            .swap(
                lease,
                Swap {
                    remove: files.iter().cloned().collect(),
                    add: adds,
                    dropped: done.dropped.clone(),
                    data_change: done.data_change,
                    target_file_bytes: settings.target_file_bytes,
                },
            )
            .await?;
        Ok(done)
    }

    fn day_writer(
        &self,
        pinned: &Pinned,
        files: Vec<DataFile>,
        edit: Option<Arc<dyn Edit>>,
        settings: &RewriteSettings,
        spill: &SpillFolder,
    ) -> Result<DayWriter, MaintainError> {
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        // The table's own columns, not this version's: a table may have more, and none may get lost.
        let schema = state.snapshot().arrow_schema();
        let stats = WriterStatsConfig::from_config(state.snapshot().table_configuration());
        let config = WriterConfig::new(
            Arc::clone(&schema),
            vec![PARTITION_COLUMN.to_owned()],
            Some(layout::writer_properties()),
            NonZeroU64::new(settings.target_file_bytes),
            None,
            stats.num_indexed_cols,
            stats.stats_columns,
        );
        let store = self.log_store.object_store(None);
        let digests = Digests::default();
        Ok(DayWriter {
            writer: DeltaWriter::new(digests.watch(Arc::clone(&store)), config),
            digests,
            rows: source::read(store, files.clone(), Arc::clone(&schema), Columns::All, BATCH_ROWS),
            files,
            schema,
            edit,
            context: sorting_context(settings.memory_bytes, &spill.0)?,
            table: self.url().clone(),
        })
    }
}

impl Rewritten {
    fn add(&mut self, written: &[Add], tally: &Tally) {
        self.files_read += tally.files;
        self.bytes_read += tally.bytes;
        self.rows_read += tally.rows;
        self.data_change |= tally.changed;
        for (incarnation, rows) in &tally.dropped {
            *self.dropped.entry(*incarnation).or_default() += rows;
        }
        self.files_written += written.len();
        self.bytes_written += written.iter().filter_map(|add| u64::try_from(add.size).ok()).sum::<u64>();
        self.rows_written += tally.written;
    }
}

/// One day's files on their way to new ones.
struct DayWriter {
    writer: DeltaWriter,
    digests: Digests,
    rows: BoxStream<'static, Result<RecordBatch, SourceFault>>,
    files: Vec<DataFile>,
    schema: SchemaRef,
    edit: Option<Arc<dyn Edit>>,
    context: Arc<TaskContext>,
    table: Url,
}

/// What went in, and what came out.
#[derive(Clone, Debug, Default)]
struct Tally {
    files: usize,
    bytes: u64,
    rows: u64,
    written: u64,
    changed: bool,
    dropped: BTreeMap<Uuid, u64>,
}

impl DayWriter {
    async fn run(self, stop: CancellationToken) -> Result<(Vec<Add>, Tally), MaintainError> {
        let Self { mut writer, digests, rows, files, schema, edit, context, table } = self;
        let tally = Arc::new(Mutex::new(Tally {
            files: files.len(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            ..Tally::default()
        }));
        let edited = {
            let tally = Arc::clone(&tally);
            rows.map(move |batch| {
                let batch = batch.map_err(|fault| DataFusionError::External(Box::new(fault)))?;
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                tally
                    .take(batch, edit.as_deref())
                    .map_err(|error| DataFusionError::External(Box::new(EditFault(error.to_string()))))
            })
        };
        let input = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), edited));
        let mut sorted = sorted(input, context)?;
        let mut written = 0;
        let result: Result<(), MaintainError> = async {
            while let Some(batch) = sorted.try_next().await.map_err(told)? {
                if stop.is_cancelled() {
                    return Err(MaintainError::Sort("the rewrite was called off".to_owned()));
                }
                written += batch.num_rows() as u64;
                writer.write(&batch).await.map_err(|error| unwritten(&table, error))?;
            }
            Ok(())
        }
        .await;
        if let Err(error) = result {
            // What is half written stays behind for vacuum.
            let _ = writer.abort().await;
            return Err(error);
        }
        let mut adds = writer.close().await.map_err(|error| unwritten(&table, error))?;
        digests.tag(&mut adds);
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tally.written = written;
        Ok((adds, tally))
    }
}

impl Tally {
    /// Counts a batch before and after its edit.
    fn take(&mut self, batch: RecordBatch, edit: Option<&dyn Edit>) -> Result<RecordBatch, ArrowError> {
        self.rows += batch.num_rows() as u64;
        let Some(edit) = edit else { return Ok(batch) };
        let after = edit.apply(batch.clone())?;
        if after.schema() != batch.schema() {
            return Err(ArrowError::SchemaError("an edit must leave the columns as they are".to_owned()));
        }
        if after.num_rows() != batch.num_rows() {
            self.changed = true;
            let mut dropped = per_spool(&batch)?;
            for (incarnation, rows) in per_spool(&after)? {
                *dropped.entry(incarnation).or_default() -= rows;
            }
            for (incarnation, rows) in dropped.into_iter().filter(|(_, rows)| *rows != 0) {
                let rows = u64::try_from(rows)
                    .map_err(|_| ArrowError::ComputeError("an edit must not make rows".to_owned()))?;
                *self.dropped.entry(incarnation).or_default() += rows;
            }
        } else {
            self.changed |= after != batch;
        }
        Ok(after)
    }
}

/// How many rows of each spool a batch has.
fn per_spool(batch: &RecordBatch) -> Result<BTreeMap<Uuid, i64>, ArrowError> {
    let column = batch.column_by_name("incarnation");
    let column = column.and_then(|column| column.as_string_opt::<i32>());
    let column = column.ok_or_else(|| ArrowError::SchemaError("rows have no incarnation".to_owned()))?;
    let mut texts: BTreeMap<&str, i64> = BTreeMap::new();
    for text in column.iter().flatten() {
        *texts.entry(text).or_default() += 1;
    }
    let parsed = texts.into_iter().map(|(text, rows)| {
        let incarnation = Uuid::parse_str(text)
            .map_err(|_| ArrowError::ParseError(format!("{text:?} is no spool's incarnation")))?;
        Ok((incarnation, rows))
    });
    parsed.collect()
}

/// Runs on a blocking thread (sorting and compressing would hold up the runtime's own), with an eye on the lease.
async fn attended(lease: &Lease, day: DayWriter) -> Result<(Vec<Add>, Tally), MaintainError> {
    let stop = CancellationToken::new();
    // Should this future be dropped, the work ends at its next batch.
    let _stop_with_us = stop.clone().drop_guard();
    let runtime = tokio::runtime::Handle::current();
    let inner = stop.clone();
    let mut work = tokio::task::spawn_blocking(move || runtime.block_on(day.run(inner)));
    let mut lost = None;
    loop {
        tokio::select! {
            done = &mut work => {
                let done = done.map_err(LakeError::from)?;
                return match lost {
                    Some(error) => Err(MaintainError::Lease(error)),
                    None => done,
                };
            }
            () = tokio::time::sleep(LEASE_LOOK), if lost.is_none() => {
                if let Err(error) = lease.keep().await {
                    stop.cancel();
                    lost = Some(error);
                }
            }
        }
    }
}

fn sorting_context(memory_bytes: usize, spill: &Path) -> Result<Arc<TaskContext>, MaintainError> {
    let memory_bytes = memory_bytes.max(32 << 20);
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![spill.to_owned()]));
    let environment = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(memory_bytes)))
        .with_disk_manager_builder(disk)
        .build_arc()
        .map_err(told)?;
    let config = SessionConfig::new()
        .with_batch_size(BATCH_ROWS)
        .with_target_partitions(1)
        .with_sort_spill_reservation_bytes(MERGE_RESERVE_MAX.min(memory_bytes / 4));
    Ok(SessionContext::new_with_config_rt(config, environment).task_ctx())
}

/// The rows of `input` in the table's order.
fn sorted(
    input: SendableRecordBatchStream,
    context: Arc<TaskContext>,
) -> Result<SendableRecordBatchStream, MaintainError> {
    let schema = input.schema();
    let options = SortOptions { descending: false, nulls_first: true };
    let mut order = Vec::with_capacity(SORT_COLUMNS.len());
    for name in SORT_COLUMNS {
        let index = schema.index_of(name).map_err(|error| MaintainError::Sort(error.to_string()))?;
        order.push(PhysicalSortExpr::new(Arc::new(Column::new(name, index)), options));
    }
    let order = LexOrdering::new(order).ok_or_else(|| MaintainError::Sort("there is no order".to_owned()))?;
    let once = Arc::new(Once { schema: Arc::clone(&schema), stream: Mutex::new(Some(input)) });
    let source = StreamingTableExec::try_new(schema, vec![once], None, [], false, None).map_err(told)?;
    SortExec::new(order, Arc::new(source)).execute(0, context).map_err(told)
}

/// A stream as the leaf of a plan that is run once.
struct Once {
    schema: SchemaRef,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

impl PartitionStream for Once {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let taken = self.stream.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.unwrap_or_else(|| {
            let spent = DataFusionError::Internal("a rewrite's rows are read once".to_owned());
            let schema = Arc::clone(&self.schema);
            Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter([Err(spent)])))
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct EditFault(String);

/// The error below whatever DataFusion wrapped around it.
fn told(error: DataFusionError) -> MaintainError {
    if let DataFusionError::External(cause) = error.find_root() {
        if let Some(fault) = cause.downcast_ref::<SourceFault>() {
            return MaintainError::Source { path: fault.path.clone(), reason: fault.reason.clone() };
        }
        if let Some(fault) = cause.downcast_ref::<EditFault>() {
            return MaintainError::Edit(fault.0.clone());
        }
    }
    MaintainError::Sort(error.strip_backtrace())
}

fn unwritten(table: &Url, error: DeltaTableError) -> MaintainError {
    failed(table.clone(), "write rewritten files of")(error).into()
}

/// A folder of one rewrite's spilled runs. They hold what the lake holds, so none may stay behind.
struct SpillFolder(PathBuf);

impl SpillFolder {
    fn make(parent: &Path, mark: &str) -> Result<Self, MaintainError> {
        let failed = |error: std::io::Error| {
            MaintainError::Sort(format!(
                "{}: {error}; check that this user may write there, and that there is room",
                parent.display()
            ))
        };
        std::fs::create_dir_all(parent).map_err(failed)?;
        let own = parent.join(format!("rewrite-{mark}"));
        std::fs::create_dir(&own).map_err(failed)?;
        Ok(Self(own))
    }
}

/// Removes the folders of rewrites under other leases, whatever their numbers: those come again when somebody removes the
/// files of leases. They are dead as long as this lease is the newest.
pub(crate) async fn sweep_dead(lease: &Lease, parent: &Path) {
    if lease.check().await.is_err() {
        return;
    }
    // Begins the marks of all rewrites under this lease.
    let own = lease.mark();
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let mark = name.to_str().and_then(|name| name.strip_prefix("rewrite-"));
        if mark.is_some_and(|mark| is_theirs(mark, &own)) {
            tracing::debug!(folder = %entry.path().display(), "removing what an earlier rewrite had spilled");
            // Whoever still writes there has lost its lease, and ends with an error.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Whether a mark, `<epoch>.<nonce>.<number>`, is of another lease than those that begin with `own`.
fn is_theirs(mark: &str, own: &str) -> bool {
    let mut parts = mark.split('.');
    let is_mark = parts.next().is_some_and(|epoch| epoch.parse::<u64>().is_ok())
        && parts.next().is_some_and(|nonce| Uuid::try_parse(nonce).is_ok());
    is_mark && !mark.starts_with(own)
}

impl Drop for SpillFolder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests;
