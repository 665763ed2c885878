//! `sendlake review …`: what complaints have cut, and what a person decides about it.

use axum::body::Body;
use clap::{Args, Subcommand};
use sendlake_control::id::TenantId;
use sendlake_query::Scope;
use sendlake_query::output::{self, Format as OutputFormat};
use sendlake_sender::stream::Stream;

use super::control::actor;
use super::{CommandResult, Failure, Format, FormatArg, rows, sql, stream, tenant_id};
use crate::config::Config;
use crate::node::{OPERATOR_HEADER, ReviewDecision, call_local};
use crate::publisher::Decision;
use crate::{stores, system};

#[derive(Debug, Subcommand)]
pub(crate) enum ReviewCommand {
    /// List reviews, the open ones first.
    Ls {
        /// Only this tenant's.
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Lift the cut. Complaints about mail that was delivered before no longer count.
    Approve {
        #[command(flatten)]
        identity: Identity,
    },
    /// Let nothing out until it is approved.
    Stop {
        #[command(flatten)]
        identity: Identity,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Identity {
    #[arg(long, value_parser = tenant_id)]
    tenant: TenantId,
    /// The sending domain.
    #[arg(long)]
    domain: String,
    #[arg(long, value_parser = stream)]
    stream: Stream,
    /// Why: stands in events, in the audit log, and in what held mail says.
    #[arg(long, default_value = "decided by an operator")]
    reason: String,
}

const LIST: &str = "SELECT state, since, tenant_id, stream, sending_domain, reason FROM reviews \
    ORDER BY CASE state WHEN 'open' THEN 0 WHEN 'stopped' THEN 1 ELSE 2 END, since DESC";

pub(crate) async fn run(config: &Config, command: ReviewCommand) -> CommandResult {
    match command {
        ReviewCommand::Ls { tenant, format } => {
            let (engine, _) = stores::open_reading(config, &system::ids()).await?;
            let scope = tenant.map_or(Scope::AllTenants, Scope::Tenant);
            let output = engine.query(&scope, LIST, engine.limits().query).await.map_err(sql::failure)?;
            let format = match format.format {
                Format::Table => OutputFormat::Table,
                Format::Json => OutputFormat::Json,
                Format::Csv => OutputFormat::Csv,
            };
            rows::emit(&output::to_bytes(&output, format).map_err(anyhow::Error::from)?);
            Ok(())
        }
        ReviewCommand::Approve { identity } => decide(config, identity, Decision::Approve).await,
        ReviewCommand::Stop { identity } => decide(config, identity, Decision::Stop).await,
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn decide(config: &Config, identity: Identity, decision: Decision) -> CommandResult {
    let asked = ReviewDecision {
        tenant_id: identity.tenant,
        domain: identity.domain,
        stream: identity.stream,
        decision,
        reason: identity.reason,
    };
    let body = serde_json::to_vec(&asked).map_err(anyhow::Error::from)?;
    let request = axum::http::Request::post("/local/review")
        .header("content-type", "application/json")
        .header(OPERATOR_HEADER, actor())
        .body(Body::from(body))
        .map_err(anyhow::Error::from)?;
    let answer = call_local(config, request).await?;
    let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let detail = || said.get("detail").and_then(|text| text.as_str()).unwrap_or("no answer").to_owned();
    match answer.status.as_u16() {
        200 => {}
        404 => return Err(Failure::Missing(detail())),
        _ => return Err(Failure::Other(anyhow::anyhow!(detail()))),
    }
    let whom = format!("{} mail of {}", asked.stream, asked.domain);
    match decision {
        Decision::Approve => println!("{whom}: approved, the limits say so from now on"),
        Decision::Stop => println!("{whom}: stopped until it is approved"),
    }
    Ok(())
}
