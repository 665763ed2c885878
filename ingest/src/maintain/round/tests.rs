//! A round leaves the same rows in better shape, and says what stood in its way.

use std::sync::Mutex;

use sendlake_control::clock::{ManualClock, SeededEntropy};
use sendlake_control::id::Ids;
use uuid::Uuid;

use crate::quotas::QuotasTable;
use crate::testing::{NOON, event, events, lake, lsns};

use super::*;

const SPOOL: Uuid = Uuid::from_u128(5);

struct Setup {
    _dirs: (tempfile::TempDir, tempfile::TempDir),
    maintainer: Maintainer,
    lake_dir: std::path::PathBuf,
}

async fn setup(retention_days: u32) -> Setup {
    let dirs = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = lake(&dirs.0);
    let events = Arc::new(EventsTable::open(&store).await.unwrap());
    QuotasTable::open(&store).await.unwrap();
    let settings = MaintenanceSettings {
        plan: PlanSettings { target_file_bytes: 64 << 20, small_files_min: 8, settle_ms: 0 },
        rewrite: RewriteSettings {
            memory_bytes: 0,
            spill_dir: dirs.1.path().to_owned(),
            target_file_bytes: 64 << 20,
        },
        retention_days,
        vacuum_grace_ms: 86_400_000,
        log_retention_ms: 7 * 86_400_000,
        ignored_readers: Vec::new(),
    };
    let lake_dir = dirs.0.path().to_owned();
    Setup { _dirs: dirs, maintainer: Maintainer { store, events, settings }, lake_dir }
}

/// `days` after the noon of the events.
async fn lease(setup: &Setup, days: i64) -> Lease {
    let clock = Arc::new(ManualClock::new(NOON.plus_secs(days * 86_400)));
    let ids = Ids { clock, entropy: Arc::new(SeededEntropy::new(days as u64)) };
    Lease::take(&setup.maintainer.store, "test", &ids, 60_000, 0).await.unwrap().unwrap()
}

async fn scatter(setup: &Setup, commits: u64) {
    for commit in 0..commits {
        setup
            .maintainer
            .events
            .append(SPOOL, events(SPOOL, commit * 20 + 1..=commit * 20 + 20))
            .await
            .unwrap();
    }
}

async fn held(setup: &Setup) -> usize {
    lsns(&setup.maintainer.events.pin(None).await.unwrap().table, SPOOL).await.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_joins_checkpoints_and_keeps_every_row() {
    let setup = setup(0).await;
    scatter(&setup, 25).await;
    let lease = lease(&setup, 400).await;
    let told = Mutex::new(Vec::new());
    let steps =
        setup.maintainer.round(&lease, &|step| told.lock().unwrap().push(step.clone())).await.unwrap();
    assert_eq!(*told.lock().unwrap(), steps);
    let done: Vec<_> = steps.iter().map(|step| (step.step, step.files)).collect();
    assert_eq!(
        done,
        [("compacted", 25), ("compacted", 25), ("checkpointed", 0), ("cleaned", 27), ("vacuumed", 50)]
    );
    assert_eq!(held(&setup).await, 500);
    let report = setup.maintainer.status(lease.now()).await.unwrap();
    let table = &report.tables[0];
    assert_eq!((table.table.as_str(), table.version, table.files, table.rows), ("events", 27, 2, 500));
    assert_eq!(
        (table.first_day.as_deref(), table.last_day.as_deref()),
        (Some("2026-01-30"), Some("2026-01-31"))
    );
    assert_eq!((table.checkpoint_version, table.oldest_entry), (Some(27), Some(27)));
    assert_eq!(table.problem, None);
    assert_eq!(report.spools[0].committed_lsn, 500);
    assert!(report.lease_held && report.next.is_empty());
    assert_eq!(
        setup.maintainer.round(&lease, &|_| ()).await.unwrap(),
        [],
        "a second round has nothing to do"
    );
}

/// Cuts a file of a day short. Returns its name.
fn damage(setup: &Setup, day: &str) -> String {
    let day = setup.lake_dir.join(format!("events/event_date={day}"));
    let victim = std::fs::read_dir(&day).unwrap().next().unwrap().unwrap().path();
    let bytes = std::fs::read(&victim).unwrap();
    std::fs::write(&victim, &bytes[..bytes.len() - 100]).unwrap();
    victim.file_name().unwrap().to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_named_and_those_beside_it_are_joined() {
    let setup = setup(0).await;
    scatter(&setup, 10).await;
    let victims = [damage(&setup, "2026-01-30"), damage(&setup, "2026-01-31")];
    let lease = lease(&setup, 400).await;
    let steps = setup.maintainer.round(&lease, &|_| ()).await.unwrap();
    for (victim, day) in victims.iter().zip(["2026-01-30", "2026-01-31"]) {
        let of_day = |kind: &str| {
            steps.iter().find(|step| step.step == kind && step.day.as_deref() == Some(day)).unwrap()
        };
        let left = of_day("left");
        assert!(left.detail.contains(victim) && left.detail.contains("restore"), "{}", left.detail);
        assert_eq!((left.files, of_day("compacted").files), (1, 9), "{steps:?}");
        assert!(setup.lake_dir.join(format!("events/event_date={day}/{victim}")).exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_leaves_a_day_that_it_cannot_read_and_takes_the_others() {
    let setup = setup(30).await;
    scatter(&setup, 3).await;
    let victim = damage(&setup, "2026-01-30");
    let lease = lease(&setup, 400).await;
    let steps = setup.maintainer.expire(&lease, false).await.unwrap();
    let told: Vec<_> = steps.iter().map(|step| (step.step, step.day.as_deref().unwrap())).collect();
    assert_eq!(told, [("left", "2026-01-30"), ("expired", "2026-01-31")]);
    assert!(steps[0].detail.contains(&victim) && steps[0].detail.contains("restore"), "{:?}", steps[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_vacuumed_even_when_nothing_can_be_joined() {
    let mut setup = setup(0).await;
    scatter(&setup, 10).await;
    let lease = lease(&setup, 400).await;
    setup.maintainer.round(&lease, &|_| ()).await.unwrap();
    // As on a full disk: there is no room for sorting, and orphans are what takes it.
    for lsn in 201..=212 {
        setup.maintainer.events.append(SPOOL, vec![event(SPOOL, lsn)]).await.unwrap();
    }
    let day = setup.lake_dir.join("events/event_date=2026-01-31");
    let live = std::fs::read_dir(&day).unwrap().next().unwrap().unwrap().path();
    let orphan = day.join("part-00000-11111111-2222-4333-8444-555555555555-c000.zstd.parquet");
    std::fs::copy(live, &orphan).unwrap();
    let blocked = setup.lake_dir.join("events/_no_folder");
    std::fs::write(&blocked, b"").unwrap();
    setup.maintainer.settings.rewrite.spill_dir = blocked;
    let told = Mutex::new(Vec::new());
    let ended = setup.maintainer.round(&lease, &|step| told.lock().unwrap().push(step.step)).await;
    let said = ended.unwrap_err().to_string();
    assert!(said.contains("_no_folder") && said.contains("room"), "{said}");
    let told = told.lock().unwrap();
    assert!(told.contains(&"vacuumed") && !told.contains(&"compacted"), "{told:?}");
    assert!(!orphan.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_waits_for_tables_that_read_and_ignores_those_it_is_told_to() {
    let mut setup = setup(30).await;
    scatter(&setup, 2).await;
    // A table of rollups, as far as retention is concerned: another table with positions in its log.
    let rollups = crate::testing::reading_table(&setup.maintainer.store, "rollup_hourly", SPOOL, 35).await;
    let first = lease(&setup, 40).await;
    let left = setup.maintainer.expire(&first, false).await.unwrap();
    assert!(left.iter().all(|step| step.step == "left" && step.detail.contains("rollup_hourly")), "{left:?}");
    assert_eq!(held(&setup).await, 40);
    let report = setup.maintainer.status(first.now()).await.unwrap();
    assert_eq!((report.readers[0].lsn, report.readers[0].behind), (35, 5));

    drop(rollups);
    setup.maintainer.settings.ignored_readers = vec!["rollup_hourly".into()];
    let gone = setup.maintainer.expire(&first, false).await.unwrap();
    assert!(gone.iter().all(|step| step.step == "expired"), "{gone:?}");
    assert_eq!(held(&setup).await, 0);
    // A late event of an expired day is taken, and goes with the next round.
    setup.maintainer.events.append(SPOOL, vec![event(SPOOL, 41)]).await.unwrap();
    assert_eq!(setup.maintainer.expire(&first, true).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_log_stops_maintenance_and_shows_in_the_status() {
    let setup = setup(0).await;
    scatter(&setup, 10).await;
    std::fs::remove_file(setup.lake_dir.join("events/_delta_log/00000000000000000004.json")).unwrap();
    let lease = lease(&setup, 1).await;
    let said = setup.maintainer.keep_log(&lease, "events", false).await.unwrap_err().to_string();
    assert!(said.contains("no entry 4"), "{said}");
    let report = setup.maintainer.status(lease.now()).await.unwrap();
    assert!(report.tables[0].problem.as_deref().unwrap().contains("no entry 4"));
    assert_eq!(report.tables[1].problem, None, "the other table is looked at all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_maintainer_spilled_that_died_after_its_commit_goes_with_the_next_round() {
    let setup = setup(0).await;
    let dead = lease(&setup, 400).await;
    let left = setup.maintainer.settings.rewrite.spill_dir.join(format!("rewrite-{}", dead.next_mark()));
    std::fs::create_dir_all(&left).unwrap();
    dead.release().await.unwrap();
    let lease = lease(&setup, 401).await;
    setup.maintainer.compact(&lease, None, true, &mut |_| {}).await.unwrap();
    assert!(left.exists(), "a dry run removes nothing");
    setup.maintainer.compact(&lease, None, false, &mut |_| {}).await.unwrap();
    assert!(!left.exists(), "although there is nothing to join");
}
