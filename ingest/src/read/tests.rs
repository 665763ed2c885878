//! Every event is seen exactly once, however the writer moves it meanwhile.

use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
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

#[tokio::test(flavor = "multi_thread")]
async fn hot_spilled_and_cold_together_have_no_gap_and_no_repeat_while_rows_move() {
    let (dir, spilled) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let table = Arc::new(EventsTable::open(&lake(&dir)).await.unwrap());
    let outbox = MemoryOutbox::spilling(SPOOL, &spilled);
    let done = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (table, outbox, done) = (Arc::clone(&table), Arc::clone(&outbox), Arc::clone(&done));
        async move {
            let spill = Arc::clone(outbox.spill().unwrap());
            let move_out = async |rows: usize| {
                let after = spill.last_lsn(SPOOL).unwrap();
                let rows = outbox.read(after, rows).unwrap();
                let file = spill.write(&rows).unwrap().unwrap();
                outbox.trim(file.last_lsn).await.unwrap();
            };
            for _ in 0..12 {
                outbox.log(9);
                move_out(4).await;
                outbox.log(2);
                move_out(3).await;
                let files = spill.files().unwrap();
                let committed = table.committed_lsn(SPOOL).await.unwrap();
                let next = files.iter().find(|file| file.last_lsn > committed).unwrap();
                let batches = next.read().unwrap();
                table.append_batch(SPOOL, next.last_lsn, batches).await.unwrap();
                spill.retire(next).await;
            }
            done.store(true, Ordering::SeqCst);
        }
    });
    let shared: Arc<dyn Outbox> = outbox.clone();
    let (mut rounds, mut before) = (0, 0);
    while !done.load(Ordering::SeqCst) || rounds < 3 {
        let logged = outbox.last_lsn().unwrap();
        let snapshot = table.snapshot(Some(&shared), 1_000).await.unwrap();
        let mut seen = lsns(&snapshot.table, SPOOL).await;
        for spilled in &snapshot.spilled {
            let batches = spilled.files.iter().flat_map(|file| file.read().unwrap());
            let numbers = batches.flat_map(|batch| {
                let lsns = batch.column_by_name("lsn").unwrap();
                lsns.as_primitive::<Int64Type>().values().to_vec()
            });
            seen.extend(numbers.map(i64::cast_unsigned).filter(|lsn| *lsn > spilled.above_lsn));
        }
        seen.extend(snapshot.hot.iter().map(|row| row.lsn));
        seen.sort_unstable();
        let expected: Vec<u64> = (1..=seen.len() as u64).collect();
        assert_eq!(seen, expected, "at version {}", snapshot.version);
        assert!(seen.len() as u64 >= logged && seen.len() >= before, "nothing is missing or gone again");
        (rounds, before) = (rounds + 1, seen.len());
    }
    writer.await.unwrap();
}
