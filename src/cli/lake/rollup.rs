//! `sendlake lake rollup`: sums of events by minute and hour, brought up to date, or computed anew and compared.

use anyhow::Context;
use clap::Args;
use sendlake_ingest::rollups::Rollups;
use sendlake_ingest::rollups::verify::Compared;
use sendlake_ingest::table::EventsTable;
use serde::Serialize;
use tokio::time::Instant;

use crate::cli::{CommandResult, Failure, FormatArg, rows};
use crate::config::Config;
use crate::{stores, system};

#[derive(Args, Debug)]
pub(crate) struct RollupArgs {
    /// Instead, compute both rollups anew from every event and compare. Changes nothing; exit code 4 where they differ.
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    format: FormatArg,
}

/// What a refresh did.
#[derive(Serialize)]
struct Done {
    events_version: u64,
    /// New since the last refresh.
    events: u64,
    files_read: u64,
    rows_written: u64,
    files_folded: u64,
    files_expired: u64,
    elapsed_ms: u64,
}

const DONE: [&str; 7] =
    ["events_version", "events", "files_read", "rows_written", "files_folded", "files_expired", "elapsed_ms"];
const COMPARED: [&str; 7] = ["rollup", "events_version", "events", "rows", "wrong", "expired", "gone"];

pub(super) async fn run(config: &Config, args: RollupArgs) -> CommandResult {
    let store = stores::open_place(config).context("the lake")?;
    let events = EventsTable::open_existing(&store).await.context("the lake")?;
    let Some(events) = events else {
        return Err(Failure::Missing(format!(
            "there is no lake at {}; is its volume mounted, or is storage.lake_url wrong?",
            config.lake_place()
        )));
    };
    let now = system::ids().now();
    if args.verify {
        let rollups = Rollups::open_existing(&store).await.context("the rollups")?;
        let Some(rollups) = rollups else {
            return Err(Failure::Missing(
                "there are no rollups yet; `sendlake lake rollup` makes them".into(),
            ));
        };
        let compared = rollups.verify(&events, now).await.context("comparing rollups")?;
        rows::print(&compared, &COMPARED, args.format.format)?;
        return told(&compared);
    }
    let rollups = Rollups::open(&store).await.context("the rollups")?;
    let began = Instant::now();
    let refreshed = rollups.refresh(&events, now).await.context("refreshing rollups")?;
    let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let tidied = rollups.tidy(now).await.context("tidying rollups")?;
    let done = Done {
        events_version: refreshed.events_version,
        events: refreshed.events,
        files_read: refreshed.files,
        rows_written: refreshed.rows,
        files_folded: tidied.files_folded,
        files_expired: tidied.files_expired,
        elapsed_ms,
    };
    rows::print(&[done], &DONE, args.format.format)?;
    Ok(())
}

/// Says what differs, and fails if anything does.
fn told(compared: &[Compared]) -> CommandResult {
    let wrong: Vec<String> = compared
        .iter()
        .flat_map(|compared| {
            compared.first.iter().map(move |difference| {
                format!("\n  {}: {} ({})", compared.rollup, difference.labels, difference.sums)
            })
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "sums differ from their events (+ is too much in the rollup, - too little). Remove the rollup's folder from the \
         lake, and it is computed anew; the first that differ:{}",
        wrong.concat()
    )))
}
