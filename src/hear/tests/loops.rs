//! Complaints as many feedback loops send them, about a message of a real node: which message they count for, and that
//! nobody is suppressed by mistake.

use super::*;

/// A report of `ingest/tests-data/feedback/`, with real tokens for two messages.
fn filled(tokens: &TokenKeys, text: &str, first: Uuid, second: Uuid) -> Vec<u8> {
    let cfbl = tokens.issue(Purpose::Complaint, first);
    let mut mail = text.replace("{cfbl:20}", &cfbl[..20]).replace("{cfbl:rest}", &cfbl[20..]);
    for (place, token) in [
        ("path", tokens.issue(Purpose::ReturnPath, first)),
        ("id", tokens.issue(Purpose::MessageId, first)),
        ("leave", tokens.issue(Purpose::Unsubscribe, first)),
        ("path2", tokens.issue(Purpose::ReturnPath, second)),
        ("id2", tokens.issue(Purpose::MessageId, second)),
        ("leave2", tokens.issue(Purpose::Unsubscribe, second)),
        // of the right shape, made for another purpose
        ("forged", tokens.issue(Purpose::MessageId, first)),
    ] {
        mail = mail.replace(&format!("{{{place}}}"), &token);
    }
    mail.replace('\n', "\r\n").into_bytes()
}

macro_rules! reports {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../ingest/tests-data/feedback/", $name, ".eml")))),*]
    };
}

#[tokio::test]
async fn every_loops_report_finds_its_message_and_suppresses_its_recipient() {
    let fixture = Fixture::new().await;
    let (other, _) = fixture.delivered(2).await;
    let to = [Addressee::Reports { owner: Some(tenant("acme")) }];
    let reports = reports![
        "yahoo",
        "microsoft-attached",
        "microsoft-as-it-was",
        "microsoft-arf",
        "comcast",
        "uol",
        "aol",
        "mail-ru",
        "spamcop",
        "abusix",
        "upper-case",
        "no-report-type",
        "rewritten-type",
        "cfbl-minimal",
        "forwarded",
        "forwarded-by-a-list",
    ];
    for (name, text) in reports {
        let (message_id, _) = fixture.delivered(3).await;
        let mail = filled(&fixture.node.hearing.tokens, text, message_id, other);
        for outcome in ["recorded", "repeat"] {
            let heard = fixture.node.hearing.take(&to, mail.clone()).await.unwrap().remove(0);
            assert_eq!((heard.outcome, heard.event_type), (outcome, Some("complained")), "{name}: {heard:?}");
            assert_eq!(heard.message_id, Some(message_id), "{name}");
            assert_eq!(heard.recipient.as_deref(), Some("ann@a.test"), "{name}: ours, not the report's");
        }
    }
    assert_eq!(fixture.events(EventType::Complained).len(), reports.len());
    let suppressed = fixture.events(EventType::SuppressionAdded);
    assert_eq!(suppressed.len(), 1, "all of them were about mail to ann");
    assert_eq!(suppressed[0].recipient.as_deref(), Some("ann@a.test"));
}

#[tokio::test]
async fn a_report_about_no_message_or_about_two_suppresses_nobody() {
    let fixture = Fixture::new().await;
    let (first, _) = fixture.delivered(3).await;
    let (second, _) = fixture.delivered(2).await;
    let to = [Addressee::Reports { owner: Some(tenant("acme")) }];
    let why = ["2 messages", "2 messages", "no token", "forged"];
    let reports = reports!["two-messages", "two-reports", "without-a-message", "forged"];
    for ((name, text), why) in reports.into_iter().zip(why) {
        let mail = filled(&fixture.node.hearing.tokens, text, first, second);
        let heard = fixture.node.hearing.take(&to, mail).await.unwrap().remove(0);
        assert_eq!((heard.outcome, heard.message_id), ("unattributed", None), "{name}: {heard:?}");
        assert!(heard.detail.contains(why), "{name}: {heard:?}");
    }
    for event in fixture.events(EventType::Complained) {
        assert_eq!((event.message_id, event.recipient, event.delivered_at), (None, None, None));
        assert_eq!(event.source_ip.as_deref(), Some("192.0.2.25"));
    }
    assert_eq!(fixture.events(EventType::SuppressionAdded), []);
}

#[tokio::test]
async fn another_tenants_report_counts_for_nobody_in_any_shape() {
    let fixture = Fixture::new().await;
    let (first, _) = fixture.delivered(3).await;
    let to = [Addressee::Reports { owner: Some(tenant("bolt")) }];
    for (name, text) in reports!["yahoo", "microsoft-attached", "cfbl-minimal", "forwarded"] {
        let mail = filled(&fixture.node.hearing.tokens, text, first, first);
        let heard = fixture.node.hearing.take(&to, mail).await.unwrap().remove(0);
        assert!(heard.is_refused() && heard.detail.contains("another tenant's"), "{name}: {heard:?}");
    }
    assert_eq!(fixture.events(EventType::Complained), []);
    assert_eq!(fixture.events(EventType::SuppressionAdded), []);
}
