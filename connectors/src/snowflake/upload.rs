//! The staged file on its way: into the bucket that the external stage names, or into an internal stage. Streamed in parts:
//! memory does not grow with the file. The name is the batch's, so that whoever tries again writes the same over the same.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::buffered::BufWriter;
use object_store::client::StaticCredentialProvider;
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use sendlake_control::clock::Clock;
use sendlake_ingest::store::{LakeStore, open_store_by};
use tokio::io::AsyncWriteExt as _;
use tokio_util::io::ReaderStream;

use super::client::Client;
use super::session::{self, StageInfo};
use super::settings::Settings;
use super::statements::{Names, file_name};
use crate::secret::SecretSource;
use crate::target::{StagedBatch, TargetError};

/// Bytes of one part of an upload; two are under way at a time.
const PART_BYTES: usize = 8 << 20;

/// By which way files come.
pub(super) enum Upload {
    /// The bucket behind an external stage.
    Bucket(LakeStore),
    /// A stage of Snowflake's own.
    Internal(Arc<Client>),
}

impl Upload {
    pub async fn open(
        settings: &Settings,
        connector: &str,
        secrets: &dyn SecretSource,
        clock: &Arc<dyn Clock>,
        client: &Arc<Client>,
    ) -> Result<Self, TargetError> {
        let Some(bucket) = &settings.bucket else {
            return Ok(Self::Internal(client.clone()));
        };
        let mut options = settings.options.clone();
        for (key, secret) in &settings.option_secrets {
            let value =
                secret.resolve(secrets).await.map_err(|error| TargetError::Credentials(error.to_string()))?;
            options.insert(key.clone(), value.to_string());
        }
        let store = open_store_by(clock, bucket, &options).map_err(|error| {
            TargetError::Refused(format!("[export.{connector}.snowflake] bucket: {error}"))
        })?;
        Ok(Self::Bucket(store))
    }

    /// Makes the internal stage, where it is used and can be made.
    pub async fn prepare(&self, names: &Names) -> Result<Vec<String>, TargetError> {
        let Self::Internal(client) = self else { return Ok(Vec::new()) };
        let made = client.query(&names.create_stage(), &format!("making stage {}", names.stage)).await;
        match made {
            Ok(answer) => {
                let said = answer.rows.into_iter().flatten().flatten().next().unwrap_or_default();
                let fresh = said.contains("successfully created");
                Ok(if fresh {
                    vec![format!("made stage {}.{}", names.schema, names.stage)]
                } else {
                    Vec::new()
                })
            }
            // An administrator has made it, or the upload says that it is missing.
            Err(TargetError::Credentials(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Brings the batch's file to where the stage has it.
    pub async fn put(&self, names: &Names, batch: &StagedBatch) -> Result<(), TargetError> {
        let file = file_name(&batch.batch_id);
        match self {
            Self::Bucket(store) => {
                let path = in_bucket(store, names, &file)?;
                write(&store.root, &path, &batch.file, store.url.as_str()).await
            }
            Self::Internal(client) => {
                let info = session::put(client, &names.stage, &names.folder(), &file).await?;
                put_internal(client, &info, &file, batch).await
            }
        }
    }

    /// Takes the file away. What stays costs a little storage and harms nothing: a failure is only noted.
    pub async fn remove(&self, names: &Names, batch_id: &str) {
        let file = file_name(batch_id);
        let removed = match self {
            Self::Bucket(store) => match in_bucket(store, names, &file) {
                Ok(path) => match store.root.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
                    Err(error) => Err(error.to_string()),
                },
                Err(error) => Err(error.to_string()),
            },
            Self::Internal(client) => {
                let removed = client.query(&names.remove(&file), "removing a staged file").await;
                removed.map(drop).map_err(|error| error.to_string())
            }
        };
        if let Err(error) = removed {
            tracing::warn!(file, error, "a staged file stays in the stage; remove it when you like");
        }
    }
}

fn in_bucket(store: &LakeStore, names: &Names, file: &str) -> Result<Path, TargetError> {
    let root = Path::from_url_path(store.url.path());
    let root = root.map_err(|error| TargetError::Refused(format!("bucket {}: {error}", store.url)))?;
    let within = format!("{}/{file}", names.folder());
    Ok(root.parts().chain(Path::from(within).parts()).collect())
}

async fn write(
    store: &Arc<dyn ObjectStore>,
    path: &Path,
    file: &FilePath,
    shown: &str,
) -> Result<(), TargetError> {
    let mut from = open(file).await?;
    let mut writer =
        BufWriter::with_capacity(store.clone(), path.clone(), PART_BYTES).with_max_concurrency(2);
    let written = async {
        tokio::io::copy(&mut from, &mut writer).await?;
        writer.shutdown().await
    };
    if let Err(error) = written.await {
        let _ = writer.abort().await;
        return Err(not_written(shown, error));
    }
    Ok(())
}

fn not_written(shown: &str, error: std::io::Error) -> TargetError {
    let said = format!("the staged file cannot be written to {shown}: {error}");
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<object_store::Error>());
    match inner {
        Some(object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }) => {
            TargetError::Credentials(format!("{said}; it needs to write and delete objects there"))
        }
        Some(object_store::Error::NotFound { .. }) => {
            TargetError::Refused(format!("{said}; make the bucket"))
        }
        _ => TargetError::Away(said),
    }
}

async fn open(file: &FilePath) -> Result<tokio::fs::File, TargetError> {
    let opened = tokio::fs::File::open(file).await;
    opened.map_err(|error| TargetError::Local(format!("the staged file {}: {error}", file.display())))
}

async fn put_internal(
    client: &Client,
    info: &StageInfo,
    file: &str,
    batch: &StagedBatch,
) -> Result<(), TargetError> {
    let shown = format!("Snowflake's {} storage", info.location_type);
    if let Some(url) = info.presigned_url.as_deref().filter(|_| info.cred("GCS_ACCESS_TOKEN").is_empty()) {
        return put_presigned(client, url, &shown, batch).await;
    }
    let (container, path) = place(info, file);
    let store: Result<Arc<dyn ObjectStore>, object_store::Error> = match info.location_type.as_str() {
        "S3" => amazon(info, container).build().map(|store| Arc::new(store) as _),
        "GCS" => google(info, container).build().map(|store| Arc::new(store) as _),
        "AZURE" => azure(info, container).build().map(|store| Arc::new(store) as _),
        other => {
            return Err(TargetError::Refused(format!(
                "Snowflake wants the file in storage of kind {other:?}, which sendlake does not know; use a bucket"
            )));
        }
    };
    let store = store.map_err(|error| TargetError::Refused(format!("{shown}: {error}")))?;
    write(&store, &path, &batch.file, &shown).await
}

/// The bucket or container, and the object in it.
fn place<'a>(info: &'a StageInfo, file: &str) -> (&'a str, Path) {
    let (container, folder) = info.location.split_once('/').unwrap_or((&info.location, ""));
    (container, Path::from(format!("{}/{file}", folder.trim_end_matches('/'))))
}

fn endpoint(info: &StageInfo) -> Option<&str> {
    info.end_point.as_deref().filter(|endpoint| !endpoint.is_empty())
}

fn amazon(info: &StageInfo, bucket: &str) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(bucket)
        .with_region(info.region.clone().unwrap_or_default())
        .with_access_key_id(info.cred("AWS_KEY_ID"))
        .with_secret_access_key(info.cred("AWS_SECRET_KEY"))
        .with_token(info.cred("AWS_TOKEN"))
        .with_virtual_hosted_style_request(true);
    // The stage is encrypted by its storage: drivers ask for that with each object.
    if let Ok(encryption) = "aws_server_side_encryption".parse::<AmazonS3ConfigKey>() {
        builder = builder.with_config(encryption, "AES256");
    }
    match endpoint(info) {
        Some(endpoint) => builder.with_endpoint(format!("https://{bucket}.{endpoint}")),
        None => builder,
    }
}

fn google(info: &StageInfo, bucket: &str) -> GoogleCloudStorageBuilder {
    let bearer = GcpCredential { bearer: info.cred("GCS_ACCESS_TOKEN") };
    GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_credentials(Arc::new(StaticCredentialProvider::new(bearer)))
}

fn azure(info: &StageInfo, container: &str) -> MicrosoftAzureBuilder {
    let account = info.storage_account.clone().unwrap_or_default();
    let builder = MicrosoftAzureBuilder::new()
        .with_account(account.clone())
        .with_container_name(container)
        .with_config(AzureConfigKey::SasKey, info.cred("AZURE_SAS_TOKEN").trim_start_matches('?'));
    match endpoint(info) {
        Some(endpoint) => {
            builder.with_endpoint(format!("https://{account}.blob.{}", endpoint.trim_start_matches("blob.")))
        }
        None => builder,
    }
}

async fn put_presigned(
    client: &Client,
    url: &str,
    shown: &str,
    batch: &StagedBatch,
) -> Result<(), TargetError> {
    let file = open(&batch.file).await?;
    // Read in pieces of 64 KiB; the length is told, since a presigned address takes no chunked body.
    let pieces = ReaderStream::with_capacity(file, 64 << 10).boxed();
    let request = client
        .http
        .put(url)
        .header("Content-Length", batch.bytes)
        .body(reqwest::Body::wrap_stream(pieces))
        .timeout(Duration::from_secs(3_600));
    // The address is a credential as long as it lasts: no text has it.
    let response = request.send().await.map_err(|error| {
        TargetError::Away(format!("the staged file cannot be written to {shown}: {}", error.without_url()))
    })?;
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let said = format!("the staged file cannot be written to {shown}: it answered {status}");
    // 400 and 403: the address has ended; the next try has another.
    Err(TargetError::Away(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(json: &str) -> StageInfo {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn lent_credentials_open_the_place_that_is_named() {
        let s3 = info(
            r#"{"locationType":"S3","location":"sfc-prod-customer-stage/abc/stages/1/","region":"us-west-2","storageAccount":null,
                "creds":{"AWS_KEY_ID":"id","AWS_SECRET_KEY":"secret","AWS_TOKEN":"token"},"presignedUrl":null,"endPoint":null}"#,
        );
        let (bucket, path) = place(&s3, "f.parquet");
        assert_eq!((bucket, path.as_ref()), ("sfc-prod-customer-stage", "abc/stages/1/f.parquet"));
        let builder = amazon(&s3, bucket);
        let value = |key| builder.get_config_value(&key).unwrap_or_default();
        assert_eq!(value(AmazonS3ConfigKey::Token), "token");
        assert_eq!(value(AmazonS3ConfigKey::Region), "us-west-2");
        assert_eq!(value("aws_server_side_encryption".parse().unwrap()), "AES256");
        assert!(builder.build().is_ok());

        let gcs =
            info(r#"{"locationType":"GCS","location":"bucket/a/","creds":{"GCS_ACCESS_TOKEN":"ya29"}}"#);
        let (bucket, path) = place(&gcs, "f.parquet");
        assert_eq!(path.as_ref(), "a/f.parquet");
        assert!(google(&gcs, bucket).build().is_ok());

        let azure_info = info(
            r#"{"locationType":"AZURE","location":"container/a/b/","storageAccount":"acc","endPoint":"blob.core.windows.net",
                "creds":{"AZURE_SAS_TOKEN":"?sig=x&se=y"}}"#,
        );
        let (container, path) = place(&azure_info, "f.parquet");
        assert_eq!((container, path.as_ref()), ("container", "a/b/f.parquet"));
        let builder = azure(&azure_info, container);
        let endpoint = builder.get_config_value(&AzureConfigKey::Endpoint);
        assert_eq!(endpoint.as_deref(), Some("https://acc.blob.core.windows.net"));
        assert!(builder.build().is_ok());
    }
}
