//! What an SMTP server answered: read from the wire with hard limits, kept as a short clean text.
//!
//! smtp-proto's reader is not used here, for three reasons: it keeps each part of an enhanced status in eight
//! bits, so that Microsoft's 5.7.509 reads as 5.7.255; it takes lines with different codes for one reply; and
//! it drops the lines that EHLO's extensions are listed in.

use std::fmt;

/// Longest line taken, with its line end. RFC 5321, section 4.5.3.1.5, allows 512; some servers send more.
pub const LINE_BYTES_MAX: usize = 2048;
/// Longest reply taken, over all its lines.
pub const REPLY_BYTES_MAX: usize = 8192;
/// Most lines of one reply.
pub const LINES_MAX: usize = 128;
/// Longest text kept of a reply.
pub const TEXT_CHARS_MAX: usize = 1024;

/// An enhanced status code (RFC 3463): class, subject, detail.
pub type Enhanced = (u8, u16, u16);

/// As it stands in events and on the wire: `5.7.509`.
pub fn status_text((class, subject, detail): Enhanced) -> String {
    format!("{class}.{subject}.{detail}")
}

/// What the first digit of a reply code says (RFC 5321, section 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyClass {
    /// 2yz: done.
    Positive,
    /// 3yz: go on.
    Intermediate,
    /// 4yz: not now.
    Transient,
    /// 5yz: not like this.
    Permanent,
}

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    pub enhanced: Option<Enhanced>,
    /// All lines joined by spaces, without codes; lossy UTF-8, control characters escaped, at most
    /// [`TEXT_CHARS_MAX`] characters.
    pub text: String,
}

/// Why bytes are not a reply. Any of these ends the session: where the next reply starts is unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("the server sent {seen:?}, which is not an SMTP reply")]
    NotAReply { seen: String },
    #[error("the server changed its reply code from {first} to {then} within one reply")]
    CodeChanged { first: u16, then: u16 },
    #[error("the server sent a line longer than {LINE_BYTES_MAX} octets")]
    LineTooLong,
    #[error("the server sent a reply longer than {REPLY_BYTES_MAX} octets")]
    TooLong,
    #[error("the server sent a reply of more than {LINES_MAX} lines")]
    TooManyLines,
}

/// A reply and what it took on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParsedReply {
    pub reply: Reply,
    /// Each line without its code, lossy UTF-8: what EHLO's extensions are read from.
    pub lines: Vec<String>,
    /// Octets of the input that were this reply's.
    pub bytes: usize,
}

impl Reply {
    /// A reply that sendlake gives itself, where no server was asked.
    pub fn local(code: u16, enhanced: Enhanced, text: impl Into<String>) -> Self {
        Self { code, enhanced: Some(enhanced), text: text.into() }
    }

    pub fn class(&self) -> ReplyClass {
        match self.code / 100 {
            2 => ReplyClass::Positive,
            3 => ReplyClass::Intermediate,
            4 => ReplyClass::Transient,
            _ => ReplyClass::Permanent,
        }
    }

    pub fn is_positive(&self) -> bool {
        self.class() == ReplyClass::Positive
    }

    /// 421: the server closes the connection, whatever was asked (RFC 5321, section 3.8).
    pub fn closes(&self) -> bool {
        self.code == 421
    }

    /// The enhanced status as it stands in events: `5.1.1`.
    pub fn enhanced_status(&self) -> Option<String> {
        self.enhanced.map(status_text)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(status) = self.enhanced_status() {
            write!(f, " {status}")?;
        }
        if !self.text.is_empty() {
            write!(f, " {}", self.text)?;
        }
        Ok(())
    }
}

/// Reads the reply at the front of `bytes`. `Ok(None)`: so far so good, more is needed. Takes any bytes
/// without panic, in time linear in its limits.
pub fn parse_reply(bytes: &[u8]) -> Result<Option<ParsedReply>, ReplyError> {
    let mut code = None;
    let mut lines = Vec::new();
    let mut start = 0;
    loop {
        let rest = bytes.get(start..).unwrap_or_default();
        let Some(end) = rest.iter().take(LINE_BYTES_MAX).position(|&b| b == b'\n') else {
            if rest.len() >= LINE_BYTES_MAX {
                return Err(ReplyError::LineTooLong);
            }
            if bytes.len() >= REPLY_BYTES_MAX {
                return Err(ReplyError::TooLong);
            }
            // An HTTP server or a binary protocol is recognised at once, not after a timeout.
            if !rest.iter().take(3).all(u8::is_ascii_digit) {
                return Err(not_a_reply(rest));
            }
            return Ok(None);
        };
        if start + end >= REPLY_BYTES_MAX {
            return Err(ReplyError::TooLong);
        }
        let line = rest.get(..end).unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let (line_code, last, text) = split_line(line).ok_or_else(|| not_a_reply(line))?;
        match code {
            Some(first) if first != line_code => {
                return Err(ReplyError::CodeChanged { first, then: line_code });
            }
            _ => code = Some(line_code),
        }
        lines.push(String::from_utf8_lossy(text).into_owned());
        start += end + 1;
        if last {
            let reply = Reply::from_lines(line_code, &lines);
            return Ok(Some(ParsedReply { reply, lines, bytes: start }));
        }
        if lines.len() >= LINES_MAX {
            return Err(ReplyError::TooManyLines);
        }
    }
}

/// Code, whether this is the reply's last line, and the text.
fn split_line(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_at_checked(3)?;
    let code = std::str::from_utf8(digits).ok().filter(|d| d.bytes().all(|b| b.is_ascii_digit()))?;
    let code = code.parse().ok().filter(|code| (200..600).contains(code))?;
    match rest {
        // A bare code is against the grammar, but RFC 5321, section 4.2, tells clients to take it.
        [] => Some((code, true, rest)),
        [b' ', text @ ..] => Some((code, true, text)),
        [b'-', text @ ..] => Some((code, false, text)),
        _ => None,
    }
}

fn not_a_reply(seen: &[u8]) -> ReplyError {
    ReplyError::NotAReply { seen: String::from_utf8_lossy(seen.get(..60).unwrap_or(seen)).into_owned() }
}

impl Reply {
    fn from_lines(code: u16, lines: &[String]) -> Self {
        let enhanced = lines.first().and_then(|line| split_enhanced(line)).map(|(status, _)| status);
        let mut text = String::new();
        let mut chars = 0;
        let pieces = lines.iter().map(|line| match split_enhanced(line) {
            // Gmail and others repeat the status on every line.
            Some((status, rest)) if Some(status) == enhanced => rest.trim(),
            _ => line.trim(),
        });
        for piece in pieces.filter(|piece| !piece.is_empty()) {
            let gap = (chars > 0).then_some(' ');
            for c in gap.into_iter().chain(piece.chars()) {
                let c = if c == '\t' { ' ' } else { c };
                let room = TEXT_CHARS_MAX - chars;
                if c.is_control() {
                    let escaped = c.escape_default();
                    if escaped.len() > room {
                        return Self { code, enhanced, text };
                    }
                    chars += escaped.len();
                    text.extend(escaped);
                } else {
                    if room == 0 {
                        return Self { code, enhanced, text };
                    }
                    chars += 1;
                    text.push(c);
                }
            }
        }
        Self { code, enhanced, text }
    }
}

/// `5.7.509 Access denied` → the status and what follows it (RFC 2034, section 4; RFC 3463, section 2).
fn split_enhanced(line: &str) -> Option<(Enhanced, &str)> {
    let (status, rest) = line.split_once(' ').unwrap_or((line, ""));
    let mut parts = status.splitn(3, '.');
    let class = parts.next().filter(|class| matches!(*class, "2" | "4" | "5"))?;
    let mut number = || {
        let part = parts.next()?;
        let well_formed = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        if well_formed { part.parse().ok() } else { None }
    };
    Some(((class.parse().ok()?, number()?, number()?), rest))
}

/// Bytes that came from a server and were not yet read as replies: never more than [`REPLY_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct ReplyBuffer {
    bytes: Vec<u8>,
}

impl ReplyBuffer {
    /// How many octets may be read from the wire before [`ReplyBuffer::next`] must be asked again.
    pub fn room(&self) -> usize {
        REPLY_BYTES_MAX.saturating_sub(self.bytes.len())
    }

    /// Takes octets from the wire; what exceeds [`ReplyBuffer::room`] is left out, so read no more than that.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes.iter().take(self.room()));
    }

    /// The next reply, if all of it is here.
    #[expect(clippy::should_implement_trait, reason = "not an iterator: it goes on after None")]
    pub fn next(&mut self) -> Result<Option<ParsedReply>, ReplyError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let parsed = parse_reply(&self.bytes)?;
        if let Some(parsed) = &parsed {
            self.bytes.drain(..parsed.bytes.min(self.bytes.len()));
        }
        Ok(parsed)
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reply(wire: &str) -> Reply {
        parse_reply(wire.as_bytes()).unwrap().unwrap().reply
    }

    #[test]
    fn replies_as_providers_send_them() {
        for (wire, shown, class) in [
            (
                "250 2.0.0 OK  1700000000 a-b.1 - gsmtp\r\n",
                "250 2.0.0 OK  1700000000 a-b.1 - gsmtp",
                ReplyClass::Positive,
            ),
            ("354 Go ahead\r\n", "354 Go ahead", ReplyClass::Intermediate),
            (
                "550-5.1.1 The email account that you tried to reach does not exist.\r\n550 5.1.1 Try again\r\n",
                "550 5.1.1 The email account that you tried to reach does not exist. Try again",
                ReplyClass::Permanent,
            ),
            (
                "550 5.7.509 Access denied, sending domain does not pass DMARC\r\n",
                "550 5.7.509 Access denied, sending domain does not pass DMARC",
                ReplyClass::Permanent,
            ),
            ("421 4.7.0 [TSS04] deferred\n", "421 4.7.0 [TSS04] deferred", ReplyClass::Transient),
            ("220\r\n", "220", ReplyClass::Positive),
            ("250-\r\n250-\r\n250 x\r\n", "250 x", ReplyClass::Positive),
            ("550 2address.example unknown\r\n", "550 2address.example unknown", ReplyClass::Permanent),
        ] {
            assert_eq!(reply(wire).to_string(), shown);
            assert_eq!(reply(wire).class(), class);
        }
        assert_eq!(reply("550 5.7.509 x\r\n").enhanced, Some((5, 7, 509)));
        assert_eq!(reply("550 5.7.5090 x\r\n").enhanced, None);
        assert!(reply("421 bye\r\n").closes());
    }

    #[test]
    fn text_is_clean_and_short() {
        let bell = parse_reply(b"550 a\x07b\0\xff\tc\r\r\n").unwrap().unwrap().reply;
        assert_eq!(bell.text, "a\\u{7}b\\u{0}\u{fffd} c");
        let long = (0..4).map(|_| format!("550-{}\r\n", "é".repeat(500))).collect::<String>() + "550 end\r\n";
        assert_eq!(reply(&long).text.chars().count(), TEXT_CHARS_MAX);
    }

    #[test]
    fn what_is_not_a_reply_is_named() {
        let error = |wire: &[u8]| parse_reply(wire).unwrap_err();
        assert!(matches!(error(b"HTTP/1.1 400 Bad Request\r\n"), ReplyError::NotAReply { .. }));
        assert!(matches!(error(b"\x16\x03\x01"), ReplyError::NotAReply { .. }));
        assert!(matches!(error(b"2x0 ok\r\n"), ReplyError::NotAReply { .. }));
        assert!(matches!(error(b"250+ok\r\n"), ReplyError::NotAReply { .. }));
        assert!(matches!(error(b"199 ok\r\n"), ReplyError::NotAReply { .. }));
        assert!(matches!(error(b"700 ok\r\n"), ReplyError::NotAReply { .. }));
        assert!(matches!(error(b"\r\n"), ReplyError::NotAReply { .. }));
        assert_eq!(error(b"250-a\r\n550 b\r\n"), ReplyError::CodeChanged { first: 250, then: 550 });
        assert_eq!(error(format!("250 {}", "x".repeat(100_000)).as_bytes()), ReplyError::LineTooLong);
        assert_eq!(error(format!("250-{}\r\n", "x".repeat(1000)).repeat(9).as_bytes()), ReplyError::TooLong);
        assert_eq!(error("250-x\r\n".repeat(LINES_MAX).as_bytes()), ReplyError::TooManyLines);
    }

    #[test]
    fn replies_that_arrive_together_or_in_pieces_are_all_read() {
        let wire = b"250 one\r\n250-two\r\n250 2.1.5 three\r\n354 go\r\n";
        for step in 1..wire.len() {
            let mut buffer = ReplyBuffer::default();
            let mut codes = Vec::new();
            for piece in wire.chunks(step) {
                buffer.push(piece);
                while let Some(parsed) = buffer.next().unwrap() {
                    codes.push((parsed.reply.code, parsed.lines.len()));
                }
            }
            assert_eq!(codes, [(250, 1), (250, 2), (354, 1)], "pieces of {step}");
            assert!(buffer.is_empty());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_bytes_are_taken_within_limits(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            if let Ok(Some(parsed)) = parse_reply(&bytes) {
                prop_assert!(parsed.bytes <= bytes.len());
                prop_assert!(parsed.reply.text.chars().count() <= TEXT_CHARS_MAX);
                prop_assert!(!parsed.reply.text.chars().any(char::is_control));
            }
        }

        #[test]
        fn anything_after_a_code_is_taken_within_limits(
            lines in proptest::collection::vec(("[2-5][05]0[- ]", ".{0,40}"), 1..140),
        ) {
            let wire: String = lines.iter().map(|(code, text)| format!("{code}{text}\r\n")).collect();
            let mut buffer = ReplyBuffer::default();
            for piece in wire.as_bytes().chunks(97) {
                buffer.push(piece);
                prop_assert!(buffer.room() <= REPLY_BYTES_MAX);
                match buffer.next() {
                    Ok(Some(parsed)) => {
                        prop_assert!(parsed.reply.text.chars().count() <= TEXT_CHARS_MAX);
                        prop_assert!(parsed.lines.len() <= LINES_MAX);
                    }
                    Ok(None) => {}
                    Err(_) => return Ok(()),
                }
            }
        }
    }
}
