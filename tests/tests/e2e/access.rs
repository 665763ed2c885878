//! Who may do what: keys, scopes, suspended tenants, rates.

use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::peers::free_port;
use sendlake_tests::until;
use serde_json::Value;

use crate::message;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_open_what_their_scopes_say_until_they_are_revoked() {
    let home = Home::new().route("sink.test", format!("127.0.0.1:{}", free_port()));
    let server = home.start().await;
    let admin = server.admin_key();
    let key = home.tenant("acme", "acme.example");
    let globex = home.tenant("globex", "globex.example");
    let reader = home.key("acme", &["read"]);
    server.http.ready(&key, "acme.example").await;
    let body = message("bob@sink.test").to_string();
    let post = async |key: &str, headers: &[(&str, &str)]| {
        server.http.post("/v1/messages", key, headers, body.clone()).await
    };

    assert_eq!(post("", &[]).await.problem().1, "unauthenticated");
    let unknown = post("sl_aaaaaaaaaaaaaaaa_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", &[]).await;
    assert_eq!((unknown.status, unknown.problem().1.as_str()), (401, "unauthenticated"));
    assert_eq!(post(&reader, &[]).await.problem().1, "missing_scope");
    assert_eq!(post(&globex, &[]).await.problem().1, "domain_not_owned");
    assert_eq!(post(&globex, &[("sendlake-tenant", "acme")]).await.problem().1, "tenant_mismatch");
    assert_eq!(post(&admin, &[]).await.problem().1, "tenant_required");
    assert_eq!(post(&admin, &[("sendlake-tenant", "acme")]).await.status, 202);
    let sent = post(&key, &[]).await;
    let id = sent.json()["messages"][0]["message_id"].as_str().unwrap().to_owned();
    let history = format!("/v1/messages/{id}");
    assert_eq!(server.http.get(&history, &reader).await.status, 200);
    assert_eq!(server.http.get(&history, &globex).await.problem().1, "message_not_found");
    assert_eq!(server.http.sql(&reader, "SELECT 1").await.status, 403);

    home.ok(&["tenant", "suspend", "acme"]);
    until("the suspension to count", Duration::from_secs(10), async || {
        let answer = post(&key, &[]).await;
        (answer.status == 403 && answer.problem().1 == "tenant_suspended").then_some(())
    })
    .await;
    assert_eq!(server.http.get(&history, &key).await.status, 200, "a suspended tenant may still read");
    home.ok(&["tenant", "resume", "acme"]);
    until("the suspension to end", Duration::from_secs(10), async || {
        (post(&key, &[]).await.status == 202).then_some(())
    })
    .await;

    let keys: Value =
        serde_json::from_str(&home.ok(&["key", "ls", "--tenant", "acme", "--format", "json"])).unwrap();
    for entry in keys.as_array().unwrap() {
        home.ok(&["key", "revoke", entry["key_id"].as_str().unwrap()]);
    }
    until("the revocation to count", Duration::from_secs(10), async || {
        (post(&key, &[]).await.status == 401).then_some(())
    })
    .await;
    assert!(!home.ok(&["key", "ls"]).contains(&key), "a key's secret is shown once");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_above_its_rate_waits_and_others_do_not() {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("limits.rate_per_s", 1)
        .set("limits.rate_burst", 3);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    let other = home.tenant("globex", "globex.example");
    server.http.ready(&other, "globex.example").await;
    server.http.ready(&key, "acme.example").await;
    let mut answers = Vec::new();
    for _ in 0..6 {
        answers.push(server.http.post("/v1/messages", &key, &[], message("bob@sink.test").to_string()).await);
    }
    let limited = answers.iter().find(|answer| answer.status == 429).expect("six at once are too many");
    assert_eq!(limited.problem().1, "rate_limited");
    let wait: u64 = limited.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3).contains(&wait), "{wait}");
    let mut theirs = message("bob@sink.test");
    theirs["from"] = "ann@globex.example".into();
    server.http.send(&other, &theirs).await;
    tokio::time::sleep(Duration::from_secs(wait)).await;
    server.http.send(&key, &message("bob@sink.test")).await;
    server.stop().await;
}
