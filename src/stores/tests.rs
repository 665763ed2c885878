//! Rollups beside events, asked in a tight loop while events are logged, committed, summed and folded.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sendlake_control::clock::ManualClock;
use sendlake_control::feedback_loop::FeedbackLoop;
use sendlake_ingest::event::{Event, EventType, LoggedEvent};
use sendlake_ingest::outbox::OutboxError;
use sendlake_ingest::store::open_store;
use sendlake_ingest::writer::{LakeWriter, LakeWriterSettings};
use sendlake_query::Scope;
use sendlake_query::output::{Format, to_bytes};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;

const NOON: Timestamp = Timestamp(1_769_860_800_000_000);

/// An outbox in memory.
struct MemoryOutbox {
    incarnation: Uuid,
    rows: Mutex<Vec<LoggedEvent>>,
    last: tokio::sync::watch::Sender<u64>,
}

impl MemoryOutbox {
    fn new(number: u128) -> Arc<Self> {
        let last = tokio::sync::watch::Sender::new(0);
        Arc::new(Self { incarnation: Uuid::from_u128(number), rows: Mutex::default(), last })
    }

    fn log(&self, count: u64) {
        let mut rows = self.rows.lock().unwrap();
        let last = *self.last.borrow();
        for lsn in last + 1..=last + count {
            let id = Uuid::from_u64_pair(self.incarnation.as_u64_pair().1, lsn);
            // every seventh is two days late
            let late_s = if lsn.is_multiple_of(7) { -2 * 86_400 } else { 0 };
            let at = NOON.plus_secs(i64::try_from(lsn % 7_200).unwrap() + late_s);
            let tenant = TenantId::new("acme").unwrap();
            let event = Event::new(id, EventType::Delivered, at, tenant);
            rows.push(LoggedEvent { incarnation: self.incarnation, node_id: "n1".into(), lsn, event });
        }
        self.last.send_replace(last + count);
    }
}

#[async_trait]
impl Outbox for MemoryOutbox {
    fn incarnation(&self) -> Uuid {
        self.incarnation
    }

    fn read(&self, after_lsn: u64, max_rows: usize) -> Result<Vec<LoggedEvent>, OutboxError> {
        let rows = self.rows.lock().unwrap();
        Ok(rows.iter().filter(|row| row.lsn > after_lsn).take(max_rows).cloned().collect())
    }

    async fn wait(&self, after_lsn: u64) {
        self.last.subscribe().wait_for(|last| *last > after_lsn).await.unwrap();
    }

    async fn trim(&self, through_lsn: u64) -> Result<(), OutboxError> {
        self.rows.lock().unwrap().retain(|row| row.lsn > through_lsn);
        Ok(())
    }
}

/// So many events it was ever given.
fn logged(outbox: &MemoryOutbox) -> i64 {
    i64::try_from(*outbox.last.borrow()).unwrap()
}

struct NothingBeside;

#[async_trait]
impl Surroundings for NothingBeside {
    fn now(&self) -> Timestamp {
        NOON
    }

    async fn domains(&self) -> Result<Vec<DomainRow>, SourceError> {
        Ok(Vec::new())
    }

    async fn feedback_loops(&self) -> Result<Vec<FeedbackLoop>, SourceError> {
        Ok(Vec::new())
    }

    async fn published_quotas(&self) -> Result<Option<PublishedQuotas>, SourceError> {
        Ok(None)
    }
}

/// Until told otherwise, one of them is at work on each side.
async fn until<F: Future<Output = ()>>(over: Arc<AtomicBool>, work: impl Fn() -> F) {
    while !over.load(Ordering::Relaxed) {
        work().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn totals_of_a_rollup_never_go_back_and_never_differ_from_its_events() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path().to_str().unwrap(), &Default::default()).unwrap();
    let table = Arc::new(EventsTable::open(&store).await.unwrap());
    let outbox = MemoryOutbox::new(1);
    let source = LakeSource {
        table: table.clone(),
        outbox: Some(outbox.clone()),
        rollups: LakeRollups { store: store.clone(), opened: OnceCell::new() },
    };
    let engine =
        QueryEngine::new(Arc::new(source), Arc::new(NothingBeside), EngineLimits::default()).unwrap();

    let over = Arc::new(AtomicBool::new(false));
    let stop = CancellationToken::new();
    let settings = LakeWriterSettings { commit_interval_ms: 15, ..LakeWriterSettings::default() };
    let clock = Arc::new(ManualClock::new(NOON));
    // Another node appends to the same table, under its own incarnation.
    let other = MemoryOutbox::new(2);
    let mut writers = Vec::new();
    for spool in [outbox.clone(), other.clone()] {
        let (writer, _) = LakeWriter::new(spool, table.clone(), clock.clone(), settings);
        writers.push(tokio::spawn(writer.run(stop.clone())));
    }
    let logging = tokio::spawn(until(over.clone(), {
        let (outbox, other) = (outbox.clone(), other.clone());
        move || {
            outbox.log(13);
            other.log(5);
            tokio::time::sleep(Duration::from_millis(3))
        }
    }));
    let keeping = tokio::spawn({
        let (over, table, store) = (over.clone(), table.clone(), store.clone());
        async move {
            let rollups = Rollups::open(&store).await.unwrap();
            while !over.load(Ordering::Relaxed) {
                rollups.refresh(&table, NOON).await.unwrap();
                rollups.tidy(NOON).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });

    let sql = "SELECT (SELECT count(*) FROM events) AS events, \
               (SELECT sum(events) FROM rollup_hourly WHERE basis = 'occurred') AS hours, \
               (SELECT sum(events) FROM rollup_1m WHERE basis = 'occurred') AS minutes";
    let (mut last, mut asked) = (0_i64, 0);
    while asked < 10 {
        let answer = engine.query(&Scope::AllTenants, sql, engine.limits().query).await.unwrap();
        let answer: serde_json::Value =
            serde_json::from_slice(&to_bytes(&answer, Format::Json).unwrap()).unwrap();
        let row = &answer["rows"][0];
        let count = |name: &str| row[name].as_i64().unwrap_or(0);
        // What is asked for can only be what was accepted by then, and by now.
        let accepted = logged(&outbox) + logged(&other);
        assert_eq!((count("hours"), count("minutes")), (count("events"), count("events")), "{row}");
        assert!((last..=accepted).contains(&count("events")), "{last} before, {accepted} accepted: {row}");
        last = count("events");
        asked += 1;
    }
    over.store(true, Ordering::Relaxed);
    logging.await.unwrap();
    keeping.await.unwrap();
    stop.cancel();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    let rollups = Rollups::open(&store).await.unwrap();
    for rollup in rollups.tables() {
        let held = rollup.pin().await.unwrap().positions.lsn;
        assert!(
            held.len() == 2 && held.values().all(|lsn| *lsn > 50),
            "{rollup:?} was kept up meanwhile: {held:?}"
        );
    }
    assert!(last > 500, "{last} events");
}
