//! The lake, as other engines read it: deltalake for Python, DuckDB over the files and through its Delta reader.

use std::process::{Command, Stdio};
use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::peers::{Peer, Python, SmtpSink, free_port};
use sendlake_tests::until;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lake_lies_in_an_s3_bucket_as_well() {
    let Some(python) = Python::with(&["moto.server", "deltalake", "duckdb", "aiosmtpd"]) else { return };
    let port = free_port();
    let endpoint = format!("http://127.0.0.1:{port}");
    let interpreter = std::env::var("SENDLAKE_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut moto = Command::new(interpreter);
    moto.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
    let _moto = Peer::start(moto.stdout(Stdio::null()).stderr(Stdio::null()));
    let client = reqwest::Client::new();
    until("moto to make a bucket", Duration::from_secs(30), async || {
        let made = client.put(format!("{endpoint}/lake-bucket")).send().await;
        made.is_ok_and(|answer| answer.status().is_success()).then_some(())
    })
    .await;
    let home = Home::new();
    let sink = SmtpSink::start(&python, home.path());
    let options = [
        ("aws_endpoint", endpoint.as_str()),
        ("aws_region", "us-east-1"),
        ("aws_access_key_id", "test"),
        ("aws_secret_access_key", "test"),
        ("aws_allow_http", "true"),
    ];
    let home = options
        .iter()
        .fold(home, |home, (name, value)| home.set(&format!("storage.options.{name}"), format!("{value:?}")))
        .route("sink.test", sink.addr)
        .set("storage.lake_url", "\"s3://lake-bucket/prod\"");
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let mut sent = Vec::new();
    for number in 0..10 {
        sent.extend(server.http.send(&key, &message(&format!("bob{number}@sink.test"))).await);
    }
    for id in &sent {
        server.http.outcome(&key, id, "delivered").await;
    }
    server.stop().await;
    let ours = home.events_by_type();
    assert_eq!((ours["accepted"], ours["delivered"]), (10, 10));
    let options = json!({
        "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_ALLOW_HTTP": "true",
    });
    let theirs = python.ask("read_lake.py", &["s3://lake-bucket/prod/events", &options.to_string()]);
    assert_eq!(theirs["deltalake"], json!(ours));
}
