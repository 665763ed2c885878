//! SendGrid's event webhook, as it came or as it was stored: "Event Webhook Reference"
//! (twilio.com/docs/sendgrid/for-developers/tracking-events/event).

use serde_json::Value;

use super::draft::{Draft, name};
use super::json::{instant, items, number, text, told};
use super::{Fact, Setting};
use crate::event::EventType;

pub(super) fn facts(setting: &Setting, record: &Value) -> Vec<Fact> {
    vec![fact(setting, record)]
}

fn fact(setting: &Setting, record: &Value) -> Fact {
    let Some(kind) = text(record, "/event") else { return Fact::Bad("it has no \"event\"".into()) };
    let message = text(record, "/sg_message_id").or_else(|| text(record, "/smtp-id"));
    let event_type = match kind {
        "processed" => EventType::Accepted,
        "dropped" if is_suppressed(text(record, "/reason").unwrap_or_default()) => EventType::Suppressed,
        "dropped" => EventType::Rejected,
        "delivered" => EventType::Delivered,
        "deferred" => EventType::Deferred,
        // the reference: a bounce that comes later has neither id
        "bounce" if message.is_none() => EventType::BouncedAsync,
        "bounce" => EventType::Bounced,
        "open" => EventType::Opened,
        "click" => EventType::Clicked,
        "spamreport" => EventType::Complained,
        "unsubscribe" | "group_unsubscribe" => EventType::Unsubscribed,
        other => return Fact::Unmapped(name(other)),
    };
    let Some(at) = instant(record, "/timestamp") else { return Fact::Bad("it has no \"timestamp\"".into()) };
    let categories: Vec<&str> = items(record, "/category").iter().filter_map(Value::as_str).collect();
    let campaign = told(record, "/marketing_campaign_id").or_else(|| told(record, "/singlesend_id"));
    let own_id = text(record, "/sg_event_id").map_or_else(|| record.to_string(), str::to_owned);
    let mut draft = Draft::new(setting, event_type, at, kind)
        .identified_by([own_id.as_str()])
        .message(message)
        .recipient(text(record, "/email"))
        .campaign(campaign.as_deref().or(categories.first().copied()))
        .note("smtp_id", text(record, "/smtp-id"))
        .note("type", text(record, "/type"))
        .note("bounce_classification", text(record, "/bounce_classification"))
        .note("asm_group_id", number(record, "/asm_group_id"))
        .note("pool", told(record, "/pool/name"));
    for category in categories {
        draft.tag(category, "");
    }
    let said = text(record, "/reason").or_else(|| text(record, "/response"));
    draft = match event_type {
        EventType::Opened | EventType::Clicked => {
            draft.client(text(record, "/ip"), text(record, "/useragent")).url(text(record, "/url"))
        }
        EventType::Suppressed | EventType::Rejected => draft.note("reason", said),
        EventType::Delivered | EventType::Deferred | EventType::Bounced | EventType::BouncedAsync => {
            draft.source_ip(text(record, "/ip")).reply(None, text(record, "/status"), said)
        }
        _ => draft,
    };
    let event = &mut draft.event;
    event.attempt = number(record, "/attempt").and_then(|attempt| i32::try_from(attempt).ok());
    if event_type == EventType::Complained {
        event.feedback_type = Some("abuse".into());
    }
    if record.pointer("/sg_machine_open") == Some(&Value::Bool(true)) {
        event.open_source = Some("prefetched".into());
    }
    draft.fact()
}

/// The reasons of a drop that are lists of addresses: "Dropped" of the reference.
fn is_suppressed(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    ["bounced address", "unsubscribed address", "spam reporting address", "suppress"]
        .iter()
        .any(|list| reason.contains(list))
}
