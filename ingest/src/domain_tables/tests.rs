use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::Int64Type;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use tempfile::TempDir;

use super::*;
use crate::domain_report::Reading;
use crate::erase::forms::AddressForms;
use crate::erase::{Erase, Whose as Erased};
use crate::maintain::rewrite::RewriteSettings;
use crate::maintain::source::{Columns, DataFile};
use crate::table::EventsTable;
use crate::testing::{ids, lake};
use crate::verify::{Depth, Verify};

/// 2026-01-20.
const NOW: Timestamp = Timestamp(1_768_867_200_000_000);
const DAY: i64 = 86_400;

/// What `receiver.example` saw on a day: for each domain in From, messages.
fn aggregate(id: &str, begin: i64, seen: &[(&str, i64)]) -> String {
    let records: String = seen
        .iter()
        .map(|(from, count)| {
            format!(
                "<record><row><source_ip>192.0.2.1</source_ip><count>{count}</count><policy_evaluated>\
                 <disposition>none</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated></row><identifiers>\
                 <header_from>{from}</header_from></identifiers><auth_results><dkim><domain>x.example</domain>\
                 <result>fail</result></dkim><dkim><domain>{from}</domain><selector>s</selector><result>pass</result>\
                 </dkim></auth_results></record>"
            )
        })
        .collect();
    format!(
        "<feedback><report_metadata><org_name>Receiver</org_name><email>ann@receiver.example</email>\
         <report_id>{id}</report_id><date_range><begin>{begin}</begin><end>{}</end></date_range></report_metadata>\
         <policy_published><domain>acme.example</domain><p>none</p></policy_published>{records}</feedback>",
        begin + DAY - 1
    )
}

fn whose(domain: &str) -> Option<TenantId> {
    let is = |name: &str| domain == name || domain.ends_with(&format!(".{name}"));
    let name = if is("acme.example") { "acme" } else { return is("bolt.example").then(|| tenant("bolt")) };
    Some(tenant(name))
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

fn rows(text: &str) -> ReportRows {
    let reading = Reading::of(text.as_bytes());
    let [report] = reading.reports.as_slice() else { panic!("{reading:?}") };
    ReportRows::of(report, Some("receiver.example"), &whose, NOW).unwrap()
}

fn text<'a>(rows: &'a RecordBatch, name: &str) -> Vec<&'a str> {
    rows.column_by_name(name).unwrap().as_string::<i32>().iter().map(|it| it.unwrap_or("-")).collect()
}

fn numbers(rows: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    rows.column_by_name(name).unwrap().as_primitive::<Int64Type>().iter().collect()
}

async fn stored(table: &ReportTable) -> RecordBatch {
    let pinned = table.pin().await.unwrap();
    let files = table.files(&pinned).unwrap().iter().map(DataFile::of).collect();
    let schema = table.kind().schema();
    let batches = table.read(files, schema.clone(), Columns::All).await.unwrap();
    concat_batches(&schema, &batches).unwrap()
}

fn tables(dir: &TempDir) -> ReportTables {
    ReportTables::lazy(&lake(dir)).unwrap()
}

const BEGIN: i64 = 1_767_225_600;

#[test]
fn every_column_is_filled_by_its_name() {
    let made = rows(&aggregate("r1", BEGIN, &[("acme.example", 5)]));
    assert_eq!(made.rows.schema(), Kind::Dmarc.schema());
    assert_eq!(numbers(&made.rows, "messages"), [Some(5)]);
    assert_eq!(text(&made.rows, "dkim_domain"), ["acme.example"], "the signature that passed");
    assert_eq!(text(&made.rows, "org_contact"), ["ann@receiver.example"]);
    assert!(text(&made.rows, "auth_results")[0].contains("x.example"));
    assert_eq!(made.day, 20_454);
}

#[test]
fn a_row_is_its_domains_owners_and_else_the_installations() {
    let seen = [("acme.example", 1), ("news.acme.example", 2), ("bolt.example", 3), ("other.example", 4)];
    let made = rows(&aggregate("r1", BEGIN, &seen));
    // the policy was found at acme.example: what it says of bolt.example is nobody's
    assert_eq!(text(&made.rows, "tenant_id"), ["acme", "acme", "platform", "platform"]);
}

#[test]
fn who_reports_in_anothers_name_displaces_nobody() {
    let text = aggregate("r1", BEGIN, &[("acme.example", 1)]);
    let reading = Reading::of(text.as_bytes());
    let by = |submitter| ReportRows::of(&reading.reports[0], submitter, &whose, NOW).unwrap().key;
    assert_ne!(by(Some("attacker.example")), by(Some("receiver.example")));
    assert_eq!(by(None), by(Some("receiver.example")), "the file without its mail is the same report");
}

#[test]
fn the_same_report_has_the_same_key_in_any_dress() {
    let report = aggregate("r1", BEGIN, &[("acme.example", 1)]);
    let key = rows(&report).key;
    assert_eq!(rows(&report.replace("<feedback>", "<feedback xmlns='urn:x'>\n")).key, key);
    assert_eq!(
        rows(&report.replace("<count>1<", "<count>7<")).key,
        key,
        "a report is not changed by a later one"
    );
    assert_ne!(rows(&report.replace("r1", "r2")).key, key);
    assert_ne!(rows(&report.replace("Receiver", "Other")).key, key);
    assert_ne!(rows(&aggregate("r1", BEGIN + DAY, &[("acme.example", 1)])).key, key);
}

#[test]
fn reports_from_the_future_are_refused() {
    let reading = Reading::of(aggregate("r1", BEGIN + 60 * DAY, &[("acme.example", 1)]).as_bytes());
    let refused = ReportRows::of(&reading.reports[0], None, &whose, NOW).unwrap_err();
    assert!(refused.to_string().contains("begins in the future"), "{refused}");
}

#[tokio::test]
async fn a_report_is_there_once_whoever_brings_it_how_often() {
    let dir = TempDir::new().unwrap();
    let (here, there) = (tables(&dir), tables(&dir));
    let first = rows(&aggregate("r1", BEGIN, &[("acme.example", 5), ("news.acme.example", 2)]));
    let second = rows(&aggregate("r2", BEGIN, &[("acme.example", 1)]));
    let third = rows(&aggregate("r3", BEGIN + DAY, &[("acme.example", 1)]));
    assert_eq!(
        here.dmarc.append(&[first.clone(), first.clone(), third.clone()]).await.unwrap(),
        [true, false, true]
    );
    assert_eq!(there.dmarc.append(std::slice::from_ref(&first)).await.unwrap(), [false], "another node");
    assert_eq!(tables(&dir).dmarc.append(&[third, second]).await.unwrap(), [false, true], "after a crash");
    let rows = stored(&here.dmarc).await;
    assert_eq!(numbers(&rows, "messages").iter().flatten().sum::<i64>(), 9);
    assert_eq!(rows.num_rows(), 4);
}

#[tokio::test]
async fn many_at_once_add_each_report_once() {
    let dir = TempDir::new().unwrap();
    let store = Arc::new(lake(&dir));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let tables = ReportTables::lazy(&store).unwrap();
            let mut added = 0;
            for id in ["a", "b", "c"] {
                let report = rows(&aggregate(id, BEGIN, &[("acme.example", 1)]));
                added += usize::from(tables.dmarc.append(&[report]).await.unwrap()[0]);
            }
            added
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), 3);
    assert_eq!(stored(&tables(&dir).dmarc).await.num_rows(), 3);
}

const TLS: &str = r#"{"organization-name":"Sender","date-range":{"start-datetime":"2026-01-05T00:00:00Z",
    "end-datetime":"2026-01-05T23:59:59Z"},"report-id":"t-1","policies":[{"policy":{"policy-type":"sts",
    "policy-domain":"acme.example"},"summary":{"total-successful-session-count":40,"total-failure-session-count":3},
    "failure-details":[{"result-type":"certificate-expired","failed-session-count":2},
    {"result-type":"starttls-not-supported","failed-session-count":1}]},
    {"policy":{"policy-type":"tlsa","policy-domain":"bolt.example"},"summary":{"total-successful-session-count":7,
    "total-failure-session-count":0}}]}"#;

#[tokio::test]
async fn sums_of_a_tls_report_stand_beside_its_kinds_of_failure() {
    let dir = TempDir::new().unwrap();
    let tables = tables(&dir);
    assert_eq!(tables.tls.append(&[rows(TLS)]).await.unwrap(), [true]);
    assert_eq!(tables.tls.append(&[rows(TLS)]).await.unwrap(), [false]);
    let rows = stored(&tables.tls).await;
    assert_eq!(text(&rows, "tenant_id"), ["acme", "acme", "acme", "bolt"]);
    assert_eq!(text(&rows, "report_type"), ["summary", "failure", "failure", "summary"]);
    assert_eq!(numbers(&rows, "total_successful_sessions"), [Some(40), None, None, Some(7)]);
    assert_eq!(numbers(&rows, "failed_sessions"), [None, Some(2), Some(1), None]);
}

#[tokio::test]
async fn small_files_are_joined_and_old_days_go() {
    let dir = TempDir::new().unwrap();
    let tables = tables(&dir);
    for number in 0..10 {
        let report = aggregate(&format!("r{number}"), BEGIN, &[("acme.example", 1)]);
        tables.dmarc.append(&[rows(&report)]).await.unwrap();
    }
    tables.dmarc.append(&[rows(&aggregate("old", BEGIN - 90 * DAY, &[("acme.example", 1)]))]).await.unwrap();
    let done = tables.tidy(NOW, 0).await.unwrap();
    assert_eq!((done.files_joined, done.files_expired), (10, 0));
    assert_eq!(stored(&tables.dmarc).await.num_rows(), 11);
    let again = rows(&aggregate("r3", BEGIN, &[("acme.example", 1)]));
    assert_eq!(tables.dmarc.append(&[again]).await.unwrap(), [false], "found in the joined file");
    assert_eq!(tables.tidy(NOW, 30).await.unwrap().files_expired, 1);
    assert_eq!(stored(&tables.dmarc).await.num_rows(), 10);
}

#[tokio::test]
async fn verify_finds_nothing_and_erasure_leaves_no_address() {
    let dir = TempDir::new().unwrap();
    let (store, tables) = (lake(&dir), tables(&dir));
    let events = Arc::new(EventsTable::open(&store).await.unwrap());
    tables.dmarc.append(&[rows(&aggregate("r1", BEGIN, &[("acme.example", 5)]))]).await.unwrap();
    tables.tls.append(&[rows(TLS)]).await.unwrap();
    let verify = || async {
        let scratch = dir.path().join("scratch");
        let verify =
            Verify { store: store.clone(), outbox: None, depth: Depth::Whole, scratch, now: ids().now() };
        verify.run().await
    };
    let report = verify().await;
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.tables.len(), 3);

    let erase = Erase {
        store: store.clone(),
        events,
        whose: Erased::Recipient { forms: AddressForms::new("ann@receiver.example").unwrap(), tenant: None },
        settings: RewriteSettings {
            memory_bytes: 32 << 20,
            spill_dir: dir.path().join("sort"),
            target_file_bytes: 1 << 20,
        },
        ids: ids(),
        holder: "a test".into(),
    };
    let erased = erase.run().await.unwrap();
    assert_eq!(erased.tables.iter().map(|table| table.rows_redacted).sum::<u64>(), 1);
    let kept = stored(&tables.dmarc).await;
    assert_eq!(text(&kept, "org_contact"), ["[erased]"]);
    assert_eq!(numbers(&kept, "messages"), [Some(5)]);
    let report = verify().await;
    assert!(report.agrees(), "{:?}", report.findings);
    let again = rows(&aggregate("r1", BEGIN, &[("acme.example", 5)]));
    assert_eq!(
        tables.dmarc.append(&[again]).await.unwrap(),
        [false],
        "it does not come back with the next repeat"
    );
}

#[tokio::test]
async fn no_statistic_holds_what_a_reporter_wrote() {
    let dir = TempDir::new().unwrap();
    let tables = tables(&dir);
    tables.dmarc.append(&[rows(&aggregate("r1", BEGIN, &[("acme.example", 5)]))]).await.unwrap();
    let folder = dir.path().join("dmarc_records/_delta_log");
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        assert!(!text.contains("receiver.example"), "{text}");
    }
}
