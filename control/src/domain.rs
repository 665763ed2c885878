//! Sending domains: whose they are, their DKIM keys, and what their owner publishes in the DNS.

mod dns;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::json;
use sqlx::SqliteConnection;
use zeroize::Zeroizing;

use crate::audit::{self, Change};
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::{Ids, TenantId};
use crate::secret::SecretError;
use crate::store::ControlStore;
use crate::tenant;

pub use dns::{DMARC_MAILBOX, DnsRecord, Outbound, TLS_MAILBOX, parse_domain};

/// A domain that a tenant sends from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Domain {
    pub tenant_id: TenantId,
    /// In its ASCII form, lower case: what stands in `From:` and in `d=`.
    pub domain: String,
    /// Where the DKIM key is published (RFC 6376, section 3.1).
    pub selector: String,
    /// The domain of the return path, below `domain`, so that SPF aligns under relaxed DMARC.
    pub bounce_domain: String,
    /// SubjectPublicKeyInfo in DER, base64: the `p=` of the DKIM record.
    pub dkim_public_key: String,
    pub created_at: Timestamp,
    /// Since when it counts as warm: it has sent in volume before, elsewhere, and needs no warm-up.
    pub warm_at: Option<Timestamp>,
}

/// What may be chosen for a new domain.
#[derive(Clone, Debug, Default)]
pub struct DomainOptions {
    /// A name below the domain; `bounces.<domain>` when not given.
    pub bounce_domain: Option<String>,
    /// `s<date>-<random>` when not given.
    pub selector: Option<String>,
    /// It has sent in volume before, elsewhere.
    pub warm: bool,
}

type Row = (String, String, String, String, String, i64, Option<i64>);

const COLUMNS: &str =
    "SELECT tenant_id, domain, selector, bounce_domain, dkim_public_key, created_at, warm_at FROM domains";

impl ControlStore {
    /// Gives a domain to a tenant, with a fresh RSA-2048 DKIM key (RFC 8301: at least 1024, better 2048).
    ///
    /// Refused when the domain, or one above or below it, is another tenant's; and for public suffixes such
    /// as `co.uk`, which nobody owns. Says nothing of who owns it in the DNS: that shows when its records do.
    pub async fn add_domain(
        &self,
        actor: &str,
        tenant: &TenantId,
        domain: &str,
        options: DomainOptions,
    ) -> Result<Domain, ControlError> {
        let doing = "add the domain";
        let domain = dns::sending_domain(domain)?;
        let now = self.ids.now();
        let domain = Domain {
            tenant_id: tenant.clone(),
            selector: options
                .selector
                .map_or_else(|| Ok(fresh_selector(&self.ids)), |given| dns::selector(&given))?,
            bounce_domain: dns::bounce_domain(&domain, options.bounce_domain.as_deref())?,
            dkim_public_key: String::new(),
            created_at: now,
            warm_at: options.warm.then_some(now),
            domain,
        };
        self.ensure_data_key(tenant).await?;
        let (private_key, dkim_public_key) = dkim_key(&domain.domain).await?;
        let domain = Domain { dkim_public_key, ..domain };
        let sealed = self.keyring.seal(tenant, &place(&domain.domain, &domain.selector), &private_key)?;

        let mut transaction = self.begin(doing).await?;
        tenant::require(self, &mut transaction, tenant).await?;
        self.require_free(&mut transaction, tenant, &domain.domain).await?;
        sqlx::query("INSERT INTO domains (domain, tenant_id, selector, bounce_domain, dkim_public_key, dkim_private_key, created_at, warm_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
            .bind(&domain.domain)
            .bind(tenant.as_str())
            .bind(&domain.selector)
            .bind(&domain.bounce_domain)
            .bind(&domain.dkim_public_key)
            .bind(sealed)
            .bind(domain.created_at.0)
            .bind(domain.warm_at.map(|at| at.0))
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let change = Change {
            actor,
            tenant,
            action: "domain_added",
            subject: &domain.domain,
            detail: json!({
                "selector": domain.selector, "bounce_domain": domain.bounce_domain, "warm": options.warm,
            }),
        };
        audit::record(&mut transaction, domain.created_at, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(domain)
    }

    /// Says that a domain has sent in volume before, elsewhere: it needs no warm-up. Saying it again changes nothing.
    pub async fn warm_domain(&self, actor: &str, domain: &str) -> Result<(), ControlError> {
        let doing = "mark the domain as warm";
        let missing = || ControlError::NoSuchDomain { domain: domain.to_owned() };
        let name = parse_domain(domain).map_err(|_| missing())?;
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        let row: Option<(String,)> = sqlx::query_as(
            "UPDATE domains SET warm_at = COALESCE(warm_at, $1) WHERE domain = $2 RETURNING tenant_id",
        )
        .bind(now.0)
        .bind(&name)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        let (tenant_id,) = row.ok_or_else(missing)?;
        let tenant = TenantId::new(&tenant_id).map_err(|error| unreadable(&name, error.to_string()))?;
        let change =
            Change { actor, tenant: &tenant, action: "domain_warmed", subject: &name, detail: json!({}) };
        audit::record(&mut transaction, now, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// Fails when the domain, or one above or below it, is taken.
    async fn require_free(
        &self,
        connection: &mut SqliteConnection,
        tenant: &TenantId,
        domain: &str,
    ) -> Result<(), ControlError> {
        // A host name holds neither of LIKE's wildcards.
        let rows: Vec<(String, String)> = sqlx::query_as("SELECT tenant_id, domain FROM domains WHERE domain = $1 OR domain LIKE '%.' || $1 OR $1 LIKE '%.' || domain")
            .bind(domain)
            .fetch_all(connection)
            .await
            .map_err(self.failed("check whose the domain is"))?;
        if rows.iter().any(|(owner, _)| owner != tenant.as_str()) {
            return Err(ControlError::DomainTaken { domain: domain.to_owned() });
        }
        if rows.iter().any(|(_, name)| name == domain) {
            return Err(ControlError::DomainExists { domain: domain.to_owned() });
        }
        Ok(())
    }

    /// The domains of one tenant, or with `None` all, by name.
    pub async fn domains(&self, tenant: Option<&TenantId>) -> Result<Vec<Domain>, ControlError> {
        let rows: Vec<Row> =
            sqlx::query_as(&format!("{COLUMNS} WHERE $1 IS NULL OR tenant_id = $1 ORDER BY domain"))
                .bind(tenant.map(TenantId::as_str))
                .fetch_all(&self.pool)
                .await
                .map_err(self.failed("list the domains"))?;
        rows.into_iter().map(read).collect()
    }

    /// The domain of this name, in any spelling; `None` also for what is no domain at all.
    pub async fn domain(&self, name: &str) -> Result<Option<Domain>, ControlError> {
        let Ok(name) = parse_domain(name) else { return Ok(None) };
        let row: Option<Row> = sqlx::query_as(&format!("{COLUMNS} WHERE domain = $1"))
            .bind(name)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read the domain"))?;
        row.map(read).transpose()
    }

    /// The domain's DKIM private key, PKCS#8 in DER; `None` when nobody has added the domain.
    pub async fn signing_key(&self, domain: &str) -> Result<Option<Vec<u8>>, ControlError> {
        let Ok(domain) = parse_domain(domain) else { return Ok(None) };
        let row: Option<(String, String, Vec<u8>)> =
            sqlx::query_as("SELECT tenant_id, selector, dkim_private_key FROM domains WHERE domain = $1")
                .bind(&domain)
                .fetch_optional(&self.pool)
                .await
                .map_err(self.failed("read the DKIM key"))?;
        let Some((tenant_id, selector, sealed)) = row else { return Ok(None) };
        let tenant = TenantId::new(&tenant_id).map_err(|error| unreadable(&domain, error.to_string()))?;
        let place = place(&domain, &selector);
        match self.keyring.open(&tenant, &place, &sealed) {
            // Another process has made the data key since this one looked.
            Err(SecretError::UnknownKey { .. }) => {
                self.refresh_data_keys().await?;
                Ok(Some(self.keyring.open(&tenant, &place, &sealed)?))
            }
            opened => Ok(Some(opened?)),
        }
    }

    /// Takes a domain away; its DKIM key goes with it for good.
    pub async fn remove_domain(&self, actor: &str, domain: &str) -> Result<(), ControlError> {
        let doing = "remove the domain";
        let missing = || ControlError::NoSuchDomain { domain: domain.to_owned() };
        let name = parse_domain(domain).map_err(|_| missing())?;
        let mut transaction = self.begin(doing).await?;
        let row: Option<(String, String)> =
            sqlx::query_as("DELETE FROM domains WHERE domain = $1 RETURNING tenant_id, selector")
                .bind(&name)
                .fetch_optional(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
        let (tenant_id, selector) = row.ok_or_else(missing)?;
        sqlx::query("DELETE FROM feedback_loops WHERE identity_kind = 'domain' AND identity = $1")
            .bind(&name)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let tenant = TenantId::new(&tenant_id).map_err(|error| unreadable(&name, error.to_string()))?;
        let detail = json!({ "selector": selector });
        let change = Change { actor, tenant: &tenant, action: "domain_removed", subject: &name, detail };
        audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }
}

/// Makes a DKIM key: the private half as PKCS#8 DER, the public half as base64 of its SPKI DER.
///
/// Its randomness is aws-lc's own, the one place where it is not injected: RSA keys cannot be made here from
/// bytes that a test chooses.
async fn dkim_key(domain: &str) -> Result<(Zeroizing<Vec<u8>>, String), ControlError> {
    let failed = || ControlError::DkimKey { domain: domain.to_owned() };
    let make = || {
        let pair = KeyPair::generate(KeySize::Rsa2048).ok()?;
        let private_key = Zeroizing::new(pair.as_der().ok()?.as_ref().to_vec());
        let public_key = STANDARD.encode(pair.public_key().as_der().ok()?.as_ref());
        Some((private_key, public_key))
    };
    // The search for primes takes a good part of a second.
    tokio::task::spawn_blocking(make).await.ok().flatten().ok_or_else(failed)
}

/// New with every key, also within a day: resolvers may still remember the old record under the old name.
fn fresh_selector(ids: &Ids) -> String {
    let mut random = [0; 5];
    ids.entropy.fill(&mut random);
    let random = data_encoding::BASE32_NOPAD.encode(&random).to_ascii_lowercase();
    format!("s{}-{random}", ids.now().to_chrono().format("%Y%m%d"))
}

/// What a sealed DKIM key is bound to.
fn place(domain: &str, selector: &str) -> Vec<u8> {
    format!("dkim/{domain}/{selector}").into_bytes()
}

fn read(
    (tenant_id, domain, selector, bounce_domain, dkim_public_key, created_at, warm_at): Row,
) -> Result<Domain, ControlError> {
    Ok(Domain {
        tenant_id: TenantId::new(&tenant_id).map_err(|error| unreadable(&domain, error.to_string()))?,
        domain,
        selector,
        bounce_domain,
        dkim_public_key,
        created_at: Timestamp(created_at),
        warm_at: warm_at.map(Timestamp),
    })
}

fn unreadable(domain: &str, problem: String) -> ControlError {
    ControlError::Unreadable { what: "domain", name: domain.to_owned(), problem }
}

#[cfg(test)]
mod tests;
