//! Local routes about limits: reviews decided, limits published now, sending domains read anew.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use sendlake_control::ControlStore;
use sendlake_control::id::TenantId;
use sendlake_sender::api::ports::Caller;
use sendlake_sender::stream::Stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::local::LocalError;
use crate::identities::ControlIdentities;
use crate::publisher::{Decision, Publisher};

/// What `sendlake review approve|stop` asks for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReviewDecision {
    pub tenant_id: TenantId,
    pub domain: String,
    pub stream: Stream,
    pub decision: Decision,
    /// In the operator's words: stands in events and in what held mail says.
    pub reason: String,
}

#[derive(Clone)]
struct Judging {
    publisher: Arc<Publisher>,
    identities: Arc<ControlIdentities>,
    control: Arc<ControlStore>,
}

pub(super) fn routes(
    publisher: Arc<Publisher>,
    identities: Arc<ControlIdentities>,
    control: Arc<ControlStore>,
) -> Router {
    Router::new()
        .route("/local/refresh", post(refresh))
        .route("/local/publish", post(publish))
        .route("/local/review", post(review))
        .with_state(Judging { publisher, identities, control })
}

async fn refresh(State(judging): State<Judging>) -> Result<Json<Value>, LocalError> {
    let refreshed = judging.identities.refresh(&judging.control).await;
    refreshed.map_err(|error| LocalError(error.to_string()))?;
    judging.publisher.wake.notify_one();
    Ok(Json(json!({})))
}

async fn publish(State(judging): State<Judging>) -> Result<Json<Value>, LocalError> {
    let done = judging.publisher.publish().await.map_err(|error| LocalError(format!("{error:#}")))?;
    Ok(Json(json!({ "version": done.version, "written": done.written, "changes": done.changes })))
}

async fn review(
    State(judging): State<Judging>,
    Extension(caller): Extension<Caller>,
    Json(asked): Json<ReviewDecision>,
) -> Result<Response, LocalError> {
    let failed = |error: &dyn std::fmt::Display| LocalError(error.to_string());
    let domain = judging.control.domain(&asked.domain).await.map_err(|error| failed(&error))?;
    let Some(domain) = domain.filter(|domain| domain.tenant_id == asked.tenant_id) else {
        let detail = format!("{} is no sending domain of {}", asked.domain, asked.tenant_id);
        return Ok((StatusCode::NOT_FOUND, Json(json!({ "detail": detail }))).into_response());
    };
    let stream = asked.stream.to_string();
    if asked.decision == Decision::Approve {
        let in_review = judging.publisher.in_review(&asked.tenant_id, &stream, &domain.domain).await;
        if !in_review.map_err(|error| LocalError(format!("{error:#}")))? {
            let detail = format!(
                "no review of {stream} mail of {} is open or was stopped; `sendlake review ls` lists them",
                domain.domain
            );
            return Ok((StatusCode::NOT_FOUND, Json(json!({ "detail": detail }))).into_response());
        }
    }
    let action = match asked.decision {
        Decision::Approve => "review_approved",
        Decision::Stop => "review_stopped",
    };
    let subject = format!("{stream} {}", domain.domain);
    let detail = json!({ "reason": asked.reason });
    let audited = judging.control.audit(&caller.key_id, Some(&asked.tenant_id), action, &subject, detail);
    audited.await.map_err(|error| failed(&error))?;
    let done = judging
        .publisher
        .decide(&asked.tenant_id, &stream, &domain.domain, asked.decision, &asked.reason)
        .await
        .map_err(|error| LocalError(format!("{error:#}")))?;
    let answer = json!({ "version": done.version, "written": done.written, "changes": done.changes });
    Ok(Json(answer).into_response())
}
