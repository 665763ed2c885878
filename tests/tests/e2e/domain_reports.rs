//! DMARC and TLS reports: through smtplib into a real server, killed in between, and from files.

use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::peers::{Python, free_port};
use sendlake_tests::until;
use serde_json::json;

const BEGIN: u64 = 1_767_225_600;

/// A mail with an aggregate report of one record: so many messages from `from`.
fn aggregate(id: &str, policy: &str, from: &str, messages: u64) -> String {
    format!(
        "From: dmarc@receiver.test\nTo: dmarc@bounces.acme.example\nSubject: Report domain: {policy}\nMIME-Version: 1.0\n\
         Content-Type: multipart/mixed; boundary=b0\n\n--b0\nContent-Type: text/plain\n\nSee the attachment.\n--b0\n\
         Content-Type: application/xml; name=r.xml\nContent-Disposition: attachment; filename=r.xml\n\n\
         <?xml version=\"1.0\"?>\n<feedback><report_metadata><org_name>Receiver</org_name><report_id>{id}</report_id>\n\
         <date_range><begin>{BEGIN}</begin><end>{}</end></date_range></report_metadata>\n\
         <policy_published><domain>{policy}</domain><p>none</p></policy_published><record><row>\n\
         <source_ip>192.0.2.1</source_ip><count>{messages}</count><policy_evaluated><dkim>pass</dkim><spf>fail</spf>\n\
         </policy_evaluated></row><identifiers><header_from>{from}</header_from></identifiers></record></feedback>\n--b0--\n",
        BEGIN + 86_399
    )
}

const TLS: &str = r#"{"organization-name":"Sender","date-range":{"start-datetime":"2026-01-05T00:00:00Z",
"end-datetime":"2026-01-05T23:59:59Z"},"report-id":"t-1","policies":[{"policy":{"policy-type":"sts",
"policy-domain":"acme.example"},"summary":{"total-successful-session-count":40,"total-failure-session-count":2},
"failure-details":[{"result-type":"certificate-expired","failed-session-count":2}]}]}"#;

fn mailed(python: &Python, home: &Home, port: u16, to: &str, mail: &str) -> (u64, String) {
    let file = home.path().join("report.eml");
    std::fs::write(&file, mail.replace('\n', "\r\n")).unwrap();
    let port = port.to_string();
    let answer = python.ask("smtp_client.py", &["127.0.0.1", &port, "", to, file.to_str().unwrap()]);
    (answer["code"].as_u64().unwrap(), answer["text"].as_str().unwrap().to_owned())
}

async fn messages(home: &Home, expected: u64) {
    let sql = "SELECT coalesce(sum(messages), 0) FROM dmarc_records WHERE report_type = 'aggregate'";
    let what = format!("{expected} messages in dmarc_records");
    until(&what, Duration::from_secs(30), async || (home.count(sql) == expected).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_survive_a_kill_count_once_and_belong_to_their_domains_owner() {
    let Some(python) = Python::with(&["smtplib"]) else { return };
    let port = free_port();
    let home = Home::new().set("inbound.listen", format!("\"127.0.0.1:{port}\""));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    home.tenant("bolt", "bolt.example");
    server.http.ready(&key, "acme.example").await;
    let to = "dmarc@bounces.acme.example";
    let first = aggregate("r1", "acme.example", "news.acme.example", 5);
    assert_eq!(mailed(&python, &home, port, to, &first).0, 250);
    server.kill();

    let server = home.start().await;
    messages(&home, 5).await;
    server.http.ready(&key, "acme.example").await;
    assert_eq!(mailed(&python, &home, port, to, &first).0, 250, "a repeat is no reason to refuse");
    let forged = aggregate("r2", "bolt.example", "bolt.example", 700);
    assert_eq!(mailed(&python, &home, port, to, &forged).0, 250);
    messages(&home, 705).await;
    let tenants =
        home.sql("SELECT tenant_id, sum(messages) AS messages FROM dmarc_records GROUP BY 1 ORDER BY 1");
    assert_eq!(
        tenants,
        [json!({"tenant_id": "acme", "messages": 5}), json!({"tenant_id": "platform", "messages": 700})]
    );
    let own =
        server.http.sql(&home.key("acme", &["sql"]), "SELECT domain, aligned_share FROM dmarc_sources").await;
    assert!(!own.text().contains("bolt"), "{}", own.text());

    assert_eq!(
        mailed(
            &python,
            &home,
            port,
            "tlsrpt@bounces.acme.example",
            &format!("From: t@sender.test\n\n{TLS}\n")
        )
        .0,
        250
    );
    let failed = "SELECT coalesce(sum(failed_sessions), 0) FROM tls_report_records WHERE tenant_id = 'acme'";
    until("the TLS report", Duration::from_secs(30), async || (home.count(failed) == 2).then_some(())).await;

    let (code, text) = mailed(&python, &home, port, to, "From: ann@b.test\nSubject: hello\n\nMay I ask?\n");
    assert_eq!(code, 550);
    assert!(text.contains("only DMARC reports"), "{text}");
    assert_eq!(mailed(&python, &home, port, to, &first.replace("</feedback>", "")).0, 250, "it is put aside");
    let aside = std::fs::read_dir(home.data().join("quarantine")).unwrap();
    let reasons: Vec<String> = aside
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|it| it == "txt"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    assert!(reasons.len() == 1 && reasons[0].contains("ends before its last element"), "{reasons:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_reports_are_taken_in_without_a_server() {
    let home = Home::new();
    home.start().await.stop().await;
    home.tenant("acme", "acme.example");
    let records = home.ok(&["domain", "dns", "acme.example"]);
    assert!(records.contains("rua=mailto:dmarc@bounces.acme.example"), "{records}");
    assert!(
        records.contains(
            "_smtp._tls.acme.example. IN TXT \"v=TLSRPTv1; rua=mailto:tlsrpt@bounces.acme.example\""
        )
    );

    let mail = home.path().join("report.eml");
    std::fs::write(&mail, aggregate("r1", "acme.example", "acme.example", 5)).unwrap();
    let tls = home.path().join("report.json");
    std::fs::write(&tls, TLS).unwrap();
    let files = [mail.to_str().unwrap(), tls.to_str().unwrap()];
    let told = home.ok(&["ingest", files[0], files[1], "--format", "json"]);
    assert_eq!(told.matches("\"recorded\"").count(), 2, "{told}");
    assert!(told.contains("Receiver on acme.example"), "{told}");
    let told = home.ok(&["ingest", files[0], "--format", "json"]);
    assert!(told.contains("\"repeat\""), "{told}");
    assert_eq!(home.count("SELECT sum(messages) FROM dmarc_records"), 5);

    std::fs::write(&tls, "{\"policies\": 1}").unwrap();
    let refused = home.run(&["ingest", files[1]]);
    assert!(refused.code != 0 && refused.out.contains("no TLS report"), "{} {}", refused.out, refused.err);
    let verified = home.ok(&["lake", "verify"]);
    assert!(verified.contains("dmarc_records"), "{verified}");
}
