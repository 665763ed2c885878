//! One line of a Postfix log: when, by which program, about which message, and what became of one recipient.

use chrono::{Datelike, NaiveDateTime};
use sendlake_control::clock::Timestamp;

use crate::event::Event;
use crate::foreign::{Fact, Setting};

/// Years that are gone back to find one in which a day of a log exists: 29 February is in one of eight.
const YEARS_BACK_MAX: i32 = 8;

/// A line of one of Postfix's programs.
#[derive(Debug, PartialEq)]
pub(super) struct Line<'l> {
    pub(super) at: Timestamp,
    /// `smtp`, `qmgr`, `cleanup`, …
    pub(super) program: &'l str,
    said: &'l str,
}

impl<'l> Line<'l> {
    /// Reads `Nov 22 18:54:01 host postfix/smtp[123]: …`, or the same with an instant of RFC 3339 in front.
    pub(super) fn read(setting: &Setting, text: &'l str) -> Result<Self, Fact> {
        let text = text.trim_end();
        let (at, rest) =
            instant(setting, text).ok_or_else(|| Fact::Bad("it does not begin with an instant".into()))?;
        let (_host, rest) = split_word(rest).ok_or_else(|| Fact::Bad("it names no host".into()))?;
        let (tag, said) = split_word(rest).ok_or_else(|| Fact::Bad("it names no program".into()))?;
        let tag = tag.trim_end_matches(':');
        let tag = tag.split_once('[').map_or(tag, |(tag, _)| tag);
        match tag.rsplit_once('/') {
            Some((_, program)) if !program.is_empty() => Ok(Self { at, program, said: said.trim() }),
            _ => Err(Fact::Unmapped(crate::foreign::draft::name(&format!("not Postfix: {tag}")))),
        }
    }

    /// The message that the line is about, and what it says.
    pub(super) fn queue_id_and_rest(&self) -> Option<(&'l str, &'l str)> {
        let (id, said) = self.said.split_once(": ")?;
        let is_id = (6..=24).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        is_id.then_some((id, said.trim()))
    }
}

fn split_word(text: &str) -> Option<(&str, &str)> {
    text.trim_start().split_once(' ')
}

fn instant<'l>(setting: &Setting, text: &'l str) -> Option<(Timestamp, &'l str)> {
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        let (front, rest) = text.split_once(' ')?;
        // `journalctl -o short-iso` leaves the colon out of the offset
        let short = || chrono::DateTime::parse_from_str(front, "%Y-%m-%dT%H:%M:%S%.f%z").ok();
        let at = Timestamp::parse(front).or_else(|| Some(Timestamp(short()?.timestamp_micros())))?;
        return Some((at, rest));
    }
    let (month, rest) = split_word(text)?;
    let (day, rest) = split_word(rest)?;
    let (time, rest) = split_word(rest)?;
    let offset_s = i64::from(setting.utc_offset_s);
    let latest = setting.now.plus_secs(86_400);
    let this_year = setting.now.plus_secs(offset_s).to_chrono().year();
    // the year is left out: the last one in which the line is not from the future
    let at = (0..YEARS_BACK_MAX).find_map(|back| {
        let text = format!("{} {month} {day} {time}", this_year + 1 - back);
        let local = NaiveDateTime::parse_from_str(&text, "%Y %b %d %H:%M:%S%.f").ok()?;
        let at = Timestamp(local.and_utc().timestamp_micros()).plus_secs(-offset_s);
        (at <= latest).then_some(at)
    })?;
    Some((at, rest))
}

/// What became of one recipient: `to=<…>, relay=…, delay=…, delays=…, dsn=…, status=… (…)`.
#[derive(Debug, PartialEq)]
pub(super) struct Outcome<'l> {
    pub(super) to: &'l str,
    relay: &'l str,
    delays: &'l str,
    pub(super) dsn: &'l str,
    pub(super) status: &'l str,
    text: &'l str,
}

impl<'l> Outcome<'l> {
    pub(super) fn read(said: &'l str) -> Option<Self> {
        let rest = said.strip_prefix("to=<")?;
        let end = [">, orig_to=<", ">, relay="].iter().filter_map(|end| rest.find(end)).min()?;
        let (to, rest) = rest.split_at_checked(end)?;
        let (_, rest) = rest.split_once(", relay=")?;
        let (front, rest) = rest.split_once(", status=")?;
        let mut parts = front.split(", ");
        let relay = parts.next()?;
        let (mut delays, mut dsn) = ("", "");
        for part in parts {
            match part.split_once('=') {
                Some(("delays", value)) => delays = value,
                Some(("dsn", value)) => dsn = value,
                _ => {}
            }
        }
        let (status, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let text = text.strip_prefix('(').map_or(text, |text| text.strip_suffix(')').unwrap_or(text));
        Some(Self { to, relay, delays, dsn, status, text })
    }

    /// Whether it was handed to a program or a folder of the same host: `local`, `virtual`, `host[private/lmtp]`.
    pub(super) fn is_local(&self) -> bool {
        match (self.relay, peer_in(self.relay)) {
            ("none", _) => false,
            (_, Some((_, ip))) => ip.parse::<std::net::IpAddr>().is_err(),
            (_, None) => true,
        }
    }

    /// The host that answered, or that could not be reached.
    pub(super) fn peer(&self) -> (Option<&'l str>, Option<&'l str>) {
        let named = || {
            let words = ["host ", "connect to ", "lost connection with ", "conversation with "];
            words.iter().find_map(|word| peer_in(self.text.split_once(word)?.1))
        };
        peer_in(self.relay).or_else(named).map_or((None, None), |(host, ip)| (Some(host), Some(ip)))
    }

    /// What the receiver said, without Postfix's words around it; else Postfix's own words.
    pub(super) fn reply(&self) -> &'l str {
        let said = [" said: ", " refused to talk to me: "]
            .iter()
            .find_map(|word| Some(self.text.split_once(word)?.1));
        let said = said.unwrap_or(self.text);
        said.rsplit_once(" (in reply to ").map_or(said, |(said, _)| said)
    }

    /// The command that was answered, in Postfix's words.
    pub(super) fn command(&self) -> Option<&'l str> {
        if self.status == "sent" && self.relay != "none" {
            return Some(".");
        }
        if let Some((_, command)) = self.text.rsplit_once(" (in reply to ") {
            return Some(command);
        }
        if let Some((_, command)) = self.text.rsplit_once(" while sending ") {
            return Some(if command.starts_with("message body") { "." } else { command });
        }
        let before_any = self.text.contains("refused to talk to me") || self.text.contains("connect to ");
        before_any.then_some("CONNECT")
    }

    /// `delays=a/b/c/d`: before the queue manager, in it, connecting, and the transmission, in seconds.
    pub(super) fn timed(&self, event: &mut Event) {
        let mut ms = self.delays.split('/').map(|part| part.parse::<f64>().ok().and_then(millis));
        let (before, queued, connecting, sending) =
            (ms.next().flatten(), ms.next().flatten(), ms.next().flatten(), ms.next().flatten());
        event.queue_ms = before.zip(queued).map(|(before, queued)| before + queued);
        event.connect_ms = connecting.filter(|_| self.relay != "none");
        event.attempt_ms = connecting.zip(sending).map(|(connecting, sending)| connecting + sending);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the range was looked at")]
fn millis(seconds: f64) -> Option<i64> {
    (0.0..1e8).contains(&seconds).then(|| (seconds * 1e3).round() as i64)
}

/// `mx.a.test[192.0.2.1]:25` as host and address.
fn peer_in(text: &str) -> Option<(&str, &str)> {
    let (host, rest) = text.split_once('[')?;
    let (ip, _) = rest.split_once(']')?;
    (!host.is_empty() && !host.contains(' ')).then_some((host, ip.strip_prefix("IPv6:").unwrap_or(ip)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::foreign::Source;
    use crate::foreign::tests::setting;

    fn read(text: &str, utc_offset_s: i32) -> Option<String> {
        let setting = Setting { utc_offset_s, ..setting(Source::Postfix) };
        Line::read(&setting, text).ok().map(|line| line.at.to_string())
    }

    #[test]
    fn a_year_that_is_left_out_is_the_last_that_fits() {
        // now is 2026-11-22T12:00:00Z
        for (text, at) in [
            ("Nov 22 11:59:59 mail postfix/smtp[1]: x", "2026-11-22T11:59:59.000000Z"),
            ("Nov  2 01:02:03 mail postfix/smtp[1]: x", "2026-11-02T01:02:03.000000Z"),
            ("Dec 31 23:59:59 mail postfix/smtp[1]: x", "2025-12-31T23:59:59.000000Z"),
            ("Feb 29 00:00:00 mail postfix/smtp[1]: x", "2024-02-29T00:00:00.000000Z"),
            ("2026-01-02T03:04:05.678901+01:00 mail postfix/smtp[1]: x", "2026-01-02T02:04:05.678901Z"),
            ("2026-01-02T03:04:05+0100 mail postfix/smtp[1]: x", "2026-01-02T02:04:05.000000Z"),
        ] {
            assert_eq!(read(text, 0).as_deref(), Some(at), "{text}");
        }
        assert_eq!(
            read("Nov 22 13:00:00 mail postfix/smtp[1]: x", 7_200).unwrap(),
            "2026-11-22T11:00:00.000000Z"
        );
        assert_eq!(read("Foo 22 11:59:59 mail postfix/smtp[1]: x", 0), None);
        assert_eq!(read("", 0), None);
    }

    #[test]
    fn the_receivers_words_are_told_from_postfixs() {
        let outcome = |text: &str| {
            format!(
                "to=<a@b.test>, relay=mx.b.test[192.0.2.7]:25, delay=1, delays=0.1/0/0.5/0.4, dsn=5.1.1, status=bounced ({text})"
            )
        };
        for (text, reply, command) in [
            (
                "host mx.b.test[192.0.2.7] said: 550 5.1.1 no (in reply to RCPT TO command)",
                "550 5.1.1 no",
                Some("RCPT TO command)"),
            ),
            (
                "host mx.b.test[192.0.2.7] refused to talk to me: 421 4.7.0 slow down",
                "421 4.7.0 slow down",
                Some("CONNECT"),
            ),
            (
                "connect to mx.b.test[192.0.2.7]:25: Connection timed out",
                "connect to mx.b.test[192.0.2.7]:25: Connection timed out",
                Some("CONNECT"),
            ),
            (
                "conversation with mx.b.test[192.0.2.7] timed out while sending message body",
                "conversation with mx.b.test[192.0.2.7] timed out while sending message body",
                Some("."),
            ),
            ("Host or domain name not found", "Host or domain name not found", None),
        ] {
            let said = outcome(text);
            let outcome = Outcome::read(&said).unwrap();
            assert_eq!((outcome.reply(), outcome.command()), (reply, command), "{text}");
            assert_eq!(outcome.peer(), (Some("mx.b.test"), Some("192.0.2.7")));
        }
    }

    #[test]
    fn what_stays_on_the_host_is_no_delivery() {
        for (relay, is_local) in [
            ("local", true),
            ("virtual", true),
            ("mail.a.test[private/dovecot-lmtp]", true),
            ("none", false),
            ("mx.a.test[2001:db8::1]:25", false),
        ] {
            let said =
                format!("to=<a@b.test>, relay={relay}, delay=1, delays=0/0/0/0, dsn=2.0.0, status=sent (ok)");
            assert_eq!(Outcome::read(&said).unwrap().is_local(), is_local, "{relay}");
        }
    }
}
