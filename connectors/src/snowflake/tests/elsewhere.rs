//! Beside the account: an SQL API by others, the real service, memory, and settings.

use std::process::{Command, Stdio};

use super::super::Settings;
use super::super::key::tests::new_pem;
use super::account::{Account, batch_of, connected};
use crate::batch::Change;
use crate::secret::SecretRef;
use crate::target::Target as _;
use crate::testing::{
    Jobs, Running, all_bounds, all_columns, columns, free_port, key_row, loads_each_event_once, peak_mib,
    python, staged, tallied,
};

/// An SQL API that others wrote, after the same documentation. It knows one statement to a request, no COPY of Parquet, no
/// asynchronous execution and no key; what it does know is said and answered as here.
#[tokio::test(flavor = "multi_thread")]
async fn snowducks_sql_api_understands_what_is_said() {
    let Some(python) = python("snowduck") else { return };
    let port = free_port();
    let mut command = Command::new(python.parent().unwrap().join("snowduck"));
    command.args(["--port", &port.to_string()]).stderr(Stdio::null());
    let _running = Running::until_listening(command, port);
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key.p8");
    std::fs::write(&key, new_pem()).unwrap();
    let settings = Settings {
        account: "xy12345".into(),
        user: "loader".into(),
        private_key: Some(SecretRef::File(key)),
        warehouse: "wh".into(),
        database: "mail".into(),
        schema: "sendlake".into(),
        bucket: Some(format!("file://{}", folder.path().display())),
        endpoint: Some(format!("http://127.0.0.1:{port}").parse().unwrap()),
        ..Settings::default()
    };
    let snowflake = connected(&settings).await;
    let client = &snowflake.client;
    client.query("CREATE DATABASE IF NOT EXISTS MAIL", "test").await.unwrap();
    client.query("CREATE SCHEMA IF NOT EXISTS MAIL.SENDLAKE", "test").await.unwrap();
    let rows = client
        .query("SELECT 1, NULL, 'a''b' UNION ALL SELECT 2, 'x', '' ORDER BY 1", "test")
        .await
        .unwrap()
        .rows;
    let text = |value: &str| Some(value.to_owned());
    assert_eq!(rows, [[text("1"), None, text("a'b")], [text("2"), text("x"), text("")]]);
    let error = client.query("SELECT nonesuch FROM nowhere", "asking").await.unwrap_err();
    assert!(error.to_string().starts_with("asking: Snowflake said:"), "{error:?}");
    let made = snowflake.prepare(&columns(&["recipient", "detail"])).await.unwrap();
    assert_eq!(made.len(), 3, "{made:?}");
    assert_eq!(snowflake.tally(&columns(&[]), &all_bounds()).await.unwrap(), Vec::new());
    client
        .query(
            "INSERT INTO SENDLAKE_BATCHES VALUES ('ab', 'c', 't', 's', 'add', 1, 'm', CURRENT_TIMESTAMP())",
            "test",
        )
        .await
        .unwrap();
    assert_eq!(client.query(&snowflake.names.in_ledger("ab"), "test").await.unwrap().rows, [[text("1")]]);
}

/// Seconds and memory for SENDLAKE_MEASURE_ROWS rows; without it, for few.
#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_the_batch() {
    let Some(account) = Account::start() else { return };
    let rows =
        std::env::var("SENDLAKE_MEASURE_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(20_000);
    let mapping = all_columns();
    for (name, bucket) in [("bucket", account.settings().bucket), ("own stage", None)] {
        let stage = if bucket.is_some() { "sendlake_stage" } else { "own_stage" };
        let settings = Settings {
            bucket,
            stage: stage.into(),
            table: format!("events_{}", stage.len()),
            load_timeout_s: 600,
            ..account.settings()
        };
        let snowflake = connected(&settings).await;
        snowflake.prepare(&mapping).await.unwrap();
        let batch = staged(account.folder.path(), stage, Change::Add, &mapping, (0..rows).map(key_row));
        let (before, begun) = (peak_mib(), std::time::Instant::now());
        let loaded = snowflake.load(&batch, &Jobs::default()).await.unwrap();
        println!(
            "{name}: {rows} rows, {} bytes: {:?}, peak {before} to {} MiB",
            batch.bytes,
            begun.elapsed(),
            peak_mib()
        );
        assert_eq!(loaded.rows, Some(rows));
        assert!(peak_mib() - before < 100, "{before} to {} MiB", peak_mib());
    }
}

#[test]
fn settings_that_cannot_be_are_named() {
    let good = Settings {
        account: "myorg-myaccount".into(),
        user: "LOADER".into(),
        private_key: Some(SecretRef::Env("KEY".into())),
        warehouse: "WH".into(),
        database: "MAIL".into(),
        ..Settings::default()
    };
    assert_eq!(good.check(), Ok(()));
    let key = |change: &dyn Fn(&mut Settings)| {
        let mut settings = good.clone();
        change(&mut settings);
        settings.check().unwrap_err().0
    };
    assert_eq!(key(&|s| s.account.clear()), "account");
    assert_eq!(key(&|s| s.account = "https://a.snowflakecomputing.com".into()), "account");
    assert_eq!(key(&|s| s.private_key = None), "private_key");
    assert_eq!(key(&|s| s.warehouse.clear()), "warehouse");
    assert_eq!(key(&|s| s.table = "events\"; DROP TABLE x; --".into()), "table");
    assert_eq!(key(&|s| s.table = "sendlake_locks".into()), "table");
    assert_eq!(key(&|s| s.role = Some("my role".into())), "role");
    assert_eq!(
        key(&|s| s.options = [("aws_secret_access_key".to_owned(), "x".to_owned())].into()),
        "options"
    );
    assert_eq!(key(&|s| s.load_timeout_s = 0), "load_timeout_s");
    assert_eq!(key(&|s| s.endpoint = Some("http://example.com".parse().unwrap())), "endpoint");
    let allowed = Settings { options: [("aws_region".to_owned(), "x".to_owned())].into(), ..good.clone() };
    assert_eq!(allowed.check(), Ok(()));
    let text = toml::to_string(&good).unwrap();
    assert_eq!(toml::from_str::<Settings>(&text).unwrap(), good);
    let error = toml::from_str::<Settings>("private_key = \"hunter2\"\n").unwrap_err().to_string();
    assert!(error.contains("env:NAME"), "{error}");
}

/// The same as against the stand-in, in the account that the TOML file named by SENDLAKE_SNOWFLAKE_SETTINGS describes (the
/// keys of `[export.<connector>.snowflake]`). Its table, ledger and locks are dropped and made anew.
#[tokio::test(flavor = "multi_thread")]
async fn the_real_service_holds_each_event_once() {
    let Ok(path) = std::env::var("SENDLAKE_SNOWFLAKE_SETTINGS") else {
        println!(
            "left out: no SENDLAKE_SNOWFLAKE_SETTINGS, a TOML file with the settings of a real Snowflake"
        );
        return;
    };
    let settings: Settings = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let snowflake = connected(&settings).await;
    for table in [snowflake.names.table.as_str(), "SENDLAKE_BATCHES", "SENDLAKE_LOCKS"] {
        snowflake.client.query(&format!("DROP TABLE IF EXISTS \"{table}\""), "clearing up").await.unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    loads_each_event_once(&snowflake, folder.path()).await;
    // Two at once: the second waits for the first, and adds nothing.
    let batches = [batch_of(folder.path(), "dd01", 400..500), batch_of(folder.path(), "dd02", 420..520)];
    let log = Jobs::default();
    let (one, other) = tokio::join!(snowflake.load(&batches[0], &log), snowflake.load(&batches[1], &log));
    let added = one.unwrap().rows.unwrap() + other.unwrap().rows.unwrap();
    assert_eq!(added, 120);
    let left = (0..100).chain(150..520);
    assert_eq!(snowflake.tally(&all_columns(), &all_bounds()).await.unwrap(), tallied(left));
}
