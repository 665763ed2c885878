//! A table grows while others write to it, and refuses what does not fit.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use deltalake::operations::create::CreateBuilder;
use uuid::Uuid;

use crate::event::EVENTS_SCHEMA;
use crate::store::LakeStore;
use crate::table::{EventsTable, log_store, version};
use crate::testing::{events, lake, lsns, query};

use super::*;

/// The columns of a build to come: ours and one more.
fn grown(name: &str) -> Schema {
    let mut fields = EVENTS_SCHEMA.fields().to_vec();
    fields.push(Arc::new(Field::new(name, DataType::Int64, true)));
    Schema::new(fields)
}

/// Makes a table with other columns, as another version or another program would.
async fn made_with(store: &LakeStore, schema: &Schema) {
    let schema: StructType = schema.try_into_kernel().unwrap();
    CreateBuilder::new()
        .with_log_store(log_store(store, EventsTable::NAME).unwrap())
        .with_columns(schema.fields().cloned())
        .with_partition_columns(["event_date"])
        .await
        .unwrap();
}

fn without(name: &str) -> Schema {
    Schema::new(
        EVENTS_SCHEMA.fields().iter().filter(|field| field.name() != name).cloned().collect::<Vec<_>>(),
    )
}

async fn count(table: &EventsTable, sql: &str) -> i64 {
    use arrow::array::{AsArray, types::Int64Type};
    let batches = query(&table.pin(None).await.unwrap().table, sql).await;
    batches[0].column(0).as_primitive::<Int64Type>().value(0)
}

#[tokio::test]
async fn a_column_of_this_version_is_added_to_an_older_table_once() {
    let dir = tempfile::tempdir().unwrap();
    let (store, spool) = (lake(&dir), Uuid::from_u128(1));
    made_with(&store, &without("open_source")).await;
    assert!(EventsTable::open_existing(&store).await.unwrap().is_some(), "readers take it as it is");
    let table = EventsTable::open(&store).await.unwrap();
    table.append(spool, events(spool, 1..=5)).await.unwrap();
    let again = EventsTable::open(&store).await.unwrap();
    let pinned = again.pin(None).await.unwrap();
    assert_eq!(pinned.version, 2, "made, one column added, one append");
    assert_eq!(count(&again, "SELECT count(*) - count(open_source) FROM events").await, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_new_builds_and_two_old_ones_write_at_the_same_time() {
    let dir = tempfile::tempdir().unwrap();
    EventsTable::open(&lake(&dir)).await.unwrap();
    let old = (1..=2_u128).map(|spool| {
        let (store, spool) = (lake(&dir), Uuid::from_u128(spool));
        tokio::spawn(async move {
            let table = EventsTable::open(&store).await.unwrap();
            for batch in 0..12 {
                table.append(spool, events(spool, batch * 3 + 1..=batch * 3 + 3)).await.unwrap();
            }
        })
    });
    let new = (0..4).map(|number| {
        let store = lake(&dir);
        tokio::spawn(async move {
            // The same column twice, and another one beside it.
            let schema = grown(["weight", "weight", "height", "depth"][number]);
            EventsTable::open_as(&store, Arc::new(schema)).await.unwrap();
        })
    });
    for finished in futures::future::join_all(old.chain(new).collect::<Vec<_>>()).await {
        finished.unwrap();
    }
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let pinned = table.pin(None).await.unwrap();
    assert_eq!(pinned.version, 24 + 3, "every append landed, each column came once");
    for spool in 1..=2 {
        assert_eq!(lsns(&pinned.table, Uuid::from_u128(spool)).await, (1..=36).collect::<Vec<u64>>());
    }
    assert_eq!(
        count(&table, "SELECT count(*) - count(weight) - count(height) - count(depth) FROM events").await,
        72
    );
}

#[tokio::test]
async fn a_table_of_a_newer_version_is_read_and_written() {
    let dir = tempfile::tempdir().unwrap();
    let (store, spool) = (lake(&dir), Uuid::from_u128(1));
    made_with(&store, &grown("weight")).await;
    let table = EventsTable::open(&store).await.unwrap();
    table.append(spool, events(spool, 1..=5)).await.unwrap();
    assert_eq!(version(&table.pin(None).await.unwrap().table), 1, "nothing to add");
    assert_eq!(count(&table, "SELECT count(*) - count(weight) FROM events").await, 5);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_by_column() {
    let changed = |name: &str, kind: DataType, nullable: bool| {
        let change = |field: &Arc<Field>| match field.name() == name {
            true => Arc::new(Field::new(name, kind.clone(), nullable)),
            false => field.clone(),
        };
        Schema::new(EVENTS_SCHEMA.fields().iter().map(change).collect::<Vec<_>>())
    };
    let mut strange = EVENTS_SCHEMA.fields().to_vec();
    strange.push(Arc::new(Field::new("must", DataType::Int64, false)));
    for (schema, column, reason) in [
        (without("lsn"), "lsn", "it is not there"),
        (changed("reply_code", DataType::Utf8, true), "reply_code", "string there and integer here"),
        (changed("recipient", DataType::Utf8, false), "recipient", "may not be null there"),
        (Schema::new(strange), "must", "does not know it"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        made_with(&lake(&dir), &schema).await;
        for error in [
            EventsTable::open(&lake(&dir)).await.unwrap_err(),
            EventsTable::open_existing(&lake(&dir)).await.unwrap_err(),
        ] {
            let message = error.to_string();
            assert!(message.contains(&format!("{column:?}")) && message.contains(reason), "{message}");
            assert!(message.contains("use that version") && error.stays(), "{message}");
        }
    }
}
