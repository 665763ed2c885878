//! Identifiers: tenants by name, messages and submissions by UUIDv7.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::clock::{Clock, Entropy, Timestamp};

/// A tenant's name: 1–63 of `a-z`, `0-9` and `-`, starting with a letter or digit. Every row carries one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TenantId(Arc<str>);

/// Why a text is not a tenant's name.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a tenant name: use 1 to 63 of a-z, 0-9 and '-', starting with a letter or a digit")]
pub struct InvalidTenantId(pub String);

impl TenantId {
    pub fn new(name: &str) -> Result<Self, InvalidTenantId> {
        let well_formed = (1..=63).contains(&name.len())
            && !name.starts_with('-')
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if well_formed { Ok(Self(name.into())) } else { Err(InvalidTenantId(name.to_owned())) }
    }

    /// The reserved tenant that owns what belongs to the installation itself: its own signing domain, its
    /// keys for everything, its secrets. It exists from the first start and cannot be suspended.
    pub fn platform() -> Self {
        Self("platform".into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenantId;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::new(name)
    }
}

impl TryFrom<String> for TenantId {
    type Error = InvalidTenantId;
    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::new(&name)
    }
}

impl From<TenantId> for String {
    fn from(id: TenantId) -> Self {
        id.as_str().to_owned()
    }
}

/// Makes UUIDv7 (RFC 9562, section 5.7): the time in front, so that ids sort by age.
pub fn uuid_v7(now: Timestamp, entropy: &dyn Entropy) -> Uuid {
    let mut random = [0; 10];
    entropy.fill(&mut random);
    let millis = u64::try_from(now.as_millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// The instant that a UUIDv7 was made at, or `None` for another kind of UUID.
pub fn uuid_v7_time(id: Uuid) -> Option<Timestamp> {
    let (secs, nanos) = id.get_timestamp()?.to_unix();
    let secs = i64::try_from(secs).ok()?;
    Some(Timestamp(Timestamp::from_secs(secs).0 + i64::from(nanos) / 1_000))
}

/// Time and randomness together, as most parts need both to make ids.
#[derive(Clone, Debug)]
pub struct Ids {
    pub clock: Arc<dyn Clock>,
    pub entropy: Arc<dyn Entropy>,
}

impl Ids {
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn uuid(&self) -> Uuid {
        uuid_v7(self.clock.now(), self.entropy.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SeededEntropy;

    #[test]
    fn tenant_names() {
        for good in ["a", "acme", "acme-2", "0x"] {
            assert!(TenantId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "Acme", "a b", "a/b", "é", &"a".repeat(64)] {
            assert!(TenantId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn uuid_carries_its_time() {
        let at = Timestamp::from_millis(1_760_000_000_123);
        let id = uuid_v7(at, &SeededEntropy::new(1));
        assert_eq!(uuid_v7_time(id), Some(at));
    }
}
