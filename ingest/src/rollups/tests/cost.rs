//! What a refresh asks of the storage: it depends on what is new, and not on what is stored.

use std::fmt;
use std::sync::Mutex;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use super::*;

/// Requests, and what they returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Asked {
    /// Reads of files of events, and octets.
    event_reads: u64,
    event_bytes: u64,
    /// Reads of anything else: files of rollups, which a refresh never reads, and log entries.
    sum_reads: u64,
    log_reads: u64,
    lists: u64,
    writes: u64,
}

#[derive(Debug)]
struct Counting {
    inner: Arc<dyn ObjectStore>,
    asked: Arc<Mutex<Asked>>,
}

impl Counting {
    fn over(store: &LakeStore) -> (LakeStore, Arc<Mutex<Asked>>) {
        let asked = Arc::new(Mutex::default());
        let root = Arc::new(Self { inner: Arc::clone(&store.root), asked: Arc::clone(&asked) });
        (LakeStore { root, url: store.url.clone() }, asked)
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counting({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Counting {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.asked.lock().unwrap().writes += 1;
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.asked.lock().unwrap().writes += 1;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let result = self.inner.get_opts(location, options).await?;
        let mut asked = self.asked.lock().unwrap();
        match location.as_ref() {
            path if path.contains("_delta_log") => asked.log_reads += 1,
            path if path.contains("/events/") => {
                asked.event_reads += 1;
                asked.event_bytes += result.range.end - result.range.start;
            }
            _ => asked.sum_reads += 1,
        }
        drop(asked);
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.asked.lock().unwrap().lists += 1;
        self.inner.list(prefix).boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.asked.lock().unwrap().lists += 1;
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.asked.lock().unwrap().lists += 1;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// What a refresh and a look whether to tidy ask for after the same new events, beside `commits` older ones of fifty
/// events each, taken in by two refreshes.
async fn asked_beside(commits: u64) -> Asked {
    let dir = tempfile::tempdir().unwrap();
    let (store, asked) = Counting::over(&lake(&dir));
    let table = EventsTable::open(&store).await.unwrap();
    let rollups = Rollups::open(&store).await.unwrap();
    for commit in 0..commits {
        table.append(ONE, events(ONE, commit * 50 + 1..=commit * 50 + 50)).await.unwrap();
        if commit == commits / 2 {
            rollups.refresh(&table, NOON).await.unwrap();
        }
    }
    rollups.refresh(&table, NOON).await.unwrap();
    rollups.tidy(NOON).await.unwrap();
    table.append(TWO, events(TWO, 1..=500)).await.unwrap();
    *asked.lock().unwrap() = Asked::default();
    let done = rollups.refresh(&table, NOON).await.unwrap();
    assert_eq!((done.events, done.from_log), (500, true));
    rollups.tidy(NOON).await.unwrap();
    assert_eq!(counted(&rollups.hourly).await["occurred"], commits as i64 * 50 + 500);
    *asked.lock().unwrap()
}

#[tokio::test]
async fn a_refresh_asks_for_what_is_new_however_much_is_stored() {
    let (few, many) = (asked_beside(2).await, asked_beside(24).await);
    assert_eq!(few, many);
    assert_eq!(few.sum_reads, 0, "{few:?}");
    assert!(few.event_reads <= 3 && few.event_bytes > 0, "{few:?}");
}
