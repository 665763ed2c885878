//! A fresh and consistent view for queries: one pinned version of the table plus the rows still on their way.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use deltalake::DeltaTable;
use uuid::Uuid;

use crate::event::LoggedEvent;
use crate::outbox::{Outbox, OutboxError};
use crate::spill::SpillFile;
use crate::table::{EventsTable, LakeError};

/// Every event that was logged before it was taken: each in `table`, in `spilled` or in `hot`, never in two of them.
#[derive(Debug)]
pub struct Snapshot {
    /// The table, pinned at `version`; later commits do not change it.
    pub table: DeltaTable,
    pub version: u64,
    /// Events of this node that `table` does not hold and `spilled` neither, in LSN order.
    pub hot: Vec<LoggedEvent>,
    /// False when the outbox held more than the bound asked for: the newest events are then missing.
    pub hot_complete: bool,
    /// Events of this node that wait in files, for each spool that has some.
    pub spilled: Vec<Spilled>,
}

/// One spool's events in files: those above an LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spilled {
    pub files: Vec<SpillFile>,
    /// The table holds what is at or below it.
    pub above_lsn: u64,
}

impl EventsTable {
    /// Takes a snapshot with at most `hot_rows_max` rows of the outbox, if there is one (other roles and
    /// commands beside a server have none, and see what is committed).
    ///
    /// The order is what makes it exact: that in which events move. Hot rows first: what is gone from there is
    /// in a spilled file or in any version pinned later. Then the files: what is gone from there is in any version
    /// pinned later. Then the version, which says up to which LSN it holds each spool's events, and so which of the
    /// others it holds too.
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
                spilled: Vec::new(),
            });
        };
        let own = outbox.incarnation();
        let reader = Arc::clone(outbox);
        let read = move || -> Result<_, LakeError> {
            let hot = reader.read(0, hot_rows_max)?;
            let files = reader.spill().map_or(Ok(Vec::new()), |spill| spill.files());
            Ok((hot, files.map_err(|error| OutboxError(error.to_string()))?))
        };
        let (mut hot, files) = tokio::task::spawn_blocking(read).await??;
        let hot_complete = hot.len() < hot_rows_max;

        let mut spools: Vec<Uuid> = files.iter().map(|file| file.incarnation).collect();
        spools.push(own);
        spools.sort_unstable();
        spools.dedup();
        let (pinned, committed) = self.pin_with(&spools).await?;

        let spilled_lsn = files.iter().filter(|file| file.incarnation == own).map(|file| file.last_lsn).max();
        let elsewhere_lsn = committed.get(&own).copied().unwrap_or(0).max(spilled_lsn.unwrap_or(0));
        hot.retain(|row| row.lsn > elsewhere_lsn);
        let spilled = spilled_above(files, &committed);
        Ok(Snapshot { table: pinned.table, version: pinned.version, hot, hot_complete, spilled })
    }
}

/// The files with events that the table does not hold.
fn spilled_above(files: Vec<SpillFile>, committed: &HashMap<Uuid, u64>) -> Vec<Spilled> {
    let mut waiting: BTreeMap<Uuid, Spilled> = BTreeMap::new();
    for file in files {
        let above_lsn = committed.get(&file.incarnation).copied().unwrap_or(0);
        if file.last_lsn > above_lsn {
            let spool = waiting.entry(file.incarnation).or_insert(Spilled { files: Vec::new(), above_lsn });
            spool.files.push(file);
        }
    }
    waiting.into_values().collect()
}

#[cfg(test)]
mod tests;
