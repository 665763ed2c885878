//! Receivers that hang, reset, answer garbage or endless lines: each costs one session, and nobody else's mail.

use std::time::{Duration, Instant};

use sendlake::demo::receivers::{Profile, Receiver, Step};
use sendlake_tests::home::Home;

use crate::{events, message};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misbehaving_receiver_costs_one_session_and_gets_its_mail_later() {
    let sink = Profile::accept_all;
    let hostile = [
        ("hang-connect", sink().hang_after(Step::Connect)),
        ("hang-data", sink().hang_after(Step::Data)),
        ("hang-end", sink().hang_after(Step::DataEnd)),
        ("reset-connect", sink().reset_at(Step::Connect)),
        ("reset-rcpt", sink().reset_at(Step::Rcpt)),
        ("reset-end", sink().reset_at(Step::DataEnd)),
        ("garbage-connect", sink().garbage_at(Step::Connect)),
        ("garbage-hello", sink().garbage_at(Step::Hello)),
        ("garbage-end", sink().garbage_at(Step::DataEnd)),
        ("long-hello", sink().long_line_at(Step::Hello, 100_000)),
        ("long-rcpt", sink().long_line_at(Step::Rcpt, 100_000)),
        ("long-connect", sink().long_line_at(Step::Connect, 100_000)),
    ];
    let well_behaved = Receiver::start(sink(), 1).unwrap();
    let mut home = Home::new().route("good.test", well_behaved.addr()).set("delivery.timeout_scale", 0.01);
    let mut receivers = Vec::new();
    for (name, profile) in hostile {
        let receiver = Receiver::start(profile.faults_first(1), 1).unwrap();
        home = home.route(&format!("{name}.test"), receiver.addr());
        receivers.push((name, receiver));
    }
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;

    let mut troubled = Vec::new();
    for (name, _) in &receivers {
        troubled.extend(server.http.send(&key, &message(&format!("bob@{name}.test"))).await);
    }
    let started = Instant::now();
    let mut others = Vec::new();
    for number in 0..20 {
        others.extend(server.http.send(&key, &message(&format!("bob{number}@good.test"))).await);
    }
    for id in &others {
        let history = server.http.outcome(&key, id, "delivered").await;
        assert_eq!(events(&history, "event_type"), ["accepted", "delivered"]);
    }
    assert!(started.elapsed() < Duration::from_secs(8), "others waited: {:?}", started.elapsed());

    for ((name, receiver), id) in receivers.iter().zip(&troubled) {
        let history = server.http.outcome(&key, id, "delivered").await;
        let kinds = events(&history, "event_type");
        assert_eq!(kinds.len(), 3, "{name}: one failed attempt, one that works: {history}");
        let expected: &[&str] =
            if name.ends_with("-end") { &["attempt_in_doubt", "deferred"] } else { &["deferred"] };
        assert!(expected.iter().any(|kind| kinds[1] == kind), "{name}: {history}");
        let said = history["events"][1]["reply_text"].as_str().unwrap_or_default();
        assert!(!said.is_empty() && said.len() < 5_000, "{name}: {} octets of reply", said.len());
        let stats = receiver.stats();
        assert!(stats.connections <= 3 && stats.messages == 1, "{name}: {stats:?}");
    }
    assert!(!server.log().contains("panicked"), "{}", server.log());
    server.stop().await;
}
