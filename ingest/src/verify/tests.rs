//! Each thing that can break is broken by itself, and told with its place and what to do.

use std::path::{Path, PathBuf};

use deltalake::kernel::Action;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::protocol::{DeltaOperation, SaveMode};
use uuid::Uuid;

use super::*;
use crate::testing::{MemoryOutbox, NOON, events, lake};
use crate::writer::{LakeWriter, LakeWriterSettings};

const SPOOL: Uuid = Uuid::from_u128(0x5e4d);
const OTHER: Uuid = Uuid::from_u128(0x07e4);

/// Three commits of two spools, and what is left in the outbox of the first.
async fn sound(dir: &tempfile::TempDir) -> Arc<MemoryOutbox> {
    let table = EventsTable::open(&lake(dir)).await.unwrap();
    table.append(SPOOL, events(SPOOL, 1..=40)).await.unwrap();
    table.append(OTHER, events(OTHER, 1..=5)).await.unwrap();
    table.append(SPOOL, events(SPOOL, 41..=60)).await.unwrap();
    let outbox = MemoryOutbox::starting_after(SPOOL, 55);
    outbox.log(10);
    outbox
}

async fn verify(dir: &tempfile::TempDir, outbox: &Arc<MemoryOutbox>, depth: Depth) -> VerifyReport {
    let outbox: Arc<dyn Outbox> = outbox.clone();
    let scratch = dir.path().join("_scratch");
    Verify { store: lake(dir), outbox: Some(outbox), depth, scratch, now: NOON }.run().await
}

/// The errors and warnings, as a person would read them.
fn told(report: &VerifyReport) -> Vec<String> {
    let grave = report.findings.iter().filter(|finding| finding.severity > Severity::Note);
    grave.map(|f| format!("{} | {} | {} | {}", f.check, f.place, f.what, f.next)).collect()
}

#[track_caller]
fn says(report: &VerifyReport, words: &[&str]) {
    let told = told(report);
    assert!(!report.agrees(), "nothing was found");
    assert!(told.iter().any(|line| words.iter().all(|word| line.contains(word))), "{words:?} in {told:#?}");
}

/// Parquet files of the table, oldest name first.
fn parquet(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for day in std::fs::read_dir(dir.path().join("events")).unwrap() {
        let day = day.unwrap().path();
        if day.is_dir() && !day.ends_with("_delta_log") {
            found.extend(std::fs::read_dir(day).unwrap().map(|file| file.unwrap().path()));
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn entry(dir: &tempfile::TempDir, version: u64) -> PathBuf {
    dir.path().join(format!("events/_delta_log/{version:020}.json"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_lake_agrees_and_the_books_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = sound(&dir).await;
    for depth in [Depth::Quick, Depth::Whole] {
        let report = verify(&dir, &outbox, depth).await;
        assert_eq!(told(&report), Vec::<String>::new(), "{depth:?}");
        assert_eq!((report.tables[0].version, report.tables[0].rows), (3, 65));
        let spool = report.spools.iter().find(|spool| spool.incarnation == SPOOL.to_string()).unwrap();
        assert_eq!((spool.committed_lsn, spool.removed, spool.waiting), (60, 0, Some(5)));
        assert_eq!(spool.rows, (depth == Depth::Whole).then_some(60));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_takes_the_place_of_entries_that_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = sound(&dir).await;
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let pinned = table.pin(None).await.unwrap();
    deltalake::protocol::checkpoints::create_checkpoint(&pinned.table, None).await.unwrap();
    for version in 0..=2 {
        std::fs::remove_file(entry(&dir, version)).unwrap();
    }
    let report = verify(&dir, &outbox, Depth::Whole).await;
    assert_eq!(told(&report), Vec::<String>::new());
    assert_eq!(report.spools.len(), 2, "spools are known from the checkpoint");
    let file = parquet(&dir).remove(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x10;
    std::fs::write(&file, bytes).unwrap();
    says(&verify(&dir, &outbox, Depth::Whole).await, &[name(&file), "SHA-256"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = sound(&dir).await;
    let file = parquet(&dir).remove(0);
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    for depth in [Depth::Quick, Depth::Whole] {
        says(&verify(&dir, &outbox, depth).await, &["file", name(&file), "cut short", "restore"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_file_is_named_with_the_rows_that_went_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = sound(&dir).await;
    let file = parquet(&dir).remove(0);
    std::fs::remove_file(&file).unwrap();
    for depth in [Depth::Quick, Depth::Whole] {
        says(&verify(&dir, &outbox, depth).await, &[name(&file), "is gone", "rows", "restore"]);
    }
    says(&verify(&dir, &outbox, Depth::Whole).await, &["spool", "rows are missing", "absent numbers"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_flipped_byte_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = sound(&dir).await;
    let file = parquet(&dir).remove(0);
    let whole = std::fs::read(&file).unwrap();
    for part in 0..24 {
        let mut bytes = whole.clone();
        let place = part * whole.len() / 24;
        bytes[place] ^= 1 << (part % 8);
        std::fs::write(&file, bytes).unwrap();
        let report = verify(&dir, &outbox, Depth::Whole).await;
        says(&report, &["file", name(&file), "SHA-256", "restore"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_added_twice_repeats_its_events() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = sound(&dir).await;
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let pinned = table.pin(None).await.unwrap();
    let state = pinned.table.snapshot().unwrap();
    let file = state.log_data().into_iter().next().unwrap();
    #[expect(deprecated, reason = "the one way to an action")]
    let mut add = file.add_action();
    let copy = add.path.replace(".parquet", "-copy.parquet");
    let folder = dir.path().join("events");
    std::fs::copy(folder.join(&add.path), folder.join(&copy)).unwrap();
    add.path = copy.clone();
    let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
    CommitBuilder::from(CommitProperties::default())
        .with_actions(vec![Action::Add(add)])
        .build(Some(state), table.log_store.clone(), operation)
        .await
        .unwrap();
    let report = verify(&dir, &outbox, Depth::Whole).await;
    says(&report, &["event_id", "more than once", &copy]);
    says(&report, &["spool", "carry a number that another row carries"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_log_and_a_torn_entry_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = sound(&dir).await;
    let whole = std::fs::read(entry(&dir, 2)).unwrap();
    std::fs::remove_file(entry(&dir, 2)).unwrap();
    says(
        &verify(&dir, &outbox, Depth::Quick).await,
        &["log", "00000000000000000002.json", "hole", "restore"],
    );
    std::fs::write(entry(&dir, 2), &whole[..whole.len() / 2]).unwrap();
    says(&verify(&dir, &outbox, Depth::Quick).await, &["log", "cannot be opened"]);
    std::fs::write(entry(&dir, 2), whole).unwrap();
    assert!(verify(&dir, &outbox, Depth::Whole).await.agrees());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_end_leaves_a_gap_before_the_outbox() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = sound(&dir).await;
    std::fs::remove_file(entry(&dir, 3)).unwrap();
    let report = verify(&dir, &outbox, Depth::Quick).await;
    says(&report, &["spool", "events 41 to 55", "neither in the lake", "restored to an older version"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_things_are_warned_of_and_do_not_contradict() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = sound(&dir).await;
    std::fs::write(dir.path().join("notes.txt"), b"mine").unwrap();
    std::fs::write(dir.path().join("events/export.csv"), b"a,b").unwrap();
    std::fs::create_dir(dir.path().join("events/_symlink_format_manifest")).unwrap();
    std::fs::write(dir.path().join("events/_symlink_format_manifest/manifest"), b"s3://x").unwrap();
    std::fs::write(dir.path().join("events/event_date=2026-01-31/part-left.parquet"), b"PAR1").unwrap();
    let report = verify(&dir, &outbox, Depth::Whole).await;
    assert!(report.agrees());
    let told = told(&report);
    for name in ["notes.txt", "export.csv"] {
        assert!(told.iter().any(|line| line.starts_with("foreign") && line.contains(name)), "{told:?}");
    }
    assert!(!told.iter().any(|line| line.contains("manifest")), "{told:?}");
    let note = report.findings.iter().find(|finding| finding.check == "orphan").unwrap();
    assert!(note.what.contains("part-left.parquet"), "{note:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_of_one_spool_contradict() {
    let dir = tempfile::tempdir().unwrap();
    let _ = sound(&dir).await;
    let outbox = MemoryOutbox::starting_after(SPOOL, 50);
    outbox.log(12);
    outbox.change(55, |event| event.event_id = Uuid::from_u128(0xdead));
    let report = verify(&dir, &outbox, Depth::Whole).await;
    says(&report, &["number 55", "two copies of one spool"]);
    let behind = MemoryOutbox::starting_after(SPOOL, 30);
    says(&verify(&dir, &behind, Depth::Quick).await, &["through 60", "ends at 30", "older copy"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_that_may_hold_an_address_are_found_in_files_and_in_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = sound(&dir).await;
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let pinned = table.pin(None).await.unwrap();
    let state = pinned.table.snapshot().unwrap();
    let file = parquet(&dir).remove(0);
    let batch = crate::event::to_batch(&events(Uuid::from_u128(0xf0e), 1..=3)).unwrap();
    let day = batch.schema().index_of("event_date").unwrap();
    let mut batch = batch;
    batch.remove_column(day);
    let foreign = file.with_file_name("part-foreign.parquet");
    let mut out =
        parquet::arrow::ArrowWriter::try_new(std::fs::File::create(&foreign).unwrap(), batch.schema(), None)
            .unwrap();
    out.write(&batch).unwrap();
    out.close().unwrap();
    #[expect(deprecated, reason = "the one way to an action")]
    let mut add = state.log_data().into_iter().next().unwrap().add_action();
    let folder = foreign.parent().unwrap().file_name().unwrap().to_str().unwrap();
    add.path = format!("{folder}/part-foreign.parquet");
    add.size = i64::try_from(std::fs::metadata(&foreign).unwrap().len()).unwrap();
    add.partition_values = [("event_date".to_owned(), folder.split('=').nth(1).map(str::to_owned))].into();
    add.stats = Some(r#"{"numRecords":3,"minValues":{"recipient":"person1@secret.example"}}"#.to_owned());
    add.tags = None;
    let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
    CommitBuilder::from(CommitProperties::default())
        .with_actions(vec![Action::Add(add)])
        .build(Some(state), table.log_store.clone(), operation)
        .await
        .unwrap();
    let report = verify(&dir, &outbox, Depth::Quick).await;
    says(&report, &["statistics", "part-foreign.parquet", "recipient"]);
    says(&report, &["statistics", "_delta_log", "recipient", "outlive"]);
    let report = verify(&dir, &outbox, Depth::Whole).await;
    says(&report, &["spool", "carries number 3", "committed through 0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_that_is_not_there_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let outbox = MemoryOutbox::new(SPOOL);
    says(&verify(&dir, &outbox, Depth::Quick).await, &["no events table", "storage.lake_url"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_begins_above_one_balances_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    table.append(SPOOL, events(SPOOL, 31..=50)).await.unwrap();
    table.append(SPOOL, events(SPOOL, 51..=60)).await.unwrap();
    let outbox = MemoryOutbox::starting_after(SPOOL, 60);
    let report = verify(&dir, &outbox, Depth::Whole).await;
    assert_eq!(told(&report), Vec::<String>::new());
    assert_eq!((report.spools[0].rows, report.spools[0].removed), (Some(30), 30));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spilled_file_that_was_moved_away_is_missed_before_and_after_the_rest_is_committed() {
    let (dir, spool) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let outbox = MemoryOutbox::begun_after(SPOOL, 0, &spool);
    outbox.log(50);
    let spill = outbox.spill().unwrap();
    let first = spill.write(&outbox.read(0, 20).unwrap()).unwrap().unwrap();
    outbox.trim(20).await.unwrap();
    let away = dir.path().join("_away.parquet");
    std::fs::rename(&first.path, &away).unwrap();
    let table = Arc::new(EventsTable::open(&lake(&dir)).await.unwrap());
    says(&verify(&dir, &outbox, Depth::Quick).await, &["spool", "events 1 to 20", "neither in the lake"]);

    let stop = tokio_util::sync::CancellationToken::new();
    let clock = Arc::new(sendlake_control::clock::ManualClock::new(NOON));
    let (writer, handle) = LakeWriter::new(outbox.clone(), table, clock, LakeWriterSettings::default());
    let running = tokio::spawn(writer.run(stop.clone()));
    assert_eq!(handle.flush().await.unwrap().lsn, 50, "what is there goes its way");
    for depth in [Depth::Quick, Depth::Whole] {
        let report = verify(&dir, &outbox, depth).await;
        says(&report, &["spool", "events 1 to 20", "moved away", "keep it", ".missing"]);
    }
    // Put back, it stays: nothing else has these events.
    std::fs::rename(&away, &first.path).unwrap();
    handle.flush().await.unwrap();
    spill.sweep(std::time::Duration::ZERO).await;
    assert!(first.path.exists());
    std::fs::remove_file(&spill.missing().unwrap()[0].path).unwrap();
    stop.cancel();
    running.await.unwrap().unwrap();
    assert!(verify(&dir, &outbox, Depth::Whole).await.agrees(), "the loss was accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_under_a_new_identity_begins_where_it_begins() {
    let (dir, spool) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let outbox = MemoryOutbox::begun_after(SPOOL, 30, &spool);
    outbox.log(5);
    EventsTable::open(&lake(&dir)).await.unwrap();
    let report = verify(&dir, &outbox, Depth::Whole).await;
    assert_eq!(told(&report), Vec::<String>::new());
}
