//! Kills, lost answers, two refreshers at once, rewrites in between.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use super::*;
use crate::testing::FlakyStore;

/// Storage that a process dies before: so many writes succeed, then none.
#[derive(Debug)]
struct Dying {
    inner: Arc<dyn ObjectStore>,
    left: AtomicUsize,
}

impl Dying {
    fn over(store: &LakeStore, writes: usize) -> LakeStore {
        let root = Arc::new(Self { inner: Arc::clone(&store.root), left: AtomicUsize::new(writes) });
        LakeStore { root, url: store.url.clone() }
    }

    fn write(&self) -> Result<()> {
        let left = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        left.map(|_| ()).map_err(|_| Error::Generic { store: "dying", source: "the process is gone".into() })
    }
}

impl fmt::Display for Dying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dying({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Dying {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.write()?;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.write()?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_refresh_that_dies_anywhere_is_made_good_by_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    Rollups::open(&lake(&dir)).await.unwrap();
    let (mut last, mut died) = (0, 0);
    for writes in 0..14 {
        table.append(ONE, events(ONE, last + 1..=last + 10)).await.unwrap();
        last += 10;
        let dying = Rollups::open(&Dying::over(&lake(&dir), writes)).await.unwrap();
        died += usize::from(dying.refresh(&table, NOON).await.is_err());
    }
    assert!((3..14).contains(&died), "it died {died} times, before and between its commits");
    let rollups = Rollups::open(&lake(&dir)).await.unwrap();
    rollups.refresh(&table, NOON).await.unwrap();
    for rollup in rollups.tables() {
        assert_eq!(counted(rollup).await, expected(last), "{rollup:?}");
    }
    agree(&rollups, &table, NOON).await;
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_not_made_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (store, flaky) = FlakyStore::over(&lake(&dir));
    let table = EventsTable::open(&lake(&dir)).await.unwrap();
    let rollups = Rollups::open(&store).await.unwrap();
    for last in [20, 40, 60] {
        table.append(ONE, events(ONE, last - 19..=last)).await.unwrap();
        flaky.lost_answers.store(2, Ordering::SeqCst);
        let done = rollups.refresh(&table, NOON).await.unwrap();
        assert_eq!(done.events, 20);
    }
    for rollup in rollups.tables() {
        assert_eq!(counted(rollup).await, expected(60), "{rollup:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn refreshers_and_tidiers_at_the_same_time_count_each_event_once() {
    let dir = tempfile::tempdir().unwrap();
    let table = Arc::new(EventsTable::open(&lake(&dir)).await.unwrap());
    let writer = {
        let table = Arc::clone(&table);
        tokio::spawn(async move {
            for first in (1..=400).step_by(25) {
                table.append(ONE, events(ONE, first..=first + 24)).await.unwrap();
            }
        })
    };
    let refreshers: Vec<_> = (0..2)
        .map(|number| {
            let (table, store) = (Arc::clone(&table), lake(&dir));
            tokio::spawn(async move {
                let rollups = Rollups::open(&store).await.unwrap();
                loop {
                    match rollups.refresh(&table, NOON).await {
                        Ok(_) | Err(LakeError::Busy { .. }) => {}
                        Err(error) => panic!("{error}"),
                    }
                    if number == 0 {
                        rollups.tidy(NOON).await.unwrap();
                    }
                    if rollups.hourly.pin().await.unwrap().positions.lsn.get(&ONE) == Some(&400) {
                        return;
                    }
                }
            })
        })
        .collect();
    writer.await.unwrap();
    for refresher in refreshers {
        refresher.await.unwrap();
    }
    let rollups = Rollups::open(&lake(&dir)).await.unwrap();
    for rollup in rollups.tables() {
        assert_eq!(counted(rollup).await, expected(400), "{rollup:?}");
    }
    agree(&rollups, &table, NOON).await;
}
