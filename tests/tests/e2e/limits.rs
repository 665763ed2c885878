//! Limits: published into the lake's table, obeyed by the sender, through kill -9, staleness and suppression.

use std::time::Duration;

use sendlake::demo::receivers::{Keep, Profile, Receiver};
use sendlake_ingest::quotas::{QuotaRow, QuotasTable};
use sendlake_ingest::store::open_store;
use sendlake_tests::home::Home;
use sendlake_tests::http::Http;
use sendlake_tests::until;
use serde_json::json;

use crate::message_with;

const PATIENCE: Duration = Duration::from_secs(60);

/// Obeys limits, and leaves it to the test to publish them.
fn home(sink: &Receiver) -> Home {
    Home::new()
        .route("sink.test", sink.addr())
        .set("policy.enforce", true)
        .set("policy.publish_interval_s", 0)
        .set("delivery.sessions_per_site_max", 2)
}

fn sink(reply_delay: Duration) -> Receiver {
    let clock = sendlake::system::ids().clock;
    let profile = Profile { reply_delay, slow_delay: Duration::ZERO, ..Profile::accept_all() };
    Receiver::start(profile.record(Keep::Digest, clock), 1).unwrap()
}

/// Publishes one row for acme.example, good for so long.
async fn publish(home: &Home, limit: Option<i64>, good_for_s: i64) -> u64 {
    let now = sendlake::system::ids().now();
    let row = QuotaRow {
        tenant_id: "acme".into(),
        stream: "*".into(),
        identity_kind: "sending_domain".into(),
        identity: "acme.example".into(),
        provider: "*".into(),
        window_s: 86_400,
        limit_messages: limit,
        state: if limit.is_some() { "warming" } else { "normal" }.into(),
        reason: "published by a test".into(),
        inputs: "{}".into(),
        view_version: "1".into(),
        as_of: now,
        valid_until: now.plus_secs(good_for_s),
    };
    let store = open_store(home.data().join("lake").to_str().unwrap(), &Default::default()).unwrap();
    QuotasTable::open(&store).await.unwrap().publish(&[row]).await.unwrap()
}

async fn send(http: &Http, key: &str, stream: &str, recipients: impl Iterator<Item = String>) -> Vec<String> {
    let recipients: Vec<String> = recipients.collect();
    let message = message_with("", json!({"to": recipients, "stream": stream}));
    http.send(key, &message).await
}

fn numbered(count: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    count.map(|n| format!("bob{n}@sink.test"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quota_of_500_lets_out_500_through_two_kills_and_a_restart() {
    let sink = sink(Duration::from_millis(4));
    let taken = || sink.stats().accepted;
    let home = home(&sink);
    publish(&home, Some(500), 86_400).await; // in force from the first message on
    let mut server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    send(&server.http, &key, "marketing", numbered(0..1_000)).await;
    send(&server.http, &key, "marketing", numbered(1_000..1_200)).await;
    for at in [120, 330] {
        until("some mail to leave", PATIENCE, async || (taken() >= at).then_some(())).await;
        server.kill();
        server = home.start().await;
    }
    let counted = "SELECT count(*) AS n FROM events WHERE event_type = 'held'";
    let in_doubt = "SELECT count(*) AS n FROM events WHERE event_type = 'attempt_in_doubt'";
    // 500 first attempts, of which those in doubt count twice: whether the receiver took them nobody knows
    let in_doubt = home.count(in_doubt);
    let waiting = 700 + in_doubt;
    until("the rest to be held", PATIENCE, async || (home.count(counted) >= waiting).then_some(())).await;
    until("the quota to be used up", PATIENCE, async || {
        let left = home.ok(&["queue", "ls", "--limit", "2000", "--format", "json"]);
        let left: serde_json::Value = serde_json::from_str(&left).unwrap();
        left.as_array().unwrap().iter().all(|row| row["state"] == "held").then_some(())
    })
    .await;
    server.stop().await;
    let server = home.start().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(taken() <= 500 && taken() + in_doubt >= 500, "{} taken, {in_doubt} in doubt", taken());
    let held = &home.sql(
        "SELECT hold_reason, policy_id, quota_version, detail FROM events WHERE event_type = 'held' LIMIT 1",
    )[0];
    let reason = held["hold_reason"].as_str().unwrap();
    assert!(
        reason.starts_with(
            "warming: acme.example has used 500 of 500 messages to all providers today (UTC); the next"
        ) && reason.ends_with("published by a test"),
        "{reason}"
    );
    assert_eq!((&held["policy_id"], &held["quota_version"]), (&json!("warmup"), &json!(1)));

    // twice the room: as much again leaves, the oldest first, and no message was held or let go twice
    publish(&home, Some(1_000), 86_400).await;
    until("500 more to leave", PATIENCE, async || (taken() + in_doubt >= 1_000).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(taken() <= 1_000, "{}", taken());
    let released = "SELECT count(*) AS n FROM events WHERE event_type = 'released'";
    assert_eq!(home.count(released), 500, "no more than there is room for");
    publish(&home, None, 86_400).await;
    until("everything to leave", PATIENCE, async || {
        (home.count("SELECT count(*) AS n FROM outcomes WHERE outcome = 'delivered'") == 1_200).then_some(())
    })
    .await;
    assert_eq!(home.count(released), home.count(counted));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_good_limits_marketing_waits_and_transactional_flows() {
    let sink = sink(Duration::ZERO);
    let home = home(&sink);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let pair = async |n: usize, reason: &str| {
        let bulk = send(&server.http, &key, "marketing", numbered(n..n + 1)).await.remove(0);
        let receipt = send(&server.http, &key, "transactional", numbered(n + 1..n + 2)).await.remove(0);
        server.http.outcome(&key, &receipt, "delivered").await;
        let history = server.http.outcome(&key, &bulk, "held").await;
        let held = history["events"].as_array().unwrap().last().unwrap().clone();
        assert!(held["hold_reason"].as_str().unwrap().starts_with(reason), "{held}");
        bulk
    };
    let missing = pair(0, "missing limits: no limits have been published yet").await;
    publish(&home, Some(0), 600).await;
    until("the reason to change", PATIENCE, async || {
        let history = server.http.history(&key, &missing).await;
        let reasons = crate::events(&history, "policy_id").last().cloned().cloned();
        (reasons == Some(json!("warmup"))).then_some(())
    })
    .await;
    publish(&home, None, 2).await;
    let history = server.http.outcome(&key, &missing, "delivered").await;
    let kinds = crate::events(&history, "event_type");
    assert_eq!(
        kinds,
        ["accepted", "held", "held", "released", "delivered"],
        "told again only as the reason changed"
    );

    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let stale = pair(10, "stale limits: version 2 was good until").await;
    let shown = home.ok(&["queue", "show", &stale, "--format", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown[0]["state"], "held");
    assert!(shown[0]["hold_reason"].as_str().unwrap().starts_with("stale limits"), "{shown}");
    publish(&home, None, 600).await;
    server.http.outcome(&key, &stale, "delivered").await;

    home.ok(&["domain", "add", "--tenant", "acme", "new.example"]);
    let from_new = message_with("bob@sink.test", json!({"from": "ann@new.example", "stream": "marketing"}));
    let id = server.http.send(&key, &from_new).await.remove(0);
    let history = server.http.outcome(&key, &id, "held").await;
    let reason = history["events"][1]["hold_reason"].as_str().unwrap();
    assert!(reason.starts_with("not judged yet: new.example"), "{reason}");
    home.ok(&["queue", "bounce", "--message-id", &id, "--reason", "a test"]);
    server.http.outcome(&key, &id, "bounced").await;
    assert!(!server.log().contains("panicked"), "{}", server.log());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_1000_held_messages_to_someone_who_unsubscribed_none_leaves() {
    let sink = sink(Duration::ZERO);
    let home = home(&sink);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let message = message_with("bob@sink.test", json!({"stream": "marketing"}));
    for _ in 0..2 {
        let batch = json!({"messages": vec![&message; 500]}).to_string();
        let answer = server.http.post("/v1/messages/batch", &key, &[], batch).await;
        assert!(answer.status < 300, "{}", answer.text());
    }
    let held = "SELECT count(*) AS n FROM events WHERE event_type = 'held'";
    until("all of it to be held", PATIENCE, async || (home.count(held) == 1_000).then_some(())).await;
    home.ok(&["suppression", "add", "bob@sink.test", "--tenant", "acme", "--reason", "unsubscribe"]);
    publish(&home, None, 600).await;
    let suppressed =
        "SELECT count(*) AS n FROM events WHERE event_type = 'suppressed' AND policy_id = 'suppression'";
    until("all of it to be given up", PATIENCE, async || (home.count(suppressed) == 1_000).then_some(()))
        .await;
    let receipt = message_with("bob@sink.test", json!({"stream": "transactional"}));
    let id = server.http.send(&key, &receipt).await.remove(0);
    server.http.outcome(&key, &id, "delivered").await;
    assert_eq!(sink.stats().accepted, 1, "the receipt, and nothing else");
    assert_eq!(home.ok(&["queue", "ls", "--format", "json"]).trim(), "[]");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_too_long_expires_and_says_why_it_waited() {
    let sink = sink(Duration::ZERO);
    let home = home(&sink).set("delivery.lifetime_s", 2);
    publish(&home, Some(1), 86_400).await;
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let sent = send(&server.http, &key, "marketing", numbered(0..3)).await;
    until("two to expire", PATIENCE, async || {
        let expired = "SELECT count(*) AS n FROM outcomes WHERE outcome = 'expired'";
        (home.count(expired) == 2).then_some(())
    })
    .await;
    let mut histories = Vec::new();
    for id in &sent {
        histories.push(server.http.history(&key, id).await);
    }
    let expired = histories.iter().find(|history| history["outcome"] == "expired").unwrap();
    assert_eq!(crate::events(expired, "event_type"), ["accepted", "held", "expired"]);
    let why = expired["events"][2]["hold_reason"].as_str().unwrap();
    assert!(
        why.starts_with("held until its lifetime was over: warming: acme.example has used 1 of 1"),
        "{why}"
    );
    assert_eq!(sink.stats().accepted, 1);
    server.stop().await;
}
