//! A local object store that survives power loss: an object is on the disk before its name is, and its name
//! is on the disk before the write returns.
//!
//! `object_store`'s own local store never syncs. Delta's promise, that a commit's Parquet files are there when
//! its log entry is, and ours, that the outbox is trimmed only after both, would then hold only until the
//! power fails. Reading, listing and deleting are still the inner store's.

mod upload;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::ops::Range;
use std::path::{Path as FsPath, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use self::upload::DurableUpload;

const STORE: &str = "durable local store";

/// The whole local file system, written in order: stage, sync, link or rename, sync the folder.
#[derive(Clone, Debug)]
pub struct DurableLocal {
    inner: LocalFileSystem,
    /// Set when a folder could not be synced after its new entry was already visible. What readers see is
    /// then not what a crash would leave, so nothing is answered any more.
    broken: Arc<OnceLock<String>>,
}

impl DurableLocal {
    pub fn new() -> Self {
        Self { inner: LocalFileSystem::new(), broken: Arc::default() }
    }

    fn check(&self) -> Result<()> {
        match self.broken.get() {
            None => Ok(()),
            Some(reason) => Err(failure(format!(
                "stopped after a failed sync ({reason}); check the disk, then start again"
            ))),
        }
    }

    /// Makes a name that is already visible last.
    fn seal(&self, path: &FsPath) -> Result<()> {
        let folder = path.parent().unwrap_or(path);
        sync_dir(folder).map_err(|error| {
            let reason = format!("{}: {error}", folder.display());
            failure(self.broken.get_or_init(|| reason).clone())
        })
    }

    fn write(&self, path: &FsPath, payload: &PutPayload, exclusive: bool) -> Result<()> {
        let stage = Stage::open(path)?;
        let mut file = stage.file.as_ref();
        payload
            .iter()
            .try_for_each(|chunk| file.write_all(chunk))
            .map_err(|error| io_failure("write", path, error))?;
        stage.publish(path, exclusive)?;
        self.seal(path)
    }
}

impl Default for DurableLocal {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DurableLocal({})", self.inner)
    }
}

/// A file under a name that listings leave out (`#` and digits at its end), until it is published.
/// Dropped unpublished, it is removed.
#[derive(Debug)]
struct Stage {
    file: Arc<File>,
    path: PathBuf,
    /// Its name is gone, and may be another writer's stage by now.
    renamed: AtomicBool,
}

impl Stage {
    fn open(target: &FsPath) -> Result<Self> {
        let mut attempt = 1u64;
        loop {
            let mut name = target.as_os_str().to_owned();
            name.push(format!("#{attempt}"));
            let path = PathBuf::from(name);
            match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Self { file: Arc::new(file), path, renamed: AtomicBool::new(false) }),
                // Somebody else's stage, or one that a crash left behind.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => attempt += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let parent = target.parent().unwrap_or(target);
                    create_dir(parent).map_err(|error| io_failure("make folder", parent, error))?;
                }
                Err(error) => return Err(io_failure("create", &path, error)),
            }
        }
    }

    /// Syncs the content, then gives it its name. `exclusive` fails when the name is taken, and of several
    /// that race for a name exactly one wins.
    fn publish(&self, target: &FsPath, exclusive: bool) -> Result<()> {
        self.file.sync_all().map_err(|error| io_failure("sync", target, error))?;
        if !exclusive {
            std::fs::rename(&self.path, target).map_err(|error| io_failure("rename", target, error))?;
            self.renamed.store(true, Ordering::Relaxed);
            return Ok(());
        }
        std::fs::hard_link(&self.path, target).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                Error::AlreadyExists { path: target.display().to_string(), source: error.into() }
            }
            _ => io_failure("link", target, error),
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.renamed.load(Ordering::Relaxed) {
            // After a link the content keeps its other name.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Makes a folder and those above it, and syncs every folder that gained an entry.
pub fn create_dir(path: &FsPath) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => FsPath::new("."),
    };
    create_dir(parent)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made?,
    }
    sync_dir(parent)
}

/// Syncs the log folder of every table below a lake's folder. A process that was killed may have left a log
/// entry that is visible but not yet on the disk; whoever trims an outbox because of it must not see it vanish.
pub(crate) fn sync_logs(lake: &FsPath) -> io::Result<()> {
    for table in std::fs::read_dir(lake)? {
        let log = table?.path().join("_delta_log");
        if log.is_dir() {
            sync_dir(&log)?;
        }
    }
    Ok(())
}

/// Makes the names in a folder last.
pub fn sync_dir(path: &FsPath) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn failure(message: String) -> Error {
    Error::Generic { store: STORE, source: message.into() }
}

fn io_failure(action: &str, path: &FsPath, error: io::Error) -> Error {
    let advice = if is_full(&error) { "; make room there: it is tried again by itself" } else { "" };
    failure(format!("cannot {action} {}: {error}{advice}", path.display()))
}

/// Whether there is no space left, on the disk or for this user.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// Runs file work off the runtime's own threads where there is a runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.check()?;
        let exclusive = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return Err(unsupported("put with PutMode::Update")),
        };
        if !opts.attributes.is_empty() {
            return Err(unsupported("put with attributes"));
        }
        let path = self.inner.path_to_filesystem(location)?;
        let store = self.clone();
        blocking(move || store.write(&path, &payload, exclusive)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.check()?;
        if !opts.attributes.is_empty() {
            return Err(unsupported("multipart put with attributes"));
        }
        let target = self.inner.path_to_filesystem(location)?;
        let store = self.clone();
        let stage = blocking({
            let target = target.clone();
            move || Stage::open(&target)
        })
        .await?;
        Ok(Box::new(DurableUpload::new(store, stage, target)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.check()?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.check()?;
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.check() {
            Ok(()) => self.inner.list_with_offset(prefix, offset),
            Err(error) => futures::stream::once(async { Err(error) }).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.check()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.check()?;
        self.inner.copy_opts(from, to, options).await?;
        self.seal_later(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.check()?;
        self.inner.rename_opts(from, to, options).await?;
        self.seal_later(to).await
    }
}

impl DurableLocal {
    async fn seal_later(&self, location: &Path) -> Result<()> {
        let path = self.inner.path_to_filesystem(location)?;
        let store = self.clone();
        blocking(move || store.seal(&path)).await
    }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.to_owned(), implementer: STORE.to_owned() }
}

#[cfg(test)]
mod tests;
