//! Tenants: whom the installation sends for. Each has its own data key from the moment it exists.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::SqliteConnection;

use crate::audit::{self, Change};
use crate::clock::Timestamp;
use crate::data_key;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;

const DISPLAY_NAME_CHARS_MAX: usize = 200;

/// One tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tenant {
    pub tenant_id: TenantId,
    /// For people; the id is what everything refers to.
    pub display_name: String,
    pub state: TenantState,
    pub created_at: Timestamp,
}

/// Whether a tenant may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TenantState {
    Active,
    /// Nothing new is accepted; what it has, it may still read.
    Suspended,
}

impl TenantState {
    pub fn as_str(self) -> &'static str {
        match self {
            TenantState::Active => "active",
            TenantState::Suspended => "suspended",
        }
    }

    pub(crate) fn read(text: &str) -> Result<Self, String> {
        match text {
            "active" => Ok(TenantState::Active),
            "suspended" => Ok(TenantState::Suspended),
            other => Err(format!("its state is {other:?}")),
        }
    }
}

impl fmt::Display for TenantState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

type Row = (String, String, String, i64);

const COLUMNS: &str = "SELECT tenant_id, display_name, state, created_at FROM tenants";

impl ControlStore {
    /// Makes a tenant and its data key. `actor` is whom the audit log names.
    pub async fn create_tenant(
        &self,
        actor: &str,
        tenant_id: &TenantId,
        display_name: &str,
    ) -> Result<Tenant, ControlError> {
        let doing = "create the tenant";
        let display_name = one_line("the display name", display_name, DISPLAY_NAME_CHARS_MAX)?;
        let created_at = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        let made = sqlx::query("INSERT INTO tenants (tenant_id, display_name, state, created_at) VALUES ($1, $2, 'active', $3) ON CONFLICT DO NOTHING")
            .bind(tenant_id.as_str())
            .bind(display_name)
            .bind(created_at.0)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        if made.rows_affected() == 0 {
            return Err(ControlError::TenantExists { tenant: tenant_id.clone() });
        }
        let key = data_key::insert(&mut transaction, tenant_id, &self.master, &self.ids)
            .await
            .map_err(self.failed(doing))?;
        let change = Change {
            actor,
            tenant: tenant_id,
            action: "tenant_created",
            subject: tenant_id.as_str(),
            detail: json!({ "display_name": display_name }),
        };
        audit::record(&mut transaction, created_at, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        self.use_data_key(tenant_id, &key);
        Ok(Tenant {
            tenant_id: tenant_id.clone(),
            display_name: display_name.to_owned(),
            state: TenantState::Active,
            created_at,
        })
    }

    /// All tenants by name, the reserved `platform` among them.
    pub async fn tenants(&self) -> Result<Vec<Tenant>, ControlError> {
        let rows: Vec<Row> = sqlx::query_as(&format!("{COLUMNS} ORDER BY tenant_id"))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list the tenants"))?;
        rows.into_iter().map(tenant).collect()
    }

    pub async fn tenant(&self, tenant_id: &TenantId) -> Result<Option<Tenant>, ControlError> {
        let row: Option<Row> = sqlx::query_as(&format!("{COLUMNS} WHERE tenant_id = $1"))
            .bind(tenant_id.as_str())
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read the tenant"))?;
        row.map(tenant).transpose()
    }

    /// Stops a tenant. Other processes notice within five seconds.
    pub async fn suspend_tenant(&self, actor: &str, tenant_id: &TenantId) -> Result<(), ControlError> {
        if *tenant_id == TenantId::platform() {
            return Err(ControlError::ReservedTenant { tenant: tenant_id.clone() });
        }
        self.set_state(actor, tenant_id, TenantState::Suspended, "tenant_suspended").await
    }

    /// Lets a suspended tenant go on.
    pub async fn resume_tenant(&self, actor: &str, tenant_id: &TenantId) -> Result<(), ControlError> {
        self.set_state(actor, tenant_id, TenantState::Active, "tenant_resumed").await
    }

    async fn set_state(
        &self,
        actor: &str,
        tenant_id: &TenantId,
        state: TenantState,
        action: &'static str,
    ) -> Result<(), ControlError> {
        let doing = "change the tenant's state";
        let mut transaction = self.begin(doing).await?;
        require(self, &mut transaction, tenant_id).await?;
        let changed = sqlx::query("UPDATE tenants SET state = $1 WHERE tenant_id = $2 AND state <> $1")
            .bind(state.as_str())
            .bind(tenant_id.as_str())
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        if changed.rows_affected() == 0 {
            return Ok(());
        }
        let subject = tenant_id.as_str();
        let change = Change { actor, tenant: tenant_id, action, subject, detail: json!({}) };
        audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        self.key_cache.clear();
        Ok(())
    }
}

/// Fails unless there is such a tenant; part of the caller's transaction.
pub(crate) async fn require(
    store: &ControlStore,
    connection: &mut SqliteConnection,
    tenant: &TenantId,
) -> Result<(), ControlError> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT 1 FROM tenants WHERE tenant_id = $1")
        .bind(tenant.as_str())
        .fetch_optional(connection)
        .await
        .map_err(store.failed("read the tenant"))?;
    row.map(|_| ()).ok_or_else(|| ControlError::NoSuchTenant { tenant: tenant.clone() })
}

/// A text for people: trimmed, not empty, of bounded length, without line breaks or control characters.
pub(crate) fn one_line<'a>(
    what: &'static str,
    text: &'a str,
    max_chars: usize,
) -> Result<&'a str, ControlError> {
    let text = text.trim();
    let fits = !text.is_empty() && text.chars().count() <= max_chars && !text.chars().any(char::is_control);
    if fits { Ok(text) } else { Err(ControlError::InvalidText { what, max_chars }) }
}

fn tenant((tenant_id, display_name, state, created_at): Row) -> Result<Tenant, ControlError> {
    let unreadable = |problem| ControlError::Unreadable { what: "tenant", name: tenant_id.clone(), problem };
    Ok(Tenant {
        state: TenantState::read(&state).map_err(unreadable)?,
        tenant_id: TenantId::new(&tenant_id).map_err(|error| unreadable(error.to_string()))?,
        display_name,
        created_at: Timestamp(created_at),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::{acme, open_temporary};

    #[tokio::test]
    async fn a_new_tenant_is_active_and_can_seal_at_once() {
        let (_dir, store) = open_temporary().await;
        let made = store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        assert_eq!(store.tenant(&acme()).await.unwrap(), Some(made.clone()));
        assert_eq!(made.state, TenantState::Active);
        store.keyring().seal(&acme(), b"", b"x").unwrap();
    }

    #[tokio::test]
    async fn the_platform_is_there_from_the_start_and_cannot_be_suspended_or_made_again() {
        let (_dir, store) = open_temporary().await;
        let platform = TenantId::platform();
        assert_eq!(store.tenants().await.unwrap()[0].tenant_id, platform);
        store.keyring().seal(&platform, b"", b"x").unwrap();
        assert!(matches!(
            store.suspend_tenant("cli", &platform).await,
            Err(ControlError::ReservedTenant { .. })
        ));
        assert!(matches!(
            store.create_tenant("cli", &platform, "Mine").await,
            Err(ControlError::TenantExists { .. })
        ));
    }

    #[tokio::test]
    async fn suspended_and_resumed() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        store.suspend_tenant("cli", &acme()).await.unwrap();
        store.suspend_tenant("cli", &acme()).await.unwrap();
        assert_eq!(store.tenant(&acme()).await.unwrap().unwrap().state, TenantState::Suspended);
        store.resume_tenant("cli", &acme()).await.unwrap();
        assert_eq!(store.tenant(&acme()).await.unwrap().unwrap().state, TenantState::Active);
        let log = store.audit_log_of(&acme(), 10).await.unwrap();
        assert_eq!(log.len(), 3, "the repeat changed nothing and left no row: {log:?}");
    }

    #[tokio::test]
    async fn unknown_tenants_and_bad_names_are_refused_in_words() {
        let (_dir, store) = open_temporary().await;
        let error = store.suspend_tenant("cli", &acme()).await.unwrap_err().to_string();
        assert!(error.contains("no tenant acme") && error.contains("sendlake tenant ls"), "{error}");
        for name in ["", "   ", "two\nlines", &"x".repeat(201)] {
            let error = store.create_tenant("cli", &acme(), name).await.unwrap_err().to_string();
            assert!(error.contains("display name"), "{error}");
        }
        assert_eq!(store.tenant(&acme()).await.unwrap(), None);
    }
}
