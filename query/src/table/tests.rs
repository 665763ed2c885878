//! The same promises over a real Delta table, whose columns come back with other types and whose files hold
//! several tenants.

mod pruning;

use std::sync::Arc;

use deltalake::{DeltaTable, ensure_table_uri};
use sendlake_ingest::event::to_batch;
use sendlake_ingest::read::Spilled;
use sendlake_ingest::spill::Spill;

use crate::engine::QueryEngine;
use crate::scope::Scope;
use crate::source::EventSnapshot;
use crate::testing::{batches, engine_over, events, limits, shown, tenant};

const LINES: &str = r#"
{"type":"accepted","at":"2026-01-31T23:59:59Z","tenant_id":"bolt","message_id":"b1","seq":1,"recipient":"secret@bolt.example","reply_code":0,"size_bytes":90000,"tags":{"k":"secret"}}
{"type":"delivered","at":"2026-02-01T00:00:01Z","tenant_id":"bolt","message_id":"b1","seq":2,"recipient":"secret@bolt.example","reply_code":0,"size_bytes":90000,"tls_verified":true}
{"type":"accepted","at":"2026-01-31T23:59:59Z","tenant_id":"acme","message_id":"a1","seq":1,"recipient":"17","reply_code":5,"size_bytes":10,"tags":{"plan":"pro"}}
{"type":"delivered","at":"2026-02-01T00:00:01Z","tenant_id":"acme","message_id":"a1","seq":2,"recipient":"17","reply_code":5,"size_bytes":20,"tls_verified":true}
{"type":"accepted","at":"2026-02-01T00:00:02Z","tenant_id":"bolt","message_id":"b2","seq":1,"recipient":"secret@bolt.example","reply_code":0,"size_bytes":-1}
{"type":"accepted","at":"2026-02-01T00:00:03Z","tenant_id":"acme","message_id":"a2","seq":1,"recipient":"18","reply_code":5,"size_bytes":30}
{"type":"accepted","at":"2026-02-01T00:00:04Z","tenant_id":"bolt","message_id":"b3","seq":1,"recipient":"secret@bolt.example","reply_code":0,"size_bytes":90000}
"#;

/// Three commits (one file with one tenant, the others mixed, two partitions), a spilled row (its file also holds one
/// that is committed) and a hot one.
async fn lake(folder: &tempfile::TempDir) -> QueryEngine {
    let rows = events(LINES);
    let url = ensure_table_uri(folder.path().to_str().unwrap()).unwrap();
    let mut table = DeltaTable::try_from_url(url).await.unwrap();
    for commit in [&rows[..2], &rows[2..4], &rows[4..5]] {
        table = table
            .write(vec![to_batch(commit).unwrap()])
            .with_partition_columns(["event_date"])
            .await
            .unwrap();
    }
    let cold = table.table_provider().build().await.unwrap();
    let version = table.version().map(|version| i64::try_from(version).unwrap());
    let spill = Spill::open(folder.path().join("spill")).unwrap();
    let files = vec![spill.write(&rows[4..6]).unwrap().unwrap()];
    let spilled = vec![Spilled { files, above_lsn: rows[4].lsn }];
    engine_over(EventSnapshot { cold: Arc::new(cold), hot: batches(&rows[6..]), spilled, version }, limits())
}

#[tokio::test]
async fn tenant_sees_its_rows_of_the_lake_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let engine = lake(&folder).await;
    for (sql, cell) in [
        ("SELECT count(*) FROM events", "| 3 "),
        ("SELECT max(size_bytes) FROM events", "| 30 "),
        ("SELECT min(size_bytes) FROM events", "| 10 "),
        ("SELECT sum(CAST(recipient AS INT)) FROM events WHERE CAST(recipient AS INT) > 0", "| 52 "),
        ("SELECT sum(100 / reply_code) FROM events", "| 60 "),
        ("SELECT size_bytes FROM events ORDER BY size_bytes DESC LIMIT 1", "| 30 "),
        ("SELECT count(*) FROM events e JOIN events f ON e.message_id = f.message_id", "| 5 "),
        ("SELECT count(*) FROM events WHERE message_id = 'a1'", "| 2 "),
        ("SELECT count(*) FROM events WHERE message_id IN ('a1', 'b1')", "| 2 "),
        ("SELECT count(*) FROM events WHERE message_id <> 'a1'", "| 1 "),
        ("SELECT count(*) FROM events WHERE message_id NOT IN ('a1', 'x')", "| 1 "),
        ("SELECT count(*) FROM events WHERE event_date = DATE '2026-02-01'", "| 2 "),
        ("SELECT count(*) FROM events WHERE event_date < DATE '2026-02-01'", "| 1 "),
        (
            "SELECT count(*) FROM events WHERE event_date BETWEEN DATE '2026-01-31' AND DATE '2026-02-01'",
            "| 3 ",
        ),
        ("SELECT count(*) FROM events WHERE occurred_at >= TIMESTAMP '2026-02-01T00:00:00Z'", "| 2 "),
        ("SELECT count(*) FROM events WHERE occurred_at >= '2026-02-01T00:00:00Z'", "| 2 "),
        ("SELECT count(*) FROM events WHERE size_bytes > 15", "| 2 "),
        ("SELECT count(*) FROM events WHERE reply_code = 5", "| 3 "),
        ("SELECT count(*) FROM events WHERE tls_verified", "| 1 "),
        ("SELECT count(*) FROM events WHERE tls_verified = true", "| 1 "),
        ("SELECT count(*) FROM events WHERE tls_verified IS NULL", "| 2 "),
        ("SELECT count(*) FROM events WHERE tags IS NOT NULL", "| 1 "),
        ("SELECT count(*) FROM events WHERE tenant_id = 'acme'", "| 3 "),
        ("SELECT count(*) FROM events WHERE tenant_id = 'bo' || 'lt'", "| 0 "),
        ("SELECT count(*) FROM events WHERE lsn >= 4 AND incarnation IS NOT NULL", "| 2 "),
        ("SELECT count(*) FROM outcomes WHERE outcome = 'delivered'", "| 1 "),
        ("SELECT step FROM message_history WHERE message_id = 'a1' AND event_type = 'delivered'", "| 2 "),
    ] {
        let table = shown(&engine, &tenant("acme"), &format!("SELECT * FROM ({sql}) AS t(x)")).await;
        assert!(table.contains(cell), "{sql}:\n{table}");
    }
    let all = shown(&engine, &tenant("acme"), "SELECT * FROM events ORDER BY occurred_at").await;
    assert!(all.contains("{plan: pro}") && all.contains("3 rows"), "{all}");
    assert!(!all.contains("secret") && !all.contains("bolt"), "{all}");
}

#[tokio::test]
async fn operator_sees_the_whole_lake() {
    let folder = tempfile::tempdir().unwrap();
    let engine = lake(&folder).await;
    let table = shown(&engine, &Scope::AllTenants, "SELECT count(*) AS n FROM events").await;
    assert!(table.contains("| 7 "), "{table}");
}

#[tokio::test]
async fn plain_filters_reach_the_files() {
    let folder = tempfile::tempdir().unwrap();
    let engine = lake(&folder).await;
    let sql = "EXPLAIN SELECT seq FROM events WHERE message_id = 'a1' AND event_date = DATE '2026-02-01' AND CAST(recipient AS INT) = 17";
    let plan = shown(&engine, &Scope::AllTenants, sql).await;
    let scan = plan.lines().find(|line| line.contains("ScopedScanExec") && line.contains("parquet")).unwrap();
    assert!(scan.contains("message_id") && scan.contains("predicate="), "{plan}");
    let predicate = scan.split_once("predicate=").unwrap().1;
    assert!(predicate.contains("message_id@") && predicate.contains("a1"), "{scan}");
    assert!(!predicate.contains("CAST"), "{scan}");
    // The files of the other partition are not opened at all.
    assert!(!scan.contains("event_date=2026-01-31"), "{scan}");
}

#[tokio::test]
async fn unreadable_lake_is_told_without_its_paths() {
    let folder = tempfile::tempdir().unwrap();
    let engine = lake(&folder).await;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && path.to_str().unwrap().contains("event_date") {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    let told = shown(&engine, &tenant("acme"), "SELECT recipient FROM events").await;
    assert_eq!(told, "error: the events cannot be read at the moment; the server's log says why\n");
    let told = shown(&engine, &Scope::AllTenants, "SELECT recipient FROM events").await;
    assert!(told.starts_with("error: ") && told.contains(".parquet"), "{told}");
}

#[tokio::test]
async fn history_of_a_message_reads_no_days_before_it_was_made() {
    let id = "019c476c-3600-7000-8000-000000000000"; // made on 10 February
    let lines = format!(
        r#"
        {{"type":"accepted","at":"2026-02-08T23:59:59Z","message_id":"old","seq":1,"recipient":"a@x.example"}}
        {{"type":"accepted","at":"2026-02-09T23:59:59Z","message_id":"{id}","seq":1,"recipient":"b@x.example"}}
        {{"type":"delivered","at":"2026-02-10T12:00:01Z","message_id":"{id}","seq":2,"recipient":"b@x.example"}}
        "#
    );
    let folder = tempfile::tempdir().unwrap();
    let url = ensure_table_uri(folder.path().to_str().unwrap()).unwrap();
    let table = DeltaTable::try_from_url(url).await.unwrap();
    let table = table
        .write(vec![to_batch(&events(&lines)).unwrap()])
        .with_partition_columns(["event_date"])
        .await
        .unwrap();
    // whoever reads the oldest day now fails
    std::fs::remove_dir_all(folder.path().join("event_date=2026-02-08")).unwrap();
    let cold = table.table_provider().build().await.unwrap();
    let snapshot = EventSnapshot { cold: Arc::new(cold), hot: vec![], spilled: vec![], version: None };
    let engine = engine_over(snapshot, limits());
    for scope in [Scope::AllTenants, tenant("acme")] {
        let sql =
            format!("SELECT recipient, step FROM message_history WHERE message_id = '{id}' ORDER BY step");
        let found = engine.query(&scope, &sql, limits().query).await.unwrap();
        assert_eq!(found.num_rows(), 2, "a clock may be a day off");
        assert!(engine.query(&scope, "SELECT recipient FROM events", limits().query).await.is_err());
    }
}
