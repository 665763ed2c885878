//! A mailbox: an address, with or without a display name (RFC 5322, section 3.4).

use crate::address::{Address, InvalidAddress};

/// One person or robot of a header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    pub name: Option<String>,
    pub address: Address,
}

/// Why a text is not one mailbox.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMailbox {
    #[error(transparent)]
    Address(#[from] InvalidAddress),
    #[error("it holds a control character (CR, LF, NUL or another), which could start a new header line")]
    ControlCharacter,
    #[error("a quote, comment or angle bracket is opened and not closed")]
    Unclosed,
    #[error("{0:?} must be in quotes inside a display name: \"Name, Inc.\" <name@example.com>")]
    Unquoted(char),
    #[error("it holds more than one mailbox, or text after the address; give each mailbox on its own")]
    Several,
    #[error("the display name is longer than {NAME_BYTES_MAX} octets")]
    NameTooLong,
}

/// Longest display name, in octets of UTF-8.
pub const NAME_BYTES_MAX: usize = 512;

impl Mailbox {
    pub fn new(name: Option<&str>, address: Address) -> Result<Self, InvalidMailbox> {
        let name = name.map(str::trim).filter(|name| !name.is_empty());
        if name.is_some_and(|name| name.chars().any(char::is_control)) {
            return Err(InvalidMailbox::ControlCharacter);
        }
        if name.is_some_and(|name| name.len() > NAME_BYTES_MAX) {
            return Err(InvalidMailbox::NameTooLong);
        }
        Ok(Self { name: name.map(str::to_owned), address })
    }

    /// Reads `name@example.com`, `Name <name@example.com>` or `"Name, Inc." <name@example.com>`. Comments are
    /// skipped. Strict on purpose: `From` decides whose domain it is, so a text that two parsers could read
    /// as two different mailboxes is refused.
    pub fn parse(text: &str) -> Result<Self, InvalidMailbox> {
        if text.chars().any(|c| c.is_control() && c != '\t') {
            return Err(InvalidMailbox::ControlCharacter);
        }
        let mut scan = Scan::default();
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => scan.word.push_str(&quoted_string(&mut chars)?),
                '(' => skip_comment(&mut chars)?,
                '<' => return scan.with_angle_address(chars.as_str()),
                ',' | ';' | ':' | '>' | ')' | '[' | ']' | '\\' => return Err(InvalidMailbox::Unquoted(c)),
                '\t' => scan.word.push(' '),
                _ => {
                    scan.bare_at |= c == '@';
                    scan.word.push(c);
                }
            }
        }
        Self::new(None, Address::parse(scan.word.trim())?)
    }
}

#[derive(Default)]
struct Scan {
    word: String,
    bare_at: bool,
}

impl Scan {
    fn with_angle_address(self, rest: &str) -> Result<Mailbox, InvalidMailbox> {
        if self.bare_at {
            return Err(InvalidMailbox::Unquoted('@'));
        }
        let (address, after) = rest.split_once('>').ok_or(InvalidMailbox::Unclosed)?;
        let mut after = after.chars();
        while let Some(c) = after.next() {
            match c {
                ' ' | '\t' => {}
                '(' => skip_comment(&mut after)?,
                _ => return Err(InvalidMailbox::Several),
            }
        }
        Mailbox::new(Some(&self.word), Address::parse(address.trim())?)
    }
}

fn quoted_string(chars: &mut std::str::Chars<'_>) -> Result<String, InvalidMailbox> {
    let mut text = String::new();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(text),
            '\\' => text.push(chars.next().ok_or(InvalidMailbox::Unclosed)?),
            '\t' => text.push(' '),
            _ => text.push(c),
        }
    }
    Err(InvalidMailbox::Unclosed)
}

fn skip_comment(chars: &mut std::str::Chars<'_>) -> Result<(), InvalidMailbox> {
    let mut depth = 1_usize;
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '(' => depth += 1,
            ')' if depth == 1 => return Ok(()),
            ')' => depth -= 1,
            _ => {}
        }
    }
    Err(InvalidMailbox::Unclosed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_usual_forms() {
        for (text, name, address) in [
            ("ann@example.com", None, "ann@example.com"),
            (" <ann@example.com> ", None, "ann@example.com"),
            ("Ann <ann@example.com>", Some("Ann"), "ann@example.com"),
            ("Ann B. Lee <ann@example.com>", Some("Ann B. Lee"), "ann@example.com"),
            (r#""Lee, Ann \"A\"" <ann@example.com>"#, Some("Lee, Ann \"A\""), "ann@example.com"),
            (r#""a@bank.example" <ann@example.com>"#, Some("a@bank.example"), "ann@example.com"),
            ("Jürgen <j@bücher.example>", Some("Jürgen"), "j@xn--bcher-kva.example"),
            ("ann@example.com (work)", None, "ann@example.com"),
        ] {
            let mailbox = Mailbox::parse(text).unwrap();
            assert_eq!((mailbox.name.as_deref(), mailbox.address.to_string().as_str()), (name, address));
        }
    }

    #[test]
    fn refuses_what_could_be_read_in_two_ways() {
        for text in [
            "",
            "ann",
            "ann@example.com, bob@example.com",
            "ann@example.com <bob@example.com>",
            "<ann@example.com> <bob@example.com>",
            "Lee, Ann <ann@example.com>",
            "Ann <ann@example.com",
            "\"Ann <ann@example.com>",
            "friends: ann@example.com;",
            "Ann\r\nBcc: x@example.com <ann@example.com>",
            "Ann\0 <ann@example.com>",
            "ann@example.com bob@example.com",
        ] {
            assert!(Mailbox::parse(text).is_err(), "{text:?}");
        }
    }
}
