//! HTTP clients that post messages as fast as they are accepted: kept-alive connections, one request each at a time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What is posted: one recipient, plain text, each message to somebody else.
pub(crate) struct Load {
    http: SocketAddr,
    authorization: String,
    /// The JSON before and after the recipient's number; made once, so that the client costs little.
    before: String,
    after: String,
}

impl Load {
    /// `later` sets `send_at` to tomorrow.
    pub(crate) fn new(http: SocketAddr, key: &str, body_bytes: usize, later: bool) -> Self {
        let line = "The quick brown fox jumps over the lazy dog while nobody at work looks.\\r\\n";
        let line_bytes = line.len() - 2; // two escapes stand for two octets
        let text = line.repeat(body_bytes / line_bytes);
        let send_at = if later {
            let tomorrow = chrono::DateTime::from(tomorrow());
            format!(",\"send_at\":\"{}\"", chrono::DateTime::<chrono::Utc>::to_rfc3339(&tomorrow))
        } else {
            String::new()
        };
        Self {
            http,
            authorization: format!("Bearer {key}"),
            before: "{\"from\":\"news@bench.example\",\"to\":[\"r".into(),
            after: format!(
                "@sink.example\"],\"subject\":\"A message of ten kilobytes\",\"text\":\"{text}\"{send_at}}}"
            ),
        }
    }

    /// Posts for `time`. Returns how many were accepted.
    pub(crate) async fn run_for(&self, connections: usize, time: Duration) -> anyhow::Result<usize> {
        let until = Instant::now() + time;
        self.run(connections, usize::MAX, until).await
    }

    /// Posts `messages`.
    pub(crate) async fn run_count(&self, connections: usize, messages: usize) -> anyhow::Result<usize> {
        self.run(connections, messages, Instant::now() + crate::mail::MEASURE_MAX).await
    }

    async fn run(&self, connections: usize, messages: usize, until: Instant) -> anyhow::Result<usize> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut posting = JoinSet::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(self.http).await.context("connect to sendlake")?;
            stream.set_nodelay(true)?;
            let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let (before, after) = (self.before.clone(), self.after.clone());
            let (authorization, next) = (self.authorization.clone(), Arc::clone(&next));
            posting.spawn(async move {
                let mut accepted = 0;
                while Instant::now() < until {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= messages {
                        break;
                    }
                    post(&mut sender, &authorization, format!("{before}{number}{after}")).await?;
                    accepted += 1;
                }
                anyhow::Ok(accepted)
            });
        }
        let mut accepted = 0;
        while let Some(joined) = posting.join_next().await {
            accepted += joined??;
        }
        Ok(accepted)
    }
}

async fn post(sender: &mut SendRequest<Body>, authorization: &str, body: String) -> anyhow::Result<()> {
    let request = Request::post("/v1/messages")
        .header(header::HOST, "localhost")
        .header(header::AUTHORIZATION, authorization)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    if status != StatusCode::ACCEPTED {
        bail!("POST /v1/messages answered {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a load generator lives by the real clock")]
fn tomorrow() -> std::time::SystemTime {
    std::time::SystemTime::now() + Duration::from_secs(86_400)
}
