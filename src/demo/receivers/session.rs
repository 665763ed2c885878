//! The server's half of one SMTP session (RFC 5321) as a state machine: commands in, replies out, no I/O.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use smtp_proto::{Error, MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MAIL_SMTPUTF8, MailFrom, RcptTo, Request};

use super::ledger::Stats;
use super::mailbox::Verdict;
use super::profile::Step;
use super::reply::{self, Context, Reply, Stage};
use super::{Office, profile::Profile};

/// After so many malformed or misplaced commands the session ends, as Postfix ends it.
const ERRORS_MAX: u32 = 20;

/// What the connection does after the replies so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Reads the next command.
    Command,
    /// Reads a message up to its final dot.
    Data,
    StartTls,
    /// Sends the replies and closes.
    Close,
}

pub struct Session {
    office: Arc<Office>,
    client_ip: String,
    secured: bool,
    greeted: Greeted,
    transaction: Option<Transaction>,
    messages: u32,
    errors: u32,
    /// Stands in for the id that providers print: of the connection at first, then of the recipient.
    session_id: u64,
    batch: Batch,
}

/// Replies that leave in one write, and what they counted.
#[derive(Debug, Default)]
pub struct Batch {
    pub bytes: Vec<u8>,
    pub delay: Duration,
    pub stats: Stats,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Greeted {
    No,
    Helo,
    Ehlo,
}

struct Transaction {
    reverse_path: String,
    smtputf8: bool,
    recipients: Vec<Recipient>,
}

struct Recipient {
    forward_path: String,
    verdict: Verdict,
}

impl Session {
    pub fn new(office: Arc<Office>, client_ip: String, number: u64, secured: bool) -> Self {
        Self {
            office,
            client_ip,
            secured,
            greeted: Greeted::No,
            transaction: None,
            messages: 0,
            errors: 0,
            session_id: number,
            batch: Batch::default(),
        }
    }

    fn profile(&self) -> &Profile {
        &self.office.profile
    }

    pub fn take_batch(&mut self) -> Batch {
        std::mem::take(&mut self.batch)
    }

    pub fn banner(&mut self) {
        self.say(220, &[self.profile().replies.banner]);
    }

    /// Octets instead of a reply, for scripted misbehaviour.
    pub fn say_raw(&mut self, bytes: &[u8]) {
        self.batch.bytes.extend_from_slice(bytes);
    }

    /// Answers one command. `line` is the whole line that `parsed` came from.
    pub fn command(
        &mut self,
        parsed: Result<Request<Cow<'_, str>>, Error>,
        line: &[u8],
        now_ms: u64,
    ) -> Next {
        self.batch.stats.commands += 1;
        match parsed {
            Ok(Request::Ehlo { .. }) => self.ehlo(),
            Ok(Request::Helo { .. }) => self.helo(),
            Ok(Request::Mail { from }) => self.mail(&from),
            Ok(Request::Rcpt { to }) => self.rcpt(&to, line, now_ms),
            Ok(Request::Data) => self.data(),
            Ok(Request::Rset) => {
                self.transaction = None;
                self.ok(250, "2.0.0 Ok")
            }
            Ok(Request::Noop { .. }) => self.ok(250, "2.0.0 Ok"),
            // Neither confirms nor denies, RFC 5321, section 3.5.3.
            Ok(Request::Vrfy { .. }) => {
                self.ok(252, "2.1.5 Cannot VRFY user, but will accept message and attempt delivery")
            }
            Ok(Request::Help { .. }) => self.ok(214, "2.0.0 See RFC 5321"),
            Ok(Request::Quit) => {
                self.say(221, &[self.profile().replies.bye]);
                Next::Close
            }
            Ok(Request::StartTls) => self.start_tls(),
            Ok(Request::Lhlo { .. }) => self.error(500, "5.5.2 Command not recognized"),
            Ok(_) => self.error(502, "5.5.1 Command not implemented"),
            Err(error) => self.malformed(&error),
        }
    }

    /// A line longer than is read; it was thrown away.
    pub fn line_too_long(&mut self) -> Next {
        self.error(500, "5.5.2 Line too long")
    }

    /// The client sent more before the reply, where PIPELINING was not announced. In Exim's words.
    pub fn out_of_step(&mut self) -> Next {
        self.count_error(554);
        self.say(554, &["SMTP synchronization error"]);
        Next::Close
    }

    /// The client sent more in the clear after STARTTLS; none of it may count (RFC 3207, section 4).
    pub fn pipelined_after_starttls(&mut self) -> Next {
        self.batch.bytes.clear();
        self.count_error(454);
        self.say(
            454,
            &["4.5.0 SMTP protocol violation, no commands allowed to pipeline after STARTTLS, see RFC 3207."],
        );
        Next::Close
    }

    pub fn idle(&mut self) {
        self.say(421, &["4.4.2 Timeout - closing connection."]);
    }

    fn ehlo(&mut self) -> Next {
        self.transaction = None;
        self.greeted = Greeted::Ehlo;
        let profile = self.profile();
        let size = format!("SIZE {}", profile.size_bytes_max);
        let offered = [
            (true, profile.replies.hello),
            (true, size.as_str()),
            (profile.eight_bit_mime, "8BITMIME"),
            (profile.tls.is_some() && !self.secured, "STARTTLS"),
            (profile.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
            (profile.pipelining, "PIPELINING"),
            (profile.smtputf8, "SMTPUTF8"),
        ];
        let lines: Vec<&str> =
            offered.into_iter().filter_map(|(is_offered, line)| is_offered.then_some(line)).collect();
        self.say(250, &lines);
        Next::Command
    }

    fn helo(&mut self) -> Next {
        self.transaction = None;
        self.greeted = Greeted::Helo;
        self.say(250, &[self.profile().replies.hello]);
        Next::Command
    }

    fn start_tls(&mut self) -> Next {
        if self.secured {
            return self.error(503, "5.5.1 TLS is already active");
        }
        if self.profile().tls.is_none() {
            return self.error(502, "5.5.1 STARTTLS is not offered");
        }
        if self.greeted != Greeted::Ehlo {
            return self.error(503, "5.5.1 EHLO first");
        }
        self.say(220, &["2.0.0 Ready to start TLS"]);
        Next::StartTls
    }

    fn mail(&mut self, from: &MailFrom<Cow<'_, str>>) -> Next {
        if self.greeted == Greeted::No {
            return self.error(503, "5.5.1 EHLO or HELO first");
        }
        if self.transaction.is_some() {
            return self.error(503, "5.5.1 A transaction is open: DATA or RSET first");
        }
        if self.profile().messages_per_connection.is_some_and(|limit| self.messages >= limit) {
            self.count_error(421);
            self.say(421, &[self.profile().replies.connection_full]);
            return Next::Close;
        }
        if !self.takes_parameters(from) {
            return self.error(555, "5.5.4 MAIL FROM parameter not recognized or not offered");
        }
        if from.size > self.profile().size_bytes_max {
            return self.error(552, "5.3.4 Message size exceeds fixed maximum message size");
        }
        let smtputf8 = from.flags & MAIL_SMTPUTF8 != 0;
        if !from.address.is_ascii() && !smtputf8 {
            return self.error(553, "5.6.7 Address is not ASCII, and SMTPUTF8 was not asked for");
        }
        let reverse_path = from.address.clone().into_owned();
        self.say_about(250, &[self.profile().replies.mail_ok], &reverse_path, "");
        self.transaction = Some(Transaction { reverse_path, smtputf8, recipients: Vec::new() });
        Next::Command
    }

    /// Only the parameters of extensions that were announced, and none after HELO.
    fn takes_parameters(&self, from: &MailFrom<Cow<'_, str>>) -> bool {
        let profile = self.profile();
        let mut offered = 0;
        if profile.eight_bit_mime {
            offered |= MAIL_BODY_7BIT | MAIL_BODY_8BITMIME;
        }
        if profile.smtputf8 {
            offered |= MAIL_SMTPUTF8;
        }
        let has_none = from.flags == 0 && from.size == 0;
        let other_extensions = from.trans_id.is_some()
            || from.by != 0
            || from.env_id.is_some()
            || from.solicit.is_some()
            || from.mtrk.is_some()
            || from.auth.is_some()
            || from.hold_for != 0
            || from.hold_until != 0
            || from.mt_priority != 0;
        from.flags & !offered == 0 && !other_extensions && (self.greeted == Greeted::Ehlo || has_none)
    }

    fn rcpt(&mut self, to: &RcptTo<Cow<'_, str>>, line: &[u8], now_ms: u64) -> Next {
        let Some(transaction) = &self.transaction else {
            return self.error(503, "5.5.1 MAIL first");
        };
        if to.flags != 0 || to.orcpt.is_some() || to.rrvs != 0 {
            return self.error(555, "5.5.4 RCPT TO parameter not recognized or not offered");
        }
        if transaction.recipients.len() >= self.profile().recipients_max {
            return self.error(452, "4.5.3 Too many recipients");
        }
        if !to.address.is_ascii() && !transaction.smtputf8 {
            return self.error(553, "5.6.7 Address is not ASCII, and SMTPUTF8 was not asked for");
        }
        let forward_path = match to.address.as_ref() {
            // The parser gives `<postmaster>`, which needs no domain, and `<>` the same empty path.
            "" if line.to_ascii_lowercase().windows(12).any(|part| part == b"<postmaster>") => {
                "postmaster".to_owned()
            }
            "" => return self.error(501, "5.1.3 Bad recipient address syntax"),
            path => path.to_owned(),
        };
        let reverse_path = transaction.reverse_path.clone();
        let verdict =
            self.office.mailboxes.attempt(&self.office.profile, &reverse_path, &forward_path, now_ms);
        self.session_id = verdict.mailbox.draw;
        if let Some(refusal) = verdict.refusal.filter(|refusal| refusal.stage == Stage::Rcpt) {
            self.batch.stats.refused(refusal.code);
            return self.refuse(&refusal, &reverse_path, &forward_path);
        }
        self.say_about(250, &[self.profile().replies.rcpt_ok], &reverse_path, &forward_path);
        if let Some(transaction) = &mut self.transaction {
            transaction.recipients.push(Recipient { forward_path, verdict });
        }
        Next::Command
    }

    fn data(&mut self) -> Next {
        match &self.transaction {
            None => self.error(503, "5.5.1 MAIL and RCPT first"),
            Some(transaction) if transaction.recipients.is_empty() => {
                self.error(503, "5.5.1 No valid recipients")
            }
            Some(_) => {
                self.say(354, &[self.profile().replies.data_go]);
                Next::Data
            }
        }
    }

    /// Answers the final dot. `data` is the message after dot-unstuffing, or `None` when it was too big to
    /// keep.
    pub fn message(&mut self, data: Option<&[u8]>, now_ms: u64) -> Next {
        let Some(transaction) = self.transaction.take() else {
            return self.error(503, "5.5.1 MAIL and RCPT first");
        };
        let Some(data) = data else {
            return self.error(552, "5.3.4 Message size exceeds fixed maximum message size");
        };
        let office = Arc::clone(&self.office);
        if transaction.recipients.iter().any(|recipient| recipient.verdict.mailbox.slow) {
            self.batch.delay += office.profile.slow_delay;
        }
        let reverse_path = &transaction.reverse_path;
        let refused = transaction.recipients.iter().find_map(|to| Some((to, to.verdict.refusal?)));
        if let Some((recipient, refusal)) = refused {
            let forward_path = &recipient.forward_path;
            office.mailboxes.refused(&office.profile, reverse_path, forward_path, &refusal, now_ms);
            for _ in &transaction.recipients {
                self.batch.stats.refused(refusal.code);
            }
            self.session_id = recipient.verdict.mailbox.draw;
            return self.refuse(&refusal, reverse_path, forward_path);
        }
        if let Some(recording) = &office.profile.recording {
            let forward_paths = transaction.recipients.iter().map(|to| to.forward_path.as_str());
            office.ledger.record(recording, reverse_path, forward_paths, data);
        }
        self.messages += 1;
        self.batch.stats.messages += 1;
        self.batch.stats.accepted += u64::try_from(transaction.recipients.len()).unwrap_or(0);
        self.say(250, &[office.profile.replies.data_ok]);
        let is_last = office.profile.closes_after_messages.is_some_and(|limit| self.messages >= limit);
        if is_last { Next::Close } else { Next::Command }
    }

    fn refuse(&mut self, refusal: &Reply, reverse_path: &str, forward_path: &str) -> Next {
        self.say_about(refusal.code, refusal.lines, reverse_path, forward_path);
        if refusal.code == 421 { Next::Close } else { Next::Command }
    }

    fn malformed(&mut self, error: &Error) -> Next {
        match error {
            Error::InvalidSenderAddress => self.error(501, "5.1.7 Bad sender address syntax"),
            Error::InvalidRecipientAddress => self.error(501, "5.1.3 Bad recipient address syntax"),
            Error::SyntaxError { syntax } => self.error(501, &format!("5.5.4 Syntax: {syntax}")),
            Error::InvalidParameter { .. } => self.error(501, "5.5.4 Invalid parameter"),
            Error::UnsupportedParameter { .. } => {
                self.error(555, "5.5.4 Parameter not recognized or not offered")
            }
            _ => self.error(500, "5.5.2 Command not recognized"),
        }
    }

    fn ok(&mut self, code: u16, text: &str) -> Next {
        self.say(code, &[text]);
        Next::Command
    }

    fn error(&mut self, code: u16, text: &str) -> Next {
        self.count_error(code);
        self.say(code, &[text]);
        self.errors += 1;
        if self.errors < ERRORS_MAX {
            return Next::Command;
        }
        self.say(421, &["4.7.0 Too many errors"]);
        Next::Close
    }

    fn count_error(&mut self, code: u16) {
        *self.batch.stats.protocol_errors.entry(code).or_default() += 1;
    }

    fn say(&mut self, code: u16, lines: &[&str]) {
        self.say_about(code, lines, "", "");
    }

    fn say_about(&mut self, code: u16, lines: &[&str], reverse_path: &str, forward_path: &str) {
        let context =
            Context { client_ip: &self.client_ip, reverse_path, forward_path, session_id: self.session_id };
        reply::write(&mut self.batch.bytes, code, lines, &context);
    }
}

/// The point of the session that a command stands for, if faults can be scripted there.
pub fn step_of(parsed: &Result<Request<Cow<'_, str>>, Error>) -> Option<Step> {
    match parsed {
        Ok(Request::Ehlo { .. } | Request::Helo { .. }) => Some(Step::Hello),
        Ok(Request::StartTls) => Some(Step::StartTls),
        Ok(Request::Mail { .. }) => Some(Step::Mail),
        Ok(Request::Rcpt { .. }) => Some(Step::Rcpt),
        Ok(Request::Data) => Some(Step::Data),
        Ok(Request::Rset) => Some(Step::Rset),
        Ok(Request::Quit) => Some(Step::Quit),
        _ => None,
    }
}
