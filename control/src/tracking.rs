//! Opens and clicks: what a tenant's messages get that say nothing themselves, and the names under which tracked links
//! are served.

use serde::Serialize;
use serde_json::json;

use crate::audit::{self, Change};
use crate::clock::Timestamp;
use crate::domain::{DnsRecord, parse_domain};
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;
use crate::tenant;

/// What a tenant's messages get by default. Off until somebody turns it on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TrackingDefault {
    pub opens: bool,
    pub clicks: bool,
}

/// A name under which a sending domain's tracked links are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TrackingDomain {
    /// `links.example.com`, ASCII, lower case.
    pub tracking_domain: String,
    pub domain: String,
    pub tenant_id: TenantId,
    /// When it was last seen to lead to this installation. Links do not use it before.
    pub verified_at: Option<Timestamp>,
}

type Row = (String, String, String, Option<i64>);

impl TrackingDomain {
    /// What the domain's owner publishes: a CNAME to the host of `http.public_url`.
    pub fn dns_record(&self, public_host: &str) -> DnsRecord {
        DnsRecord {
            name: self.tracking_domain.clone(),
            kind: "CNAME",
            value: public_host.trim_end_matches('.').to_owned(),
            purpose: "tracking: links in this domain's mail lead to this installation",
        }
    }
}

impl ControlStore {
    /// Says what a tenant's messages get that say nothing themselves.
    pub async fn set_tracking_default(
        &self,
        actor: &str,
        tenant_id: &TenantId,
        wanted: TrackingDefault,
    ) -> Result<(), ControlError> {
        let doing = "change the tenant's tracking";
        let mut transaction = self.begin(doing).await?;
        tenant::require(self, &mut transaction, tenant_id).await?;
        sqlx::query("INSERT INTO tenant_tracking (tenant_id, opens, clicks) VALUES ($1, $2, $3) ON CONFLICT (tenant_id) DO UPDATE SET opens = $2, clicks = $3")
            .bind(tenant_id.as_str())
            .bind(wanted.opens)
            .bind(wanted.clicks)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let subject = tenant_id.as_str();
        let change =
            Change { actor, tenant: tenant_id, action: "tracking_changed", subject, detail: json!(wanted) };
        audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// Tenants whose default was ever set.
    pub async fn tracking_defaults(&self) -> Result<Vec<(TenantId, TrackingDefault)>, ControlError> {
        let rows: Vec<(String, bool, bool)> =
            sqlx::query_as("SELECT tenant_id, opens, clicks FROM tenant_tracking")
                .fetch_all(&self.pool)
                .await
                .map_err(self.failed("read the tenants' tracking"))?;
        rows.into_iter()
            .map(|(tenant, opens, clicks)| Ok((tenant_of(&tenant)?, TrackingDefault { opens, clicks })))
            .collect()
    }

    /// Gives a sending domain the name that its tracked links are served under, in place of one it had; `None` takes it
    /// away. The name must lie below the sending domain, so that a reader sees whose link it is. Not used before it was
    /// verified.
    pub async fn set_tracking_domain(
        &self,
        actor: &str,
        domain: &str,
        name: Option<&str>,
    ) -> Result<Option<TrackingDomain>, ControlError> {
        let doing = "change the tracking domain";
        let missing = || ControlError::NoSuchDomain { domain: domain.to_owned() };
        let known = self.domain(domain).await?.ok_or_else(missing)?;
        let name = name.map(|name| tracking_domain(name, &known.domain, &known.bounce_domain)).transpose()?;
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        sqlx::query("DELETE FROM tracking_domains WHERE domain = $1")
            .bind(&known.domain)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        if let Some(name) = &name {
            let taken = sqlx::query("INSERT INTO tracking_domains (tracking_domain, domain, tenant_id, created_at) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING")
                .bind(name)
                .bind(&known.domain)
                .bind(known.tenant_id.as_str())
                .bind(now.0)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
            if taken.rows_affected() == 0 {
                return Err(ControlError::DomainTaken { domain: name.clone() });
            }
        }
        let change = Change {
            actor,
            tenant: &known.tenant_id,
            action: "tracking_domain_changed",
            subject: &known.domain,
            detail: json!({ "tracking_domain": name }),
        };
        audit::record(&mut transaction, now, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(name.map(|tracking_domain| TrackingDomain {
            tracking_domain,
            domain: known.domain,
            tenant_id: known.tenant_id,
            verified_at: None,
        }))
    }

    /// Notes whether a tracking domain was seen to lead here: links use it, or go back to the installation's own name.
    pub async fn verify_tracking_domain(
        &self,
        actor: &str,
        known: &TrackingDomain,
        leads_here: bool,
    ) -> Result<(), ControlError> {
        let doing = "note that the tracking domain was checked";
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        sqlx::query("UPDATE tracking_domains SET verified_at = $1 WHERE tracking_domain = $2")
            .bind(leads_here.then_some(now.0))
            .bind(&known.tracking_domain)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let change = Change {
            actor,
            tenant: &known.tenant_id,
            action: "tracking_domain_checked",
            subject: &known.domain,
            detail: json!({ "tracking_domain": known.tracking_domain, "leads_here": leads_here }),
        };
        audit::record(&mut transaction, now, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// All tracking domains, by name.
    pub async fn tracking_domains(&self) -> Result<Vec<TrackingDomain>, ControlError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT tracking_domain, domain, tenant_id, verified_at FROM tracking_domains ORDER BY tracking_domain",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("list the tracking domains"))?;
        rows.into_iter()
            .map(|(tracking_domain, domain, tenant, verified_at)| {
                let (tenant_id, verified_at) = (tenant_of(&tenant)?, verified_at.map(Timestamp));
                Ok(TrackingDomain { tracking_domain, domain, tenant_id, verified_at })
            })
            .collect()
    }
}

fn tracking_domain(name: &str, domain: &str, bounce_domain: &str) -> Result<String, ControlError> {
    let name = parse_domain(name)?;
    let invalid = |problem| ControlError::InvalidDomain { domain: name.clone(), problem };
    if !name.strip_suffix(domain).is_some_and(|front| front.ends_with('.')) {
        return Err(invalid(
            "a tracking domain must lie below its sending domain, as links.example.com does",
        ));
    }
    if name == bounce_domain {
        return Err(invalid(
            "the bounce domain has an MX record, and a name with a CNAME may have no other record",
        ));
    }
    Ok(name)
}

fn tenant_of(text: &str) -> Result<TenantId, ControlError> {
    TenantId::new(text).map_err(|error| ControlError::Unreadable {
        what: "tracking",
        name: text.to_owned(),
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DomainOptions;
    use crate::store::tests::{acme, open_temporary};

    #[tokio::test]
    async fn tracking_is_off_until_a_tenant_turns_it_on() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        assert_eq!(store.tracking_defaults().await.unwrap(), []);
        for wanted in
            [TrackingDefault { opens: true, clicks: true }, TrackingDefault { opens: false, clicks: true }]
        {
            store.set_tracking_default("cli", &acme(), wanted).await.unwrap();
            assert_eq!(store.tracking_defaults().await.unwrap(), [(acme(), wanted)]);
        }
        let nobody = TenantId::new("nobody").unwrap();
        let error = store.set_tracking_default("cli", &nobody, TrackingDefault::default()).await;
        assert!(error.unwrap_err().to_string().contains("no tenant nobody"));
    }

    #[tokio::test]
    async fn a_tracking_domain_lies_below_its_sending_domain_and_is_used_once_it_leads_here() {
        let (_dir, store) = open_temporary().await;
        store.create_tenant("cli", &acme(), "Acme").await.unwrap();
        for domain in ["acme.example", "acme.test"] {
            store.add_domain("cli", &acme(), domain, DomainOptions::default()).await.unwrap();
        }
        for (name, words) in [
            ("links.other.example", "below its sending domain"),
            ("acme.example", "below its sending domain"),
            ("evilacme.example", "below its sending domain"),
            ("bounces.acme.example", "CNAME"),
            ("not a name", "host name"),
        ] {
            let error = store.set_tracking_domain("cli", "acme.example", Some(name)).await.unwrap_err();
            assert!(error.to_string().contains(words), "{name}: {error}");
        }
        let set = store.set_tracking_domain("cli", "ACME.example", Some("Links.acme.example")).await.unwrap();
        let set = set.unwrap();
        let record = set.dns_record("mail.example.net");
        assert_eq!(record.zone_line(), "links.acme.example. IN CNAME mail.example.net.");
        assert_eq!(store.tracking_domains().await.unwrap(), std::slice::from_ref(&set));
        store.verify_tracking_domain("cli", &set, true).await.unwrap();
        assert!(store.tracking_domains().await.unwrap()[0].verified_at.is_some());
        store.verify_tracking_domain("cli", &set, false).await.unwrap();
        assert!(store.tracking_domains().await.unwrap()[0].verified_at.is_none());
        store.remove_domain("cli", "acme.example").await.unwrap();
        assert_eq!(store.tracking_domains().await.unwrap(), [], "it goes with its domain");
        store.set_tracking_domain("cli", "acme.test", Some("t.acme.test")).await.unwrap();
        assert_eq!(store.set_tracking_domain("cli", "acme.test", None).await.unwrap(), None);
        assert_eq!(store.tracking_domains().await.unwrap(), []);
    }
}
