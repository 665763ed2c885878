//! `sendlake-bench`: what one machine does, measured beside peers in the same run.
//!
//! - `mail`: durable accepts, the whole loop and Postfix, from outside · `load`: HTTP clients · `server`: a sendlake
//!   process · `sink`: who takes the mail · `postfix`: the peer · `report`: its medians, table, JSON
//! - `lake`: events into Parquet, beside DuckDB and Python's deltalake · `layout`: what each choice of the layout buys
//! - `large`: a lake of many days: a message's history, cold · `lookup`: one such question, counted · `counting`: a
//!   store that counts requests · `rollups`: what it costs to keep them up
//! - `suppression`: the list of suppressions at size: memory, lookups, start
//! - `feedback`: replies classified and reports parsed, on one core
//! - `tracking`: what links of each recipient's own cost
//! - `webhooks`: events to many endpoints of which one hangs
//! - `events`: made-up events with the variety of real ones · `machine`: processor time, load, what this machine is

mod counting;
mod events;
mod feedback;
mod files;
mod lake;
mod large;
mod layout;
mod load;
mod lookup;
mod machine;
mod mail;
mod postfix;
mod report;
mod rollups;
mod server;
mod sink;
mod suppression;
mod tracking;
mod webhooks;

use std::path::Path;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};

/// Measures sendlake on this machine, beside its peers.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Mail in and out, beside Postfix where it is installed.
    Mail(mail::MailArgs),
    /// Events into Parquet, beside DuckDB and Python's deltalake.
    Lake(lake::LakeArgs),
    /// What each choice of the lake's layout buys.
    Layout(layout::LayoutArgs),
    /// A lake of many days, and what a question to it costs.
    Large(large::LargeArgs),
    /// Replies classified and reports parsed, on one core.
    Feedback(feedback::FeedbackArgs),
    /// The list of suppressions at 50 M entries: memory, lookups, start.
    Suppression(suppression::SuppressionArgs),
    /// What tracked mail costs.
    Tracking(tracking::TrackingArgs),
    /// How long events are on their way to endpoints while one of them hangs.
    Webhooks(webhooks::WebhooksArgs),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Args::parse().what {
        What::Mail(args) => mail::run(args).await,
        What::Lake(args) => lake::run(args).await,
        What::Layout(args) => layout::run(args).await,
        What::Large(args) => large::run(args).await,
        What::Feedback(args) => feedback::run(&args),
        What::Suppression(args) => suppression::run(args).await,
        What::Tracking(args) => tracking::run(&args),
        What::Webhooks(args) => webhooks::run(args).await,
    }
}

/// Makes the folder of a run, empty. Refuses to empty one that no bench made.
fn make_anew(dir: &Path) -> anyhow::Result<()> {
    if dir.exists() {
        let ours = dir.join("bench.txt").exists() || std::fs::read_dir(dir)?.next().is_none();
        ensure!(ours, "{} holds something that no bench made; name another folder with --dir", dir.display());
        std::fs::remove_dir_all(dir)?;
    }
    std::fs::create_dir_all(dir)?;
    std::fs::write(
        dir.join("bench.txt"),
        "Made by sendlake-bench, which removes this folder when it runs again.\n",
    )
    .with_context(|| format!("cannot write into {}", dir.display()))
}
