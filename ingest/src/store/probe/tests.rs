//! A bucket that can hold a lake is told from one that cannot.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutResult, Result,
};
use url::Url;

use super::*;

/// A store that answers each conditional write as told.
#[derive(Debug)]
struct Stubborn {
    inner: InMemory,
    answer: fn(&Path) -> Option<Error>,
}

impl fmt::Display for Stubborn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stubborn")
    }
}

#[async_trait]
impl ObjectStore for Stubborn {
    async fn put_opts(&self, location: &Path, payload: PutPayload, _: PutOptions) -> Result<PutResult> {
        match (self.answer)(location) {
            Some(error) => Err(error),
            // Whatever was asked, it is overwritten.
            None => self.inner.put_opts(location, payload, PutOptions::default()).await,
        }
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
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
}

fn bucket(root: Arc<dyn ObjectStore>) -> LakeStore {
    LakeStore { root, url: Url::parse("s3://mail-lake/pro%20d/").unwrap() }
}

async fn answer(answer: fn(&Path) -> Option<Error>) -> String {
    let store = bucket(Arc::new(Stubborn { inner: InMemory::new(), answer }));
    store.probe().await.unwrap_err().to_string()
}

fn says(text: &'static str) -> Option<Error> {
    Some(Error::Generic { store: "S3", source: text.into() })
}

#[tokio::test]
async fn a_good_bucket_is_asked_again_and_again() {
    let root = Arc::new(InMemory::new());
    for _ in 0..3 {
        bucket(root.clone()).probe().await.unwrap();
    }
    assert!(root.head(&Path::from("pro d/_sendlake/probe")).await.is_ok());
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused_each_time() {
    let store = bucket(Arc::new(Stubborn { inner: InMemory::new(), answer: |_| None }));
    for _ in 0..2 {
        let message = store.probe().await.unwrap_err().to_string();
        assert!(message.contains("If-None-Match") && message.contains("s3://mail-lake"), "{message}");
    }
    assert!(
        answer(|_| Some(Error::NotImplemented { operation: "put".into(), implementer: "S3".into() }))
            .await
            .contains("If-None-Match")
    );
}

#[tokio::test]
async fn each_refusal_says_what_to_do() {
    let denied = answer(|path| {
        Some(Error::PermissionDenied { path: path.to_string(), source: "403 AccessDenied".into() })
    });
    for (message, expected) in [
        (denied.await, "allow them to list the bucket"),
        (answer(|_| says("404 <Code>NoSuchBucket</Code>")).await, "there is no such bucket"),
        (
            answer(|_| says("403 <Code>SignatureDoesNotMatch</Code>")).await,
            "does not accept these credentials",
        ),
        (
            answer(|_| says("PUT http://169.254.169.254/latest/api/token: timeout")).await,
            "no credentials were found",
        ),
    ] {
        assert!(message.contains(expected), "{expected}: {message}");
    }
}

#[tokio::test]
async fn an_outage_is_no_refusal() {
    let store = bucket(Arc::new(Stubborn { inner: InMemory::new(), answer: |_| says("503 SlowDown") }));
    let error = store.probe().await.unwrap_err();
    assert!(matches!(error, StoreError::Away { .. }), "{error}");
}
