//! Bursts of unknown recipients at one provider: what they put on the list comes off it until a person has decided
//! whether the provider was wrong.

use std::sync::Arc;
use std::time::Duration;

use sendlake_control::ControlStore;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::{Ids, TenantId};
use sendlake_control::suppression::Reason;
use sendlake_control::suppression::quarantine::{BurstDecision, Doubted};
use sendlake_query::QueryEngine;
use sendlake_query::output::{Format, to_bytes};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ControlSuppressions;
use crate::hear::wishes::Wishes;

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The view looks at so much.
const WINDOW_S: i64 = 3_600;
/// Fewer new hard bounces than this are no burst: the lake is not asked.
const HARD_BOUNCES_MIN: u64 = 20;
const BURSTS: &str = "SELECT provider, answers, unknown_users, usual_rate FROM bounce_bursts WHERE is_burst";
const CAUSED: &str = include_str!("bursts.sql");

/// Looks for bursts, and carries out what is decided about them.
pub struct Bursts {
    pub control: Arc<ControlStore>,
    pub engine: Arc<QueryEngine>,
    pub suppressions: Arc<ControlSuppressions>,
    pub wishes: Arc<Wishes>,
    pub ids: Ids,
}

#[derive(Deserialize)]
struct Burst {
    provider: String,
    answers: i64,
    unknown_users: i64,
    usual_rate: f64,
}

#[derive(Deserialize)]
struct Caused {
    tenant_id: TenantId,
    recipient: String,
    event_id: Uuid,
}

impl Bursts {
    /// Looks once a minute while hard bounces come in, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut quiet_since = self.wishes.granted(Reason::HardBounce);
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let granted = self.wishes.granted(Reason::HardBounce);
            if granted - quiet_since < HARD_BOUNCES_MIN {
                continue;
            }
            match self.look().await {
                // those of an ended burst count for no other
                Ok(0) => quiet_since = granted,
                Ok(_) => {}
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    "whether bounces come in a burst is not known: what they suppress stays suppressed"
                ),
            }
        }
    }

    /// Takes what bursts put on the list off it. Returns how many bursts there are.
    pub async fn look(&self) -> anyhow::Result<usize> {
        let now = self.ids.now();
        let bursts: Vec<Burst> = self.ask(BURSTS).await?;
        let reviews = self.control.burst_reviews().await?;
        for burst in &bursts {
            // what was decided is decided
            let decided = reviews.iter().filter(|review| review.provider == burst.provider);
            let decided = decided.filter(|review| review.state != "open").map(|review| review.until_at).max();
            let since = now.plus_secs(-WINDOW_S).max(decided.unwrap_or_default());
            self.quarantine(burst, since, now).await?;
        }
        if !bursts.is_empty() {
            self.suppressions.refresh(&self.control).await?;
            self.wishes.tell_changes().await?;
        }
        Ok(bursts.len())
    }

    async fn quarantine(&self, burst: &Burst, since: Timestamp, now: Timestamp) -> anyhow::Result<()> {
        let provider = burst.provider.replace('\'', "''");
        let sql = CAUSED
            .replace("{provider}", &provider)
            .replace("{day}", &since.to_chrono().format("%Y-%m-%d").to_string())
            .replace("{since_us}", &since.0.to_string());
        let caused: Vec<Caused> = self.ask(&sql).await?;
        let doubted: Vec<Doubted> = caused
            .into_iter()
            .map(|one| Doubted { tenant_id: one.tenant_id, address: one.recipient, event_id: one.event_id })
            .collect();
        let reason = format!(
            "{} called {} of {} recipients unknown within the hour; its usual share is {:.1} %",
            burst.provider,
            burst.unknown_users,
            burst.answers.max(burst.unknown_users),
            burst.usual_rate * 100.0
        );
        let taken = self.control.quarantine(&burst.provider, now, &reason, &doubted).await?;
        if taken > 0 {
            tracing::warn!(
                entries = taken,
                "{reason}: these suppressions are not in force until `sendlake review confirm` or `release`"
            );
        }
        Ok(())
    }

    /// Carries out a decision. Returns how many entries it was about; `None` when no burst of that id is open.
    pub async fn decide(
        &self,
        actor: &str,
        review_id: &str,
        decision: BurstDecision,
        why: &str,
    ) -> anyhow::Result<Option<usize>> {
        let decided = self.control.decide_burst(actor, review_id, decision, why).await?;
        self.suppressions.refresh(&self.control).await?;
        self.wishes.tell_changes().await?;
        Ok(decided)
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, sql: &str) -> anyhow::Result<Vec<T>> {
        #[derive(Deserialize)]
        struct Rows<T> {
            rows: Vec<T>,
        }
        let limits = self.engine.limits().query;
        let output = self.engine.judge(sql, limits, Default::default()).await?;
        Ok(serde_json::from_slice::<Rows<T>>(&to_bytes(&output, Format::Json)?)?.rows)
    }
}
