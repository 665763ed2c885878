//! `POST /v1/lists/check`: what a list is worth, before anybody sends to it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Extensions, HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use sendlake_control::ControlStore;
use sendlake_query::QueryEngine;
use sendlake_sender::api::auth;
use sendlake_sender::api::problem::{Kind, Problem};
use sendlake_sender::stream::Stream;
use serde::Deserialize;
use utoipa::{IntoParams, OpenApi};

use crate::lists::check::{Asked, Check, Report, Unchecked};
use crate::lists::traps::Traps;

/// Largest list in one request: about half a million addresses; the command line takes any.
const FILE_BYTES_MAX: usize = 32 << 20;

/// An answer's pieces: how large, and how many are ready.
const PIECE_BYTES: usize = 64 << 10;
const PIECES_READY: usize = 2;

#[derive(OpenApi)]
#[openapi(paths(check))]
pub struct ApiDoc;

#[derive(Clone)]
struct Lists {
    control: Arc<ControlStore>,
    engine: Arc<QueryEngine>,
}

pub fn routes(control: Arc<ControlStore>, engine: Arc<QueryEngine>) -> Router {
    Router::new()
        .route("/v1/lists/check", post(check).layer(DefaultBodyLimit::max(FILE_BYTES_MAX)))
        .with_state(Lists { control, engine })
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct CheckQuery {
    /// What the list is for: `marketing` where nothing is said.
    stream: Option<String>,
    /// The sending domain whose ceilings count.
    domain: Option<String>,
    /// Answers with NDJSON: a line `{"report": …}`, then one for each address of the file.
    addresses: Option<bool>,
}

/// Judges a list: CSV or JSON with a field named address or email. Nothing is kept of it.
#[utoipa::path(post, path = "/v1/lists/check", params(CheckQuery), tag = "lists",
    request_body(content = String, content_type = "application/octet-stream"),
    responses((status = 200, description = "Findings, score, freshness and a plan; with `addresses` also every address.")))]
async fn check(
    State(lists): State<Lists>,
    headers: HeaderMap,
    extensions: Extensions,
    query: Result<Query<CheckQuery>, QueryRejection>,
    file: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let caller = auth::require(&extensions, "read")?;
    let tenant = auth::require_tenant(caller, &headers)?;
    let invalid = |detail: String| Problem::new(Kind::InvalidRequest, detail);
    let Query(asked) = query.map_err(|error| invalid(error.body_text()))?;
    let stream = match asked.stream.as_deref() {
        Some(text) => text.parse().map_err(|_| invalid(format!("{text:?} is no stream")))?,
        None => Stream::Marketing,
    };
    let file = file.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail =
                format!("a list has at most {} MiB here; the command line takes any", FILE_BYTES_MAX >> 20);
            Problem::new(Kind::BodyTooLarge, detail)
        }
        _ => invalid(error.body_text()),
    })?;
    let with_addresses = asked.addresses == Some(true);
    let asked =
        Asked { tenant: Some(tenant), stream, domain: asked.domain, format: None, traps: Traps::default() };
    let failed = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "a list cannot be checked");
        Problem::new(Kind::StoreUnavailable, "the list cannot be checked just now").retry_after(5)
    };
    let (mut check, runtime) = (Check::new(lists.control, asked), tokio::runtime::Handle::current());
    match check.allowed().await {
        Ok(()) => {}
        Err(error @ Unchecked::NoTenant(_)) => return Err(Problem::new(Kind::NotFound, error.to_string())),
        Err(error @ Unchecked::NoDomain { .. }) => return Err(invalid(error.to_string())),
        Err(error) => return Err(failed(&error)),
    }
    let again = file.clone();
    let reading = tokio::task::spawn_blocking(move || check.read(file.as_ref(), &runtime).map(|()| check));
    let mut check = match reading.await {
        Ok(Ok(check)) => check,
        Ok(Err(Unchecked::File(error))) => return Err(invalid(error.to_string())),
        Ok(Err(error)) => return Err(failed(&error)),
        Err(error) => return Err(failed(&error)),
    };
    let limits = check.ask_lake(&lists.engine).await;
    let report = check.report(limits.as_ref());
    if with_addresses { Ok(told(check, again, &report)) } else { Ok(Json(report).into_response()) }
}

/// The report and every address, line by line, as fast as the caller reads.
fn told(mut check: Check, file: Bytes, report: &Report) -> Response {
    let (lines, mut ready) = tokio::sync::mpsc::channel::<Result<Bytes, Infallible>>(PIECES_READY);
    let mut piece = serde_json::json!({ "report": report }).to_string();
    piece.push('\n');
    tokio::task::spawn_blocking(move || {
        // it was read once already; who reads no further ends it
        let _ = check.addresses(file.as_ref(), &mut |row| {
            if let Ok(line) = serde_json::to_string(&row) {
                piece.push_str(&line);
                piece.push('\n');
            }
            piece.len() < PIECE_BYTES || lines.blocking_send(Ok(std::mem::take(&mut piece).into())).is_ok()
        });
        let _ = lines.blocking_send(Ok(piece.into()));
    });
    let body = Body::from_stream(futures::stream::poll_fn(move |context| ready.poll_recv(context)));
    ([(CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}
