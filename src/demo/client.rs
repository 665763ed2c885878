//! A small HTTP client for the demo: one connection, one request after another.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;

pub(super) struct Client {
    sender: SendRequest<Body>,
}

impl Client {
    pub async fn connect(addr: SocketAddr) -> anyhow::Result<Self> {
        let stream =
            tokio::net::TcpStream::connect(addr).await.context("connect to the demo's own server")?;
        let _ = stream.set_nodelay(true); // only a delay is at stake
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Posts JSON and expects it to be accepted.
    pub async fn post(&mut self, path: &str, key: &str, body: &serde_json::Value) -> anyhow::Result<()> {
        let request = Request::post(path)
            .header(header::HOST, "localhost")
            .header(header::AUTHORIZATION, format!("Bearer {key}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(serde_json::to_vec(body)?))?;
        self.ask(path, request, StatusCode::ACCEPTED).await
    }

    /// Sends a form off, as a mail program does for one-click (RFC 8058), and expects a 200.
    pub async fn submit(&mut self, path: &str, form: &'static str) -> anyhow::Result<()> {
        let request = Request::post(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(form))?;
        self.ask(path, request, StatusCode::OK).await
    }

    async fn ask(&mut self, path: &str, request: Request<Body>, wanted: StatusCode) -> anyhow::Result<()> {
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        if status != wanted {
            bail!("{path} answered {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }
}
