//! Data keys: made, wrapped, stored, and loaded into the keyring.

use serde_json::json;
use sqlx::SqliteConnection;
use zeroize::Zeroizing;

use crate::audit::{self, Change};
use crate::error::ControlError;
use crate::id::{Ids, TenantId};
use crate::secret::MasterKey;
use crate::store::ControlStore;
use crate::tenant;

const WRAPPED_AS: &str = "data key";

impl ControlStore {
    /// Makes sure that the tenant's values can be sealed here, also when another process has just made the
    /// tenant. Costs nothing when the key is loaded already.
    pub async fn ensure_data_key(&self, tenant: &TenantId) -> Result<(), ControlError> {
        if !self.keyring.has_data_key(tenant) {
            self.refresh_data_keys().await?;
        }
        if self.keyring.has_data_key(tenant) {
            Ok(())
        } else {
            Err(ControlError::NoSuchTenant { tenant: tenant.clone() })
        }
    }

    /// Loads the data keys that other processes have made since.
    pub async fn refresh_data_keys(&self) -> Result<(), ControlError> {
        let rows: Vec<(i64, String, Vec<u8>)> =
            sqlx::query_as("SELECT key_id, tenant_id, wrapped_key FROM data_keys ORDER BY key_id")
                .fetch_all(&self.pool)
                .await
                .map_err(self.failed("read the data keys"))?;
        for (key_id, tenant, wrapped) in rows {
            let unreadable =
                |problem| ControlError::Unreadable { what: "data key", name: key_id.to_string(), problem };
            let id = u32::try_from(key_id).map_err(|error| unreadable(error.to_string()))?;
            if self.keyring.knows(id) {
                continue;
            }
            let tenant = TenantId::try_from(tenant).map_err(|error| unreadable(error.to_string()))?;
            let key = self
                .master
                .unwrap(WRAPPED_AS, &name(&tenant, key_id), &wrapped)
                .ok_or_else(|| unreadable("it was altered; restore the store from a backup".into()))?;
            self.keyring.add(&tenant, id, &key);
        }
        Ok(())
    }

    /// Gives the tenant a new data key: what is sealed from now on uses it, what was sealed before goes on
    /// opening. Other processes seal under the old one until they start again or refresh.
    ///
    /// AES-GCM with random nonces wants fewer than 2³² values under one key (NIST SP 800-38D, 8.3).
    pub async fn rotate_data_key(&self, actor: &str, tenant: &TenantId) -> Result<(), ControlError> {
        let doing = "rotate the data key";
        let mut transaction = self.begin(doing).await?;
        tenant::require(self, &mut transaction, tenant).await?;
        let made =
            insert(&mut transaction, tenant, &self.master, &self.ids).await.map_err(self.failed(doing))?;
        let subject = made.key_id.to_string();
        let change =
            Change { actor, tenant, action: "data_key_rotated", subject: &subject, detail: json!({}) };
        audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        self.use_data_key(tenant, &made);
        Ok(())
    }

    /// Puts a key into the keyring whose transaction is committed.
    pub(crate) fn use_data_key(&self, tenant: &TenantId, made: &NewDataKey) {
        // The table takes no number beyond 32 bits.
        if let Ok(key_id) = u32::try_from(made.key_id) {
            self.keyring.add(tenant, key_id, &made.key);
        }
    }
}

/// A data key that is stored but not yet in use.
pub(crate) struct NewDataKey {
    key_id: i64,
    key: Zeroizing<[u8; 32]>,
}

/// Makes and stores a data key; part of the caller's transaction.
pub(crate) async fn insert(
    connection: &mut SqliteConnection,
    tenant: &TenantId,
    master: &MasterKey,
    ids: &Ids,
) -> Result<NewDataKey, sqlx::Error> {
    let (key_id,): (i64,) = sqlx::query_as("SELECT COALESCE(MAX(key_id), 0) + 1 FROM data_keys")
        .fetch_one(&mut *connection)
        .await?;
    let key = fresh(ids);
    let wrapped = master.wrap(WRAPPED_AS, &name(tenant, key_id), &key, ids.entropy.as_ref());
    sqlx::query("INSERT INTO data_keys (key_id, tenant_id, wrapped_key, created_at) VALUES ($1, $2, $3, $4)")
        .bind(key_id)
        .bind(tenant.as_str())
        .bind(wrapped)
        .bind(ids.now().0)
        .execute(connection)
        .await?;
    Ok(NewDataKey { key_id, key })
}

/// 256 bits that nobody has seen.
pub(crate) fn fresh(ids: &Ids) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    ids.entropy.fill(key.as_mut_slice());
    key
}

/// What a wrapped key is bound to. A tenant's name holds no slash.
fn name(tenant: &TenantId, key_id: i64) -> String {
    format!("{tenant}/{key_id}")
}
