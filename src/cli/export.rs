//! `sendlake export …`: how connectors are doing, and what an operator does about it. Works beside a running server.

mod backfill;
mod verify;

use std::sync::Arc;

use clap::{Args, Subcommand};
use sendlake_connectors::reverse::{LEDGER_PREFIX, ReverseSettings, ledger_name};
use sendlake_connectors::run::{Connector, ExportError, Exporter, behind};
use sendlake_connectors::schedule::Schedule;
use sendlake_connectors::settings::ExportSettings;
use sendlake_control::ControlStore;
use sendlake_control::clock::Timestamp;
use sendlake_control::export::{ExportBatch, ExportConnector};
use sendlake_ingest::maintain::reader::ReaderPosition;
use serde::Serialize;

use super::control::actor;
use super::{CommandResult, Failure, Format, FormatArg, rows};
use crate::config::Config;
use crate::exports::{self, StoredSecrets};
use crate::{stores, system};

#[derive(Debug, Subcommand)]
pub(crate) enum ExportCommand {
    /// How every connector is doing: what is loaded, what waits, what is in the way.
    Status {
        #[command(flatten)]
        format: FormatArg,
    },
    /// The newest batches: planned, staged, submitted or committed.
    Batches {
        connector: Option<String>,
        #[arg(long, default_value_t = 20)]
        limit: i64,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Load what is new now, in this process, and return when it is loaded.
    Run {
        /// One connector; without it all, one after another.
        connector: Option<String>,
    },
    /// Load days again: those before the connector began, or after somebody has changed the table there.
    Backfill(backfill::BackfillArgs),
    /// Compare counts and sums per hour with the destination, and name what differs.
    Verify(verify::VerifyArgs),
    /// Load nothing until `resume`; the batch in hand is finished.
    Pause { connector: String },
    /// Go on after `pause`.
    Resume { connector: String },
    /// Try again at once what failed, instead of at the time shown.
    Retry { connector: String },
    /// Print the statements that make the tables there, and those that read the lake in place.
    Ddl(DdlArgs),
    /// Forget a connector that is no longer configured: its ledger, and that retention waits for it. What it has loaded stays.
    Forget { connector: String },
}

#[derive(Args, Debug)]
pub(crate) struct DdlArgs {
    connector: String,
}

pub(crate) async fn run(config: &Config, command: ExportCommand) -> CommandResult {
    match command {
        ExportCommand::Status { format } => status(config, format.format).await,
        ExportCommand::Batches { connector, limit, format } => {
            batches(config, connector.as_deref(), limit, format.format).await
        }
        ExportCommand::Run { connector } => load(config, connector.as_deref()).await,
        ExportCommand::Backfill(args) => backfill::run(config, args).await,
        ExportCommand::Verify(args) => verify::run(config, args).await,
        ExportCommand::Pause { connector } => pause(config, &connector, true).await,
        ExportCommand::Resume { connector } => pause(config, &connector, false).await,
        ExportCommand::Retry { connector } => {
            is_configured(config, &connector)?;
            let control = stores::open_control(config, &system::ids()).await?;
            Ok(control.retry_export(&connector).await.map_err(anyhow::Error::from)?)
        }
        ExportCommand::Ddl(args) => ddl(config, &args),
        ExportCommand::Forget { connector } => forget(config, &connector).await,
    }
}

/// The stores that a connector works on, opened by this process.
struct Opened {
    control: Arc<ControlStore>,
    exporter: Arc<Exporter>,
}

async fn open(config: &Config) -> Result<Opened, Failure> {
    let ids = system::ids();
    stores::read_control(config, &ids).await?;
    let control = Arc::new(stores::open_control(config, &ids).await?);
    let store = stores::open_place(config).map_err(anyhow::Error::from)?;
    let exporter = exports::exporter(config, &control, &stores::open_lake(config)?, store, &ids);
    Ok(Opened { control, exporter })
}

impl Opened {
    async fn connect(&self, config: &Config, name: &str) -> Result<Connector, Failure> {
        let secrets = StoredSecrets(Arc::clone(&self.control));
        let connected = settings(config, name)?.connect(name, &secrets, &self.exporter.ids.clock).await;
        connected.map_err(|error| failure(name, ExportError::Target(error)))
    }
}

/// A connector's settings; says which there are where there is none of that name.
fn settings<'a>(config: &'a Config, name: &str) -> Result<&'a ExportSettings, Failure> {
    config.export.get(name).ok_or_else(|| {
        let known: Vec<&str> = config.export.keys().map(String::as_str).collect();
        Failure::Missing(match known.as_slice() {
            [] => format!("there is no connector {name:?}, nor any other: configure one as [export.{name}]; docs/connectors.md"),
            known => format!("there is no connector {name:?}; configured are {}", known.join(", ")),
        })
    })
}

fn is_configured(config: &Config, name: &str) -> CommandResult {
    if reverse(config, name).is_some() { Ok(()) } else { settings(config, name).map(drop) }
}

pub(super) fn failure(name: &str, error: ExportError) -> Failure {
    let text = format!("{name}: {error}");
    match &error {
        ExportError::Busy { .. } => Failure::Refused(text),
        ExportError::Target(error) if error.needs_a_person() => Failure::Refused(text),
        ExportError::Target(_) => Failure::Unreachable(text),
        _ => Failure::Other(anyhow::anyhow!("{text}")),
    }
}

#[derive(Serialize)]
struct StatusRow {
    connector: String,
    target: &'static str,
    /// `ok`, `never run`, `paused`, `failing` or `not configured`.
    state: &'static str,
    last_run_at: Option<String>,
    next_run_at: Option<String>,
    rows_loaded: i64,
    /// Events that the lake has and the connector has not.
    events_behind: Option<u64>,
    batches_open: i64,
    backfill: Option<String>,
    error: Option<String>,
}

const STATUS_COLUMNS: [&str; 10] = [
    "connector",
    "target",
    "state",
    "last_run_at",
    "next_run_at",
    "rows_loaded",
    "events_behind",
    "batches_open",
    "backfill",
    "error",
];

async fn status(config: &Config, format: Format) -> CommandResult {
    let control = stores::read_control(config, &system::ids()).await?;
    let known = control.export_connectors().await.map_err(anyhow::Error::from)?;
    let mut names: Vec<String> = config.export.keys().cloned().collect();
    names.extend(
        known
            .iter()
            .map(|state| state.connector.clone())
            .filter(|name| !config.export.contains_key(name) && reverse(config, name).is_none()),
    );
    // They stand in the same ledger, and the same alert speaks of them.
    names.extend(config.reverse.keys().map(|name| ledger_name(name)));
    // A lake that is away is no reason not to say the rest.
    let lake = stores::open_lake(config)?.reached().await.ok();
    let store = stores::open_place(config).map_err(anyhow::Error::from)?;
    let mut found = Vec::new();
    for name in names {
        let settings = config.export.get(&name);
        let posted = reverse(config, &name);
        let schedule = settings.map(|settings| &settings.schedule).or(posted.map(|posted| &posted.schedule));
        let state = control.export_connector(&name).await.map_err(anyhow::Error::from)?;
        let (done, open) = control.export_sums(&name, None).await.map_err(anyhow::Error::from)?;
        let reader = sendlake_connectors::run::reader_name(&name);
        let position = ReaderPosition::kept(&store, &reader).await.ok().flatten().unwrap_or_default();
        let backfills = control.export_backfills(Some(&name)).await.map_err(anyhow::Error::from)?;
        let backfill = backfills.iter().rev().find(|backfill| backfill.ended_at.is_none());
        found.push(StatusRow {
            target: match posted {
                Some(posted) => posted.shape.as_str(),
                None => settings.map_or("", ExportSettings::kind),
            },
            state: state_of(schedule.is_some(), &state),
            last_run_at: state.last_run_at.map(|at| Timestamp(at).to_string()),
            next_run_at: next_run(schedule, &state),
            rows_loaded: done.rows_staged,
            events_behind: lake
                .as_ref()
                .filter(|_| posted.is_none())
                .map(|reached| behind(reached, &position)),
            batches_open: open.batches,
            backfill: backfill.map(|backfill| {
                format!("{} to {}, at {}", backfill.first_day, backfill.last_day, backfill.next_day)
            }),
            error: in_the_way(&state),
            connector: name,
        });
    }
    Ok(rows::print(&found, &STATUS_COLUMNS, format)?)
}

/// The settings of a connector of `reverse`, by its name in the ledger.
fn reverse<'a>(config: &'a Config, name: &str) -> Option<&'a ReverseSettings> {
    config.reverse.get(name.strip_prefix(LEDGER_PREFIX)?)
}

/// What is in a connector's way, if anything is.
pub(super) fn in_the_way(state: &ExportConnector) -> Option<String> {
    state.error.as_ref().map(|error| {
        let since = state.error_since.map(|at| Timestamp(at).to_string()).unwrap_or_default();
        let kind = state.error_kind.as_deref().unwrap_or_default();
        format!("{kind} since {since}, {} in a row: {error}", state.failures)
    })
}

pub(super) fn state_of(is_configured: bool, state: &ExportConnector) -> &'static str {
    match state {
        _ if !is_configured => "not configured",
        state if state.paused_at.is_some() => "paused",
        state if state.error.is_some() => "failing",
        state if state.last_run_at.is_none() => "never run",
        _ => "ok",
    }
}

pub(super) fn next_run(schedule: Option<&String>, state: &ExportConnector) -> Option<String> {
    let schedule = schedule.filter(|_| state.paused_at.is_none())?;
    if state.error.is_some() {
        return state.retry_at.map(|at| Timestamp(at).to_string());
    }
    let next = Schedule::parse(schedule).ok()?.next_after(Timestamp(state.last_run_at?))?;
    Some(next.to_string())
}

#[derive(Serialize)]
struct BatchRow {
    #[serde(flatten)]
    batch: ExportBatch,
    planned: String,
    committed: Option<String>,
}

const BATCH_COLUMNS: [&str; 11] = [
    "connector",
    "batch_id",
    "change",
    "state",
    "attempt",
    "rows_staged",
    "bytes_staged",
    "rows_loaded",
    "job_id",
    "planned",
    "committed",
];

async fn batches(config: &Config, connector: Option<&str>, limit: i64, format: Format) -> CommandResult {
    let control = stores::read_control(config, &system::ids()).await?;
    let found = control.export_batches(connector, limit).await.map_err(anyhow::Error::from)?;
    let row = |batch: ExportBatch| BatchRow {
        planned: Timestamp(batch.planned_at).to_string(),
        committed: batch.committed_at.map(|at| Timestamp(at).to_string()),
        batch,
    };
    let found: Vec<BatchRow> = found.into_iter().map(row).collect();
    Ok(rows::print(&found, &BATCH_COLUMNS, format)?)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn load(config: &Config, only: Option<&str>) -> CommandResult {
    let names: Vec<&str> = match only {
        Some(name) => vec![name],
        None if config.export.is_empty() => return settings(config, "warehouse").map(drop),
        None => config.export.keys().map(String::as_str).collect(),
    };
    let mut failed = None;
    let opened = open(config).await?;
    for name in names {
        let secrets = StoredSecrets(Arc::clone(&opened.control));
        let ran = match settings(config, name)?.connect(name, &secrets, &opened.exporter.ids.clock).await {
            Ok(connector) => opened.exporter.run(&connector).await,
            Err(error) => opened.exporter.take_note(name, Err(error.into())).await,
        };
        match ran {
            Ok(ran) => {
                for line in &ran.prepared {
                    println!("{name}: {line}");
                }
                println!("{name}: {} rows in {} batches, {} bytes", ran.rows, ran.batches, ran.bytes);
            }
            Err(error) => failed = Some(failure(name, error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn pause(config: &Config, name: &str, paused: bool) -> CommandResult {
    is_configured(config, name)?;
    let control = stores::open_control(config, &system::ids()).await?;
    Ok(control.pause_export(&actor(), name, paused).await.map_err(anyhow::Error::from)?)
}

fn ddl(config: &Config, args: &DdlArgs) -> CommandResult {
    let settings = settings(config, &args.connector)?;
    let mapping = settings.mapping().map_err(|error| Failure::Usage(error.into()))?;
    let store = stores::open_place(config).map_err(anyhow::Error::from)?;
    rows::emit(settings.ddl(&mapping, store.url.as_str()).as_bytes());
    Ok(())
}

async fn forget(config: &Config, name: &str) -> CommandResult {
    if config.export.contains_key(name) {
        return Err(Failure::Refused(format!(
            "{name} is configured: take [export.{name}] out of the configuration and restart the server first"
        )));
    }
    let control = stores::open_control(config, &system::ids()).await?;
    control.forget_export(&actor(), name).await.map_err(anyhow::Error::from)?;
    let store = stores::open_place(config).map_err(anyhow::Error::from)?;
    let reader = sendlake_connectors::run::reader_name(name);
    Ok(ReaderPosition::forget(&store, &reader).await.map_err(anyhow::Error::from)?)
}
