//! Keeps the rollups up: new events are summed once a minute, and many small files folded. Several nodes may do it at
//! once; each event counts once.

use std::sync::Arc;
use std::time::Duration;

use sendlake_control::clock::Clock;
use sendlake_ingest::rollups::Rollups;
use sendlake_ingest::store::LakeStore;
use sendlake_ingest::table::{EventsTable, LakeError};
use tokio_util::sync::CancellationToken;

/// What keeping them up takes.
pub(super) struct RollupKeeper {
    pub(super) store: LakeStore,
    pub(super) events: Arc<EventsTable>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) interval: Duration,
}

impl RollupKeeper {
    /// Refreshes on the interval until `stop`. What fails is tried again on the next turn, and told once an outage: queries
    /// sum what is missing themselves.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut rollups = None;
        let mut failing = false;
        while stop.run_until_cancelled(tokio::time::sleep(self.interval)).await.is_some() {
            // A refresh that is cut off leaves files that no commit names, and nothing else.
            let Some(result) = stop.run_until_cancelled(self.turn(&mut rollups)).await else { return };
            match result {
                Ok(()) if failing => tracing::info!("rollups are kept up again"),
                Err(error) if !failing => {
                    tracing::warn!(%error, "rollups could not be refreshed; queries sum what they miss");
                }
                _ => {}
            }
            failing = result.is_err();
        }
    }

    async fn turn(&self, opened: &mut Option<Rollups>) -> Result<(), LakeError> {
        let rollups = match opened {
            Some(rollups) => rollups,
            None => opened.insert(Rollups::open(&self.store).await?),
        };
        let done = rollups.refresh(&self.events, self.clock.now()).await?;
        if done.events > 0 {
            tracing::debug!(events = done.events, rows = done.rows, files = done.files, "rollups refreshed");
        }
        let tidied = rollups.tidy(self.clock.now()).await?;
        if tidied.files_folded + tidied.files_expired > 0 {
            tracing::debug!(
                folded = tidied.files_folded,
                written = tidied.files_written,
                expired = tidied.files_expired,
                "rollups tidied"
            );
        }
        Ok(())
    }
}
