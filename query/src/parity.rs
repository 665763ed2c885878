//! The views on another engine: every golden case's events as Parquet, every view's SQL unchanged in DuckDB, and the
//! same rows.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use chrono::{DateTime, NaiveDate};
use datafusion::parquet::arrow::ArrowWriter;
use sendlake_control::feedback_loop::FeedbackLoop;
use sendlake_ingest::event::{EVENTS_SCHEMA, to_batch};
use sendlake_sql::VIEWS;
use sendlake_sql::rollups::{FOLD, PARTIALS};
use serde_json::{Value, json};

use crate::output::{self, Format};
use crate::scope::Scope;
use crate::testing::{engine_within, events, limits, snapshot};
use crate::views::surroundings;

/// The sums that rollups are made of; folding those that share no labels changes nothing.
const SUMS: [(&str, &str); 3] =
    [("rollup_1m", PARTIALS), ("partials", "SELECT * FROM rollup_1m"), ("folded", FOLD)];

fn python() -> Option<String> {
    let python = std::env::var("SENDLAKE_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let found = Command::new(&python).args(["-c", "import duckdb"]).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success()).then_some(python)
}

/// A value as both engines can be held to it: instants and days as numbers, numbers to nine digits.
fn canonical(value: &Value) -> String {
    match value {
        Value::Number(number) => format!("{:.9e}", number.as_f64().unwrap()),
        Value::String(text) => match DateTime::parse_from_rfc3339(text) {
            Ok(at) => format!("{:.9e}", at.timestamp_micros() as f64),
            Err(_) => match text.parse::<NaiveDate>() {
                Ok(day) => format!("{:.9e}", f64::from(day.to_epoch_days())),
                Err(_) => text.clone(),
            },
        },
        other => other.to_string(),
    }
}

fn rows_of(rows: &Value) -> Vec<String> {
    let row = |row: &Value| {
        let fields: BTreeMap<&String, String> =
            row.as_object().unwrap().iter().map(|(name, value)| (name, canonical(value))).collect();
        format!("{fields:?}")
    };
    let mut rows: Vec<String> = rows.as_array().unwrap().iter().map(row).collect();
    rows.sort_unstable();
    rows
}

#[tokio::test]
async fn duckdb_gives_the_same_rows_for_every_view_of_every_case() {
    let Some(python) = python() else {
        eprintln!("not tested: the views in DuckDB; pip install duckdb, and set SENDLAKE_TEST_PYTHON");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in std::fs::read_dir(root.join("tests-data")).unwrap() {
        let path = file.unwrap().path();
        let case = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, body) = text.split_once("-- events\n").unwrap();
        let (surroundings, as_of) = surroundings(head);
        let rows = events(body.split("-- query ").next().unwrap());
        let parquet = dir.path().join(format!("{case}.parquet"));
        let mut writer =
            ArrowWriter::try_new(File::create(&parquet).unwrap(), EVENTS_SCHEMA.clone(), None).unwrap();
        writer.write(&to_batch(&rows).unwrap()).unwrap();
        writer.close().unwrap();
        let mut tables = BTreeMap::new();
        for (kind, rows) in &surroundings.reports {
            let parquet = dir.path().join(format!("{case}.{}.parquet", kind.table_name()));
            let mut writer =
                ArrowWriter::try_new(File::create(&parquet).unwrap(), kind.schema(), None).unwrap();
            writer.write(rows).unwrap();
            writer.close().unwrap();
            tables.insert(kind.table_name(), parquet);
        }

        let domain = |row: &crate::source::DomainRow| {
            json!({
                "tenant_id": row.tenant_id, "domain": row.domain, "created_at": row.created_at,
                "warm_at": row.warm_at,
            })
        };
        let enrolment = |row: &FeedbackLoop| {
            json!({
                "tenant_id": row.tenant_id, "provider": row.provider, "identity_kind": row.identity_kind,
                "identity": row.identity, "since": row.since,
            })
        };
        // sums of thousands of events take long to print, and show nothing that a few do not
        let (sums, summed) = match rows.len() {
            0..=5_000 => (&SUMS[..], &["rollup_1m", "folded"][..]),
            _ => (&[][..], &[][..]),
        };
        let sums = sums.iter().copied();
        let instants = if as_of.is_empty() { vec![surroundings.now] } else { as_of.clone() };
        let has_reports = surroundings.reports.iter().any(|(_, rows)| rows.num_rows() > 0);
        let is_compared = |view: &str| {
            // views of single messages gain nothing from thousands of alike ones, those of reports from cases without any
            let of_messages = ["attempts", "outcomes", "message_history", "bounces"].contains(&view);
            let of_reports =
                view.starts_with("dmarc_") || ["tls_reports", "provider_calibration"].contains(&view);
            (!of_messages || rows.len() <= 5_000) && (!of_reports || has_reports)
        };
        let views = VIEWS.iter().map(|view| (view.name, view.name)).filter(|(view, _)| is_compared(view));
        let compared: Vec<_> = views.chain(summed.iter().map(|name| (*name, "rollup_1m"))).collect();
        let asked = json!({
            "events": parquet,
            "tables": tables,
            "as_of": instants,
            "domains": surroundings.domains.iter().map(domain).collect::<Vec<_>>(),
            "feedback_loops": surroundings.loops.iter().map(enrolment).collect::<Vec<_>>(),
            "views": VIEWS.iter().map(|view| (view.name, view.sql)).chain(sums).collect::<Vec<_>>(),
            "compared": compared.iter().map(|(view, _)| view).collect::<Vec<_>>(),
        });
        let mut peer = Command::new(&python)
            .arg(root.join("../tests/peers/judge.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        peer.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
        let answer = peer.wait_with_output().unwrap();
        assert!(answer.status.success(), "{case}: DuckDB refuses a view");
        let theirs: Value = serde_json::from_slice(&answer.stdout).unwrap();

        let engine = engine_within(snapshot(&rows, &[]), surroundings, limits());
        for (view, name) in compared {
            let sql = format!("SELECT * FROM {name}");
            let mut most = limits().query;
            most.rows = usize::MAX;
            let ours = engine.query_as_of(&Scope::AllTenants, &sql, most, &as_of).await.unwrap();
            assert!(!ours.truncated);
            let ours: Value =
                serde_json::from_slice(&output::to_bytes(&ours, Format::Json).unwrap()).unwrap();
            let (ours, theirs) = (rows_of(&ours["rows"]), rows_of(&theirs[view]));
            let different = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
            assert!(
                ours.len() == theirs.len() && different.is_none(),
                "{case}, {}: {} rows here, {} in DuckDB; {different:#?}",
                view,
                ours.len(),
                theirs.len()
            );
        }
    }
}
