//! A mail taken apart for reading as a report: the words for people, the blocks for machines, and what is left
//! of the original message.

use mail_parser::decoders::html::html_to_text;
use mail_parser::{Header, HeaderName, HeaderValue, Message, MessageParser, MimeHeaders, PartType};

use super::{OriginalFields, ReportError, charset, said};

/// Most bytes kept of the words, and of each block.
const WORDS_BYTES_MAX: usize = 128 << 10;
const BLOCK_BYTES_MAX: usize = 4 << 20;
/// Reports within reports that are looked into: gateways forward them.
const DEPTH_MAX: usize = 3;
/// Messages within one mail, and feedback reports, that are kept.
const ORIGINALS_MAX: usize = 16;
/// Where Microsoft names who complained.
const COMPLAINED_BY: &str = "x-hmxmroriginalrecipient";

/// What a report may be read from.
#[derive(Debug, Default)]
pub struct Mail {
    /// Address and name in `From:`, lower case.
    pub from: String,
    pub from_domain: Option<String>,
    /// Addresses in `To:`: whom the report went to.
    pub to: Vec<String>,
    pub subject: String,
    /// Lower case.
    pub auto_submitted: Option<String>,
    /// Another header that auto-responders set.
    pub auto_header: bool,
    pub failed_recipients: Vec<String>,
    pub null_return_path: bool,
    /// `report-type` of multipart/report.
    pub report_type: Option<String>,
    /// Words for people, up to where the original message begins.
    pub words: String,
    /// message/delivery-status, or what looks like it.
    pub statuses: Vec<String>,
    /// message/feedback-report, of this mail or of one that it forwards.
    pub feedback: Vec<String>,
    pub has_original: bool,
    /// The last message that came with it.
    pub original: OriginalFields,
    /// All of them, as far as they say anything.
    pub originals: Vec<OriginalFields>,
    /// A report that the mail carries as an attachment.
    attached: Option<Box<Self>>,
}

impl Mail {
    pub fn read(message: &[u8]) -> Result<Self, ReportError> {
        Self::read_within(message, DEPTH_MAX)
    }

    /// Software of mailing lists speaks for itself, without naming recipients.
    pub fn is_from_a_list(&self) -> bool {
        let mailbox = self.from.split(' ').next().unwrap_or_default();
        let local = mailbox.split('@').next().unwrap_or_default();
        ["-admin", "-owner", "-request"].iter().any(|end| local.ends_with(end))
            || ["owner-", "listserv", "majordomo", "mailman", "sympa"]
                .iter()
                .any(|start| local.starts_with(start))
    }

    fn read_within(bytes: &[u8], depth: usize) -> Result<Self, ReportError> {
        let message = MessageParser::default().parse(bytes).ok_or(ReportError::NotAMail)?;
        if message.headers().is_empty() {
            return Err(ReportError::NotAMail);
        }
        let mut mail = Self::default();
        mail.take_headers(&message);
        let mut text = String::new();
        mail.take_parts(&message, &mut text, depth);
        let is_complaint =
            !mail.feedback.is_empty() || mail.originals.iter().any(|one| one.complained_by.is_some());
        if text.trim().is_empty() && mail.statuses.is_empty() && !is_complaint {
            // a multipart without parts: take the body as it lies there
            let offset = usize::try_from(message.root_part().offset_body).unwrap_or_default();
            push(&mut text, &String::from_utf8_lossy(bytes.get(offset..).unwrap_or_default()));
        }
        mail.take_text(&text, depth);
        Ok(mail.or_attached())
    }

    /// A mail that quotes no refusal itself and carries a report speaks by that report: gateways and people forward
    /// them so.
    fn or_attached(mut self) -> Self {
        let Some(attached) = self.attached.take() else { return self };
        if self.statuses.is_empty() && self.feedback.is_empty() && said::codes_in(&self.words) == (None, None)
        {
            return Self { to: self.to, ..*attached };
        }
        push(&mut self.words, &attached.words);
        self
    }

    fn take_headers(&mut self, message: &Message<'_>) {
        let address = message.from().and_then(|from| from.first());
        let mailbox = address.and_then(|from| from.address()).unwrap_or_default();
        let name = address.and_then(|from| from.name()).unwrap_or_default();
        self.from = format!("{mailbox} {name}").trim().to_lowercase();
        self.from_domain = mailbox.rsplit_once('@').map(|(_, domain)| domain.to_lowercase());
        self.to = addresses(message.to());
        self.subject = message.subject().unwrap_or_default().to_owned();
        self.report_type = message
            .content_type()
            .and_then(|content_type| content_type.attribute("report-type"))
            .map(str::to_lowercase);
        for header in message.headers() {
            let raw = || message_text(message, header);
            match header.name() {
                name if name.eq_ignore_ascii_case("auto-submitted") => {
                    self.auto_submitted = Some(raw().to_lowercase());
                }
                name if name.eq_ignore_ascii_case("x-failed-recipients") => {
                    self.failed_recipients.extend(said::addresses_in(&raw()));
                }
                name if name.eq_ignore_ascii_case("return-path") => {
                    self.null_return_path |= matches!(raw().trim(), "<>" | "");
                }
                name if [
                    "x-autoreply",
                    "x-autorespond",
                    "x-autoresponder",
                    "x-vacation",
                    "x-mail-autoreply",
                    "x-autoreply-from",
                    "x-apple-action",
                    "x-fc-machinegenerated",
                ]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known)) =>
                {
                    self.auto_header = true;
                }
                name if name.eq_ignore_ascii_case("precedence") => {
                    self.auto_header |= raw().to_lowercase().contains("auto");
                }
                // the message itself, sent on with the mark on top
                name if name.eq_ignore_ascii_case(COMPLAINED_BY) => {
                    self.add_original(original_of(message));
                }
                _ => {}
            }
        }
    }

    fn take_parts(&mut self, message: &Message<'_>, text: &mut String, depth: usize) {
        let mut html = String::new();
        for part in &message.parts {
            let content_type = part.content_type();
            let kind = content_type.map(|kind| kind.ctype().to_lowercase()).unwrap_or_default();
            let form =
                content_type.and_then(|kind| kind.subtype()).map(str::to_lowercase).unwrap_or_default();
            match (kind.as_str(), form.as_str(), &part.body) {
                ("message", "delivery-status" | "xdelivery-status" | "global-delivery-status", body) => {
                    self.statuses.extend(block(body));
                }
                ("message", "feedback-report", body) => self.add_feedback(block(body)),
                // gateways rewrite types that they do not know
                (_, _, PartType::Text(body)) if is_feedback(body) => self.add_feedback(block(&part.body)),
                (_, _, PartType::Binary(body) | PartType::InlineBinary(body))
                    if std::str::from_utf8(body).is_ok_and(is_feedback) =>
                {
                    self.add_feedback(block(&part.body));
                }
                (_, _, PartType::Message(report)) if depth > 0 && holds_feedback(report) => {
                    self.take_forwarded(report, depth);
                }
                ("text", "rfc822-headers" | "rfc822-header", body)
                | ("message", "rfc822-headers" | "global-headers", body) => {
                    if let Some(headers) = block(body) {
                        self.take_original(headers.as_bytes());
                    }
                }
                (_, _, PartType::Message(original)) => {
                    self.add_original(original_of(original));
                    if self.original == OriginalFields::default() {
                        self.take_original(original.raw_message());
                    }
                    if depth > 0 && is_report(original) {
                        let attached = Self::read_within(original.raw_message(), depth - 1).ok();
                        self.attached = self.attached.take().or(attached.map(Box::new));
                    }
                }
                (_, "html", PartType::Html(body) | PartType::Text(body)) => push(&mut html, body),
                (_, _, PartType::Text(body)) => {
                    push(text, charset::read_again(message, part, body).as_deref().unwrap_or(body));
                }
                (_, _, PartType::Html(body)) => push(&mut html, body),
                _ => {}
            }
        }
        if text.trim().is_empty() && !html.is_empty() {
            push(text, &html_to_text(&html));
        }
    }

    fn take_text(&mut self, text: &str, depth: usize) {
        let text = said::unquoted(text);
        if self.feedback.is_empty() && said::has_feedback_fields(&text) {
            self.add_feedback(Some(text.clone()));
        }
        let (words, original) = said::split_original(&text);
        self.words = words.to_owned();
        let Some(original) = original else { return };
        if self.original == OriginalFields::default() {
            self.take_original(original.as_bytes());
        }
        self.has_original = true;
        // a gateway that wraps another's report in plain text
        if depth > 0
            && self.statuses.is_empty()
            && said::is_wrapped_report(original)
            && let Ok(inner) = Self::read_within(original.as_bytes(), depth - 1)
        {
            self.statuses = inner.statuses;
            push(&mut self.words, &inner.words);
            if inner.has_original {
                self.original = inner.original;
            }
        }
    }

    fn take_original(&mut self, headers: &[u8]) {
        self.has_original = true;
        if let Some(message) = MessageParser::default().parse_headers(headers) {
            self.add_original(original_of(&message));
        }
    }

    fn add_original(&mut self, original: OriginalFields) {
        self.has_original = true;
        if original != OriginalFields::default()
            && self.originals.len() < ORIGINALS_MAX
            && !self.originals.contains(&original)
        {
            self.originals.push(original.clone());
        }
        self.original = original;
    }

    fn add_feedback(&mut self, report: Option<String>) {
        if self.feedback.len() < ORIGINALS_MAX {
            self.feedback.extend(report);
        }
    }

    /// A feedback report that a person or a list sent on as it came. Who reports is whoever wrote the first of them.
    fn take_forwarded(&mut self, report: &Message<'_>, depth: usize) {
        let mut inner = Self::default();
        inner.take_headers(report);
        let mut words = String::new();
        inner.take_parts(report, &mut words, depth - 1);
        if self.feedback.is_empty() {
            self.from_domain = inner.from_domain;
        }
        inner.feedback.into_iter().for_each(|report| self.add_feedback(Some(report)));
        inner.originals.into_iter().for_each(|original| self.add_original(original));
    }
}

/// Whether a mail holds a feedback report, itself or in what it forwards.
fn holds_feedback(message: &Message<'_>) -> bool {
    message.parts.iter().any(|part| match &part.body {
        PartType::Message(inner) => holds_feedback(inner),
        _ => part.content_type().is_some_and(|kind| {
            kind.ctype().eq_ignore_ascii_case("message")
                && kind.subtype().is_some_and(|form| form.eq_ignore_ascii_case("feedback-report"))
        }),
    })
}

/// Whether a text consists of the fields of a feedback report (RFC 5965, section 3.1: the first three are required).
fn is_feedback(text: &str) -> bool {
    let starts =
        |line: &str, name: &str| line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
    let mut lines = text.trim_start().lines().take(20);
    lines.next().is_some_and(|line| starts(line, "feedback-type:"))
        && lines.any(|line| starts(line, "user-agent:") || starts(line, "version:"))
}

/// Whether a mail that lies within another is a report: by its type, or by who wrote it.
fn is_report(message: &Message<'_>) -> bool {
    let kind = message.content_type().and_then(|kind| kind.attribute("report-type"));
    let from = message.from().and_then(|from| from.first());
    let from = from.and_then(|from| from.address().filter(|address| !address.is_empty()).or(from.name()));
    kind.is_some_and(|kind| kind.contains("delivery") || kind.contains("feedback"))
        || said::is_daemon(from.unwrap_or_default())
}

fn original_of(message: &Message<'_>) -> OriginalFields {
    let named = |name: &str| {
        let header = message.headers().iter().find(|header| header.name().eq_ignore_ascii_case(name))?;
        Some(message_text(message, header).trim().to_owned()).filter(|text| !text.is_empty())
    };
    OriginalFields {
        message_id: message.message_id().map(str::to_owned),
        return_path: named("return-path")
            .map(|path| path.trim_matches(['<', '>', ' ']).to_owned())
            .filter(|path| !path.is_empty()),
        list_unsubscribe: named("list-unsubscribe").map(|text| said::uris_in(&text)).unwrap_or_default(),
        feedback_id: named("feedback-id"),
        cfbl_feedback_id: named("cfbl-feedback-id").map(|id| id.split_whitespace().collect()),
        complained_by: named(COMPLAINED_BY),
        from: message.from().and_then(|from| from.first()?.address().map(str::to_owned)),
        to: addresses(message.to()),
    }
}

fn addresses(field: Option<&mail_parser::Address<'_>>) -> Vec<String> {
    field
        .map(|field| field.iter().filter_map(|one| one.address().map(str::to_owned)).take(100).collect())
        .unwrap_or_default()
}

/// A header's text as it came, unfolded.
fn message_text(message: &Message<'_>, header: &Header<'_>) -> String {
    if let (HeaderName::Other(_), HeaderValue::Text(text)) = (&header.name, &header.value) {
        return text.to_string();
    }
    // offsets count from the start of the whole mail, also those of a mail within it
    let bytes = &message.raw_message;
    let range = usize::try_from(header.offset_start).ok().zip(usize::try_from(header.offset_end).ok());
    let raw = range.and_then(|(start, end)| bytes.get(start..end)).unwrap_or_default();
    String::from_utf8_lossy(raw).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn block(body: &PartType<'_>) -> Option<String> {
    let bytes: &[u8] = match body {
        PartType::Text(text) | PartType::Html(text) => text.as_bytes(),
        PartType::Binary(bytes) | PartType::InlineBinary(bytes) => bytes,
        PartType::Message(message) => message.raw_message(),
        PartType::Multipart(_) => return None,
    };
    let bytes = bytes.get(..BLOCK_BYTES_MAX).unwrap_or(bytes);
    Some(String::from_utf8_lossy(bytes).into_owned())
}

fn push(text: &mut String, more: &str) {
    let room = WORDS_BYTES_MAX.saturating_sub(text.len());
    let end = more.char_indices().map(|(at, _)| at).chain([more.len()]).take_while(|at| *at <= room).last();
    text.push_str(more.get(..end.unwrap_or_default()).unwrap_or_default());
    text.push('\n');
}
