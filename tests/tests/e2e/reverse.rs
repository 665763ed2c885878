//! Reverse ETL: a tenant's rows in a CRM, by schedule and by hand, through a kill; only what changed is posted.

// The CRM of the unit tests: it speaks both shapes, and refuses what it does not know.
#[allow(dead_code, reason = "the unit tests use the rest")]
#[path = "../../../connectors/src/reverse/tests/crm.rs"]
mod crm;

use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::peers::free_port;
use sendlake_tests::until;
use serde_json::{Value, json};

use self::crm::{BAD_NAME, Crm, Fault};
use crate::message;

const QUERY: &str = "SELECT recipient AS email, count(*) AS score, CAST(NULL AS VARCHAR) AS last_open, max(campaign_id) AS name \
                     FROM events WHERE event_type = 'accepted' GROUP BY recipient";

fn posting(crm: &Crm, shape: &str) -> Home {
    let (object, id_property) =
        if shape == "hubspot" { ("contacts", "email") } else { ("Contact", "Email__c") };
    let mut home = Home::new().route("sink.test", format!("127.0.0.1:{}", free_port()));
    for (key, value) in [
        ("schedule", "manual"),
        ("tenant", "acme"),
        ("query", QUERY),
        ("key", "email"),
        ("shape", shape),
        ("url", &crm.url()),
        ("object", object),
        ("id_property", id_property),
    ] {
        home = home.set(&format!("reverse.crm.{key}"), format!("{value:?}"));
    }
    home.set("reverse.crm.allow_private_addresses", true)
        .set("reverse.crm.requests_per_s", 100)
        .set("reverse.crm.secret_headers", "{ Authorization = \"secret:crm\" }")
}

fn keep_secret(home: &Home, text: &str) {
    let file = home.path().join("token");
    std::fs::write(&file, text).unwrap();
    let status =
        home.command(&["secret", "set", "crm"]).stdin(std::fs::File::open(&file).unwrap()).status().unwrap();
    assert!(status.success());
}

fn status(home: &Home) -> Value {
    let printed = home.ok(&["reverse", "status", "--format", "json"]);
    let rows: Value = serde_json::from_str(&printed).unwrap();
    rows[0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_rows_reach_both_shapes_and_only_what_changed_is_posted_again() {
    for shape in ["hubspot", "salesforce"] {
        let crm = Crm::start().await;
        let home = posting(&crm, shape);
        let server = home.start().await;
        let acme = home.tenant("acme", "acme.example");
        let globex = home.tenant("globex", "globex.example");
        server.http.ready(&acme, "acme.example").await;
        server.http.ready(&globex, "globex.example").await;
        for number in 0..5 {
            server.http.send(&acme, &message(&format!("person{number}@sink.test"))).await;
        }
        server
            .http
            .send(
                &globex,
                &crate::message_with("other@sink.test", json!({"from": "Eve <eve@globex.example>"})),
            )
            .await;

        keep_secret(&home, "not-yet\n");
        let preview = home.ok(&["reverse", "preview", "crm"]);
        assert!(preview.contains("person3@sink.test") && preview.contains("5 of 5 rows"), "{preview}");
        assert!(!preview.contains("not-yet") && crm.sizes().is_empty(), "{preview}");
        let refused = home.run(&["reverse", "run", "crm"]);
        assert!(
            refused.code == 4 && refused.err.contains("credential") && !refused.err.contains("not-yet"),
            "{refused:?}"
        );
        let failing = status(&home);
        assert_eq!(failing["state"], "failing");
        assert!(failing["error"].as_str().unwrap().starts_with("credentials since "), "{failing}");
        assert!(home.ok(&["export", "status"]).contains("reverse-crm"), "the ledger is one");

        keep_secret(&home, "s3cret");
        let ran = home.ok(&["reverse", "run", "crm"]);
        assert_eq!(ran, "crm: 5 rows; 5 sent in 1 requests, 0 refused, 0 left alone, 0 without a key\n");
        assert!(crm.record("other@sink.test").is_none(), "another tenant's row");
        let person = crm.record("person3@sink.test").unwrap();
        let score = if shape == "hubspot" { json!("1") } else { json!(1) };
        assert_eq!(person["score"], score);

        server.http.send(&acme, &message("person3@sink.test")).await;
        let ran = home.ok(&["reverse", "run"]);
        assert!(ran.contains("1 sent in 1 requests, 0 refused, 4 left alone"), "{ran}");
        let score = if shape == "hubspot" { json!("2") } else { json!(2) };
        assert_eq!(crm.record("person3@sink.test").unwrap()["score"], score);

        let batches = "SELECT source_table, change, state, rows_staged, rows_loaded FROM export_batches WHERE connector = 'reverse-crm' ORDER BY planned_at";
        let batch = |rows| json!({"source_table": "reverse", "change": "replace", "state": "committed", "rows_staged": rows, "rows_loaded": rows});
        assert_eq!(home.sql(batches), [batch(5), batch(1)]);
        let well = status(&home);
        assert_eq!(
            (&well["state"], &well["rows_sent"], &well["rows_refused"]),
            (&json!("ok"), &json!(5), &json!(0))
        );
        home.ok(&["reverse", "forget", "crm"]);
        assert!(home.ok(&["reverse", "run", "crm"]).contains("5 sent"));
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_posts_by_schedule_and_goes_on_after_a_kill() {
    let crm = Crm::start().await;
    let home = posting(&crm, "hubspot")
        .set("reverse.crm.schedule", "\"* * * * *\"")
        .set("reverse.crm.batch_rows", 2)
        .set("reverse.crm.requests_per_s", 2);
    // The secret is kept before the connector is due for the first time.
    let first = home.start().await;
    keep_secret(&home, "s3cret");
    first.stop().await;
    home.ok(&["reverse", "pause", "crm"]);
    let server = home.start().await;
    let acme = home.tenant("acme", "acme.example");
    server.http.ready(&acme, "acme.example").await;
    for number in 0..8 {
        server.http.send(&acme, &message(&format!("person{number}@sink.test"))).await;
    }
    assert!(crm.sizes().is_empty(), "it is paused");
    crm.fail(Fault::Status(429, vec![("retry-after", "1")], "{}"));
    home.ok(&["reverse", "retry", "crm"]);
    home.ok(&["reverse", "resume", "crm"]);
    // In the middle of the run, which takes two seconds.
    until("two requests to be answered", Duration::from_secs(90), async || {
        (crm.records.lock().unwrap().len() >= 4).then_some(())
    })
    .await;
    server.kill();
    let server = home.start().await;
    home.ok(&["reverse", "retry", "crm"]);
    let sent = until("all rows to be known as sent", Duration::from_secs(150), async || {
        let status = status(&home);
        (status["rows_sent"] == 8).then_some(status)
    })
    .await;
    assert_eq!(sent["rows_refused"], 0);
    assert_eq!(crm.records.lock().unwrap().len(), 8);
    let records: usize = crm.sizes().iter().sum();
    assert!(
        records <= 8 + 2 + 2,
        "only the refused request and the one in hand were repeated: {:?}",
        crm.sizes()
    );
    assert!(!server.log().contains("s3cret") && !server.log().contains(BAD_NAME));
    server.stop().await;
}

#[test]
fn settings_are_checked_with_the_configuration() {
    let home = Home::new().set("reverse.crm.query", "\"SELECT 1\"").set("reverse.crm.key", "\"id\"");
    let said = home.run(&["config", "check"]);
    assert!(said.code == 2 && said.err.contains("reverse.crm.url: write https://"), "{said:?}");
    let said = home.run(&["reverse", "run", "crm"]);
    assert_eq!(said.code, 2, "{said:?}");
    let said = Home::new().run(&["reverse", "preview", "nothing"]);
    assert!(said.code == 3 && said.err.contains("[reverse.nothing]"), "{said:?}");
}
