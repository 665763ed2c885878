//! PowerMTA's accounting files: "Accounting records" and "Encoding" of its user's guide (versions 4.5 to 5.5). CSV as in
//! RFC 4180; the header line says which column is which, since records and their fields are configured.

use chrono::NaiveDateTime;
use sendlake_control::clock::Timestamp;

use super::draft::{Draft, address, domain_of, feedback, name, phrase};
use super::json::instant_in;
use super::{Fact, Setting};
use crate::event::EventType;

/// Lines of one row at most: values may hold line ends, and a quote that is never closed must not take the file.
pub(super) const ROW_LINES_MAX: usize = 8;
const COLUMNS_MAX: usize = 500;

/// The columns, as the last header line named them.
#[derive(Debug, Default)]
pub(super) struct Accounting {
    columns: Vec<String>,
}

/// What a row is.
#[derive(Debug)]
pub(super) enum Row {
    /// The columns of those that follow.
    Header,
    Fact(Box<Fact>),
    /// A quote is open: the next line belongs to it.
    Open,
}

impl Accounting {
    pub(super) fn row(&mut self, setting: &Setting, text: &str) -> Row {
        let Some(fields) = fields(text.trim_end_matches(['\r', '\n'])) else { return Row::Open };
        if fields.first().is_some_and(|first| first.trim_start_matches('\u{feff}') == "type") {
            self.columns = fields.into_iter().take(COLUMNS_MAX).collect();
            if let Some(first) = self.columns.first_mut() {
                "type".clone_into(first);
            }
            return Row::Header;
        }
        if self.columns.is_empty() {
            return Row::Fact(Box::new(Fact::Bad(
                "no header line (type,timeLogged,…) stands above it".into(),
            )));
        }
        if fields.len() > self.columns.len() {
            let why =
                format!("it has {} values, the header names {} columns", fields.len(), self.columns.len());
            return Row::Fact(Box::new(Fact::Bad(why)));
        }
        let values = Values { columns: &self.columns, fields: &fields };
        Row::Fact(Box::new(fact(setting, text.trim_end(), &values)))
    }
}

struct Values<'r> {
    columns: &'r [String],
    fields: &'r [String],
}

impl<'r> Values<'r> {
    fn get(&self, column: &str) -> Option<&'r str> {
        let place = self.columns.iter().position(|known| known.eq_ignore_ascii_case(column))?;
        self.fields.get(place).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn instant(&self, column: &str, setting: &Setting) -> Option<Timestamp> {
        let text = self.get(column)?;
        let local = || {
            let at = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").ok()?;
            Some(Timestamp(at.and_utc().timestamp_micros()).plus_secs(-i64::from(setting.utc_offset_s)))
        };
        let with_offset = || {
            let at = chrono::DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%z").ok()?;
            Some(Timestamp(at.timestamp_micros()))
        };
        with_offset().or_else(local).or_else(|| instant_in(text))
    }
}

fn fact(setting: &Setting, row: &str, values: &Values<'_>) -> Fact {
    let kind = values.get("type").unwrap_or_default();
    let is_expired = values.get("bounceCat").is_some_and(|cat| cat.eq_ignore_ascii_case("message-expired"));
    let feedback_type = values.get("feedbackType");
    let event_type = match kind {
        "d" | "delivery" => EventType::Delivered,
        "b" | "bounce" if is_expired => EventType::Expired,
        "b" | "bounce" => EventType::Bounced,
        "rb" | "remote-bounce" => EventType::BouncedAsync,
        "t" | "transient" | "tq" | "transient-queue" => EventType::Deferred,
        "r" | "receipt" => EventType::Accepted,
        "f" | "feedback-loop" => match feedback(feedback_type) {
            Some(event_type) => event_type,
            None => return Fact::Unmapped(name(&format!("f/{}", feedback_type.unwrap_or_default()))),
        },
        // rs: a remote server's word that it passed the mail on; others are unknown
        other => return Fact::Unmapped(name(other)),
    };
    let Some(at) = values.instant("timeLogged", setting) else {
        return Fact::Bad("timeLogged is missing or no instant".into());
    };
    let queued_at = values.instant("timeQueued", setting);
    let (mx, mx_ip) = host_and_ip(values.get("dsnMta"));
    let message = values.get("header_Message-Id").or_else(|| values.get("envId"));
    let mut draft = Draft::new(setting, event_type, at, kind)
        .identified_by([row])
        .message(message.map(|id| id.trim_matches(['<', '>'])))
        .recipient(values.get("rcpt").or_else(|| values.get("originalRcptTo")))
        .mail_from(values.get("orig").or_else(|| values.get("originalMailFrom")))
        .from(values.get("header_From").or_else(|| values.get("reportedDomain")))
        .campaign(values.get("jobId"))
        .source_ip(values.get("dlvSourceIp").or_else(|| values.get("sourceIp")))
        .note("vmta", values.get("vmta"))
        .note("pool", values.get("vmtaPool"))
        .note("bounce_cat", values.get("bounceCat"))
        .note("queue", values.get("queue"));
    draft = match event_type {
        EventType::Delivered | EventType::Deferred | EventType::Bounced | EventType::Expired => draft
            .mx(mx, values.get("dlvDestinationIp").or(mx_ip))
            .reply(None, values.get("dsnStatus"), values.get("dsnDiag")),
        EventType::BouncedAsync => draft.reply(None, values.get("dsnStatus"), values.get("dsnDiag")),
        _ => draft,
    };
    let event = &mut draft.event;
    event.size_bytes = values.get("dlvSize").and_then(|bytes| bytes.parse().ok()).filter(|bytes| *bytes > 0);
    event.tls_version = values.get("dlvTlsProtocol").map(name);
    event.tls_cipher = values.get("dlvTlsCipher").map(name);
    match event_type {
        EventType::BouncedAsync => event.reported_by = values.get("dsnReportingMta").or(mx).map(name),
        EventType::Complained | EventType::Replied | EventType::Unsubscribed => {
            event.feedback_type = Some(feedback_type.unwrap_or("abuse").to_ascii_lowercase());
            event.reported_by = values.get("reportingMta").map(name);
            event.user_agent = values.get("userAgent").map(phrase);
        }
        _ => event.queue_ms = queued_at.map(|queued_at| at.millis_since(queued_at)).filter(|ms| *ms >= 0),
    }
    // of a queue as a whole: `example.com/vmta1`
    if event.recipient.is_none() {
        let domain = values.get("queue").map(|queue| queue.split('/').next().unwrap_or_default());
        event.recipient_domain = domain.and_then(|domain| domain_of(&format!("@{}", address(domain))));
    }
    if event_type == EventType::Complained {
        draft = draft.delivered_at(values.instant("arrivalDate", setting).or(queued_at));
    }
    draft.fact()
}

/// `mx1.example.com (192.0.2.1)` as both.
fn host_and_ip(mta: Option<&str>) -> (Option<&str>, Option<&str>) {
    let Some(mta) = mta else { return (None, None) };
    let mta = mta.rsplit_once(';').map_or(mta, |(_, mta)| mta).trim();
    match mta.split_once('(') {
        Some((host, ip)) => (Some(host.trim()), Some(ip.trim_end_matches(')').trim())),
        None => (Some(mta), None),
    }
}

/// The values of a row. `None` when a quote is still open at its end.
fn fields(row: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut chars = row.chars().peekable();
    let mut is_quoted = false;
    while let Some(c) = chars.next() {
        match c {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if is_quoted => is_quoted = false,
            '"' if field.is_empty() => is_quoted = true,
            ',' if !is_quoted => fields.push(std::mem::take(&mut field)),
            _ => field.push(c),
        }
    }
    fields.push(field);
    (!is_quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_rfc_4180() {
        assert_eq!(fields("d,\"a,\"\"b\"\"\",,c").unwrap(), ["d", "a,\"b\"", "", "c"]);
        assert_eq!(fields("two inches,\"2\"\"\"").unwrap(), ["two inches", "2\""]);
        assert_eq!(fields("a,\"open"), None);
        assert_eq!(fields("5 \" wide,b").unwrap(), ["5 \" wide", "b"], "a quote within a value is none");
    }

    #[test]
    fn a_host_is_told_from_its_address() {
        assert_eq!(host_and_ip(Some("mx1.a.test (192.0.2.1)")), (Some("mx1.a.test"), Some("192.0.2.1")));
        assert_eq!(host_and_ip(Some("dns; mx1.a.test")), (Some("mx1.a.test"), None));
        assert_eq!(host_and_ip(None), (None, None));
    }
}
