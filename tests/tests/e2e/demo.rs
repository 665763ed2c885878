//! The demo tells its story to the end, and SQL gives its numbers again.

use std::process::{Command, Stdio};

use sendlake_tests::home::{Home, binary};

#[test]
fn demo_tells_the_whole_story_in_numbers_that_sql_gives_again() {
    let home = Home::new();
    let dir = home.path().join("demo");
    let run = |args: &[&str]| {
        let output = Command::new(binary())
            .arg("--dir")
            .arg(&dir)
            .args(args)
            .current_dir(home.path())
            .env_remove("SENDLAKE_CONFIG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{args:?}: {err}\n{out}");
        out
    };
    let told = run(&["demo", "--messages", "300"]);
    for part in [
        "== 1.",
        "== 2.",
        "== 3.",
        "== 4.",
        "== 5.",
        "the same rows, each once",
        "baseline",
        "A review",
        "gmail-like",
        "reports no complaints",
        "complaints.svg",
    ] {
        assert!(told.contains(part), "{part} is missing in:\n{told}");
    }
    let svg = std::fs::read_to_string(dir.join("complaints.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("<polyline"));

    let count = |sql: &str| -> u64 {
        let printed: serde_json::Value =
            serde_json::from_str(&run(&["sql", "--format", "json", sql])).unwrap();
        printed["rows"][0].as_object().unwrap().values().next().unwrap().as_u64().unwrap()
    };
    // what came back, and what became of the next letter and the receipt
    let next = |campaign: &str, outcome: &str| {
        count(&format!(
            "SELECT count(*) FROM outcomes WHERE tenant_id = 'harbour' AND campaign_id = '{campaign}' AND outcome = '{outcome}'"
        ))
    };
    assert_eq!((next("winter-letter", "suppressed"), next("winter-letter", "delivered")), (5, 4), "{told}");
    assert_eq!((next("receipt", "suppressed"), next("receipt", "delivered")), (2, 7), "{told}");
    // the cut, at the provider that reports and at the one that never does
    let cut = |provider: &str| {
        count(&format!(
            "SELECT count(*) FROM published_quotas WHERE tenant_id = 'acme' AND stream = 'marketing' \
             AND provider = '{provider}' AND state = 'throttled'"
        ))
    };
    assert_eq!((cut("yahoo-like"), cut("gmail-like")), (1, 1), "{told}");
    assert_eq!(
        count("SELECT count(*) FROM events WHERE event_type = 'complained' AND provider = 'gmail-like'"),
        0
    );
    // receipts lose nothing
    assert_eq!(
        count("SELECT count(*) FROM events WHERE event_type = 'held' AND stream = 'transactional'"),
        0,
        "{told}"
    );
    assert!(
        count("SELECT count(*) FROM events WHERE event_type = 'held' AND tenant_id = 'acme'") > 500,
        "{told}"
    );
    // what left is what the lake had then
    let left = count(
        "SELECT sum(rows_loaded) FROM export_batches WHERE connector = 'warehouse' AND state = 'committed'",
    );
    assert!(left > 1_000 && told.contains(&format!("{left} rows, as Parquet")), "{left}: {told}");
    assert!(dir.join("warehouse/events").read_dir().unwrap().count() > 8, "a folder for each day");
    assert_eq!(count("SELECT count(*) FROM reviews WHERE state = 'open' AND tenant_id = 'acme'"), 1);
}
