//! Postmark's webhooks, as they came or as they were stored, and pages of its bounce API: "Webhooks" and "Bounce types"
//! (postmarkapp.com/developer/webhooks, postmarkapp.com/developer/api/bounce-api).

use serde_json::Value;

use super::draft::{Draft, name};
use super::json::{instant, text, told};
use super::{Fact, Setting};
use crate::event::EventType;

pub(super) fn facts(setting: &Setting, record: &Value) -> Vec<Fact> {
    if let Some(Value::Array(page)) = record.pointer("/Bounces") {
        return page.iter().map(|bounce| fact(setting, bounce, "Bounce")).collect();
    }
    match text(record, "/RecordType") {
        Some(kind) => vec![fact(setting, record, kind)],
        None => vec![Fact::Bad("it has no \"RecordType\"".into())],
    }
}

fn fact(setting: &Setting, record: &Value, kind: &str) -> Fact {
    let bounce_type = text(record, "/Type").unwrap_or_default();
    let leaves = record.pointer("/SuppressSending") == Some(&Value::Bool(true));
    let event_type = match kind {
        "Delivery" => EventType::Delivered,
        "Bounce" => match bounced(bounce_type) {
            Some(event_type) => event_type,
            None => return Fact::Unmapped(name(&format!("Bounce/{bounce_type}"))),
        },
        "SpamComplaint" => EventType::Complained,
        "Open" => EventType::Opened,
        "Click" => EventType::Clicked,
        // what a bounce or a complaint leads to is told by its own record
        "SubscriptionChange" if leaves && text(record, "/SuppressionReason") == Some("ManualSuppression") => {
            EventType::Unsubscribed
        }
        "SMTPApiError" => EventType::Rejected,
        other => return Fact::Unmapped(name(other)),
    };
    let time = ["/DeliveredAt", "/BouncedAt", "/ReceivedAt", "/ChangedAt"];
    let Some(at) = time.iter().find_map(|pointer| instant(record, pointer)) else {
        return Fact::Bad("it does not say when".into());
    };
    let own_id = told(record, "/ID").unwrap_or_else(|| record.to_string());
    let mut draft = Draft::new(setting, event_type, at, kind)
        .identified_by([own_id.as_str()])
        .message(text(record, "/MessageID"))
        .recipient(text(record, "/Recipient").or_else(|| text(record, "/Email")))
        .from(text(record, "/From"))
        .campaign(text(record, "/Tag"))
        .note("type", bounce_type)
        .note("message_stream", text(record, "/MessageStream"))
        .note("origin", text(record, "/Origin"));
    for (key, value) in record.pointer("/Metadata").and_then(Value::as_object).into_iter().flatten() {
        if let Some(value) = value.as_str() {
            draft.tag(key, value);
        }
    }
    draft = match event_type {
        EventType::Opened | EventType::Clicked => draft
            .client(text(record, "/Geo/IP"), text(record, "/UserAgent"))
            .url(text(record, "/OriginalLink")),
        EventType::Delivered | EventType::Deferred | EventType::Bounced => {
            draft.reply(None, None, text(record, "/Details"))
        }
        _ => draft.note("description", text(record, "/Description")),
    };
    if event_type == EventType::Complained {
        draft.event.feedback_type = Some("abuse".into());
    }
    if draft.event.stream.is_none() {
        draft.event.stream = stream_of(text(record, "/MessageStream")).map(str::to_owned);
    }
    draft.fact()
}

/// "Bounce types". The rest (Subscribe, ManuallyDeactivated, Unconfirmed, InboundError) tells of no message.
fn bounced(bounce_type: &str) -> Option<EventType> {
    Some(match bounce_type {
        "HardBounce" | "SoftBounce" | "DnsError" | "SpamNotification" | "OpenRelayTest" | "Unknown"
        | "VirusNotification" | "BadEmailAddress" | "Blocked" | "DMARCPolicy" => EventType::Bounced,
        "Transient" => EventType::Deferred,
        "Unsubscribe" => EventType::Unsubscribed,
        "AutoResponder" | "AddressChange" | "ChallengeVerification" => EventType::Replied,
        "SpamComplaint" => EventType::Complained,
        "SMTPApiError" | "TemplateRenderingFailed" => EventType::Rejected,
        _ => return None,
    })
}

/// The streams that every server has by default.
fn stream_of(message_stream: Option<&str>) -> Option<&'static str> {
    match message_stream? {
        "outbound" => Some("transactional"),
        "broadcast" | "broadcasts" => Some("marketing"),
        _ => None,
    }
}
