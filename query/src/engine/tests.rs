//! What a tenant can and cannot learn, and what stops a query.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use sendlake_ingest::read::Spilled;
use sendlake_ingest::spill::Spill;

use super::*;
use crate::source::EventSnapshot;
use crate::testing::{engine, engine_over, events, limits, shown, snapshot, tenant};

/// Two tenants. `acme`'s own recipients are numbers, so that a cast works on its rows and on no others.
const LINES: &str = r#"
{"type":"accepted","at":"2026-03-02T10:00:00Z","tenant_id":"bolt","message_id":"b1","seq":1,"recipient":"secret@bolt.example","reply_code":0,"size_bytes":1}
{"type":"delivered","at":"2026-03-02T10:00:01Z","tenant_id":"bolt","message_id":"b1","seq":2,"recipient":"secret@bolt.example","reply_code":0,"size_bytes":99999}
{"type":"accepted","at":"2026-03-02T10:00:00Z","tenant_id":"acme","message_id":"a1","seq":1,"recipient":"17","reply_code":5,"size_bytes":10}
{"type":"accepted","at":"2026-03-02T10:00:00Z","tenant_id":"bolt","message_id":"b2","seq":1,"recipient":"secret@bolt.example","reply_code":0,"size_bytes":99999}
{"type":"delivered","at":"2026-03-02T10:00:01Z","tenant_id":"acme","message_id":"a1","seq":2,"recipient":"18","reply_code":5,"size_bytes":20}
{"type":"bounced","at":"2026-03-02T10:00:01Z","tenant_id":"bolt","message_id":"b2","seq":2,"recipient":"secret@bolt.example","reply_code":0,"size_bytes":-5}
"#;

/// Runs `sql` as `acme` and asserts that the answer, error or not, says nothing of `bolt`.
async fn acme_sees(sql: &str) -> String {
    let shown = shown(&engine(LINES), &tenant("acme"), sql).await;
    for foreign in ["secret", "bolt", "99999", "b1", "b2"] {
        assert!(!shown.contains(foreign), "{sql} shows {foreign}:\n{shown}");
    }
    shown
}

#[tokio::test]
async fn cast_meets_only_own_rows() {
    for sql in [
        "SELECT CAST(recipient AS INT) AS n FROM events ORDER BY n",
        "SELECT CAST(recipient AS INT) AS n FROM events WHERE CAST(recipient AS INT) > 0 ORDER BY n",
        "SELECT CAST(recipient AS INT) AS n FROM events WHERE CAST(recipient AS INT) IN (17, 18) ORDER BY n",
        "SELECT recipient AS n FROM events WHERE tenant_id = 'acme' OR CAST(recipient AS INT) = 1 ORDER BY n",
        "SELECT recipient AS n FROM events WHERE 100 / reply_code = 20 ORDER BY n",
        "SELECT recipient AS n FROM events WHERE arrow_cast(recipient, 'Int32') < 100 ORDER BY n",
        "SELECT e.recipient AS n FROM events e JOIN events f ON CAST(e.recipient AS INT) = CAST(f.recipient AS INT) ORDER BY n",
        "SELECT recipient AS n FROM attempts WHERE CAST(recipient AS INT) = 18 UNION ALL SELECT '17' ORDER BY n",
    ] {
        let shown = acme_sees(sql).await;
        assert!(shown.contains("17") && shown.contains("18") && shown.contains("2 rows"), "{sql}:\n{shown}");
    }
}

#[tokio::test]
async fn aggregates_count_only_own_rows() {
    for (sql, cell) in [
        ("SELECT count(*) FROM events", "| 2 "),
        ("SELECT count(1) FROM events WHERE tenant_id <> 'acme'", "| 0 "),
        ("SELECT max(size_bytes) FROM events", "| 20 "),
        ("SELECT min(size_bytes) FROM events", "| 10 "),
        ("SELECT min(recipient) FROM events", "| 17 "),
        ("SELECT count(DISTINCT tenant_id) FROM events", "| 1 "),
        ("SELECT size_bytes FROM events ORDER BY size_bytes DESC LIMIT 1", "| 20 "),
        ("SELECT size_bytes FROM events ORDER BY size_bytes LIMIT 1", "| 10 "),
        ("SELECT count(*) FROM (SELECT 1 FROM events LIMIT 2)", "| 2 "),
        ("SELECT count(*) FROM events WHERE size_bytes > 1000 OR size_bytes < 0", "| 0 "),
        ("SELECT count(*) FROM events WHERE recipient = 'secret' || '@bolt.example'", "| 0 "),
        ("SELECT count(*) FROM events e CROSS JOIN events f", "| 4 "),
        ("SELECT count(*) FROM events e FULL JOIN events f ON e.tenant_id <> f.tenant_id", "| 4 "),
        ("SELECT count(*) FROM events WHERE EXISTS (SELECT 1 FROM events f WHERE f.size_bytes > 50)", "| 0 "),
        ("SELECT count(*) FROM outcomes", "| 1 "),
        ("SELECT count(*) FROM attempts", "| 1 "),
        ("SELECT count(*) FROM message_history", "| 2 "),
        ("SELECT approx_distinct(tenant_id) FROM events", "| 1 "),
    ] {
        // The echo of a literal in the heading is the user's own text.
        let sql = format!("SELECT * FROM ({sql}) AS t(x)");
        let shown = acme_sees(&sql).await;
        assert!(shown.contains(cell), "{sql}:\n{shown}");
    }
}

#[tokio::test]
async fn schema_and_settings_tell_of_no_other_tenant() {
    let tables =
        acme_sees("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'").await;
    for name in ["events", "attempts", "outcomes", "message_history"] {
        assert!(tables.contains(name), "{tables}");
    }
    assert!(acme_sees("SELECT * FROM information_schema.views").await.contains("outcomes"));
    assert!(acme_sees("DESCRIBE events").await.contains("enhanced_status"));
    assert!(acme_sees("SHOW COLUMNS FROM outcomes").await.contains("time_to_terminal_ms"));
    assert!(acme_sees("SHOW TABLES").await.contains("message_history"));
    acme_sees("SELECT * FROM information_schema.df_settings").await;
    acme_sees("SELECT * FROM information_schema.columns").await;
}

#[tokio::test]
async fn plans_are_for_operators() {
    let engine = engine(LINES);
    for sql in
        ["EXPLAIN SELECT * FROM events", "EXPLAIN ANALYZE SELECT * FROM events", "EXPLAIN VERBOSE SELECT 1"]
    {
        assert!(acme_sees(sql).await.starts_with("error: EXPLAIN is not available"), "{sql}");
        let shown = shown(&engine, &Scope::AllTenants, sql).await;
        assert!(shown.contains("plan_type"), "{shown}");
    }
    let explained = shown(&engine, &Scope::AllTenants, "EXPLAIN DROP TABLE events").await;
    assert!(explained.starts_with("error: DROP TABLE is not allowed"), "{explained}");
}

#[tokio::test]
async fn operators_see_every_tenant() {
    let shown = shown(
        &engine(LINES),
        &Scope::AllTenants,
        "SELECT tenant_id, count(*) AS n FROM events GROUP BY 1 ORDER BY 1",
    )
    .await;
    assert!(shown.contains("| acme      | 2 |") && shown.contains("| bolt      | 4 |"), "{shown}");
}

#[tokio::test]
async fn whatever_writes_is_refused() {
    for sql in [
        "INSERT INTO events SELECT * FROM events",
        "UPDATE events SET recipient = 'x'",
        "DELETE FROM events",
        "DROP TABLE events",
        "CREATE TABLE t AS SELECT 1",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "PREPARE p AS SELECT 1",
        "BEGIN",
        "TRUNCATE TABLE events",
        "SELECT 1 INTO t",
        "WITH t AS (SELECT 1) INSERT INTO events SELECT * FROM t",
        "CREATE FUNCTION f(DOUBLE) RETURNS DOUBLE RETURN $1",
    ] {
        for scope in [tenant("acme"), Scope::AllTenants] {
            let error = engine(LINES).query(&scope, sql, limits().query).await.expect_err(sql);
            assert!(
                matches!(error, QueryError::ReadOnly { .. } | QueryError::Invalid(_)),
                "{sql}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn files_are_no_tables() {
    for sql in [
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM \"/etc/passwd\"",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_parquet('/tmp/x.parquet')",
        "SELECT * FROM csv_scan('/etc/passwd')",
    ] {
        let error = engine(LINES).query(&Scope::AllTenants, sql, limits().query).await.expect_err(sql);
        assert!(matches!(error, QueryError::Invalid(_) | QueryError::Syntax(_)), "{sql}: {error:?}");
    }
}

#[tokio::test]
async fn mistakes_are_explained() {
    for (sql, sentence) in [
        ("", "there is no statement"),
        (" ; ", "there is no statement"),
        ("SELECT 1; SELECT 2", "one statement at a time"),
        ("SELEC 1", "the SQL cannot be read"),
        ("SELECT 'open", "the SQL cannot be read"),
        ("SELECT nothing FROM events", "nothing"),
        ("SELECT * FROM nowhere", "table 'nowhere' not found"),
        ("SELECT 1 / 0", "ivide by zero"),
        ("SELECT repeat('x', 2000000000)", "the function repeat is not available"),
        ("SELECT unnest(generate_series(1, 1000000000))", "not available"),
    ] {
        let shown = acme_sees(sql).await;
        assert!(shown.starts_with("error: ") && shown.contains(sentence), "{sql}: {shown}");
    }
}

#[tokio::test]
async fn rows_above_the_limit_are_cut_and_said() {
    let engine = engine(LINES);
    let ask = |rows| QueryLimits { rows, ..limits().query };
    for (rows, kept, truncated) in [(0, 0, true), (3, 3, true), (6, 6, false), (7, 6, false)] {
        let output = engine.query(&Scope::AllTenants, "SELECT * FROM events", ask(rows)).await.unwrap();
        assert_eq!((output.num_rows(), output.truncated), (kept, truncated), "limit {rows}");
    }
}

#[tokio::test]
async fn time_limit_ends_what_never_pauses_for_input() {
    let limit = Duration::from_millis(500);
    for sql in [
        "SELECT count(*) FROM generate_series(1, 10000000000)",
        "SELECT sum(a.value * b.value) FROM generate_series(1, 1000000) a CROSS JOIN generate_series(1, 1000000) b",
        "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
        "SELECT count(*) FROM generate_series(1, 1000000) a JOIN generate_series(1, 1000000) b ON a.value * b.value = -1",
        "SELECT count(*) FROM generate_series(1, 1000000) a JOIN generate_series(1, 1000000) b ON a.value % 2 = b.value % 2 AND a.value + b.value < 0",
        "SELECT a.value, sum(b.value) OVER () FROM generate_series(1, 1000000) a LEFT JOIN generate_series(1, 1000000) b ON a.value < b.value - 2000000",
    ] {
        let engine = engine_over(snapshot(&[], &[]), EngineLimits { concurrent_queries: 1, ..limits() });
        let began = Instant::now();
        let answer = engine.query(&tenant("acme"), sql, QueryLimits { time: limit, ..limits().query }).await;
        let took = began.elapsed();
        assert!(matches!(answer, Err(QueryError::TimeLimit { .. })), "{sql}: {answer:?}");
        assert!(took < limit + Duration::from_millis(1_500), "{sql} took {took:?}");
        // Its thread and its place are free again soon after.
        let freed = Instant::now();
        while let Err(error) = engine.query(&tenant("acme"), "SELECT 1", limits().query).await {
            assert!(matches!(error, QueryError::TooManyQueries { .. }), "{error}");
            assert!(freed.elapsed() < Duration::from_secs(5), "{sql} still runs");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn memory_limit_ends_what_hoards() {
    let engine = engine_over(snapshot(&[], &[]), limits());
    let memory_bytes = 4 << 20;
    for sql in [
        "SELECT value % 1000003 AS v, count(*) FROM generate_series(1, 1000000) GROUP BY v ORDER BY 2 LIMIT 1",
        "SELECT value FROM generate_series(1, 1000000) ORDER BY value % 1000, value",
        "SELECT array_agg(value) FROM generate_series(1, 1000000)",
        "SELECT value FROM generate_series(1, 1000000)",
    ] {
        let ask = QueryLimits { memory_bytes, rows: usize::MAX, ..limits().query };
        let engine_limits =
            EngineLimits { query: QueryLimits { rows: usize::MAX, ..limits().query }, ..limits() };
        let wide = engine_over(snapshot(&[], &[]), engine_limits);
        let answer = wide.query(&tenant("acme"), sql, ask).await;
        assert!(matches!(answer, Err(QueryError::MemoryLimit { .. })), "{sql}: {answer:?}");
    }
    assert!(shown(&engine, &tenant("acme"), "SELECT 1 AS one").await.contains("1 row"));
}

#[tokio::test]
async fn one_query_too_many_is_told_to_wait() {
    let engine =
        Arc::new(engine_over(snapshot(&[], &[]), EngineLimits { concurrent_queries: 1, ..limits() }));
    let first = Arc::clone(&engine);
    let slow = tokio::spawn(async move {
        let sql = "SELECT count(*) FROM generate_series(1, 10000000000) WHERE value % 3 = 1";
        first.query(&tenant("acme"), sql, limits().query).await
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let second = engine.query(&tenant("acme"), "SELECT 1", limits().query).await;
    assert!(matches!(second, Err(QueryError::TooManyQueries { limit: 1 })), "{second:?}");
    // The caller of the first goes away: its place comes free.
    slow.abort();
    let began = Instant::now();
    while engine.query(&tenant("acme"), "SELECT 1", limits().query).await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn names_that_a_join_repeats_are_told_apart() {
    let sql = "SELECT e.message_id, f.message_id FROM events e JOIN events f ON e.event_id = f.event_id";
    let output = engine(LINES).query(&tenant("acme"), sql, limits().query).await.unwrap();
    let names = output.schema.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>();
    assert_eq!(names, ["message_id", "message_id_2"]);
}

#[tokio::test]
async fn history_keeps_its_order_through_select_star() {
    let mut lines = String::new();
    for seq in (1..40).rev() {
        lines += &format!(
            "{{\"type\":\"deferred\",\"at\":\"2026-03-02T10:00:{seq:02}Z\",\"message_id\":\"m1\",\"seq\":{seq}}}\n"
        );
    }
    let engine = engine_over(snapshot(&events(&lines), &[]), limits());
    let sql = "SELECT * FROM message_history WHERE message_id = 'm1'";
    let output = engine.query(&tenant("acme"), sql, limits().query).await.unwrap();
    let steps = output.batches.iter().flat_map(|batch| {
        let steps = batch.column_by_name("seq").unwrap().as_primitive::<Int64Type>();
        steps.values().to_vec()
    });
    assert_eq!(steps.collect::<Vec<_>>(), (1..40).collect::<Vec<_>>());
}
#[tokio::test]
async fn session_for_other_surfaces_is_bound_too() {
    let session = engine(LINES).session(&tenant("acme")).await.unwrap();
    for (sql, rows) in [("SELECT recipient FROM events", 2), ("SELECT 1 FROM outcomes", 1)] {
        let plan = session.state().create_logical_plan(sql).await.unwrap();
        let batches = session.execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), rows, "{sql}");
    }
    assert!(QueryEngine::check(&tenant("acme"), "SELECT 1").is_ok());
    assert!(QueryEngine::check(&tenant("acme"), "COPY events TO 'x.csv'").is_err());
}

#[tokio::test]
async fn footers_of_many_files_take_no_more_memory_between_queries_than_they_may() {
    const FILES: usize = 40;
    let line = "{\"type\":\"accepted\",\"at\":\"2026-03-02T10:00:00Z\",\"tenant_id\":\"acme\",\"recipient\":\"17\"}\n";
    let rows = events(&line.repeat(FILES));
    let folder = tempfile::tempdir().unwrap();
    let spill = Spill::open(folder.path().into()).unwrap();
    let files: Vec<_> = rows.chunks(1).map(|row| spill.write(row).unwrap().unwrap()).collect();
    let mut kept = Vec::new();
    for footer_cache_bytes in [0, 400 << 10, 64 << 20] {
        let spilled = vec![Spilled { files: files.clone(), above_lsn: 0 }];
        let snapshot = EventSnapshot { spilled, ..snapshot(&[], &[]) };
        let engine = engine_over(snapshot, EngineLimits { footer_cache_bytes, ..limits() });
        for _ in 0..2 {
            let sql = "SELECT count(*) FROM events WHERE recipient = '17'";
            let shown = shown(&engine, &tenant("acme"), sql).await;
            assert!(shown.contains("| 40 "), "{shown}");
        }
        let caches = &engine.inner.base.runtime_env().cache_manager;
        assert!(caches.get_list_files_cache().is_none() && caches.get_file_statistic_cache().is_none());
        let footers = caches.get_file_metadata_cache().list_entries();
        assert!(footers.values().map(|footer| footer.size_bytes).sum::<usize>() <= footer_cache_bytes);
        kept.push(footers.len());
    }
    assert!(kept[0] == 0 && (1..FILES).contains(&kept[1]) && kept[2] == FILES, "{kept:?}");
}
