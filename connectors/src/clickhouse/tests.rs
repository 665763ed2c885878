//! Loads over HTTP into ClickHouse in a library, judged by ClickHouse's own Python client; and into a real server, where
//! one is named.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use super::settings::JsonType;
use super::*;
use crate::batch::Change;
use crate::secret::SecretRef;
use crate::secret::tests::NoSecrets;
use crate::testing::{
    Jobs, Running, all_bounds, all_columns, columns, free_port, key_row, loads_each_event_once, lose_answer,
    peak_mib, peer, python, staged, tallied, told,
};

struct StandIn {
    python: PathBuf,
    port: u16,
    folder: tempfile::TempDir,
    _running: Running,
}

impl StandIn {
    fn start() -> Option<Self> {
        let python = python("clickhouse")?;
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(&python);
        command.arg(peer("clickhouse_http.py")).arg(folder.path().join("store")).args(["loader", "hunter2"]);
        let (running, port) = Running::until_ready(command);
        Some(Self { python, port: port.parse().unwrap(), folder, _running: running })
    }

    fn settings(&self, port: u16) -> Settings {
        let password = self.folder.path().join("password");
        std::fs::write(&password, "hunter2\n").unwrap();
        Settings {
            url: format!("http://127.0.0.1:{port}/"),
            user: "loader".to_owned(),
            password: Some(SecretRef::File(password)),
            ..Settings::default()
        }
    }

    async fn target(&self) -> ClickHouse {
        connect(&self.settings(self.port), "warehouse", &NoSecrets).await.unwrap()
    }

    /// The rows of `sql`, by clickhouse-connect.
    fn judge(&self, sql: &str) -> Value {
        let mut command = Command::new(&self.python);
        command.arg(peer("clickhouse_judge.py")).args([&self.port.to_string(), "loader", "hunter2", sql]);
        told(&mut command)
    }

    fn stages(&self) -> Value {
        self.judge(
            "SELECT name FROM system.tables WHERE database = 'sendlake' AND name LIKE 'sendlake_stage%'",
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_loaded_once() {
    let Some(stand_in) = StandIn::start() else { return };
    loads_each_event_once(&stand_in.target().await, stand_in.folder.path()).await;
    // Without FINAL: there is no second version of anything.
    let counts = "SELECT count(), uniqExact(event_id), count(recipient) FROM sendlake.events";
    assert_eq!(stand_in.judge(counts), json!([[350, 350, 10]]));
    let ledger = "SELECT batch_id, change, rows_staged FROM sendlake.sendlake_batches ORDER BY batch_id";
    let loaded = json!([
        ["aa01", "add", 200],
        ["aa02", "add", 150],
        ["aa03", "add", 400],
        ["bb01", "replace", 20],
        ["cc01", "delete", 50],
    ]);
    assert_eq!(stand_in.judge(ledger), loaded);
    assert_eq!(stand_in.stages(), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_whose_answer_is_lost_is_done_again() {
    let Some(stand_in) = StandIn::start() else { return };
    let mapping = columns(&["stream"]);
    let folder = stand_in.folder.path();
    let target = stand_in.target().await;
    target.prepare(&mapping).await.unwrap();
    let log = Jobs::default();
    let steps =
        ["CREATE TABLE", "PAR1", "uniqExact", "LIMIT 1 BY", "rows_staged, mapping_version", "DROP TABLE"];
    for (n, needle) in steps.into_iter().enumerate() {
        let first = n as u64 * 100;
        let cut = connect(&stand_in.settings(lose_answer(stand_in.port, needle)), "warehouse", &NoSecrets)
            .await
            .unwrap();
        let batch =
            staged(folder, &format!("d{n}"), Change::Add, &mapping, (first..first + 150).map(key_row));
        let error = cut.load(&batch, &log).await.unwrap_err();
        assert_eq!(error.kind(), "away", "{needle}: {error}");
        cut.load(&batch, &log).await.unwrap();
        assert_eq!(target.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..first + 150), "{needle}");
    }
    for (n, needle) in ["LIMIT 1 BY", "DELETE FROM"].into_iter().enumerate() {
        let cut = connect(&stand_in.settings(lose_answer(stand_in.port, needle)), "warehouse", &NoSecrets)
            .await
            .unwrap();
        let batch = staged(folder, &format!("e{n}"), Change::Replace, &mapping, (0..100).map(key_row));
        assert_eq!(cut.load(&batch, &log).await.unwrap_err().kind(), "away", "{needle}");
        cut.load(&batch, &log).await.unwrap();
        assert_eq!(target.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..650), "{needle}");
    }
    assert_eq!(stand_in.judge("SELECT count() FROM sendlake.sendlake_batches"), json!([[8]]));
    assert_eq!(stand_in.stages(), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn loaders_at_once_leave_one_copy() {
    let Some(stand_in) = StandIn::start() else { return };
    let mapping = columns(&["stream"]);
    let folder = stand_in.folder.path();
    let (target, other) = (stand_in.target().await, stand_in.target().await);
    target.prepare(&mapping).await.unwrap();
    let same = staged(folder, "f1", Change::Add, &mapping, (0..3_000).map(key_row));
    let overlapping = staged(folder, "f2", Change::Add, &mapping, (1_000..4_000).map(key_row));
    let log = Jobs::default();
    let load = async |target: &ClickHouse, batch| {
        for _ in 0..5 {
            match target.load(batch, &log).await {
                Ok(_) => return,
                Err(error) => assert_eq!(error.kind(), "away", "{error}"),
            }
        }
        panic!("not loaded in five tries");
    };
    tokio::join!(
        load(&target, &same),
        load(&other, &same),
        load(&target, &overlapping),
        load(&other, &overlapping)
    );
    assert_eq!(target.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..4_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_staging_table_that_was_left_is_used_or_made_anew() {
    let Some(stand_in) = StandIn::start() else { return };
    let mapping = columns(&["stream"]);
    let target = stand_in.target().await;
    target.prepare(&mapping).await.unwrap();
    let batch = staged(stand_in.folder.path(), "ab", Change::Add, &mapping, (0..100).map(key_row));
    let log = Jobs::default();
    // Something else is in it: no row of it reaches the table.
    let stage = schema::staged_definitions(&mapping.columns).join(", ");
    stand_in.judge(&format!(
        "CREATE TABLE sendlake.sendlake_stage_warehouse_ab_add ({stage}) ENGINE = MergeTree ORDER BY event_id"
    ));
    stand_in.judge("INSERT INTO sendlake.sendlake_stage_warehouse_ab_add (event_id) VALUES ('stranger')");
    let error = target.load(&batch, &log).await.unwrap_err();
    assert!(error.kind() == "away" && error.to_string().contains("not 100 events"), "{error}");
    target.load(&batch, &log).await.unwrap();
    assert_eq!(target.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..100));
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
    let target = stand_in.target().await;
    target.prepare(&mapping).await.unwrap();
    let detail =
        json!({"quote": "\"it's\"\\", "lines": "a\nb\tc", "mail": "ü😀@例え", "n": 1.5, "none": null})
            .to_string();
    let long = "é".repeat(400_000);
    let with = |n: u64, more: Value| {
        let mut row = key_row(n);
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    let rows = [
        with(0, json!({"seq": i64::MAX, "attempt": i32::MIN, "reply_text": "", "detail": detail})),
        with(
            1,
            json!({"seq": i64::MIN, "attempt": i32::MAX, "reply_text": "a'b\"c\\d\r\n😀", "tags": "{}", "spf_aligned": true}),
        ),
        with(
            2,
            json!({"occurred_at": "1970-01-01T00:00:00Z", "event_date": "1970-01-01", "next_attempt_at": "2299-12-31T23:59:59.999999Z"}),
        ),
        with(
            3,
            json!({"transcript": long, "occurred_at": "2299-12-31T00:00:00Z", "event_date": "2299-12-31"}),
        ),
    ];
    let batch = staged(stand_in.folder.path(), "a1", Change::Add, &mapping, rows);
    let log = Jobs::default();
    target.load(&batch, &log).await.unwrap();
    let held = stand_in.judge(
        "SELECT seq, attempt, reply_text, detail, tags, spf_aligned, transcript, load_note, toString(occurred_at), \
         toString(next_attempt_at), toString(event_date) FROM sendlake.events ORDER BY event_id",
    );
    assert_eq!((&held[0][0], &held[0][1], &held[0][2]), (&json!(i64::MAX), &json!(i32::MIN), &json!("")));
    assert_eq!(held[0][3], json!(detail));
    assert_eq!((&held[1][0], &held[1][2]), (&json!(i64::MIN), &json!("a'b\"c\\d\r\n😀")));
    assert_eq!((&held[1][4], &held[1][5]), (&json!("{}"), &json!(true)));
    assert!(held[2].as_array().unwrap()[..8].iter().all(Value::is_null), "{}", held[2]);
    assert_eq!(
        (&held[2][8], &held[2][9]),
        (&json!("1970-01-01 00:00:00.000000"), &json!("2299-12-31 23:59:59.999999"))
    );
    assert_eq!((&held[3][6], &held[3][10]), (&json!(long), &json!("2299-12-31")));

    // The same as JSON.
    let settings =
        Settings { table: "typed".to_owned(), json: JsonType::Json, ..stand_in.settings(stand_in.port) };
    let typed = connect(&settings, "warehouse", &NoSecrets).await.unwrap();
    typed.prepare(&mapping).await.unwrap();
    assert_eq!(typed.prepare(&mapping).await.unwrap(), Vec::<String>::new());
    typed.load(&crate::target::StagedBatch { batch_id: "a2".to_owned(), ..batch }, &log).await.unwrap();
    let held =
        stand_in.judge("SELECT toString(detail.quote), isNull(tags) FROM sendlake.typed ORDER BY event_id");
    assert_eq!((&held[0][0], &held[1][1]), (&json!("\"it's\"\\"), &json!(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_follows_the_mapping() {
    let Some(stand_in) = StandIn::start() else { return };
    let target = stand_in.target().await;
    let folder = stand_in.folder.path();
    let (narrow, wide) = (columns(&["stream"]), columns(&["stream", "reply_code", "detail"]));
    target.prepare(&narrow).await.unwrap();
    let log = Jobs::default();
    target.load(&staged(folder, "1a", Change::Add, &narrow, (0..10).map(key_row)), &log).await.unwrap();
    let changed = target.prepare(&wide).await.unwrap();
    assert!(changed.len() == 2 && changed[0].contains("\"reply_code\" Nullable(Int32)"), "{changed:?}");
    let later = (0..20).map(|n| {
        let mut row = key_row(n);
        row["reply_code"] = json!(250);
        row
    });
    target.load(&staged(folder, "1b", Change::Replace, &wide, later), &log).await.unwrap();
    assert_eq!(stand_in.judge("SELECT count(), sum(reply_code) FROM sendlake.events"), json!([[20, 5000]]));

    stand_in.judge("ALTER TABLE sendlake.events DROP COLUMN reply_code");
    let next = staged(folder, "1c", Change::Add, &wide, (20..30).map(key_row));
    let error = target.load(&next, &log).await.unwrap_err();
    assert!(error.kind() == "schema" && error.to_string().contains("reply_code"), "{error}");
    assert_eq!(target.prepare(&wide).await.unwrap().len(), 1);
    target.load(&next, &log).await.unwrap();

    let refused = async |sql: &str, words: &[&str]| {
        stand_in.judge("DROP TABLE sendlake.events");
        stand_in.judge(sql);
        let error = target.prepare(&narrow).await.unwrap_err();
        let text = error.to_string();
        assert!(error.kind() == "schema" && words.iter().all(|word| text.contains(word)), "{text}");
    };
    let made = ddl::table(&target.client.settings, &narrow);
    refused(
        &made.replace("\"stream\" Nullable(String)", "\"stream\" String"),
        &["stream", "found String", "Nullable"],
    )
    .await;
    refused(&made.replace("\"lsn\" Int64,", ""), &["lsn", "missing"]).await;
    refused(&made.replace("ReplacingMergeTree(load_version)", "MergeTree"), &["ReplacingMergeTree"]).await;
    // Kept in another way, but as what it is.
    stand_in.judge("DROP TABLE sendlake.events");
    stand_in.judge(&made.replace("\"event_type\" String", "\"event_type\" LowCardinality(String)"));
    assert_eq!(target.prepare(&narrow).await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_is_told_what_to_do() {
    let Some(stand_in) = StandIn::start() else { return };
    let said = async |change: &dyn Fn(&mut Settings)| {
        let mut settings = stand_in.settings(stand_in.port);
        change(&mut settings);
        let target = connect(&settings, "warehouse", &NoSecrets).await.unwrap();
        let error = target.prepare(&columns(&[])).await.unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
        error.kind()
    };
    assert_eq!(said(&|settings| settings.user = "nobody".to_owned()).await, "credentials");
    assert_eq!(said(&|settings| settings.password = None).await, "credentials");
    assert_eq!(said(&|settings| settings.url = format!("http://127.0.0.1:{}", free_port())).await, "away");
}

/// The same in the server that the TOML file named by SENDLAKE_CLICKHOUSE_SETTINGS describes (the keys of
/// `[export.<connector>.clickhouse]`). Its table and ledger are dropped and made anew.
#[tokio::test(flavor = "multi_thread")]
async fn the_real_service_holds_each_event_once() {
    let Ok(path) = std::env::var("SENDLAKE_CLICKHOUSE_SETTINGS") else {
        println!(
            "left out: no SENDLAKE_CLICKHOUSE_SETTINGS, a TOML file with the settings of a real ClickHouse"
        );
        return;
    };
    let settings: Settings = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let target = connect(&settings, "warehouse", &NoSecrets).await.unwrap();
    for (name, table) in ddl::place(&settings, &all_columns()) {
        if matches!(name, "target" | "ledger") {
            target.client.change(&format!("DROP TABLE IF EXISTS {table} SYNC"), &[]).await.unwrap();
        }
    }
    loads_each_event_once(&target, tempfile::tempdir().unwrap().path()).await;
}

/// Seconds and memory for SENDLAKE_MEASURE_ROWS rows; without it, for few.
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_batch() {
    let Some(stand_in) = StandIn::start() else { return };
    let rows =
        std::env::var("SENDLAKE_MEASURE_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(80_000);
    let (mapping, target) = (all_columns(), stand_in.target().await);
    target.prepare(&mapping).await.unwrap();
    let batch = staged(stand_in.folder.path(), "77", Change::Add, &mapping, (0..rows).map(key_row));
    let (before, begun) = (peak_mib(), std::time::Instant::now());
    target.load(&batch, &Jobs::default()).await.unwrap();
    println!(
        "{rows} rows, {} bytes: {:?}, peak {before} to {} MiB",
        batch.bytes,
        begun.elapsed(),
        peak_mib()
    );
    assert_eq!(target.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..rows));
    assert!(peak_mib() - before < 300, "{before} to {} MiB", peak_mib());
}

#[test]
fn statements_and_settings() {
    let settings = Settings { url: "https://warehouse:8443".to_owned(), ..Settings::default() };
    settings.check().unwrap();
    let clustered = Settings { cluster: "main".to_owned(), ..settings.clone() };
    let printed = ddl(&clustered, &columns(&["detail"]), "s3://lake/sendlake");
    for part in [
        "CREATE TABLE IF NOT EXISTS \"sendlake\".\"events\" ON CLUSTER \"main\"",
        "ENGINE = ReplicatedReplacingMergeTree(load_version)",
        "\"occurred_at\" DateTime64(6, 'UTC')",
        "\"detail\" Nullable(String)",
        "DeltaLake('https://lake.s3.amazonaws.com/sendlake/events/'",
    ] {
        assert!(printed.contains(part), "{part} is not in\n{printed}");
    }
    assert!(!printed.contains('{'), "{printed}");
    let key = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings.clone();
        change(&mut settings);
        settings.check().unwrap_err().0
    };
    assert_eq!(key(&|s| s.url = "warehouse:8443".to_owned()), "url");
    assert_eq!(key(&|s| s.url = "http://warehouse:8123".to_owned()), "url");
    assert_eq!(key(&|s| s.url = "https://me:hunter2@warehouse".to_owned()), "url");
    assert_eq!(key(&|s| s.table = "a\"b".to_owned()), "table");
}
