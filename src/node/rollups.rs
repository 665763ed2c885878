//! Keeps the rollups up: new events are summed once a minute, and many small files folded. Several nodes may do it at
//! once; each event counts once.

use std::sync::Arc;
use std::time::Duration;

use sendlake_control::clock::Clock;
use sendlake_control::id::Ids;
use sendlake_ingest::rollups::Rollups;
use sendlake_ingest::rollups::table::Grain;
use sendlake_ingest::store::{LakeStore, StoreError};
use sendlake_ingest::table::{EventsTable, LakeError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::stores;

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
        let store = stores::open_place(config)?;
        let keeper = Keeper { store, events: events.clone(), clock: ids.clock.clone(), interval };
        tasks.spawn(keeper.run(stop.clone()));
    } else if let Some(said) = who_keeps_up(config) {
        tracing::warn!("{said}");
    }
    Ok(())
}

/// What follows for retention from not keeping rollups up; `None` where nothing does.
pub(crate) fn who_keeps_up(config: &Config) -> Option<String> {
    let days = config.maintenance.retention_days;
    let ignored =
        |grain: Grain| config.maintenance.ignored_readers.iter().any(|name| name == grain.table_name());
    let awaited = !Grain::ALL.into_iter().all(ignored);
    let concerned = config.rollups.interval_s == 0 && config.maintenance.enabled && days > 0 && awaited;
    concerned.then(|| {
        format!(
            "rollups.interval_s is 0, so this node does not keep rollups up, and retention (maintenance.retention_days = \
             {days}) waits for them: events stay for ever unless another node does it, or `sendlake lake rollup` runs \
             now and then. If nobody needs rollups, name rollup_1m and rollup_hourly in maintenance.ignored_readers"
        )
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rollups_that_nobody_keeps_up_are_told_where_retention_waits_for_them() {
        let mut config = Config::default();
        config.maintenance.retention_days = 400;
        assert_eq!(who_keeps_up(&config), None, "this node does");
        config.rollups.interval_s = 0;
        let said = who_keeps_up(&config).unwrap();
        assert!(said.contains("retention_days = 400") && said.contains("ignored_readers"), "{said}");
        config.maintenance.ignored_readers = vec!["rollup_1m".into()];
        assert!(who_keeps_up(&config).is_some(), "the other one is still waited for");
        config.maintenance.ignored_readers.push("rollup_hourly".into());
        assert_eq!(who_keeps_up(&config), None);
        config.maintenance.ignored_readers.clear();
        config.maintenance.retention_days = 0;
        assert_eq!(who_keeps_up(&config), None, "all is kept anyway");
    }
}
