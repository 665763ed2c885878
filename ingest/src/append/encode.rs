//! Rows as Parquet files that no commit names yet.

use arrow::array::RecordBatch;
use deltalake::kernel::Add;
use deltalake::operations::write::WriterStatsConfig;
use deltalake::operations::write::writer::{DeltaWriter, WriterConfig};

use crate::event::EVENTS_SCHEMA;
use crate::table::digest::Digests;
use crate::table::layout::{self, PARTITION_COLUMN};
use crate::table::{EventsTable, LakeError, Pinned};

impl EventsTable {
    /// Writes sorted rows as files of the table, one or more for each day.
    pub(super) async fn encode(&self, pinned: &Pinned, batch: RecordBatch) -> Result<Vec<Add>, LakeError> {
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        let stats = WriterStatsConfig::from_config(state.snapshot().table_configuration());
        let config = WriterConfig::new(
            EVENTS_SCHEMA.clone(),
            vec![PARTITION_COLUMN.to_owned()],
            Some(layout::writer_properties()),
            None,
            None,
            stats.num_indexed_cols,
            stats.stats_columns,
        );
        let digests = Digests::default();
        let mut writer = DeltaWriter::new(digests.watch(self.log_store.object_store(None)), config);
        let runtime = tokio::runtime::Handle::current();
        // Compressing takes long enough to hold up the runtime's own threads.
        let work = move || {
            runtime.block_on(async {
                match writer.write(&batch).await {
                    Ok(()) => writer.close().await,
                    Err(error) => {
                        // The first error counts; parts of an upload that stay behind are vacuumed later.
                        let _ = writer.abort().await;
                        Err(error)
                    }
                }
            })
        };
        let written = tokio::task::spawn_blocking(work).await?;
        let mut adds = written.map_err(self.failed("write Parquet files of"))?;
        digests.tag(&mut adds);
        Ok(adds)
    }
}
