//! The list of suppressions as its owners use it: brought in from files, taken out, complete or not, lost and rebuilt.

use std::path::Path;
use std::time::Duration;

use sendlake::demo::receivers::{Keep, Profile, Receiver};
use sendlake_tests::home::Home;
use sendlake_tests::peers::Python;
use sendlake_tests::{http::Http, until};
use serde_json::{Value, json};

use crate::message_with;

const PATIENCE: Duration = Duration::from_secs(30);

fn sink() -> Receiver {
    let clock = sendlake::system::ids().clock;
    let profile =
        Profile { reply_delay: Duration::ZERO, slow_delay: Duration::ZERO, ..Profile::accept_all() };
    Receiver::start(profile.record(Keep::Digest, clock), 1).unwrap()
}

async fn send(http: &Http, key: &str, to: &str, stream: &str) -> String {
    http.send(key, &message_with(to, json!({ "stream": stream }))).await.remove(0)
}

fn write(home: &Home, name: &str, text: &str) -> String {
    let path = home.path().join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn rows(home: &Home, args: &[&str]) -> Vec<Value> {
    let printed = home.ok(&[&["suppression"], args, &["--format", "json"]].concat());
    serde_json::from_str::<Value>(&printed).unwrap().as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_of_other_senders_come_in_once_are_in_force_at_once_and_go_out_again() {
    let sink = sink();
    let home = Home::new().route("sink.test", sink.addr());
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let ses = write(&home, "ses.csv", "ann@sink.test,COMPLAINT\nbob@sink.test,BOUNCE\nnobody,BOUNCE\n");
    let import = |file: &str, more: &[&str]| {
        let args = [&["suppression", "import", file, "--tenant", "acme"], more].concat();
        home.run(&args)
    };
    let tried = import(&ses, &["--dry-run"]);
    assert_eq!(tried.code, 4, "a line is bad: {tried:?}");
    assert!(tried.out.contains("(ses): 3 records = 2 would be added + 0 on the list"), "{tried:?}");
    assert!(tried.err.contains("line 3: \"nobody\""), "{tried:?}");
    assert_eq!(rows(&home, &["ls"]).len(), 0, "a dry run changes nothing");
    let done = import(&ses, &[]);
    assert!(done.out.contains("2 added + 0 on") && done.out.contains("acme has 2 entries now"), "{done:?}");
    let again = import(&ses, &[]);
    assert!(
        again.out.contains("0 added + 2 on") && again.out.contains("acme has 2 entries now"),
        "{again:?}"
    );
    let postmark = write(
        &home,
        "dump.json",
        r#"{"Suppressions":[{"EmailAddress":"Carl@sink.test","SuppressionReason":"ManualSuppression","Origin":"Recipient",
            "CreatedAt":"2019-12-10T08:58:33-05:00"}]}"#,
    );
    assert_eq!(import(&postmark, &[]).code, 0);
    assert_eq!(import(&write(&home, "x.csv", "colour\nred\n"), &[]).code, 4);

    for (to, stream, outcome) in [
        ("ann@sink.test", "marketing", "suppressed"),
        ("ann@sink.test", "transactional", "delivered"),
        ("BOB@sink.test", "transactional", "suppressed"),
        ("carl@sink.test", "cold", "suppressed"),
        ("dora@sink.test", "marketing", "delivered"),
    ] {
        let id = send(&server.http, &key, to, stream).await;
        server.http.outcome(&key, &id, outcome).await;
    }
    let shown = rows(&home, &["show", "carl@sink.test"]);
    assert_eq!((&shown[0]["reason"], &shown[0]["reach"]), (&json!("unsubscribe"), &json!("bulk")));
    assert_eq!(shown[0]["since"], "2019-12-10T13:58:33.000000Z");
    assert!(shown[0]["event_id"].as_str().unwrap().len() == 36, "{shown:?}");
    assert_eq!(home.run(&["suppression", "show", "dora@sink.test"]).code, 3);
    let told = home.sql(
        "SELECT recipient, detail FROM events WHERE event_type = 'suppression_added' ORDER BY recipient",
    );
    assert_eq!(told.len(), 3, "one event for each entry: {told:?}");
    let detail: Value = serde_json::from_str(told[2]["detail"].as_str().unwrap()).unwrap();
    assert_eq!((&detail["reason"], &detail["event_id"]), (&json!("unsubscribe"), &shown[0]["event_id"]));
    assert_eq!(detail["list"]["entries"], 3, "with what the list adds up to: {detail}");

    for format in ["csv", "ndjson", "ses", "sendgrid", "mailgun", "postmark", "sparkpost"] {
        let file = home.path().join(format!("list.{format}"));
        let out = home.run(&["suppression", "export", file.to_str().unwrap(), "--format", format]);
        assert!(out.code == 0 && out.err.contains("3 entries"), "{out:?}");
        let back = import(file.to_str().unwrap(), &["--dry-run"]);
        assert_eq!(back.code, 0, "{format}: {back:?}");
        // SparkPost has an entry for each type of mail
        let written = std::fs::read_to_string(&file).unwrap().lines().count() - 1;
        let records = if format == "sparkpost" { written } else { 3 };
        assert!(back.out.contains(&format!("({format}): {records} records")), "{back:?}");
        if ["csv", "ndjson"].contains(&format) {
            assert!(back.out.contains("0 would be added + 3 on the list"), "{back:?}");
        }
    }
    server.stop().await;
}

/// The sum of the list, here and in the lake; and whether mail goes out.
fn status(home: &Home) -> (i32, String, String) {
    let said = home.run(&["suppression", "status"]);
    let line =
        |name: &str| said.out.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    let lake = line("the lake:  ");
    (said.code, line("the list:  "), lake.split(", as of").next().unwrap().to_owned() + &said.err)
}

async fn kept(home: &Home) -> String {
    until("the lake to know the list", PATIENCE, async || {
        let (_, list, lake) = status(home);
        (list == lake).then_some(list)
    })
    .await
}

fn copy_control(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for name in ["control.db", "control.db-wal", "control.db-shm"] {
        let _ = std::fs::remove_file(to.join(name));
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_control_store_stops_bulk_mail_until_the_list_is_rebuilt() {
    let sink = sink();
    let home = Home::new().route("sink.test", sink.addr());
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    let file = write(&home, "a.csv", "ann@sink.test,unsubscribe\nbob@sink.test,hard_bounce\n");
    home.ok(&["suppression", "import", &file, "--tenant", "acme"]);
    kept(&home).await;
    server.stop().await;
    let backup = home.path().join("backup");
    copy_control(home.data(), &backup);

    let server = home.start().await;
    let file = write(&home, "b.csv", "carl@sink.test,complaint\ndora@sink.test,unsubscribe\n");
    home.ok(&["suppression", "import", &file, "--tenant", "acme"]);
    home.ok(&["suppression", "rm", "ann@sink.test", "--tenant", "acme", "--note", "asked for it"]);
    let before = kept(&home).await;
    assert!(before.starts_with("3 entries"), "{before}");
    server.stop().await;
    copy_control(&backup, home.data());

    let server = home.start().await;
    assert!(server.log().contains("marketing and cold mail waits: control.db is older"), "{}", server.log());
    server.http.ready(&key, "acme.example").await;
    let held = send(&server.http, &key, "carl@sink.test", "marketing").await;
    let good = send(&server.http, &key, "eve@sink.test", "cold").await;
    let urgent = send(&server.http, &key, "eve@sink.test", "transactional").await;
    server.http.outcome(&key, &urgent, "delivered").await;
    let history = server.http.outcome(&key, &held, "held").await;
    let last = history["events"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["policy_id"], "suppressions_incomplete", "{last}");
    assert!(last["hold_reason"].as_str().unwrap().contains("sendlake suppression rebuild"), "{last}");
    let (code, _, told) = status(&home);
    assert!(code == 4 && told.contains("older than the list that the lake knows"), "{told}");

    let dry = home.ok(&["suppression", "rebuild", "--dry-run"]);
    assert!(dry.contains("2 entries would be restored") && dry.contains("1 would be lifted"), "{dry}");
    assert_eq!(status(&home).0, 4, "a dry run changes nothing");
    let done = home.ok(&["suppression", "rebuild"]);
    assert!(done.contains("2 entries restored") && done.contains("they are equal"), "{done}");
    assert!(done.contains(&before), "the same list as before, by count and hash: {before}: {done}");
    server.http.outcome(&key, &held, "suppressed").await;
    server.http.outcome(&key, &good, "delivered").await;
    assert_eq!(kept(&home).await, before);
    assert!(
        home.ok(&["suppression", "rebuild"]).contains("0 entries restored"),
        "a second run finds nothing"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_control_store_is_missed_and_the_lake_gives_back_the_list_with_its_tombstones() {
    let Some(python) = Python::with(&["sqlite3"]) else { return };
    let sink = sink();
    let home = Home::new().route("sink.test", sink.addr());
    let server = home.start().await;
    home.tenant("acme", "acme.example");
    let file = write(
        &home,
        "a.csv",
        "ann@sink.test,unsubscribe\nbob@sink.test,hard_bounce\ncarl@sink.test,complaint\n",
    );
    home.ok(&["suppression", "import", &file, "--tenant", "acme"]);
    home.ok(&["lake", "erase", "--recipient", "carl@sink.test", "--tenant", "acme"]);
    let before = kept(&home).await;
    assert!(before.starts_with("4 entries"), "carl's complaint and his tombstone: {before}");
    server.stop().await;

    // rows that vanish behind its back
    let control = home.data().join("control.db");
    let delete = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); \
        db.execute(\"DELETE FROM suppressions WHERE reason = 'hard_bounce'\"); db.commit(); db.close()";
    assert!(python.command().args(["-c", delete]).arg(&control).status().unwrap().success());
    let (code, _, told) = status(&home);
    assert!(
        code == 4 && told.contains("holds 3 suppressions") && told.contains("there should be 4"),
        "{told}"
    );
    let done = home.ok(&["suppression", "rebuild"]);
    assert!(done.contains("1 entries restored") && done.contains(&before), "{before}: {done}");
    assert_eq!(status(&home).0, 0);

    // all of it is gone, but for the master key and the lake
    for entry in std::fs::read_dir(home.data()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("control.db") || name == "suppressions.idx" {
            std::fs::remove_file(&path).unwrap();
        } else if name == "spool" {
            std::fs::remove_dir_all(&path).unwrap();
        }
    }
    let server = home.start().await;
    assert!(server.log().contains("was made anew"), "{}", server.log());
    let done = home.ok(&["suppression", "rebuild"]);
    assert!(
        done.contains("4 entries restored (2 of them tombstones)") && done.contains(&before),
        "{before}: {done}"
    );
    assert!(done.contains("tenant acme was made anew") && done.contains("they are equal"), "{done}");
    home.ok(&["domain", "add", "--warm", "--tenant", "acme", "acme.example"]);
    let key = home.key("acme", &["send", "read", "sql"]);
    server.http.ready(&key, "acme.example").await;
    for (to, stream, outcome) in [
        ("ann@sink.test", "marketing", "suppressed"),
        ("bob@sink.test", "transactional", "suppressed"),
        ("Carl@sink.test", "transactional", "suppressed"),
        ("eve@sink.test", "marketing", "delivered"),
    ] {
        let id = send(&server.http, &key, to, stream).await;
        server.http.outcome(&key, &id, outcome).await;
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_is_judged_before_anybody_sends_and_the_tenants_own_list_is_kept_over_http() {
    let sink = sink();
    let home = Home::new().route("sink.test", sink.addr());
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    let bolt = home.tenant("bolt", "bolt.example");
    server.http.ready(&key, "acme.example").await;
    let id = send(&server.http, &key, "fresh@sink.test", "marketing").await;
    server.http.outcome(&key, &id, "delivered").await;

    let add = json!({"address": "Ann@sink.test", "reason": "unsubscribe", "note": "by phone"}).to_string();
    for status in [201, 200] {
        assert_eq!(server.http.post("/v1/suppressions", &key, &[], add.clone()).await.status, status);
    }
    for (body, status) in [
        (json!({"address": "ann"}), 422),
        (json!({"address": "a@b.test", "reason": "dislike"}), 422),
        (json!({"address": "a@b.test", "reach": "global"}), 403),
        (json!({"address": "a@b.test", "colour": "red"}), 422),
    ] {
        let answer = server.http.post("/v1/suppressions", &key, &[], body.to_string()).await;
        assert_eq!(answer.problem().0, status, "{body}");
    }
    let import =
        server.http.post("/v1/suppressions/import", &key, &[], "bob@sink.test,BOUNCE\nx,BOUNCE\n").await;
    assert_eq!((&import.json()["added"], &import.json()["bad"]), (&json!(1), &json!(1)), "{}", import.text());
    let page = server.http.get("/v1/suppressions?limit=1", &key).await.json();
    assert_eq!(
        (page["suppressions"].as_array().unwrap().len(), page["next"].is_number()),
        (1, true),
        "{page}"
    );
    let exported = server.http.get("/v1/suppressions/export?format=ses", &key).await.text();
    assert_eq!(exported, "ann@sink.test,COMPLAINT\nbob@sink.test,BOUNCE\n");
    let others = server.http.get("/v1/suppressions", &bolt).await.json();
    assert_eq!(others["suppressions"], json!([]), "another tenant sees nothing");
    let read_only = home.key("acme", &["read"]);
    let refused = server.http.post("/v1/suppressions", &read_only, &[], add).await;
    assert_eq!(refused.status, 403);

    let list = "email,name\nfresh@sink.test,F\nFRESH@sink.test,F\nann@sink.test,A\nbob@sink.test,B\nnobody,N\n\
        info@sink.test,I\ncarl@gmial.com,C\nd.o.ra@gmail.com,D\ndora+x@gmail.com,D\neve@yopmail.com,E\n";
    let file = write(&home, "list.csv", list);
    let printed = home.ok(&["list", "check", &file, "--tenant", "acme", "--format", "json"]);
    let report: Value = serde_json::from_str(&printed).unwrap();
    let found = |report: &Value, name: &str| {
        let all = report["findings"].as_array().unwrap();
        all.iter()
            .find(|found| found["finding"] == name)
            .map_or(0, |found| found["addresses"].as_u64().unwrap())
    };
    for (finding, addresses) in [
        ("malformed", 1),
        ("suppressed", 2),
        ("likely_trap", 1),
        ("disposable", 1),
        ("role", 1),
        ("never", 7),
    ] {
        assert_eq!(found(&report, finding), addresses, "{finding}: {report:#}");
    }
    assert_eq!((&report["records"], &report["addresses"]), (&json!(10), &json!(8)), "{report:#}");
    assert_eq!((&report["duplicates"], &report["same_mailbox"]), (&json!(1), &json!(1)));
    assert_eq!(report["freshness"]["0-30"], 1, "{report:#}");
    assert!(
        report["plan"].as_array().unwrap().iter().any(|share| share["provider"] == "google"),
        "{report:#}"
    );
    assert!(printed.contains("ann@sink.test (unsubscribe since 20"), "{printed}");
    let table = home.ok(&["list", "check", &file, "--tenant", "acme", "--stream", "transactional"]);
    assert!(table.contains("score ") && table.contains("last delivered"), "{table}");
    let answer = server.http.post("/v1/lists/check", &key, &[], list).await;
    assert_eq!((answer.status, &answer.json()["findings"]), (200, &report["findings"]), "{}", answer.text());
    let answer = server.http.post("/v1/lists/check", &bolt, &[], list).await.json();
    assert_eq!(
        (found(&answer, "suppressed"), found(&answer, "never")),
        (0, 8),
        "of others nothing is known: {answer}"
    );
    server.stop().await;
}
