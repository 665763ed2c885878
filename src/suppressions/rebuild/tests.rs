//! A list that is lost after years, beside retention, bursts and new names of its node.

use std::path::Path;
use std::time::Duration;

use sendlake_control::clock::{ManualClock, SeededEntropy};
use sendlake_control::id::Ids;
use sendlake_control::suppression::quarantine::{BurstDecision, Doubted};
use sendlake_control::suppression::{NewSuppression, SuppressionFilter};
use sendlake_ingest::event::{Event, EventType};
use sendlake_ingest::maintain::lease::Lease;
use sendlake_ingest::outbox::Outbox;
use sendlake_ingest::writer::{LakeWriter, LakeWriterSettings};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Config;
use crate::node::Node;
use crate::stores;

const START: Timestamp = Timestamp(1_772_323_200_000_000);

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn config(dir: &Path) -> Config {
    let mut config = Config::default();
    config.storage.dir = dir.join("data");
    config.storage.lake_url = dir.join("lake").to_string_lossy().into_owned();
    config.maintenance.retention_days = 30;
    config
}

/// A node that was dropped lets go of its store a moment later.
async fn opened(config: &Config, ids: &Ids) -> Node {
    loop {
        match Node::open(config.clone(), ids.clone()).await {
            Ok(node) => return node,
            Err(error) if format!("{error:#}").contains("in use") => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error:#}"),
        }
    }
}

fn ids(seed: u64) -> (Arc<ManualClock>, Ids) {
    let clock = Arc::new(ManualClock::new(START));
    (clock.clone(), Ids { clock, entropy: Arc::new(SeededEntropy::new(seed)) })
}

fn new(address: &str, reason: Reason, event: u128) -> NewSuppression {
    NewSuppression {
        tenant_id: acme(),
        address: address.into(),
        reach: Reach::Tenant,
        reason,
        since: START,
        expires_at: None,
        event_id: Uuid::from_u128(event),
        message_id: None,
        note: None,
    }
}

/// Everything that waits goes into the lake, and what the list adds up to after it.
async fn carried_over(node: &Node) {
    node.hearing.wishes.tell_changes().await.unwrap();
    let outbox: Arc<dyn Outbox> = node.spool.clone();
    let clock = node.ids.clock.clone();
    let (writer, _) = LakeWriter::new(outbox, node.lake.clone(), clock, LakeWriterSettings::default());
    let stop = CancellationToken::new();
    stop.cancel();
    writer.run(stop).await.unwrap();
    let totals = node.control.suppression_totals().await.unwrap().unwrap().totals;
    node.keeping.hand_over(totals).await.unwrap();
}

fn rebuilder(node: &Node) -> Rebuilder {
    Rebuilder {
        control: node.control.clone(),
        engine: node.engine.clone(),
        suppressions: node.suppressions.clone(),
        keeping: node.keeping.clone(),
        wishes: node.hearing.wishes.clone(),
    }
}

fn remove(data: &Path, is_meant: impl Fn(&str) -> bool) {
    for entry in std::fs::read_dir(data).unwrap() {
        let path = entry.unwrap().path();
        if is_meant(path.file_name().unwrap().to_str().unwrap()) {
            if path.is_dir() {
                std::fs::remove_dir_all(path).unwrap()
            } else {
                std::fs::remove_file(path).unwrap()
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_last_year_is_whole_after_retention_and_bursts_wait_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let (clock, ids) = ids(1);
    let node = opened(&config, &ids).await;
    node.control.create_tenant("cli", &acme(), "Acme").await.unwrap();
    for number in 1..=5_u128 {
        let wanted = new(&format!("p{number}@y.test"), Reason::HardBounce, number);
        node.control.suppress("feedback", &wanted).await.unwrap();
    }
    node.control.suppress("feedback", &new("ann@a.test", Reason::Unsubscribe, 9)).await.unwrap();
    let doubted = |number: u128| Doubted {
        tenant_id: acme(),
        address: format!("p{number}@y.test"),
        event_id: Uuid::from_u128(number),
    };
    node.control.quarantine("google", START, "decided", &[doubted(4)]).await.unwrap();
    let decided = node.control.burst_reviews().await.unwrap()[0].review_id.clone();
    node.control.decide_burst("cli", &decided, BurstDecision::Release, "theirs").await.unwrap();
    node.control.quarantine("yahoo", START, "3 of 3", &[doubted(1), doubted(2), doubted(3)]).await.unwrap();
    let review = node.control.burst_reviews().await.unwrap().remove(0);
    assert_eq!((review.state.as_str(), review.quarantined), ("open", 3));
    let delivered = |_| Event::new(node.ids.uuid(), EventType::Delivered, node.ids.now(), acme());
    node.spool.log(&(0..50).map(delivered).collect::<Vec<_>>()).await.unwrap();
    carried_over(&node).await;
    let before = node.control.suppressions(&SuppressionFilter::default()).await.unwrap();
    assert_eq!(before.len(), 2, "p5 and ann");

    clock.advance_millis(400 * 86_400_000);
    let maintainer = stores::maintainer(&config, node.lake.clone()).unwrap();
    let lease = Lease::take(&maintainer.store, "test", &ids, 60_000, 0).await.unwrap().unwrap();
    let steps = maintainer.expire(&lease, false).await.unwrap();
    assert_eq!(steps.len(), 1, "{steps:?}");
    assert_eq!(steps[0].rows, Some(50), "{steps:?}");
    assert!(steps[0].detail.contains("of suppressions stay"), "{steps:?}");
    lease.release().await.unwrap();
    drop((maintainer, node));

    // the control store is gone, the master key and the lake are there
    remove(&config.storage.dir, |name| name.starts_with("control.db") || name == "spool");
    let node = opened(&config, &Ids { entropy: Arc::new(SeededEntropy::new(2)), ..ids }).await;
    node.keeping.check(true).await.unwrap();
    assert!(node.suppressions.incomplete().unwrap().contains("made anew"));
    let dry = rebuilder(&node).rebuild(true, false).await.unwrap();
    assert_eq!(
        (dry.restored, dry.in_doubt),
        (2, 0),
        "a dry run makes no tenants, so nobody can be in doubt: {dry:?}"
    );
    let done = rebuilder(&node).rebuild(false, false).await.unwrap();
    assert_eq!((done.restored, done.in_doubt, done.equal), (2, 3, true), "{done:?}");
    assert_eq!(done.incomplete, None, "{done:?}");
    let after = node.control.suppressions(&SuppressionFilter::default()).await.unwrap();
    let named = |list: &[sendlake_control::suppression::Suppression]| {
        let mut named: Vec<_> = list.iter().map(|one| (one.address.clone(), one.reason, one.since)).collect();
        named.sort();
        named
    };
    assert_eq!(named(&after), named(&before));
    let reviews = node.control.burst_reviews().await.unwrap();
    assert_eq!(reviews.len(), 1, "the released one does not come back: {reviews:?}");
    assert_eq!((&reviews[0].review_id, &*reviews[0].provider), (&review.review_id, "yahoo"));
    let again = rebuilder(&node).rebuild(false, false).await.unwrap();
    assert_eq!((again.restored, again.in_doubt), (0, 0), "{again:?}");
    node.control.decide_burst("cli", &review.review_id, BurstDecision::Confirm, "gone").await.unwrap();
    assert_eq!(node.control.suppressions(&SuppressionFilter::default()).await.unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_another_name_a_node_still_misses_what_its_list_had() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    let (_, ids) = ids(1);
    let node = opened(&config, &ids).await;
    node.control.create_tenant("cli", &acme(), "Acme").await.unwrap();
    node.control.suppress("feedback", &new("ann@a.test", Reason::Unsubscribe, 1)).await.unwrap();
    carried_over(&node).await;
    node.control.close().await;
    drop(node);
    let backup = dir.path().join("backup.db");
    std::fs::copy(config.control_path(), &backup).unwrap();

    let node = opened(&config, &ids).await;
    node.control.suppress("feedback", &new("bob@a.test", Reason::Unsubscribe, 2)).await.unwrap();
    carried_over(&node).await;
    node.control.close().await;
    drop(node);

    config.node.id = "renamed".into();
    let node = opened(&config, &ids).await;
    node.keeping.check(true).await.unwrap();
    assert_eq!(node.suppressions.incomplete(), None, "nothing is missing");
    assert_eq!(node.keeping.kept().await.unwrap().unwrap().node_id, "node-1");
    node.control.close().await;
    drop(node);
    remove(&config.storage.dir, |name| name.starts_with("control.db") || name == "suppressions.idx");
    std::fs::copy(&backup, config.control_path()).unwrap();
    let node = opened(&config, &ids).await;
    node.keeping.check(true).await.unwrap();
    let why = node.suppressions.incomplete().unwrap();
    assert!(why.contains("control.db is older than the list that the lake knows"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_lifted_just_now_is_not_missing() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path());
    let (clock, ids) = ids(1);
    let node = opened(&config, &ids).await;
    node.control.create_tenant("cli", &acme(), "Acme").await.unwrap();
    for number in 1..=3_u128 {
        let wanted = new(&format!("p{number}@y.test"), Reason::Manual, number);
        node.control.suppress("cli", &wanted).await.unwrap();
    }
    carried_over(&node).await;
    clock.advance_millis(5_000);
    let lifted = node.control.unsuppress("cli", &acme(), "p1@y.test", None, None, Uuid::from_u128(4)).await;
    assert_eq!(lifted.unwrap().len(), 1);
    let done = rebuilder(&node).rebuild(false, false).await.unwrap();
    assert_eq!((done.entries, done.incomplete.as_deref()), (2, None), "{done:?}");
    let status = node.keeping.status().await.unwrap();
    assert_eq!((status.entries, status.incomplete), (2, None));
    carried_over(&node).await;
    assert_eq!(node.keeping.kept().await.unwrap().unwrap().totals.entries, 2);
}
