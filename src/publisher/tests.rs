//! The loop from facts to limits, on a node of its own: what gets published, what is told, what stands when judging fails.

use std::sync::Arc;

use sendlake_control::clock::{ManualClock, SeededEntropy};
use sendlake_control::domain::DomainOptions;
use sendlake_query::{QueryLimits, Scope};

use super::*;
use crate::config::Config;
use crate::node::Node;

const MIDNIGHT: Timestamp = Timestamp(1_772_323_200_000_000);
const HOUR: i64 = 3_600;

struct World {
    clock: Arc<ManualClock>,
    ids: Ids,
    node: Node,
    _dir: tempfile::TempDir,
}

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.dir = dir.path().join("data");
        config.spool.free_space_floor_bytes = 1 << 20;
        let clock = Arc::new(ManualClock::new(MIDNIGHT));
        let ids = Ids { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(7)) };
        let node = Node::open(config, ids.clone()).await.unwrap();
        node.control.create_tenant("test", &acme(), "Acme").await.unwrap();
        let options = DomainOptions { warm: true, ..DomainOptions::default() };
        node.control.add_domain("test", &acme(), "acme.example", options).await.unwrap();
        Self { clock, ids, node, _dir: dir }
    }

    fn feedback(&self, kind: EventType, provider: &str, at: Timestamp, learned_at: Timestamp) -> Event {
        let mut event = Event::new(self.ids.uuid(), kind, at, acme());
        event.recorded_at = learned_at;
        event.stream = Some("marketing".into());
        event.provider = Some(provider.into());
        event.header_from_domain = Some("acme.example".into());
        event.dkim_domain = Some("acme.example".into());
        if kind == EventType::Complained {
            event.occurred_at = learned_at;
            event.delivered_at = Some(at);
        }
        event
    }

    /// Eight days of 2,000 deliveries and one complaint at yahoo-like, 200 at gmail-like; on the eighth, 9 complaints.
    async fn history(&self) {
        let mut events = Vec::new();
        for day in 0..8 {
            let start = MIDNIGHT.plus_secs(day * 24 * HOUR + 6 * HOUR);
            for number in 0..2_000 {
                let at = start.plus_secs(number);
                events.push(self.feedback(EventType::Delivered, "yahoo-like", at, at));
            }
            for number in 0..200 {
                let at = start.plus_secs(number);
                events.push(self.feedback(EventType::Delivered, "gmail-like", at, at));
            }
            for number in 0..if day == 7 { 9 } else { 1 } {
                let at = start.plus_secs(number);
                events.push(self.feedback(EventType::Complained, "yahoo-like", at, at.plus_secs(600)));
            }
        }
        self.node.spool.log(&events).await.unwrap();
    }

    async fn publish(&self) -> Publication {
        self.node.publisher.publish().await.unwrap()
    }

    async fn states(&self) -> Vec<String> {
        let published = self.node.quotas.load().await.unwrap().unwrap();
        let marketing = published.rows.iter().filter(|row| row.stream == "marketing");
        let mut states: Vec<String> =
            marketing.map(|row| format!("{} {} {:?}", row.provider, row.state, row.limit_messages)).collect();
        states.sort();
        states
    }

    async fn count(&self, sql: &str) -> usize {
        self.node.engine.query(&Scope::AllTenants, sql, QueryLimits::default()).await.unwrap().num_rows()
    }
}

const TOLD: &str = "SELECT * FROM events WHERE event_type = 'quota_changed'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn complaints_cut_open_a_review_and_a_person_lifts_or_stops() {
    let world = World::new().await;
    world.history().await;
    world.clock.advance_millis((7 * 24 + 5) * HOUR * 1_000);
    assert_eq!(world.publish().await, Publication { version: Some(1), written: true, changes: 0 });
    assert_eq!(world.states().await, ["* normal None"]);

    world.clock.advance_millis(5 * HOUR * 1_000);
    let cut = world.publish().await;
    assert_eq!((cut.written, cut.changes), (true, 3));
    assert_eq!(
        world.states().await,
        ["* throttled Some(220)", "gmail-like throttled Some(50)", "yahoo-like throttled Some(200)"]
    );
    assert_eq!(world.count(TOLD).await, 3);
    assert_eq!(world.count("SELECT * FROM reviews WHERE state = 'open'").await, 1);
    assert!(!world.publish().await.written, "nothing new");
    world.clock.advance_millis(8 * 60 * 1_000);
    let again = world.publish().await;
    assert_eq!((again.written, again.changes), (true, 0), "half of its validity is gone");

    let stopped = world
        .node
        .publisher
        .decide(&acme(), "marketing", "acme.example", Decision::Stop, "bought list")
        .await;
    assert_eq!(stopped.unwrap().changes, 3);
    assert_eq!(world.states().await[0], "* paused Some(0)");
    world.clock.advance_millis(1_000);
    let publisher = &world.node.publisher;
    let approved =
        publisher.decide(&acme(), "marketing", "acme.example", Decision::Approve, "list is gone").await;
    assert_eq!(approved.unwrap().changes, 3);
    assert_eq!(world.states().await, ["* normal None"]);
    world.clock.advance_millis(1_000);
    assert!(!world.publish().await.written, "complaints about mail from before no longer count");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_judged_leaves_the_last_limits() {
    let world = World::new().await;
    world.publish().await;
    world.node.control.close().await;
    world.node.publisher.publish().await.unwrap_err();
    assert_eq!(world.states().await, ["* normal None"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_domain_is_limited_from_its_first_publication() {
    let world = World::new().await;
    world.publish().await;
    let options = DomainOptions::default();
    world.node.control.add_domain("test", &acme(), "new.example", options).await.unwrap();
    assert_eq!(world.publish().await.changes, 15, "three streams to four large providers and all others");
    assert_eq!(world.count("SELECT * FROM published_quotas WHERE state = 'warming'").await, 15);
}
