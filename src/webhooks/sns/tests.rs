//! Messages signed with OpenSSL as SNS signs them, and what somebody else makes of them.

use serde_json::{Value, json};

use super::*;

/// Half an hour after the messages were published.
pub(crate) const NOW: Timestamp = Timestamp(1_796_373_001_000_000);

/// Stands in for SNS: one certificate everywhere, and a list of what was asked.
#[derive(Default)]
pub(crate) struct StandIn {
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) is_away: bool,
    /// In the place of its certificate.
    pem: Option<String>,
}

const LEAF: &str = include_str!("../testdata/sns.pem");
const ROOT: &str = include_str!("../testdata/root.pem");

/// The root that has issued the stand-in's certificate.
pub(crate) fn roots() -> Vec<TrustAnchor<'static>> {
    let root = chain_in(ROOT.as_bytes()).remove(0);
    vec![webpki::anchor_from_trusted_cert(&root).unwrap().to_owned()]
}

#[async_trait]
impl Sns for StandIn {
    async fn get(&self, url: &Url, _bytes_max: usize) -> Result<Vec<u8>, String> {
        self.asked.lock().push(url.to_string());
        if self.is_away {
            return Err("no route".into());
        }
        Ok(self.pem.as_deref().unwrap_or(LEAF).as_bytes().to_vec())
    }
}

/// Of each kind one in each version of the signature.
pub(crate) fn messages() -> Vec<Value> {
    serde_json::from_str(include_str!("../testdata/sns.json")).unwrap()
}

async fn verified(message: &Value, sns: &Arc<StandIn>) -> Result<(), Refused> {
    let message = Message::read(message.to_string().as_bytes())?;
    Certificates::new(Arc::clone(sns) as Arc<dyn Sns>, roots()).verify(&message, NOW).await
}

async fn verified_at(pem: &str, roots: Vec<TrustAnchor<'static>>, now: Timestamp) -> Result<(), Refused> {
    let sns = Arc::new(StandIn { pem: Some(pem.into()), ..StandIn::default() });
    let message = Message::read(messages()[0].to_string().as_bytes())?;
    Certificates::new(sns, roots).verify(&message, now).await
}

#[tokio::test]
async fn old_messages_and_old_certificates_do_not_count() {
    for (age_s, counts) in [(-301, false), (-299, true), (0, true), (3_600, true), (3_601, false)] {
        let at = NOW.plus_secs(age_s - 1_800);
        assert_eq!(verified_at(LEAF, roots(), at).await.is_ok(), counts, "{age_s}");
    }
    for years in [-1, 20] {
        let refused = verified_at(LEAF, roots(), NOW.plus_secs(years * 31_557_600)).await.unwrap_err();
        assert!(matches!(refused, Refused::Certificate(_)), "{refused}");
    }
}

#[tokio::test]
async fn a_certificate_is_issued_by_somebody_whom_a_root_vouches_for() {
    let both = format!("{LEAF}{ROOT}");
    verified_at(&both, roots(), NOW).await.unwrap();
    let refused = verified_at(&both, public_roots(), NOW).await.unwrap_err();
    assert!(matches!(refused, Refused::Certificate(_)), "an issuer that nobody knows: {refused}");
    // a file without its issuers: its host vouches for it
    verified_at(LEAF, public_roots(), NOW).await.unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["evil.test".to_owned()]).unwrap().cert.pem();
    let refused = verified_at(&other, roots(), NOW).await.unwrap_err();
    assert!(matches!(refused, Refused::Certificate(_)), "in another name: {refused}");
    assert!(matches!(verified_at("no PEM", roots(), NOW).await, Err(Refused::Form(_))));
}

#[tokio::test]
async fn what_sns_signed_counts_in_both_versions() {
    let messages = messages();
    assert_eq!(messages.len(), 6);
    for message in messages {
        verified(&message, &Arc::default()).await.unwrap();
    }
}

#[tokio::test]
async fn any_change_of_what_is_signed_is_noticed() {
    for message in messages() {
        for name in ["Message", "MessageId", "Subject", "SubscribeURL", "Timestamp", "Token", "TopicArn"] {
            if message.get(name).is_none() {
                continue;
            }
            let mut changed = message.clone();
            changed[name] = json!(format!("{}x", message[name].as_str().unwrap()));
            assert!(matches!(verified(&changed, &Arc::default()).await, Err(Refused::Signature)), "{name}");
        }
        let mut other_version = message.clone();
        other_version["SignatureVersion"] = json!(if message["SignatureVersion"] == "1" { "2" } else { "1" });
        assert!(verified(&other_version, &Arc::default()).await.is_err());
        let mut unknown_version = message.clone();
        unknown_version["SignatureVersion"] = json!("3");
        assert!(matches!(verified(&unknown_version, &Arc::default()).await, Err(Refused::Form(_))));
    }
}

#[tokio::test]
async fn nobody_but_sns_is_asked_for_a_certificate() {
    let message = messages().remove(0);
    for url in [
        "http://sns.us-east-1.amazonaws.com/a.pem",
        "https://sns.us-east-1.amazonaws.com.evil.test/a.pem",
        "https://evil.test/sns.us-east-1.amazonaws.com/a.pem",
        "https://sns.us-east-1.amazonaws.com@evil.test/a.pem",
        "https://sns.us-east-1.amazonaws.com:8443/a.pem",
        "https://user@sns.us-east-1.amazonaws.com/a.pem",
        "https://sns..amazonaws.com/a.pem",
        "https://sns.a.b.amazonaws.com/a.pem",
        "https://s3.us-east-1.amazonaws.com/bucket/a.pem",
        "https://sns.us-east-1.amazonaws.com/a.pem?x=1",
        "https://sns.us-east-1.amazonaws.com/a.txt",
        "https://169.254.169.254/latest/meta-data/a.pem",
        "file:///etc/passwd",
        "",
    ] {
        let mut changed = message.clone();
        changed["SigningCertURL"] = json!(url);
        let sns = Arc::new(StandIn::default());
        assert!(matches!(verified(&changed, &sns).await, Err(Refused::Address(_))), "{url}");
        assert!(sns.asked.lock().is_empty(), "{url}");
    }
}

#[tokio::test]
async fn a_certificate_is_asked_for_once() {
    let sns = Arc::new(StandIn::default());
    let certificates = Certificates::new(Arc::clone(&sns) as Arc<dyn Sns>, roots());
    for message in messages() {
        certificates.verify(&Message::read(message.to_string().as_bytes()).unwrap(), NOW).await.unwrap();
    }
    assert_eq!(sns.asked.lock().len(), 1);
    let away = Arc::new(StandIn { is_away: true, ..StandIn::default() });
    assert!(matches!(verified(&messages()[0], &away).await, Err(Refused::Unavailable(_))));
}

#[tokio::test]
async fn a_subscription_is_confirmed_with_sns_and_nobody_else() {
    let mut message = messages().remove(2);
    let sns = Arc::new(StandIn::default());
    let certificates = Certificates::new(Arc::clone(&sns) as Arc<dyn Sns>, roots());
    certificates.confirm(&Message::read(message.to_string().as_bytes()).unwrap()).await.unwrap();
    assert_eq!(*sns.asked.lock(), [message["SubscribeURL"].as_str().unwrap()]);
    for url in [
        "https://evil.test/?Action=ConfirmSubscription",
        "https://sns.us-west-2.amazonaws.com/?Action=DeleteTopic",
    ] {
        message["SubscribeURL"] = json!(url);
        let read = Message::read(message.to_string().as_bytes()).unwrap();
        assert!(matches!(certificates.confirm(&read).await, Err(Refused::Address(_))), "{url}");
    }
    assert_eq!(sns.asked.lock().len(), 1);
}

#[test]
fn what_is_no_message_is_told_so() {
    for body in ["", "{}", "[]", "{\"Type\":\"Notification\"}", "null"] {
        assert!(matches!(Message::read(body.as_bytes()), Err(Refused::Form(_))), "{body}");
    }
}
