//! The forms in which an address stands in text: plain, percent-encoded, or with `=` for `@` as return paths write
//! it (VERP), in any case; and where it is another, longer address that only contains it.

use std::ops::Range;

use regex::bytes::{Regex, RegexBuilder};

/// What stands in the place of an erased address.
pub const ERASED: &str = "[erased]";

/// One address, as it is looked for.
///
/// Not recognised: an address that is encoded as a whole (base64), hashed, or broken over two lines.
#[derive(Clone, Debug)]
pub struct AddressForms {
    /// All lower case, the domain in ASCII.
    normal: String,
    pattern: Regex,
}

/// Why a text is not an address that can be erased.
#[derive(Debug, thiserror::Error)]
pub enum NoAddress {
    #[error("{0:?} is no address: an address has one @ with something on both sides")]
    Shape(String),
    #[error("this address cannot be looked for: {0}")]
    Pattern(#[from] regex::Error),
}

/// `@` in the forms that leave it recognisable at sight, and in VERP's.
const AT: &str = r"(?:@|%40|%2540|=40|\\u0040|&#64;|&#x40;)";
const VERP_AT: &str = "(?:=|%3d)";

impl AddressForms {
    pub fn new(address: &str) -> Result<Self, NoAddress> {
        let lower = address.trim().to_lowercase();
        let shape = || NoAddress::Shape(address.chars().take(80).collect());
        let (local, domain) = lower.rsplit_once('@').ok_or_else(shape)?;
        if local.is_empty() || domain.is_empty() || lower.chars().any(|c| c.is_control() || c.is_whitespace())
        {
            return Err(shape());
        }
        let ascii = url::Host::parse(domain).map_or_else(|_| domain.to_owned(), |host| host.to_string());
        let domains = if ascii == domain {
            encoded(domain)
        } else {
            format!("(?:{}|{})", encoded(domain), encoded(&ascii))
        };
        let pattern = format!("{}(?:{AT}|(?P<verp>{VERP_AT})){domains}", encoded(local));
        let pattern = RegexBuilder::new(&pattern).case_insensitive(true).build()?;
        Ok(Self { normal: format!("{local}@{ascii}"), pattern })
    }

    /// Whether a text is this address and nothing else.
    pub fn is(&self, text: &str) -> bool {
        if text.len() == self.normal.len() && text.is_ascii() {
            return text.eq_ignore_ascii_case(&self.normal);
        }
        let lower = text.trim().to_lowercase();
        lower.rsplit_once('@').is_some_and(|(local, domain)| {
            let ascii = url::Host::parse(domain).map_or_else(|_| domain.to_owned(), |host| host.to_string());
            format!("{local}@{ascii}") == self.normal
        })
    }

    /// Whether any form may be in these bytes: true also for a longer address that contains it. Fast, for buffers
    /// of many values.
    pub fn may_be_in(&self, bytes: &[u8]) -> bool {
        self.pattern.is_match(bytes)
    }

    /// Whether the address is in a text.
    pub fn is_in(&self, text: &[u8]) -> bool {
        self.next_in(text, 0).is_some()
    }

    /// The text with [`ERASED`] in each place of the address; `None` when it has none.
    pub fn redact(&self, text: &str) -> Option<String> {
        let mut clean: Option<String> = None;
        let mut from = 0;
        while let Some(found) = self.next_in(text.as_bytes(), from) {
            let clean = clean.get_or_insert_default();
            clean.push_str(text.get(from..found.start).unwrap_or_default());
            clean.push_str(ERASED);
            from = found.end;
        }
        let mut clean = clean?;
        clean.push_str(text.get(from..).unwrap_or_default());
        Some(clean)
    }

    fn next_in(&self, text: &[u8], mut from: usize) -> Option<Range<usize>> {
        while let Some(found) = self.pattern.captures_at(text, from) {
            let whole = found.get(0)?.range();
            let is_verp = found.name("verp").is_some();
            let before = text.get(..whole.start).unwrap_or_default();
            let after = text.get(whole.end..).unwrap_or_default();
            if begins(before, is_verp) && ends(after, is_verp) {
                return Some(whole);
            }
            from = whole.start + 1;
        }
        None
    }
}

/// Each character plain or percent-encoded, as a pattern.
fn encoded(text: &str) -> String {
    let mut pattern = String::new();
    for c in text.chars() {
        pattern.push_str("(?:");
        pattern.push_str(&regex::escape(&c.to_string()));
        for form in [c.to_string(), c.to_uppercase().to_string()] {
            pattern.push('|');
            form.bytes().for_each(|byte| pattern.push_str(&format!("%{byte:02x}")));
        }
        pattern.push(')');
    }
    pattern
}

/// Whether an address may begin after these bytes, or is the end of a longer one.
fn begins(before: &[u8], is_verp: bool) -> bool {
    let hex = |digits: &[u8]| {
        std::str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, 16).ok())
    };
    let (last, rest) = match before {
        [] => return true,
        // an escape in a URL, in quoted-printable or in JSON stands for one character
        [rest @ .., b'%', a, b]
        | [rest @ .., b'=', a @ (b'0'..=b'9' | b'A'..=b'F'), b @ (b'0'..=b'9' | b'A'..=b'F')]
            if hex(&[*a, *b]).is_some() =>
        {
            (hex(&[*a, *b]).unwrap_or(0), rest)
        }
        [rest @ .., b'\\', b'u', a, b, c, d] if hex(&[*a, *b, *c, *d]).is_some() => {
            (hex(&[*a, *b, *c, *d]).unwrap_or(0), rest)
        }
        [.., b'\\', b'n' | b'r' | b't' | b'f' | b'b'] => return true,
        [rest @ .., last] => (u32::from(*last), rest),
    };
    let is_word = |c: u32| c >= 0x80 || char::from_u32(c).is_some_and(|c| c.is_ascii_alphanumeric());
    if is_word(last) {
        return false;
    }
    let joins = [b'.', b'_', b'-', b'+'].iter().any(|joint| u32::from(*joint) == last);
    // the token before a VERP address ends with one of these
    is_verp || !joins || !rest.last().is_some_and(|before| is_word(u32::from(*before)))
}

/// Whether an address may end before these bytes, or is the beginning of a longer one.
fn ends(after: &[u8], is_verp: bool) -> bool {
    let is_word = |byte: &u8| *byte >= 0x80 || byte.is_ascii_alphanumeric();
    match after {
        [first, ..] if is_word(first) => false,
        [b'.', second, ..] if is_word(second) => false,
        [b'-', second, ..] if is_word(second) => is_verp,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ann() -> AddressForms {
        AddressForms::new("Ann.O@A.test").unwrap()
    }

    #[test]
    fn every_form_in_any_case_is_replaced() {
        for (text, clean) in [
            ("<ann.o@a.test>: no such user", "<[erased]>: no such user"),
            ("ANN.O@A.TEST", "[erased]"),
            ("https://t.example/?to=ann.o%40a.test&x=1", "https://t.example/?to=[erased]&x=1"),
            ("https://t.example/?u=x%26to%3Dann%2Eo%40a.test", "https://t.example/?u=x%26to%3D[erased]"),
            ("https://t.example/?to=%61nn.o%2540a.test", "https://t.example/?to=[erased]"),
            ("bounces+42-ann.o=a.test@acme.example", "bounces+42-[erased]@acme.example"),
            ("bounces-ann.o=a.test-7@acme.example", "bounces-[erased]-7@acme.example"),
            ("550 5.1.1 ann.o@a.test.", "550 5.1.1 [erased]."),
            (r#"{"to":"ann.o@a.test","x":"\nann.o@a.test"}"#, r#"{"to":"[erased]","x":"\n[erased]"}"#),
            (r"\u003cann.o@a.test\u003e", r"\u003c[erased]\u003e"),
            ("To:=3Cann.o=40a.test=3E", "To:=3C[erased]=3E"),
            ("ann.o@a.test,bob@a.test,ann.o@a.test", "[erased],bob@a.test,[erased]"),
            ("rfc822;ann.o@a.test", "rfc822;[erased]"),
            ("-- ann.o@a.test --", "-- [erased] --"),
            ("<ä>ann.o@a.test", "<ä>[erased]"),
        ] {
            assert_eq!(ann().redact(text).as_deref(), Some(clean), "{text}");
            assert!(ann().is_in(text.as_bytes()) && ann().may_be_in(text.as_bytes()));
        }
    }

    #[test]
    fn longer_addresses_that_contain_it_belong_to_others() {
        for text in [
            "joann.o@a.test",
            "jo.ann.o@a.test",
            "jo-ann.o@a.test",
            "ann.o@a.testing.example",
            "ann.o@a.test.example",
            "ann.o@a.test-2.example",
            "annxo@a.test",
            "éann.o@a.test",
            "%41ann.o@a.test",
            "nobody at all",
        ] {
            assert_eq!(ann().redact(text), None, "{text}");
            assert!(!ann().is_in(text.as_bytes()));
        }
    }

    #[test]
    fn the_address_itself_is_known_in_any_spelling() {
        assert!(ann().is("ann.o@a.test") && ann().is("Ann.O@a.TEST"));
        assert!(!ann().is("jann.o@a.test") && !ann().is(""));
        let umlaut = AddressForms::new("jörg@bücher.example").unwrap();
        assert!(umlaut.is("JÖRG@xn--bcher-kva.example") && umlaut.is("jörg@Bücher.example"));
        assert_eq!(umlaut.redact("x j%C3%B6rg@xn--bcher-kva.example").as_deref(), Some("x [erased]"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "ann", "@a.test", "ann@", "an n@a.test"] {
            assert!(AddressForms::new(text).is_err(), "{text}");
        }
    }
}
