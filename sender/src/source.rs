//! Where mail leaves from: named sources (an address to bind, a name to say in EHLO) in pools, and the pool of
//! each stream.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};

use crate::stream::Stream;

/// One way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub name: String,
    /// The local address to send from; the system chooses when absent.
    #[serde(default)]
    pub bind: Option<IpAddr>,
    /// The name given in EHLO. Should resolve to `bind`, and `bind` back to it.
    pub ehlo: String,
}

/// Sources that share one kind of mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    pub name: String,
    /// Names of sources, used in turn.
    pub sources: Vec<String>,
}

/// Why the sources and pools of a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    #[error("source {source_name:?}: {ehlo:?} is not a host name that EHLO could give")]
    Ehlo { source_name: String, ehlo: String },
    #[error("there are two sources, or two pools, named {0:?}")]
    Twice(String),
    #[error("pool {pool:?} names the source {source_name:?}, which is not defined")]
    UnknownSource { pool: String, source_name: String },
    #[error("pool {0:?} has no sources")]
    EmptyPool(String),
    #[error("stream {stream} uses the pool {pool:?}, which is not defined")]
    UnknownPool { stream: Stream, pool: String },
    #[error("stream {0} has no pool")]
    NoPool(Stream),
    #[error("streams {first} and {second} share the pool {pool:?}: each stream needs its own")]
    SharedPool { first: Stream, second: Stream, pool: String },
}

#[derive(Debug)]
struct Lane {
    pool: String,
    sources: Vec<Arc<Source>>,
    turn: AtomicUsize,
}

/// The pool of each stream, ready to be picked from.
#[derive(Debug)]
pub struct Sources {
    lanes: BTreeMap<Stream, Lane>,
}

impl Sources {
    /// Checks names and references. Two streams may not share a pool: their reputations would mix.
    pub fn new(
        sources: Vec<Source>,
        pools: Vec<Pool>,
        streams: &BTreeMap<Stream, String>,
    ) -> Result<Self, SourceError> {
        let mut by_name: HashMap<String, Arc<Source>> = HashMap::new();
        for source in sources {
            if !is_ehlo_name(&source.ehlo) {
                return Err(SourceError::Ehlo { source_name: source.name, ehlo: source.ehlo });
            }
            let name = source.name.clone();
            if by_name.insert(name.clone(), Arc::new(source)).is_some() {
                return Err(SourceError::Twice(name));
            }
        }
        let mut members: HashMap<String, Vec<Arc<Source>>> = HashMap::new();
        for Pool { name: pool, sources: names } in pools {
            if names.is_empty() {
                return Err(SourceError::EmptyPool(pool));
            }
            let found: Result<Vec<_>, _> = names
                .into_iter()
                .map(|name| match by_name.get(&name) {
                    Some(source) => Ok(source.clone()),
                    None => Err(SourceError::UnknownSource { pool: pool.clone(), source_name: name }),
                })
                .collect();
            if members.insert(pool.clone(), found?).is_some() {
                return Err(SourceError::Twice(pool));
            }
        }
        let mut lanes: BTreeMap<Stream, Lane> = BTreeMap::new();
        for stream in Stream::ALL {
            let pool = streams.get(&stream).ok_or(SourceError::NoPool(stream))?;
            if let Some((&first, _)) = lanes.iter().find(|(_, lane)| lane.pool == *pool) {
                return Err(SourceError::SharedPool { first, second: stream, pool: pool.clone() });
            }
            let sources = members
                .get(pool)
                .ok_or_else(|| SourceError::UnknownPool { stream, pool: pool.clone() })?
                .clone();
            lanes.insert(stream, Lane { pool: pool.clone(), sources, turn: AtomicUsize::new(0) });
        }
        Ok(Self { lanes })
    }

    /// The stream's next source, in turn, and the name of its pool.
    pub fn pick(&self, stream: Stream) -> Option<(Arc<Source>, &str)> {
        let lane = self.lanes.get(&stream)?;
        let turn = lane.turn.fetch_add(1, Ordering::Relaxed);
        let source = lane.sources.get(turn.checked_rem(lane.sources.len())?)?;
        Some((source.clone(), &lane.pool))
    }

    /// The name of the stream's pool.
    pub fn pool(&self, stream: Stream) -> Option<&str> {
        self.lanes.get(&stream).map(|lane| lane.pool.as_str())
    }

    /// Every name that these sources go by, for the guard against mail loops.
    pub fn ehlo_names(&self) -> impl Iterator<Item = &str> {
        self.lanes.values().flat_map(|lane| lane.sources.iter().map(|source| source.ehlo.as_str()))
    }
}

/// A domain, or an address literal like `[192.0.2.1]` (RFC 5321, section 4.1.3).
fn is_ehlo_name(name: &str) -> bool {
    let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    match literal {
        Some(literal) => literal.strip_prefix("IPv6:").unwrap_or(literal).parse::<IpAddr>().is_ok(),
        None => {
            let label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            };
            name.len() <= 255 && name.split('.').all(label)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> Source {
        Source { name: name.into(), bind: None, ehlo: format!("{name}.example.test") }
    }

    fn pool(name: &str, sources: &[&str]) -> Pool {
        Pool { name: name.into(), sources: sources.iter().map(|&s| s.into()).collect() }
    }

    fn streams(transactional: &str, marketing: &str, cold: &str) -> BTreeMap<Stream, String> {
        Stream::ALL.into_iter().zip([transactional, marketing, cold].map(String::from)).collect()
    }

    #[test]
    fn sources_of_a_pool_take_turns() {
        let sources = Sources::new(
            vec![source("a"), source("b"), source("c")],
            vec![pool("t", &["a", "b"]), pool("m", &["c"]), pool("c", &["c"])],
            &streams("t", "m", "c"),
        )
        .unwrap();
        let picked: Vec<_> =
            (0..4).map(|_| sources.pick(Stream::Transactional).unwrap().0.name.clone()).collect();
        assert_eq!(picked, ["a", "b", "a", "b"]);
        assert_eq!(sources.pick(Stream::Marketing).unwrap().1, "m");
    }

    #[test]
    fn faults_say_what_is_wrong() {
        let bad = |sources: Vec<Source>, pools: Vec<Pool>, streams| {
            Sources::new(sources, pools, &streams).unwrap_err().to_string()
        };
        let one = || vec![source("a")];
        let three = || vec![pool("t", &["a"]), pool("m", &["a"]), pool("c", &["a"])];
        assert!(bad(one(), three(), streams("t", "t", "c")).contains("share the pool"));
        assert!(bad(one(), three(), streams("t", "m", "x")).contains("\"x\""));
        assert!(bad(one(), vec![pool("t", &["b"])], streams("t", "m", "c")).contains("\"b\""));
        assert!(bad(one(), vec![pool("t", &[])], streams("t", "m", "c")).contains("no sources"));
        assert!(bad(vec![source("a"), source("a")], three(), streams("t", "m", "c")).contains("two sources"));
        let mut injected = source("a");
        injected.ehlo = "a\r\nRSET".into();
        assert!(bad(vec![injected], three(), streams("t", "m", "c")).contains("EHLO"));
    }

    #[test]
    fn ehlo_names() {
        for good in ["mx.example.com", "localhost", "[192.0.2.1]", "[IPv6:2001:db8::1]"] {
            assert!(is_ehlo_name(good), "{good}");
        }
        for bad in ["", "a b", "a..b", "-a.example", "a_b.example", "[x]", "é.example"] {
            assert!(!is_ehlo_name(bad), "{bad}");
        }
    }
}
