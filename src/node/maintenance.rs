//! Keeps the lake in shape by the clock. Of several nodes, the one that gets the lease does it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sendlake_control::id::Ids;
use sendlake_ingest::maintain::MaintainError;
use sendlake_ingest::maintain::lease::Lease;
use sendlake_ingest::maintain::round::{Maintainer, Step};
use sendlake_ingest::table::EventsTable;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::stores;

/// How long a lease lasts without a sign of life; a holder renews it long before.
pub(crate) const LEASE_MS: i64 = 30_000;
/// The longest wait before the first round after a start.
const FIRST_AFTER: Duration = Duration::from_secs(30);

/// Goes round until `stop`. Fails only when the lake's place makes no sense.
pub(super) fn run(
    config: &Config,
    events: Arc<EventsTable>,
    ids: &Ids,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let maintainer = stores::maintainer(config, events)?;
    let interval = Duration::from_secs(config.maintenance.interval_s.into());
    let holder = holder(config);
    let ids = ids.clone();
    Ok(async move {
        let mut wait = interval.min(FIRST_AFTER);
        while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            wait = interval;
            if let Err(error) = round(&maintainer, &holder, &ids, &stop).await {
                tracing::warn!(%error, "maintenance of the lake did not get through; the next round tries again");
            }
        }
    })
}

/// Who a lease says that holds it.
pub(crate) fn holder(config: &Config) -> String {
    format!("{} (process {})", config.node.id, std::process::id())
}

async fn round(
    maintainer: &Maintainer,
    holder: &str,
    ids: &Ids,
    stop: &CancellationToken,
) -> Result<(), MaintainError> {
    let floor = maintainer.events.rewrite_epoch().await?;
    let Some(lease) = Lease::take(&maintainer.store, holder, ids, LEASE_MS, floor).await? else {
        tracing::debug!("another process maintains the lake");
        return Ok(());
    };
    let done = stop.run_until_cancelled(maintainer.round(&lease, &tell)).await;
    lease.release().await?;
    done.map_or(Ok(()), |result| result.map(|_| ()))
}

fn tell(step: &Step) {
    let Step { step, table, day, files, bytes, rows, detail } = step;
    let day = day.as_deref().unwrap_or_default();
    match *step {
        "left" => tracing::warn!(table, day, detail, "lake: left as it is"),
        "found" => tracing::info!(table, files, detail, "lake: files of somebody else"),
        step => tracing::info!(table, day, files, bytes, rows, detail, "lake: {step}"),
    }
}
