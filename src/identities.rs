//! The sending domains of the control store, kept in memory for the accept and delivery paths.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use sendlake_control::ControlStore;
use sendlake_control::id::TenantId;
use sendlake_sender::api::ports::Senders;
use sendlake_sender::dkim::Signer;
use sendlake_sender::identity::{Identities, Identity};
use sendlake_sender::submission::Tracking;

type ByDomain = HashMap<String, Arc<Identity>>;

/// A copy of the sending domains, and of what tenants want tracked, as fresh as the last [`ControlIdentities::refresh`].
pub struct ControlIdentities {
    by_domain: ArcSwap<ByDomain>,
    by_bounce_domain: ArcSwap<HashMap<String, TenantId>>,
    by_tracking_domain: ArcSwap<HashMap<String, TenantId>>,
    tracking: ArcSwap<HashMap<TenantId, Tracking>>,
    sign: bool,
    platform_domain: String,
}

impl ControlIdentities {
    pub fn new(sign: bool, platform_domain: &str) -> Self {
        Self {
            by_domain: ArcSwap::default(),
            by_bounce_domain: ArcSwap::default(),
            by_tracking_domain: ArcSwap::default(),
            tracking: ArcSwap::default(),
            sign,
            platform_domain: platform_domain.to_owned(),
        }
    }

    /// Reads the domains anew. Those whose key is known already keep it.
    pub async fn refresh(&self, control: &ControlStore) -> anyhow::Result<()> {
        let known = self.by_domain.load();
        let mut by_domain = ByDomain::new();
        let tracking_domains = control.tracking_domains().await?;
        for domain in control.domains(None).await? {
            let leads_here = tracking_domains
                .iter()
                .find(|tracking| tracking.domain == domain.domain && tracking.verified_at.is_some());
            let tracking_domain = leads_here.map(|tracking| tracking.tracking_domain.clone());
            let kept = known.get(&domain.domain).filter(|identity| {
                identity.tenant_id == domain.tenant_id
                    && identity.bounce_domain == domain.bounce_domain
                    && identity.tracking_domain == tracking_domain
                    && identity.signer.as_ref().is_none_or(|signer| signer.selector() == domain.selector)
            });
            let identity = match kept {
                Some(identity) => Arc::clone(identity),
                None => Arc::new(Identity {
                    signer: self.signer(control, &domain.domain, &domain.selector).await?,
                    tenant_id: domain.tenant_id,
                    domain: domain.domain.clone(),
                    bounce_domain: domain.bounce_domain,
                    tracking_domain,
                }),
            };
            by_domain.insert(domain.domain, identity);
        }
        let bounces = by_domain.values().map(|id| (id.bounce_domain.clone(), id.tenant_id.clone()));
        self.by_bounce_domain.store(Arc::new(bounces.collect()));
        // also those that were not verified yet: they are somebody's
        let links =
            tracking_domains.into_iter().map(|tracking| (tracking.tracking_domain, tracking.tenant_id));
        self.by_tracking_domain.store(Arc::new(links.collect()));
        let defaults = control
            .tracking_defaults()
            .await?
            .into_iter()
            .map(|(tenant, wanted)| (tenant, Tracking { opens: wanted.opens, clicks: wanted.clicks }));
        self.tracking.store(Arc::new(defaults.collect()));
        self.by_domain.store(Arc::new(by_domain));
        Ok(())
    }

    /// Whose return paths lie under `domain` (ASCII, lower case).
    pub fn owner_of_bounce_domain(&self, domain: &str) -> Option<TenantId> {
        self.by_bounce_domain.load().get(domain).cloned()
    }

    /// Whose tracked links are served under `domain` (ASCII, lower case).
    pub fn owner_of_tracking_domain(&self, domain: &str) -> Option<TenantId> {
        self.by_tracking_domain.load().get(domain).cloned()
    }

    /// Whose sending domain `domain` is, or lies below (ASCII, lower case).
    pub fn owner_of(&self, domain: &str) -> Option<TenantId> {
        let by_domain = self.by_domain.load();
        let mut parents = std::iter::successors(Some(domain), |domain| Some(domain.split_once('.')?.1));
        parents.find_map(|domain| by_domain.get(domain)).map(|identity| identity.tenant_id.clone())
    }

    async fn signer(
        &self,
        control: &ControlStore,
        domain: &str,
        selector: &str,
    ) -> anyhow::Result<Option<Signer>> {
        if !self.sign {
            return Ok(None);
        }
        let Some(key) = control.signing_key(domain).await? else { return Ok(None) };
        let signer = Signer::from_pkcs8(domain, selector, &key)
            .with_context(|| format!("the DKIM key of {domain} cannot be used"))?;
        Ok(Some(signer))
    }
}

impl Identities for ControlIdentities {
    fn find(&self, tenant: &TenantId, header_from_domain: &str) -> Option<Arc<Identity>> {
        let by_domain = self.by_domain.load();
        let parents = std::iter::successors(Some(header_from_domain), |domain| {
            domain.split_once('.').map(|(_, parent)| parent)
        });
        parents
            .filter_map(|domain| by_domain.get(domain))
            .find(|identity| identity.tenant_id == *tenant)
            .map(Arc::clone)
    }

    fn platform(&self) -> Option<Arc<Identity>> {
        let by_domain = self.by_domain.load();
        by_domain
            .get(&self.platform_domain)
            .filter(|identity| identity.tenant_id == TenantId::platform())
            .map(Arc::clone)
    }
}

impl Senders for ControlIdentities {
    fn sending_domain(&self, tenant: &TenantId, domain: &str) -> bool {
        self.find(tenant, domain).is_some()
    }

    fn tracking(&self, tenant: &TenantId) -> Tracking {
        self.tracking.load().get(tenant).copied().unwrap_or_default()
    }
}
