//! The audit log: one row for every sensitive change, written in the same transaction as the change, and
//! never altered afterwards (the database itself refuses).

use serde::Serialize;
use sqlx::SqliteConnection;

use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;

/// One change: who did what to what, and when.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AuditEntry {
    /// 1, 2, 3 … without gaps.
    pub seq: i64,
    pub at: Timestamp,
    /// As the caller named it: `cli:anna`, `key:3f…`, `first start`.
    pub actor: String,
    /// The tenant concerned; `platform` for the installation itself.
    pub tenant_id: TenantId,
    /// `tenant_created`, `key_revoked`, `domain_added`, …
    pub action: String,
    /// The id or name of what changed.
    pub subject: String,
    /// What else there is to know. Never holds a secret.
    pub detail: serde_json::Value,
}

/// A change about to be recorded.
pub(crate) struct Change<'a> {
    pub actor: &'a str,
    pub tenant: &'a TenantId,
    pub action: &'static str,
    pub subject: &'a str,
    pub detail: serde_json::Value,
}

/// Appends the change; part of the caller's transaction.
pub(crate) async fn record(
    connection: &mut SqliteConnection,
    at: Timestamp,
    change: Change<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO audit_log (seq, at, actor, tenant_id, action, subject, detail) SELECT COALESCE(MAX(seq), 0) + 1, $1, $2, $3, $4, $5, $6 FROM audit_log")
        .bind(at.0)
        .bind(change.actor)
        .bind(change.tenant.as_str())
        .bind(change.action)
        .bind(change.subject)
        .bind(change.detail.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

type Row = (i64, i64, String, String, String, String, String);

const COLUMNS: &str = "SELECT seq, at, actor, tenant_id, action, subject, detail FROM audit_log";

impl ControlStore {
    /// Records a change that was made elsewhere, the queue for instance. Without a tenant it concerns the
    /// installation.
    pub async fn audit(
        &self,
        actor: &str,
        tenant: Option<&TenantId>,
        action: &'static str,
        subject: &str,
        detail: serde_json::Value,
    ) -> Result<(), ControlError> {
        let platform = TenantId::platform();
        let change = Change { actor, tenant: tenant.unwrap_or(&platform), action, subject, detail };
        let doing = "write the audit log";
        let mut transaction = self.begin(doing).await?;
        record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// The latest changes of the whole installation, newest first.
    pub async fn audit_log(&self, limit: u32) -> Result<Vec<AuditEntry>, ControlError> {
        let rows: Vec<Row> = sqlx::query_as(&format!("{COLUMNS} ORDER BY seq DESC LIMIT $1"))
            .bind(i64::from(limit))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read the audit log"))?;
        rows.into_iter().map(entry).collect()
    }

    /// The latest changes of one tenant, newest first.
    pub async fn audit_log_of(&self, tenant: &TenantId, limit: u32) -> Result<Vec<AuditEntry>, ControlError> {
        let rows: Vec<Row> =
            sqlx::query_as(&format!("{COLUMNS} WHERE tenant_id = $1 ORDER BY seq DESC LIMIT $2"))
                .bind(tenant.as_str())
                .bind(i64::from(limit))
                .fetch_all(&self.pool)
                .await
                .map_err(self.failed("read the audit log"))?;
        rows.into_iter().map(entry).collect()
    }
}

fn entry((seq, at, actor, tenant_id, action, subject, detail): Row) -> Result<AuditEntry, ControlError> {
    let unreadable =
        |problem| ControlError::Unreadable { what: "audit entry", name: seq.to_string(), problem };
    Ok(AuditEntry {
        seq,
        at: Timestamp(at),
        actor,
        tenant_id: TenantId::try_from(tenant_id).map_err(|error| unreadable(error.to_string()))?,
        action,
        subject,
        detail: serde_json::from_str(&detail).map_err(|error| unreadable(error.to_string()))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{acme, open_temporary};

    #[tokio::test]
    async fn every_change_leaves_its_row_newest_first() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli:anna", &acme(), "Acme Inc.").await.unwrap();
        store.suspend_tenant("cli:bert", &acme()).await.unwrap();

        let log = store.audit_log(2).await.unwrap();
        let told: Vec<_> =
            log.iter().map(|e| (e.actor.as_str(), e.action.as_str(), e.subject.as_str())).collect();
        assert_eq!(told, [("cli:bert", "tenant_suspended", "acme"), ("cli:anna", "tenant_created", "acme")]);
        assert_eq!(log[1].detail["display_name"], "Acme Inc.");
        assert_eq!(log[0].at, store.ids.now());
    }

    #[tokio::test]
    async fn a_tenant_sees_only_its_own_entries() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        store.create_tenant("cli", &TenantId::new("bolt").unwrap(), "Bolt").await.unwrap();
        let log = store.audit_log_of(&acme(), 100).await.unwrap();
        assert!(!log.is_empty() && log.iter().all(|entry| entry.tenant_id == acme()));
    }

    #[tokio::test]
    async fn the_database_refuses_to_alter_the_past() {
        let (_dir, store) = open_temporary().await;
        let before = store.audit_log(100).await.unwrap();
        for forgery in [
            "UPDATE audit_log SET actor = 'nobody'",
            "DELETE FROM audit_log",
            "INSERT OR REPLACE INTO audit_log SELECT seq, at, 'nobody', tenant_id, action, subject, detail FROM audit_log",
            "INSERT INTO audit_log SELECT * FROM audit_log WHERE true ON CONFLICT (seq) DO UPDATE SET actor = 'nobody'",
        ] {
            let refusal = sqlx::query(forgery).execute(&store.pool).await.unwrap_err().to_string();
            assert!(refusal.contains("append-only"), "{forgery}: {refusal}");
        }
        assert_eq!(store.audit_log(100).await.unwrap(), before);
    }

    #[tokio::test]
    async fn a_change_that_fails_leaves_no_entry() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        let before = store.audit_log(100).await.unwrap();
        store.create_tenant("cli", &acme(), "Again").await.unwrap_err();
        assert_eq!(store.audit_log(100).await.unwrap(), before);
    }
}
