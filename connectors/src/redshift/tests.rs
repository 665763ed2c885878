//! Loads over the wire and through the Data API against a stand-in, judged by Amazon's own Python client; and the same
//! against a real warehouse, where one is named.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::settings::{Codec, DataApi, JsonType, Wire};
use super::*;
use crate::batch::Change;
use crate::fit::NOTE_COLUMN;
use crate::pgwire::SslMode;
use crate::secret::SecretRef;
use crate::secret::tests::NoSecrets;
use crate::testing::{
    Jobs, Running, all_bounds, all_columns, columns, free_port, key_row, loads_each_event_once, lose_answer,
    peak_mib, peer, python, staged, tallied, told,
};

const KEY: &str = "admin";
const SECRET: &str = "secret123";
const BUCKET: &str = "staging";

/// SeaweedFS and `tests/peers/redshift_wire.py`.
struct StandIn {
    python: PathBuf,
    wire: u16,
    api: u16,
    s3: u16,
    folder: tempfile::TempDir,
    _running: [Running; 2],
}

impl StandIn {
    fn start() -> Option<Self> {
        Self::start_with(|_| Vec::new())
    }

    fn start_with(tls: impl Fn(&std::path::Path) -> Vec<PathBuf>) -> Option<Self> {
        let python = python("redshift")?;
        let folder = tempfile::tempdir().unwrap();
        let (bucket, s3) = seaweed(&python, folder.path());
        let endpoint = format!("http://127.0.0.1:{s3}");
        told(Command::new(&python).arg(peer("bucket.py")).args(["s3-make", &endpoint, KEY, SECRET, BUCKET]));
        let mut command = Command::new(&python);
        command.arg(peer("redshift_wire.py")).args([&endpoint, "loader", "hunter2"]).args(tls(folder.path()));
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        let (server, ports) = Running::until_ready(command);
        let (wire, api) = ports.split_once(' ').unwrap();
        let (wire, api) = (wire.parse().unwrap(), api.parse().unwrap());
        Some(Self { python, wire, api, s3, folder, _running: [bucket, server] })
    }

    fn settings(&self) -> Settings {
        let options = [
            ("endpoint", format!("http://127.0.0.1:{}", self.s3)),
            ("aws_access_key_id", KEY.to_owned()),
            ("aws_secret_access_key", SECRET.to_owned()),
            ("aws_region", "us-east-1".to_owned()),
            ("aws_allow_http", "true".to_owned()),
        ];
        Settings {
            schema: "main".to_owned(),
            bucket: format!("s3://{BUCKET}/load"),
            options: options.map(|(name, value)| (name.to_owned(), value)).into(),
            ..Settings::default()
        }
    }

    fn wire_settings(&self, port: u16) -> Settings {
        let password = self.folder.path().join("password");
        std::fs::write(&password, "hunter2\n").unwrap();
        let wire = Wire {
            host: "127.0.0.1".to_owned(),
            port,
            user: "loader".to_owned(),
            password: Some(SecretRef::File(password)),
            sslmode: SslMode::Disable,
            ca_file: None,
        };
        Settings { wire: Some(wire), ..self.settings() }
    }

    fn api_settings(&self, port: u16) -> Settings {
        let api = DataApi {
            workgroup: Some("events".to_owned()),
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            ..DataApi::default()
        };
        Settings { data_api: Some(api), ..self.settings() }
    }

    async fn wire(&self) -> Redshift {
        connect(&self.wire_settings(self.wire), "warehouse", &NoSecrets).await.unwrap()
    }

    async fn api(&self) -> Redshift {
        connect(&self.api_settings(self.api), "warehouse", &NoSecrets).await.unwrap()
    }

    /// The rows of `sql`, by Amazon's client.
    fn judge(&self, sql: &str) -> Value {
        let mut command = Command::new(&self.python);
        command.arg(peer("redshift_judge.py")).args([
            "127.0.0.1",
            &self.wire.to_string(),
            "dev",
            "loader",
            "hunter2",
        ]);
        told(command.arg(sql).env("REDSHIFT_PLAIN", "1"))
    }

    fn objects(&self) -> Vec<String> {
        let code = "import boto3,json,sys; s3 = boto3.client('s3', endpoint_url=sys.argv[1], region_name='us-east-1'); \
                    print(json.dumps([o['Key'] for o in s3.list_objects_v2(Bucket=sys.argv[2]).get('Contents', [])]))";
        let mut command = Command::new(&self.python);
        command.args(["-c", code, &format!("http://127.0.0.1:{}", self.s3), BUCKET]);
        command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET);
        serde_json::from_value(told(&mut command)).unwrap()
    }
}

fn seaweed(python: &std::path::Path, folder: &std::path::Path) -> (Running, u16) {
    let ports: Vec<u16> = (0..10).map(|_| free_port()).collect();
    let port = |name: &str, index: usize| format!("-{name}={}", ports[index]);
    let mut command = Command::new(python.with_file_name("weed"));
    command
        .args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"])
        .args(["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg("-s3.autoCreateBucket=false")
        .arg(format!("-dir={}", folder.join("weed").display()))
        .args([port("master.port", 0), port("master.port.grpc", 1), port("volume.port", 2)])
        .args([port("volume.port.grpc", 3), port("filer.port", 4), port("filer.port.grpc", 5)])
        .args([
            port("s3.port", 6),
            port("s3.port.grpc", 7),
            port("admin.port", 8),
            port("admin.port.grpc", 9),
        ])
        .env("AWS_ACCESS_KEY_ID", KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET)
        .stderr(std::process::Stdio::null());
    std::fs::create_dir_all(folder.join("weed")).unwrap();
    let running = Running::until_listening(command, ports[6]);
    (running, ports[6])
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_loaded_once_over_the_wire() {
    let Some(stand_in) = StandIn::start() else { return };
    loads_each_event_once(&stand_in.wire().await, stand_in.folder.path()).await;
    judged(&stand_in);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_loaded_once_through_the_data_api() {
    let Some(stand_in) = StandIn::start() else { return };
    loads_each_event_once(&stand_in.api().await, stand_in.folder.path()).await;
    judged(&stand_in);
}

fn judged(stand_in: &StandIn) {
    let counts =
        stand_in.judge("SELECT COUNT(*), COUNT(DISTINCT event_id), COUNT(recipient) FROM main.events");
    assert_eq!(counts, json!([[350, 350, 10]]));
    let ledger = "SELECT batch_id, change, rows_staged FROM main.sendlake_batches ORDER BY batch_id";
    let loaded = json!([
        ["aa01", "add", 200],
        ["aa02", "add", 150],
        ["aa03", "add", 400],
        ["bb01", "replace", 20],
        ["cc01", "delete", 50],
    ]);
    assert_eq!(stand_in.judge(ledger), loaded);
    assert_eq!(stand_in.objects(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_lost_doubles_nothing() {
    let Some(stand_in) = StandIn::start() else { return };
    let mapping = all_columns();
    let folder = stand_in.folder.path();
    stand_in.wire().await.prepare(&mapping).await.unwrap();
    let log = Jobs::default();
    let settings = [
        // The transaction is over when its answer is lost; the other one is not.
        stand_in.wire_settings(lose_answer(stand_in.wire, "COMMIT")),
        stand_in.wire_settings(lose_answer(stand_in.wire, "COPY ")),
        stand_in.wire_settings(lose_answer(stand_in.wire, "GETDATE")),
        // Submitted, and nobody knows the statement's id.
        stand_in.api_settings(lose_answer(stand_in.api, "BatchExecuteStatement")),
        stand_in.api_settings(lose_answer(stand_in.api, "DescribeStatement")),
    ];
    for (n, settings) in settings.iter().enumerate() {
        let first = n as u64 * 100;
        let redshift = connect(settings, "warehouse", &NoSecrets).await.unwrap();
        let mut batch =
            staged(folder, &format!("d{n}"), Change::Add, &mapping, (first..first + 150).map(key_row));
        let error = redshift.load(&batch, &log).await.unwrap_err();
        assert_eq!(error.kind(), "away", "{error}");
        batch.job_id = log.0.lock().last().cloned();
        redshift.load(&batch, &log).await.unwrap();
        let held = redshift.tally(&mapping, &all_bounds()).await.unwrap();
        assert_eq!(held, tallied(0..first + 150), "{n}");
    }
    assert_eq!(stand_in.judge("SELECT COUNT(*) FROM main.sendlake_batches"), json!([[5]]));
    assert_eq!(
        stand_in.judge("SELECT COUNT(*), COUNT(DISTINCT event_id) FROM main.events"),
        json!([[550, 550]])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_is_tried_again_as_the_next_attempt() {
    let Some(stand_in) = StandIn::start() else { return };
    let mapping = columns(&["stream"]);
    let redshift = stand_in.api().await;
    redshift.prepare(&mapping).await.unwrap();
    let log = Jobs::default();
    let mut batch = staged(stand_in.folder.path(), "e1", Change::Add, &mapping, (0..100).map(key_row));
    let fail = format!("http://127.0.0.1:{}/fail", stand_in.api);
    reqwest::Client::new().post(&fail).send().await.unwrap();
    for _ in 0..2 {
        // Its token gives the failed statement, however often: nothing is run.
        let error = redshift.load(&batch, &log).await.unwrap_err();
        assert_eq!(error.kind(), "job_failed", "{error}");
        assert!(error.to_string().contains("the cluster was restarted"), "{error}");
    }
    assert_eq!(redshift.tally(&mapping, &all_bounds()).await.unwrap(), Vec::new());
    batch.attempt = 2;
    assert_eq!(redshift.load(&batch, &log).await.unwrap().rows, Some(100));
    assert_eq!(redshift.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..100));
    let jobs = log.0.lock().clone();
    assert!(jobs[0] == jobs[1] && jobs[1] != jobs[2], "{jobs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn loaders_at_once_leave_one_copy() {
    let Some(stand_in) = StandIn::start() else { return };
    let mapping = columns(&["stream"]);
    let folder = stand_in.folder.path();
    let (wire, other, api) = (stand_in.wire().await, stand_in.wire().await, stand_in.api().await);
    wire.prepare(&mapping).await.unwrap();
    let same = staged(folder, "f1", Change::Add, &mapping, (0..3_000).map(key_row));
    let overlapping = staged(folder, "f2", Change::Add, &mapping, (1_000..4_000).map(key_row));
    let log = Jobs::default();
    // One of them may find that another has removed the objects that it was to read; the next try ends well.
    let load = async |redshift: &Redshift, batch| {
        let first = redshift.load(batch, &log).await;
        if first.is_err() {
            let again = crate::target::StagedBatch { attempt: 2, ..batch.clone() };
            redshift.load(&again, &log).await.unwrap();
        }
    };
    tokio::join!(
        load(&wire, &same),
        load(&other, &same),
        load(&api, &same),
        load(&wire, &overlapping),
        load(&api, &overlapping)
    );
    assert_eq!(wire.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..4_000));
    assert_eq!(stand_in.judge("SELECT COUNT(*) FROM main.sendlake_batches"), json!([[2]]));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_come_through_as_they_are() {
    let Some(stand_in) = StandIn::start() else { return };
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
    let redshift = stand_in.wire().await;
    redshift.prepare(&mapping).await.unwrap();
    let json_text = json!({"quote": "\"it's\"\\", "lines": "a\nb\tc", "mail": "ü😀@例え", "n": 1.5, "list": [null, true]});
    let long = "é".repeat(40_000);
    let with = |n: u64, more: Value| {
        let mut row = key_row(n);
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let rows = [
        with(
            0,
            json!({"seq": i64::MAX, "attempt": i32::MIN, "reply_text": "", "detail": json_text.to_string()}),
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
            json!({"transcript": long, "reply_text": "a\u{0}b", "detail": json!({"text": long}).to_string()}),
        ),
    ];
    let batch = staged(stand_in.folder.path(), "a1", Change::Add, &mapping, rows);
    let log = Jobs::default();
    assert_eq!(redshift.load(&batch, &log).await.unwrap().rows, Some(4));

    let held = stand_in.judge(
        "SELECT seq, attempt, reply_text, detail, tags, spf_aligned, transcript, load_note FROM main.events ORDER BY event_id",
    );
    assert_eq!((&held[0][0], &held[0][1], &held[0][2]), (&json!(i64::MAX), &json!(i32::MIN), &json!("")));
    let parsed = |value: &Value| serde_json::from_str::<Value>(value.as_str().unwrap()).unwrap();
    assert_eq!(parsed(&held[0][3]), json_text);
    assert_eq!((&held[1][0], &held[1][2]), (&json!(i64::MIN), &json!("a'b\"c\\d\r\n😀")));
    assert_eq!((&held[1][4], &held[1][5], &held[1][7]), (&json!("{}"), &json!(true), &json!(null)));
    assert!(
        [0, 1, 2, 3, 4, 5, 6, 7].iter().filter(|column| held[2][**column].is_null()).count() == 8,
        "{}",
        held[2]
    );
    let epoch = stand_in
        .judge("SELECT occurred_at, next_attempt_at FROM main.events WHERE event_date = DATE '1970-01-01'");
    assert_eq!(epoch, json!([["1970-01-01 00:00:00+00:00", "9999-12-31 23:59:59.999999+00:00"]]));
    // 65535 is odd: half an é does not fit.
    assert_eq!(held[3][6].as_str().unwrap().len(), 65_534);
    assert_eq!(held[3][2], json!("a\u{FFFD}b"));
    assert_eq!(parsed(&held[3][3])["sendlake_cut"]["bytes"], json!(80_011));
    let note = held[3][7].as_str().unwrap();
    assert!(
        note.contains("transcript: the first 65534 of 80000 bytes") && note.contains("detail: "),
        "{note}"
    );

    // The same once more as Snappy; JSON as text; a narrower column than ours, made by hand.
    let settings = Settings {
        table: "narrow".to_owned(),
        json: JsonType::Text,
        compression: Codec::Snappy,
        ..stand_in.wire_settings(stand_in.wire)
    };
    let narrow = connect(&settings, "warehouse", &NoSecrets).await.unwrap();
    let mut by_hand = schema::definitions(&mapping, JsonType::Text);
    by_hand.retain(|column| !column.contains("reply_text"));
    by_hand.push("reply_text VARCHAR(5)".to_owned());
    narrow.client.change(&format!("CREATE TABLE main.narrow ({})", by_hand.join(", "))).await.unwrap();
    assert_eq!(narrow.prepare(&mapping).await.unwrap(), Vec::<String>::new());
    narrow.load(&crate::target::StagedBatch { batch_id: "a2".to_owned(), ..batch }, &log).await.unwrap();
    let held = stand_in.judge("SELECT reply_text, load_note, detail FROM main.narrow ORDER BY event_id");
    assert_eq!((&held[1][0], &held[1][1]), (&json!("a'b\"c"), &json!("reply_text: the first 5 of 13 bytes")));
    assert_eq!(held[0][2], json!(json_text.to_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_follows_the_mapping() {
    let Some(stand_in) = StandIn::start() else { return };
    let redshift = stand_in.wire().await;
    let folder = stand_in.folder.path();
    let (narrow, wide) = (columns(&["stream"]), columns(&["stream", "reply_code", "detail"]));
    redshift.prepare(&narrow).await.unwrap();
    let log = Jobs::default();
    redshift.load(&staged(folder, "1a", Change::Add, &narrow, (0..10).map(key_row)), &log).await.unwrap();
    let changed = redshift.prepare(&wide).await.unwrap();
    assert!(changed.len() == 2 && changed[0].contains("\"reply_code\" INTEGER"), "{changed:?}");
    assert!(changed[0].contains("sendlake export backfill warehouse"), "{changed:?}");
    let later = (0..20).map(|n| {
        let mut row = key_row(n);
        row["reply_code"] = json!(250);
        row
    });
    let later = staged(folder, "1b", Change::Replace, &wide, later);
    // A column of the warehouse's own stays what it is when rows are replaced.
    redshift.client.change("ALTER TABLE main.events ADD COLUMN owner VARCHAR(10)").await.unwrap();
    redshift.client.change("UPDATE main.events SET owner = 'me'").await.unwrap();
    redshift.load(&later, &log).await.unwrap();
    let counts = stand_in.judge("SELECT COUNT(*), SUM(reply_code), COUNT(owner) FROM main.events");
    assert_eq!(counts[0][0], json!(20));
    assert_eq!((counts[0][1].to_string().trim_matches('"'), &counts[0][2]), ("5000", &json!(10)));

    // Dropped by hand, between two loads and before a run.
    redshift.client.change("ALTER TABLE main.events DROP COLUMN reply_code").await.unwrap();
    let next = staged(folder, "1c", Change::Add, &wide, (20..30).map(key_row));
    let error = redshift.load(&next, &log).await.unwrap_err();
    assert!(error.kind() == "schema" && error.to_string().contains("reply_code"), "{error}");
    assert_eq!(redshift.prepare(&wide).await.unwrap().len(), 1);
    redshift.load(&next, &log).await.unwrap();

    let refused = async |sql: &str, words: &[&str]| {
        redshift.client.change("DROP TABLE main.events").await.unwrap();
        redshift.client.change(sql).await.unwrap();
        let error = redshift.prepare(&narrow).await.unwrap_err();
        let text = error.to_string();
        assert!(error.kind() == "schema" && words.iter().all(|word| text.contains(word)), "{text}");
    };
    let definitions = schema::definitions(&narrow, JsonType::Super).join(", ");
    let table =
        |from: &str, to: &str| format!("CREATE TABLE main.events ({})", definitions.replace(from, to));
    refused(&table("\"lsn\" BIGINT", "\"lsn\" INTEGER"), &["main.events", "lsn", "integer", "BIGINT"]).await;
    refused(&table("\"lsn\" BIGINT NOT NULL, ", ""), &["lsn", "missing"]).await;
    refused(&table("\"event_id\" VARCHAR(256)", "\"event_id\" VARCHAR(20)"), &["event_id", "never cut"])
        .await;
    refused(&table("\"stream\" VARCHAR(65535)", "\"stream\" VARCHAR(65535) NOT NULL"), &["stream", "NULL"])
        .await;
    refused(&table("\"stream\"", "ours INTEGER NOT NULL, \"stream\""), &["ours", "no event has it"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_what_to_do() {
    let tls = |folder: &std::path::Path| {
        let signed = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let files = [folder.join("cert.pem"), folder.join("key.pem")];
        std::fs::write(&files[0], signed.cert.pem()).unwrap();
        std::fs::write(&files[1], signed.signing_key.serialize_pem()).unwrap();
        files.to_vec()
    };
    let Some(stand_in) = StandIn::start_with(tls) else { return };
    let mapping = columns(&[]);
    let wire = |change: &dyn Fn(&mut Wire)| {
        let mut settings = stand_in.wire_settings(stand_in.wire);
        let wire = settings.wire.as_mut().unwrap();
        wire.host = "localhost".to_owned();
        wire.sslmode = SslMode::Require;
        wire.ca_file = Some(stand_in.folder.path().join("cert.pem"));
        change(wire);
        settings
    };
    let prepared = async |settings: Settings| {
        let redshift = connect(&settings, "warehouse", &NoSecrets).await?;
        redshift.prepare(&mapping).await
    };
    // Encrypted, by a certificate that is trusted.
    assert_eq!(prepared(wire(&|_| ())).await.unwrap().len(), 1);
    let said = async |settings: Settings| {
        let error = prepared(settings).await.unwrap_err();
        let text = error.to_string();
        assert!(!text.contains("hunter2") && !text.contains("letmein") && !text.contains(SECRET), "{text}");
        (error.kind(), text)
    };
    let (kind, text) = said(wire(&|wire| wire.ca_file = None)).await;
    assert!(kind == "refused" && text.contains("ca_file"), "{text}");
    let (kind, text) = said(wire(&|wire| wire.host = "127.0.0.1".to_owned())).await;
    assert!(kind == "refused" && text.contains("certificate"), "{text}");
    let (kind, text) = said(wire(&|wire| wire.user = "nobody".to_owned())).await;
    assert!(kind == "credentials" && text.contains("nobody"), "{text}");
    let wrong = stand_in.folder.path().join("wrong");
    std::fs::write(&wrong, "letmein").unwrap();
    let (kind, _) = said(wire(&|wire| wire.password = Some(SecretRef::File(wrong.clone())))).await;
    assert_eq!(kind, "credentials");
    let (kind, text) = said(wire(&|wire| wire.password = None)).await;
    assert!(kind == "credentials" && text.contains("password"), "{text}");
    let (kind, _) = said(wire(&|wire| wire.port = free_port())).await;
    assert_eq!(kind, "away");

    let api = |change: &dyn Fn(&mut Settings)| {
        let mut settings = stand_in.api_settings(stand_in.api);
        change(&mut settings);
        settings
    };
    assert_eq!(prepared(api(&|_| ())).await.unwrap().len(), 0);
    let option = |name: &'static str, value: &'static str| {
        api(&|settings| drop(settings.options.insert(name.to_owned(), value.to_owned())))
    };
    assert_eq!(said(option("aws_secret_access_key", "letmein")).await.0, "credentials");
    assert_eq!(said(option("aws_access_key_id", "stranger")).await.0, "credentials");
    let crowded = api(&|settings| settings.data_api.as_mut().unwrap().workgroup = Some("crowded".to_owned()));
    assert_eq!(said(crowded).await.0, "quota");

    // A bucket that is gone, and one that we may not write.
    let batch = staged(stand_in.folder.path(), "9a", Change::Add, &mapping, (0..10).map(key_row));
    let loaded = async |settings: Settings| {
        let redshift = connect(&settings, "warehouse", &NoSecrets).await.unwrap();
        redshift.load(&batch, &Jobs::default()).await.unwrap_err()
    };
    let mut settings = wire(&|_| ());
    settings.bucket = "s3://revoked/load".to_owned();
    assert_eq!(loaded(settings).await.kind(), "refused");
    let mut settings = wire(&|_| ());
    settings.options.insert("aws_secret_access_key".to_owned(), "letmein".to_owned());
    assert_eq!(loaded(settings).await.kind(), "credentials");
}

#[test]
fn statements_are_what_redshift_takes() {
    let mapping = columns(&["detail", "stream"]);
    let settings = Settings {
        bucket: "s3://staging/load".to_owned(),
        iam_role: "arn:aws:iam::123456789012:role/redshift-copy".to_owned(),
        data_api: Some(DataApi { workgroup: Some("events".to_owned()), ..DataApi::default() }),
        ..Settings::default()
    };
    settings.check().unwrap();
    let printed = ddl(&settings, &mapping, "s3://lake/sendlake");
    for part in [
        "CREATE SCHEMA IF NOT EXISTS \"sendlake\"",
        "GRANT ASSUMEROLE ON 'arn:aws:iam::123456789012:role/redshift-copy' TO \"IAMR:sendlake-exporter\" FOR COPY",
        "\"event_id\" VARCHAR(256) NOT NULL",
        "\"detail\" SUPER",
        "\"load_note\" VARCHAR(4096)",
        "DISTKEY (event_id) COMPOUND SORTKEY (event_date, tenant_id, occurred_at)",
        "CREATE EXTERNAL TABLE \"sendlake_lake\".\"events\"",
        "LOCATION 's3://lake/sendlake/events/_symlink_format_manifest'",
        "ADD IF NOT EXISTS PARTITION (event_date = '2026-01-31')",
    ] {
        assert!(printed.contains(part), "{part} is not in\n{printed}");
    }
    assert!(
        !printed.contains('{') && !printed.contains("\"event_date\" DATE,\n  \"tenant_id\" VARCHAR(65535)")
    );
}

#[test]
fn settings_say_what_is_wrong_with_them() {
    let good = Settings {
        bucket: "s3://staging".to_owned(),
        wire: Some(Wire { host: "h".to_owned(), user: "u".to_owned(), ..Wire::default() }),
        ..Settings::default()
    };
    good.check().unwrap();
    let key = |change: &dyn Fn(&mut Settings)| {
        let mut settings = good.clone();
        change(&mut settings);
        settings.check().unwrap_err().0
    };
    assert_eq!(key(&|s| s.bucket = "gs://b".to_owned()), "bucket");
    assert_eq!(key(&|s| s.schema = "Events".to_owned()), "schema");
    assert_eq!(key(&|s| s.iam_role = "arn:x'; DROP TABLE y".to_owned()), "iam_role");
    assert_eq!(key(&|s| s.iam_role = "my-role".to_owned()), "iam_role");
    assert_eq!(key(&|s| s.data_api = Some(DataApi::default())), "data_api");
    assert_eq!(key(&|s| s.wire = None), "data_api");
    assert_eq!(key(&|s| s.wire.as_mut().unwrap().host.clear()), "wire.host");
    let text = "bucket = \"s3://b\"\n[wire]\nhost = \"h\"\nuser = \"u\"\npassword = \"hunter2\"\n";
    let error = toml::from_str::<Settings>(text).unwrap_err().to_string();
    assert!(error.contains("env:NAME"), "{error}");
}

/// The same as against the stand-in, in the warehouse that the TOML file named by SENDLAKE_REDSHIFT_SETTINGS describes
/// (the keys of `[export.<connector>.redshift]`). Its table and ledger are dropped and made anew.
#[tokio::test(flavor = "multi_thread")]
async fn the_real_service_holds_each_event_once() {
    let Ok(path) = std::env::var("SENDLAKE_REDSHIFT_SETTINGS") else {
        println!("left out: no SENDLAKE_REDSHIFT_SETTINGS, a TOML file with the settings of a real Redshift");
        return;
    };
    let settings: Settings = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let redshift = connect(&settings, "warehouse", &NoSecrets).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    for table in [redshift.table(&all_columns()), redshift.ledger()] {
        redshift.client.change(&format!("DROP TABLE IF EXISTS {table}")).await.unwrap();
    }
    loads_each_event_once(&redshift, folder.path()).await;
    let noted = format!("SELECT COUNT({NOTE_COLUMN}) FROM {}", redshift.table(&all_columns()));
    assert_eq!(redshift.client.ask(&noted).await.unwrap(), [[Some("0".to_owned())]]);
}

/// Seconds and memory for SENDLAKE_MEASURE_ROWS rows; without it, for few.
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_batch() {
    let Some(stand_in) = StandIn::start() else { return };
    let rows =
        std::env::var("SENDLAKE_MEASURE_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(20_000);
    let mapping = all_columns();
    let redshift = stand_in.wire().await;
    redshift.prepare(&mapping).await.unwrap();
    let batch = staged(stand_in.folder.path(), "77", Change::Add, &mapping, (0..rows).map(key_row));
    let (before, begun) = (peak_mib(), std::time::Instant::now());
    let loaded = redshift.load(&batch, &Jobs::default()).await.unwrap();
    println!(
        "{rows} rows, {} bytes: {:?}, peak {before} to {} MiB",
        batch.bytes,
        begun.elapsed(),
        peak_mib()
    );
    assert_eq!(loaded.rows, Some(rows));
    assert!(peak_mib() - before < 300, "{before} to {} MiB", peak_mib());
}
