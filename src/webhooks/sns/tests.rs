//! Messages signed with OpenSSL as SNS signs them, and what somebody else makes of them.

use serde_json::{Value, json};

use super::*;

/// Stands in for SNS: one certificate everywhere, and a list of what was asked.
#[derive(Default)]
pub(crate) struct StandIn {
    pub(crate) asked: Mutex<Vec<String>>,
    pub(crate) is_away: bool,
}

#[async_trait]
impl Sns for StandIn {
    async fn get(&self, url: &Url, _bytes_max: usize) -> Result<Vec<u8>, String> {
        self.asked.lock().push(url.to_string());
        if self.is_away { Err("no route".into()) } else { Ok(include_bytes!("../testdata/sns.pem").to_vec()) }
    }
}

/// Of each kind one in each version of the signature.
pub(crate) fn messages() -> Vec<Value> {
    serde_json::from_str(include_str!("../testdata/sns.json")).unwrap()
}

async fn verified(message: &Value, sns: &Arc<StandIn>) -> Result<(), Refused> {
    let message = Message::read(message.to_string().as_bytes())?;
    Certificates::new(Arc::clone(sns) as Arc<dyn Sns>).verify(&message).await
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
    let certificates = Certificates::new(Arc::clone(&sns) as Arc<dyn Sns>);
    for message in messages() {
        certificates.verify(&Message::read(message.to_string().as_bytes()).unwrap()).await.unwrap();
    }
    assert_eq!(sns.asked.lock().len(), 1);
    let away = Arc::new(StandIn { is_away: true, ..StandIn::default() });
    assert!(matches!(verified(&messages()[0], &away).await, Err(Refused::Unavailable(_))));
}

#[tokio::test]
async fn a_subscription_is_confirmed_with_sns_and_nobody_else() {
    let mut message = messages().remove(2);
    let sns = Arc::new(StandIn::default());
    let certificates = Certificates::new(Arc::clone(&sns) as Arc<dyn Sns>);
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
