//! Delivery status notifications about messages of a real node: whom they suppress, what a second one adds, what is left of
//! people who were erased, and forged addresses of stored mails.

use super::*;

fn dsn(to: &str, recipient: &str, status: &str, words: &str) -> Vec<u8> {
    let named = if recipient.is_empty() { "x".to_owned() } else { recipient.to_owned() };
    format!(
        "From: <mailer-daemon@mx.test>\r\nTo: <{to}>\r\nDelivered-To: {to}\r\nSubject: failed\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\r\nIt failed.\r\n--b\r\n\
         Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.test\r\n\r\n\
         Final-Recipient: rfc822; {named}\r\nAction: failed\r\nStatus: {status}\r\n\
         Diagnostic-Code: smtp; {words}\r\n--b--\r\n"
    )
    .into_bytes()
}

impl Fixture {
    async fn bounce(&self, message_id: Uuid, recipient: &str, status: &str, words: &str) -> Heard {
        let to = [Addressee::ReturnPath { message_id, owner: tenant("acme") }];
        let mail = dsn("path@bounces.acme.example", recipient, status, words);
        self.node.hearing.take(&to, mail).await.unwrap().remove(0)
    }
}

#[tokio::test]
async fn a_bounce_of_somebody_elses_mailbox_is_recorded_and_suppresses_nobody() {
    let fixture = Fixture::new().await;
    let (message_id, _) = fixture.delivered(2).await;
    let (another, _) = fixture.delivered(1).await;
    let heard = fixture.bounce(message_id, "else@b.test", "5.1.1", "550 5.1.1 no such user").await;
    assert_eq!((heard.outcome, heard.message_id), ("recorded", Some(message_id)), "{heard:?}");
    let bounce = &fixture.events(EventType::BouncedAsync)[0];
    assert_eq!(bounce.bounce_category.as_deref(), Some("bad_mailbox"));
    assert!(
        bounce.detail.as_deref().is_some_and(|detail| detail.contains(r#""named":"other""#)),
        "{bounce:?}"
    );
    assert_eq!(fixture.events(EventType::SuppressionAdded), []);
    // what it says of ours counts still
    for outcome in ["recorded", "repeat"] {
        let heard = fixture.bounce(message_id, "Ann@A.test", "5.1.1", "550 5.1.1 no such user").await;
        assert_eq!(heard.outcome, outcome, "{heard:?}");
        assert_eq!(fixture.events(EventType::SuppressionAdded).len(), 1);
    }
    let heard = fixture.bounce(another, "", "5.1.1", "550 5.1.1 no such user").await;
    assert_eq!(heard.outcome, "recorded", "names no address: {heard:?}");
}

#[tokio::test]
async fn a_failure_for_good_is_news_after_one_for_now_and_not_the_other_way_round() {
    let fixture = Fixture::new().await;
    let (message_id, _) = fixture.delivered(2).await;
    let soft = ("4.2.2", "452 4.2.2 mailbox full");
    let hard = ("5.1.1", "550 5.1.1 no such user");
    for ((status, words), outcome) in
        [(soft, "recorded"), (soft, "repeat"), (hard, "recorded"), (hard, "repeat"), (soft, "repeat")]
    {
        let heard = fixture.bounce(message_id, "ann@a.test", status, words).await;
        assert_eq!(heard.outcome, outcome, "{status}: {heard:?}");
    }
    let (hard_first, _) = fixture.delivered(1).await;
    for ((status, words), outcome) in [(hard, "recorded"), (soft, "repeat"), (hard, "repeat")] {
        let heard = fixture.bounce(hard_first, "ann@a.test", status, words).await;
        assert_eq!(heard.outcome, outcome, "{status}: {heard:?}");
    }
    assert_eq!(fixture.events(EventType::BouncedAsync).len(), 3);
}

#[tokio::test]
async fn abuse_and_fraud_about_one_message_are_one_complaint() {
    let fixture = Fixture::new().await;
    let (message_id, _) = fixture.delivered(2).await;
    for (feedback_type, outcome) in [("fraud", "recorded"), ("abuse", "repeat"), ("virus", "recorded")] {
        let heard = fixture.hear(Some("acme"), feedback_type, message_id).await;
        assert_eq!(heard.outcome, outcome, "{feedback_type}: {heard:?}");
    }
    assert_eq!(fixture.events(EventType::Complained).len(), 1);
    assert_eq!(fixture.events(EventType::Replied)[0].feedback_type.as_deref(), Some("virus"));
}

#[tokio::test]
async fn a_bounce_does_not_bring_an_erased_address_back() {
    let fixture = Fixture::new().await;
    let (message_id, _) = fixture.delivered(2).await;
    let node = &fixture.node;
    node.control.erase_recipient("cli", Some(&tenant("acme")), "ann@a.test", Uuid::nil()).await.unwrap();
    node.suppressions.refresh(&node.control).await.unwrap();
    let words = "550 5.1.1 <Ann@a.test>: no such user (bob@a.test is)";
    let heard = fixture.bounce(message_id, "ann@a.test", "5.1.1", words).await;
    assert_eq!(heard.outcome, "recorded", "{heard:?}");
    let bounce = &fixture.events(EventType::BouncedAsync)[0];
    assert_eq!(bounce.reply_text.as_deref(), Some("550 5.1.1 <[erased]>: no such user (bob@a.test is)"));
}

#[tokio::test]
async fn a_stored_mail_to_a_forged_address_is_refused_as_smtp_refuses_it() {
    let fixture = Fixture::new().await;
    let node = &fixture.node;
    node.control.add_domain("cli", &tenant("acme"), "acme.example", Default::default()).await.unwrap();
    node.identities.refresh(&node.control).await.unwrap();
    let (message_id, _) = fixture.delivered(2).await;
    let token = node.hearing.tokens.issue(Purpose::ReturnPath, message_id);
    // one character changed within, and the last one, in which not all bits count
    for place in [20, token.len() - 1] {
        let other = if token[place..].starts_with('a') { "b" } else { "a" };
        let mut forged = token.clone();
        forged.replace_range(place..=place, other);
        let to = format!("{forged}@bounces.acme.example");
        let mail = dsn(&to, "ann@a.test", "5.1.1", "550 5.1.1 no such user");
        let heard = node.hearing.take_file(mail).await.unwrap().remove(0);
        assert_eq!((heard.outcome, &heard.tenant_id), ("refused", &Some(tenant("acme"))), "{heard:?}");
        assert!(heard.detail.contains("forged"), "{heard:?}");
    }
    assert_eq!(fixture.events(EventType::BouncedAsync), []);
    let aside = fixture.events(EventType::ReportQuarantined);
    assert_eq!((aside.len(), &aside[0].tenant_id), (2, &tenant("acme")));
}
