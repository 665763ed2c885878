//! Local routes about the list as a whole: whether it is complete, and putting it together again.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use sendlake_control::suppression::quarantine::BurstDecision;
use sendlake_sender::api::ports::Caller;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::hear::Hearing;
use crate::suppressions::bursts::Bursts;
use crate::suppressions::rebuild::{NotRebuilt, Rebuilder};

/// What `sendlake suppression rebuild` asks for.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RebuildSuppressions {
    /// Change nothing.
    pub dry: bool,
    /// Go on although the list has fewer entries than the lake once noted.
    pub accept: bool,
}

/// What `sendlake review release|confirm` asks for.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DecideBurst {
    pub review_id: String,
    /// Back on the list, or written to again.
    pub confirm: bool,
    /// In the operator's words, for the audit log.
    pub reason: String,
}

#[derive(Clone)]
struct Safekeeping {
    rebuilder: Arc<Rebuilder>,
    hearing: Arc<Hearing>,
    bursts: Arc<Bursts>,
}

pub(super) fn routes(rebuilder: Rebuilder, hearing: Arc<Hearing>, bursts: Arc<Bursts>) -> Router {
    Router::new()
        .route("/local/suppressions/status", get(status))
        .route("/local/suppressions/rebuild", post(rebuild))
        .route("/local/suppressions/bursts/look", post(look))
        .route("/local/suppressions/bursts/decide", post(decide))
        .with_state(Safekeeping { rebuilder: Arc::new(rebuilder), hearing, bursts })
}

/// Looks for bursts now.
async fn look(State(parts): State<Safekeeping>) -> Response {
    if let Err(error) = parts.hearing.wishes.drain().await {
        return failed(&error);
    }
    match parts.bursts.look().await {
        Ok(found) => Json(json!({ "bursts": found })).into_response(),
        Err(error) => failed(&format!("{error:#}")),
    }
}

async fn decide(
    State(parts): State<Safekeeping>,
    Extension(caller): Extension<Caller>,
    Json(asked): Json<DecideBurst>,
) -> Response {
    let decision = if asked.confirm { BurstDecision::Confirm } else { BurstDecision::Release };
    match parts.bursts.decide(&caller.key_id, &asked.review_id, decision, &asked.reason).await {
        Ok(Some(entries)) => Json(json!({ "entries": entries })).into_response(),
        Ok(None) => {
            let detail = format!("no burst {} is open; `sendlake review bursts` lists them", asked.review_id);
            (StatusCode::NOT_FOUND, Json(json!({ "detail": detail }))).into_response()
        }
        Err(error) => failed(&format!("{error:#}")),
    }
}

async fn status(State(parts): State<Safekeeping>) -> Response {
    if let Err(error) = parts.hearing.wishes.drain().await {
        return failed(&error);
    }
    match parts.rebuilder.keeping.status().await {
        Ok(status) => Json(status).into_response(),
        Err(error) => failed(&error),
    }
}

async fn rebuild(State(parts): State<Safekeeping>, Json(asked): Json<RebuildSuppressions>) -> Response {
    // On a thread of its own: whoever asked may leave, and half a list is none.
    let runtime = tokio::runtime::Handle::current();
    let rebuilder = parts.rebuilder;
    let work =
        tokio::task::spawn_blocking(move || runtime.block_on(rebuilder.rebuild(asked.dry, asked.accept)));
    match work.await {
        Ok(Ok(done)) => Json(done).into_response(),
        Ok(Err(error @ NotRebuilt::Control(_))) => {
            (StatusCode::UNPROCESSABLE_ENTITY, Json(json!({ "detail": error.to_string() }))).into_response()
        }
        Ok(Err(error)) => failed(&error),
        Err(ended) => failed(&format!("the rebuild ended early ({ended}); run it again")),
    }
}

fn failed(error: &dyn std::fmt::Display) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "detail": error.to_string() }))).into_response()
}
