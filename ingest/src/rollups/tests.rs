//! Every event counts once, in its own bucket, whoever refreshes and whatever fails.

mod cost;
mod faults;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use deltalake::datafusion::datasource::MemTable;
use deltalake::datafusion::prelude::SessionContext;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_sql::rollups::{FOLD, PARTIALS};
use uuid::Uuid;

use super::schema::{LABELS, ROLLUP_SCHEMA, sums};
use super::*;
use crate::event::{EVENTS_SCHEMA, Event, EventType, LoggedEvent, to_batch};
use crate::maintain::lease::Lease;
use crate::maintain::log::clean_log;
use crate::maintain::rewrite::RewriteSettings;
use crate::table::EventsTable;
use crate::testing::{NOON, lake};

const ONE: Uuid = Uuid::from_u128(1);
const TWO: Uuid = Uuid::from_u128(2);
const HOUR_S: i64 = 3_600;

/// Event `lsn` of a spool: mail of two tenants and three providers, some of it late, some of it answers to deliveries.
fn event(incarnation: Uuid, lsn: u64) -> LoggedEvent {
    let number = lsn as i64;
    let tenant = TenantId::new(if lsn.is_multiple_of(3) { "zebra" } else { "acme" }).unwrap();
    let late_s = match lsn % 10 {
        8 => -3 * HOUR_S,
        9 => -50 * HOUR_S,
        _ => 0,
    };
    let at = NOON.plus_secs(number * 7 % 7_200 + late_s);
    let kind = match lsn % 5 {
        0 => EventType::Complained,
        1 => EventType::Bounced,
        _ => EventType::Delivered,
    };
    let mut event = Event::new(Uuid::from_u64_pair(incarnation.as_u64_pair().1, lsn), kind, at, tenant);
    event.provider = Some(["google", "microsoft", "yahoo"][lsn as usize % 3].to_owned());
    event.stream = Some("marketing".to_owned());
    event.campaign_id = lsn.is_multiple_of(2).then(|| "spring".to_owned());
    event.header_from_domain = Some("acme.example".to_owned());
    if kind == EventType::Complained {
        event.delivered_at = Some(at.plus_secs(-26 * HOUR_S));
    } else {
        event.size_bytes = Some(1_000 + number);
        event.queue_ms = Some(number * 37 % 100_000);
        event.connect_ms = Some(number % 300);
        event.attempt_ms = Some(number % 2_000);
    }
    if kind == EventType::Bounced {
        event.bounce_category = Some("bad_mailbox".to_owned());
        event.bounce_class = Some("hard".to_owned());
    }
    LoggedEvent { incarnation, node_id: "n1".into(), lsn, event }
}

fn events(incarnation: Uuid, lsns: std::ops::RangeInclusive<u64>) -> Vec<LoggedEvent> {
    lsns.map(|lsn| event(incarnation, lsn)).collect()
}

/// Rows of a query over what a rollup holds, called `rollup`: one text column, one number.
async fn rows(table: &RollupTable, sql: &str) -> BTreeMap<String, i64> {
    let context = SessionContext::new();
    let pinned = table.pin().await.unwrap();
    context.register_table("rollup", pinned.table.table_provider().await.unwrap()).unwrap();
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    let mut rows = BTreeMap::new();
    for batch in batches {
        let names = arrow::compute::cast(batch.column(0), &arrow::datatypes::DataType::Utf8).unwrap();
        let numbers = batch.column(1).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            rows.insert(names.as_string::<i32>().value(row).to_owned(), numbers.value(row));
        }
    }
    rows
}

/// Events in a rollup by basis.
async fn counted(table: &RollupTable) -> BTreeMap<String, i64> {
    rows(table, "SELECT basis, sum(events) FROM rollup GROUP BY basis").await
}

/// What 1..=last of one spool amount to, by basis.
fn expected(last: u64) -> BTreeMap<String, i64> {
    [("occurred".to_owned(), last as i64), ("cohort".to_owned(), last as i64 / 5)].into()
}

async fn agree(rollups: &Rollups, table: &EventsTable, now: Timestamp) {
    for compared in rollups.verify(table, now).await.unwrap() {
        assert_eq!((compared.wrong, compared.gone), (0, 0), "{compared:#?}");
    }
}

fn settings(scratch: &tempfile::TempDir) -> RewriteSettings {
    RewriteSettings {
        memory_bytes: 64 << 20,
        spill_dir: scratch.path().join("rewrites"),
        target_file_bytes: 64 << 20,
    }
}

#[tokio::test]
async fn the_statements_give_the_columns_of_the_table() {
    let context = SessionContext::new();
    let rows = to_batch(&events(ONE, 1..=20)).unwrap();
    context
        .register_table(
            "events",
            Arc::new(MemTable::try_new(EVENTS_SCHEMA.clone(), vec![vec![rows]]).unwrap()),
        )
        .unwrap();
    let partials = context.sql(PARTIALS).await.unwrap();
    let names = |frame: &deltalake::datafusion::prelude::DataFrame| -> Vec<(String, String)> {
        let fields = frame.schema().fields().iter();
        fields.map(|field| (field.name().clone(), field.data_type().to_string())).collect()
    };
    let columns: Vec<_> = ROLLUP_SCHEMA
        .fields()
        .iter()
        .map(|field| (field.name().clone(), field.data_type().to_string()))
        .collect();
    assert_eq!(names(&partials), columns);
    context.register_table("partials", partials.into_view()).unwrap();
    assert_eq!(names(&context.sql(FOLD).await.unwrap()), columns);
    assert_eq!(columns.len(), 2 + LABELS.len() + sums().len());
}

#[tokio::test]
async fn events_count_once_in_the_hour_they_happened_in_and_answers_with_their_delivery_too() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let rollups = Rollups::open(&lake(&dir)).await.unwrap();
    table.append(ONE, events(ONE, 1..=100)).await.unwrap();
    let done = rollups.refresh(&table, NOON).await.unwrap();
    assert_eq!((done.events, done.events_version), (100, 1));
    for rollup in rollups.tables() {
        assert_eq!(counted(rollup).await, expected(100), "{rollup:?}");
    }
    // 9, 19, … happened fifty hours before, at ten o'clock two days earlier.
    let late = "SELECT CAST(bucket_at AS VARCHAR), sum(events) FROM rollup \
                WHERE basis = 'occurred' AND bucket_date = '2026-01-29' GROUP BY bucket_at";
    assert_eq!(rows(&rollups.hourly, late).await, [("2026-01-29T10:00:00Z".to_owned(), 10)].into());
    let complaints = "SELECT CAST(bucket_date AS VARCHAR), sum(events) FROM rollup \
                      WHERE basis = 'cohort' AND event_type = 'complained' GROUP BY bucket_date";
    assert_eq!(rows(&rollups.hourly, complaints).await, [("2026-01-30".to_owned(), 20)].into());

    let again = rollups.refresh(&table, NOON).await.unwrap();
    assert_eq!((again.events, again.rows, again.files), (0, 0, 0), "nothing is new");
    table.append(TWO, events(TWO, 1..=30)).await.unwrap();
    table.append(ONE, events(ONE, 101..=120)).await.unwrap();
    let more = rollups.refresh(&table, NOON).await.unwrap();
    assert_eq!((more.events, more.from_log), (50, true));
    assert!(more.files <= 8, "only files of the two appends: {more:?}");
    assert_eq!(counted(&rollups.hourly).await["occurred"], 150);
    agree(&rollups, &table, NOON).await;
    for rollup in rollups.tables() {
        assert_eq!(rollup.pin().await.unwrap().positions.lsn, [(ONE, 120), (TWO, 30)].into());
    }
}

#[tokio::test]
async fn latencies_fall_into_cumulative_buckets() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let rollups = Rollups::open(&lake(&dir)).await.unwrap();
    let mut logged = events(ONE, 2..=4);
    for (row, (queue_ms, attempt_ms)) in logged.iter_mut().zip([(50, 0), (900, 200), (10_001, 5)]) {
        (row.event.queue_ms, row.event.attempt_ms) = (Some(queue_ms), Some(attempt_ms));
        row.event.event_type = EventType::Delivered;
    }
    table.append(ONE, logged).await.unwrap();
    rollups.refresh(&table, NOON).await.unwrap();
    let sums = "SELECT 'x', sum(queue_ms_le_50) + 10 * sum(queue_ms_le_1000) + 100 * sum(queue_ms_le_60000) \
                + 1000 * sum(delivery_ms_le_1000) + 10000 * sum(delivery_ms_le_2500) FROM rollup";
    assert_eq!(rows(&rollups.hourly, sums).await["x"], 1 + 20 + 300 + 1_000 + 20_000);
    let total = rows(&rollups.hourly, "SELECT 'x', sum(delivery_ms_sum) FROM rollup").await;
    assert_eq!(total["x"], 50 + 1_100 + 10_006);
}

#[tokio::test]
async fn a_rollup_survives_a_restart_and_a_copy_that_starts_from_nothing_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    for last in [40_u64, 80, 120] {
        table.append(ONE, events(ONE, last - 39..=last)).await.unwrap();
        // each time by another process
        let rollups = Rollups::open(&lake(&dir)).await.unwrap();
        rollups.refresh(&table, NOON).await.unwrap();
    }
    std::fs::remove_dir_all(dir.path().join("rollup_hourly")).unwrap();
    let rollups = Rollups::open(&lake(&dir)).await.unwrap();
    let done = rollups.refresh(&table, NOON).await.unwrap();
    assert!(!done.from_log);
    assert_eq!(counted(&rollups.hourly).await, expected(120));
    assert_eq!(counted(&rollups.minute).await, expected(120), "what was there is not counted again");
    agree(&rollups, &table, NOON).await;
}

#[tokio::test]
async fn positions_outlive_the_log_entries_that_told_them() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let rollups = Rollups::open(&lake(&dir)).await.unwrap();
    table.append(ONE, events(ONE, 1..=20)).await.unwrap();
    table.append(TWO, events(TWO, 1..=10)).await.unwrap();
    rollups.refresh(&table, NOON).await.unwrap();
    let pinned = rollups.hourly.pin().await.unwrap();
    // Somebody else's commit comes last, then a checkpoint, and older entries go.
    let operation = deltalake::protocol::DeltaOperation::Delete { predicate: None };
    rollups.hourly.commit(&pinned, Vec::new(), &table::Positions::default(), operation).await.unwrap();
    let last = rollups.hourly.pin().await.unwrap();
    deltalake::checkpoints::create_checkpoint(&last.table, None).await.unwrap();
    let log = &rollups.hourly.log_store;
    assert_eq!(clean_log(log, Timestamp::from_secs(4_000_000_000)).await.unwrap(), 2);
    let again = Rollups::open(&lake(&dir)).await.unwrap();
    assert_eq!(again.hourly.pin().await.unwrap().positions, pinned.positions);
    table.append(ONE, events(ONE, 21..=30)).await.unwrap();
    assert_eq!(again.refresh(&table, NOON).await.unwrap().events, 10);
    agree(&again, &table, NOON).await;
}

#[tokio::test]
async fn a_compaction_between_refreshes_counts_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let table = EventsTable::open(&store).await.unwrap();
    let rollups = Rollups::open(&store).await.unwrap();
    let ids = sendlake_control::id::Ids {
        clock: Arc::new(sendlake_control::clock::ManualClock::new(NOON)),
        entropy: Arc::new(sendlake_control::clock::SeededEntropy::new(1)),
    };
    let scratch = tempfile::tempdir().unwrap();
    for (round, last) in (0..).zip([30_u64, 60, 90]) {
        table.append(ONE, events(ONE, last - 29..=last - 15)).await.unwrap();
        table.append(TWO, events(TWO, last - 29..=last)).await.unwrap();
        // The first refresh comes after the rewrite, the second before it, the third sees new and old rows mixed.
        if round == 1 {
            rollups.refresh(&table, NOON).await.unwrap();
        }
        let lease = Lease::take(&store, "test", &ids, 60_000, 0).await.unwrap().unwrap();
        let pinned = table.pin(None).await.unwrap();
        let files: Vec<String> = table.files(&pinned).unwrap().into_iter().map(|file| file.path).collect();
        let done = table.rewrite(&lease, &files, None, &settings(&scratch)).await.unwrap();
        lease.release().await.unwrap();
        assert!(done.version > pinned.version);
        table.append(ONE, events(ONE, last - 14..=last)).await.unwrap();
        rollups.refresh(&table, NOON).await.unwrap();
        for rollup in rollups.tables() {
            let counted = counted(rollup).await;
            assert_eq!(counted["occurred"], 2 * last as i64, "{rollup:?} in round {round}");
            assert_eq!(counted["cohort"], 2 * last as i64 / 5, "{rollup:?} in round {round}");
        }
    }
    agree(&rollups, &table, NOON).await;
}

#[tokio::test]
async fn minutes_are_kept_for_fourteen_days() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let rollups = Rollups::open(&lake(&dir)).await.unwrap();
    table.append(ONE, events(ONE, 1..=100)).await.unwrap();
    rollups.refresh(&table, NOON.plus_secs(13 * 24 * HOUR_S)).await.unwrap();
    // 2026-02-13: the 30th and 31st of January are kept, days before are not
    let days =
        "SELECT CAST(bucket_date AS VARCHAR), sum(events) FROM rollup WHERE basis = 'occurred' GROUP BY 1";
    let kept: Vec<_> = rows(&rollups.minute, days).await.into_keys().collect();
    assert_eq!(kept, ["2026-01-31"]);
    let all: Vec<_> = rows(&rollups.hourly, days).await.into_keys().collect();
    assert_eq!(all, ["2026-01-29", "2026-01-31"]);

    let later = NOON.plus_secs(15 * 24 * HOUR_S);
    let done = rollups.tidy(later).await.unwrap();
    assert!(done.files_expired > 0);
    assert!(rows(&rollups.minute, days).await.is_empty());
    assert_eq!(counted(&rollups.hourly).await, expected(100), "hours stay");
    agree(&rollups, &table, later).await;
}

#[tokio::test]
async fn many_small_files_become_one_with_the_same_sums() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let rollups = Rollups::open(&lake(&dir)).await.unwrap();
    for first in (1..=150).step_by(25) {
        table.append(ONE, events(ONE, first..=first + 24)).await.unwrap();
        rollups.refresh(&table, NOON).await.unwrap();
    }
    let before = rollups.hourly.pin().await.unwrap();
    let sums = counted(&rollups.hourly).await;
    assert_eq!(rollups.tidy(NOON).await.unwrap().files_written, 4, "today has not too many yet");
    let done = rollups.tidy(NOON.plus_secs(24 * HOUR_S)).await.unwrap();
    assert_eq!((done.files_folded, done.files_written), (12, 2));
    let after = rollups.hourly.pin().await.unwrap();
    assert_eq!(after.positions, before.positions);
    let count = |pinned: &table::PinnedRollup| pinned.table.snapshot().unwrap().log_data().num_files();
    assert!(count(&after) <= 4 && count(&before) >= 18, "{} of {} files", count(&after), count(&before));
    assert_eq!(counted(&rollups.hourly).await, sums);
    table.append(ONE, events(ONE, 151..=200)).await.unwrap();
    rollups.refresh(&table, NOON).await.unwrap();
    assert_eq!(counted(&rollups.hourly).await, expected(200));
    agree(&rollups, &table, NOON).await;
}

fn lease_ids() -> sendlake_control::id::Ids {
    sendlake_control::id::Ids {
        clock: Arc::new(sendlake_control::clock::ManualClock::new(NOON)),
        entropy: Arc::new(sendlake_control::clock::SeededEntropy::new(1)),
    }
}

/// Somebody counts the events of a day twice.
async fn double(dir: &tempfile::TempDir, rollup: &RollupTable, day: &str) {
    let pinned = rollup.pin().await.unwrap();
    let state = pinned.table.snapshot().unwrap();
    let file = state.log_data().into_iter().find(|file| file.path().contains(day)).unwrap();
    #[expect(deprecated, reason = "the one way to an action")]
    let mut add = file.add_action();
    let copy = add.path.replace(".parquet", "-copy.parquet");
    let folder = dir.path().join(rollup.grain().table_name());
    std::fs::copy(folder.join(&add.path), folder.join(&copy)).unwrap();
    add.path = copy;
    let operation = deltalake::protocol::DeltaOperation::Delete { predicate: None };
    let actions = vec![deltalake::kernel::Action::Add(add)];
    rollup.commit(&pinned, actions, &pinned.positions, operation).await.unwrap().unwrap();
}

#[tokio::test]
async fn events_that_expired_excuse_nothing_in_days_that_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let table = EventsTable::open(&store).await.unwrap();
    let rollups = Rollups::open(&store).await.unwrap();
    // As many in the days before as now: by number alone, one could be taken for the other.
    let mut rows = events(ONE, 1..=400);
    for row in rows.iter_mut().filter(|row| row.lsn > 200) {
        row.event.occurred_at = row.event.occurred_at.plus_secs(-5 * 24 * HOUR_S);
        row.event.delivered_at = row.event.delivered_at.map(|at| at.plus_secs(-5 * 24 * HOUR_S));
    }
    table.append(ONE, rows).await.unwrap();
    rollups.refresh(&table, NOON).await.unwrap();
    let lease = Lease::take(&store, "test", &lease_ids(), 60_000, 0).await.unwrap().unwrap();
    table.expire(&lease, "2026-01-29", &[], &settings(&dir), false).await.unwrap();
    for compared in rollups.verify(&table, NOON).await.unwrap() {
        assert!(compared.expired > 0, "{compared:#?}");
        assert_eq!((compared.wrong, compared.gone), (0, 0), "{compared:#?}");
    }
    for rollup in rollups.tables() {
        double(&dir, rollup, "2026-01-31").await;
    }
    for compared in rollups.verify(&table, NOON).await.unwrap() {
        assert!(compared.wrong > 10 && compared.gone == 0, "{compared:#?}");
        assert!(compared.first.iter().all(|wrong| wrong.labels.contains("2026-01-31")), "{compared:#?}");
    }
}

#[tokio::test]
async fn a_day_that_expired_cannot_have_been_counted_twice_either() {
    let dir = tempfile::tempdir().unwrap();
    let store = lake(&dir);
    let table = EventsTable::open(&store).await.unwrap();
    let rollups = Rollups::open(&store).await.unwrap();
    table.append(ONE, events(ONE, 1..=100)).await.unwrap();
    rollups.refresh(&table, NOON).await.unwrap();
    double(&dir, &rollups.hourly, "2026-01-29").await;
    let lease = Lease::take(&store, "test", &lease_ids(), 60_000, 0).await.unwrap().unwrap();
    table.expire(&lease, "2026-01-30", &[], &settings(&dir), false).await.unwrap();
    let compared = rollups.verify(&table, NOON).await.unwrap();
    assert_eq!((compared[0].wrong, compared[0].gone), (0, 0), "{compared:#?}");
    assert!(compared[1].wrong > 0 && compared[1].gone == 0, "{compared:#?}");
}

#[tokio::test]
async fn verify_names_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let rollups = Rollups::open(&lake(&dir)).await.unwrap();
    table.append(ONE, events(ONE, 1..=40)).await.unwrap();
    rollups.refresh(&table, NOON).await.unwrap();
    // Somebody takes a day out of the rollup.
    let pinned = rollups.hourly.pin().await.unwrap();
    let state = pinned.table.snapshot().unwrap();
    let file = state.log_data().into_iter().find(|file| file.path().contains("2026-01-29")).unwrap();
    let remove = deltalake::kernel::Action::Remove(file.remove_action(true));
    let operation = deltalake::protocol::DeltaOperation::Delete { predicate: None };
    rollups.hourly.commit(&pinned, vec![remove], &pinned.positions, operation).await.unwrap();

    let compared = rollups.verify(&table, NOON).await.unwrap();
    assert_eq!(compared[0].wrong, 0, "{compared:#?}");
    assert!(compared[1].wrong > 0 && compared[1].gone == 0, "{compared:#?}");
    let first = &compared[1].first[0];
    assert!(first.labels.contains("bucket_at=2026-01-29T10:00:00Z"), "{first:?}");
    assert!(first.labels.contains("tenant_id=") && first.sums.contains("events-"), "{first:?}");
}
