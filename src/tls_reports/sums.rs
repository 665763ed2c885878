//! What a day's reports say: the view `tls_sessions`, read and put together by domain.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use sendlake_control::clock::Timestamp;
use sendlake_ingest::domain_report::{TlsFailure, TlsPolicy};
use sendlake_query::output::{Format, to_bytes};
use sendlake_query::{Instants, QueryEngine, QueryLimits};
use serde::Deserialize;

/// Apart from the limits of people's queries.
const LIMITS: QueryLimits =
    QueryLimits { time: Duration::from_secs(120), memory_bytes: 1 << 30, rows: 500_000 };
/// Kinds of failure that one report lists; sums count all.
const FAILURES_MAX: usize = 1_000;
const SUCCESSFUL: &str = "successful";

/// A row of the view.
#[derive(Debug, Deserialize)]
struct Row {
    recipient_domain: String,
    mx_host: Option<String>,
    mx_ip: Option<String>,
    source_ip: Option<String>,
    result: String,
    sessions: i64,
}

/// Sessions of the UTC day `day` (`2026-11-21`), by recipient domain; of one domain, if it is named. There is no policy that
/// mail is sent by but the receiver's offer of STARTTLS: `no-policy-found`.
pub async fn of_day(
    engine: &QueryEngine,
    day: &str,
    domain: Option<&str>,
    now: Timestamp,
) -> anyhow::Result<BTreeMap<String, TlsPolicy>> {
    let quoted = |text: &str| text.replace('\'', "''");
    let mut sql = format!(
        "SELECT recipient_domain, mx_host, mx_ip, source_ip, result, sessions FROM tls_sessions WHERE event_date = DATE '{}'",
        quoted(day)
    );
    if let Some(domain) = domain {
        sql.push_str(&format!(" AND recipient_domain = '{}'", quoted(domain)));
    }
    sql.push_str(" ORDER BY recipient_domain, result, mx_host, mx_ip, source_ip");
    let instants = Instants { as_of: vec![now], since_day: super::day_of(day) };
    let output =
        engine.judge(&sql, LIMITS, instants).await.context("the view tls_sessions cannot be evaluated")?;
    if output.truncated {
        bail!("the view tls_sessions gives more than {} rows for {day}", LIMITS.rows);
    }
    let json = to_bytes(&output, Format::Json)?;
    #[derive(Deserialize)]
    struct Rows {
        rows: Vec<Row>,
    }
    let rows: Rows = serde_json::from_slice(&json).context("the view tls_sessions gives other columns")?;
    Ok(by_domain(rows.rows))
}

fn by_domain(rows: Vec<Row>) -> BTreeMap<String, TlsPolicy> {
    let mut found: BTreeMap<String, TlsPolicy> = BTreeMap::new();
    for row in rows {
        let policy = found.entry(row.recipient_domain.clone()).or_insert_with(|| TlsPolicy {
            domain: row.recipient_domain.clone(),
            policy_type: "no-policy-found".to_owned(),
            ..TlsPolicy::default()
        });
        if row.result == SUCCESSFUL {
            policy.successful_sessions += row.sessions;
            continue;
        }
        policy.failed_sessions += row.sessions;
        if policy.failures.len() < FAILURES_MAX {
            policy.failures.push(TlsFailure {
                result_type: row.result,
                sending_mta_ip: row.source_ip,
                receiving_ip: row.mx_ip,
                receiving_mx_hostname: row.mx_host,
                failed_sessions: row.sessions,
                ..TlsFailure::default()
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_count_what_their_lists_cut_off() {
        let row = |result: &str, host: usize, sessions| Row {
            recipient_domain: "b.example".into(),
            mx_host: Some(format!("mx{host}.b.example")),
            mx_ip: None,
            source_ip: None,
            result: result.into(),
            sessions,
        };
        let mut rows = vec![row(SUCCESSFUL, 1, 5), row(SUCCESSFUL, 2, 7)];
        rows.extend((0..FAILURES_MAX + 10).map(|host| row("starttls-not-supported", host, 2)));
        let found = by_domain(rows);
        let policy = &found["b.example"];
        assert_eq!((policy.successful_sessions, policy.failed_sessions), (12, 2_020));
        assert_eq!(policy.failures.len(), FAILURES_MAX);
        assert_eq!(policy.failures[0].receiving_mx_hostname.as_deref(), Some("mx0.b.example"));
    }
}
