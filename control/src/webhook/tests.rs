//! What an operator, another sender and a thief of the database notice about webhooks.

use super::*;
use crate::store::tests::{acme, open_temporary};

fn settings() -> WebhookSettings {
    WebhookSettings {
        stream: Some("marketing".into()),
        signing_key: Some("not-in-the-files-7f3a".into()),
        ..WebhookSettings::default()
    }
}

#[tokio::test]
async fn a_token_opens_its_webhook_until_it_is_removed() {
    let (_dir, store) = open_temporary().await;
    store.create_tenant("cli", &acme(), "Acme").await.unwrap();
    let made = store.add_webhook("cli", &acme(), "mailgun", &settings()).await.unwrap();
    let found = store.webhook(&made.token).await.unwrap().unwrap();
    assert_eq!((found.tenant_id, found.source.as_str()), (acme(), "mailgun"));
    assert_eq!(found.settings, settings());
    assert_eq!(store.webhooks(Some(&acme())).await.unwrap().len(), 1);
    store.remove_webhook("cli", &made.webhook_id).await.unwrap();
    assert!(store.webhook(&made.token).await.unwrap().is_none());
    assert!(store.webhooks(None).await.unwrap().is_empty());
    assert!(store.remove_webhook("cli", &made.webhook_id).await.unwrap_err().is_missing());
}

#[tokio::test]
async fn what_is_not_a_token_opens_nothing() {
    let (_dir, store) = open_temporary().await;
    store.create_tenant("cli", &acme(), "Acme").await.unwrap();
    let made = store.add_webhook("cli", &acme(), "ses", &settings()).await.unwrap();
    let wrong_secret = format!("{}{}", made.webhook_id, "a".repeat(SECRET_LEN));
    let shouted = made.token.to_uppercase();
    for token in [
        "",
        "é",
        &made.webhook_id,
        &wrong_secret,
        &shouted,
        &format!("{}a", made.token),
        &"x".repeat(100_000),
    ] {
        assert!(store.webhook(token).await.unwrap().is_none(), "{}", token.len());
    }
}

#[tokio::test]
async fn neither_token_nor_settings_are_in_the_files() {
    let (dir, store) = open_temporary().await;
    store.create_tenant("cli", &acme(), "Acme").await.unwrap();
    let made = store.add_webhook("cli", &acme(), "mailgun", &settings()).await.unwrap();
    assert!(!format!("{made:?} {:?}", settings()).contains("7f3a"));
    let secret = made.token[ID_LEN..].to_owned();
    store.close().await;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for hidden in [secret.as_bytes(), b"not-in-the-files-7f3a"] {
            assert!(!bytes.windows(hidden.len()).any(|window| window == hidden));
        }
    }
}

#[tokio::test]
async fn a_tenant_that_is_not_there_gets_none() {
    let (_dir, store) = open_temporary().await;
    assert!(store.add_webhook("cli", &acme(), "ses", &settings()).await.unwrap_err().is_missing());
}
