//! One POST to an endpoint. A name's addresses are looked at before any is asked, and the connection goes to one of those:
//! no second look-up leads elsewhere. TLS is verified, no redirect followed, no proxy used; time and answer are bounded.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{StatusCode, header, redirect};
use sendlake_control::clock::{Clock, Timestamp};
use sendlake_control::endpoint::SigningSecret;
use url::{Host, Url};

use super::lane::Outcome;
use super::signature::sign;
use crate::guard::Guard;

/// Octets of an answer that are read, so that the connection can be used again.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Longest wait for the rest of an answer whose status is known.
const REST_MAX: Duration = Duration::from_secs(2);
/// Octets of an answer that a test by hand shows.
const SHOWN_BYTES_MAX: usize = 500;
const USER_AGENT: &str = concat!("sendlake/", env!("CARGO_PKG_VERSION"), " (webhooks)");

/// How requests are made.
#[derive(Clone, Debug)]
pub struct SendSettings {
    pub connect_max: Duration,
    pub answer_max: Duration,
    /// Idle connections that are kept to one host.
    pub idle_per_host: usize,
    /// `http://` as well: test networks.
    pub allow_http: bool,
    /// Roots that are trusted besides the system's.
    pub roots: Vec<reqwest::Certificate>,
}

impl Default for SendSettings {
    fn default() -> Self {
        Self {
            connect_max: Duration::from_secs(10),
            answer_max: Duration::from_secs(15),
            idle_per_host: 16,
            allow_http: false,
            roots: Vec::new(),
        }
    }
}

/// One delivery.
pub struct Message<'a> {
    pub url: &'a Url,
    pub secrets: &'a [SigningSecret],
    /// `webhook-id`: the event's, the same with every attempt.
    pub id: &'a str,
    pub body: Vec<u8>,
    /// `webhook-replay`, where it is part of one.
    pub replay_id: Option<&'a str>,
}

/// What a test by hand learns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub outcome: Outcome,
    pub status: Option<u16>,
    /// The beginning of the answer's body, as text.
    pub body: String,
}

/// Makes requests; connections are kept and used again.
pub struct Sender {
    client: reqwest::Client,
    guard: Arc<dyn Guard>,
    clock: Arc<dyn Clock>,
    settings: SendSettings,
}

impl Sender {
    /// Fails where the system's roots cannot be read.
    pub fn new(
        guard: Arc<dyn Guard>,
        clock: Arc<dyn Clock>,
        settings: SendSettings,
    ) -> Result<Self, reqwest::Error> {
        let mut client = reqwest::Client::builder()
            .dns_resolver(Arc::new(Guarded(Arc::clone(&guard))))
            .https_only(!settings.allow_http)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(USER_AGENT)
            .pool_max_idle_per_host(settings.idle_per_host)
            .connect_timeout(settings.connect_max)
            .timeout(settings.answer_max);
        for root in &settings.roots {
            client = client.add_root_certificate(root.clone());
        }
        Ok(Self { client: client.build()?, guard, clock, settings })
    }

    pub fn guard(&self) -> &Arc<dyn Guard> {
        &self.guard
    }

    pub fn allows_http(&self) -> bool {
        self.settings.allow_http
    }

    /// Delivers, and says how that went.
    pub async fn send(&self, message: Message<'_>) -> Outcome {
        match self.post(message).await {
            Ok(mut response) => {
                let outcome = outcome(&response, self.clock.now());
                // Read to its end, a connection can be used again; whatever it says, the status counts.
                let _ = tokio::time::timeout(REST_MAX, beginning(&mut response, ANSWER_BYTES_MAX)).await;
                outcome
            }
            Err(said) => Outcome::Failed { said, retry_after_s: None },
        }
    }

    /// The same, with the answer's beginning, for whoever tries an endpoint out.
    pub async fn try_out(&self, message: Message<'_>) -> Answer {
        match self.post(message).await {
            Ok(mut response) => {
                let (outcome, status) = (outcome(&response, self.clock.now()), response.status().as_u16());
                let read = tokio::time::timeout(REST_MAX, beginning(&mut response, SHOWN_BYTES_MAX)).await;
                let body = String::from_utf8_lossy(&read.unwrap_or_default()).into_owned();
                Answer { outcome, status: Some(status), body }
            }
            Err(said) => Answer {
                outcome: Outcome::Failed { said, retry_after_s: None },
                status: None,
                body: String::new(),
            },
        }
    }

    async fn post(&self, message: Message<'_>) -> Result<reqwest::Response, String> {
        // Numbers do not come by the resolver.
        let ip: Option<IpAddr> = match message.url.host() {
            Some(Host::Ipv4(ip)) => Some(ip.into()),
            Some(Host::Ipv6(ip)) => Some(ip.into()),
            _ => None,
        };
        if let Some(ip) = ip
            && !self.guard.allows(ip)
        {
            return Err(format!("{ip} is an address of an internal network, or of none"));
        }
        let now = self.clock.now();
        let signature = sign(message.secrets, now, message.id, now.as_secs(), &message.body);
        let mut request = self
            .client
            .post(message.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header("webhook-id", message.id)
            .header("webhook-timestamp", now.as_secs())
            .header("webhook-signature", signature)
            .body(message.body);
        if let Some(replay_id) = message.replay_id {
            request = request.header("webhook-replay", replay_id);
        }
        request.send().await.map_err(|error| told(error, self.settings.answer_max))
    }
}

/// What a status means.
fn outcome(response: &reqwest::Response, now: Timestamp) -> Outcome {
    let status = response.status();
    let said = format!("it answers {status}");
    match status {
        status if status.is_success() => Outcome::Delivered,
        StatusCode::GONE => Outcome::Gone { said },
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            let retry_after =
                response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            Outcome::Failed { said, retry_after_s: retry_after.and_then(|text| retry_after_s(text, now)) }
        }
        status if status.is_redirection() => {
            Outcome::Failed { said: format!("{said}, and redirects are not followed"), retry_after_s: None }
        }
        _ => Outcome::Failed { said, retry_after_s: None },
    }
}

/// Seconds, or an HTTP date (RFC 9110, section 10.2.3).
fn retry_after_s(text: &str, now: Timestamp) -> Option<i64> {
    match text.trim().parse::<u32>() {
        Ok(seconds) => Some(seconds.into()),
        Err(_) => Timestamp::parse_mail(text.trim()).map(|at| at.as_secs() - now.as_secs()),
    }
}

/// Up to so many octets of a body.
async fn beginning(response: &mut reqwest::Response, bytes_max: usize) -> Vec<u8> {
    let mut read = Vec::new();
    while read.len() < bytes_max
        && let Ok(Some(chunk)) = response.chunk().await
    {
        let room = bytes_max - read.len();
        read.extend(chunk.iter().take(room));
    }
    read
}

/// An error with its causes, without the address: that may hold a secret.
fn told(error: reqwest::Error, answer_max: Duration) -> String {
    let error = error.without_url();
    if error.is_timeout() && !error.is_connect() {
        return format!("no answer within {} s", answer_max.as_secs_f32());
    }
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let text = inner.to_string();
        if !said.contains(&text) {
            said.push_str(": ");
            said.push_str(&text);
        }
        cause = inner.source();
    }
    said
}

/// The guard where reqwest asks for a name's addresses.
struct Guarded(Arc<dyn Guard>);

impl Resolve for Guarded {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = Arc::clone(&self.0);
        Box::pin(async move {
            let found = guard.addresses(name.as_str()).await?;
            let allowed: Vec<SocketAddr> =
                found.into_iter().filter(|ip| guard.allows(*ip)).map(|ip| SocketAddr::new(ip, 0)).collect();
            if allowed.is_empty() {
                return Err(format!("{} leads to no public address", name.as_str()).into());
            }
            let addrs: Addrs = Box::new(allowed.into_iter());
            Ok(addrs)
        })
    }
}

#[cfg(test)]
mod tests;
