//! The lake in buckets of every kind: one story on four servers, credentials, refusals, encryption.

use std::path::Path;
use std::time::Duration;

use sendlake_tests::buckets::{BUCKET, Bucket, KEY, READ_ONLY_KEY, toml_text};
use sendlake_tests::home::{Home, Said};
use sendlake_tests::peers::{Python, SmtpSink, free_port};
use sendlake_tests::server::Server;
use serde_json::{Value, json};

use crate::message;

fn python() -> Option<Python> {
    Python::with(&["moto.server", "boto3", "deltalake", "duckdb", "aiosmtpd"])
}

/// Two nodes with one lake race their commits; one is killed and comes back; everybody counts the same.
async fn two_nodes_and_a_kill(bucket: &Bucket, python: &Python) -> (Home, Value) {
    let node = |name: &str| {
        bucket
            .home("prod/mail")
            .set("node.id", format!("{name:?}"))
            .set("lake.commit_interval_ms", 100)
            // by command, below
            .set("maintenance.enabled", false)
            .set("maintenance.settle_s", 0)
            .set("maintenance.small_files_min", 2)
    };
    let (one, two) = (node("one"), node("two"));
    let sink = SmtpSink::start(python, one.path());
    let (one, two) = (one.route("sink.test", sink.addr), two.route("sink.test", sink.addr));
    let (first, second) = tokio::join!(one.start(), two.start());
    let (key, other) = (one.tenant("acme", "acme.example"), two.tenant("acme", "acme.example"));
    first.http.ready(&key, "acme.example").await;
    second.http.ready(&other, "acme.example").await;
    tokio::join!(send(&first, &key, "a", 12), send(&second, &other, "b", 12));
    first.kill();
    let first = one.start().await;
    send(&first, &key, "c", 3).await;
    tokio::join!(first.stop(), second.stop());

    let ours = one.events_by_type();
    assert_eq!((ours["accepted"], ours["delivered"]), (27, 27), "{}", bucket.name);
    assert_eq!(two.events_by_type(), ours, "{}", bucket.name);
    assert_eq!(one.count("SELECT count(DISTINCT node_id) FROM events"), 2);
    assert_eq!(one.count("SELECT count(*) - count(DISTINCT event_id) FROM events"), 0);
    assert_eq!(sink.taken().len(), 27, "the sink's own count");
    let table = format!("{}/prod/mail/events", bucket.url);
    let theirs = python.ask("read_lake.py", &[&table, &bucket.python_options.to_string()]);
    assert_eq!(theirs["deltalake"], json!(ours), "{}", bucket.name);

    // Kept in shape there: many files become few with the same rows, as everybody counts them.
    let files = |home: &Home| table_of(home, "events")["files"].as_u64().unwrap();
    let before = files(&one);
    let compacted = one.ok(&["lake", "compact"]);
    assert!(compacted.contains("compacted"), "{}: {compacted}", bucket.name);
    let after = files(&one);
    assert!(after < before, "{}: {before} files became {after}", bucket.name);
    assert!(one.ok(&["lake", "verify"]).contains("outbox, log and files agree"), "{}", bucket.name);
    assert_eq!(one.events_by_type(), ours, "{}", bucket.name);
    let theirs = python.ask("read_lake.py", &[&table, &bucket.python_options.to_string()]);
    assert_eq!(theirs["deltalake"], json!(ours), "{} after compaction", bucket.name);
    (one, theirs)
}

/// What `lake status` says of a table.
fn table_of(home: &Home, name: &str) -> Value {
    let report: Value = serde_json::from_str(&home.ok(&["lake", "status", "--format", "json"])).unwrap();
    let tables = report["tables"].as_array().unwrap().iter();
    tables.clone().find(|table| table["table"] == name).unwrap().clone()
}

async fn send(server: &Server, key: &str, prefix: &str, count: usize) {
    let mut sent = Vec::new();
    for number in 0..count {
        sent.extend(server.http.send(key, &message(&format!("{prefix}{number}@sink.test"))).await);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    for id in &sent {
        server.http.outcome(key, id, "delivered").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lake_lies_in_seaweedfs() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(bucket) = Bucket::seaweed(&python, dir.path()).await else { return };
    let (home, theirs) = two_nodes_and_a_kill(&bucket, &python).await;
    if !theirs["duckdb_delta"].is_null() {
        assert_eq!(theirs["duckdb_delta"], json!(home.events_by_type()), "through DuckDB's own Delta reader");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lake_lies_in_an_s3_bucket_of_moto() {
    let Some(python) = python() else { return };
    let bucket = Bucket::moto(&python).await;
    two_nodes_and_a_kill(&bucket, &python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lake_lies_in_google_cloud_storage() {
    let Some(python) = python() else { return };
    let Some(bucket) = Bucket::gcs(&python).await else { return };
    two_nodes_and_a_kill(&bucket, &python).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lake_lies_in_azure_blob_storage() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(bucket) = Bucket::azurite(&python, dir.path()).await else { return };
    two_nodes_and_a_kill(&bucket, &python).await;
}

/// A configuration that does not work: the check and the start say so, with what to do.
#[track_caller]
fn refused(home: &Home, words: &[&str]) {
    for said in [home.run(&["config", "check", "--open"]), home.refused_start()] {
        for word in words {
            assert!(said.err.contains(word), "{word:?} is not said: {said:?}");
        }
        assert_eq!(said.code, 1, "{said:?}");
        assert!(
            !said.err.contains(KEY.1) && !said.err.contains(READ_ONLY_KEY.1),
            "a secret is told: {said:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_cannot_be_used_says_why_and_what_to_do() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(bucket) = Bucket::seaweed(&python, dir.path()).await else { return };
    let home = |changes: &[(&str, &str)]| {
        changes.iter().fold(bucket.home("prod"), |home, (key, value)| {
            home.set(&format!("storage.{key}"), toml_text(value))
        })
    };
    refused(
        &home(&[("options.aws_secret_access_key", "wrong")]),
        &["s3://lake-bucket/prod", "does not accept these credentials", "SignatureDoesNotMatch"],
    );
    refused(
        &home(&[("lake_url", "s3://nowhere/prod")]),
        &["s3://nowhere", "there is no such bucket", "lake_url"],
    );
    let reader = home(&[
        ("options.aws_access_key_id", READ_ONLY_KEY.0),
        ("options.aws_secret_access_key", READ_ONLY_KEY.1),
    ]);
    refused(&reader, &["may not do what a lake needs", "read, write and delete"]);
    refused(
        &home(&[("options.aws_conditional_put", "disabled")]),
        &["only if absent", "aws_conditional_put"],
    );
    refused(&home(&[("options.aws_allow_http", "false")]), &["not encrypted", "aws_allow_http"]);

    let good = home(&[]);
    assert!(good.ok(&["config", "check"]).contains("not opened"));
    assert!(good.ok(&["config", "check", "--open"]).contains("holds no lake yet"));
    good.start().await.stop().await;
    assert!(good.ok(&["config", "check", "--open"]).contains("holds a lake"));
    // Whoever may only read can ask the lake all the same.
    let key = |name: &str, value| good_setting(name, value);
    let reading = [key("AWS_ACCESS_KEY_ID", READ_ONLY_KEY.0), key("AWS_SECRET_ACCESS_KEY", READ_ONLY_KEY.1)];
    let mut asked = good.command(&["sql", "SELECT count(*) FROM events"]);
    let output = asked.envs(reading).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn good_setting(option: &str, value: &str) -> (String, String) {
    (format!("SENDLAKE_STORAGE__OPTIONS__{option}"), value.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_are_found_where_the_vendors_tools_find_them() {
    let Some(python) = python() else { return };
    let dir = tempfile::tempdir().unwrap();
    let Some(bucket) = Bucket::seaweed(&python, dir.path()).await else { return };
    let aws = dir.path().join(".aws");
    std::fs::create_dir(&aws).unwrap();
    let (key, secret) = KEY;
    let json = format!(r#"{{"Version":1,"AccessKeyId":"{key}","SecretAccessKey":"{secret}"}}"#);
    std::fs::write(aws.join("credential.json"), json).unwrap();
    let config = format!(
        "[default]\nregion = us-east-1\nendpoint_url = {endpoint}\n[profile wrong]\nendpoint_url = {endpoint}\n\
         [profile process]\nendpoint_url = {endpoint}\ncredential_process = cat {}\n[profile corp]\nsso_session = x\n",
        aws.join("credential.json").display(),
        endpoint = bucket.endpoint,
    );
    std::fs::write(aws.join("config"), config).unwrap();
    let credentials = format!(
        "[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n\
         [wrong]\naws_access_key_id = {key}\naws_secret_access_key = wrong\n"
    );
    std::fs::write(aws.join("credentials"), credentials).unwrap();

    let home = Home::new()
        .set("storage.lake_url", format!("\"s3://{BUCKET}/chain\""))
        .set("storage.options.aws_allow_http", "\"true\"");
    let check = |variables: &[(&str, &str)]| opened(&home, dir.path(), variables);
    let good = [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", secret)];
    let wrong = [("AWS_ACCESS_KEY_ID", key), ("AWS_SECRET_ACCESS_KEY", "wrong")];
    assert_eq!(check(&[]).code, 0, "the default profile");
    assert_eq!(check(&[("AWS_PROFILE", "process")]).code, 0, "a profile with a process");
    assert!(check(&[("AWS_PROFILE", "wrong")]).err.contains("does not accept these credentials"));
    assert!(check(&[("AWS_PROFILE", "nobody")]).err.contains("there is no profile \"nobody\""));
    assert!(check(&[("AWS_PROFILE", "corp")]).err.contains("credential_process"));
    assert!(check(&wrong).err.contains("does not accept"), "the environment goes before the profile");
    assert_eq!(check(&[good.as_slice(), &[("AWS_PROFILE", "wrong")]].concat()).code, 0, "here too");
    let (key, secret) =
        (good_setting("AWS_ACCESS_KEY_ID", key), good_setting("AWS_SECRET_ACCESS_KEY", secret));
    let options = [(key.0.as_str(), key.1.as_str()), (secret.0.as_str(), secret.1.as_str())];
    assert_eq!(check(&[wrong.as_slice(), &options].concat()).code, 0, "options go before the environment");
    let token = [("AWS_SESSION_TOKEN", "of-another-session")];
    assert_eq!(check(&[token.as_slice(), &options].concat()).code, 0, "and are not mixed with it");
}

/// `config check --open` with these variables, and none of this machine's own.
fn opened(home: &Home, user: &Path, variables: &[(&str, &str)]) -> Said {
    let mut command = home.command(&["config", "check", "--open"]);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    let output = command.env("HOME", user).envs(variables.iter().copied()).output().unwrap();
    Said {
        code: output.status.code().unwrap(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_object_is_encrypted_as_the_options_ask() {
    let Some(python) = python() else { return };
    let bucket = Bucket::moto(&python).await;
    let kms = python.ask("bucket.py", &["s3-key", &bucket.endpoint]);
    let kms = kms.as_str().unwrap();
    let customer_key = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let modes = [
        ("s3", vec![("aws_server_side_encryption", "AES256")], json!({"ServerSideEncryption": "AES256"})),
        (
            "kms",
            vec![
                ("aws_server_side_encryption", "aws:kms"),
                ("aws_sse_kms_key_id", kms),
                ("aws_sse_bucket_key_enabled", "true"),
            ],
            json!({"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": kms, "BucketKeyEnabled": true}),
        ),
    ];
    for (folder, options, expected) in modes {
        let home = options.iter().fold(bucket.home(folder), |home, (key, value)| {
            home.set(&format!("storage.options.{key}"), toml_text(value))
        });
        let home = home.route("sink.test", format!("127.0.0.1:{}", free_port()));
        let server = home.start().await;
        let key = home.tenant("acme", "acme.example");
        server.http.ready(&key, "acme.example").await;
        server.http.send(&key, &message("bob@sink.test")).await;
        server.stop().await;
        let objects = python.ask("bucket.py", &["s3-objects", &bucket.endpoint, "test", "test", BUCKET]);
        let ours: Vec<_> = objects
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, _)| name.starts_with(&format!("{folder}/")))
            .collect();
        for part in ["_sendlake/probe", "_delta_log/00000000000000000001.json", ".parquet"] {
            assert!(ours.iter().any(|(name, _)| name.ends_with(part)), "{part}: {ours:?}");
        }
        assert!(ours.iter().all(|(_, kept)| **kept == expected), "{folder}: {ours:#?}");
    }
    // A key of one's own goes with each request, reads included; without it there is nothing to read.
    let own = bucket
        .home("own")
        .set("storage.options.aws_server_side_encryption", "\"sse-c\"")
        .set("storage.options.aws_sse_customer_key_base64", format!("{customer_key:?}"));
    own.start().await.stop().await;
    assert!(own.ok(&["sql", "SELECT count(*) AS n FROM events"]).contains('0'));
}
