//! Whom not to write to: the truth of it, one row per tenant, address and reason, and the log that senders tail.
//!
//! - [`change`]: entries put on the list and lifted, many at once · [`look`]: what is on it
//! - [`totals`]: what the list adds up to, so that what vanishes is missed · [`untold`]: changes on their way to events
//! - [`full_mailbox`]: soft entries, counted first · [`quarantine`]: entries that a burst put in doubt
//! - [`restore`]: entries and keys of a list that was lost
//! - [`packed`]: the list in memory, 20 octets an entry · [`snapshot`]: the same as a file, for a quick start
//!
//! An address is found by a keyed hash of its normalised form (all lower case, domain in ASCII), so that the row
//! of an erased person can stay as a tombstone.

pub mod change;
pub mod full_mailbox;
mod lift;
pub mod look;
pub mod packed;
pub mod quarantine;
pub mod restore;
pub mod snapshot;
pub mod totals;
pub mod untold;

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::change::Suppress;
pub use self::look::{Suppression, SuppressionChange, SuppressionFilter};
pub use self::totals::Totals;
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;

pub(crate) const NOTE_CHARS_MAX: usize = 500;
const ADDRESS_OCTETS_MAX: usize = 320;
/// Never changed: the hashes in the store would no longer be found.
pub(crate) const HASH_PURPOSE: &str = "suppression address hash 1";

macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)* }

        impl $name {
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $word),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = String;
            fn from_str(word: &str) -> Result<Self, String> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|known| known.as_str()).collect();
                    format!("{word:?} is no {}: use {}", $what, known.join(", "))
                })
            }
        }
    };
}

words! {
    /// How far a suppression reaches, narrow to wide.
    Reach, "reach" {
        /// The tenant's marketing and cold mail, on all its domains: unsubscribes, cold opt-outs, complaints.
        Bulk = "bulk",
        /// All mail of the tenant: a mailbox that does not exist, or stays full.
        Tenant = "tenant",
        /// All mail of the installation: by law or by the operator. Nothing overrides it.
        Global = "global",
    }
}

words! {
    /// Why an address is not written to.
    Reason, "reason" {
        Unsubscribe = "unsubscribe",
        ColdOptOut = "cold_opt_out",
        Complaint = "complaint",
        HardBounce = "hard_bounce",
        FullMailbox = "full_mailbox",
        Manual = "manual",
        Legal = "legal",
    }
}

impl Reason {
    /// The person's own wish, or the law's: lifted only by somebody who says why.
    pub fn is_a_wish(self) -> bool {
        !matches!(self, Reason::HardBounce | Reason::FullMailbox | Reason::Manual)
    }
}

/// The name of an address that does not tell the address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressHash(pub [u8; 32]);

impl AddressHash {
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<Self, String> {
        bytes.try_into().map(Self).map_err(|_| "its hash is not 32 octets long".to_owned())
    }

    /// 64 hexadecimal digits. They tell the address to nobody who lacks the list's key.
    pub fn to_hex(self) -> String {
        data_encoding::HEXLOWER.encode(&self.0)
    }

    pub fn from_hex(text: &str) -> Option<Self> {
        let bytes = data_encoding::HEXLOWER.decode(text.as_bytes()).ok()?;
        Self::from_bytes(bytes).ok()
    }
}

impl fmt::Debug for AddressHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "{a:02x}{b:02x}{c:02x}{d:02x}…")
    }
}

/// Makes [`AddressHash`]es, under the list's own key. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AddressHasher(hmac::Key);

impl AddressHasher {
    pub fn new(list_key: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, list_key))
    }

    pub fn hash(&self, address: &str) -> AddressHash {
        AddressHash(tag(&self.0, &[normalise(address).as_bytes()]))
    }
}

/// HMAC-SHA-256 over the parts, one after the other.
pub(crate) fn tag(key: &hmac::Key, parts: &[&[u8]]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(key);
    parts.iter().for_each(|part| context.update(part));
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(context.sign().as_ref()) {
        *to = *from;
    }
    bytes
}

/// One form for all spellings of a mailbox. RFC 5321 lets local parts differ by case; no provider of note does,
/// and a wish not to be written to must not depend on it.
pub fn normalise(address: &str) -> String {
    let lower = address.trim().to_lowercase();
    match lower.rsplit_once('@') {
        Some((local, domain)) if !domain.is_ascii() => {
            let domain = idna::domain_to_ascii(domain).unwrap_or_else(|_| domain.to_owned());
            format!("{local}@{domain}")
        }
        _ => lower,
    }
}

/// A wish not to write to somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSuppression {
    /// Whose mail; of no account for [`Reach::Global`].
    pub tenant_id: TenantId,
    pub address: String,
    pub reach: Reach,
    pub reason: Reason,
    pub since: Timestamp,
    /// When it ends by itself; `None` for never.
    pub expires_at: Option<Timestamp>,
    /// The event that led to it; the same one again changes nothing.
    pub event_id: Uuid,
    /// The message that the event is about.
    pub message_id: Option<String>,
    /// In words.
    pub note: Option<String>,
}

impl NewSuppression {
    /// Whose list it goes on.
    pub(crate) fn owner(&self) -> TenantId {
        if self.reach == Reach::Global { TenantId::platform() } else { self.tenant_id.clone() }
    }
}

/// The address in its one form, if it is one.
pub(crate) fn address_of(text: &str) -> Result<String, ControlError> {
    let address = normalise(text);
    if !address.contains('@') || address.len() > ADDRESS_OCTETS_MAX {
        return Err(ControlError::NotAnAddress { address: text.chars().take(80).collect() });
    }
    Ok(address)
}

pub(crate) fn unreadable(tenant: &TenantId, problem: String) -> ControlError {
    ControlError::Unreadable { what: "suppression of tenant", name: tenant.to_string(), problem }
}

#[cfg(test)]
mod tests;
