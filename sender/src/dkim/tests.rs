//! Signatures checked with mail-auth's verifier, and the canonical forms of RFC 6376.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator, Parameters, ResolverCache, Txt};
use proptest::prelude::*;

use super::*;

const NOW: Timestamp = Timestamp(1_700_000_000_000_000);

/// One published key, for every name that is asked.
struct Published(Arc<DomainKey>);

impl ResolverCache<Box<str>, Txt> for Published {
    fn get<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        Some(Txt::DomainKey(self.0.clone()))
    }

    fn remove<Q>(&self, _: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        None
    }

    fn insert(&self, _: Box<str>, _: Txt, _: std::time::Instant) {}
}

fn signer() -> (Signer, Published) {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let pkcs8 = AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&pair).unwrap();
    let public = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key()).unwrap();
    let record = format!("v=DKIM1; k=rsa; p={}", BASE64.encode(public.as_ref()));
    let signer = Signer::from_pkcs8("example.com", "s1", pkcs8.as_ref()).unwrap();
    (signer, Published(Arc::new(DomainKey::parse(record.as_bytes()).unwrap())))
}

async fn passes(message: &[u8], published: &Published) -> bool {
    let message = AuthenticatedMessage::parse(message).unwrap();
    let authenticator = MessageAuthenticator::new_cloudflare().unwrap();
    let parameters = Parameters::new(&message).with_txt_cache(published);
    let results = authenticator.verify_dkim(parameters).await;
    !results.is_empty() && results.iter().all(|result| *result.result() == DkimResult::Pass)
}

const HEADERS: &[u8] = b"From: Some \t One <a@example.com>\r\nTo: b@example.net\r\n\
    Subject: a long subject,\r\n\tfolded  here \r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\
    X-Other: not signed\r\nMIME-Version: 1.0\r\n";
const OWN: &[u8] = b"Message-ID: <x@example.com>\r\nFeedback-ID: a:b:c:sendlake\r\n";

fn signed(signer: &Signer, body: &[u8]) -> Vec<u8> {
    let field = signer.sign(&[OWN, HEADERS], &BodyHash::relaxed(body), NOW).unwrap();
    [&field, OWN, HEADERS, b"\r\n", body].concat()
}

#[tokio::test]
async fn verifier_accepts_what_was_signed_and_nothing_else() {
    let (signer, published) = signer();
    for body in ["", "Hello\r\n", "a  b\t c \r\n\r\nend\r\n\r\n\r\n", "no line end"] {
        let message = signed(&signer, body.as_bytes());
        assert!(passes(&message, &published).await, "{body:?}");
    }
    let message = String::from_utf8(signed(&signer, b"Hello\r\n")).unwrap();
    for (from, to) in [
        ("Hello", "Jello"),
        ("b@example.net", "c@example.net"),
        ("\r\nTo:", "\r\nFrom: evil@example.org\r\nTo:"),
        ("\r\nTo:", "\r\nSubject: another\r\nTo:"),
        ("\r\nTo:", "\r\nReply-To: evil@example.org\r\nTo:"),
        ("\r\nTo:", "\r\nContent-Type: text/html\r\nTo:"),
        ("a:b:c:sendlake", "a:b:d:sendlake"),
    ] {
        assert!(message.contains(from));
        assert!(!passes(message.replace(from, to).as_bytes(), &published).await, "{from} -> {to}");
    }
    let harmless = message.replace("not signed", "changed").replace("Some \t One", "Some One");
    assert!(passes(harmless.as_bytes(), &published).await);
}

#[tokio::test]
async fn a_list_may_add_its_own_way_out_but_not_replace_ours() {
    let (signer, published) = signer();
    let other = b"List-Unsubscribe: <https://other.example.org/>\r\n";
    let message = signed(&signer, b"Hello\r\n");
    assert!(passes(&[other, &message[..]].concat(), &published).await);

    let ours = b"List-Unsubscribe: <https://mail.example.com/u/x>\r\n";
    let field = signer.sign(&[ours, HEADERS], &BodyHash::relaxed(b"Hello\r\n"), NOW).unwrap();
    let message = [&field, &ours[..], HEADERS, b"\r\nHello\r\n"].concat();
    assert!(passes(&message, &published).await);
    assert!(!passes(&[other, &message[..]].concat(), &published).await);
}

#[tokio::test]
async fn two_signatures_share_one_body_hash() {
    let (tenant, published) = signer();
    let platform = Signer { domain: "platform.example".into(), selector: "p".into(), key: signer().0.key };
    let body = b"Hello\r\n";
    let hash = BodyHash::relaxed(body);
    let first = tenant.sign(&[HEADERS], &hash, NOW).unwrap();
    let second = platform.sign(&[HEADERS], &hash, NOW).unwrap();
    let text = String::from_utf8(first.clone()).unwrap();
    assert!(text.starts_with("DKIM-Signature: v=1; a=rsa-sha256; s=s1; d=example.com; c=relaxed/relaxed;"));
    assert!(
        text.replace("\r\n\t", "").contains("h=From:From:To:To:Cc:Subject:Subject:Date:Date:Message-ID:"),
        "{text}"
    );
    assert!(text.split("\r\n").all(|line| line.len() <= 78), "{text}");
    assert!(text.replace("\r\n\t", "").contains(std::str::from_utf8(&hash.0).unwrap()), "{text}");
    assert_ne!(first, second);
    assert!(passes(&[&first, HEADERS, b"\r\n", body.as_slice()].concat(), &published).await);
}

#[test]
fn body_forms_of_rfc_6376() {
    for (body, canonical) in [
        (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"),
        ("", ""),
        ("\r\n", ""),
        ("\r\n\r\n", ""),
        // White space goes first, so these lines are empty too.
        ("abc\r\n \r\n\t\r\n", "abc\r\n"),
        (" \r\n", ""),
        ("abc", "abc\r\n"),
        ("\r\n\r\nabc\r\n", "\r\n\r\nabc\r\n"),
        ("a \t \tb\r\n", "a b\r\n"),
        ("\ta\r\n", " a\r\n"),
    ] {
        let made = String::from_utf8(relaxed_body(body.as_bytes())).unwrap();
        assert_eq!(made, canonical, "{body:?}");
    }
    assert_eq!(BodyHash::relaxed(b"").0, b"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
}

#[test]
fn what_cannot_be_signed_says_why() {
    let (signer, _) = signer();
    let hash = BodyHash::relaxed(b"");
    assert!(matches!(signer.sign(&[b"To: b@example.net\r\n"], &hash, NOW), Err(DkimError::NoFrom)));
    let bad = Signer::from_pkcs8("example.com", "s1", b"not a key").unwrap_err().to_string();
    assert!(bad.contains("s1._domainkey.example.com"), "{bad}");
    assert_eq!(format!("{signer:?}"), "Signer(s1._domainkey.example.com)");
}

proptest! {
    #[test]
    fn canonical_body_is_stable(body in "([ab \t]{0,6}\r\n){0,8}[ab \t]{0,3}") {
        let once = relaxed_body(body.as_bytes());
        prop_assert_eq!(&relaxed_body(&once), &once);
        prop_assert!(once.is_empty() || once.ends_with(b"\r\n"));
        prop_assert!(!once.ends_with(b"\r\n\r\n"));
        prop_assert!(!once.windows(2).any(|pair| pair == b"  " || pair == b" \r"));
    }
}
