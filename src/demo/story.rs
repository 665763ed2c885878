//! Where the demo's acts take place: a node, its receivers, its tenants, and a clock that can be set forward.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use sendlake_control::clock::Timestamp;
use sendlake_control::domain::{Domain, DomainOptions};
use sendlake_control::id::{Ids, TenantId};
use sendlake_control::key::Scope;
use serde_json::Value;

use super::client::Client;
use super::clock::DemoClock;
use crate::node::Running;

/// Longest wait for a queue to come to rest.
const REST_MAX: Duration = Duration::from_secs(20);
const CONNECTIONS: usize = 16;
const ACTOR: &str = "demo";

pub(super) struct Story {
    pub running: Running,
    pub clock: Arc<DemoClock>,
    pub ids: Ids,
    /// The data folder, which pictures go into.
    pub dir: PathBuf,
}

/// A tenant's way to send: its key and one of its domains.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub key: String,
    pub display_name: String,
    pub domain: Domain,
}

impl Story {
    /// Gives a tenant a domain and a key to send with; makes the tenant first if need be. A `warm` domain has
    /// sent before, elsewhere.
    pub async fn sender(
        &self,
        tenant: &str,
        display_name: &str,
        domain: &str,
        warm: bool,
    ) -> anyhow::Result<Sender> {
        let control = &self.running.control;
        let tenant: TenantId = tenant.parse()?;
        if control.tenants().await?.iter().all(|known| known.tenant_id != tenant) {
            control.create_tenant(ACTOR, &tenant, display_name).await?;
        }
        let options = DomainOptions { warm, ..DomainOptions::default() };
        let domain = control.add_domain(ACTOR, &tenant, domain, options).await?;
        let key = control.create_key(ACTOR, Some(&tenant), &[Scope::Send], "demo").await?;
        self.running.refresh().await?;
        self.running.publish_quotas().await?;
        Ok(Sender { key: key.secret, display_name: display_name.to_owned(), domain })
    }

    /// Posts messages over a few connections, and returns when all are accepted.
    pub async fn post(&self, messages: Vec<(String, Value)>) -> anyhow::Result<()> {
        let http = self.running.http;
        let messages = Arc::new(messages);
        let mut posting = tokio::task::JoinSet::new();
        for first in 0..CONNECTIONS.min(messages.len()) {
            let messages = messages.clone();
            posting.spawn(async move {
                let mut client = Client::connect(http).await?;
                for (key, message) in messages.iter().skip(first).step_by(CONNECTIONS) {
                    client.post("/v1/messages", key, message).await?;
                }
                anyhow::Ok(())
            });
        }
        while let Some(posted) = posting.join_next().await {
            posted??;
        }
        Ok(())
    }

    /// The time moves to `at`, and limits are judged anew.
    pub async fn move_to(&self, at: Timestamp) -> anyhow::Result<()> {
        self.clock.set_forward(at);
        self.running.publish_quotas().await.context("judge and publish limits").map(drop)
    }

    /// Waits until nothing is left but what is held. Retries do not wait their time: the clock is simulated anyway.
    pub async fn rest(&self) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut quiet = 0;
        while quiet < 8 && started.elapsed() < REST_MAX {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let counts = self.running.spool.reader().counts()?;
            quiet = if counts.queued + counts.in_flight == 0 { quiet + 1 } else { 0 };
            if counts.in_flight == 0 && counts.queued > 0 {
                // what is queued comes before what is held
                let queued = usize::try_from(counts.queued).unwrap_or(usize::MAX);
                self.running.spool.retry_now(|_| true, queued).await?;
            }
        }
        Ok(())
    }
}
