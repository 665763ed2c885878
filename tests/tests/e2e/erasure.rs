//! `sendlake lake erase`: what a person asked for is done everywhere, and stays done.

use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::peers::{Python, SmtpSink, free_port};
use serde_json::{Value, json};

use crate::{message, message_with};

const ANN: &str = "ann.o@sink.test";

/// Where an engine that is not ours finds the address below the lake.
fn found_by_others(home: &Home, address: &str) -> Option<Value> {
    let python = Python::with(&["duckdb"])?;
    let lake = home.data().join("lake");
    Some(python.ask("find_address.py", &[lake.to_str().unwrap(), address])["hits"].clone())
}

/// Waits until the search finds the address: that an event is told says that it is in the outbox, not yet in a file.
async fn is_somewhere(home: &Home, address: &str) {
    for _ in 0..60 {
        if found_by_others(home, address).is_none_or(|hits| hits != json!([])) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("the search does not find {address} before the erasure");
}

#[track_caller]
fn is_nowhere(home: &Home, address: &str) {
    assert!(home.ok(&["lake", "verify", "--recipient", address]).contains("the address is nowhere"));
    if let Some(hits) = found_by_others(home, address) {
        assert_eq!(hits, json!([]));
    }
    assert!(home.ok(&["lake", "verify"]).contains("outbox, log and files agree"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_recipient_is_nowhere_and_is_not_written_to_again() {
    let Some(python) = Python::with(&["aiosmtpd"]) else { return };
    let home = Home::new();
    let sink = SmtpSink::start(&python, home.path());
    let home = home
        .route("sink.test", sink.addr)
        .route("dead.test", format!("127.0.0.1:{}", free_port()))
        .set("delivery.retry_intervals_s", "[60]")
        .set("delivery.retry_intervals_transactional_s", "[60]");
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let mut sent = Vec::new();
    for to in [ANN, "bob@sink.test", "carl@sink.test", "Ann.O@SINK.test"] {
        let tagged = message_with(
            to,
            json!({"tags": {"about": "Ann.O%40sink.test"}, "campaign_id": "for ann.o=sink.test"}),
        );
        sent.extend(server.http.send(&key, &tagged).await);
    }
    for id in &sent {
        server.http.outcome(&key, id, "delivered").await;
    }
    home.ok(&[
        "suppression",
        "add",
        ANN,
        "--tenant",
        "acme",
        "--reason",
        "unsubscribe",
        "--note",
        "ann.o@sink.test rang",
    ]);
    let waiting = server.http.send(&key, &message("ann.o@dead.test")).await;
    is_somewhere(&home, ANN).await;

    let printed = home.ok(&["lake", "erase", "--recipient", "ANN.o@sink.test", "--format", "json"]);
    let receipt: Value = serde_json::from_str(&printed).unwrap();
    assert!(!printed.to_lowercase().contains("ann.o"), "{printed}");
    let events = &receipt["tables"][0];
    assert!(events["rows_erased"].as_u64().unwrap() >= 4, "{receipt}");
    assert!(events["rows_redacted"].as_u64().unwrap() >= 2, "tags and campaigns of others: {receipt}");
    let id = receipt["id"].as_str().unwrap();
    let kept = std::fs::read_to_string(home.data().join(format!("lake/_receipts/{id}.json"))).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&kept).unwrap(), receipt);
    assert!(home.ok(&["audit"]).contains("erased"));
    // the note went into the append-only log of suppressions, and verify says so instead of hiding it
    let said = home.run(&["lake", "verify", "--recipient", ANN]);
    assert_eq!(said.code, 1);
    assert!(said.out.contains("the suppressions' log") && !said.out.contains(".parquet"), "{said:?}");
    assert_eq!(found_by_others(&home, ANN).unwrap_or(json!([])), json!([]));
    assert!(home.ok(&["lake", "verify"]).contains("agree"));

    let rows = home.sql("SELECT recipient, campaign_id FROM events WHERE event_type = 'delivered'");
    assert_eq!(rows.len(), 2, "bob and carl stay: {rows:?}");
    assert!(rows.iter().all(|row| row["campaign_id"] == "for [erased]"), "{rows:?}");
    let again = home.ok(&["lake", "erase", "--recipient", ANN]);
    assert!(again.contains("nothing was left to erase"), "{again}");

    // a queued message is withdrawn, and the opt-out outlives the data
    let printed = home.ok(&["lake", "erase", "--recipient", "ann.o@dead.test", "--format", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&printed).unwrap()["messages_withdrawn"], 1, "{printed}");
    assert_eq!(home.count(&format!("SELECT count(*) FROM events WHERE message_id = '{}'", waiting[0])), 0);
    is_nowhere(&home, "ann.o@dead.test");
    let list = home.ok(&["suppression", "ls", ANN]);
    assert!(list.contains("legal") && list.contains("unsubscribe") && !list.contains("ann.o"), "{list}");
    let later = server.http.send(&key, &message(ANN)).await;
    server.http.outcome(&key, &later[0], "suppressed").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_beside_a_busy_server_leaves_nothing() {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("lake.commit_interval_ms", 50)
        .set("delivery.retry_intervals_s", "[60]")
        .set("delivery.retry_intervals_transactional_s", "[60]");
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let (http, tenant_key) = (server.http.clone(), key.clone());
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (stopped, to_ann) = (stop.clone(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true)));
    let may = to_ann.clone();
    let load = tokio::spawn(async move {
        let mut sent = 0;
        while !stopped.load(std::sync::atomic::Ordering::SeqCst) {
            let with_ann = may.load(std::sync::atomic::Ordering::SeqCst) && sent % 3 == 0;
            let to = if with_ann { ANN.to_owned() } else { format!("bob{sent}@sink.test") };
            http.send(&tenant_key, &message(&to)).await;
            sent += 1;
        }
        sent
    });
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    to_ann.store(false, std::sync::atomic::Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let printed = home.ok(&["lake", "erase", "--recipient", ANN, "--format", "json"]);
    let receipt: Value = serde_json::from_str(&printed).unwrap();
    assert!(receipt["tables"][0]["rows_erased"].as_u64().unwrap() > 0, "{receipt}");
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let sent = load.await.unwrap();
    assert!(sent > 20, "{sent}");
    server.stop().await;
    is_nowhere(&home, ANN);
    let bobs = home.count("SELECT count(DISTINCT message_id) FROM events WHERE recipient LIKE 'bob%'");
    assert!(bobs >= sent / 2, "{bobs} of {sent}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_erased_without_a_server_and_a_killed_erasure_is_finished_by_the_next() {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("lake.commit_interval_ms", 30);
    let server = home.start().await;
    let keys = [home.tenant("acme", "acme.example"), home.tenant("bolt", "bolt.example")];
    for (key, domain) in keys.iter().zip(["acme.example", "bolt.example"]) {
        server.http.ready(key, domain).await;
        for number in 0..25 {
            let from = json!({"from": format!("Ann <ann@{domain}>")});
            server.http.send(key, &message_with(&format!("bob{number}@sink.test"), from)).await;
        }
    }
    server.kill();
    let acme = "SELECT count(*) FROM events WHERE tenant_id = 'acme'";
    let bolt = "SELECT count(*) FROM events WHERE tenant_id = 'bolt' AND event_type = 'accepted'";
    assert!(home.count(acme) >= 25);
    for wait_ms in [20, 60, 120, 250] {
        let mut erase = home.command(&["lake", "erase", "--tenant", "acme"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait_ms));
        let _ = erase.kill();
        let _ = erase.wait();
    }
    let said = home.ok(&["lake", "erase", "--tenant", "acme"]);
    assert!(said.contains("receipt"), "{said}");
    assert_eq!((home.count(acme), home.count(bolt)), (0, 25));
    assert!(home.ok(&["lake", "erase", "--tenant", "acme"]).contains("nothing was left to erase"));
    assert!(home.ok(&["lake", "verify"]).contains("outbox, log and files agree"));
    assert!(home.ok(&["tenant", "ls"]).contains("suspended"));
    let sorting = std::fs::read_dir(home.data().join("lake-sort"));
    assert!(sorting.is_ok_and(|mut left| left.next().is_none()), "what was sorted on disk is gone");
    for (args, code) in [
        (&["lake", "erase"][..], 2),
        (&["lake", "erase", "--recipient", "nobody"], 4),
        (&["lake", "erase", "--tenant", "nobody"], 3),
    ] {
        assert_eq!(home.run(args).code, code, "{args:?}");
    }
}
