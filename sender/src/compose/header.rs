//! A header section: names and values checked, encoded (RFC 2047) and folded (RFC 5322, section 2.2.3).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sendlake_control::clock::Timestamp;

use super::mailbox::Mailbox;

/// Longest line without its CRLF (RFC 5322, section 2.1.1).
pub const LINE_BYTES_MAX: usize = 998;
/// Lines are folded to stay within this where they can be (RFC 5322, section 2.1.1).
const LINE_BYTES_WANTED: usize = 76;
/// Longest field name: the first word of its value must still fit on its line.
const NAME_BYTES_MAX: usize = 76;
/// Longest run without white space in a field that is not encoded.
const WORD_BYTES_MAX: usize = LINE_BYTES_MAX - NAME_BYTES_MAX - 2;

/// Longest run of white space between two words.
const GAP_BYTES_MAX: usize = 32;

/// Why a client may not set a header field to a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    #[error("a header name is 1 to {NAME_BYTES_MAX} visible ASCII characters without ':'")]
    Name,
    #[error("{name} is not set by clients: {reason}")]
    Reserved { name: String, reason: &'static str },
    #[error("{0} may stand only once in a message (RFC 5322, section 3.6)")]
    Repeated(String),
    #[error(
        "a header value must not hold CR, LF, NUL or other control characters: they could start a new line"
    )]
    ControlCharacter,
    #[error("a header value must not be empty")]
    Empty,
    #[error("{0} holds identifiers and takes ASCII only")]
    NotAscii(String),
    #[error("a word longer than {WORD_BYTES_MAX} octets cannot be folded (RFC 5322, section 2.1.1)")]
    WordTooLong,
    #[error("a Message-ID looks like <unique@example.com>, without white space")]
    MessageId,
}

impl HeaderFault {
    /// The stable name of this fault in answers.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Name => "invalid_header_name",
            Self::Reserved { .. } => "header_reserved",
            Self::Repeated(_) => "header_repeated",
            Self::ControlCharacter => "control_character",
            Self::Empty => "empty",
            Self::NotAscii(_) => "header_not_ascii",
            Self::WordTooLong => "header_line_too_long",
            Self::MessageId => "invalid_message_id",
        }
    }

    /// Whether the name is at fault, not the value.
    pub fn is_about_name(&self) -> bool {
        matches!(self, Self::Name | Self::Reserved { .. } | Self::Repeated(_))
    }
}

/// Checks a field that a client wants in its message.
pub fn check(name: &str, value: &str) -> Result<(), HeaderFault> {
    check_name(name)?;
    if let Some(reason) = reserved(&name.to_ascii_lowercase()) {
        return Err(HeaderFault::Reserved { name: name.to_owned(), reason });
    }
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err(HeaderFault::ControlCharacter);
    }
    if value.trim().is_empty() {
        return Err(HeaderFault::Empty);
    }
    if !value.is_ascii() {
        return if is_structured(name) { Err(HeaderFault::NotAscii(name.to_owned())) } else { Ok(()) };
    }
    if value.split([' ', '\t']).any(|word| word.len() > WORD_BYTES_MAX) {
        return Err(HeaderFault::WordTooLong);
    }
    if name.eq_ignore_ascii_case("Message-ID") && !is_message_id(value.trim()) {
        return Err(HeaderFault::MessageId);
    }
    Ok(())
}

/// A field name: `ftext` of RFC 5322, section 3.6.8.
pub fn check_name(name: &str) -> Result<(), HeaderFault> {
    let well_formed = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_ftext);
    if well_formed { Ok(()) } else { Err(HeaderFault::Name) }
}

pub(super) fn is_ftext(byte: u8) -> bool {
    matches!(byte, 33..=57 | 59..=126)
}

/// Why `name` (lower case) is not for clients to set, if it is not.
fn reserved(name: &str) -> Option<&'static str> {
    Some(match name {
        "from" | "to" | "cc" | "bcc" | "reply-to" | "subject" => "use the request's field of that name",
        "sender" => "the mailbox in `from` is the sender",
        "date" => "it is the time of acceptance, or `send_at`",
        "return-path" => "the receiving server writes it; bounces come to sendlake's own return path",
        "received" => "servers that relay a message write it",
        "dkim-signature" => "sendlake signs with the key of the sending domain",
        "feedback-id" => "sendlake makes it from stream, campaign and tenant",
        "authentication-results" => "the receiving server writes it",
        "mime-version" => "it follows from the body parts",
        _ if name.starts_with("content-") => "it follows from the body parts",
        _ if name.starts_with("resent-") => "it belongs to a message that is sent on",
        _ if name.starts_with("arc-") => "servers that forward a message write it",
        _ => return None,
    })
}

/// Whether a message holds at most one such field (RFC 5322, section 3.6; RFC 8058, section 3.1 for the last two).
pub fn is_single(name: &str) -> bool {
    const SINGLE: [&str; 13] = [
        "Date",
        "From",
        "Sender",
        "Reply-To",
        "To",
        "Cc",
        "Bcc",
        "Message-ID",
        "In-Reply-To",
        "References",
        "Subject",
        "List-Unsubscribe",
        "List-Unsubscribe-Post",
    ];
    SINGLE.iter().any(|single| name.eq_ignore_ascii_case(single))
}

/// Fields whose values are not free text, so that encoded words may not stand in them.
fn is_structured(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    matches!(name.as_str(), "message-id" | "in-reply-to" | "references" | "auto-submitted" | "precedence")
        || name.starts_with("list-")
}

fn is_message_id(value: &str) -> bool {
    let inner = value.strip_prefix('<').and_then(|rest| rest.strip_suffix('>'));
    inner.and_then(|inner| inner.split_once('@')).is_some_and(|(left, right)| {
        let fits = |side: &str| {
            !side.is_empty() && side.bytes().all(|b| b.is_ascii_graphic() && !b"<>@()\",;:\\".contains(&b))
        };
        // A no-fold-literal on the right, [192.0.2.1] or [IPv6:…], is RFC 5322 too.
        let literal = right.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        fits(left) && literal.map_or_else(|| fits(right), |inner| fits(&inner.replace(':', ".")))
    })
}

/// Header lines as they are written, each with its CRLF. A control character that got past the checks
/// becomes a space: no input makes a second line.
#[derive(Clone, Debug, Default)]
pub struct HeaderSection(Vec<u8>);

impl HeaderSection {
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// `Date:` in UTC (RFC 5322, section 3.3).
    pub fn date(&mut self, date: Timestamp) {
        self.raw("Date", &format_date(date));
    }

    /// A list of mailboxes, or nothing when there are none.
    pub fn mailboxes(&mut self, name: &str, mailboxes: &[Mailbox]) {
        let mut words = Vec::new();
        for (index, mailbox) in mailboxes.iter().enumerate() {
            let comma = if index + 1 < mailboxes.len() { "," } else { "" };
            match &mailbox.name {
                None => words.push(format!("{}{comma}", mailbox.address)),
                Some(phrase) => {
                    words.extend(phrase_words(phrase));
                    words.push(format!("<{}>{comma}", mailbox.address));
                }
            }
        }
        if !words.is_empty() {
            self.line(name, words.iter().map(|word| (" ", word.as_str())));
        }
    }

    /// A field of free text: encoded where it must be, else folded as it is.
    pub fn text(&mut self, name: &str, value: &str) {
        let value = without_controls(value);
        let value = value.trim();
        let word_too_long = value.split(' ').any(|word| word.len() > WORD_BYTES_MAX);
        // An ASCII subject with "=?" in it would be decoded by its reader into something else.
        let looks_encoded = name.eq_ignore_ascii_case("Subject") && value.contains("=?");
        if value.is_ascii() && !word_too_long && !looks_encoded {
            self.raw(name, value);
        } else {
            let words = encoded_words(value);
            self.line(name, words.iter().map(|word| (" ", word.as_str())));
        }
    }

    /// A field whose value is ASCII and stands as it is, folded where it has white space.
    pub fn raw(&mut self, name: &str, value: &str) {
        let value = without_controls(value);
        let mut rest = value.trim();
        let mut words = Vec::new();
        while !rest.is_empty() {
            let gap = rest.len() - rest.trim_start_matches(' ').len();
            let word = rest.get(gap..).unwrap_or_default();
            let end = gap + word.find(' ').unwrap_or(word.len());
            let (this, next) = rest.split_at(end);
            let (white, word) = this.split_at(gap);
            // Only white space between words can be this long; cut short, it says the same.
            words.push((white.get(..GAP_BYTES_MAX).unwrap_or(white), word));
            rest = next;
        }
        self.line(name, words.into_iter().map(|(gap, word)| (if gap.is_empty() { " " } else { gap }, word)));
    }

    fn line<'a>(&mut self, name: &str, words: impl Iterator<Item = (&'a str, &'a str)>) {
        self.0.extend(name.bytes().filter(|&b| is_ftext(b)));
        self.0.push(b':');
        let mut column = name.len() + 1;
        for (index, (gap, word)) in words.enumerate() {
            if index > 0 && column + gap.len() + word.len() > LINE_BYTES_WANTED {
                self.0.extend_from_slice(b"\r\n");
                column = 0;
            }
            self.0.extend_from_slice(gap.as_bytes());
            self.0.extend_from_slice(word.as_bytes());
            column += gap.len() + word.len();
        }
        self.0.extend_from_slice(b"\r\n");
    }
}

/// `Sun, 22 Nov 2026 06:10:00 +0000`.
pub fn format_date(at: Timestamp) -> String {
    at.to_chrono().format("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

fn without_controls(value: &str) -> String {
    value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A display name as the words of a phrase: atoms, a quoted string or encoded words.
fn phrase_words(name: &str) -> Vec<String> {
    const QUOTED_BYTES_MAX: usize = 200;
    let name = without_controls(name);
    let is_atom = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b))
    };
    if !name.is_ascii() || name.contains("=?") || name.len() > QUOTED_BYTES_MAX {
        encoded_words(&name)
    } else if name.split(' ').all(is_atom) {
        name.split(' ').map(str::to_owned).collect()
    } else {
        vec![format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))]
    }
}

/// `text` as encoded words in UTF-8 and base64, each within 75 characters and none splitting a character
/// (RFC 2047, sections 2 and 5). White space between them is not part of the text.
fn encoded_words(text: &str) -> Vec<String> {
    // "=?utf-8?B?" and "?=" leave 63 characters: 15 groups of four, 45 octets.
    const CHUNK_BYTES_MAX: usize = 45;
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = if rest.len() <= CHUNK_BYTES_MAX {
            rest.len()
        } else {
            rest.floor_char_boundary(CHUNK_BYTES_MAX)
        };
        let (chunk, next) = rest.split_at(end);
        words.push(format!("=?utf-8?B?{}?=", STANDARD.encode(chunk)));
        rest = next;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, value: &str) -> String {
        let mut section = HeaderSection::default();
        section.text(name, value);
        String::from_utf8(section.into_bytes()).unwrap()
    }

    #[test]
    fn short_ascii_stands_as_it_is() {
        assert_eq!(text("Subject", "Your order is ready"), "Subject: Your order is ready\r\n");
        assert_eq!(text("X-Note", "a  b\tc "), "X-Note: a  b c\r\n");
    }

    #[test]
    fn long_lines_fold_and_unfold_to_the_same_text() {
        let value = "word ".repeat(60).trim().to_owned();
        let line = text("Subject", &value);
        assert!(line.lines().all(|line| line.len() <= 78), "{line}");
        assert_eq!(line.trim_end().replace("\r\n", ""), format!("Subject: {value}"));
    }

    #[test]
    fn non_ascii_becomes_encoded_words_within_75_characters() {
        let line = text("Subject", &"größer ".repeat(30));
        assert!(line.is_ascii());
        for word in line.trim_start_matches("Subject:").split_whitespace() {
            assert!(word.starts_with("=?utf-8?B?") && word.ends_with("?=") && word.len() <= 75, "{word}");
        }
    }

    #[test]
    fn names_are_atoms_quoted_or_encoded() {
        assert_eq!(phrase_words("Ann Lee"), ["Ann", "Lee"]);
        assert_eq!(phrase_words("Lee, \"Ann\""), ["\"Lee, \\\"Ann\\\"\""]);
        assert_eq!(phrase_words("Jürgen"), ["=?utf-8?B?SsO8cmdlbg==?="]);
    }

    #[test]
    fn injection_is_refused_and_cannot_be_written() {
        for value in ["a\r\nBcc: x@example.com", "a\nb", "a\rb", "a\0b"] {
            assert_eq!(check("X-A", value), Err(HeaderFault::ControlCharacter));
            assert_eq!(text("X-A", value).matches("\r\n").count(), 1);
        }
        assert_eq!(check("X-A: b\r\nX-C", "v"), Err(HeaderFault::Name));
        assert_eq!(check("X A", "v"), Err(HeaderFault::Name));
    }

    #[test]
    fn reserved_names_say_why() {
        for name in ["Return-Path", "received", "DKIM-Signature", "Bcc", "Content-Type", "DATE", "ARC-Seal"] {
            assert!(matches!(check(name, "v"), Err(HeaderFault::Reserved { .. })), "{name}");
        }
        assert_eq!(check("List-Unsubscribe", "<https://example.com/u>"), Ok(()));
    }

    #[test]
    fn message_ids() {
        for good in ["<a.1@example.com>", "<a@[192.0.2.1]>", "<a@localhost>"] {
            assert_eq!(check("Message-ID", good), Ok(()), "{good}");
        }
        for bad in ["a@example.com", "<a b@example.com>", "<a@b> <c@d>", "<@b>", "<a>"] {
            assert_eq!(check("Message-ID", bad), Err(HeaderFault::MessageId), "{bad}");
        }
    }
}
