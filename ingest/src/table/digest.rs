//! The SHA-256 of each file of a table, taken while it is written and kept as a tag of its `add` action. Parquet
//! pages carry no checksum here and most buckets show none, so this is what tells a flipped bit from a value.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use deltalake::kernel::Add;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

/// The tag's name in an `add` action; its value is 64 lower-case hexadecimal digits, as `sha256sum` prints them.
pub const SHA256_TAG: &str = "sha256";

/// What was written through a watched store, by path.
#[derive(Clone, Debug, Default)]
pub struct Digests(Arc<Mutex<HashMap<Path, String>>>);

impl Digests {
    /// The same store; the digest of everything written through it is remembered.
    pub fn watch(&self, store: Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> {
        Arc::new(Watched { inner: store, digests: self.clone() })
    }

    /// Tags files that were written through a watched store with their digests.
    pub fn tag(&self, adds: &mut [Add]) {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for add in adds {
            let path = Path::parse(&add.path).unwrap_or_else(|_| Path::from(add.path.as_str()));
            if let Some(digest) = known.get(&path) {
                add.tags.get_or_insert_default().insert(SHA256_TAG.to_owned(), Some(digest.clone()));
            }
        }
    }

    fn remember(&self, path: Path, context: Context) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(path, hex(context));
    }
}

/// The digest of bytes at hand, in the tag's form.
pub fn sha256(bytes: &[u8]) -> String {
    let mut context = Context::new(&SHA256);
    context.update(bytes);
    hex(context)
}

/// The digest of an object in a store, read in pieces.
pub async fn sha256_of(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<String> {
    let mut context = Context::new(&SHA256);
    let mut pieces = store.get(path).await?.into_stream();
    while let Some(piece) = pieces.try_next().await? {
        context.update(&piece);
    }
    Ok(hex(context))
}

fn hex(context: Context) -> String {
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Debug)]
struct Watched {
    inner: Arc<dyn ObjectStore>,
    digests: Digests,
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (watched)", self.inner)
    }
}

#[async_trait]
impl ObjectStore for Watched {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let mut context = Context::new(&SHA256);
        payload.iter().for_each(|chunk| context.update(chunk));
        let result = self.inner.put_opts(location, payload, opts).await?;
        self.digests.remember(location.clone(), context);
        Ok(result)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = self.inner.put_multipart_opts(location, opts).await?;
        let context = Some(Context::new(&SHA256));
        Ok(Box::new(WatchedUpload { upload, context, path: location.clone(), digests: self.digests.clone() }))
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

/// An upload in parts. They are handed over in the order of the file, even where they travel at the same time.
struct WatchedUpload {
    upload: Box<dyn MultipartUpload>,
    context: Option<Context>,
    path: Path,
    digests: Digests,
}

impl fmt::Debug for WatchedUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WatchedUpload({})", self.path)
    }
}

#[async_trait]
impl MultipartUpload for WatchedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        if let Some(context) = &mut self.context {
            data.iter().for_each(|chunk| context.update(chunk));
        }
        self.upload.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.upload.complete().await?;
        if let Some(context) = self.context.take() {
            self.digests.remember(self.path.clone(), context);
        }
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.upload.abort().await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn one_put_and_many_parts_of_the_same_bytes_have_the_digest_of_the_file() {
        let digests = Digests::default();
        let store = digests.watch(Arc::new(InMemory::new()));
        let (whole, parts) = (Path::from("a=1/whole"), Path::from("a=1/parts"));
        store.put(&whole, PutPayload::from_static(b"abc")).await.unwrap();
        let mut upload = store.put_multipart(&parts).await.unwrap();
        upload.put_part(PutPayload::from_static(b"a")).await.unwrap();
        upload.put_part(PutPayload::from_static(b"bc")).await.unwrap();
        upload.complete().await.unwrap();
        let add = |path: &Path| Add { path: path.to_string(), ..Add::default() };
        let mut adds = [add(&whole), add(&parts), add(&Path::from("a=1/unknown"))];
        digests.tag(&mut adds);
        // FIPS 180-2, appendix B.1
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let tag = |add: &Add| add.tags.as_ref().and_then(|tags| tags.get(SHA256_TAG).cloned()).flatten();
        assert_eq!((tag(&adds[0]).as_deref(), tag(&adds[1]).as_deref()), (Some(abc), Some(abc)));
        assert_eq!(tag(&adds[2]), None);
        assert_eq!(sha256(b"abc"), abc);
    }
}
