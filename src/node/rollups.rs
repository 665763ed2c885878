//! Keeps the rollups up: new events are summed once a minute, and many small files folded. Several nodes may do it at
//! once; each event counts once.

use std::sync::Arc;
use std::time::Duration;

use sendlake_control::clock::Clock;
use sendlake_control::id::Ids;
use sendlake_ingest::rollups::Rollups;
use sendlake_ingest::store::{LakeStore, StoreError, open_store};
use sendlake_ingest::table::{EventsTable, LakeError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Starts the task, unless the configuration leaves it to others. Asks nothing of the lake yet.
pub(super) fn keep_up(
    config: &Config,
    events: &Arc<EventsTable>,
    ids: &Ids,
    stop: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> Result<(), StoreError> {
    let interval = Duration::from_secs(config.rollups.interval_s.into());
    if !interval.is_zero() {
        let store = open_store(&config.lake_place(), &config.storage.options)?;
        let keeper = Keeper { store, events: events.clone(), clock: ids.clock.clone(), interval };
        tasks.spawn(keeper.run(stop.clone()));
    }
    Ok(())
}

struct Keeper {
    store: LakeStore,
    events: Arc<EventsTable>,
    clock: Arc<dyn Clock>,
    interval: Duration,
}

impl Keeper {
    /// Refreshes on the interval until `stop`. What fails is tried again on the next turn, and told once an outage: queries
    /// sum what is missing themselves.
    async fn run(self, stop: CancellationToken) {
        let mut rollups = None;
        let mut failing = false;
        while stop.run_until_cancelled(tokio::time::sleep(self.interval)).await.is_some() {
            // A refresh that is cut off leaves files that no commit names, and nothing else.
            let Some(result) = stop.run_until_cancelled(self.turn(&mut rollups)).await else { return };
            match &result {
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
