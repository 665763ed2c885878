//! Proofs of pushes: SendGrid's own test vector, HMAC and passwords, and what does not count.

use aws_lc_rs::hmac;
use axum::http::{HeaderMap, HeaderValue};
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_control::webhook::{Webhook, WebhookSettings};
use serde_json::json;

use super::signed::{self, is_verification_key};

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
    let settings = WebhookSettings { public_key: Some(PUBLIC_KEY.into()), ..WebhookSettings::default() };
    let mut headers = HeaderMap::new();
    headers.insert("X-Twilio-Email-Event-Webhook-Signature", HeaderValue::from_str(signature).unwrap());
    headers.insert("X-Twilio-Email-Event-Webhook-Timestamp", HeaderValue::from_str(timestamp).unwrap());
    signed::sendgrid(&webhook("sendgrid", settings), &headers, body.as_bytes())
}

#[test]
fn what_sendgrid_signed_counts_and_nothing_else() {
    sendgrid(SIGNATURE, "1600112502", BODY).unwrap();
    assert!(sendgrid(SIGNATURE, "1600112503", BODY).is_err());
    assert!(sendgrid(SIGNATURE, "1600112502", BODY.trim_end()).is_err());
    assert!(sendgrid("AAAA", "1600112502", BODY).is_err());
    assert!(sendgrid("not base64", "1600112502", BODY).is_err());
    let settings = WebhookSettings { public_key: Some(PUBLIC_KEY.into()), ..WebhookSettings::default() };
    let unsigned = signed::sendgrid(&webhook("sendgrid", settings), &HeaderMap::new(), BODY.as_bytes());
    assert!(unsigned.unwrap_err().contains("not signed"));
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
