//! The HTTP send API: JSON in, 202 once the message is durable, problem details (RFC 9457) otherwise.
//!
//! - [`ports`]: what it asks of the rest of the program
//! - [`request`]: from request bodies to checked requests, pure
//! - [`json`], [`problem`]: every fault of a body at once, each with its pointer
//! - [`limits`]: sizes, counts and rates
//! - [`auth`], [`idempotency`], [`body`]: what is in a request's headers and around its body
//! - [`messages`]: the endpoints
//! - [`openapi`]: their description, OpenAPI 3.1
//!
//! Nothing here decides policy or touches a disk.

mod accept;
pub mod auth;
mod body;
mod idempotency;
pub mod json;
pub mod limits;
pub mod messages;
pub mod openapi;
pub mod ports;
pub mod problem;
pub mod request;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::header;
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use sendlake_control::id::Ids;
use tower_http::trace::TraceLayer;
use utoipa::openapi::OpenApi;

use self::limits::{ApiLimits, RateLimiter};
use self::ports::{Authenticator, History, Intake, Senders};
use self::problem::{Kind, Problem};

/// What the endpoints share.
pub struct Api {
    intake: Arc<dyn Intake>,
    senders: Arc<dyn Senders>,
    history: Arc<dyn History>,
    ids: Ids,
    limits: ApiLimits,
    rates: RateLimiter,
}

impl Api {
    pub fn new(
        intake: Arc<dyn Intake>,
        senders: Arc<dyn Senders>,
        history: Arc<dyn History>,
        ids: Ids,
        limits: ApiLimits,
    ) -> Self {
        let rates = RateLimiter::new(&limits);
        Self { intake, senders, history, ids, limits, rates }
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The endpoints under `/v1/messages`, for [`serve_routes`]. They expect a [`ports::Caller`] in the request.
pub fn message_routes(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v1/messages", post(messages::post_message))
        .route("/v1/messages/batch", post(messages::post_batch))
        .route("/v1/messages/raw", post(messages::post_raw))
        .route("/v1/messages/{message_id}", get(messages::get_message))
        .with_state(api)
}

/// The whole HTTP surface: `authenticated` behind the keys, beside them what anybody may read, and problem
/// details for every path and method that does not exist.
pub fn serve_routes(
    authenticated: Router,
    authenticator: Arc<dyn Authenticator>,
    openapi: &OpenApi,
) -> Router {
    let description: Arc<str> = openapi.to_json().unwrap_or_default().into();
    authenticated
        .route_layer(middleware::from_fn_with_state(authenticator, auth::authenticate))
        .route("/healthz", get(healthz))
        .route("/openapi.json", get(async move || json_text(&description)))
        .route("/problems/{code}", get(explain))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(TraceLayer::new_for_http())
}

async fn healthz() -> Response {
    json_text("{\"status\":\"ok\"}")
}

fn json_text(text: &str) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text.to_owned()).into_response()
}

/// What `type` of a problem points to.
async fn explain(Path(code): Path<String>) -> Response {
    match Kind::by_code(&code) {
        Some(kind) => format!("{} ({})\n\n{}\n", kind.title(), kind.status(), kind.about()).into_response(),
        None => not_found().await.into_response(),
    }
}

async fn not_found() -> Problem {
    Problem::new(Kind::NotFound, "no resource has this address; /openapi.json lists those that exist")
}

async fn method_not_allowed() -> Problem {
    Problem::new(Kind::MethodNotAllowed, "this resource does not take this method; see the header Allow")
}

#[cfg(test)]
mod tests;
