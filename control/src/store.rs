//! The control store as a whole: opened with its keyring, shared by all that follows.
//!
//! One SQLite database, which several processes may have open at once. What it holds is in the modules
//! beside this one, each adding its own methods to [`ControlStore`].

mod file;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use parking_lot::RwLock;
use serde_json::json;
use sqlx::{Sqlite, SqlitePool, Transaction};
use zeroize::Zeroizing;

use crate::audit::{self, Change};
use crate::data_key;
use crate::error::ControlError;
use crate::id::{Ids, TenantId};
use crate::key::KeyCache;
use crate::secret::{Keyring, MasterKey};
use crate::suppression::totals::EntryHasher;
use crate::suppression::{AddressHasher, HASH_PURPOSE, tag};

/// The name and kind under which the installation's own secret is wrapped.
const INSTALLATION_SECRET: (&str, &str) = ("installation secret", "derive");

/// The same of the key of a list of suppressions that was taken over from another store.
pub(crate) const LIST_KEY: (&str, &str) = ("suppression list", "key");

/// Tenants, API keys, sending domains and the audit log of one installation. Share it in an [`Arc`].
#[derive(Debug)]
pub struct ControlStore {
    pub(crate) pool: SqlitePool,
    pub(crate) ids: Ids,
    pub(crate) master: MasterKey,
    pub(crate) key_cache: KeyCache,
    pub(crate) keyring: Arc<Keyring>,
    /// What addresses on the list of suppressions are hashed with.
    pub(crate) list_key: RwLock<Zeroizing<[u8; 32]>>,
    path: PathBuf,
}

impl ControlStore {
    /// Opens the store at `path`, and makes it (mode 0600) when there is none: brings its schema up to date
    /// and loads every tenant's data key.
    ///
    /// Refuses, without changing anything, a damaged file, a foreign one, one of a newer version, and one
    /// made under another master key.
    pub async fn open(path: &Path, master: MasterKey, ids: Ids) -> Result<Self, ControlError> {
        let pool = file::open(path).await?;
        Self::load(path, pool, master, ids, Access::ReadWrite).await
    }

    /// Opens the store for reading beside a running server: never writes, never migrates.
    pub async fn open_read_only(path: &Path, master: MasterKey, ids: Ids) -> Result<Self, ControlError> {
        let pool = file::open_read_only(path).await?;
        Self::load(path, pool, master, ids, Access::ReadOnly).await
    }

    async fn load(
        path: &Path,
        pool: SqlitePool,
        master: MasterKey,
        ids: Ids,
        access: Access,
    ) -> Result<Self, ControlError> {
        let secret = born(path, &pool, &master, &ids, access).await;
        let secret = file::closed_on_error(&pool, secret).await?;
        let keyring = Arc::new(Keyring::new(ids.entropy.clone(), &secret));
        let list_key = RwLock::new(Zeroizing::new(keyring.derive(HASH_PURPOSE)));
        let (key_cache, path) = (KeyCache::default(), path.to_owned());
        let store = Self { pool, ids, master, key_cache, keyring, list_key, path };
        let loaded = store.load_keys(access).await;
        file::closed_on_error(&store.pool, loaded).await?;
        Ok(store)
    }

    async fn load_keys(&self, access: Access) -> Result<(), ControlError> {
        self.refresh_data_keys().await?;
        if let Some(adopted) = secret(&self.path, &self.pool, &self.master, LIST_KEY).await? {
            *self.list_key.write() = adopted;
        }
        match access {
            Access::ReadWrite => self.ensure_suppression_totals().await,
            Access::ReadOnly => Ok(()),
        }
    }

    /// Makes hashes of addresses as this store does.
    pub fn address_hasher(&self) -> AddressHasher {
        AddressHasher::new(&self.list_key.read())
    }

    /// Makes hashes of entries, for their sum.
    pub fn entry_hasher(&self) -> EntryHasher {
        EntryHasher::new(&self.list_key.read())
    }

    /// Names the list of suppressions, by its key and without telling it.
    pub fn suppression_list_id(&self) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.list_key.read().as_slice());
        let [id @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] =
            tag(&key, &[b"suppression list id 1"]);
        HEXLOWER.encode(&id)
    }

    /// Every data key that this process knows, and the installation's derived keys.
    pub fn keyring(&self) -> Arc<Keyring> {
        self.keyring.clone()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Closes the database, and folds its -wal file in where nobody else is reading.
    pub async fn close(&self) {
        // Only tidiness: with the file left as it is, the next start reads it.
        let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.pool).await;
        self.pool.close().await;
    }

    /// A transaction that holds the write lock from its start, so that what it checks is still true when it
    /// writes. (PostgreSQL: serializable.)
    pub(crate) async fn begin(
        &self,
        doing: &'static str,
    ) -> Result<Transaction<'static, Sqlite>, ControlError> {
        self.pool.begin_with("BEGIN IMMEDIATE").await.map_err(self.failed(doing))
    }

    pub(crate) fn failed(&self, doing: &'static str) -> impl Fn(sqlx::Error) -> ControlError {
        move |source| file::database_error(&self.path, doing, source)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadOnly,
    ReadWrite,
}

/// The secret that [`Keyring::derive`] works from; made now if this is the installation's first moment.
async fn born(
    path: &Path,
    pool: &SqlitePool,
    master: &MasterKey,
    ids: &Ids,
    access: Access,
) -> Result<Zeroizing<[u8; 32]>, ControlError> {
    if let Some(secret) = installation_secret(path, pool, master).await? {
        return Ok(secret);
    }
    if access == Access::ReadWrite {
        found_installation(pool, master, ids)
            .await
            .map_err(|source| file::database_error(path, "set up the installation", source))?;
    }
    // Read back rather than kept: another process may have been first.
    let secret = installation_secret(path, pool, master).await?;
    secret.ok_or_else(|| ControlError::Missing { path: path.to_owned() })
}

async fn installation_secret(
    path: &Path,
    pool: &SqlitePool,
    master: &MasterKey,
) -> Result<Option<Zeroizing<[u8; 32]>>, ControlError> {
    secret(path, pool, master, INSTALLATION_SECRET).await
}

/// A stored secret by its kind and name, if there is one.
async fn secret(
    path: &Path,
    pool: &SqlitePool,
    master: &MasterKey,
    (kind, name): (&str, &str),
) -> Result<Option<Zeroizing<[u8; 32]>>, ControlError> {
    let row: Option<(Vec<u8>,)> =
        sqlx::query_as("SELECT wrapped_secret FROM installation_secrets WHERE name = $1")
            .bind(name)
            .fetch_optional(pool)
            .await
            .map_err(|source| file::database_error(path, "read the installation's secret", source))?;
    let Some((wrapped,)) = row else { return Ok(None) };
    let secret = master.unwrap(kind, name, &wrapped);
    secret.map(Some).ok_or_else(|| ControlError::WrongMasterKey {
        path: path.to_owned(),
        origin: master.origin().to_owned(),
    })
}

/// Makes the reserved tenant, its data key and the installation's secret, unless they are there.
async fn found_installation(pool: &SqlitePool, master: &MasterKey, ids: &Ids) -> Result<(), sqlx::Error> {
    let (kind, name) = INSTALLATION_SECRET;
    let platform = TenantId::platform();
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let made = sqlx::query("INSERT INTO tenants (tenant_id, display_name, state, created_at) VALUES ($1, $2, 'active', $3) ON CONFLICT DO NOTHING")
        .bind(platform.as_str())
        .bind("This installation")
        .bind(ids.now().0)
        .execute(&mut *transaction)
        .await?;
    if made.rows_affected() == 0 {
        return Ok(());
    }
    data_key::insert(&mut transaction, &platform, master, ids).await?;
    let secret = data_key::fresh(ids);
    sqlx::query("INSERT INTO installation_secrets (name, tenant_id, wrapped_secret, created_at) VALUES ($1, $2, $3, $4)")
        .bind(name)
        .bind(platform.as_str())
        .bind(master.wrap(kind, name, &secret, ids.entropy.as_ref()))
        .bind(ids.now().0)
        .execute(&mut *transaction)
        .await?;
    let change = Change {
        actor: "first start",
        tenant: &platform,
        action: "installation_created",
        subject: platform.as_str(),
        detail: json!({}),
    };
    audit::record(&mut transaction, ids.now(), change).await?;
    transaction.commit().await
}

#[cfg(test)]
pub(crate) mod tests;
