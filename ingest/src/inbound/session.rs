//! The server's half of one conversation as a state machine: command lines in, replies out, no I/O.

use std::borrow::Cow;

use smtp_proto::{Error, MAIL_BODY_7BIT, MAIL_BODY_8BITMIME, MailFrom, RcptTo, Request};

use super::clients::Client;
use super::{InboundSettings, Postmaster, Reply};

/// After so many malformed or misplaced commands, or refused recipients, the conversation ends.
const FAULTS_MAX: u32 = 20;
/// RFC 5321, section 4.5.3.1.4 asks for 512 octets; with room for parameters.
pub const LINE_BYTES_MAX: usize = 2_048;

/// What comes after the replies so far are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Command,
    /// A message up to its final dot.
    Data,
    /// A TLS handshake, then a conversation from its beginning (RFC 3207, section 4.2).
    StartTls,
    Close,
}

/// A mail whose recipients are being named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    pub reverse_path: String,
    pub recipients: Vec<String>,
}

/// One conversation.
pub struct Session<'a> {
    postmaster: &'a dyn Postmaster,
    settings: &'a InboundSettings,
    client: &'a Client,
    is_secure: bool,
    greeted: Greeted,
    envelope: Option<Envelope>,
    messages: u32,
    faults: u32,
    out: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Greeted {
    No,
    Helo,
    Ehlo,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        postmaster: &'a dyn Postmaster,
        settings: &'a InboundSettings,
        client: &'a Client,
    ) -> Self {
        Self {
            postmaster,
            settings,
            client,
            is_secure: false,
            greeted: Greeted::No,
            envelope: None,
            messages: 0,
            faults: 0,
            out: Vec::new(),
        }
    }

    pub fn banner(&mut self) {
        let text = format!("{} ESMTP sendlake: bounces and feedback reports only", self.settings.hostname);
        self.say(&Reply::new(220, text));
    }

    /// Replies that wait to be sent.
    pub fn take_replies(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Answers one line, which ends with the octets it came with.
    pub fn line(&mut self, line: &[u8]) -> Next {
        let Some(text) = line.strip_suffix(b"\r\n") else { return self.bare_line_end() };
        if text.contains(&b'\r') {
            return self.bare_line_end();
        }
        match Request::parse(&mut line.iter()) {
            Ok(Request::Ehlo { .. }) => self.ehlo(),
            Ok(Request::Helo { .. }) => {
                self.envelope = None;
                self.greeted = Greeted::Helo;
                self.ok(&Reply::new(250, self.settings.hostname.clone()))
            }
            Ok(Request::Mail { from }) => self.mail(&from),
            Ok(Request::Rcpt { to }) => self.rcpt(&to, line),
            Ok(Request::Data) => self.data(),
            Ok(Request::Rset) => {
                self.envelope = None;
                self.ok(&Reply::new(250, "2.0.0 OK"))
            }
            Ok(Request::StartTls) => self.start_tls(),
            Ok(Request::Noop { .. }) => self.ok(&Reply::new(250, "2.0.0 OK")),
            Ok(Request::Vrfy { .. }) => {
                self.ok(&Reply::new(252, "2.1.5 will not say, but takes mail for the addresses it made"))
            }
            Ok(Request::Help { .. }) => self.ok(&Reply::new(214, "2.0.0 see RFC 5321")),
            Ok(Request::Quit) => {
                self.say(&Reply::new(221, "2.0.0 bye"));
                Next::Close
            }
            Ok(_) => self.fault(502, "5.5.1 command not implemented"),
            Err(error) => self.malformed(&error),
        }
    }

    /// The handshake is done: what was said in the clear counts no more.
    pub fn secured(&mut self) {
        self.is_secure = true;
        self.greeted = Greeted::No;
        self.envelope = None;
    }

    /// Something came with STARTTLS, before the handshake: it may be somebody else's.
    pub fn spoke_too_early(&mut self) -> Next {
        self.out.clear();
        self.say(&Reply::new(554, "5.5.1 nothing may follow STARTTLS before the handshake"));
        Next::Close
    }

    pub fn line_too_long(&mut self) -> Next {
        self.fault(500, "5.5.2 line too long")
    }

    pub fn bare_line_end(&mut self) -> Next {
        self.say(&Reply::new(550, "5.5.2 a line must end with CR LF, and hold neither of them alone"));
        Next::Close
    }

    pub fn timed_out(&mut self) {
        self.say(&Reply::new(421, "4.4.2 waited too long"));
    }

    pub fn lasted_too_long(&mut self) {
        self.say(&Reply::new(
            421,
            "4.4.2 this connection has been open for too long; come back with another one",
        ));
    }

    pub fn stopping(&mut self) {
        self.say(&Reply::new(421, "4.3.2 the server is stopping; come back later"));
    }

    pub fn too_big(&mut self) -> Next {
        self.envelope = None;
        let max = self.settings.message_bytes_max;
        self.fault(552, &format!("5.3.4 the mail is larger than {max} octets"))
    }

    /// The envelope of the mail whose final dot was read.
    pub fn take_envelope(&mut self) -> Envelope {
        self.envelope.take().unwrap_or_default()
    }

    /// Sends the answer to a mail.
    pub fn answer(&mut self, reply: &Reply) -> Next {
        self.messages += 1;
        if !reply.is_positive() {
            return self.fault(reply.code, &reply.text);
        }
        self.ok(reply)
    }

    fn ehlo(&mut self) -> Next {
        self.envelope = None;
        self.greeted = Greeted::Ehlo;
        let mut lines = vec![
            self.settings.hostname.clone(),
            format!("SIZE {}", self.settings.message_bytes_max),
            "8BITMIME".into(),
            "ENHANCEDSTATUSCODES".into(),
            "PIPELINING".into(),
        ];
        if self.offers_tls() {
            lines.push("STARTTLS".into());
        }
        let last = lines.len() - 1;
        for (index, line) in lines.iter().enumerate() {
            let separator = if index == last { ' ' } else { '-' };
            self.out.extend_from_slice(format!("250{separator}{line}\r\n").as_bytes());
        }
        Next::Command
    }

    fn offers_tls(&self) -> bool {
        self.settings.tls.is_some() && !self.is_secure
    }

    fn start_tls(&mut self) -> Next {
        if self.is_secure {
            return self.fault(503, "5.5.1 TLS is on already");
        }
        if !self.offers_tls() {
            return self.fault(502, "5.5.1 STARTTLS is not offered here");
        }
        self.say(&Reply::new(220, "2.0.0 ready to start TLS"));
        Next::StartTls
    }

    fn mail(&mut self, from: &MailFrom<Cow<'_, str>>) -> Next {
        if self.greeted == Greeted::No {
            return self.fault(503, "5.5.1 EHLO or HELO first");
        }
        if self.envelope.is_some() {
            return self.fault(503, "5.5.1 a mail is open: DATA or RSET first");
        }
        if self.messages >= self.settings.messages_per_session_max {
            self.say(&Reply::new(421, "4.7.0 enough mail for one connection"));
            return Next::Close;
        }
        let known = MAIL_BODY_7BIT | MAIL_BODY_8BITMIME;
        let has_parameters = from.flags != 0 || from.size != 0;
        if from.flags & !known != 0 || (has_parameters && self.greeted != Greeted::Ehlo) {
            return self.fault(555, "5.5.4 a parameter of MAIL FROM is not offered here");
        }
        if from.size > self.settings.message_bytes_max {
            let max = self.settings.message_bytes_max;
            return self.fault(552, &format!("5.3.4 the mail is larger than {max} octets"));
        }
        if !self.client.may_send() {
            return self.fault(451, "4.7.1 too many mails from your network in a minute; come back later");
        }
        self.envelope =
            Some(Envelope { reverse_path: from.address.clone().into_owned(), recipients: Vec::new() });
        self.ok(&Reply::new(250, "2.1.0 OK"))
    }

    fn rcpt(&mut self, to: &RcptTo<Cow<'_, str>>, line: &[u8]) -> Next {
        let Some(envelope) = &mut self.envelope else { return self.fault(503, "5.5.1 MAIL first") };
        if envelope.recipients.len() >= self.settings.recipients_max {
            return self.fault(452, "4.5.3 too many recipients");
        }
        let address = match to.address.as_ref() {
            // the parser gives `<postmaster>`, which needs no domain, and `<>` the same empty path
            "" if line.to_ascii_lowercase().windows(12).any(|part| part == b"<postmaster>") => "postmaster",
            "" => return self.fault(501, "5.1.3 not an address"),
            address => address,
        };
        match self.postmaster.recipient(address) {
            Ok(()) => {
                envelope.recipients.push(address.to_owned());
                self.ok(&Reply::new(250, "2.1.5 OK"))
            }
            Err(refused) => self.fault(refused.code, &refused.text),
        }
    }

    fn data(&mut self) -> Next {
        match &self.envelope {
            None => self.fault(503, "5.5.1 MAIL and RCPT first"),
            Some(envelope) if envelope.recipients.is_empty() => self.fault(554, "5.5.1 no valid recipients"),
            Some(_) => {
                self.say(&Reply::new(354, "end with CR LF . CR LF"));
                Next::Data
            }
        }
    }

    fn malformed(&mut self, error: &Error) -> Next {
        match error {
            Error::InvalidSenderAddress => self.fault(501, "5.1.7 not a reverse-path"),
            Error::InvalidRecipientAddress => self.fault(501, "5.1.3 not an address"),
            Error::SyntaxError { syntax } => self.fault(501, &format!("5.5.4 syntax: {syntax}")),
            Error::InvalidParameter { .. } => self.fault(501, "5.5.4 a parameter cannot be read"),
            Error::UnsupportedParameter { .. } => self.fault(555, "5.5.4 a parameter is not offered here"),
            _ => self.fault(500, "5.5.2 command not recognized"),
        }
    }

    fn ok(&mut self, reply: &Reply) -> Next {
        self.say(reply);
        Next::Command
    }

    fn fault(&mut self, code: u16, text: &str) -> Next {
        self.say(&Reply::new(code, text));
        self.faults += 1;
        if self.faults < FAULTS_MAX {
            return Next::Command;
        }
        self.say(&Reply::new(421, "4.7.0 too many errors"));
        Next::Close
    }

    fn say(&mut self, reply: &Reply) {
        // what stands in a reply may come from the client: it must not become a reply of its own
        let text: String = reply.text.chars().filter(|c| !c.is_control()).take(400).collect();
        self.out.extend_from_slice(format!("{} {text}\r\n", reply.code).as_bytes());
    }
}
