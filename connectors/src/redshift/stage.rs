//! A batch in the bucket: its file and a manifest that names it, which COPY reads. Objects are named by their content, so
//! that two loaders of one batch never change what the other's COPY reads.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{Context, SHA256};
use data_encoding::HEXLOWER;
use futures::TryStreamExt;
use object_store::aws::AmazonS3;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::json;
use tokio::io::AsyncReadExt;
use url::Url;

use super::settings::Codec;
use crate::fit::{Fitted, Limits, fit};
use crate::mapping::Column;
use crate::target::{StagedBatch, TargetError};

/// Rows that are looked at together.
const ROWS: usize = 8_192;
/// Of a rewritten file, before compression.
const ROW_GROUP_BYTES: usize = 64 << 20;
/// One part of an upload; up to four are under way.
const PART_BYTES: usize = 8 << 20;

/// Distinguishes files that this process writes beside the staged one.
static REWRITTEN: AtomicU64 = AtomicU64::new(0);

pub struct Bucket {
    pub store: Arc<AmazonS3>,
    /// `s3://bucket/folder`.
    pub url: Url,
}

/// Where COPY finds a batch.
pub struct Uploaded {
    pub manifest_url: String,
    /// Whether the file has the column of notes, as its last.
    pub noted: bool,
}

/// A file as it is uploaded.
struct Prepared {
    file: PathBuf,
    bytes: u64,
    sha256: String,
    noted: bool,
    /// Removed at the end.
    ours: bool,
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if self.ours {
            // It lies beside the staged file and goes with its folder, if not now.
            let _ = std::fs::remove_file(&self.file);
        }
    }
}

impl Bucket {
    /// The objects of a batch are all below this.
    fn folder(&self, connector: &str, batch_id: &str) -> ObjectPath {
        let base = self.url.path().trim_matches('/');
        ObjectPath::from(format!("{base}/sendlake-load/{connector}/{batch_id}"))
    }

    fn url_of(&self, path: &ObjectPath) -> String {
        format!("s3://{}/{path}", self.url.host_str().unwrap_or_default())
    }

    /// Uploads what is not there yet.
    pub async fn upload(
        &self,
        batch: &StagedBatch,
        columns: &[Column],
        limits: Limits,
        codec: Codec,
    ) -> Result<Uploaded, TargetError> {
        let (file, owned) = (batch.file.clone(), columns.to_vec());
        let prepared = tokio::task::spawn_blocking(move || prepare(&file, &owned, &limits, codec))
            .await
            .map_err(|error| TargetError::Local(format!("staged file: {error}")))??;
        let folder = self.folder(&batch.connector, &batch.batch_id);
        let data = folder.clone().join(format!("{:.32}.parquet", prepared.sha256));
        let manifest = folder.join(format!("{:.32}.manifest", prepared.sha256));
        let there = match self.store.head(&data).await {
            Ok(meta) => meta.size == prepared.bytes,
            Err(object_store::Error::NotFound { .. }) => false,
            Err(error) => return Err(self.said("looking for", &data, error)),
        };
        if !there {
            self.put_file(&prepared.file, &data).await?;
        }
        let entry = json!({
            "url": self.url_of(&data),
            "mandatory": true,
            // Without the length COPY refuses columnar files ("Using a manifest to specify data files").
            "meta": {"content_length": prepared.bytes},
        });
        let text = json!({"entries": [entry]}).to_string();
        let put = self.store.put(&manifest, PutPayload::from(text.into_bytes())).await;
        put.map_err(|error| self.said("writing", &manifest, error))?;
        Ok(Uploaded { manifest_url: self.url_of(&manifest), noted: prepared.noted })
    }

    async fn put_file(&self, file: &Path, path: &ObjectPath) -> Result<(), TargetError> {
        let unreadable =
            |error: std::io::Error| TargetError::Local(format!("staged file {}: {error}", file.display()));
        let mut source = tokio::fs::File::open(file).await.map_err(unreadable)?;
        let upload =
            self.store.put_multipart(path).await.map_err(|error| self.said("writing", path, error))?;
        let mut writer = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = match source.read(&mut buffer).await {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => {
                    let _ = writer.abort().await;
                    return Err(unreadable(error));
                }
            };
            if let Err(error) = writer.wait_for_capacity(4).await {
                let _ = writer.abort().await;
                return Err(self.said("writing", path, error));
            }
            writer.write(buffer.get(..read).unwrap_or_default());
        }
        // Nothing is seen of the object before this: a half upload is none.
        writer.finish().await.map(drop).map_err(|error| self.said("writing", path, error))
    }

    /// Removes a batch's objects, those of other tries too. What fails is left to the bucket's lifecycle rule.
    pub async fn remove(&self, connector: &str, batch_id: &str) {
        let folder = self.folder(connector, batch_id);
        let listed = self.store.list(Some(&folder)).map_ok(|meta| meta.location);
        let removed = listed.try_for_each_concurrent(4, |path| async move { self.store.delete(&path).await });
        if let Err(error) = removed.await {
            tracing::warn!(%folder, %error, "a loaded batch's objects were not removed; a lifecycle rule can do it");
        }
    }

    fn said(&self, doing: &str, path: &ObjectPath, error: object_store::Error) -> TargetError {
        use object_store::Error;
        let url = self.url_of(path);
        match error {
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                TargetError::Credentials(format!(
                    "{doing} {url}: {error}; the credentials need s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket"
                ))
            }
            Error::NotFound { .. } => {
                TargetError::Refused(format!("{doing} {url}: {error}; make the bucket"))
            }
            _ => TargetError::Away(format!("{doing} {url}: {error}")),
        }
    }
}

/// The staged file itself where all its values fit; else a copy whose values do, with notes.
fn prepare(file: &Path, columns: &[Column], limits: &Limits, codec: Codec) -> Result<Prepared, TargetError> {
    let failed = |error: String| TargetError::Local(format!("staged file {}: {error}", file.display()));
    if codec == Codec::Zstd && fits(file, columns, limits).map_err(failed)? {
        return digest_of(file.to_owned(), false, false).map_err(failed);
    }
    let number = REWRITTEN.fetch_add(1, Ordering::Relaxed);
    let copy = file.with_extension(format!("{}-{number}.load", std::process::id()));
    let written = rewrite(file, &copy, columns, limits, codec);
    if written.is_err() {
        let _ = std::fs::remove_file(&copy);
    }
    written.map_err(failed)?;
    digest_of(copy, true, true).map_err(failed)
}

fn fits(file: &Path, columns: &[Column], limits: &Limits) -> Result<bool, String> {
    let opened = File::open(file).map_err(|error| error.to_string())?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(opened).map_err(|error| error.to_string())?;
    for batch in builder.with_batch_size(ROWS).build().map_err(|error| error.to_string())? {
        let batch = batch.map_err(|error| error.to_string())?;
        if fit(&batch, columns, limits).map_err(|error| error.to_string())?.is_some() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn rewrite(
    file: &Path,
    copy: &Path,
    columns: &[Column],
    limits: &Limits,
    codec: Codec,
) -> Result<(), String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let compression = match codec {
        Codec::Zstd => Compression::ZSTD(ZstdLevel::default()),
        Codec::Snappy => Compression::SNAPPY,
    };
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(file).map_err(text)?).map_err(text)?;
    let mut writer = None;
    for batch in builder.with_batch_size(ROWS).build().map_err(text)? {
        let batch = batch.map_err(text)?;
        let fitted = match fit(&batch, columns, limits).map_err(text)? {
            Some(fitted) => fitted,
            None => Fitted { notes: vec![None; batch.num_rows()], batch },
        };
        let rows = fitted.with_notes().map_err(text)?;
        let writer = match &mut writer {
            Some(writer) => writer,
            None => {
                let properties = WriterProperties::builder().set_compression(compression).build();
                let made = File::create(copy).map_err(text)?;
                writer.insert(ArrowWriter::try_new(made, rows.schema(), Some(properties)).map_err(text)?)
            }
        };
        writer.write(&rows).map_err(text)?;
        if writer.in_progress_size() > ROW_GROUP_BYTES {
            writer.flush().map_err(text)?;
        }
    }
    match writer {
        Some(writer) => writer.close().map(drop).map_err(text),
        None => Err("it has no rows".to_owned()),
    }
}

fn digest_of(file: PathBuf, noted: bool, ours: bool) -> Result<Prepared, String> {
    let mut prepared = Prepared { file, bytes: 0, sha256: String::new(), noted, ours };
    let mut source = File::open(&prepared.file).map_err(|error| error.to_string())?;
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = source.read(&mut buffer).map_err(|error| error.to_string())?;
        if read == 0 {
            break;
        }
        prepared.bytes += read as u64;
        context.update(buffer.get(..read).unwrap_or_default());
    }
    prepared.sha256 = HEXLOWER.encode(context.finish().as_ref());
    Ok(prepared)
}
