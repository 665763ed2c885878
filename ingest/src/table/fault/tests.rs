//! A damaged log stops the work with a sentence that names the file; with the file back, nothing is lost.

use std::path::{Path as FilePath, PathBuf};

use uuid::Uuid;

use crate::table::EventsTable;
use crate::testing::{events, lake, lsns};

const SPOOL: Uuid = Uuid::from_u128(1);

/// A table with five commits after the one that made it.
async fn used(dir: &tempfile::TempDir) -> EventsTable {
    let table = EventsTable::open(&lake(dir)).await.unwrap();
    for lsn in 1..=5 {
        table.append(SPOOL, events(SPOOL, lsn..=lsn)).await.unwrap();
    }
    table
}

fn entry(dir: &tempfile::TempDir, version: u64) -> PathBuf {
    dir.path().join(format!("events/_delta_log/{version:020}.json"))
}

/// Every way to the table says which file, and what to do.
async fn refused(dir: &tempfile::TempDir, words: &[&str]) {
    for error in [
        EventsTable::open(&lake(dir)).await.unwrap_err(),
        EventsTable::open_existing(&lake(dir)).await.unwrap_err(),
    ] {
        assert!(!error.stays(), "mail does not wait for a log that is mended: {error}");
        let message = error.to_string();
        assert!(message.contains("/events/") && message.contains("from a backup"), "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{words:?}: {message}");
        assert!(message.lines().count() == 1 && message.len() < 700, "{message}");
    }
}

async fn whole(dir: &tempfile::TempDir) {
    let table = EventsTable::open(&lake(dir)).await.unwrap();
    assert_eq!(lsns(&table.pin(None).await.unwrap().table, SPOOL).await, [1, 2, 3, 4, 5]);
}

/// Damages one entry, tests, and mends it.
async fn with_entry(dir: &tempfile::TempDir, path: &FilePath, content: &[u8], words: &[&str]) {
    let good = std::fs::read(path).unwrap();
    std::fs::write(path, content).unwrap();
    refused(dir, words).await;
    std::fs::write(path, good).unwrap();
    whole(dir).await;
}

#[tokio::test]
async fn a_hole_in_the_log_is_named() {
    let dir = tempfile::tempdir().unwrap();
    used(&dir).await;
    for version in [0, 3] {
        let path = entry(&dir, version);
        let good = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        refused(&dir, &[&format!("{version:020}.json is missing")]).await;
        std::fs::write(&path, good).unwrap();
        whole(&dir).await;
    }
}

#[tokio::test]
async fn a_cut_or_empty_or_foreign_entry_is_named() {
    let dir = tempfile::tempdir().unwrap();
    used(&dir).await;
    let path = entry(&dir, 3);
    let good = std::fs::read(&path).unwrap();
    with_entry(&dir, &path, &good[..good.len() / 2], &["00000000000000000003.json is cut off"]).await;
    with_entry(&dir, &path, b"", &["00000000000000000003.json is empty"]).await;
    with_entry(&dir, &path, b"\x89PNG and so on", &["00000000000000000003.json is cut off or is not JSON"])
        .await;
}

#[tokio::test]
async fn damage_under_a_running_writer_stops_appends_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let table = used(&dir).await;
    std::fs::write(entry(&dir, 6), b"{\"commitInfo\"").unwrap();
    for error in [
        table.append(SPOOL, events(SPOOL, 6..=6)).await.unwrap_err().to_string(),
        table.pin(None).await.unwrap_err().to_string(),
    ] {
        assert!(
            error.contains("00000000000000000006.json is cut off") && error.contains("backup"),
            "{error}"
        );
    }
    std::fs::remove_file(entry(&dir, 6)).unwrap();
    table.append(SPOOL, events(SPOOL, 6..=6)).await.unwrap();
    assert_eq!(lsns(&table.pin(None).await.unwrap().table, SPOOL).await, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn foreign_files_beside_the_log_do_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    used(&dir).await;
    for name in
        ["README", "_delta_log/notes.txt", "_delta_log/00000000000000000099.json.tmp", "event_date=x.parquet"]
    {
        std::fs::write(dir.path().join("events").join(name), b"not ours").unwrap();
    }
    whole(&dir).await;
}
