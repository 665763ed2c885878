//! Reports posted to a node's public routes.

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request as HttpRequest;
use http_body_util::BodyExt;
use sendlake_control::id::TenantId;
use sendlake_query::{Scope, output};
use tower::ServiceExt;

use super::*;
use crate::config::Config;
use crate::node::{Node, Roles};
use crate::system;

const TLS: &str = r#"{"organization-name":"Sender","date-range":{"start-datetime":"2026-01-05T00:00:00Z",
"end-datetime":"2026-01-05T23:59:59Z"},"report-id":"t-1","policies":[{"policy":{"policy-type":"sts",
"policy-domain":"acme.example"},"summary":{"total-successful-session-count":40,"total-failure-session-count":2},
"failure-details":[{"result-type":"certificate-expired","failed-session-count":2}]}]}"#;

struct Fixture {
    dir: tempfile::TempDir,
    node: Node,
    routes: Router,
}

impl Fixture {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.dir = dir.path().join("data");
        change(&mut config);
        let node = Node::open(config, system::ids()).await.unwrap();
        for name in ["acme", "bolt"] {
            let tenant = TenantId::new(name).unwrap();
            node.control.create_tenant("cli", &tenant, name).await.unwrap();
            let domain = format!("{name}.example");
            node.control.add_domain("cli", &tenant, &domain, Default::default()).await.unwrap();
        }
        node.identities.refresh(&node.control).await.unwrap();
        let routes = node.public_routes(node.api(), Roles::ALL);
        Self { dir, node, routes }
    }

    async fn posted(&self, domain: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let mut request = HttpRequest::post(format!("/tlsrpt/v1/{domain}"))
            .header("content-type", kind)
            .body(Body::from(body.to_vec()))
            .unwrap();
        let peer: std::net::SocketAddr = "203.0.113.5:4000".parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        let response = self.routes.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    async fn rows(&self) -> String {
        self.node.hearing.reports.drain().await.unwrap();
        let sql = "SELECT tenant_id, policy_domain, total_failed_sessions FROM tls_report_records \
                   WHERE report_type = 'summary' ORDER BY 1";
        let answer = self.node.engine.query(&Scope::AllTenants, sql, self.node.engine.limits().query).await;
        let csv = output::to_bytes(&answer.unwrap(), output::Format::Csv).unwrap();
        String::from_utf8(csv).unwrap().lines().skip(1).collect::<Vec<_>>().join(";")
    }

    fn files(&self, folder: &str) -> usize {
        std::fs::read_dir(self.dir.path().join("data").join(folder)).map_or(0, Iterator::count)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_posted_report_is_kept_once_for_its_domains_owner() {
    let it = Fixture::new(|_| {}).await;
    let (status, said) = it.posted("acme.example", "application/tlsrpt+json", TLS.as_bytes()).await;
    assert_eq!((status, it.files("reports/incoming")), (201, 1), "{said}");
    assert!(said.contains("Sender on TLS of acme.example"), "{said}");
    let again = it.posted("Acme.Example", "application/tlsrpt+json; charset=utf-8", TLS.as_bytes()).await;
    assert_eq!(again.0, 201, "{again:?}");
    assert_eq!(it.rows().await, "acme,acme.example,2");
    let about_another = TLS.replace("acme.example", "bolt.example");
    assert_eq!(it.posted("acme.example", "application/json", about_another.as_bytes()).await.0, 201);
    assert_eq!(it.rows().await, "acme,acme.example,2;platform,bolt.example,2", "not under bolt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_report_is_refused_or_put_aside() {
    let it = Fixture::new(|config| config.inbound.message_bytes_max = 2_000).await;
    for (domain, kind, body, status, words) in [
        ("else.example", "application/tlsrpt+gzip", TLS.to_owned(), 404, "no tenant"),
        ("not%20a%20name", "application/tlsrpt+gzip", TLS.to_owned(), 404, "no tenant"),
        ("acme.example", "text/html", TLS.to_owned(), 415, "tlsrpt+gzip"),
        ("acme.example", "application/tlsrpt+gzip", " ".repeat(2_001), 413, "2000 bytes"),
        ("acme.example", "application/tlsrpt+gzip", "hello".to_owned(), 422, "no TLS report"),
    ] {
        let answer = it.posted(domain, kind, body.as_bytes()).await;
        assert!(answer.0 == status && answer.1.contains(words), "{domain} {kind}: {answer:?}");
    }
    assert_eq!((it.files("reports/incoming"), it.files("quarantine")), (0, 0));
    let (status, said) = it.posted("acme.example", "application/json", b"{\"policies\": 1}").await;
    assert!(status == 202 && said.contains("kept"), "{status} {said}");
    assert_eq!((it.files("reports/incoming"), it.files("quarantine")), (0, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_has_its_share_of_a_minute() {
    let it = Fixture::new(|config| config.inbound.messages_per_client_per_min = 2).await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(it.posted("else.example", "application/json", b"").await.0);
    }
    assert_eq!(statuses, [404, 404, 429]);
}
