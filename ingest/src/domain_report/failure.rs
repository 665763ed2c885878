//! DMARC failure reports: one message that failed, told by message/feedback-report of type auth-failure (RFC 6591,
//! RFC 9991).

use std::net::IpAddr;

use mail_parser::{DateTime, Message, MessageParser, MessagePart, MimeHeaders, PartType};
use sendlake_control::clock::Timestamp;

use super::{domain, value};

/// Most bytes read of the fields, and most fields.
const BLOCK_BYTES_MAX: usize = 64 << 10;
const FIELDS_MAX: usize = 200;
/// Most messages that one report may stand for (Incidents, RFC 6591, section 3.2.4).
const INCIDENTS_MAX: i64 = 1_000_000;

/// One report. Addresses in it may be redacted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FailureReport {
    /// Domain of the report's From.
    pub reporter: Option<String>,
    /// Message-ID of the report itself, without brackets: what a repeat is known by.
    pub report_id: Option<String>,
    pub user_agent: Option<String>,
    pub version: Option<String>,
    /// When the message arrived, else when the report was written.
    pub arrived_at: Option<Timestamp>,
    pub source_ip: Option<IpAddr>,
    /// `dmarc`, `dkim`, `spf`, `adsp`, … (RFC 6591, section 3.3; `dmarc` of RFC 7489, section 7.3.1).
    pub auth_failure: Vec<String>,
    /// Which mechanisms the report says were aligned (Identity-Alignment): `dkim`, `spf`.
    pub identity_alignment: Vec<String>,
    /// The domain in From, as the reporter has it, else as the message has it.
    pub reported_domain: Option<String>,
    pub delivery_result: Option<String>,
    pub authentication_results: Option<String>,
    pub dkim_domain: Option<String>,
    pub dkim_selector: Option<String>,
    pub dkim_identity: Option<String>,
    pub spf_dns: Option<String>,
    pub original_mail_from: Option<String>,
    pub original_rcpt_to: Option<String>,
    pub original_envelope_id: Option<String>,
    /// Message-ID of the message that failed, without brackets.
    pub original_message_id: Option<String>,
    /// How many messages it stands for.
    pub incidents: i64,
}

/// The report in a mail; `None` for a mail that holds no feedback report of that type.
pub fn read(message: &Message<'_>) -> Option<FailureReport> {
    let block = message.parts.iter().find_map(|part| {
        let kind = part.content_type()?;
        let is_report = kind.ctype().eq_ignore_ascii_case("message")
            && kind.subtype().is_some_and(|form| form.eq_ignore_ascii_case("feedback-report"));
        if !is_report {
            return None;
        }
        match &part.body {
            // its fields look like a mail's header section, and are sometimes taken for one
            PartType::Message(inner) => {
                let whole = inner.raw_message();
                let start = usize::try_from(part.offset_body).unwrap_or_default();
                let end = usize::try_from(part.offset_end).unwrap_or(whole.len());
                Some(String::from_utf8_lossy(cut(whole.get(start..end).unwrap_or(whole))).into_owned())
            }
            _ => Some(String::from_utf8_lossy(cut(part.contents())).into_owned()),
        }
    })?;
    let mut report = FailureReport { incidents: 1, ..FailureReport::default() };
    let mut is_auth_failure = false;
    for (name, text) in fields(&block) {
        let bare = || value(text.trim_matches(['<', '>', ' ']));
        let report = &mut report;
        match name.as_str() {
            "feedback-type" => is_auth_failure = text.eq_ignore_ascii_case("auth-failure"),
            "user-agent" => first(&mut report.user_agent, value(&text)),
            "version" => first(&mut report.version, value(&text)),
            "arrival-date" | "received-date" => first(&mut report.arrived_at, instant(&text)),
            "source-ip" => first(&mut report.source_ip, address(&text)),
            "auth-failure" => report.auth_failure.extend(words(&text)),
            "identity-alignment" => report.identity_alignment.extend(words(&text)),
            "reported-domain" => first(&mut report.reported_domain, domain(&text)),
            "delivery-result" => first(&mut report.delivery_result, value(&text.to_lowercase())),
            "authentication-results" => first(&mut report.authentication_results, value(&text)),
            "dkim-domain" => first(&mut report.dkim_domain, domain(&text)),
            "dkim-selector" => first(&mut report.dkim_selector, value(&text)),
            "dkim-identity" => first(&mut report.dkim_identity, value(&text)),
            "spf-dns" => first(&mut report.spf_dns, value(&text)),
            "original-mail-from" => first(&mut report.original_mail_from, bare()),
            "original-rcpt-to" => first(&mut report.original_rcpt_to, bare()),
            "original-envelope-id" => first(&mut report.original_envelope_id, value(&text)),
            "message-id" => first(&mut report.original_message_id, bare()),
            "incidents" => {
                report.incidents = text.parse().unwrap_or(1).clamp(1, INCIDENTS_MAX);
            }
            _ => {}
        }
    }
    if !is_auth_failure {
        return None;
    }
    report.complete(message);
    Some(report)
}

impl FailureReport {
    /// What the fields leave out, the mail around them may tell.
    fn complete(&mut self, message: &Message<'_>) {
        self.auth_failure.truncate(10);
        self.identity_alignment.truncate(10);
        self.identity_alignment.retain(|word| word != "none");
        if self.auth_failure.is_empty() {
            self.auth_failure.push("dmarc".to_owned());
        }
        self.reporter = from_domain(message);
        self.report_id = message.message_id().and_then(value);
        let date = message.date().filter(|date| date.is_valid());
        let written_at = date.map(|date| Timestamp(date.to_timestamp().saturating_mul(1_000_000)));
        first(&mut self.arrived_at, written_at);
        let Some((message_id, from)) = message.parts.iter().find_map(original) else { return };
        first(&mut self.original_message_id, message_id);
        first(&mut self.reported_domain, from);
    }
}

/// Message-ID and the domain in From of the message that failed, from a part that holds it or its header section.
fn original(part: &MessagePart<'_>) -> Option<(Option<String>, Option<String>)> {
    let told = |message: &Message<'_>| (message.message_id().and_then(value), from_domain(message));
    let form = part.content_type()?.subtype()?.to_ascii_lowercase();
    match &part.body {
        PartType::Message(message) if form != "feedback-report" => Some(told(message)),
        // a header section alone, whatever it is called
        _ if form.starts_with("rfc822") || form.starts_with("global") => {
            MessageParser::default().parse_headers(cut(part.contents())).as_ref().map(told)
        }
        _ => None,
    }
}

/// The domain in From, lower case.
pub fn from_domain(message: &Message<'_>) -> Option<String> {
    let address = message.from()?.first()?.address()?;
    domain(address.rsplit_once('@')?.1)
}

/// Fields of a block with their names in lower case, folded lines joined.
fn fields(block: &str) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        if line.starts_with([' ', '\t']) {
            if let Some((_, text)) = fields.last_mut() {
                text.push(' ');
                text.push_str(line.trim());
            }
        } else if let Some((name, text)) = line.split_once(':').filter(|_| fields.len() < FIELDS_MAX) {
            fields.push((name.trim().to_lowercase(), text.trim().to_owned()));
        }
    }
    fields
}

fn cut(bytes: &[u8]) -> &[u8] {
    bytes.get(..BLOCK_BYTES_MAX).unwrap_or(bytes)
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split([',', ' ', ';']).filter_map(value).map(|word| word.to_lowercase())
}

/// An address, also as a literal or with a port behind it.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim().trim_start_matches('[');
    let bare = bare.split([']', ' ', ',']).next()?;
    bare.parse().ok().or_else(|| bare.rsplit_once(':')?.0.parse().ok())
}

fn instant(text: &str) -> Option<Timestamp> {
    let date = DateTime::parse_rfc822(text).filter(DateTime::is_valid)?;
    Some(Timestamp(date.to_timestamp().saturating_mul(1_000_000)))
}

fn first<T>(slot: &mut Option<T>, found: Option<T>) {
    if slot.is_none() {
        *slot = found;
    }
}
