//! Entries taken off the list: lifted by an operator, or over. And those of a person who is erased, of which tombstones
//! stay.

use serde_json::json;
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::change::{Checked, Line};
use super::look::Suppression;
use super::{AddressHash, NOTE_CHARS_MAX, NewSuppression, Reason, SuppressionFilter, address_of};
use crate::audit;
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;
use crate::tenant;

/// Entries lifted in one transaction when they expire.
const EXPIRED_AT_ONCE: u32 = 2_000;

impl ControlStore {
    /// Puts a tombstone on the list, and makes tombstones of what is on it for this address under `tenant`, or under
    /// any; those that a burst put in doubt too.
    pub(crate) async fn entomb(
        &self,
        actor: &str,
        tombstone: &NewSuppression,
        tenant: Option<&TenantId>,
    ) -> Result<AddressHash, ControlError> {
        let doing = "erase the address from the suppressions";
        let hash = self.address_hasher().hash(&address_of(&tombstone.address)?);
        let owner = tombstone.owner();
        self.ensure_data_key(&owner).await?;
        let mut transaction = self.begin(doing).await?;
        let filter = SuppressionFilter {
            tenant_id: tenant.cloned(),
            address: Some(tombstone.address.clone()),
            ..SuppressionFilter::default()
        };
        let named = self.find_suppressions(&mut transaction, &filter).await?;
        for table in ["suppressions", "suppression_quarantine"] {
            sqlx::query(&format!("UPDATE {table} SET sealed_address = NULL, note = NULL WHERE address_hash = $1 AND ($2 OR tenant_id = $3)"))
                .bind(hash.0.as_slice())
                .bind(tenant.is_none())
                .bind(tenant.map_or("", TenantId::as_str))
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
        }
        let told = named.into_iter().filter(|entry| entry.address.is_some()).map(|entry| Line {
            added: true,
            tenant_id: entry.tenant_id,
            hash,
            reason: entry.reason,
            reach: entry.reach,
            since: entry.since,
            expires_at: entry.expires_at,
            actor: entry.actor,
            note: None,
            event_id: entry.event_id,
            address: None,
            message_id: None,
            replaces: None,
            tell_only: true,
        });
        self.tell(&mut transaction, told.collect()).await?;
        let checked = Checked { actor: actor.to_owned(), new: tombstone.clone(), owner, hash, address: None };
        for answer in self.add(&mut transaction, vec![Ok(checked)]).await? {
            answer?;
        }
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(hash)
    }

    /// Lifts suppressions of one address under one tenant (`platform` for global ones), all reasons or one.
    /// Returns what was lifted. A person's own wish, or the law's, is lifted only with a note that says why. What
    /// is lifted stands in the audit log without the address.
    pub async fn unsuppress(
        &self,
        actor: &str,
        tenant_id: &TenantId,
        address: &str,
        reason: Option<Reason>,
        note: Option<&str>,
        event_id: Uuid,
    ) -> Result<Vec<Suppression>, ControlError> {
        let doing = "lift the suppression";
        let note = note.map(|note| tenant::one_line("the note", note, NOTE_CHARS_MAX)).transpose()?;
        let filter = SuppressionFilter {
            tenant_id: Some(tenant_id.clone()),
            address: Some(address.to_owned()),
            reason,
            ..SuppressionFilter::default()
        };
        self.ensure_data_key(tenant_id).await?;
        let mut transaction = self.begin(doing).await?;
        tenant::require(self, &mut transaction, tenant_id).await?;
        let found = self.find_suppressions(&mut transaction, &filter).await?;
        if let Some(wish) = found.iter().find(|found| found.reason.is_a_wish())
            && note.is_none()
        {
            return Err(ControlError::SuppressionIsAWish { reason: wish.reason });
        }
        for lifted in &found {
            let change = audit::Change {
                actor,
                tenant: tenant_id,
                action: "suppression_removed",
                subject: &format!("{:?}", lifted.address_hash),
                detail: json!({ "reason": lifted.reason, "reach": lifted.reach, "since": lifted.since.to_string(), "why": note }),
            };
            audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        }
        self.lift(&mut transaction, &found, actor, note, Some(event_id)).await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(found)
    }

    /// Takes entries off the list; part of the caller's transaction. Without an `event_id` each keeps its own.
    pub(super) async fn lift(
        &self,
        connection: &mut SqliteConnection,
        found: &[Suppression],
        actor: &str,
        note: Option<&str>,
        event_id: Option<Uuid>,
    ) -> Result<(), ControlError> {
        for lifted in found {
            sqlx::query(
                "DELETE FROM suppressions WHERE tenant_id = $1 AND address_hash = $2 AND reason = $3",
            )
            .bind(lifted.tenant_id.as_str())
            .bind(lifted.address_hash.0.as_slice())
            .bind(lifted.reason.as_str())
            .execute(&mut *connection)
            .await
            .map_err(self.failed("lift the suppression"))?;
        }
        let lines = found.iter().map(|lifted| Line::lifted(lifted.clone(), actor, note, event_id));
        self.tell(connection, lines.collect()).await
    }

    /// Lifts what has reached its end, some at a time. Returns how many; fewer than were asked for means all.
    pub async fn lift_expired(&self, now: Timestamp) -> Result<usize, ControlError> {
        let doing = "lift suppressions that are over";
        let filter = SuppressionFilter {
            expired_at: Some(now),
            limit: EXPIRED_AT_ONCE,
            ..SuppressionFilter::default()
        };
        // a look first: a write lock each second would be in everybody's way
        if self.suppressions(&SuppressionFilter { limit: 1, ..filter.clone() }).await?.is_empty() {
            return Ok(0);
        }
        let mut transaction = self.begin(doing).await?;
        let found = self.find_suppressions(&mut transaction, &filter).await?;
        self.lift(&mut transaction, &found, "expiry", Some("its time is over"), None).await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(found.len())
    }
}
