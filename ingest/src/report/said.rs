//! What can be found in words for people: addresses, codes, commands, and where the original message begins.

use std::sync::LazyLock;

use regex::Regex;

/// A pattern that is written here and therefore compiles; where it did not, it would find nothing.
pub type Pattern = LazyLock<Option<Regex>>;

macro_rules! pattern {
    ($name:ident = $text:expr) => {
        static $name: Pattern = LazyLock::new(|| Regex::new($text).ok());
    };
}

pattern!(
    ADDRESS =
        r#"(?i)(?:"[^"\s]{1,64}"|[a-z0-9!#$%&'*+/=?^_`{|}~.\-]{1,128})@(?:[a-z0-9_\-]+\.)*[a-z0-9_\-]+"#
);
pattern!(URI = r"<([^<>\s]{3,2000})>");
pattern!(IP = r"\b\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}\b");
// a reply's two codes side by side are the surest sign of what a server said
pattern!(BOTH_CODES = r#"\b([45]\d\d)[- ]'?#?([245]\.\d{1,3}\.\d{1,3})\b"#);
pattern!(CODE = r#"(?:^|[\s'"(:#;=\[])([45]\d\d)(?:[-\s:,'")]|$)"#);
pattern!(
    COMMANDS = concat!(
        r"(?i)(?P<dot>(?:in reply to|after|\bour|\bat) (?:the )?(?:end of|final) data|end[- ]of[- ]data|after i sent the message)",
        r"|(?P<rcpt>smtp:rcpt\b|sent: ?rcpt\b|(?:in reply to|after|after sending|\bour|\bfor|\bin|\bto|\bon) rcpt\b|rcpt(?: to)? command|\[rcpt_?to\]|does not like recipient|",
        r">>> ?rcpt|has rejected (?:the )?address|smtp command\W+rcpt|rcpt to:?<[^>]*>? ?(?:failed|error|rejected))",
        r"|(?P<mail>(?:in reply to|after|after sending|\bour|\bfor|\bin|\bto|\bon) mail\b ?(?:from)?|mail(?: from)? command|\[mail_?from\]|sender was rejected|",
        r">>> ?mail|rejected mail from|smtp command\W+mail)",
        r"|(?P<data>(?:in reply to|after|after sending|\bour|\bfor|\bon) data\b|(?:data|text) command|\[data\]|>>> ?data|smtp command\W+data|data phase)",
        r"|(?P<ehlo>(?:in reply to|after|\bour|\bfor) (?:ehlo|helo|lhlo)\b|my name was rejected|>>> ?(?:ehlo|helo))",
        r"|(?P<connect>initial connection|refused to talk|(?:in reply to|after) connect|greeting (?:failed|rejected)|but connection died before greeting)",
    )
);
pattern!(
    ORIGINAL = concat!(
        r"(?im)^[ \t>]*(?:[-=_*+#]{2,}[ \t]*)?(?:",
        r"(?:this|below|here|enclosed|included|following|attached)[^\n]{0,40}\bcopy of (?:the|your) (?:original )?(?:message|mail|header)[^\n]*",
        r"|(?:the |your )?(?:header of the )?(?:original|unsent|returned|rejected|undelivered) (?:message|mail|e-mail)(?:'s)?(?: headers?)?(?: of[^\n]*)?",
        r"(?: is)? ?(?:text )?(?:follow(?:s|ing)|below|:|as follows:?|headers?:?|[-=_*]{2,})[^\n]*",
        r"|the headers? of the original message[^\n]*",
        r"|message headers? follows?[^\n]*",
        r"|(?:begin|start) of (?:the )?(?:original|returned) message[^\n]*",
        r"|\[?[ \t]*offending message[ \t]*[\]:][^\n]*",
        r"|[-=_*]{2,}[ \t]*(?:original|forwarded|returned) (?:message|mail)[^\n]*",
        r"|\x{539f}\x{6587}[^\n]*",
        r")$",
    )
);
// fields that a mail transfer agent writes, and no person
pattern!(
    HEADERS = r"(?m)^[ \t]*(?:Received|Return-[Pp]ath|X-Received|DKIM-Signature|Delivered-To|X-Google-Smtp-Source|From MAILER-DAEMON)(?::| [^>\n])[^\n]*$"
);
pattern!(
    WRAPPED = r"(?im)^(?:content-type: *multipart/report|subject: *(?:undeliver|returned mail|delivery status|failure notice))"
);
pattern!(FRONT_FIELDS = r"(?im)^(?:reporting-mta|final-recipient|original-recipient|arrival-date): *\S");
pattern!(FIELDS = r"(?im)^(?:final|original)-recipient: *\S");
pattern!(FEEDBACK_TYPE = r"(?im)^feedback-type: *[a-z]");
pattern!(
    FEEDBACK_FIELDS =
        r"(?im)^(?:user-agent|version|source-ip|original-mail-from|original-rcpt-to|reported-domain): *\S"
);

/// Every address, in order, each once.
pub fn addresses_in(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let Some(pattern) = &*ADDRESS else { return found };
    for address in pattern.find_iter(text).take(2_000) {
        let address = address.as_str().trim_start_matches(['\'', '=']).trim_end_matches(['.', '-']);
        if !found.iter().any(|known| known.eq_ignore_ascii_case(address)) {
            found.push(address.to_owned());
        }
    }
    found
}

/// What stands between angle brackets.
pub fn uris_in(text: &str) -> Vec<String> {
    let Some(pattern) = &*URI else { return Vec::new() };
    pattern.captures_iter(text).filter_map(|found| Some(found.get(1)?.as_str().to_owned())).take(20).collect()
}

pub fn ip_in(text: &str) -> Option<String> {
    let found = IP.as_ref()?.find(text)?.as_str();
    found.parse::<std::net::Ipv4Addr>().ok().map(|ip| ip.to_string())
}

/// Reply code and enhanced status that a text quotes.
pub fn codes_in(text: &str) -> (Option<u16>, Option<String>) {
    if let Some(found) = BOTH_CODES.as_ref().and_then(|pattern| pattern.captures(text)) {
        let code = found.get(1).and_then(|code| code.as_str().parse().ok());
        return (code, found.get(2).map(|status| status.as_str().to_owned()));
    }
    let code = CODE.as_ref().and_then(|pattern| pattern.captures(text));
    let code = code.and_then(|found| found.get(1)?.as_str().parse().ok());
    (code, sendlake_sql::rules::status_in(text))
}

/// The text from its first reply code on, where something is said after it: what stands before is the reporting
/// server's.
pub fn from_reply(text: &str) -> &str {
    // Exchange puts its own reply in front of the remote one: `550 5.0.350 … error -> 550 5.1.1 …`
    let text = match text.split_once("error -> ") {
        Some((_, remote)) if codes_in(remote).0.is_some() => remote,
        _ => text,
    };
    let found = BOTH_CODES
        .as_ref()
        .and_then(|pattern| pattern.captures(text))
        .or_else(|| CODE.as_ref().and_then(|pattern| pattern.captures(text)));
    let rest = found.and_then(|found| text.get(found.get(1)?.start()..)).unwrap_or(text);
    if is_informative(rest) { rest } else { text }
}

/// The command that was refused, where a text says it: the first that it names.
pub fn command_in(text: &str) -> Option<&'static str> {
    let found = COMMANDS.as_ref()?.captures(text)?;
    let names = [
        ("dot", "DOT"),
        ("rcpt", "RCPT"),
        ("mail", "MAIL"),
        ("data", "DATA"),
        ("ehlo", "EHLO"),
        ("connect", "CONNECT"),
    ];
    names.into_iter().find(|(group, _)| found.name(group).is_some()).map(|(_, command)| command)
}

/// The command that a line of a transcript begins with.
pub fn command_at_front(line: &str) -> Option<&'static str> {
    let word: String = line.chars().take_while(char::is_ascii_alphabetic).collect();
    Some(match word.to_ascii_uppercase().as_str() {
        "EHLO" | "HELO" | "LHLO" => "EHLO",
        "STARTTLS" => "STARTTLS",
        "MAIL" => "MAIL",
        "RCPT" => "RCPT",
        "DATA" | "BDAT" => "DATA",
        _ => return None,
    })
}

/// The words without the marks of quoting, where most lines have one: a report that a person forwarded.
pub fn unquoted(text: &str) -> String {
    let lines = || text.lines().filter(|line| !line.trim().is_empty());
    let quoted = lines().filter(|line| line.starts_with('>') && !line.starts_with(">>> ")).count();
    if quoted * 2 <= lines().count() {
        return text.to_owned();
    }
    let bare = |line: &str| match line.strip_prefix('>') {
        Some(rest) => rest.strip_prefix(' ').unwrap_or(rest).to_owned(),
        None => line.to_owned(),
    };
    text.lines().map(bare).collect::<Vec<_>>().join("\n")
}

/// Words, and the original message that follows them.
pub fn split_original(text: &str) -> (&str, Option<&str>) {
    let announced =
        ORIGINAL.as_ref().and_then(|pattern| pattern.find(text)).map(|found| (found.start(), found.end()));
    let bare =
        HEADERS.as_ref().and_then(|pattern| pattern.find(text)).map(|found| (found.start(), found.start()));
    let cut = match (announced, bare) {
        (Some(announced), Some(bare)) => Some(announced.min(bare)),
        (announced, bare) => announced.or(bare),
    };
    let Some((end, start)) = cut else { return (text, None) };
    let words = text.get(..end).unwrap_or_default();
    let rest =
        text.get(start..).unwrap_or_default().trim_start_matches(['\r', '\n', ' ', '-', '=', '_', '.']);
    (words, Some(rest))
}

/// Whether what follows the words is itself a report.
pub fn is_wrapped_report(text: &str) -> bool {
    WRAPPED.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

/// Whether a text has fields of message/delivery-status.
pub fn has_status_fields(text: &str) -> bool {
    FIELDS.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

/// Whether a text has fields of message/feedback-report: the type, and another that only reports have.
pub fn has_feedback_fields(text: &str) -> bool {
    [&FEEDBACK_TYPE, &FEEDBACK_FIELDS]
        .iter()
        .all(|fields| fields.as_ref().is_some_and(|pattern| pattern.is_match(text)))
}

/// The words above the fields of message/delivery-status that some servers put right under them.
pub fn before_status_fields(text: &str) -> &str {
    let start = FRONT_FIELDS.as_ref().and_then(|pattern| pattern.find(text)).map(|found| found.start());
    start.and_then(|start| text.get(..start)).unwrap_or(text)
}

/// Whether a text says more than codes and an address.
pub fn is_informative(text: &str) -> bool {
    let without = match &*ADDRESS {
        Some(pattern) => pattern.replace_all(text, " "),
        None => text.into(),
    };
    let letters = without.chars().filter(|letter| letter.is_alphabetic()).count();
    letters >= 5 || (letters >= 2 && !without.is_ascii())
}

/// The text above a line of nothing but dashes and the like, where something is said above it: below stands what
/// gateways add to every mail.
pub fn above_footer(text: &str) -> &str {
    let is_rule = |line: &str| {
        let line = line.trim();
        line.len() >= 10 && line.bytes().all(|byte| matches!(byte, b'_' | b'*' | b'=' | b'~' | b'-' | b'#'))
    };
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        if is_rule(line) && end > 0 {
            return text.get(..end).unwrap_or(text);
        }
        end += line.len();
    }
    text
}

/// Whether an address is one that mail servers write reports from.
pub fn is_daemon(address: &str) -> bool {
    let lower = address.to_lowercase();
    let local = lower.split('@').next().unwrap_or_default();
    matches!(local, "mailer-daemon" | "mailer_daemon" | "mdaemon" | "postmaster" | "mail-daemon")
}

/// Whether what is said only fills its place: X.400's numbers of reasons, as gateways put them; PowerMTA's verdict.
pub fn is_placeholder(text: &str) -> bool {
    let lower = text.trim().to_lowercase();
    (lower.starts_with("reason ") && lower.contains("diagnostic ") && lower.ends_with("(unknown)"))
        || lower.ends_with("delivery failed; will not continue trying")
}

/// White space collapsed, cut to what is kept.
pub fn tidy(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.chars().take(super::TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        for pattern in [
            &ADDRESS,
            &URI,
            &IP,
            &BOTH_CODES,
            &CODE,
            &COMMANDS,
            &ORIGINAL,
            &HEADERS,
            &WRAPPED,
            &FIELDS,
            &FEEDBACK_TYPE,
            &FEEDBACK_FIELDS,
        ] {
            assert!(pattern.is_some());
        }
    }

    #[test]
    fn codes_and_commands_are_found_in_words() {
        let postfix = "host mx.example[192.0.2.1] said: 550-5.1.1 no such user (in reply to RCPT TO command)";
        assert_eq!(codes_in(postfix), (Some(550), Some("5.1.1".into())));
        assert_eq!(command_in(postfix), Some("RCPT"));
        assert_eq!(
            codes_in("5.1.0 - Unknown address error 550-'5.7.1 no'"),
            (Some(550), Some("5.7.1".into()))
        );
        assert_eq!(codes_in("Sorry. (#5.4.4)"), (None, Some("5.4.4".into())));
        assert_eq!(codes_in("connect to mx[192.0.2.1], id=550.1"), (None, None));
        assert_eq!(command_in("an error delivering your mail to someone"), None);
        assert_eq!(command_in("did not like our final DATA:"), Some("DOT"));
        assert_eq!(
            command_in("SMTP error from remote mail server after initial connection:"),
            Some("CONNECT")
        );
        assert_eq!(command_in("after MAIL FROM:<a@b.example> SIZE=1: 550"), Some("MAIL"));
    }

    #[test]
    fn the_original_is_cut_off_where_it_is_announced_or_begins() {
        let cut = |text: &'static str| split_original(text).0.trim();
        assert_eq!(
            cut("No.\n------ This is a copy of the message, including all the headers. ------\nX"),
            "No."
        );
        assert_eq!(cut("No.\n--- Below this line is a copy of the message.\n\nSubject: x"), "No.");
        assert_eq!(cut("No.\n   ----- Unsent message follows -----\nReceived: x"), "No.");
        assert_eq!(cut("No.\nOriginal message follows.\nReceived: x"), "No.");
        assert_eq!(cut("No.\n----- Original message -----\nX"), "No.");
        assert_eq!(cut("No.\n\nReceived: by x\nSubject: y"), "No.");
        assert_eq!(
            cut("The original message was received at noon\nNo."),
            "The original message was received at noon\nNo."
        );
    }
}
