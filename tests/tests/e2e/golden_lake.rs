//! A lake of each released schema version lies in `tests/golden-lake/v<n>/`, written by the build of its time. This
//! build must open it, answer from it with every view what that build answered, and write on.
//!
//! `make golden-lake VERSION=n` makes the next one; `UPDATE_GOLDEN=1` rewrites the answers after a view has changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sendlake_ingest::event::{EVENTS_SCHEMA, EventType, LoggedEvent, SCHEMA_VERSION};
use sendlake_ingest::quotas::QuotasTable;
use sendlake_ingest::store::open_store;
use sendlake_ingest::table::EventsTable;
use sendlake_tests::home::Home;
use sendlake_tests::peers::{Python, free_port};
use serde_json::{Map, Value, json};

use crate::message_with;

/// What the judging views are asked as of.
const AS_OF: &str = "2026-01-20T00:00:00Z";
/// 2026-01-10T12:00:00Z in microseconds.
const START: i64 = 1_768_046_400_000_000;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden-lake")
}

#[test]
fn this_schema_version_has_a_golden_lake() {
    let path = folder().join(format!("v{SCHEMA_VERSION}"));
    assert!(
        path.is_dir(),
        "{} is missing: `make golden-lake VERSION={SCHEMA_VERSION}` makes it",
        path.display()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lake_of_every_version_is_read_and_written_on() {
    make_if_asked().await;
    let mut versions: Vec<_> =
        std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    versions.sort();
    assert!(!versions.is_empty());
    for golden in versions {
        let home = home_with(&golden);
        let server = home.start().await;
        let quotas = home.ok(&["quota", "ls", "--format", "json"]);
        assert!(quotas.contains("golden: as warmed up"), "{}: {quotas}", golden.display());
        let before = answers(&home);
        compare(&golden, &before);
        let key = home.tenant("newcomer", "new.example");
        server.http.ready(&key, "new.example").await;
        server.http.send(&key, &message_with("bob@sink.test", json!({"from": "ann@new.example"}))).await;
        server.stop().await;
        assert!(
            home.count("SELECT count(*) FROM events WHERE tenant_id = 'newcomer'") > 0,
            "and it is written on"
        );
        let still = asked(&home, "SELECT * FROM events WHERE tenant_id <> 'newcomer'");
        assert_eq!(still, before["events"], "{}", golden.display());
        if let Some(python) = Python::with(&["deltalake", "duckdb"]) {
            let theirs = python.ask("read_lake.py", &[home.data().join("lake/events").to_str().unwrap()]);
            assert_eq!(theirs["deltalake"], json!(home.events_by_type()), "{}", golden.display());
        }
    }
}

/// A data folder with a copy of a golden lake.
fn home_with(golden: &Path) -> Home {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("policy.publish_interval_s", 0);
    for table in ["events", "quotas"] {
        copy(&golden.join(table), &home.data().join("lake").join(table));
    }
    home
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, to) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() { copy(&path, &to) } else { std::fs::copy(path, to).map(drop).unwrap() }
    }
}

/// What every table and view says, rows in an order of their own, nulls left out.
fn answers(home: &Home) -> Answers {
    let tables = home.sql("SHOW TABLES");
    let mut names: Vec<&str> = tables.iter().filter_map(|row| row["table_name"].as_str()).collect();
    let schemas = |name: &str| {
        tables.iter().any(|row| row["table_name"] == name && row["table_schema"] == "information_schema")
    };
    names.retain(|name| !schemas(name) && !["as_of", "domains", "published_quotas"].contains(name));
    assert!(names.len() >= 9, "{tables:?}");
    names.into_iter().map(|name| (name.to_owned(), asked(home, &format!("SELECT * FROM {name}")))).collect()
}

type Answers = BTreeMap<String, Vec<Value>>;

fn asked(home: &Home, query: &str) -> Vec<Value> {
    let printed = home.ok(&["sql", "--as-of", AS_OF, "--format", "json", query]);
    let printed: Value = serde_json::from_str(&printed).unwrap();
    let told = |row: &Value| {
        let row = row.as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
        Value::Object(row.map(|(name, value)| (name.clone(), value.clone())).collect())
    };
    let mut rows: Vec<Value> = printed["rows"].as_array().unwrap().iter().map(told).collect();
    rows.sort_by_key(ToString::to_string);
    rows
}

/// Views that came later have no answer yet, and columns that came later are null in these rows.
fn compare(golden: &Path, answers: &Answers) {
    let path = golden.join("answers.jsonl");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        write(&path, answers);
    }
    for line in std::fs::read_to_string(&path).unwrap().lines() {
        let (name, expected) = line.split_once('\t').unwrap();
        let expected: Vec<Value> = serde_json::from_str(expected).unwrap();
        assert_eq!(answers[name], expected, "{}: {name}", golden.display());
    }
}

fn write(path: &Path, answers: &Answers) {
    let lines = answers.iter().map(|(name, rows)| format!("{name}\t{}\n", json!(rows)));
    std::fs::write(path, lines.collect::<String>()).unwrap();
}

/// `SENDLAKE_GOLDEN_LAKE=n`: writes the golden lake of version n, which must be this build's and not be there yet.
async fn make_if_asked() {
    let Ok(version) = std::env::var("SENDLAKE_GOLDEN_LAKE") else { return };
    let golden = folder().join(format!("v{version}"));
    assert_eq!(version, SCHEMA_VERSION.to_string(), "this build writes another version");
    assert!(!golden.exists(), "{} is there: a released version's lake is never made anew", golden.display());
    std::fs::create_dir_all(&golden).unwrap();
    let store = open_store(golden.to_str().unwrap(), &Default::default()).unwrap();
    let events = EventsTable::open(&store).await.unwrap();
    for (spool, node) in [(1, "golden-1"), (2, "golden-2")] {
        let rows = rows(spool, node);
        let (first, second) = rows.split_at(rows.len() / 2);
        for part in [first, second] {
            events.append(rows[0].incarnation, part.to_vec()).await.unwrap();
        }
    }
    let quota = |tenant: &str, limit: Value| {
        serde_json::from_value(json!({
            "tenant_id": tenant, "stream": "marketing", "identity_kind": "sending_domain", "identity": "acme.example",
            "provider": "google", "window_s": 86_400, "limit_messages": limit, "state": "normal",
            "reason": "golden: as warmed up", "inputs": "{}", "view_version": "quotas 1", "as_of": START,
            "valid_until": START + 4_000_000_000_000_000_i64,
        }))
        .unwrap()
    };
    let quotas = QuotasTable::open(&store).await.unwrap();
    quotas.publish(&[quota("acme", json!(500)), quota("globex", Value::Null)]).await.unwrap();
    // The first entry of a log names the folder where the table was made; nobody reads that.
    for table in ["events", "quotas"] {
        let entry = golden.join(table).join("_delta_log/00000000000000000000.json");
        let said = std::fs::read_to_string(&entry).unwrap();
        std::fs::write(&entry, said.replace(store.url.as_str(), "file:///golden-lake/")).unwrap();
    }
    let home = home_with(&golden);
    home.start().await.stop().await;
    write(&golden.join("answers.jsonl"), &answers(&home));
}

/// Thirty-odd events of one node: six messages with different ends, then one event of every type.
fn rows(spool: u32, node: &str) -> Vec<LoggedEvent> {
    let tenant = if spool == 1 { "acme" } else { "globex" };
    let ends = ["delivered", "bounced", "deferred", "held", "expired", "delivered"];
    let mut found: Vec<Value> = Vec::new();
    let mut add = |message: Option<usize>, kind: &str, more: Value| {
        let at = START + i64::try_from(found.len()).unwrap() * 1_800_000_000;
        let mut event = json!({
            "event_id": id(spool, 1_000 + found.len()), "event_type": kind, "occurred_at": at,
            "recorded_at": at + 1_500_000, "tenant_id": tenant, "header_from_domain": "acme.example",
        });
        if let Some(message) = message {
            let domain = ["gmail.test", "yahoo.test"][message % 2];
            let about = json!({
                "message_id": id(spool, message), "submission_id": id(spool, 100 + message),
                "stream": (["transactional", "marketing"][message % 2]), "campaign_id": "spring", "seq": found.len(),
                "recipient": format!("person{message}@{domain}"), "recipient_domain": domain,
                "provider": (["google", "yahoo"][message % 2]), "tags": {"plan": "pro", "number": message.to_string()},
            });
            event.as_object_mut().unwrap().extend(about.as_object().unwrap().clone());
        }
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        found.push(event);
    };
    for (message, end) in ends.iter().enumerate() {
        add(Some(message), "accepted", json!({"size_bytes": 2_000 + message}));
        let reply = match *end {
            "delivered" => {
                json!({"attempt": 1, "reply_code": 250, "reply_text": "2.0.0 OK", "attempt_ms": 120})
            }
            "bounced" => {
                json!({"attempt": 1, "reply_code": 550, "enhanced_status": "5.1.1", "reply_text": "no such user",
                "bounce_category": "invalid_recipient", "bounce_class": "hard", "bounce_rule": "golden"})
            }
            "deferred" => json!({"attempt": 1, "reply_code": 421, "reply_text": "later"}),
            _ => json!({"hold_reason": "golden", "policy_id": "golden"}),
        };
        add(Some(message), end, reply);
    }
    for kind in EventType::ALL {
        let (mut more, message) = (Map::new(), Some(0));
        if kind.as_str() == "identity_changed" {
            more = every_column();
        }
        add(message.filter(|_| kind.as_str() == "complained"), kind.as_str(), Value::Object(more));
    }
    let logged = |(index, event): (usize, Value)| LoggedEvent {
        incarnation: serde_json::from_value(json!(id(spool, 9_000))).unwrap(),
        node_id: Arc::from(node),
        lsn: index as u64 + 1,
        event: serde_json::from_value(event).unwrap(),
    };
    found.into_iter().enumerate().map(logged).collect()
}

/// A value for each column that may be null.
fn every_column() -> Map<String, Value> {
    let value = |kind: &str, name: &str| match kind {
        "Utf8" => json!(format!("golden {name}")),
        "Boolean" => json!(true),
        kind if kind.starts_with("Timestamp") => json!(START),
        _ => json!(42),
    };
    let columns = EVENTS_SCHEMA.fields().iter().filter(|field| field.is_nullable() && field.name() != "tags");
    columns.map(|field| (field.name().clone(), value(&field.data_type().to_string(), field.name()))).collect()
}

fn id(spool: u32, number: usize) -> String {
    format!("019ba4b2-0000-7000-8{spool:03}-{number:012}")
}
