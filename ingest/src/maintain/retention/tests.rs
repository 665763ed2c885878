//! A day goes whole, counted, and never before its readers.

use std::sync::Arc;

use sendlake_control::clock::{ManualClock, SeededEntropy};
use sendlake_control::id::Ids;

use crate::store::{LakeStore, open_store};
use crate::testing::{NOON, events, lsns};

use super::*;

const SPOOL: Uuid = Uuid::from_u128(5);
const OTHER: Uuid = Uuid::from_u128(6);

async fn lease(store: &LakeStore) -> Lease {
    let ids = Ids { clock: Arc::new(ManualClock::new(NOON)), entropy: Arc::new(SeededEntropy::new(1)) };
    Lease::take(store, "test", &ids, 60_000, 0).await.unwrap().unwrap()
}

fn reader(spool: u64, other: u64) -> ReaderPosition {
    ReaderPosition { reader: "rollup_hourly".into(), lsn: [(SPOOL, spool), (OTHER, other)].into() }
}

/// Every tenth event is of 2026-01-30, the others of 2026-01-31.
async fn table(store: &LakeStore) -> EventsTable {
    let table = EventsTable::open(store).await.unwrap();
    table.append(SPOOL, events(SPOOL, 1..=50)).await.unwrap();
    table.append(OTHER, events(OTHER, 1..=30)).await.unwrap();
    table
}

#[tokio::test]
async fn a_day_goes_whole_and_is_counted_per_spool() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let table = table(&store).await;
    let lease = lease(&store).await;
    let rehearsed = table.expire(&lease, "2026-01-31", &[], true).await.unwrap();
    assert!(
        matches!(&rehearsed[..], [Expired::Gone { rows: 8, files: 2, version: None, .. }]),
        "{rehearsed:?}"
    );
    let gone = table.expire(&lease, "2026-01-31", &[reader(50, 30)], false).await.unwrap();
    assert!(matches!(&gone[..], [Expired::Gone { rows: 8, version: Some(3), .. }]), "{gone:?}");
    let pinned = table.pin(Some(SPOOL)).await.unwrap();
    let left = lsns(&pinned.table, SPOOL).await;
    assert_eq!(left, (1..=50).filter(|lsn| lsn % 10 != 0).collect::<Vec<u64>>());
    assert_eq!(table.removed_rows(&pinned, SPOOL).await.unwrap(), 5);
    assert_eq!(table.removed_rows(&pinned, OTHER).await.unwrap(), 3);
    assert_eq!(left.len() as u64 + 5, pinned.committed_lsn);
    assert_eq!(table.expire(&lease, "2026-01-31", &[], false).await.unwrap(), []);
}

#[tokio::test]
async fn a_day_stays_until_the_slowest_reader_has_all_of_it() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let table = table(&store).await;
    let lease = lease(&store).await;
    let slow = [reader(50, 30), ReaderPosition { reader: "warehouse".into(), ..reader(50, 29) }];
    let stays = table.expire(&lease, "2026-01-31", &slow, false).await.unwrap();
    assert_eq!(
        stays,
        [Expired::AwaitedBy {
            day: "2026-01-30".into(),
            reader: "warehouse".into(),
            incarnation: OTHER,
            lsn: 30
        }]
    );
    assert_eq!(lsns(&table.pin(None).await.unwrap().table, OTHER).await.len(), 30);
    let never = ReaderPosition { reader: "new".into(), lsn: BTreeMap::new() };
    let stays = table.expire(&lease, "2026-02-01", &[never], false).await.unwrap();
    assert_eq!(stays.len(), 2, "{stays:?}");
}
