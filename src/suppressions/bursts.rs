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

#[cfg(test)]
mod tests {
    use sendlake_control::suppression::SuppressionFilter;
    use sendlake_ingest::event::{Event, EventType};
    use sendlake_sender::address::Address;
    use sendlake_sender::stream::Stream;
    use sendlake_sender::suppression::Suppressions;

    use super::*;
    use crate::config::Config;
    use crate::node::Node;
    use crate::system;

    fn event(node: &Node, kind: EventType, provider: &str, recipient: &str, seconds_ago: i64) -> Event {
        let at = node.ids.now().plus_secs(-seconds_ago);
        let mut event = Event::new(node.ids.uuid(), kind, at, TenantId::new("acme").unwrap());
        event.provider = Some(provider.into());
        event.recipient = Some(recipient.into());
        event.stream = Some("marketing".into());
        if kind == EventType::Bounced {
            event.bounce_category = Some("bad_mailbox".into());
            event.bounce_class = Some("hard".into());
            event.bounce_reason = Some("unknown_user".into());
        }
        event
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_burst_suppresses_nobody_until_it_is_decided_and_then_counts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.dir = dir.path().join("data");
        let node = Node::open(config, system::ids()).await.unwrap();
        node.control.create_tenant("cli", &TenantId::new("acme").unwrap(), "Acme").await.unwrap();
        let usual = (0..150)
            .map(|n| event(&node, EventType::Delivered, "yahoo", &format!("p{n}@y.test"), 3 * 86_400));
        let mut events: Vec<Event> = usual.collect();
        events
            .extend((0..25).map(|n| event(&node, EventType::Bounced, "yahoo", &format!("p{n}@y.test"), 60)));
        // gone elsewhere at the same time, and at the same provider long before
        events.push(event(&node, EventType::Bounced, "google", "ann@g.test", 60));
        events.push(event(&node, EventType::Bounced, "yahoo", "old@y.test", 86_400));
        node.spool.log(&events).await.unwrap();
        node.hearing.wishes.drain().await.unwrap();
        assert_eq!(node.hearing.wishes.granted(Reason::HardBounce), 27);
        let in_force = async || node.control.suppressions(&SuppressionFilter::default()).await.unwrap().len();
        assert_eq!(in_force().await, 27);

        for _ in 0..2 {
            assert_eq!(node.bursts.look().await.unwrap(), 1);
            assert_eq!(in_force().await, 2, "ann and old stay");
        }
        let acme = TenantId::new("acme").unwrap();
        let is_left_alone = |address: &str| {
            node.suppressions.find(&acme, Stream::Cold, &Address::parse(address).unwrap()).is_some()
        };
        assert!(!is_left_alone("p7@y.test") && is_left_alone("old@y.test"));
        let reviews = node.control.burst_reviews().await.unwrap();
        assert_eq!((reviews.len(), reviews[0].quarantined, reviews[0].state.as_str()), (1, 25, "open"));
        assert!(reviews[0].reason.contains("yahoo called 25 of 25"), "{}", reviews[0].reason);

        let id = reviews[0].review_id.clone();
        let decided = node.bursts.decide("cli", &id, BurstDecision::Confirm, "closed").await.unwrap();
        assert_eq!((decided, in_force().await), (Some(25), 27));
        assert!(is_left_alone("p7@y.test"));
        assert_eq!(node.bursts.look().await.unwrap(), 1, "the hour is not over");
        assert_eq!(in_force().await, 27, "what was decided is decided");
        assert_eq!(node.bursts.decide("cli", &id, BurstDecision::Release, "no").await.unwrap(), None);
    }
}
