//! One holder at a time by the clock, a number that never comes back, and an end for whoever was overtaken.

use std::sync::Arc;
use std::sync::atomic::Ordering as Atomic;

use sendlake_control::clock::{Clock, ManualClock, SeededEntropy};

use crate::store::open_store;
use crate::testing::{FlakyStore, NOON, lake};

use super::*;

const TTL_MS: i64 = 60_000;

fn ids(clock: &Arc<ManualClock>, seed: u64) -> Ids {
    Ids { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(seed)) }
}

fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::new(NOON))
}

#[tokio::test]
async fn a_second_maintainer_waits_for_the_end_or_the_release() {
    let dir = tempfile::tempdir().unwrap();
    for store in [lake(&dir), open_store("memory://", &Default::default()).unwrap()] {
        let clock = clock();
        let first = Lease::take(&store, "a", &ids(&clock, 1), TTL_MS, 0).await.unwrap().unwrap();
        assert_eq!(first.epoch(), 1);
        assert!(Lease::take(&store, "b", &ids(&clock, 2), TTL_MS, 0).await.unwrap().is_none());

        clock.advance_millis(TTL_MS);
        let second = Lease::take(&store, "b", &ids(&clock, 2), TTL_MS, 0).await.unwrap().unwrap();
        assert_eq!(second.epoch(), 2);
        let error = first.renew().await.unwrap_err().to_string();
        assert!(error.contains("taken over by b (lease 2)"), "{error}");

        second.release().await.unwrap();
        let third = Lease::take(&store, "a", &ids(&clock, 3), TTL_MS, 0).await.unwrap().unwrap();
        assert_eq!(third.epoch(), 3);
        assert_eq!(Lease::newest(&store).await.unwrap().unwrap().holder, "a");
    }
}

#[tokio::test]
async fn a_renewed_lease_is_not_taken() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let clock = clock();
    let lease = Lease::take(&store, "a", &ids(&clock, 1), TTL_MS, 0).await.unwrap().unwrap();
    clock.advance_millis(TTL_MS / 2);
    lease.keep().await.unwrap();
    clock.advance_millis(TTL_MS - 1);
    assert!(Lease::take(&store, "b", &ids(&clock, 2), TTL_MS, 0).await.unwrap().is_none());
    clock.advance_millis(1);
    assert!(Lease::take(&store, "b", &ids(&clock, 2), TTL_MS, 0).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_try_at_once_one_gets_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let clock = clock();
    let tries = (0..8).map(|seed| {
        let (store, ids) = (store.clone(), ids(&clock, seed));
        tokio::spawn(async move { Lease::take(&store, &format!("{seed}"), &ids, TTL_MS, 0).await.unwrap() })
    });
    let taken: Vec<_> =
        futures::future::join_all(tries).await.into_iter().filter_map(|lease| lease.unwrap()).collect();
    assert_eq!(taken.len(), 1, "{taken:?}");
}

#[tokio::test]
async fn a_lost_answer_does_not_lock_its_own_lease_out() {
    let dir = tempfile::tempdir().unwrap();
    let (store, flaky) = FlakyStore::over(&lake(&dir));
    flaky.lost_answers.store(1, Atomic::SeqCst);
    let lease = Lease::take(&store, "a", &ids(&clock(), 1), TTL_MS, 0).await.unwrap();
    assert_eq!(lease.unwrap().epoch(), 1);
}

#[tokio::test]
async fn numbers_go_on_after_lease_files_were_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let clock = clock();
    for seed in 0..40 {
        let lease = Lease::take(&store, "a", &ids(&clock, seed), TTL_MS, 0).await.unwrap().unwrap();
        lease.release().await.unwrap();
    }
    let left = std::fs::read_dir(dir.path().join("_maintenance")).unwrap().count();
    assert!(left <= KEPT as usize, "{left} files of old leases are left");
    std::fs::remove_dir_all(dir.path().join("_maintenance")).unwrap();
    let lease = Lease::take(&store, "a", &ids(&clock, 99), TTL_MS, 40).await.unwrap().unwrap();
    assert_eq!(lease.epoch(), 41);
}

#[tokio::test]
async fn a_file_that_is_no_lease_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("_maintenance")).unwrap();
    std::fs::write(dir.path().join("_maintenance/notes.txt"), b"not ours").unwrap();
    let store = lake(&dir);
    let lease = Lease::take(&store, "a", &ids(&clock(), 1), TTL_MS, 0).await.unwrap().unwrap();
    std::fs::write(dir.path().join(format!("_maintenance/{:020}.json", lease.epoch())), b"{").unwrap();
    let error = Lease::take(&store, "b", &ids(&clock(), 2), TTL_MS, 0).await.unwrap_err().to_string();
    assert!(error.contains("00000000000000000001.json") && error.contains("remove it"), "{error}");
}

#[tokio::test]
async fn a_dead_holder_from_the_future_does_not_stop_maintenance() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let clock = clock();
    // Its clock was five hours ahead; then the machine died, and came back with the right time.
    clock.advance_millis(5 * 3_600_000);
    let dead = Lease::take(&store, "dead", &ids(&clock, 1), 50, 0).await.unwrap().unwrap();
    clock.advance_millis(-5 * 3_600_000);
    let next = Lease::take(&store, "next", &ids(&clock, 2), 50, 0).await.unwrap().unwrap();
    assert_eq!(next.epoch(), 2);
    assert!(dead.renew().await.is_err(), "had it been alive after all, it would know now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_at_work_keeps_its_lease_when_the_clock_steps_back() {
    const TTL_MS: i64 = 400;
    let store = open_store("memory://", &Default::default()).unwrap();
    let clock = clock();
    let lease = Arc::new(Lease::take(&store, "a", &ids(&clock, 1), TTL_MS, 0).await.unwrap().unwrap());
    clock.advance_millis(-5 * 3_600_000);
    let working = tokio::spawn({
        let lease = Arc::clone(&lease);
        async move {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                lease.keep().await.unwrap();
            }
        }
    });
    assert!(Lease::take(&store, "b", &ids(&clock, 2), TTL_MS, 0).await.unwrap().is_none());
    // Dated anew, it ends when it should.
    let ends_at = Lease::newest(&store).await.unwrap().unwrap().expires_at;
    assert_eq!(ends_at, clock.now().plus_millis(TTL_MS));
    working.abort();
    clock.advance_millis(TTL_MS);
    assert!(Lease::take(&store, "b", &ids(&clock, 2), TTL_MS, 0).await.unwrap().is_some());
}
