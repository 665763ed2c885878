//! A message that its client composed: checked against RFC 5322 and put in order, otherwise left alone.

use sendlake_control::clock::Timestamp;

use super::header::{self, HeaderSection, LINE_BYTES_MAX};
use super::mailbox::{InvalidMailbox, Mailbox};
use crate::submission::{Content, Tracking};

/// A message ready to be stored, with what its header section says.
#[derive(Clone, Debug)]
pub struct RawMessage {
    pub content: Content,
    pub from: Mailbox,
    /// Unfolded and decoded.
    pub subject: Option<String>,
    /// The first text part, or the text of the first HTML part.
    pub text: String,
}

/// Why octets are not a message. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RawFault {
    #[error("the message is empty")]
    Empty,
    #[error("line {line} holds NUL, which no message may (RFC 5322, section 4)")]
    Nul { line: usize },
    #[error("line {line} holds CR without LF: end lines with CRLF, or with LF alone")]
    BareCr { line: usize },
    #[error(
        "line {line} is {octets} octets long; at most {LINE_BYTES_MAX} may stand before CRLF (RFC 5322, section 2.1.1)"
    )]
    LineTooLong { line: usize, octets: usize },
    #[error("there is no header section: the message starts with an empty line")]
    NoHeaders,
    #[error("line {line} is not a header line: write `Name: value`, and an empty line before the body")]
    HeaderLine { line: usize },
    #[error(
        "line {line} is not valid UTF-8; header text is ASCII, encoded words (RFC 2047) or UTF-8 (RFC 6532)"
    )]
    HeaderNotUtf8 { line: usize },
    #[error("there is no From field (RFC 5322, section 3.6)")]
    NoFrom,
    #[error("{name} stands again on line {line}; a message holds one (RFC 5322, section 3.6)")]
    Repeated { name: String, line: usize },
    #[error("From on line {line} must hold exactly one mailbox: {reason}")]
    From { line: usize, reason: InvalidMailbox },
}

impl RawFault {
    /// The stable name of this fault in answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "raw_empty",
            Self::Nul { .. } => "raw_nul",
            Self::BareCr { .. } => "raw_bare_cr",
            Self::LineTooLong { .. } => "raw_line_too_long",
            Self::NoHeaders => "raw_no_headers",
            Self::HeaderLine { .. } => "raw_header_line",
            Self::HeaderNotUtf8 { .. } => "raw_header_not_utf8",
            Self::NoFrom => "raw_no_from",
            Self::Repeated { .. } => "raw_header_repeated",
            Self::From { .. } => "raw_from",
        }
    }
}

/// Checks `message` and puts it in order: lone LF becomes CRLF, the last line gets its CRLF, `Bcc`,
/// `Resent-Bcc` and `Return-Path` go, and a missing `Date` is added. Header section and body part at the first
/// empty line. All other octets stay, so that a signature the client made still holds.
pub fn prepare(message: &[u8], date: Timestamp) -> Result<RawMessage, Vec<RawFault>> {
    let message = with_crlf(message)?;
    let (section, body) = split(&message);
    let fields = fields(section)?;
    let mut faults = Vec::new();
    let mut from = None;
    for (index, field) in fields.iter().enumerate() {
        let earlier = fields.get(..index).unwrap_or_default();
        if header::is_single(field.name) && earlier.iter().any(|other| other.is(field.name)) {
            faults.push(RawFault::Repeated { name: field.name.to_owned(), line: field.line });
        } else if field.is("From") {
            match Mailbox::parse(&field.value()) {
                Ok(mailbox) => from = Some(mailbox),
                Err(reason) => faults.push(RawFault::From { line: field.line, reason }),
            }
        }
    }
    if !fields.iter().any(|field| field.is("From")) {
        faults.push(RawFault::NoFrom);
    }
    let Some(from) = from.filter(|_| faults.is_empty()) else { return Err(faults) };

    let mut headers = HeaderSection::default();
    if !fields.iter().any(|field| field.is("Date")) {
        headers.date(date);
    }
    let mut headers = headers.into_bytes();
    let kept = fields.iter().filter(|f| !["Bcc", "Resent-Bcc", "Return-Path"].iter().any(|name| f.is(name)));
    headers.extend(kept.flat_map(|field| field.lines.as_bytes()));
    let parsed = mail_parser::MessageParser::default().parse(message.as_slice());
    let content = Content {
        needs_smtputf8: !headers.is_ascii(),
        needs_8bitmime: !body.is_ascii(),
        has_message_id: fields.iter().any(|field| field.is("Message-ID")),
        has_feedback_id: fields.iter().any(|field| field.is("Feedback-ID")),
        has_list_unsubscribe: fields
            .iter()
            .any(|field| field.is("List-Unsubscribe") || field.is("List-Unsubscribe-Post")),
        headers,
        body: body.to_vec(),
        tracking: Tracking::default(),
    };
    let subject = parsed.as_ref().and_then(|message| message.subject()).map(str::to_owned);
    let text = parsed.as_ref().and_then(|message| message.body_text(0)).unwrap_or_default().into_owned();
    Ok(RawMessage { content, from, subject, text })
}

/// Lines with CRLF, each short enough; or every fault of this kind, up to a few.
fn with_crlf(message: &[u8]) -> Result<Vec<u8>, Vec<RawFault>> {
    const FAULTS_MAX: usize = 20;
    if message.is_empty() {
        return Err(vec![RawFault::Empty]);
    }
    let mut out = Vec::with_capacity(message.len() + message.len() / 40 + 2);
    let mut faults = Vec::new();
    for (index, line) in message.strip_suffix(b"\n").unwrap_or(message).split(|&b| b == b'\n').enumerate() {
        let number = index + 1;
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.contains(&0) {
            faults.push(RawFault::Nul { line: number });
        }
        if line.contains(&b'\r') {
            faults.push(RawFault::BareCr { line: number });
        }
        if line.len() > LINE_BYTES_MAX {
            faults.push(RawFault::LineTooLong { line: number, octets: line.len() });
        }
        if faults.len() >= FAULTS_MAX {
            break;
        }
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    if faults.is_empty() { Ok(out) } else { Err(faults) }
}

/// The header lines and the body around the first empty line. Without one, everything is header.
fn split(message: &[u8]) -> (&[u8], &[u8]) {
    if let Some(body) = message.strip_prefix(b"\r\n") {
        return (&[], body);
    }
    match message.windows(4).position(|window| window == b"\r\n\r\n") {
        Some(at) => {
            let (section, rest) = message.split_at(at + 2);
            (section, rest.strip_prefix(b"\r\n").unwrap_or(rest))
        }
        None => (message, &[]),
    }
}

/// One header field with its continuation lines.
#[derive(Debug)]
struct Field<'m> {
    name: &'m str,
    /// Whole, with line ends.
    lines: &'m str,
    line: usize,
}

impl Field<'_> {
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    /// Unfolded (RFC 5322, section 2.2.3), not decoded.
    fn value(&self) -> String {
        let value = self.lines.get(self.name.len() + 1..).unwrap_or_default();
        value.replace("\r\n", "").trim().to_owned()
    }
}

fn fields(section: &[u8]) -> Result<Vec<Field<'_>>, Vec<RawFault>> {
    if section.is_empty() {
        return Err(vec![RawFault::NoHeaders]);
    }
    let section = match std::str::from_utf8(section) {
        Ok(section) => section,
        Err(error) => {
            let before = section.get(..error.valid_up_to()).unwrap_or_default();
            let line = 1 + before.iter().filter(|&&b| b == b'\n').count();
            return Err(vec![RawFault::HeaderNotUtf8 { line }]);
        }
    };
    let mut fields: Vec<(usize, usize, &str)> = Vec::new();
    let mut at = 0;
    for (index, line) in section.split_inclusive("\r\n").enumerate() {
        let malformed = || vec![RawFault::HeaderLine { line: index + 1 }];
        if line.starts_with([' ', '\t']) {
            // A continuation needs a line before it, and text: some readers take a blank one for the end.
            if fields.is_empty() || line.trim().is_empty() {
                return Err(malformed());
            }
        } else {
            let name = line.split_once(':').map(|(name, _)| name).ok_or_else(malformed)?;
            header::check_name(name).map_err(|_| malformed())?;
            fields.push((at, index + 1, name));
        }
        at += line.len();
    }
    let ends = fields.iter().skip(1).map(|(start, ..)| *start).chain([section.len()]);
    let spans = fields.iter().zip(ends);
    Ok(spans
        .map(|(&(start, line, name), end)| Field {
            name,
            lines: section.get(start..end).unwrap_or_default(),
            line,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

    fn faults(message: &[u8]) -> Vec<&'static str> {
        prepare(message, NOON).unwrap_err().iter().map(RawFault::code).collect()
    }

    #[test]
    fn header_and_body_part_at_the_first_empty_line() {
        let message = prepare(b"From: a@example.com\nDate: x\n\nHi\n\nBye", NOON).unwrap();
        assert_eq!(message.content.headers, b"From: a@example.com\r\nDate: x\r\n");
        assert_eq!(message.content.body, b"Hi\r\n\r\nBye\r\n");
        assert_eq!(message.from.address.domain(), "example.com");
    }

    #[test]
    fn a_message_of_headers_only_has_an_empty_body() {
        let message = prepare(b"From: a@example.com\r\nSubject: x\r\n", NOON).unwrap();
        assert!(message.content.body.is_empty());
        assert_eq!(message.subject.as_deref(), Some("x"));
    }

    #[test]
    fn private_fields_go_and_a_date_comes() {
        let message = prepare(
            b"Return-Path: <x@y.example>\r\nBcc: secret@example.com,\r\n other@example.com\r\nFrom: a@example.com\r\n\r\n",
            NOON,
        )
        .unwrap();
        let headers = String::from_utf8(message.content.headers).unwrap();
        assert!(headers.starts_with("Date: ") && headers.ends_with("From: a@example.com\r\n"), "{headers}");
        assert!(!headers.contains("example.com\r\n other") && !headers.contains("Return-Path"), "{headers}");
    }

    #[test]
    fn the_clients_own_fields_are_kept_and_flagged() {
        let message = prepare(
            "From: a@example.com\nMessage-ID: <1@x>\nList-Unsubscribe: <https://x>\nSubject: größe\n\nä\n"
                .as_bytes(),
            NOON,
        )
        .unwrap();
        let content = &message.content;
        assert!(content.has_message_id && content.has_list_unsubscribe);
        assert!(content.needs_smtputf8 && content.needs_8bitmime);
    }

    #[test]
    fn what_is_not_a_message_says_why() {
        for (message, code) in [
            (&b""[..], "raw_empty"),
            (b"\r\nHello", "raw_no_headers"),
            (b"Hello there\r\n\r\nBody", "raw_header_line"),
            (b"From ann Mon Jan 1\r\nFrom: a@example.com\r\n\r\n", "raw_header_line"),
            (b" folded: first\r\n\r\n", "raw_header_line"),
            (b"From: a@example.com\r\n \r\n\r\n", "raw_header_line"),
            (b"Subject: x\r\n\r\n", "raw_no_from"),
            (b"From: a@example.com, b@example.com\r\n\r\n", "raw_from"),
            (b"From: a@example.com\r\nFrom: b@example.com\r\n\r\n", "raw_header_repeated"),
            (b"From: a@example.com\r\nSubject: a\rb\r\n\r\n", "raw_bare_cr"),
            (b"From: a@example.com\r\n\r\nx\0y", "raw_nul"),
            (b"From: a@example.com\r\nSubject: \xff\r\n\r\n", "raw_header_not_utf8"),
        ] {
            assert_eq!(faults(message), [code], "{}", message.escape_ascii());
        }
        let long = [b"From: a@example.com\r\n\r\n".as_slice(), "x".repeat(999).as_bytes()].concat();
        assert_eq!(faults(&long), ["raw_line_too_long"]);
    }

    #[test]
    fn every_fault_is_told_at_once() {
        assert_eq!(
            faults(b"From: a\r\nSubject: x\r\nSubject: y\r\n\r\n"),
            ["raw_from", "raw_header_repeated"]
        );
    }
}
