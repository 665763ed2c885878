//! Erasing a person, or a tenant's addresses, from the control store. What stays is the tombstone: a keyed hash, so
//! that a wish not to be written to outlives the data.

use sqlx::Row;
use uuid::Uuid;

use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;
use crate::suppression::{AddressHash, NewSuppression, Reach, Reason};

impl ControlStore {
    /// Suppresses an address for good (reason `legal`): all mail of one tenant, or of the installation. Then takes
    /// the address, and notes that may name it, from every suppression of it; hash, reason and reach stay, and are told
    /// anew without the address, so that the events which tell of them outlive those that name it. Idempotent.
    pub async fn erase_recipient(
        &self,
        actor: &str,
        tenant_id: Option<&TenantId>,
        address: &str,
        event_id: Uuid,
    ) -> Result<AddressHash, ControlError> {
        let tombstone = NewSuppression {
            tenant_id: tenant_id.cloned().unwrap_or_else(TenantId::platform),
            address: address.to_owned(),
            reach: if tenant_id.is_some() { Reach::Tenant } else { Reach::Global },
            reason: Reason::Legal,
            since: self.ids.now(),
            expires_at: None,
            event_id,
            message_id: None,
            note: None,
        };
        self.entomb(actor, &tombstone, tenant_id).await
    }

    /// Suspends a tenant and takes the addresses from its suppressions.
    pub async fn erase_tenant(&self, actor: &str, tenant_id: &TenantId) -> Result<(), ControlError> {
        self.suspend_tenant(actor, tenant_id).await?;
        for table in ["suppressions", "suppression_quarantine"] {
            sqlx::query(&format!(
                "UPDATE {table} SET sealed_address = NULL, note = NULL WHERE tenant_id = $1"
            ))
            .bind(tenant_id.as_str())
            .execute(&self.pool)
            .await
            .map_err(self.failed("erase the addresses from the suppressions"))?;
        }
        Ok(())
    }

    /// Where the store's own texts say yes to `is_in`, in words: suppressions, notes, the audit log.
    pub async fn mentions(
        &self,
        address: &str,
        is_in: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Vec<String>, ControlError> {
        let mut found = Vec::new();
        let hash = self.address_hasher().hash(address);
        let sealed = sqlx::query(
            "SELECT COUNT(*) AS n FROM (SELECT address_hash, sealed_address FROM suppressions UNION ALL SELECT address_hash, sealed_address FROM suppression_quarantine) AS entries WHERE address_hash = $1 AND sealed_address IS NOT NULL",
        )
        .bind(hash.0.as_slice())
        .fetch_one(&self.pool)
        .await
        .map_err(self.failed("look through the suppressions"))?;
        if sealed.get::<i64, _>("n") > 0 {
            found.push("the list of suppressions, sealed".to_owned());
        }
        for (what, query) in [
            ("the note of a suppression", "SELECT COALESCE(note, '') AS words FROM suppressions"),
            (
                "line {} of the suppressions' log",
                "SELECT seq, COALESCE(note, '') AS words FROM suppression_log",
            ),
            (
                "entry {} of the audit log",
                "SELECT seq, actor || ' ' || subject || ' ' || detail AS words FROM audit_log",
            ),
            ("the label of an API key", "SELECT label AS words FROM api_keys"),
        ] {
            let rows = sqlx::query(query)
                .fetch_all(&self.pool)
                .await
                .map_err(self.failed("look through its texts"))?;
            for row in rows.iter().filter(|row| is_in(row.get::<String, _>("words").as_bytes())) {
                let seq = row.try_get::<i64, _>("seq").map_or_else(|_| String::new(), |seq| seq.to_string());
                found.push(what.replace("{}", &seq));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{acme, open_temporary};
    use crate::suppression::SuppressionFilter;

    #[tokio::test]
    async fn the_opt_out_outlives_the_address() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        let wish = NewSuppression {
            tenant_id: acme(),
            address: "ann@a.test".into(),
            reach: Reach::Bulk,
            reason: Reason::Unsubscribe,
            since: store.ids.now(),
            expires_at: None,
            event_id: Uuid::nil(),
            message_id: None,
            note: Some("said ann@a.test by phone".into()),
        };
        store.suppress("cli", &wish).await.unwrap();
        let is_in = |text: &[u8]| text.windows(10).any(|part| part == b"ann@a.test");
        assert_eq!(store.mentions("ann@a.test", &is_in).await.unwrap().len(), 3);
        for _ in 0..2 {
            let hash = store.erase_recipient("cli", Some(&acme()), "Ann@A.test", Uuid::nil()).await.unwrap();
            assert_eq!(hash.to_hex().len(), 64);
            let filter =
                SuppressionFilter { address: Some("ann@a.test".into()), ..SuppressionFilter::default() };
            let left = store.suppressions(&filter).await.unwrap();
            let mut reasons: Vec<Reason> = left.iter().map(|row| row.reason).collect();
            reasons.sort();
            assert_eq!(reasons, [Reason::Unsubscribe, Reason::Legal]);
            assert!(left.iter().all(|row| row.address.is_none() && row.note.is_none()));
        }
        let left = store.mentions("ann@a.test", &is_in).await.unwrap();
        assert_eq!(left.len(), 1, "the append-only log keeps its note, and says so: {left:?}");
    }
}
