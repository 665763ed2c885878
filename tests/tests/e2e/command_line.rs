//! Commands beside a running server and without one, their exit codes, and the OpenAPI document.

use std::io::Write;
use std::process::Stdio;

use sendlake::demo::receivers::{Profile, Receiver};
use sendlake_tests::home::Home;
use sendlake_tests::peers::free_port;
use serde_json::Value;

use crate::{events, message};

fn rows(home: &Home, args: &[&str]) -> Vec<Value> {
    let args = [args, &["--format", "json"]].concat();
    serde_json::from_str(&home.ok(&args)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_can_be_seen_and_changed_beside_a_running_server() {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("delivery.retry_intervals_transactional_s", "[200]");
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let first = server.http.send(&key, &message("bob@sink.test")).await.remove(0);
    let second = server.http.send(&key, &message("eve@sink.test")).await.remove(0);
    for id in [&first, &second] {
        sendlake_tests::until("a first attempt", std::time::Duration::from_secs(20), async || {
            let history = server.http.history(&key, id).await;
            (history["events"].as_array().unwrap().len() == 2).then_some(())
        })
        .await;
    }
    let queued = rows(&home, &["queue", "ls"]);
    assert_eq!(queued.len(), 2);
    assert!(queued.iter().all(|row| row["attempts"] == 1 && row["state"] == "waiting"), "{queued:?}");
    assert_eq!(rows(&home, &["queue", "ls", "--domain", "elsewhere.test"]).len(), 0);
    let shown = rows(&home, &["queue", "show", &first]);
    assert_eq!((&shown[0]["recipient"], shown[0]["last_reply"].is_string()), (&"bob@sink.test".into(), true));
    assert!(home.ok(&["queue", "retry", "--message-id", &first]).contains("1 message due now"));
    sendlake_tests::until("a second attempt", std::time::Duration::from_secs(20), async || {
        let history = server.http.history(&key, &first).await;
        (history["events"].as_array().unwrap().len() == 3).then_some(())
    })
    .await;
    home.ok(&["queue", "bounce", "--message-id", &second, "--reason", "asked to"]);
    let history = server.http.outcome(&key, &second, "bounced").await;
    assert!(
        history["events"].as_array().unwrap().last().unwrap()["detail"]
            .as_str()
            .unwrap()
            .contains("asked to")
    );
    assert_eq!(home.run(&["queue", "bounce", "--message-id", &second]).code, 3, "it is gone already");
    assert_eq!(home.run(&["queue", "show", &second]).code, 3);
    assert_eq!(home.run(&["queue", "retry"]).code, 2, "which messages?");
    let audit = rows(&home, &["audit"]);
    for action in ["queue_retried", "queue_bounced"] {
        assert!(audit.iter().any(|entry| entry["action"] == action), "{action}: {audit:?}");
    }

    let table = home.ok(&["message", &second]);
    assert!(table.contains("bounced") && table.contains("eve@sink.test"), "{table}");
    let printed: Value = serde_json::from_str(&home.ok(&["message", &second, "--format", "json"])).unwrap();
    assert_eq!(printed, history, "the command and the API tell the same");
    assert_eq!(home.run(&["message", "0197a3c2-0000-7000-8000-000000000000"]).code, 3);
    assert_eq!(home.run(&["sql", "SELEC"]).code, 4);
    assert_eq!(home.run(&["no-such-command"]).code, 2);
    assert_eq!(home.run(&["--dir", "/nowhere/at-all", "queue", "ls"]).code, 1);
    let csv = home.ok(&["sql", "--format", "csv", "SELECT outcome FROM outcomes ORDER BY outcome"]);
    assert_eq!(csv.lines().collect::<Vec<_>>(), ["outcome", "bounced", "queued"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_keys_and_domains_are_managed_and_audited() {
    let home = Home::new();
    assert_ne!(home.run(&["tenant", "ls"]).code, 0, "there is no data folder yet");
    let key = home.tenant("acme", "acme.example");
    assert!(key.starts_with("sl_"));
    assert_eq!(home.run(&["tenant", "add", "acme"]).code, 4, "it exists");
    assert_eq!(home.run(&["tenant", "add", "Not A Name"]).code, 2);
    assert_eq!(home.run(&["domain", "add", "--tenant", "nobody", "x.example"]).code, 3);
    let tenants = rows(&home, &["tenant", "ls"]);
    assert!(tenants.iter().any(|row| row["tenant_id"] == "acme" && row["state"] == "active"), "{tenants:?}");
    assert_eq!(
        rows(&home, &["domain", "ls", "--tenant", "acme"])[0]["bounce_domain"],
        "bounces.acme.example"
    );
    let records = home.ok(&["domain", "dns", "acme.example"]);
    for part in ["_domainkey.acme.example. IN TXT", "v=DKIM1", "v=spf1", "IN MX", "_dmarc.acme.example."] {
        assert!(records.contains(part), "{part}: {records}");
    }
    assert_eq!(home.run(&["domain", "dns", "other.example"]).code, 3);
    home.ok(&["domain", "rm", "acme.example"]);
    assert_eq!(home.run(&["domain", "dns", "acme.example"]).code, 3);
    let audit = rows(&home, &["audit", "--tenant", "acme"]);
    assert!(audit.len() >= 4, "{audit:?}");
    assert!(audit.iter().all(|entry| entry["actor"].as_str().unwrap().starts_with("cli:")), "{audit:?}");
    assert!(!home.ok(&["audit", "--format", "json"]).contains(&key), "no secret in the audit log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn send_works_with_a_server_and_without_one() {
    let sink = Receiver::start(Profile::accept_all(), 1).unwrap();
    let home = Home::new().route("sink.test", sink.addr());
    let file = home.path().join("mail.eml");
    std::fs::write(&file, "From: Ann <ann@acme.example>\nSubject: Hi\n\nHello\n").unwrap();
    let file = file.to_str().unwrap();
    let key = home.tenant("acme", "acme.example");
    let send = |from: &str, file: &str| home.run(&["send", "--from", from, "--to", "bob@sink.test", file]);

    let queued = send("ann@acme.example", file);
    assert_eq!(queued.code, 0, "{queued:?}");
    assert_eq!(rows(&home, &["queue", "ls"]).len(), 1, "it waits for a server");
    let server = home.start().await;
    let id = queued.out.split_whitespace().next().unwrap();
    let history = server.http.outcome(&key, id, "delivered").await;
    assert_eq!(events(&history, "event_type"), ["accepted", "delivered"]);

    let mut piped = home.command(&["send", "--from", "ann@acme.example", "--to", "eve@sink.test", "-"]);
    let mut child = piped.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"From: ann@acme.example\r\n\r\nHello\r\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let id = String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap().to_owned();
    server.http.outcome(&key, &id, "delivered").await;
    assert_eq!(sink.stats().messages, 2);

    let foreign = send("ann@other.example", file);
    assert_eq!(foreign.code, 4, "{foreign:?}");
    assert!(foreign.err.contains("domain add"), "{}", foreign.err);
    assert_eq!(send("ann@acme.example", "/no/such/file").code, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_describes_itself_in_openapi_3_1() {
    let home = Home::new();
    let server = home.start().await;
    let answer = server.http.get("/openapi.json", "").await;
    let document = answer.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{}", document["openapi"]);
    for path in
        ["/v1/messages", "/v1/messages/batch", "/v1/messages/raw", "/v1/messages/{message_id}", "/v1/sql"]
    {
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert_eq!(server.http.get("/healthz", "").await.status, 200);
    assert_eq!(server.http.get("/v2/nothing", "").await.problem().1, "not_found");
    assert!(server.greeting.contains("shown once"), "{}", server.greeting);
    server.stop().await;
    let again = home.start().await;
    assert!(!again.greeting.contains("sl_"), "a second start makes no key: {}", again.greeting);
    again.stop().await;
}
