//! A fact in the making: what every sender's records have in common, brought into an event's columns.

use aws_lc_rs::digest::{SHA256, digest};
use sendlake_control::clock::Timestamp;
use sendlake_sql::rules::{Ruleset, Said, status_in};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{ELSEWHERE, Fact, Setting, mailbox};
use crate::event::{Event, EventType};

/// Longest text that is taken over, in characters.
const TEXT_CHARS_MAX: usize = 1_000;
/// Longest name, address or id that is taken over, in characters.
const NAME_CHARS_MAX: usize = 400;
/// Most labels of one message that are taken over.
const TAGS_MAX: usize = 30;
/// 2000-01-01: no record is older.
const EARLIEST: Timestamp = Timestamp(946_684_800_000_000);
/// Clocks of others may be that far ahead, in seconds.
const AHEAD_S_MAX: i64 = 86_400;

/// An event of another sender in the making.
#[derive(Clone, Debug)]
pub(super) struct Draft<'s> {
    setting: &'s Setting,
    pub(super) event: Event,
    detail: Map<String, Value>,
    /// The other sender's id of the message.
    foreign_id: Option<String>,
    /// What tells this record from all others of that sender.
    identity: String,
    /// Why it is no event after all.
    bad: Option<String>,
}

impl<'s> Draft<'s> {
    /// `kind` is what the record calls itself.
    pub(super) fn new(setting: &'s Setting, event_type: EventType, at: Timestamp, kind: &str) -> Self {
        let mut event = Event::new(Uuid::nil(), event_type, at, setting.tenant_id.clone());
        event.stream = setting.stream.clone();
        event.ip_pool = Some(format!("{ELSEWHERE}{}", setting.source));
        let mut detail = Map::new();
        detail.insert("source".into(), setting.source.as_str().into());
        detail.insert("kind".into(), name(kind).into());
        Self { setting, event, detail, foreign_id: None, identity: String::new(), bad: None }
    }

    /// What tells this record from all others of its sender: its own id, or all of its content.
    pub(super) fn identified_by<'t>(mut self, parts: impl IntoIterator<Item = &'t str>) -> Self {
        for part in parts {
            // the length in front keeps ("a", "bc") and ("ab", "c") apart
            self.identity.push_str(&format!("{}:{part}", part.len()));
        }
        self
    }

    /// The other sender's id of the message.
    pub(super) fn message(mut self, id: Option<&str>) -> Self {
        self.foreign_id = id.map(name).filter(|id| !id.is_empty());
        self
    }

    pub(super) fn recipient(mut self, recipient: Option<&str>) -> Self {
        let recipient = recipient.map(address).filter(|recipient| !recipient.is_empty());
        if let Some(text) = recipient.as_deref().filter(|text| !is_address(text)) {
            self.bad = Some(format!("the recipient {text:?} is no address"));
        }
        self.event.recipient_domain = recipient.as_deref().and_then(domain_of);
        self.event.recipient = recipient;
        self
    }

    /// The address in From, or its domain.
    pub(super) fn from(mut self, from: Option<&str>) -> Self {
        self.event.header_from_domain =
            from.map(address).and_then(|from| domain_of(&from).or(plain_domain(&from)));
        self
    }

    /// The reverse-path, or its domain.
    pub(super) fn mail_from(mut self, path: Option<&str>) -> Self {
        self.event.mail_from_domain =
            path.map(address).and_then(|path| domain_of(&path).or(plain_domain(&path)));
        self
    }

    /// The host that took or refused it: a name, an address, or both as `name [address]`.
    pub(super) fn mx(mut self, host: Option<&str>, ip: Option<&str>) -> Self {
        self.event.mx_host = host
            .map(|host| name(host).trim_end_matches('.').to_ascii_lowercase())
            .filter(|host| !host.is_empty());
        self.event.mx_ip = ip.map(name).filter(|ip| ip.parse::<std::net::IpAddr>().is_ok());
        self
    }

    pub(super) fn source_ip(mut self, ip: Option<&str>) -> Self {
        self.event.source_ip = ip.map(name).filter(|ip| ip.parse::<std::net::IpAddr>().is_ok());
        self
    }

    /// What the receiver said, whole or in parts: missing codes are read from the text.
    pub(super) fn reply(mut self, code: Option<i64>, status: Option<&str>, text: Option<&str>) -> Self {
        let text = text.map(phrase).filter(|text| !text.is_empty());
        let in_range = |code: &i64| (200..600).contains(code);
        let code = code.filter(in_range).or_else(|| text.as_deref().and_then(reply_code_in));
        self.event.reply_code = code.and_then(|code| i32::try_from(code).ok());
        let told = status.and_then(|status| status_in(status.trim()));
        self.event.enhanced_status = told.or_else(|| text.as_deref().and_then(status_in));
        self.event.reply_text = text;
        self
    }

    /// The command that the reply answered, in whatever words: `RCPT TO`, `end of DATA command`, `.`.
    pub(super) fn command(mut self, told: Option<&str>) -> Self {
        self.event.smtp_command = told.and_then(command_in).map(str::to_owned);
        self
    }

    pub(super) fn campaign(mut self, campaign: Option<&str>) -> Self {
        self.event.campaign_id = campaign.map(name).filter(|campaign| !campaign.is_empty());
        self
    }

    pub(super) fn tag(&mut self, key: &str, value: &str) {
        if self.event.tags.len() < TAGS_MAX && !key.is_empty() {
            self.event.tags.insert(name(key), name(value));
        }
    }

    /// Something worth keeping that has no column. Nulls and empty texts are left out.
    pub(super) fn note(mut self, key: &str, value: impl Into<Value>) -> Self {
        let value = match value.into() {
            Value::String(text) => Value::String(name(&text)),
            other => other,
        };
        if !value.is_null() && value.as_str() != Some("") {
            self.detail.insert(key.into(), value);
        }
        self
    }

    pub(super) fn delivered_at(mut self, at: Option<Timestamp>) -> Self {
        self.event.delivered_at = at.filter(|at| *at <= self.event.occurred_at);
        self
    }

    /// Fills in what follows from the rest: ids, provider, what the reply means.
    pub(super) fn fact(mut self) -> Fact {
        // a sender refuses what is no address, and says so
        let is_refusal = self.event.event_type == EventType::Rejected;
        if let Some(why) = self.bad.take().filter(|_| !is_refusal) {
            return Fact::Bad(why);
        }
        let at = self.event.occurred_at;
        if at < EARLIEST || at > self.setting.now.plus_secs(AHEAD_S_MAX) {
            return Fact::Bad(format!("its time, {at}, is not between 2000 and now"));
        }
        if self.event.header_from_domain.is_none() {
            self.event.header_from_domain = self.setting.domain.clone();
        }
        let by_mx =
            self.event.mx_host.as_deref().filter(|host| host.contains('.')).map(self.setting.provider_of);
        let by_mailbox = || self.event.recipient_domain.as_deref().and_then(mailbox::provider_of);
        if self.event.provider.is_none() {
            self.event.provider = by_mx.or_else(|| by_mailbox().map(str::to_owned));
        }
        if self.event.event_type == EventType::Delivered && self.event.reply_code.is_some() {
            self.event.smtp_command = Some("DOT".into());
        }
        self.classify();
        let recipient = self.event.recipient.clone().unwrap_or_default().to_lowercase();
        if let Some(id) = self.foreign_id.take() {
            let message = self.hash(&["message", &id, &recipient]);
            self.event.message_id = Some(opaque(message).to_string());
            self.detail.insert("id".into(), id.into());
        }
        let identity = std::mem::take(&mut self.identity);
        let known_by = self.hash(&["event", self.event.event_type.as_str(), &recipient, &identity]);
        self.event.event_id = timed(at, known_by);
        self.event.detail = Some(Value::Object(self.detail).to_string());
        Fact::Event(Box::new(self.event))
    }

    fn classify(&mut self) {
        let event = &mut self.event;
        if !matches!(event.event_type, EventType::Deferred | EventType::Bounced | EventType::BouncedAsync) {
            return;
        }
        let said = Said {
            provider: event.provider.as_deref(),
            smtp_command: event.smtp_command.as_deref(),
            reply_code: event.reply_code.and_then(|code| u16::try_from(code).ok()),
            enhanced_status: event.enhanced_status.as_deref(),
            text: event.reply_text.as_deref().unwrap_or_default(),
        };
        let found = Ruleset::current().classify(&said);
        event.bounce_category = Some(found.category.to_string());
        event.bounce_class = Some(found.class.to_string());
        event.bounce_reason = Some(found.reason);
        event.bounce_rule = Some(found.rule);
        event.ruleset_version = Some(found.ruleset_version);
    }

    fn hash(&self, parts: &[&str]) -> [u8; 16] {
        let all = json!([self.setting.source.as_str(), self.setting.tenant_id.as_str(), parts]).to_string();
        let mut short = [0; 16];
        short.iter_mut().zip(digest(&SHA256, all.as_bytes()).as_ref()).for_each(|(to, from)| *to = *from);
        short
    }
}

/// A UUIDv7 (RFC 9562, section 5.7) whose random part is a hash: the same record always has the same.
fn timed(at: Timestamp, hash: [u8; 16]) -> Uuid {
    let millis = u64::try_from(at.as_millis()).unwrap_or(0);
    let mut random = [0; 10];
    random.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

/// A UUIDv8 (RFC 9562, section 5.8): it tells no time, since a message's first record may not be the one at hand.
fn opaque(hash: [u8; 16]) -> Uuid {
    uuid::Builder::from_custom_bytes(hash).into_uuid()
}

/// `Ann <ann@a.test>`, `<ann@a.test>` or `rfc822; ann@a.test` as the address alone.
pub(super) fn address(text: &str) -> String {
    let inner = match (text.rfind('<'), text.rfind('>')) {
        (Some(open), Some(close)) if open < close => text.get(open + 1..close).unwrap_or(text),
        _ => text,
    };
    let inner = inner.rsplit_once(';').map_or(inner, |(_, after)| after);
    name(inner)
}

/// Whether a recipient is a local part and a domain. Hosts of one label are taken: logs have them.
fn is_address(text: &str) -> bool {
    let is_odd = |c: char| c.is_whitespace() || "<>,;\"()".contains(c);
    text.rsplit_once('@').is_some_and(|(local, domain)| {
        // RFC 5321, section 4.1.2: anything goes between quotes
        let is_quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
        !local.is_empty()
            && !domain.is_empty()
            && !domain.contains(is_odd)
            && (is_quoted || !local.contains(is_odd))
    })
}

/// The domain of an address, in lower case.
pub(super) fn domain_of(address: &str) -> Option<String> {
    let (_, domain) = address.rsplit_once('@')?;
    plain_domain(domain)
}

fn plain_domain(domain: &str) -> Option<String> {
    let domain = domain.trim().trim_end_matches('.').to_lowercase();
    let fits = !domain.is_empty()
        && domain.len() <= 253
        && domain.contains('.')
        && !domain.contains(|c: char| c.is_whitespace() || "<>,;\"()@".contains(c));
    fits.then_some(domain)
}

/// The enhanced status of a reply's parts, where they make one.
pub(super) fn status_of(class: Option<i64>, subject: Option<i64>, detail: Option<i64>) -> Option<String> {
    let (class, subject, detail) = (class?, subject?, detail?);
    let fits = matches!(class, 2 | 4 | 5) && (0..1_000).contains(&subject) && (0..1_000).contains(&detail);
    fits.then(|| format!("{class}.{subject}.{detail}"))
}

/// One line of text, white space collapsed, of bounded length.
pub(super) fn phrase(text: &str) -> String {
    let mut said = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !said.is_empty() {
            said.push(' ');
        }
        said.extend(word.chars().take(TEXT_CHARS_MAX));
        if said.len() >= TEXT_CHARS_MAX {
            break;
        }
    }
    said.chars().take(TEXT_CHARS_MAX).collect()
}

/// A name, an id, an address: without control characters, of bounded length.
pub(super) fn name(text: &str) -> String {
    text.trim().chars().filter(|c| !c.is_control()).take(NAME_CHARS_MAX).collect()
}

/// The code that a reply opens with, behind `smtp;` or another word of that kind where there is one.
fn reply_code_in(text: &str) -> Option<i64> {
    let text = text.split_once(';').map_or(text, |(front, rest)| {
        if front.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') { rest } else { text }
    });
    let text = text.trim_start();
    let digits = text.get(..3).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let ends = text.as_bytes().get(3).is_none_or(|byte| !byte.is_ascii_alphanumeric() && *byte != b'.');
    digits.parse().ok().filter(|code| ends && (200..600).contains(code))
}

/// A command in the words of events.
fn command_in(told: &str) -> Option<&'static str> {
    let told = told.trim().to_ascii_uppercase();
    let known = [
        ("END OF DATA", "DOT"),
        ("END OF MESSAGE", "DOT"),
        ("RCPT", "RCPT"),
        ("MAIL", "MAIL"),
        ("STARTTLS", "STARTTLS"),
        ("EHLO", "EHLO"),
        ("HELO", "EHLO"),
        ("LHLO", "EHLO"),
        ("DATA", "DATA"),
        ("BDAT", "DOT"),
        ("CONNECT", "CONNECT"),
        ("BANNER", "CONNECT"),
    ];
    if told == "." {
        return Some("DOT");
    }
    known.iter().find(|(word, _)| told.starts_with(word)).map(|(_, command)| *command)
}

/// What a complaint's type comes to; `None` for types that are reports of something else. No type means abuse
/// (RFC 5965, section 3.2, wants one; several loops leave it out).
pub(super) fn feedback(feedback_type: Option<&str>) -> Option<EventType> {
    match feedback_type.unwrap_or("abuse").to_ascii_lowercase().as_str() {
        "abuse" | "fraud" => Some(EventType::Complained),
        "not-spam" => Some(EventType::Replied),
        "opt-out" | "opt-out-list" => Some(EventType::Unsubscribed),
        _ => None,
    }
}

impl Draft<'_> {
    /// Who opened or clicked: the network of the address (/24, /48), the program, and what kind of opening it was.
    pub(super) fn client(mut self, ip: Option<&str>, user_agent: Option<&str>) -> Self {
        self.event.client_ip_prefix = ip.and_then(|ip| ip.trim().parse().ok()).map(prefix_of);
        self.event.user_agent = user_agent.map(phrase).filter(|agent| !agent.is_empty());
        if self.event.event_type == EventType::Opened {
            let source = self.event.user_agent.as_deref().map_or("unknown", open_source_of);
            self.event.open_source = Some(source.to_owned());
        }
        self
    }

    pub(super) fn url(mut self, url: Option<&str>) -> Self {
        self.event.url = url.map(phrase).filter(|url| !url.is_empty());
        self
    }
}

fn prefix_of(ip: std::net::IpAddr) -> String {
    match ip {
        std::net::IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        std::net::IpAddr::V6(ip) => {
            let [a, b, c, ..] = ip.segments();
            format!("{a:x}:{b:x}:{c:x}::/48")
        }
    }
}

/// Image proxies say who they are; Apple's prefetching says `Mozilla/5.0` and nothing more.
fn open_source_of(user_agent: &str) -> &'static str {
    if user_agent.contains("GoogleImageProxy") || user_agent.contains("YahooMailProxy") {
        "proxied"
    } else if user_agent == "Mozilla/5.0" {
        "prefetched"
    } else {
        "unknown"
    }
}
