//! The client of the tests: what a program that sends through sendlake would do.

use std::time::Duration;

use serde_json::{Value, json};

use crate::until;

/// A client of one server.
#[derive(Clone)]
pub struct Http {
    base: String,
    client: reqwest::Client,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status, kind and first pointer of a problem document.
    #[track_caller]
    pub fn problem(&self) -> (u16, String, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text());
        let problem = self.json();
        assert_eq!(problem["status"], self.status, "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
        let kind = problem["type"].as_str().unwrap().trim_start_matches("/problems/").to_owned();
        (self.status, kind, problem["errors"][0]["pointer"].as_str().unwrap_or_default().to_owned())
    }
}

impl Http {
    pub(crate) fn new(base: &str) -> Self {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
        Self { base: base.to_owned(), client }
    }

    /// `None` when no whole answer came: the server may have died.
    pub async fn try_post(
        &self,
        path: &str,
        key: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Option<Answer> {
        let mut request = self.client.post(format!("{}{path}", self.base)).body(body.into());
        if !key.is_empty() {
            request = request.bearer_auth(key);
        }
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(request.send().await.ok()?).await
    }

    pub async fn post(
        &self,
        path: &str,
        key: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        self.try_post(path, key, headers, body).await.expect("an answer")
    }

    pub async fn get(&self, path: &str, key: &str) -> Answer {
        let mut request = self.client.get(format!("{}{path}", self.base));
        if !key.is_empty() {
            request = request.bearer_auth(key);
        }
        read(request.send().await.unwrap()).await.unwrap()
    }

    /// Any method, with a body of JSON.
    pub async fn ask(&self, method: &str, path: &str, key: &str, body: String) -> Answer {
        let method = method.parse().unwrap();
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        if !key.is_empty() {
            request = request.bearer_auth(key);
        }
        if body != "null" {
            request = request.header("content-type", "application/json").body(body);
        }
        read(request.send().await.unwrap()).await.unwrap()
    }

    /// Hands over a message that is accepted, and returns its ids, one per recipient.
    pub async fn send(&self, key: &str, message: &Value) -> Vec<String> {
        let answer = self.post("/v1/messages", key, &[], message.to_string()).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        ids(&answer.json())
    }

    /// Until the server knows a key and its domain, which a command made just now.
    pub async fn ready(&self, key: &str, domain: &str) {
        let probe = json!({"from": format!("probe@{domain}"), "to": ["no"], "text": "x"}).to_string();
        until("the server to know the key and the domain", Duration::from_secs(10), async || {
            let answer = self.post("/v1/messages", key, &[], probe.clone()).await;
            (answer.status == 422 && !answer.text().contains("domain_not_owned")).then_some(())
        })
        .await;
    }

    pub async fn history(&self, key: &str, message_id: &str) -> Value {
        let answer = self.get(&format!("/v1/messages/{message_id}"), key).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Waits until a message has the outcome, and returns its history.
    pub async fn outcome(&self, key: &str, message_id: &str, outcome: &str) -> Value {
        let mut last = Value::Null;
        for _ in 0..300 {
            last = self.history(key, message_id).await;
            if last["outcome"] == outcome {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{message_id} did not become {outcome}: {last}");
    }

    pub async fn sql(&self, key: &str, sql: &str) -> Answer {
        self.post("/v1/sql", key, &[], json!({"sql": sql}).to_string()).await
    }
}

/// The message ids in a receipt.
pub fn ids(receipt: &Value) -> Vec<String> {
    let messages = receipt["messages"].as_array().unwrap_or_else(|| panic!("no receipt: {receipt}"));
    messages.iter().map(|message| message["message_id"].as_str().unwrap().to_owned()).collect()
}

async fn read(response: reqwest::Response) -> Option<Answer> {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.ok()?.to_vec();
    Some(Answer { status, headers, body })
}
