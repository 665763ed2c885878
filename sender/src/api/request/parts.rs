//! The parts of a message in JSON: mailboxes, header fields, texts, attachments.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

use super::super::json::{self, Fields};
use super::super::problem::{Faults, Kind, Pointer};
use super::Rules;
use crate::address::Address;
use crate::compose::header;
use crate::compose::mailbox::{InvalidMailbox, Mailbox};
use crate::compose::mime::{self, Attachment};

/// Reads the parts of one message and notes every fault.
pub(in crate::api) struct Checker<'a, 'f> {
    pub fields: &'a Fields<'a>,
    pub rules: &'a Rules<'a>,
    pub faults: &'f mut Faults,
}

impl Checker<'_, '_> {
    /// The mailbox in `from`, of a domain that the tenant owns.
    pub fn from(&mut self) -> Option<Mailbox> {
        let at = self.fields.at("from");
        let value = self.fields.required("from", self.faults)?;
        let from = mailbox(value, &at, self.faults)?;
        check_owned(from.address.domain(), &at, self.rules, self.faults);
        Some(from)
    }

    /// Whether `to`, `cc` and `bcc` together stay within the limit; if not, they are not even read.
    pub fn recipients_within_limit(&mut self) -> bool {
        let count = |name: &&str| match self.fields.get(name) {
            Some(Value::Array(items)) => items.len(),
            Some(_) => 1,
            None => 0,
        };
        let names = ["to", "cc", "bcc"];
        let total: usize = names.iter().map(count).sum();
        let largest = names.iter().copied().max_by_key(count).unwrap_or("to");
        recipients_fit(total, &self.fields.at(largest), self.rules, self.faults)
    }

    /// A list of mailboxes, or a single one.
    pub fn mailboxes(&mut self, name: &str) -> Vec<Mailbox> {
        let at = self.fields.at(name);
        match self.fields.get(name) {
            None => Vec::new(),
            Some(Value::Array(items)) => items
                .iter()
                .enumerate()
                .filter_map(|(index, item)| mailbox(item, &at.item(index), self.faults))
                .collect(),
            Some(value) => mailbox(value, &at, self.faults).into_iter().collect(),
        }
    }

    pub fn subject(&mut self) -> Option<String> {
        let subject = self.fields.text("subject", self.faults)?;
        if subject.chars().any(|c| c.is_control() && c != '\t') {
            let fault = header::HeaderFault::ControlCharacter;
            self.faults.add(&self.fields.at("subject"), fault.code(), fault.to_string());
        }
        Some(subject.to_owned())
    }

    pub fn body_text(&mut self, name: &str) -> Option<String> {
        let text = self.fields.text(name, self.faults)?;
        if let Some(at) = text.find('\0') {
            let detail = format!("octet {} is NUL, which no message may hold (RFC 5322, section 4)", at + 1);
            self.faults.add(&self.fields.at(name), "control_character", detail);
        }
        Some(text.to_owned())
    }

    /// `{"Name": "value"}` or `[{"name": …, "value": …}]`.
    pub fn headers(&mut self) -> Vec<(String, String)> {
        let fields = self.fields;
        let at = fields.at("headers");
        let mut headers: Vec<(String, String)> = Vec::new();
        match fields.get("headers") {
            None => {}
            Some(Value::Object(members)) => {
                for (name, value) in members {
                    let value_at = at.field(name);
                    if let Some(value) = json::text(value, &value_at, self.faults) {
                        self.header(name, value, &value_at, &value_at, &mut headers);
                    }
                }
            }
            Some(value) => {
                for (index, item) in
                    json::list(value, &at, self.faults).unwrap_or_default().iter().enumerate()
                {
                    let Some(field) = Fields::of(item, at.item(index), &["name", "value"], self.faults)
                    else {
                        continue;
                    };
                    let name = field.required("name", self.faults).and(field.text("name", self.faults));
                    let value = field.required("value", self.faults).and(field.text("value", self.faults));
                    if let (Some(name), Some(value)) = (name, value) {
                        self.header(name, value, &field.at("name"), &field.at("value"), &mut headers);
                    }
                }
            }
        }
        self.headers_within_limits(&headers, &at);
        headers
    }

    fn header(
        &mut self,
        name: &str,
        value: &str,
        name_at: &Pointer,
        value_at: &Pointer,
        headers: &mut Vec<(String, String)>,
    ) {
        if let Err(fault) = header::check(name, value) {
            let at = if fault.is_about_name() { name_at } else { value_at };
            self.faults.add(at, fault.code(), fault.to_string());
        } else if header::is_single(name) && headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name))
        {
            let fault = header::HeaderFault::Repeated(name.to_owned());
            self.faults.add(name_at, fault.code(), fault.to_string());
        }
        headers.push((name.to_owned(), value.to_owned()));
    }

    fn headers_within_limits(&mut self, headers: &[(String, String)], at: &Pointer) {
        let limits = self.rules.limits;
        if headers.len() > limits.headers {
            let detail = format!("{} header fields; at most {}", headers.len(), limits.headers);
            self.faults.limit(at, Kind::TooManyHeaders, detail);
        }
        let subject = self.fields.get("subject").and_then(Value::as_str).map_or(0, str::len);
        let octets = headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() + subject;
        if octets > limits.header_bytes {
            let detail =
                format!("subject and headers are {octets} octets long; at most {}", limits.header_bytes);
            let at = if subject > limits.header_bytes { &self.fields.at("subject") } else { at };
            self.faults.limit(at, Kind::HeadersTooLarge, detail);
        }
        let given = |wanted: &str| headers.iter().any(|(name, _)| name.eq_ignore_ascii_case(wanted));
        if given("List-Unsubscribe-Post") && !given("List-Unsubscribe") {
            let detail = "List-Unsubscribe-Post needs a List-Unsubscribe of yours beside it (RFC 8058, section 3.1); \
                          leave both out and sendlake sets its own";
            self.faults.add(at, "list_unsubscribe_missing", detail);
        }
    }

    pub fn attachments(&mut self) -> Vec<Attachment> {
        let at = self.fields.at("attachments");
        let items = self.fields.list("attachments", self.faults).unwrap_or_default();
        let limits = self.rules.limits;
        if items.len() > limits.attachments {
            let detail = format!("{} attachments; at most {}", items.len(), limits.attachments);
            self.faults.limit(&at, Kind::TooManyAttachments, detail);
            return Vec::new();
        }
        let files: Vec<_> = items
            .iter()
            .enumerate()
            .filter_map(|(index, item)| attachment(item, at.item(index), self.faults))
            .collect();
        let octets: usize = files.iter().map(|file| file.content.len()).sum();
        if octets > limits.attachment_bytes {
            let detail = format!(
                "the attachments are {octets} octets together; at most {}: send a link instead",
                limits.attachment_bytes
            );
            self.faults.limit(&at, Kind::AttachmentsTooLarge, detail);
        }
        files
    }
}

/// `"name@example.com"`, `"Name <name@example.com>"` or `{"email": …, "name": …}`.
pub(in crate::api) fn mailbox(value: &Value, at: &Pointer, faults: &mut Faults) -> Option<Mailbox> {
    let (parsed, at) = match value {
        Value::String(text) => (Mailbox::parse(text), at.clone()),
        Value::Object(_) => {
            let fields = Fields::of(value, at.clone(), &["email", "name"], faults)?;
            let name = fields.text("name", faults);
            fields.required("email", faults)?;
            let email = fields.text("email", faults)?;
            match Address::parse(email) {
                Ok(address) => (Mailbox::new(name, address), fields.at("name")),
                Err(error) => (Err(InvalidMailbox::Address(error)), fields.at("email")),
            }
        }
        _ => {
            json::wrong_type(value, "a string or {\"email\", \"name\"}", at, faults);
            return None;
        }
    };
    parsed
        .map_err(|error| {
            let code = match error {
                InvalidMailbox::ControlCharacter => "control_character",
                _ => "invalid_address",
            };
            faults.add(&at, code, format!("not one mailbox: {error}"));
        })
        .ok()
}

pub(in crate::api) fn check_owned(domain: &str, at: &Pointer, rules: &Rules<'_>, faults: &mut Faults) {
    if !(rules.owns)(domain) {
        let detail = format!(
            "{domain} is not a sending domain of this tenant; add it with: sendlake domain add --tenant NAME {domain}"
        );
        faults.limit(at, Kind::DomainNotOwned, detail);
    }
}

pub(in crate::api) fn recipients_fit(
    total: usize,
    at: &Pointer,
    rules: &Rules<'_>,
    faults: &mut Faults,
) -> bool {
    let most = rules.limits.recipients;
    if total > most {
        let detail = format!("{total} recipients in one submission; at most {most}: split the submission");
        faults.limit(at, Kind::TooManyRecipients, detail);
    }
    total <= most
}

fn attachment(value: &Value, at: Pointer, faults: &mut Faults) -> Option<Attachment> {
    const FIELDS: [&str; 5] = ["filename", "content_type", "content", "content_id", "inline"];
    let fields = Fields::of(value, at, &FIELDS, faults)?;
    let filename = fields.required("filename", faults).and(fields.text("filename", faults));
    let content_type = fields.text("content_type", faults).unwrap_or("application/octet-stream");
    let content_id = fields.text("content_id", faults);
    let inline = fields.boolean("inline", faults).unwrap_or(false);
    let content = fields.required("content", faults).and(fields.text("content", faults));
    let content = content.and_then(|text| base64_octets(text, &fields.at("content"), faults));

    if let Some(Err(fault)) = filename.map(mime::check_filename) {
        let code =
            if fault == mime::LabelFault::FilenameControl { "control_character" } else { "invalid_filename" };
        faults.add(&fields.at("filename"), code, fault.to_string());
    }
    if let Err(fault) = mime::check_content_type(content_type) {
        faults.add(&fields.at("content_type"), "invalid_content_type", fault.to_string());
    }
    let content_id = content_id.and_then(|id| match mime::check_content_id(id) {
        Ok(id) => Some(id.to_owned()),
        Err(fault) => {
            faults.add(&fields.at("content_id"), "invalid_content_id", fault.to_string());
            None
        }
    });
    Some(Attachment {
        filename: filename?.to_owned(),
        content_type: content_type.trim().to_owned(),
        content: content?,
        content_id,
        inline,
    })
}

/// Base64 (RFC 4648, section 4), with or without padding and line breaks.
pub(in crate::api) fn base64_octets(text: &str, at: &Pointer, faults: &mut Faults) -> Option<Vec<u8>> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let compact: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    match GeneralPurpose::new(&STANDARD, CONFIG).decode(compact) {
        Ok(octets) => Some(octets),
        Err(error) => {
            let detail = format!("not base64 (RFC 4648, section 4): {error}");
            faults.add(at, "invalid_base64", detail);
            None
        }
    }
}
