//! Which hosts a domain's mail goes to (RFC 5321, section 5.1): static routes first, else MX records in order
//! of preference, else the domain's own address.

mod cache;
mod lookup;
mod reach;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use sendlake_control::clock::{Clock, Entropy, Timestamp};

use self::cache::Cache;
pub use self::lookup::{HickoryResolver, ResolverError};
pub use self::reach::is_public;
use crate::provider::provider_of;
use crate::reply::Reply;
use crate::route::{RouteTable, StaticRoute, TlsPolicy};
use crate::site::SiteName;

/// One MX record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxRecord {
    pub preference: u16,
    /// ASCII, lower case, no trailing dot; empty for the root, which means null MX (RFC 7505).
    pub exchange: String,
}

/// What DNS had to say, and for how many seconds it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    pub value: T,
    pub ttl_s: u32,
}

/// Why DNS had no records to give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupFailure {
    /// The name does not exist.
    NoSuchName,
    /// The name exists, without records of that type.
    NoRecords,
    /// SERVFAIL, a timeout, no server: ask again later.
    Temporary(String),
}

/// The two questions that delivery asks. Tests bring their own answers.
#[async_trait]
pub trait Resolver: Send + Sync {
    async fn mx(&self, domain: &str) -> Result<Answer<Vec<MxRecord>>, LookupFailure>;
    /// A and AAAA together. `Ok` has at least one.
    async fn addresses(&self, host: &str) -> Result<Answer<Vec<std::net::IpAddr>>, LookupFailure>;
}

/// One host to try, with its addresses in the order to try them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MxHost {
    pub name: String,
    pub addrs: Vec<SocketAddr>,
}

/// Where a domain's mail goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    pub site: SiteName,
    pub provider: String,
    /// In the order to try. Never empty, and none without addresses.
    pub hosts: Vec<MxHost>,
    pub tls: TlsPolicy,
}

/// There is nowhere to send to. `reply` is what goes into the event; its class says whether to retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{domain}: {reply}")]
pub struct Unroutable {
    pub domain: String,
    pub reply: Reply,
}

/// Settings of [`Router`].
#[derive(Clone, Debug)]
pub struct RouterSettings {
    /// Deliver to loopback, private and other unroutable addresses that MX records name. Off: such records
    /// would let anyone who owns a domain make this host talk to its own network.
    pub allow_private: bool,
    /// Names that this installation goes by: EHLO names, inbound hosts. Guards against loops.
    pub own_names: HashSet<String>,
    /// Port of MX hosts: 25, except in tests.
    pub port: u16,
    /// Most MX hosts tried, the best first.
    pub hosts_max: usize,
    /// Most domains remembered.
    pub cache_domains_max: usize,
}

impl Default for RouterSettings {
    fn default() -> Self {
        Self {
            allow_private: false,
            own_names: HashSet::new(),
            port: 25,
            hosts_max: 8,
            cache_domains_max: 100_000,
        }
    }
}

/// A host with its preference: what is remembered, so that equals are shuffled anew for each asker.
#[derive(Clone, Debug)]
struct Ranked {
    preference: u16,
    host: MxHost,
}

#[derive(Clone, Debug)]
struct Resolved {
    site: SiteName,
    provider: String,
    tls: TlsPolicy,
    hosts: Vec<Ranked>,
}

/// Finds the destination of domains, and remembers it for as long as DNS allows.
pub struct Router {
    routes: RouteTable,
    resolver: Arc<dyn Resolver>,
    settings: RouterSettings,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    cache: Cache<Result<Arc<Resolved>, Unroutable>>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Router").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Bounds on how long an answer is remembered, whatever its TTL.
const TTL_MIN_S: u32 = 60;
const TTL_MAX_S: u32 = 3600;
const PERMANENT_TTL_S: u32 = 300;
const TEMPORARY_TTL_S: u32 = 30;

impl Router {
    pub fn new(
        routes: RouteTable,
        resolver: Arc<dyn Resolver>,
        settings: RouterSettings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let cache = Cache::new(settings.cache_domains_max);
        let own_names = settings.own_names.iter().map(|name| normal(name)).collect();
        Self { routes, resolver, settings: RouterSettings { own_names, ..settings }, clock, entropy, cache }
    }

    /// Where mail for `domain` (ASCII, lower case) goes now.
    pub async fn resolve(&self, domain: &str) -> Result<Destination, Unroutable> {
        let now = self.clock.now();
        // Routes are few and their domains many: remembered by route, not by domain.
        let route = self.routes.find(domain);
        let key =
            route.map_or_else(|| domain.to_owned(), |route| SiteName::of_route(&route.name).to_string());
        let known = self.cache.get(&key, now);
        let resolved = match known {
            Some(resolved) => resolved,
            None => {
                let (resolved, ttl_s) = match route {
                    Some(route) => self.by_route(domain, route).await,
                    None => self.by_mx(domain).await,
                };
                self.cache.put(key, resolved.clone(), now, until(now, ttl_s));
                resolved
            }
        };
        resolved
            .map(|resolved| self.destination(&resolved))
            .map_err(|unroutable| Unroutable { domain: domain.to_owned(), ..unroutable })
    }

    fn destination(&self, resolved: &Resolved) -> Destination {
        // Sorting by preference with a random second key shuffles equals (section 5.1), each time anew.
        // A route's preferences all differ, so that its order stays.
        let mut hosts: Vec<_> =
            resolved.hosts.iter().map(|r| ((r.preference, self.entropy.u64()), &r.host)).collect();
        hosts.sort_by_key(|(key, _)| *key);
        Destination {
            site: resolved.site.clone(),
            provider: resolved.provider.clone(),
            hosts: hosts.into_iter().map(|(_, host)| host.clone()).collect(),
            tls: resolved.tls,
        }
    }

    async fn by_route(&self, domain: &str, route: &StaticRoute) -> (Result<Arc<Resolved>, Unroutable>, u32) {
        let hosts = (0..).zip(&route.hosts).map(|(rank, relay)| (rank, relay.host.as_str(), relay.port));
        let mut found = Found::default();
        // An operator wrote these hosts down: private addresses are meant.
        self.find_addresses(&mut found, hosts, true).await;
        let resolved = match found.into_hosts(domain) {
            Ok(hosts) => Ok(Arc::new(Resolved {
                site: SiteName::of_route(&route.name),
                provider: route.provider.clone().unwrap_or_else(|| route.name.clone()),
                tls: route.tls,
                hosts,
            })),
            // A mistake in the configuration, or in its hosts' DNS, must not bounce anyone's mail.
            Err(_) => {
                let text = format!("None of the hosts of the route {:?} has an address", route.name);
                Err(Unroutable { domain: domain.to_owned(), reply: Reply::local(451, (4, 4, 4), text) })
            }
        };
        let ttl_s = ttl_of(&resolved, TTL_MIN_S);
        (resolved, ttl_s)
    }

    async fn by_mx(&self, domain: &str) -> (Result<Arc<Resolved>, Unroutable>, u32) {
        let fail = |reply: Reply| Err(Unroutable { domain: domain.to_owned(), reply });
        let (records, ttl_s) = match self.resolver.mx(domain).await {
            Ok(answer) => match usable(domain, answer.value, &self.settings.own_names) {
                Ok(records) => (records, answer.ttl_s),
                Err(reply) => return (fail(reply), PERMANENT_TTL_S),
            },
            // The implicit MX: only when there is no MX record at all.
            Err(LookupFailure::NoRecords) => {
                (vec![MxRecord { preference: 0, exchange: domain.to_owned() }], TTL_MAX_S)
            }
            Err(LookupFailure::NoSuchName) => {
                let text = format!("The domain {domain} does not exist in DNS");
                return (fail(Reply::local(550, (5, 1, 2), text)), PERMANENT_TTL_S);
            }
            Err(LookupFailure::Temporary(why)) => {
                let text = format!("DNS gave no answer to the MX lookup of {domain}: {why}");
                return (fail(Reply::local(451, (4, 4, 3), text)), TEMPORARY_TTL_S);
            }
        };
        let implicit = matches!(records.as_slice(), [only] if only.exchange == domain);
        let site = SiteName::of_hosts(records.iter().map(|record| record.exchange.as_str()));
        let provider = provider_of(records.first().map_or(domain, |record| record.exchange.as_str()));
        let mut found = Found { ttl_s, implicit, ..Found::default() };
        let hosts = records.iter().take(self.settings.hosts_max);
        let hosts = hosts.map(|record| (record.preference, record.exchange.as_str(), self.settings.port));
        self.find_addresses(&mut found, hosts, self.settings.allow_private).await;
        let ttl_s = found.ttl_s;
        let resolved = found
            .into_hosts(domain)
            .map(|hosts| Arc::new(Resolved { site, provider, tls: TlsPolicy::Opportunistic, hosts }));
        let ttl_s = ttl_of(&resolved, ttl_s);
        (resolved, ttl_s)
    }

    /// Looks all hosts (preference, name, port) up at once.
    async fn find_addresses<'a>(
        &self,
        found: &mut Found,
        hosts: impl Iterator<Item = (u16, &'a str, u16)>,
        allow_private: bool,
    ) {
        let lookups = hosts.map(async |(preference, name, port)| {
            let answer = match name.parse() {
                Ok(literal) => Ok(Answer { value: vec![literal], ttl_s: TTL_MAX_S }),
                Err(_) => self.resolver.addresses(name).await,
            };
            (preference, name, port, answer)
        });
        for (preference, name, port, answer) in futures::future::join_all(lookups).await {
            match answer {
                Ok(Answer { value, ttl_s }) => {
                    found.ttl_s = found.ttl_s.min(ttl_s);
                    let usable = value.into_iter().filter(|ip| allow_private || is_public(*ip));
                    let addrs: Vec<_> = usable.map(|ip| SocketAddr::new(ip, port)).collect();
                    if addrs.is_empty() {
                        found.private.push(name.to_owned());
                    } else {
                        found
                            .hosts
                            .push(Ranked { preference, host: MxHost { name: name.to_owned(), addrs } });
                    }
                }
                Err(LookupFailure::Temporary(why)) => found.temporary = Some(format!("{name}: {why}")),
                Err(LookupFailure::NoSuchName | LookupFailure::NoRecords) => {}
            }
        }
    }
}

/// The records to try, in order, or the reply that ends the attempt. Pure.
fn usable(
    domain: &str,
    mut records: Vec<MxRecord>,
    own_names: &HashSet<String>,
) -> Result<Vec<MxRecord>, Reply> {
    for record in &mut records {
        record.exchange = normal(&record.exchange);
    }
    // RFC 7505 allows no other record beside a null MX; a domain that has others wants mail.
    let had_null = records.iter().any(|record| record.exchange.is_empty());
    records.retain(|record| !record.exchange.is_empty());
    if records.is_empty() && had_null {
        let text = format!("The domain {domain} does not accept mail (null MX)");
        return Err(Reply::local(556, (5, 1, 10), text));
    }
    records.sort_by(|a, b| (a.preference, &a.exchange).cmp(&(b.preference, &b.exchange)));
    let mut seen = HashSet::new();
    records.retain(|record| seen.insert(record.exchange.clone()));
    // Section 5.1: where we are a mail host of the domain ourselves, only better hosts are tried.
    if let Some(own) = records.iter().find(|record| own_names.contains(&record.exchange)) {
        let (preference, own) = (own.preference, own.exchange.clone());
        records.retain(|record| record.preference < preference);
        if records.is_empty() {
            let text = format!("Mail for {domain} loops back to {own}, which is this server");
            return Err(Reply::local(554, (5, 4, 6), text));
        }
    }
    Ok(records)
}

/// What address lookups brought.
struct Found {
    hosts: Vec<Ranked>,
    /// The domain has no MX: its own address was asked for.
    implicit: bool,
    /// Hosts whose addresses are all unroutable.
    private: Vec<String>,
    temporary: Option<String>,
    ttl_s: u32,
}

impl Default for Found {
    fn default() -> Self {
        Self { hosts: Vec::new(), implicit: false, private: Vec::new(), temporary: None, ttl_s: TTL_MAX_S }
    }
}

impl Found {
    fn into_hosts(self, domain: &str) -> Result<Vec<Ranked>, Unroutable> {
        if !self.hosts.is_empty() {
            return Ok(self.hosts);
        }
        let reply = if let Some(why) = self.temporary {
            Reply::local(451, (4, 4, 3), format!("DNS gave no address of a mail host of {domain}: {why}"))
        } else if let Some(name) = self.private.first() {
            let text = format!("The mail host {name} of {domain} has only private or loopback addresses");
            Reply::local(550, (5, 4, 4), text)
        } else if self.implicit {
            Reply::local(550, (5, 1, 2), format!("The domain {domain} has neither MX nor address records"))
        } else {
            Reply::local(550, (5, 4, 4), format!("None of the mail hosts of {domain} has an address"))
        };
        Err(Unroutable { domain: domain.to_owned(), reply })
    }
}

fn ttl_of(resolved: &Result<Arc<Resolved>, Unroutable>, ttl_s: u32) -> u32 {
    match resolved {
        Ok(_) => ttl_s.clamp(TTL_MIN_S, TTL_MAX_S),
        Err(unroutable) if unroutable.reply.code < 500 => TEMPORARY_TTL_S,
        Err(_) => PERMANENT_TTL_S,
    }
}

fn until(now: Timestamp, ttl_s: u32) -> Timestamp {
    now.plus_secs(i64::from(ttl_s))
}

fn normal(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
