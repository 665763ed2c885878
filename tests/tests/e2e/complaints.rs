//! From a complaint's last octet over SMTP to mail that waits: within the minute, and not by the publisher's next look.

use std::time::{Duration, Instant};

use sendlake_tests::home::Home;
use sendlake_tests::peers::{Python, SmtpSink, Taken, free_port};
use sendlake_tests::until;
use serde_json::json;

use crate::message_with;

/// What RFC 9477 leaves of a message at the least: the identifier that its sender gave it.
fn by_identifier(taken: &Taken) -> String {
    format!(
        "From: FBL <fbl@provider.test>\nTo: fbl@bounces.acme.example\nSubject: FBL\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=b1\n\n--b1\nContent-Type: text/plain\n\n\
         A complaint.\n--b1\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: FBL/0.1\n\
         Version: 0.1\nSource-IP: 192.0.2.1\n\n--b1\nContent-Type: text/rfc822-headers\n\nCFBL-Feedback-ID: {}\n\n--b1--\n",
        taken.header("CFBL-Feedback-ID").unwrap()
    )
}

/// The whole message attached, as Microsoft's loop has long done.
fn attached(taken: &Taken) -> String {
    let message = String::from_utf8(taken.octets()).unwrap().replace("\r\n", "\n");
    format!(
        "From: <staff@hotmail.com>\nTo: fbl@bounces.acme.example\nSubject: complaint about message from 192.0.2.1\n\
         MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b1\n\n--b1\nContent-Type: message/rfc822\n\n\
         X-HmXmrOriginalRecipient: <somebody@outlook.test>\n{message}\n--b1--\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_complaint_pauses_cold_mail_within_a_minute() {
    let Some(python) = Python::with(&["aiosmtpd", "smtplib"]) else { return };
    let home = Home::new();
    let sink = SmtpSink::start(&python, home.path());
    let port = free_port();
    let home = home
        .route("sink.test", sink.addr)
        .set("inbound.listen", format!("\"127.0.0.1:{port}\""))
        .set("policy.enforce", true)
        .set("policy.publish_interval_s", 3_600);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    home.ok(&["domain", "warm", "acme.example"]);
    server.http.ready(&key, "acme.example").await;
    let send = async |to: &str| {
        let mail = message_with(to, json!({"stream": "cold"}));
        server.http.send(&key, &mail).await.remove(0)
    };
    let people = ["ann@sink.test", "bob@sink.test"];
    for person in people {
        let id = send(person).await;
        server.http.outcome(&key, &id, "delivered").await;
    }
    let [ann, bob] = people.map(|person| sink.taken_by(person));
    assert_eq!(
        ann.header("CFBL-Address").as_deref(),
        Some("fbl@bounces.acme.example; report=arf"),
        "complaints have an address"
    );
    let signed = ann.header("DKIM-Signature").unwrap().to_lowercase().replace([' ', '\t'], "");
    assert!(signed.contains("cfbl-address:cfbl-feedback-id"), "{signed}");

    let state = || -> String {
        let rows = home.sql("SELECT state FROM published_quotas WHERE stream = 'cold' AND identity = 'acme.example' AND provider = '*'");
        rows.first().and_then(|row| row["state"].as_str().map(str::to_owned)).unwrap_or_default()
    };
    assert_ne!(state(), "paused");
    let started = Instant::now();
    for report in [by_identifier(&ann), attached(&bob)] {
        let file = home.path().join("report.eml");
        std::fs::write(&file, report.replace('\n', "\r\n")).unwrap();
        let to = "fbl@bounces.acme.example";
        let answer =
            python.ask("smtp_client.py", &["127.0.0.1", &port.to_string(), "", to, file.to_str().unwrap()]);
        assert_eq!(answer["code"], 250, "{answer}");
    }
    let heard = started.elapsed();
    until("cold mail to be paused", Duration::from_secs(60), async || (state() == "paused").then_some(()))
        .await;
    let paused = started.elapsed();
    eprintln!(
        "two complaints answered after {heard:?}; cold mail paused {paused:?} after the first one began"
    );
    assert!(paused < Duration::from_secs(60), "{paused:?}");

    let third = send("eve@sink.test").await;
    server.http.outcome(&key, &third, "held").await;
    let complaints =
        home.sql("SELECT recipient, reported_by FROM events WHERE event_type = 'complained' ORDER BY 1");
    assert_eq!(
        complaints,
        [
            json!({"recipient": "ann@sink.test", "reported_by": "provider.test"}),
            json!({"recipient": "bob@sink.test", "reported_by": "hotmail.com"}),
        ]
    );
    server.stop().await;
}
