//! Files of the lake written with given Parquet settings, as one commit: what the server's writer does with its own
//! settings, for the rows and settings of a measurement.

use anyhow::Context;
use arrow::record_batch::RecordBatch;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Transaction};
use deltalake::operations::write::WriterStatsConfig;
use deltalake::operations::write::writer::{DeltaWriter, WriterConfig};
use deltalake::protocol::{DeltaOperation, SaveMode};
use parquet::file::properties::WriterProperties;
use sendlake_ingest::event::EVENTS_SCHEMA;
use sendlake_ingest::table::EventsTable;
use sendlake_ingest::table::layout::PARTITION_COLUMN;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Writes batches, a spool's next events, as one file for each day, and commits them.
pub(crate) async fn commit(
    table: &EventsTable,
    mut batches: mpsc::Receiver<RecordBatch>,
    properties: WriterProperties,
    incarnation: Uuid,
) -> anyhow::Result<()> {
    let pinned = table.pin(Some(incarnation)).await?;
    let state = pinned.table.snapshot()?;
    let stats = WriterStatsConfig::from_config(state.snapshot().table_configuration());
    let config = WriterConfig::new(
        EVENTS_SCHEMA.clone(),
        vec![PARTITION_COLUMN.to_owned()],
        Some(properties),
        None,
        None,
        stats.num_indexed_cols,
        stats.stats_columns,
    );
    let log_store = pinned.table.log_store();
    let mut writer = DeltaWriter::new(log_store.object_store(None), config);
    let mut rows = 0;
    while let Some(batch) = batches.recv().await {
        rows += batch.num_rows();
        writer.write(&batch).await?;
    }
    let adds = writer.close().await?;
    let lsn = pinned.committed_lsn + rows as u64;
    let properties = CommitProperties::default()
        .with_application_transaction(Transaction::new(incarnation, i64::try_from(lsn)?))
        .with_cleanup_expired_logs(Some(false));
    let operation = DeltaOperation::Write {
        mode: SaveMode::Append,
        partition_by: Some(vec![PARTITION_COLUMN.to_owned()]),
        predicate: None,
    };
    CommitBuilder::from(properties)
        .with_actions(adds.into_iter().map(Action::Add).collect())
        .build(Some(state), log_store, operation)
        .await
        .context("commit what was written")?;
    Ok(())
}
