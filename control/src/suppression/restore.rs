//! A list that was lost, put together again: its key, its entries with or without their addresses, and the line of the
//! log from which it goes on.

use serde_json::json;
use uuid::Uuid;

use super::change::{Checked, Suppress};
use super::look::Suppression;
use super::totals::{Digest, Totals};
use super::{AddressHash, NewSuppression, Reach, Reason, SuppressionFilter};
use crate::audit;
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::{ControlStore, LIST_KEY};

/// An entry as events tell of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub tenant_id: TenantId,
    pub address_hash: AddressHash,
    /// None for a tombstone.
    pub address: Option<String>,
    pub reason: Reason,
    pub reach: Reach,
    pub since: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub actor: String,
    pub note: Option<String>,
    pub event_id: Uuid,
}

impl Restored {
    fn checked(&self) -> Checked {
        let new = NewSuppression {
            tenant_id: self.tenant_id.clone(),
            address: self.address.clone().unwrap_or_default(),
            reach: self.reach,
            reason: self.reason,
            since: self.since,
            expires_at: self.expires_at,
            event_id: self.event_id,
            message_id: None,
            note: self.note.clone(),
        };
        let (actor, owner) = (self.actor.clone(), new.owner());
        Checked { actor, new, owner, hash: self.address_hash, address: self.address.clone() }
    }
}

impl ControlStore {
    /// Puts entries on the list that events tell of, in one transaction; `dry` for what would become of them. Their
    /// tenants must exist.
    pub async fn restore_suppressions(
        &self,
        entries: &[Restored],
        dry: bool,
    ) -> Result<Vec<Result<Suppress, ControlError>>, ControlError> {
        let doing = "restore the suppressions";
        let checked: Vec<_> = entries.iter().map(|entry| Ok(entry.checked())).collect();
        if dry {
            let mut transaction = self.pool.begin().await.map_err(self.failed(doing))?;
            return Ok(self.weigh(&mut transaction, checked).await?.0);
        }
        for entry in entries {
            self.ensure_data_key(&entry.checked().owner).await?;
        }
        let mut transaction = self.begin(doing).await?;
        let done = self.add(&mut transaction, checked).await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(done)
    }

    /// Lifts an entry that an event lifted at `at`, unless it was put on the list after that. Returns whether it was
    /// there.
    pub async fn lift_restored(
        &self,
        tenant_id: &TenantId,
        hash: AddressHash,
        reason: Reason,
        at: Timestamp,
        dry: bool,
    ) -> Result<bool, ControlError> {
        let doing = "lift the suppression";
        let filter = SuppressionFilter {
            tenant_id: Some(tenant_id.clone()),
            address_hash: Some(hash),
            reason: Some(reason),
            ..SuppressionFilter::default()
        };
        let found = self.suppressions(&filter).await?;
        let found: Vec<Suppression> = found.into_iter().filter(|entry| entry.since < at).collect();
        if !found.is_empty() && !dry {
            let mut transaction = self.begin(doing).await?;
            let note = Some("lifted before, by its events");
            self.lift(&mut transaction, &found, "rebuild", note, None).await?;
            transaction.commit().await.map_err(self.failed(doing))?;
        }
        Ok(!found.is_empty())
    }

    /// The list's key, sealed under the master key: for safe-keeping beside what the list adds up to.
    pub fn wrapped_list_key(&self) -> Vec<u8> {
        let (kind, name) = LIST_KEY;
        self.master.wrap(kind, name, &self.list_key.read(), self.ids.entropy.as_ref())
    }

    /// Takes over the key of a list that another store kept, as wrapped by [`ControlStore::wrapped_list_key`], so that
    /// its hashes are found here. Entries that are here already are hashed anew by their addresses. The list goes on
    /// after line `seq`.
    pub async fn adopt_list(&self, wrapped: &[u8], seq: i64) -> Result<(), ControlError> {
        let doing = "take over the list's key";
        let (kind, name) = LIST_KEY;
        let key = self.master.unwrap(kind, name, wrapped).ok_or_else(|| ControlError::WrongMasterKey {
            path: self.path().to_owned(),
            origin: self.master.origin().to_owned(),
        })?;
        let mut transaction = self.begin(doing).await?;
        let own = self.find_suppressions(&mut transaction, &SuppressionFilter::default()).await?;
        let (held,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM suppression_quarantine")
            .fetch_one(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let nameless = own.iter().filter(|entry| entry.address.is_none()).count();
        let entries = held.saturating_add(i64::try_from(nameless).unwrap_or(i64::MAX));
        if entries > 0 {
            return Err(ControlError::ListKeyStays { entries });
        }
        let last = self.last_seq(&mut transaction).await?.max(seq);
        // what was counted under the old key is found by nobody any more
        for statement in ["DELETE FROM suppressions", "DELETE FROM full_mailboxes"] {
            sqlx::query(statement).execute(&mut *transaction).await.map_err(self.failed(doing))?;
        }
        sqlx::query("INSERT INTO installation_secrets (name, tenant_id, wrapped_secret, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO UPDATE SET wrapped_secret = excluded.wrapped_secret")
            .bind(name)
            .bind(TenantId::platform().as_str())
            .bind(wrapped)
            .bind(self.ids.now().0)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let empty = Totals { seq: last, entries: 0, digest: Digest::default() };
        self.write_totals(&mut transaction, empty).await?;
        let change = audit::Change {
            actor: "rebuild",
            tenant: &TenantId::platform(),
            action: "suppression_list_adopted",
            subject: name,
            detail: json!({ "after": seq, "own_entries": own.len() }),
        };
        audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        let before = std::mem::replace(&mut *self.list_key.write(), key);
        let hasher = self.address_hasher();
        let again: Vec<Suppression> = own
            .into_iter()
            .map(|entry| Suppression {
                address_hash: entry.address.as_deref().map_or(entry.address_hash, |it| hasher.hash(it)),
                ..entry
            })
            .collect();
        let done = match self.put_back(&mut transaction, &again).await {
            Ok(()) => transaction.commit().await.map_err(self.failed(doing)),
            Err(error) => Err(error),
        };
        if done.is_err() {
            *self.list_key.write() = before;
        }
        done
    }

    /// The list goes on after what is kept of it elsewhere, whose entries are here now.
    pub async fn go_on_after(&self, kept: Totals) -> Result<(), ControlError> {
        sqlx::query("UPDATE suppression_totals SET seq = MAX(seq, $1 + 1), recorded_seq = $1, recorded_digest = $2 WHERE id = 1")
            .bind(kept.seq)
            .bind(kept.digest.to_string())
            .execute(&self.pool)
            .await
            .map_err(self.failed("note the suppressions' sum"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{START, acme, open_temporary};

    fn new(address: &str) -> NewSuppression {
        NewSuppression {
            tenant_id: acme(),
            address: address.into(),
            reach: Reach::Bulk,
            reason: Reason::Unsubscribe,
            since: START,
            expires_at: None,
            event_id: Uuid::from_u128(7),
            message_id: None,
            note: None,
        }
    }

    #[tokio::test]
    async fn a_list_under_another_key_is_taken_over_with_the_entries_that_came_since() {
        let (_old_dir, old) = open_temporary().await;
        old.create_tenant("cli", &acme(), "Acme").await.unwrap();
        old.suppress("feedback", &new("ann@a.test")).await.unwrap();
        old.erase_recipient("cli", Some(&acme()), "bob@a.test", Uuid::nil()).await.unwrap();
        let kept = old.suppression_totals().await.unwrap().unwrap().totals;
        let (hash, wrapped) = (old.address_hasher().hash("bob@a.test"), old.wrapped_list_key());
        let secret = old.list_key.read().clone();

        let (_new_dir, fresh) = open_temporary().await;
        // the same machine would have made the same secrets in this test: another one does not
        *fresh.list_key.write() = zeroize::Zeroizing::new([3; 32]);
        fresh.create_tenant("cli", &acme(), "Acme").await.unwrap();
        fresh.suppress("feedback", &new("carl@a.test")).await.unwrap();
        assert_ne!(fresh.suppression_list_id(), old.suppression_list_id());
        fresh.adopt_list(&wrapped, kept.seq).await.unwrap();
        assert_eq!(*fresh.list_key.read(), secret);
        assert_eq!(fresh.suppression_list_id(), old.suppression_list_id());
        let bob = Restored {
            tenant_id: acme(),
            address_hash: hash,
            address: None,
            reason: Reason::Legal,
            reach: Reach::Tenant,
            since: START,
            expires_at: None,
            actor: "cli".into(),
            note: None,
            event_id: Uuid::nil(),
        };
        let ann = Restored {
            address_hash: fresh.address_hasher().hash("ann@a.test"),
            address: Some("ann@a.test".into()),
            reason: Reason::Unsubscribe,
            reach: Reach::Bulk,
            ..bob.clone()
        };
        for dry in [true, false] {
            let done = fresh.restore_suppressions(&[bob.clone(), ann.clone()], dry).await.unwrap();
            assert!(done.iter().all(|one| matches!(one, Ok(Suppress::Added))), "{done:?}");
        }
        fresh.unsuppress("cli", &acme(), "carl@a.test", None, Some("why"), Uuid::nil()).await.unwrap();
        let totals = fresh.suppression_totals().await.unwrap().unwrap().totals;
        assert_eq!((totals.entries, totals.digest), (kept.entries, kept.digest), "the same list again");
        assert!(totals.seq > kept.seq);
        assert_eq!(fresh.recount_suppressions().await.unwrap().0.digest, kept.digest);
        // a tombstone cannot be hashed anew
        let error = fresh.adopt_list(&wrapped, 0).await.unwrap_err();
        assert!(matches!(error, ControlError::ListKeyStays { entries: 1 }), "{error}");
    }

    #[tokio::test]
    async fn what_was_lifted_by_its_events_goes_unless_it_came_back_later() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        store.suppress("feedback", &new("ann@a.test")).await.unwrap();
        let hash = store.address_hasher().hash("ann@a.test");
        for (at, dry, lifted) in [(START, false, false), (Timestamp(START.0 + 1), true, true)] {
            let done = store.lift_restored(&acme(), hash, Reason::Unsubscribe, at, dry).await.unwrap();
            assert_eq!(
                (done, store.suppression_totals().await.unwrap().unwrap().totals.entries),
                (lifted, 1)
            );
        }
        let after = Timestamp(START.0 + 1);
        assert!(store.lift_restored(&acme(), hash, Reason::Unsubscribe, after, false).await.unwrap());
        assert_eq!(store.suppressions(&SuppressionFilter::default()).await.unwrap(), []);
    }
}
