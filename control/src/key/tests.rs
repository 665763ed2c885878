//! What a holder, an operator and a thief of the database notice about keys.

use std::sync::Arc;

use super::*;
use crate::clock::ManualClock;
use crate::store::tests::{START, acme, open_temporary, open_temporary_at, reopen};

#[tokio::test]
async fn first_start_makes_one_key_for_everything_and_never_again() {
    let (_dir, store) = open_temporary().await;
    let key = store.first_start().await.unwrap().unwrap();
    let principal = store.authenticate(&key.secret).await.unwrap().unwrap();
    assert_eq!(principal.tenant, None);
    assert!(Scope::ALL.into_iter().all(|scope| principal.has(scope)));
    assert!(store.first_start().await.unwrap().is_none());
    store.revoke_key("cli", &key.key_id).await.unwrap();
    assert!(store.first_start().await.unwrap().is_none(), "a revoked key is not a first start");
}

#[tokio::test]
async fn key_proves_its_tenant_and_its_scopes_only() {
    let (_dir, store) = open_temporary().await;
    store.create_tenant("cli", &acme(), "Acme").await.unwrap();
    let key = store
        .create_key("cli", Some(&acme()), &[Scope::Read, Scope::Send, Scope::Read], "web shop")
        .await
        .unwrap();
    let principal = store.authenticate(&key.secret).await.unwrap().unwrap();
    assert_eq!(principal.tenant, Some(acme()));
    assert_eq!(principal.scopes, [Scope::Send, Scope::Read]);
    assert!(!principal.has(Scope::Admin));
}

#[tokio::test]
async fn secret_is_shown_once_and_is_nowhere_in_the_files() {
    let (dir, store) = open_temporary().await;
    let key = store.first_start().await.unwrap().unwrap();
    assert!(!format!("{key:?}").contains(&key.secret));
    let secret = key.secret.rsplit('_').next().unwrap().to_owned();
    assert_eq!(secret.len(), SECRET_LEN);
    store.close().await;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()));
    }
}

#[tokio::test]
async fn what_is_not_a_key_opens_nothing() {
    let (_dir, store) = open_temporary().await;
    let key = store.first_start().await.unwrap().unwrap();
    let last = key.secret.chars().last().unwrap();
    let other = if last == 'a' { 'b' } else { 'a' };
    let wrong_secret = format!("{}{other}", &key.secret[..key.secret.len() - 1]);
    let wrong_id = key.secret.replacen(&key.key_id, "aaaaaaaaaaaaaaaa", 1);
    let shouted = key.secret.to_uppercase();
    let long = format!("{}a", key.secret);
    for text in
        ["", "sl_", "sl__", "Bearer", "é", &wrong_secret, &wrong_id, &shouted, &long, &"x".repeat(100_000)]
    {
        assert_eq!(store.authenticate(text).await.unwrap(), None, "{text:.80}");
    }
    assert!(store.authenticate(&key.secret).await.unwrap().is_some());
    assert_eq!(store.authenticate(&wrong_secret).await.unwrap(), None, "also while the key is cached");
}

#[tokio::test]
async fn revoked_key_stops_here_at_once() {
    let (_dir, store) = open_temporary().await;
    let key = store.first_start().await.unwrap().unwrap();
    assert!(store.authenticate(&key.secret).await.unwrap().is_some());
    store.revoke_key("cli", &key.key_id).await.unwrap();
    assert_eq!(store.authenticate(&key.secret).await.unwrap(), None);
    let listed = &store.keys(None).await.unwrap()[0];
    assert_eq!(listed.revoked_at, Some(store.ids.now()));
    store.revoke_key("cli", &key.key_id).await.unwrap();
}

#[tokio::test]
async fn key_revoked_by_another_process_stops_within_five_seconds() {
    let clock = Arc::new(ManualClock::new(START));
    let (dir, server) = open_temporary_at(clock.clone()).await;
    let key = server.first_start().await.unwrap().unwrap();
    assert!(server.authenticate(&key.secret).await.unwrap().is_some());

    let command_line = reopen(&dir).await;
    command_line.revoke_key("cli", &key.key_id).await.unwrap();

    clock.advance_millis(4_999);
    assert!(server.authenticate(&key.secret).await.unwrap().is_some(), "the cached answer still holds");
    clock.advance_millis(1);
    assert_eq!(server.authenticate(&key.secret).await.unwrap(), None);
}

#[tokio::test]
async fn key_of_a_suspended_tenant_says_so() {
    let (_dir, store) = open_temporary().await;
    store.create_tenant("cli", &acme(), "Acme").await.unwrap();
    let key = store.create_key("cli", Some(&acme()), &[Scope::Send], "shop").await.unwrap();
    assert_eq!(store.authenticate(&key.secret).await.unwrap().unwrap().tenant_state, TenantState::Active);
    store.suspend_tenant("cli", &acme()).await.unwrap();
    assert_eq!(store.authenticate(&key.secret).await.unwrap().unwrap().tenant_state, TenantState::Suspended);
}

#[tokio::test]
async fn a_tenants_list_shows_its_own_keys_only() {
    let (_dir, store) = open_temporary().await;
    let admin = store.first_start().await.unwrap().unwrap();
    store.create_tenant("cli", &acme(), "Acme").await.unwrap();
    let shop = store.create_key("cli", Some(&acme()), &[Scope::Send], "shop").await.unwrap();
    let ids = |keys: Vec<ApiKey>| keys.into_iter().map(|key| key.key_id).collect::<Vec<_>>();
    assert_eq!(ids(store.keys(Some(&acme())).await.unwrap()), std::slice::from_ref(&shop.key_id));
    assert_eq!(ids(store.keys(Some(&TenantId::platform())).await.unwrap()), [""; 0]);
    let mut all = ids(store.keys(None).await.unwrap());
    all.sort();
    let mut both = [admin.key_id, shop.key_id];
    both.sort();
    assert_eq!(all, both);
}

#[tokio::test]
async fn keys_that_make_no_sense_are_refused() {
    let (_dir, store) = open_temporary().await;
    assert!(matches!(store.create_key("cli", None, &[], "x").await, Err(ControlError::NoScopes)));
    assert!(matches!(
        store.create_key("cli", Some(&acme()), &[Scope::Send], "x").await,
        Err(ControlError::NoSuchTenant { .. })
    ));
    assert!(matches!(store.revoke_key("cli", "nope").await, Err(ControlError::NoSuchKey { .. })));
    assert!("root".parse::<Scope>().unwrap_err().to_string().contains("send, read, sql or admin"));
}
