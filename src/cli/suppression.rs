//! `sendlake suppression …`: whom not to write to.

mod list;

use axum::body::Body;
use clap::Subcommand;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_control::suppression::{Reach, Reason, Suppression, SuppressionFilter};
use serde::Serialize;
use serde_json::Value;

use super::control::actor;
use super::{CommandResult, Failure, FormatArg, instant, rows, tenant_id};
use crate::config::Config;
use crate::node::{AddSuppression, Answer, OPERATOR_HEADER, RemoveSuppression, call_local};
use crate::suppressions::exchange;
use crate::{stores, system};

#[derive(Debug, Subcommand)]
pub(crate) enum SuppressionCommand {
    /// Write to an address no more. Counts before the next attempt of anything that waits already.
    Add {
        address: String,
        /// Whose mail is kept back; not needed with `--reach global`.
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        /// bulk (marketing and cold), tenant (all of the tenant's mail), global (everybody's; nothing overrides it).
        /// By default what the reason calls for.
        #[arg(long)]
        reach: Option<Reach>,
        /// unsubscribe, cold_opt_out, complaint, hard_bounce, full_mailbox, manual, legal.
        #[arg(long, default_value = "manual")]
        reason: Reason,
        /// In words, for whoever asks later.
        #[arg(long)]
        note: Option<String>,
        /// When it ends by itself, as 2026-11-22T09:30:00Z.
        #[arg(long, value_parser = instant)]
        until: Option<Timestamp>,
    },
    /// Let mail go to an address again.
    Rm {
        address: String,
        #[arg(long, value_parser = tenant_id, required_unless_present = "global")]
        tenant: Option<TenantId>,
        /// The suppression of the whole installation.
        #[arg(long, conflicts_with = "tenant")]
        global: bool,
        /// Lift this reason only.
        #[arg(long)]
        reason: Option<Reason>,
        /// Why: needed where the person wished it, or the law; stands in the audit log.
        #[arg(long)]
        note: Option<String>,
    },
    /// Tell why an address is not written to: who, why, how far, since, until, and by which event.
    Show {
        address: String,
        /// Only this tenant's and the installation's.
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Put a file's addresses on the list: ours, or one that another sender gives out.
    Import(list::ImportArgs),
    /// Write the list as a file, for us or for another sender.
    Export(list::ExportArgs),
    /// Say whether the list is complete: what it adds up to, here and in the lake.
    Status,
    /// Put the list together again from its events in the lake.
    Rebuild(list::RebuildArgs),
    /// List suppressions, the newest first. Global ones have the tenant `platform`.
    Ls {
        /// Only this address.
        address: Option<String>,
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        #[arg(long)]
        reason: Option<Reason>,
        #[arg(long)]
        reach: Option<Reach>,
        /// Most rows; 0 for all.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        #[command(flatten)]
        format: FormatArg,
    },
}

#[derive(Serialize)]
struct Row {
    tenant_id: String,
    address: Option<String>,
    reach: Reach,
    reason: Reason,
    since: String,
    until: Option<String>,
    actor: String,
    note: Option<String>,
    event_id: String,
}

const COLUMNS: [&str; 8] = ["tenant_id", "address", "reach", "reason", "since", "until", "actor", "note"];

impl Row {
    fn of(row: Suppression) -> Self {
        Self {
            tenant_id: row.tenant_id.to_string(),
            address: row.address,
            reach: row.reach,
            reason: row.reason,
            since: row.since.to_string(),
            until: row.expires_at.map(|at| at.to_string()),
            actor: row.actor,
            note: row.note,
            event_id: row.event_id.to_string(),
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn run(config: &Config, command: SuppressionCommand) -> CommandResult {
    match command {
        SuppressionCommand::Add { address, tenant, reach, reason, note, until } => {
            let reach = reach.unwrap_or_else(|| exchange::reach_of(reason));
            let wanted = AddSuppression {
                tenant_id: tenant,
                address: address.clone(),
                reach,
                reason,
                note,
                expires_at: until,
            };
            let answer = ask(config, "/local/suppressions/add", &wanted).await?;
            if answer.get("added").and_then(Value::as_bool) == Some(true) {
                println!("{address} is suppressed: reach {reach}, reason {reason}");
            } else {
                println!("{address} was suppressed for this reason already, as widely");
            }
        }
        SuppressionCommand::Rm { address, tenant, global: _, reason, note } => {
            let wanted = RemoveSuppression { tenant_id: tenant, address: address.clone(), reason, note };
            let answer = ask(config, "/local/suppressions/rm", &wanted).await?;
            match answer.get("removed").and_then(Value::as_u64).unwrap_or(0) {
                0 => return Err(Failure::Missing(format!("{address} is not on this list"))),
                1 => println!("{address}: one suppression lifted"),
                lifted => println!("{address}: {lifted} suppressions lifted"),
            }
        }
        SuppressionCommand::Import(args) => list::import(config, args).await?,
        SuppressionCommand::Export(args) => list::export(config, args).await?,
        SuppressionCommand::Status => list::status(config).await?,
        SuppressionCommand::Rebuild(args) => list::rebuild(config, args).await?,
        SuppressionCommand::Show { address, tenant, format } => {
            let control = stores::read_control(config, &system::ids()).await?;
            let filter = SuppressionFilter { address: Some(address.clone()), ..SuppressionFilter::default() };
            let found = control.suppressions(&filter).await.map_err(anyhow::Error::from)?;
            let concerns = |row: &Suppression| {
                tenant.as_ref().is_none_or(|tenant| *tenant == row.tenant_id || row.reach == Reach::Global)
            };
            let found: Vec<Row> = found.into_iter().filter(concerns).map(Row::of).collect();
            if found.is_empty() {
                return Err(Failure::Missing(format!("{address} is not on this list")));
            }
            const SHOWN: [&str; 8] =
                ["tenant_id", "reach", "reason", "since", "until", "actor", "event_id", "note"];
            rows::print(&found, &SHOWN, format.format)?;
        }
        SuppressionCommand::Ls { address, tenant, reason, reach, limit, format } => {
            let control = stores::read_control(config, &system::ids()).await?;
            let filter = SuppressionFilter {
                tenant_id: tenant,
                address,
                reason,
                reach,
                limit,
                ..SuppressionFilter::default()
            };
            let found = control.suppressions(&filter).await.map_err(anyhow::Error::from)?;
            let found: Vec<Row> = found.into_iter().map(Row::of).collect();
            rows::print(&found, &COLUMNS, format.format)?;
        }
    }
    Ok(())
}

async fn ask(config: &Config, path: &str, wanted: &impl Serialize) -> Result<Value, Failure> {
    let body = serde_json::to_vec(wanted).map_err(anyhow::Error::from)?;
    post(config, path, "application/json", body.into()).await
}

/// Asks the node of this data folder.
pub(super) async fn post(
    config: &Config,
    path: &str,
    content_type: &str,
    body: Body,
) -> Result<Value, Failure> {
    let request = axum::http::Request::post(path)
        .header("content-type", content_type)
        .header(OPERATOR_HEADER, actor())
        .body(body)
        .map_err(anyhow::Error::from)?;
    told(call_local(config, request).await?)
}

/// What a node answered; its refusals become exit codes.
pub(super) fn told(answer: Answer) -> Result<Value, Failure> {
    let body: Value = serde_json::from_slice(&answer.body)
        .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&answer.body).into_owned()));
    if answer.status.is_success() {
        return Ok(body);
    }
    let detail = body.get("detail").or(Some(&body)).and_then(Value::as_str).unwrap_or("no reason given");
    Err(match answer.status.as_u16() {
        404 => Failure::Missing(detail.to_owned()),
        503 => Failure::Unreachable(detail.to_owned()),
        400..=499 => Failure::Refused(detail.to_owned()),
        _ => Failure::Other(anyhow::anyhow!("{detail}")),
    })
}
