//! A TLS report by HTTPS POST (RFC 8460, section 5.4). Whoever publishes a record says where to: so no address of an
//! internal network is ever asked, no redirect is followed, and the time is bounded.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::{StatusCode, header, redirect};
use url::{Host, Url};

use crate::outside::{Outside, Unreachable};

const CONNECT_MAX: Duration = Duration::from_secs(10);
const ANSWER_MAX: Duration = Duration::from_secs(30);
const KIND: &str = "application/tlsrpt+gzip";

/// Why a report was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPosted {
    /// It will not be taken later either.
    #[error("{0}")]
    Never(String),
    #[error("{0}")]
    Later(String),
}

/// Posts reports.
pub struct Poster {
    pub outside: Outside,
    /// Roots that are trusted besides the system's.
    pub roots: Vec<reqwest::Certificate>,
}

impl Poster {
    /// Hands a report in gzip over. The server's certificate has to verify.
    pub async fn post(&self, url: &Url, gzip: Vec<u8>) -> Result<(), NotPosted> {
        let mut client = reqwest::Client::builder()
            .https_only(true)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX);
        for root in &self.roots {
            client = client.add_root_certificate(root.clone());
        }
        // the addresses that were looked at are those that are asked: no second look-up gives others
        match url.host() {
            Some(Host::Domain(name)) => {
                let found = self.outside.addresses(name).await?;
                let addrs: Vec<SocketAddr> = found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect();
                client = client.resolve_to_addrs(name, &addrs);
            }
            Some(Host::Ipv4(ip)) => self.allowed(url, ip.into())?,
            Some(Host::Ipv6(ip)) => self.allowed(url, ip.into())?,
            None => return Err(NotPosted::Never(format!("{url} names no host"))),
        }
        let later = |error: reqwest::Error| NotPosted::Later(told(&error));
        let client = client.build().map_err(later)?;
        let request = client.post(url.clone()).header(header::CONTENT_TYPE, KIND).body(gzip);
        let status = request.send().await.map_err(later)?.status();
        let said = || format!("{} answers {status}", url.host_str().unwrap_or_default());
        match status {
            status if status.is_success() => Ok(()),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(NotPosted::Later(said())),
            status if status.is_client_error() || status.is_redirection() => Err(NotPosted::Never(said())),
            _ => Err(NotPosted::Later(said())),
        }
    }

    fn allowed(&self, url: &Url, ip: IpAddr) -> Result<(), NotPosted> {
        if self.outside.allows(ip) { Ok(()) } else { Err(Unreachable::Internal(url.to_string()).into()) }
    }
}

impl From<Unreachable> for NotPosted {
    fn from(why: Unreachable) -> Self {
        match why {
            Unreachable::Unresolved(_) => NotPosted::Later(why.to_string()),
            Unreachable::Internal(_) => NotPosted::Never(why.to_string()),
        }
    }
}

/// An error with its causes: the first alone only names the address.
fn told(error: &reqwest::Error) -> String {
    let mut said = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        said.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    said
}

#[cfg(test)]
mod tests;
