//! Loads into a real PostgreSQL that the test makes, judged by psycopg; and into another one, where one is named.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::settings::Partition;
use super::*;
use crate::batch::Change;
use crate::pgwire::SslMode;
use crate::secret::SecretRef;
use crate::secret::tests::NoSecrets;
use crate::testing::{
    Jobs, Running, all_bounds, all_columns, columns, free_port, key_row, loads_each_event_once, lose_answer,
    peak_mib, peer, python, staged, tallied, told,
};

/// A server in a folder of its own, run by an ordinary user, since it refuses root.
struct Server {
    python: PathBuf,
    port: u16,
    folder: tempfile::TempDir,
    files: tempfile::TempDir,
    _running: Running,
}

impl Server {
    fn start() -> Option<Self> {
        let python = python("postgresql")?;
        let Some(bin) = program("initdb").and_then(|initdb| Some(initdb.parent()?.to_owned())) else {
            println!("left out: no initdb and postgres here; install PostgreSQL's server");
            return None;
        };
        let (folder, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let at = |name: &str| folder.path().join(name);
        let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(at("cert.pem"), signed.cert.pem()).unwrap();
        std::fs::write(at("key.pem"), signed.signing_key.serialize_pem()).unwrap();
        std::fs::write(at("password"), "hunter2").unwrap();
        run(Command::new("chmod").arg("600").arg(at("key.pem")));
        if is_root() {
            run(Command::new("chown").args(["-R", "nobody"]).arg(folder.path()));
        }
        let pwfile = format!("--pwfile={}", at("password").display());
        run(ordinary(&bin.join("initdb"))
            .args([
                "--username=owner",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--no-sync",
                "--locale=C",
                &pwfile,
                "-D",
            ])
            .arg(at("data")));
        let port = free_port();
        let mut command = ordinary(&bin.join("postgres"));
        command.arg("-D").arg(at("data")).args(["-h", "127.0.0.1", "-k", "", "-p", &port.to_string()]);
        let tls = [("ssl_cert_file", at("cert.pem")), ("ssl_key_file", at("key.pem"))];
        command.args(["-c", "ssl=on", "-c", "fsync=off", "-c", "timezone=Asia/Kolkata"]);
        for (name, path) in tls {
            command.arg("-c").arg(format!("{name}={}", path.display()));
        }
        command.stderr(std::process::Stdio::null());
        let running = Running::until_listening(command, port);
        let server = Self { python, port, folder, files, _running: running };
        // It listens before it takes connections.
        let begun = std::time::Instant::now();
        while server.ask("SELECT 1").is_err() {
            assert!(begun.elapsed().as_secs() < 60, "PostgreSQL does not start");
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
        server.judge("CREATE ROLE loader LOGIN PASSWORD 'hunter2'");
        server.judge("CREATE SCHEMA sendlake AUTHORIZATION loader");
        Some(server)
    }

    fn settings(&self, port: u16) -> Settings {
        let password = self.files.path().join("password");
        std::fs::write(&password, "hunter2\n").unwrap();
        Settings {
            host: "127.0.0.1".to_owned(),
            port,
            user: "loader".to_owned(),
            password: Some(SecretRef::File(password)),
            sslmode: SslMode::Disable,
            ..Settings::default()
        }
    }

    async fn target(&self) -> PostgreSql {
        connect(&self.settings(self.port), "warehouse", &NoSecrets).await.unwrap()
    }

    fn ask(&self, sql: &str) -> Result<Value, ()> {
        let mut command = Command::new(&self.python);
        command.arg(peer("postgresql_judge.py")).args([&self.port.to_string(), "owner", "hunter2", sql]);
        let output = command.output().unwrap();
        if output.status.success() { Ok(serde_json::from_slice(&output.stdout).unwrap()) } else { Err(()) }
    }

    /// The rows of `sql`, by psycopg.
    fn judge(&self, sql: &str) -> Value {
        told(Command::new(&self.python).arg(peer("postgresql_judge.py")).args([
            &self.port.to_string(),
            "owner",
            "hunter2",
            sql,
        ]))
    }
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let on_path = std::env::split_paths(&path).map(|folder| folder.join(name));
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let debian = debian.map(|version| version.path().join("bin").join(name));
    on_path.chain(debian).find(|path| path.with_file_name("postgres").exists() && path.exists())
}

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").unwrap().lines().any(|line| line.starts_with("Uid:\t0\t"))
}

fn ordinary(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
    command
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_loaded_once() {
    let Some(server) = Server::start() else { return };
    loads_each_event_once(&server.target().await, server.files.path()).await;
    let counts = "SELECT count(*), count(DISTINCT event_id), count(recipient) FROM sendlake.events";
    assert_eq!(server.judge(counts), json!([[350, 350, 10]]));
    let ledger = "SELECT batch_id, change, rows_staged FROM sendlake.sendlake_batches ORDER BY batch_id";
    let loaded = json!([
        ["aa01", "add", 200],
        ["aa02", "add", 150],
        ["aa03", "add", 400],
        ["bb01", "replace", 20],
        ["cc01", "delete", 50],
    ]);
    assert_eq!(server.judge(ledger), loaded);
    // Of one month, made by the load; the same without partitions.
    let partitions = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'events%'";
    assert_eq!(server.judge(partitions), json!([["events_2024_10"]]));
    server.judge("DROP TABLE sendlake.events, sendlake.sendlake_batches");
    let settings = Settings { partition: Partition::None, ..server.settings(server.port) };
    let plain = connect(&settings, "warehouse", &NoSecrets).await.unwrap();
    loads_each_event_once(&plain, server.files.path()).await;
    assert_eq!(server.judge(partitions), json!([["events"]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_and_loaders_at_once_leave_one_copy() {
    let Some(server) = Server::start() else { return };
    let mapping = columns(&["stream"]);
    let folder = server.files.path();
    let target = server.target().await;
    target.prepare(&mapping).await.unwrap();
    let log = Jobs::default();
    for (n, needle) in ["COMMIT", "ON CONFLICT", "PGCOPY", "CREATE TEMP"].into_iter().enumerate() {
        let first = n as u64 * 100;
        let settings = server.settings(lose_answer(server.port, needle));
        let cut = connect(&settings, "warehouse", &NoSecrets).await.unwrap();
        let batch =
            staged(folder, &format!("d{n}"), Change::Add, &mapping, (first..first + 150).map(key_row));
        let error = cut.load(&batch, &log).await.unwrap_err();
        assert_eq!(error.kind(), "away", "{needle}: {error}");
        cut.load(&batch, &log).await.unwrap();
        assert_eq!(target.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..first + 150), "{needle}");
    }
    let same = staged(folder, "f1", Change::Add, &mapping, (0..3_000).map(key_row));
    let overlapping = staged(folder, "f2", Change::Add, &mapping, (1_000..4_000).map(key_row));
    let other = server.target().await;
    let loads = tokio::join!(
        target.load(&same, &log),
        other.load(&same, &log),
        target.load(&overlapping, &log),
        other.load(&overlapping, &log),
    );
    let rows: u64 =
        [loads.0, loads.1, loads.2, loads.3].into_iter().filter_map(|load| load.unwrap().rows).sum();
    assert_eq!(rows, 4_000 - 450);
    assert_eq!(target.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..4_000));
    assert_eq!(server.judge("SELECT count(*) FROM sendlake.sendlake_batches"), json!([[6]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_through_as_they_are() {
    let Some(server) = Server::start() else { return };
    let mapping = columns(&[
        "seq",
        "reply_text",
        "transcript",
        "detail",
        "tags",
        "attempt",
        "spf_aligned",
        "next_attempt_at",
    ]);
    let target = server.target().await;
    target.prepare(&mapping).await.unwrap();
    let detail = json!({"quote": "\"it's\"\\", "lines": "a\nb\tc", "mail": "ü😀@例え", "n": 1.5, "list": [null, true]});
    let long = "é".repeat(400_000);
    let with = |n: u64, more: Value| {
        let mut row = key_row(n);
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let rows = [
        with(
            0,
            json!({"seq": i64::MAX, "attempt": i32::MIN, "reply_text": "", "detail": detail.to_string()}),
        ),
        with(
            1,
            json!({"seq": i64::MIN, "attempt": i32::MAX, "reply_text": "a'b\"c\\d\r\n😀", "tags": "{}", "spf_aligned": true}),
        ),
        with(
            2,
            json!({"occurred_at": "1970-01-01T00:00:00Z", "event_date": "1970-01-01", "next_attempt_at": "9999-12-31T23:59:59.999999Z"}),
        ),
        with(
            3,
            json!({"transcript": long, "reply_text": "a\u{0}b", "detail": "{\"a\":\"x\\u0000y\"}", "occurred_at": "2999-12-31T00:00:00Z", "event_date": "2999-12-31"}),
        ),
    ];
    let batch = staged(server.files.path(), "a1", Change::Add, &mapping, rows);
    assert_eq!(target.load(&batch, &Jobs::default()).await.unwrap().rows, Some(4));
    let held = server.judge(
        "SELECT seq, attempt, reply_text, detail, tags, spf_aligned, transcript, load_note, \
         to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'), \
         to_char(next_attempt_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') FROM sendlake.events ORDER BY event_id",
    );
    assert_eq!((&held[0][0], &held[0][1], &held[0][2]), (&json!(i64::MAX), &json!(i32::MIN), &json!("")));
    assert_eq!((&held[0][3], &held[0][7]), (&detail, &json!(null)));
    assert_eq!((&held[1][0], &held[1][2]), (&json!(i64::MIN), &json!("a'b\"c\\d\r\n😀")));
    assert_eq!((&held[1][4], &held[1][5]), (&json!({}), &json!(true)));
    assert!(held[2].as_array().unwrap()[..8].iter().all(Value::is_null), "{}", held[2]);
    assert_eq!(
        (&held[2][8], &held[2][9]),
        (&json!("1970-01-01 00:00:00.000000"), &json!("9999-12-31 23:59:59.999999"))
    );
    assert_eq!((&held[3][6], &held[3][2]), (&json!(long), &json!("a\u{FFFD}b")));
    assert_eq!(
        (&held[3][3], &held[3][8]),
        (&json!({"a": "x\u{FFFD}y"}), &json!("2999-12-31 00:00:00.000000"))
    );
    assert!(held[3][7].as_str().unwrap().contains("NUL"), "{}", held[3][7]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_follows_the_mapping() {
    let Some(server) = Server::start() else { return };
    let target = server.target().await;
    let folder = server.files.path();
    let (narrow, wide) = (columns(&["stream"]), columns(&["stream", "reply_code", "detail"]));
    target.prepare(&narrow).await.unwrap();
    let log = Jobs::default();
    target.load(&staged(folder, "1a", Change::Add, &narrow, (0..10).map(key_row)), &log).await.unwrap();
    let changed = target.prepare(&wide).await.unwrap();
    assert!(changed.len() == 2 && changed[0].contains("\"reply_code\" integer"), "{changed:?}");
    assert!(changed[0].contains("sendlake export backfill warehouse"), "{changed:?}");
    server
        .judge("ALTER TABLE sendlake.events ADD COLUMN owner text; UPDATE sendlake.events SET owner = 'me'");
    let later = (0..20).map(|n| {
        let mut row = key_row(n);
        row["reply_code"] = json!(250);
        row
    });
    target.load(&staged(folder, "1b", Change::Replace, &wide, later), &log).await.unwrap();
    let counts = server.judge("SELECT count(*), sum(reply_code), count(owner) FROM sendlake.events");
    assert_eq!(counts, json!([[20, 5000, 10]]));

    server.judge("ALTER TABLE sendlake.events DROP COLUMN reply_code");
    let next = staged(folder, "1c", Change::Add, &wide, (20..30).map(key_row));
    let error = target.load(&next, &log).await.unwrap_err();
    assert!(error.kind() == "schema" && error.to_string().contains("reply_code"), "{error}");
    assert_eq!(target.prepare(&wide).await.unwrap().len(), 1);
    target.load(&next, &log).await.unwrap();

    let refused = async |sql: &str, words: &[&str]| {
        server.judge(&format!("{sql}; ALTER TABLE sendlake.events OWNER TO loader"));
        let error = target.prepare(&narrow).await.unwrap_err();
        let text = error.to_string();
        assert!(error.kind() == "schema" && words.iter().all(|word| text.contains(word)), "{text}");
    };
    let table = "ALTER TABLE sendlake.events";
    refused(&format!("{table} ALTER stream TYPE varchar(20)"), &["stream", "character varying(20)", "text"])
        .await;
    refused(&format!("{table} ALTER stream TYPE text, ADD ours integer DEFAULT 1; {table} ALTER ours SET NOT NULL, ALTER ours DROP DEFAULT"), &["ours", "no event has it"]).await;
    refused(
        &format!("{table} DROP ours; {table} DROP CONSTRAINT events_pkey"),
        &["unique", "ADD PRIMARY KEY"],
    )
    .await;
    refused(&format!("{table} DROP lsn"), &["lsn", "missing"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_what_to_do() {
    let Some(server) = Server::start() else { return };
    let mapping = columns(&[]);
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut settings = server.settings(server.port);
        settings.host = "localhost".to_owned();
        settings.sslmode = SslMode::Require;
        settings.ca_file = Some(server.folder.path().join("cert.pem"));
        change(&mut settings);
        settings
    };
    let prepared =
        async |settings: Settings| connect(&settings, "warehouse", &NoSecrets).await?.prepare(&mapping).await;
    // SCRAM over TLS, with channel binding.
    assert_eq!(prepared(with(&|_| ())).await.unwrap().len(), 1);
    let said = async |settings: Settings| {
        let error = prepared(settings).await.unwrap_err();
        let text = error.to_string();
        assert!(!text.contains("hunter2") && !text.contains("letmein"), "{text}");
        (error.kind(), text)
    };
    let (kind, text) = said(with(&|settings| settings.ca_file = None)).await;
    assert!(kind == "refused" && text.contains("ca_file"), "{text}");
    let wrong = server.files.path().join("wrong");
    std::fs::write(&wrong, "letmein").unwrap();
    let (kind, _) = said(with(&|settings| settings.password = Some(SecretRef::File(wrong.clone())))).await;
    assert_eq!(kind, "credentials");
    assert_eq!(said(with(&|settings| settings.password = None)).await.0, "credentials");
    assert_eq!(said(with(&|settings| settings.schema = "elsewhere".to_owned())).await.0, "credentials");
    assert_eq!(said(with(&|settings| settings.database = "nowhere".to_owned())).await.0, "refused");
    assert_eq!(said(with(&|settings| settings.port = free_port())).await.0, "away");
}

/// The same in the database that the TOML file named by SENDLAKE_POSTGRESQL_SETTINGS describes (the keys of
/// `[export.<connector>.postgresql]`). Its table and ledger are dropped and made anew.
#[tokio::test(flavor = "multi_thread")]
async fn another_server_holds_each_event_once() {
    let Ok(path) = std::env::var("SENDLAKE_POSTGRESQL_SETTINGS") else {
        println!("left out: no SENDLAKE_POSTGRESQL_SETTINGS, a TOML file with the settings of a PostgreSQL");
        return;
    };
    let settings: Settings = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let target = connect(&settings, "warehouse", &NoSecrets).await.unwrap();
    let within = std::time::Duration::from_secs(60);
    let connection = client::open(&settings, target.password.as_ref(), within).await.unwrap();
    for table in [target.table(&all_columns()), target.ledger()] {
        connection.run(&format!("DROP TABLE IF EXISTS {table}"), within).await.unwrap();
    }
    loads_each_event_once(&target, tempfile::tempdir().unwrap().path()).await;
}

/// Seconds and memory for SENDLAKE_MEASURE_ROWS rows; without it, for few.
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_batch() {
    let Some(server) = Server::start() else { return };
    let rows =
        std::env::var("SENDLAKE_MEASURE_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(20_000);
    let (mapping, target) = (all_columns(), server.target().await);
    target.prepare(&mapping).await.unwrap();
    let batch = staged(server.files.path(), "77", Change::Add, &mapping, (0..rows).map(key_row));
    let (before, begun) = (peak_mib(), std::time::Instant::now());
    let loaded = target.load(&batch, &Jobs::default()).await.unwrap();
    println!(
        "{rows} rows, {} bytes: {:?}, peak {before} to {} MiB",
        batch.bytes,
        begun.elapsed(),
        peak_mib()
    );
    assert_eq!(loaded.rows, Some(rows));
    assert!(peak_mib() - before < 300, "{before} to {} MiB", peak_mib());
}

#[test]
fn statements_and_settings() {
    let settings = Settings { host: "h".to_owned(), user: "loader".to_owned(), ..Settings::default() };
    settings.check().unwrap();
    let printed = ddl(&settings, &columns(&["detail"]), "s3://lake/sendlake");
    for part in [
        "\"detail\" jsonb",
        "PRIMARY KEY (event_id, event_date)\n) PARTITION BY RANGE (event_date);",
        "CREATE SCHEMA IF NOT EXISTS \"sendlake\" AUTHORIZATION \"loader\"",
        "delta_scan('s3://lake/sendlake/events/')",
    ] {
        assert!(printed.contains(part), "{part} is not in\n{printed}");
    }
    let key = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        settings.check().unwrap_err().0
    };
    assert_eq!(key(&|s| s.host.clear()), "host");
    assert_eq!(key(&|s| s.table = "Events".to_owned()), "table");
    assert_eq!(key(&|s| s.ca_file = Some("/nowhere.pem".into())), "ca_file");
}
