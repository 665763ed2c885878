//! No event twice, none missing, whatever storage does; and no address where it would outlive its row.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use proptest::prelude::*;

use crate::event::{Event, EventType, to_batch};
use crate::store::{LakeStore, open_store};
use crate::testing::{FlakyStore, NOON, event, events, lake, lsns};

use super::*;

const SPOOL: Uuid = Uuid::from_u128(0x5e4d);

async fn held(store: &LakeStore) -> Vec<u64> {
    let table = EventsTable::open_existing(store).await.unwrap().unwrap();
    lsns(&table.pin(None).await.unwrap().table, SPOOL).await
}

fn upto(last: u64) -> Vec<u64> {
    (1..=last).collect()
}

#[tokio::test]
async fn events_are_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let appended = table.append(SPOOL, events(SPOOL, 1..=50)).await.unwrap();
    assert_eq!(appended, Appended { version: 1, lsn: 50 });
    table.append(SPOOL, events(SPOOL, 51..=60)).await.unwrap();
    drop(table);
    assert_eq!(held(&lake(&dir)).await, upto(60));
    // One folder for each day that events are of.
    assert!(dir.path().join("events/event_date=2026-01-31").is_dir());
    assert!(dir.path().join("events/event_date=2026-01-30").is_dir());
}

#[tokio::test]
async fn a_crash_between_commit_and_trim_repeats_nothing() {
    let dir = tempfile::tempdir().unwrap();
    EventsTable::open(&lake(&dir)).await.unwrap().append(SPOOL, events(SPOOL, 1..=20)).await.unwrap();
    // The next process finds the same rows in its outbox, and newer ones behind them.
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let again = table.append(SPOOL, events(SPOOL, 1..=20)).await.unwrap();
    assert_eq!(again, Appended { version: 1, lsn: 20 });
    table.append(SPOOL, events(SPOOL, 1..=25)).await.unwrap();
    assert_eq!(held(&lake(&dir)).await, upto(25));
}

#[tokio::test]
async fn a_lost_answer_is_not_a_lost_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (store, flaky) = FlakyStore::over(&lake(&dir));
    let table = EventsTable::open(&store).await.unwrap();
    flaky.lost_answers.store(1, Ordering::SeqCst);
    let appended = table.append(SPOOL, events(SPOOL, 1..=20)).await.unwrap();
    assert_eq!(appended.lsn, 20);
    table.append(SPOOL, events(SPOOL, 21..=30)).await.unwrap();
    assert_eq!(held(&lake(&dir)).await, upto(30));
}

#[tokio::test]
async fn a_commit_in_doubt_is_found_by_the_next_try() {
    let dir = tempfile::tempdir().unwrap();
    let (store, flaky) = FlakyStore::over(&lake(&dir));
    let table = EventsTable::open(&store).await.unwrap();
    // The commit lands, its answer is lost, and the table cannot be asked either.
    let broken = Broken::new(&flaky);
    flaky.lost_answers.store(1, Ordering::SeqCst);
    broken.lists_fail_after_commit();
    assert!(table.append(SPOOL, events(SPOOL, 1..=20)).await.is_err());
    broken.mend();
    assert_eq!(table.append(SPOOL, events(SPOOL, 1..=20)).await.unwrap(), Appended { version: 1, lsn: 20 });
    assert_eq!(held(&lake(&dir)).await, upto(20));
}

#[tokio::test]
async fn failed_writes_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, flaky) = FlakyStore::over(&lake(&dir));
    let table = EventsTable::open(&store).await.unwrap();
    for failures in 1..=3 {
        flaky.failed_writes.store(failures, Ordering::SeqCst);
        let error = table.append(SPOOL, events(SPOOL, 1..=20)).await.unwrap_err();
        assert!(error.to_string().contains("out to lunch"), "{error}");
        flaky.failed_writes.store(0, Ordering::SeqCst);
        assert!(held(&lake(&dir)).await.is_empty());
    }
    table.append(SPOOL, events(SPOOL, 1..=20)).await.unwrap();
    assert_eq!(held(&lake(&dir)).await, upto(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn spools_that_append_at_the_same_time_do_not_disturb_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let spools: Vec<Uuid> = (1..=3).map(Uuid::from_u128).collect();
    let writers = spools.iter().map(|&spool| {
        let store = lake(&dir);
        tokio::spawn(async move {
            let table = EventsTable::open(&store).await.unwrap();
            for batch in 0..8 {
                table.append(spool, events(spool, batch * 5 + 1..=batch * 5 + 5)).await.unwrap();
            }
        })
    });
    for finished in futures::future::join_all(writers).await {
        finished.unwrap();
    }
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let pinned = table.pin(None).await.unwrap();
    assert_eq!(pinned.version, 24);
    for spool in spools {
        assert_eq!(lsns(&pinned.table, spool).await, upto(40));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_one_spool_write_each_event_once() {
    let dir = tempfile::tempdir().unwrap();
    EventsTable::open(&lake(&dir)).await.unwrap();
    let writers = (0..4).map(|_| {
        let store = lake(&dir);
        tokio::spawn(async move {
            let table = EventsTable::open(&store).await.unwrap();
            for last in [10, 20, 30] {
                table.append(SPOOL, events(SPOOL, 1..=last)).await.unwrap();
            }
        })
    });
    for finished in futures::future::join_all(writers).await {
        finished.unwrap();
    }
    assert_eq!(held(&lake(&dir)).await, upto(30));
}

#[tokio::test]
async fn events_of_another_spool_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let error = table.append(SPOOL, vec![event(Uuid::from_u128(9), 1)]).await.unwrap_err();
    assert!(matches!(error, LakeError::ForeignEvent { .. }), "{error}");
}

#[tokio::test]
async fn another_copy_of_the_spool_is_told_from_a_lost_answer() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    // Both copies have events 1 to 5; from there on each logs its own.
    let copy = |own: u128| {
        let mut rows = events(SPOOL, 1..=9);
        for row in rows.iter_mut().filter(|row| row.lsn > 5) {
            row.event.event_id = Uuid::from_u128(own << 64 | u128::from(row.lsn));
        }
        rows
    };
    table.append(SPOOL, copy(1)).await.unwrap();
    assert_eq!(table.append(SPOOL, copy(1)).await.unwrap().lsn, 9, "the same events again are no other copy");
    for through in [7, 9] {
        let rows = copy(2).into_iter().filter(|row| row.lsn <= through).collect();
        let error = table.append(SPOOL, rows).await.unwrap_err();
        assert!(matches!(error, LakeError::Forked { shared_lsn: 5, committed_lsn: 9, .. }), "{error}");
        assert!(error.to_string().contains("only one copy"), "{error}");
    }
    let ids = |rows: Vec<LoggedEvent>| rows.iter().map(|row| (row.lsn, row.event.event_id)).collect();
    assert_eq!(table.shared_lsn(SPOOL, ids(copy(2))).await.unwrap(), 5);
    assert_eq!(table.shared_lsn(SPOOL, ids(copy(1))).await.unwrap(), 9);
}

#[tokio::test]
async fn a_log_that_begins_above_one_accounts_for_the_numbers_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    table.append(SPOOL, events(SPOOL, 101..=110)).await.unwrap();
    table.append(SPOOL, events(SPOOL, 111..=120)).await.unwrap();
    let pinned = table.pin(Some(SPOOL)).await.unwrap();
    let state = pinned.table.snapshot().unwrap();
    let removed =
        state.transaction_version(table.log_store.as_ref(), format!("removed:{SPOOL}")).await.unwrap();
    let rows = lsns(&pinned.table, SPOOL).await.len() as u64;
    assert_eq!(rows + removed.unwrap().unsigned_abs(), pinned.committed_lsn);
}

#[tokio::test]
async fn batches_in_any_order_make_sorted_files_and_one_commit() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let mut rows = events(SPOOL, 1..=40);
    rows.reverse();
    let batches = rows.chunks(7).map(|rows| to_batch(rows).unwrap()).collect();
    let appended = table.append_batch(SPOOL, 40, batches).await.unwrap();
    assert_eq!(appended, Appended { version: 1, lsn: 40 });
    assert_eq!(held(&lake(&dir)).await, upto(40));
    for file in parquet_files(&dir) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file).unwrap()).unwrap();
        let keys = keys(&reader.build().unwrap().next().unwrap().unwrap());
        assert!(keys.is_sorted(), "{keys:?}");
    }
}

#[tokio::test]
async fn a_batch_that_claims_less_or_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let batch = to_batch(&events(SPOOL, 1..=5)).unwrap();
    let error = table.append_batch(SPOOL, 4, vec![batch.clone()]).await.unwrap_err();
    assert!(error.to_string().contains("LSN 5"), "{error}");
    let error = table.append_batch(Uuid::from_u128(9), 5, vec![batch.clone()]).await.unwrap_err();
    assert!(matches!(error, LakeError::ForeignEvent { .. }), "{error}");
    // Rows that were taken out on the way leave their numbers behind.
    table.append_batch(SPOOL, 8, vec![batch]).await.unwrap();
    table.append_batch(SPOOL, 9, Vec::new()).await.unwrap();
    assert_eq!(table.committed_lsn(SPOOL).await.unwrap(), 9);
    assert_eq!(held(&lake(&dir)).await, upto(5));
}

#[tokio::test]
async fn addresses_are_in_no_log_entry_and_no_parquet_statistics() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    table.append(SPOOL, events(SPOOL, 1..=40)).await.unwrap();
    let log =
        std::fs::read_to_string(dir.path().join("events/_delta_log/00000000000000000001.json")).unwrap();
    assert!(!log.contains("secret.example"), "{log}");
    assert!(log.contains("minValues") && log.contains("message-"), "what may be kept is kept: {log}");

    for file in parquet_files(&dir) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file).unwrap()).unwrap();
        let metadata = reader.metadata();
        for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
            let texts = column.statistics().into_iter().flat_map(|s| [s.min_bytes_opt(), s.max_bytes_opt()]);
            for text in texts.flatten() {
                assert!(!String::from_utf8_lossy(text).contains("secret"), "{}", column.column_path());
            }
        }
        // The footer as a whole, page indexes included: it holds no value of these columns.
        let bytes = std::fs::read(&file).unwrap();
        let last_data = metadata.row_groups().iter().flat_map(|group| group.columns());
        let data_end =
            last_data.map(|column| column.byte_range()).map(|(start, len)| start + len).max().unwrap();
        let footer = String::from_utf8_lossy(&bytes[data_end as usize..]).into_owned();
        assert!(!footer.contains("secret"));
        assert!(footer.contains("message-"));
    }
}

#[tokio::test]
async fn files_are_sorted_and_have_a_bloom_filter_on_message_id() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    table.append(SPOOL, events(SPOOL, 1..=40)).await.unwrap();
    for file in parquet_files(&dir) {
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&file).unwrap()).unwrap();
        let group = reader.metadata().row_group(0).clone();
        let sorting: Vec<String> = group
            .sorting_columns()
            .unwrap()
            .iter()
            .map(|by| group.column(by.column_idx as usize).column_path().string())
            .collect();
        assert_eq!(sorting, ["tenant_id", "message_id", "recorded_at"]);
        let filtered: Vec<String> = group
            .columns()
            .iter()
            .filter(|column| column.bloom_filter_offset().is_some())
            .map(|column| column.column_path().string())
            .collect();
        assert_eq!(filtered, ["message_id"]);
        let batch = reader.build().unwrap().next().unwrap().unwrap();
        let keys = keys(&batch);
        assert!(keys.is_sorted(), "{keys:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_made_and_read_back() {
    let store = open_store("memory://", &Default::default()).unwrap();
    let table = EventsTable::open(&store).await.unwrap();
    for lsn in 1..=102 {
        table.append(SPOOL, vec![event(SPOOL, lsn)]).await.unwrap();
    }
    store.root.head(&"events/_delta_log/_last_checkpoint".into()).await.unwrap();
    assert_eq!(held(&store).await, upto(102));
    let reopened = EventsTable::open(&store).await.unwrap();
    assert_eq!(reopened.committed_lsn(SPOOL).await.unwrap(), 102);
}

fn keys(batch: &RecordBatch) -> Vec<(String, String)> {
    use arrow::array::AsArray;
    let column = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
    let (tenants, messages) = (column("tenant_id"), column("message_id"));
    (0..batch.num_rows()).map(|row| (tenants.value(row).to_owned(), messages.value(row).to_owned())).collect()
}

fn parquet_files(dir: &tempfile::TempDir) -> Vec<std::path::PathBuf> {
    let days = std::fs::read_dir(dir.path().join("events")).unwrap().map(|day| day.unwrap().path());
    let days = days.filter(|day| day.file_name().unwrap().to_str().unwrap().starts_with("event_date="));
    let files: Vec<_> =
        days.flat_map(|day| std::fs::read_dir(day).unwrap().map(|file| file.unwrap().path())).collect();
    assert!(!files.is_empty());
    files
}

/// Storage that loses the answer of a commit and then stays away.
struct Broken(Arc<FlakyStore>);

impl Broken {
    fn new(flaky: &Arc<FlakyStore>) -> Self {
        Self(Arc::clone(flaky))
    }

    fn lists_fail_after_commit(&self) {
        self.0.lists_fail_after_lost_answer.store(true, Ordering::SeqCst);
    }

    fn mend(&self) {
        self.0.lists_fail_after_lost_answer.store(false, Ordering::SeqCst);
        self.0.failed_lists.store(0, Ordering::SeqCst);
    }
}

/// Any text, with a bias to what breaks encoders: empty, long, and outside the basic plane.
fn text() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        Just(Some(String::new())),
        Just(Some("x".repeat(5_000))),
        any::<String>().prop_map(Some),
    ]
}

fn any_event(lsn: u64) -> impl Strategy<Value = LoggedEvent> {
    let texts = (text(), text(), text(), text());
    let numbers =
        (any::<Option<i64>>(), any::<Option<i32>>(), any::<Option<bool>>(), -40_000_000..40_000_000i64);
    let tags = prop::collection::btree_map(any::<String>(), any::<String>(), 0..3);
    (texts, numbers, tags, 0..EventType::ALL.len()).prop_map(move |(texts, numbers, tags, kind)| {
        let tenant = event(SPOOL, lsn).event.tenant_id;
        let at = NOON.plus_secs(numbers.3);
        let mut event = Event::new(Uuid::from_u128(lsn.into()), EventType::ALL[kind], at, tenant);
        (event.message_id, event.recipient, event.reply_text, event.detail) = texts;
        (event.size_bytes, event.reply_code, event.tls_verified) = (numbers.0, numbers.1, numbers.2);
        event.next_attempt_at = numbers.0.map(|_| at);
        event.tags = tags;
        LoggedEvent { incarnation: SPOOL, node_id: "n1".into(), lsn, event }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn every_row_comes_back_as_it_was(rows in (1..24u64).prop_flat_map(|count| {
        (1..=count).map(any_event).collect::<Vec<_>>()
    })) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open_store("memory://", &Default::default()).unwrap();
            let table = EventsTable::open(&store).await.unwrap();
            table.append(SPOOL, rows.clone()).await.unwrap();
            let pinned = table.pin(None).await.unwrap().table;
            let columns: Vec<&str> = EVENTS_SCHEMA.fields().iter().map(|field| field.name().as_str()).collect();
            let sql = format!("SELECT {} FROM events ORDER BY lsn", columns.join(", "));
            let back = crate::testing::query(&pinned, &sql).await;
            let back = arrow::compute::concat_batches(&back[0].schema(), &back).unwrap();
            let sent = to_batch(&rows).unwrap();
            for (index, name) in columns.iter().enumerate() {
                let column = arrow::compute::cast(back.column(index), sent.column(index).data_type()).unwrap();
                assert_eq!(column.as_ref(), sent.column(index).as_ref(), "{name}");
            }
        });
    }
}
