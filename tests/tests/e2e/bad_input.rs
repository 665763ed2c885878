//! Bad input over HTTP: a clear 4xx that names the field, and nothing of it in queue or lake but `rejected`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sendlake_tests::home::Home;
use sendlake_tests::peers::free_port;
use serde_json::{Value, json};

use crate::{message, message_with};

const MESSAGES: &str = "/v1/messages";
const RAW: &str = "/v1/messages/raw";
const BATCH: &str = "/v1/messages/batch";

struct Case {
    path: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    status: u16,
    kind: &'static str,
    pointer: &'static str,
}

fn case(
    path: &'static str,
    body: impl Into<Vec<u8>>,
    status: u16,
    kind: &'static str,
    pointer: &'static str,
) -> Case {
    Case { path, headers: Vec::new(), body: body.into(), status, kind, pointer }
}

/// A message with one thing wrong.
fn field(changes: Value, pointer: &'static str) -> Case {
    case(MESSAGES, message_with("bob@sink.test", changes).to_string(), 422, "invalid_request", pointer)
}

fn limit(changes: Value, kind: &'static str, pointer: &'static str) -> Case {
    case(MESSAGES, message_with("bob@sink.test", changes).to_string(), 422, kind, pointer)
}

fn raw(octets: &[u8], to: Value, pointer: &'static str) -> Case {
    let body = json!({"envelope": {"to": to}, "raw": STANDARD.encode(octets)});
    case(RAW, body.to_string(), 422, "invalid_request", pointer)
}

fn cases() -> Vec<Case> {
    let many: Vec<_> = (0..10_000).map(|number| format!("r{number}@sink.test")).collect();
    let good_raw = b"From: ann@acme.example\r\n\r\nHi\r\n";
    vec![
        case(MESSAGES, "{\"from\": ", 400, "malformed_json", ""),
        case(MESSAGES, "", 400, "malformed_json", ""),
        case(MESSAGES, "[".repeat(50_000), 400, "malformed_json", ""),
        case(MESSAGES, b"{\"subject\": \"\xff\xfe\"}".to_vec(), 400, "invalid_utf8", ""),
        case(MESSAGES, "[]", 422, "invalid_request", ""),
        case(MESSAGES, "{}", 422, "invalid_request", "/from"),
        case(MESSAGES, vec![b' '; 1_100_000], 413, "body_too_large", ""),
        Case {
            headers: vec![("content-type", "text/plain")],
            ..case(MESSAGES, "{}", 415, "unsupported_media_type", "")
        },
        Case {
            headers: vec![("idempotency-key", "a b")],
            ..case(MESSAGES, "{}", 400, "invalid_idempotency_key", "")
        },
        field(json!({"sbuject": "x"}), "/sbuject"),
        field(json!({"from": {"email": "ann@acme.example", "nmae": "Ann"}}), "/from/nmae"),
        field(json!({"to": ["bob@sink.test", "not an address"]}), "/to/1"),
        field(json!({"to": ["bob@sink..test"]}), "/to/0"),
        field(json!({"to": ["bob@sink.test\r\nRCPT TO:<eve@sink.test>"]}), "/to/0"),
        field(json!({"to": []}), "/to"),
        field(json!({"subject": "Hi\r\nBcc: eve@sink.test"}), "/subject"),
        field(json!({"subject": "Hi\nBcc: eve@sink.test"}), "/subject"),
        field(json!({"subject": "Hi\0"}), "/subject"),
        field(json!({"from": "Ann\r\nBcc: eve@sink.test <ann@acme.example>"}), "/from"),
        field(json!({"reply_to": "help@acme.example\r\nBcc: eve@sink.test"}), "/reply_to"),
        field(json!({"headers": {"X-A": "1\r\nBcc: eve@sink.test"}}), "/headers/X-A"),
        field(json!({"headers": {"X-A": "1\0"}}), "/headers/X-A"),
        field(json!({"headers": {"X-A:\r\nBcc": "eve@sink.test"}}), "/headers/X-A:\r\nBcc"),
        field(json!({"headers": {"DKIM-Signature": "v=1"}}), "/headers/DKIM-Signature"),
        field(json!({"text": "NUL \0 inside"}), "/text"),
        field(
            json!({"attachments": [{"filename": "a", "content": "not base64!"}]}),
            "/attachments/0/content",
        ),
        field(json!({"attachments": [{"filename": "a\r\nX: y", "content": ""}]}), "/attachments/0/filename"),
        field(json!({"stream": "spam"}), "/stream"),
        field(json!({"send_at": "tomorrow"}), "/send_at"),
        limit(json!({"from": "ann@other.example"}), "domain_not_owned", "/from"),
        limit(json!({"to": many}), "too_many_recipients", "/to"),
        limit(
            json!({"attachments": [{"filename": "a", "content": STANDARD.encode(vec![0; 200_000])}]}),
            "attachments_too_large",
            "/attachments",
        ),
        limit(json!({"headers": {"X-A": "x ".repeat(40_000)}}), "headers_too_large", "/headers"),
        case(
            BATCH,
            json!({"messages": [message("a@sink.test"), {"to": "x"}]}).to_string(),
            422,
            "invalid_request",
            "/messages/1/from",
        ),
        case(BATCH, json!({"messages": []}).to_string(), 422, "invalid_request", "/messages"),
        raw(b"no header at all\r\n\r\nHi", json!(["bob@sink.test"]), "/raw"),
        raw(b"\r\nHi", json!(["bob@sink.test"]), "/raw"),
        raw(b"Subject: no sender\r\n\r\nHi", json!(["bob@sink.test"]), "/raw"),
        raw(good_raw, json!(["bob"]), "/envelope/to/0"),
        raw(good_raw, json!([]), "/envelope/to"),
        case(
            RAW,
            json!({"envelope": {"to": ["b@sink.test"]}, "raw": "%%%"}).to_string(),
            422,
            "invalid_request",
            "/raw",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_input_is_refused_with_its_field_and_leaves_nothing_but_a_rejection() {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("limits.body_bytes", 1_000_000)
        .set("limits.attachment_bytes", 100_000);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let mut refused = 0;
    for case in cases() {
        let shown: String = String::from_utf8_lossy(&case.body).chars().take(120).collect();
        let answer = server.http.post(case.path, &key, &case.headers, case.body).await;
        let (status, kind, pointer) = answer.problem();
        assert_eq!(status, case.status, "{shown}: {}", answer.text());
        if kind != case.kind {
            // one fault alone may name the problem: then it is the field's own
            assert_eq!(case.kind, "invalid_request", "{shown}: {}", answer.text());
        }
        assert_eq!(pointer, case.pointer, "{shown}: {}", answer.text());
        refused += 1;
    }
    let answer = server.http.post("/v1/messages", &key, &[], message("bob@sink.test").to_string()).await;
    assert_eq!(answer.status, 202, "the server is well: {}", answer.text());
    server.stop().await;
    let counts = home.events_by_type();
    let kinds: Vec<_> = counts.keys().map(String::as_str).filter(|kind| *kind != "deferred").collect();
    assert_eq!(kinds, ["accepted", "rejected"]);
    assert_eq!(counts["accepted"], 1);
    assert!(counts["rejected"] >= refused, "{counts:?}, but {refused} requests were refused");
    let queued: Value = serde_json::from_str(&home.ok(&["queue", "ls", "--format", "json"])).unwrap();
    assert_eq!(queued.as_array().unwrap().len(), 1, "{queued}");
    assert_eq!(queued[0]["recipient"], "bob@sink.test");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_under_the_same_key_has_the_same_answer_and_another_request_409() {
    let home = Home::new().route("sink.test", format!("127.0.0.1:{}", free_port()));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let headers = [("idempotency-key", "order-18")];
    let body = message("bob@sink.test").to_string();
    let first = server.http.post(MESSAGES, &key, &headers, body.clone()).await;
    assert_eq!(first.status, 202);
    server.kill();
    let server = home.start().await;
    let again = server.http.post(MESSAGES, &key, &headers, body).await;
    assert_eq!((first.status, &first.body), (again.status, &again.body), "even after kill -9");
    let other = server.http.post(MESSAGES, &key, &headers, message("eve@sink.test").to_string()).await;
    assert_eq!(other.problem(), (409, "idempotency_key_reused".into(), String::new()));
    server.stop().await;
    assert_eq!(home.events_by_type()["accepted"], 1);
}
