//! Changes of the list that no event tells yet. They are written with the change, sealed for their tenant, and removed
//! once their events are durable elsewhere, so that events and list agree through any crash.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::change::Line;
use super::totals::Totals;
use super::{Reach, Reason, unreadable};
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;

/// One change, with what its event is to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Untold {
    /// The line of the log.
    #[serde(skip)]
    pub seq: i64,
    #[serde(skip, default = "TenantId::platform")]
    pub tenant_id: TenantId,
    /// The event's id: the same however often it is told.
    pub told_as: Uuid,
    pub at: Timestamp,
    pub added: bool,
    /// None for a tombstone.
    pub address: Option<String>,
    /// 64 hexadecimal digits.
    pub address_hash: String,
    pub reason: Reason,
    pub reach: Reach,
    pub since: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub actor: String,
    pub note: Option<String>,
    /// The event that led to the change.
    pub event_id: Uuid,
    pub message_id: Option<String>,
    /// With the last change of a transaction: what the list adds up to after it.
    pub list: Option<Totals>,
}

impl Untold {
    pub(super) fn of(line: &Line, told_as: Uuid, at: Timestamp, list: Option<Totals>) -> Self {
        Self {
            seq: 0,
            tenant_id: line.tenant_id.clone(),
            told_as,
            at,
            added: line.added,
            address: line.address.clone(),
            address_hash: line.hash.to_hex(),
            reason: line.reason,
            reach: line.reach,
            since: line.since,
            expires_at: line.expires_at,
            actor: line.actor.clone(),
            note: line.note.clone(),
            event_id: line.event_id,
            message_id: line.message_id.clone(),
            list,
        }
    }
}

impl ControlStore {
    /// Up to `max` changes that no event tells yet, in order.
    pub async fn untold_suppressions(&self, max: u32) -> Result<Vec<Untold>, ControlError> {
        let rows: Vec<(i64, String, Vec<u8>)> =
            sqlx::query_as("SELECT seq, tenant_id, sealed FROM suppression_untold ORDER BY seq LIMIT $1")
                .bind(i64::from(max))
                .fetch_all(&self.pool)
                .await
                .map_err(self.failed("read changes of suppressions"))?;
        let mut changes = Vec::with_capacity(rows.len());
        for (seq, tenant, sealed) in rows {
            let tenant_id = TenantId::try_from(tenant)
                .map_err(|error| unreadable(&TenantId::platform(), error.to_string()))?;
            self.ensure_data_key(&tenant_id).await?;
            let text = self.keyring.open(&tenant_id, &seq.to_be_bytes(), &sealed)?;
            let told: Untold =
                serde_json::from_slice(&text).map_err(|error| unreadable(&tenant_id, error.to_string()))?;
            changes.push(Untold { seq, tenant_id, ..told });
        }
        Ok(changes)
    }

    /// Changes up to this line are told.
    pub async fn suppressions_told(&self, through_seq: i64) -> Result<(), ControlError> {
        sqlx::query("DELETE FROM suppression_untold WHERE seq <= $1")
            .bind(through_seq)
            .execute(&self.pool)
            .await
            .map_err(self.failed("note that changes of suppressions are told"))?;
        Ok(())
    }
}
