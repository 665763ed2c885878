//! `sendlake reverse …`: which rows a CRM has of a query, and what the next run would post. Works beside a running server.

use std::sync::Arc;

use anyhow::Context;
use clap::Subcommand;
use sendlake_connectors::reverse::{LEDGER_PREFIX, Ran, Reverse, ledger_name};
use sendlake_connectors::run::Exporter;
use sendlake_control::clock::Timestamp;
use serde::Serialize;

use super::control::actor;
use super::export::{failure, in_the_way, next_run, state_of};
use super::{CommandResult, Failure, Format, FormatArg, rows};
use crate::config::Config;
use crate::{exports, reverse, stores, system};

#[derive(Debug, Subcommand)]
pub(crate) enum ReverseCommand {
    /// How every connector is doing: rows sent, rows refused, what is in the way.
    Status {
        #[command(flatten)]
        format: FormatArg,
    },
    /// Post what is new or has changed now, in this process, and return when it is posted.
    Run {
        /// One connector; without it all, one after another.
        connector: Option<String>,
    },
    /// Print the first requests that a run would make now, and make none.
    Preview {
        connector: String,
        /// How many of them.
        #[arg(long, default_value_t = 1)]
        requests: usize,
    },
    /// Post nothing until `resume`; a run in hand is finished.
    Pause { connector: String },
    /// Go on after `pause`.
    Resume { connector: String },
    /// Try again at once what failed, instead of at the time shown.
    Retry { connector: String },
    /// Forget which rows were sent: the next run posts all of them again. What the CRM has stays there.
    Forget { connector: String },
}

pub(crate) async fn run(config: &Config, command: ReverseCommand) -> CommandResult {
    match command {
        ReverseCommand::Status { format } => status(config, format.format).await,
        ReverseCommand::Run { connector } => post(config, connector.as_deref()).await,
        ReverseCommand::Preview { connector, requests } => preview(config, &connector, requests).await,
        ReverseCommand::Pause { connector } => pause(config, &connector, true).await,
        ReverseCommand::Resume { connector } => pause(config, &connector, false).await,
        ReverseCommand::Retry { connector } => {
            is_configured(config, &connector)?;
            let control = stores::open_control(config, &system::ids()).await?;
            Ok(control.retry_export(&ledger_name(&connector)).await.map_err(anyhow::Error::from)?)
        }
        ReverseCommand::Forget { connector } => {
            let control = stores::open_control(config, &system::ids()).await?;
            let ledger = ledger_name(&connector);
            let is_known = control.export_connectors().await.map_err(anyhow::Error::from)?;
            if !is_known.iter().any(|state| state.connector == ledger) {
                is_configured(config, &connector)?;
            }
            Ok(control.forget_reverse(&actor(), &ledger).await.map_err(anyhow::Error::from)?)
        }
    }
}

/// Says which connectors there are where there is none of that name.
fn is_configured(config: &Config, name: &str) -> CommandResult {
    if config.reverse.contains_key(name) {
        return Ok(());
    }
    let known: Vec<&str> = config.reverse.keys().map(String::as_str).collect();
    Err(Failure::Missing(match known.as_slice() {
        [] => format!(
            "there is no connector {name:?}, nor any other: configure one as [reverse.{name}]; docs/connectors.md"
        ),
        known => format!("there is no connector {name:?}; configured are {}", known.join(", ")),
    }))
}

async fn pause(config: &Config, name: &str, paused: bool) -> CommandResult {
    is_configured(config, name)?;
    let control = stores::open_control(config, &system::ids()).await?;
    Ok(control.pause_export(&actor(), &ledger_name(name), paused).await.map_err(anyhow::Error::from)?)
}

async fn open(config: &Config) -> Result<(Arc<Exporter>, Vec<Reverse>), Failure> {
    let ids = system::ids();
    stores::read_control(config, &ids).await?;
    let control = Arc::new(stores::open_control(config, &ids).await?);
    let store = stores::open_place(config).map_err(anyhow::Error::from)?;
    let (engine, _) = stores::open_reading(config, &ids).await?;
    let connectors = reverse::connectors(config, &control, &Arc::new(engine))?;
    Ok((exports::exporter(config, &control, &stores::open_lake(config)?, store, &ids), connectors))
}

#[derive(Serialize)]
struct StatusRow {
    connector: String,
    shape: &'static str,
    /// `ok`, `never run`, `paused`, `failing` or `not configured`.
    state: &'static str,
    last_run_at: Option<String>,
    next_run_at: Option<String>,
    /// Rows of the query that the CRM has, as they are now or as they were.
    rows_sent: i64,
    /// Rows that it does not take as they are now.
    rows_refused: i64,
    /// What it said of the last of them.
    refusal: Option<String>,
    error: Option<String>,
}

const STATUS_COLUMNS: [&str; 9] = [
    "connector",
    "shape",
    "state",
    "last_run_at",
    "next_run_at",
    "rows_sent",
    "rows_refused",
    "refusal",
    "error",
];

async fn status(config: &Config, format: Format) -> CommandResult {
    let control = stores::read_control(config, &system::ids()).await?;
    let mut names: Vec<String> = config.reverse.keys().cloned().collect();
    let known = control.export_connectors().await.map_err(anyhow::Error::from)?;
    let known = known.iter().filter_map(|state| state.connector.strip_prefix(LEDGER_PREFIX));
    names.extend(known.filter(|name| !config.reverse.contains_key(*name)).map(str::to_owned));
    let mut found = Vec::new();
    for name in names {
        let settings = config.reverse.get(&name);
        let ledger = ledger_name(&name);
        let state = control.export_connector(&ledger).await.map_err(anyhow::Error::from)?;
        let sums = control.reverse_sums(&ledger).await.map_err(anyhow::Error::from)?;
        found.push(StatusRow {
            shape: settings.map_or("", |settings| settings.shape.as_str()),
            state: state_of(settings.is_some(), &state),
            last_run_at: state.last_run_at.map(|at| Timestamp(at).to_string()),
            next_run_at: next_run(settings.map(|settings| &settings.schedule), &state),
            rows_sent: sums.rows_sent,
            rows_refused: sums.rows_refused,
            refusal: sums.refusal,
            error: in_the_way(&state),
            connector: name,
        });
    }
    Ok(rows::print(&found, &STATUS_COLUMNS, format)?)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn post(config: &Config, only: Option<&str>) -> CommandResult {
    if only.is_some() || config.reverse.is_empty() {
        is_configured(config, only.unwrap_or("crm"))?;
    }
    let (exporter, connectors) = open(config).await?;
    let mut failed = None;
    for connector in connectors.iter().filter(|connector| only.is_none_or(|name| name == connector.name)) {
        let name = &connector.name;
        match connector.run(&exporter).await {
            Ok(Ran { rows, sent, refused, left_alone, without_key, requests }) => println!(
                "{name}: {rows} rows; {sent} sent in {requests} requests, {refused} refused, {left_alone} left alone, {without_key} without a key"
            ),
            Err(error) => failed = Some(failure(name, error)),
        }
    }
    failed.map_or(Ok(()), Err)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn preview(config: &Config, name: &str, requests: usize) -> CommandResult {
    is_configured(config, name)?;
    let (exporter, connectors) = open(config).await?;
    let connector =
        connectors.into_iter().find(|connector| connector.name == name).context("it is configured")?;
    let prepared = connector.prepare(&exporter, requests).await.map_err(|error| failure(name, error))?;
    for (method, url, body) in &prepared.first {
        println!("{method} {url}");
        for (header, value) in &connector.settings.headers {
            println!("{header}: {value}");
        }
        for (header, secret) in &connector.settings.secret_headers {
            println!("{header}: ({secret})");
        }
        if connector.settings.oauth.is_some() {
            println!("authorization: (a token of `oauth`)");
        }
        println!("\n{}\n", serde_json::to_string_pretty(body).context("the body")?);
    }
    println!(
        "{name}: {} of {} rows are new or have changed: {} requests; {} rows have no key. Nothing was posted.",
        prepared.due, prepared.rows, prepared.requests, prepared.without_key
    );
    Ok(())
}
