//! Hosts outside that somebody else names: which of their addresses may be asked. None of an internal network, so that nobody
//! reaches through this server what only it can reach.

use std::net::IpAddr;

use async_trait::async_trait;
use sendlake_connectors::guard::Guard;
use sendlake_sender::mx::{HickoryResolver, LookupFailure, Resolver, is_public};

/// Looks hosts up.
#[derive(Clone)]
pub struct Outside {
    pub resolver: HickoryResolver,
    /// Ask loopback and private addresses as well: test networks.
    pub allow_private: bool,
}

/// Why a name has no address that may be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// There may be one later.
    #[error("{0}")]
    Unresolved(String),
    #[error("{0} leads to no public address")]
    Internal(String),
}

impl Outside {
    /// Whether an address may be asked.
    pub fn allows(&self, ip: IpAddr) -> bool {
        self.allow_private || is_public(ip)
    }

    /// The addresses of a name that may be asked, at least one. The connection must go to one of these: a second look-up may
    /// give others.
    pub async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Unreachable> {
        let found = self.resolver.addresses(name).await.map_err(|failure| unresolved(name, failure))?;
        let allowed: Vec<IpAddr> = found.value.into_iter().filter(|ip| self.allows(*ip)).collect();
        if allowed.is_empty() { Err(Unreachable::Internal(name.to_owned())) } else { Ok(allowed) }
    }
}

#[async_trait]
impl Guard for Outside {
    fn allows(&self, ip: IpAddr) -> bool {
        Outside::allows(self, ip)
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        Outside::addresses(self, name).await.map_err(|error| error.to_string())
    }
}

fn unresolved(name: &str, failure: LookupFailure) -> Unreachable {
    Unreachable::Unresolved(match failure {
        // a record may be newer than its host's
        LookupFailure::NoSuchName | LookupFailure::NoRecords => format!("the DNS knows no address of {name}"),
        LookupFailure::Temporary(why) => format!("the DNS gave no address of {name}: {why}"),
    })
}
