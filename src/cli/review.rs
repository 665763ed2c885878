//! `sendlake review …`: what complaints have cut, and what a person decides about it.

use axum::body::Body;
use clap::{Args, Subcommand};
use sendlake_control::id::TenantId;
use sendlake_control::suppression::quarantine::BurstReview;
use sendlake_sender::stream::Stream;
use serde::Serialize;

use super::control::actor;
use super::suppression::post;
use super::{CommandResult, Failure, FormatArg, rows, sql, stream, tenant_id};
use crate::config::Config;
use crate::node::{DecideBurst, OPERATOR_HEADER, ReviewDecision, call_local};
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
    /// List bursts of unknown recipients at a provider, the open ones first: what they suppressed is not in force until
    /// it is decided.
    Bursts {
        /// Ask the lake now, instead of waiting for the next minute.
        #[arg(long)]
        look: bool,
        #[command(flatten)]
        format: FormatArg,
    },
    /// The provider was wrong: lift what a burst suppressed for good.
    Release {
        #[command(flatten)]
        burst: Burst,
    },
    /// The mailboxes are gone: put what a burst suppressed back on the list.
    Confirm {
        #[command(flatten)]
        burst: Burst,
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
pub(crate) struct Burst {
    /// As `review bursts` names it.
    review_id: String,
    /// Why: stands in the audit log.
    #[arg(long, default_value = "decided by an operator")]
    reason: String,
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
        ReviewCommand::Ls { tenant, format } => sql::ask(config, tenant, LIST, &[], format.format).await,
        ReviewCommand::Bursts { look, format } => {
            if look {
                post(config, "/local/suppressions/bursts/look", "application/json", "{}".into()).await?;
            }
            let control = stores::read_control(config, &system::ids()).await?;
            let found = control.burst_reviews().await.map_err(anyhow::Error::from)?;
            let found: Vec<BurstRow> = found.into_iter().map(BurstRow::of).collect();
            rows::print(&found, &BURST_COLUMNS, format.format)?;
            Ok(())
        }
        ReviewCommand::Release { burst } => decide_burst(config, burst, false).await,
        ReviewCommand::Confirm { burst } => decide_burst(config, burst, true).await,
        ReviewCommand::Approve { identity } => decide(config, identity, Decision::Approve).await,
        ReviewCommand::Stop { identity } => decide(config, identity, Decision::Stop).await,
    }
}

#[derive(Serialize)]
struct BurstRow {
    review_id: String,
    state: String,
    provider: String,
    opened_at: String,
    quarantined: i64,
    reason: String,
    decided_by: Option<String>,
}

const BURST_COLUMNS: [&str; 7] =
    ["review_id", "state", "provider", "opened_at", "quarantined", "reason", "decided_by"];

impl BurstRow {
    fn of(review: BurstReview) -> Self {
        Self {
            review_id: review.review_id,
            state: review.state,
            provider: review.provider,
            opened_at: review.opened_at.to_string(),
            quarantined: review.quarantined,
            reason: review.reason,
            decided_by: review.decided_by,
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn decide_burst(config: &Config, burst: Burst, confirm: bool) -> CommandResult {
    let asked = DecideBurst { review_id: burst.review_id, confirm, reason: burst.reason };
    let body = serde_json::to_vec(&asked).map_err(anyhow::Error::from)?;
    let answer = post(config, "/local/suppressions/bursts/decide", "application/json", body.into()).await?;
    let entries = answer.get("entries").and_then(serde_json::Value::as_u64).unwrap_or(0);
    let what = if confirm { "back on the list" } else { "lifted" };
    println!("burst {}: {entries} suppressions {what}", asked.review_id);
    Ok(())
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
