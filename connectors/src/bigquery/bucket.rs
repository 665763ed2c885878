//! A staged file to BigQuery by way of a bucket: streamed into an object, which goes when the batch is in.

use std::path::Path;
use std::sync::Arc;

use object_store::buffered::BufWriter;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path as ObjectPath;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

use super::auth::Auth;
use super::settings::{Settings, split_bucket};
use crate::target::TargetError;

/// Of each part: what is held in memory, twice.
const PART_BYTES: usize = 8 << 20;
const PARTS_AT_ONCE: usize = 2;

/// `gs://bucket/prefix`.
#[derive(Debug)]
pub struct Bucket {
    store: Arc<dyn ObjectStore>,
    name: String,
    prefix: String,
}

impl Bucket {
    /// `None` when files are uploaded to BigQuery itself.
    pub fn of(settings: &Settings, auth: &Auth) -> Result<Option<Self>, TargetError> {
        let Some((name, prefix)) = settings.bucket.as_deref().and_then(split_bucket) else { return Ok(None) };
        let mut builder =
            GoogleCloudStorageBuilder::new().with_bucket_name(name).with_credentials(Arc::new(auth.clone()));
        if let Some(endpoint) = &settings.storage_endpoint {
            builder = builder
                .with_base_url(endpoint.as_str().trim_end_matches('/'))
                .with_client_options(ClientOptions::new().with_allow_http(true));
        }
        let built = builder.build();
        let store = built.map_err(|error| TargetError::Refused(format!("gs://{name}: {error}")))?;
        Ok(Some(Self { store: Arc::new(store), name: name.to_owned(), prefix: prefix.to_owned() }))
    }

    /// Writes the file; returns the object's URI.
    pub async fn put(&self, object: &str, path: &Path) -> Result<String, TargetError> {
        let local = |error: std::io::Error| TargetError::Local(format!("{}: {error}", path.display()));
        let mut file = File::open(path).await.map_err(local)?;
        let place = self.place(object);
        let mut writer = BufWriter::with_capacity(self.store.clone(), place.clone(), PART_BYTES)
            .with_max_concurrency(PARTS_AT_ONCE);
        let failed = |error: std::io::Error| match error.downcast::<object_store::Error>() {
            Ok(error) => self.failed(&error),
            Err(error) => TargetError::Away(format!("gs://{}/{place}: {error}", self.name)),
        };
        tokio::io::copy(&mut file, &mut writer).await.map_err(failed)?;
        writer.shutdown().await.map_err(failed)?;
        Ok(format!("gs://{}/{place}", self.name))
    }

    /// Removes an object; one that is not there is as good.
    pub async fn remove(&self, object: &str) -> Result<(), TargetError> {
        match self.store.delete(&self.place(object)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn place(&self, object: &str) -> ObjectPath {
        ObjectPath::from_iter(self.prefix.split('/').chain(object.split('/')).filter(|part| !part.is_empty()))
    }

    fn failed(&self, error: &object_store::Error) -> TargetError {
        let name = &self.name;
        match error {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                TargetError::Credentials(format!(
                    "gs://{name}: not allowed; the account that loads needs roles/storage.objectUser on the bucket"
                ))
            }
            object_store::Error::NotFound { .. } => TargetError::Refused(format!(
                "gs://{name}: there is no such bucket; make it, or mend `bucket`"
            )),
            error => TargetError::Away(format!("gs://{name}: {error}")),
        }
    }
}
