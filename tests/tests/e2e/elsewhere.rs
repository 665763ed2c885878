//! What other senders sent: their files and their pushes, in the lake once, judged and kept apart.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::server::Server;
use sendlake_tests::until;
use serde_json::{Value, json};

/// Files in each sender's format: what is read, mapped, repeated within the file, unmapped and bad.
const FILES: [(&str, &str, [u64; 5]); 8] = [
    ("kumomta", "kumomta.json", [13, 9, 0, 2, 2]),
    ("powermta", "powermta.csv", [14, 10, 0, 1, 3]),
    ("postfix", "postfix.log", [25, 9, 0, 15, 1]),
    ("ses", "ses.json", [20, 14, 1, 3, 2]),
    ("sendgrid", "sendgrid.json", [18, 14, 1, 2, 1]),
    ("mailgun", "mailgun.json", [16, 12, 1, 2, 1]),
    ("postmark", "postmark.json", [15, 11, 0, 3, 1]),
    ("sparkpost", "sparkpost.json", [20, 15, 1, 3, 1]),
];

fn fixture(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ingest/tests-data/foreign").join(file)
}

/// Runs `sendlake ingest --from`, and returns its counts in the order of the columns.
#[track_caller]
fn counted(home: &Home, from: &str, path: &Path, more: &[&str]) -> [u64; 5] {
    let mut args =
        vec!["ingest", path.to_str().unwrap(), "--from", from, "--tenant", "acme", "--format", "json"];
    args.extend(more);
    let told: Value = serde_json::from_str(&home.ok(&args)).unwrap();
    let counts =
        ["read", "mapped", "repeated", "unmapped", "bad"].map(|name| told[0][name].as_u64().unwrap());
    let [read, mapped, repeated, unmapped, bad] = counts;
    assert_eq!(read, mapped + repeated + unmapped + bad, "{told}");
    counts
}

async fn in_the_lake(home: &Home, events: u64) {
    let sql = "SELECT count(*) AS n FROM events WHERE ip_pool LIKE 'elsewhere:%'";
    until("the events in SQL", Duration::from_secs(20), async || (home.count(sql) == events).then_some(()))
        .await;
    assert_eq!(
        home.count("SELECT count(DISTINCT event_id) AS n FROM events WHERE ip_pool LIKE 'elsewhere:%'"),
        events
    );
}

#[tokio::test]
async fn every_senders_files_enter_the_lake_once_on_their_own_days() {
    let home = Home::new();
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    let mut events = 0;
    for (from, file, counts) in FILES {
        assert_eq!(counted(&home, from, &fixture(file), &["--dry-run"]), counts, "{from}, dry");
        assert_eq!(counted(&home, from, &fixture(file), &["--stream", "marketing"]), counts, "{from}");
        let [read, mapped, repeated, unmapped, bad] = counts;
        assert_eq!(
            counted(&home, from, &fixture(file), &[]),
            [read, 0, mapped + repeated, unmapped, bad],
            "{from}, again"
        );
        events += mapped;
    }
    in_the_lake(&home, events).await;
    assert!(home.count("SELECT count(*) AS n FROM events WHERE ip_pool LIKE 'elsewhere:%' AND event_date = DATE '2026-11-03'") > 50);
    // nobody is suppressed, and no limit was spent
    assert_eq!(home.ok(&["suppression", "ls", "--format", "json"]).trim(), "[]");
    assert_eq!(home.count("SELECT count(*) AS n FROM events WHERE event_type = 'suppression_added'"), 0);
    server.stop().await;
}

#[tokio::test]
async fn feedback_finds_its_delivery_and_suppresses_when_it_is_asked_to() {
    let home = Home::new();
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    let file = |name: &str, records: &[Value]| {
        let path = home.path().join(name);
        std::fs::write(&path, records.iter().map(|record| format!("{record}\n")).collect::<String>())
            .unwrap();
        path
    };
    let delivered = json!({"event": "delivered", "email": "eve@hotmail.com", "timestamp": 1_793_701_202, "sg_event_id": "1", "sg_message_id": "m1", "response": "250 ok", "category": "spring"});
    let complaint = json!({"event": "spamreport", "email": "eve@hotmail.com", "timestamp": 1_793_787_600, "sg_event_id": "2", "sg_message_id": "m1"});
    let first = file("first.json", &[delivered]);
    let second = file("second.json", &[complaint]);
    assert_eq!(
        counted(&home, "sendgrid", &first, &["--stream", "marketing", "--domain", "shop.example"]),
        [1, 1, 0, 0, 0]
    );
    in_the_lake(&home, 1).await;
    assert_eq!(counted(&home, "sendgrid", &second, &[]), [1, 1, 0, 0, 0]);
    in_the_lake(&home, 2).await;
    let complained = &home.sql("SELECT stream, campaign_id, header_from_domain, CAST(delivered_at AS STRING) AS delivered_at FROM events WHERE event_type = 'complained'")[0];
    assert_eq!(
        (&complained["stream"], &complained["campaign_id"], &complained["header_from_domain"]),
        (&json!("marketing"), &json!("spring"), &json!("shop.example"))
    );
    assert!(complained["delivered_at"].as_str().unwrap().starts_with("2026-11-03T10:20:02"), "{complained}");
    let listed = |home: &Home| {
        serde_json::from_str::<Value>(&home.ok(&["suppression", "ls", "--format", "json"])).unwrap()
    };
    assert_eq!(listed(&home), json!([]));
    // known events count when it is asked for later
    assert_eq!(counted(&home, "sendgrid", &second, &["--suppress"]), [1, 0, 1, 0, 0]);
    let row = until("the suppression", Duration::from_secs(10), async || listed(&home).get(0).cloned()).await;
    assert_eq!(
        (&row["address"], &row["reason"], &row["actor"]),
        (&json!("eve@hotmail.com"), &json!("complaint"), &json!("elsewhere:sendgrid"))
    );
    server.stop().await;
}

#[tokio::test]
async fn a_killed_server_neither_loses_nor_repeats_what_a_file_brought() {
    let home = Home::new();
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    let path = home.path().join("many.json");
    let lines: String = (0..12_000)
        .map(|n| {
            let record = json!({"event": "delivered", "email": format!("u{n}@gmail.com"), "timestamp": 1_790_000_000 + n * 60, "sg_event_id": format!("e{n}"), "sg_message_id": format!("m{n}"), "response": "250 2.0.0 OK"});
            format!("{record}\n")
        })
        .collect();
    std::fs::write(&path, lines).unwrap();
    let mut ingest = home
        .command(&["ingest", path.to_str().unwrap(), "--from", "sendgrid", "--tenant", "acme"])
        .spawn()
        .unwrap();
    until("some of the events", Duration::from_secs(30), async || {
        (home.count("SELECT count(*) AS n FROM events WHERE ip_pool = 'elsewhere:sendgrid'") > 0)
            .then_some(())
    })
    .await;
    server.kill();
    let server = home.start().await;
    ingest.wait().unwrap();
    let [read, _, _, unmapped, bad] = counted(&home, "sendgrid", &path, &[]);
    assert_eq!((read, unmapped, bad), (12_000, 0, 0));
    in_the_lake(&home, 12_000).await;
    assert_eq!(counted(&home, "sendgrid", &path, &[]), [12_000, 0, 12_000, 0, 0]);
    server.stop().await;
}

async fn pushed(server: &Server, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
    let answer = server.http.post(path, "", headers, body.to_owned()).await;
    (answer.status, answer.json())
}

/// The path of a new webhook.
fn webhook(home: &Home, args: &[&str]) -> String {
    let told = home.ok(&[&["webhook-in", "add"][..], args, &["--tenant", "acme"]].concat());
    let url = told.lines().next().unwrap();
    format!("/v1/webhooks/{}", url.split("/v1/webhooks/").nth(1).unwrap())
}

#[tokio::test]
async fn pushes_are_recorded_once_and_only_with_their_proof() {
    let home = Home::new();
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    let password = home.path().join("basic");
    std::fs::write(&password, "pm:geheim\n").unwrap();
    let postmark = webhook(&home, &["postmark", "--suppress", "--basic-file", password.to_str().unwrap()]);
    let complaint = json!({"RecordType": "SpamComplaint", "ID": 7, "Type": "SpamComplaint", "MessageID": "x", "MessageStream": "broadcast", "Email": "hal@yahoo.com", "From": "news@shop.example", "BouncedAt": "2026-11-04T10:20:00Z"}).to_string();
    let basic = [("authorization", "Basic cG06Z2VoZWlt")];
    assert_eq!(pushed(&server, &postmark, &[], &complaint).await.0, 403);
    let taken = |mapped, repeated| {
        (200, json!({"read": 1, "mapped": mapped, "repeated": repeated, "unmapped": 0, "bad": 0}))
    };
    assert_eq!(pushed(&server, &postmark, &basic, &complaint).await, taken(1, 0));
    assert_eq!(pushed(&server, &postmark, &basic, &complaint).await, taken(0, 1));
    // another sender's address, a token that is none, a body that is none
    assert_eq!(pushed(&server, &postmark.replace("postmark", "sparkpost"), &basic, &complaint).await.0, 404);
    assert_eq!(pushed(&server, "/v1/webhooks/postmark/x", &basic, &complaint).await.0, 404);
    assert_eq!(pushed(&server, &postmark, &basic, "{}").await.0, 422);

    let sparkpost = webhook(&home, &["sparkpost"]);
    assert_eq!(pushed(&server, &sparkpost, &[], "[{\"msys\":{}}]").await.0, 200, "SparkPost's test push");

    let ses = webhook(&home, &["ses", "--topic", "arn:aws:sns:us-east-1:123456789012:feedback"]);
    let forged = json!({"Type": "Notification", "MessageId": "1", "TopicArn": "arn:aws:sns:us-east-1:123456789012:feedback", "Message": "{}", "Timestamp": "2026-11-04T08:00:01.000Z", "SignatureVersion": "1", "Signature": "AAAA", "SigningCertURL": "https://sns.us-east-1.amazonaws.com.evil.test/a.pem"});
    let (status, told) = pushed(&server, &ses, &[], &forged.to_string()).await;
    assert!(status == 403 && told["detail"].as_str().unwrap().contains("no address of SNS"), "{told}");
    let mut other = forged;
    other["TopicArn"] = json!("arn:aws:sns:us-east-1:666666666666:feedback");
    assert_eq!(pushed(&server, &ses, &[], &other.to_string()).await.0, 403);

    in_the_lake(&home, 1).await;
    // the file of the same events brings nothing new
    let file = home.path().join("stored.json");
    std::fs::write(&file, &complaint).unwrap();
    assert_eq!(counted(&home, "postmark", &file, &[]), [1, 0, 1, 0, 0]);
    let listed: Value = serde_json::from_str(&home.ok(&["suppression", "ls", "--format", "json"])).unwrap();
    assert_eq!(listed[0]["address"], "hal@yahoo.com");

    let rows: Value = serde_json::from_str(&home.ok(&["webhook-in", "ls", "--format", "json"])).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 3);
    let id = rows.as_array().unwrap().iter().find(|row| row["sender"] == "postmark").unwrap()["webhook_id"]
        .clone();
    home.ok(&["webhook-in", "rm", id.as_str().unwrap()]);
    assert_eq!(pushed(&server, &postmark, &basic, &complaint).await.0, 404);
    server.stop().await;
}

#[test]
fn a_mistake_is_told_before_anything_is_read() {
    let home = Home::new();
    let file = fixture("ses.json");
    let path = file.to_str().unwrap();
    let said = home.run(&["ingest", path, "--from", "ses", "--tenant", "acme"]);
    assert!(said.code == 5 && said.err.contains("--dry-run"), "{said:?}");
    assert_eq!(home.run(&["ingest", path, "--from", "ses"]).code, 2);
    assert_eq!(home.run(&["ingest", path, "--from", "sendmail", "--tenant", "acme"]).code, 2);
    let said = home.run(&["ingest", path, "--from", "sendgrid", "--tenant", "acme", "--dry-run"]);
    assert!(said.code == 4 && said.err.contains("is --from right?"), "{said:?}");
}
