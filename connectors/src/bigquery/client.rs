//! What is said to BigQuery over REST: jobs, questions, tables. Nothing here knows what a batch is.
//!
//! Shapes: "BigQuery API reference", v2.

use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

use super::auth::Auth;
use super::failure::{Failure, JobError};
use super::settings::Settings;
use crate::target::TargetError;

const GOOGLE: &str = "https://bigquery.googleapis.com";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(90);
/// How long one request waits on the server's side for a question's answer.
const QUESTION_WAIT_MS: u64 = 30_000;
/// A question that takes longer is given up: none here reads much.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(600);
const POLL_MIN: Duration = Duration::from_millis(250);
const POLL_MAX: Duration = Duration::from_secs(10);

/// One project's jobs and tables.
#[derive(Debug)]
pub struct Client {
    pub(super) http: reqwest::Client,
    pub(super) base: String,
    pub(super) project: String,
    dataset: String,
    auth: Auth,
    job_timeout: Duration,
    /// Of the dataset: jobs run there, and are found only by whoever names it.
    location: OnceCell<String>,
}

/// A job, as far as it matters here.
#[derive(Clone, Debug, Deserialize)]
pub struct Job {
    pub status: JobStatus,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// `PENDING`, `RUNNING` or `DONE`.
    pub state: String,
    pub error_result: Option<JobError>,
}

impl Job {
    pub fn is_done(&self) -> bool {
        self.status.state == "DONE"
    }
}

/// A value bound to `@name`.
pub fn text_parameter(name: &str, value: &str) -> Value {
    json!({ "name": name, "parameterType": { "type": "STRING" }, "parameterValue": { "value": value } })
}

/// A value bound to `@name`.
pub fn number_parameter(name: &str, value: i128) -> Value {
    json!({ "name": name, "parameterType": { "type": "INT64" }, "parameterValue": { "value": value.to_string() } })
}

impl Client {
    pub fn new(settings: &Settings, auth: Auth) -> Result<Self, TargetError> {
        let built = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            // The 308 of an upload is no redirect.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("sendlake/", env!("CARGO_PKG_VERSION")))
            .build();
        let http =
            built.map_err(|_| TargetError::Local("no TLS for HTTP requests on this machine".into()))?;
        let base = settings.endpoint.as_ref().map_or(GOOGLE, |endpoint| endpoint.as_str());
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
            project: settings.project.clone(),
            dataset: settings.dataset.clone(),
            auth,
            job_timeout: Duration::from_secs(settings.job_timeout_s),
            location: OnceCell::new(),
        })
    }

    /// Asks the dataset where it is, once.
    pub async fn location(&self) -> Result<&str, TargetError> {
        let ask = || async {
            let doing = format!("asking for the dataset {}.{}", self.project, self.dataset);
            let path = format!("datasets/{}", self.dataset);
            let answer = self.ask(Method::GET, &path, &[], None, &doing).await?;
            let dataset = answer.map_err(|failure| failure.into_error(&doing))?;
            Ok(dataset.get("location").and_then(Value::as_str).unwrap_or("US").to_owned())
        };
        self.location.get_or_try_init(ask).await.map(String::as_str)
    }

    /// A job by its name; `None` when there is none.
    pub async fn job(&self, job_id: &str) -> Result<Option<Job>, TargetError> {
        let doing = format!("asking for the job {job_id}");
        let location = self.location().await?;
        let path = format!("jobs/{job_id}");
        let answer = self.ask(Method::GET, &path, &[("location", location)], None, &doing).await?;
        match answer {
            Ok(job) => read(job, &doing).map(Some),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(failure.into_error(&doing)),
        }
    }

    /// The name of a job with where it runs, for `jobReference`.
    pub async fn job_reference(&self, job_id: &str) -> Result<Value, TargetError> {
        Ok(json!({ "projectId": self.project, "jobId": job_id, "location": self.location().await? }))
    }

    /// Submits a job; one of that name that is there already is as good.
    pub async fn submit(&self, job_id: &str, configuration: Value) -> Result<(), TargetError> {
        let doing = format!("submitting the job {job_id}");
        let body =
            json!({ "jobReference": self.job_reference(job_id).await?, "configuration": configuration });
        match self.ask(Method::POST, "jobs", &[], Some(body), &doing).await? {
            Ok(_) => Ok(()),
            Err(failure) if failure.is_duplicate() => Ok(()),
            Err(failure) => Err(failure.into_error(&doing)),
        }
    }

    /// Waits until the job is over; `Err` of the inner result says how it failed. A job that goes on beyond the bound is
    /// [`TargetError::Away`]; its name stays good.
    pub async fn wait(&self, job_id: &str) -> Result<Result<(), JobError>, TargetError> {
        let begun = Instant::now();
        let mut pause = POLL_MIN;
        loop {
            match self.job(job_id).await? {
                Some(job) if job.is_done() => return Ok(job.status.error_result.map_or(Ok(()), Err)),
                Some(_) => {}
                None => {
                    return Err(TargetError::Away(format!("BigQuery, job {job_id}: is not known any more")));
                }
            }
            if begun.elapsed() >= self.job_timeout {
                return Err(TargetError::Away(format!(
                    "BigQuery, job {job_id}: not done after {} s (job_timeout_s); the next try waits for it again",
                    self.job_timeout.as_secs()
                )));
            }
            sleep(pause).await;
            pause = (pause * 2).min(POLL_MAX);
        }
    }

    /// The rows of a question, each a list of texts. For statements that may run twice without harm.
    pub async fn question(
        &self,
        sql: &str,
        parameters: Vec<Value>,
        doing: &str,
    ) -> Result<Vec<Vec<Option<String>>>, TargetError> {
        let begun = Instant::now();
        let location = self.location().await?;
        let body = json!({
            "query": sql, "useLegacySql": false, "useQueryCache": false, "location": location,
            "parameterMode": "NAMED", "queryParameters": parameters, "timeoutMs": QUESTION_WAIT_MS,
        });
        let mut page: Page = self.page(Method::POST, "queries", &[], Some(body), doing).await?;
        let job_id =
            page.job_reference.as_ref().map(|reference| reference.job_id.clone()).unwrap_or_default();
        let path = format!("queries/{job_id}");
        let wait_ms = QUESTION_WAIT_MS.to_string();
        let mut rows = Vec::new();
        loop {
            if !page.job_complete && begun.elapsed() >= QUESTION_TIMEOUT {
                return Err(TargetError::Away(format!(
                    "BigQuery, {doing}: no answer after {QUESTION_TIMEOUT:?}"
                )));
            }
            rows.extend(page.rows.into_iter().map(|row| row.f.into_iter().map(|cell| cell.v).collect()));
            let mut query = vec![("location", location), ("timeoutMs", wait_ms.as_str())];
            match (&page.page_token, page.job_complete) {
                (Some(token), true) => query.push(("pageToken", token)),
                (None, true) => return Ok(rows),
                (_, false) => {}
            }
            page = self.page(Method::GET, &path, &query, None, doing).await?;
        }
    }

    async fn page(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Value>,
        doing: &str,
    ) -> Result<Page, TargetError> {
        let answer = self.ask(method, path, query, body, doing).await?;
        read(answer.map_err(|failure| failure.into_error(doing))?, doing)
    }

    /// One request below the project: the body of the answer, or what was said against it.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Value>,
        doing: &str,
    ) -> Result<Result<Value, Failure>, TargetError> {
        self.ask_if(method, path, query, body, None, doing).await
    }

    /// The same, under the condition that the resource is still the one with that etag.
    pub async fn ask_if(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        body: Option<Value>,
        etag: Option<&str>,
        doing: &str,
    ) -> Result<Result<Value, Failure>, TargetError> {
        let url = format!("{}/bigquery/v2/projects/{}/{path}", self.base, self.project);
        let mut request = self.http.request(method, url).query(query);
        if let Some(body) = &body {
            request = request.json(body);
        }
        if let Some(etag) = etag {
            request = request.header("if-match", etag);
        }
        let answer = match self.sign(request).await?.send().await {
            Ok(answer) => answer,
            Err(error) => return Ok(Err(Failure::unanswered(&error))),
        };
        let status = answer.status();
        let retry_after_s = retry_after_s(&answer);
        let body = match answer.bytes().await {
            Ok(body) => body,
            Err(error) => return Ok(Err(Failure::unanswered(&error))),
        };
        if !status.is_success() {
            return Ok(Err(Failure::answered(status.as_u16(), retry_after_s, &body)));
        }
        // A deletion has no body.
        if body.is_empty() {
            return Ok(Ok(Value::Null));
        }
        let json = serde_json::from_slice(&body);
        json.map(Ok).map_err(|_| TargetError::Away(format!("BigQuery, {doing}: the answer is no JSON")))
    }

    /// With the bearer token, where there is one.
    pub(super) async fn sign(&self, request: RequestBuilder) -> Result<RequestBuilder, TargetError> {
        Ok(match self.auth.bearer().await? {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }
}

pub(super) fn retry_after_s(answer: &reqwest::Response) -> Option<u64> {
    answer.headers().get("retry-after")?.to_str().ok()?.trim().parse().ok()
}

fn read<T: serde::de::DeserializeOwned>(json: Value, doing: &str) -> Result<T, TargetError> {
    serde_json::from_value(json)
        .map_err(|_| TargetError::Away(format!("BigQuery, {doing}: the answer lacks what it should have")))
}

/// A page of a question's answer.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    job_reference: Option<JobName>,
    #[serde(default)]
    job_complete: bool,
    page_token: Option<String>,
    #[serde(default)]
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JobName {
    job_id: String,
}

#[derive(Deserialize)]
struct Row {
    f: Vec<Cell>,
}

#[derive(Deserialize)]
struct Cell {
    v: Option<String>,
}
