//! Maintenance of the lake beside a server at work, raced by commands and killed on its way: no row more, none less.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sendlake_ingest::event::{Event, EventType, LoggedEvent};
use sendlake_ingest::store::open_store;
use sendlake_ingest::table::EventsTable;
use sendlake_tests::home::Home;
use sendlake_tests::peers::{Python, SmtpSink};
use serde_json::{Value, json};

use crate::message;

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_is_joined_while_it_is_written_and_two_commands_race_the_server() {
    let Some(python) = Python::with(&["aiosmtpd", "deltalake", "duckdb"]) else { return };
    let home = Home::new();
    let sink = SmtpSink::start(&python, home.path());
    let home = home
        .route("sink.test", sink.addr)
        .set("lake.commit_interval_ms", 20)
        .set("maintenance.interval_s", 1)
        .set("maintenance.settle_s", 0)
        .set("maintenance.small_files_min", 4);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let stop = Arc::new(AtomicBool::new(false));
    let racers: Vec<_> = (0..2)
        .map(|_| {
            let (stop, mut command) = (stop.clone(), home.command(&["lake", "compact", "--wait", "5"]));
            std::thread::spawn(move || {
                let mut codes = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let output = command.stdin(Stdio::null()).output().unwrap();
                    codes.push((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()));
                }
                codes
            })
        })
        .collect();
    let mut sent = Vec::new();
    for number in 0..120 {
        sent.extend(server.http.send(&key, &message(&format!("bob{number}@sink.test"))).await);
    }
    for id in &sent {
        server.http.outcome(&key, id, "delivered").await;
    }
    // Long enough for a round of the server's own.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    stop.store(true, Ordering::Relaxed);
    for racer in racers {
        for (code, said) in racer.join().unwrap() {
            // Done, or told that another one is at it: never a failure.
            assert!(matches!(code, Some(0 | 4)), "{code:?}: {said}");
        }
    }
    let log = server.log();
    assert!(!log.contains("panicked") && !log.contains("did not get through"), "{log}");
    server.stop().await;

    let count = "SELECT count(*) AS n FROM events WHERE event_type = 'delivered'";
    assert_eq!(home.count(count), 120);
    assert_eq!(home.count("SELECT count(*) - count(DISTINCT event_id) AS n FROM events"), 0);
    let ours = home.events_by_type();
    let table = home.data().join("lake/events");
    let theirs = python.ask("read_lake.py", &[table.to_str().unwrap()]);
    assert_eq!((&theirs["deltalake"], &theirs["duckdb"]), (&json!(ours), &json!(ours)));

    let status = json_of(&home.ok(&["lake", "status", "--format", "json"]));
    let events = &status["tables"][0];
    assert_eq!(events["table"], "events");
    assert!(events["version"].as_u64().unwrap() > 2 * events["files"].as_u64().unwrap(), "{status}");
    assert!(status["lease"]["epoch"].as_u64().unwrap() >= 2, "{status}");
    assert_eq!((&status["outbox"]["behind"], &status["lease_held"]), (&json!(0), &json!(false)), "{status}");
    let shown = home.ok(&["lake", "status"]);
    assert!(shown.contains("in the lake up to") && shown.contains("maintenance: last by"), "{shown}");
}

/// Makes a lake of many small files of one day; returns how many rows it has.
async fn scattered(lake: &Path, commits: u64, rows: u64) -> u64 {
    let ids = sendlake::system::ids();
    let table =
        EventsTable::open(&open_store(lake.to_str().unwrap(), &BTreeMap::new()).unwrap()).await.unwrap();
    let incarnation = ids.uuid();
    for commit in 0..commits {
        let made = (1..=rows).map(|row| {
            let tenant = String::from("acme").try_into().unwrap();
            let mut event = Event::new(ids.uuid(), EventType::Delivered, ids.now(), tenant);
            event.message_id = Some(ids.uuid().to_string());
            event.recipient = Some(format!("person{row}@example.com"));
            LoggedEvent { incarnation, node_id: "n1".into(), lsn: commit * rows + row, event }
        });
        table.append(incarnation, made.collect()).await.unwrap();
    }
    commits * rows
}

/// Rows, and how many of them are there more than once.
async fn rows(lake: &Path) -> (u64, u64, usize) {
    let table =
        EventsTable::open(&open_store(lake.to_str().unwrap(), &BTreeMap::new()).unwrap()).await.unwrap();
    let pinned = table.pin(None).await.unwrap();
    let files = table.files(&pinned).unwrap();
    (files.iter().filter_map(|file| file.rows).sum(), pinned.version, files.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compaction_killed_at_any_point_leaves_orphans_and_nothing_else() {
    let home = Home::new().set("maintenance.settle_s", 0).set("maintenance.small_files_min", 2);
    let lake = home.data().join("lake");
    std::fs::create_dir_all(&lake).unwrap();
    let expected = scattered(&lake, 30, 1_000).await;
    assert_eq!(rows(&lake).await.2, 30);
    let planned = json_of(&home.ok(&["lake", "compact", "--dry-run", "--format", "json"]));
    assert_eq!((&planned[0]["files"], &planned[0]["rows"]), (&json!(30), &json!(expected)), "{planned}");
    for delay_ms in [20, 60, 120, 200, 300, 450] {
        let mut child =
            home.command(&["lake", "compact"]).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(delay_ms)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(rows(&lake).await.0, expected, "killed after {delay_ms} ms");
        // Instead of waiting for the dead one's lease to end.
        for lease in std::fs::read_dir(lake.join("_maintenance")).into_iter().flatten() {
            let lease = lease.unwrap().path();
            let said = std::fs::read_to_string(&lease).unwrap();
            std::fs::write(&lease, said.replace("\"released\": false", "\"released\": true")).unwrap();
        }
    }
    home.ok(&["lake", "compact"]);
    let (held, _, files) = rows(&lake).await;
    assert_eq!((held, files), (expected, 1));
    let left = home.data().join("lake-sort");
    assert!(!left.exists() || std::fs::read_dir(&left).unwrap().count() == 0, "nothing spilled stays behind");
    if let Some(python) = Python::with(&["deltalake", "duckdb"]) {
        let theirs = python.ask("read_lake.py", &[lake.join("events").to_str().unwrap()]);
        assert_eq!(theirs["deltalake"], json!({"delivered": expected}));
        assert_eq!(theirs["duckdb"], json!({"delivered": expected}));
    }
    // What was replaced is young, and foreign files are not ours to remove.
    std::fs::write(lake.join("events/README.txt"), b"hello").unwrap();
    let vacuumed = json_of(&home.ok(&["lake", "vacuum", "--format", "json"]));
    assert_eq!(vacuumed[0]["step"], "found", "{vacuumed}");
    assert!(vacuumed[0]["detail"].as_str().unwrap().contains("README.txt"), "{vacuumed}");
    let status = json_of(&home.ok(&["lake", "status", "--format", "json"]));
    assert!(status["tables"][0]["young_files"].as_u64().unwrap() >= 30, "{status}");
    assert!(lake.join("events/README.txt").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_on_a_damaged_lake_say_what_to_do() {
    let home = Home::new().set("maintenance.settle_s", 0).set("maintenance.small_files_min", 2);
    let said = home.run(&["lake", "status"]);
    assert_eq!(said.code, 3, "{said:?}");
    assert!(said.err.contains("there is no lake at"), "{said:?}");

    let lake = home.data().join("lake");
    std::fs::create_dir_all(&lake).unwrap();
    scattered(&lake, 6, 20).await;
    let day = std::fs::read_dir(lake.join("events")).unwrap().flatten();
    let day =
        day.map(|entry| entry.path()).find(|path| path.to_str().unwrap().contains("event_date=")).unwrap();
    let victim = std::fs::read_dir(day).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&victim).unwrap();
    std::fs::write(&victim, &bytes[..bytes.len() / 2]).unwrap();
    let steps = json_of(&home.ok(&["lake", "compact", "--format", "json"]));
    assert_eq!(steps[0]["step"], "left");
    assert!(
        steps[0]["detail"].as_str().unwrap().contains(victim.file_name().unwrap().to_str().unwrap()),
        "{steps}"
    );
    assert_eq!(rows(&lake).await.2, 2, "it was left as it is, and those beside it were joined");

    std::fs::remove_file(lake.join("events/_delta_log/00000000000000000003.json")).unwrap();
    let said = home.run(&["lake", "vacuum"]);
    assert_ne!(said.code, 0);
    let shown = home.ok(&["lake", "status"]);
    assert!(shown.contains("no entry 3") && shown.contains("restore the entry"), "{shown}");
}
