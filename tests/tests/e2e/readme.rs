//! What README shows of the lake runs as it stands there.

use std::path::Path;

use sendlake_tests::home::Home;
use sendlake_tests::peers::{Python, free_port, missing};
use serde_json::json;

use crate::message;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snippets_of_the_lake_section_count_what_sendlake_sql_counts() {
    let Some(python) = Python::with(&["deltalake", "duckdb"]) else { return };
    let dir = tempfile::tempdir().unwrap();
    let home = Home::new()
        .with_data(&dir.path().join("sendlake-data"))
        .route("sink.test", format!("127.0.0.1:{}", free_port()));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    for number in 0..7 {
        server.http.send(&key, &message(&format!("bob{number}@sink.test"))).await;
    }
    server.stop().await;
    let ours = home.events_by_type();
    assert_eq!(ours["accepted"], 7);

    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md").canonicalize().unwrap();
    let theirs = python.ask_in(dir.path(), "run_snippets.py", &[readme.to_str().unwrap()]);
    let rows: Vec<_> = ours.iter().map(|(kind, count)| json!([kind, count])).collect();
    if theirs["duckdb"].is_null() {
        missing("DuckDB's Delta reader", "pip install duckdb-extension-delta==1.5.5");
    } else {
        assert_eq!(theirs["duckdb"], json!(rows));
    }
    match theirs["spark"].as_str() {
        None => missing("a Spark server", "pip install pysail pyspark-client pandas"),
        Some(shown) => {
            for (kind, count) in &ours {
                let row = shown.lines().find(|line| line.contains(&format!("{kind}|")));
                assert!(
                    row.is_some_and(|row| row.ends_with(&format!("{count}|"))),
                    "{kind} {count}: {shown}"
                );
            }
        }
    }
    let all: u64 = ours.values().sum();
    assert!(
        theirs["deltalake"].as_str().unwrap().contains(&all.to_string()),
        "{all}: {}",
        theirs["deltalake"]
    );
}
