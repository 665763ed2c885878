//! Which events an endpoint wants, and what it does to recipients: checked when somebody says so, then asked per event.

use std::collections::{BTreeMap, HashSet};

use sendlake_control::endpoint::{EndpointSettings, EventFilter};
use sendlake_ingest::event::{Event, EventType};
use url::{Host, Url};

use crate::mapping::Mask;

/// Longest address.
const URL_BYTES_MAX: usize = 2_048;
const DESCRIPTION_CHARS_MAX: usize = 200;
/// Most names in one list of a filter.
const NAMES_MAX: usize = 100;
const STREAMS: [&str; 3] = ["transactional", "marketing", "cold"];

/// Settings that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    #[error("{0:?} is no address: write https://host/path")]
    NotAUrl(String),
    #[error("the address must begin with https://: what is sent tells of people")]
    NotHttps,
    #[error("the address must not hold a user or a password: receivers know us by the signature")]
    Credentials,
    #[error("the address must not have a fragment")]
    Fragment,
    #[error("the address has more than {URL_BYTES_MAX} octets")]
    LongUrl,
    #[error("{0} is an address of an internal network, or of none")]
    Internal(String),
    #[error("{name:?} is no event type; there are {}", known_types())]
    NoSuchType { name: String },
    #[error("{name:?} is no stream; there are transactional, marketing and cold")]
    NoSuchStream { name: String },
    #[error("{name:?} is no way to mask a recipient; there are hash, domain and null")]
    NoSuchMask { name: String },
    #[error("{what} has more than {NAMES_MAX} names")]
    TooMany { what: &'static str },
    #[error("the description must be one line of at most {DESCRIPTION_CHARS_MAX} characters")]
    Description,
}

fn known_types() -> String {
    EventType::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ")
}

/// Whether an endpoint can be made, or changed, like this. `allows` says of an address whether it may be asked; what a name
/// leads to is looked at with each connection.
pub fn check(
    settings: &EndpointSettings,
    allow_http: bool,
    allows: impl Fn(std::net::IpAddr) -> bool,
) -> Result<(), BadSettings> {
    check_url(&settings.url, allow_http, allows)?;
    let description = settings.description.as_deref().unwrap_or_default();
    if description.chars().count() > DESCRIPTION_CHARS_MAX || description.chars().any(char::is_control) {
        return Err(BadSettings::Description);
    }
    check_types(&settings.filter.event_types)?;
    if let Some(name) = settings.filter.streams.iter().find(|name| !STREAMS.contains(&name.as_str())) {
        return Err(BadSettings::NoSuchStream { name: name.clone() });
    }
    for (what, names) in [
        ("streams", settings.filter.streams.len()),
        ("campaign_ids", settings.filter.campaign_ids.len()),
        ("tags", settings.filter.tags.len()),
    ] {
        if names > NAMES_MAX {
            return Err(BadSettings::TooMany { what });
        }
    }
    mask(settings).map(drop)
}

fn check_url(
    text: &str,
    allow_http: bool,
    allows: impl Fn(std::net::IpAddr) -> bool,
) -> Result<(), BadSettings> {
    if text.len() > URL_BYTES_MAX {
        return Err(BadSettings::LongUrl);
    }
    let not_a_url = || BadSettings::NotAUrl(text.chars().take(100).collect());
    let url = Url::parse(text).map_err(|_| not_a_url())?;
    match url.scheme() {
        "https" => {}
        "http" if allow_http => {}
        "http" => return Err(BadSettings::NotHttps),
        _ => return Err(not_a_url()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadSettings::Credentials);
    }
    if url.fragment().is_some() {
        return Err(BadSettings::Fragment);
    }
    let ip: Option<std::net::IpAddr> = match url.host() {
        Some(Host::Ipv4(ip)) => Some(ip.into()),
        Some(Host::Ipv6(ip)) => Some(ip.into()),
        Some(Host::Domain(_)) => None,
        None => return Err(not_a_url()),
    };
    match ip {
        Some(ip) if !allows(ip) => Err(BadSettings::Internal(ip.to_string())),
        _ => Ok(()),
    }
}

/// Whether these are event types; an empty list is all of them.
pub fn check_types(names: &[String]) -> Result<(), BadSettings> {
    if names.len() > NAMES_MAX {
        return Err(BadSettings::TooMany { what: "event_types" });
    }
    match names.iter().find(|name| EventType::ALL.iter().all(|kind| kind.as_str() != name.as_str())) {
        Some(name) => Err(BadSettings::NoSuchType { name: name.clone() }),
        None => Ok(()),
    }
}

/// What is done to recipients.
pub fn mask(settings: &EndpointSettings) -> Result<Option<Mask>, BadSettings> {
    match settings.mask.as_deref() {
        None => Ok(None),
        Some("hash") => Ok(Some(Mask::Hash)),
        Some("domain") => Ok(Some(Mask::Domain)),
        Some("null") => Ok(Some(Mask::Null)),
        Some(other) => Err(BadSettings::NoSuchMask { name: other.to_owned() }),
    }
}

/// A filter made ready.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    event_types: HashSet<&'static str>,
    streams: HashSet<String>,
    campaign_ids: HashSet<String>,
    tags: BTreeMap<String, String>,
}

impl From<&EventFilter> for Wanted {
    fn from(filter: &EventFilter) -> Self {
        let known = |kind: &&EventType| filter.event_types.iter().any(|name| name == kind.as_str());
        Self {
            event_types: EventType::ALL.iter().filter(known).map(|kind| kind.as_str()).collect(),
            streams: filter.streams.iter().cloned().collect(),
            campaign_ids: filter.campaign_ids.iter().cloned().collect(),
            tags: filter.tags.clone(),
        }
    }
}

impl Wanted {
    /// Whether an event of the endpoint's own tenant is wanted.
    pub fn takes(&self, event: &Event) -> bool {
        let among = |names: &HashSet<String>, value: &Option<String>| {
            names.is_empty() || value.as_ref().is_some_and(|value| names.contains(value))
        };
        (self.event_types.is_empty() || self.event_types.contains(event.event_type.as_str()))
            && among(&self.streams, &event.stream)
            && among(&self.campaign_ids, &event.campaign_id)
            && self.tags.iter().all(|(name, value)| event.tags.get(name) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use sendlake_control::clock::Timestamp;
    use sendlake_control::id::TenantId;
    use uuid::Uuid;

    use super::*;

    fn checked(url: &str) -> Result<(), BadSettings> {
        let settings = EndpointSettings { url: url.into(), ..EndpointSettings::default() };
        check(&settings, false, |ip| !ip.is_loopback())
    }

    #[test]
    fn only_addresses_that_can_be_asked_safely_are_taken() {
        checked("https://hooks.example.com/in?x=1").unwrap();
        checked("https://203.0.113.9:8443/").unwrap();
        assert_eq!(checked("http://hooks.example.com/"), Err(BadSettings::NotHttps));
        assert_eq!(checked("https://u:p@hooks.example.com/"), Err(BadSettings::Credentials));
        assert_eq!(checked("https://hooks.example.com/#x"), Err(BadSettings::Fragment));
        for bad in ["hooks.example.com", "ftp://x.example/", "file:///etc/passwd", "https://", ""] {
            assert!(matches!(checked(bad), Err(BadSettings::NotAUrl(_))), "{bad}");
        }
        // however the number is written
        for inside in ["https://127.0.0.1/", "https://2130706433/", "https://0x7f.1/", "https://[::1]/"] {
            assert!(matches!(checked(inside), Err(BadSettings::Internal(_))), "{inside}");
        }
        assert_eq!(checked(&format!("https://x.example/{}", "a".repeat(3_000))), Err(BadSettings::LongUrl));
    }

    #[test]
    fn unknown_names_are_refused_with_the_list() {
        let settings = |change: fn(&mut EndpointSettings)| {
            let mut settings =
                EndpointSettings { url: "https://x.example/".into(), ..EndpointSettings::default() };
            change(&mut settings);
            check(&settings, false, |_| true).unwrap_err().to_string()
        };
        let said = settings(|settings| settings.filter.event_types = vec!["bounce".into()]);
        assert!(said.contains("bounced_async") && said.contains("\"bounce\""), "{said}");
        assert!(settings(|settings| settings.filter.streams = vec!["bulk".into()]).contains("marketing"));
        assert!(settings(|settings| settings.mask = Some("sha256".into())).contains("domain"));
        settings(|settings| settings.description = Some("a\nb".into()));
    }

    #[test]
    fn every_list_that_is_given_must_hold() {
        let mut event =
            Event::new(Uuid::nil(), EventType::Bounced, Timestamp(0), TenantId::new("acme").unwrap());
        event.stream = Some("marketing".into());
        event.tags.insert("plan".into(), "pro".into());
        let takes = |filter: EventFilter| Wanted::from(&filter).takes(&event);
        assert!(takes(EventFilter::default()));
        let bounced =
            EventFilter { event_types: vec!["bounced".into(), "opened".into()], ..EventFilter::default() };
        assert!(takes(bounced.clone()));
        assert!(!takes(EventFilter { streams: vec!["cold".into()], ..bounced.clone() }));
        assert!(takes(EventFilter { streams: vec!["marketing".into()], ..bounced.clone() }));
        assert!(!takes(EventFilter { campaign_ids: vec!["spring".into()], ..bounced.clone() }));
        assert!(takes(EventFilter { tags: [("plan".into(), "pro".into())].into(), ..bounced.clone() }));
        assert!(!takes(EventFilter { tags: [("plan".into(), "free".into())].into(), ..bounced }));
    }
}
