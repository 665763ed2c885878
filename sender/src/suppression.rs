//! Whom not to write to. The truth is the control store; this is its copy in memory, asked before each attempt.

use std::fmt;

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;

use crate::address::Address;
use crate::stream::Stream;

/// How far a suppression reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// The tenant's marketing and cold mail, on all its domains: unsubscribes, cold opt-outs, complaints.
    Bulk,
    /// All mail of the tenant: a mailbox that does not exist, or stays full.
    Tenant,
    /// All mail of the installation: by law or by the operator. Nothing overrides it.
    Global,
}

impl Reach {
    pub fn as_str(self) -> &'static str {
        match self {
            Reach::Bulk => "bulk",
            Reach::Tenant => "tenant",
            Reach::Global => "global",
        }
    }

    pub fn covers(self, stream: Stream) -> bool {
        self != Reach::Bulk || stream != Stream::Transactional
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a recipient is not written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressed {
    pub reach: Reach,
    /// `unsubscribe`, `cold_opt_out`, `complaint`, `hard_bounce`, `full_mailbox`, `manual`, `legal`.
    pub reason: String,
    pub since: Timestamp,
}

/// Knows every suppression. Answers from memory, in well under a microsecond.
pub trait Suppressions: Send + Sync {
    /// The widest suppression that keeps this tenant's mail of this stream from the recipient.
    fn find(&self, tenant: &TenantId, stream: Stream, recipient: &Address) -> Option<Suppressed>;
}

/// Suppresses nobody: for tests, and for tools without a control store.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSuppressions;

impl Suppressions for NoSuppressions {
    fn find(&self, _: &TenantId, _: Stream, _: &Address) -> Option<Suppressed> {
        None
    }
}
