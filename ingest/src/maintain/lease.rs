//! Who maintains the lake now: one numbered file per lease, beside the tables.
//!
//! A lease keeps maintainers from doing the same work twice; it is not what keeps the table right. Clocks
//! disagree and processes stall, so two may believe that they hold it. What they commit carries the lease's
//! number, and the log refuses the older one ([`super::rewrite`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{Error as ObjectError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use sendlake_control::clock::Timestamp;
use sendlake_control::id::Ids;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::LakeStore;

/// The folder of leases, below the lake's.
const FOLDER: &str = "_maintenance";
/// The folder of leases of connectors, each in a folder of its own below it.
const EXPORTS_FOLDER: &str = "_exports";
/// Older lease files than this many are removed when a new lease is taken.
const KEPT: u64 = 16;

/// What a lease file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// 1, 2, 3 …: each lease has a number that no other has.
    pub epoch: u64,
    /// Who holds it, in words: node and process.
    pub holder: String,
    /// Tells apart two leases of one holder whose answers got lost.
    pub nonce: Uuid,
    pub taken_at: Timestamp,
    /// Others may take over from here on.
    pub expires_at: Timestamp,
    /// The holder ended its work, and gave it back.
    pub released: bool,
}

impl LeaseRecord {
    /// Whether others have to wait at `now`.
    pub fn holds_at(&self, now: Timestamp) -> bool {
        !self.released && now < self.expires_at
    }

    /// Whether it ends so far ahead that two clocks must disagree: the holder's and ours, or ours before and after a
    /// step back.
    fn is_from_the_future(&self, now: Timestamp, ttl_ms: i64) -> bool {
        self.expires_at.millis_since(now) > ttl_ms.saturating_mul(2)
    }
}

/// Why a lease could not be taken or kept.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    #[error("cannot {action} the lease file {path}: {source}; check the lake's storage and its permissions")]
    Storage { action: &'static str, path: Path, source: ObjectError },
    #[error(
        "the lease file {path} cannot be read as one ({reason}); remove it if nobody else keeps files in that folder"
    )]
    Unreadable { path: Path, reason: String },
    #[error(
        "lease {epoch} was taken over by {holder} (lease {newest}); this process does no more maintenance under it"
    )]
    Lost { epoch: u64, newest: u64, holder: String },
}

/// The right to maintain one lake for a while.
#[derive(Debug)]
pub struct Lease {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    ids: Ids,
    record: LeaseRecord,
    ttl_ms: i64,
    /// In microseconds since the epoch; moves with each renewal.
    expires_at: AtomicI64,
    /// How many rewrites were tried under this lease: each has a mark of its own in the log.
    rewrites: AtomicU64,
}

impl Lease {
    /// Takes the lease for `ttl_ms` if nobody holds it; `None` while somebody does.
    ///
    /// `floor` is the highest lease number that the tables' logs have seen
    /// ([`EventsTable::rewrite_epoch`](crate::table::EventsTable::rewrite_epoch)), so that a lake whose lease
    /// files were lost does not begin at 1 again. Of several that try at once, one gets it.
    ///
    /// A lease that ends far in the future is not waited for by the clock, which must be wrong somewhere: it is watched
    /// for twice `ttl_ms`, and taken over when its holder did not renew it meanwhile.
    pub async fn take(
        store: &LakeStore,
        holder: &str,
        ids: &Ids,
        ttl_ms: i64,
        floor: u64,
    ) -> Result<Option<Self>, LeaseError> {
        Self::take_in(store, folder(store), holder, ids, ttl_ms, floor, false).await
    }

    /// The right to carry the lake's new events to one destination, for `ttl_ms`, if nobody holds it. A lease that the same
    /// `holder` left behind is taken over at once: whoever asks must know that no other process goes by that name.
    pub async fn take_export(
        store: &LakeStore,
        connector: &str,
        holder: &str,
        ids: &Ids,
        ttl_ms: i64,
    ) -> Result<Option<Self>, LeaseError> {
        let lake = Path::from_url_path(store.url.path()).unwrap_or_default();
        let folder = lake.join(EXPORTS_FOLDER).join(connector);
        Self::take_in(store, folder, holder, ids, ttl_ms, 0, true).await
    }

    async fn take_in(
        store: &LakeStore,
        folder: Path,
        holder: &str,
        ids: &Ids,
        ttl_ms: i64,
        floor: u64,
        is_ours_free: bool,
    ) -> Result<Option<Self>, LeaseError> {
        let newest = newest(&store.root, &folder).await?;
        if let Some(record) = &newest
            && record.holds_at(ids.now())
            && !(is_ours_free && record.holder == holder)
            && !(record.is_from_the_future(ids.now(), ttl_ms)
                && is_dead(&store.root, &folder, record, ttl_ms).await?)
        {
            return Ok(None);
        }
        let now = ids.now();
        let epoch = newest.map_or(0, |record| record.epoch).max(floor).saturating_add(1);
        let record = LeaseRecord {
            epoch,
            holder: holder.to_owned(),
            nonce: ids.uuid(),
            taken_at: now,
            expires_at: now.plus_millis(ttl_ms),
            released: false,
        };
        if !create(&store.root, &folder, &record).await? {
            return Ok(None);
        }
        let lease = Self {
            store: Arc::clone(&store.root),
            folder,
            ids: ids.clone(),
            expires_at: AtomicI64::new(record.expires_at.0),
            record,
            ttl_ms,
            rewrites: AtomicU64::new(0),
        };
        lease.tidy().await;
        Ok(Some(lease))
    }

    /// The newest lease of a lake, held or not; `None` when there never was one.
    pub async fn newest(store: &LakeStore) -> Result<Option<LeaseRecord>, LeaseError> {
        newest(&store.root, &folder(store)).await
    }

    /// The lease's number.
    pub fn epoch(&self) -> u64 {
        self.record.epoch
    }

    pub fn holder(&self) -> &str {
        &self.record.holder
    }

    pub fn now(&self) -> Timestamp {
        self.ids.now()
    }

    /// Extends the lease from now on. Fails when somebody has taken over.
    pub async fn renew(&self) -> Result<(), LeaseError> {
        self.check().await?;
        let expires_at = self.ids.now().plus_millis(self.ttl_ms);
        self.overwrite(LeaseRecord { expires_at, ..self.record.clone() }).await?;
        self.expires_at.store(expires_at.0, Ordering::Relaxed);
        // Whoever looked between our look and our write may have taken it all the same.
        self.check().await
    }

    /// Renews when half of the time is gone, or when the clock was set back. For the inner loop of long work: mostly
    /// it costs nothing.
    pub async fn keep(&self) -> Result<(), LeaseError> {
        let left_ms = Timestamp(self.expires_at.load(Ordering::Relaxed)).millis_since(self.ids.now());
        if left_ms > self.ttl_ms / 2 && left_ms <= self.ttl_ms { Ok(()) } else { self.renew().await }
    }

    /// Gives the lease back, so that the next one need not wait for its end.
    pub async fn release(self) -> Result<(), LeaseError> {
        self.overwrite(LeaseRecord { released: true, ..self.record.clone() }).await
    }

    /// A name in the log for one rewrite, which no other rewrite has. All of this lease begin with [`Self::mark`].
    pub(crate) fn next_mark(&self) -> String {
        let number = self.rewrites.fetch_add(1, Ordering::Relaxed);
        format!("{}{number}", self.mark())
    }

    pub(crate) fn mark(&self) -> String {
        format!("{}.{}.", self.record.epoch, self.record.nonce)
    }

    /// Fails when somebody has taken over.
    pub(crate) async fn check(&self) -> Result<(), LeaseError> {
        match newest(&self.store, &self.folder).await? {
            Some(record) if record.epoch > self.epoch() => {
                Err(LeaseError::Lost { epoch: self.epoch(), newest: record.epoch, holder: record.holder })
            }
            _ => Ok(()),
        }
    }

    /// Only the holder of a number writes its file again.
    async fn overwrite(&self, record: LeaseRecord) -> Result<(), LeaseError> {
        let path = file(&self.folder, record.epoch);
        let result = self.store.put(&path, encode(&record)).await;
        result.map(|_| ()).map_err(|source| LeaseError::Storage { action: "write", path, source })
    }

    /// Removes lease files of long ago. The newest ones stay, since numbers must not come back.
    async fn tidy(&self) {
        let listed: Result<Vec<_>, _> = self.store.list(Some(&self.folder)).try_collect().await;
        for meta in listed.unwrap_or_default() {
            let old =
                epoch_of(&meta.location).is_some_and(|epoch| epoch.saturating_add(KEPT) <= self.epoch());
            if old && let Err(error) = self.store.delete(&meta.location).await {
                tracing::debug!(%error, path = %meta.location, "an old lease file stays");
            }
        }
    }
}

/// Whether a lease that is dated ahead is not renewed by anybody. Takes twice `ttl_ms`; a holder at work renews it
/// within one.
async fn is_dead(
    store: &Arc<dyn ObjectStore>,
    folder: &Path,
    record: &LeaseRecord,
    ttl_ms: i64,
) -> Result<bool, LeaseError> {
    tokio::time::sleep(Duration::from_millis(u64::try_from(ttl_ms).unwrap_or(0).saturating_mul(2))).await;
    let is_dead = newest(store, folder).await?.as_ref() == Some(record);
    if is_dead {
        tracing::warn!(
            holder = record.holder,
            expires_at = %record.expires_at,
            "the maintenance lease ends far ahead of this host's clock, and nobody renews it: it is taken over. Was a \
             clock set back? See that the hosts' clocks are kept in step"
        );
    }
    Ok(is_dead)
}

/// Writes the file of a new lease, if it is not there. An answer that got lost is no loss: the nonce tells.
async fn create(
    store: &Arc<dyn ObjectStore>,
    folder: &Path,
    record: &LeaseRecord,
) -> Result<bool, LeaseError> {
    let path = file(folder, record.epoch);
    let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
    match store.put_opts(&path, encode(record), options).await {
        Ok(_) => Ok(true),
        Err(source) => match read(store, &path).await {
            Ok(there) => Ok(there.nonce == record.nonce),
            Err(_) => Err(LeaseError::Storage { action: "write", path, source }),
        },
    }
}

async fn newest(store: &Arc<dyn ObjectStore>, folder: &Path) -> Result<Option<LeaseRecord>, LeaseError> {
    let mut files: Vec<(u64, Path)> = Vec::new();
    let mut listing = store.list(Some(folder));
    let failed = |source| LeaseError::Storage { action: "look for", path: folder.clone(), source };
    while let Some(meta) = listing.try_next().await.map_err(failed)? {
        files.extend(epoch_of(&meta.location).map(|epoch| (epoch, meta.location)));
    }
    files.sort();
    match files.pop() {
        None => Ok(None),
        Some((_, path)) => read(store, &path).await.map(Some),
    }
}

async fn read(store: &Arc<dyn ObjectStore>, path: &Path) -> Result<LeaseRecord, LeaseError> {
    let bytes = async { store.get(path).await?.bytes().await }.await;
    let bytes = bytes.map_err(|source| LeaseError::Storage { action: "read", path: path.clone(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|error| LeaseError::Unreadable { path: path.clone(), reason: error.to_string() })
}

fn encode(record: &LeaseRecord) -> PutPayload {
    // A struct of plain values always has a JSON form.
    PutPayload::from(serde_json::to_vec_pretty(record).unwrap_or_default())
}

fn folder(store: &LakeStore) -> Path {
    let lake = Path::from_url_path(store.url.path()).unwrap_or_default();
    lake.join(FOLDER)
}

fn file(folder: &Path, epoch: u64) -> Path {
    folder.clone().join(format!("{epoch:020}.json"))
}

/// The number in a lease file's name; `None` for any other file.
fn epoch_of(path: &Path) -> Option<u64> {
    let digits = path.filename()?.strip_suffix(".json")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
