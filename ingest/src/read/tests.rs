//! Every event is seen exactly once, however the writer moves it meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use crate::testing::{MemoryOutbox, lake, lsns};

use super::*;

const SPOOL: Uuid = Uuid::from_u128(0x5e4d);

#[tokio::test(flavor = "multi_thread")]
async fn hot_and_cold_together_have_no_gap_and_no_repeat_while_commits_run() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(EventsTable::open(&lake(&dir)).await.unwrap());
    let outbox = MemoryOutbox::new(SPOOL);
    let done = Arc::new(AtomicBool::new(false));

    let writer = tokio::spawn({
        let (table, outbox, done) = (Arc::clone(&table), Arc::clone(&outbox), Arc::clone(&done));
        async move {
            for round in 0..40 {
                outbox.log(3 + round % 5);
                let rows = outbox.read(0, 1_000).unwrap();
                // Some rows are logged while their elders are being committed.
                outbox.log(2);
                let appended = table.append(SPOOL, rows).await.unwrap();
                outbox.trim(appended.lsn).await.unwrap();
            }
            done.store(true, Ordering::SeqCst);
        }
    });

    // This process's own reader, and one of another process that only sees the lake move.
    let other = EventsTable::open(&lake(&dir)).await.unwrap();
    let shared: Arc<dyn Outbox> = outbox.clone();
    let mut snapshots = 0;
    while !done.load(Ordering::SeqCst) || snapshots < 4 {
        for table in [table.as_ref(), &other] {
            let logged_before = outbox.last_lsn().unwrap();
            let snapshot = table.snapshot(Some(&shared), 1_000).await.unwrap();
            let mut seen = lsns(&snapshot.table, SPOOL).await;
            seen.extend(snapshot.hot.iter().map(|row| row.lsn));
            let expected: Vec<u64> = (1..=seen.len() as u64).collect();
            assert_eq!(seen, expected, "at version {}", snapshot.version);
            assert!(seen.len() as u64 >= logged_before, "what was logged before is seen");
            snapshots += 1;
        }
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn a_snapshot_stays_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    table.append(SPOOL, crate::testing::events(SPOOL, 1..=3)).await.unwrap();
    let before = table.snapshot(None, 0).await.unwrap();
    table.append(SPOOL, crate::testing::events(SPOOL, 4..=6)).await.unwrap();
    assert_eq!(lsns(&before.table, SPOOL).await, [1, 2, 3]);
    assert_eq!(lsns(&table.snapshot(None, 0).await.unwrap().table, SPOOL).await, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn more_hot_rows_than_asked_for_are_said_to_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let outbox = MemoryOutbox::new(SPOOL);
    outbox.log(5);
    let shared: Arc<dyn Outbox> = outbox;
    let some = table.snapshot(Some(&shared), 3).await.unwrap();
    assert_eq!((some.hot.len(), some.hot_complete), (3, false));
    let all = table.snapshot(Some(&shared), 100).await.unwrap();
    assert_eq!((all.hot.len(), all.hot_complete), (5, true));
}
