//! `sendlake serve` and `sendlake demo`.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

use super::CommandResult;
use crate::config::Config;
use crate::demo;
use crate::node::{Expected, Node, Roles};
use crate::system;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Send API, delivery, and the way of events into the lake.
    Sender,
    /// The SQL endpoint.
    Query,
    /// Exports to warehouses and buckets.
    Export,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// What this process does; everything by default.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Role::Sender, Role::Query, Role::Export])]
    roles: Vec<Role>,
    /// Log as JSON, one object per line.
    #[arg(long)]
    log_json: bool,
    /// Begin an empty lake at `storage.lake_url`, although earlier events went to another. For one start.
    #[arg(long)]
    new_lake: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// How many messages to send.
    #[arg(long, default_value_t = 5_000)]
    messages: usize,
    /// Decides which recipients fail, and how.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep serving afterwards, until interrupted.
    #[arg(long)]
    keep: bool,
}

/// What a server logs by default. The Delta kernel repeats every failure that the lake's writer tells once.
const SERVE_LOG: &str = "warn,buoyant_kernel=off,sendlake=info,sendlake_sender=info,sendlake_ingest=info,sendlake_control=info,\
     sendlake_connectors=info";

/// `SENDLAKE_LOG` picks what is logged, as `info` or `sendlake_sender=debug,warn`.
fn log(default: &str, json: bool) {
    let filter = EnvFilter::try_from_env("SENDLAKE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let ansi = std::io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr);
    // a second call, as tests make it, keeps the first one's settings
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn serve(config: Config, args: ServeArgs) -> CommandResult {
    log(SERVE_LOG, args.log_json);
    let roles = Roles {
        sender: args.roles.contains(&Role::Sender),
        query: args.roles.contains(&Role::Query),
        export: args.roles.contains(&Role::Export),
    };
    let dir = config.storage.dir.clone();
    let expected = if args.new_lake { Expected::NewLake } else { Expected::OurLake };
    let node = Node::open_with(config, system::ids(), expected).await?;
    let running = node.start(roles).await?;
    // after everything listens, so that a start that fails does not show a key that nobody notes down
    if let Some(key) = running.first_key().await? {
        println!("first start: this admin key is shown once and stored nowhere; keep it safe");
        println!("{}", key.secret);
    }
    if let Some(inbound) = running.inbound {
        println!("taking bounces and feedback reports by SMTP on {inbound}");
    }
    println!("serving on http://{} from {}; Ctrl-C stops", running.http, dir.display());
    stop_signal().await?;
    println!("stopping: messages in hand are finished first");
    running.stop().await;
    Ok(())
}

pub(crate) async fn demo(config: Config, dir: Option<PathBuf>, args: DemoArgs) -> CommandResult {
    log("error", false);
    let dir = dir.unwrap_or_else(|| PathBuf::from("demo-data"));
    let settings = demo::Settings { dir, messages: args.messages, seed: args.seed };
    let running = demo::run(config, &settings).await?;
    if args.keep {
        running.explain()?;
        stop_signal().await?;
    }
    running.stop().await;
    Ok(())
}

async fn stop_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminate.recv() => {}
    }
    Ok(())
}
