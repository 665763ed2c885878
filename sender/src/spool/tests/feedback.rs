//! Events are logged once, and what they call for outlives a crash.

use uuid::Uuid;

use super::*;
use crate::suppression::{Reach, Reason};

fn complaint(fixture: &Fixture) -> Event {
    let tenant = TenantId::new("acme").unwrap();
    let mut event = Event::new(fixture.ids.uuid(), EventType::Complained, fixture.ids.now(), tenant);
    event.recipient = Some("ann@x.test".into());
    event
}

fn key(text: &str, event: Event) -> (String, Event) {
    (text.to_owned(), event)
}

#[tokio::test]
async fn an_event_is_logged_once_across_restarts_until_its_key_is_forgotten() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    let twice =
        vec![key("a", complaint(&fixture)), key("a", complaint(&fixture)), key("b", complaint(&fixture))];
    assert_eq!(spool.log_once(twice).await.unwrap(), [true, false, true]);
    drop(spool);
    let spool = fixture.open();
    assert_eq!(spool.log_once(vec![key("a", complaint(&fixture))]).await.unwrap(), [false]);
    assert_eq!(kinds(&spool).len(), 2);
    assert_eq!(spool.purge_idempotency().await.unwrap(), 0);
    fixture.clock.advance_millis(121 * 86_400_000);
    assert_eq!(spool.log_once(vec![key("a", complaint(&fixture))]).await.unwrap(), [true]);
    assert_eq!(spool.purge_idempotency().await.unwrap(), 1, "only b is past its time");
    assert_eq!(spool.log_once(vec![key("a", complaint(&fixture))]).await.unwrap(), [false]);
}

#[tokio::test]
async fn the_wish_of_an_event_is_there_after_a_crash_and_is_settled_once() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    let event = complaint(&fixture);
    spool.log(std::slice::from_ref(&event)).await.unwrap();
    spool.wished().await;
    drop(spool); // killed before anybody looked

    let spool = fixture.open();
    let wishes = spool.reader().wishes(10).unwrap();
    assert_eq!(wishes.len(), 1);
    assert_eq!((wishes[0].event_id, wishes[0].reach), (event.event_id, Reach::Bulk));
    assert_eq!((wishes[0].reason, wishes[0].recipient.as_str()), (Reason::Complaint, "ann@x.test"));
    for _ in 0..2 {
        spool.settle_wishes(vec![wishes[0].event_id]).await.unwrap();
    }
    assert!(spool.reader().wishes(10).unwrap().is_empty());
    assert_eq!(kinds(&spool), [EventType::Complained]);
}

#[tokio::test]
async fn events_that_are_handed_over_again_after_a_crash_are_logged_once() {
    let fixture = Fixture::new();
    let events: Vec<Event> = (0..5).map(|_| complaint(&fixture)).collect();
    for handed in [&events[..2], &events[..2], &events[..4], &events[3..], &events[4..]] {
        fixture.open().log_handed_over(handed).await.unwrap();
    }
    let spool = fixture.open();
    let logged: Vec<Uuid> =
        spool.reader().events(0, 99).unwrap().iter().map(|row| row.event.event_id).collect();
    assert_eq!(logged, events.iter().map(|event| event.event_id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_bounce_of_a_live_session_brings_its_wish_with_the_outcome() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    spool.accept(fixture.submission(&["a@x.test"], None), &SendingFacts::default()).await.unwrap();
    let mut entry = dispatch_all(&spool, fixture.ids.now()).await.remove(0);
    entry.seq += 1;
    let mut event = entry.event(&fixture.ids, EventType::Bounced);
    event.bounce_category = Some("bad_mailbox".into());
    event.bounce_class = Some("hard".into());
    spool.complete(entry, Outcome::Terminal, &[event]).unwrap().await.unwrap();
    let wishes = spool.reader().wishes(10).unwrap();
    assert_eq!((wishes.len(), wishes[0].reach), (1, Reach::Tenant));
    spool.settle_wishes(vec![Uuid::nil()]).await.unwrap();
    assert_eq!(spool.reader().wishes(10).unwrap().len(), 1, "another wish's id settles nothing");
}

#[tokio::test]
async fn an_event_of_another_sender_is_logged_once_and_wishes_only_when_asked() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    let mut event = complaint(&fixture);
    event.ip_pool = Some("elsewhere:ses".into());
    let twice = [event.clone(), event.clone()];
    assert_eq!(spool.log_elsewhere(&twice, false, 14).await.unwrap(), [true, false]);
    drop(spool);
    let spool = fixture.open();
    assert!(spool.reader().wishes(10).unwrap().is_empty());
    assert_eq!(spool.log_elsewhere(&twice[..1], true, 14).await.unwrap(), [false]);
    let wishes = spool.reader().wishes(10).unwrap();
    assert_eq!((wishes.len(), wishes[0].actor.as_str()), (1, "elsewhere:ses"));
    assert_eq!(kinds(&spool).len(), 1);
    fixture.clock.advance_millis(15 * 86_400_000);
    assert_eq!(spool.log_elsewhere(&twice[..1], false, 14).await.unwrap(), [true], "forgotten in time");
}

#[tokio::test]
async fn a_token_is_good_for_one_use_however_often_that_comes() {
    let fixture = Fixture::new();
    let spool = fixture.open();
    let seen = async |spool: &Spool, body: &str| {
        spool.see_together(b"token".to_vec(), format!("token+{body}").into_bytes(), 2).await.unwrap()
    };
    assert!(seen(&spool, "a").await && seen(&spool, "a").await);
    assert!(!seen(&spool, "b").await && !seen(&spool, "b").await);
    drop(spool);
    let spool = fixture.open();
    assert!(seen(&spool, "a").await && !seen(&spool, "b").await);
}
