//! What comes back: DSNs and complaints through smtplib, one-click unsubscribes over HTTP, suppressions on the
//! command line.

use std::path::Path;
use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::http::Http;
use sendlake_tests::peers::{Python, SmtpSink, Taken, free_port};
use sendlake_tests::until;
use serde_json::{Value, json};

use crate::message_with;

/// Speaks to the inbound listener as another server does.
struct Receiver<'a> {
    python: &'a Python,
    dir: &'a Path,
    port: u16,
}

impl Receiver<'_> {
    /// What was answered, and to which command.
    fn says(&self, to: &str, mail: &str) -> (u64, String) {
        let file = self.dir.join("report.eml");
        std::fs::write(&file, mail.replace('\n', "\r\n")).unwrap();
        let answer = self
            .python
            .ask("smtp_client.py", &["127.0.0.1", &self.port.to_string(), "", to, file.to_str().unwrap()]);
        let text = format!("{} {}", answer["command"].as_str().unwrap(), answer["text"].as_str().unwrap());
        (answer["code"].as_u64().unwrap(), text)
    }

    #[track_caller]
    fn takes(&self, to: &str, mail: &str) {
        let (code, text) = self.says(to, mail);
        assert_eq!(code, 250, "{to}: {text}");
    }

    #[track_caller]
    fn refuses(&self, to: &str, mail: &str, why: &str) {
        let (code, text) = self.says(to, mail);
        assert_eq!(code, 550, "{to}: {text}");
        assert!(text.contains(why), "{to}: {text}");
    }
}

/// A DSN in the form of RFC 3464; each recipient with its status.
fn dsn(to: &str, recipients: &[(String, &str)]) -> String {
    let mut mail = format!(
        "From: Mail Delivery System <mailer-daemon@sink.test>\nTo: <{to}>\nSubject: Undelivered Mail Returned to Sender\n\
         MIME-Version: 1.0\nContent-Type: multipart/report; report-type=delivery-status; boundary=\"b0\"\n\n\
         --b0\nContent-Type: text/plain\n\nSorry.\n\n--b0\nContent-Type: message/delivery-status\n\n\
         Reporting-MTA: dns; mx.sink.test\n"
    );
    for (recipient, status) in recipients {
        mail.push_str(&format!(
            "\nFinal-Recipient: rfc822; {recipient}\nAction: failed\nStatus: {status}\n\
             Remote-MTA: dns; store.sink.test\nDiagnostic-Code: smtp; 550 {status} No such user here\n"
        ));
    }
    mail.push_str("\n--b0--\n");
    mail
}

/// A complaint in the form of RFC 5965, its recipient cut out.
fn arf(feedback_type: &str, mail_from: Option<&str>, original: &str) -> String {
    let mail_from = mail_from.map(|path| format!("Original-Mail-From: <{path}>\n")).unwrap_or_default();
    format!(
        "From: Feedback <fbl@provider.test>\nTo: fbl@bounces.acme.example\nSubject: FW: spring\nMIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=\"b1\"\n\n\
         --b1\nContent-Type: text/plain\n\nAn abuse report.\n\n--b1\nContent-Type: message/feedback-report\n\n\
         Feedback-Type: {feedback_type}\nUser-Agent: Feedback/2.0\nVersion: 1\n{mail_from}Source-IP: 192.0.2.1\n\n\
         --b1\nContent-Type: text/rfc822-headers\n\n{original}\n--b1--\n"
    )
}

/// The header section that a complaint returns, without the recipient.
fn returned(taken: &Taken) -> String {
    format!(
        "From: ann@acme.example\nTo: redacted@redacted.invalid\nMessage-ID: {}\nSubject: Hello\n",
        taken.header("Message-ID").unwrap()
    )
}

async fn send(http: &Http, key: &str, to: &[&str]) -> Vec<String> {
    let mut ids = Vec::new();
    for to in to {
        let mail = message_with(to, json!({"stream": "marketing", "campaign_id": "spring"}));
        ids.push(http.send(key, &mail).await.remove(0));
    }
    for id in &ids {
        http.outcome(key, id, "delivered").await;
    }
    ids
}

fn event(home: &Home, message_id: &str, event_type: &str) -> Value {
    let rows = home.sql(&format!(
        "SELECT * FROM events WHERE message_id = '{message_id}' AND event_type = '{event_type}'"
    ));
    assert_eq!(rows.len(), 1, "{event_type} of {message_id}: {rows:?}");
    rows[0].clone()
}

fn suppressions(home: &Home) -> Vec<(String, String, String)> {
    let printed: Value = serde_json::from_str(&home.ok(&["suppression", "ls", "--format", "json"])).unwrap();
    let mut found: Vec<_> = printed
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let text = |field: &str| row[field].as_str().unwrap().to_owned();
            (text("address"), text("reach"), text("reason"))
        })
        .collect();
    found.sort();
    found
}

fn suppressed(address: &str, reach: &str, reason: &str) -> (String, String, String) {
    (address.to_owned(), reach.to_owned(), reason.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_become_events_about_their_message_and_suppress_once() {
    let Some(python) = Python::with(&["aiosmtpd", "smtplib"]) else { return };
    let home = Home::new();
    let sink = SmtpSink::start(&python, home.path());
    let port = free_port();
    let home = home.route("sink.test", sink.addr).set("inbound.listen", format!("\"127.0.0.1:{port}\""));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    home.tenant("bolt", "bolt.example");
    server.http.ready(&key, "acme.example").await;
    let people = ["ann@sink.test", "bob@sink.test", "eve@sink.test", "joe@sink.test", "kim@sink.test"];
    let ids = send(&server.http, &key, &people).await;
    let [ann, bob, eve, joe, kim] = people.map(|person| sink.taken_by(person));
    let receiver = Receiver { python: &python, dir: home.path(), port };

    receiver.takes(&ann.from, &dsn(&ann.from, &[("ann@sink.test".into(), "5.1.1")]));
    let bounce = event(&home, &ids[0], "bounced_async");
    assert_eq!((&bounce["tenant_id"], &bounce["recipient"]), (&json!("acme"), &json!("ann@sink.test")));
    assert_eq!((&bounce["enhanced_status"], &bounce["seq"]), (&json!("5.1.1"), &Value::Null), "{bounce}");
    assert_eq!(
        (&bounce["bounce_category"], &bounce["bounce_class"]),
        (&json!("bad_mailbox"), &json!("hard"))
    );
    assert!(bounce["bounce_rule"].is_string() && bounce["ruleset_version"].is_string(), "{bounce}");
    let delivered = event(&home, &ids[0], "delivered");
    assert_eq!(bounce["delivered_at"], delivered["occurred_at"], "{bounce}");

    let complaint = arf("abuse", None, &returned(&bob));
    for _ in 0..2 {
        receiver.takes("fbl@bounces.acme.example", &complaint);
    }
    let complained = event(&home, &ids[1], "complained");
    for (field, value) in [
        ("recipient", json!("bob@sink.test")),
        ("campaign_id", json!("spring")),
        ("stream", json!("marketing")),
        ("feedback_type", json!("abuse")),
        ("reported_by", json!("provider.test")),
        ("header_from_domain", json!("acme.example")),
    ] {
        assert_eq!(complained[field], value, "{field}: {complained}");
    }
    assert!(complained["delivered_at"].is_string() && complained["ip_pool"].is_string(), "{complained}");

    receiver.takes("FBL@bounces.acme.example", &arf("fraud", Some(&eve.from), ""));
    assert_eq!(
        event(&home, &ids[2], "complained")["recipient"],
        "eve@sink.test",
        "the return path was enough"
    );
    receiver.takes("fbl@bounces.acme.example", &arf("not-spam", Some(&joe.from), ""));
    receiver.takes("fbl@bounces.acme.example", &arf("auth-failure", Some(&joe.from), ""));

    let masses: Vec<(String, &str)> = (0..10_000).map(|n| (format!("u{n}@list.test"), "5.1.1")).collect();
    receiver.refuses(&kim.from, &dsn(&kim.from, &masses), "more than 1000 recipients");
    let mut crowd: Vec<(String, &str)> = (0..900).map(|n| (format!("u{n}@list.test"), "5.1.1")).collect();
    crowd.push(("kim@sink.test".into(), "5.2.2"));
    receiver.takes(&kim.from, &dsn(&kim.from, &crowd));
    assert_eq!(event(&home, &ids[4], "bounced_async")["enhanced_status"], "5.2.2");
    receiver.takes(&joe.from, &dsn(&joe.from, &crowd));

    let auto = "From: joe@sink.test\nSubject: Away\nAuto-Submitted: auto-replied\n\nI am away.\n";
    receiver.takes(&joe.from, auto);
    let detail: Vec<_> = home
        .sql("SELECT detail FROM events WHERE event_type = 'replied' AND feedback_type IS NULL")
        .iter()
        .map(|row| row["detail"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(detail, ["{\"auto\":true}"]);

    until("the hard bounce and both complaints in force", Duration::from_secs(5), async || {
        (suppressions(&home).len() == 3).then_some(())
    })
    .await;
    assert_eq!(
        suppressions(&home),
        [
            suppressed("ann@sink.test", "tenant", "hard_bounce"),
            suppressed("bob@sink.test", "bulk", "complaint"),
            suppressed("eve@sink.test", "bulk", "complaint"),
        ]
    );
    assert_eq!(home.events_by_type()["suppression_added"], 3);
    server.stop().await;
    let nobody = home.sql(
        "SELECT detail, recipient FROM events WHERE event_type = 'bounced_async' AND message_id IS NULL",
    );
    assert_eq!(nobody.len(), 1, "joe's DSN names everybody but joe: {nobody:?}");
    assert!(nobody[0]["detail"].as_str().unwrap().contains("901 recipients"), "{nobody:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_name_no_message_of_ours_are_refused_by_name_or_count_for_nobody() {
    let Some(python) = Python::with(&["aiosmtpd", "smtplib"]) else { return };
    let home = Home::new();
    let sink = SmtpSink::start(&python, home.path());
    let port = free_port();
    let home = home.route("sink.test", sink.addr).set("inbound.listen", format!("\"127.0.0.1:{port}\""));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    home.tenant("bolt", "bolt.example");
    server.http.ready(&key, "acme.example").await;
    send(&server.http, &key, &["ann@sink.test"]).await;
    let ann = sink.taken_by("ann@sink.test");
    let receiver = Receiver { python: &python, dir: home.path(), port };
    let token = ann.from.split('@').next().unwrap().to_owned();
    let mut forged = token.clone();
    let last = if forged.ends_with('a') { 'b' } else { 'a' };
    forged.replace_range(20..21, &last.to_string());
    let report = dsn(&ann.from, &[("ann@sink.test".into(), "5.1.1")]);

    receiver.refuses(&format!("{forged}@bounces.acme.example"), &report, "RCPT 5.1.1 the address is not one");
    receiver.refuses("ann@bounces.acme.example", &report, "RCPT 5.1.1 there is no such mailbox");
    receiver.refuses("x@elsewhere.test", &report, "relays nothing");
    receiver.refuses(&format!("{token}@bounces.bolt.example"), &report, "another tenant's");
    receiver.refuses("fbl@bounces.bolt.example", &arf("abuse", Some(&ann.from), ""), "another tenant's");
    receiver.refuses(
        "abuse@bounces.acme.example",
        "From: a@b.test\nSubject: hello\n\nStop it.\n",
        "only feedback reports",
    );
    let message_id = token + "@acme.example";
    let as_return_path =
        format!("{}@bounces.acme.example", ann.header("Message-ID").unwrap()[1..].split('@').next().unwrap());
    receiver.takes("fbl@bounces.acme.example", &arf("abuse", Some(&as_return_path), ""));
    receiver.takes(
        "fbl@bounces.acme.example",
        &arf("abuse", None, &format!("From: x@acme.example\nMessage-ID: <{message_id}>\n")),
    );
    for _ in 0..2 {
        receiver.takes("fbl@bounces.acme.example", &arf("abuse", None, "From: x@acme.example\n"));
    }
    let rows = home.sql(
        "SELECT tenant_id, message_id, recipient, header_from_domain, source_ip, detail FROM events \
         WHERE event_type = 'complained' ORDER BY recorded_at",
    );
    let why = ["forged", "forged", "no token"];
    assert_eq!(rows.len(), why.len(), "{rows:?}");
    for (row, why) in rows.iter().zip(why) {
        assert_eq!(
            (&row["tenant_id"], &row["message_id"], &row["recipient"]),
            (&json!("acme"), &Value::Null, &Value::Null)
        );
        assert!(row["detail"].as_str().unwrap().contains(why), "{why}: {row}");
        assert_eq!(row["source_ip"], "192.0.2.1");
    }
    assert_eq!(rows[2]["header_from_domain"], "acme.example");
    assert_eq!(suppressions(&home), []);
    assert!(!home.events_by_type().contains_key("bounced_async"));
    let file = home.path().join("stored.eml");
    std::fs::write(&file, report).unwrap();
    let told: Value =
        serde_json::from_str(&home.ok(&["ingest", file.to_str().unwrap(), "--format", "json"])).unwrap();
    assert_eq!(
        (&told[0]["outcome"], &told[0]["recipient"]),
        (&json!("recorded"), &json!("ann@sink.test")),
        "{told}"
    );
    server.stop().await;
    let told = home.ok(&["ingest", file.to_str().unwrap()]);
    assert!(told.contains("repeat"), "the same file again, without a server: {told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_click_unsubscribes_in_both_encodings_once_and_a_get_never_does() {
    let Some(python) = Python::with(&["aiosmtpd", "smtplib"]) else { return };
    let home = Home::new();
    let sink = SmtpSink::start(&python, home.path());
    let port = free_port();
    let home = home.route("sink.test", sink.addr).set("inbound.listen", format!("\"127.0.0.1:{port}\""));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let people = ["ann@sink.test", "bob@sink.test", "eve@sink.test"];
    let ids = send(&server.http, &key, &people).await;
    let links = people.map(|person| sink.taken_by(person).header("List-Unsubscribe").unwrap());
    let path = |link: &str| {
        link.split("https://mail.acme.example").nth(1).unwrap().split('>').next().unwrap().to_owned()
    };
    let (ann, bob) = (path(&links[0]), path(&links[1]));
    let form = [("content-type", "application/x-www-form-urlencoded")];
    let body = "List-Unsubscribe=One-Click";

    let page = server.http.get(&ann, "").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("<button") && page.text().contains("method=\"post\""), "{}", page.text());
    assert!(page.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    for (wrong, headers) in
        [("", form), ("List-Unsubscribe=no", form), (body, [("content-type", "text/plain")])]
    {
        assert_eq!(server.http.post(&ann, "", &headers, wrong).await.status, 400, "{wrong}");
    }
    assert_eq!(server.http.post(&ann, "", &form, "x".repeat(5_000)).await.status, 413);
    assert_eq!(suppressions(&home), [], "nothing so far unsubscribes");
    let forged = format!("{}{}", &ann[..ann.len() - 1], if ann.ends_with('a') { 'e' } else { 'a' });
    for answer in [server.http.get(&forged, "").await, server.http.post(&forged, "", &form, body).await] {
        assert_eq!(answer.status, 404);
        assert!(answer.text().contains("not known"), "{}", answer.text());
    }

    for _ in 0..2 {
        let answer = server.http.post(&ann, "", &form, body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(
            suppressions(&home),
            [suppressed("ann@sink.test", "bulk", "unsubscribe")],
            "in force with the answer"
        );
    }
    let multipart =
        "--xyz\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--xyz--\r\n";
    let headers = [("content-type", "multipart/form-data; boundary=xyz")];
    assert_eq!(server.http.post(&bob, "", &headers, multipart).await.status, 200);
    let mailto = links[2].split("mailto:").nth(1).unwrap().split('?').next().unwrap();
    let receiver = Receiver { python: &python, dir: home.path(), port };
    receiver.takes(mailto, "From: eve@sink.test\nSubject: unsubscribe\n\nunsubscribe\n");
    assert_eq!(suppressions(&home).len(), 3);
    for (id, how) in ids.iter().zip(["one_click", "one_click", "mailto"]) {
        let left = event(&home, id, "unsubscribed");
        assert!(left["detail"].as_str().unwrap().contains(how) && left["delivered_at"].is_string(), "{left}");
        event(&home, id, "suppression_added");
    }

    let bulk = message_with("ann@sink.test", json!({"stream": "marketing"}));
    let kept_back = server.http.send(&key, &bulk).await.remove(0);
    server.http.outcome(&key, &kept_back, "suppressed").await;
    let receipt = server.http.send(&key, &message_with("ann@sink.test", json!({}))).await.remove(0);
    server.http.outcome(&key, &receipt, "delivered").await;

    let refused = home.run(&["suppression", "rm", "--tenant", "acme", "ann@sink.test"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("--note"), "{refused:?}");
    home.ok(&["suppression", "rm", "--tenant", "acme", "Ann@sink.test", "--note", "asked on the phone"]);
    assert_eq!(suppressions(&home).len(), 2);
    assert_eq!(server.http.post(&ann, "", &form, body).await.status, 200);
    assert_eq!(suppressions(&home).len(), 3, "the same link is a new wish after that");
    server.stop().await;
    assert_eq!(home.events_by_type()["suppression_removed"], 1);
    let again = home.count(&format!(
        "SELECT count(*) FROM events WHERE event_type = 'unsubscribed' AND message_id = '{}'",
        ids[0]
    ));
    assert_eq!(again, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn suppressions_are_kept_on_the_command_line_with_and_without_a_server() {
    let home = Home::new();
    let server = home.start().await;
    home.tenant("acme", "acme.example");
    let said = home.ok(&["suppression", "add", "--tenant", "acme", "Ann@a.test", "--note", "asked by post"]);
    assert!(said.contains("reach tenant, reason manual"), "{said}");
    let said = home.ok(&["suppression", "add", "--tenant", "acme", "ann@A.test", "--reach", "bulk"]);
    assert!(said.contains("already"), "{said}");
    server.stop().await;
    home.ok(&["suppression", "add", "law@a.test", "--reason", "legal"]);
    for (args, code, words) in [
        (vec!["suppression", "add", "x@a.test"], 4, "--tenant"),
        (vec!["suppression", "add", "--tenant", "acme", "nobody"], 4, "nobody"),
        (vec!["suppression", "add", "--tenant", "none", "x@a.test"], 3, "no tenant none"),
        (vec!["suppression", "rm", "--tenant", "acme", "y@a.test"], 3, "not on this list"),
        (vec!["suppression", "rm", "--global", "law@a.test"], 4, "--note"),
        (
            vec!["suppression", "add", "--tenant", "acme", "x@a.test", "--reach", "far"],
            2,
            "bulk, tenant, global",
        ),
    ] {
        let said = home.run(&args);
        assert_eq!(said.code, code, "{args:?}: {said:?}");
        assert!(said.err.contains(words), "{args:?}: {said:?}");
    }
    assert_eq!(
        suppressions(&home),
        [suppressed("ann@a.test", "tenant", "manual"), suppressed("law@a.test", "global", "legal")]
    );
    assert_eq!(home.events_by_type()["suppression_added"], 2);
}
