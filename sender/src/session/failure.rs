//! How an attempt ended: a reply, or a failure that says at which command and whether the message may have
//! been taken all the same.

use std::fmt;

use super::wire::WireError;
use crate::reply::{Enhanced, Reply, ReplyClass};

/// The step that an outcome belongs to, as it stands in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SmtpCommand {
    /// TCP connection and greeting.
    Connect,
    /// EHLO, or HELO after its refusal.
    Ehlo,
    /// STARTTLS and the handshake.
    StartTls,
    Mail,
    Rcpt,
    Data,
    /// The message and its final dot.
    Dot,
}

impl SmtpCommand {
    pub fn as_str(self) -> &'static str {
        match self {
            SmtpCommand::Connect => "CONNECT",
            SmtpCommand::Ehlo => "EHLO",
            SmtpCommand::StartTls => "STARTTLS",
            SmtpCommand::Mail => "MAIL",
            SmtpCommand::Rcpt => "RCPT",
            SmtpCommand::Data => "DATA",
            SmtpCommand::Dot => "DOT",
        }
    }
}

impl fmt::Display for SmtpCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What went wrong, where no usable reply came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The source cannot be used: its address is not on this host, or of another family than the target's.
    Source,
    /// Nobody listens there.
    Refused,
    /// No route, or another fault below TCP.
    Unreachable,
    Timeout,
    /// The connection was reset, or closed where a reply was due.
    Closed,
    /// What came is not SMTP, or too long.
    Garbage,
    /// A reply that does not belong there, like 250 to DATA.
    Unexpected,
    /// The host turned the connection away in its greeting, or at EHLO: see `reply`.
    Rejected,
    /// The TLS handshake failed. Under an opportunistic policy, connect again with `TlsPolicy::None`.
    Tls,
    /// TLS is required, and the host does not offer it.
    TlsUnavailable,
}

/// An attempt that brought no reply to its transaction. Always worth a retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{command}: {detail}")]
pub struct AttemptFailure {
    pub command: SmtpCommand,
    pub kind: FailureKind,
    /// What happened, in words.
    pub detail: String,
    /// The reply behind `Rejected`, `Unexpected` and `TlsUnavailable`.
    pub reply: Option<Reply>,
    /// The message was sent to its end and no understandable reply came: it may have been taken, and the retry
    /// may repeat it (RFC 1047).
    pub in_doubt: bool,
}

impl AttemptFailure {
    pub(super) fn new(command: SmtpCommand, kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { command, kind, detail: detail.into(), reply: None, in_doubt: false }
    }

    pub(super) fn with_reply(command: SmtpCommand, kind: FailureKind, reply: Reply) -> Self {
        let detail = match kind {
            FailureKind::Rejected => format!("the host turned us away: {reply}"),
            FailureKind::TlsUnavailable => format!("TLS is required, but the host refused STARTTLS: {reply}"),
            _ => format!("the reply does not belong here: {reply}"),
        };
        Self { reply: Some(reply), ..Self::new(command, kind, detail) }
    }

    pub(super) fn of_wire(command: SmtpCommand, err: &WireError) -> Self {
        Self::new(command, err.kind(), err.to_string())
    }

    /// The enhanced status (RFC 3463) for its event: the host's own where it gave one.
    pub fn enhanced(&self) -> Enhanced {
        if let Some(enhanced) = self.reply.as_ref().and_then(|reply| reply.enhanced) {
            return enhanced;
        }
        match self.kind {
            FailureKind::Source => (4, 3, 5),
            FailureKind::Refused | FailureKind::Unreachable => (4, 4, 1),
            FailureKind::Timeout if self.command == SmtpCommand::Connect => (4, 4, 1),
            FailureKind::Timeout | FailureKind::Closed => (4, 4, 2),
            FailureKind::Garbage | FailureKind::Unexpected | FailureKind::Rejected => (4, 5, 0),
            FailureKind::Tls | FailureKind::TlsUnavailable => (4, 7, 0),
        }
    }
}

/// What became of one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server's reply that settled it.
    Replied(Reply),
    /// Settled here, before anything was sent: the server's own extensions say that it cannot take this.
    Local(Reply),
    Failed(AttemptFailure),
}

/// Delivered, try again, or give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    Delivered,
    Transient,
    Permanent,
}

/// One transaction on a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The command that `outcome` belongs to.
    pub command: SmtpCommand,
    pub outcome: Outcome,
    /// The session can take another transaction.
    pub usable: bool,
    /// The session had carried a transaction before this one.
    pub reused: bool,
    /// From the first command to the outcome.
    pub attempt_ms: u64,
}

impl Attempt {
    pub fn verdict(&self) -> Verdict {
        match &self.outcome {
            Outcome::Replied(reply) | Outcome::Local(reply) => match reply.class() {
                ReplyClass::Positive => Verdict::Delivered,
                ReplyClass::Permanent => Verdict::Permanent,
                ReplyClass::Transient | ReplyClass::Intermediate => Verdict::Transient,
            },
            Outcome::Failed(_) => Verdict::Transient,
        }
    }

    /// The reply behind the outcome, for its event; `None` when none came.
    pub fn reply(&self) -> Option<&Reply> {
        match &self.outcome {
            Outcome::Replied(reply) | Outcome::Local(reply) => Some(reply),
            Outcome::Failed(failure) => failure.reply.as_ref(),
        }
    }

    /// The server dropped a connection that had been idle, or had carried enough: nothing was said about this
    /// message, so it may go at once over a fresh connection, without counting an attempt.
    pub fn wants_fresh_connection(&self) -> bool {
        self.reused
            && self.command == SmtpCommand::Mail
            && match &self.outcome {
                Outcome::Replied(reply) => reply.closes(),
                Outcome::Failed(failure) => failure.kind == FailureKind::Closed,
                Outcome::Local(_) => false,
            }
    }
}
