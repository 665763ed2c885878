//! The writer over an S3 that answers as it pleases: nothing is lost, nothing is repeated, every row can be read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sendlake_control::clock::ManualClock;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{LakeWriter, LakeWriterSettings};
use crate::outbox::Outbox;
use crate::table::EventsTable;
use crate::testing::s3::FaultyS3;
use crate::testing::{MemoryOutbox, NOON, events, lsns};

const SETTINGS: LakeWriterSettings = LakeWriterSettings {
    commit_interval_ms: 1,
    commit_rows_max: 100,
    retry_ms_max: 1,
    spill_rows: 60,
    spill_grace_ms: 1_000,
};

/// Requests that the server gets: `SENDLAKE_FAULT_OPERATIONS`, or what the test suite has time for.
fn operations() -> usize {
    std::env::var("SENDLAKE_FAULT_OPERATIONS").ok().map_or(1_200, |text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_that_fails_at_random_loses_nothing_and_repeats_nothing() {
    let (s3, address) = FaultyS3::start(0x5e4d).await;
    let spools = [Uuid::from_u128(0xa), Uuid::from_u128(0xb)];
    let stop = CancellationToken::new();
    let mut nodes = Vec::new();
    for spool in spools {
        let dir = tempfile::tempdir().unwrap();
        let outbox = MemoryOutbox::spilling(spool, &dir);
        let table = Arc::new(EventsTable::lazy(&FaultyS3::store(address)).unwrap());
        let clock = Arc::new(ManualClock::new(NOON));
        let (writer, handle) = LakeWriter::new(outbox.clone(), table, clock, SETTINGS);
        nodes.push((dir, outbox, handle, tokio::spawn(writer.run(stop.clone()))));
    }
    s3.fault_percent.store(20, Ordering::SeqCst);
    let mut logged = 0;
    while s3.served.load(Ordering::SeqCst) < operations() {
        logged += 1;
        for (_, outbox, handle, _) in &nodes {
            // Rows come whatever the state of the lake, but not without end: the test has to drain them.
            if outbox.last_lsn().unwrap() < handle.status().lsn + 400 {
                outbox.log(1 + logged % 7);
            }
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    s3.fault_percent.store(0, Ordering::SeqCst);
    for (_, outbox, handle, _) in &nodes {
        while handle.flush().await.is_err() {}
        assert_eq!(outbox.len(), 0);
        assert_eq!(outbox.spill().unwrap().waiting_rows(), 0);
    }
    stop.cancel();
    let table = EventsTable::open(&FaultyS3::store(address)).await.unwrap().pin(None).await.unwrap();
    for (_, outbox, _, task) in nodes {
        task.await.unwrap().unwrap();
        let last = outbox.last_lsn().unwrap();
        assert_eq!(lsns(&table.table, outbox.incarnation()).await, (1..=last).collect::<Vec<_>>());
    }
    let injected = s3.injected();
    println!("{} requests, version {}, {injected:?}", s3.served.load(Ordering::SeqCst), table.version);
    assert_eq!(injected.len(), 16, "each fault before and after the effect: {injected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_steps_back_changes_no_order_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = crate::testing::lake(&dir);
    let spool = Uuid::from_u128(0xc);
    let table = EventsTable::open(&store).await.unwrap();
    // An hour back in the middle, as after a start with a wrong clock.
    let mut rows = events(spool, 1..=30);
    for row in rows.iter_mut().filter(|row| row.lsn > 15) {
        row.event.recorded_at = row.event.recorded_at.plus_secs(-3_600);
        row.event.occurred_at = row.event.occurred_at.plus_secs(-3_600);
    }
    table.append(spool, rows[..10].to_vec()).await.unwrap();
    table.append(spool, rows[10..20].to_vec()).await.unwrap();
    table.append(spool, rows[20..].to_vec()).await.unwrap();
    let pinned = table.pin(Some(spool)).await.unwrap();
    assert_eq!((pinned.version, pinned.committed_lsn), (3, 30));
    assert_eq!(lsns(&pinned.table, spool).await, (1..=30).collect::<Vec<_>>());
}
