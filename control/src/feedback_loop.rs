//! Feedback loops that the installation is enrolled in. Yahoo's is per DKIM domain, Microsoft's per IP address; who is not
//! enrolled hears of no complaint, which is not the same as that there is none.

use std::net::IpAddr;

use serde_json::json;

use crate::audit::{self, Change};
use crate::clock::Timestamp;
use crate::domain::parse_domain;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;

/// What a provider was told to report about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoopIdentity {
    /// A sending domain of a tenant: the `d=` of its signatures.
    Domain(String),
    /// An address that mail leaves from; it may be several tenants'.
    Ip(IpAddr),
}

impl LoopIdentity {
    /// Reads an IP address, or else a domain.
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        match text.trim().parse::<IpAddr>() {
            Ok(address) => Ok(Self::Ip(address.to_canonical())),
            Err(_) => Ok(Self::Domain(
                parse_domain(text).map_err(|_| ControlError::NoSuchDomain { domain: text.to_owned() })?,
            )),
        }
    }

    /// `domain` or `ip`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Domain(_) => "domain",
            Self::Ip(_) => "ip",
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Domain(domain) => domain.clone(),
            Self::Ip(address) => address.to_string(),
        }
    }
}

/// One enrolment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeedbackLoop {
    /// The domain's owner; `platform` for addresses.
    pub tenant_id: TenantId,
    /// As events name it: `yahoo`, `microsoft`, …
    pub provider: String,
    /// `domain` or `ip`.
    pub identity_kind: String,
    pub identity: String,
    pub since: Timestamp,
}

impl ControlStore {
    /// Notes an enrolment. Noting it again changes nothing: it is as old as it was.
    pub async fn add_feedback_loop(
        &self,
        actor: &str,
        provider: &str,
        identity: &LoopIdentity,
    ) -> Result<(), ControlError> {
        let doing = "note the feedback loop";
        let tenant = match identity {
            LoopIdentity::Ip(_) => TenantId::platform(),
            LoopIdentity::Domain(name) => {
                let domain = self.domain(name).await?;
                domain.ok_or_else(|| ControlError::NoSuchDomain { domain: name.clone() })?.tenant_id
            }
        };
        let provider = provider.trim().to_lowercase();
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        let added = sqlx::query("INSERT INTO feedback_loops (tenant_id, provider, identity_kind, identity, since) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING")
            .bind(tenant.as_str())
            .bind(&provider)
            .bind(identity.kind())
            .bind(identity.text())
            .bind(now.0)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        if added.rows_affected() == 0 {
            return Ok(());
        }
        let (subject, detail) = (identity.text(), json!({ "provider": provider }));
        let change =
            Change { actor, tenant: &tenant, action: "feedback_loop_added", subject: &subject, detail };
        audit::record(&mut transaction, now, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// Forgets an enrolment. False when it was not known.
    pub async fn remove_feedback_loop(
        &self,
        actor: &str,
        provider: &str,
        identity: &LoopIdentity,
    ) -> Result<bool, ControlError> {
        let doing = "forget the feedback loop";
        let provider = provider.trim().to_lowercase();
        let mut transaction = self.begin(doing).await?;
        let row: Option<(String,)> = sqlx::query_as("DELETE FROM feedback_loops WHERE provider = $1 AND identity_kind = $2 AND identity = $3 RETURNING tenant_id")
            .bind(&provider)
            .bind(identity.kind())
            .bind(identity.text())
            .fetch_optional(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let Some((tenant,)) = row else { return Ok(false) };
        let subject = identity.text();
        let tenant = TenantId::new(&tenant).map_err(|error| unreadable(&subject, error.to_string()))?;
        let detail = json!({ "provider": provider });
        let change =
            Change { actor, tenant: &tenant, action: "feedback_loop_removed", subject: &subject, detail };
        audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(true)
    }

    /// All enrolments, by provider.
    pub async fn feedback_loops(&self) -> Result<Vec<FeedbackLoop>, ControlError> {
        let rows: Vec<(String, String, String, String, i64)> = sqlx::query_as(
            "SELECT tenant_id, provider, identity_kind, identity, since FROM feedback_loops ORDER BY provider, identity_kind, identity",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("list the feedback loops"))?;
        let read =
            |(tenant, provider, identity_kind, identity, since): (String, String, String, String, i64)| {
                let tenant_id =
                    TenantId::new(&tenant).map_err(|error| unreadable(&identity, error.to_string()))?;
                Ok(FeedbackLoop { tenant_id, provider, identity_kind, identity, since: Timestamp(since) })
            };
        rows.into_iter().map(read).collect()
    }
}

fn unreadable(identity: &str, problem: String) -> ControlError {
    ControlError::Unreadable { what: "feedback loop", name: identity.to_owned(), problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DomainOptions;
    use crate::store::tests::{acme, open_temporary};

    #[tokio::test]
    async fn an_enrolment_is_noted_once_and_goes_with_its_domain() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        let domain = LoopIdentity::parse("News.Example").unwrap();
        let unknown = store.add_feedback_loop("cli", "yahoo", &domain).await.unwrap_err();
        assert!(unknown.is_missing(), "{unknown}");
        store.add_domain("cli", &acme(), "news.example", DomainOptions::default()).await.unwrap();
        let address = LoopIdentity::parse("::ffff:192.0.2.1").unwrap();
        for _ in 0..2 {
            store.add_feedback_loop("cli", " Yahoo", &domain).await.unwrap();
            store.add_feedback_loop("cli", "microsoft", &address).await.unwrap();
        }
        let texts = |loops: Vec<FeedbackLoop>| {
            let text = |one: FeedbackLoop| {
                format!("{} {} {} {}", one.tenant_id, one.provider, one.identity_kind, one.identity)
            };
            loops.into_iter().map(text).collect::<Vec<_>>()
        };
        assert_eq!(
            texts(store.feedback_loops().await.unwrap()),
            ["platform microsoft ip 192.0.2.1", "acme yahoo domain news.example"]
        );
        store.remove_domain("cli", "news.example").await.unwrap();
        assert!(store.remove_feedback_loop("cli", "microsoft", &address).await.unwrap());
        assert!(!store.remove_feedback_loop("cli", "microsoft", &address).await.unwrap());
        assert_eq!(store.feedback_loops().await.unwrap(), []);
    }
}
