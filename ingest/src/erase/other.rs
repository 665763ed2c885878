//! Tables beside `events`: rollups, limits, and what later versions keep. Each file that is concerned is written
//! anew by itself, in one commit; sums stay as they are, since they name nobody.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use deltalake::DeltaTable;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add};
use deltalake::logstore::LogStoreRef;
use deltalake::operations::write::WriterStatsConfig;
use deltalake::operations::write::writer::{DeltaWriter, WriterConfig};
use deltalake::protocol::DeltaOperation;
use futures::TryStreamExt;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::edit::EraseEdit;
use super::{Erase, EraseError, TableErased};
use crate::append::is_conflict;
use crate::maintain::rewrite::Edit;
use crate::maintain::source::{self, Columns, DataFile};
use crate::table::digest::Digests;
use crate::table::layout::may_be_indexed;
use crate::table::{log_store, version};

/// How often one table is started over because others changed it meanwhile.
const TRIES_MAX: usize = 16;
const BATCH_ROWS: usize = 8_192;

impl Erase {
    /// Rewrites what is concerned in one table.
    pub(super) async fn erase_other(&self, name: &str) -> Result<TableErased, EraseError> {
        let log_store = log_store(&self.store, name)?;
        let url = log_store.root_url().clone();
        let mut table = DeltaTable::new(Arc::clone(&log_store));
        table.load().await.map_err(Self::failed("open", &url))?;
        let mut done = TableErased { table: name.to_owned(), ..TableErased::default() };
        for _ in 0..TRIES_MAX {
            let concerned = self.concerned_in(&table, &log_store).await?;
            if concerned.is_empty() {
                done.version = version(&table);
                return Ok(done);
            }
            let edit = EraseEdit::new(self.whose.clone(), HashSet::new(), None);
            let adds = self.write_anew(&table, &log_store, concerned.clone(), &edit).await?;
            match self.swap(&table, &log_store, &concerned, adds).await {
                Ok(()) => {
                    done.files_replaced += concerned.len() as u64;
                    done.rows_erased += edit.dropped.load(Ordering::Relaxed);
                    done.rows_redacted += edit.redacted.load(Ordering::Relaxed);
                }
                Err(error) if is_conflict(&error) => {
                    tracing::debug!(%error, "changed meanwhile: looked at again")
                }
                Err(error) => return Err(Self::failed("commit an erasure to", &url)(error)),
            }
            table.update_state().await.map_err(Self::failed("refresh", &url))?;
        }
        Err(EraseError::Unsteady { table: url.to_string() })
    }

    async fn concerned_in(
        &self,
        table: &DeltaTable,
        log_store: &LogStoreRef,
    ) -> Result<Vec<DataFile>, EraseError> {
        let state = table.snapshot().map_err(Self::failed("read the state of", log_store.root_url()))?;
        let schema = state.snapshot().arrow_schema();
        let store = log_store.object_store(None);
        let mut concerned = Vec::new();
        let files: Vec<_> = state.log_data().into_iter().map(|view| DataFile::of(&view)).collect();
        for file in files {
            if self.look(&store, &file, &schema, Arc::default()).await?.concerned {
                concerned.push(file);
            }
        }
        Ok(concerned)
    }

    async fn write_anew(
        &self,
        table: &DeltaTable,
        log_store: &LogStoreRef,
        files: Vec<DataFile>,
        edit: &EraseEdit,
    ) -> Result<Vec<Add>, EraseError> {
        let url = log_store.root_url();
        let state = table.snapshot().map_err(Self::failed("read the state of", url))?;
        let schema = state.snapshot().arrow_schema();
        let stats = WriterStatsConfig::from_config(state.snapshot().table_configuration());
        let mut properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()))
            .set_statistics_enabled(EnabledStatistics::None);
        for field in schema.fields() {
            if may_be_indexed(field.name()) || !field.data_type().is_nested() && !is_text(field.data_type()) {
                let column = ColumnPath::from(field.name().as_str());
                properties = properties.set_column_statistics_enabled(column, EnabledStatistics::Page);
            }
        }
        let config = WriterConfig::new(
            Arc::clone(&schema),
            state.metadata().partition_columns().to_vec(),
            Some(properties.build()),
            None,
            None,
            stats.num_indexed_cols,
            stats.stats_columns,
        );
        let digests = Digests::default();
        let store = log_store.object_store(None);
        let mut writer = DeltaWriter::new(digests.watch(Arc::clone(&store)), config);
        let mut batches = source::read(store, files, schema, Columns::All, BATCH_ROWS);
        let fault =
            |fault: source::SourceFault| EraseError::Unreadable { file: fault.path, reason: fault.reason };
        while let Some(rows) = batches.try_next().await.map_err(fault)? {
            let rows = edit.apply(rows).map_err(crate::table::LakeError::Encode)?;
            writer.write(&rows).await.map_err(Self::failed("write a file of", url))?;
        }
        let mut adds = writer.close().await.map_err(Self::failed("write a file of", url))?;
        digests.tag(&mut adds);
        Ok(adds)
    }

    async fn swap(
        &self,
        table: &DeltaTable,
        log_store: &LogStoreRef,
        files: &[DataFile],
        adds: Vec<Add>,
    ) -> Result<(), deltalake::DeltaTableError> {
        let state = table.snapshot()?;
        let paths: HashSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
        let views = state.log_data();
        let removes = views.iter().filter(|view| paths.contains(view.path().as_ref()));
        let mut actions: Vec<Action> = removes.map(|view| Action::Remove(view.remove_action(true))).collect();
        actions.extend(adds.into_iter().map(Action::Add));
        let properties =
            CommitProperties::default().with_max_retries(0).with_cleanup_expired_logs(Some(false));
        CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(state), Arc::clone(log_store), DeltaOperation::Update { predicate: None })
            .await
            .map(drop)
    }
}

fn is_text(kind: &arrow::datatypes::DataType) -> bool {
    use arrow::datatypes::DataType;
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..))
}
