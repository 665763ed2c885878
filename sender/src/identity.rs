//! Whom a tenant may send as: its domains, their bounce subdomains and signing keys.

use std::sync::Arc;

use sendlake_control::id::TenantId;

use crate::dkim::Signer;
use crate::spool::intake::SendingFacts;

/// One sending domain, ready to send as.
#[derive(Debug)]
pub struct Identity {
    pub tenant_id: TenantId,
    pub domain: String,
    /// Domain of the return path; a subdomain of `domain`, so that SPF can align.
    pub bounce_domain: String,
    /// Name that tracked links are served under, once it leads here.
    pub tracking_domain: Option<String>,
    pub signer: Option<Signer>,
}

/// Knows every sending domain. Answers from memory.
pub trait Identities: Send + Sync {
    /// The tenant's domain that covers `header_from_domain`: itself, or the nearest registered parent.
    fn find(&self, tenant: &TenantId, header_from_domain: &str) -> Option<Arc<Identity>>;

    /// The platform's own identity, for a second signature.
    fn platform(&self) -> Option<Arc<Identity>>;
}

impl Identity {
    /// What is known of authentication before the first attempt, under relaxed alignment (RFC 9989): the
    /// organisational domains are compared, by the Public Suffix List.
    pub fn facts(&self, header_from_domain: &str, ip_pool: Option<&str>) -> SendingFacts {
        let spf_aligned = aligned(&self.bounce_domain, header_from_domain);
        let dkim_aligned = self.signer.as_ref().is_some_and(|s| aligned(s.domain(), header_from_domain));
        SendingFacts {
            mail_from_domain: Some(self.bounce_domain.clone()),
            dkim_domain: self.signer.as_ref().map(|signer| signer.domain().to_owned()),
            dkim_selector: self.signer.as_ref().map(|signer| signer.selector().to_owned()),
            ip_pool: ip_pool.map(str::to_owned),
            spf_aligned: Some(spf_aligned),
            dkim_aligned: Some(dkim_aligned),
            dmarc_expected: Some(spf_aligned || dkim_aligned),
        }
    }
}

fn aligned(a: &str, b: &str) -> bool {
    let organisational = |domain: &str| psl::domain_str(domain).unwrap_or(domain).to_owned();
    a == b || organisational(a) == organisational(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_compares_organisational_domains() {
        assert!(aligned("bounces.acme.co.uk", "news.acme.co.uk"));
        assert!(!aligned("bounces.acme.co.uk", "other.co.uk"));
        assert!(aligned("a.test", "a.test"));
    }
}
