//! Each sender's records, one of every kind that it documents, beside what must become of them.

use std::collections::HashSet;
use std::fmt::Write as _;

use proptest::prelude::*;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_sql::rules::{Ruleset, Said};
use serde_json::{Value, json};

use super::read::{Reading, Tally};
use super::{ELSEWHERE, Fact, Setting, Source, facts_of, facts_of_body};
use crate::event::{Event, EventType};

/// 2026-11-22T12:00:00Z
const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

pub(super) fn setting(source: Source) -> Setting {
    Setting {
        source,
        tenant_id: TenantId::new("acme").unwrap(),
        stream: None,
        domain: None,
        utc_offset_s: 0,
        provider_of: |host| {
            let known = [
                ("google.com", "google"),
                ("outlook.com", "microsoft"),
                ("yahoodns.net", "yahoo"),
                ("gmx.net", "gmx"),
            ];
            let found = known.iter().find(|(domain, _)| host.ends_with(domain));
            found.map_or_else(|| host.to_owned(), |(_, provider)| (*provider).to_owned())
        },
        now: NOON,
    }
}

fn read(setting: Setting, bytes: &[u8]) -> (Vec<Event>, Tally) {
    let mut events = Vec::new();
    let mut reading = Reading::new(setting);
    reading.read("file", bytes, &mut |event| {
        events.push(event);
        true
    });
    (events, reading.tally)
}

macro_rules! cases {
    ($($name:ident: $source:ident, $file:literal;)*) => {$(
        #[test]
        fn $name() {
            check(
                Source::$source,
                include_bytes!(concat!("../../tests-data/foreign/", $file)),
                include_str!(concat!("../../tests-data/foreign/", $file, ".expected")),
            );
        }
    )*};
}

cases! {
    kumomta_records_are_mapped: Kumomta, "kumomta.json";
    powermta_records_are_mapped: Powermta, "powermta.csv";
    postfix_lines_are_mapped: Postfix, "postfix.log";
    ses_events_are_mapped: Ses, "ses.json";
    sendgrid_events_are_mapped: Sendgrid, "sendgrid.json";
    mailgun_events_are_mapped: Mailgun, "mailgun.json";
    postmark_events_are_mapped: Postmark, "postmark.json";
    sparkpost_events_are_mapped: Sparkpost, "sparkpost.json";
}

fn check(source: Source, content: &[u8], expected: &str) {
    let (events, tally) = read(setting(source), content);
    let found = table(&events, &tally);
    assert_eq!(found, expected, "\n{found}");
    assert_eq!(tally.read, tally.mapped + tally.unmapped + tally.bad);
    for event in &events {
        assert_eq!(event.ip_pool, Some(format!("{ELSEWHERE}{source}")));
        assert_eq!(event.recorded_at, event.occurred_at);
        assert_verdict_is_the_rules(event);
    }
    // again, and with everything before it: the same events
    let twice = read(setting(source), content).0;
    assert_eq!(events, twice);
}

/// Refusals carry what our rules say of their words, whatever the other sender made of them.
fn assert_verdict_is_the_rules(event: &Event) {
    let is_refusal =
        matches!(event.event_type, EventType::Deferred | EventType::Bounced | EventType::BouncedAsync);
    let found = is_refusal.then(|| {
        Ruleset::current().classify(&Said {
            provider: event.provider.as_deref(),
            smtp_command: event.smtp_command.as_deref(),
            reply_code: event.reply_code.map(|code| u16::try_from(code).unwrap()),
            enhanced_status: event.enhanced_status.as_deref(),
            text: event.reply_text.as_deref().unwrap_or_default(),
        })
    });
    assert_eq!(event.bounce_rule, found.as_ref().map(|found| found.rule.clone()), "{event:?}");
    assert_eq!(event.bounce_category, found.map(|found| found.category.to_string()));
}

/// One line an event, then what was counted.
fn table(events: &[Event], tally: &Tally) -> String {
    let mut text = String::new();
    for event in events {
        let or = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        let number = |value: Option<i64>| value.map_or_else(|| "-".into(), |value| value.to_string());
        writeln!(
            text,
            "{} {} {} {} from={} {} {} {} queue_ms={} feedback={} open={} delivered={}",
            event.occurred_at,
            event.event_type.as_str(),
            or(&event.recipient),
            or(&event.provider),
            or(&event.header_from_domain),
            number(event.reply_code.map(i64::from)),
            or(&event.enhanced_status),
            or(&event.smtp_command),
            number(event.queue_ms),
            or(&event.feedback_type),
            or(&event.open_source),
            event.delivered_at.map_or_else(|| "-".into(), |at| at.to_string()),
        )
        .unwrap();
    }
    writeln!(
        text,
        "read {} = mapped {} + unmapped {} + bad {}",
        tally.read, tally.mapped, tally.unmapped, tally.bad
    )
    .unwrap();
    for (kind, count) in &tally.unmapped_kinds {
        writeln!(text, "unmapped {kind}: {count}").unwrap();
    }
    for fault in &tally.faults {
        writeln!(text, "bad, line {}: {}", fault.line, fault.why).unwrap();
    }
    text
}

#[test]
fn an_events_id_is_the_records_own_and_another_tenants_is_another() {
    let content = include_bytes!("../../tests-data/foreign/ses.json");
    let (events, _) = read(setting(Source::Ses), content);
    let ids: HashSet<_> = events.iter().map(|event| event.event_id).collect();
    // the bounce of bob came as a notification and as an event: one fact
    assert_eq!(ids.len(), events.len() - 1);
    let other = Setting { tenant_id: TenantId::new("other").unwrap(), ..setting(Source::Ses) };
    let (others, _) = read(other, content);
    assert!(others.iter().all(|event| !ids.contains(&event.event_id)));
    let of_one_message: HashSet<_> = events
        .iter()
        .filter(|event| event.recipient.as_deref() == Some("ann@gmail.com"))
        .map(|event| event.message_id.clone().unwrap())
        .collect();
    assert_eq!(of_one_message.len(), 1, "sent, delivered, opened, clicked");
}

#[test]
fn what_the_record_does_not_tell_is_taken_from_the_setting() {
    let told = Setting {
        stream: Some("marketing".into()),
        domain: Some("shop.example".into()),
        ..setting(Source::Sendgrid)
    };
    let record =
        json!({"event": "delivered", "email": "a@b.test", "timestamp": 1_793_701_200, "sg_event_id": "x"});
    let facts = facts_of(&told, &record);
    let [Fact::Event(event)] = facts.as_slice() else { panic!("{facts:?}") };
    assert_eq!(
        (event.stream.as_deref(), event.header_from_domain.as_deref()),
        (Some("marketing"), Some("shop.example"))
    );
    let plain = setting(Source::Postmark);
    let facts = facts_of(
        &plain,
        &json!({"RecordType": "Delivery", "MessageStream": "broadcast", "DeliveredAt": "2026-11-03T10:20:02Z"}),
    );
    let [Fact::Event(event)] = facts.as_slice() else { panic!("{facts:?}") };
    assert_eq!(event.stream.as_deref(), Some("marketing"));
}

#[test]
fn records_from_the_future_or_from_before_there_was_mail_are_bad() {
    for timestamp in [json!(1_795_348_800 + 2 * 86_400), json!(0), json!(1e17), json!("9999-12-31T23:59:59Z")]
    {
        let record =
            json!({"event": "delivered", "email": "a@b.test", "timestamp": timestamp, "sg_event_id": "x"});
        let facts = facts_of(&setting(Source::Sendgrid), &record);
        assert!(matches!(facts.as_slice(), [Fact::Bad(_)]), "{timestamp}: {facts:?}");
    }
}

#[test]
fn a_postfix_message_is_remembered_within_bounds() {
    let mut log = String::new();
    for n in 0..200_500 {
        writeln!(
            log,
            "Nov 21 10:00:00 mail postfix/qmgr[1]: Q{n:06}: from=<a@b.test>, size=1, nrcpt=1 (queue active)"
        )
        .unwrap();
    }
    writeln!(log, "Nov 21 10:00:01 mail postfix/smtp[1]: Q200499: to=<x@y.test>, relay=mx.y.test[192.0.2.1]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)").unwrap();
    writeln!(log, "Nov 21 10:00:01 mail postfix/smtp[1]: Q000000: to=<x@y.test>, relay=mx.y.test[192.0.2.1]:25, delay=1, delays=0/0/0/1, dsn=2.0.0, status=sent (250 ok)").unwrap();
    let (events, _) = read(setting(Source::Postfix), log.as_bytes());
    let from: Vec<_> = events.iter().map(|event| event.mail_from_domain.as_deref()).collect();
    assert_eq!(from, [Some("b.test"), None]);
}

#[test]
fn a_taker_that_has_enough_ends_the_reading() {
    let mut reading = Reading::new(setting(Source::Sendgrid));
    let content = include_bytes!("../../tests-data/foreign/sendgrid.json");
    assert!(!reading.read("file", content.as_slice(), &mut |_| false));
    assert_eq!(reading.tally.mapped, 1);
}

/// Words that parsers look for, and what they are not ready for.
fn any_json() -> impl Strategy<Value = Value> {
    let words = prop::sample::select(vec![
        "type",
        "event",
        "eventType",
        "notificationType",
        "RecordType",
        "Message",
        "Records",
        "Sns",
        "detail",
        "mail",
        "bounce",
        "bouncedRecipients",
        "emailAddress",
        "complaint",
        "timestamp",
        "recipient",
        "response",
        "code",
        "enhanced_code",
        "msys",
        "message_event",
        "results",
        "items",
        "event-data",
        "delivery-status",
        "Bounces",
        "feedback_report",
        "original_rcpto_to",
        "tags",
        "Metadata",
        "meta",
        "category",
        "messageId",
        "Feedback",
        "Delivery",
        "Bounce",
        "Complaint",
        "delivered",
        "bounced",
        "failed",
        "delivery",
        "open",
        "destination",
        "",
        "2026-11-03T10:20:00Z",
        "smtp; 550 5.1.1 no",
        "a@b.test",
        "<",
        ">",
        "@",
        "\u{1F4A9}\u{0}",
        "1793701200",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words.clone().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::hash_map(words.clone(), inner, 0..8).prop_map(|map| Value::Object(
                map.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_yields_facts(value in any_json()) {
        for source in Source::ALL {
            prop_assert!(!facts_of(&setting(*source), &value).is_empty());
        }
    }

    #[test]
    fn any_bytes_add_up(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        for source in Source::ALL {
            let (events, tally) = read(setting(*source), &bytes);
            prop_assert_eq!(tally.read, tally.mapped + tally.unmapped + tally.bad);
            prop_assert_eq!(events.len() as u64, tally.mapped);
            facts_of_body(&setting(*source), &bytes);
        }
    }

    #[test]
    fn damaged_records_add_up(source in prop::sample::select(Source::ALL), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let content: &[u8] = match source {
            Source::Kumomta => include_bytes!("../../tests-data/foreign/kumomta.json"),
            Source::Powermta => include_bytes!("../../tests-data/foreign/powermta.csv"),
            Source::Postfix => include_bytes!("../../tests-data/foreign/postfix.log"),
            Source::Ses => include_bytes!("../../tests-data/foreign/ses.json"),
            Source::Sendgrid => include_bytes!("../../tests-data/foreign/sendgrid.json"),
            Source::Mailgun => include_bytes!("../../tests-data/foreign/mailgun.json"),
            Source::Postmark => include_bytes!("../../tests-data/foreign/postmark.json"),
            Source::Sparkpost => include_bytes!("../../tests-data/foreign/sparkpost.json"),
        };
        let mut content = content.to_vec();
        let place = at.index(content.len());
        content[place] = byte;
        let (events, tally) = read(setting(source), &content);
        prop_assert_eq!(tally.read, tally.mapped + tally.unmapped + tally.bad);
        prop_assert_eq!(events.len() as u64, tally.mapped);
    }
}

#[test]
fn a_recipient_that_is_no_address_is_bad_and_named_by_its_line() {
    let line = |to: &str| {
        let record =
            json!({"event": "delivered", "email": to, "timestamp": 1_795_340_000, "sg_event_id": to});
        format!("{record}\n")
    };
    let log: String =
        ["ann@a.test", "not-an-address", "@a.test", "ann@", "a b@c.test", "\"a b\"@c.test", "root@mx1"]
            .map(line)
            .concat();
    let (events, tally) = read(setting(Source::Sendgrid), log.as_bytes());
    let taken: Vec<&str> = events.iter().filter_map(|event| event.recipient.as_deref()).collect();
    assert_eq!(taken, ["ann@a.test", "\"a b\"@c.test", "root@mx1"]);
    let bad: Vec<u64> = tally.faults.iter().map(|fault| fault.line).collect();
    assert_eq!((tally.mapped, tally.bad, bad), (3, 4, vec![2, 3, 4, 5]));
    assert!(tally.faults[0].why.contains("not-an-address"), "{:?}", tally.faults);
}
