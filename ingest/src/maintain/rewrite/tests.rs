//! A rewrite keeps every row once, whoever else writes, and leaves nothing half done.

use std::sync::atomic::{AtomicBool, Ordering as Atomic};

use arrow::array::{BooleanArray, Int64Array, StringArray};
use arrow::compute::{concat_batches, filter_record_batch};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sendlake_control::clock::{ManualClock, SeededEntropy};
use sendlake_control::id::Ids;

use crate::store::{LakeStore, open_store};
use crate::testing::{FlakyStore, NOON, event, events, lake, lsns, query};

use super::*;

const SPOOL: Uuid = Uuid::from_u128(0x5e4d);
const OTHER: Uuid = Uuid::from_u128(0x07e4);
const TTL_MS: i64 = 60_000;

fn ids(seed: u64) -> (Arc<ManualClock>, Ids) {
    let clock = Arc::new(ManualClock::new(NOON));
    (clock.clone(), Ids { clock, entropy: Arc::new(SeededEntropy::new(seed)) })
}

async fn lease(store: &LakeStore) -> Lease {
    Lease::take(store, "test", &ids(1).1, TTL_MS, 0).await.unwrap().unwrap()
}

struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn settings(&self) -> RewriteSettings {
        RewriteSettings {
            memory_bytes: 64 << 20,
            spill_dir: self.0.path().to_owned(),
            target_file_bytes: 64 << 20,
        }
    }

    fn is_empty(&self) -> bool {
        std::fs::read_dir(self.0.path()).unwrap().next().is_none()
    }
}

async fn all_files(table: &EventsTable) -> Vec<String> {
    let pinned = table.pin(None).await.unwrap();
    table.files(&pinned).unwrap().into_iter().map(|file| file.path).collect()
}

async fn held(table: &EventsTable, spool: Uuid) -> Vec<u64> {
    lsns(&table.pin(None).await.unwrap().table, spool).await
}

fn upto(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

/// A table with `commits` small files a day.
async fn scattered(store: &LakeStore, commits: u64) -> EventsTable {
    let table = EventsTable::open(store).await.unwrap();
    for commit in 0..commits {
        table.append(SPOOL, events(SPOOL, commit * 20 + 1..=commit * 20 + 20)).await.unwrap();
    }
    table
}

/// Drops the rows of one tenant, and shouts the URLs of the others.
struct Forget(&'static str);

impl Edit for Forget {
    fn apply(&self, rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let tenants = rows.column_by_name("tenant_id").unwrap().as_string::<i32>();
        let stay: BooleanArray = tenants.iter().map(|tenant| Some(tenant != Some(self.0))).collect();
        filter_record_batch(&rows, &stay)
    }
}

#[tokio::test]
async fn small_files_become_one_sorted_file_a_day_with_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let table = scattered(&store, 6).await;
    table.append(OTHER, events(OTHER, 1..=20)).await.unwrap();
    let before =
        query(&table.pin(None).await.unwrap().table, "SELECT * FROM events ORDER BY incarnation, lsn").await;
    let scratch = Scratch::new();
    let done = table
        .rewrite(&lease(&store).await, &all_files(&table).await, None, &scratch.settings())
        .await
        .unwrap();
    assert_eq!((done.files_read, done.files_written), (14, 2));
    assert_eq!((done.rows_read, done.rows_written, done.data_change), (140, 140, false));

    let pinned = table.pin(None).await.unwrap();
    assert_eq!(pinned.version, done.version);
    assert_eq!(table.files(&pinned).unwrap().len(), 2);
    let after = query(&pinned.table, "SELECT * FROM events ORDER BY incarnation, lsn").await;
    let schema = before[0].schema();
    assert_eq!(
        arrow::compute::concat_batches(&schema, &before).unwrap(),
        arrow::compute::concat_batches(&schema, &after).unwrap()
    );
    let log =
        std::fs::read_to_string(dir.path().join(format!("events/_delta_log/{:020}.json", done.version)))
            .unwrap();
    assert!(log.contains("\"dataChange\":false") && !log.contains("\"dataChange\":true"), "{log}");
    assert!(!log.contains("secret.example"), "no statistics on columns with addresses: {log}");
    for file in table.files(&pinned).unwrap() {
        let path = dir.path().join("events").join(&file.path);
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(
            std::fs::File::open(path).unwrap(),
        )
        .unwrap();
        assert_eq!(reader.metadata().row_group(0).sorting_columns().unwrap().len(), 3);
        let batch = reader.build().unwrap().next().unwrap().unwrap();
        let text = |name: &str, row: usize| {
            batch.column_by_name(name).unwrap().as_string::<i32>().value(row).to_owned()
        };
        let keys: Vec<_> =
            (0..batch.num_rows()).map(|row| (text("tenant_id", row), text("message_id", row))).collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }
    assert!(scratch.is_empty(), "nothing that was spilled stays");
}

#[tokio::test]
async fn dropped_rows_are_counted_in_the_log_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let table = scattered(&store, 3).await;
    let lease = lease(&store).await;
    let scratch = Scratch::new();
    let done = table
        .rewrite(&lease, &all_files(&table).await, Some(Arc::new(Forget("zebra"))), &scratch.settings())
        .await
        .unwrap();
    assert!(done.data_change);
    assert_eq!(done.dropped, BTreeMap::from([(SPOOL, 20)]));
    assert_eq!(
        held(&table, SPOOL).await,
        upto(60).into_iter().filter(|lsn| lsn % 3 != 0).collect::<Vec<_>>()
    );

    table.append(SPOOL, events(SPOOL, 61..=70)).await.unwrap();
    let again = table
        .rewrite(&lease, &all_files(&table).await, Some(Arc::new(Forget("zebra"))), &scratch.settings())
        .await
        .unwrap();
    assert_eq!(again.dropped, BTreeMap::from([(SPOOL, 3)]));
    // What is there and what was removed make up what was committed, in the eyes of a new process too.
    let reopened = EventsTable::open(&store).await.unwrap();
    let pinned = reopened.pin(Some(SPOOL)).await.unwrap();
    let removed = reopened.removed_rows(&pinned, SPOOL).await.unwrap();
    assert_eq!(removed, 23);
    assert_eq!(held(&reopened, SPOOL).await.len() as u64 + removed, pinned.committed_lsn);
}

#[tokio::test]
async fn a_day_of_which_nothing_is_left_has_no_file() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let table = EventsTable::open(&store).await.unwrap();
    table
        .append(
            SPOOL,
            vec![event(SPOOL, 3), event(SPOOL, 6)]
                .into_iter()
                .map(|mut row| {
                    row.lsn /= 3;
                    row
                })
                .collect(),
        )
        .await
        .unwrap();
    let scratch = Scratch::new();
    let done = table
        .rewrite(
            &lease(&store).await,
            &all_files(&table).await,
            Some(Arc::new(Forget("zebra"))),
            &scratch.settings(),
        )
        .await
        .unwrap();
    assert_eq!((done.files_written, done.rows_written), (0, 0));
    assert!(all_files(&table).await.is_empty());
}

#[tokio::test]
async fn an_edit_that_finds_nothing_is_a_compaction() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let table = scattered(&store, 2).await;
    let scratch = Scratch::new();
    let done = table
        .rewrite(
            &lease(&store).await,
            &all_files(&table).await,
            Some(Arc::new(Forget("nobody"))),
            &scratch.settings(),
        )
        .await
        .unwrap();
    assert!(!done.data_change);
    assert_eq!(held(&table, SPOOL).await, upto(40));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_both_hold_a_lease_exactly_one_commits() {
    for round in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let store =
            if round % 2 == 0 { lake(&dir) } else { open_store("memory://", &Default::default()).unwrap() };
        let (clock, first_ids) = ids(1);
        let one = scattered(&store, 5).await;
        let two = EventsTable::open(&store).await.unwrap();
        let older = Lease::take(&store, "one", &first_ids, TTL_MS, 0).await.unwrap().unwrap();
        // The second one's clock is ahead: to it the first lease is over, while the first one works on.
        clock.advance_millis(TTL_MS);
        let newer = Lease::take(&store, "two", &first_ids, TTL_MS, 0).await.unwrap().unwrap();
        clock.advance_millis(-TTL_MS);
        let files = all_files(&one).await;
        let scratch = (Scratch::new(), Scratch::new());
        let settings = (scratch.0.settings(), scratch.1.settings());
        let (first, second) = tokio::join!(
            one.rewrite(&older, &files, None, &settings.0),
            two.rewrite(&newer, &files, None, &settings.1),
        );
        assert_eq!(first.is_ok() as u8 + second.is_ok() as u8, 1, "{first:?} {second:?}");
        let reopened = EventsTable::open(&store).await.unwrap();
        assert_eq!(held(&reopened, SPOOL).await, upto(100));
        assert_eq!(all_files(&reopened).await.len(), 2);
    }
}

#[tokio::test]
async fn an_overtaken_maintainer_is_fenced_by_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let table = scattered(&store, 4).await;
    let (clock, ids) = ids(1);
    let older = Lease::take(&store, "one", &ids, TTL_MS, 0).await.unwrap().unwrap();
    clock.advance_millis(TTL_MS);
    let newer = Lease::take(&store, "two", &ids, TTL_MS, 0).await.unwrap().unwrap();
    let files = all_files(&table).await;
    let (ours, theirs) = files.split_at(files.len() / 2);
    let scratch = Scratch::new();
    table.rewrite(&newer, theirs, None, &scratch.settings()).await.unwrap();
    // Other files, so nothing is gone: it is the number alone that stops it.
    clock.advance_millis(-TTL_MS);
    let error = table.rewrite(&older, ours, None, &scratch.settings()).await.unwrap_err();
    assert!(matches!(error, MaintainError::Fenced { ours: 1, newest: 2 }), "{error}");
    assert_eq!(held(&table, SPOOL).await, upto(80));
    assert_eq!(table.rewrite_epoch().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_at_full_speed_neither_stop_a_rewrite_nor_fail_by_it() {
    for store in [lake(&tempfile::tempdir().unwrap()), open_store("memory://", &Default::default()).unwrap()]
    {
        let table = Arc::new(scattered(&store, 5).await);
        let stop = Arc::new(AtomicBool::new(false));
        let writer = {
            let (stop, store) = (stop.clone(), store.clone());
            tokio::spawn(async move {
                let table = EventsTable::open(&store).await.unwrap();
                let mut last = 0;
                while !stop.load(Atomic::Relaxed) {
                    table.append(OTHER, events(OTHER, last + 1..=last + 5)).await.unwrap();
                    last += 5;
                }
                last
            })
        };
        let lease = lease(&store).await;
        let scratch = Scratch::new();
        for rewrites in 0..6 {
            let forget: Option<Arc<dyn Edit>> =
                if rewrites % 2 == 1 { Some(Arc::new(Forget("zebra"))) } else { None };
            table.rewrite(&lease, &all_files(&table).await, forget, &scratch.settings()).await.unwrap();
        }
        stop.store(true, Atomic::Relaxed);
        let last = writer.await.unwrap();
        let reopened = EventsTable::open(&store).await.unwrap();
        let pinned = reopened.pin(Some(OTHER)).await.unwrap();
        assert_eq!(pinned.committed_lsn, last);
        let present = held(&reopened, OTHER).await;
        assert!(present.windows(2).all(|pair| pair[0] < pair[1]), "no row twice");
        let kept: Vec<u64> = present.into_iter().filter(|lsn| lsn % 3 != 0).collect();
        assert_eq!(kept, upto(last).into_iter().filter(|lsn| lsn % 3 != 0).collect::<Vec<_>>());
        let removed = reopened.removed_rows(&pinned, OTHER).await.unwrap();
        assert_eq!(held(&reopened, OTHER).await.len() as u64 + removed, last);
    }
}

#[tokio::test]
async fn a_rewrite_whose_answer_was_lost_is_found_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let (store, flaky) = FlakyStore::over(&lake(&dir));
    let table = scattered(&store, 3).await;
    let lease = lease(&store).await;
    flaky.lost_answers.store(1, Atomic::SeqCst);
    let scratch = Scratch::new();
    let done = table.rewrite(&lease, &all_files(&table).await, None, &scratch.settings()).await.unwrap();
    assert_eq!(done.version, 4);
    assert_eq!(held(&table, SPOOL).await, upto(60));
}

#[tokio::test]
async fn a_write_that_fails_leaves_the_table_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (store, flaky) = FlakyStore::over(&lake(&dir));
    let table = scattered(&store, 3).await;
    let lease = lease(&store).await;
    let files = all_files(&table).await;
    let scratch = Scratch::new();
    for failures in 1..=3 {
        flaky.failed_writes.store(failures, Atomic::SeqCst);
        let error = table.rewrite(&lease, &files, None, &scratch.settings()).await.unwrap_err();
        assert!(error.to_string().contains("out to lunch"), "{error}");
        flaky.failed_writes.store(0, Atomic::SeqCst);
        let mut there = all_files(&table).await;
        there.sort();
        let mut expected = files.clone();
        expected.sort();
        assert_eq!(there, expected);
    }
    table.rewrite(&lease, &files, None, &scratch.settings()).await.unwrap();
    assert_eq!(held(&table, SPOOL).await, upto(60));
}

#[tokio::test]
async fn a_truncated_file_is_named_and_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let table = scattered(&store, 3).await;
    let files = all_files(&table).await;
    let victim = dir.path().join("events").join(&files[2]);
    let bytes = std::fs::read(&victim).unwrap();
    std::fs::write(&victim, &bytes[..bytes.len() / 2]).unwrap();
    let scratch = Scratch::new();
    let error = table.rewrite(&lease(&store).await, &files, None, &scratch.settings()).await.unwrap_err();
    let said = error.to_string();
    assert!(matches!(&error, MaintainError::Source { path, .. } if *path == files[2]), "{said}");
    assert!(said.contains("restore it") && said.contains("sendlake lake verify"), "{said}");
    assert_eq!(all_files(&table).await.len(), files.len());
    assert!(scratch.is_empty());
}

#[tokio::test]
async fn a_flipped_bit_is_not_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let table = scattered(&store, 3).await;
    let files = all_files(&table).await;
    let victim = dir.path().join("events").join(&files[1]);
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[100] ^= 4;
    std::fs::write(&victim, &bytes).unwrap();
    let (lease, scratch) = (lease(&store).await, Scratch::new());
    let error = table.rewrite(&lease, &files, None, &scratch.settings()).await.unwrap_err();
    assert!(matches!(&error, MaintainError::Source { path, .. } if *path == files[1]), "{error}");
    assert!(error.to_string().contains("SHA-256"), "{error}");
    // Restored from a copy, it takes part again; what is written has a digest as well.
    bytes[100] ^= 4;
    std::fs::write(&victim, &bytes).unwrap();
    table.rewrite(&lease, &files, None, &scratch.settings()).await.unwrap();
    let pinned = table.pin(None).await.unwrap();
    for file in table.files(&pinned).unwrap() {
        let bytes = std::fs::read(dir.path().join("events").join(&file.path)).unwrap();
        assert_eq!(file.sha256, Some(crate::table::digest::sha256(&bytes)));
    }
}

#[tokio::test]
async fn more_rows_than_memory_holds_are_spilled_and_still_sorted() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let table = EventsTable::open(&store).await.unwrap();
    for commit in 0..4 {
        let rows = events(SPOOL, commit * 15_000 + 1..=commit * 15_000 + 15_000);
        let rows = rows.into_iter().map(|mut row| {
            row.event.detail = Some("x".repeat(1_000));
            row
        });
        table.append(SPOOL, rows.collect()).await.unwrap();
    }
    let scratch = Scratch::new();
    let settings = RewriteSettings { memory_bytes: 32 << 20, ..scratch.settings() };
    let done = table.rewrite(&lease(&store).await, &all_files(&table).await, None, &settings).await.unwrap();
    assert_eq!((done.rows_written, done.files_written), (60_000, 2));
    assert_eq!(held(&table, SPOOL).await, upto(60_000));
    assert!(scratch.is_empty());
    for path in all_files(&table).await {
        let object = table.log_store.object_store(None).get(&path.as_str().into()).await.unwrap();
        let file = object.bytes().await.unwrap();
        let rows: Vec<_> = ParquetRecordBatchReaderBuilder::try_new(file)
            .unwrap()
            .build()
            .unwrap()
            .collect::<Result<_, _>>()
            .unwrap();
        let rows = concat_batches(&rows[0].schema(), &rows).unwrap();
        assert_eq!(layout::sort(&rows).unwrap(), rows);
    }
}

#[tokio::test]
async fn what_a_dead_maintainer_spilled_is_removed() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let table = scattered(&store, 2).await;
    let (clock, ids) = ids(1);
    let dead = Lease::take(&store, "dead", &ids, TTL_MS, 0).await.unwrap().unwrap();
    let scratch = Scratch::new();
    let left = scratch.0.path().join(format!("rewrite-{}", dead.next_mark()));
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("run"), b"rows").unwrap();
    clock.advance_millis(TTL_MS);
    let lease = Lease::take(&store, "next", &ids, TTL_MS, 0).await.unwrap().unwrap();
    table.rewrite(&lease, &all_files(&table).await, None, &scratch.settings()).await.unwrap();
    assert!(scratch.is_empty());
}

#[tokio::test]
async fn what_a_dead_maintainer_spilled_is_removed_after_lease_files_were_lost() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let table = scattered(&store, 2).await;
    let (_, ids) = ids(1);
    let scratch = Scratch::new();
    let mut left = Vec::new();
    // Numbers begin again: the first dead one has the number of the next, the second a higher one.
    for floor in [0, 6] {
        let dead = Lease::take(&store, "dead", &ids, TTL_MS, floor).await.unwrap().unwrap();
        left.push(scratch.0.path().join(format!("rewrite-{}", dead.next_mark())));
        std::fs::remove_dir_all(dir.path().join("_maintenance")).unwrap();
    }
    for folder in &left {
        std::fs::create_dir(folder).unwrap();
        std::fs::write(folder.join("run"), b"rows").unwrap();
    }
    let notes = scratch.0.path().join("rewrite-notes");
    std::fs::create_dir(&notes).unwrap();
    let lease = Lease::take(&store, "next", &ids, TTL_MS, 0).await.unwrap().unwrap();
    assert_eq!(lease.epoch(), 1);
    let own = scratch.0.path().join(format!("rewrite-{}", lease.next_mark()));
    std::fs::create_dir(&own).unwrap();
    table.rewrite(&lease, &all_files(&table).await, None, &scratch.settings()).await.unwrap();
    assert!(left.iter().all(|folder| !folder.exists()), "{left:?}");
    assert!(own.exists() && notes.exists(), "what is at work, and what is not ours, stays");
}

#[test]
fn an_edit_may_not_make_rows_or_change_columns() {
    struct Twice;
    impl Edit for Twice {
        fn apply(&self, rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
            arrow::compute::concat_batches(&rows.schema(), [&rows, &rows])
        }
    }
    struct Narrow;
    impl Edit for Narrow {
        fn apply(&self, rows: RecordBatch) -> Result<RecordBatch, ArrowError> {
            rows.project(&[0])
        }
    }
    let batch = RecordBatch::try_from_iter([
        ("incarnation", Arc::new(StringArray::from(vec![SPOOL.to_string()])) as arrow::array::ArrayRef),
        ("lsn", Arc::new(Int64Array::from(vec![1]))),
    ])
    .unwrap();
    assert!(Tally::default().take(batch.clone(), Some(&Twice)).is_err());
    assert!(Tally::default().take(batch, Some(&Narrow)).is_err());
}
