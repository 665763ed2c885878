//! What a client of `POST /v1/sql` gets, for good requests and bad ones.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use serde_json::{Value, json};
use tower::ServiceExt;
use utoipa::OpenApi;

use super::*;
use crate::limits::{EngineLimits, QueryLimits};
use crate::testing::{engine_over, events, limits, snapshot, tenant};

const LINES: &str = r#"
{"type":"accepted","at":"2026-03-02T10:00:00Z","message_id":"m1","seq":1,"recipient":"ann@example.com"}
{"type":"accepted","at":"2026-03-02T10:00:00Z","tenant_id":"bolt","message_id":"m2","seq":1,"recipient":"secret@bolt.example"}
"#;

struct Answer {
    status: u16,
    media_type: String,
    truncated: Option<String>,
    body: Vec<u8>,
}

async fn ask(
    body: impl Into<Body>,
    accept: Option<&str>,
    caller: Option<Caller>,
    limits: EngineLimits,
) -> Answer {
    let app: Router = router(Arc::new(engine_over(snapshot(&events(LINES), &[]), limits)));
    let mut request = Request::post("/v1/sql").header("content-type", "application/json");
    if let Some(accept) = accept {
        request = request.header("accept", accept);
    }
    if let Some(caller) = caller {
        request = request.extension(caller);
    }
    let response = app.oneshot(request.body(body.into()).unwrap()).await.unwrap();
    let text = |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (media_type, truncated) = (text("content-type").unwrap(), text("sendlake-truncated"));
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec();
    Answer { status, media_type, truncated, body }
}

fn acme() -> Option<Caller> {
    Some(Caller { scope: tenant("acme"), may_query: true })
}

async fn problem(body: impl Into<Body>, caller: Option<Caller>) -> Value {
    let answer = ask(body, None, caller, limits()).await;
    assert_eq!(answer.media_type, "application/problem+json");
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(problem["status"], answer.status);
    problem
}

#[tokio::test]
async fn answers_in_json_unless_asked_otherwise() {
    let sql = json!({"sql": "SELECT message_id, recipient FROM events"}).to_string();
    for accept in [None, Some("*/*"), Some("application/json, text/csv;q=0.5")] {
        let answer = ask(sql.clone(), accept, acme(), limits()).await;
        assert_eq!((answer.status, answer.media_type.as_str()), (200, "application/json"));
        let json: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(json["rows"], json!([{"message_id": "m1", "recipient": "ann@example.com"}]));
    }
    let csv = ask(sql.clone(), Some("application/json;q=0.1, text/csv"), acme(), limits()).await;
    assert_eq!(String::from_utf8(csv.body).unwrap(), "message_id,recipient\nm1,ann@example.com\n");
    let arrow = ask(sql, Some("application/vnd.apache.arrow.stream"), acme(), limits()).await;
    assert_eq!(arrow.media_type, "application/vnd.apache.arrow.stream");
    assert!(arrow::ipc::reader::StreamReader::try_new(arrow.body.as_slice(), None).is_ok());
}

#[tokio::test]
async fn format_in_the_body_goes_first() {
    let body = json!({"sql": "SELECT 1 AS one", "format": "csv"}).to_string();
    let answer = ask(body, Some("application/json"), acme(), limits()).await;
    assert_eq!(String::from_utf8(answer.body).unwrap(), "one\n1\n");
    assert_eq!(answer.truncated.as_deref(), Some("false"));
}

#[tokio::test]
async fn says_when_rows_were_cut() {
    let few = EngineLimits { query: QueryLimits { rows: 1, ..limits().query }, ..limits() };
    let body = json!({"sql": "SELECT * FROM generate_series(1, 3)"}).to_string();
    let answer = ask(body, None, acme(), few).await;
    let json: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((json["row_count"].as_i64(), json["truncated"].as_bool()), (Some(1), Some(true)));
    assert_eq!(answer.truncated.as_deref(), Some("true"));
}

#[tokio::test]
async fn bad_requests_say_what_and_where() {
    let sql = |text: &str| json!({"sql": text}).to_string();
    for (body, status, kind, pointer, word) in [
        ("{".to_owned(), 400, "malformed_json", Value::Null, "line 1"),
        ("\u{0}".to_owned(), 400, "malformed_json", Value::Null, "not JSON"),
        ("[]".to_owned(), 422, "invalid_request", json!(""), "object"),
        ("{}".to_owned(), 422, "invalid_request", json!("/sql"), "has to be there"),
        (json!({"sql": 1}).to_string(), 422, "invalid_request", json!("/sql"), "a text"),
        (
            json!({"sql": "SELECT 1", "a/b": 1}).to_string(),
            422,
            "invalid_request",
            json!("/a~1b"),
            "no such field",
        ),
        (
            json!({"sql": "SELECT 1", "format": "xml"}).to_string(),
            422,
            "invalid_request",
            json!("/format"),
            "csv",
        ),
        (sql(""), 422, "sql_syntax", json!("/sql"), "send one SELECT"),
        (sql("SELEC"), 422, "sql_syntax", json!("/sql"), "cannot be read"),
        (sql("SELECT 1; SELECT 2"), 422, "sql_several_statements", json!("/sql"), "one statement"),
        (sql("SELECT nothing FROM events"), 422, "sql_invalid", json!("/sql"), "nothing"),
        (sql("SELECT 1/0"), 422, "sql_failed", json!("/sql"), "zero"),
        (sql("DROP TABLE events"), 403, "sql_read_only", json!("/sql"), "DROP TABLE"),
        (sql("EXPLAIN SELECT 1"), 403, "sql_not_available", json!("/sql"), "EXPLAIN"),
        (sql(&format!("SELECT '{}'", "x".repeat(70_000))), 413, "sql_too_long", json!("/sql"), "65536"),
        (sql(&"x".repeat(300_000)), 413, "body_too_large", Value::Null, "262144"),
        (sql(&format!("SELECT 1{}", "+1".repeat(900))), 422, "sql_too_complex", json!("/sql"), "operators"),
    ] {
        let start = body.chars().take(60).collect::<String>();
        let problem = problem(body, acme()).await;
        assert_eq!(problem["type"], format!("/problems/{kind}"), "{start}: {problem}");
        let found = &problem["errors"][0]["pointer"];
        assert_eq!((&problem["status"], found), (&json!(status), &pointer), "{start}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(word), "{start}: {problem}");
        assert!(!problem["title"].as_str().unwrap().is_empty());
    }
    let invalid_utf8 = problem(vec![b'"', 0xff, b'"'], acme()).await;
    assert_eq!(invalid_utf8["type"], "/problems/malformed_json");
}

#[tokio::test]
async fn only_who_may_query_does() {
    let body = json!({"sql": "SELECT 1"}).to_string();
    assert_eq!(problem(body.clone(), None).await["status"], 401);
    let no = Caller { scope: tenant("acme"), may_query: false };
    assert_eq!(problem(body, Some(no)).await["status"], 403);
}

#[tokio::test]
async fn no_format_is_406() {
    let body = json!({"sql": "SELECT 1"}).to_string();
    let answer = ask(body, Some("image/png, application/json;q=0"), acme(), limits()).await;
    assert_eq!(answer.status, 406);
}

#[tokio::test]
async fn limits_have_problems_of_their_own() {
    let quick = EngineLimits {
        query: QueryLimits { time: Duration::from_millis(200), ..limits().query },
        ..limits()
    };
    let body = json!({"sql": "SELECT count(*) FROM generate_series(1, 10000000000)"}).to_string();
    let answer = ask(body.clone(), None, acme(), quick).await;
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, &problem["type"]), (422, &json!("/problems/sql_time_limit")));
    let none = EngineLimits { concurrent_queries: 0, ..limits() };
    let answer = ask(body, None, acme(), none).await;
    let problem: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, &problem["type"]), (429, &json!("/problems/sql_too_many_queries")));
}

#[test]
fn openapi_lists_the_path_and_its_schemas() {
    let doc = serde_json::to_value(ApiDoc::openapi()).unwrap();
    let post = &doc["paths"]["/v1/sql"]["post"];
    assert!(post["responses"]["429"].is_object(), "{doc}");
    for schema in ["SqlRequest", "SqlResponse", "SqlColumn", "Format", "SqlProblem", "SqlFieldError"] {
        assert!(doc["components"]["schemas"][schema].is_object(), "{schema}");
    }
}
