//! One table of reports in the lake: made or opened by its first use, appended to so that each report is there once.
//!
//! A report's key says whether it is there. It is looked for in the files of its day at one version, and the commit is
//! tried on exactly that version: whoever is overtaken looks again. So repeats add nothing, whether a mail is sent twice, to
//! two nodes, or again after a crash or a lost answer.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::{SortColumn, cast, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, LogicalFileView, StructType};
use deltalake::logstore::LogStoreRef;
use deltalake::operations::create::CreateBuilder;
use deltalake::operations::write::WriterStatsConfig;
use deltalake::operations::write::writer::{DeltaWriter, WriterConfig};
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaTable, DeltaTableError};
use futures::TryStreamExt;
use sendlake_control::clock::Timestamp;
use tokio::sync::Mutex;
use url::Url;

use super::rows::ReportRows;
use super::schema::{self, KEY_COLUMN, Kind, PARTITION_COLUMN, SORT_COLUMNS};
use crate::append::is_conflict;
use crate::maintain::source::{self, Columns, DataFile};
use crate::store::LakeStore;
use crate::table::digest::Digests;
use crate::table::{
    LakeError, check_columns, complete_columns, exists, failed, load_table, log_store, version,
};

/// How often one append starts over because others changed the table meanwhile.
const CONFLICTS_MAX: usize = 16;
pub(super) const BATCH_ROWS: usize = 8_192;

/// One table of reports. One per process is enough.
pub struct ReportTable {
    kind: Kind,
    pub(super) log_store: LogStoreRef,
    url: Url,
    /// Whether it may be made, and given columns.
    for_writing: bool,
    /// `None` until the table was opened, or made, by its first use.
    latest: Mutex<Option<DeltaTable>>,
    /// Appends of one process take turns; those of several meet in Delta's log.
    pub(super) changing: Mutex<()>,
}

impl ReportTable {
    /// The table without a request: it is opened, or made when it is not there, by its first use.
    pub fn lazy(store: &LakeStore, kind: Kind) -> Result<Self, LakeError> {
        let log_store = log_store(store, kind.table_name())?;
        let url = log_store.root_url().clone();
        let (latest, changing) = (Mutex::new(None), Mutex::new(()));
        Ok(Self { kind, log_store, url, for_writing: true, latest, changing })
    }

    /// Opens the table if it is there, for whoever only reads.
    pub async fn open_existing(store: &LakeStore, kind: Kind) -> Result<Option<Self>, LakeError> {
        let table = Self { for_writing: false, ..Self::lazy(store, kind)? };
        if !exists(&table.log_store).await? {
            return Ok(None);
        }
        table.pin().await?;
        Ok(Some(table))
    }

    /// Where the table lies; every Delta reader can open it there.
    pub fn url(&self) -> &Url {
        &self.url
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether the table was ever made.
    pub async fn exists(&self) -> Result<bool, LakeError> {
        exists(&self.log_store).await
    }

    /// The table at its newest version.
    pub async fn pin(&self) -> Result<DeltaTable, LakeError> {
        let mut latest = self.latest.lock().await;
        match latest.as_mut() {
            None => Ok(latest.insert(self.load().await?).clone()),
            Some(table) => {
                table.update_state().await.map_err(self.failed("refresh"))?;
                Ok(table.clone())
            }
        }
    }

    async fn load(&self) -> Result<DeltaTable, LakeError> {
        if self.for_writing && !self.exists().await? {
            match create(&self.log_store, self.kind).await {
                Ok(_) => tracing::info!(table = %self.url, "made a table of reports"),
                // Somebody else may have been first; then theirs is the table.
                Err(_) if self.exists().await? => {}
                Err(error) => return Err(error),
            }
        }
        let mut table = DeltaTable::new(Arc::clone(&self.log_store));
        load_table(&mut table).await?;
        check_columns(&self.url, &table, &self.kind.schema())?;
        if self.for_writing {
            complete_columns(&self.log_store, &mut table, &self.kind.schema()).await?;
        }
        Ok(table)
    }

    /// Adds the reports that the table does not have, in one commit. Returns for each whether it was new.
    pub async fn append(&self, reports: &[ReportRows]) -> Result<Vec<bool>, LakeError> {
        let _turn = self.changing.lock().await;
        let days: BTreeSet<i32> = reports.iter().map(|report| report.day).collect();
        let mut was_new = vec![false; reports.len()];
        let mut written: Option<(Vec<usize>, Vec<Add>)> = None;
        for _ in 0..=CONFLICTS_MAX {
            let table = self.pin().await?;
            let mut seen = self.keys(&table, &days).await?;
            // what an earlier try of ours committed is there by now, and stays new
            let fresh: Vec<usize> = reports
                .iter()
                .enumerate()
                .filter(|(_, report)| seen.insert(report.key.clone()))
                .map(|(number, _)| number)
                .collect();
            if fresh.is_empty() {
                return Ok(was_new);
            }
            let adds = match written.take() {
                Some((same, adds)) if same == fresh => adds,
                _ => self.write(&table, fresh.iter().filter_map(|number| reports.get(*number))).await?,
            };
            let operation = DeltaOperation::Write {
                mode: SaveMode::Append,
                partition_by: Some(vec![PARTITION_COLUMN.to_owned()]),
                predicate: None,
            };
            let actions = adds.iter().cloned().map(Action::Add).collect();
            match self.commit(&table, actions, operation).await {
                Ok(true) => {
                    fresh.iter().for_each(|number| {
                        was_new.get_mut(*number).into_iter().for_each(|new| *new = true);
                    });
                    return Ok(was_new);
                }
                Ok(false) => written = Some((fresh, adds)),
                Err(error) => return Err(error),
            }
        }
        Err(LakeError::Busy { table: self.url.clone(), tries: CONFLICTS_MAX })
    }

    /// Keys of the reports of these days.
    async fn keys(&self, table: &DeltaTable, days: &BTreeSet<i32>) -> Result<HashSet<String>, LakeError> {
        let files = self.files(table)?;
        let files = files.iter().filter(|file| day_of(file).is_none_or(|day| days.contains(&day)));
        let files = files.map(DataFile::of).collect();
        let schema = Arc::new(Schema::new(vec![Field::new(KEY_COLUMN, DataType::Utf8, false)]));
        let mut keys = HashSet::new();
        for batch in self.read(files, schema, Columns::Some).await? {
            let column = batch.column_by_name(KEY_COLUMN).map(|column| cast(column, &DataType::Utf8));
            if let Some(column) = column.transpose()? {
                let mut last = None;
                for key in column.as_string::<i32>().iter().flatten() {
                    // rows of one report stand together
                    if last != Some(key) {
                        keys.insert(key.to_owned());
                        last = Some(key);
                    }
                }
            }
        }
        Ok(keys)
    }

    pub(super) fn files(&self, table: &DeltaTable) -> Result<Vec<LogicalFileView>, LakeError> {
        let state = table.snapshot().map_err(self.failed("read the state of"))?;
        Ok(state.log_data().into_iter().collect())
    }

    pub(super) async fn read(
        &self,
        files: Vec<DataFile>,
        schema: SchemaRef,
        columns: Columns,
    ) -> Result<Vec<RecordBatch>, LakeError> {
        let store = self.log_store.object_store(None);
        let rows = source::read(store, files, schema, columns, BATCH_ROWS);
        rows.try_collect().await.map_err(|fault| LakeError::Unreadable {
            table: self.url.clone(),
            path: fault.path,
            reason: fault.reason,
        })
    }

    async fn write(
        &self,
        table: &DeltaTable,
        reports: impl Iterator<Item = &ReportRows>,
    ) -> Result<Vec<Add>, LakeError> {
        let rows: Vec<RecordBatch> = reports.map(|report| report.rows.clone()).collect();
        self.write_rows(table, &self.kind.schema(), &rows).await
    }

    /// Writes rows, sorted, as Parquet files that no commit names yet: one for each day.
    pub(super) async fn write_rows(
        &self,
        table: &DeltaTable,
        schema: &SchemaRef,
        rows: &[RecordBatch],
    ) -> Result<Vec<Add>, LakeError> {
        let rows = sorted(&concat_batches(schema, rows)?)?;
        let state = table.snapshot().map_err(self.failed("read the state of"))?;
        let stats = WriterStatsConfig::from_config(state.snapshot().table_configuration());
        let config = WriterConfig::new(
            Arc::clone(schema),
            vec![PARTITION_COLUMN.to_owned()],
            Some(schema::writer_properties()),
            None,
            None,
            stats.num_indexed_cols,
            stats.stats_columns,
        );
        let digests = Digests::default();
        let mut writer = DeltaWriter::new(digests.watch(self.log_store.object_store(None)), config);
        writer.write(&rows).await.map_err(self.failed("write Parquet files of"))?;
        let mut adds = writer.close().await.map_err(self.failed("write Parquet files of"))?;
        digests.tag(&mut adds);
        Ok(adds)
    }

    /// Makes `actions` the next version after `table`'s. False when somebody else made it first: then nothing has changed.
    pub(super) async fn commit(
        &self,
        table: &DeltaTable,
        actions: Vec<Action>,
        operation: DeltaOperation,
    ) -> Result<bool, LakeError> {
        let state = table.snapshot().map_err(self.failed("read the state of"))?;
        let ours = actions.iter().find_map(|action| match action {
            Action::Add(add) => Some(add.path.clone()),
            _ => None,
        });
        let properties =
            CommitProperties::default().with_max_retries(0).with_cleanup_expired_logs(Some(false));
        let committed = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(state), Arc::clone(&self.log_store), operation)
            .await;
        let Err(error) = committed else { return Ok(true) };
        // An error says nothing about whether the commit landed: the table is asked. Names of files are never given twice.
        let landed = match self.pin().await {
            Ok(now) if version(&now) > version(table) => {
                let files = self.files(&now)?;
                files.iter().any(|file| Some(file.path().as_ref()) == ours.as_deref())
            }
            Ok(_) => false,
            Err(_) => return Err(self.failed("commit to")(error)),
        };
        match landed {
            true => Ok(true),
            false if is_conflict(&error) => Ok(false),
            false => Err(self.failed("commit to")(error)),
        }
    }

    pub(super) fn failed(&self, action: &'static str) -> impl FnOnce(DeltaTableError) -> LakeError {
        failed(self.url.clone(), action)
    }
}

impl fmt::Debug for ReportTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReportTable({})", self.url)
    }
}

/// The day of a file's rows, since the epoch.
pub(super) fn day_of(file: &LogicalFileView) -> Option<i32> {
    let values = file.partition_values_map();
    let midnight = format!("{}T00:00:00Z", values.get(PARTITION_COLUMN)?.as_deref()?);
    Timestamp::parse(&midnight).map(Timestamp::days)
}

fn sorted(rows: &RecordBatch) -> Result<RecordBatch, LakeError> {
    let columns = SORT_COLUMNS.iter().filter_map(|name| rows.column_by_name(name));
    let columns: Vec<SortColumn> =
        columns.map(|values| SortColumn { values: Arc::clone(values), options: None }).collect();
    let order = lexsort_to_indices(&columns, None)?;
    Ok(take_record_batch(rows, &order)?)
}

async fn create(log_store: &LogStoreRef, kind: Kind) -> Result<DeltaTable, LakeError> {
    let schema: StructType = kind.schema().as_ref().try_into_kernel()?;
    CreateBuilder::new()
        .with_log_store(Arc::clone(log_store))
        .with_table_name(kind.table_name())
        .with_comment(kind.comment())
        .with_columns(schema.fields().cloned())
        .with_partition_columns([PARTITION_COLUMN])
        .with_configuration(schema::configuration().into_iter().map(|(key, value)| (key, Some(value))))
        // One try at version 0. A second would add our metadata to the table of whoever was faster.
        .with_commit_properties(CommitProperties::default().with_max_retries(0))
        .await
        .map_err(failed(log_store.root_url().clone(), "make"))
}
