//! Statements at and beyond the bounds: refused in words, or planned without harm.

use std::time::Duration;

use super::*;
use crate::testing::{engine, limits, tenant};

#[test]
fn what_is_too_much_is_refused_before_planning() {
    let chain = |n: usize, operator: &str| format!("SELECT 1{}", format!(" {operator} 1").repeat(n));
    let brackets = |n: usize| format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n));
    let doubling = |n: usize| {
        let mut sql = "WITH t0 AS (SELECT 1 AS x)".to_owned();
        for i in 1..=n {
            sql += &format!(", t{i} AS (SELECT a.x FROM t{0} a, t{0} b)", i - 1);
        }
        format!("{sql} SELECT count(*) FROM t{n}")
    };
    let link = |n: usize| {
        let mut sql = "WITH t0 AS (SELECT 1 AS x)".to_owned();
        for i in 1..=n {
            sql += &format!(", t{i} AS (SELECT x FROM t{})", i - 1);
        }
        format!("{sql} SELECT * FROM t{n}")
    };
    let nested_with = |n: usize| {
        (0..n).fold("SELECT 1 AS x".to_owned(), |sql, _| format!("WITH t AS ({sql}) SELECT x FROM t"))
    };
    for (sql, what) in [
        (chain(5_000, "+"), "too many operators"),
        (chain(5_000, "OR"), "too many keywords"),
        (format!("SELECT {}1", "NOT ".repeat(5_000)), "prefix"),
        (format!("SELECT {}1", "- ".repeat(5_000)), "minus"),
        (format!("SELECT 1{}", " IS NULL".repeat(5_000)), "suffix"),
        (format!("SELECT 1{}", "::INT".repeat(5_000)), "casts"),
        (format!("SELECT [1]{}", "[1]".repeat(5_000)), "subscripts"),
        (brackets(5_000), "brackets"),
        (brackets(60), "a few brackets"),
        (doubling(25), "doubling CTEs"),
        (link(500), "chained CTEs"),
        (nested_with(12), "WITH in WITH"),
        (format!("SELECT 1 FROM events{}", ", events".repeat(200)), "cross joins"),
        (format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(2_000)), "unions"),
        (format!("SELECT {}", "1,".repeat(9_000) + "1"), "columns"),
    ] {
        let answer = parse(&sql, &Scope::AllTenants);
        assert!(matches!(answer, Err(QueryError::TooComplex { .. })), "{what}: {answer:?}");
    }
    let long = format!("SELECT '{}'", "x".repeat(SQL_BYTES_MAX));
    assert!(matches!(parse(&long, &Scope::AllTenants), Err(QueryError::TooLong { .. })));
}

#[tokio::test]
async fn what_is_just_allowed_plans_and_runs() {
    let many_or = (0..290).map(|i| format!("message_id = 'm{i}'")).collect::<Vec<_>>().join(" OR ");
    let in_list = (0..1_500).map(|i| format!("'message-id-number-{i}'")).collect::<Vec<_>>().join(", ");
    let mut links = "WITH t0 AS (SELECT seq FROM events)".to_owned();
    for i in 1..=90 {
        links += &format!(", t{i} AS (SELECT seq + 1 AS seq FROM t{})", i - 1);
    }
    for sql in [
        format!("SELECT count(*) FROM events WHERE {many_or}"),
        format!("SELECT count(*) FROM events WHERE message_id IN ({in_list})"),
        format!("SELECT 1{}", " + 1".repeat(590)),
        format!("SELECT {}true", "NOT ".repeat(30)),
        format!("SELECT 1{}", " IS NULL".repeat(590)),
        format!("SELECT {}1{}", "(".repeat(15), ")".repeat(15)),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(250)),
        format!("{links} SELECT max(seq) FROM t90"),
        format!("SELECT count(*) FROM events{}", ", events".repeat(8)),
        "SELECT count(*) FROM outcomes a JOIN outcomes b USING (message_id)".to_owned(),
    ] {
        let engine =
            engine("{\"type\":\"accepted\",\"at\":\"2026-03-02T10:00:00Z\",\"message_id\":\"m1\",\"seq\":1}");
        let began = std::time::Instant::now();
        let answer = engine.query(&tenant("acme"), &sql, limits().query).await;
        let start = sql.chars().take(60).collect::<String>();
        assert!(answer.is_ok() || matches!(answer, Err(QueryError::Invalid(_))), "{start}: {answer:?}");
        assert!(began.elapsed() < Duration::from_secs(20), "{start} took {:?}", began.elapsed());
    }
}

#[test]
fn one_statement_may_end_in_a_semicolon() {
    assert!(parse("SELECT 1;", &Scope::AllTenants).is_ok());
}
