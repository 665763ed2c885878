//! Questions to the lake: every number that the demo tells is an answer that `sendlake sql` gives again.

use anyhow::Context;
use sendlake_query::Scope;
use sendlake_query::output::{Format, write};
use serde_json::Value;

use crate::node::Running;

/// The rows of a query, each a JSON object.
pub(super) async fn rows(running: &Running, sql: &str) -> anyhow::Result<Vec<Value>> {
    let mut json = Vec::new();
    write(&answer(running, sql).await?, Format::Json, &mut json)?;
    let mut answered: Value = serde_json::from_slice(&json).context("read an answer of our own")?;
    match answered.get_mut("rows").map(Value::take) {
        Some(Value::Array(rows)) => Ok(rows),
        _ => anyhow::bail!("an answer without rows"),
    }
}

/// Prints the rows of a query.
pub(super) async fn table(running: &Running, sql: &str) -> anyhow::Result<()> {
    write(&answer(running, sql).await?, Format::Table, &mut std::io::stdout().lock())?;
    Ok(())
}

async fn answer(running: &Running, sql: &str) -> anyhow::Result<sendlake_query::QueryOutput> {
    running
        .engine
        .query(&Scope::AllTenants, sql, running.engine.limits().query)
        .await
        .with_context(|| format!("ask: {}", sql.lines().next().unwrap_or_default()))
}

pub(super) fn number(row: &Value, column: &str) -> f64 {
    row.get(column).and_then(Value::as_f64).unwrap_or(0.0)
}

pub(super) fn text<'a>(row: &'a Value, column: &str) -> &'a str {
    row.get(column).and_then(Value::as_str).unwrap_or_default()
}
