//! A crash at any point between an event and the suppression that it calls for does no harm.

use sendlake_control::suppression::{Reason, SuppressionFilter};
use sendlake_sender::address::Address;
use sendlake_sender::stream::Stream;
use sendlake_sender::suppression::{Suppressions, wish_of};

use super::*;
use crate::config::Config;
use crate::node::Node;
use crate::system;

fn config(dir: &tempfile::TempDir) -> Config {
    let mut config = Config::default();
    config.storage.dir = dir.path().join("data");
    config
}

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

fn wishes(node: &Node) -> Wishes {
    Wishes::new(node.spool.clone(), node.control.clone(), node.suppressions.clone(), node.ids.clone())
}

fn complaint(ids: &Ids) -> Event {
    let mut event = Event::new(ids.uuid(), EventType::Complained, ids.now(), acme());
    event.recipient = Some("Ann@a.test".into());
    event.stream = Some("marketing".into());
    event
}

fn added(node: &Node) -> usize {
    let events = node.spool.reader().events(0, 100).unwrap();
    events.iter().filter(|row| row.event.event_type == EventType::SuppressionAdded).count()
}

fn is_left_alone(node: &Node, stream: Stream) -> bool {
    node.suppressions.find(&acme(), stream, &Address::parse("ann@a.test").unwrap()).is_some()
}

#[tokio::test]
async fn a_wish_comes_into_force_after_a_kill_at_any_point_and_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(config(&dir), system::ids()).await.unwrap();
    node.control.create_tenant("cli", &acme(), "Acme").await.unwrap();
    let event = complaint(&node.ids);
    node.spool.log(std::slice::from_ref(&event)).await.unwrap();
    drop(node); // killed right after the event was durable

    let node = Node::open(config(&dir), system::ids()).await.unwrap();
    assert!(!is_left_alone(&node, Stream::Marketing));
    let wish = wish_of(&event).unwrap();
    wishes(&node).grant(&[wish]).await.unwrap();
    drop(node); // killed between the control store and the spool

    let node = Node::open(config(&dir), system::ids()).await.unwrap();
    assert!(is_left_alone(&node, Stream::Marketing), "the control store has it");
    assert_eq!((node.spool.reader().wishes(9).unwrap().len(), added(&node)), (1, 0));
    for _ in 0..2 {
        wishes(&node).drain().await.unwrap();
        assert_eq!((node.spool.reader().wishes(9).unwrap().len(), added(&node)), (0, 1));
    }
    assert!(is_left_alone(&node, Stream::Cold) && !is_left_alone(&node, Stream::Transactional));

    // another complaint of the same person changes nothing, and says nothing
    node.spool.log(&[complaint(&node.ids)]).await.unwrap();
    wishes(&node).drain().await.unwrap();
    assert_eq!((node.spool.reader().wishes(9).unwrap().len(), added(&node)), (0, 1));
    let found = node.control.suppressions(&SuppressionFilter::default()).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].reason, found[0].event_id), (Reason::Complaint, event.event_id));
}

#[tokio::test]
async fn a_mailbox_that_was_full_on_three_days_is_left_alone_for_a_time_and_both_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(config(&dir), system::ids()).await.unwrap();
    node.control.create_tenant("cli", &acme(), "Acme").await.unwrap();
    let full = |days_ago: i64, event_type| {
        let at = node.ids.now().plus_secs(-days_ago * 86_400);
        let mut event = Event::new(node.ids.uuid(), event_type, at, acme());
        event.recipient = Some("ann@a.test".into());
        event.message_id = Some(node.ids.uuid().to_string());
        event.stream = Some("marketing".into());
        event.bounce_category = Some("bad_mailbox".into());
        event.bounce_class = Some("soft".into());
        event.bounce_reason = Some("mailbox_full".into());
        event
    };
    let (live, late) = (EventType::Deferred, EventType::BouncedAsync);
    for (days_ago, event_type, left_alone) in [(20, live, false), (9, late, false), (1, live, true)] {
        let event = full(days_ago, event_type);
        // tried twice in the same hour: one message
        node.spool.log(&[event.clone(), Event { event_id: node.ids.uuid(), ..event }]).await.unwrap();
        wishes(&node).drain().await.unwrap();
        assert_eq!(is_left_alone(&node, Stream::Transactional), left_alone, "{days_ago} days ago");
    }
    assert_eq!(added(&node), 1);
    wishes(&node).end_what_is_over().await.unwrap();
    assert!(is_left_alone(&node, Stream::Marketing), "for thirty days from the last");

    // one whose time is over already
    let wish = |event: &Event| Wish { recipient: "bob@a.test".into(), ..wish_of(event).unwrap() };
    for days_ago in [80, 70, 60] {
        wishes(&node).grant(&[wish(&full(days_ago, live))]).await.unwrap();
    }
    wishes(&node).end_what_is_over().await.unwrap();
    let events = node.spool.reader().events(0, 100).unwrap();
    let told: Vec<_> = events
        .iter()
        .filter(|row| row.event.recipient.as_deref() == Some("bob@a.test"))
        .map(|row| (row.event.event_type, row.event.detail.clone().unwrap()))
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].0 == EventType::SuppressionAdded && told[0].1.contains("\"until\""), "{told:?}");
    assert!(
        told[1].0 == EventType::SuppressionRemoved && told[1].1.contains("\"by\":\"expiry\""),
        "{told:?}"
    );
}
