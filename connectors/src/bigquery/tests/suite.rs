//! What must hold, told by Google's own client: against the stand-in in a test each, and unchanged against BigQuery.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::BASE64;
use serde_json::{Value, json};

use super::place::{Place, open};
use crate::batch::Change;
use crate::bigquery::Settings;
use crate::bigquery::auth::Auth;
use crate::bigquery::bucket::Bucket;
use crate::mapping::Mapping;
use crate::target::{StagedBatch, Target, TargetError};
use crate::testing::{
    Jobs, all_bounds, all_columns, columns, key_row, loads_each_event_once, lose_answer, peak_mib, staged,
    tallied,
};

macro_rules! suite {
    ($($name:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if let Some(place) = Place::stand_in() {
                    super::$name(&place).await;
                }
            }
        )*

        #[tokio::test(flavor = "multi_thread")]
        async fn the_real_service_does_the_same() {
            let Some(place) = Place::real() else { return };
            $(
                println!("against BigQuery: {}", stringify!($name));
                super::$name(&place).await;
            )*
        }
    };
}

mod run {
    use super::Place;

    suite!(
        batches_that_overlap_are_there_once,
        values_arrive_as_they_are,
        a_failed_job_is_followed_by_the_next_attempt,
        a_job_of_another_table_is_not_believed,
        two_loaders_of_one_batch_are_one,
        columns_are_added_and_types_are_not_changed,
        the_day_has_its_budget_of_load_jobs,
        many_rows_need_no_more_memory,
    );

    #[tokio::test(flavor = "multi_thread")]
    async fn files_go_by_way_of_a_bucket() {
        if let Some(place) = Place::stand_in_with_bucket() {
            super::files_go_by_way_of_a_bucket(&place).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_answer_that_is_lost_costs_nothing() {
        if let Some(place) = Place::stand_in() {
            super::an_answer_that_is_lost_costs_nothing(&place).await;
        }
    }
}

fn named(mut batch: StagedBatch, prefix: &str) -> StagedBatch {
    batch.batch_id = format!("{prefix}{}", batch.batch_id);
    batch
}

async fn batches_that_overlap_are_there_once(place: &Place) {
    let (settings, prefix) = place.fresh("overlap");
    let settings = Settings { staging_dataset: None, ..settings };
    let target = open(&settings).await;
    // The shared test's batches have fixed ids, which the real service would know from an earlier run.
    if !place.is_real() {
        loads_each_event_once(&target, place.dir.path()).await;
        let count = "SELECT COUNT(*) AS n FROM {table}";
        assert_eq!(place.number(&settings, count), 350);
        let distinct = "SELECT COUNT(DISTINCT event_id) AS n FROM {table}";
        assert_eq!(place.number(&settings, distinct), 350);
    } else {
        target.prepare(&all_columns()).await.unwrap();
    }
    let mapping = all_columns();
    let load = async |id: &str, change, rows: std::ops::Range<u64>| {
        let batch = named(staged(place.dir.path(), id, change, &mapping, rows.map(key_row)), &prefix);
        let log = Jobs::default();
        let rows = target.load(&batch, &log).await.unwrap().rows;
        // A batch that is in is not done again, by this process or another: no job is submitted.
        let again = Jobs::default();
        assert_eq!(open(&settings).await.load(&batch, &again).await.unwrap().rows, rows);
        assert_eq!(again.0.lock().len(), 0);
        let jobs = [format!("sendlake_warehouse_{}_1", batch.batch_id)];
        assert_eq!(*log.0.lock(), [jobs[0].clone(), format!("{}_merge", jobs[0])]);
        rows
    };
    assert_eq!(load("b1", Change::Add, 1000..1100).await, Some(100));
    assert_eq!(load("b2", Change::Add, 1050..1150).await, Some(50));
    assert_eq!(load("b3", Change::Replace, 1140..1160).await, Some(20));
    assert_eq!(load("b4", Change::Delete, 1000..1010).await, Some(10));
    let rows = "SELECT COUNT(*) AS n FROM {table} WHERE lsn > 1000";
    assert_eq!(place.number(&settings, rows), 150);
    let ledger = format!(
        "SELECT change, rows_staged, rows_changed FROM {{dataset}}.sendlake_batches WHERE STARTS_WITH(batch_id, '{prefix}') \
         ORDER BY batch_id"
    );
    let wanted = [("add", 100, 100), ("add", 100, 50), ("replace", 20, 20), ("delete", 10, 10)].map(
        |(change, staged, changed)| json!({"change": change, "rows_staged": staged, "rows_changed": changed}),
    );
    assert_eq!(place.query(&settings, &ledger), wanted);
    let left = "SELECT COUNT(*) AS n FROM {dataset}.INFORMATION_SCHEMA.TABLES WHERE STARTS_WITH(table_name, \
                'sendlake_stage_')";
    assert_eq!(place.number(&settings, left), 0);
    let Settings { project, dataset, table, .. } = &settings;
    let table = place.client("table", &format!("{project}.{dataset}.{table}"));
    assert_eq!(table["timePartitioning"]["field"], "event_date");
    assert_eq!(table["clustering"]["fields"], json!(["tenant_id", "message_id"]));
}

async fn values_arrive_as_they_are(place: &Place) {
    let (settings, prefix) = place.fresh("values");
    let target = open(&settings).await;
    let mapping = columns(&["detail", "tags", "subject_hash", "size_bytes", "seq", "attempt", "spf_aligned"]);
    target.prepare(&mapping).await.unwrap();
    let mut first = key_row(1);
    first["occurred_at"] = json!("1970-01-01T00:00:00Z");
    first["event_date"] = json!("1970-01-01");
    first["recorded_at"] = json!("9999-12-31T23:59:59.999999Z");
    first["subject_hash"] = json!("");
    first["detail"] = json!(r#"{"said": "\"quoted\"\n\\ and 🦀 ü", "deep": {"list": [1, 2.5, null, true]}}"#);
    first["tags"] = json!("{}");
    first["size_bytes"] = json!(i64::MAX);
    first["seq"] = json!(i64::MIN);
    first["attempt"] = json!(i32::MIN);
    first["spf_aligned"] = json!(false);
    let mut second = key_row(2);
    second["subject_hash"] = json!("line\nend\t\"q\" 'p' \\ 👩‍👩‍👧 \u{7}");
    second["detail"] = json!("no JSON at all {");
    // A leap day, and the first instant that BigQuery has.
    second["occurred_at"] = json!("2024-02-29T23:59:59.999999Z");
    second["event_date"] = json!("2024-02-29");
    second["recorded_at"] = json!("0001-01-01T00:00:00Z");
    let batch = named(
        staged(place.dir.path(), "v1", Change::Add, &mapping, [first.clone(), second.clone()]),
        &prefix,
    );
    assert_eq!(target.load(&batch, &Jobs::default()).await.unwrap().rows, Some(2));
    let rows = place.query(&settings, "SELECT * FROM {table} ORDER BY event_id");
    let plain = |row: &Value, name: &str| row[name].clone();
    for name in
        ["subject_hash", "size_bytes", "seq", "attempt", "spf_aligned", "event_date", "lsn", "tenant_id"]
    {
        assert_eq!(plain(&rows[0], name), plain(&first, name), "{name}");
        assert_eq!(plain(&rows[1], name), plain(&second, name), "{name}");
    }
    let json_of =
        |row: &Value, name: &str| serde_json::from_str::<Value>(row[name].as_str().unwrap()).unwrap();
    assert_eq!(rows[0]["detail"], json_of(&first, "detail"));
    assert_eq!(rows[0]["tags"], json!({}));
    // Text that is no JSON is kept as a JSON string; NULL stays NULL.
    assert_eq!(rows[1]["detail"], second["detail"]);
    assert_eq!((&rows[1]["tags"], &rows[1]["size_bytes"]), (&Value::Null, &Value::Null));
    let nulls = "SELECT COUNT(*) AS n FROM {table} WHERE tags IS NULL AND seq IS NULL";
    assert_eq!(place.number(&settings, nulls), 1);
    let instants = "SELECT FORMAT_TIMESTAMP('%FT%H:%M:%E6S', occurred_at) AS o, \
                    FORMAT_TIMESTAMP('%FT%H:%M:%E6S', recorded_at) AS r FROM {table} ORDER BY event_id";
    let instants = place.query(&settings, instants);
    assert_eq!(instants[0]["o"], "1970-01-01T00:00:00.000000");
    assert_eq!(instants[0]["r"], "9999-12-31T23:59:59.999999");
    assert_eq!(instants[1]["o"], "2024-02-29T23:59:59.999999");
    assert!(instants[1]["r"].as_str().unwrap().ends_with("1-01-01T00:00:00.000000"), "{instants:?}");
}

async fn a_failed_job_is_followed_by_the_next_attempt(place: &Place) {
    let (settings, prefix) = place.fresh("failed");
    let target = open(&settings).await;
    let mapping = columns(&["detail"]);
    target.prepare(&mapping).await.unwrap();
    let batch = named(staged(place.dir.path(), "f1", Change::Add, &mapping, (0..5).map(key_row)), &prefix);
    // A file that was cut while it was written.
    let broken = place.dir.path().join("broken.parquet");
    let whole = std::fs::read(&batch.file).unwrap();
    std::fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    let cut = StagedBatch { file: broken, ..batch.clone() };
    let error = target.load(&cut, &Jobs::default()).await.unwrap_err();
    assert!(matches!(error, TargetError::JobFailed(_)), "{error:?}");
    // The name of the job is used up, for whoever comes with it.
    let error = open(&settings).await.load(&batch, &Jobs::default()).await.unwrap_err();
    assert!(matches!(&error, TargetError::JobFailed(said) if said.contains("had failed")), "{error:?}");
    let next = StagedBatch { attempt: 2, ..batch };
    assert_eq!(target.load(&next, &Jobs::default()).await.unwrap().rows, Some(5));
    assert_eq!(place.number(&settings, "SELECT COUNT(*) AS n FROM {table}"), 5);
}

async fn a_job_of_another_table_is_not_believed(place: &Place) {
    let (settings, prefix) = place.fresh("moved");
    let mapping = columns(&["detail"]);
    let batch = named(staged(place.dir.path(), "m1", Change::Add, &mapping, (0..5).map(key_row)), &prefix);
    let target = open(&settings).await;
    target.prepare(&mapping).await.unwrap();
    target.load(&batch, &Jobs::default()).await.unwrap();
    // Somebody gives the connector another table and begins anew.
    let settings = Settings { table: format!("{}_2", settings.table), ..settings };
    let target = open(&settings).await;
    target.prepare(&mapping).await.unwrap();
    let error = target.load(&batch, &Jobs::default()).await.unwrap_err();
    assert!(matches!(error, TargetError::JobFailed(_)), "{error:?}");
    let next = StagedBatch { attempt: 2, ..batch };
    assert_eq!(target.load(&next, &Jobs::default()).await.unwrap().rows, Some(5));
    assert_eq!(place.number(&settings, "SELECT COUNT(*) AS n FROM {table}"), 5);
}

async fn two_loaders_of_one_batch_are_one(place: &Place) {
    let (settings, prefix) = place.fresh("two");
    let mapping = columns(&["detail"]);
    open(&settings).await.prepare(&mapping).await.unwrap();
    let (one, other) = (open(&settings).await, open(&settings).await);
    let batch = |id: &str, rows: std::ops::Range<u64>| {
        named(staged(place.dir.path(), id, Change::Add, &mapping, rows.map(key_row)), &prefix)
    };
    // The same batch, and then two that share rows.
    let pairs = [(batch("t1", 0..200), batch("t1", 0..200)), (batch("t2", 100..300), batch("t3", 200..400))];
    for (left, right) in &pairs {
        let (left, right) = tokio::join!(until_in(&one, left), until_in(&other, right));
        assert!(left + right < 6, "attempts: {left} {right}");
    }
    assert_eq!(place.number(&settings, "SELECT COUNT(*) AS n FROM {table}"), 400);
    assert_eq!(place.number(&settings, "SELECT COUNT(DISTINCT event_id) AS n FROM {table}"), 400);
    assert_eq!(one.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..400));
}

/// As the engine does it: a failed job is followed by the next attempt. Returns the attempts.
async fn until_in(target: &dyn Target, batch: &StagedBatch) -> u32 {
    let mut batch = batch.clone();
    loop {
        match target.load(&batch, &Jobs::default()).await {
            Ok(_) => return batch.attempt,
            Err(TargetError::JobFailed(said)) if batch.attempt < 5 => {
                println!("attempt {}: {said}", batch.attempt);
                batch.attempt += 1;
            }
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn columns_are_added_and_types_are_not_changed(place: &Place) {
    let (settings, prefix) = place.fresh("columns");
    let target = open(&settings).await;
    let (few, more) = (columns(&["detail"]), columns(&["detail", "tags", "reply_code", "reply_text"]));
    let load = async |id: &str, change, mapping: &Arc<Mapping>, rows: std::ops::Range<u64>| {
        let rows = rows.map(|n| {
            let mut row = key_row(n);
            row["reply_code"] = json!(250);
            row
        });
        let batch = named(staged(place.dir.path(), id, change, mapping, rows), &prefix);
        target.load(&batch, &Jobs::default()).await.unwrap();
    };
    let codes = || place.number(&settings, "SELECT COUNT(reply_code) AS n FROM {table}");
    target.prepare(&few).await.unwrap();
    load("c1", Change::Add, &few, 0..10).await;
    let lines = target.prepare(&more).await.unwrap();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("sendlake export backfill warehouse")), "{lines:?}");
    assert_eq!(target.prepare(&more).await.unwrap(), Vec::<String>::new());
    load("c2", Change::Add, &more, 10..20).await;
    assert_eq!(codes(), 10);
    // Dropped by hand: added again, empty; a backfill that replaces fills it.
    place.query(&settings, "ALTER TABLE {table} DROP COLUMN reply_code");
    assert_eq!(target.prepare(&more).await.unwrap().len(), 1);
    assert_eq!(codes(), 0);
    load("c3", Change::Replace, &more, 0..20).await;
    assert_eq!(codes(), 20);
    assert_eq!(place.number(&settings, "SELECT COUNT(*) AS n FROM {table}"), 20);
    // Of another type: named, and left as it is.
    place.query(&settings, "ALTER TABLE {table} DROP COLUMN reply_text");
    place.query(&settings, "ALTER TABLE {table} ADD COLUMN reply_text INT64");
    let error = target.prepare(&more).await.unwrap_err();
    assert!(matches!(error, TargetError::Schema(_)), "{error:?}");
    for word in [settings.table.as_str(), "reply_text", "INTEGER", "STRING"] {
        assert!(error.to_string().contains(word), "{error}");
    }
}

async fn the_day_has_its_budget_of_load_jobs(place: &Place) {
    let (settings, prefix) = place.fresh("budget");
    let settings = Settings { load_jobs_per_day: 3, ..settings };
    let mapping = columns(&["detail"]);
    let batch = |id: &str, attempt| {
        let batch = staged(place.dir.path(), id, Change::Add, &mapping, (0..3).map(key_row));
        StagedBatch { attempt, ..named(batch, &prefix) }
    };
    let target = open(&settings).await;
    target.prepare(&mapping).await.unwrap();
    let log = Jobs::default();
    target.load(&batch("d1", 1), &log).await.unwrap();
    // Its first attempt counts as well.
    target.load(&batch("d2", 2), &log).await.unwrap();
    let error = target.load(&batch("d3", 1), &log).await.unwrap_err();
    let TargetError::Quota { said, retry_after_s } = error else { panic!("{error:?}") };
    assert!(said.contains("load_jobs_per_day"), "{said}");
    // A day may have 25 hours.
    assert!((1..=25 * 3600).contains(&retry_after_s), "{retry_after_s}");
    assert_eq!(log.0.lock().len(), 4);
    // What is in is in, whatever the budget.
    target.load(&batch("d1", 1), &log).await.unwrap();
    let raised = open(&Settings { load_jobs_per_day: 4, ..settings }).await;
    raised.load(&batch("d3", 1), &log).await.unwrap();
}

/// A file of two pieces, the answer to the first of which is lost. SENDLAKE_TEST_EXPORT_ROWS raises the number of rows, to
/// measure.
async fn many_rows_need_no_more_memory(place: &Place) {
    let (settings, prefix) = place.fresh("many");
    let rows =
        std::env::var("SENDLAKE_TEST_EXPORT_ROWS").ok().and_then(|text| text.parse().ok()).unwrap_or(4_000);
    let mapping = all_columns();
    let wide = |n: u64| {
        // What cannot be compressed: fewer of it where there are many rows.
        let noise: String = (0..(400_000 / rows).max(1))
            .map(|k| BASE64.encode(digest(&SHA256, format!("{n} {k}").as_bytes()).as_ref()))
            .collect();
        let mut row = key_row(n);
        row["detail"] = json!(json!({ "noise": noise }).to_string());
        row["recipient"] = json!(format!("{n}@example.net"));
        row
    };
    let batch = named(staged(place.dir.path(), "n1", Change::Add, &mapping, (0..rows).map(wide)), &prefix);
    assert!(batch.bytes > 9 << 20, "one piece would do for {} octets", batch.bytes);
    let near = match settings.endpoint.as_ref().and_then(|endpoint| endpoint.port()) {
        Some(port) => {
            let proxy = lose_answer(port, "content-range: bytes 0-8388607/");
            Settings { endpoint: format!("http://127.0.0.1:{proxy}").parse().ok(), ..settings.clone() }
        }
        None => settings.clone(),
    };
    let target = open(&near).await;
    target.prepare(&mapping).await.unwrap();
    let before = peak_mib();
    let begun = std::time::Instant::now();
    assert_eq!(target.load(&batch, &Jobs::default()).await.unwrap().rows, Some(rows));
    let grown = peak_mib() - before;
    println!("{rows} rows, {} MiB: {:?}, {grown} MiB more", batch.bytes >> 20, begun.elapsed());
    assert_eq!(target.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..rows));
    // A piece of 8 MiB, and what HTTP needs; other tests of this process run beside.
    assert!(grown < 100, "{grown} MiB");
}

async fn files_go_by_way_of_a_bucket(place: &Place) {
    let (settings, prefix) = place.fresh("bucket");
    let target = open(&settings).await;
    let mapping = columns(&["detail"]);
    target.prepare(&mapping).await.unwrap();
    // More than one part.
    let noise = |n: u64| {
        let text: String = (0..100)
            .map(|k| BASE64.encode(digest(&SHA256, format!("{n} {k}").as_bytes()).as_ref()))
            .collect();
        let mut row = key_row(n);
        row["detail"] = json!(json!({ "noise": text }).to_string());
        row
    };
    let batch = named(staged(place.dir.path(), "g1", Change::Add, &mapping, (0..4_000).map(noise)), &prefix);
    assert!(batch.bytes > 8 << 20, "{}", batch.bytes);
    let bucket = Bucket::of(&settings, &Auth::Unsigned).unwrap().unwrap();
    assert_eq!(bucket.put("probe.parquet", &batch.file).await.unwrap(), "gs://staged/exports/probe.parquet");
    let objects = || objects_below(&place.dir.path().join("gcs/staged"));
    assert_eq!(objects(), 1);
    assert_eq!(target.load(&batch, &Jobs::default()).await.unwrap().rows, Some(4_000));
    // What was loaded is gone, and nothing else.
    assert_eq!(objects(), 1);
    bucket.remove("probe.parquet").await.unwrap();
    bucket.remove("probe.parquet").await.unwrap();
    assert_eq!(objects(), 0);
    assert_eq!(place.number(&settings, "SELECT COUNT(*) AS n FROM {table}"), 4_000);
}

fn objects_below(folder: &Path) -> usize {
    let mut folders = vec![folder.to_owned()];
    let mut objects = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                objects += usize::from(path.extension().is_some_and(|end| end == "parquet"));
            }
        }
    }
    objects
}

/// Each request that changes something, in turn: done, but nobody is told.
async fn an_answer_that_is_lost_costs_nothing(place: &Place) {
    let (settings, prefix) = place.fresh("lost");
    let mapping = columns(&["detail"]);
    open(&settings).await.prepare(&mapping).await.unwrap();
    let port = settings.endpoint.as_ref().unwrap().port().unwrap();
    let needles = [
        "POST /upload/",
        "PUT /upload/",
        "_merge\"",
        "GET /bigquery/v2/projects/acme-data/jobs/",
        "DELETE /",
    ];
    for (n, needle) in needles.into_iter().enumerate() {
        let proxy = lose_answer(port, needle);
        let near =
            Settings { endpoint: format!("http://127.0.0.1:{proxy}").parse().ok(), ..settings.clone() };
        let rows = (n as u64 * 10..n as u64 * 10 + 20).map(key_row);
        let mut batch =
            named(staged(place.dir.path(), &format!("l{n}"), Change::Add, &mapping, rows), &prefix);
        let log = Jobs::default();
        let first = open(&near).await.load(&batch, &log).await;
        // A piece of an upload is asked about at once; all else is left to the next try.
        match first {
            Ok(_) => assert_eq!(needle, "PUT /upload/"),
            Err(TargetError::Away(_)) => assert_ne!(needle, "PUT /upload/"),
            Err(error) => panic!("{needle}: {error:?}"),
        }
        batch.job_id = log.0.lock().last().cloned();
        open(&near).await.load(&batch, &log).await.unwrap();
        let told = log.0.lock().clone();
        // The upload of a session whose answer was lost is begun anew; no job is submitted twice otherwise.
        let repeats = told.len() - told.iter().collect::<std::collections::BTreeSet<_>>().len();
        let loses_first = matches!(needle, "POST /upload/" | "GET /bigquery/v2/projects/acme-data/jobs/");
        assert!(repeats == 0 || loses_first, "{needle}: {told:?}");
        let count = place.number(&settings, "SELECT COUNT(*) AS n FROM {table}");
        assert_eq!(count, i64::try_from(n).unwrap() * 10 + 20, "{needle}");
    }
    assert_eq!(place.number(&settings, "SELECT COUNT(DISTINCT event_id) AS n FROM {table}"), 60);
}
