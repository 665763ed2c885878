//! How a receiver behaves: what it announces, what share of its mailboxes refuses mail, and how it breaks.

use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use sendlake_control::clock::Clock;

use super::provider;
use super::reply::Replies;

/// A receiver's behaviour. The constructors give four kinds of provider and a sink; every field may be
/// changed before [`super::Receiver::start`].
#[derive(Clone, Debug)]
pub struct Profile {
    /// Takes part in the draw that gives each mailbox its nature: two providers with one seed differ.
    pub name: &'static str,
    pub replies: &'static Replies,
    pub shares: Shares,
    /// `PIPELINING` (RFC 2920). Where it is not announced, a client that pipelines is turned away.
    pub pipelining: bool,
    /// `8BITMIME` (RFC 6152).
    pub eight_bit_mime: bool,
    /// `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// `ENHANCEDSTATUSCODES` (RFC 2034).
    pub enhanced_status_codes: bool,
    /// `SIZE` (RFC 1870), in octets; larger messages are refused with 552.
    pub size_bytes_max: usize,
    /// Recipients of one transaction; at least 100 (RFC 5321, section 4.5.3.1.8).
    pub recipients_max: usize,
    /// Messages of one connection, after which MAIL is answered with 421. `None`: no limit.
    pub messages_per_connection: Option<u32>,
    /// Waited before each batch of replies.
    pub reply_delay: Duration,
    /// Waited in addition before the answer to a final dot, for slow mailboxes.
    pub slow_delay: Duration,
    /// How long after its first try a greylisted (sender, recipient) pair is let through.
    pub greylist_delay: Duration,
    /// How long a silent client is kept.
    pub idle_timeout: Duration,
    /// Offers STARTTLS (RFC 3207) with this certificate.
    pub tls: Option<Arc<ServerConfig>>,
    /// Keeps a record of each accepted message.
    pub recording: Option<Recording>,
    pub fault: Option<Fault>,
    /// Only so many connections, counted from the start, show the fault.
    pub fault_connections: u64,
    /// Closes without a word after so many messages on a connection.
    pub closes_after_messages: Option<u32>,
}

/// Which mailboxes refuse mail, in thousandths. A mailbox has one of the first four natures or none of
/// them; greylisting and slowness are drawn apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    pub unknown_user_permille: u16,
    pub policy_permille: u16,
    /// Full mailboxes. Where the provider has a reply for either, half of them are emptied in time and half
    /// are refused for good in the end.
    pub full_permille: u16,
    pub throttle_permille: u16,
    /// How many attempts at a message a throttled mailbox refuses before it lets go.
    pub throttle_first_attempts: u32,
    /// How many attempts at a message a full mailbox defers before it accepts or refuses for good.
    pub full_first_attempts: u32,
    pub greylist_permille: u16,
    pub slow_permille: u16,
}

/// What is kept of accepted messages, and the clock that dates them.
#[derive(Clone, Debug)]
pub struct Recording {
    pub keep: Keep,
    pub clock: Arc<dyn Clock>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Envelope, Message-ID, size and SHA-256.
    Digest,
    /// The same, and the message.
    Data,
}

/// A point of the session at which a fault shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Before the banner.
    Connect,
    /// EHLO and HELO.
    Hello,
    StartTls,
    Mail,
    Rcpt,
    Data,
    /// The final dot: the message is not accepted.
    DataEnd,
    Rset,
    Quit,
}

/// A scripted misbehaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub at: Step,
    pub kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// Never answers, and keeps the connection.
    Hang,
    /// Resets the connection (TCP RST).
    Reset,
    /// Answers with octets that are not SMTP.
    Garbage,
    /// Answers with one line of so many octets.
    LongLine(usize),
}

impl Profile {
    /// A sink: takes everything, at once.
    pub fn accept_all() -> Self {
        Self {
            name: "sink",
            replies: &provider::ACCEPT_ALL,
            shares: Shares::default(),
            pipelining: true,
            eight_bit_mime: true,
            smtputf8: true,
            enhanced_status_codes: true,
            size_bytes_max: 50 * 1024 * 1024,
            recipients_max: 1_000,
            messages_per_connection: None,
            reply_delay: Duration::ZERO,
            slow_delay: Duration::ZERO,
            greylist_delay: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(300),
            tls: None,
            recording: None,
            fault: None,
            fault_connections: u64::MAX,
            closes_after_messages: None,
        }
    }

    pub fn gmail() -> Self {
        Self {
            name: "gmail",
            replies: &provider::gmail::REPLIES,
            shares: Shares {
                unknown_user_permille: 32,
                policy_permille: 10,
                full_permille: 12,
                throttle_permille: 60,
                throttle_first_attempts: 2,
                full_first_attempts: 2,
                greylist_permille: 0,
                slow_permille: 20,
            },
            size_bytes_max: 157_286_400,
            recipients_max: 100,
            reply_delay: Duration::from_millis(2),
            slow_delay: Duration::from_millis(250),
            ..Self::accept_all()
        }
    }

    pub fn microsoft() -> Self {
        Self {
            name: "microsoft",
            replies: &provider::microsoft::REPLIES,
            shares: Shares {
                unknown_user_permille: 33,
                policy_permille: 16,
                full_permille: 6,
                throttle_permille: 80,
                throttle_first_attempts: 2,
                full_first_attempts: 0,
                greylist_permille: 0,
                slow_permille: 80,
            },
            size_bytes_max: 49_283_072,
            recipients_max: 500,
            reply_delay: Duration::from_millis(10),
            slow_delay: Duration::from_millis(500),
            ..Self::accept_all()
        }
    }

    pub fn yahoo() -> Self {
        Self {
            name: "yahoo",
            replies: &provider::yahoo::REPLIES,
            shares: Shares {
                unknown_user_permille: 35,
                policy_permille: 12,
                full_permille: 6,
                throttle_permille: 70,
                throttle_first_attempts: 2,
                full_first_attempts: 0,
                greylist_permille: 0,
                slow_permille: 30,
            },
            smtputf8: false,
            enhanced_status_codes: false,
            size_bytes_max: 41_943_040,
            recipients_max: 100,
            messages_per_connection: Some(20),
            reply_delay: Duration::from_millis(3),
            slow_delay: Duration::from_millis(300),
            ..Self::accept_all()
        }
    }

    pub fn gateway() -> Self {
        Self {
            name: "gateway",
            replies: &provider::gateway::REPLIES,
            shares: Shares {
                unknown_user_permille: 35,
                policy_permille: 18,
                full_permille: 12,
                throttle_permille: 0,
                throttle_first_attempts: 0,
                full_first_attempts: 3,
                greylist_permille: 600,
                slow_permille: 0,
            },
            pipelining: false,
            smtputf8: false,
            size_bytes_max: 10_240_000,
            recipients_max: 100,
            reply_delay: Duration::from_millis(1),
            ..Self::accept_all()
        }
    }

    /// Keeps a record of each accepted message, dated by `clock`.
    pub fn record(self, keep: Keep, clock: Arc<dyn Clock>) -> Self {
        Self { recording: Some(Recording { keep, clock }), ..self }
    }

    pub fn with_tls(self, config: Arc<ServerConfig>) -> Self {
        Self { tls: Some(config), ..self }
    }

    /// Takes `step` and never answers it.
    pub fn hang_after(self, step: Step) -> Self {
        self.with_fault(step, FaultKind::Hang)
    }

    /// Resets the connection instead of an answer to `step`.
    pub fn reset_at(self, step: Step) -> Self {
        self.with_fault(step, FaultKind::Reset)
    }

    /// Answers `step` with octets that are not SMTP.
    pub fn garbage_at(self, step: Step) -> Self {
        self.with_fault(step, FaultKind::Garbage)
    }

    /// Answers `step` with one line of `octets`.
    pub fn long_line_at(self, step: Step, octets: usize) -> Self {
        self.with_fault(step, FaultKind::LongLine(octets))
    }

    /// Closes without a word after `messages` on a connection.
    pub fn close_after_n_messages(self, messages: u32) -> Self {
        Self { closes_after_messages: Some(messages), ..self }
    }

    /// Only the first `connections` show the fault, so that a retry succeeds.
    pub fn faults_first(self, connections: u64) -> Self {
        Self { fault_connections: connections, ..self }
    }

    fn with_fault(self, at: Step, kind: FaultKind) -> Self {
        Self { fault: Some(Fault { at, kind }), ..self }
    }
}
