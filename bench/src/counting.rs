//! A store that counts what is asked of it, as a bucket would be asked: ranges that lie close together are one request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};
use sendlake_ingest::store::LakeStore;
use serde::Serialize;

/// Requests so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Requests {
    /// Reads of Parquet files, and what they returned.
    pub data_reads: u64,
    pub data_bytes: u64,
    /// Reads and listings of Delta's log, and what the reads returned.
    pub log_reads: u64,
    pub log_bytes: u64,
    pub log_lists: u64,
}

impl Requests {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            data_reads: self.data_reads - before.data_reads,
            data_bytes: self.data_bytes - before.data_bytes,
            log_reads: self.log_reads - before.log_reads,
            log_bytes: self.log_bytes - before.log_bytes,
            log_lists: self.log_lists - before.log_lists,
        }
    }
}

#[derive(Debug)]
pub(crate) struct CountingStore {
    inner: Arc<dyn ObjectStore>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    data_reads: AtomicU64,
    data_bytes: AtomicU64,
    log_reads: AtomicU64,
    log_bytes: AtomicU64,
    log_lists: AtomicU64,
}

impl CountingStore {
    /// The same lake, with its requests counted. Its URL gets a scheme of its own: for `file` the query engine has a
    /// store already, which would not count.
    pub(crate) fn around(store: &LakeStore) -> anyhow::Result<(LakeStore, Arc<Self>)> {
        let counting = Arc::new(Self { inner: Arc::clone(&store.root), counts: Counts::default() });
        let root: Arc<dyn ObjectStore> = counting.clone();
        let url = format!("counted://{}", store.url.path()).parse()?;
        Ok((LakeStore { root, url }, counting))
    }

    pub(crate) fn requests(&self) -> Requests {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Requests {
            data_reads: read(&self.counts.data_reads),
            data_bytes: read(&self.counts.data_bytes),
            log_reads: read(&self.counts.log_reads),
            log_bytes: read(&self.counts.log_bytes),
            log_lists: read(&self.counts.log_lists),
        }
    }
}

impl fmt::Display for CountingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CountingStore({})", self.inner)
    }
}

/// `get_ranges` is left to the trait's default, which is what the clients of buckets use too.
#[async_trait]
impl ObjectStore for CountingStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let head = options.head;
        let result = self.inner.get_opts(location, options).await?;
        let bytes = if head { 0 } else { result.range.end - result.range.start };
        let (reads, total) = if location.extension() == Some("parquet") && !is_log(location) {
            (&self.counts.data_reads, &self.counts.data_bytes)
        } else {
            (&self.counts.log_reads, &self.counts.log_bytes)
        };
        reads.fetch_add(1, Ordering::Relaxed);
        total.fetch_add(bytes, Ordering::Relaxed);
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counts.log_lists.fetch_add(1, Ordering::Relaxed);
        in_order(self.inner.list(prefix))
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counts.log_lists.fetch_add(1, Ordering::Relaxed);
        in_order(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.counts.log_lists.fetch_add(1, Ordering::Relaxed);
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}

/// Buckets list by name, and whoever reads a log from one counts on it; folders do not.
fn in_order(listed: BoxStream<'static, Result<ObjectMeta>>) -> BoxStream<'static, Result<ObjectMeta>> {
    let sorted = async move {
        let mut listed: Vec<_> = listed.try_collect().await?;
        listed.sort_by(|a, b| a.location.cmp(&b.location));
        Ok::<_, object_store::Error>(futures::stream::iter(listed.into_iter().map(Ok)))
    };
    sorted.try_flatten_stream().boxed()
}

fn is_log(location: &Path) -> bool {
    location.parts().any(|part| part.as_ref() == "_delta_log")
}
