//! What Google says when it says no, and what that means for a load.
//!
//! Reasons: "Error messages" in BigQuery's documentation.

use serde::Deserialize;
use serde_json::Value;

use crate::target::TargetError;

/// Seconds to wait where Google says neither.
const RATE_PAUSE_S: u64 = 60;
/// A quota by the day is given back bit by bit (BigQuery, "Quotas and limits"): it is asked again by the hour.
const QUOTA_PAUSE_S: u64 = 3600;

/// A request that was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Of HTTP; `None` when no answer came.
    pub status: Option<u16>,
    /// Google's word, `accessDenied`; empty where it said none.
    pub reason: String,
    pub message: String,
    pub retry_after_s: Option<u64>,
}

/// Why a job ended without success: `status.errorResult`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct JobError {
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
}

impl Failure {
    /// No answer, or half of one.
    pub fn unanswered(error: &reqwest::Error) -> Self {
        // The URL may name a session of an upload, which is a credential.
        let message = if error.is_timeout() {
            "no answer in time".to_owned()
        } else if error.is_connect() {
            let host = error.url().and_then(|url| url.host_str());
            format!("no connection to {}", host.unwrap_or("the server"))
        } else {
            "the connection broke before the answer was complete".to_owned()
        };
        Self { status: None, reason: String::new(), message, retry_after_s: None }
    }

    /// An answer that is no success, from its status and its body.
    pub fn answered(status: u16, retry_after_s: Option<u64>, body: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let error = json.get("error").unwrap_or(&Value::Null);
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let first = error.get("errors").and_then(|list| list.get(0));
        let mut message = text(error.get("message"));
        if message.is_empty() {
            message = format!("HTTP status {status} without a reason");
        }
        Self {
            status: Some(status),
            reason: text(first.and_then(|first| first.get("reason"))),
            message: short(&message),
            retry_after_s,
        }
    }

    /// What it names is there already.
    pub fn is_duplicate(&self) -> bool {
        self.status == Some(409)
    }

    /// What it names is not there.
    pub fn is_missing(&self) -> bool {
        self.status == Some(404)
    }

    /// Somebody else changed it meanwhile.
    pub fn is_stale(&self) -> bool {
        self.status == Some(412)
    }

    /// The same again may succeed.
    pub fn is_passing(&self) -> bool {
        self.status.is_none_or(|status| status >= 500 || status == 408)
    }

    /// The error of a load; `doing` says what was tried, `asking for the table acme.email.events`.
    pub fn into_error(self, doing: &str) -> TargetError {
        let said = format!("BigQuery, {doing}: {}", self.message);
        match (self.status, self.reason.as_str()) {
            (None | Some(408 | 500..), _) => TargetError::Away(said),
            (_, "rateLimitExceeded" | "jobRateLimitExceeded" | "userRateLimitExceeded") => {
                TargetError::Quota { said, retry_after_s: self.retry_after_s.unwrap_or(RATE_PAUSE_S) }
            }
            (_, "quotaExceeded") => {
                TargetError::Quota { said, retry_after_s: self.retry_after_s.unwrap_or(QUOTA_PAUSE_S) }
            }
            (Some(429), _) => {
                TargetError::Quota { said, retry_after_s: self.retry_after_s.unwrap_or(RATE_PAUSE_S) }
            }
            (Some(401), _) => TargetError::Credentials(format!(
                "{said}; the credential is not accepted: is the service account, or its key, still there?"
            )),
            (Some(403), _) => TargetError::Credentials(format!(
                "{said}; grant what `sendlake export ddl` prints to the account that loads"
            )),
            (Some(404), _) => TargetError::Refused(format!(
                "{said}; check project and dataset in [export.….bigquery], and make the dataset first"
            )),
            (_, reason) => by_words(reason, &self.message, said, TargetError::Refused),
        }
    }
}

impl JobError {
    /// The error of a load, the first time that the failure of the job `job_id` is seen.
    pub fn into_error(self, job_id: &str) -> TargetError {
        let said = format!("BigQuery, job {job_id}: {} ({})", short(&self.message), self.reason);
        match self.reason.as_str() {
            "accessDenied" => TargetError::Credentials(format!(
                "{said}; grant what `sendlake export ddl` prints to the account that loads"
            )),
            "rateLimitExceeded" | "jobRateLimitExceeded" => {
                TargetError::Quota { said, retry_after_s: RATE_PAUSE_S }
            }
            "quotaExceeded" => TargetError::Quota { said, retry_after_s: QUOTA_PAUSE_S },
            reason => by_words(reason, &self.message, said, TargetError::JobFailed),
        }
    }

    /// The same, when an earlier try has seen it: the name is used up.
    pub fn into_used_up(self, job_id: &str) -> TargetError {
        TargetError::JobFailed(format!(
            "BigQuery, job {job_id} had failed: {} ({}); the next attempt has a new job",
            short(&self.message),
            self.reason
        ))
    }
}

/// BigQuery has no reason of its own for a column that is not there or of another type; the message says it.
fn by_words(reason: &str, message: &str, said: String, other: fn(String) -> TargetError) -> TargetError {
    let column = [
        "Unrecognized name",
        "Provided Schema does not match",
        "has type",
        "has changed type",
        "has changed mode",
        "not found inside",
        "is not present in table",
        "Cannot assign",
    ];
    let is_query = matches!(reason, "invalid" | "invalidQuery");
    if is_query && column.iter().any(|words| message.contains(words)) {
        return TargetError::Schema(format!("{said}; compare the table with `sendlake export ddl`"));
    }
    other(said)
}

/// At most 500 characters: a message may repeat a row.
fn short(text: &str) -> String {
    match text.char_indices().nth(500) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
