//! Runs against a destination in memory that fails on demand: whatever happens, each event is there once.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use parking_lot::Mutex as Lock;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sendlake_control::clock::{ManualClock, SeededEntropy};
use sendlake_control::id::TenantId;
use sendlake_control::secret::MasterKey;
use sendlake_ingest::erase::forms::AddressForms;
use sendlake_ingest::erase::{Erase, Whose};
use sendlake_ingest::event::{Event, EventType, LoggedEvent};
use sendlake_ingest::maintain::reader::registered;
use sendlake_ingest::maintain::rewrite::RewriteSettings;
use sendlake_ingest::store::open_store;

use super::*;
use crate::target::{Bounds, HourTally};

const SPOOL: Uuid = Uuid::from_u128(7);
const NOON: Timestamp = Timestamp(1_769_860_800_000_000);

/// LSN, when, and the recipient.
type Held = (i64, i64, Option<String>);

/// A destination in memory.
#[derive(Default)]
struct Memory {
    /// By `event_id`.
    rows: Lock<BTreeMap<String, Held>>,
    /// What the next loads do instead of ending well.
    faults: Lock<VecDeque<Fault>>,
    jobs: Lock<Vec<String>>,
    prepared: Lock<u32>,
}

#[derive(Clone, Copy)]
enum Fault {
    /// Nothing is done.
    Away,
    /// Everything is done, and nobody is told.
    AnswerLost,
    JobFailed,
    Schema,
}

#[async_trait]
impl Target for Memory {
    async fn prepare(&self, _: &Mapping) -> Result<Vec<String>, TargetError> {
        *self.prepared.lock() += 1;
        Ok(Vec::new())
    }

    async fn load(&self, batch: &StagedBatch, log: &dyn JobLog) -> Result<Loaded, TargetError> {
        let job = format!("{}-{}", batch.batch_id, batch.attempt);
        if batch.job_id.as_ref() != Some(&job) {
            log.submitting(&job).await?;
        }
        self.jobs.lock().push(job.clone());
        let fault = self.faults.lock().pop_front();
        match fault {
            Some(Fault::Away) => return Err(TargetError::Away("nobody answers".into())),
            Some(Fault::JobFailed) => return Err(TargetError::JobFailed("internalError".into())),
            Some(Fault::Schema) => return Err(TargetError::Schema("column lsn is gone".into())),
            _ => {}
        }
        let mut added = 0;
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&batch.file).unwrap()).unwrap();
        for rows in reader.build().unwrap() {
            let rows = rows.unwrap();
            let ids = rows.column_by_name("event_id").unwrap().as_string::<i32>();
            let lsns = rows.column_by_name("lsn").unwrap().as_primitive::<Int64Type>();
            let times =
                rows.column_by_name("occurred_at").unwrap().as_primitive::<TimestampMicrosecondType>();
            let recipients = rows.column_by_name("recipient").map(|column| column.as_string::<i32>().clone());
            for row in 0..rows.num_rows() {
                let id = ids.value(row).to_owned();
                let recipient =
                    recipients.as_ref().filter(|all| all.is_valid(row)).map(|all| all.value(row).to_owned());
                let value = (lsns.value(row), times.value(row), recipient);
                let mut held = self.rows.lock();
                match batch.change {
                    Change::Delete => added += u64::from(held.remove(&id).is_some()),
                    Change::Replace => added += u64::from(held.insert(id, value).is_none()),
                    Change::Add if held.contains_key(&id) => {}
                    Change::Add => {
                        held.insert(id, value);
                        added += 1;
                    }
                }
            }
        }
        match fault {
            Some(Fault::AnswerLost) => Err(TargetError::Away("the connection was closed".into())),
            _ => Ok(Loaded { rows: Some(added), job_id: Some(job) }),
        }
    }

    async fn tally(&self, _: &Mapping, bounds: &Bounds) -> Result<Vec<HourTally>, TargetError> {
        let hour_us = 3_600 * Timestamp::SECOND;
        let mut hours: BTreeMap<i64, HourTally> = BTreeMap::new();
        let through = i64::try_from(bounds.positions[&SPOOL]).unwrap();
        for (lsn, at, _) in self.rows.lock().values() {
            if *at < bounds.from.0 || *at >= bounds.to.0 || *lsn > through {
                continue;
            }
            let hour = at.div_euclid(hour_us) * hour_us;
            let tally = hours.entry(hour).or_insert(HourTally {
                hour: Timestamp(hour),
                rows: 0,
                events: 0,
                lsn_sum: 0,
            });
            tally.rows += 1;
            tally.events += 1;
            tally.lsn_sum += lsn.unsigned_abs();
        }
        Ok(hours.into_values().collect())
    }
}

pub(crate) struct Bed {
    pub dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    pub exporter: Exporter,
    target: Arc<Memory>,
    next_lsn: u64,
}

impl Bed {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(NOON));
        let exporter = exporter(&dir, "one", &clock).await;
        Self { dir, clock, exporter, target: Arc::default(), next_lsn: 1 }
    }

    /// So many more events in the lake, an hour apart after each thousand.
    pub async fn log(&mut self, count: u64) {
        let rows = (self.next_lsn..self.next_lsn + count).map(event).collect();
        self.exporter.lake.append(SPOOL, rows).await.unwrap();
        self.next_lsn += count;
    }

    pub fn connector(&self, change: impl FnOnce(&mut ExportSettings)) -> Connector {
        let mut settings = ExportSettings::default();
        change(&mut settings);
        let mapping = Arc::new(settings.mapping().unwrap());
        Connector { name: "dwh".into(), settings, mapping, target: self.target.clone() }
    }

    async fn run(&self) -> Result<Ran, ExportError> {
        self.exporter.run(&self.connector(|_| {})).await
    }

    #[track_caller]
    fn holds(&self, count: u64) {
        let lsns: Vec<i64> = self.target.rows.lock().values().map(|(lsn, ..)| *lsn).collect();
        let wanted: Vec<i64> = (1..=i64::try_from(count).unwrap()).collect();
        let mut sorted = lsns;
        sorted.sort_unstable();
        assert_eq!(sorted, wanted);
    }
}

async fn exporter(dir: &tempfile::TempDir, name: &str, clock: &Arc<ManualClock>) -> Exporter {
    let ids = Ids { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(3)) };
    let home = dir.path().join(name);
    std::fs::create_dir_all(&home).unwrap();
    let master = MasterKey::load_or_create(&home.join("key"), ids.entropy.as_ref()).unwrap();
    let control = Arc::new(ControlStore::open(&home.join("control.db"), master, ids.clone()).await.unwrap());
    let store = open_store(dir.path().join("lake").to_str().unwrap(), &BTreeMap::new()).unwrap();
    let lake = Arc::new(EventsTable::open(&store).await.unwrap());
    let staging = home.join("export");
    Exporter { control, lake, store, staging, holder: name.to_owned(), ids, prepared: Mutex::default() }
}

fn event(lsn: u64) -> LoggedEvent {
    let at = NOON.plus_secs(i64::try_from(lsn).unwrap() * 4);
    let tenant = TenantId::new(if lsn.is_multiple_of(3) { "zebra" } else { "acme" }).unwrap();
    let mut event = Event::new(Uuid::from_u64_pair(9, lsn), EventType::Delivered, at, tenant);
    event.recipient = Some(format!("person{lsn}@x.example"));
    event.tags.insert("n".to_owned(), lsn.to_string());
    LoggedEvent { incarnation: SPOOL, node_id: "n1".into(), lsn, event }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_new_is_loaded_once_and_retention_waits_for_the_rest() {
    let mut bed = Bed::new().await;
    bed.log(300).await;
    let ran = bed.run().await.unwrap();
    assert_eq!((ran.batches, ran.rows), (1, 300));
    bed.holds(300);
    assert_eq!(bed.run().await.unwrap().batches, 0, "nothing is new");
    bed.log(50).await;
    assert_eq!(bed.run().await.unwrap().rows, 50);
    bed.holds(350);
    let readers = registered(&bed.exporter.store).await.unwrap();
    assert!(readers.iter().any(|reader| reader.reader == "export-dwh" && reader.has_read(SPOOL, 350)));
    assert_eq!(*bed.target.prepared.lock(), 1);
    let left = std::fs::read_dir(bed.exporter.staging.join("dwh")).unwrap().count();
    assert_eq!(left, 1, "staged files go, the lock stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_of_the_size_asked_for() {
    let mut bed = Bed::new().await;
    bed.log(2_000).await;
    let connector = bed.connector(|settings| settings.batch_bytes = 8_000);
    let ran = bed.exporter.run(&connector).await.unwrap();
    assert!(ran.batches >= 5, "{ran:?}");
    bed.holds(2_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_each_event_is_there_once() {
    let mut bed = Bed::new().await;
    bed.log(100).await;
    *bed.target.faults.lock() = [Fault::Away, Fault::AnswerLost].into();
    for tried in 1..=2 {
        let error = bed.run().await.unwrap_err();
        assert_eq!(error.kind(), "away");
        let state = bed.exporter.control.export_connector("dwh").await.unwrap();
        assert_eq!((state.failures, state.error_kind.as_deref()), (tried, Some("away")));
        assert!(state.retry_at.unwrap() > NOON.0);
        bed.log(10).await;
    }
    let ran = bed.run().await.unwrap();
    assert_eq!((ran.batches, ran.rows), (2, 120));
    bed.holds(120);
    assert_eq!(bed.exporter.control.export_connector("dwh").await.unwrap().error, None);
    let jobs = bed.target.jobs.lock().clone();
    assert!(
        jobs[0] == jobs[1] && jobs[1] == jobs[2] && jobs[2] != jobs[3],
        "one name for one batch: {jobs:?}"
    );
    // A job that failed for good gets another name at once.
    bed.log(10).await;
    bed.target.faults.lock().push_back(Fault::JobFailed);
    bed.run().await.unwrap();
    bed.holds(130);
    let jobs = bed.target.jobs.lock().clone();
    assert!(jobs[jobs.len() - 2].ends_with("-1") && jobs[jobs.len() - 1].ends_with("-2"), "{jobs:?}");
    // And a table that was changed by hand is looked at again.
    bed.log(10).await;
    bed.target.faults.lock().push_back(Fault::Schema);
    assert_eq!(bed.run().await.unwrap_err().kind(), "schema");
    bed.run().await.unwrap();
    assert_eq!(*bed.target.prepared.lock(), 2);
    bed.holds(140);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staged_file_that_is_lost_or_cut_is_made_again() {
    let mut bed = Bed::new().await;
    bed.log(100).await;
    for damage in [true, false] {
        bed.target.faults.lock().push_back(Fault::Away);
        bed.run().await.unwrap_err();
        let file =
            std::fs::read_dir(bed.exporter.staging.join("dwh")).unwrap().next().unwrap().unwrap().path();
        match damage {
            true => std::fs::write(&file, b"PAR1").unwrap(),
            false => std::fs::remove_file(&file).unwrap(),
        }
    }
    bed.run().await.unwrap();
    bed.holds(100);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_installations_the_second_waits_and_goes_on_where_the_first_was() {
    let mut bed = Bed::new().await;
    bed.log(100).await;
    bed.run().await.unwrap();
    let other = exporter(&bed.dir, "two", &bed.clock).await;
    let lease =
        Lease::take_export(&bed.exporter.store, "dwh", "one", &bed.exporter.ids, LEASE_MS).await.unwrap();
    assert_eq!(other.run(&bed.connector(|_| {})).await.unwrap_err().kind(), "busy");
    lease.unwrap().release().await.unwrap();
    bed.log(10).await;
    assert_eq!(other.run(&bed.connector(|_| {})).await.unwrap().rows, 10);
    bed.holds(110);
    assert_eq!(bed.run().await.unwrap().rows, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_may_begin_now_and_get_the_past_by_backfill() {
    let mut bed = Bed::new().await;
    bed.log(100).await;
    let connector = bed.connector(|settings| settings.start = Start::Now);
    assert_eq!(bed.exporter.run(&connector).await.unwrap().rows, 0);
    bed.log(10).await;
    assert_eq!(bed.exporter.run(&connector).await.unwrap().rows, 10);
    let control = &bed.exporter.control;
    let id = control.add_export_backfill("cli", "dwh", ("2026-01-30", "2026-02-01"), false).await.unwrap();
    let mut rows = 0;
    for _ in 0..20 {
        rows += bed.exporter.run_backfill(&connector).await.unwrap().rows;
        if control.export_backfills(None).await.unwrap()[0].outcome.is_some() {
            break;
        }
    }
    assert_eq!(rows, 110, "rows that are there already are offered again, and stay");
    bed.holds(110);
    let (done, open) = control.export_sums("dwh", Some(&id)).await.unwrap();
    assert_eq!((done.rows_staged, open.batches), (110, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_is_found_in_its_hour() {
    let mut bed = Bed::new().await;
    bed.log(2_000).await;
    bed.run().await.unwrap();
    let connector = bed.connector(|_| {});
    let verify = async || bed.exporter.verify(&connector, "2026-01-31", "2026-01-31").await.unwrap();
    let whole = verify().await;
    assert_eq!((whole.rows, whole.hours, whole.differences.len()), (2_000, 3, 0));
    let lost = bed.target.rows.lock().keys().next().unwrap().clone();
    bed.target.rows.lock().remove(&lost);
    let one = verify().await;
    assert_eq!((one.differences.len(), one.differences[0].says().as_str()), (1, "1 rows are missing"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_and_columns_stay_behind_that_are_not_to_leave() {
    let mut bed = Bed::new().await;
    bed.log(9).await;
    let connector = bed.connector(|settings| {
        settings.tenants = vec!["zebra".into()];
        settings.exclude = vec!["recipient".into()];
    });
    assert_eq!(bed.exporter.run(&connector).await.unwrap().rows, 3);
    assert!(bed.target.rows.lock().values().all(|(lsn, _, recipient)| lsn % 3 == 0 && recipient.is_none()));
    let verified = bed.exporter.verify(&connector, "2026-01-31", "2026-01-31").await.unwrap();
    assert_eq!((verified.rows, verified.differences.len()), (3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_goes_from_the_destination_too() {
    let mut bed = Bed::new().await;
    bed.log(200).await;
    bed.run().await.unwrap();
    bed.log(20).await;
    // A batch is staged, with the person in it, when the erasure comes.
    bed.target.faults.lock().push_back(Fault::Away);
    bed.run().await.unwrap_err();
    let erase = Erase {
        store: bed.exporter.store.clone(),
        events: bed.exporter.lake.clone(),
        whose: Whose::Recipient { forms: AddressForms::new("person205@x.example").unwrap(), tenant: None },
        settings: RewriteSettings {
            memory_bytes: 64 << 20,
            spill_dir: bed.dir.path().join("sort"),
            target_file_bytes: 64 << 20,
        },
        ids: bed.exporter.ids.clone(),
        holder: "test".into(),
    };
    assert!(erase.run().await.unwrap().found_any());
    let other = AddressForms::new("person7@x.example").unwrap();
    let erase = Erase { whose: Whose::Recipient { forms: other, tenant: None }, ..erase };
    assert!(erase.run().await.unwrap().found_any());
    bed.run().await.unwrap();
    let held: Vec<String> =
        bed.target.rows.lock().values().filter_map(|(.., recipient)| recipient.clone()).collect();
    assert_eq!(held.len(), 218);
    assert!(
        !held.iter().any(|address| ["person205@x.example", "person7@x.example"].contains(&address.as_str()))
    );
    let verified = bed.exporter.verify(&bed.connector(|_| {}), "2026-01-31", "2026-01-31").await.unwrap();
    assert_eq!((verified.rows, verified.differences), (218, vec![]));
    assert_eq!(bed.run().await.unwrap().batches, 0, "and is done");
}
