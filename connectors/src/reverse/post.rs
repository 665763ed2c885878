//! One request over HTTPS: to an address that was looked at, without redirects, within bounds of time and size.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, redirect};
use sendlake_control::clock::Timestamp;
use serde::Deserialize;
use url::{Host, Url};
use zeroize::Zeroizing;

use super::settings::{Oauth, ReverseSettings};
use super::shape::{Reply, Request, address};
use crate::guard::Guard;
use crate::secret::SecretSource;
use crate::target::TargetError;

const CONNECT_MAX: Duration = Duration::from_secs(10);
const ANSWER_MAX: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// Longer pauses that a server asks for are not believed.
const RETRY_AFTER_S_MAX: u64 = 86_400;

/// Posts for one run: credentials are read and addresses looked at when it is opened.
pub struct Poster {
    client: Client,
    headers: HeaderMap,
    /// What no message may quote.
    secrets: Vec<Zeroizing<String>>,
}

impl Poster {
    pub async fn open(
        settings: &ReverseSettings,
        guard: &dyn Guard,
        secrets: &dyn SecretSource,
    ) -> Result<Self, TargetError> {
        // Columns come after the host.
        let to = url(&address(settings).replace(['{', '}'], ""))?;
        let mut builder = Client::builder()
            .https_only(!settings.allow_private_addresses)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("sendlake/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_MAX)
            .timeout(ANSWER_MAX);
        let token = settings.oauth.as_ref().map(|oauth| url(&oauth.token_url)).transpose()?;
        // The addresses that were looked at are those that are asked: no second look-up gives others.
        for url in std::iter::once(&to).chain(&token) {
            if let Some((name, addresses)) = reachable(url, guard).await? {
                builder = builder.resolve_to_addrs(&name, &addresses);
            }
        }
        let client = builder.build().map_err(|error| TargetError::Local(told(&error)))?;
        let mut poster = Self { client, headers: HeaderMap::new(), secrets: Vec::new() };
        for (name, value) in &settings.headers {
            poster.header(name, value, false)?;
        }
        for (name, secret) in &settings.secret_headers {
            let value =
                secret.resolve(secrets).await.map_err(|error| TargetError::Credentials(error.to_string()))?;
            poster.secrets.push(value.clone());
            let is_bare_token = name.eq_ignore_ascii_case("authorization") && !value.contains(' ');
            let value =
                Zeroizing::new(if is_bare_token { format!("Bearer {}", *value) } else { value.to_string() });
            poster.header(name, &value, true)?;
        }
        if let (Some(oauth), Some(token)) = (&settings.oauth, token) {
            poster.sign_in(oauth, token, secrets).await?;
        }
        Ok(poster)
    }

    /// Posts, and returns what came back, whatever the status.
    pub async fn post(&self, request: &Request, now: Timestamp) -> Result<Reply, TargetError> {
        let to = url(&request.url)?;
        let sent =
            self.client.request(request.method.clone(), to).headers(self.headers.clone()).json(&request.body);
        self.reply(sent, now).await
    }

    /// A text without the credentials that a server may have put into it.
    pub fn redact(&self, said: &str) -> String {
        let shown = |said: String, secret: &Zeroizing<String>| {
            let bare = secret.rsplit(' ').next().unwrap_or_default();
            if bare.is_empty() { said } else { said.replace(bare, "…") }
        };
        self.secrets.iter().fold(said.to_owned(), shown)
    }

    async fn reply(&self, request: reqwest::RequestBuilder, now: Timestamp) -> Result<Reply, TargetError> {
        let away = |error: reqwest::Error| TargetError::Away(self.redact(&told(&error)));
        let mut response = request.send().await.map_err(away)?;
        let retry_after_s = response.headers().get(RETRY_AFTER).and_then(|value| pause_s(value, now));
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(away)? {
            if body.len() + part.len() > ANSWER_BYTES_MAX {
                return Err(TargetError::Away(format!("its answer has more than {ANSWER_BYTES_MAX} bytes")));
            }
            body.extend_from_slice(&part);
        }
        Ok(Reply { status: response.status().as_u16(), retry_after_s, body })
    }

    fn header(&mut self, name: &str, value: &str, is_secret: bool) -> Result<(), TargetError> {
        let refused =
            || TargetError::Credentials(format!("the value of the header {name} cannot stand in a header"));
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| refused())?;
        let mut value = HeaderValue::from_str(value).map_err(|_| refused())?;
        value.set_sensitive(is_secret);
        self.headers.insert(parsed, value);
        Ok(())
    }

    async fn sign_in(
        &mut self,
        oauth: &Oauth,
        to: Url,
        secrets: &dyn SecretSource,
    ) -> Result<(), TargetError> {
        #[derive(Deserialize)]
        struct Token {
            access_token: String,
        }
        let refused = |error: crate::secret::SecretError| TargetError::Credentials(error.to_string());
        let id = oauth.client_id.resolve(secrets).await.map_err(refused)?;
        let secret = oauth.client_secret.resolve(secrets).await.map_err(refused)?;
        self.secrets.push(secret.clone());
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", id.as_str()),
            ("client_secret", secret.as_str()),
        ];
        if !oauth.scope.is_empty() {
            form.push(("scope", oauth.scope.as_str()));
        }
        let host = to.host_str().unwrap_or_default().to_owned();
        let form =
            Zeroizing::new(url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish());
        let request = self
            .client
            .post(to)
            .header(reqwest::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(form.to_string());
        let reply = self.reply(request, Timestamp(0)).await?;
        let said = format!("{host} answers {} when asked for a token", reply.status);
        match (reply.status, serde_json::from_slice::<Token>(&reply.body)) {
            (200, Ok(token)) => {
                let token = Zeroizing::new(token.access_token);
                let value = Zeroizing::new(format!("Bearer {}", *token));
                self.secrets.push(token);
                self.header("authorization", &value, true)
            }
            (429 | 500.., _) => Err(TargetError::Away(said)),
            _ => Err(TargetError::Credentials(format!(
                "{said}; see `client_id`, `client_secret` and what the application may do"
            ))),
        }
    }
}

fn url(text: &str) -> Result<Url, TargetError> {
    Url::parse(text).map_err(|error| TargetError::Refused(format!("{text:?} is no address: {error}")))
}

/// The addresses of a URL's host that may be asked; none for a host that is an address itself, and may be.
async fn reachable(url: &Url, guard: &dyn Guard) -> Result<Option<(String, Vec<SocketAddr>)>, TargetError> {
    let check = |ip: IpAddr| match guard.allows(ip) {
        true => Ok(None),
        false => Err(TargetError::Refused(format!("{ip} is no public address, and only such are asked"))),
    };
    match url.host() {
        Some(Host::Ipv4(ip)) => check(ip.into()),
        Some(Host::Ipv6(ip)) => check(ip.into()),
        Some(Host::Domain(name)) => {
            let found = guard.addresses(name).await.map_err(TargetError::Away)?;
            Ok(Some((name.to_owned(), found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect())))
        }
        None => Err(TargetError::Refused(format!("{url} names no host"))),
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn pause_s(value: &HeaderValue, now: Timestamp) -> Option<u64> {
    let text = value.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let at = chrono::DateTime::parse_from_rfc2822(text).ok()?;
            u64::try_from(at.timestamp() - now.as_secs()).unwrap_or(0)
        }
    };
    Some(pause.clamp(1, RETRY_AFTER_S_MAX))
}

/// An error with its causes, and without its URL: that may have a row's values in it.
fn told(error: &reqwest::Error) -> String {
    let mut said = match (error.is_timeout(), error.is_connect()) {
        (_, true) => "no connection".to_owned(),
        (true, _) => "no answer in time".to_owned(),
        _ => "the request did not get through".to_owned(),
    };
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        said.push_str(&format!(": {inner}"));
        cause = inner.source();
    }
    said
}
