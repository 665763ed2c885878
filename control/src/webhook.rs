//! Where other senders push their events to: addresses with a secret in them, made and shown once, and what else it
//! takes to believe a push, sealed for its tenant.

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::audit::{self, Change};
use crate::clock::Timestamp;
use crate::data_key;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;
use crate::tenant;

const ID_LEN: usize = 16;
const SECRET_LEN: usize = 52;

/// What a push has to show, and what is done with it. Sealed as a whole: some of it is secret.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct WebhookSettings {
    /// The stream of the mail, where its records do not tell.
    pub stream: Option<String>,
    /// The sending domain, where the records do not tell.
    pub domain: Option<String>,
    /// Bring into force what hard bounces, complaints and unsubscribes call for.
    pub suppress: bool,
    /// SES: the one SNS topic whose messages count.
    pub topic_arn: Option<String>,
    /// SendGrid: the verification key, SubjectPublicKeyInfo in base64.
    pub public_key: Option<String>,
    /// Mailgun: the HTTP webhook signing key.
    pub signing_key: Option<String>,
    /// Postmark, SparkPost: basic authentication, `user:password`.
    pub basic: Option<String>,
}

impl fmt::Debug for WebhookSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSettings(not shown)")
    }
}

/// A webhook as it is asked.
#[derive(Clone, Debug)]
pub struct Webhook {
    pub webhook_id: String,
    pub tenant_id: TenantId,
    /// `ses`, `sendgrid`, `mailgun`, `postmark` or `sparkpost`.
    pub source: String,
    pub settings: WebhookSettings,
    pub created_at: Timestamp,
    pub created_by: String,
}

/// A webhook as it was made: the only moment at which its secret exists in the clear.
pub struct NewWebhook {
    pub webhook_id: String,
    /// The last part of its address. Show it once, keep it nowhere.
    pub token: String,
}

impl fmt::Debug for NewWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewWebhook({}, token not shown)", self.webhook_id)
    }
}

/// Id, tenant, source, settings, made at, made by.
type Row = (String, String, String, Vec<u8>, i64, String);

const COLUMNS: &str = "SELECT webhook_id, tenant_id, source, sealed_settings, created_at, created_by FROM webhooks_in WHERE revoked_at IS NULL";

impl ControlStore {
    /// Makes an address for one sender of a tenant.
    pub async fn add_webhook(
        &self,
        actor: &str,
        tenant_id: &TenantId,
        source: &str,
        settings: &WebhookSettings,
    ) -> Result<NewWebhook, ControlError> {
        let doing = "add the webhook";
        self.ensure_data_key(tenant_id).await?;
        let mut id = [0; 10];
        self.ids.entropy.fill(&mut id);
        let webhook_id = base32(&id);
        let secret = base32(data_key::fresh(&self.ids).as_slice());
        let plain = serde_json::to_vec(settings).map_err(|error| unreadable(&webhook_id, &error))?;
        let sealed = self.keyring.seal(tenant_id, webhook_id.as_bytes(), &plain)?;
        let created_at = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        tenant::require(self, &mut transaction, tenant_id).await?;
        sqlx::query("INSERT INTO webhooks_in (webhook_id, tenant_id, source, secret_hash, sealed_settings, created_at, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7)")
            .bind(&webhook_id)
            .bind(tenant_id.as_str())
            .bind(source)
            .bind(hash(&secret))
            .bind(sealed)
            .bind(created_at.0)
            .bind(actor)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let change = Change {
            actor,
            tenant: tenant_id,
            action: "webhook_added",
            subject: &webhook_id,
            detail: json!({ "source": source, "suppress": settings.suppress }),
        };
        audit::record(&mut transaction, created_at, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        let token = format!("{webhook_id}{secret}");
        Ok(NewWebhook { webhook_id, token })
    }

    /// The webhook behind the last part of an address; `None` when there is none, or no longer.
    pub async fn webhook(&self, token: &str) -> Result<Option<Webhook>, ControlError> {
        let Some((webhook_id, secret)) = parts(token) else { return Ok(None) };
        let doing = "read the webhook";
        let found: Option<(Vec<u8>,)> = sqlx::query_as(
            "SELECT secret_hash FROM webhooks_in WHERE webhook_id = $1 AND revoked_at IS NULL",
        )
        .bind(webhook_id)
        .fetch_optional(&self.pool)
        .await
        .map_err(self.failed(doing))?;
        let Some((known,)) = found else { return Ok(None) };
        if verify_slices_are_equal(&known, &hash(secret)).is_err() {
            return Ok(None);
        }
        let row: Option<Row> = sqlx::query_as(&format!("{COLUMNS} AND webhook_id = $1"))
            .bind(webhook_id)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed(doing))?;
        match row {
            Some(row) => self.opened(row).await.map(Some),
            None => Ok(None),
        }
    }

    /// All webhooks, or those of one tenant.
    pub async fn webhooks(&self, tenant_id: Option<&TenantId>) -> Result<Vec<Webhook>, ControlError> {
        let rows: Vec<Row> = sqlx::query_as(&format!("{COLUMNS} ORDER BY created_at, webhook_id"))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list the webhooks"))?;
        let mut webhooks = Vec::new();
        for row in rows.into_iter().filter(|row| tenant_id.is_none_or(|tenant| tenant.as_str() == row.1)) {
            webhooks.push(self.opened(row).await?);
        }
        Ok(webhooks)
    }

    /// Takes nothing from that address any more.
    pub async fn remove_webhook(&self, actor: &str, webhook_id: &str) -> Result<(), ControlError> {
        let doing = "remove the webhook";
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        let row: Option<(String, String)> = sqlx::query_as(
            "UPDATE webhooks_in SET revoked_at = $1 WHERE webhook_id = $2 AND revoked_at IS NULL RETURNING tenant_id, source",
        )
        .bind(now.0)
        .bind(webhook_id)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        let Some((tenant_id, source)) = row else {
            return Err(ControlError::NoSuchWebhook { webhook_id: webhook_id.to_owned() });
        };
        let tenant_id = TenantId::new(&tenant_id).map_err(|error| unreadable(webhook_id, &error))?;
        let change = Change {
            actor,
            tenant: &tenant_id,
            action: "webhook_removed",
            subject: webhook_id,
            detail: json!({ "source": source }),
        };
        audit::record(&mut transaction, now, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    async fn opened(&self, row: Row) -> Result<Webhook, ControlError> {
        let (webhook_id, tenant_id, source, sealed, created_at, created_by) = row;
        let tenant_id = TenantId::new(&tenant_id).map_err(|error| unreadable(&webhook_id, &error))?;
        self.ensure_data_key(&tenant_id).await?;
        let plain = self.keyring.open(&tenant_id, webhook_id.as_bytes(), &sealed)?;
        let settings = serde_json::from_slice(&plain).map_err(|error| unreadable(&webhook_id, &error))?;
        Ok(Webhook { webhook_id, tenant_id, source, settings, created_at: Timestamp(created_at), created_by })
    }
}

/// Id and secret of a token.
fn parts(token: &str) -> Option<(&str, &str)> {
    let well_formed =
        token.len() == ID_LEN + SECRET_LEN && token.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if well_formed { token.split_at_checked(ID_LEN) } else { None }
}

fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

fn hash(secret: &str) -> Vec<u8> {
    digest(&SHA256, secret.as_bytes()).as_ref().to_vec()
}

fn unreadable(webhook_id: &str, problem: &dyn fmt::Display) -> ControlError {
    ControlError::Unreadable { what: "webhook", name: webhook_id.to_owned(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests;
