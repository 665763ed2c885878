//! Delivery to aiosmtpd: what arrives, what its answers lead to, and whether dkimpy believes the signatures.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sendlake_tests::home::Home;
use sendlake_tests::http::ids;
use sendlake_tests::peers::{Python, SmtpSink};
use sendlake_tests::until;
use serde_json::json;

use crate::{events, message, message_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_arrives_whole_over_tls_and_dkimpy_verifies_both_signatures() {
    let Some(python) = Python::with(&["aiosmtpd", "dkim"]) else { return };
    let home = Home::new();
    let sink = SmtpSink::start(&python, home.path());
    let home = home.route("sink.test", sink.addr).set("dkim.platform_domain", "\"platform.example\"");
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    home.ok(&["domain", "add", "--tenant", "platform", "platform.example"]);
    server.http.ready(&key, "acme.example").await;
    tokio::time::sleep(Duration::from_millis(1_500)).await; // the platform's domain counts from the next second on

    let marketing = message_with(
        "bob@sink.test",
        json!({
            "stream": "marketing", "campaign_id": "spring", "subject": "Grüße aus Köln", "html": "<p>Héllo</p>",
            "text": "Héllo\n.\n..dots at the start of lines\n", "headers": {"X-Shop": "7"},
            "attachments": [{"filename": "a.txt", "content": STANDARD.encode("attached")}],
        }),
    );
    let raw = "From: ann@acme.example\r\nTo: eve@sink.test\r\nSubject: raw\r\nMessage-ID: <own@acme.example>\r\n\r\n.raw\r\n";
    let raw = json!({"envelope": {"to": ["eve@sink.test"]}, "raw": STANDARD.encode(raw)});
    let marketing_id = server.http.send(&key, &marketing).await.remove(0);
    let plain_id = server.http.send(&key, &message("amy@sink.test")).await.remove(0);
    let raw = server.http.post("/v1/messages/raw", &key, &[], raw.to_string()).await;
    assert_eq!(raw.status, 202, "{}", raw.text());
    for id in [&marketing_id, &plain_id, &ids(&raw.json())[0]] {
        let history = server.http.outcome(&key, id, "delivered").await;
        let delivered = history["events"].as_array().unwrap().last().unwrap();
        assert_eq!((&delivered["reply_code"], &delivered["tls_version"]), (&json!(250), &json!("TLSv1.3")));
    }

    let bob = sink.taken_by("bob@sink.test");
    assert!(bob.tls);
    let (token, domain) = bob.from.split_once('@').unwrap();
    assert_eq!(domain, "bounces.acme.example", "the return path lies under the tenant's domain");
    assert!(token.len() > 20 && token.len() <= 64, "{token}");
    let header = |name: &str| bob.header(name).unwrap_or_default();
    assert!(header("Message-ID").ends_with("@acme.example>"), "{}", header("Message-ID"));
    assert!(header("Date").ends_with("+0000") || header("Date").ends_with("GMT"), "{}", header("Date"));
    assert!(
        header("List-Unsubscribe").starts_with("<https://mail.acme.example/u/"),
        "{}",
        header("List-Unsubscribe")
    );
    assert_eq!(header("List-Unsubscribe-Post"), "List-Unsubscribe=One-Click");
    assert_eq!(header("Feedback-ID"), "spring:acme:marketing:sendlake");
    assert_eq!(header("X-Shop"), "7");

    let amy = sink.taken_by("amy@sink.test");
    assert_eq!(amy.header("List-Unsubscribe"), None, "transactional mail offers no unsubscribe");
    assert_ne!(amy.from, bob.from, "each message has a return path of its own");
    let eve = sink.taken_by("eve@sink.test");
    assert_eq!(
        eve.header("Message-ID").as_deref(),
        Some("<own@acme.example>"),
        "a client's own Message-ID stays"
    );
    assert!(eve.octets().ends_with(b"\r\n\r\n.raw\r\n"), "{}", String::from_utf8_lossy(&eve.octets()));

    let zone = home.path().join("zone");
    std::fs::write(
        &zone,
        home.ok(&["domain", "dns", "acme.example"]) + &home.ok(&["domain", "dns", "platform.example"]),
    )
    .unwrap();
    let args = [&zone, &bob.file, &amy.file, &eve.file].map(|path| path.to_str().unwrap());
    let verified = python.ask("verify_dkim.py", &args);
    for signatures in verified.as_array().unwrap() {
        let signers: Vec<_> =
            signatures.as_array().unwrap().iter().map(|s| (&s["domain"], &s["valid"])).collect();
        assert_eq!(
            signers,
            [(&json!("acme.example"), &json!(true)), (&json!("platform.example"), &json!(true))],
            "{verified}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_answer_of_a_receiver_leads_to_its_outcome() {
    let Some(python) = Python::with(&["aiosmtpd"]) else { return };
    let home = Home::new();
    let sink = SmtpSink::start(&python, home.path());
    let home = home.route("sink.test", sink.addr);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let send = async |to: &str| server.http.send(&key, &message(to)).await.remove(0);

    let [refused, refused_late, grey, dropped, doubted, full, busy] = [
        send("r550.gone@sink.test").await,
        send("d554.spam@sink.test").await,
        send("grey.bob@sink.test").await,
        send("drop.bob@sink.test").await,
        send("ddrop.bob@sink.test").await,
        send("r450.full@sink.test").await,
        send("d451.busy@sink.test").await,
    ];
    for (id, command, code) in [(&refused, "RCPT", 550), (&refused_late, "DOT", 554)] {
        let history = server.http.outcome(&key, id, "bounced").await;
        assert_eq!(events(&history, "event_type"), ["accepted", "bounced"], "{history}");
        let bounced = &history["events"][1];
        assert_eq!(bounced["reply_code"], code, "{bounced}");
        assert!(bounced["smtp_command"].as_str().unwrap().contains(command), "{bounced}");
        assert!(bounced["reply_text"].as_str().unwrap().contains("scripted"), "{bounced}");
    }
    let history = server.http.outcome(&key, &grey, "delivered").await;
    assert_eq!(events(&history, "event_type"), ["accepted", "deferred", "delivered"]);
    assert_eq!(events(&history, "enhanced_status")[1], "4.7.1");
    assert_eq!(events(&history, "seq"), [1, 2, 3]);
    assert_eq!(events(&history, "attempt")[2], 2);

    server.http.outcome(&key, &dropped, "delivered").await;
    sink.taken_by("drop.bob@sink.test");
    let history = server.http.outcome(&key, &doubted, "delivered").await;
    assert_eq!(
        events(&history, "event_type"),
        ["accepted", "attempt_in_doubt", "delivered"],
        "cut after the final dot, nobody knows: {history}"
    );
    sink.taken_by("ddrop.bob@sink.test");

    for (id, code) in [(&full, 450), (&busy, 451)] {
        let history = until("a second attempt", Duration::from_secs(20), async || {
            let history = server.http.history(&key, id).await;
            (history["events"].as_array().unwrap().len() >= 3).then_some(history)
        })
        .await;
        assert_eq!(history["outcome"], "queued");
        assert_eq!(history["events"][2]["event_type"], "deferred");
        assert_eq!(
            (&history["events"][2]["attempt"], &history["events"][2]["reply_code"]),
            (&json!(2), &json!(code))
        );
        assert!(history["events"][2]["next_attempt_at"].is_string(), "{history}");
    }
    server.stop().await;
    let outcomes = home.sql("SELECT outcome, count(*) AS n FROM outcomes GROUP BY outcome ORDER BY outcome");
    assert_eq!(
        json!(outcomes),
        json!([{"outcome": "bounced", "n": 2}, {"outcome": "delivered", "n": 3}, {"outcome": "queued", "n": 2}])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_nobody_takes_expires_and_send_at_has_a_limit() {
    let port = sendlake_tests::peers::free_port();
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{port}"))
        .set("delivery.lifetime_transactional_s", 3)
        .set("delivery.retry_intervals_transactional_s", "[1]");
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let lost = server.http.send(&key, &message("bob@sink.test")).await.remove(0);
    let later = message_with("eve@sink.test", json!({"send_at": "2099-01-01T00:00:00Z"}));
    let refused = server.http.post("/v1/messages", &key, &[], later.to_string()).await;
    assert_eq!(refused.problem(), (422, "send_at_too_far".into(), "/send_at".into()));
    let history = server.http.outcome(&key, &lost, "expired").await;
    let kinds = events(&history, "event_type");
    assert!(kinds.iter().filter(|kind| **kind == "deferred").count() >= 1, "{kinds:?}");
    assert!(events(&history, "reply_code").iter().all(|code| code.is_null()), "nobody answered: {history}");
    server.stop().await;
}
