//! The control store's suppressions, kept in memory for the moment before each attempt.

use std::collections::HashMap;

use parking_lot::RwLock;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_control::suppression::{AddressHash, AddressHasher, Reach, Reason, SuppressionChange};
use sendlake_control::{ControlError, ControlStore};
use sendlake_sender::address::Address;
use sendlake_sender::stream::Stream;
use sendlake_sender::suppression::{Suppressed, Suppressions, covers};

/// Lines of the log that are read at once.
const READ_MAX: u32 = 10_000;

/// A copy of the list, as fresh as the last [`ControlSuppressions::refresh`]. It follows the log from its first
/// line, and holds hashes, no addresses.
pub struct ControlSuppressions {
    hasher: AddressHasher,
    list: RwLock<HashMap<AddressHash, Vec<Entry>>>,
    /// The last line of the log that was read; held while reading, so that lines are applied in order.
    seq: tokio::sync::Mutex<i64>,
}

#[derive(Clone, Debug)]
struct Entry {
    tenant_id: TenantId,
    reach: Reach,
    reason: Reason,
    since: Timestamp,
}

impl ControlSuppressions {
    pub fn new(control: &ControlStore) -> Self {
        Self { hasher: control.address_hasher(), list: RwLock::default(), seq: tokio::sync::Mutex::default() }
    }

    /// Reads what changed since the last time.
    pub async fn refresh(&self, control: &ControlStore) -> Result<(), ControlError> {
        let mut seq = self.seq.lock().await;
        loop {
            let changes = control.suppression_changes_after(*seq, READ_MAX).await?;
            let Some(last) = changes.last() else { return Ok(()) };
            *seq = last.seq;
            let mut list = self.list.write();
            changes.into_iter().for_each(|change| apply(&mut list, change));
        }
    }
}

fn apply(list: &mut HashMap<AddressHash, Vec<Entry>>, change: SuppressionChange) {
    let entries = list.entry(change.address_hash).or_default();
    entries.retain(|entry| entry.tenant_id != change.tenant_id || entry.reason != change.reason);
    if change.added {
        entries.push(Entry {
            tenant_id: change.tenant_id,
            reach: change.reach,
            reason: change.reason,
            since: change.since,
        });
    } else if entries.is_empty() {
        list.remove(&change.address_hash);
    }
}

impl Suppressions for ControlSuppressions {
    fn find(&self, tenant: &TenantId, stream: Stream, recipient: &Address) -> Option<Suppressed> {
        let list = self.list.read();
        if list.is_empty() {
            return None;
        }
        let entries = list.get(&self.hasher.hash(&recipient.to_string()))?;
        let widest = entries
            .iter()
            .filter(|entry| {
                entry.reach == Reach::Global || (entry.tenant_id == *tenant && covers(entry.reach, stream))
            })
            .max_by_key(|entry| (entry.reach, std::cmp::Reverse(entry.since)))?;
        Some(Suppressed { reach: widest.reach, reason: widest.reason.to_string(), since: widest.since })
    }
}

#[cfg(test)]
mod tests {
    use sendlake_control::secret::MasterKey;
    use sendlake_control::suppression::NewSuppression;
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
