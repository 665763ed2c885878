//! What SendGrid signs, what Mailgun signs, and passwords. Pure.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use axum::http::{HeaderMap, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use data_encoding::HEXLOWER_PERMISSIVE;
use sendlake_control::clock::Timestamp;
use sendlake_control::webhook::Webhook;
use serde_json::Value;

/// Names of SendGrid's headers: "Security features of the event webhook", twilio.com/docs/sendgrid.
const SENDGRID_SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const SENDGRID_TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";
/// SubjectPublicKeyInfo of a P-256 key (RFC 5480) up to the point: what differs between keys comes after it.
const P256_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01, 0x06, 0x08, 0x2A, 0x86,
    0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Mailgun repeats a push for eight hours: "Webhooks", documentation.mailgun.com.
const MAILGUN_AGE_S_MAX: i64 = 12 * 3_600;
/// SendGrid repeats a push for 24 hours ("Event Webhook", twilio.com/docs/sendgrid), and does not say whether it signs
/// each anew: twice that, so that no repeat is refused. Events that came before are dropped by their ids anyway.
const SENDGRID_AGE_S_MAX: i64 = 48 * 3_600;
/// How far the clock of a sender may be ahead of ours.
const AHEAD_S_MAX: i64 = 300;

/// Checks basic authentication (RFC 7617) where the webhook has a password.
pub(super) fn password(webhook: &Webhook, headers: &HeaderMap) -> Result<(), String> {
    let Some(known) = webhook.settings.basic.as_deref() else { return Ok(()) };
    let shown = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
        .and_then(|(_, text)| STANDARD.decode(text.trim()).ok())
        .ok_or("the webhook has a password; send it with basic authentication")?;
    let hash = |bytes: &[u8]| digest(&SHA256, bytes);
    verify_slices_are_equal(hash(&shown).as_ref(), hash(known.as_bytes()).as_ref())
        .map_err(|_| "the user or the password is wrong".to_owned())
}

/// Whether a text is a P-256 key in base64, as SendGrid shows it.
pub fn is_verification_key(public_key: &str) -> bool {
    p256_point(public_key).is_some()
}

fn p256_point(public_key: &str) -> Option<Vec<u8>> {
    let der = STANDARD.decode(public_key.split_whitespace().collect::<String>()).ok()?;
    let point = der.strip_prefix(&P256_PREFIX)?;
    (point.len() == 65 && point.first() == Some(&4)).then(|| point.to_vec())
}

/// Checks ECDSA over the timestamp and the body as it came, and that it was signed within the time of retries.
pub(super) fn sendgrid(
    webhook: &Webhook,
    headers: &HeaderMap,
    body: &[u8],
    now: Timestamp,
) -> Result<(), String> {
    // without a key the address alone is the proof
    let Some(public_key) = webhook.settings.public_key.as_deref() else { return Ok(()) };
    let point = p256_point(public_key).ok_or("the webhook's verification key is none")?;
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(signature), Some(timestamp)) = (header(SENDGRID_SIGNATURE), header(SENDGRID_TIMESTAMP)) else {
        return Err("it is not signed; switch the signed event webhook on at SendGrid".into());
    };
    let signature = STANDARD.decode(signature.trim()).map_err(|_| "its signature is not base64")?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &point)
        .verify(&[timestamp.as_bytes(), body].concat(), &signature)
        .map_err(|_| "its signature does not fit the webhook's verification key".to_owned())?;
    let at: i64 = timestamp.trim().parse().map_err(|_| "its timestamp is no number")?;
    let age_s = now.as_secs().saturating_sub(at);
    if !(-AHEAD_S_MAX..=SENDGRID_AGE_S_MAX).contains(&age_s) {
        return Err(format!("it was signed {age_s} seconds ago; pushes are taken for {SENDGRID_AGE_S_MAX}"));
    }
    Ok(())
}

/// By what a push of Mailgun is remembered: its token, and the token with what came under it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MailgunKeys {
    pub(super) token: Vec<u8>,
    pub(super) with_body: Vec<u8>,
}

/// Checks HMAC-SHA-256 over timestamp and token.
pub(super) fn mailgun(webhook: &Webhook, body: &[u8], now: Timestamp) -> Result<MailgunKeys, String> {
    let pushed: Value = serde_json::from_slice(body).map_err(|_| "it is not JSON")?;
    let part = |name: &str| {
        let found = pushed.pointer(&format!("/signature/{name}")).and_then(Value::as_str);
        found
            .filter(|text| !text.is_empty() && text.len() <= 256)
            .ok_or(format!("it has no signature.{name}"))
    };
    let (timestamp, token, signature) = (part("timestamp")?, part("token")?, part("signature")?);
    let Some(key) = webhook.settings.signing_key.as_deref() else {
        return Err("the webhook has no signing key".into());
    };
    let signature =
        HEXLOWER_PERMISSIVE.decode(signature.as_bytes()).map_err(|_| "its signature is not hexadecimal")?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    hmac::verify(&key, format!("{timestamp}{token}").as_bytes(), &signature)
        .map_err(|_| "its signature does not fit the webhook's signing key")?;
    let at: i64 = timestamp.parse().map_err(|_| "its timestamp is no number")?;
    let age_s = now.as_secs().saturating_sub(at);
    if !(-AHEAD_S_MAX..=MAILGUN_AGE_S_MAX).contains(&age_s) {
        return Err(format!("it was signed {age_s} seconds ago; pushes are taken for {MAILGUN_AGE_S_MAX}"));
    }
    let hash = |parts: &[&[u8]]| digest(&SHA256, &parts.concat()).as_ref().to_vec();
    let event = pushed.get("event-data").map(ToString::to_string).unwrap_or_default();
    Ok(MailgunKeys {
        token: [b"mg/".as_slice(), &hash(&[token.as_bytes()])].concat(),
        with_body: [b"mg+".as_slice(), &hash(&[token.as_bytes(), b"\0", event.as_bytes()])].concat(),
    })
}
