//! A fresh and consistent view for queries: one pinned version of the table plus the rows still on their way.

use std::sync::Arc;

use deltalake::DeltaTable;

use crate::event::LoggedEvent;
use crate::outbox::Outbox;
use crate::table::{EventsTable, LakeError};

/// Every event that was logged before it was taken: each either in `table` or in `hot`, never in both.
#[derive(Debug)]
pub struct Snapshot {
    /// The table, pinned at `version`; later commits do not change it.
    pub table: DeltaTable,
    pub version: u64,
    /// Events of this node that `table` does not hold, in LSN order.
    pub hot: Vec<LoggedEvent>,
    /// False when the outbox held more than the bound asked for: the newest events are then missing.
    pub hot_complete: bool,
}

impl EventsTable {
    /// Takes a snapshot with at most `hot_rows_max` rows of the outbox, if there is one (other roles and
    /// commands beside a server have none, and see what is committed).
    ///
    /// The order is what makes it exact. Hot rows first: what is trimmed before that is in any version
    /// pinned later. Then the version, which says up to which LSN it holds this spool's events, and so
    /// which of the hot rows it holds too.
    pub async fn snapshot(
        &self,
        outbox: Option<&Arc<dyn Outbox>>,
        hot_rows_max: usize,
    ) -> Result<Snapshot, LakeError> {
        let Some(outbox) = outbox else {
            let pinned = self.pin(None).await?;
            return Ok(Snapshot {
                table: pinned.table,
                version: pinned.version,
                hot: Vec::new(),
                hot_complete: true,
            });
        };
        let incarnation = outbox.incarnation();
        let reader = Arc::clone(outbox);
        let mut hot = tokio::task::spawn_blocking(move || reader.read(0, hot_rows_max)).await??;
        let hot_complete = hot.len() < hot_rows_max;
        let pinned = self.pin(Some(incarnation)).await?;
        hot.retain(|row| row.lsn > pinned.committed_lsn);
        Ok(Snapshot { table: pinned.table, version: pinned.version, hot, hot_complete })
    }
}

#[cfg(test)]
mod tests;
