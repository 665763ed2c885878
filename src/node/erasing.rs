//! The local route that erases, for `sendlake lake erase` beside a running server and without one.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use sendlake_sender::api::ports::Caller;
use serde_json::json;

use crate::erase::{EraseRequest, Eraser, NotErased};

pub(super) fn routes(eraser: Arc<Eraser>) -> Router {
    Router::new().route("/local/lake/erase", post(erase)).with_state(eraser)
}

async fn erase(
    State(eraser): State<Arc<Eraser>>,
    Extension(caller): Extension<Caller>,
    Json(request): Json<EraseRequest>,
) -> Response {
    // On a thread of its own: whoever asked may leave, and half an erasure is none.
    let runtime = tokio::runtime::Handle::current();
    let work = tokio::task::spawn_blocking(move || runtime.block_on(eraser.erase(&caller.key_id, &request)));
    match work.await {
        Ok(Ok(receipt)) => Json(receipt).into_response(),
        Ok(Err(error)) => refused(&error),
        Err(ended) => {
            let detail = format!("the erasure ended early ({ended}); erase again");
            (axum::http::StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "detail": detail }))).into_response()
        }
    }
}

fn refused(error: &NotErased) -> Response {
    (error.status(), Json(json!({ "detail": error.to_string() }))).into_response()
}
