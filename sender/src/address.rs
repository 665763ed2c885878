//! A mailbox of an envelope: local part and domain (RFC 5321, section 4.1.2; RFC 6531 for UTF-8).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A mailbox that may stand in `MAIL FROM` or `RCPT TO`. The domain is in its ASCII form (IDNA A-labels,
/// lower case); the local part is kept as given, as only its own host may interpret it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address {
    local: String,
    domain: String,
}

/// Why a text is not a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    #[error("an address needs exactly one local part and one domain, like name@example.com")]
    Shape,
    #[error("the local part is longer than 64 octets (RFC 5321, section 4.5.3.1.1)")]
    LocalTooLong,
    #[error(
        "the local part holds {0:?}, which may only stand in quotes, and quoted local parts are not taken"
    )]
    LocalCharacter(char),
    #[error("the local part starts or ends with a dot, or has two in a row")]
    LocalDots,
    #[error("the domain {0:?} is not a host name")]
    Domain(String),
}

impl Address {
    pub fn parse(text: &str) -> Result<Self, InvalidAddress> {
        let (local, domain) = text.rsplit_once('@').ok_or(InvalidAddress::Shape)?;
        if local.is_empty() || domain.is_empty() {
            return Err(InvalidAddress::Shape);
        }
        if local.len() > 64 {
            return Err(InvalidAddress::LocalTooLong);
        }
        if let Some(c) = local.chars().find(|&c| !is_atom_char(c) && c != '.') {
            return Err(InvalidAddress::LocalCharacter(c));
        }
        if local.starts_with('.') || local.ends_with('.') || local.contains("..") {
            return Err(InvalidAddress::LocalDots);
        }
        Ok(Self { local: local.to_owned(), domain: parse_domain(domain)? })
    }

    pub fn local(&self) -> &str {
        &self.local
    }

    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The local part is not ASCII: only a server that announces SMTPUTF8 (RFC 6531) can be given it.
    pub fn needs_smtputf8(&self) -> bool {
        !self.local.is_ascii()
    }
}

/// A domain in its ASCII form: IDNA (UTS 46), lower case, at least two labels, no trailing dot.
pub fn parse_domain(text: &str) -> Result<String, InvalidAddress> {
    let invalid = || InvalidAddress::Domain(text.to_owned());
    let ascii = idna::domain_to_ascii_strict(text.trim_end_matches('.')).map_err(|_| invalid())?;
    let labels_fit = ascii.split('.').all(|label| (1..=63).contains(&label.len()));
    if ascii.len() > 253 || !labels_fit || !ascii.contains('.') {
        return Err(invalid());
    }
    Ok(ascii)
}

/// `atext` of RFC 5322, section 3.2.3, widened to UTF-8 by RFC 6532, section 3.2.
fn is_atom_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (!c.is_ascii() && !c.is_control())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.local, self.domain)
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Address {
    type Error = InvalidAddress;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses() {
        for (text, domain) in [
            ("a@example.com", "example.com"),
            ("a.b+tag@EXAMPLE.com", "example.com"),
            ("user@bücher.example", "xn--bcher-kva.example"),
            ("用户@example.com", "example.com"),
        ] {
            assert_eq!(Address::parse(text).unwrap().domain(), domain);
        }
        assert!(Address::parse("用户@example.com").unwrap().needs_smtputf8());
    }

    #[test]
    fn bad_addresses() {
        for text in [
            "",
            "a",
            "@example.com",
            "a@",
            "a@b",
            "a b@example.com",
            "a@exa mple.com",
            "a..b@example.com",
            ".a@example.com",
            "a@b@example.com",
            "a@-example.com",
            "a@example..com",
            "a\r\nb@example.com",
            "a@example.com\r\n",
            "a\0@example.com",
            "<a@example.com>",
            "\"a b\"@example.com",
        ] {
            assert!(Address::parse(text).is_err(), "{text:?}");
        }
    }
}
