//! `sendlake export verify`: the lake and a destination side by side, hour by hour.

use clap::Args;
use sendlake_connectors::verify::Difference;
use sendlake_control::clock::Timestamp;
use serde::Serialize;

use super::super::{CommandResult, Failure, FormatArg, day, rows};
use super::{failure, open};
use crate::config::Config;
use crate::system;

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    connector: String,
    /// First day (UTC, of `occurred_at`); without it the last seven days.
    #[arg(long, value_parser = day, value_name = "DAY")]
    from: Option<String>,
    /// Last day, within; without it today.
    #[arg(long, value_parser = day, value_name = "DAY")]
    to: Option<String>,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Serialize)]
struct Row {
    hour: String,
    rows_in_lake: u64,
    rows_there: u64,
    events_there: u64,
    difference: String,
}

const COLUMNS: [&str; 5] = ["hour", "rows_in_lake", "rows_there", "events_there", "difference"];

#[expect(clippy::print_stderr, reason = "what was compared, beside the rows")]
pub(super) async fn run(config: &Config, args: VerifyArgs) -> CommandResult {
    let now = system::ids().now();
    let of = |at: Timestamp| at.to_string().chars().take(10).collect::<String>();
    let to = args.to.unwrap_or_else(|| of(now));
    let from = args.from.unwrap_or_else(|| of(now.plus_secs(-6 * 86_400)));
    if from > to {
        return Err(Failure::Usage(anyhow::anyhow!("--from {from} is after --to {to}")));
    }
    let opened = open(config).await?;
    let connector = opened.connect(config, &args.connector).await?;
    let verified = opened.exporter.verify(&connector, &from, &to).await;
    let verified = verified.map_err(|error| failure(&args.connector, error))?;
    let row = |difference: &Difference| Row {
        hour: difference.hour.to_string(),
        rows_in_lake: difference.lake.rows,
        rows_there: difference.target.rows,
        events_there: difference.target.events,
        difference: difference.says(),
    };
    let found: Vec<Row> = verified.differences.iter().map(row).collect();
    eprintln!(
        "{from} to {to}: {} rows in {} hours compared, {} hours differ; {} newer events are not loaded yet",
        verified.rows,
        verified.hours,
        found.len(),
        verified.behind
    );
    if found.is_empty() {
        return Ok(());
    }
    rows::print(&found, &COLUMNS, args.format.format)?;
    Err(Failure::Refused(format!(
        "{} and the lake differ; `sendlake export backfill {} --from {from} --to {to}` adds what is missing there",
        args.connector, args.connector
    )))
}
