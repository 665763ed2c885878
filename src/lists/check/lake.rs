//! What a check asks the lake.

use std::collections::BTreeMap;

use sendlake_query::output::{Format, to_bytes};
use sendlake_query::{QueryEngine, QueryLimits, Scope};
use serde::Deserialize;

const ROWS_MAX: usize = 10_000_000;

/// Today's ceilings by provider, the strictest of several domains; null for none.
pub(super) async fn ceilings(
    engine: &QueryEngine,
    scope: &Scope,
    domain: Option<&str>,
) -> Result<BTreeMap<String, Option<u64>>, String> {
    #[derive(Deserialize)]
    struct Ceiling {
        provider: String,
        daily_limit: Option<u64>,
    }
    let only = domain.map_or_else(String::new, |domain| {
        format!(" WHERE sending_domain = '{}'", domain.to_lowercase().replace('\'', "''"))
    });
    let sql = format!(
        "SELECT provider, MIN(daily_limit) AS daily_limit FROM warmup_ceiling{only} GROUP BY provider"
    );
    let rows = ask::<Ceiling>(engine, scope, &sql).await?;
    Ok(rows.into_iter().map(|row| (row.provider, row.daily_limit)).collect())
}

pub(super) async fn ask<T: serde::de::DeserializeOwned>(
    engine: &QueryEngine,
    scope: &Scope,
    sql: &str,
) -> Result<Vec<T>, String> {
    #[derive(Deserialize)]
    struct Rows<T> {
        rows: Vec<T>,
        truncated: bool,
    }
    let limits = QueryLimits { rows: ROWS_MAX, ..engine.limits().query };
    let output = engine.query(scope, sql, limits).await.map_err(|error| error.to_string())?;
    let json = to_bytes(&output, Format::Json).map_err(|error| error.to_string())?;
    let answer: Rows<T> = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
    if answer.truncated {
        return Err("there are more addresses than one question answers".into());
    }
    Ok(answer.rows)
}
