//! A message that the client composed (RFC 5322), with the envelope it wants.

use serde_json::{Value, json};

use super::super::json::{self, Fields};
use super::super::problem::{Faults, Kind, Pointer, Problem};
use super::options::Options;
use super::parts::{base64_octets, check_owned, mailbox, recipients_fit};
use super::{Rules, finish, unique};
use crate::address::Address;
use crate::compose::raw::{self, RawMessage};

/// A message of a raw request, checked and in order.
#[derive(Clone, Debug)]
pub struct RawRequest {
    pub message: RawMessage,
    /// Of the envelope, each address once.
    pub recipients: Vec<Address>,
    pub options: Options,
}

/// Members of a raw request in JSON.
pub const RAW_FIELDS: [&str; 7] = ["envelope", "raw", "stream", "campaign_id", "tags", "send_at", "tracking"];

/// Reads the body of `POST /v1/messages/raw` in JSON.
pub fn parse_raw_request(bytes: &[u8], rules: &Rules<'_>) -> Result<RawRequest, Problem> {
    raw_request(&json::read(bytes)?, rules)
}

pub(in crate::api) fn raw_request(value: &Value, rules: &Rules<'_>) -> Result<RawRequest, Problem> {
    let mut faults = Faults::default();
    let request = request(value, None, rules, &mut faults);
    finish(request, faults)
}

/// A message in a `message/rfc822` body, whose envelope and options came in headers; `described` is what they
/// say, in the shape of the JSON request.
pub(in crate::api) fn rfc822_request(
    octets: &[u8],
    described: &Value,
    rules: &Rules<'_>,
) -> Result<RawRequest, Problem> {
    let mut faults = Faults::default();
    let request = request(described, Some(octets), rules, &mut faults);
    finish(request, faults)
}

/// The JSON request that headers of a `message/rfc822` request stand for.
pub(in crate::api) fn describe(
    recipients: &[&str],
    options: &[(&str, Option<&str>)],
    tracking: &[(&str, Option<&str>)],
) -> Value {
    let mut described = json!({"envelope": {"to": recipients}});
    let said = tracking.iter().filter_map(|(name, value)| {
        // anything else than these two words is refused as the text that it is
        let value = (*value)?;
        Some(((*name).to_owned(), value.parse::<bool>().map_or_else(|_| value.into(), Value::from)))
    });
    let said: serde_json::Map<String, Value> = said.collect();
    if let (false, Value::Object(members)) = (said.is_empty(), &mut described) {
        members.insert("tracking".into(), said.into());
    }
    for (name, value) in options {
        if let (Some(value), Value::Object(members)) = (value, &mut described) {
            members.insert((*name).to_owned(), (*value).into());
        }
    }
    described
}

fn request(
    value: &Value,
    octets: Option<&[u8]>,
    rules: &Rules<'_>,
    faults: &mut Faults,
) -> Option<RawRequest> {
    let fields = Fields::of(value, Pointer::root(), &RAW_FIELDS, faults)?;
    let recipients = envelope(&fields, rules, faults);
    let options = Options::read(&fields, rules, faults);
    let at = if octets.is_some() { Pointer::root() } else { fields.at("raw") };
    let message = match octets {
        Some(octets) => prepare(octets, &options, &at, rules, faults),
        None => {
            let text = fields.required("raw", faults).and(fields.text("raw", faults));
            let octets = text.and_then(|text| base64_octets(text, &at, faults));
            octets.and_then(|octets| prepare(&octets, &options, &at, rules, faults))
        }
    };
    Some(RawRequest { message: message?, recipients: recipients?, options })
}

fn prepare(
    octets: &[u8],
    options: &Options,
    at: &Pointer,
    rules: &Rules<'_>,
    faults: &mut Faults,
) -> Option<RawMessage> {
    let most = rules.limits.message_bytes;
    if octets.len() > most {
        let detail = format!("the message is {} octets long; at most {most}", octets.len());
        faults.limit(at, Kind::MessageTooLarge, detail);
        return None;
    }
    let date = options.send_at.unwrap_or(rules.now).max(rules.now);
    match raw::prepare(octets, date) {
        Ok(message) => {
            check_owned(message.from.address.domain(), at, rules, faults);
            Some(message)
        }
        Err(found) => {
            for fault in found {
                faults.add(at, fault.code(), fault.to_string());
            }
            None
        }
    }
}

/// `envelope.to`. `envelope.from` is checked and then replaced: mail leaves with a reverse-path of sendlake's
/// own under the tenant's domain, so that every bounce finds its message.
fn envelope(fields: &Fields<'_>, rules: &Rules<'_>, faults: &mut Faults) -> Option<Vec<Address>> {
    let value = fields.required("envelope", faults)?;
    let envelope = Fields::of(value, fields.at("envelope"), &["from", "to"], faults)?;
    if let Some(from) = envelope.text("from", faults).filter(|from| !from.is_empty()) {
        match Address::parse(from) {
            Ok(address) => check_owned(address.domain(), &envelope.at("from"), rules, faults),
            Err(error) => faults.add(&envelope.at("from"), "invalid_address", error.to_string()),
        }
    }
    let at = envelope.at("to");
    envelope.required("to", faults)?;
    let items = envelope.list("to", faults)?;
    if items.is_empty() {
        faults.add(&at, "missing", "give at least one recipient");
    }
    if !recipients_fit(items.len(), &at, rules, faults) {
        return None;
    }
    let mailboxes: Vec<_> =
        items.iter().enumerate().filter_map(|(index, item)| mailbox(item, &at.item(index), faults)).collect();
    Some(unique(mailboxes.iter()))
}
