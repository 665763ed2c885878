//! New rows are told from old ones, whoever moves them between files.

use arrow::array::AsArray;
use arrow::array::types::Int64Type;
use deltalake::datafusion::prelude::SessionContext;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Remove, Transaction};
use deltalake::protocol::DeltaOperation;

use std::collections::BTreeSet;

use super::*;
use crate::testing::{events, lake, lsns};

const ONE: Uuid = Uuid::from_u128(1);
const TWO: Uuid = Uuid::from_u128(2);

/// The LSNs of a spool in the files that are said to be new.
async fn found(pinned: &Pinned, changes: &Changes, spool: Uuid) -> BTreeSet<u64> {
    if changes.files.is_empty() {
        return BTreeSet::new();
    }
    let files =
        pinned.table.table_provider().with_file_paths(changes.files.keys().cloned()).build().await.unwrap();
    let context = SessionContext::new();
    context.register_table("events", std::sync::Arc::new(files)).unwrap();
    let rows = context.sql(&format!("SELECT lsn FROM events WHERE incarnation = '{spool}'")).await.unwrap();
    let batches = rows.collect().await.unwrap();
    let lsns = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
    lsns.map(|lsn| lsn as u64).collect()
}

/// What a compaction does to the log: `old` files go, the files that hold their rows come.
async fn rewrite(table: &EventsTable, old: &[String], new: &[Add]) {
    let pinned = table.pin(None).await.unwrap();
    let state = pinned.table.snapshot().unwrap();
    let removes = old
        .iter()
        .map(|path| Action::Remove(Remove { path: path.clone(), data_change: false, ..Remove::default() }));
    let adds = new.iter().map(|add| Action::Add(Add { data_change: false, ..add.clone() }));
    let properties = CommitProperties::default()
        .with_application_transaction(Transaction::new("rewrite", 1))
        .with_max_retries(0);
    let operation = DeltaOperation::Optimize { predicate: None, target_size: 0 };
    CommitBuilder::from(properties)
        .with_actions(removes.chain(adds).collect())
        .build(Some(state), table.log_store.clone(), operation)
        .await
        .unwrap();
}

/// A copy of a file under another name.
async fn moved(table: &EventsTable, add: &Add, name: &str) -> Add {
    let store = table.log_store.object_store(None);
    let (folder, _) = add.path.rsplit_once('/').unwrap();
    let path = format!("{folder}/{name}.parquet");
    use object_store::ObjectStoreExt;
    store.copy(&add.path.as_str().into(), &path.as_str().into()).await.unwrap();
    Add { path, ..add.clone() }
}

#[tokio::test]
async fn appends_of_every_spool_are_told_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    table.append(ONE, events(ONE, 1..=5)).await.unwrap();
    let before = table.pin(None).await.unwrap().version;
    table.append(TWO, events(TWO, 1..=3)).await.unwrap();
    table.append(ONE, events(ONE, 6..=9)).await.unwrap();
    let now = table.pin(None).await.unwrap();

    let changes = table.changes(Some(before), &now).await.unwrap();
    let told: Vec<_> = changes.appends.iter().map(|a| (a.version, a.incarnation, a.lsn)).collect();
    assert_eq!(told, [(2, TWO, 3), (3, ONE, 9)]);
    assert!(changes.from_log);
    assert_eq!(found(&now, &changes, ONE).await, (6..=9).collect());
    assert_eq!(found(&now, &changes, TWO).await, (1..=3).collect());

    let nothing = table.changes(Some(now.version), &now).await.unwrap();
    assert!(nothing.files.is_empty() && nothing.appends.is_empty() && nothing.from_log);
    let everything = table.changes(None, &now).await.unwrap();
    assert!(!everything.from_log);
    assert_eq!(found(&now, &everything, ONE).await, (1..=9).collect());
}

#[tokio::test]
async fn a_rewrite_of_old_files_is_no_news_and_one_of_new_files_moves_it() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    table.append(ONE, events(ONE, 1..=5)).await.unwrap();
    let old = table.pin(None).await.unwrap();
    table.append(ONE, events(ONE, 6..=8)).await.unwrap();
    let before_rewrite = table.pin(None).await.unwrap();

    let first = table.changes(Some(0), &old).await.unwrap().appends;
    let copy = moved(&table, &first[0].adds[0], "compacted-old").await;
    rewrite(&table, &[first[0].adds[0].path.clone()], &[copy]).await;
    let now = table.pin(None).await.unwrap();
    let changes = table.changes(Some(old.version), &now).await.unwrap();
    assert_eq!(changes.files.len(), 1, "the file of the append alone");
    assert_eq!(found(&now, &changes, ONE).await, (6..=8).collect());

    let new = table.changes(Some(old.version), &before_rewrite).await.unwrap();
    let copy = moved(&table, &new.appends[0].adds[0], "compacted-new").await;
    rewrite(&table, &new.files.into_keys().collect::<Vec<_>>(), &[copy]).await;
    let now = table.pin(None).await.unwrap();
    let changes = table.changes(Some(old.version), &now).await.unwrap();
    assert!(changes.files.keys().all(|path| path.contains("compacted-new")), "{:?}", changes.files);
    assert_eq!(found(&now, &changes, ONE).await, (6..=8).collect());
    assert_eq!(changes.appends.len(), 1, "still told, with files that are gone");
    assert_eq!(lsns(&now.table, ONE).await, (1..=8).collect::<Vec<_>>());
}

#[tokio::test]
async fn without_its_log_entries_the_whole_table_may_be_new() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    for lsn in 1..=3 {
        table.append(ONE, events(ONE, lsn..=lsn)).await.unwrap();
    }
    let now = table.pin(None).await.unwrap();
    std::fs::remove_file(dir.path().join("events/_delta_log/00000000000000000002.json")).unwrap();
    let changes = table.changes(Some(1), &now).await.unwrap();
    assert!(!changes.from_log && changes.appends.is_empty());
    assert_eq!(found(&now, &changes, ONE).await, (1..=3).collect());
}
