use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use parking_lot::Mutex;
use sendlake_control::clock::{ManualClock, SeededEntropy, Timestamp};
use sendlake_control::id::TenantId;
use serde_json::{Value, json};
use tower::ServiceExt;
use uuid::Uuid;

use super::ports::{Caller, IntakeRefusal, MessageHistory, PortUnavailable, Rejection};
use super::*;
use crate::submission::{Accepted, Submission};

/// Stands in for everything behind the ports, and remembers what it was given.
#[derive(Default)]
struct World {
    taken: Mutex<Vec<Submission>>,
    rejected: Mutex<Vec<Rejection>>,
    refuse: Mutex<Option<IntakeRefusal>>,
    keys_down: AtomicBool,
}

#[async_trait]
impl Intake for World {
    async fn accept(&self, submission: Submission) -> Result<Accepted, IntakeRefusal> {
        if let Some(refusal) = self.refuse.lock().clone() {
            return Err(refusal);
        }
        let mut taken = self.taken.lock();
        if let Some(key) = submission.idempotency {
            let earlier = taken.iter().find(|s| s.idempotency.is_some_and(|k| k.key_hash == key.key_hash));
            if let Some(earlier) = earlier {
                return Ok(if earlier.idempotency == Some(key) {
                    Accepted::Repeat {
                        submission_id: earlier.submission_id,
                        message_ids: earlier.recipients.iter().map(|message| message.message_id).collect(),
                    }
                } else {
                    Accepted::KeyReused
                });
            }
        }
        taken.push(submission);
        Ok(Accepted::New)
    }

    async fn reject(&self, rejection: Rejection) {
        self.rejected.lock().push(rejection);
    }
}

impl Senders for World {
    fn sending_domain(&self, tenant: &TenantId, domain: &str) -> bool {
        tenant.as_str() == "acme" && domain == "example.com"
    }
}

#[async_trait]
impl History for World {
    async fn message(
        &self,
        tenant: Option<&TenantId>,
        message_id: Uuid,
    ) -> Result<Option<MessageHistory>, PortUnavailable> {
        let taken = self.taken.lock();
        let found = taken.iter().find_map(|submission| {
            let of_tenant = tenant.is_none_or(|tenant| *tenant == submission.tenant_id);
            let message = submission.recipients.iter().find(|message| message.message_id == message_id);
            message.filter(|_| of_tenant).map(|message| (submission, message))
        });
        Ok(found.map(|(submission, message)| MessageHistory {
            message_id,
            submission_id: Some(submission.submission_id),
            tenant_id: submission.tenant_id.to_string(),
            recipient: Some(message.recipient.to_string()),
            stream: Some(submission.stream),
            outcome: "queued".to_owned(),
            events: vec![],
        }))
    }
}

#[async_trait]
impl Authenticator for World {
    async fn authenticate(&self, presented: &str) -> Result<Option<Caller>, PortUnavailable> {
        if self.keys_down.load(Ordering::Relaxed) {
            return Err(PortUnavailable("database is locked".to_owned()));
        }
        let caller = |tenant: Option<&str>, scopes: &[&str]| Caller {
            suspended: false,
            key_id: presented.to_owned(),
            tenant: tenant.map(|tenant| TenantId::new(tenant).unwrap()),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
        };
        Ok(match presented {
            "sl_acme" => Some(caller(Some("acme"), &["send", "read"])),
            "sl_other" => Some(caller(Some("other"), &["send", "read"])),
            "sl_read" => Some(caller(Some("acme"), &["read"])),
            "sl_all" => Some(caller(None, &["send", "read", "admin"])),
            _ => None,
        })
    }
}

struct Server {
    world: Arc<World>,
    router: Router,
}

fn server_with(limits: ApiLimits) -> Server {
    let world = Arc::new(World::default());
    let ids = Ids {
        clock: Arc::new(ManualClock::new(Timestamp::from_secs(1_795_348_800))),
        entropy: Arc::new(SeededEntropy::new(1)),
    };
    let api = Arc::new(Api::new(world.clone(), world.clone(), world.clone(), ids, limits));
    let router = serve_routes(message_routes(api), world.clone(), &openapi::openapi());
    Server { world, router }
}

fn server() -> Server {
    server_with(ApiLimits { recipients: 10, body_bytes: 100_000, ..ApiLimits::default() })
}

struct Answer {
    status: StatusCode,
    headers: axum::http::HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Status and code of a problem, after checking that it is one.
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        let kind = problem["type"].as_str().unwrap().strip_prefix("/problems/").unwrap();
        (self.status.as_u16(), kind.to_owned())
    }
}

impl Server {
    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body.into()).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    async fn post(&self, path: &str, extra: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut headers = vec![("authorization", "Bearer sl_acme"), ("content-type", "application/json")];
        for (name, value) in extra {
            headers.retain(|(other, _)| other != name);
            headers.push((name, value));
        }
        self.ask("POST", path, &headers, body).await
    }
}

fn good() -> Value {
    json!({
        "from": "ann@example.com", "to": ["bob@example.org", "eve@example.org"],
        "bcc": ["bob@example.org"], "subject": "Hi", "text": "Hello",
    })
}

#[tokio::test]
async fn accepted_message_has_an_id_per_recipient_and_a_history() {
    let server = server();
    let answer = server.post("/v1/messages", &[], good().to_string()).await;
    assert_eq!(answer.status, 202);
    let receipt = answer.json();
    let messages = receipt["messages"].as_array().unwrap();
    let recipients: Vec<_> = messages.iter().map(|message| message["recipient"].as_str().unwrap()).collect();
    assert_eq!(recipients, ["bob@example.org", "eve@example.org"]);
    {
        let taken = server.world.taken.lock();
        assert_eq!(receipt["submission_id"], taken[0].submission_id.to_string());
        assert_eq!(taken[0].header_from_domain, "example.com");
        assert_eq!(taken[0].tenant_id.as_str(), "acme");
        assert!(taken[0].subject_hash.is_some() && taken[0].content_fingerprint.is_some());
    }
    let path = format!("/v1/messages/{}", messages[1]["message_id"].as_str().unwrap());
    let history = server.ask("GET", &path, &[("authorization", "bearer sl_read")], "").await;
    assert_eq!((history.status.as_u16(), &history.json()["recipient"]), (200, &json!("eve@example.org")));
    let foreign = server.ask("GET", &path, &[("authorization", "Bearer sl_other")], "").await;
    assert_eq!(foreign.problem(), (404, "message_not_found".to_owned()));
    let any = server.ask("GET", &path, &[("authorization", "Bearer sl_all")], "").await;
    assert_eq!(any.status, 200);
}

#[tokio::test]
async fn refused_request_is_told_in_full_recorded_and_leaves_nothing() {
    let server = server();
    let body = json!({"from": "ann@example.net", "to": ["no"], "text": "x", "sbuject": "Hi"});
    let answer = server.post("/v1/messages", &[], body.to_string()).await;
    assert_eq!(
        answer.json(),
        json!({
            "type": "/problems/invalid_request",
            "title": "The request cannot be accepted as it is",
            "status": 422,
            "detail": "3 fields are at fault; see errors",
            "errors": [
                {
                    "pointer": "/sbuject", "code": "unknown_field",
                    "detail": "there is no field \"sbuject\" here; known are from, to, cc, bcc, reply_to, \
                               subject, text, html, headers, attachments, stream, campaign_id, tags, send_at, tracking",
                },
                {
                    "pointer": "/from", "code": "domain_not_owned",
                    "detail": "example.net is not a sending domain of this tenant; add it with: sendlake \
                               domain add --tenant NAME example.net",
                },
                {
                    "pointer": "/to/0", "code": "invalid_address",
                    "detail": "not one mailbox: an address needs exactly one local part and one domain, like \
                               name@example.com",
                },
            ],
        })
    );
    assert!(server.world.taken.lock().is_empty());
    let rejected = server.world.rejected.lock();
    assert_eq!((rejected[0].problem, rejected[0].code), ("invalid_request", "unknown_field"));
    assert_eq!((rejected[0].pointer.as_deref(), rejected[0].errors), (Some("/sbuject"), 3));
}

#[tokio::test]
async fn bad_bodies_have_their_own_problems() {
    // path, headers, body; status and code of the answer
    type Case<'a> = (&'a str, Vec<(&'a str, &'a str)>, Vec<u8>, u16, &'a str);
    let server = server();
    let many: Vec<_> = (0..10_000).map(|_| "b@c.de").collect();
    let cases: Vec<Case<'_>> = vec![
        ("/v1/messages", vec![], b"{\"to\": ".to_vec(), 400, "malformed_json"),
        ("/v1/messages", vec![], b"".to_vec(), 400, "malformed_json"),
        ("/v1/messages", vec![], b"{\"a\":\"\xff\xfe\"}".to_vec(), 400, "invalid_utf8"),
        ("/v1/messages", vec![], b"[]".to_vec(), 422, "invalid_request"),
        ("/v1/messages", vec![], vec![b' '; 100_001], 413, "body_too_large"),
        ("/v1/messages", vec![("content-type", "text/plain")], b"{}".to_vec(), 415, "unsupported_media_type"),
        ("/v1/messages", vec![("content-encoding", "gzip")], b"{}".to_vec(), 415, "unsupported_media_type"),
        (
            "/v1/messages",
            vec![("content-type", "application/json; charset=latin1")],
            b"{}".to_vec(),
            415,
            "unsupported_media_type",
        ),
        ("/v1/messages", vec![("idempotency-key", "a b")], b"{}".to_vec(), 400, "invalid_idempotency_key"),
        (
            "/v1/messages",
            vec![],
            json!({"from": "a@example.com", "to": many, "text": "x"}).to_string().into(),
            422,
            "too_many_recipients",
        ),
        ("/v1/messages/raw", vec![], b"{}".to_vec(), 422, "invalid_request"),
    ];
    for (path, headers, body, status, code) in cases {
        let shown = String::from_utf8_lossy(&body).chars().take(40).collect::<String>();
        let answer = server.post(path, &headers, body).await;
        assert_eq!(answer.problem(), (status, code.to_owned()), "{path} {headers:?} {shown}");
    }
    assert!(server.world.taken.lock().is_empty());
}

#[tokio::test]
async fn keys_scopes_and_tenants() {
    let server = server();
    let ask = async |authorization: &str, tenant: &str| {
        let headers = [("authorization", authorization), ("sendlake-tenant", tenant)];
        server.post("/v1/messages", &headers, good().to_string()).await
    };
    for bad in ["", "Bearer ", "Basic sl_acme", "Bearer sl_unknown"] {
        let answer = ask(bad, "acme").await;
        assert_eq!(answer.problem(), (401, "unauthenticated".to_owned()), "{bad}");
        assert!(answer.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer "));
    }
    let answer = ask("Bearer sl_read", "acme").await;
    assert_eq!(answer.problem(), (403, "missing_scope".to_owned()));
    assert!(answer.headers["www-authenticate"].to_str().unwrap().contains("scope=\"send\""));
    assert_eq!(ask("Bearer sl_acme", "other").await.problem(), (403, "tenant_mismatch".to_owned()));
    assert_eq!(ask("Bearer sl_all", "No Name").await.problem(), (400, "invalid_tenant".to_owned()));
    assert_eq!(ask("Bearer sl_other", "other").await.problem(), (422, "domain_not_owned".to_owned()));
    assert_eq!(ask("Bearer sl_all", "acme").await.status, 202);
    let unnamed = server.post("/v1/messages", &[("authorization", "Bearer sl_all")], "{}").await;
    assert_eq!(unnamed.problem(), (400, "tenant_required".to_owned()));
    server.world.keys_down.store(true, Ordering::Relaxed);
    let answer = ask("Bearer sl_acme", "acme").await;
    assert_eq!(answer.problem(), (503, "store_unavailable".to_owned()));
    assert!(!String::from_utf8_lossy(&answer.body).contains("database"), "internals stay in the log");
}

#[tokio::test]
async fn same_key_same_answer_other_request_409() {
    let server = server();
    let key = [("idempotency-key", "order-18")];
    let first = server.post("/v1/messages", &key, good().to_string()).await;
    let relaid = serde_json::to_string_pretty(&good()).unwrap();
    let again = server.post("/v1/messages", &key, relaid).await;
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!(server.world.taken.lock().len(), 1);
    let mut other = good();
    other["subject"] = json!("Bye");
    let answer = server.post("/v1/messages", &key, other.to_string()).await;
    assert_eq!(answer.problem(), (409, "idempotency_key_reused".to_owned()));
    let answer =
        server.post("/v1/messages/batch", &key, json!({"messages": [good(), good()]}).to_string()).await;
    assert_eq!(answer.problem(), (409, "idempotency_key_reused".to_owned()));
    assert_eq!(server.world.taken.lock().len(), 1);
}

#[tokio::test]
async fn batch_is_taken_whole_or_not_at_all_and_repeats_exactly() {
    let server = server();
    let mut bad = good();
    bad["to"] = json!(["x"]);
    let answer = server.post("/v1/messages/batch", &[], json!({"messages": [good(), bad]}).to_string()).await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.json()["errors"][0]["pointer"], "/messages/1/to/0");
    assert!(server.world.taken.lock().is_empty());

    let key = [("idempotency-key", "batch-1")];
    let body = json!({"messages": [good(), good(), good()]}).to_string();
    let first = server.post("/v1/messages/batch", &key, body.clone()).await;
    assert_eq!(first.status, 202);
    assert_eq!(first.json()["submissions"].as_array().unwrap().len(), 3);
    let again = server.post("/v1/messages/batch", &key, body).await;
    assert_eq!(first.body, again.body);
    assert_eq!(server.world.taken.lock().len(), 3);
    let longer = json!({"messages": [good(), good(), good(), good()]}).to_string();
    assert_eq!(server.post("/v1/messages/batch", &key, longer).await.status, 409);
    assert_eq!(server.world.taken.lock().len(), 3);
}

#[tokio::test]
async fn raw_message_comes_as_json_or_as_it_is() {
    let server = server();
    let raw = "From: Ann <ann@example.com>\nSubject: Hi\nBcc: eve@example.org\n\nHello\n";
    let body =
        json!({"envelope": {"to": ["bob@example.org"]}, "raw": data_encoding::BASE64.encode(raw.as_bytes())});
    assert_eq!(server.post("/v1/messages/raw", &[], body.to_string()).await.status, 202);
    let headers = [
        ("content-type", "message/rfc822"),
        ("sendlake-recipients", "bob@example.org, zoe@example.org"),
        ("sendlake-stream", "marketing"),
    ];
    let answer = server.post("/v1/messages/raw", &headers, raw).await;
    assert_eq!(answer.json()["messages"].as_array().unwrap().len(), 2);
    {
        let taken = server.world.taken.lock();
        assert_eq!(taken[0].content, taken[1].content);
        assert_eq!(taken[1].stream.as_str(), "marketing");
        assert_eq!(taken[0].content.body, b"Hello\r\n");
    }
    let answer = server.post("/v1/messages/raw", &[("content-type", "message/rfc822")], raw).await;
    assert_eq!(answer.json()["errors"][0]["pointer"], "/envelope/to");
}

#[tokio::test]
async fn a_store_that_takes_nothing_answers_503_with_retry_after() {
    let server = server();
    for (refusal, code) in [
        (IntakeRefusal::FreeSpaceLow, "free_space_low"),
        (IntakeRefusal::ShuttingDown, "shutting_down"),
        (IntakeRefusal::Store("redb: I/O error in spool.redb".to_owned()), "store_unavailable"),
    ] {
        *server.world.refuse.lock() = Some(refusal);
        let batch = json!({"messages": [good(), good()]});
        for (path, body) in [("/v1/messages", good()), ("/v1/messages/batch", batch)] {
            let answer = server.post(path, &[], body.to_string()).await;
            assert_eq!(answer.problem(), (503, code.to_owned()));
            assert_eq!(answer.headers["retry-after"], answer.json()["retry_after_s"].to_string().as_str());
            assert!(!String::from_utf8_lossy(&answer.body).contains("redb"), "internals stay in the log");
        }
    }
    assert!(server.world.rejected.lock().is_empty(), "our failure is not the client's rejection");
}

#[tokio::test]
async fn rates_and_sizes_have_their_own_problems() {
    let server = server_with(ApiLimits { messages_per_s: 1, messages_burst: 3, ..ApiLimits::default() });
    assert_eq!(server.post("/v1/messages", &[], good().to_string()).await.status, 202);
    let answer = server.post("/v1/messages", &[], good().to_string()).await;
    assert_eq!(answer.problem(), (429, "rate_limited".to_owned()));
    assert_eq!(answer.headers["retry-after"], "1");
    let server = server_with(ApiLimits { message_bytes: 100, ..ApiLimits::default() });
    let answer = server.post("/v1/messages/batch", &[], json!({"messages": [good()]}).to_string()).await;
    assert_eq!(answer.problem(), (422, "message_too_large".to_owned()));
    assert_eq!(answer.json()["errors"][0]["pointer"], "/messages/0");
}

#[tokio::test]
async fn paths_and_methods_that_do_not_exist_are_problems_too() {
    let server = server();
    assert_eq!(server.ask("GET", "/v2", &[], "").await.problem(), (404, "not_found".to_owned()));
    let answer = server.ask("DELETE", "/v1/messages", &[], "").await;
    assert_eq!(answer.problem(), (405, "method_not_allowed".to_owned()));
    assert_eq!(answer.headers["allow"], "POST");
    let auth = [("authorization", "Bearer sl_acme")];
    let answer = server.ask("GET", "/v1/messages/18", &auth, "").await;
    assert_eq!(answer.problem(), (404, "message_not_found".to_owned()));
}

#[tokio::test]
async fn public_pages_need_no_key_and_every_problem_has_one() {
    let server = server();
    assert_eq!(server.ask("GET", "/healthz", &[], "").await.json(), json!({"status": "ok"}));
    let description = server.ask("GET", "/openapi.json", &[], "").await.json();
    assert!(description["paths"]["/v1/messages"]["post"].is_object());
    for kind in Kind::ALL {
        let page = server.ask("GET", &format!("/problems/{}", kind.code()), &[], "").await;
        assert_eq!(page.status, 200, "{kind:?}");
    }
}
