//! `sendlake lake verify`, on a lake that a server made and somebody broke.

use std::path::{Path, PathBuf};

use sendlake_tests::home::{Home, Said};
use sendlake_tests::peers::free_port;
use serde_json::Value;

use crate::message;

/// What `lake verify --format json` printed, and its exit code.
fn verify(home: &Home, more: &[&str]) -> (i32, Value) {
    let said = home.run(&[&["lake", "verify", "--format", "json"], more].concat());
    let report = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    (said.code, report)
}

#[track_caller]
fn says(said: &Said, words: &[&str]) {
    assert_eq!(said.code, 1, "{said:?}");
    for word in words {
        assert!(said.out.contains(word), "{word:?} is not said: {said:?}");
    }
    assert!(!said.err.contains("panicked at src") && said.err.contains("do not agree"), "{said:?}");
}

/// A server that took mail to nowhere, in several commits; ended in order.
async fn used() -> Home {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("lake.commit_interval_ms", 50);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    for number in 0..20 {
        server.http.send(&key, &message(&format!("bob{number}@sink.test"))).await;
        if number % 5 == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(120)).await;
        }
    }
    let (code, report) = verify(&home, &[]);
    assert_eq!((code, report["agrees"].as_bool()), (0, Some(true)), "beside the server: {report}");
    server.stop().await;
    home
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("_delta_log") {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

/// Commits a copy of a file that is committed already, as a script that was run twice would.
fn add_again(events: &Path) {
    let log = events.join("_delta_log");
    let entries = files(&log, ".json");
    let text = std::fs::read_to_string(&entries[1]).unwrap();
    let add = text.lines().find(|line| line.starts_with("{\"add\"")).unwrap();
    let mut add: Value = serde_json::from_str(add).unwrap();
    let path = add["add"]["path"].as_str().unwrap().to_owned();
    let copy = path.replace(".parquet", "-again.parquet");
    std::fs::copy(events.join(&path), events.join(&copy)).unwrap();
    add["add"]["path"] = copy.into();
    std::fs::write(log.join(format!("{:020}.json", entries.len())), add.to_string()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sound_lake_agrees_and_each_damage_is_told_with_what_to_do() {
    let home = used().await;
    let (code, report) = verify(&home, &[]);
    assert_eq!(code, 0, "{report}");
    let spool = &report["report"]["spools"][0];
    assert_eq!(spool["rows"], spool["committed_lsn"], "{report}");
    assert!(home.ok(&["lake", "verify", "--quick"]).contains("outbox, log and files agree"));

    let events = home.data().join("lake/events");
    let file = files(&events, ".parquet").remove(0);
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 100]).unwrap();
    says(&home.run(&["lake", "verify"]), &[name(&file), "cut short", "restore it from a backup"]);
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    std::fs::write(&file, flipped).unwrap();
    says(&home.run(&["lake", "verify"]), &[name(&file), "SHA-256"]);
    std::fs::remove_file(&file).unwrap();
    says(&home.run(&["lake", "verify", "--quick"]), &[name(&file), "is gone"]);
    std::fs::write(&file, &whole).unwrap();

    let entry = events.join("_delta_log/00000000000000000001.json");
    let hidden = home.path().join("hidden.json");
    std::fs::rename(&entry, &hidden).unwrap();
    says(&home.run(&["lake", "verify"]), &["00000000000000000001.json", "hole", "restore"]);
    std::fs::rename(&hidden, &entry).unwrap();

    std::fs::write(events.join("left-here.csv"), "a,b\n").unwrap();
    let (code, report) = verify(&home, &[]);
    assert_eq!(code, 0, "a foreign file contradicts nothing: {report}");
    assert!(report.to_string().contains("left-here.csv"), "{report}");

    add_again(&events);
    says(
        &home.run(&["lake", "verify"]),
        &["event ids are there more than once", "carry a number that another row"],
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_outbox_is_told_and_the_lake_is_verified_all_the_same() {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("lake.commit_interval_ms", 600_000);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    for number in 0..50 {
        server.http.send(&key, &message(&format!("bob{number}@sink.test"))).await;
    }
    server.kill();
    let (code, report) = verify(&home, &[]);
    assert_eq!(code, 0, "{report}");
    assert!(report["report"]["spools"][0]["waiting"].as_u64().unwrap() >= 50, "{report}");

    let spool = home.data().join("spool/spool.redb");
    let mut bytes = std::fs::read(&spool).unwrap();
    for page in (4_096..bytes.len()).step_by(4_096) {
        bytes[page + 700] ^= 0x55;
        bytes[page + 2_000] ^= 0x55;
    }
    std::fs::write(&spool, bytes).unwrap();
    let said = home.run(&["lake", "verify"]);
    says(&said, &["outbox cannot be read", "restore spool/ from a backup", "events"]);
}
