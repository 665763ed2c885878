//! What goes is what nothing names and nobody needs; what stays is said.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sendlake_control::clock::{ManualClock, SeededEntropy};
use sendlake_control::id::Ids;
use uuid::Uuid;

use crate::maintain::rewrite::RewriteSettings;
use crate::store::LakeStore;
use crate::table::{EventsTable, log_store};
use crate::testing::{events, lake, lsns};

use super::*;

const SPOOL: Uuid = Uuid::from_u128(5);
const DAY_MS: i64 = 86_400_000;

/// A clock of its own: files get the real time from the file system.
async fn lease(store: &LakeStore, days_ahead: i64) -> Lease {
    #[expect(clippy::disallowed_methods, reason = "files on disk have the system's time")]
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let now = Timestamp::from_millis(now.as_millis() as i64 + days_ahead * DAY_MS);
    let ids = Ids { clock: Arc::new(ManualClock::new(now)), entropy: Arc::new(SeededEntropy::new(1)) };
    Lease::take(store, "test", &ids, 60_000, 0).await.unwrap().unwrap()
}

async fn compacted(store: &LakeStore, lease: &Lease) -> EventsTable {
    let table = EventsTable::open(store).await.unwrap();
    for commit in 0..4 {
        table.append(SPOOL, events(SPOOL, commit * 20 + 1..=commit * 20 + 20)).await.unwrap();
    }
    let pinned = table.pin(None).await.unwrap();
    let files: Vec<String> = table.files(&pinned).unwrap().into_iter().map(|file| file.path).collect();
    let scratch = tempfile::tempdir().unwrap();
    let settings =
        RewriteSettings { memory_bytes: 0, spill_dir: scratch.path().to_owned(), target_file_bytes: 1 << 20 };
    table.rewrite(lease, &files, None, &settings).await.unwrap();
    table
}

async fn held(store: &LakeStore) -> usize {
    let table = EventsTable::open(store).await.unwrap();
    lsns(&table.pin(None).await.unwrap().table, SPOOL).await.len()
}

fn age(path: &std::path::Path, by: Duration) {
    #[expect(clippy::disallowed_methods, reason = "files on disk have the system's time")]
    let then = SystemTime::now() - by;
    std::fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn replaced_files_go_after_the_grace_and_no_sooner() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let first = lease(&store, 0).await;
    compacted(&store, &first).await;
    let log = log_store(&store, EventsTable::NAME).unwrap();
    // Whatever is asked for, an hour is the least.
    let found = vacuum(&log, &first, 0, false).await.unwrap();
    assert_eq!((found.files.len(), found.young), (0, 8));
    first.release().await.unwrap();

    let later = lease(&store, 2).await;
    let rehearsed = vacuum(&log, &later, DAY_MS, true).await.unwrap();
    assert_eq!(rehearsed.files.len(), 8);
    assert_eq!(held(&store).await, 80);
    let found = vacuum(&log, &later, DAY_MS, false).await.unwrap();
    assert_eq!(found.files, rehearsed.files);
    assert!(found.bytes > 0);
    assert_eq!(vacuum(&log, &later, DAY_MS, false).await.unwrap().files.len(), 0);
    assert_eq!(held(&store).await, 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_file_that_was_replaced_just_now_is_still_read_by_somebody() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let lease = lease(&store, 0).await;
    compacted(&store, &lease).await;
    for day in std::fs::read_dir(dir.path().join("events")).unwrap().flatten() {
        for file in std::fs::read_dir(day.path()).unwrap().flatten().filter(|file| file.path().is_file()) {
            age(&file.path(), Duration::from_secs(90_000));
        }
    }
    let log = log_store(&store, EventsTable::NAME).unwrap();
    let found = vacuum(&log, &lease, DAY_MS, false).await.unwrap();
    assert_eq!((found.files.len(), found.young), (0, 8));
    // Erasure does not wait, and takes only what the log calls removed.
    let paths: Vec<String> = list(&log).await.unwrap().iter().map(|meta| meta.location.to_string()).collect();
    assert_eq!(remove_now(&log, &lease, &paths).await.unwrap(), 8);
    assert_eq!(held(&store).await, 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_and_stages_of_a_crash_go_and_foreign_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let lease = lease(&store, 0).await;
    compacted(&store, &lease).await;
    let day = dir.path().join("events/event_date=2026-01-31");
    let orphan = day.join("part-00000-01234567-89ab-cdef-0123-456789abcdef-c000.zstd.parquet");
    let stage = day.join("part-00001-01234567-89ab-cdef-0123-456789abcdef-c000.zstd.parquet#1");
    let log_stage = dir.path().join("events/_delta_log/00000000000000000009.json#2");
    let young = day.join("part-00002-01234567-89ab-cdef-0123-456789abcdef-c000.zstd.parquet");
    let foreign = [day.join("backup of part-1.parquet"), dir.path().join("events/notes.txt")];
    for path in [&orphan, &stage, &log_stage, &young, &foreign[0], &foreign[1]] {
        std::fs::write(path, b"x").unwrap();
        if path != &young {
            age(path, Duration::from_secs(200_000));
        }
    }
    let log = log_store(&store, EventsTable::NAME).unwrap();
    let found = vacuum(&log, &lease, DAY_MS, false).await.unwrap();
    assert_eq!(
        found.files,
        [format!("event_date=2026-01-31/{}", orphan.file_name().unwrap().to_str().unwrap())]
    );
    assert!(!orphan.exists() && !stage.exists() && !log_stage.exists());
    assert!(young.exists() && foreign.iter().all(|path| path.exists()));
    assert_eq!(found.foreign, ["event_date=2026-01-31/backup of part-1.parquet", "notes.txt"]);
    assert_eq!(held(&store).await, 80);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_a_hole_keeps_every_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let lease = lease(&store, 9).await;
    compacted(&store, &lease).await;
    std::fs::remove_file(dir.path().join("events/_delta_log/00000000000000000002.json")).unwrap();
    let log = log_store(&store, EventsTable::NAME).unwrap();
    let error = vacuum(&log, &lease, DAY_MS, false).await.unwrap_err();
    assert!(matches!(error, MaintainError::Hole { version: 2, .. }), "{error}");
}
