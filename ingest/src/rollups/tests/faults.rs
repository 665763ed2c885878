//! Kills, lost answers, two refreshers at once, rewrites in between.

use std::sync::atomic::{AtomicUsize, Ordering};

use object_store::Result;
use object_store::path::Path;

use super::*;
use crate::testing::hooked::{Hook, hooked};
use crate::testing::{FlakyStore, fails_if};

/// A process that dies after so many writes.
#[derive(Debug)]
struct Dying(AtomicUsize);

impl Hook for Dying {
    fn before_write(&self, _: &Path) -> Result<()> {
        let left = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        fails_if(left.is_err())
    }
}

#[tokio::test]
async fn a_refresh_that_dies_anywhere_is_made_good_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    Rollups::open(&lake(&dir)).await.unwrap();
    let (mut last, mut died) = (0, 0);
    for writes in 0..14 {
        table.append(ONE, events(ONE, last + 1..=last + 10)).await.unwrap();
        last += 10;
        let (store, _) = hooked(&lake(&dir), Dying(AtomicUsize::new(writes)));
        let dying = Rollups::open(&store).await.unwrap();
        died += usize::from(dying.refresh(&table, NOON).await.is_err());
    }
    assert!((3..14).contains(&died), "it died {died} times, before and between its commits");
    let rollups = Rollups::open(&lake(&dir)).await.unwrap();
    rollups.refresh(&table, NOON).await.unwrap();
    for rollup in rollups.tables() {
        assert_eq!(counted(rollup).await, expected(last), "{rollup:?}");
    }
    agree(&rollups, &table, NOON).await;
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_not_made_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (store, flaky) = FlakyStore::over(&lake(&dir));
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let rollups = Rollups::open(&store).await.unwrap();
    for last in [20, 40, 60] {
        table.append(ONE, events(ONE, last - 19..=last)).await.unwrap();
        flaky.lost_answers.store(2, Ordering::SeqCst);
        let done = rollups.refresh(&table, NOON).await.unwrap();
        assert_eq!(done.events, 20);
    }
    for rollup in rollups.tables() {
        assert_eq!(counted(rollup).await, expected(60), "{rollup:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refreshers_and_tidiers_at_the_same_time_count_each_event_once() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(EventsTable::open(&lake(&dir)).await.unwrap());
    let writer = {
        let table = Arc::clone(&table);
        tokio::spawn(async move {
            for first in (1..=400).step_by(25) {
                table.append(ONE, events(ONE, first..=first + 24)).await.unwrap();
            }
        })
    };
    let refreshers: Vec<_> = (0..2)
        .map(|number| {
            let (table, store) = (Arc::clone(&table), lake(&dir));
            tokio::spawn(async move {
                let rollups = Rollups::open(&store).await.unwrap();
                loop {
                    match rollups.refresh(&table, NOON).await {
                        Ok(_) | Err(LakeError::Busy { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    if number == 0 {
                        rollups.tidy(NOON).await.unwrap();
                    }
                    if rollups.hourly.pin().await.unwrap().positions.lsn.get(&ONE) == Some(&400) {
                        return;
                    }
                }
            })
        })
        .collect();
    writer.await.unwrap();
    for refresher in refreshers {
        refresher.await.unwrap();
    }
    let rollups = Rollups::open(&lake(&dir)).await.unwrap();
    for rollup in rollups.tables() {
        assert_eq!(counted(rollup).await, expected(400), "{rollup:?}");
    }
    agree(&rollups, &table, NOON).await;
}
