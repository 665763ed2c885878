//! API keys: made and shown once, kept as a hash, checked on every request.
//!
//! A key reads `sl_<id>_<secret>`, both parts in lower-case base32 (RFC 4648, section 6, unpadded): the id,
//! 80 bits, may be shown and logged; the secret, 256 bits, is known to its holder alone.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE32_NOPAD;
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::SqliteConnection;

use crate::audit::{self, Change};
use crate::clock::Timestamp;
use crate::data_key;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;
use crate::tenant::{self, TenantState, one_line};

const LABEL_CHARS_MAX: usize = 200;
const KEY_ID_LEN: usize = 16;
const SECRET_LEN: usize = 52;
/// How long a key that was revoked elsewhere may still work here.
const CACHED_FOR_MS: i64 = 5_000;
const CACHED_KEYS_MAX: usize = 10_000;

/// What a key allows. None implies another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Hand over mail.
    Send,
    /// Read messages and their histories.
    Read,
    /// Ask the lake in SQL.
    Sql,
    /// Change tenants, keys and domains.
    Admin,
}

/// The text is not the name of a scope.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a scope: use send, read, sql or admin")]
pub struct InvalidScope(pub String);

impl Scope {
    pub const ALL: [Scope; 4] = [Scope::Send, Scope::Read, Scope::Sql, Scope::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Send => "send",
            Scope::Read => "read",
            Scope::Sql => "sql",
            Scope::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|s| s.as_str() == name).ok_or_else(|| InvalidScope(name.to_owned()))
    }
}

/// A key as it was made: the only moment at which its secret exists in the clear.
pub struct NewKey {
    pub key_id: String,
    /// `None`: for the whole installation.
    pub tenant: Option<TenantId>,
    pub scopes: Vec<Scope>,
    pub label: String,
    /// What the holder presents, `sl_…`, whole. Show it once, keep it nowhere.
    pub secret: String,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewKey({}, secret not shown)", self.key_id)
    }
}

/// A key as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    pub key_id: String,
    /// `None`: for the whole installation.
    pub tenant_id: Option<TenantId>,
    pub scopes: Vec<Scope>,
    pub label: String,
    pub created_at: Timestamp,
    pub created_by: String,
    pub revoked_at: Option<Timestamp>,
}

/// Who is asking, as proven by a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub key_id: String,
    /// `None`: the whole installation; a request that concerns one tenant must name it.
    pub tenant: Option<TenantId>,
    /// Sorted, none twice.
    pub scopes: Vec<Scope>,
    /// Whether `tenant` may send; [`TenantState::Active`] for an installation-wide key.
    pub tenant_state: TenantState,
}

impl Principal {
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// Keys seen in the last seconds, so that most requests do not ask the database.
#[derive(Default)]
pub(crate) struct KeyCache(RwLock<HashMap<String, CachedKey>>);

#[derive(Clone)]
struct CachedKey {
    principal: Principal,
    secret_hash: Vec<u8>,
    read_at: Timestamp,
}

impl KeyCache {
    fn fresh(&self, key_id: &str, now: Timestamp) -> Option<CachedKey> {
        let cached = self.0.read().get(key_id).cloned()?;
        (0..CACHED_FOR_MS).contains(&now.millis_since(cached.read_at)).then_some(cached)
    }

    fn keep(&self, key: CachedKey) {
        let mut keys = self.0.write();
        if keys.len() >= CACHED_KEYS_MAX {
            keys.clear();
        }
        keys.insert(key.principal.key_id.clone(), key);
    }

    pub(crate) fn clear(&self) {
        self.0.write().clear();
    }
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyCache({} keys)", self.0.read().len())
    }
}

/// Id, owner, installation-wide, scopes, label, made at, made by, revoked at.
type Row = (String, String, bool, String, String, i64, String, Option<i64>);

impl ControlStore {
    /// Makes the installation-wide key with every scope, if no key was ever made here; else `None`.
    pub async fn first_start(&self) -> Result<Option<NewKey>, ControlError> {
        let doing = "make the first key";
        let mut transaction = self.begin(doing).await?;
        let (keys,): (i64,) = sqlx::query_as("SELECT COUNT(*) FROM api_keys")
            .fetch_one(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        if keys > 0 {
            return Ok(None);
        }
        let key = self
            .insert_key(&mut transaction, "first start", None, &Scope::ALL, "first admin key")
            .await
            .map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(Some(key))
    }

    /// Makes a key for one tenant, or with `None` for the whole installation.
    pub async fn create_key(
        &self,
        actor: &str,
        tenant: Option<&TenantId>,
        scopes: &[Scope],
        label: &str,
    ) -> Result<NewKey, ControlError> {
        let doing = "create the key";
        if scopes.is_empty() {
            return Err(ControlError::NoScopes);
        }
        let label = one_line("the label", label, LABEL_CHARS_MAX)?;
        let mut transaction = self.begin(doing).await?;
        if let Some(tenant) = tenant {
            tenant::require(self, &mut transaction, tenant).await?;
        }
        let key = self
            .insert_key(&mut transaction, actor, tenant, scopes, label)
            .await
            .map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(key)
    }

    async fn insert_key(
        &self,
        connection: &mut SqliteConnection,
        actor: &str,
        tenant: Option<&TenantId>,
        scopes: &[Scope],
        label: &str,
    ) -> Result<NewKey, sqlx::Error> {
        let mut id = [0; 10];
        self.ids.entropy.fill(&mut id);
        let key_id = base32(&id);
        let secret = base32(data_key::fresh(&self.ids).as_slice());
        let scopes = sorted(scopes);
        let created_at = self.ids.now();
        let owner = tenant.cloned().unwrap_or_else(TenantId::platform);
        sqlx::query("INSERT INTO api_keys (key_id, tenant_id, installation_wide, scopes, label, secret_hash, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
            .bind(&key_id)
            .bind(owner.as_str())
            .bind(tenant.is_none())
            .bind(words(&scopes))
            .bind(label)
            .bind(hash(&secret))
            .bind(created_at.0)
            .bind(actor)
            .execute(&mut *connection)
            .await?;
        let change = Change {
            actor,
            tenant: &owner,
            action: "key_created",
            subject: &key_id,
            detail: json!({ "scopes": scopes, "label": label, "installation_wide": tenant.is_none() }),
        };
        audit::record(connection, created_at, change).await?;
        let secret = format!("sl_{key_id}_{secret}");
        Ok(NewKey { key_id, tenant: tenant.cloned(), scopes, label: label.to_owned(), secret })
    }

    /// Who presents this key; `None` when there is no such key, it was revoked, or the text is not a key.
    ///
    /// The answer may be up to five seconds old: so long may a key that another process revoked still work.
    pub async fn authenticate(&self, presented: &str) -> Result<Option<Principal>, ControlError> {
        let Some((key_id, secret)) = parts(presented) else { return Ok(None) };
        let now = self.ids.now();
        let key = match self.key_cache.fresh(key_id, now) {
            Some(key) => key,
            None => match self.read_key(key_id, now).await? {
                Some(key) => {
                    self.key_cache.keep(key.clone());
                    key
                }
                None => return Ok(None),
            },
        };
        let proven = verify_slices_are_equal(&key.secret_hash, &hash(secret)).is_ok();
        Ok(proven.then_some(key.principal))
    }

    async fn read_key(&self, key_id: &str, now: Timestamp) -> Result<Option<CachedKey>, ControlError> {
        let row: Option<(String, bool, String, Vec<u8>, String)> = sqlx::query_as("SELECT k.tenant_id, k.installation_wide, k.scopes, k.secret_hash, t.state FROM api_keys k JOIN tenants t ON t.tenant_id = k.tenant_id WHERE k.key_id = $1 AND k.revoked_at IS NULL")
            .bind(key_id)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("check a key"))?;
        let Some((tenant_id, installation_wide, scopes, secret_hash, state)) = row else { return Ok(None) };
        let principal = Principal {
            key_id: key_id.to_owned(),
            tenant: owner(key_id, &tenant_id, installation_wide)?,
            scopes: read_scopes(key_id, &scopes)?,
            tenant_state: TenantState::read(&state).map_err(|problem| unreadable(key_id, problem))?,
        };
        Ok(Some(CachedKey { principal, secret_hash, read_at: now }))
    }

    /// The keys of one tenant, or with `None` all there are, oldest first, revoked ones included.
    pub async fn keys(&self, tenant: Option<&TenantId>) -> Result<Vec<ApiKey>, ControlError> {
        let rows: Vec<Row> = sqlx::query_as("SELECT key_id, tenant_id, installation_wide, scopes, label, created_at, created_by, revoked_at FROM api_keys WHERE $1 IS NULL OR (tenant_id = $1 AND NOT installation_wide) ORDER BY created_at, key_id")
            .bind(tenant.map(TenantId::as_str))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list the keys"))?;
        rows.into_iter().map(listed).collect()
    }

    /// Ends a key for good: here at once, in other processes within five seconds. Revoking it again changes
    /// nothing.
    pub async fn revoke_key(&self, actor: &str, key_id: &str) -> Result<(), ControlError> {
        let doing = "revoke the key";
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        let row: Option<(String, Option<i64>)> =
            sqlx::query_as("SELECT tenant_id, revoked_at FROM api_keys WHERE key_id = $1")
                .bind(key_id)
                .fetch_optional(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
        let Some((tenant_id, revoked_at)) = row else {
            return Err(ControlError::NoSuchKey { key_id: key_id.to_owned() });
        };
        if revoked_at.is_some() {
            return Ok(());
        }
        sqlx::query("UPDATE api_keys SET revoked_at = $1 WHERE key_id = $2")
            .bind(now.0)
            .bind(key_id)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let tenant = TenantId::new(&tenant_id).map_err(|error| unreadable(key_id, error.to_string()))?;
        let change =
            Change { actor, tenant: &tenant, action: "key_revoked", subject: key_id, detail: json!({}) };
        audit::record(&mut transaction, now, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        self.key_cache.clear();
        Ok(())
    }
}

/// Id and secret of a presented key, when the text has the shape of one.
fn parts(presented: &str) -> Option<(&str, &str)> {
    let (key_id, secret) = presented.strip_prefix("sl_")?.split_once('_')?;
    (key_id.len() == KEY_ID_LEN && secret.len() == SECRET_LEN).then_some((key_id, secret))
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// Plain SHA-256 is enough: the secret has 256 random bits, so there is nothing to guess at.
fn hash(secret: &str) -> Vec<u8> {
    digest(&SHA256, secret.as_bytes()).as_ref().to_vec()
}

fn sorted(scopes: &[Scope]) -> Vec<Scope> {
    let mut scopes = scopes.to_vec();
    scopes.sort_unstable();
    scopes.dedup();
    scopes
}

fn words(scopes: &[Scope]) -> String {
    scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" ")
}

fn read_scopes(key_id: &str, words: &str) -> Result<Vec<Scope>, ControlError> {
    let scopes: Result<Vec<Scope>, InvalidScope> = words.split(' ').map(str::parse).collect();
    scopes.map_err(|error| unreadable(key_id, error.to_string()))
}

fn owner(key_id: &str, tenant_id: &str, installation_wide: bool) -> Result<Option<TenantId>, ControlError> {
    let tenant = TenantId::new(tenant_id).map_err(|error| unreadable(key_id, error.to_string()))?;
    Ok((!installation_wide).then_some(tenant))
}

fn listed(row: Row) -> Result<ApiKey, ControlError> {
    let (key_id, tenant_id, installation_wide, scopes, label, created_at, created_by, revoked_at) = row;
    Ok(ApiKey {
        tenant_id: owner(&key_id, &tenant_id, installation_wide)?,
        scopes: read_scopes(&key_id, &scopes)?,
        key_id,
        label,
        created_at: Timestamp(created_at),
        created_by,
        revoked_at: revoked_at.map(Timestamp),
    })
}

fn unreadable(key_id: &str, problem: String) -> ControlError {
    ControlError::Unreadable { what: "key", name: key_id.to_owned(), problem }
}

#[cfg(test)]
mod tests;
