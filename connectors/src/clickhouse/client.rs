//! ClickHouse's HTTP interface: a statement in the URL, rows as JSON out, Parquet in.

use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::Settings;
use crate::pgwire::Row;
use crate::target::TargetError;

/// Between two tries of a statement whose name another one has.
const PAUSE: Duration = Duration::from_millis(100);

// Codes of exceptions (system.errors).
const QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING: u32 = 216;
pub const UNKNOWN_TABLE: u32 = 60;
const CREDENTIALS: [u32; 5] = [192, 193, 194, 497, 516];
const QUOTA: [u32; 3] = [201, 202, 252];
/// Timeouts, memory, Keeper, a table that is read-only for now, a server that shuts down.
const PASSING: [u32; 10] = [159, 160, 209, 210, 216, 241, 242, 319, 394, 999];
/// Columns, types, values that a column does not take, a table that is not there.
const SCHEMA: [u32; 12] = [8, 10, 15, 16, 17, 27, 36, 41, 44, 47, 53, 60];

pub struct Client {
    pub settings: Settings,
    pub password: Option<Zeroizing<String>>,
    pub http: reqwest::Client,
}

/// An error with the server's code, for who can do better than its general meaning.
#[derive(Debug)]
pub struct Problem {
    pub code: Option<u32>,
    pub error: TargetError,
}

impl From<Problem> for TargetError {
    fn from(problem: Problem) -> Self {
        problem.error
    }
}

impl Client {
    fn within(&self) -> Duration {
        Duration::from_secs(self.settings.load_timeout_s)
    }

    /// The rows of a statement.
    pub async fn ask(&self, sql: &str) -> Result<Vec<Row>, Problem> {
        let sql = format!("{sql} FORMAT JSONCompactEachRow");
        let (answer, _) = self.send(&sql, &[("output_format_json_quote_64bit_integers", "1")], None).await?;
        let mut rows = Vec::new();
        for line in answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let row: Vec<Value> = serde_json::from_slice(line).map_err(|error| Problem {
                code: None,
                error: TargetError::Away(format!(
                    "{}: an answer that cannot be read: {error}",
                    self.settings.url
                )),
            })?;
            rows.push(row.into_iter().map(as_text).collect());
        }
        Ok(rows)
    }

    /// A statement without rows; how many it wrote, where that is told.
    pub async fn change(&self, sql: &str, settings: &[(&str, &str)]) -> Result<Option<u64>, Problem> {
        Ok(self.send(sql, settings, None).await?.1)
    }

    /// The same, as the only one that has the name `query_id` on this server: who comes second waits until the first has
    /// ended.
    pub async fn change_alone(
        &self,
        query_id: &str,
        sql: &str,
        settings: &[(&str, &str)],
    ) -> Result<Option<u64>, Problem> {
        let until = Instant::now() + self.within();
        let mut settings = settings.to_vec();
        settings.push(("query_id", query_id));
        loop {
            match self.send(sql, &settings, None).await {
                Err(problem)
                    if problem.code == Some(QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING)
                        && Instant::now() < until =>
                {
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return Ok(answer?.1),
            }
        }
    }

    /// `INSERT … FORMAT Parquet` with its rows.
    pub async fn insert(&self, sql: &str, settings: &[(&str, &str)], rows: Bytes) -> Result<(), Problem> {
        self.send(sql, settings, Some(rows)).await.map(drop)
    }

    async fn send(
        &self,
        sql: &str,
        settings: &[(&str, &str)],
        rows: Option<Bytes>,
    ) -> Result<(Bytes, Option<u64>), Problem> {
        let seconds = self.settings.load_timeout_s.to_string();
        let mut parameters = vec![
            // Errors come with a status, and not in the middle of an answer that began well.
            ("wait_end_of_query", "1"),
            ("max_execution_time", &seconds),
        ];
        parameters.extend(settings);
        let request = match rows {
            Some(rows) => {
                parameters.push(("query", sql));
                self.http.post(&self.settings.url).body(rows)
            }
            None => self.http.post(&self.settings.url).body(sql.to_owned()),
        };
        let mut request = request
            .query(&parameters)
            .header("X-ClickHouse-User", &self.settings.user)
            .timeout(self.within() + Duration::from_secs(30));
        if let Some(password) = &self.password {
            request = request.header("X-ClickHouse-Key", password.as_str());
        }
        let away = |error: reqwest::Error| Problem {
            code: None,
            error: TargetError::Away(format!("{}: {}", self.settings.url, chain(&error.without_url()))),
        };
        let response = request.send().await.map_err(away)?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let code = header("X-ClickHouse-Exception-Code").and_then(|code| code.parse().ok());
        let written = header("X-ClickHouse-Summary").and_then(written_rows);
        let answer = response.bytes().await.map_err(away)?;
        if status == 200 && code.is_none() {
            return Ok((answer, written));
        }
        let said = String::from_utf8_lossy(&answer);
        let said: String = said.lines().next().unwrap_or_default().chars().take(400).collect();
        Err(Problem { code, error: meaning(&self.settings.url, status, code, &said) })
    }
}

fn meaning(url: &str, status: u16, code: Option<u32>, said: &str) -> TargetError {
    let text = format!("{url}: {status} {said}");
    match code {
        Some(code) if CREDENTIALS.contains(&code) => TargetError::Credentials(text),
        Some(code) if QUOTA.contains(&code) => TargetError::Quota { said: text, retry_after_s: 30 },
        Some(code) if PASSING.contains(&code) => TargetError::Away(text),
        Some(code) if SCHEMA.contains(&code) => TargetError::Schema(text),
        Some(_) => TargetError::Refused(text),
        None if matches!(status, 401 | 403) => TargetError::Credentials(text),
        None if status == 429 => TargetError::Quota { said: text, retry_after_s: 30 },
        None if status >= 500 || status == 408 => TargetError::Away(text),
        None => TargetError::Refused(text),
    }
}

fn written_rows(summary: &str) -> Option<u64> {
    let summary: Value = serde_json::from_str(summary).ok()?;
    summary.get("written_rows")?.as_str()?.parse().ok()
}

fn as_text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_mean_what_somebody_can_do_about_them() {
        let kind = |status, code| meaning("http://here", status, code, "").kind();
        assert_eq!(kind(403, Some(516)), "credentials");
        assert_eq!(kind(500, Some(252)), "quota");
        assert_eq!(kind(500, Some(241)), "away");
        assert_eq!(kind(404, Some(UNKNOWN_TABLE)), "schema");
        assert_eq!(kind(400, Some(62)), "refused");
        assert_eq!(kind(502, None), "away");
        assert_eq!(written_rows(r#"{"read_rows":"9","written_rows":"12"}"#), Some(12));
    }
}
