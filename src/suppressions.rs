//! The control store's suppressions, kept in memory for the moment before each attempt.

pub mod bursts;
pub mod exchange;
pub mod keeping;
pub mod rebuild;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use sendlake_control::id::TenantId;
use sendlake_control::suppression::packed::PackedList;
use sendlake_control::suppression::{AddressHasher, snapshot};
use sendlake_control::{ControlError, ControlStore};
use sendlake_sender::address::Address;
use sendlake_sender::stream::Stream;
use sendlake_sender::suppression::{Suppressed, Suppressions, covers};

/// Lines of the log that are read at once.
const READ_MAX: u32 = 10_000;
/// A list that differs from its file by so many lines is written anew: fewer are quicker read from the log.
const SAVE_LINES: i64 = 10_000;

/// A copy of the list, as fresh as the last [`ControlSuppressions::refresh`]. It holds hashes, no addresses.
pub struct ControlSuppressions {
    copy: ArcSwap<Copy>,
    /// The last line of the log that was read, once something was; held while reading, so that lines are applied in
    /// order.
    seq: tokio::sync::Mutex<Option<i64>>,
    /// Where the list is kept for the next start.
    file: Option<PathBuf>,
    /// The line up to which that file goes.
    saved_seq: AtomicI64,
    incomplete: ArcSwapOption<String>,
}

/// Hashes and what they are made with, which change together.
struct Copy {
    hasher: AddressHasher,
    list: PackedList,
}

impl ControlSuppressions {
    pub fn new(control: &ControlStore) -> Self {
        let copy = Copy { hasher: control.address_hasher(), list: PackedList::default() };
        Self {
            copy: ArcSwap::from_pointee(copy),
            seq: tokio::sync::Mutex::default(),
            file: None,
            saved_seq: AtomicI64::new(0),
            incomplete: ArcSwapOption::empty(),
        }
    }

    /// Keeps the list in a file too, so that the next start need not read every row.
    #[must_use]
    pub fn kept_in(mut self, file: PathBuf) -> Self {
        self.file = Some(file);
        self
    }

    /// Reads what changed since the last time; at first, everything.
    pub async fn refresh(&self, control: &ControlStore) -> Result<(), ControlError> {
        let mut read = self.seq.lock().await;
        let mut seq = match *read {
            Some(seq) => seq,
            None => self.load(control).await?,
        };
        *read = Some(seq);
        loop {
            let changes = control.suppression_changes_after(seq, READ_MAX).await?;
            let Some(last) = changes.last() else { return Ok(()) };
            seq = last.seq;
            let copy = self.copy.load();
            for change in changes {
                let tenant = &change.tenant_id;
                if change.added {
                    let (reason, reach) = (change.reason, change.reach);
                    copy.list.insert(change.address_hash, tenant, reason, reach, change.since);
                } else {
                    copy.list.remove(change.address_hash, tenant, change.reason);
                }
            }
            *read = Some(seq);
        }
    }

    /// The whole list, from its file or row by row. Returns the line of the log up to which it goes.
    async fn load(&self, control: &ControlStore) -> Result<i64, ControlError> {
        let list_id = control.suppression_list_id();
        let (list, seq) = match self.read_file(list_id).await {
            // a file from after this store was copied would hold what the store lacks
            Some((list, seq)) if seq <= control.last_suppression_seq().await? => {
                self.saved_seq.store(seq, Ordering::Relaxed);
                (list, seq)
            }
            _ => control.load_suppressions().await?,
        };
        self.copy.store(Arc::new(Copy { hasher: control.address_hasher(), list }));
        Ok(seq)
    }

    async fn read_file(&self, list_id: String) -> Option<(PackedList, i64)> {
        let file = self.file.clone()?;
        let path = file.clone();
        let read = tokio::task::spawn_blocking(move || snapshot::read(&path, &list_id)).await.ok()?;
        read.unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), %error, "the suppressions' file is not used: rows are read instead");
            None
        })
    }

    /// Writes the list to its file, unless that is fresh enough.
    pub async fn save(&self, control: &ControlStore) {
        let Some(file) = self.file.clone() else { return };
        let Some(seq) = *self.seq.lock().await else { return };
        if seq - self.saved_seq.load(Ordering::Relaxed) < SAVE_LINES {
            return;
        }
        let (list_id, copy) = (control.suppression_list_id(), self.copy.load_full());
        let path = file.clone();
        let written =
            tokio::task::spawn_blocking(move || snapshot::write(&path, &list_id, seq, &copy.list)).await;
        match written {
            Ok(Ok(())) => self.saved_seq.store(seq, Ordering::Relaxed),
            Ok(Err(error)) => tracing::warn!(
                file = %file.display(), %error, "the suppressions' file is not written: the next start reads rows"
            ),
            Err(error) => tracing::warn!(%error, "the suppressions' file is not written"),
        }
    }

    /// Forgets what was read: the list was taken over from another store, under another key.
    pub async fn start_anew(&self, control: &ControlStore) -> Result<(), ControlError> {
        *self.seq.lock().await = None;
        self.refresh(control).await
    }

    /// How many entries there are, and the octets of memory that they take.
    pub fn size(&self) -> (usize, usize) {
        let copy = self.copy.load();
        (copy.list.len(), copy.list.memory_bytes())
    }

    /// Whether marketing and cold mail waits from now on, and why. True when that is news.
    pub fn set_incomplete(&self, why: Option<String>) -> bool {
        let known = self.incomplete.swap(why.clone().map(Arc::new));
        known.as_deref() != why.as_ref()
    }
}

impl Suppressions for ControlSuppressions {
    fn find(&self, tenant: &TenantId, stream: Stream, recipient: &Address) -> Option<Suppressed> {
        let copy = self.copy.load();
        let hash = copy.hasher.hash(&recipient.to_string());
        let found = copy.list.find(hash, tenant, |reach| covers(reach, stream))?;
        Some(Suppressed { reach: found.reach, reason: found.reason.to_string(), since: found.since })
    }

    fn incomplete(&self) -> Option<Arc<str>> {
        self.incomplete.load().as_ref().map(|why| why.as_str().into())
    }
}

#[cfg(test)]
mod tests {
    use sendlake_control::secret::MasterKey;
    use sendlake_control::suppression::{NewSuppression, Reach, Reason};
    use uuid::Uuid;

    use super::*;
    use crate::system;

    #[tokio::test]
    async fn the_copy_follows_the_list_and_the_widest_reach_counts() {
        let dir = tempfile::tempdir().unwrap();
        let ids = system::ids();
        let master = MasterKey::load_or_create(&dir.path().join("key"), ids.entropy.as_ref()).unwrap();
        let store = ControlStore::open(&dir.path().join("control.db"), master, ids.clone()).await.unwrap();
        let [acme, bolt] = ["acme", "bolt"].map(|name| TenantId::new(name).unwrap());
        store.create_tenant("cli", &acme, "Acme").await.unwrap();
        store.create_tenant("cli", &bolt, "Bolt").await.unwrap();
        let list = ControlSuppressions::new(&store);
        let ann = Address::parse("Ann@a.test").unwrap();
        let find = |tenant: &TenantId, stream| list.find(tenant, stream, &ann).map(|found| found.reach);
        let suppress = async |reach, reason| {
            let new = NewSuppression {
                tenant_id: acme.clone(),
                address: "ann@A.test".into(),
                reach,
                reason,
                since: ids.now(),
                expires_at: None,
                message_id: None,
                event_id: Uuid::nil(),
                note: None,
            };
            store.suppress("cli", &new).await.unwrap();
            list.refresh(&store).await.unwrap();
        };
        assert_eq!(find(&acme, Stream::Marketing), None);
        suppress(Reach::Bulk, Reason::Unsubscribe).await;
        assert_eq!(find(&acme, Stream::Marketing), Some(Reach::Bulk));
        assert_eq!(find(&acme, Stream::Transactional), None);
        assert_eq!(find(&bolt, Stream::Marketing), None);
        suppress(Reach::Tenant, Reason::HardBounce).await;
        assert_eq!(find(&acme, Stream::Transactional), Some(Reach::Tenant));
        suppress(Reach::Global, Reason::Legal).await;
        assert_eq!(find(&bolt, Stream::Transactional), Some(Reach::Global));
        let why = Some("why");
        store.unsuppress("cli", &acme, "ann@a.test", None, why, Uuid::nil()).await.unwrap();
        list.refresh(&store).await.unwrap();
        assert_eq!(find(&acme, Stream::Marketing), Some(Reach::Global));
        let platform = TenantId::platform();
        store.unsuppress("cli", &platform, "ann@a.test", None, why, Uuid::nil()).await.unwrap();
        list.refresh(&store).await.unwrap();
        assert_eq!(find(&acme, Stream::Marketing), None);
    }
}
