//! SparkPost's webhooks, as they came or as they were stored, and pages of its events API: "Webhook event reference"
//! and "Events" (developers.sparkpost.com/api/webhooks, developers.sparkpost.com/api/events).

use serde_json::Value;

use super::draft::{Draft, feedback, name, phrase};
use super::json::{instant, items, number, text, told};
use super::{Fact, Setting};
use crate::event::EventType;

pub(super) fn facts(setting: &Setting, record: &Value) -> Vec<Fact> {
    if let Some(Value::Array(page)) = record.pointer("/results") {
        return page.iter().map(|event| fact(setting, event)).collect();
    }
    match record.pointer("/msys").and_then(Value::as_object) {
        // a webhook's test sends an empty one
        Some(wrapped) if wrapped.is_empty() => vec![Fact::Unmapped("empty event".into())],
        Some(wrapped) => wrapped.values().map(|event| fact(setting, event)).collect(),
        None => vec![fact(setting, record)],
    }
}

fn fact(setting: &Setting, record: &Value) -> Fact {
    let Some(kind) = text(record, "/type") else { return Fact::Bad("it has no \"type\"".into()) };
    let said = text(record, "/raw_reason").or_else(|| text(record, "/reason"));
    let feedback_type = text(record, "/fbtype");
    let event_type = match kind {
        "injection" => EventType::Accepted,
        "delivery" => EventType::Delivered,
        "delay" => EventType::Deferred,
        "bounce" => EventType::Bounced,
        "out_of_band" => EventType::BouncedAsync,
        "spam_complaint" => match feedback(feedback_type) {
            Some(event_type) => event_type,
            None => {
                return Fact::Unmapped(name(&format!(
                    "spam_complaint/{}",
                    feedback_type.unwrap_or_default()
                )));
            }
        },
        "policy_rejection" | "generation_rejection" if is_suppressed(said.unwrap_or_default()) => {
            EventType::Suppressed
        }
        "policy_rejection" | "generation_rejection" | "generation_failure" => EventType::Rejected,
        "open" | "initial_open" | "amp_open" | "amp_initial_open" => EventType::Opened,
        "click" | "amp_click" => EventType::Clicked,
        "list_unsubscribe" | "link_unsubscribe" => EventType::Unsubscribed,
        other => return Fact::Unmapped(name(other)),
    };
    let Some(at) = instant(record, "/timestamp") else { return Fact::Bad("it has no \"timestamp\"".into()) };
    let own_id = told(record, "/event_id").unwrap_or_else(|| record.to_string());
    let message = told(record, "/message_id").or_else(|| told(record, "/transmission_id"));
    let from = text(record, "/friendly_from").or_else(|| text(record, "/sending_domain"));
    let mut draft = Draft::new(setting, event_type, at, kind)
        .identified_by([own_id.as_str()])
        .message(message.as_deref())
        .recipient(text(record, "/raw_rcpt_to").or_else(|| text(record, "/rcpt_to")))
        .from(from)
        .mail_from(text(record, "/msg_from"))
        .campaign(text(record, "/campaign_id"))
        .note("bounce_class", told(record, "/bounce_class"))
        .note("template", text(record, "/template_id"))
        .note("subaccount", told(record, "/subaccount_id"))
        .note("pool", text(record, "/ip_pool"));
    for tag in items(record, "/rcpt_tags").iter().filter_map(Value::as_str) {
        draft.tag(tag, "");
    }
    draft = match event_type {
        EventType::Opened | EventType::Clicked => draft
            .client(text(record, "/ip_address"), text(record, "/user_agent"))
            .url(text(record, "/target_link_url")),
        EventType::Delivered | EventType::Deferred | EventType::Bounced => draft
            .mx(None, text(record, "/ip_address"))
            .source_ip(text(record, "/sending_ip"))
            .reply(number(record, "/error_code"), None, said),
        EventType::BouncedAsync => draft.reply(number(record, "/error_code"), None, said),
        EventType::Suppressed | EventType::Rejected => draft.note("reason", said),
        _ => draft,
    };
    let event = &mut draft.event;
    event.size_bytes = number(record, "/msg_size").filter(|bytes| *bytes > 0);
    if matches!(event_type, EventType::Delivered | EventType::Deferred | EventType::Bounced) {
        event.attempt =
            number(record, "/num_retries").and_then(|retries| i32::try_from(retries).ok()?.checked_add(1));
        event.queue_ms = number(record, "/queue_time").filter(|ms| *ms >= 0);
    }
    if kind == "spam_complaint" {
        event.feedback_type = Some(feedback_type.unwrap_or("abuse").to_ascii_lowercase());
        event.reported_by = text(record, "/report_by").map(name);
        event.user_agent = text(record, "/user_str").map(phrase);
    }
    if event.stream.is_none() && told(record, "/transactional").is_some_and(|flag| flag == "1") {
        event.stream = Some("transactional".into());
    }
    let injected_at = instant(record, "/injection_time");
    let answers =
        matches!(event_type, EventType::Complained | EventType::BouncedAsync | EventType::Unsubscribed);
    if answers {
        draft = draft.delivered_at(injected_at);
    }
    draft.fact()
}

/// "recipient address suppressed due to customer policy", and what is like it.
fn is_suppressed(reason: &str) -> bool {
    let reason = reason.to_ascii_lowercase();
    reason.contains("suppress") || reason.contains("exclusion list")
}
