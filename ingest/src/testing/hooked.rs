//! A real storage that asks before each request, and tells after it.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use crate::store::LakeStore;

/// What a test does around requests. Deleting, copying and renaming go through unasked.
pub trait Hook: fmt::Debug + Send + Sync + 'static {
    /// Before something is written; an error keeps it from being so.
    fn before_write(&self, _location: &Path) -> Result<()> {
        Ok(())
    }

    /// After an object was written in one request; an error is what the writer gets to hear instead.
    fn after_write(&self, _location: &Path) -> Result<()> {
        Ok(())
    }

    /// After `octets` of an object were asked for.
    fn after_read(&self, _location: &Path, _octets: u64) {}

    /// Before a listing; an error is all that comes back.
    fn before_list(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct Hooked<H> {
    inner: Arc<dyn ObjectStore>,
    hook: Arc<H>,
}

/// The same lake, with a hook around its requests.
pub fn hooked<H: Hook>(store: &LakeStore, hook: H) -> (LakeStore, Arc<H>) {
    let hook = Arc::new(hook);
    let root = Arc::new(Hooked { inner: Arc::clone(&store.root), hook: Arc::clone(&hook) });
    (LakeStore { root, url: store.url.clone() }, hook)
}

impl<H: Hook> fmt::Display for Hooked<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} over {}", self.hook, self.inner)
    }
}

#[async_trait]
impl<H: Hook> ObjectStore for Hooked<H> {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.hook.before_write(location)?;
        let result = self.inner.put_opts(location, payload, opts).await?;
        self.hook.after_write(location)?;
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.hook.before_write(location)?;
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let result = self.inner.get_opts(location, options).await?;
        self.hook.after_read(location, result.range.end - result.range.start);
        Ok(result)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.hook.before_list() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.hook.before_list() {
            Ok(()) => self.inner.list_with_offset(prefix, offset),
            Err(error) => futures::stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.hook.before_list()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
