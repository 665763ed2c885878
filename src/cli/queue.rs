//! `sendlake queue …`: what waits, and what to do about it.

use clap::{Args, Subcommand};
use sendlake_control::id::TenantId;
use sendlake_sender::spool::SpoolReader;
use serde::Serialize;
use uuid::Uuid;

use super::control::actor;
use super::{CommandResult, Failure, FormatArg, rows, tenant_id};
use crate::config::Config;
use crate::node::{OPERATOR_HEADER, QueueSelection, call_local};
use crate::{stores, system};

#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List messages, the next due first within each domain.
    Ls {
        #[command(flatten)]
        selection: SelectionArgs,
        /// Most rows shown.
        #[arg(long, default_value_t = 50)]
        limit: usize,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Show everything the queue knows of one message.
    Show {
        message_id: Uuid,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Attempt messages now instead of at their time.
    Retry {
        #[command(flatten)]
        selection: SelectionArgs,
        /// Every message in the queue.
        #[arg(long)]
        all: bool,
    },
    /// Give messages up: they leave the queue with a `bounced` event.
    Bounce {
        #[command(flatten)]
        selection: SelectionArgs,
        /// Every message in the queue.
        #[arg(long)]
        all: bool,
        /// Why: stands in the events.
        #[arg(long)]
        reason: Option<String>,
    },
}

#[derive(Args, Debug)]
pub(crate) struct SelectionArgs {
    /// Only this message.
    #[arg(long, value_name = "ID")]
    message_id: Option<Uuid>,
    /// Only to this recipient domain.
    #[arg(long)]
    domain: Option<String>,
    /// Only this tenant's.
    #[arg(long, value_parser = tenant_id)]
    tenant: Option<TenantId>,
}

impl SelectionArgs {
    fn selection(self, all: bool, reason: Option<String>) -> QueueSelection {
        QueueSelection {
            message_id: self.message_id,
            recipient_domain: self.domain.map(|domain| domain.to_ascii_lowercase()),
            tenant_id: self.tenant,
            all,
            reason,
        }
    }
}

#[derive(Serialize)]
struct Row {
    message_id: Uuid,
    tenant_id: String,
    stream: String,
    recipient: String,
    state: &'static str,
    attempts: i32,
    accepted_at: String,
    next_attempt_at: String,
    last_reply: Option<String>,
    hold_reason: Option<String>,
}

const COLUMNS: [&str; 9] = [
    "message_id",
    "tenant_id",
    "stream",
    "recipient",
    "state",
    "attempts",
    "next_attempt_at",
    "last_reply",
    "hold_reason",
];

pub(crate) async fn run(config: &Config, command: QueueCommand) -> CommandResult {
    match command {
        QueueCommand::Ls { selection, limit, format } => {
            let mut selection = selection.selection(false, None);
            selection.all = selection.is_empty();
            let found = rows_of(&open(config).await?, &selection, limit)?;
            rows::print(&found, &COLUMNS, format.format)?;
            if found.len() == limit {
                tell_more(limit);
            }
            Ok(())
        }
        QueueCommand::Show { message_id, format } => {
            let selection = QueueSelection { message_id: Some(message_id), ..QueueSelection::default() };
            let found = rows_of(&open(config).await?, &selection, 1)?;
            if found.is_empty() {
                return Err(Failure::Missing(format!(
                    "message {message_id} is not in the queue; `sendlake message {message_id}` shows what became of it"
                )));
            }
            let columns = [COLUMNS.as_slice(), &["accepted_at"]].concat();
            rows::print(&found, &columns, format.format)?;
            Ok(())
        }
        QueueCommand::Retry { selection, all } => {
            change(config, "retry", selection.selection(all, None)).await
        }
        QueueCommand::Bounce { selection, all, reason } => {
            change(config, "bounce", selection.selection(all, reason)).await
        }
    }
}

#[expect(clippy::print_stderr, reason = "a remark that must not mix with the rows")]
fn tell_more(limit: usize) {
    eprintln!("only the first {limit}; --limit shows more");
}

async fn open(config: &Config) -> anyhow::Result<SpoolReader> {
    let control = stores::read_control(config, &system::ids()).await?;
    Ok(SpoolReader::open(&config.spool_dir(), stores::sealer(&control), &config.node.id)?)
}

fn rows_of(spool: &SpoolReader, selection: &QueueSelection, limit: usize) -> anyhow::Result<Vec<Row>> {
    let found = spool.list(|key| selection.matches(key), limit)?;
    Ok(found
        .into_iter()
        .map(|queued| Row {
            message_id: queued.entry.message_id,
            tenant_id: queued.entry.tenant_id.to_string(),
            stream: queued.entry.stream.to_string(),
            recipient: queued.entry.recipient.to_string(),
            state: match (queued.in_flight, queued.held) {
                (true, _) => "in flight",
                (_, true) => "held",
                _ => "waiting",
            },
            attempts: queued.entry.attempts,
            accepted_at: queued.entry.accepted_at.to_string(),
            next_attempt_at: queued.entry.next_attempt_at.to_string(),
            last_reply: queued.entry.last_reply,
            hold_reason: queued.entry.held.filter(|_| queued.held).map(|held| held.reason),
        })
        .collect())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn change(config: &Config, verb: &str, selection: QueueSelection) -> CommandResult {
    if selection.is_empty() {
        return Err(Failure::Usage(anyhow::anyhow!(
            "say which messages: --message-id, --domain, --tenant, or --all"
        )));
    }
    let request = axum::http::Request::post(format!("/local/queue/{verb}"))
        .header("content-type", "application/json")
        .header(OPERATOR_HEADER, actor())
        .body(serde_json::to_vec(&selection).map_err(anyhow::Error::from)?.into())
        .map_err(anyhow::Error::from)?;
    let answer = call_local(config, request).await?;
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if !answer.status.is_success() {
        let detail = body.get("detail").and_then(serde_json::Value::as_str).unwrap_or("no reason given");
        return Err(Failure::Other(anyhow::anyhow!("{detail}")));
    }
    let changed = body.get("changed").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if changed == 0 {
        return Err(Failure::Missing("no message in the queue fits (those in flight are left alone)".into()));
    }
    let done = if verb == "retry" { "due now" } else { "given up" };
    println!("{changed} {} {done}", if changed == 1 { "message" } else { "messages" });
    Ok(())
}
