//! What is said, decided by pure functions; below, what BigQuery's stand-in and the real service make of it.

mod place;
mod refusals;
mod suite;

use std::collections::BTreeMap;
use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::failure::{Failure, JobError};
use super::names::{Names, fill};
use super::settings::split_bucket;
use super::{Settings, ddl, load, table, tally};
use crate::batch::Change;
use crate::mapping::Mapping;
use crate::target::{Bounds, StagedBatch, TargetError};

fn settings() -> Settings {
    Settings { project: "acme-data".into(), dataset: "email".into(), ..Settings::default() }
}

fn mapping(only: &[&str]) -> Mapping {
    let only: Vec<String> = only.iter().map(|name| (*name).to_owned()).collect();
    Mapping::of_events(&only, &[], &BTreeMap::new()).unwrap()
}

fn batch(change: Change) -> StagedBatch {
    StagedBatch {
        connector: "warehouse".into(),
        batch_id: "0123abcd".into(),
        change,
        attempt: 2,
        job_id: None,
        file: "/nowhere".into(),
        rows: 3,
        bytes: 10,
        days: ("2026-01-30".into(), "2026-01-31".into()),
        mapping: Arc::new(mapping(&["detail"])),
    }
}

#[test]
fn names_are_made_from_the_batch_alone() {
    let names = Names::of(&batch(Change::Add)).unwrap();
    assert_eq!(names.load_job, "sendlake_warehouse_0123abcd_2");
    assert_eq!(names.merge_job, "sendlake_warehouse_0123abcd_2_merge");
    assert_eq!(names.stage, "sendlake_stage_warehouse_0123abcd");
    assert_eq!(names.object, "warehouse/0123abcd.parquet");
    let hostile = StagedBatch { connector: "a`; DROP".into(), ..batch(Change::Add) };
    assert!(matches!(Names::of(&hostile), Err(TargetError::Refused(_))));
}

#[test]
fn a_statement_is_filled_once() {
    let filled = fill("{a} {b} {c", &[("a", "{b}".into()), ("b", "2".into())]);
    assert_eq!(filled, "{b} 2 {c");
}

#[test]
fn each_change_has_its_merge_between_the_days_and_its_row_in_the_ledger() {
    let of = |change| {
        let batch = batch(change);
        load::merge_statement(&settings(), &batch, &Names::of(&batch).unwrap()).unwrap()
    };
    let (add, replace, delete) = (of(Change::Add), of(Change::Replace), of(Change::Delete));
    for script in [&add, &replace, &delete] {
        assert!(!script.contains('{') && !script.contains('}'), "{script}");
        assert!(script.contains("MERGE `acme-data`.`email`.`events` AS T"), "{script}");
        assert!(
            script.contains("USING `acme-data`.`email`.`sendlake_stage_warehouse_0123abcd` AS S"),
            "{script}"
        );
        assert!(script.contains("T.event_date BETWEEN DATE '2026-01-30' AND DATE '2026-01-31'"), "{script}");
        let at = |words: &str| script.find(words).unwrap_or_else(|| panic!("{words} in {script}"));
        let order =
            ["BEGIN TRANSACTION", "UPDATE ", "IF NOT EXISTS", "MERGE", "INSERT INTO", "COMMIT TRANSACTION"];
        assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{script}");
    }
    assert!(add.contains("WHEN NOT MATCHED THEN INSERT") && !add.contains("WHEN MATCHED"), "{add}");
    assert!(replace.contains("UPDATE SET `event_id` = S.`event_id`"), "{replace}");
    assert!(delete.contains("WHEN MATCHED THEN DELETE") && !delete.contains("THEN INSERT"), "{delete}");
    assert!(add.contains("COALESCE(SAFE.PARSE_JSON(S.`detail`), TO_JSON(S.`detail`))"), "{add}");
}

#[test]
fn a_day_that_is_none_never_reaches_a_statement() {
    let batch = StagedBatch { days: ("2026-01-30'; --".into(), "2026-01-31".into()), ..batch(Change::Add) };
    let made = load::merge_statement(&settings(), &batch, &Names::of(&batch).unwrap());
    assert!(matches!(made, Err(TargetError::Local(_))), "{made:?}");
}

#[test]
fn a_tally_counts_each_spool_to_its_position() {
    let bounds = Bounds {
        from: Timestamp::parse("2026-01-30T22:00:00Z").unwrap(),
        to: Timestamp::parse("2026-02-01T00:00:00Z").unwrap(),
        positions: [(Uuid::from_u128(1), 7), (Uuid::from_u128(2), u64::MAX)].into(),
    };
    let (sql, parameters) = tally::statement(&settings(), &bounds);
    // The end is not counted, so its day is not looked at.
    assert!(sql.contains("BETWEEN DATE '2026-01-30' AND DATE '2026-01-31'"), "{sql}");
    assert!(sql.contains(
        "(incarnation = @spool_0 AND lsn <= @lsn_0) OR (incarnation = @spool_1 AND lsn <= @lsn_1)"
    ));
    let value = |name: &str| {
        let found = parameters.iter().find(|parameter| parameter["name"] == name).unwrap();
        found["parameterValue"]["value"].clone()
    };
    assert_eq!(value("lsn_0"), "7");
    assert_eq!(value("lsn_1"), i64::MAX.to_string());
    assert_eq!(value("spool_1"), Uuid::from_u128(2).to_string());
}

#[test]
fn each_refusal_has_its_kind() {
    let kind = |status: u16, reason: &str, message: &str| {
        let body = json!({"error": {"code": status, "message": message, "errors": [{"reason": reason}]}});
        let failure = Failure::answered(status, None, body.to_string().as_bytes());
        failure.into_error("asking").kind()
    };
    let cases = [
        (400, "invalid", "Invalid job", "refused"),
        (400, "invalidQuery", "Unrecognized name: lsn at [3:4]", "schema"),
        (401, "authError", "Request had invalid authentication credentials", "credentials"),
        (403, "accessDenied", "Access Denied: Table", "credentials"),
        (403, "rateLimitExceeded", "Exceeded rate limits", "quota"),
        (403, "quotaExceeded", "Quota exceeded: load jobs per table", "quota"),
        (404, "notFound", "Not found: Dataset", "refused"),
        (429, "", "Too many requests", "quota"),
        (500, "internalError", "An internal error occurred", "away"),
        (503, "backendError", "Try again", "away"),
    ];
    for (status, reason, message, wanted) in cases {
        assert_eq!(kind(status, reason, message), wanted, "{status} {reason}");
    }
    let html = Failure::answered(502, Some(7), b"<html>Bad Gateway</html>").into_error("asking");
    assert_eq!(html, TargetError::Away("BigQuery, asking: HTTP status 502 without a reason".into()));
    let wait = Failure::answered(429, Some(7), b"{}").into_error("asking");
    assert!(matches!(wait, TargetError::Quota { retry_after_s: 7, .. }), "{wait:?}");
}

#[test]
fn a_failed_job_tells_its_reason_once_and_then_gives_up_its_name() {
    let error = |reason: &str, message: &str| JobError { reason: reason.into(), message: message.into() };
    let quota = error("quotaExceeded", "Your table exceeded quota");
    assert_eq!(quota.clone().into_error("j").kind(), "quota");
    assert_eq!(quota.into_used_up("j").kind(), "job_failed");
    assert_eq!(error("accessDenied", "no").into_error("j").kind(), "credentials");
    assert_eq!(error("backendError", "sorry").into_error("j").kind(), "job_failed");
    let conflict = "Transaction is aborted due to concurrent update against table";
    assert_eq!(error("invalidQuery", conflict).into_error("j").kind(), "job_failed");
    let long = error("invalid", &"é".repeat(5_000)).into_error("j").to_string();
    assert!(long.len() < 1_200, "{}", long.len());
}

#[test]
fn a_table_is_compared_column_by_column() {
    let mapping = mapping(&["reply_code", "detail"]);
    let field = |name: &str, kind: &str, mode: &str| json!({"name": name, "type": kind, "mode": mode});
    let made: Vec<Value> = mapping
        .columns
        .iter()
        .map(|column| field(&column.name, super::names::type_of(column.kind), "NULLABLE"))
        .collect();
    let table = |fields: &[Value]| json!({"type": "TABLE", "schema": {"fields": fields}});
    let compare = |fields: &[Value]| {
        table::compare("p.d.t", &table(fields), &mapping)
            .map(|added| added.iter().map(|column| column.name.clone()).collect::<Vec<_>>())
    };
    assert_eq!(compare(&made), Ok(vec![]));
    let without = |name: &str| made.iter().filter(|field| field["name"] != name).cloned().collect::<Vec<_>>();
    assert_eq!(compare(&without("reply_code")), Ok(vec!["reply_code".to_owned()]));
    let with = |changed: Value| {
        let name = changed["name"].as_str().unwrap().to_owned();
        compare(&[without(&name), vec![changed]].concat())
    };
    // Another case of the same name, and the other name of the same type.
    assert_eq!(
        with(field("REPLY_CODE", "INT64", "NULLABLE")),
        Ok(vec!["reply_code".to_owned()].split_off(1))
    );
    let text = with(field("reply_code", "STRING", "NULLABLE")).unwrap_err();
    assert!(matches!(text, TargetError::Schema(_)), "{text:?}");
    for word in ["p.d.t", "reply_code", "STRING", "INTEGER"] {
        assert!(text.to_string().contains(word), "{text}");
    }
    assert!(with(field("detail", "JSON", "REPEATED")).is_err());
    assert!(with(field("detail", "JSON", "REQUIRED")).is_err());
    assert_eq!(with(field("event_id", "STRING", "REQUIRED")), Ok(vec![]));
    assert_eq!(with(field("theirs", "STRING", "NULLABLE")), Ok(vec![]));
    assert!(with(field("theirs", "STRING", "REQUIRED")).unwrap_err().to_string().contains("theirs"));
    let view = table::compare("p.d.t", &json!({"type": "VIEW"}), &mapping).unwrap_err();
    assert!(view.to_string().contains("VIEW"), "{view}");
}

#[test]
fn settings_that_cannot_work_are_named() {
    let key = |changed: Settings| changed.check().err().map_or("", |(key, _)| key);
    assert_eq!(key(settings()), "");
    assert_eq!(key(Settings::default()), "project");
    assert_eq!(key(Settings { dataset: "a-b".into(), ..settings() }), "dataset");
    assert_eq!(key(Settings { table: "a`b".into(), ..settings() }), "table");
    assert_eq!(key(Settings { table: "sendlake_batches".into(), ..settings() }), "table");
    assert_eq!(key(Settings { bucket: Some("s3://b".into()), ..settings() }), "bucket");
    assert_eq!(key(Settings { load_jobs_per_day: 0, ..settings() }), "load_jobs_per_day");
    let endpoint = "http://127.0.0.1:1".parse().ok();
    assert_eq!(key(Settings { storage_endpoint: endpoint.clone(), ..settings() }), "storage_endpoint");
    let credentials = "env:KEY".to_owned().try_into().ok();
    assert_eq!(key(Settings { endpoint, credentials, ..settings() }), "endpoint");
    assert_eq!(split_bucket("gs://b/a/c/"), Some(("b", "a/c")));
    let text = "project = \"p\"\ndataset = \"d\"\nbucket = \"gs://b\"\ncredentials = \"secret:google\"\n";
    let read: Settings = toml::from_str(text).unwrap();
    assert_eq!(toml::from_str::<Settings>(&toml::to_string(&read).unwrap()).unwrap(), read);
    assert!(toml::from_str::<Settings>("projekt = \"p\"").is_err());
}

#[test]
fn the_statements_for_a_person_are_complete() {
    let whole = Settings {
        staging_dataset: Some("email_staging".into()),
        bucket: Some("gs://staged/exports".into()),
        ..settings()
    };
    let text = ddl(&whole, &mapping(&["message_id", "detail"]), "gs://lake/prod/");
    assert!(!text.contains('{') && !text.contains('}'), "{text}");
    for line in [
        "CREATE TABLE IF NOT EXISTS `acme-data`.`email`.`events` (",
        "  `event_id` STRING NOT NULL,",
        "  `lsn` INT64 NOT NULL",
        "  `detail` JSON",
        "PARTITION BY event_date",
        "CLUSTER BY tenant_id, message_id;",
        "CREATE TABLE IF NOT EXISTS `acme-data`.`email`.`sendlake_batches` (",
        "OPTIONS (format = 'DELTA_LAKE', uris = ['gs://lake/prod/events']);",
        "GRANT `roles/bigquery.dataEditor` ON SCHEMA `acme-data`.`email_staging`",
        "gs://staged --member",
    ] {
        assert!(text.contains(line), "{line}\nin\n{text}");
    }
    let elsewhere = ddl(&settings(), &mapping(&["detail"]), "s3://lake/prod");
    assert!(!elsewhere.contains("DELTA_LAKE") && elsewhere.contains("s3://lake/prod"), "{elsewhere}");
    assert!(elsewhere.contains("CLUSTER BY tenant_id;"), "{elsewhere}");
}
