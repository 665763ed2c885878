//! Errors as problem documents (RFC 9457).

use axum::Router;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::error::QueryError;

/// A problem document (RFC 9457, section 3).
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = SqlProblem)]
pub struct Problem {
    /// Which kind of problem: stable, for programs. Relative to the server.
    #[schema(example = "/problems/sql_syntax")]
    pub r#type: &'static str,
    /// The kind in words: the same for each problem of that kind.
    pub title: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time, and what to do.
    pub detail: String,
    /// The fields at fault, when it lies in the request body.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

/// One field at fault.
#[derive(Clone, Debug, serde::Serialize, utoipa::ToSchema)]
#[schema(as = SqlFieldError)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the request body.
    #[schema(example = "/sql")]
    pub pointer: String,
    /// Stable name of the fault.
    #[schema(example = "sql_syntax")]
    pub code: &'static str,
    /// What is wrong and what to do, for people.
    pub detail: String,
}

/// Kinds of problem that only SQL has: name, and what it means and what to do. The send API explains the rest.
const PAGES: &[(&str, &str)] = &[
    ("sql_syntax", "The statement could not be read. The detail names line and column."),
    ("sql_too_long", "The text of a statement has a limit, which the detail names. Shorten it."),
    (
        "sql_too_complex",
        "The statement holds too many words, operators, levels or tables. Split it or simplify it.",
    ),
    ("sql_several_statements", "Send one statement at a time."),
    (
        "sql_read_only",
        "Only SELECT, SHOW TABLES, SHOW COLUMNS and DESCRIBE are allowed. Nothing can be changed in SQL.",
    ),
    (
        "sql_not_available",
        "This function or statement is taken out. The detail says why, and what there is instead.",
    ),
    (
        "sql_invalid",
        "The statement names a table, column or function that does not exist or does not fit. DESCRIBE helps.",
    ),
    ("sql_failed", "The query failed on your own rows, such as by a cast or a division by zero."),
    (
        "sql_output",
        "A column's type cannot be written in this format. Cast it to text, or ask for another format.",
    ),
    ("sql_time_limit", "The query took too long. Filter by event_date, or ask for less."),
    ("sql_memory_limit", "The query needs too much memory. Filter by event_date, or group by fewer columns."),
    (
        "sql_too_many_queries",
        "Too many queries run at once. Retry after the seconds in the header Retry-After.",
    ),
    (
        "events_unavailable",
        "The lake or the spool cannot be read just now. Operators find the cause in the log.",
    ),
    (
        "not_acceptable",
        "No format fits the Accept header. There are JSON, CSV, an Arrow stream and plain text.",
    ),
    ("body_unreadable", "The connection ended within the body. Send it again."),
    ("internal", "The server failed. Operators find the cause in its log."),
];

/// A page for each of [`PAGES`], at the problem's `type`. Anybody may read them.
pub fn problem_pages<S: Clone + Send + Sync + 'static>() -> Router<S> {
    PAGES.iter().fold(Router::new(), |router, (code, about)| {
        let page = format!("{code}\n\n{about}\n");
        router.route(&format!("/problems/{code}"), get(async move || page))
    })
}

impl Problem {
    fn new(status: StatusCode, kind: (&'static str, &'static str), detail: impl Into<String>) -> Self {
        let (r#type, title) = kind;
        Self { r#type, title, status: status.as_u16(), detail: detail.into(), errors: Vec::new() }
    }

    fn at(mut self, pointer: &str) -> Self {
        let code = self.r#type.strip_prefix("/problems/").unwrap_or(self.r#type);
        self.errors.push(FieldError { pointer: pointer.to_owned(), code, detail: self.detail.clone() });
        self
    }

    pub(super) fn no_caller() -> Self {
        let kind = ("/problems/unauthenticated", "No valid API key");
        Self::new(
            StatusCode::UNAUTHORIZED,
            kind,
            "send Authorization: Bearer … with a key that has the scope sql",
        )
    }

    pub(super) fn may_not_query() -> Self {
        let kind = ("/problems/missing_scope", "The key lacks a scope");
        Self::new(StatusCode::FORBIDDEN, kind, "this key lacks the scope sql: use one that has it")
    }

    pub(super) fn not_acceptable() -> Self {
        let kind = ("/problems/not_acceptable", "No such format");
        let detail = "accept application/json, text/csv or application/vnd.apache.arrow.stream";
        Self::new(StatusCode::NOT_ACCEPTABLE, kind, detail)
    }

    pub(super) fn malformed_json(error: &serde_json::Error) -> Self {
        let kind = ("/problems/malformed_json", "The body is not JSON");
        Self::new(StatusCode::BAD_REQUEST, kind, format!("the body is not JSON: {error}"))
    }

    pub(super) fn field(pointer: &str, detail: &str) -> Self {
        let kind = ("/problems/invalid_request", "The request cannot be accepted as it is");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, kind, detail).at(pointer)
    }

    pub(super) fn body(status: StatusCode, limit_bytes: usize) -> Self {
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            let kind = ("/problems/body_too_large", "The body is too large");
            return Self::new(status, kind, format!("the body is larger than {limit_bytes} bytes"));
        }
        let kind = ("/problems/body_unreadable", "The body did not arrive");
        Self::new(status, kind, "the connection ended within the body: send it again")
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let unprocessable = StatusCode::UNPROCESSABLE_ENTITY;
        let (status, kind, in_sql) = match &error {
            QueryError::TooLong { .. } => {
                (StatusCode::PAYLOAD_TOO_LARGE, ("/problems/sql_too_long", "The SQL is too long"), true)
            }
            QueryError::TooComplex { .. } => {
                (unprocessable, ("/problems/sql_too_complex", "The SQL is too complex"), true)
            }
            QueryError::Empty | QueryError::Syntax(_) => {
                (unprocessable, ("/problems/sql_syntax", "The SQL cannot be read"), true)
            }
            QueryError::SeveralStatements(_) => {
                (unprocessable, ("/problems/sql_several_statements", "More than one statement"), true)
            }
            QueryError::ReadOnly { .. } => {
                (StatusCode::FORBIDDEN, ("/problems/sql_read_only", "SQL is read-only"), true)
            }
            QueryError::NotAvailable { .. } => {
                (StatusCode::FORBIDDEN, ("/problems/sql_not_available", "Not available in SQL"), true)
            }
            QueryError::Invalid(_) => {
                (unprocessable, ("/problems/sql_invalid", "The SQL does not fit the tables"), true)
            }
            QueryError::Failed(_) => (unprocessable, ("/problems/sql_failed", "The query failed"), true),
            QueryError::Output { .. } => {
                (unprocessable, ("/problems/sql_output", "The format cannot hold the result"), false)
            }
            QueryError::TimeLimit { .. } => {
                // Not 408: clients repeat a request after that by themselves.
                (unprocessable, ("/problems/sql_time_limit", "The query took too long"), true)
            }
            QueryError::MemoryLimit { .. } => {
                (unprocessable, ("/problems/sql_memory_limit", "The query needs too much memory"), true)
            }
            QueryError::TooManyQueries { .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                ("/problems/sql_too_many_queries", "Too many queries at once"),
                false,
            ),
            QueryError::Source(_) | QueryError::Unreadable(_) => (
                StatusCode::SERVICE_UNAVAILABLE,
                ("/problems/events_unavailable", "The events cannot be read"),
                false,
            ),
            QueryError::Internal(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, ("/problems/internal", "The server failed"), false)
            }
        };
        let problem = Problem::new(status, kind, error.to_string());
        if in_sql { problem.at("/sql") } else { problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        let mut response = (status, [json], body).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_type_of_a_refused_query_has_its_page() {
        let limit = Duration::from_secs(1);
        let errors = [
            QueryError::Empty,
            QueryError::TooLong { bytes: 2, limit_bytes: 1 },
            QueryError::TooComplex { what: "words", found: 2, limit: 1 },
            QueryError::SeveralStatements(2),
            QueryError::ReadOnly { statement: "DROP".into() },
            QueryError::NotAvailable { what: "x".into(), instead: "y" },
            QueryError::Invalid(String::new()),
            QueryError::Failed(String::new()),
            QueryError::Output { format: "csv", detail: String::new() },
            QueryError::TimeLimit { limit },
            QueryError::MemoryLimit { limit_bytes: 1 },
            QueryError::TooManyQueries { limit: 1 },
            QueryError::Source(crate::SourceError(String::new())),
            QueryError::Unreadable(String::new()),
            QueryError::Internal(String::new()),
        ];
        let problems = errors.map(Problem::from);
        let others = [Problem::not_acceptable(), Problem::body(StatusCode::BAD_REQUEST, 1)];
        for problem in problems.iter().chain(&others) {
            let code = problem.r#type.strip_prefix("/problems/").unwrap();
            assert!(PAGES.iter().any(|(page, _)| *page == code), "{code}");
        }
    }
}
