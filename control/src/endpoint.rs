//! Where events are pushed to: a tenant's endpoints, with their signing secrets sealed for the tenant.
//!
//! - [`progress`]: how far each has got, and what it did not take · [`replay`]: what is sent again by a person's wish

pub mod progress;
pub mod replay;

use std::collections::BTreeMap;
use std::fmt;

use data_encoding::{BASE32_NOPAD, BASE64};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::SqliteConnection;
use zeroize::Zeroizing;

use crate::audit::{self, Change};
use crate::clock::Timestamp;
use crate::data_key;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;
use crate::tenant;

/// In front of an endpoint's id.
const ID_PREFIX: &str = "wh_";
/// In front of a signing secret (Standard Webhooks 1.0, "Signature scheme").
pub const SECRET_PREFIX: &str = "whsec_";
/// Most endpoints of one tenant.
pub const ENDPOINTS_MAX: i64 = 100;
/// Signing secrets that one endpoint signs with at once.
const SECRETS_MAX: usize = 4;

/// Where events go, and which.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct EndpointSettings {
    pub url: String,
    pub description: Option<String>,
    pub filter: EventFilter,
    /// What is done to recipients before they leave: `hash`, `domain`, `null`; nothing where there is none.
    pub mask: Option<String>,
}

/// Which events are wanted. Each list that is not empty must hold; the names in it are alternatives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventFilter {
    pub event_types: Vec<String>,
    pub streams: Vec<String>,
    pub campaign_ids: Vec<String>,
    /// All of them must be there, with these values.
    pub tags: BTreeMap<String, String>,
}

/// What bodies are signed with.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct SigningSecret {
    /// The key itself, in base64; with [`SECRET_PREFIX`] in front it is what the receiver knows.
    #[serde(serialize_with = "plain", deserialize_with = "zeroizing")]
    key: Zeroizing<String>,
    made_at: i64,
    /// Signs no longer after this; `None` for the newest.
    until: Option<i64>,
}

fn plain<S: serde::Serializer>(key: &Zeroizing<String>, to: S) -> Result<S::Ok, S::Error> {
    key.as_str().serialize(to)
}

fn zeroizing<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

impl SigningSecret {
    /// A key of one's own, in base64, that does not end by itself: for tests and measurements.
    pub fn of_key(key: &[u8], made_at: Timestamp) -> Self {
        Self { key: Zeroizing::new(BASE64.encode(key)), made_at: made_at.0, until: None }
    }

    /// The octets that HMAC takes.
    pub fn key(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(BASE64.decode(self.key.as_bytes()).unwrap_or_default())
    }

    /// Whether bodies are signed with it at this time.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now.0 < until)
    }

    /// As the receiver knows it: `whsec_…`.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{SECRET_PREFIX}{}", self.key.as_str()))
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningSecret(not shown)")
    }
}

/// Whether anything is sent to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointState {
    Active,
    /// By a person.
    Paused,
    /// By the server: it failed for days, or said that it is gone.
    Disabled,
}

impl EndpointState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Self::Active, Self::Paused, Self::Disabled].into_iter().find(|state| state.as_str() == text)
    }
}

/// An endpoint as it is asked.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub endpoint_id: String,
    pub tenant_id: TenantId,
    pub settings: EndpointSettings,
    /// Newest first.
    pub secrets: Vec<SigningSecret>,
    pub state: EndpointState,
    pub state_reason: Option<String>,
    pub state_at: Timestamp,
    pub revision: i64,
    /// Events that were recorded earlier are not sent, unless they are replayed.
    pub created_at: Timestamp,
    pub created_by: String,
}

/// An endpoint as it was made.
#[derive(Debug)]
pub struct NewEndpoint {
    pub endpoint_id: String,
    /// `whsec_…`, for the receiver.
    pub secret: Zeroizing<String>,
}

/// Which endpoint has which revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointRevision {
    pub endpoint_id: String,
    pub revision: i64,
    pub is_active: bool,
}

/// An endpoint whose disabling, or whose end of it, no event tells of yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UntoldEndpoint {
    pub endpoint_id: String,
    pub tenant_id: TenantId,
    pub is_disabled: bool,
    pub state_reason: Option<String>,
}

#[derive(Deserialize, Serialize)]
struct Sealed {
    settings: EndpointSettings,
    secrets: Vec<SigningSecret>,
}

#[derive(sqlx::FromRow)]
struct Row {
    endpoint_id: String,
    tenant_id: String,
    sealed: Vec<u8>,
    state: String,
    state_reason: Option<String>,
    state_at: i64,
    revision: i64,
    created_at: i64,
    created_by: String,
}

const COLUMNS: &str = "SELECT endpoint_id, tenant_id, sealed, state, state_reason, state_at, revision, created_at, created_by FROM webhook_endpoints WHERE removed_at IS NULL";

impl ControlStore {
    /// Makes an endpoint; events that are recorded from now on are sent there.
    pub async fn add_endpoint(
        &self,
        actor: &str,
        tenant_id: &TenantId,
        settings: &EndpointSettings,
    ) -> Result<NewEndpoint, ControlError> {
        let doing = "add the webhook";
        self.ensure_data_key(tenant_id).await?;
        let mut id = [0; 10];
        self.ids.entropy.fill(&mut id);
        let endpoint_id = format!("{ID_PREFIX}{}", BASE32_NOPAD.encode(&id).to_ascii_lowercase());
        let now = self.ids.now();
        let secret = self.fresh_secret(now);
        let shown = secret.text();
        let sealed = self.seal_endpoint(
            tenant_id,
            &endpoint_id,
            &Sealed { settings: settings.clone(), secrets: vec![secret] },
        )?;
        let mut transaction = self.begin(doing).await?;
        tenant::require(self, &mut transaction, tenant_id).await?;
        let (others,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM webhook_endpoints WHERE tenant_id = $1 AND removed_at IS NULL",
        )
        .bind(tenant_id.as_str())
        .fetch_one(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        if others >= ENDPOINTS_MAX {
            return Err(ControlError::TooManyEndpoints { limit: ENDPOINTS_MAX });
        }
        sqlx::query("INSERT INTO webhook_endpoints (endpoint_id, tenant_id, sealed, state, state_at, revision, created_at, created_by) VALUES ($1, $2, $3, 'active', $4, 1, $4, $5)")
            .bind(&endpoint_id)
            .bind(tenant_id.as_str())
            .bind(sealed)
            .bind(now.0)
            .bind(actor)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let detail = json!({ "filter": settings.filter, "mask": settings.mask });
        self.audit_endpoint(&mut transaction, actor, tenant_id, "endpoint_added", &endpoint_id, detail)
            .await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(NewEndpoint { endpoint_id, secret: shown })
    }

    /// One endpoint; of one tenant where one is named. `None` when there is none, or no longer.
    pub async fn endpoint(
        &self,
        tenant_id: Option<&TenantId>,
        endpoint_id: &str,
    ) -> Result<Option<Endpoint>, ControlError> {
        let row: Option<Row> = sqlx::query_as(&format!("{COLUMNS} AND endpoint_id = $1"))
            .bind(endpoint_id)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read the webhook"))?;
        match row {
            Some(row) if tenant_id.is_none_or(|tenant| tenant.as_str() == row.tenant_id) => {
                self.opened_endpoint(row).await.map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The same; an error where there is none.
    pub async fn require_endpoint(
        &self,
        tenant_id: Option<&TenantId>,
        endpoint_id: &str,
    ) -> Result<Endpoint, ControlError> {
        let found = self.endpoint(tenant_id, endpoint_id).await?;
        found.ok_or_else(|| ControlError::NoSuchEndpoint { endpoint_id: endpoint_id.to_owned() })
    }

    /// All endpoints, or those of one tenant, oldest first.
    pub async fn endpoints(&self, tenant_id: Option<&TenantId>) -> Result<Vec<Endpoint>, ControlError> {
        let rows: Vec<Row> = sqlx::query_as(&format!(
            "{COLUMNS} AND ($1 IS NULL OR tenant_id = $1) ORDER BY created_at, endpoint_id"
        ))
        .bind(tenant_id.map(TenantId::as_str))
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("list the webhooks"))?;
        let mut endpoints = Vec::new();
        for row in rows {
            endpoints.push(self.opened_endpoint(row).await?);
        }
        Ok(endpoints)
    }

    /// What a server asks every second: which endpoints there are, and which have changed.
    pub async fn endpoint_revisions(&self) -> Result<Vec<EndpointRevision>, ControlError> {
        let rows: Vec<(String, i64, String)> = sqlx::query_as(
            "SELECT endpoint_id, revision, state FROM webhook_endpoints WHERE removed_at IS NULL",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("list the webhooks"))?;
        let revision = |(endpoint_id, revision, state): (String, i64, String)| EndpointRevision {
            endpoint_id,
            revision,
            is_active: state == EndpointState::Active.as_str(),
        };
        Ok(rows.into_iter().map(revision).collect())
    }

    /// Sends other events from now on, or elsewhere.
    pub async fn change_endpoint(
        &self,
        actor: &str,
        endpoint: &Endpoint,
        settings: &EndpointSettings,
    ) -> Result<(), ControlError> {
        let detail = json!({ "filter": settings.filter, "mask": settings.mask, "url_changed": settings.url != endpoint.settings.url });
        self.reseal(actor, endpoint, "endpoint_changed", detail, |sealed| sealed.settings = settings.clone())
            .await
    }

    /// A new signing secret; the others sign beside it for `keep_s` seconds more.
    pub async fn rotate_endpoint_secret(
        &self,
        actor: &str,
        endpoint: &Endpoint,
        keep_s: u32,
    ) -> Result<Zeroizing<String>, ControlError> {
        let now = self.ids.now();
        let (secret, ends) = (self.fresh_secret(now), now.plus_secs(keep_s.into()).0);
        let shown = secret.text();
        let detail = json!({ "old_until": Timestamp(ends).to_string() });
        let rotate = |sealed: &mut Sealed| {
            for old in &mut sealed.secrets {
                old.until = Some(old.until.map_or(ends, |until| until.min(ends)));
            }
            sealed.secrets.retain(|old| old.is_active(now));
            sealed.secrets.insert(0, secret.clone());
            sealed.secrets.truncate(SECRETS_MAX);
        };
        self.reseal(actor, endpoint, "endpoint_secret_rotated", detail, rotate).await?;
        Ok(shown)
    }

    async fn reseal(
        &self,
        actor: &str,
        endpoint: &Endpoint,
        action: &'static str,
        detail: serde_json::Value,
        change: impl Fn(&mut Sealed),
    ) -> Result<(), ControlError> {
        let doing = "change the webhook";
        let (tenant_id, endpoint_id) = (&endpoint.tenant_id, &endpoint.endpoint_id);
        let mut transaction = self.begin(doing).await?;
        // Read within the transaction: two changes at once must not undo each other.
        let row: Option<(Vec<u8>,)> = sqlx::query_as(
            "SELECT sealed FROM webhook_endpoints WHERE endpoint_id = $1 AND removed_at IS NULL",
        )
        .bind(endpoint_id)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        let Some((sealed,)) = row else {
            return Err(ControlError::NoSuchEndpoint { endpoint_id: endpoint_id.clone() });
        };
        let mut opened = self.open_endpoint(tenant_id, endpoint_id, &sealed)?;
        change(&mut opened);
        sqlx::query(
            "UPDATE webhook_endpoints SET sealed = $1, revision = revision + 1 WHERE endpoint_id = $2",
        )
        .bind(self.seal_endpoint(tenant_id, endpoint_id, &opened)?)
        .bind(endpoint_id)
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        self.audit_endpoint(&mut transaction, actor, tenant_id, action, endpoint_id, detail).await?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// Pauses, disables or resumes; nothing happens where it is in that state already. Who resumes starts a new account of
    /// failures.
    pub async fn set_endpoint_state(
        &self,
        actor: &str,
        endpoint: &Endpoint,
        state: EndpointState,
        reason: Option<&str>,
    ) -> Result<(), ControlError> {
        let doing = "change the webhook";
        let (tenant_id, endpoint_id) = (&endpoint.tenant_id, &endpoint.endpoint_id);
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        let changed = sqlx::query("UPDATE webhook_endpoints SET state = $1, state_reason = $2, state_at = $3, revision = revision + 1 WHERE endpoint_id = $4 AND removed_at IS NULL AND state <> $1")
            .bind(state.as_str())
            .bind(reason)
            .bind(now.0)
            .bind(endpoint_id)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        if changed.rows_affected() == 0 {
            return Ok(());
        }
        if state == EndpointState::Active {
            sqlx::query("UPDATE webhook_positions SET circuit_open = 0, next_probe_at = NULL, failing_since = NULL WHERE endpoint_id = $1")
                .bind(endpoint_id)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
        }
        let action = match state {
            EndpointState::Active => "endpoint_resumed",
            EndpointState::Paused => "endpoint_paused",
            EndpointState::Disabled => "endpoint_disabled",
        };
        let detail = json!({ "reason": reason });
        self.audit_endpoint(&mut transaction, actor, tenant_id, action, endpoint_id, detail).await?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// Sends nothing there any more, and forgets what it did not take.
    pub async fn remove_endpoint(&self, actor: &str, endpoint: &Endpoint) -> Result<(), ControlError> {
        let doing = "remove the webhook";
        let (tenant_id, endpoint_id) = (&endpoint.tenant_id, &endpoint.endpoint_id);
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        for statement in [
            "UPDATE webhook_endpoints SET removed_at = $1, revision = revision + 1 WHERE endpoint_id = $2 AND removed_at IS NULL",
            "UPDATE webhook_replays SET state = 'cancelled', ended_at = $1 WHERE endpoint_id = $2 AND state = 'running'",
        ] {
            sqlx::query(statement)
                .bind(now.0)
                .bind(endpoint_id)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
        }
        for statement in [
            "DELETE FROM webhook_undelivered WHERE endpoint_id = $1",
            "DELETE FROM webhook_positions WHERE endpoint_id = $1",
        ] {
            sqlx::query(statement)
                .bind(endpoint_id)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
        }
        self.audit_endpoint(&mut transaction, actor, tenant_id, "endpoint_removed", endpoint_id, json!({}))
            .await?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// Endpoints of which an event should tell that they were disabled, or that they no longer are.
    pub async fn untold_endpoints(&self) -> Result<Vec<UntoldEndpoint>, ControlError> {
        let rows: Vec<(String, String, i64, Option<String>)> = sqlx::query_as(
            "SELECT endpoint_id, tenant_id, state = 'disabled' AND removed_at IS NULL, state_reason FROM webhook_endpoints WHERE is_told <> (state = 'disabled' AND removed_at IS NULL)",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("list the webhooks"))?;
        rows.into_iter()
            .map(|(endpoint_id, tenant_id, is_disabled, state_reason)| {
                let tenant_id =
                    TenantId::new(&tenant_id).map_err(|error| unreadable(&endpoint_id, &error))?;
                Ok(UntoldEndpoint { endpoint_id, tenant_id, is_disabled: is_disabled != 0, state_reason })
            })
            .collect()
    }

    /// An event tells of it now.
    pub async fn endpoint_told(&self, endpoint_id: &str, is_disabled: bool) -> Result<(), ControlError> {
        sqlx::query("UPDATE webhook_endpoints SET is_told = $1 WHERE endpoint_id = $2")
            .bind(i64::from(is_disabled))
            .bind(endpoint_id)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("change the webhook"))
    }

    async fn audit_endpoint(
        &self,
        connection: &mut SqliteConnection,
        actor: &str,
        tenant: &TenantId,
        action: &'static str,
        subject: &str,
        detail: serde_json::Value,
    ) -> Result<(), ControlError> {
        let change = Change { actor, tenant, action, subject, detail };
        audit::record(connection, self.ids.now(), change).await.map_err(self.failed("write the audit log"))
    }

    fn fresh_secret(&self, now: Timestamp) -> SigningSecret {
        SigningSecret::of_key(data_key::fresh(&self.ids).as_slice(), now)
    }

    fn seal_endpoint(&self, tenant: &TenantId, id: &str, sealed: &Sealed) -> Result<Vec<u8>, ControlError> {
        let plain = Zeroizing::new(serde_json::to_vec(sealed).map_err(|error| unreadable(id, &error))?);
        Ok(self.keyring.seal(tenant, id.as_bytes(), &plain)?)
    }

    fn open_endpoint(&self, tenant: &TenantId, id: &str, sealed: &[u8]) -> Result<Sealed, ControlError> {
        let plain = Zeroizing::new(self.keyring.open(tenant, id.as_bytes(), sealed)?);
        serde_json::from_slice(&plain).map_err(|error| unreadable(id, &error))
    }

    async fn opened_endpoint(&self, row: Row) -> Result<Endpoint, ControlError> {
        let tenant_id =
            TenantId::new(&row.tenant_id).map_err(|error| unreadable(&row.endpoint_id, &error))?;
        self.ensure_data_key(&tenant_id).await?;
        let Sealed { settings, secrets } = self.open_endpoint(&tenant_id, &row.endpoint_id, &row.sealed)?;
        let state = EndpointState::parse(&row.state)
            .ok_or_else(|| unreadable(&row.endpoint_id, &format!("{:?} is no state", row.state)))?;
        Ok(Endpoint {
            endpoint_id: row.endpoint_id,
            tenant_id,
            settings,
            secrets,
            state,
            state_reason: row.state_reason,
            state_at: Timestamp(row.state_at),
            revision: row.revision,
            created_at: Timestamp(row.created_at),
            created_by: row.created_by,
        })
    }
}

fn unreadable(endpoint_id: &str, problem: &dyn fmt::Display) -> ControlError {
    ControlError::Unreadable {
        what: "webhook endpoint",
        name: endpoint_id.to_owned(),
        problem: problem.to_string(),
    }
}

#[cfg(test)]
mod tests;
