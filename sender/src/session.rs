//! One SMTP connection as its client: greeting, EHLO, STARTTLS, then one transaction after another, each with
//! one recipient (RFC 5321, 2920, 3207).
//!
//! A refusal is a value here, and what a host does wrong costs one session. mail-send opens the connection and
//! upgrades it to TLS; the dialogue is ours, as mail-send's reader drops a reply that arrives together with the
//! one before it, and its transactions stop at the first refusal.

mod capability;
mod dial;
mod failure;
mod open;
mod timeouts;
mod tls;
mod transparency;
mod wire;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

pub use self::capability::Capabilities;
pub use self::dial::dial;
pub use self::failure::{Attempt, AttemptFailure, FailureKind, Outcome, SmtpCommand, Verdict};
use self::open::open;
pub use self::timeouts::{SessionSettings, Timeouts};
pub use self::tls::{Tls, TlsError, TlsFailure};
use self::transparency::stuffed;
use self::wire::Wire;
use crate::address::Address;
use crate::reply::{ParsedReply, Reply, ReplyClass};
use crate::route::TlsPolicy;
use crate::source::Source;

/// One address of one host.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// The MX host's name: what its certificate is checked against.
    pub host: &'a str,
    pub addr: SocketAddr,
}

/// What is known of a connection, for the events of its attempts. Null where it did not come so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectFacts {
    pub mx_host: String,
    pub mx_ip: Option<IpAddr>,
    /// The local address in use.
    pub source_ip: Option<IpAddr>,
    /// `TLSv1.3`; null in clear.
    pub tls_version: Option<String>,
    /// `TLS_AES_256_GCM_SHA384`; null in clear.
    pub tls_cipher: Option<String>,
    /// Whether the certificate is valid for the host; null in clear.
    pub tls_verified: Option<bool>,
    /// What kept the connection, or the one in whose place it came, from TLS; null where TLS was agreed on, or not wanted.
    pub tls_failure: Option<TlsFailure>,
    /// The same in words, where there is more to say.
    pub tls_failure_reason: Option<String>,
    /// From the first SYN until the session could take its first transaction, or failed.
    pub connect_ms: u64,
}

/// No session came about. `facts` are those known by then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{failure}")]
pub struct ConnectFailure {
    /// A 5yz in its `reply` is about the connection, not about any recipient: try other hosts, then later.
    pub failure: AttemptFailure,
    pub facts: ConnectFacts,
}

/// One message to one recipient.
#[derive(Clone, Copy, Debug)]
pub struct Transaction<'a> {
    /// Without angle brackets; empty for the null reverse-path.
    pub reverse_path: &'a str,
    pub forward_path: &'a Address,
    /// The headers hold UTF-8. What the addresses need is seen from them.
    pub smtputf8: bool,
    /// The body holds octets above 127.
    pub eightbit: bool,
    /// Header section, empty line and body, in any number of pieces. Lines end in CRLF.
    pub message: &'a [&'a [u8]],
}

/// A connection that is ready for a transaction.
pub struct Session {
    wire: Wire,
    capabilities: Capabilities,
    facts: ConnectFacts,
    timeouts: Timeouts,
    messages_max: u32,
    transactions: u32,
    /// A transaction was begun and refused: RSET comes before the next.
    begun: bool,
    /// Nothing more can be sent or understood.
    broken: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("facts", &self.facts)
            .field("transactions", &self.transactions)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Connects and says hello. Under [`TlsPolicy::Opportunistic`] a host that offers no TLS, or answers
    /// STARTTLS with a refusal, is talked to in clear; a handshake that fails ends the connection with
    /// [`FailureKind::Tls`], and [`dial`] then connects once more in clear.
    pub async fn connect(
        target: Target<'_>,
        source: &Source,
        policy: TlsPolicy,
        tls: &Tls,
        settings: &SessionSettings,
    ) -> Result<Self, Box<ConnectFailure>> {
        let started = Instant::now();
        let mut facts = ConnectFacts {
            mx_host: target.host.to_owned(),
            mx_ip: Some(target.addr.ip()),
            ..ConnectFacts::default()
        };
        let timeouts = &settings.timeouts;
        let opened = open(target, source, policy, tls, timeouts, &mut facts).await;
        facts.connect_ms = millis_since(started);
        match opened {
            Ok((wire, capabilities)) => Ok(Self {
                wire,
                capabilities,
                facts,
                timeouts: timeouts.clone(),
                messages_max: settings.messages_max,
                transactions: 0,
                begun: false,
                broken: false,
            }),
            Err(failure) => Err(Box::new(ConnectFailure { failure, facts })),
        }
    }

    pub fn facts(&self) -> &ConnectFacts {
        &self.facts
    }

    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// Transactions so far.
    pub fn transactions(&self) -> u32 {
        self.transactions
    }

    /// The session can take another transaction.
    pub fn is_usable(&self) -> bool {
        !self.broken && self.transactions < self.messages_max
    }

    /// Sends one message. Never fails: what went wrong is in the attempt.
    pub async fn deliver(&mut self, transaction: &Transaction<'_>) -> Attempt {
        let started = Instant::now();
        let reused = self.transactions > 0;
        let (command, outcome) = match self.refuse_locally(transaction) {
            Some(reply) => (SmtpCommand::Mail, Outcome::Local(reply)),
            None if self.broken => {
                let detail = "the session had ended before";
                let failure = AttemptFailure::new(SmtpCommand::Mail, FailureKind::Closed, detail);
                (SmtpCommand::Mail, Outcome::Failed(failure))
            }
            None => {
                self.transactions += 1;
                match self.transact(transaction).await {
                    Ok((command, reply)) => {
                        self.broken |= reply.closes();
                        (command, Outcome::Replied(reply))
                    }
                    Err(failure) => {
                        self.broken = true;
                        (failure.command, Outcome::Failed(failure))
                    }
                }
            }
        };
        Attempt { command, outcome, usable: self.is_usable(), reused, attempt_ms: millis_since(started) }
    }

    /// Says goodbye, as well as that goes within the time for it.
    pub async fn quit(mut self) {
        if !self.broken && self.wire.send(b"QUIT\r\n", self.timeouts.quit).await.is_ok() {
            // Whatever comes, or nothing: the connection is closed next.
            let _ = self.wire.reply(self.timeouts.quit).await;
        }
    }

    /// What this server cannot take by its own announcement, so that asking it is pointless.
    ///
    /// Where 8BITMIME is not announced, RFC 6152, section 3, forbids 8-bit content: it is converted or returned.
    /// Conversion would break the DKIM signature, so it is returned. Only raw submissions hold such content.
    fn refuse_locally(&self, transaction: &Transaction<'_>) -> Option<Reply> {
        let Transaction { reverse_path, forward_path, .. } = transaction;
        if reverse_path.chars().any(|c| c.is_control() || matches!(c, ' ' | '<' | '>')) {
            let text = format!("The reverse-path {:?} cannot be put into MAIL FROM", reverse_path);
            return Some(Reply::local(553, (5, 1, 7), text));
        }
        let host = &self.facts.mx_host;
        let utf8_address = forward_path.needs_smtputf8() || !reverse_path.is_ascii();
        if utf8_address && !self.capabilities.smtputf8 {
            let text = format!("{host} does not announce SMTPUTF8, which this non-ASCII address needs");
            return Some(Reply::local(550, (5, 6, 7), text));
        }
        if transaction.smtputf8 && !self.capabilities.smtputf8 {
            let text = format!("{host} does not announce SMTPUTF8, which these non-ASCII headers need");
            return Some(Reply::local(550, (5, 6, 9), text));
        }
        if transaction.eightbit && !self.capabilities.eightbit_mime {
            let text =
                format!("{host} does not announce 8BITMIME: encode the body as quoted-printable or base64");
            return Some(Reply::local(554, (5, 6, 3), text));
        }
        let size = transaction.size_bytes();
        if let Some(limit) = self.capabilities.size_bytes_max.filter(|&limit| size > limit) {
            let text = format!("The message has {size} octets, and {host} takes at most {limit}");
            return Some(Reply::local(552, (5, 3, 4), text));
        }
        None
    }

    async fn transact(
        &mut self,
        transaction: &Transaction<'_>,
    ) -> Result<(SmtpCommand, Reply), AttemptFailure> {
        let mail = self.mail_command(transaction);
        let rcpt = format!("RCPT TO:<{}>\r\n", transaction.forward_path);
        let settled = if self.capabilities.pipelining {
            self.envelope_pipelined(&mail, &rcpt).await?
        } else {
            self.envelope_stepwise(&mail, &rcpt).await?
        };
        match settled {
            Some(refusal) => Ok(refusal),
            None => Ok((SmtpCommand::Dot, self.content(transaction).await?)),
        }
    }

    fn mail_command(&self, transaction: &Transaction<'_>) -> String {
        let mut mail = format!("MAIL FROM:<{}>", transaction.reverse_path);
        let Capabilities { size, eightbit_mime, smtputf8, .. } = self.capabilities;
        if size {
            mail.push_str(&format!(" SIZE={}", transaction.size_bytes()));
        }
        if eightbit_mime && (transaction.eightbit || transaction.smtputf8) {
            mail.push_str(" BODY=8BITMIME");
        }
        if smtputf8 && transaction.needs_smtputf8() {
            mail.push_str(" SMTPUTF8");
        }
        mail + "\r\n"
    }

    /// MAIL, RCPT and DATA in one write. All replies are read, so that the connection can go on; the first
    /// refusal is the one that counts.
    async fn envelope_pipelined(
        &mut self,
        mail: &str,
        rcpt: &str,
    ) -> Result<Option<(SmtpCommand, Reply)>, AttemptFailure> {
        let reset = if self.begun { "RSET\r\n" } else { "" };
        let commands = format!("{reset}{mail}{rcpt}DATA\r\n");
        let sent = self.wire.send(commands.as_bytes(), self.timeouts.mail).await;
        if let Err(err) = sent {
            return self.last_words(SmtpCommand::Mail, &err).await.map(Some);
        }
        if self.begun
            && let Some(refusal) = self.reset_reply().await?
        {
            return Ok(Some(refusal));
        }
        self.begun = true;
        let mut refusal = None;
        for command in [SmtpCommand::Mail, SmtpCommand::Rcpt, SmtpCommand::Data] {
            let reply = match self.wire.reply(self.time_for(command)).await {
                Ok(parsed) => parsed.reply,
                Err(err) => {
                    // The refusal that came before stays what settled the message.
                    self.broken = true;
                    return refusal.map(Some).ok_or_else(|| AttemptFailure::of_wire(command, &err));
                }
            };
            if reply.closes() {
                self.broken = true;
                return Ok(Some(refusal.unwrap_or((command, reply))));
            }
            match judge(command, reply) {
                Ok(Step::Go) if command == SmtpCommand::Data && refusal.is_some() => self.end_empty().await,
                Ok(Step::Go) => {}
                Ok(Step::Refused(reply)) => refusal = refusal.or(Some((command, reply))),
                Err(failure) => {
                    self.broken = true;
                    return refusal.map(Some).ok_or(failure);
                }
            }
        }
        Ok(refusal)
    }

    async fn envelope_stepwise(
        &mut self,
        mail: &str,
        rcpt: &str,
    ) -> Result<Option<(SmtpCommand, Reply)>, AttemptFailure> {
        if self.begun {
            if let Err(err) = self.wire.send(b"RSET\r\n", self.timeouts.mail).await {
                return self.last_words(SmtpCommand::Mail, &err).await.map(Some);
            }
            if let Some(refusal) = self.reset_reply().await? {
                return Ok(Some(refusal));
            }
        }
        self.begun = true;
        let steps = [(SmtpCommand::Mail, mail), (SmtpCommand::Rcpt, rcpt), (SmtpCommand::Data, "DATA\r\n")];
        for (command, line) in steps {
            let within = self.time_for(command);
            if let Err(err) = self.wire.send(line.as_bytes(), within).await {
                return self.last_words(command, &err).await.map(Some);
            }
            let reply =
                self.wire.reply(within).await.map_err(|err| AttemptFailure::of_wire(command, &err))?.reply;
            if let Step::Refused(reply) = judge(command, reply)? {
                return Ok(Some((command, reply)));
            }
        }
        Ok(None)
    }

    /// A server that cannot even reset is of no more use, and has said nothing about the message. Only a 421 is
    /// passed on.
    async fn reset_reply(&mut self) -> Result<Option<(SmtpCommand, Reply)>, AttemptFailure> {
        let command = SmtpCommand::Mail;
        let parsed = self.wire.reply(self.timeouts.mail).await;
        let reply = parsed.map_err(|err| AttemptFailure::of_wire(command, &err))?.reply;
        if reply.is_positive() {
            self.begun = false;
            Ok(None)
        } else if reply.closes() {
            Ok(Some((command, reply)))
        } else {
            Err(AttemptFailure::with_reply(command, FailureKind::Unexpected, reply))
        }
    }

    /// Ends a DATA that was let through although nobody is to get it, with an empty message (RFC 2920, section
    /// 3.1).
    async fn end_empty(&mut self) {
        let ended = self.wire.send(b".\r\n", self.timeouts.block).await.is_ok()
            && self.wire.reply(self.timeouts.data).await.is_ok_and(|parsed| !parsed.reply.closes());
        self.broken |= !ended;
    }

    async fn content(&mut self, transaction: &Transaction<'_>) -> Result<Reply, AttemptFailure> {
        let command = SmtpCommand::Dot;
        let content = stuffed(transaction.message);
        if let Err(err) = self.wire.send(&content, self.timeouts.block).await {
            // The final dot did not leave, so the message was not taken.
            return self.last_words(command, &err).await.map(|(_, reply)| reply);
        }
        let in_doubt = |failure: AttemptFailure| AttemptFailure { in_doubt: true, ..failure };
        let parsed = self.wire.reply(self.timeouts.dot).await;
        let reply = parsed.map_err(|err| in_doubt(AttemptFailure::of_wire(command, &err)))?.reply;
        // The end of the data ends the transaction, whatever the reply (RFC 5321, section 4.1.1.4).
        self.begun = false;
        if reply.class() == ReplyClass::Intermediate {
            return Err(in_doubt(AttemptFailure::with_reply(command, FailureKind::Unexpected, reply)));
        }
        Ok(reply)
    }

    /// After a write that failed: a refusal that the server left before it closed says more than the failure.
    async fn last_words(
        &mut self,
        command: SmtpCommand,
        err: &wire::WireError,
    ) -> Result<(SmtpCommand, Reply), AttemptFailure> {
        self.broken = true;
        match self.wire.reply(self.timeouts.quit).await {
            Ok(ParsedReply { reply, .. })
                if matches!(reply.class(), ReplyClass::Transient | ReplyClass::Permanent) =>
            {
                Ok((command, reply))
            }
            _ => Err(AttemptFailure::of_wire(command, err)),
        }
    }

    fn time_for(&self, command: SmtpCommand) -> Duration {
        match command {
            SmtpCommand::Rcpt => self.timeouts.rcpt,
            SmtpCommand::Data => self.timeouts.data,
            _ => self.timeouts.mail,
        }
    }
}

impl Transaction<'_> {
    /// Octets as RFC 1870 counts them: line ends included, doubled dots and the final dot not.
    pub fn size_bytes(&self) -> u64 {
        self.message.iter().map(|piece| piece.len() as u64).sum()
    }

    fn needs_smtputf8(&self) -> bool {
        self.smtputf8 || self.forward_path.needs_smtputf8() || !self.reverse_path.is_ascii()
    }
}

enum Step {
    Go,
    Refused(Reply),
}

/// What a reply means at its place: MAIL and RCPT go on after 2yz, DATA after 3yz.
fn judge(command: SmtpCommand, reply: Reply) -> Result<Step, AttemptFailure> {
    match (reply.class(), command) {
        (ReplyClass::Transient | ReplyClass::Permanent, _) => Ok(Step::Refused(reply)),
        (ReplyClass::Intermediate, SmtpCommand::Data) => Ok(Step::Go),
        (ReplyClass::Positive, SmtpCommand::Mail | SmtpCommand::Rcpt) => Ok(Step::Go),
        _ => Err(AttemptFailure::with_reply(command, FailureKind::Unexpected, reply)),
    }
}

fn millis_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
