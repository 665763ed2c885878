//! Which domains do not go to their MX: static routes, for smart hosts and for tests.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Whether a session is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsPolicy {
    /// Encrypt when the server offers it, whoever it proves to be; else send in clear (RFC 7435).
    #[default]
    Opportunistic,
    /// Encrypt, to a server whose certificate is valid for the host's name; else do not send.
    Required,
    /// Never encrypt.
    None,
}

/// A host and a port, written `mx.example.com:25`, `192.0.2.1:25` or `[2001:db8::1]:25`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

/// One static route, as it stands in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticRoute {
    /// Names the site: all domains of one route share its connections.
    pub name: String,
    /// `example.test` (that domain), `*.example.test` (those below it) or `*` (all).
    pub domain: String,
    /// Tried in this order.
    pub hosts: Vec<HostPort>,
    #[serde(default)]
    pub tls: TlsPolicy,
    /// The `provider` of its events; the route's name when absent.
    #[serde(default)]
    pub provider: Option<String>,
}

/// Why the routes of a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    #[error("route {route:?}: {pattern:?} is not a domain pattern: use example.com, *.example.com or *")]
    Pattern { route: String, pattern: String },
    #[error("route {route:?} has no hosts: give at least one, like \"smtp.example.com:587\"")]
    NoHosts { route: String },
    #[error("routes {first:?} and {second:?} both claim {pattern:?}: keep one of them")]
    Twice { first: String, second: String, pattern: String },
    #[error("a route has no name, or one with characters other than a-z, 0-9, '-', '_' and '.': {0:?}")]
    Name(String),
}

/// The text is not a host with its port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not host:port: write mx.example.com:25, 192.0.2.1:25 or [2001:db8::1]:25")]
pub struct InvalidHostPort(pub String);

/// The static routes, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    routes: Vec<StaticRoute>,
    /// By pattern as written, lower case.
    by_pattern: HashMap<String, usize>,
}

impl RouteTable {
    /// Checks all routes; the first fault found is returned.
    pub fn new(routes: Vec<StaticRoute>) -> Result<Self, RouteError> {
        let mut by_pattern: HashMap<String, usize> = HashMap::new();
        for (index, route) in routes.iter().enumerate() {
            let named = !route.name.is_empty()
                && route
                    .name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
            if !named {
                return Err(RouteError::Name(route.name.clone()));
            }
            if route.hosts.is_empty() {
                return Err(RouteError::NoHosts { route: route.name.clone() });
            }
            let pattern = normal_pattern(&route.domain).ok_or_else(|| RouteError::Pattern {
                route: route.name.clone(),
                pattern: route.domain.clone(),
            })?;
            if let Some(first) = by_pattern.insert(pattern.clone(), index) {
                let first = routes.get(first).map(|r| r.name.clone()).unwrap_or_default();
                return Err(RouteError::Twice { first, second: route.name.clone(), pattern });
            }
        }
        Ok(Self { routes, by_pattern })
    }

    /// The route of a domain (ASCII, lower case), or `None` when it goes to its MX. The closest pattern wins:
    /// the domain itself, then the longest `*.` above it, then `*`.
    pub fn find(&self, domain: &str) -> Option<&StaticRoute> {
        if self.by_pattern.is_empty() {
            return None;
        }
        let above = std::iter::successors(parent(domain), |at| parent(at)).map(|at| format!("*.{at}"));
        std::iter::once(domain.to_owned())
            .chain(above)
            .chain(std::iter::once("*".to_owned()))
            .find_map(|pattern| self.by_pattern.get(&pattern))
            .and_then(|&index| self.routes.get(index))
    }
}

fn parent(domain: &str) -> Option<&str> {
    domain.split_once('.').map(|(_, rest)| rest)
}

fn normal_pattern(pattern: &str) -> Option<String> {
    if pattern == "*" {
        return Some(pattern.to_owned());
    }
    let (prefix, domain) = match pattern.strip_prefix("*.") {
        Some(domain) => ("*.", domain),
        None => ("", pattern),
    };
    // A single label is fine here (`*.test`), though not in an address.
    let ascii = idna::domain_to_ascii_strict(domain).ok().filter(|ascii| !ascii.is_empty())?;
    Some(format!("{prefix}{ascii}"))
}

impl FromStr for HostPort {
    type Err = InvalidHostPort;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidHostPort(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(invalid)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or_else(invalid)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(literal) => literal.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?.to_string(),
            None => idna::domain_to_ascii_strict(host)
                .ok()
                .filter(|host| !host.is_empty() && !host.contains(':'))
                .ok_or_else(invalid)?,
        };
        Ok(Self { host, port })
    }
}

impl TryFrom<String> for HostPort {
    type Error = InvalidHostPort;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<HostPort> for String {
    fn from(host: HostPort) -> Self {
        host.to_string()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str, domain: &str) -> StaticRoute {
        StaticRoute {
            name: name.into(),
            domain: domain.into(),
            hosts: vec!["127.0.0.1:2525".parse().unwrap()],
            tls: TlsPolicy::None,
            provider: None,
        }
    }

    #[test]
    fn closest_pattern_wins() {
        let table = RouteTable::new(vec![
            route("rest", "*"),
            route("below", "*.example.test"),
            route("deep", "*.mail.example.test"),
            route("exact", "Example.test"),
        ])
        .unwrap();
        for (domain, name) in [
            ("example.test", "exact"),
            ("a.example.test", "below"),
            ("a.mail.example.test", "deep"),
            ("mail.example.test", "below"),
            ("example.com", "rest"),
        ] {
            assert_eq!(table.find(domain).unwrap().name, name, "{domain}");
        }
    }

    #[test]
    fn other_domains_go_to_their_mx() {
        let table = RouteTable::new(vec![route("below", "*.example.test")]).unwrap();
        assert!(table.find("example.test").is_none());
        assert!(table.find("notexample.test").is_none());
    }

    #[test]
    fn faults_name_their_route() {
        let bad = |routes| RouteTable::new(routes).unwrap_err().to_string();
        assert!(bad(vec![route("a", "a..b")]).contains("\"a\""));
        assert!(bad(vec![route("a", "*.x.test"), route("b", "*.X.test")]).contains("\"b\""));
        let mut empty = route("none", "*");
        empty.hosts.clear();
        assert!(bad(vec![empty]).contains("no hosts"));
    }

    #[test]
    fn hosts_with_ports() {
        for text in ["mx.example.com:25", "192.0.2.1:2525", "[2001:db8::1]:25", "localhost:1025"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        for text in ["mx.example.com", "mx:0", "mx:99999", ":25", "2001:db8::1:25", "a b:25", "[x]:25"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn unknown_keys_of_a_route_are_refused() {
        let json = r#"{"name":"a","domain":"*","hosts":["h:25"],"tsl":"none"}"#;
        assert!(serde_json::from_str::<StaticRoute>(json).unwrap_err().to_string().contains("tsl"));
    }
}
