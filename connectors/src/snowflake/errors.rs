//! What Snowflake's refusals mean for whoever tries again.

use serde::Deserialize;

use crate::target::TargetError;

/// The body of an answer that is no result.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Failure {
    pub code: String,
    pub message: String,
    pub statement_handle: String,
}

/// Of whom the texts speak.
pub(super) struct Who<'a> {
    pub user: &'a str,
    pub fingerprint: &'a str,
    pub endpoint: &'a str,
}

impl Failure {
    /// From the body of an answer, which may be anything.
    pub fn read(body: &[u8]) -> Self {
        serde_json::from_slice(body).unwrap_or_else(|_| {
            let message = String::from_utf8_lossy(body).trim().to_owned();
            Self { message, ..Self::default() }
        })
    }

    /// What was said, on one line of bearable length.
    pub fn said(&self) -> String {
        let words: Vec<&str> = self.message.split_whitespace().collect();
        let mut said: String = words.join(" ").chars().take(400).collect();
        if said.is_empty() {
            said = "no text".to_owned();
        }
        if !self.code.is_empty() {
            said = format!("{said} [{}]", self.code);
        }
        if !self.statement_handle.is_empty() {
            said = format!("{said} (query id {})", self.statement_handle);
        }
        said
    }

    /// A status other than 200, 202 and 422.
    pub fn of_status(&self, status: u16, retry_after_s: Option<u64>, who: &Who<'_>) -> TargetError {
        let said = self.said();
        let Who { user, fingerprint, endpoint } = who;
        match status {
            401 => TargetError::Credentials(format!(
                "Snowflake does not accept user {user} with the key {fingerprint}: {said}; compare with RSA_PUBLIC_KEY_FP \
                 in `DESC USER {user}`, the account's name, and this machine's clock"
            )),
            403 => TargetError::Credentials(format!(
                "Snowflake refuses user {user}: {said}; check the user's network policy and that it is not disabled"
            )),
            // The limit is over when it was waited for; the statement is cancelled.
            408 => TargetError::JobFailed(format!(
                "Snowflake took longer than load_timeout_s and cancelled the statement: {said}; use a larger warehouse, \
                 smaller batches, or a longer time"
            )),
            429 => TargetError::Quota {
                said: format!("Snowflake has too many requests of this account: {said}"),
                retry_after_s: retry_after_s.unwrap_or(30),
            },
            404 => TargetError::Refused(format!(
                "there is no SQL API at {endpoint}: {said}; check account and endpoint"
            )),
            500.. => TargetError::Away(format!("Snowflake at {endpoint} answered {status}: {said}")),
            _ => TargetError::Refused(format!("Snowflake at {endpoint} answered {status}: {said}")),
        }
    }

    /// 422, or a session's answer without success: the statement was understood as a request and did not end well.
    pub fn of_statement(&self, doing: &str) -> TargetError {
        let said = self.said();
        let code = self.code.trim_start_matches('0');
        let text = |advice: &str| format!("{doing}: Snowflake said: {said}; {advice}");
        match code {
            // Tokens and logins; 390114 and 390318 are tokens that have ended.
            _ if self.code.starts_with("390") => {
                TargetError::Credentials(text("check user, key and role as `sendlake export ddl` makes them"))
            }
            "3001" | "3003" | "3540" => {
                TargetError::Credentials(text("grant the role what `sendlake export ddl` grants"))
            }
            "606" | "90109" | "2211" => TargetError::Refused(text(
                "set `warehouse` to one that the role may use (GRANT USAGE ON WAREHOUSE)",
            )),
            "90073" | "90058" => TargetError::Quota {
                said: text("the resource monitor's quota is used up; raise it, or wait until it begins anew"),
                retry_after_s: 3_600,
            },
            "2003" | "2043" | "2140" => TargetError::Refused(text(
                "check database, schema, table, stage and role: an object that is missing, and one that the role may \
                 not see, look the same",
            )),
            "904" | "2023" | "2057" | "1044" | "2264" => TargetError::Schema(text(
                "the table is not what the mapping says; run `sendlake export ddl` to compare",
            )),
            "630" | "604" | "625" => TargetError::JobFailed(text("it was cancelled or took too long")),
            _ => TargetError::JobFailed(text("look the query up in QUERY_HISTORY")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(code: &str) -> &'static str {
        let failure =
            Failure { code: code.into(), message: "SQL compilation error:\nno".into(), ..Failure::default() };
        failure.of_statement("loading").kind()
    }

    #[test]
    fn a_refusal_says_who_must_act() {
        assert_eq!(kind("003001"), "credentials");
        assert_eq!(kind("390144"), "credentials");
        assert_eq!(kind("000606"), "refused");
        assert_eq!(kind("002003"), "refused");
        assert_eq!(kind("000904"), "schema");
        assert_eq!(kind("090073"), "quota");
        assert_eq!(kind("100038"), "job_failed");
        let who = Who { user: "U", fingerprint: "SHA256:x", endpoint: "https://a" };
        let of = |status| Failure::read(b"<html>").of_status(status, None, &who);
        assert_eq!(of(503).kind(), "away");
        assert_eq!(of(408).kind(), "job_failed");
        assert_eq!(of(400).kind(), "refused");
        assert!(of(401).to_string().contains("SHA256:x"));
        let quota = Failure::default().of_status(429, Some(7), &who);
        assert!(matches!(quota, TargetError::Quota { retry_after_s: 7, .. }), "{quota:?}");
    }
}
