//! Proofs of pushes: SendGrid's own test vector, HMAC and passwords, and what does not count.

use std::sync::Arc;

use aws_lc_rs::hmac;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode};
use sendlake_control::clock::{ManualClock, Timestamp};
use sendlake_control::id::{Ids, TenantId};
use sendlake_control::webhook::{Webhook, WebhookSettings};
use sendlake_ingest::event::{Event, EventType};
use serde_json::json;
use tower::ServiceExt;

use super::Webhooks;
use super::signed::{self, is_verification_key};
use super::sns::tests::{NOW as PUBLISHED, StandIn, messages, roots};
use super::sns::{Certificates, Sns};
use crate::config::Config;
use crate::node::Node;
use crate::system;

fn webhook(source: &str, settings: WebhookSettings) -> Webhook {
    Webhook {
        webhook_id: "id".into(),
        tenant_id: TenantId::new("acme").unwrap(),
        source: source.into(),
        settings,
        created_at: Timestamp::from_secs(0),
        created_by: "cli".into(),
    }
}

/// From the tests of SendGrid's own library (sendgrid-python, test/unit/test_eventwebhook.py).
const PUBLIC_KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==";
const SIGNATURE: &str =
    "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=";
const BODY: &str = "[{\"email\":\"hello@world.com\",\"event\":\"dropped\",\"reason\":\"Bounced Address\",\"sg_event_id\":\"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA\",\"sg_message_id\":\"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0\",\"smtp-id\":\"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>\",\"timestamp\":1600112492}]\r\n";

fn sendgrid(signature: &str, timestamp: &str, body: &str) -> Result<(), String> {
    sendgrid_at(signature, timestamp, body, Timestamp::from_secs(1_600_112_502))
}

fn sendgrid_at(signature: &str, timestamp: &str, body: &str, now: Timestamp) -> Result<(), String> {
    let settings = WebhookSettings { public_key: Some(PUBLIC_KEY.into()), ..WebhookSettings::default() };
    let mut headers = HeaderMap::new();
    headers.insert("X-Twilio-Email-Event-Webhook-Signature", HeaderValue::from_str(signature).unwrap());
    headers.insert("X-Twilio-Email-Event-Webhook-Timestamp", HeaderValue::from_str(timestamp).unwrap());
    signed::sendgrid(&webhook("sendgrid", settings), &headers, body.as_bytes(), now)
}

#[test]
fn what_sendgrid_signed_counts_and_nothing_else() {
    sendgrid(SIGNATURE, "1600112502", BODY).unwrap();
    assert!(sendgrid(SIGNATURE, "1600112503", BODY).is_err());
    assert!(sendgrid(SIGNATURE, "1600112502", BODY.trim_end()).is_err());
    assert!(sendgrid("AAAA", "1600112502", BODY).is_err());
    assert!(sendgrid("not base64", "1600112502", BODY).is_err());
    let settings = WebhookSettings { public_key: Some(PUBLIC_KEY.into()), ..WebhookSettings::default() };
    let unsigned = signed::sendgrid(&webhook("sendgrid", settings), &HeaderMap::new(), BODY.as_bytes(), NOW);
    assert!(unsigned.unwrap_err().contains("not signed"));
    for (hours, is_taken) in [(47, true), (49, false), (-1, false)] {
        let now = Timestamp::from_secs(1_600_112_502 + hours * 3_600);
        let taken = sendgrid_at(SIGNATURE, "1600112502", BODY, now);
        assert_eq!(taken.is_ok(), is_taken, "{hours}: {taken:?}");
        assert!(is_taken || taken.unwrap_err().contains("seconds ago"));
    }
}

#[test]
fn a_verification_key_is_one_of_p256() {
    assert!(is_verification_key(PUBLIC_KEY));
    assert!(is_verification_key(&format!("  {}\n{}", &PUBLIC_KEY[..60], &PUBLIC_KEY[60..])));
    for key in ["", "AAAA", "MFkw", &PUBLIC_KEY[..100], &PUBLIC_KEY.replace("MFkw", "MFgw")] {
        assert!(!is_verification_key(key), "{key}");
    }
}

const NOW: Timestamp = Timestamp(1_795_348_800_000_000);

fn pushed(timestamp: i64, token: &str, id: &str, key: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let signature = hmac::sign(&key, format!("{timestamp}{token}").as_bytes());
    let signature: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "signature": { "timestamp": timestamp.to_string(), "token": token, "signature": signature },
        "event-data": { "event": "delivered", "id": id },
    })
    .to_string()
    .into_bytes()
}

#[test]
fn what_mailgun_signed_counts_within_its_time() {
    let settings = WebhookSettings { signing_key: Some("key-1".into()), ..WebhookSettings::default() };
    let webhook = webhook("mailgun", settings);
    let now = NOW.as_secs();
    let first = signed::mailgun(&webhook, &pushed(now, "t1", "a", "key-1"), NOW).unwrap();
    let again = signed::mailgun(&webhook, &pushed(now, "t1", "a", "key-1"), NOW).unwrap();
    assert_eq!(first, again);
    let reused = signed::mailgun(&webhook, &pushed(now, "t1", "b", "key-1"), NOW).unwrap();
    assert!(reused.token == first.token && reused.with_body != first.with_body);
    for (body, why) in [
        (pushed(now, "t1", "a", "key-2"), "does not fit"),
        (pushed(now - 13 * 3_600, "t1", "a", "key-1"), "seconds ago"),
        (pushed(now + 3_600, "t1", "a", "key-1"), "seconds ago"),
        (b"{}".to_vec(), "no signature.timestamp"),
        (b"x".to_vec(), "not JSON"),
    ] {
        let refused = signed::mailgun(&webhook, &body, NOW).unwrap_err();
        assert!(refused.contains(why), "{refused}");
    }
}

#[test]
fn a_password_is_asked_for_where_there_is_one() {
    let with = webhook(
        "postmark",
        WebhookSettings { basic: Some("pm:geheim".into()), ..WebhookSettings::default() },
    );
    let header = |value: &str| {
        HeaderMap::from_iter([(axum::http::header::AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    };
    // pm:geheim
    signed::password(&with, &header("Basic cG06Z2VoZWlt")).unwrap();
    for shown in ["Basic cG06Z2VoZWlu", "Bearer cG06Z2VoZWlt", "Basic", "Basic !"] {
        assert!(signed::password(&with, &header(shown)).is_err(), "{shown}");
    }
    assert!(signed::password(&with, &HeaderMap::new()).is_err());
    signed::password(&webhook("postmark", WebhookSettings::default()), &HeaderMap::new()).unwrap();
}

/// A node with a webhook for SES, and SNS's stand-in behind it.
struct Ses {
    _dir: tempfile::TempDir,
    node: Node,
    sns: Arc<StandIn>,
    routes: axum::Router,
    path: String,
}

impl Ses {
    async fn new(topic: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.dir = dir.path().join("data");
        let node = Node::open(config, system::ids()).await.unwrap();
        let acme = TenantId::new("acme").unwrap();
        node.control.create_tenant("cli", &acme, "Acme").await.unwrap();
        let settings = WebhookSettings { topic_arn: Some(topic.into()), ..WebhookSettings::default() };
        let made = node.control.add_webhook("cli", &acme, "ses", &settings).await.unwrap();
        let sns = Arc::new(StandIn::default());
        let routes = super::routes(Arc::new(Webhooks {
            control: node.control.clone(),
            hearing: node.hearing.clone(),
            certificates: Certificates::new(Arc::clone(&sns) as Arc<dyn Sns>, roots()),
            ids: Ids { clock: Arc::new(ManualClock::new(PUBLISHED)), ..node.ids.clone() },
        }));
        let path = format!("/v1/webhooks/ses/{}", made.token);
        Self { _dir: dir, node, sns, routes, path }
    }

    async fn push(&self, body: String) -> StatusCode {
        let request = Request::post(&self.path).body(Body::from(body)).unwrap();
        self.routes.clone().oneshot(request).await.unwrap().status()
    }

    fn logged(&self) -> Vec<Event> {
        let rows = self.node.spool.reader().events(0, 1_000).unwrap();
        rows.into_iter().map(|row| row.event).filter(|event| event.ip_pool.is_some()).collect()
    }
}

#[tokio::test]
async fn a_topic_is_subscribed_to_and_its_events_are_recorded_once() {
    let ses = Ses::new("arn:aws:sns:us-west-2:123456789012:feedback").await;
    for message in messages() {
        assert_eq!(ses.push(message.to_string()).await, StatusCode::OK, "{message}");
    }
    let asked = ses.sns.asked.lock().clone();
    let confirmed = asked.iter().filter(|url| url.contains("Action=ConfirmSubscription")).count();
    assert_eq!((asked.len(), confirmed), (3, 2), "one certificate, two confirmations: {asked:?}");
    let logged = ses.logged();
    assert_eq!(logged.len(), 1, "the complaint came twice");
    assert_eq!(
        (logged[0].event_type, logged[0].recipient.as_deref()),
        (EventType::Complained, Some("eve@yahoo.com"))
    );
    let mut forged = messages().remove(0);
    forged["Message"] = json!("{\"eventType\":\"Complaint\"}");
    assert_eq!(ses.push(forged.to_string()).await, StatusCode::FORBIDDEN);
    assert_eq!(ses.push("no json".into()).await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_topic_of_somebody_else_is_neither_believed_nor_confirmed() {
    let ses = Ses::new("arn:aws:sns:us-west-2:123456789012:other").await;
    for message in messages() {
        assert_eq!(ses.push(message.to_string()).await, StatusCode::FORBIDDEN);
    }
    assert!(ses.sns.asked.lock().is_empty() && ses.logged().is_empty());
}

#[tokio::test]
async fn a_push_that_ends_too_early_is_asked_for_again() {
    let ses = Ses::new("arn:aws:sns:us-west-2:123456789012:feedback").await;
    let acme = TenantId::new("acme").unwrap();
    let made =
        ses.node.control.add_webhook("cli", &acme, "sendgrid", &WebhookSettings::default()).await.unwrap();
    let path = format!("/v1/webhooks/sendgrid/{}", made.token);
    let event = |number: u32| {
        json!({ "event": "bounce", "email": "ann@a.test", "timestamp": 1_600_112_492, "status": "5.1.1",
            "sg_event_id": format!("e{number}"), "reason": "no such user" })
        .to_string()
    };
    let push = async |body: String| {
        let request = Request::post(&path).body(Body::from(body)).unwrap();
        ses.routes.clone().oneshot(request).await.unwrap().status()
    };
    let whole = format!("[{},\n{}]", event(1), event(2));
    for cut in [whole.len() - 1, whole.len() - 9, event(1).len() + 2, 9, 1] {
        assert_eq!(push(whole[..cut].to_owned()).await, StatusCode::BAD_REQUEST, "{cut}");
    }
    assert_eq!(push(whole).await, StatusCode::OK);
    assert_eq!(ses.logged().len(), 2, "each once");
    assert_eq!(push("[]".into()).await, StatusCode::OK);
}
