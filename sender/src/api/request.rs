//! From request bodies to checked requests. Pure: no I/O, no clock, and no input makes it panic.
//!
//! - [`parts`]: mailboxes, header fields, attachments
//! - [`options`]: stream, campaign, tags, `send_at`, tracking
//! - [`raw`]: a message that the client composed, with its envelope

pub mod options;
pub mod parts;
pub mod raw;

use std::collections::HashSet;

use sendlake_control::clock::Timestamp;
use serde_json::Value;

use self::options::Options;
use self::parts::Checker;
use super::json::{self, Fields};
use super::limits::ApiLimits;
use super::problem::{Faults, Kind, Pointer, Problem};
use crate::address::Address;
use crate::compose::Draft;
use crate::compose::mailbox::Mailbox;

/// What a request is checked against.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    pub limits: &'a ApiLimits,
    pub now: Timestamp,
    /// Whether the tenant may send from a domain (ASCII, lower case).
    pub owns: &'a dyn Fn(&str) -> bool,
}

/// One message of a request, checked and not yet composed.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageRequest {
    pub draft: Draft,
    /// `to`, `cc` and `bcc` in this order, each address once.
    pub recipients: Vec<Address>,
    pub options: Options,
}

/// Members of a message in JSON.
pub const MESSAGE_FIELDS: [&str; 15] = [
    "from",
    "to",
    "cc",
    "bcc",
    "reply_to",
    "subject",
    "text",
    "html",
    "headers",
    "attachments",
    "stream",
    "campaign_id",
    "tags",
    "send_at",
    "tracking",
];

/// Reads the body of `POST /v1/messages`.
pub fn parse_message_request(bytes: &[u8], rules: &Rules<'_>) -> Result<MessageRequest, Problem> {
    message_request(&json::read(bytes)?, rules)
}

/// Reads the body of `POST /v1/messages/batch`: all its messages, or every fault in any of them.
pub fn parse_batch_request(bytes: &[u8], rules: &Rules<'_>) -> Result<Vec<MessageRequest>, Problem> {
    batch_request(&json::read(bytes)?, rules)
}

pub(super) fn message_request(value: &Value, rules: &Rules<'_>) -> Result<MessageRequest, Problem> {
    let mut faults = Faults::default();
    let request = message(value, Pointer::root(), rules, &mut faults);
    finish(request, faults)
}

pub(super) fn batch_request(value: &Value, rules: &Rules<'_>) -> Result<Vec<MessageRequest>, Problem> {
    let mut faults = Faults::default();
    let requests = batch(value, rules, &mut faults);
    finish(requests, faults)
}

/// The request when there is no fault. A request that could not be read always left one.
pub(super) fn finish<T>(request: Option<T>, faults: Faults) -> Result<T, Problem> {
    match (request, faults.into_problem()) {
        (Some(request), None) => Ok(request),
        (_, Some(problem)) => Err(problem),
        (None, None) => Err(Problem::new(Kind::InvalidRequest, "the request could not be read")),
    }
}

fn batch(value: &Value, rules: &Rules<'_>, faults: &mut Faults) -> Option<Vec<MessageRequest>> {
    let fields = Fields::of(value, Pointer::root(), &["messages"], faults)?;
    let at = fields.at("messages");
    let messages = json::list(fields.required("messages", faults)?, &at, faults)?;
    if messages.is_empty() {
        faults.add(&at, "empty", "a batch holds at least one message");
    }
    let most = rules.limits.batch_messages;
    if messages.len() > most {
        let detail = format!("{} messages in one batch; at most {most}: split the batch", messages.len());
        faults.limit(&at, Kind::TooManyMessages, detail);
        return None;
    }
    let requests: Vec<_> = messages
        .iter()
        .enumerate()
        .filter_map(|(index, item)| message(item, at.item(index), rules, faults))
        .collect();
    Some(requests)
}

fn message(value: &Value, at: Pointer, rules: &Rules<'_>, faults: &mut Faults) -> Option<MessageRequest> {
    let fields = Fields::of(value, at, &MESSAGE_FIELDS, faults)?;
    let mut check = Checker { fields: &fields, rules, faults };
    let from = check.from();
    let counted = check.recipients_within_limit();
    let [to, cc, bcc] =
        if counted { ["to", "cc", "bcc"].map(|name| check.mailboxes(name)) } else { Default::default() };
    let reply_to = check.mailboxes("reply_to");
    let subject = check.subject();
    let text = check.body_text("text");
    let html = check.body_text("html");
    let headers = check.headers();
    let attachments = check.attachments();
    let options = Options::read(&fields, rules, faults);

    if counted && ["to", "cc", "bcc"].iter().all(|name| is_empty(fields.get(name))) {
        faults.add(&fields.at("to"), "missing", "give at least one recipient in to, cc or bcc");
    }
    if ["text", "html", "attachments"].iter().all(|name| is_empty(fields.get(name))) {
        faults.add(fields.pointer(), "missing_content", "give text, html or attachments");
    }
    if html.is_none()
        && let Some(index) = attachments.iter().position(|file| file.inline)
    {
        let at = fields.at("attachments").item(index).field("inline");
        faults.add(
            &at,
            "inline_without_html",
            "an inline file needs an html part that shows it; set inline to false",
        );
    }
    let recipients = unique([&to, &cc, &bcc].into_iter().flatten());
    let draft = Draft { from: from?, to, cc, reply_to, subject, text, html, headers, attachments };
    Some(MessageRequest { draft, recipients, options })
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

/// Each address once: somebody in both To and Cc gets one message.
pub(super) fn unique<'a>(mailboxes: impl Iterator<Item = &'a Mailbox>) -> Vec<Address> {
    let mut seen = HashSet::new();
    mailboxes.map(|mailbox| &mailbox.address).filter(|address| seen.insert(*address)).cloned().collect()
}

#[cfg(test)]
mod tests;
