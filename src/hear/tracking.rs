//! Opens and clicks: `GET /o/<token>/<facts>`, a picture of one pixel, and `GET /c/<token>/<facts>`, a redirect to the
//! address that is sealed in the link. Nothing is looked up and nothing is waited for; what is worth an event goes to
//! [`Visits`].
//!
//! There is no open redirect: a link that was not made here, or was changed, answers 404 with a page.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ipnet::IpNet;
use sendlake_sender::link::{Facts, Whom};
use sendlake_sender::token::{Purpose, TokenKeys};
use serde::Deserialize;
use uuid::Uuid;

use super::one_click;
use super::visits::{Visit, Visits};
use crate::identities::ControlIdentities;

/// A GIF of one transparent pixel.
const PIXEL: &[u8] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

/// Headers that say that a request was made ahead of a person's.
const PURPOSES: [&str; 3] = ["sec-purpose", "purpose", "x-moz"];
/// Addresses looked at in X-Forwarded-For, from its end.
const FORWARDED_MAX: usize = 16;

/// What the pages behind tracked links work with.
pub struct Tracking {
    pub tokens: TokenKeys,
    pub identities: Arc<ControlIdentities>,
    pub visits: Arc<Visits>,
    /// Host of `http.public_url`, which serves everybody's links whoever claims it.
    pub public_host: String,
    /// Whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// `/o/…` and `/c/…`. HEAD is answered like GET, without the body.
pub fn routes(tracking: Arc<Tracking>) -> Router {
    Router::new()
        .route("/o/{token}/{facts}", get(open))
        .route("/c/{token}/{facts}", get(click))
        .with_state(tracking)
}

/// What stands behind `/o/` and `/c/`.
#[derive(Deserialize)]
struct Link {
    token: String,
    facts: String,
}

async fn open(State(tracking): State<Arc<Tracking>>, Path(link): Path<Link>, request: Request) -> Response {
    let Some((message_id, facts @ Facts::Open(..))) = tracking.read(&link, request.headers()) else {
        return one_click::not_here(request.headers());
    };
    tracking.visits.take(tracking.visit(message_id, facts, &request));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("image/gif")),
        // so that a second look is a second request, where the mail program keeps no picture of its own
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-cache, max-age=0, private")),
        (header::ACCEPT_RANGES, HeaderValue::from_static("none")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("cross-origin")),
    ];
    (StatusCode::OK, headers, PIXEL).into_response()
}

async fn click(State(tracking): State<Arc<Tracking>>, Path(link): Path<Link>, request: Request) -> Response {
    let Some((message_id, facts)) = tracking.read(&link, request.headers()) else {
        return one_click::not_here(request.headers());
    };
    let Facts::Click(_, _, url) = &facts else { return one_click::not_here(request.headers()) };
    // sealed links lead to the web only; asked again here, since this is where it would do harm
    let is_web = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    let Some(location) = HeaderValue::from_str(url).ok().filter(|_| is_web) else {
        return one_click::not_here(request.headers());
    };
    tracking.visits.take(tracking.visit(message_id, facts, &request));
    let headers = [
        (header::LOCATION, location),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store, private")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("noindex, nofollow")),
    ];
    (StatusCode::FOUND, headers).into_response()
}

impl Tracking {
    /// What a link knows, if it was made here; and for the tenant whose tracking domain the request names, if it
    /// names one: no tenant's domain serves another tenant's links.
    fn read(&self, link: &Link, headers: &HeaderMap) -> Option<(Uuid, Facts)> {
        let (message_id, facts) =
            Facts::open(&self.tokens, Purpose::Tracking, &link.token, &link.facts).ok()?;
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(name, _)| name).to_ascii_lowercase();
        let owner = Some(&host).filter(|host| **host != self.public_host);
        let owner = owner.and_then(|host| self.identities.owner_of_tracking_domain(host));
        owner.is_none_or(|owner| owner == whom_of(&facts).tenant_id).then_some((message_id, facts))
    }

    fn visit(&self, message_id: Uuid, facts: Facts, request: &Request) -> Visit {
        let headers = request.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let purpose = PURPOSES.iter().map(|name| text(name)).filter(|value| !value.is_empty());
        Visit {
            message_id,
            facts,
            is_head: request.method() == Method::HEAD,
            user_agent: text("user-agent").to_owned(),
            purpose: purpose.collect::<Vec<_>>().join(" "),
            client: client(request, &self.trusted_proxies),
        }
    }
}

/// Who sent a request, as far as that can be believed.
pub(crate) fn client(request: &Request, trusted: &[IpNet]) -> Option<IpAddr> {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>()?.0.ip();
    let forwarded = request.headers().get_all("x-forwarded-for").iter();
    Some(client_of(peer, forwarded.filter_map(|value| value.to_str().ok()), trusted))
}

/// Who asks: the peer, or whom a trusted proxy names. Only what stands behind trusted addresses is believed, since
/// anybody can put more in front.
fn client_of<'a>(
    peer: IpAddr,
    forwarded: impl DoubleEndedIterator<Item = &'a str>,
    trusted: &[IpNet],
) -> IpAddr {
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    let peer = peer.to_canonical();
    if !is_trusted(&peer) {
        return peer;
    }
    let mut client = peer;
    let named = forwarded.rev().flat_map(|value| value.rsplit(','));
    for text in named.take(FORWARDED_MAX) {
        let Ok(ip) = text.trim().parse::<IpAddr>() else { break };
        client = ip.to_canonical();
        if !is_trusted(&client) {
            break;
        }
    }
    client
}

/// The network that is kept of an address: /24 for IPv4, /48 for IPv6. It says where, and not who.
pub(super) fn prefix_of(ip: IpAddr) -> Option<String> {
    let bits = if ip.is_ipv4() { 24 } else { 48 };
    IpNet::new(ip, bits).ok().map(|net| net.trunc().to_string())
}

/// Whose mail a link stood in.
pub(super) fn whom_of(facts: &Facts) -> &Whom {
    let (Facts::Unsubscribe(whom) | Facts::Open(whom, _) | Facts::Click(whom, ..)) = facts;
    whom
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_may_name_the_client() {
        let trusted: Vec<IpNet> = ["127.0.0.0/8", "10.0.0.0/8"].map(|net| net.parse().unwrap()).to_vec();
        for (peer, forwarded, client) in [
            ("203.0.113.9", vec!["198.51.100.1"], "203.0.113.9"),
            ("127.0.0.1", vec![], "127.0.0.1"),
            ("127.0.0.1", vec!["198.51.100.1"], "198.51.100.1"),
            ("127.0.0.1", vec!["192.0.2.66, 198.51.100.1, 10.0.0.7"], "198.51.100.1"),
            ("127.0.0.1", vec!["192.0.2.66", "198.51.100.1"], "198.51.100.1"),
            ("::ffff:127.0.0.1", vec!["2001:db8::1"], "2001:db8::1"),
            ("127.0.0.1", vec!["unknown"], "127.0.0.1"),
            ("127.0.0.1", vec!["198.51.100.1, garbage"], "127.0.0.1"),
        ] {
            let found = client_of(peer.parse().unwrap(), forwarded.iter().copied(), &trusted);
            assert_eq!(found, client.parse::<IpAddr>().unwrap(), "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn of_an_address_only_its_network_is_kept() {
        let prefix = |ip: &str| prefix_of(ip.parse().unwrap()).unwrap();
        assert_eq!(prefix("203.0.113.77"), "203.0.113.0/24");
        assert_eq!(prefix("2001:db8:1:2:3::4"), "2001:db8:1::/48");
    }

    #[test]
    fn the_picture_is_a_gif_of_one_pixel() {
        assert_eq!(
            (&PIXEL[..6], &PIXEL[6..10], PIXEL.last()),
            (&b"GIF89a"[..], &[1, 0, 1, 0][..], Some(&b';'))
        );
    }
}
