//! Against the stand-ins: `tests/peers/snowflake_server.py` (fakesnow with the SQL API in front, keys verified) and snowduck
//! (an SQL API by others); what is in the tables afterwards is read by the official Python connector.

mod account;
mod elsewhere;

use std::time::Duration;

use async_trait::async_trait;
use sendlake_control::clock::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use self::account::{Account, batch_of, connected, connected_at, now};
use super::Settings;
use super::key::tests::new_pem;
use crate::batch::Change;
use crate::secret::SecretRef;
use crate::target::{Bounds, JobLog, StagedBatch, Target as _, TargetError};
use crate::testing::{
    Jobs, all_bounds, all_columns, columns, free_port, key_row, loads_each_event_once, lose_answer, staged,
    tallied,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_and_an_external_stage_bring_each_event_once() {
    let Some(account) = Account::start() else { return };
    let snowflake = account.snowflake().await;
    loads_each_event_once(&snowflake, account.folder.path()).await;
    assert_eq!(account.staged_files(), 0);
    assert_eq!(account.one("SELECT COUNT(*) FROM EVENTS"), 350);
    let ledger =
        account.ask("SELECT BATCH_ID, CHANGE, ROWS_STAGED, SOURCE_TABLE FROM SENDLAKE_BATCHES ORDER BY 1");
    assert_eq!(ledger.len(), 5);
    assert_eq!(ledger[3], [json!("bb01"), json!("replace"), json!(20), json!("events")]);
    let removed = "SELECT COUNT(*) FROM EVENTS WHERE RECIPIENT = 'removed' AND RECIPIENT_DOMAIN IS NULL";
    assert_eq!(account.one(removed), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_bucket_files_go_by_a_stage_of_snowflakes_own() {
    let Some(account) = Account::start() else { return };
    let settings = Settings { bucket: None, stage: "own_stage".into(), ..account.settings() };
    let snowflake = connected(&settings).await;
    loads_each_event_once(&snowflake, account.folder.path()).await;
    assert_eq!(account.one("SELECT COUNT(*), COUNT(DISTINCT EVENT_ID) FROM EVENTS"), 350);
    assert_eq!(account.ask("LIST @OWN_STAGE"), Vec::<Vec<Value>>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn values_arrive_as_they_were() {
    let Some(account) = Account::start() else { return };
    let snowflake = account.snowflake().await;
    let names =
        ["recipient", "tags", "detail", "size_bytes", "attempt", "tls_verified", "delivered_at", "subject"];
    let known: Vec<&str> =
        names.into_iter().filter(|name| all_columns().names().any(|column| column == *name)).collect();
    let mapping = columns(&known);
    snowflake.prepare(&mapping).await.unwrap();
    let tags = "{\"quote\":\"a\\\"b'c\\\\d\",\"lines\":\"1\\n2\\ttab\",\"emoji\":\"\u{1F600}é\",\"empty\":\"\",\"none\":null}";
    let mut rows: Vec<Value> = (0..3).map(key_row).collect();
    let full = json!({
        "recipient": "O'Brien \\N \"x\"; -- \u{1F4A9}\n", "tags": tags, "detail": "{\"n\":[1,2.5,true]}",
        "size_bytes": i64::MAX, "attempt": i32::MAX, "tls_verified": true, "delivered_at": "1970-01-01T00:00:00Z",
    });
    let far = json!({
        "recipient": "", "tags": "{}", "size_bytes": i64::MIN, "attempt": i32::MIN, "tls_verified": false,
        "delivered_at": "9999-12-31T23:59:59.999999Z",
    });
    // The text that Snowflake takes for NULL unless it is told otherwise.
    let sentinel = json!({"recipient": "\\N"});
    for (row, more) in rows.iter_mut().zip([&full, &far, &sentinel]) {
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    let batch = staged(account.folder.path(), "ab", Change::Add, &mapping, rows);
    assert_eq!(snowflake.load(&batch, &Jobs::default()).await.unwrap().rows, Some(3));
    let read = account.ask(
        "SELECT RECIPIENT, TAGS, DETAIL, SIZE_BYTES, ATTEMPT, TLS_VERIFIED, TO_VARCHAR(DELIVERED_AT), TO_VARCHAR(EVENT_DATE), \
         LSN FROM EVENTS ORDER BY LSN",
    );
    let json_of = |value: &Value| -> Value { serde_json::from_str(value.as_str().unwrap()).unwrap() };
    assert_eq!(read[0][0], full["recipient"]);
    assert_eq!(json_of(&read[0][1]), serde_json::from_str::<Value>(tags).unwrap());
    assert_eq!(json_of(&read[0][2]), json!({"n": [1, 2.5, true]}));
    assert_eq!((&read[0][3], &read[0][4], &read[0][5]), (&json!(i64::MAX), &json!(i32::MAX), &json!(true)));
    assert!(read[0][6].as_str().unwrap().starts_with("1970-01-01 00:00:00"), "{}", read[0][6]);
    assert_eq!((&read[1][0], &read[1][3], &read[1][4]), (&json!(""), &json!(i64::MIN), &json!(i32::MIN)));
    assert_eq!(read[1][6], "9999-12-31 23:59:59.999999");
    assert_eq!(read[2][0], "\\N");
    assert_eq!(read[2][1..7], [Value::Null, Value::Null, Value::Null, Value::Null, Value::Null, Value::Null]);
    assert_eq!(read[2][7], key_row(2)["event_date"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_and_nothing_runs_twice() {
    let Some(account) = Account::start() else { return };
    account.snowflake().await.prepare(&all_columns()).await.unwrap();
    let cut = lose_answer(account.port, "MERGE INTO");
    let settings =
        Settings { endpoint: Some(format!("http://127.0.0.1:{cut}").parse().unwrap()), ..account.settings() };
    let snowflake = connected(&settings).await;
    let batch = batch_of(account.folder.path(), "ab", 0..100);
    let log = Jobs::default();
    let loaded = snowflake.load(&batch, &log).await.unwrap();
    // 100 rows were added by the one job: had it run again, it would have added none.
    assert_eq!(loaded.rows, Some(100));
    assert_eq!(log.0.lock().len(), 1);
    assert_eq!(account.one("SELECT COUNT(*) FROM EVENTS"), 100);
    assert_eq!(account.one("SELECT COUNT(*) FROM SENDLAKE_BATCHES"), 1);
}

/// Dies where it is told.
struct Dies;

#[async_trait]
impl JobLog for Dies {
    async fn submitting(&self, _: &str) -> Result<(), TargetError> {
        Err(TargetError::Local("died".into()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_ends_what_the_first_began() {
    let Some(account) = Account::start() else { return };
    let snowflake = account.snowflake().await;
    snowflake.prepare(&all_columns()).await.unwrap();
    // The file was uploaded, nothing was submitted.
    let mut first = batch_of(account.folder.path(), "a1", 0..50);
    assert_eq!(snowflake.load(&first, &Dies).await.unwrap_err(), TargetError::Local("died".into()));
    assert_eq!(account.staged_files(), 1);
    // Noted and never sent: Snowflake has not heard of it.
    first.job_id = Some(Uuid::from_u128(7).to_string());
    assert_eq!(account.snowflake().await.load(&first, &Jobs::default()).await.unwrap().rows, Some(50));
    assert_eq!(account.staged_files(), 0);
    // Killed at some moment between submission and answer; the next one does the same batch.
    for (n, ms) in [5_u64, 40, 120, 300].into_iter().enumerate() {
        let id = format!("b{n}");
        let from = 50 + 50 * u64::try_from(n).unwrap();
        let mut batch = batch_of(account.folder.path(), &id, from..from + 60);
        let log = Jobs::default();
        let _ = tokio::time::timeout(Duration::from_millis(ms), snowflake.load(&batch, &log)).await;
        batch.job_id = log.0.lock().last().cloned();
        account.snowflake().await.load(&batch, &Jobs::default()).await.unwrap();
    }
    assert_eq!(snowflake.tally(&all_columns(), &all_bounds()).await.unwrap(), tallied(0..260));
    assert_eq!(account.one("SELECT COUNT(*) FROM SENDLAKE_BATCHES"), 5);
    assert_eq!(account.staged_files(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_job_leaves_nothing_and_the_next_attempt_succeeds() {
    let Some(account) = Account::start() else { return };
    let snowflake = account.snowflake().await;
    snowflake.prepare(&all_columns()).await.unwrap();
    let mut batch = batch_of(account.folder.path(), "ab", 0..20);
    let log = Jobs::default();
    // After the MERGE, within its transaction.
    account.fault("INSERT INTO \"SENDLAKE_BATCHES\"", "100072").await;
    let error = snowflake.load(&batch, &log).await.unwrap_err();
    assert!(matches!(error, TargetError::JobFailed(_)), "{error:?}");
    assert_eq!(account.one("SELECT COUNT(*) FROM EVENTS"), 0);
    // What stood in its way is mended, and the request that failed is still answered as it was: another one is sent.
    batch.job_id = log.0.lock().last().cloned();
    assert_eq!(snowflake.load(&batch, &log).await.unwrap().rows, Some(20));
    assert_eq!(log.0.lock().len(), 2);
    assert_eq!(account.one("SELECT COUNT(*) FROM EVENTS"), 20);
    // As the engine has it: the next attempt, which knows of no job.
    let second = batch_of(account.folder.path(), "ac", 20..40);
    account.fault("COMMIT", "100072").await;
    let error = snowflake.load(&second, &log).await.unwrap_err();
    assert!(matches!(error, TargetError::JobFailed(_)), "{error:?}");
    assert_eq!(account.one("SELECT COUNT(*) FROM EVENTS"), 20);
    let second = StagedBatch { attempt: 2, ..second };
    assert_eq!(snowflake.load(&second, &log).await.unwrap().rows, Some(20));
    assert_eq!(account.one("SELECT COUNT(*) FROM SENDLAKE_BATCHES"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_lost_rows_is_not_loaded() {
    let Some(account) = Account::start() else { return };
    let snowflake = account.snowflake().await;
    snowflake.prepare(&all_columns()).await.unwrap();
    let mut batch = batch_of(account.folder.path(), "ab", 0..20);
    batch.rows = 21;
    let error = snowflake.load(&batch, &Jobs::default()).await.unwrap_err();
    assert!(
        matches!(&error, TargetError::JobFailed(said) if said.contains("of 21 rows of the staged file there came 20")),
        "{error:?}"
    );
    assert_eq!(account.one("SELECT COUNT(*) FROM EVENTS"), 0);
    assert_eq!(account.one("SELECT COUNT(*) FROM SENDLAKE_BATCHES"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_loaders_of_one_batch_and_of_batches_that_overlap_end_in_each_event_once() {
    let Some(account) = Account::start() else { return };
    let snowflake = account.snowflake().await;
    snowflake.prepare(&all_columns()).await.unwrap();
    let folder = account.folder.path();
    for round in 0..3_u64 {
        let from = round * 100;
        let batches = [
            batch_of(folder, &format!("a{round}"), from..from + 80),
            batch_of(folder, &format!("b{round}"), from + 20..from + 100),
        ];
        let tries = batches.iter().chain(&batches).enumerate().map(|(n, batch)| {
            // Two that do not know of each other ask under names of their own.
            let batch = StagedBatch { attempt: u32::try_from(1 + n / 2).unwrap(), ..batch.clone() };
            let snowflake = &snowflake;
            async move {
                let mut tries = 0;
                loop {
                    match snowflake.load(&batch, &Jobs::default()).await {
                        Ok(loaded) => return loaded,
                        // The other's clearing up took the file away.
                        Err(TargetError::JobFailed(_) | TargetError::Refused(_)) if tries < 3 => tries += 1,
                        Err(error) => panic!("{error:?}"),
                    }
                }
            }
        });
        futures::future::join_all(tries).await;
    }
    assert_eq!(snowflake.tally(&all_columns(), &all_bounds()).await.unwrap(), tallied(0..300));
    assert_eq!(account.one("SELECT COUNT(*) FROM SENDLAKE_BATCHES"), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_added_and_nothing_else_is_changed() {
    let Some(account) = Account::start() else { return };
    let snowflake = account.snowflake().await;
    let few = columns(&["recipient"]);
    let made = snowflake.prepare(&few).await.unwrap();
    assert_eq!(
        made,
        [
            "made table SENDLAKE.SENDLAKE_BATCHES",
            "made table SENDLAKE.SENDLAKE_LOCKS",
            "made table SENDLAKE.EVENTS"
        ]
    );
    let batch = staged(account.folder.path(), "ab", Change::Add, &few, (0..5).map(key_row));
    snowflake.load(&batch, &Jobs::default()).await.unwrap();
    let more = columns(&["recipient", "detail", "size_bytes"]);
    let added = snowflake.prepare(&more).await.unwrap();
    assert_eq!(added.len(), 2);
    assert!(
        added[0].contains("SIZE_BYTES") && added[1].contains("DETAIL") || added[0].contains("DETAIL"),
        "{added:?}"
    );
    assert!(added[0].contains("sendlake export backfill warehouse"), "{added:?}");
    assert_eq!(snowflake.prepare(&more).await.unwrap(), Vec::<String>::new());
    let full = staged(
        account.folder.path(),
        "ac",
        Change::Replace,
        &more,
        (3..8).map(|n| {
            let mut row = key_row(n);
            row["detail"] = json!("{\"n\":1}");
            row["size_bytes"] = json!(n);
            row
        }),
    );
    snowflake.load(&full, &Jobs::default()).await.unwrap();
    assert_eq!(account.one("SELECT COUNT(*) FROM EVENTS WHERE SIZE_BYTES IS NULL"), 3);
    assert_eq!(account.one("SELECT COUNT(*) FROM EVENTS WHERE DETAIL IS NOT NULL"), 5);
    // A mapping with fewer columns leaves the others as they are.
    assert_eq!(snowflake.prepare(&few).await.unwrap(), Vec::<String>::new());

    // Dropped by hand: added again, and said.
    account.ask("ALTER TABLE EVENTS DROP COLUMN SIZE_BYTES");
    assert!(snowflake.prepare(&more).await.unwrap()[0].contains("added column SIZE_BYTES"));
    // Of another type: refused, with both types.
    account.ask("ALTER TABLE EVENTS DROP COLUMN SIZE_BYTES");
    account.ask("ALTER TABLE EVENTS ADD COLUMN SIZE_BYTES VARCHAR");
    let error = snowflake.prepare(&more).await.unwrap_err();
    let TargetError::Schema(said) = &error else { panic!("{error:?}") };
    for part in ["SENDLAKE.EVENTS", "SIZE_BYTES", "TEXT", "NUMBER(19, 0)"] {
        assert!(said.contains(part), "{said}");
    }
    // One of its own that every row must have.
    account.ask("CREATE TABLE OWN (EVENT_ID VARCHAR NOT NULL, PRICE NUMBER(10, 2) NOT NULL)");
    let own = connected(&Settings { table: "own".into(), ..account.settings() }).await;
    let error = own.prepare(&few).await.unwrap_err();
    assert!(matches!(&error, TargetError::Schema(said) if said.contains("PRICE")), "{error:?}");
    // A column that the load needs and nobody prepared.
    account.ask("ALTER TABLE EVENTS DROP COLUMN RECIPIENT");
    let batch = staged(account.folder.path(), "ad", Change::Add, &few, [key_row(9)]);
    let error = snowflake.load(&batch, &Jobs::default()).await.unwrap_err();
    assert!(matches!(error, TargetError::Schema(_) | TargetError::Refused(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_not_the_users_is_named_by_its_fingerprint() {
    let Some(account) = Account::start() else { return };
    let other = account.folder.path().join("other.p8");
    std::fs::write(&other, new_pem()).unwrap();
    let wrong =
        connected(&Settings { private_key: Some(SecretRef::File(other)), ..account.settings() }).await;
    let late = connected_at(&account.settings(), Timestamp::from_secs(now().as_secs() - 3_600)).await;
    let another = connected(&Settings { user: "somebody".into(), ..account.settings() }).await;
    for snowflake in [&wrong, &late, &another] {
        let error = snowflake.prepare(&all_columns()).await.unwrap_err();
        let TargetError::Credentials(said) = &error else { panic!("{error:?}") };
        assert!(said.contains(&snowflake.client.key.fingerprint) && said.contains("clock"), "{said}");
        assert!(!said.contains("eyJ"), "{said}");
    }
    // Also by the way that drivers go.
    let settings =
        Settings { bucket: None, stage: "own_stage".into(), user: "somebody".into(), ..account.settings() };
    let error = super::session::put(&connected(&settings).await.client, "S", "f", "x").await.err().unwrap();
    assert!(matches!(error, TargetError::Credentials(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_told_apart_from_an_absence() {
    let Some(account) = Account::start() else { return };
    let snowflake = account.snowflake().await;
    for (code, kind) in [
        ("003001", "credentials"),
        ("000606", "refused"),
        ("090073", "quota"),
        ("000904", "schema"),
        ("100038", "job_failed"),
    ] {
        account.fault("INFORMATION_SCHEMA", code).await;
        assert_eq!(snowflake.prepare(&all_columns()).await.unwrap_err().kind(), kind);
    }
    let nobody = format!("http://127.0.0.1:{}", free_port()).parse().unwrap();
    let away = connected(&Settings { endpoint: Some(nobody), ..account.settings() }).await;
    let error = away.prepare(&all_columns()).await.unwrap_err();
    assert!(matches!(&error, TargetError::Away(said) if said.contains("127.0.0.1")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_in_parts_is_read_to_its_end() {
    let Some(account) = Account::start() else { return };
    let snowflake = account.snowflake().await;
    let mapping = columns(&[]);
    snowflake.prepare(&mapping).await.unwrap();
    let begin = 20_000 * 86_400_i64;
    let rows = (0..130_u64).map(|n| {
        let mut row = key_row(n);
        let at = Timestamp::from_secs(begin + i64::try_from(n).unwrap() * 3_600);
        row["occurred_at"] = json!(at.to_string());
        row["event_date"] = json!(at.to_string()[..10]);
        row["incarnation"] = json!(Uuid::from_u128(1).to_string());
        row
    });
    let batch = staged(account.folder.path(), "ab", Change::Add, &mapping, rows);
    snowflake.load(&batch, &Jobs::default()).await.unwrap();
    let bounds = Bounds {
        from: Timestamp::from_secs(begin),
        to: Timestamp::from_secs(begin + 129 * 3_600),
        positions: [(Uuid::from_u128(1), 128)].into(),
    };
    let hours = snowflake.tally(&mapping, &bounds).await.unwrap();
    // The end and what is past the position are left out.
    assert_eq!(hours.len(), 128);
    assert!(
        hours.iter().zip(1..).all(|(hour, lsn)| (hour.rows, hour.events, hour.lsn_sum) == (1, 1, lsn)),
        "{hours:?}"
    );
    assert_eq!(hours[127].hour, Timestamp::from_secs(begin + 127 * 3_600));
}
