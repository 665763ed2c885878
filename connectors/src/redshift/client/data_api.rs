//! The Redshift Data API: statements over HTTPS, signed with Signature Version 4, named by a token of ours so that one
//! whose answer was lost is not run again (Amazon Redshift Data API reference, version 2019-12-20).

#![expect(
    clippy::indexing_slicing,
    reason = "members of JSON: one that is missing reads as null, and only objects made here are written to"
)]

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AwsAuthorizer};
use object_store::client::{HttpRequest, HttpRequestBody};
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::Done;
use crate::pgwire::Row;
use crate::redshift::settings::DataApi;
use crate::target::{JobLog, TargetError};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// What the service says when it is asked too often (actions' lists of errors, and "Quotas" in the management guide).
const BUSY: [&str; 5] = [
    "ActiveSessionsExceededException",
    "ActiveStatementsExceededException",
    "ThrottlingException",
    "TooManyRequestsException",
    "LimitExceededException",
];

/// Common errors of signed requests, which come with status 400 or 403.
const NOT_US: [&str; 8] = [
    "AccessDeniedException",
    "ExpiredTokenException",
    "IncompleteSignatureException",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationTokenException",
    "NotAuthorized",
    "UnrecognizedClientException",
];

pub struct DataApiClient {
    pub settings: DataApi,
    pub database: String,
    pub region: String,
    /// Its credentials sign the requests.
    pub bucket: Arc<AmazonS3>,
    pub http: reqwest::Client,
}

/// A statement, or a batch of them, that has ended well.
struct Finished {
    id: String,
    rows: Vec<Option<u64>>,
    has_result: bool,
}

impl DataApiClient {
    pub async fn ask(&self, sql: &str, within: Duration) -> Result<Vec<Row>, TargetError> {
        let begun = Instant::now();
        let mut body = self.place();
        body["Sql"] = json!(sql);
        let id = text_of(&self.call("ExecuteStatement", &body).await?, "Id")?;
        let finished = self.wait(&id, begun + within, within).await?;
        if !finished.has_result {
            return Ok(Vec::new());
        }
        self.result(&finished.id).await
    }

    pub async fn transact(
        &self,
        statements: &[String],
        token: &str,
        log: &dyn JobLog,
        within: Duration,
    ) -> Result<Done, TargetError> {
        let begun = Instant::now();
        log.submitting(token).await?;
        let mut body = self.place();
        body["Sqls"] = json!(statements);
        body["ClientToken"] = json!(token);
        body["StatementName"] = json!(token);
        // A token that was used gives the id of its statement, whatever became of that.
        let id = text_of(&self.call("BatchExecuteStatement", &body).await?, "Id")?;
        let finished = self.wait(&id, begun + within, within).await?;
        Ok(Done { rows: finished.rows, job_id: Some(id) })
    }

    /// Who runs a statement and where (the combinations that `ExecuteStatement` takes).
    fn place(&self) -> Value {
        let mut body = json!({"Database": self.database});
        let fields = [
            ("WorkgroupName", &self.settings.workgroup),
            ("ClusterIdentifier", &self.settings.cluster),
            ("DbUser", &self.settings.db_user),
            ("SecretArn", &self.settings.secret_arn),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                body[name] = json!(value);
            }
        }
        body
    }

    async fn wait(&self, id: &str, until: Instant, within: Duration) -> Result<Finished, TargetError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let told = self.call("DescribeStatement", &json!({"Id": id})).await?;
            match told["Status"].as_str().unwrap_or_default() {
                "FINISHED" => {
                    let each = told["SubStatements"].as_array();
                    let count =
                        |one: &Value| one["ResultRows"].as_i64().and_then(|rows| u64::try_from(rows).ok());
                    let rows =
                        each.map_or_else(|| vec![count(&told)], |each| each.iter().map(count).collect());
                    let has_result = told["HasResultSet"].as_bool().unwrap_or(false);
                    return Ok(Finished { id: id.to_owned(), rows, has_result });
                }
                state @ ("FAILED" | "ABORTED") => {
                    let error = told["Error"].as_str().unwrap_or("without a reason");
                    return Err(TargetError::JobFailed(format!(
                        "{}: statement {id} is {state}: {error}; `aws redshift-data describe-statement --id {id}` tells \
                         all of it",
                        self.shown()
                    )));
                }
                _ => {}
            }
            if Instant::now() + pause > until {
                return Err(TargetError::Away(format!(
                    "{}: statement {id} still runs after {} s; the next try asks for it again",
                    self.shown(),
                    within.as_secs()
                )));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 3 / 2).min(LONGEST_PAUSE);
        }
    }

    async fn result(&self, id: &str) -> Result<Vec<Row>, TargetError> {
        let mut rows = Vec::new();
        let mut body = json!({"Id": id});
        loop {
            let page = self.call("GetStatementResult", &body).await?;
            for record in page["Records"].as_array().into_iter().flatten() {
                rows.push(record.as_array().into_iter().flatten().map(field).collect());
            }
            match page["NextToken"].as_str() {
                Some(next) if !next.is_empty() => body["NextToken"] = json!(next),
                _ => return Ok(rows),
            }
        }
    }

    fn shown(&self) -> String {
        let name =
            self.settings.workgroup.as_deref().or(self.settings.cluster.as_deref()).unwrap_or_default();
        format!("Redshift Data API, {name} in {}", self.region)
    }

    async fn call(&self, action: &str, body: &Value) -> Result<Value, TargetError> {
        let endpoint = match &self.settings.endpoint {
            Some(endpoint) => format!("{}/", endpoint.trim_end_matches('/')),
            None => format!("https://redshift-data.{}.amazonaws.com/", self.region),
        };
        let shown = self.shown();
        let bytes = body.to_string();
        let credential = self.bucket.credentials().get_credential().await.map_err(|error| {
            TargetError::Credentials(format!(
                "no credentials of AWS: {error}; see the environment, the profile or the role"
            ))
        })?;
        let mut signed = HttpRequest::new(HttpRequestBody::from(bytes.clone()));
        *signed.method_mut() = reqwest::Method::POST;
        *signed.uri_mut() = endpoint
            .parse()
            .map_err(|_| TargetError::Refused(format!("data_api.endpoint {endpoint:?} is no URL")))?;
        let target = HeaderValue::from_str(&format!("RedshiftData.{action}"))
            .map_err(|error| TargetError::Local(error.to_string()))?;
        signed.headers_mut().insert("x-amz-target", target);
        signed.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.1"));
        AwsAuthorizer::new(&credential, "redshift-data", &self.region).authorize(&mut signed, None);

        let request =
            self.http.post(&endpoint).headers(signed.headers().clone()).timeout(REQUEST_TIMEOUT).body(bytes);
        // A URL can hold nothing secret here, but the text is shorter without.
        let away =
            |error: reqwest::Error| TargetError::Away(format!("{shown}: {action}: {}", error.without_url()));
        let response = request.send().await.map_err(away)?;
        let status = response.status().as_u16();
        let answer = response.bytes().await.map_err(away)?;
        if status == 200 {
            return serde_json::from_slice(&answer).map_err(|error| {
                TargetError::Away(format!("{shown}: {action}: the answer is no JSON: {error}"))
            });
        }
        Err(refusal(&shown, action, status, &answer))
    }
}

/// What an error of the service means: its kind is in `__type`, with or without a name space before `#`.
fn refusal(shown: &str, action: &str, status: u16, answer: &[u8]) -> TargetError {
    let told: Value = serde_json::from_slice(answer).unwrap_or_default();
    let kind = told["__type"].as_str().or(told["code"].as_str()).unwrap_or_default();
    let kind = kind.rsplit('#').next().unwrap_or_default();
    let message = told["message"].as_str().or(told["Message"].as_str()).unwrap_or_default();
    let said = format!("{shown}: {action}: {status} {kind}: {message}");
    if BUSY.contains(&kind) || status == 429 {
        return TargetError::Quota { said, retry_after_s: 30 };
    }
    if NOT_US.contains(&kind) || status == 401 || status == 403 {
        return TargetError::Credentials(format!("{said}; see the policy in docs/connectors/redshift.md"));
    }
    if status >= 500 || matches!(kind, "RequestTimeout" | "DatabaseConnectionException") {
        return TargetError::Away(said);
    }
    TargetError::Refused(said)
}

fn text_of(answer: &Value, key: &str) -> Result<String, TargetError> {
    answer[key]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| TargetError::Away(format!("Redshift Data API: an answer without {key}")))
}

/// A field as text, as the wire would give it.
fn field(field: &Value) -> Option<String> {
    if field["isNull"].as_bool() == Some(true) {
        return None;
    }
    let value = field.as_object()?.values().next()?;
    Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_mean_what_somebody_can_do_about_them() {
        let kind = |status, body: &str| refusal("here", "ExecuteStatement", status, body.as_bytes()).kind();
        assert_eq!(
            kind(400, r#"{"__type":"com.amazonaws.x#AccessDeniedException","message":"no"}"#),
            "credentials"
        );
        assert_eq!(kind(400, r#"{"__type":"ExpiredTokenException"}"#), "credentials");
        assert_eq!(kind(403, "<html>"), "credentials");
        assert_eq!(kind(400, r#"{"__type":"ActiveStatementsExceededException"}"#), "quota");
        assert_eq!(kind(400, r#"{"__type":"ValidationException","Message":"no such workgroup"}"#), "refused");
        assert_eq!(kind(500, r#"{"__type":"InternalServerException"}"#), "away");
    }

    #[test]
    fn fields_are_text() {
        let fields = [json!({"stringValue": "a"}), json!({"longValue": -3}), json!({"isNull": true})];
        let texts: Vec<_> = fields.iter().map(field).collect();
        assert_eq!(texts, [Some("a".to_owned()), Some("-3".to_owned()), None]);
    }
}
