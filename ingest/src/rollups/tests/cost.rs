//! What a refresh asks of the storage: it depends on what is new, and not on what is stored.

use std::sync::Mutex;

use object_store::Result;
use object_store::path::Path;

use super::*;
use crate::testing::hooked::{Hook, hooked};

/// Requests, and what they returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    /// Reads of files of events, and octets.
    event_reads: u64,
    event_bytes: u64,
    /// Reads of anything else: files of rollups, which a refresh never reads, and log entries.
    sum_reads: u64,
    log_reads: u64,
    lists: u64,
    writes: u64,
}

impl Hook for Mutex<Asked> {
    fn before_write(&self, _: &Path) -> Result<()> {
        self.lock().unwrap().writes += 1;
        Ok(())
    }

    fn after_read(&self, location: &Path, octets: u64) {
        let mut asked = self.lock().unwrap();
        match location.as_ref() {
            path if path.contains("_delta_log") => asked.log_reads += 1,
            path if path.contains("/events/") => {
                asked.event_reads += 1;
                asked.event_bytes += octets;
            }
            _ => asked.sum_reads += 1,
        }
    }

    fn before_list(&self) -> Result<()> {
        self.lock().unwrap().lists += 1;
        Ok(())
    }
}

/// What a refresh and a look whether to tidy ask for after the same new events, beside `commits` older ones of fifty
/// events each, taken in by two refreshes.
async fn asked_beside(commits: u64) -> Asked {
    let dir = tempfile::tempdir().unwrap();
    let (store, asked) = hooked(&lake(&dir), Mutex::<Asked>::default());
    let table = EventsTable::open(&store).await.unwrap();
    let rollups = Rollups::open(&store).await.unwrap();
    for commit in 0..commits {
        table.append(ONE, events(ONE, commit * 50 + 1..=commit * 50 + 50)).await.unwrap();
        if commit == commits / 2 {
            rollups.refresh(&table, NOON).await.unwrap();
        }
    }
    rollups.refresh(&table, NOON).await.unwrap();
    rollups.tidy(NOON).await.unwrap();
    table.append(TWO, events(TWO, 1..=500)).await.unwrap();
    *asked.lock().unwrap() = Asked::default();
    let done = rollups.refresh(&table, NOON).await.unwrap();
    assert_eq!((done.events, done.from_log), (500, true));
    rollups.tidy(NOON).await.unwrap();
    assert_eq!(counted(&rollups.hourly).await["occurred"], commits as i64 * 50 + 500);
    *asked.lock().unwrap()
}

#[tokio::test]
async fn a_refresh_asks_for_what_is_new_however_much_is_stored() {
    let (few, many) = (asked_beside(2).await, asked_beside(24).await);
    assert_eq!(few, many);
    assert_eq!(few.sum_reads, 0, "{few:?}");
    assert!(few.event_reads <= 3 && few.event_bytes > 0, "{few:?}");
}
