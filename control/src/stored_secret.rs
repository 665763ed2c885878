//! Credentials that connectors need, sealed under the installation's own data key.

use serde_json::json;
use zeroize::Zeroizing;

use crate::audit::{self, Change};
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;

/// Longest secret: a service account's file has some 2,400 octets.
pub const SECRET_BYTES_MAX: usize = 64 << 10;

/// A secret without what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSecret {
    pub name: String,
    pub created_at: Timestamp,
    pub created_by: String,
}

impl ControlStore {
    /// Keeps a secret, in the place of one of that name.
    pub async fn set_secret(&self, actor: &str, name: &str, secret: &str) -> Result<(), ControlError> {
        let doing = "keep the secret";
        let well_formed = !name.is_empty()
            && name.len() <= 64
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        if !well_formed {
            return Err(ControlError::InvalidText {
                what: "a secret's name (letters, digits, -, _, .)",
                max_chars: 64,
            });
        }
        if secret.is_empty() || secret.len() > SECRET_BYTES_MAX {
            return Err(ControlError::InvalidText { what: "a secret", max_chars: SECRET_BYTES_MAX });
        }
        let platform = TenantId::platform();
        self.ensure_data_key(&platform).await?;
        let sealed = self.keyring.seal(&platform, &place(name), secret.as_bytes())?;
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        sqlx::query("INSERT INTO secrets (name, sealed, created_at, created_by) VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO UPDATE SET sealed = $2, created_at = $3, created_by = $4")
            .bind(name)
            .bind(sealed)
            .bind(now.0)
            .bind(actor)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let change =
            Change { actor, tenant: &platform, action: "secret_set", subject: name, detail: json!({}) };
        audit::record(&mut transaction, now, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// The secret of that name; `None` when there is none.
    pub async fn secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, ControlError> {
        let row: Option<(Vec<u8>,)> = sqlx::query_as("SELECT sealed FROM secrets WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read the secret"))?;
        let Some((sealed,)) = row else { return Ok(None) };
        let platform = TenantId::platform();
        self.ensure_data_key(&platform).await?;
        let plain = Zeroizing::new(self.keyring.open(&platform, &place(name), &sealed)?);
        let text = std::str::from_utf8(&plain).map_err(|error| ControlError::Unreadable {
            what: "secret",
            name: name.to_owned(),
            problem: error.to_string(),
        })?;
        Ok(Some(Zeroizing::new(text.to_owned())))
    }

    /// All secrets by name, without what they hold.
    pub async fn secrets(&self) -> Result<Vec<StoredSecret>, ControlError> {
        let rows: Vec<(String, i64, String)> =
            sqlx::query_as("SELECT name, created_at, created_by FROM secrets ORDER BY name")
                .fetch_all(&self.pool)
                .await
                .map_err(self.failed("list the secrets"))?;
        let secret = |(name, created_at, created_by)| StoredSecret {
            name,
            created_at: Timestamp(created_at),
            created_by,
        };
        Ok(rows.into_iter().map(secret).collect())
    }

    /// Forgets a secret. False when there was none of that name.
    pub async fn remove_secret(&self, actor: &str, name: &str) -> Result<bool, ControlError> {
        let doing = "remove the secret";
        let mut transaction = self.begin(doing).await?;
        let removed = sqlx::query("DELETE FROM secrets WHERE name = $1")
            .bind(name)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        if removed.rows_affected() == 0 {
            return Ok(false);
        }
        let platform = TenantId::platform();
        let change =
            Change { actor, tenant: &platform, action: "secret_removed", subject: name, detail: json!({}) };
        audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(true)
    }
}

/// What a sealed value is bound to: its name.
fn place(name: &str) -> Vec<u8> {
    format!("secrets/{name}").into_bytes()
}

#[cfg(test)]
mod tests {
    use crate::store::tests::open_temporary;

    #[tokio::test]
    async fn a_secret_is_kept_sealed_replaced_and_forgotten() {
        let (dir, store) = open_temporary().await;
        for text in ["hunter1", "hunter2"] {
            store.set_secret("cli", "bq", text).await.unwrap();
        }
        assert_eq!(store.secret("bq").await.unwrap().unwrap().as_str(), "hunter2");
        assert_eq!(store.secrets().await.unwrap()[0].name, "bq");
        assert!(store.set_secret("cli", "no good", "x").await.is_err());
        assert!(store.set_secret("cli", "empty", "").await.is_err());
        store.close().await;
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let octets = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!octets.windows(7).any(|window| window == b"hunter2"));
        }
    }

    #[tokio::test]
    async fn a_secret_that_is_not_there_is_none() {
        let (_dir, store) = open_temporary().await;
        assert_eq!(store.secret("bq").await.unwrap(), None);
        assert!(!store.remove_secret("cli", "bq").await.unwrap());
        store.set_secret("cli", "bq", "x").await.unwrap();
        assert!(store.remove_secret("cli", "bq").await.unwrap());
        assert_eq!(store.secret("bq").await.unwrap(), None);
    }
}
