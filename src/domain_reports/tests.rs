//! Reports on their way into the lake of a real node.

use serde_json::json;

use super::*;
use crate::config::Config;
use crate::hear::Addressee;
use crate::node::Node;
use crate::system;

mod figures;

struct Fixture {
    dir: tempfile::TempDir,
    node: Node,
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

/// A report of yesterday about one domain.
fn report(node: &Node, id: &str, policy: &str, from: &str) -> Vec<u8> {
    let begin = (node.ids.now().days() - 1) as i64 * 86_400;
    format!(
        "<feedback><report_metadata><org_name>Receiver</org_name><report_id>{id}</report_id><date_range><begin>{begin}</begin>\
         <end>{}</end></date_range></report_metadata><policy_published><domain>{policy}</domain><p>none</p>\
         </policy_published><record><row><source_ip>192.0.2.1</source_ip><count>3</count></row><identifiers>\
         <header_from>{from}</header_from></identifiers></record></feedback>",
        begin + 86_399
    )
    .into_bytes()
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.dir = dir.path().join("data");
        let node = Node::open(config, system::ids()).await.unwrap();
        for name in ["acme", "bolt"] {
            node.control.create_tenant("cli", &tenant(name), name).await.unwrap();
            node.control
                .add_domain("cli", &tenant(name), &format!("{name}.example"), Default::default())
                .await
                .unwrap();
        }
        node.hearing.reports.identities.refresh(&node.control).await.unwrap();
        Self { dir, node }
    }

    fn address(&self, address: &str) -> Addressee {
        self.node.hearing.addressee(address).unwrap()
    }

    async fn mailed(&self, to: &str, data: Vec<u8>) -> Heard {
        self.node.hearing.take(&[self.address(to)], data).await.unwrap().remove(0)
    }

    async fn rows(&self, scope: &str) -> Vec<String> {
        use sendlake_query::{Scope, output};
        let scope = if scope == "*" { Scope::AllTenants } else { Scope::Tenant(tenant(scope)) };
        let sql = "SELECT tenant_id || ' ' || header_from || ' ' || report_id AS told FROM dmarc_records ORDER BY 1";
        let output = self.node.engine.query(&scope, sql, self.node.engine.limits().query).await.unwrap();
        let text = output::to_bytes(&output, output::Format::Csv).unwrap();
        String::from_utf8(text).unwrap().lines().skip(1).map(|line| line.trim().to_owned()).collect()
    }

    fn quarantined(&self) -> Vec<(String, serde_json::Value)> {
        let rows = self.node.spool.reader().events(0, 100).unwrap().into_iter().map(|row| row.event);
        let rows = rows.filter(|event| event.event_type == EventType::ReportQuarantined);
        rows.map(|event| (event.tenant_id.to_string(), serde_json::from_str(&event.detail.unwrap()).unwrap()))
            .collect()
    }

    fn files(&self, folder: &str) -> usize {
        std::fs::read_dir(self.dir.path().join("data").join(folder)).map_or(0, Iterator::count)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_is_on_the_disk_before_its_answer_and_in_the_lake_once() {
    let it = Fixture::new().await;
    let data = report(&it.node, "r1", "acme.example", "news.acme.example");
    let heard = it.mailed("dmarc@bounces.acme.example", data.clone()).await;
    assert_eq!((heard.outcome, heard.detail.as_str()), ("recorded", "Receiver on acme.example"));
    assert_eq!(it.files("reports/incoming"), 1);
    assert!(it.rows("*").await.is_empty(), "the lake is not waited for");
    it.node.hearing.reports.drain().await.unwrap();
    assert_eq!(it.rows("acme").await, ["acme news.acme.example r1"]);
    assert!(it.rows("bolt").await.is_empty());
    assert_eq!(it.files("reports/incoming"), 0);

    it.mailed("dmarc@bounces.acme.example", data.clone()).await;
    it.node.hearing.reports.drain().await.unwrap();
    let from_file = it.node.hearing.take_file(data).await.unwrap().remove(0);
    assert_eq!(from_file.outcome, "repeat", "{from_file:?}");
    assert_eq!(it.rows("*").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_puts_rows_under_another_tenants_domain() {
    let it = Fixture::new().await;
    it.mailed("dmarc@bounces.acme.example", report(&it.node, "r1", "bolt.example", "bolt.example")).await;
    it.mailed("dmarc@bounces.bolt.example", report(&it.node, "r2", "bolt.example", "bolt.example")).await;
    it.mailed("dmarc@bounces.acme.example", report(&it.node, "r3", "acme.example", "bolt.example")).await;
    it.mailed("dmarc@bounces.acme.example", report(&it.node, "r4", "else.example", "else.example")).await;
    it.node.hearing.reports.drain().await.unwrap();
    assert_eq!(it.rows("bolt").await, ["bolt bolt.example r2"]);
    assert!(it.rows("acme").await.is_empty());
    assert_eq!(it.rows("platform").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_lies_aside_with_its_reason() {
    let it = Fixture::new().await;
    let heard = it.mailed("tlsrpt@bounces.acme.example", b"<feedback><x>".to_vec()).await;
    assert_eq!(heard.outcome, "quarantined");
    assert_eq!((it.files("reports/incoming"), it.files("quarantine")), (0, 2));
    let letter = b"From: Ann <ann@customer.example>\r\nSubject: hello\r\n\r\nMay I ask?\r\n".to_vec();
    let heard = it.mailed("dmarc@bounces.acme.example", letter).await;
    assert_eq!(heard.outcome, "refused", "letters are not kept");
    let heard = it.node.hearing.take_file(b"<feedback><x>".to_vec()).await.unwrap().remove(0);
    assert_eq!(heard.outcome, "refused");
    assert!(heard.detail.contains("ends before its last element"), "{heard:?}");
    let told: Vec<_> = it.quarantined();
    let [(acme, first), (platform, second)] = &told[..] else { panic!("{told:?}") };
    assert_eq!((acme.as_str(), platform.as_str()), ("acme", "platform"), "whose address it came to");
    for detail in [first, second] {
        assert_eq!((&detail["kind"], &detail["bytes"]), (&json!("domain_report"), &json!(13)));
        assert!(detail["reason"].as_str().unwrap().contains("ends before its last element"), "{detail}");
        let file = it.dir.path().join("data/quarantine").join(detail["file"].as_str().unwrap());
        assert_eq!(std::fs::read(file).unwrap(), b"<feedback><x>");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_at_other_mailboxes_are_read_and_complaints_are_left_alone() {
    let it = Fixture::new().await;
    let heard = it
        .mailed("postmaster@bounces.acme.example", report(&it.node, "r1", "acme.example", "acme.example"))
        .await;
    assert_eq!(heard.outcome, "recorded");
    let arf = |kind: &str| {
        format!(
            "From: a@receiver.example\r\nMessage-ID: <1@receiver.example>\r\nDate: Mon, 5 Jan 2026 10:00:00 +0000\r\n\
             MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n--b\r\n\
             Content-Type: message/feedback-report\r\n\r\nFeedback-Type: {kind}\r\nReported-Domain: acme.example\r\n\
             Source-IP: 192.0.2.1\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nFrom: x@acme.example\r\n\
             Content-Type: text/xml\r\n\r\n<feedback/>\r\n--b--\r\n"
        )
        .into_bytes()
    };
    let heard = it.mailed("fbl@bounces.acme.example", arf("abuse")).await;
    assert_eq!(heard.outcome, "unattributed", "a complaint stays one: {heard:?}");
    let heard = it.mailed("fbl@bounces.acme.example", arf("auth-failure")).await;
    assert_eq!(heard.outcome, "recorded");
    it.node.hearing.reports.drain().await.unwrap();
    assert_eq!(it.rows("acme").await, ["acme acme.example 1@receiver.example", "acme acme.example r1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_lake_reports_wait_and_come_when_it_is_back() {
    let it = Fixture::new().await;
    let (lake, away) = (it.dir.path().join("data/lake"), it.dir.path().join("away"));
    std::fs::rename(&lake, &away).unwrap();
    std::fs::write(&lake, b"no folder").unwrap();
    let data = report(&it.node, "r1", "acme.example", "acme.example");
    assert_eq!(it.mailed("dmarc@bounces.acme.example", data.clone()).await.outcome, "recorded");
    assert!(it.node.hearing.reports.drain().await.is_err());
    let told = it.node.hearing.take_file(data).await.unwrap().remove(0);
    assert!(told.detail.contains("waits for the lake"), "{told:?}");
    assert!(it.files("reports/incoming") > 0);
    std::fs::remove_file(&lake).unwrap();
    std::fs::rename(&away, &lake).unwrap();
    it.node.hearing.reports.drain().await.unwrap();
    assert_eq!(it.rows("acme").await, ["acme acme.example r1"]);
    assert_eq!(it.files("reports/incoming"), 0);
}
