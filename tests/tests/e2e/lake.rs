//! The lake, as other engines read it: deltalake for Python, DuckDB over the files and through its Delta reader.

use sendlake_tests::home::Home;
use sendlake_tests::peers::{Python, SmtpSink, free_port};
use serde_json::json;

use crate::message;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_engines_and_the_sink_count_what_sendlake_sql_counts() {
    let Some(python) = Python::with(&["aiosmtpd", "deltalake", "duckdb"]) else { return };
    let home = Home::new();
    let sink = SmtpSink::start(&python, home.path());
    let home = home.route("sink.test", sink.addr);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let mut sent = Vec::new();
    for number in 0..60 {
        let local = ["bob", "grey.bob", "r550.bob"][number % 3];
        sent.extend(server.http.send(&key, &message(&format!("{local}{number}@sink.test"))).await);
    }
    for (number, id) in sent.iter().enumerate() {
        server.http.outcome(&key, id, if number % 3 == 2 { "bounced" } else { "delivered" }).await;
    }
    server.stop().await;
    let ours = home.events_by_type();
    assert_eq!((ours["accepted"], ours["delivered"], ours["bounced"], ours["deferred"]), (60, 40, 20, 20));
    assert_eq!(sink.taken().len(), 40, "the sink's own count");
    let table = home.data().join("lake/events");
    let theirs = python.ask("read_lake.py", &[table.to_str().unwrap()]);
    assert_eq!(theirs["deltalake"], json!(ours));
    assert_eq!(theirs["duckdb"], json!(ours));
    if theirs["duckdb_delta"].is_null() {
        sendlake_tests::peers::missing("DuckDB's Delta reader", "pip install duckdb-extension-delta==1.5.5");
    } else {
        assert_eq!(theirs["duckdb_delta"], json!(ours));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_visible_at_once_long_before_any_commit() {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("lake.commit_interval_ms", 600_000);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let id = server.http.send(&key, &message("bob@sink.test")).await.remove(0);
    assert_eq!(server.http.history(&key, &id).await["events"][0]["event_type"], "accepted");
    let query =
        format!("SELECT count(*) AS n FROM events WHERE message_id = '{id}' AND event_type = 'accepted'");
    assert_eq!(server.http.sql(&key, &query).await.json()["rows"][0]["n"], 1);
    assert_eq!(home.count(&query), 1, "beside the server as well");
    if let Some(python) = Python::with(&["deltalake", "duckdb"]) {
        let table = home.data().join("lake/events");
        let cold = python.ask("read_lake.py", &[table.to_str().unwrap()]);
        assert_eq!(cold["deltalake"], json!({}), "nothing is committed yet");
    }
    server.kill();
    let server = home.start().await;
    assert_eq!(home.count(&query), 1, "and after kill -9");
    server.stop().await;
    assert_eq!(home.count(&query), 1, "and once it is in the lake: never twice");
}
