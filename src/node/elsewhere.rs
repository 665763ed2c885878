//! `/local/elsewhere`: batches of other senders' events, over the local socket.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use sendlake_ingest::table::EventsTable;
use serde_json::json;

use crate::hear::Hearing;
use crate::hear::elsewhere::{Batch, NotTaken, Taken};

/// Largest batch. `sendlake ingest --from` sends far less.
const BATCH_BYTES_MAX: usize = 128 << 20;

#[derive(Clone)]
struct Elsewhere {
    hearing: Arc<Hearing>,
    lake: Arc<EventsTable>,
}

pub(super) fn routes(hearing: Arc<Hearing>, lake: Arc<EventsTable>) -> Router {
    Router::new()
        .route("/local/elsewhere", post(take).layer(DefaultBodyLimit::max(BATCH_BYTES_MAX)))
        .with_state(Elsewhere { hearing, lake })
}

async fn take(State(state): State<Elsewhere>, Json(batch): Json<Batch>) -> Result<Json<Taken>, NotTaken> {
    Ok(Json(state.hearing.take_file_events(&state.lake, batch).await?))
}

impl IntoResponse for NotTaken {
    fn into_response(self) -> Response {
        let status = match &self {
            NotTaken::Control(error) if error.is_missing() => StatusCode::NOT_FOUND,
            NotTaken::Foreign(_) => StatusCode::UNPROCESSABLE_ENTITY,
            NotTaken::Control(_) | NotTaken::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(json!({ "detail": self.to_string() }))).into_response()
    }
}
