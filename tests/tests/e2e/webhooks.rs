//! Events pushed to endpoints: signed as the official library checks it, in order within a message, again after a failure,
//! a crash or a wish; and nothing to those who must not be asked.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::peers::{Peer, missing};
use sendlake_tests::server::Server;
use sendlake_tests::until;
use serde_json::{Value, json};

/// `tests/peers/webhook_sink.py`, with as many receivers as are named.
struct Sink {
    port: u16,
    dir: PathBuf,
    _process: Peer,
}

impl Sink {
    fn start(home: &Home) -> Option<Self> {
        let venvs = std::env::var_os("SENDLAKE_TEST_VENVS").map(PathBuf::from).unwrap_or_default();
        let python = venvs.join("webhooks/bin/python");
        if !python.exists() {
            missing(
                "a Python with standardwebhooks",
                "`make test` prepares one below the folder that SENDLAKE_TEST_VENVS names",
            );
            return None;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/webhook_sink.py");
        let dir = home.path().join("webhooks");
        std::fs::create_dir_all(&dir).unwrap();
        let mut process = Command::new(python).arg(script).arg(&dir).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Some(Self { port: line.trim().parse().unwrap(), dir, _process: Peer::from(process) })
    }

    fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}/in?token=t", self.port)
    }

    fn set(&self, name: &str, what: &str, text: &str) {
        std::fs::write(self.dir.join(format!("{name}.{what}")), text).unwrap();
    }

    /// What a receiver took note of.
    fn got(&self, name: &str) -> Vec<Value> {
        let log = std::fs::read_to_string(self.dir.join(format!("{name}.jsonl"))).unwrap_or_default();
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How many different events a receiver answered with 200.
    fn taken(&self, name: &str) -> usize {
        let got = self.got(name);
        let taken = got.iter().filter(|line| line["answer"] == "200" || line["answer"] == "slow");
        taken.map(|line| line["id"].as_str().unwrap()).collect::<std::collections::BTreeSet<_>>().len()
    }
}

fn home() -> Home {
    Home::new()
        .set("webhooks.allow_private_addresses", true)
        .set("webhooks.retry_intervals_s", "[1]")
        .set("webhooks.answer_timeout_ms", 1_500)
        .set("webhooks.replay_per_s", 1_000)
}

/// Makes an endpoint whose receiver knows its secret. Returns its id.
fn add(home: &Home, sink: &Sink, name: &str, args: &[&str]) -> String {
    let url = sink.url(name);
    let told = home.ok(&[&["webhook", "add", &url, "--tenant", "acme"][..], args].concat());
    let (id, secret) = told.trim().split_once('\n').unwrap();
    sink.set(name, "secret", secret);
    id.to_owned()
}

/// Until the server has taken an endpoint up.
async fn known(home: &Home, endpoint: &str) {
    // events have times to the second
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    until("the server to know the endpoint", Duration::from_secs(10), async || {
        (!shown(home, endpoint)["through"].is_null()).then_some(())
    })
    .await;
}

fn shown(home: &Home, endpoint: &str) -> Value {
    serde_json::from_str(&home.ok(&["webhook", "show", endpoint])).unwrap()
}

/// Brings in so many messages of another sender, each sent, opened and clicked on just now: what is older than an endpoint
/// is not sent there.
fn bring(home: &Home, name: &str, messages: usize) -> usize {
    let now = home.count("SELECT CAST(date_part('epoch', as_of) AS BIGINT) AS n FROM as_of");
    let path = home.path().join(format!("{name}.json"));
    let mut lines = String::new();
    for n in 0..messages {
        for kind in ["delivered", "open", "click"] {
            let record = json!({"event": kind, "email": format!("u{n}@gmail.com"), "timestamp": now,
                "sg_event_id": format!("{name}-{n}-{kind}"), "sg_message_id": format!("{name}{n}"), "response": "250 ok",
                "url": "https://shop.example/x", "ip": "203.0.113.9", "useragent": "x", "category": "spring"});
            lines.push_str(&format!("{record}\n"));
        }
    }
    std::fs::write(&path, lines).unwrap();
    home.ok(&[
        "ingest",
        path.to_str().unwrap(),
        "--from",
        "sendgrid",
        "--tenant",
        "acme",
        "--stream",
        "marketing",
    ]);
    3 * messages
}

async fn arrived(sink: &Sink, name: &str, events: usize) {
    until(&format!("{events} events at {name}"), Duration::from_secs(60), async || {
        (sink.taken(name) >= events).then_some(())
    })
    .await;
}

/// The ids of a type of events in the lake.
fn in_the_lake(home: &Home, condition: &str) -> Vec<String> {
    let sql = format!("SELECT event_id FROM events WHERE {condition} ORDER BY event_id");
    home.sql(&sql).iter().map(|row| row["event_id"].as_str().unwrap().to_owned()).collect()
}

fn ids(got: &[Value]) -> Vec<String> {
    let mut ids: Vec<String> = got.iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn each_event_arrives_signed_and_each_messages_events_in_order() {
    let home = home();
    let Some(sink) = Sink::start(&home) else { return };
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    home.tenant("bolt", "bolt.example");
    let all = add(&home, &sink, "all", &["--stream", "marketing"]);
    let opens = add(&home, &sink, "opens", &["--type", "opened", "--mask", "hash"]);
    for endpoint in [&all, &opens] {
        known(&home, endpoint).await;
    }
    let events = bring(&home, "first", 100);
    arrived(&sink, "all", events).await;
    arrived(&sink, "opens", events / 3).await;
    let got = sink.got("all");
    assert!(
        got.iter().all(|line| line["verified"] == true),
        "{:?}",
        got.iter().find(|line| line["verified"] != true)
    );
    assert_eq!(ids(&got), in_the_lake(&home, "stream = 'marketing' AND tenant_id = 'acme'"));
    let mut orders: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in &got {
        let data = &line["body"]["data"];
        assert_eq!((&data["event_id"], &data["event_type"]), (&line["id"], &line["body"]["type"]));
        assert_eq!(data["tenant_id"], "acme");
        let message = data["message_id"].as_str().unwrap_or_else(|| data["event_id"].as_str().unwrap());
        orders.entry(message.to_owned()).or_default().push(data["event_type"].as_str().unwrap().to_owned());
    }
    for (message, order) in &orders {
        assert_eq!(*order, ["delivered", "opened", "clicked"], "{message}");
    }
    // masked: the address is nowhere, and one person is one value
    let got = sink.got("opens");
    assert!(got.iter().all(|line| line["verified"] == true && line["body"]["type"] == "opened"));
    assert!(got.iter().all(|line| line["body"]["data"]["recipient"].as_str().unwrap().len() == 32));
    assert!(
        !got.iter().any(|line| line.to_string().contains("gmail.com\"") && line.to_string().contains('@'))
    );

    // a rotated secret and the one before both verify
    let old = std::fs::read_to_string(sink.dir.join("all.secret")).unwrap();
    let new = home.ok(&["webhook", "rotate", &all]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    sink.set("all", "secret", &format!("{}\n{}", new.trim(), old.trim()));
    let before = sink.got("all").len();
    let more = bring(&home, "second", 5);
    arrived(&sink, "all", events + more).await;
    for line in &sink.got("all")[before..] {
        assert_eq!((&line["verified"], &line["signatures"]), (&json!(true), &json!(2)));
    }
    let tested: Value = serde_json::from_str(&home.ok(&["webhook", "test", &all])).unwrap();
    assert_eq!((&tested["is_delivered"], &tested["status"]), (&json!(true), &json!(200)));
    let last = sink.got("all").pop().unwrap();
    assert_eq!((&last["body"]["type"], &last["verified"]), (&json!("webhook_test"), &json!(true)));
    server.stop().await;
    let state = shown(&home, &all);
    assert_eq!((&state["delivered"], &state["circuit"]), (&json!(events + more), &json!("closed")));
    assert!(!state["url"].as_str().unwrap().contains("token=t"), "{state}");
}

#[tokio::test]
async fn an_endpoint_that_is_down_holds_up_no_other_and_misses_nothing_whatever_is_killed() {
    let home = home();
    let Some(sink) = Sink::start(&home) else { return };
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    let (well, down, hung) =
        (add(&home, &sink, "well", &[]), add(&home, &sink, "down", &[]), add(&home, &sink, "hung", &[]));
    sink.set("down", "mode", "500");
    sink.set("hung", "mode", "hang");
    for endpoint in [&well, &down, &hung] {
        known(&home, endpoint).await;
    }
    let events = bring(&home, "one", 60);
    arrived(&sink, "well", events).await;
    until("the circuit to open", Duration::from_secs(20), async || {
        (shown(&home, &down)["circuit"] == "open").then_some(())
    })
    .await;
    let tries = sink.got("down").len();
    assert!(tries < 60, "{tries} requests to an endpoint that takes none");
    server.kill();
    let server = home.start().await;
    let more = bring(&home, "two", 60);
    arrived(&sink, "well", events + more).await;
    server.kill();
    let server = home.start().await;
    sink.set("down", "mode", "200");
    sink.set("hung", "mode", "200");
    arrived(&sink, "down", events + more).await;
    arrived(&sink, "hung", events + more).await;
    for name in ["well", "down", "hung"] {
        let got = sink.got(name);
        assert!(got.iter().all(|line| line["verified"] == true), "{name}");
        // at least once each; and the first arrivals of each message in order
        let mut seen = std::collections::BTreeSet::new();
        let mut orders: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in got.iter().filter(|line| line["answer"] == "200") {
            let data = &line["body"]["data"];
            if seen.insert(line["id"].as_str().unwrap().to_owned()) {
                let message = data["message_id"].as_str().unwrap().to_owned();
                orders.entry(message).or_default().push(data["event_type"].as_str().unwrap().to_owned());
            }
        }
        assert_eq!(orders.len(), 120, "{name}");
        for (message, order) in &orders {
            assert_eq!(*order, ["delivered", "opened", "clicked"], "{name}, {message}");
        }
    }
    server.stop().await;
    for endpoint in [&well, &down, &hung] {
        let state = shown(&home, endpoint);
        assert_eq!(
            (&state["circuit"], &state["parked"], &state["failed"]),
            (&json!("closed"), &json!(0), &json!(0))
        );
    }
}

async fn replayed(home: &Home, endpoint: &str, args: &[&str]) -> Value {
    let id = home.ok(&[&["webhook", "replay", endpoint][..], args].concat());
    until("the replay to end", Duration::from_secs(60), async || {
        let all: Value =
            serde_json::from_str(&home.ok(&["webhook", "replays", endpoint, "--format", "json"])).unwrap();
        let own = all.as_array().unwrap().iter().find(|row| row["replay_id"] == id.trim()).unwrap().clone();
        (own["state"] != "running").then_some(own)
    })
    .await
}

#[tokio::test]
async fn what_failed_and_what_is_wished_for_comes_again_from_the_lake() {
    let home = home().set("webhooks.give_up_after_s", 2);
    let Some(sink) = Sink::start(&home) else { return };
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    let endpoint = add(&home, &sink, "in", &["--stream", "marketing"]);
    known(&home, &endpoint).await;
    sink.set("in", "mode", "500");
    let events = bring(&home, "one", 2);
    until("failures", Duration::from_secs(60), async || {
        (shown(&home, &endpoint)["failed"].as_u64() >= Some(1)).then_some(())
    })
    .await;
    sink.set("in", "mode", "200");
    until("the rest", Duration::from_secs(60), async || {
        let state = shown(&home, &endpoint);
        let over = state["failed"].as_u64().unwrap() + state["delivered"].as_u64().unwrap();
        (state["parked"] == 0 && over == events as u64).then_some(())
    })
    .await;
    let failed = shown(&home, &endpoint)["failed"].as_u64().unwrap();
    let listed: Value =
        serde_json::from_str(&home.ok(&["webhook", "failed", &endpoint, "--format", "json"])).unwrap();
    assert_eq!(listed.as_array().unwrap().len() as u64, failed);
    let done = replayed(&home, &endpoint, &["--failed"]).await;
    assert_eq!((&done["state"], &done["delivered"]), (&json!("done"), &json!(failed)), "{done}");
    assert_eq!((shown(&home, &endpoint)["failed"].as_u64(), sink.taken("in")), (Some(0), events));
    let of_replay: Vec<Value> =
        sink.got("in").into_iter().filter(|line| line["replay"] == done["replay_id"]).collect();
    assert_eq!(of_replay.len() as u64, failed);
    assert!(of_replay.iter().all(|line| line["verified"] == true));

    // by type, by message, by time; with the ids that they had
    let done = replayed(&home, &endpoint, &["--type", "opened"]).await;
    assert_eq!((&done["state"], &done["delivered"]), (&json!("done"), &json!(2)), "{done}");
    let opened = sink.got("in").into_iter().filter(|line| line["replay"] == done["replay_id"]);
    assert_eq!(ids(&opened.collect::<Vec<_>>()), in_the_lake(&home, "event_type = 'opened'"));
    let message = sink.got("in")[0]["body"]["data"]["message_id"].as_str().unwrap().to_owned();
    let done = replayed(&home, &endpoint, &["--message-id", &message]).await;
    assert_eq!(done["delivered"], 3, "{done}");
    let done = replayed(&home, &endpoint, &["--to", "2026-01-01T00:00:00Z"]).await;
    assert_eq!((&done["state"], &done["delivered"]), (&json!("done"), &json!(0)), "{done}");
    assert_eq!(home.run(&["webhook", "replay", &endpoint, "--type", "bounce"]).code, 2);

    // a replay that a kill cut off goes on
    sink.set("in", "mode", "slow");
    bring(&home, "two", 20);
    arrived(&sink, "in", events + 60).await;
    let id = home.ok(&["webhook", "replay", &endpoint, "--from", "2026-01-01T00:00:00Z"]);
    until("some of the replay", Duration::from_secs(30), async || {
        sink.got("in").iter().any(|line| line["replay"] == id.trim()).then_some(())
    })
    .await;
    server.kill();
    sink.set("in", "mode", "200");
    let server = home.start().await;
    until("the replay to end", Duration::from_secs(60), async || {
        let told = home.ok(&["webhook", "replays", &endpoint, "--format", "json"]);
        let told: Value = serde_json::from_str(&told).unwrap();
        (told[0]["replay_id"] == id.trim() && told[0]["state"] == "done").then_some(())
    })
    .await;
    let again: Vec<Value> = sink.got("in").into_iter().filter(|line| line["replay"] == id.trim()).collect();
    let mut different = ids(&again);
    different.dedup();
    assert_eq!(different, in_the_lake(&home, "stream = 'marketing'"));
    server.stop().await;
}

async fn asked(server: &Server, method: &str, path: &str, key: &str, body: Value) -> (u16, Value) {
    let answer = server.http.ask(method, path, key, body.to_string()).await;
    (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
}

#[tokio::test]
async fn a_tenant_keeps_its_endpoints_by_api_and_sees_no_others() {
    let home = home();
    let Some(sink) = Sink::start(&home) else { return };
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    let other = home.tenant("bolt", "bolt.example");
    let (admin, reader) = (home.key("acme", &["admin", "read"]), home.key("acme", &["read"]));
    server.http.ready(&home.key("acme", &["send", "read"]), "shop.example").await;
    let wanted = json!({"url": sink.url("api"), "filter": {"event_types": ["opened"]}, "mask": "domain"});
    let (status, made) = asked(&server, "POST", "/v1/webhooks", &admin, wanted.clone()).await;
    assert_eq!(status, 201, "{made}");
    let (id, secret) = (made["endpoint_id"].as_str().unwrap(), made["secret"].as_str().unwrap());
    sink.set("api", "secret", secret);
    let path = format!("/v1/webhooks/{id}");
    // who may what
    assert_eq!(asked(&server, "POST", "/v1/webhooks", &reader, wanted).await.0, 403);
    assert_eq!(asked(&server, "GET", &path, &reader, Value::Null).await.0, 200);
    assert_eq!(asked(&server, "GET", &path, &other, Value::Null).await.0, 404);
    assert_eq!(asked(&server, "DELETE", &path, &reader, Value::Null).await.0, 403);
    let listed = asked(&server, "GET", "/v1/webhooks", &other, Value::Null).await.1;
    assert_eq!(listed["endpoints"], json!([]));
    // what is refused, and says why
    for (body, word) in [
        (json!({"url": "https://127.0.0.1:1/", "filter": {"event_types": ["bounce"]}}), "bounced_async"),
        (json!({"url": "ftp://x.example/"}), "https://"),
        (json!({"url": "https://x.example/", "mask": "md5"}), "domain"),
        (json!({"url": "https://x.example/", "filter": {"types": []}}), "event_types"),
    ] {
        let (status, told) = asked(&server, "POST", "/v1/webhooks", &admin, body).await;
        assert!(status == 422 && told["detail"].as_str().unwrap().contains(word), "{told}");
    }
    known(&home, id).await;
    bring(&home, "one", 3);
    arrived(&sink, "api", 3).await;
    let got = sink.got("api");
    assert!(
        got.iter().all(|line| line["body"]["data"]["recipient"] == "gmail.com" && line["verified"] == true)
    );
    // paused, changed, resumed: what came meanwhile is sent, as it is wanted now
    assert_eq!(
        asked(&server, "POST", &format!("{path}/pause"), &admin, Value::Null).await.1["state"],
        "paused"
    );
    tokio::time::sleep(Duration::from_secs(2)).await;
    let change = json!({"filter": {"event_types": ["clicked"]}, "mask": null});
    let (_, changed) = asked(&server, "PATCH", &path, &admin, change).await;
    assert_eq!((&changed["mask"], &changed["filter"]["event_types"]), (&Value::Null, &json!(["clicked"])));
    bring(&home, "two", 3);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(sink.taken("api"), 3);
    asked(&server, "POST", &format!("{path}/resume"), &admin, Value::Null).await;
    arrived(&sink, "api", 6).await;
    let last = sink.got("api").pop().unwrap();
    assert!(
        last["body"]["type"] == "clicked"
            && last["body"]["data"]["recipient"].as_str().unwrap().contains('@')
    );
    let (status, replay) =
        asked(&server, "POST", &format!("{path}/replays"), &admin, json!({"types": ["clicked"]})).await;
    assert_eq!(status, 202, "{replay}");
    let one = format!("{path}/replays/{}", replay["replay_id"].as_str().unwrap());
    until("the replay", Duration::from_secs(30), async || {
        let told = asked(&server, "GET", &one, &reader, Value::Null).await.1;
        (told["state"] == "done").then(|| assert_eq!(told["delivered"], 6))
    })
    .await;
    let (_, tested) = asked(&server, "POST", &format!("{path}/test"), &admin, Value::Null).await;
    assert_eq!((&tested["status"], &tested["answer"]), (&json!(200), &json!("ok")));

    // gone: disabled at once, told as an event; an incoming webhook's address stays what it was
    sink.set("api", "mode", "410");
    bring(&home, "three", 1);
    let told = until("the event", Duration::from_secs(20), async || {
        home.sql("SELECT url, detail FROM events WHERE event_type = 'webhook_disabled'").pop()
    })
    .await;
    assert!(told["url"] == path && told["detail"].as_str().unwrap().contains("410"), "{told}");
    let alerts = home.sql("SELECT subject FROM alerts WHERE kind = 'webhook_disabled'");
    assert_eq!(alerts[0]["subject"], id);
    let (_, state) = asked(&server, "GET", &path, &reader, Value::Null).await;
    assert_eq!(
        (&state["state"], &state["state_reason"]),
        (&json!("disabled"), &json!("it answers 410 Gone"))
    );
    assert_eq!(asked(&server, "DELETE", &path, &admin, Value::Null).await.0, 204);
    until("the end of the alert", Duration::from_secs(20), async || {
        home.sql("SELECT subject FROM alerts WHERE kind = 'webhook_disabled'").is_empty().then_some(())
    })
    .await;
    assert_eq!(asked(&server, "POST", "/v1/webhooks/postmark/x", "", Value::Null).await.0, 404);
    server.stop().await;
}

#[test]
fn an_internal_address_and_an_unknown_name_are_refused_at_once() {
    let home = Home::new();
    for (args, word) in [
        (["https://127.0.0.1/x", "--type", "bounced"], "internal network"),
        (["https://[::ffff:10.0.0.1]/x", "--type", "bounced"], "internal network"),
        (["http://hooks.example.com/x", "--type", "bounced"], "https://"),
        (["https://hooks.example.com/x", "--type", "bounce"], "bounced_async"),
    ] {
        let said = home.run(&[&["webhook", "add", "--tenant", "acme"][..], &args].concat());
        assert!(said.code == 2 && said.err.contains(word), "{said:?}");
    }
}
