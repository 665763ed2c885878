//! The writer as its operator sees it: what is in the lake, when, and what the status says.

use std::sync::atomic::Ordering;

use sendlake_control::clock::ManualClock;

use crate::store::LakeStore;
use crate::testing::{FlakyStore, MemoryOutbox, NOON, events, lake, lsns};

use super::*;

const SPOOL: Uuid = Uuid::from_u128(0x5e4d);

/// Never commits by itself within a test.
const PATIENT: LakeWriterSettings = LakeWriterSettings {
    commit_interval_ms: 3_600_000,
    commit_rows_max: 1_000,
    retry_ms_max: 20,
    spill_rows: 100,
    spill_grace_ms: 60_000,
};

struct Running {
    handle: LakeHandle,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), LakeWriterError>>,
}

async fn start(store: &LakeStore, outbox: &Arc<MemoryOutbox>, settings: LakeWriterSettings) -> Running {
    let table = Arc::new(EventsTable::open(store).await.unwrap());
    let clock = Arc::new(ManualClock::new(NOON));
    let (writer, handle) = LakeWriter::new(outbox.clone(), table, clock, settings);
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(writer.run(shutdown.clone()));
    Running { handle, shutdown, task }
}

impl Running {
    async fn stop(self) -> Result<(), LakeWriterError> {
        self.shutdown.cancel();
        self.task.await.unwrap()
    }

    async fn until(&self, reached: impl FnMut(&LakeStatus) -> bool) -> LakeStatus {
        let mut status = self.handle.watch();
        let status = tokio::time::timeout(Duration::from_secs(20), status.wait_for(reached)).await;
        status.unwrap().unwrap().clone()
    }
}

async fn held(store: &LakeStore) -> Vec<u64> {
    let table = EventsTable::open(store).await.unwrap();
    lsns(&table.pin(None).await.unwrap().table, SPOOL).await
}

fn upto(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[tokio::test]
async fn flush_makes_everything_logged_before_it_durable() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = MemoryOutbox::new(SPOOL);
    let running = start(&lake(&dir), &outbox, PATIENT).await;
    outbox.log(7);
    let status = running.handle.flush().await.unwrap();
    assert_eq!(status, LakeStatus { lsn: 7, version: Some(1), last_commit_at: Some(NOON), last_error: None });
    assert_eq!(held(&lake(&dir)).await, upto(7));
    assert_eq!(outbox.len(), 0, "what is in the lake is trimmed");
    assert_eq!(running.handle.flush().await.unwrap().version, Some(1), "nothing new, no commit");
    running.stop().await.unwrap();
}

#[tokio::test]
async fn many_waiting_rows_are_not_kept_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = MemoryOutbox::new(SPOOL);
    let settings = LakeWriterSettings { commit_rows_max: 10, ..PATIENT };
    let running = start(&lake(&dir), &outbox, settings).await;
    outbox.log(25);
    let status = running.until(|status| status.lsn >= 20).await;
    assert_eq!(status.last_error, None);
    running.stop().await.unwrap();
    assert_eq!(held(&lake(&dir)).await, upto(25), "the end commits what is left");
}

#[tokio::test]
async fn a_lone_event_waits_no_longer_than_the_interval() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = MemoryOutbox::new(SPOOL);
    let running = start(&lake(&dir), &outbox, LakeWriterSettings { commit_interval_ms: 10, ..PATIENT }).await;
    outbox.log(1);
    running.until(|status| status.lsn == 1).await;
    running.stop().await.unwrap();
}

#[tokio::test]
async fn an_outage_keeps_the_rows_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let (store, flaky) = FlakyStore::over(&lake(&dir));
    let outbox = MemoryOutbox::new(SPOOL);
    let running = start(&store, &outbox, PATIENT).await;
    running.handle.flush().await.unwrap();
    flaky.failed_writes.store(usize::MAX, Ordering::SeqCst);
    outbox.log(4);
    let error = running.handle.flush().await.unwrap_err();
    assert!(error.to_string().contains("out to lunch"), "{error}");
    let fault = running.handle.status().last_error.unwrap();
    assert_eq!(fault.since, NOON);
    assert_eq!(outbox.len(), 4);

    outbox.log(1);
    flaky.failed_writes.store(0, Ordering::SeqCst);
    let status = running.until(|status| status.lsn >= 4 && status.last_error.is_none()).await;
    assert!(status.last_commit_at.is_some());
    running.handle.flush().await.unwrap();
    running.stop().await.unwrap();
    assert_eq!(held(&lake(&dir)).await, upto(5));
}

#[tokio::test]
async fn the_end_during_an_outage_is_still_an_end() {
    let dir = tempfile::tempdir().unwrap();
    let (store, flaky) = FlakyStore::over(&lake(&dir));
    let outbox = MemoryOutbox::new(SPOOL);
    let running = start(&store, &outbox, PATIENT).await;
    running.handle.flush().await.unwrap();
    flaky.failed_writes.store(usize::MAX, Ordering::SeqCst);
    outbox.log(4);
    let handle = running.handle.clone();
    tokio::time::timeout(Duration::from_secs(20), running.stop()).await.unwrap().unwrap();
    assert_eq!(outbox.len(), 4, "the next start commits them");
    assert_eq!(handle.flush().await.unwrap_err(), FlushError::Stopped);
}

#[tokio::test]
async fn a_start_trims_what_the_last_run_had_committed() {
    let dir = tempfile::tempdir().unwrap();
    EventsTable::open(&lake(&dir)).await.unwrap().append(SPOOL, events(SPOOL, 1..=6)).await.unwrap();
    let outbox = MemoryOutbox::new(SPOOL);
    outbox.log(8);
    let running = start(&lake(&dir), &outbox, PATIENT).await;
    running.until(|status| status.lsn >= 6).await;
    running.stop().await.unwrap();
    assert_eq!(outbox.len(), 0);
    assert_eq!(held(&lake(&dir)).await, upto(8));
}

#[tokio::test]
async fn a_spool_restored_from_an_older_copy_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    EventsTable::open(&lake(&dir)).await.unwrap().append(SPOOL, events(SPOOL, 1..=6)).await.unwrap();
    let outbox = MemoryOutbox::new(SPOOL);
    outbox.log(4);
    let error = start(&lake(&dir), &outbox, PATIENT).await.task.await.unwrap().unwrap_err();
    let LakeWriterError::SpoolBehindLake { committed_lsn, last_lsn, .. } = &error else { panic!("{error}") };
    assert_eq!((*committed_lsn, *last_lsn), (6, 4));
    assert!(error.to_string().contains("new incarnation"), "{error}");
    assert_eq!(outbox.len(), 4, "nothing is trimmed");
}

#[tokio::test]
async fn another_process_under_the_same_identity_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = MemoryOutbox::new(SPOOL);
    let running = start(&lake(&dir), &outbox, PATIENT).await;
    running.handle.flush().await.unwrap();
    EventsTable::open(&lake(&dir)).await.unwrap().append(SPOOL, events(SPOOL, 1..=9)).await.unwrap();
    outbox.log(3);
    assert_eq!(running.handle.flush().await.unwrap_err(), FlushError::Stopped);
    assert!(running.task.await.unwrap().is_err());
    assert_eq!(outbox.len(), 3, "nothing is trimmed");
}

#[tokio::test]
async fn a_long_outage_goes_to_files_and_from_there_to_the_lake() {
    let (dir, spilled) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, flaky) = FlakyStore::over(&lake(&dir));
    let outbox = MemoryOutbox::spilling(SPOOL, &spilled);
    let running = start(&store, &outbox, PATIENT).await;
    running.handle.flush().await.unwrap();
    flaky.failed_writes.store(usize::MAX, Ordering::SeqCst);
    for _ in 0..10 {
        outbox.log(60);
        assert!(running.handle.flush().await.is_err());
    }
    until(|| outbox.len() <= 100).await;
    let spill = outbox.spill().unwrap();
    assert_eq!(spill.waiting_rows() + outbox.len() as u64, 600, "each event is in one place");
    assert!(spill.files().unwrap().len() > 5);

    flaky.failed_writes.store(0, Ordering::SeqCst);
    running.until(|status| status.lsn == 600).await;
    assert_eq!((spill.waiting_rows(), outbox.len()), (0, 0));
    running.stop().await.unwrap();
    assert_eq!(held(&lake(&dir)).await, upto(600));
}

#[tokio::test]
async fn spilled_events_of_an_earlier_spool_reach_the_lake_under_its_name() {
    let (dir, spilled) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let earlier = Uuid::from_u128(0x01d);
    let outbox = MemoryOutbox::spilling(SPOOL, &spilled);
    for first in [1, 11, 21] {
        outbox.spill().unwrap().write(&events(earlier, first..=first + 9)).unwrap();
    }
    // The lake has the first file and a part of the second already.
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    table.append(earlier, events(earlier, 1..=14)).await.unwrap();
    let running = start(&lake(&dir), &outbox, PATIENT).await;
    outbox.log(5);
    running.handle.flush().await.unwrap();
    running.stop().await.unwrap();
    assert_eq!(held(&lake(&dir)).await, upto(5));
    assert_eq!(lsns(&table.pin(None).await.unwrap().table, earlier).await, upto(30));
    assert_eq!(outbox.spill().unwrap().waiting_rows(), 0);
}

#[tokio::test]
async fn a_torn_file_of_spilled_events_stops_the_lake_and_loses_none() {
    let (dir, spilled) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let outbox = MemoryOutbox::spilling(SPOOL, &spilled);
    outbox.log(30);
    let file = outbox.spill().unwrap().write(&events(SPOOL, 1..=20)).unwrap().unwrap();
    outbox.trim(20).await.unwrap();
    let whole = std::fs::read(&file.path).unwrap();
    std::fs::write(&file.path, &whole[..whole.len() / 2]).unwrap();
    let running = start(&lake(&dir), &outbox, PATIENT).await;
    let error = running.handle.flush().await.unwrap_err().to_string();
    assert!(error.contains("restore the file") && error.contains("1 to 20"), "{error}");
    assert_eq!(outbox.len(), 10, "what follows waits its turn");

    std::fs::write(&file.path, &whole).unwrap();
    running.until(|status| status.lsn == 30).await;
    running.stop().await.unwrap();
    assert_eq!(held(&lake(&dir)).await, upto(30));
}

#[tokio::test]
async fn two_copies_of_a_spool_are_told_apart_before_anything_is_trimmed() {
    let dir = tempfile::tempdir().unwrap();
    let mut rows = events(SPOOL, 1..=9);
    for row in rows.iter_mut().filter(|row| row.lsn > 6) {
        row.event.event_id = Uuid::from_u128(u128::from(row.lsn));
    }
    EventsTable::open(&lake(&dir)).await.unwrap().append(SPOOL, rows).await.unwrap();
    let outbox = MemoryOutbox::new(SPOOL);
    outbox.log(12);
    let error = start(&lake(&dir), &outbox, PATIENT).await.task.await.unwrap().unwrap_err();
    assert!(matches!(&error, LakeWriterError::Forked(LakeError::Forked { shared_lsn: 6, .. })), "{error}");
    assert_eq!(outbox.len(), 12);
}

async fn until(mut reached: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if reached() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not within 20 s");
}
