//! Copies of a spool: restored from a backup, made anew under an old name, and two at once. Nothing is lost or repeated.

use std::path::PathBuf;

use super::*;

const QUICK: LakeWriterSettings = LakeWriterSettings {
    commit_interval_ms: 600_000,
    commit_rows_max: 1_000,
    retry_ms_max: 20,
    spill_rows: 40,
    spill_grace_ms: 60_000,
};

struct World {
    _dir: tempfile::TempDir,
    data: PathBuf,
    copy: PathBuf,
    lake: PathBuf,
    ids: Ids,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        Self { data: at("data"), copy: at("copy"), lake: at("lake"), ids: ids(5).1, _dir: dir }
    }

    async fn open(&self, data: &Path) -> Node {
        opened(config(data, &self.lake), &self.ids).await
    }

    async fn log(&self, node: &Node, events: usize) {
        node.spool.log(&deliveries(&self.ids, events)).await.unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if entry.file_type().unwrap().is_file() {
            // what a running node removes meanwhile is not in the copy
            let copied = std::fs::copy(entry.path(), to.join(entry.file_name()));
            assert!(copied.is_ok() || !entry.path().exists(), "{copied:?}");
        }
    }
}

async fn flush(node: &Node) {
    let writer = Writer::start(node, QUICK);
    writer.handle.flush().await.unwrap();
    writer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_spool_goes_on_under_a_new_identity() {
    let world = World::new();
    let node = with_tenant(world.open(&world.data).await).await;
    world.log(&node, 10).await;
    drop(node);
    copy(&world.data, &world.copy);
    let node = world.open(&world.data).await;
    world.log(&node, 10).await;
    flush(&node).await;
    let first = node.spool.incarnation();
    drop(node);

    let node = world.open(&world.copy).await;
    assert_ne!(node.spool.incarnation(), first);
    assert_eq!(total(&node).await, (20, 20), "what the copy held is in the lake, and counts once");
    world.log(&node, 5).await;
    flush(&node).await;
    assert_eq!(total(&node).await, (25, 25));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_made_anew_under_an_old_name_starts_its_own_log() {
    let world = World::new();
    let node = with_tenant(world.open(&world.data).await).await;
    world.log(&node, 10).await;
    flush(&node).await;
    drop(node);
    std::fs::remove_dir_all(world.data.join("spool")).unwrap();
    let node = world.open(&world.data).await;
    world.log(&node, 4).await;
    flush(&node).await;
    assert_eq!(total(&node).await, (14, 14));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_copies_at_once_the_second_is_stopped_and_its_events_are_kept() {
    let world = World::new();
    let one = with_tenant(world.open(&world.data).await).await;
    world.log(&one, 10).await;
    flush(&one).await;
    drop(one);
    copy(&world.data, &world.copy);
    let (one, two) = (world.open(&world.data).await, world.open(&world.copy).await);
    assert_eq!(one.spool.incarnation(), two.spool.incarnation());
    let writer = Writer::start(&two, QUICK);
    writer.handle.flush().await.unwrap();
    world.log(&one, 30).await;
    // As many, and more: numbers alone would say that all of these are in the lake.
    world.log(&two, 60).await;
    flush(&one).await;
    assert!(writer.handle.flush().await.is_err());
    let error = writer.task.await.unwrap().unwrap_err();
    assert!(matches!(error, LakeWriterError::Forked(_)), "{error}");
    assert!(error.to_string().contains("Start this one again"), "{error}");
    drop(two);

    let two = world.open(&world.copy).await;
    assert_ne!(two.spool.incarnation(), one.spool.incarnation());
    assert_eq!(total(&two).await, (100, 100), "hot ones of the copy counted once");
    flush(&two).await;
    world.log(&one, 5).await;
    flush(&one).await;
    assert_eq!(total(&two).await, (105, 105));
    assert_eq!(two.spool.reader().counts().unwrap().outbox_rows, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn spilled_events_of_two_copies_are_all_kept() {
    let world = World::new();
    let one = with_tenant(world.open(&world.data).await).await;
    world.log(&one, 10).await;
    flush(&one).await;
    drop(one);
    copy(&world.data, &world.copy);
    // The copy runs through an outage of its own, and spills.
    let two = world.open(&world.copy).await;
    world.log(&two, 30).await;
    let rows = two.spool.reader().events(10, 20).unwrap();
    let file = two.spool.reader().spill().write(&rows).unwrap().unwrap();
    two.spool.trim(file.last_lsn).await.unwrap();
    drop(two);
    let one = world.open(&world.data).await;
    world.log(&one, 15).await;
    flush(&one).await;

    let two = world.open(&world.copy).await;
    assert_ne!(two.spool.incarnation(), one.spool.incarnation());
    assert_eq!(total(&two).await, (55, 55));
    flush(&two).await;
    assert_eq!(total(&one).await, (55, 55));
    assert_eq!(two.spool.reader().spill().waiting_rows(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_restored_without_its_spilled_files_repeats_none_of_them() {
    let world = World::new();
    let node = with_tenant(world.open(&world.data).await).await;
    world.log(&node, 10).await;
    drop(node);
    copy(&world.data, &world.copy);
    let node = world.open(&world.data).await;
    world.log(&node, 20).await;
    let rows = node.spool.reader().events(0, 25).unwrap();
    let file = node.spool.reader().spill().write(&rows).unwrap().unwrap();
    node.spool.trim(file.last_lsn).await.unwrap();
    drop(node);
    // Only the store is put back; the files of later hours are still there.
    let store = world.data.join("spool/spool.redb");
    std::fs::remove_file(&store).unwrap();
    std::fs::copy(world.copy.join("spool/spool.redb"), store).unwrap();
    let node = world.open(&world.data).await;
    world.log(&node, 3).await;
    assert_eq!(total(&node).await, (28, 28));
    flush(&node).await;
    assert_eq!(total(&node).await, (28, 28));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_that_is_not_where_it_was_is_never_made_anew_unasked() {
    let world = World::new();
    let node = with_tenant(world.open(&world.data).await).await;
    world.log(&node, 10).await;
    flush(&node).await;
    world.log(&node, 3).await;
    let first = node.spool.incarnation();
    drop(node);
    let elsewhere = world.lake.with_file_name("elsewhere");
    std::fs::rename(&world.lake, &elsewhere).unwrap();

    let open = |expected| opened_with(config(&world.data, &world.lake), &world.ids, expected);
    let refused = format!("{:#}", open(Expected::OurLake).await.err().unwrap());
    assert!(refused.contains("10 events") && refused.contains("--new-lake"), "{refused}");
    assert!(!world.lake.join("events").exists(), "nothing was made");

    std::fs::remove_dir_all(&world.lake).unwrap();
    std::fs::rename(&elsewhere, &world.lake).unwrap();
    let refused = format!("{:#}", open(Expected::NewLake).await.err().unwrap());
    assert!(refused.contains("a lake at") && refused.contains("without --new-lake"), "{refused}");
    let node = world.open(&world.data).await;
    assert_eq!((node.spool.incarnation(), total(&node).await), (first, (13, 13)));
    drop(node);

    std::fs::remove_dir_all(&world.lake).unwrap();
    let node = open(Expected::NewLake).await.unwrap();
    assert_ne!(node.spool.incarnation(), first);
    flush(&node).await;
    assert_eq!(total(&node).await, (3, 3), "what was not handed over begins the new lake");
}
