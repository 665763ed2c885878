//! Stand-ins for tests: an outbox in memory, events with something in every column, storage that fails.

pub mod hooked;
pub mod s3;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use deltalake::DeltaTable;
use deltalake::datafusion::arrow::array::RecordBatch;
use deltalake::datafusion::prelude::SessionContext;
use object_store::path::Path;
use object_store::{Error, Result};
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use tokio::sync::watch;
use uuid::Uuid;

use crate::event::{Event, EventType, LoggedEvent};
use crate::outbox::{Outbox, OutboxError};
use crate::spill::Spill;
use crate::store::{LakeStore, open_store};
use crate::testing::hooked::{Hook, hooked};

/// 2026-01-31T12:00:00.123456Z.
pub const NOON: Timestamp = Timestamp(1_769_860_800_123_456);

pub fn lake(dir: &tempfile::TempDir) -> LakeStore {
    open_store(dir.path().to_str().unwrap(), &Default::default()).unwrap()
}

/// The system's clock, and ids from a fixed seed.
pub fn ids() -> sendlake_control::id::Ids {
    #[derive(Debug)]
    struct Wall;
    impl sendlake_control::clock::Clock for Wall {
        #[expect(clippy::disallowed_methods, reason = "files of the local store carry the system's time")]
        fn now(&self) -> Timestamp {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            Timestamp(i64::try_from(since.as_micros()).unwrap())
        }
    }
    let entropy = Arc::new(sendlake_control::clock::SeededEntropy::new(7));
    sendlake_control::id::Ids { clock: Arc::new(Wall), entropy }
}

/// Event number `lsn` of a spool. Every tenth is from the day before.
pub fn event(incarnation: Uuid, lsn: u64) -> LoggedEvent {
    let at = NOON.plus_millis(lsn as i64).plus_secs(if lsn.is_multiple_of(10) { -86_400 } else { 0 });
    let tenant = TenantId::new(if lsn.is_multiple_of(3) { "zebra" } else { "acme" }).unwrap();
    let mut event =
        Event::new(Uuid::from_u64_pair(incarnation.as_u64_pair().1, lsn), EventType::Delivered, at, tenant);
    event.message_id = Some(format!("message-{:04}", lsn * 7919 % 1000));
    event.recipient = Some(format!("person{lsn}@secret.example"));
    event.reply_text = Some(format!("250 person{lsn}@secret.example queued"));
    event.url = Some(format!("https://t.example/?to=person{lsn}@secret.example"));
    event.tags.insert("to".to_owned(), format!("person{lsn}@secret.example"));
    event.reply_code = Some(250);
    LoggedEvent { incarnation, node_id: "n1".into(), lsn, event }
}

pub fn events(incarnation: Uuid, lsns: std::ops::RangeInclusive<u64>) -> Vec<LoggedEvent> {
    lsns.map(|lsn| event(incarnation, lsn)).collect()
}

/// Runs SQL over one version of the table, as any DataFusion session would; the table is called `events`.
pub async fn query(table: &DeltaTable, sql: &str) -> Vec<RecordBatch> {
    let context = SessionContext::new();
    context.register_table("events", table.table_provider().await.unwrap()).unwrap();
    context.sql(sql).await.unwrap().collect().await.unwrap()
}

/// The LSNs that a version holds of a spool, ascending, repeats included.
pub async fn lsns(table: &DeltaTable, incarnation: Uuid) -> Vec<u64> {
    use arrow::array::{AsArray, types::Int64Type};
    let sql = format!("SELECT lsn FROM events WHERE incarnation = '{incarnation}' ORDER BY lsn");
    let batches = query(table, &sql).await;
    batches
        .iter()
        .flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().iter().map(|lsn| *lsn as u64))
        .collect()
}

/// An outbox in memory.
pub struct MemoryOutbox {
    incarnation: Uuid,
    rows: Mutex<Vec<LoggedEvent>>,
    last_lsn: watch::Sender<u64>,
    spill: Option<Arc<Spill>>,
    first_lsn: Option<u64>,
}

impl MemoryOutbox {
    pub fn new(incarnation: Uuid) -> Arc<Self> {
        Self::starting_after(incarnation, 0)
    }

    pub fn starting_after(incarnation: Uuid, last_lsn: u64) -> Arc<Self> {
        let last_lsn = watch::Sender::new(last_lsn);
        Arc::new(Self { incarnation, rows: Mutex::default(), last_lsn, spill: None, first_lsn: None })
    }

    /// One whose log began after `last_lsn` under this identity, and that spills to a folder.
    pub fn begun_after(incarnation: Uuid, last_lsn: u64, dir: &tempfile::TempDir) -> Arc<Self> {
        let spill = Some(Arc::new(Spill::open(dir.path().to_owned()).unwrap()));
        let (first_lsn, last_lsn) = (Some(last_lsn + 1), watch::Sender::new(last_lsn));
        Arc::new(Self { incarnation, rows: Mutex::default(), last_lsn, spill, first_lsn })
    }

    /// One that spills to a folder.
    pub fn spilling(incarnation: Uuid, dir: &tempfile::TempDir) -> Arc<Self> {
        Self::begun_after(incarnation, 0, dir)
    }

    /// Logs `count` more events.
    pub fn log(&self, count: u64) {
        let mut rows = self.rows.lock().unwrap();
        let last = *self.last_lsn.borrow();
        rows.extend(events(self.incarnation, last + 1..=last + count));
        self.last_lsn.send_replace(last + count);
    }

    /// Changes an event that waits.
    pub fn change(&self, lsn: u64, change: impl FnOnce(&mut Event)) {
        let mut rows = self.rows.lock().unwrap();
        change(&mut rows.iter_mut().find(|row| row.lsn == lsn).unwrap().event);
    }

    pub fn len(&self) -> usize {
        self.rows.lock().unwrap().len()
    }
}

#[async_trait]
impl Outbox for MemoryOutbox {
    fn incarnation(&self) -> Uuid {
        self.incarnation
    }

    fn read(&self, after_lsn: u64, max_rows: usize) -> std::result::Result<Vec<LoggedEvent>, OutboxError> {
        let rows = self.rows.lock().unwrap();
        Ok(rows.iter().filter(|row| row.lsn > after_lsn).take(max_rows).cloned().collect())
    }

    async fn wait(&self, after_lsn: u64) {
        self.last_lsn.subscribe().wait_for(|last| *last > after_lsn).await.unwrap();
    }

    fn last_lsn(&self) -> Option<u64> {
        Some(*self.last_lsn.borrow())
    }

    fn first_lsn(&self) -> Option<u64> {
        self.first_lsn
    }

    fn spill(&self) -> Option<&Arc<Spill>> {
        self.spill.as_ref()
    }

    async fn trim(&self, through_lsn: u64) -> std::result::Result<(), OutboxError> {
        self.rows.lock().unwrap().retain(|row| row.lsn > through_lsn);
        Ok(())
    }
}

/// Storage that fails on demand.
#[derive(Debug, Default)]
pub struct FlakyStore {
    /// So many of the next commits are written, yet answered with an error.
    pub lost_answers: AtomicUsize,
    /// So many of the next writes of any kind fail without effect.
    pub failed_writes: AtomicUsize,
    /// So many of the next listings fail.
    pub failed_lists: AtomicUsize,
    /// From the next lost answer on, every listing fails.
    pub lists_fail_after_lost_answer: AtomicBool,
}

impl FlakyStore {
    /// The same lake, through storage that can be told to fail.
    pub fn over(store: &LakeStore) -> (LakeStore, Arc<Self>) {
        hooked(store, Self::default())
    }

    fn take(counter: &AtomicUsize) -> bool {
        counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }
}

impl Hook for FlakyStore {
    fn before_write(&self, _: &Path) -> Result<()> {
        fails_if(Self::take(&self.failed_writes))
    }

    fn after_write(&self, location: &Path) -> Result<()> {
        let lost = location.extension() == Some("json") && Self::take(&self.lost_answers);
        if lost && self.lists_fail_after_lost_answer.load(Ordering::SeqCst) {
            self.failed_lists.store(usize::MAX, Ordering::SeqCst);
        }
        fails_if(lost)
    }

    fn before_list(&self) -> Result<()> {
        fails_if(Self::take(&self.failed_lists))
    }
}

/// A failure that looks like one of a bucket.
pub fn fails_if(it: bool) -> Result<()> {
    match it {
        true => Err(Error::Generic { store: "test", source: "the bucket is out to lunch".into() }),
        false => Ok(()),
    }
}

/// A Delta table `name` whose log says that it has read a spool up to an LSN.
pub async fn reading_table(store: &LakeStore, name: &str, spool: Uuid, lsn: i64) -> DeltaTable {
    use deltalake::kernel::Transaction;
    use deltalake::kernel::schema::{DataType, StructField};
    use deltalake::kernel::transaction::CommitProperties;
    use deltalake::operations::create::CreateBuilder;
    CreateBuilder::new()
        .with_log_store(crate::table::log_store(store, name).unwrap())
        .with_table_name(name)
        .with_columns([StructField::nullable("hour", DataType::LONG)])
        .with_commit_properties(
            CommitProperties::default().with_application_transaction(Transaction::new(spool, lsn)),
        )
        .await
        .unwrap()
}
