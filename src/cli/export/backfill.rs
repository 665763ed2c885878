//! `sendlake export backfill`: days loaded again, with a bar that says how far it is and how long it will take.

use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sendlake_connectors::run::Connector;
use sendlake_control::export::ExportBackfill;

use super::super::control::actor;
use super::super::{CommandResult, Failure, day};
use super::{Opened, failure, open, settings};
use crate::config::Config;

/// How often another process's work is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
pub(crate) struct BackfillArgs {
    connector: String,
    /// First day (UTC, of `occurred_at`).
    #[arg(long, value_parser = day, value_name = "DAY")]
    from: String,
    /// Last day, within.
    #[arg(long, value_parser = day, value_name = "DAY")]
    to: String,
    /// Rows take the place of those that are there, for columns that were added or dropped; otherwise those stay as they are.
    #[arg(long)]
    replace: bool,
    /// Leave it to the running server, and return at once.
    #[arg(long)]
    detach: bool,
    /// Do not wait between batches (`backfill_batches_per_min`).
    #[arg(long)]
    fast: bool,
    /// Give up backfills of these very days that are not over, instead of beginning one.
    #[arg(long, conflicts_with_all = ["replace", "detach"])]
    cancel: bool,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) async fn run(config: &Config, args: BackfillArgs) -> CommandResult {
    if args.from > args.to {
        return Err(Failure::Usage(anyhow::anyhow!("--from {} is after --to {}", args.from, args.to)));
    }
    let pace_ms = 60_000 / u64::from(settings(config, &args.connector)?.backfill_batches_per_min.max(1));
    let opened = open(config).await?;
    let (control, name) = (&opened.control, args.connector.as_str());
    let found = control.export_backfills(Some(name)).await.map_err(anyhow::Error::from)?;
    let is_same = |backfill: &&ExportBackfill| {
        backfill.ended_at.is_none() && backfill.first_day == args.from && backfill.last_day == args.to
    };
    let mut same = found.iter().filter(is_same);
    if args.cancel {
        let mut cancelled = 0;
        for backfill in same {
            let ended = control.end_export_backfill(&backfill.backfill_id, "cancelled").await;
            cancelled += u32::from(ended.map_err(anyhow::Error::from)?);
        }
        println!("{cancelled} cancelled; what they have loaded stays");
        return Ok(());
    }
    let days = (args.from.as_str(), args.to.as_str());
    let id = match same.find(|backfill| backfill.replaces == args.replace) {
        Some(backfill) => {
            println!(
                "going on with the backfill that was asked for at {}",
                sendlake_control::clock::Timestamp(backfill.asked_at)
            );
            backfill.backfill_id.clone()
        }
        None => control
            .add_export_backfill(&actor(), name, days, args.replace)
            .await
            .map_err(anyhow::Error::from)?,
    };
    if args.detach {
        println!("the server does it; `sendlake export status` says how far it is");
        return Ok(());
    }
    let connector = opened.connect(config, name).await?;
    let pause = if args.fast { Duration::ZERO } else { Duration::from_millis(pace_ms) };
    carry(&opened, &connector, &id, pause).await
}

/// Loads batch after batch until the backfill is over. Should the server do the same, they take turns.
#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn carry(opened: &Opened, connector: &Connector, id: &str, pause: Duration) -> CommandResult {
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent}% {msg}, {eta} left") {
        bar.set_style(style);
    }
    let mut loaded_at: Option<Instant> = None;
    loop {
        let all =
            opened.control.export_backfills(Some(&connector.name)).await.map_err(anyhow::Error::from)?;
        let Some(backfill) = all.into_iter().find(|backfill| backfill.backfill_id == id) else { break };
        let (done, open) =
            opened.control.export_sums(&connector.name, Some(id)).await.map_err(anyhow::Error::from)?;
        let (passed, days) = progress(&backfill);
        let of_day = done.batches as f64 / (done.batches + open.batches).max(1) as f64;
        bar.set_length(1_000);
        bar.set_position(((passed * of_day) / days * 1_000.0) as u64);
        bar.set_message(format!(
            "{} rows, day {}",
            done.rows_staged,
            backfill.next_day.clone().min(backfill.last_day.clone())
        ));
        if let Some(outcome) = &backfill.outcome {
            bar.finish_and_clear();
            println!("{}: {} rows in {} batches, {outcome}", connector.name, done.rows_staged, done.batches);
            return Ok(());
        }
        if let Some(wait) = loaded_at.and_then(|at| pause.checked_sub(at.elapsed())) {
            tokio::time::sleep(wait).await;
        }
        match opened.exporter.run_backfill(connector).await {
            Ok(ran) if ran.batches > 0 => loaded_at = Some(Instant::now()),
            Ok(_) => {}
            Err(sendlake_connectors::run::ExportError::Busy { .. }) => tokio::time::sleep(LOOK_EVERY).await,
            Err(error) => {
                bar.finish_and_clear();
                return Err(failure(&connector.name, error));
            }
        }
    }
    Err(Failure::Missing(format!("the backfill {id} is gone: was the connector forgotten?")))
}

/// Days that are planned, and days in all.
fn progress(backfill: &ExportBackfill) -> (f64, f64) {
    let number = |day: &str| {
        let at = sendlake_control::clock::Timestamp::parse(&format!("{day}T00:00:00Z"));
        at.map_or(0, sendlake_control::clock::Timestamp::days)
    };
    let (first, last) = (number(&backfill.first_day), number(&backfill.last_day));
    let passed = number(&backfill.next_day).clamp(first, last + 1) - first;
    (f64::from(passed), f64::from((last - first + 1).max(1)))
}
