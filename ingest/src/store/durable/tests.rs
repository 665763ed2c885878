//! What a reader of the folder may and may not see.

use futures::TryStreamExt;
use object_store::ObjectStoreExt;

use super::*;

fn at(dir: &tempfile::TempDir, name: &str) -> Path {
    Path::from_absolute_path(dir.path().join(name)).unwrap()
}

async fn read(store: &DurableLocal, path: &Path) -> Vec<u8> {
    store.get(path).await.unwrap().bytes().await.unwrap().to_vec()
}

async fn names(store: &DurableLocal, dir: &tempfile::TempDir) -> Vec<String> {
    let prefix = Path::from_absolute_path(dir.path()).unwrap();
    let metas: Vec<ObjectMeta> = store.list(Some(&prefix)).try_collect().await.unwrap();
    let mut names: Vec<String> =
        metas.iter().map(|meta| meta.location.filename().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn create() -> PutOptions {
    PutOptions::from(PutMode::Create)
}

#[tokio::test]
async fn of_racing_creators_exactly_one_wins_and_its_content_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = DurableLocal::new();
    for round in 0..20 {
        let target = at(&dir, &format!("new/{round}.json"));
        let racers = (0..8u8).map(|racer| {
            let (store, target) = (store.clone(), target.clone());
            tokio::spawn(async move {
                (racer, store.put_opts(&target, PutPayload::from(vec![racer; 64]), create()).await)
            })
        });
        let mut winners = Vec::new();
        for finished in futures::future::join_all(racers).await {
            match finished.unwrap() {
                (racer, Ok(_)) => winners.push(racer),
                (_, Err(error)) => assert!(matches!(error, Error::AlreadyExists { .. }), "{error}"),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(read(&store, &target).await, vec![winners[0]; 64]);
    }
    assert_eq!(std::fs::read_dir(dir.path().join("new")).unwrap().count(), 20, "no stage is left behind");
}

#[tokio::test]
async fn parts_are_invisible_until_the_upload_completes() {
    let dir = tempfile::tempdir().unwrap();
    let store = DurableLocal::new();
    let target = at(&dir, "part.parquet");
    let mut upload = store.put_multipart(&target).await.unwrap();
    let (first, second) = (upload.put_part("abc".into()), upload.put_part("def".into()));
    second.await.unwrap();
    first.await.unwrap();
    assert!(store.get(&target).await.is_err());
    assert!(names(&store, &dir).await.is_empty(), "a staged file is not listed");
    upload.complete().await.unwrap();
    assert_eq!(read(&store, &target).await, b"abcdef");
    assert_eq!(names(&store, &dir).await, ["part.parquet"]);
}

#[tokio::test]
async fn an_abandoned_upload_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = DurableLocal::new();
    let mut upload = store.put_multipart(&at(&dir, "a")).await.unwrap();
    upload.put_part("x".into()).await.unwrap();
    drop(upload);
    let mut upload = store.put_multipart(&at(&dir, "b")).await.unwrap();
    upload.abort().await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn what_a_crash_left_staged_is_not_listed_and_not_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("0.json#1"), b"half a li").unwrap();
    let store = DurableLocal::new();
    assert!(names(&store, &dir).await.is_empty());
    store.put_opts(&at(&dir, "0.json"), "whole".into(), create()).await.unwrap();
    assert_eq!(names(&store, &dir).await, ["0.json"]);
    assert_eq!(read(&store, &at(&dir, "0.json")).await, b"whole");
}

#[tokio::test]
async fn overwriting_replaces_the_whole_object() {
    let dir = tempfile::tempdir().unwrap();
    let store = DurableLocal::new();
    let target = at(&dir, "_last_checkpoint");
    store.put(&target, "a long first version".into()).await.unwrap();
    store.put(&target, "second".into()).await.unwrap();
    assert_eq!(read(&store, &target).await, b"second");
    assert_eq!(names(&store, &dir).await, ["_last_checkpoint"]);
}

#[tokio::test]
async fn after_a_failed_folder_sync_nothing_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let store = DurableLocal::new();
    store.put(&at(&dir, "a"), "1".into()).await.unwrap();
    store.seal(&dir.path().join("gone/a")).unwrap_err();
    let message = store.get(&at(&dir, "a")).await.unwrap_err().to_string();
    assert!(message.contains("failed sync") && message.contains("gone"), "{message}");
    assert!(store.put(&at(&dir, "b"), "1".into()).await.is_err());
}
