//! `sendlake lake …`: the lake's tables, looked at and kept in shape. The lease lies in the lake itself, so a command
//! and a server, or several, never do the same work twice.

mod erase;
mod rollup;
mod status;
mod verify;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::{Args, Subcommand};
use sendlake_ingest::maintain::MaintainError;
use sendlake_ingest::maintain::lease::Lease;
use sendlake_ingest::maintain::reader::tables;
use sendlake_ingest::maintain::round::{Maintainer, Step};
use sendlake_ingest::table::EventsTable;

use super::{CommandResult, Failure, Format, FormatArg, day, rows};
use crate::config::Config;
use crate::node::maintenance::{LEASE_MS, holder};
use crate::{stores, system};

#[derive(Debug, Subcommand)]
pub(crate) enum LakeCommand {
    /// Show tables, logs, spools, readers, and what maintenance would do next.
    Status {
        #[command(flatten)]
        format: FormatArg,
    },
    /// Join small files of `events` into sorted ones. Also takes days past their retention out of the table, and makes
    /// a checkpoint.
    Compact {
        /// Only this UTC day, such as 2026-01-31.
        #[arg(long, value_parser = day)]
        day: Option<String>,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Bring the rollups up to date now, or compare them with their events.
    Rollup(rollup::RollupArgs),
    /// Remove files that no version of a table names any more, and old log entries. Files that sendlake did not write
    /// are reported and stay.
    Vacuum {
        #[command(flatten)]
        how: HowArgs,
    },
    /// Prove that outbox, log and files agree, and that no event is there twice; or that an address is nowhere.
    Verify(verify::VerifyArgs),
    /// Erase a recipient, or a whole tenant, from lake, spool and lists; prints the receipt.
    Erase(erase::EraseArgs),
}

#[derive(Args, Debug)]
pub(crate) struct HowArgs {
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait while another process maintains the lake, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    wait: u64,
    #[command(flatten)]
    format: FormatArg,
}

const COLUMNS: [&str; 7] = ["step", "table", "day", "files", "bytes", "rows", "detail"];

pub(crate) async fn run(config: &Config, command: LakeCommand) -> CommandResult {
    match command {
        LakeCommand::Status { format } => status::run(config, format.format).await,
        LakeCommand::Compact { day, how } => compact(config, day.as_deref(), &how).await,
        LakeCommand::Rollup(args) => rollup::run(config, args).await,
        LakeCommand::Vacuum { how } => vacuum(config, &how).await,
        LakeCommand::Verify(args) => verify::run(config, args).await,
        LakeCommand::Erase(args) => erase::run(config, args).await,
    }
}

async fn compact(config: &Config, day: Option<&str>, how: &HowArgs) -> CommandResult {
    let maintainer = open(config).await?;
    let lease = take_lease(config, &maintainer, how.wait).await?;
    let steps = Mutex::new(Vec::new());
    let done = async {
        let mut told = |step| steps.lock().unwrap_or_else(PoisonError::into_inner).push(step);
        if day.is_none() {
            maintainer.expire(&lease, how.dry_run).await?.into_iter().for_each(&mut told);
        }
        maintainer.compact(&lease, day, how.dry_run, &mut told).await?;
        if !how.dry_run {
            maintainer.keep_log(&lease, EventsTable::NAME, false).await?.into_iter().for_each(&mut told);
        }
        Ok(())
    };
    let done = done.await;
    ended(lease, done, steps.into_inner().unwrap_or_else(PoisonError::into_inner), how).await
}

async fn vacuum(config: &Config, how: &HowArgs) -> CommandResult {
    let maintainer = open(config).await?;
    let lease = take_lease(config, &maintainer, how.wait).await?;
    let mut steps = Vec::new();
    let done = async {
        for table in tables(&maintainer.store).await? {
            steps.extend(maintainer.keep_log(&lease, &table, how.dry_run).await?);
            steps.extend(maintainer.vacuum(&lease, &table, how.dry_run).await?);
        }
        Ok(())
    };
    let done = done.await;
    ended(lease, done, steps, how).await
}

/// Gives the lease back, and prints what was done, also when not all of it was.
async fn ended(
    lease: Lease,
    done: Result<(), MaintainError>,
    steps: Vec<Step>,
    how: &HowArgs,
) -> CommandResult {
    let released = lease.release().await;
    if steps.is_empty() && how.format.format == Format::Table {
        if done.is_ok() {
            rows::emit(b"nothing to do\n");
        }
    } else {
        rows::print(&steps, &COLUMNS, how.format.format)?;
    }
    done.map_err(failure)?;
    released.map_err(|error| failure(error.into()))
}

/// The lake, which has to be there.
async fn open(config: &Config) -> Result<Maintainer, Failure> {
    let store = stores::open_place(config).map_err(anyhow::Error::from)?;
    let events = EventsTable::open_existing(&store).await.map_err(|error| failure(error.into()))?;
    let events = events.ok_or_else(|| missing(config))?;
    Ok(stores::maintainer(config, Arc::new(events))?)
}

fn missing(config: &Config) -> Failure {
    Failure::Missing(format!(
        "there is no lake at {}; is its volume mounted, or is storage.lake_url wrong?",
        config.lake_place()
    ))
}

pub(crate) async fn take_lease(
    config: &Config,
    maintainer: &Maintainer,
    wait_s: u64,
) -> Result<Lease, Failure> {
    let ids = system::ids();
    let floor = maintainer.events.rewrite_epoch().await.map_err(|error| failure(error.into()))?;
    for second in 0..=wait_s {
        let lease = Lease::take(&maintainer.store, &holder(config), &ids, LEASE_MS, floor).await;
        if let Some(lease) = lease.map_err(|error| failure(error.into()))? {
            return Ok(lease);
        }
        if second < wait_s {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let newest = Lease::newest(&maintainer.store).await.ok().flatten();
    let who = newest.map_or_else(
        || "another process maintains the lake".to_owned(),
        |lease| {
            format!("{} maintains the lake (lease {}, until {})", lease.holder, lease.epoch, lease.expires_at)
        },
    );
    Err(Failure::Refused(format!("{who}; try again, or wait longer with --wait")))
}

pub(crate) fn failure(error: MaintainError) -> Failure {
    match error {
        MaintainError::Lake(_) | MaintainError::Lease(_) | MaintainError::Storage { .. } => {
            Failure::Unreachable(error.to_string())
        }
        other => Failure::Other(other.into()),
    }
}
