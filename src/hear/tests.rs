//! Reports about messages of a real node: attributed, dated, once; and refused by name.

use sendlake_control::id::uuid_v7;
use sendlake_ingest::report::Feedback;
use sendlake_sender::address::Address;
use sendlake_sender::link::{Facts, Whom};
use sendlake_sender::stream::Stream;
use sendlake_sender::suppression::Suppressions;
use sendlake_sender::token::Purpose;

use super::*;
use crate::config::Config;
use crate::node::Node;
use crate::system;

mod bounces;
mod loops;

struct Fixture {
    _dir: tempfile::TempDir,
    node: Node,
}

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).unwrap()
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.dir = dir.path().join("data");
        let node = Node::open(config, system::ids()).await.unwrap();
        for name in ["acme", "bolt"] {
            node.control.create_tenant("cli", &tenant(name), name).await.unwrap();
        }
        Self { _dir: dir, node }
    }

    /// A message of acme that was delivered so many days ago.
    async fn delivered(&self, days_ago: i64) -> (Uuid, Timestamp) {
        let at = self.node.ids.now().plus_secs(-days_ago * 86_400);
        let message_id = uuid_v7(at, self.node.ids.entropy.as_ref());
        let delivered_at = Timestamp(at.0 + 5_000_001);
        let events = [(EventType::Accepted, at), (EventType::Delivered, delivered_at)].map(|(kind, at)| {
            let mut event = Event::new(self.node.ids.uuid(), kind, at, tenant("acme"));
            event.message_id = Some(message_id.to_string());
            event.seq = Some(1);
            event.stream = Some("marketing".into());
            event.campaign_id = Some("spring".into());
            event.recipient = Some("ann@a.test".into());
            if kind == EventType::Delivered {
                event.provider = Some("google".into());
                event.source_ip = Some("192.0.2.7".into());
            }
            event
        });
        self.node.spool.log(&events).await.unwrap();
        (message_id, delivered_at)
    }

    async fn hear(&self, owner: Option<&str>, feedback_type: &str, message_id: Uuid) -> Heard {
        let token = self.node.hearing.tokens.issue(Purpose::ReturnPath, message_id);
        let report = Report::Feedback(Box::new(Feedback {
            feedback_type: feedback_type.into(),
            source_ip: Some("203.0.113.9".into()),
            original_mail_from: Some(format!("{token}@bounces.acme.example")),
            ..Feedback::default()
        }));
        let to = Addressee::Reports { owner: owner.map(tenant) };
        self.node.hearing.hear(&to, &report, b"the report").await.unwrap()
    }

    fn events(&self, kind: EventType) -> Vec<Event> {
        let rows = self.node.spool.reader().events(0, 1_000).unwrap();
        rows.into_iter().map(|row| row.event).filter(|event| event.event_type == kind).collect()
    }
}

#[tokio::test]
async fn a_complaint_carries_its_delivery_and_counts_once() {
    let fixture = Fixture::new().await;
    let (message_id, delivered_at) = fixture.delivered(9).await;
    for outcome in ["recorded", "repeat"] {
        let heard = fixture.hear(Some("acme"), "abuse", message_id).await;
        assert_eq!((heard.outcome, heard.message_id), (outcome, Some(message_id)), "{heard:?}");
    }
    let complaints = fixture.events(EventType::Complained);
    assert_eq!(complaints.len(), 1);
    let complaint = &complaints[0];
    assert_eq!((complaint.delivered_at, complaint.seq), (Some(delivered_at), None));
    assert_eq!(complaint.campaign_id.as_deref(), Some("spring"));
    assert_eq!(complaint.provider.as_deref(), Some("google"));
    assert_eq!(complaint.source_ip.as_deref(), Some("192.0.2.7"), "ours goes over the report's claim");
    assert_eq!(fixture.events(EventType::SuppressionAdded).len(), 1);
    tokio::time::timeout(Duration::from_secs(1), fixture.node.hearing.feedback_arrived.notified())
        .await
        .expect("whoever judges is told");
}

#[tokio::test]
async fn a_complaint_is_taken_back_by_a_report_about_the_same_message_only() {
    let fixture = Fixture::new().await;
    let (complained, _) = fixture.delivered(9).await;
    let (other, _) = fixture.delivered(8).await;
    fixture.hear(Some("acme"), "abuse", complained).await;
    fixture.hear(Some("acme"), "not-spam", other).await;
    assert_eq!(fixture.events(EventType::SuppressionRemoved), []);
    for _ in 0..2 {
        fixture.hear(Some("acme"), "not-spam", complained).await;
        assert_eq!(fixture.events(EventType::SuppressionRemoved).len(), 1);
    }
    let ann = Address::parse("ann@a.test").unwrap();
    assert!(fixture.node.suppressions.find(&tenant("acme"), Stream::Marketing, &ann).is_none());
}

#[tokio::test]
async fn what_is_forged_or_unreadable_is_kept_for_a_person_to_look_at() {
    let fixture = Fixture::new().await;
    let kept = || {
        let folder = fixture.node.config.quarantine_dir();
        let reasons = std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
        let reasons = reasons.filter(|path| path.extension().is_some_and(|of| of == "txt"));
        reasons.map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>()
    };
    let to = [Addressee::Reports { owner: Some(tenant("acme")) }];
    let letter = b"From: ann@a.test\r\nSubject: Hello\r\n\r\nHow are you?\r\n";
    fixture.node.hearing.take(&to, letter.to_vec()).await.unwrap();
    assert_eq!(kept(), Vec::<String>::new(), "a letter by a person");
    fixture.node.hearing.take(&to, Vec::new()).await.unwrap();
    assert!(kept()[0].contains("no header section"), "{:?}", kept());
}

#[tokio::test]
async fn another_tenants_token_is_refused_and_an_expired_one_counts_for_nobody() {
    let fixture = Fixture::new().await;
    let (message_id, _) = fixture.delivered(9).await;
    let heard = fixture.hear(Some("bolt"), "abuse", message_id).await;
    assert!(heard.is_refused() && heard.detail.contains("another tenant's"), "{heard:?}");
    assert_eq!(fixture.events(EventType::Complained), []);

    let (old, _) = fixture.delivered(91).await;
    let heard = fixture.hear(Some("acme"), "abuse", old).await;
    assert_eq!((heard.outcome, heard.message_id), ("unattributed", None));
    assert!(heard.detail.contains("expired") && heard.detail.contains("91 days"), "{heard:?}");
    let counted = &fixture.events(EventType::Complained)[0];
    assert_eq!((&counted.message_id, &counted.recipient), (&None, &None));
    assert_eq!(counted.source_ip.as_deref(), Some("203.0.113.9"));
    assert_eq!(fixture.events(EventType::SuppressionAdded), []);

    let unknown = uuid_v7(fixture.node.ids.now(), fixture.node.ids.entropy.as_ref());
    let heard = fixture.hear(None, "fraud", unknown).await;
    assert_eq!((heard.outcome, heard.tenant_id.clone()), ("unattributed", Some(TenantId::platform())));
    assert!(heard.detail.contains("not in the lake"), "{heard:?}");
}

#[tokio::test]
async fn an_unsubscribe_is_honoured_at_any_age() {
    let fixture = Fixture::new().await;
    let (old, _) = fixture.delivered(400).await;
    for outcome in ["recorded", "repeat"] {
        let heard = fixture.node.hearing.unsubscribe(Leave::new(old, "one_click")).await.unwrap();
        assert_eq!(heard.outcome, outcome, "{heard:?}");
        let ann = Address::parse("ann@a.test").unwrap();
        let found = fixture.node.suppressions.find(&tenant("acme"), Stream::Cold, &ann);
        assert_eq!(found.map(|found| found.reason).as_deref(), Some("unsubscribe"));
    }
}

fn ann_of(name: &str) -> Whom {
    Whom { tenant_id: tenant(name), stream: Stream::Marketing, recipient: "ann@a.test".into() }
}

#[tokio::test]
async fn a_link_outlives_its_message_and_names_tenant_and_address_itself() {
    let fixture = Fixture::new().await;
    let hearing = &fixture.node.hearing;
    let gone = uuid_v7(fixture.node.ids.now().plus_secs(-900 * 86_400), fixture.node.ids.entropy.as_ref());
    let heard = hearing.unsubscribe(Leave::new(gone, "one_click")).await.unwrap();
    assert!(heard.is_refused() && heard.detail.contains("not in the lake"), "{heard:?}");
    for outcome in ["recorded", "repeat"] {
        let leave = Leave { whom: Some(ann_of("acme")), ..Leave::new(gone, "one_click") };
        let heard = hearing.unsubscribe(leave).await.unwrap();
        assert_eq!((heard.outcome, heard.tenant_id), (outcome, Some(tenant("acme"))));
        let ann = Address::parse("ann@a.test").unwrap();
        let found = |name| fixture.node.suppressions.find(&tenant(name), Stream::Marketing, &ann);
        assert_eq!(found("acme").map(|found| found.reason).as_deref(), Some("unsubscribe"));
        assert_eq!(found("bolt"), None);
    }
    let told = &fixture.events(EventType::Unsubscribed)[0];
    assert_eq!(told.message_id, Some(gone.to_string()));
    assert_eq!(
        (told.stream.as_deref(), told.recipient_domain.as_deref()),
        (Some("marketing"), Some("a.test"))
    );
}

#[tokio::test]
async fn a_mail_to_the_unsubscribe_mailbox_brings_the_address_in_its_subject() {
    let fixture = Fixture::new().await;
    let hearing = &fixture.node.hearing;
    let gone = uuid_v7(fixture.node.ids.now().plus_secs(-900 * 86_400), fixture.node.ids.entropy.as_ref());
    let sealed = Facts::Unsubscribe(ann_of("acme")).seal(&hearing.tokens, gone);
    let to = |owner| Addressee::Unsubscribe { message_id: gone, owner: tenant(owner) };
    let mail = |subject: &str| format!("From: x@y.test\r\nSubject: {subject}\r\n\r\n").into_bytes();
    for (owner, subject, outcome) in [
        ("acme", "unsubscribe".to_owned(), "refused"),
        ("acme", format!("unsubscribe.{}", &sealed[1..]), "refused"),
        ("bolt", format!("unsubscribe.{sealed}"), "refused"),
        ("acme", format!("Re: unsubscribe.{sealed} "), "recorded"),
    ] {
        let heard = hearing.hear(&to(owner), &Report::Other, &mail(&subject)).await.unwrap();
        assert_eq!(heard.outcome, outcome, "{owner} {subject}: {heard:?}");
    }
    assert_eq!(fixture.events(EventType::SuppressionAdded).len(), 1);
}

#[tokio::test]
async fn an_erased_person_does_not_come_back_by_an_old_link() {
    let fixture = Fixture::new().await;
    let node = &fixture.node;
    node.control.erase_recipient("cli", Some(&tenant("acme")), "ann@a.test", Uuid::nil()).await.unwrap();
    node.suppressions.refresh(&node.control).await.unwrap();
    let gone = node.ids.uuid();
    let leave = Leave { whom: Some(ann_of("acme")), ..Leave::new(gone, "one_click") };
    let heard = node.hearing.unsubscribe(leave).await.unwrap();
    assert_eq!((heard.outcome, heard.recipient.as_deref()), ("repeat", None), "{heard:?}");
    assert_eq!(fixture.events(EventType::Unsubscribed), []);
}

#[tokio::test]
async fn a_flood_of_reports_about_nobody_is_put_off() {
    let fixture = Fixture::new().await;
    let now = fixture.node.ids.now();
    let hearing = &fixture.node.hearing;
    let taken = (0..3_000).filter(|_| hearing.count_unattributed(now).is_ok()).count();
    assert_eq!(taken, UNATTRIBUTED_PER_HOUR_MAX as usize);
    assert!(hearing.count_unattributed(now.plus_secs(3_600)).is_ok());
}
