//! `POST /v1/sql`: one statement in, JSON, CSV or an Arrow stream out; errors as problem documents.
//!
//! Who calls is decided before: a middleware of the server puts a [`Caller`] into the request's extensions.

mod problem;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};

pub use self::problem::{FieldError, Problem, problem_pages};
use sendlake_control::clock::Timestamp;

use crate::engine::QueryEngine;
use crate::output::{self, Format};
use crate::scope::Scope;

/// Room for [`crate::statement::SQL_BYTES_MAX`] of SQL with its JSON escapes.
const BODY_BYTES_MAX: usize = 256 << 10;

/// Who calls, as the server's middleware found out. Without one the answer is 401.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose rows the caller sees.
    pub scope: Scope,
    /// The caller's key has the scope `sql`.
    pub may_query: bool,
}

/// The body of `POST /v1/sql`.
#[derive(Debug, serde::Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SqlRequest {
    /// One read-only statement.
    #[schema(example = "SELECT provider, outcome, count(*) AS messages FROM outcomes GROUP BY 1, 2")]
    pub sql: String,
    /// Goes before the Accept header. `table` is for terminals.
    #[serde(default)]
    pub format: Option<Format>,
    /// Judge as of this instant (RFC 3339) instead of now.
    #[serde(default)]
    #[schema(example = "2026-11-22T09:30:00Z")]
    pub as_of: Option<String>,
}

/// The JSON answer of `POST /v1/sql`.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct SqlResponse {
    pub columns: Vec<SqlColumn>,
    /// One object per row, keyed by column name; nulls are written out.
    #[schema(value_type = Vec<Object>)]
    pub rows: Vec<serde_json::Value>,
    pub row_count: u64,
    /// There were more rows than the limit.
    pub truncated: bool,
    pub elapsed_ms: u64,
}

/// One column of the answer.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub struct SqlColumn {
    pub name: String,
    /// The Arrow type, such as `Utf8` or `Timestamp(µs, "UTC")`.
    pub r#type: String,
}

/// The routes of this module and their schemas, to be merged into the server's OpenAPI document.
#[derive(utoipa::OpenApi)]
#[openapi(paths(query), components(schemas(SqlRequest, SqlResponse, SqlColumn, Format, Problem, FieldError)))]
pub struct ApiDoc;

/// `POST /v1/sql`. Merges into a router of any state.
pub fn router<S>(engine: Arc<QueryEngine>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    Router::new()
        .route("/v1/sql", post(query))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(engine)
}

#[utoipa::path(
    post,
    path = "/v1/sql",
    tag = "sql",
    summary = "Ask SQL about the caller's events",
    description = "One read-only statement over `events` and the views. A tenant's key sees that tenant's rows.",
    request_body = SqlRequest,
    security(("api_key" = [])),
    responses(
        (status = 200, description = "The result, in the format asked for", content(
            (SqlResponse = "application/json"),
            (String = "text/csv"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
        )),
        (status = 400, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No key", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key may not query, or the statement is not allowed", body = Problem, content_type = "application/problem+json"),
        (status = 406, description = "No format that the Accept header allows", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body or the SQL text is too long", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A field is wrong, or the SQL cannot be read, planned or run within its limits", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many queries at once", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The events cannot be read at the moment", body = Problem, content_type = "application/problem+json"),
    )
)]
async fn query(
    State(engine): State<Arc<QueryEngine>>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    match answer(&engine, caller.map(|Extension(caller)| caller), &headers, body).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn answer(
    engine: &QueryEngine,
    caller: Option<Caller>,
    headers: &HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let caller = caller.ok_or_else(Problem::no_caller)?;
    if !caller.may_query {
        return Err(Problem::may_not_query());
    }
    let body = body.map_err(|rejection| Problem::body(rejection.status(), BODY_BYTES_MAX))?;
    let request = parse(&body)?;
    let format = match request.format {
        Some(format) => format,
        None => accepted(headers).ok_or_else(Problem::not_acceptable)?,
    };
    let limits = engine.limits().query;
    let as_of =
        match &request.as_of {
            Some(text) => vec![Timestamp::parse(text).ok_or_else(|| {
                Problem::field("/as_of", "as_of is an instant like \"2026-11-22T09:30:00Z\"")
            })?],
            None => vec![],
        };
    let output = engine.query_as_of(&caller.scope, &request.sql, limits, &as_of).await?;
    let bytes = output::to_bytes(&output, format)?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(format.media_type())),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // CSV and Arrow have no place for it in the body.
        (
            header::HeaderName::from_static("sendlake-truncated"),
            HeaderValue::from_static(if output.truncated { "true" } else { "false" }),
        ),
    ];
    Ok((StatusCode::OK, headers, bytes).into_response())
}

fn parse(body: &[u8]) -> Result<SqlRequest, Problem> {
    let value: serde_json::Value =
        serde_json::from_slice(body).map_err(|error| Problem::malformed_json(&error))?;
    let Some(fields) = value.as_object() else {
        return Err(Problem::field("", "the body is an object: {\"sql\": \"SELECT …\"}"));
    };
    if let Some(unknown) = fields.keys().find(|key| !matches!(key.as_str(), "sql" | "format" | "as_of")) {
        let pointer = format!("/{}", unknown.replace('~', "~0").replace('/', "~1"));
        return Err(Problem::field(&pointer, "there is no such field: sql, format and as_of are"));
    }
    if !fields.get("sql").is_some_and(serde_json::Value::is_string) {
        return Err(Problem::field("/sql", "sql is a text and has to be there"));
    }
    if fields.get("as_of").is_some_and(|as_of| !as_of.is_string() && !as_of.is_null()) {
        return Err(Problem::field("/as_of", "as_of is an instant like \"2026-11-22T09:30:00Z\""));
    }
    serde_json::from_value(value)
        .map_err(|_| Problem::field("/format", "format is \"json\", \"csv\", \"arrow\" or \"table\""))
}

/// The format that the Accept header (RFC 9110, section 12.5.1) likes best; JSON when it says nothing.
fn accepted(headers: &HeaderMap) -> Option<Format> {
    let mut best: Option<(f32, Format)> = None;
    let mut asked = false;
    for value in headers.get_all(header::ACCEPT) {
        let Ok(value) = value.to_str() else { continue };
        for range in value.split(',').filter(|range| !range.trim().is_empty()) {
            asked = true;
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let quality = parts
                .find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                .map_or(1.0, |quality| quality.parse::<f32>().unwrap_or(0.0));
            let format = match media_type.as_str() {
                "application/json" | "application/*" | "*/*" => Format::Json,
                "text/csv" | "text/*" => Format::Csv,
                "text/plain" => Format::Table,
                "application/vnd.apache.arrow.stream" => Format::Arrow,
                _ => continue,
            };
            if quality > 0.0 && best.is_none_or(|(so_far, _)| quality > so_far) {
                best = Some((quality, format));
            }
        }
    }
    if asked { best.map(|(_, format)| format) } else { Some(Format::Json) }
}

#[cfg(test)]
mod tests;
