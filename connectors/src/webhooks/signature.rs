//! The signature of Standard Webhooks 1.0 ("Signature scheme", symmetric): `v1,<base64 of HMAC-SHA-256>` over
//! `<id>.<timestamp>.<body>`, once for every secret that is in force, with a space between.

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use sendlake_control::clock::Timestamp;
use sendlake_control::endpoint::SigningSecret;

/// The header `webhook-signature`; `timestamp_s` is what `webhook-timestamp` says.
pub fn sign(secrets: &[SigningSecret], now: Timestamp, id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let signatures = secrets.iter().filter(|secret| secret.is_active(now)).map(|secret| {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &secret.key()));
        context.update(format!("{id}.{timestamp_s}.").as_bytes());
        context.update(body);
        format!("v1,{}", BASE64.encode(context.sign().as_ref()))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example that the specification's libraries are tested with.
    #[test]
    fn the_example_of_the_specification_comes_out() {
        let key = BASE64.decode(b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let secret = SigningSecret::of_key(&key, Timestamp(0));
        assert_eq!(secret.text().as_str(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
        let body = br#"{"test": 2432232314}"#;
        let signed = sign(
            std::slice::from_ref(&secret),
            Timestamp(0),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            body,
        );
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        let two = sign(&[secret.clone(), secret], Timestamp(0), "x", 1, body);
        assert_eq!(two.split(' ').count(), 2);
    }
}
