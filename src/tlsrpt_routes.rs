//! `POST /tlsrpt/v1/<sending domain>`: TLS reports by HTTPS (RFC 8460, section 5.4), the other way to `tlsrpt@<bounce
//! domain>`. A report is on the disk before its 201; everything after that is [`domain_reports`](crate::domain_reports)'.
//!
//! Anybody may post, as anybody may mail: the domain in the address says whose reports these may be, and no more.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use ipnet::IpNet;
use parking_lot::Mutex;
use sendlake_control::domain::parse_domain;
use serde_json::json;
use tokio::time::Instant;

use crate::domain_reports::{DomainReports, Unreadable};
use crate::hear::{Unavailable, tracking};
use crate::identities::ControlIdentities;

/// What addresses for reports begin with, below `http.public_url`; the sending domain follows.
pub const PATH: &str = "/tlsrpt/v1/";

const BODY_TIME_MAX: Duration = Duration::from_secs(60);
const WINDOW: Duration = Duration::from_secs(60);
/// Above this many known clients those whose minute is over are forgotten.
const CLIENTS_MAX: usize = 10_000;
const RETRY_AFTER_S: &str = "300";

/// What reports are taken with.
pub struct PostedReports {
    reports: Arc<DomainReports>,
    identities: Arc<ControlIdentities>,
    trusted_proxies: Vec<IpNet>,
    bytes_max: usize,
    per_client_max: u32,
    clients: Mutex<HashMap<IpAddr, (Instant, u32)>>,
}

impl PostedReports {
    /// `bytes_max` of one body; `per_client_max` of one address, or IPv6 network of 64 bits, in a minute.
    pub fn new(
        reports: Arc<DomainReports>,
        identities: Arc<ControlIdentities>,
        trusted_proxies: Vec<IpNet>,
        bytes_max: usize,
        per_client_max: u32,
    ) -> Self {
        Self { reports, identities, trusted_proxies, bytes_max, per_client_max, clients: Mutex::default() }
    }

    /// Counts a report. False when the client has had its share of this minute.
    fn may_post(&self, client: IpAddr, now: Instant) -> bool {
        let mut clients = self.clients.lock();
        if clients.len() >= CLIENTS_MAX {
            clients.retain(|_, (since, _)| now.duration_since(*since) <= WINDOW);
        }
        let (since, posted) = clients.entry(network(client)).or_insert((now, 0));
        if now.duration_since(*since) > WINDOW {
            (*since, *posted) = (now, 0);
        }
        let may = *posted < self.per_client_max;
        *posted += u32::from(may);
        may
    }

    async fn take(&self, domain: &str, request: Request) -> Result<(StatusCode, String), NotTaken> {
        // without a connection behind it, as in a test of routes, all clients are one
        let client = tracking::client(&request, &self.trusted_proxies);
        if !self.may_post(client.unwrap_or(IpAddr::from([0, 0, 0, 0])), Instant::now()) {
            return Err(NotTaken::TooMany);
        }
        let domain = parse_domain(domain).map_err(|_| NotTaken::Unknown)?;
        let owner = self.identities.owner_of(&domain).ok_or(NotTaken::Unknown)?;
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if !kind.is_some_and(is_report) {
            return Err(NotTaken::Kind);
        }
        let body = axum::body::to_bytes(request.into_body(), self.bytes_max);
        let body = tokio::time::timeout(BODY_TIME_MAX, body).await.map_err(|_| NotTaken::Late)?;
        let body: Arc<[u8]> = body.map_err(|_| NotTaken::TooLarge(self.bytes_max))?.as_ref().into();
        let heard = self.reports.receive(Some(&owner), &body, Unreadable::Aside).await?;
        match heard {
            Some(heard) if heard.outcome == "recorded" => Ok((StatusCode::CREATED, heard.detail)),
            // as by mail: taken, and put aside for somebody to look at
            Some(heard) if heard.outcome == "quarantined" => {
                Ok((StatusCode::ACCEPTED, format!("it cannot be read, and is kept: {}", heard.detail)))
            }
            Some(heard) => Err(NotTaken::Unreadable(heard.detail)),
            None => Err(NotTaken::Unreadable("it holds no TLS report (JSON, plain or in gzip)".to_owned())),
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// The two media types of the RFC, and what reporters without them have.
fn is_report(kind: &str) -> bool {
    let bare = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    [
        "application/tlsrpt+gzip",
        "application/tlsrpt+json",
        "application/gzip",
        "application/x-gzip",
        "application/json",
        "application/octet-stream",
    ]
    .contains(&bare.as_str())
}

/// Why a report is not taken.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error(
        "no tenant of this server sends as that domain; see `sendlake domain dns` for the address to publish"
    )]
    Unknown,
    #[error("send application/tlsrpt+gzip or application/tlsrpt+json (RFC 8460, section 6)")]
    Kind,
    #[error("the body has more than {0} bytes")]
    TooLarge(usize),
    #[error("the body took longer than {} s to arrive", BODY_TIME_MAX.as_secs())]
    Late,
    #[error("this client has sent its share of a minute; send it again later")]
    TooMany,
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("it could not be recorded now; send it again")]
    Later(#[from] Unavailable),
}

impl IntoResponse for NotTaken {
    fn into_response(self) -> Response {
        let (status, later) = match &self {
            NotTaken::Unknown => (StatusCode::NOT_FOUND, false),
            NotTaken::Kind => (StatusCode::UNSUPPORTED_MEDIA_TYPE, false),
            NotTaken::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, false),
            NotTaken::Late => (StatusCode::REQUEST_TIMEOUT, false),
            NotTaken::TooMany => (StatusCode::TOO_MANY_REQUESTS, true),
            NotTaken::Unreadable(_) => (StatusCode::UNPROCESSABLE_ENTITY, false),
            NotTaken::Later(_) => (StatusCode::SERVICE_UNAVAILABLE, true),
        };
        let detail = json!({
            "title": "the report was not taken", "status": status.as_u16(), "detail": self.to_string(),
        });
        let mut response = (status, Json(detail)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        if later {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

pub fn routes(reports: Arc<PostedReports>) -> Router {
    Router::new().route(&format!("{PATH}{{domain}}"), post(take)).with_state(reports)
}

async fn take(
    State(reports): State<Arc<PostedReports>>,
    Path(domain): Path<String>,
    request: Request,
) -> Response {
    match reports.take(&domain, request).await {
        Ok((status, detail)) => (status, Json(json!({ "detail": detail }))).into_response(),
        Err(refused) => {
            if let NotTaken::Later(error) = &refused {
                tracing::warn!(%error, "a TLS report was put off");
            } else {
                tracing::info!(domain = domain.chars().take(253).collect::<String>(), %refused, "a TLS report was not taken");
            }
            refused.into_response()
        }
    }
}

#[cfg(test)]
mod tests;
