//! The SQL API, version 2: a request of one or several statements is submitted, waited for, and its rows read. Snowflake's
//! documentation: "Snowflake SQL API reference", "Resubmitting a request to execute SQL statements".

use std::io::Read as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use reqwest::{RequestBuilder, Response, StatusCode};
use sendlake_control::clock::{Clock, Timestamp};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::Url;
use uuid::Uuid;

use super::errors::{Failure, Who};
use super::key::KeyPair;
use super::settings::Settings;
use crate::target::TargetError;

/// A request is sent so many times before its target counts as away; each pause is twice the last.
const SENDS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// A statement that is not over by then is answered with 202 after 45 seconds.
const ANSWER: Duration = Duration::from_secs(90);
const POLL_FIRST: Duration = Duration::from_millis(200);
const POLL_LONGEST: Duration = Duration::from_secs(10);
/// Of Snowflake's own limit on a statement that only looks.
const QUERY_TIMEOUT_S: u64 = 600;

/// One account, as one user in one role.
pub(super) struct Client {
    pub(super) http: reqwest::Client,
    pub(super) endpoint: Url,
    pub(super) key: KeyPair,
    clock: Arc<dyn Clock>,
    role: Option<String>,
    warehouse: String,
    database: String,
    schema: String,
}

/// Statements that are one piece of work, under a name by which a second request for it is known.
pub(super) struct Job<'a> {
    pub request_id: Uuid,
    /// Whether it may have been submitted before.
    pub again: bool,
    pub statements: &'a str,
    pub count: usize,
    /// What the query history shows beside it.
    pub tag: String,
    pub timeout_s: u64,
}

/// What came back. Numbers are text, as they are in the answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// The query id.
    pub handle: String,
    /// One for each statement of a job.
    pub handles: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Body {
    statement_handle: String,
    statement_handles: Vec<String>,
    data: Vec<Vec<Option<String>>>,
    result_set_meta_data: Meta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Meta {
    partition_info: Option<Vec<Value>>,
}

impl Client {
    pub fn new(settings: &Settings, key: KeyPair, clock: Arc<dyn Clock>) -> Result<Self, TargetError> {
        let named =
            format!("https://{}.snowflakecomputing.com", settings.account.to_lowercase().replace('_', "-"));
        let endpoint = settings.endpoint.clone().map_or_else(|| Url::parse(&named), Ok);
        let endpoint =
            endpoint.map_err(|error| TargetError::Refused(format!("{named} is no address: {error}")))?;
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("sendlake/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| TargetError::Local(format!("no HTTPS here: {error}")))?;
        Ok(Self {
            http,
            endpoint,
            key,
            clock,
            role: settings.role.as_ref().map(|role| role.to_uppercase()),
            warehouse: settings.warehouse.to_uppercase(),
            database: settings.database.to_uppercase(),
            schema: settings.schema.to_uppercase(),
        })
    }

    /// Runs one statement that may run any number of times, and returns its rows. `doing` begins the text of an error.
    pub async fn query(&self, statement: &str, doing: &str) -> Result<Answer, TargetError> {
        let mut body = self.body(statement, QUERY_TIMEOUT_S);
        body.insert("parameters".into(), json!({"TIMEZONE": "UTC", "QUERY_TAG": "sendlake"}));
        let wait = Duration::from_secs(QUERY_TIMEOUT_S + 60);
        self.run(&Value::Object(body), None, false, wait, doing).await
    }

    /// Runs a job and waits for its end. When that takes longer than the job may, or nobody answers, the job may still
    /// be running: asked for again under the same request id, Snowflake does not run it twice.
    pub async fn job(&self, job: &Job<'_>, doing: &str) -> Result<Answer, TargetError> {
        let mut body = self.body(job.statements, job.timeout_s);
        body.insert(
            "parameters".into(),
            json!({"TIMEZONE": "UTC", "QUERY_TAG": job.tag, "MULTI_STATEMENT_COUNT": job.count.to_string()}),
        );
        let wait = Duration::from_secs(job.timeout_s + 60);
        self.run(&Value::Object(body), Some(job.request_id), job.again, wait, doing).await
    }

    /// The rows of one statement of a job.
    pub async fn rows_of(&self, handle: &str, doing: &str) -> Result<Vec<Vec<Option<String>>>, TargetError> {
        let status = self.url(&format!("api/v2/statements/{handle}"), &[])?;
        let response = self.send(|_| Ok(self.http.get(status.clone())), doing).await?;
        let body = self.read(response, doing).await?;
        Ok(parse(&body, doing)?.data)
    }

    fn body(&self, statement: &str, timeout_s: u64) -> Map<String, Value> {
        let mut body = Map::new();
        body.insert("statement".into(), statement.into());
        body.insert("timeout".into(), timeout_s.into());
        body.insert("database".into(), self.database.as_str().into());
        body.insert("schema".into(), self.schema.as_str().into());
        body.insert("warehouse".into(), self.warehouse.as_str().into());
        if let Some(role) = &self.role {
            body.insert("role".into(), role.as_str().into());
        }
        body
    }

    async fn run(
        &self,
        body: &Value,
        request_id: Option<Uuid>,
        again: bool,
        wait: Duration,
        doing: &str,
    ) -> Result<Answer, TargetError> {
        let until = Instant::now() + wait;
        let response = self
            .send(
                |sent| {
                    let mut query = Vec::new();
                    if let Some(id) = request_id {
                        query.push(("requestId", id.to_string()));
                        query.push(("async", "true".to_owned()));
                        if again || sent > 0 {
                            query.push(("retry", "true".to_owned()));
                        }
                    }
                    Ok(self.http.post(self.url("api/v2/statements", &query)?).json(body))
                },
                doing,
            )
            .await?;
        let mut response = response;
        let mut pause = POLL_FIRST;
        let mut handle = String::new();
        while response.status() == StatusCode::ACCEPTED {
            let body = self.read(response, doing).await?;
            let accepted = parse(&body, doing)?;
            if !accepted.statement_handle.is_empty() {
                handle = accepted.statement_handle;
            }
            if Instant::now() >= until {
                return Err(TargetError::Away(format!(
                    "{doing}: Snowflake still works on query {handle} after {} s; the next try goes on waiting for it",
                    wait.as_secs()
                )));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_LONGEST);
            let status = self.url(&format!("api/v2/statements/{handle}"), &[])?;
            response = self.send(|_| Ok(self.http.get(status.clone())), doing).await?;
        }
        let body = self.read(response, doing).await?;
        let Body { statement_handle, statement_handles, mut data, result_set_meta_data } =
            parse(&body, doing)?;
        let parts = result_set_meta_data.partition_info.map_or(0, |parts| parts.len());
        for part in 1..parts {
            let query = [("partition", part.to_string())];
            let next = self.url(&format!("api/v2/statements/{statement_handle}"), &query)?;
            let response = self.send(|_| Ok(self.http.get(next.clone())), doing).await?;
            let body = self.read(response, doing).await?;
            data.extend(parse(&body, doing)?.data);
        }
        Ok(Answer { handle: statement_handle, handles: statement_handles, rows: data })
    }

    /// Sends what `request` makes (told how often it was sent before) until there is an answer that means something.
    async fn send(
        &self,
        request: impl Fn(u32) -> Result<RequestBuilder, TargetError>,
        doing: &str,
    ) -> Result<Response, TargetError> {
        let mut pause = FIRST_PAUSE;
        let mut sent = 0;
        loop {
            let builder = request(sent)?
                .bearer_auth(self.token()?)
                .header("X-Snowflake-Authorization-Token-Type", "KEYPAIR_JWT")
                .header("Accept", "application/json")
                .timeout(ANSWER);
            sent += 1;
            let error = match builder.send().await {
                Ok(response) => match self.judge(response, doing).await {
                    Err(error @ TargetError::Away(_)) => error,
                    judged => return judged,
                },
                Err(error) => self.unreachable(doing, error),
            };
            if sent >= SENDS {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn judge(&self, response: Response, doing: &str) -> Result<Response, TargetError> {
        let status = response.status();
        if status == StatusCode::OK || status == StatusCode::ACCEPTED {
            return Ok(response);
        }
        let retry_after_s =
            response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let failure = Failure::read(&response.bytes().await.unwrap_or_default());
        if status == StatusCode::UNPROCESSABLE_ENTITY {
            return Err(failure.of_statement(doing));
        }
        Err(failure.of_status(status.as_u16(), retry_after_s, &self.who()))
    }

    pub(super) fn who(&self) -> Who<'_> {
        let (_, user) = self.key.who();
        Who { user, fingerprint: &self.key.fingerprint, endpoint: self.endpoint.as_str() }
    }

    /// Database, schema, warehouse and role, as a session is told.
    pub(super) fn context(&self) -> Vec<(&'static str, String)> {
        let mut context = vec![
            ("databaseName", self.database.clone()),
            ("schemaName", self.schema.clone()),
            ("warehouse", self.warehouse.clone()),
        ];
        context.extend(self.role.clone().map(|role| ("roleName", role)));
        context
    }

    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(super) fn token(&self) -> Result<String, TargetError> {
        let token = self.key.token(self.now());
        token.map_err(|error| TargetError::Credentials(format!("the private key does not sign: {error}")))
    }

    pub(super) fn unreachable(&self, doing: &str, error: reqwest::Error) -> TargetError {
        // Its address is in the text already, and a query in it helps nobody.
        let error = error.without_url();
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        TargetError::Away(format!("{doing}: Snowflake at {} does not answer: {error}{cause}", self.endpoint))
    }

    pub(super) fn url(&self, path: &str, query: &[(&str, String)]) -> Result<Url, TargetError> {
        let url = self.endpoint.join(path);
        let mut url =
            url.map_err(|error| TargetError::Refused(format!("endpoint {}: {error}", self.endpoint)))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    async fn read(&self, response: Response, doing: &str) -> Result<Vec<u8>, TargetError> {
        let body = response.bytes().await.map_err(|error| self.unreachable(doing, error))?;
        if !body.starts_with(&[0x1f, 0x8b]) {
            return Ok(body.into());
        }
        let mut plain = Vec::new();
        let read = GzDecoder::new(body.as_ref()).read_to_end(&mut plain);
        read.map_err(|error| TargetError::Away(format!("{doing}: a part of the result is broken: {error}")))?;
        Ok(plain)
    }
}

fn parse(body: &[u8], doing: &str) -> Result<Body, TargetError> {
    let parsed = serde_json::from_slice(body);
    parsed.map_err(|error| {
        TargetError::Away(format!("{doing}: Snowflake's answer is not what it should be: {error}"))
    })
}
