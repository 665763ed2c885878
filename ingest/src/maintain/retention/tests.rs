//! A day goes whole, counted, and never before its readers.

use std::sync::Arc;

use sendlake_control::clock::{ManualClock, SeededEntropy};
use sendlake_control::id::Ids;

use crate::store::{LakeStore, open_store};
use crate::testing::{NOON, events, lsns};

use super::*;

const SPOOL: Uuid = Uuid::from_u128(5);
const OTHER: Uuid = Uuid::from_u128(6);

/// Nothing is spilled in these tests.
fn settings() -> RewriteSettings {
    let spill_dir = std::env::temp_dir().join("sendlake-retention");
    RewriteSettings { memory_bytes: 32 << 20, spill_dir, target_file_bytes: 64 << 20 }
}

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
    let rehearsed = table.expire(&lease, "2026-01-31", &[], &settings(), true).await.unwrap();
    assert!(
        matches!(&rehearsed[..], [Expired::Gone { rows: 8, files: 2, version: None, .. }]),
        "{rehearsed:?}"
    );
    let gone = table.expire(&lease, "2026-01-31", &[reader(50, 30)], &settings(), false).await.unwrap();
    assert!(matches!(&gone[..], [Expired::Gone { rows: 8, version: Some(3), .. }]), "{gone:?}");
    let pinned = table.pin(Some(SPOOL)).await.unwrap();
    let left = lsns(&pinned.table, SPOOL).await;
    assert_eq!(left, (1..=50).filter(|lsn| lsn % 10 != 0).collect::<Vec<u64>>());
    assert_eq!(table.removed_rows(&pinned, SPOOL).await.unwrap(), 5);
    assert_eq!(table.removed_rows(&pinned, OTHER).await.unwrap(), 3);
    assert_eq!(left.len() as u64 + 5, pinned.committed_lsn);
    assert_eq!(table.expire(&lease, "2026-01-31", &[], &settings(), false).await.unwrap(), []);
}

#[tokio::test]
async fn a_day_stays_until_the_slowest_reader_has_all_of_it() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let table = table(&store).await;
    let lease = lease(&store).await;
    let slow = [reader(50, 30), ReaderPosition { reader: "warehouse".into(), ..reader(50, 29) }];
    let stays = table.expire(&lease, "2026-01-31", &slow, &settings(), false).await.unwrap();
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
    let stays = table.expire(&lease, "2026-02-01", &[never], &settings(), false).await.unwrap();
    assert_eq!(stays.len(), 2, "{stays:?}");
}

#[tokio::test]
async fn changes_of_the_list_of_suppressions_stay_alone_and_are_not_read_again() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let table = EventsTable::open(&store).await.unwrap();
    for (spool, last) in [(SPOOL, 50), (OTHER, 30)] {
        let mut rows = events(spool, 1..=last);
        for row in rows.iter_mut().filter(|row| [10, 20].contains(&row.lsn)) {
            let added = row.lsn == 10;
            row.event.event_type =
                if added { EventType::SuppressionAdded } else { EventType::SuppressionRemoved };
        }
        table.append(spool, rows).await.unwrap();
    }
    let lease = lease(&store).await;
    for dry_run in [true, false] {
        let gone = table.expire(&lease, "2026-01-31", &[], &settings(), dry_run).await.unwrap();
        assert!(matches!(&gone[..], [Expired::Gone { rows: 4, kept: 4, files: 2, .. }]), "{gone:?}");
    }
    let pinned = table.pin(Some(SPOOL)).await.unwrap();
    let left = lsns(&pinned.table, SPOOL).await;
    let wanted: Vec<u64> = (1..=50).filter(|lsn| lsn % 10 != 0 || [10, 20].contains(lsn)).collect();
    assert_eq!(left, wanted);
    assert_eq!(table.removed_rows(&pinned, SPOOL).await.unwrap(), 3);
    let old: Vec<DataFile> = table.files(&pinned).unwrap();
    assert_eq!(old.iter().filter(|file| file.day() == "2026-01-30").count(), 1, "one file for both spools");
    assert_eq!(table.expire(&lease, "2026-01-31", &[], &settings(), false).await.unwrap(), []);

    // What comes late goes, and what stayed stays.
    let late: Vec<_> = events(SPOOL, 51..=60);
    table.append(SPOOL, late).await.unwrap();
    let gone = table.expire(&lease, "2026-01-31", &[], &settings(), false).await.unwrap();
    assert!(matches!(&gone[..], [Expired::Gone { rows: 1, kept: 4, files: 2, .. }]), "{gone:?}");
    assert_eq!(lsns(&table.pin(None).await.unwrap().table, OTHER).await.len(), 29);
    // A whole day of nothing else, that no rewrite has seen yet.
    let mut only = events(SPOOL, 61..=70);
    only.retain(|row| row.lsn == 70);
    only[0].event.event_type = EventType::SuppressionAdded;
    only[0].event.occurred_at = only[0].event.occurred_at.plus_secs(-5 * 86_400);
    only[0].lsn = 61;
    table.append(SPOOL, only).await.unwrap();
    assert_eq!(table.expire(&lease, "2026-01-31", &[], &settings(), false).await.unwrap(), []);
}
