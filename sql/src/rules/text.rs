//! A refusal made ready for patterns: codes told apart from words, addresses and the rest of the wire's form
//! taken out, so that no rule fits an address by chance.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::Said;

/// Longest text that rules look at, in characters. What matters stands at the front.
const CHARS_MAX: usize = 2000;

/// An enhanced status: class, subject, detail.
pub type Status = (u16, u16, u16);

/// What rules look at.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// Lower case, single spaces, without addresses and without what follows `#` in a URL.
    pub text: String,
    pub code: Option<u16>,
    pub status: Option<Status>,
    /// 4 or 5: the class of the code, else of the status.
    pub severity: Option<u8>,
}

impl Reading {
    pub fn of(said: &Said<'_>) -> Self {
        let head: String = said.text.chars().take(CHARS_MAX).collect();
        let code = said.reply_code.or_else(|| code_at_front(&head));
        let told = said.enhanced_status.and_then(status_in);
        let status = match told {
            // `5.0.0` says nothing: what the words carry counts more
            Some((_, 0, 0)) => status_in(&head).or(told),
            Some(told) => Some(told),
            None => status_in(&head),
        };
        let severity = match (code, status) {
            (Some(code), _) => u8::try_from(code / 100).ok(),
            (None, Some((class, ..))) => u8::try_from(class).ok(),
            (None, None) => None,
        };
        Self { text: plain(&head), code, status, severity }
    }
}

fn plain(text: &str) -> String {
    let lower = text.to_lowercase().replace(['\u{2019}', '\u{2018}', '`', '\u{b4}'], "'");
    let lower = lower.split_whitespace().collect::<Vec<_>>().join(" ");
    let lower = without(&FRAGMENT, &lower, "$1");
    let lower = without(&ADDRESS, &lower, " ");
    let lower = without(&CODES, &lower, " ");
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn without<'t>(what: &Option<Regex>, text: &'t str, instead: &str) -> Cow<'t, str> {
    match what {
        Some(what) => what.replace_all(text, instead),
        None => Cow::Borrowed(text),
    }
}

/// `http://host/path#word`: the word after the hash is a place in a page.
static FRAGMENT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"(https?://[^\s#]+)#\S*").ok());
/// Mailboxes, with brackets if they have some.
static ADDRESS: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r#"<?(?:"[^"\s]{1,64}"|[^\s<>\[\]()";:,]{1,128})@[^\s<>();:,"'.]{1,255}(?:\.[^\s<>();:,"'.]{1,255})*>?"#,
    )
    .ok()
});
/// Codes that open the lines of a reply, which stand amid the text once the lines are joined.
static CODES: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"(?:^|\s)[245][0-9]{2}[- ](?:[245]\.[0-9]{1,3}\.[0-9]{1,3}\b)?|\b[45]\.[0-9]{1,3}\.[0-9]{1,3}(?:\s|$)").ok()
});

/// The reply code that a text opens with.
pub fn code_at_front(text: &str) -> Option<u16> {
    let text = text.trim_start();
    let digits = text.get(..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let ends = text.as_bytes().get(3).is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'.');
    digits.parse().ok().filter(|code| ends && (400..600).contains(code))
}

/// The first enhanced status in a text that is neither an address of a host nor a version.
pub fn status_in(text: &str) -> Option<Status> {
    let bytes = text.as_bytes();
    let at = |index: usize| bytes.get(index).copied().unwrap_or(b' ');
    for (start, byte) in bytes.iter().enumerate() {
        let opens = matches!(byte, b'2' | b'4' | b'5')
            && at(start + 1) == b'.'
            && (start == 0
                || !matches!(at(start - 1), b'0'..=b'9' | b'.' | b'a'..=b'z' | b'A'..=b'Z' | b'/'));
        if !opens {
            continue;
        }
        let Some((subject, after)) = number(bytes, start + 2) else { continue };
        if at(after) != b'.' {
            continue;
        }
        let Some((detail, end)) = number(bytes, after + 1) else { continue };
        let goes_on = at(end).is_ascii_digit() || (at(end) == b'.' && at(end + 1).is_ascii_digit());
        if !goes_on {
            return Some((u16::from(byte - b'0'), subject, detail));
        }
    }
    None
}

/// One to three digits.
fn number(bytes: &[u8], start: usize) -> Option<(u16, usize)> {
    let digits = bytes.iter().skip(start).take(3).take_while(|byte| byte.is_ascii_digit());
    let (value, count) =
        digits.fold((0_u16, 0), |(value, count), digit| (value * 10 + u16::from(digit - b'0'), count + 1));
    (count > 0).then_some((value, start + count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_found_and_a_host_or_a_version_is_not() {
        assert_eq!(status_in("550-5.7.26 Unauthenticated"), Some((5, 7, 26)));
        assert_eq!(status_in("couldn't find it. (#5.4.4)"), Some((5, 4, 4)));
        assert_eq!(status_in("from [4.2.2.1] 192.4.2.1 v5.65.2 (8.5.1.2)"), None);
        assert_eq!(status_in("5.0.0 (undefined status)"), Some((5, 0, 0)));
    }

    #[test]
    fn addresses_codes_and_fragments_are_no_words() {
        let said = Said {
            text: "550-5.7.1 <spam@full.example>: Messages with\r\n550 5.7.1 two\u{2019} https://a.example/b#suspend",
            ..Said::default()
        };
        let reading = Reading::of(&said);
        assert_eq!(reading.text, ": messages with two' https://a.example/b");
        assert_eq!((reading.code, reading.status, reading.severity), (Some(550), Some((5, 7, 1)), Some(5)));
    }

    #[test]
    fn a_status_that_says_nothing_yields_to_the_words() {
        let said = Said { enhanced_status: Some("5.0.0"), text: "550 5.1.1 no", ..Said::default() };
        assert_eq!(Reading::of(&said).status, Some((5, 1, 1)));
    }
}
