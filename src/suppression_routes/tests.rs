//! What files and keys may do over HTTP.

use axum::http::Request;
use sendlake_sender::api::ports::Caller;
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::config::Config;
use crate::node::Node;
use crate::system;

struct Asked {
    _dir: tempfile::TempDir,
    node: Node,
    routes: Router,
}

impl Asked {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.dir = dir.path().join("data");
        let node = Node::open(config, system::ids()).await.unwrap();
        node.control.create_tenant("cli", &TenantId::new("acme").unwrap(), "Acme").await.unwrap();
        let routes = routes(node.hearing.clone(), node.control.clone());
        Self { _dir: dir, node, routes }
    }

    async fn ask(&self, method: &str, path: &str, tenant: Option<&str>, body: &str) -> (u16, Value) {
        let mut request =
            Request::builder().method(method).uri(path).body(Body::from(body.to_owned())).unwrap();
        request.extensions_mut().insert(Caller {
            key_id: "k".into(),
            tenant: tenant.map(|tenant| TenantId::new(tenant).unwrap()),
            suspended: false,
            scopes: ["send", "read"].map(str::to_owned).into(),
        });
        let answer = self.routes.clone().oneshot(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_file_reaches_its_own_mail_and_says_so() {
    let asked = Asked::new().await;
    let file = "address,reason,reach\nann@a.test,manual,global\nbob@a.test,legal,\ncarl@a.test,manual,bulk\n";
    let path = "/v1/suppressions/import?dry_run=";
    for (dry, status) in [("1", 200), ("true", 200), ("yes", 422), ("0", 200), ("false", 200)] {
        let (told, done) = asked.ask("POST", &format!("{path}{dry}"), Some("acme"), file).await;
        assert_eq!(told, status, "{dry}: {done}");
        if status == 200 {
            let sums = ["records", "bad", "narrowed", "known"].map(|name| done[name].as_u64().unwrap());
            assert_eq!(sums, [3, 1, 1, if dry == "false" { 2 } else { 0 }], "{dry}: {done}");
            assert!(done["errors"][0].as_str().unwrap().starts_with("line 2: reach global"), "{done}");
        }
    }
    let rows = asked.node.control.suppressions(&SuppressionFilter::default()).await.unwrap();
    let mut rows: Vec<_> = rows.into_iter().map(|row| (row.address.unwrap(), row.reach)).collect();
    rows.sort();
    assert_eq!(rows, [("bob@a.test".to_owned(), Reach::Tenant), ("carl@a.test".to_owned(), Reach::Bulk)]);
    let (status, told) =
        asked.ask("POST", path.trim_end_matches("?dry_run="), Some("acme"), "address\n").await;
    assert!(status == 422 && told["detail"].as_str().unwrap().contains("no record"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_the_installation_lifts_what_is_global() {
    let asked = Asked::new().await;
    let wanted = r#"{"address":"ann@a.test","reach":"global"}"#;
    assert_eq!(asked.ask("POST", "/v1/suppressions", Some("acme"), wanted).await.0, 403);
    assert_eq!(asked.ask("POST", "/v1/suppressions", None, wanted).await.0, 201);
    assert_eq!(asked.ask("DELETE", "/v1/suppressions/ann@a.test", Some("acme"), "").await.0, 404);
    let (status, told) = asked.ask("DELETE", "/v1/suppressions/ann@a.test", None, "").await;
    assert_eq!((status, &told["removed"]), (200, &json!(1)), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_mailbox_is_over_after_thirty_days() {
    let asked = Asked::new().await;
    let wanted = r#"{"address":"ann@a.test","reason":"full_mailbox"}"#;
    assert_eq!(asked.ask("POST", "/v1/suppressions", Some("acme"), wanted).await.0, 201);
    let file =
        "address,reason,since\nbob@a.test,full_mailbox,\ncarl@a.test,full_mailbox,2019-12-10T13:58:33Z\n";
    let (_, done) = asked.ask("POST", "/v1/suppressions/import", Some("acme"), file).await;
    assert_eq!((&done["added"], &done["skipped"]), (&json!(1), &json!(1)), "{done}");
    let rows = asked.node.control.suppressions(&SuppressionFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 2, "carl's was over in 2020");
    for row in rows {
        assert_eq!(row.expires_at, Some(row.since.plus_secs(30 * 86_400)), "{row:?}");
    }
}
