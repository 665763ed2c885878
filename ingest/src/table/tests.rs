//! Making, opening and refreshing the table.

use crate::store::open_store;
use crate::testing::{event, events, lake, lsns, query};

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn creators_at_the_same_time_all_end_with_one_table() {
    let dir = tempfile::tempdir().unwrap();
    let openers = (0..6).map(|_| {
        let store = lake(&dir);
        tokio::spawn(async move { EventsTable::open(&store).await.unwrap().pin(None).await.unwrap() })
    });
    let mut ids = Vec::new();
    for opened in futures::future::join_all(openers).await {
        let pinned = opened.unwrap();
        assert_eq!(pinned.version, 0, "a slower creator changes nothing");
        ids.push(pinned.table.snapshot().unwrap().metadata().id().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn reading_commands_do_not_make_a_table() {
    let dir = tempfile::tempdir().unwrap();
    assert!(EventsTable::open_existing(&lake(&dir)).await.unwrap().is_none());
    assert!(!dir.path().join("events").exists());
    EventsTable::open(&lake(&dir)).await.unwrap();
    assert!(EventsTable::open_existing(&lake(&dir)).await.unwrap().is_some());
}

#[tokio::test]
async fn any_delta_reader_of_the_first_protocol_can_take_part() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap().pin(None).await.unwrap().table;
    let state = table.snapshot().unwrap();
    assert_eq!(state.protocol().min_reader_version(), 1);
    assert_eq!(state.protocol().min_writer_version(), 2);
    assert_eq!(state.metadata().partition_columns(), [layout::PARTITION_COLUMN]);
}

#[tokio::test]
async fn memory_works_as_a_lake_too() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let spool = Uuid::from_u128(1);
    let table = EventsTable::open(&store).await.unwrap();
    table.append(spool, events(spool, 1..=3)).await.unwrap();
    let again = EventsTable::open(&store).await.unwrap();
    assert_eq!(lsns(&again.pin(None).await.unwrap().table, spool).await, [1, 2, 3]);
}

#[tokio::test]
async fn one_process_sees_what_another_commits() {
    let dir = tempfile::tempdir().unwrap();
    let spool = Uuid::from_u128(1);
    let writer = EventsTable::open(&lake(&dir)).await.unwrap();
    let reader = EventsTable::open(&lake(&dir)).await.unwrap();
    for lsn in 1..=5 {
        writer.append(spool, vec![event(spool, lsn)]).await.unwrap();
        let pinned = reader.pin(Some(spool)).await.unwrap();
        assert_eq!((pinned.version, pinned.committed_lsn), (lsn, lsn));
    }
    // Far behind: looked up in the table's state instead of commit by commit.
    let late = EventsTable::open(&lake(&dir)).await.unwrap();
    assert_eq!(late.committed_lsn(spool).await.unwrap(), 5);
    assert_eq!(late.committed_lsn(Uuid::from_u128(2)).await.unwrap(), 0);
}

#[tokio::test]
async fn the_last_microseconds_of_a_file_are_found() {
    // Delta keeps maxima in milliseconds; a reader must not skip a file for what was cut off.
    let dir = tempfile::tempdir().unwrap();
    let spool = Uuid::from_u128(1);
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    table.append(spool, vec![event(spool, 1)]).await.unwrap();
    let pinned = table.pin(None).await.unwrap().table;
    let found =
        query(&pinned, "SELECT lsn FROM events WHERE recorded_at > '2026-01-31T12:00:00.124455Z'").await;
    assert_eq!(found.iter().map(|batch| batch.num_rows()).sum::<usize>(), 1);
    let newest = query(&pinned, "SELECT CAST(max(recorded_at) AS VARCHAR) FROM events").await;
    let newest = arrow::util::pretty::pretty_format_batches(&newest).unwrap().to_string();
    assert!(newest.contains("12:00:00.124456"), "{newest}");
}

#[tokio::test]
async fn a_table_of_another_kind_is_refused_by_column() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let log_store = log_store(&store, EventsTable::NAME).unwrap();
    let narrow = arrow::datatypes::Schema::new(vec![EVENTS_SCHEMA.field(0).clone()]);
    let schema: StructType = (&narrow).try_into_kernel().unwrap();
    CreateBuilder::new().with_log_store(log_store).with_columns(schema.fields().cloned()).await.unwrap();
    let message = EventsTable::open(&store).await.unwrap_err().to_string();
    assert!(message.contains("\"event_type\"") && message.contains("another version"), "{message}");
}
