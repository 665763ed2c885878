//! Exports: by schedule beside live mail, through kills, outages and erasures; what arrives is counted by DuckDB.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use sendlake::demo::receivers::{Keep, Profile, Receiver};
use sendlake_tests::home::Home;
use sendlake_tests::peers::Python;
use sendlake_tests::random::Random;
use sendlake_tests::until;
use sendlake_tests::warehouses::Warehouse;
use serde_json::Value;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// A home with a connector `archive` to a folder beside its data.
fn exporting() -> Home {
    let home = Home::new();
    let out = home.path().join("out").display().to_string();
    home.set("export.archive.files.url", format!("{out:?}")).set("export.archive.schedule", "\"manual\"")
}

/// So many messages of another sender, over three days: two events each.
fn import(home: &Home, messages: usize) {
    let mut lines = String::new();
    for number in 0..messages {
        let at = 1_793_700_000 + number * 3 * 86_400 / messages;
        for (kind, at) in [("Reception", at), ("Delivery", at + 2)] {
            let _ = writeln!(
                lines,
                r#"{{"type":"{kind}","id":"m{number}","sender":"news@bounce.shop.example","recipient":"person{number}@gmail.example","queue":"q","site":"s","size":2048,"response":{{"code":250,"enhanced_code":null,"content":"ok","command":null}},"peer_address":{{"name":"mx.gmail.example","addr":"192.0.2.10"}},"timestamp":{at},"created":{at},"num_attempts":0,"bounce_classification":"Uncategorized","egress_pool":"p","egress_source":"s","feedback_report":null,"meta":{{"campaign":"spring"}},"headers":{{"From":"Shop <news@shop.example>"}},"delivery_protocol":"ESMTP","reception_protocol":"HTTP","nodeid":"n"}}"#
            );
        }
    }
    let file = home.path().join("elsewhere.json");
    std::fs::write(&file, lines).unwrap();
    home.ok(&[
        "ingest",
        file.to_str().unwrap(),
        "--from",
        "kumomta",
        "--tenant",
        "acme",
        "--stream",
        "marketing",
    ]);
}

fn counted(python: &Python, out: &Path, reader: &str, extension: &str) -> Value {
    let glob = out.join(format!("events/*/*.{extension}"));
    python.ask("read_files.py", &[reader, glob.to_str().unwrap(), "recipient"])
}

#[tokio::test]
async fn events_leave_by_schedule_in_every_format_and_what_arrives_is_compared() {
    let Some(python) = Python::with(&["duckdb"]) else { return };
    let mut home = exporting().set("export.archive.schedule", "\"* * * * *\"");
    for (name, format) in [("table", "csv"), ("lines", "ndjson")] {
        let out = home.path().join(name).display().to_string();
        home = home
            .set(&format!("export.{name}.files.url"), format!("{out:?}"))
            .set(&format!("export.{name}.files.format"), format!("{format:?}"))
            .set(&format!("export.{name}.files.compression"), "\"gzip\"")
            .set(&format!("export.{name}.schedule"), "\"manual\"")
            .set(&format!("export.{name}.mask.recipient"), "\"hash\"");
    }
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    import(&home, 500);
    server.stop().await;
    let events = home.count("SELECT count(*) AS n FROM events");
    assert!(events >= 1_000);

    // The connector has run once, when there was nothing: the next minute is its time.
    let server = home.start().await;
    until("the load of the next minute", Duration::from_secs(100), async || {
        let status: Value =
            serde_json::from_str(&home.ok(&["export", "status", "--format", "json"])).unwrap();
        let archive = status.as_array().unwrap().iter().find(|row| row["connector"] == "archive")?;
        (archive["state"] == "ok" && archive["rows_loaded"].as_u64()? >= 1_000).then_some(())
    })
    .await;
    for name in ["table", "lines"] {
        assert!(home.ok(&["export", "run", name]).contains("rows in"), "beside the server");
    }
    let days = ["--from", "2026-11-01", "--to", "2026-11-30"];
    for (name, reader, extension) in [
        ("archive", "read_parquet", "parquet"),
        ("table", "read_csv", "csv.gz"),
        ("lines", "read_json", "ndjson.gz"),
    ] {
        home.ok(&[&["export", "verify", name], &days[..]].concat());
        let folder = if name == "archive" { "out" } else { name };
        let found = counted(&python, &home.path().join(folder), reader, extension);
        assert!(
            found["rows"].as_u64().unwrap() >= events && found["rows"] == found["events"],
            "{name}: {found}"
        );
        let addresses = found["values"].as_array().unwrap();
        let is_hashed =
            |value: &Value| value.as_str().is_some_and(|text| text.len() == 32 && !text.contains('@'));
        assert_eq!(addresses.iter().all(is_hashed), name != "archive", "{name}: {addresses:?}");
    }
    // The ledger is a table to query.
    let committed =
        home.count("SELECT count(DISTINCT connector) AS n FROM export_batches WHERE state = 'committed'");
    assert_eq!(committed, 3);

    // A file that somebody took away is named by its hours, and comes back.
    let day = std::fs::read_dir(home.path().join("out/events")).unwrap().flatten();
    let day = day.map(|entry| entry.path()).find(|path| path.is_dir()).unwrap();
    let file = std::fs::read_dir(&day).unwrap().next().unwrap().unwrap().path();
    std::fs::remove_file(&file).unwrap();
    let said = home.run(&[&["export", "verify", "archive"], &days[..]].concat());
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.out.contains("are missing") && said.err.contains("backfill"), "{said:?}");
    server.stop().await;
}

/// A few hundred more events, in the lake.
async fn import_more(home: &Home, random: &mut Random) {
    let server = home.start().await;
    let first = 1_000_000 + random.below(1_000_000_000);
    let mut lines = String::new();
    for number in first..first + 400 {
        let _ = writeln!(
            lines,
            r#"{{"type":"Delivery","id":"x{number}","sender":"news@bounce.shop.example","recipient":"p{number}@gmail.example","queue":"q","site":"s","size":2048,"response":{{"code":250,"enhanced_code":null,"content":"ok","command":null}},"peer_address":{{"name":"mx.gmail.example","addr":"192.0.2.10"}},"timestamp":1793800000,"created":1793800000,"num_attempts":0,"bounce_classification":"Uncategorized","egress_pool":"p","egress_source":"s","feedback_report":null,"meta":{{}},"headers":{{"From":"Shop <news@shop.example>"}},"delivery_protocol":"ESMTP","reception_protocol":"HTTP","nodeid":"n"}}"#
        );
    }
    let file = home.path().join("more.json");
    std::fs::write(&file, lines).unwrap();
    home.ok(&[
        "ingest",
        file.to_str().unwrap(),
        "--from",
        "kumomta",
        "--tenant",
        "acme",
        "--stream",
        "marketing",
    ]);
    server.stop().await;
}

/// Loads into a connector again and again, killed in the middle so many times, and then to the end.
async fn killed_loads(home: &Home, connector: &str, kills: usize, random: &mut Random) {
    let (mut killed, mut longest_ms) = (0, 800);
    for _ in 0..kills * 20 {
        if killed == kills {
            break;
        }
        let command = &["export", "run", connector];
        let mut run = home.command(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(20 + random.below(longest_ms) as u64)).await;
        match run.try_wait().unwrap() {
            // It was done before the blow: more events, and an earlier blow.
            Some(_) => {
                longest_ms = longest_ms.saturating_sub(20).max(60);
                import_more(home, random).await;
            }
            None => {
                run.kill().unwrap();
                run.wait().unwrap();
                killed += 1;
            }
        }
    }
    assert_eq!(killed, kills, "{connector}: the loads are too quick for the blows");
    home.ok(&["export", "run", connector]);
}

/// The ledger, the lake and the destination agree, and nothing is left to do.
fn agreed(home: &Home, connector: &str) -> u64 {
    home.ok(&["export", "verify", connector, "--from", "2026-11-01", "--to", "2026-12-31"]);
    let of_it = format!("FROM export_batches WHERE connector = '{connector}'");
    assert_eq!(
        home.count(&format!("SELECT count(*) AS n {of_it} AND state <> 'committed'")),
        0,
        "{connector}"
    );
    home.count(&format!("SELECT sum(rows_staged) AS n {of_it} AND change = 'add'"))
}

#[tokio::test]
async fn torture_of_exports_by_kill_9_neither_loses_nor_repeats_a_row() {
    let Some(python) = Python::with(&["duckdb"]) else { return };
    let kills = setting("SENDLAKE_EXPORT_KILLS", 5);
    let mut random = Random::new(setting("SENDLAKE_TORTURE_SEED", 1));
    let home = exporting().set("export.archive.batch_bytes", 65_536);
    let warehouses = Warehouse::all(home.path());
    let home = warehouses.iter().fold(home, |home, warehouse| warehouse.configure(home));
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    import(&home, 2_000);
    server.stop().await;
    killed_loads(&home, "archive", kills, &mut random).await;
    for warehouse in &warehouses {
        killed_loads(&home, warehouse.name, kills, &mut random).await;
    }
    // Those that were first have got more to load since.
    home.ok(&["export", "run"]);
    let events = home.count("SELECT count(*) AS n FROM events");
    let found = counted(&python, &home.path().join("out"), "read_parquet", "parquet");
    assert_eq!((found["rows"].as_u64(), found["events"].as_u64()), (Some(events), Some(events)), "{found}");
    for name in warehouses.iter().map(|warehouse| warehouse.name).chain(["archive"]) {
        assert_eq!(agreed(&home, name), events, "{name}: the ledger is consistent");
    }
    let names: Vec<&str> = warehouses.iter().map(|warehouse| warehouse.name).collect();
    eprintln!(
        "torture of exports: {kills} kills of loads to files and each of {names:?}; {events} events, each once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_at_once_and_the_sink_the_lake_and_the_warehouses_hold_the_same() {
    let sink = Receiver::start(Profile::accept_all().record(Keep::Digest, sendlake::system::ids().clock), 1)
        .unwrap();
    let home = Home::new().route("sink.test", sink.addr());
    let warehouses = Warehouse::all(home.path());
    if warehouses.is_empty() {
        return;
    }
    let home = warehouses.iter().fold(home, |home, warehouse| warehouse.configure(home));
    let mut server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let send = async |server: &sendlake_tests::server::Server, first: usize| {
        for number in first..first + 150 {
            server.http.send(&key, &crate::message(&format!("bob{number}@sink.test"))).await;
        }
    };
    send(&server, 0).await;
    let loads = || -> Vec<std::process::Child> {
        let load = |warehouse: &Warehouse| {
            let command = &["export", "run", warehouse.name];
            home.command(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
        };
        warehouses.iter().map(load).collect()
    };
    // Everything is killed, twice, and the lake goes away meanwhile.
    let (lake, away) = (home.data().join("lake/events"), home.data().join("lake/_away"));
    for first in [150, 300] {
        let running = loads();
        send(&server, first).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.kill();
        for mut load in running {
            let _ = load.kill();
            load.wait().unwrap();
        }
        std::fs::rename(&lake, &away).unwrap();
        for mut load in loads() {
            load.wait().unwrap();
        }
        std::fs::rename(&away, &lake).unwrap();
        server = home.start().await;
    }
    until("the mail to be out", Duration::from_secs(60), async || {
        let open = home.count("SELECT count(*) AS n FROM outcomes WHERE outcome NOT IN ('delivered')");
        let all = home.count("SELECT count(*) AS n FROM outcomes");
        (all >= 450 && open == 0).then_some(())
    })
    .await;
    for load in loads() {
        assert!(load.wait_with_output().unwrap().status.success());
    }
    home.ok(&["lake", "erase", "--recipient", "bob7@sink.test"]);
    server.stop().await;
    home.ok(&["export", "run"]);
    home.ok(&["export", "run"]);
    let events = home.count("SELECT count(*) AS n FROM events");
    let messages = home.count("SELECT count(*) AS n FROM outcomes WHERE outcome = 'delivered'");
    assert_eq!(messages, 449, "all but the one who is erased");
    for warehouse in &warehouses {
        agreed(&home, warehouse.name);
    }
    let mut got: Vec<String> = sink.recorded().into_iter().map(|mail| mail.forward_path).collect();
    sink.shutdown().await;
    got.sort();
    got.dedup();
    assert_eq!(got.len(), 450, "the sink has every message");
    eprintln!(
        "all at once: {events} events of {messages} messages in the lake and in {} warehouses",
        warehouses.len()
    );
}

#[tokio::test]
async fn an_erased_person_leaves_the_files_too_and_a_backfill_brings_nobody_back() {
    let Some(python) = Python::with(&["duckdb"]) else { return };
    let home = exporting();
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    import(&home, 300);
    server.stop().await;
    home.ok(&["export", "run", "archive"]);
    let before = counted(&python, &home.path().join("out"), "read_parquet", "parquet");
    home.ok(&["lake", "erase", "--recipient", "person7@gmail.example"]);
    home.ok(&["export", "run", "archive"]);
    let after = counted(&python, &home.path().join("out"), "read_parquet", "parquet");
    assert!(after["rows"].as_u64() < before["rows"].as_u64().map(|rows| rows + 4), "{before} {after}");
    let holds = |text: &str| {
        let glob = home.path().join("out/events/*/*.parquet");
        let picked = format!("CASE WHEN recipient = '{text}' THEN recipient END");
        let found = python.ask("read_files.py", &["read_parquet", glob.to_str().unwrap(), &picked]);
        found["values"].as_array().unwrap().len()
    };
    assert_eq!((holds("person7@gmail.example"), holds("person8@gmail.example")), (0, 1));
    home.ok(&[
        "export",
        "backfill",
        "archive",
        "--from",
        "2026-11-01",
        "--to",
        "2026-11-10",
        "--fast",
        "--replace",
    ]);
    assert_eq!((holds("person7@gmail.example"), holds("person8@gmail.example")), (0, 1));
    home.ok(&["export", "verify", "archive", "--from", "2026-11-01", "--to", "2026-11-30"]);
    let again = counted(&python, &home.path().join("out"), "read_parquet", "parquet");
    assert_eq!(again["rows"], again["events"], "{again}");
}

#[tokio::test]
async fn what_is_in_the_way_is_said_and_over_when_it_is_over() {
    let home =
        exporting().set("export.archive.schedule", "\"* * * * *\"").set("policy.publish_interval_s", 1);
    // A file where the folder should be: nothing can be written there.
    std::fs::write(home.path().join("out"), "in the way").unwrap();
    let server = home.start().await;
    home.tenant("acme", "shop.example");
    import(&home, 20);
    let status = || -> Value {
        let all: Value = serde_json::from_str(&home.ok(&["export", "status", "--format", "json"])).unwrap();
        all[0].clone()
    };
    until("the failure to be told", Duration::from_secs(30), async || {
        (status()["state"] == "failing").then_some(())
    })
    .await;
    let told = status();
    assert!(told["error"].as_str().unwrap().contains("out") && told["next_run_at"].is_string(), "{told}");
    let alerts = || home.ok(&["alerts", "ls", "--format", "json"]);
    until("the alert", Duration::from_secs(40), async || {
        home.ok(&["export", "retry", "archive"]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        alerts().contains("export_failing").then_some(())
    })
    .await;
    home.ok(&["export", "pause", "archive"]);
    assert_eq!(status()["state"], "paused");
    std::fs::remove_file(home.path().join("out")).unwrap();
    home.ok(&["export", "resume", "archive"]);
    home.ok(&["export", "retry", "archive"]);
    until("the loads to get through", Duration::from_secs(30), async || {
        (status()["state"] == "ok" && status()["rows_loaded"].as_u64()? > 0).then_some(())
    })
    .await;
    until("the alert to end", Duration::from_secs(20), async || {
        (!alerts().contains("export_failing")).then_some(())
    })
    .await;
    server.stop().await;
}

#[test]
fn settings_that_make_no_sense_are_named_with_their_line() {
    for (key, value, said) in [
        ("export.archive.schedule", "\"now and then\"", "five fields"),
        ("export.archive.columns", "[\"recipent\"]", "recipent"),
        ("export.archive.exclude", "[\"lsn\"]", "cannot be left out"),
        ("export.archive.mask", "{ attempt = \"hash\" }", "holds no text"),
        ("export.archive.files.compression", "\"gzip\"", "compressed inside"),
        ("export.Big-Query.files.url", "\"/x\"", "small letters"),
        ("export.other.schedule", "\"manual\"", "where to?"),
        ("export.archive.files.secret_options", "{ a = \"hunter2\" }", "secret:name"),
    ] {
        let said_there = exporting().set(key, value).run(&["config", "check"]);
        assert_eq!(said_there.code, 2, "{key}: {said_there:?}");
        assert!(
            said_there.err.contains(said) && !said_there.err.contains("hunter2"),
            "{key}: {said_there:?}"
        );
    }
    let said = Home::new().run(&["export", "run"]);
    assert!(said.code == 3 && said.err.contains("docs/connectors.md"), "{said:?}");
}
