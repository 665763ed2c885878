//! Mailgun's webhooks and stored events: "Event Structure" and "Webhooks" of its user manual
//! (documentation.mailgun.com/docs/mailgun/user-manual/events).

use serde_json::Value;

use super::draft::{Draft, name};
use super::json::{instant, items, number, text, told};
use super::{Fact, Setting};
use crate::event::EventType;

pub(super) fn facts(setting: &Setting, record: &Value) -> Vec<Fact> {
    if let Some(event) = record.pointer("/event-data").filter(|event| event.is_object()) {
        return vec![fact(setting, event)];
    }
    if let Some(Value::Array(page)) = record.pointer("/items") {
        return page.iter().map(|event| fact(setting, event)).collect();
    }
    vec![fact(setting, record)]
}

fn fact(setting: &Setting, record: &Value) -> Fact {
    let Some(kind) = text(record, "/event") else { return Fact::Bad("it has no \"event\"".into()) };
    let reason = text(record, "/reason").unwrap_or_default();
    let is_later = record.pointer("/flags/is-delayed-bounce") == Some(&Value::Bool(true));
    let event_type = match (kind, text(record, "/severity")) {
        ("accepted", _) => EventType::Accepted,
        ("rejected", _) => EventType::Rejected,
        ("delivered", _) => EventType::Delivered,
        // suppress-bounce, suppress-complaint, suppress-unsubscribe: nothing was sent
        ("failed", _) if reason.starts_with("suppress-") => EventType::Suppressed,
        ("failed", Some("temporary")) => EventType::Deferred,
        // given up after the last retry
        ("failed", _) if reason == "old" => EventType::Expired,
        ("failed", _) if is_later => EventType::BouncedAsync,
        ("failed", _) => EventType::Bounced,
        ("opened", _) => EventType::Opened,
        ("clicked", _) => EventType::Clicked,
        ("unsubscribed", _) => EventType::Unsubscribed,
        ("complained", _) => EventType::Complained,
        (other, _) => return Fact::Unmapped(name(other)),
    };
    let Some(at) = instant(record, "/timestamp") else { return Fact::Bad("it has no \"timestamp\"".into()) };
    let own_id = text(record, "/id").map_or_else(|| record.to_string(), str::to_owned);
    let tags: Vec<&str> = items(record, "/tags").iter().filter_map(Value::as_str).collect();
    let campaign = told(record, "/campaigns/0/id");
    let mut draft = Draft::new(setting, event_type, at, kind)
        .identified_by([own_id.as_str()])
        .message(text(record, "/message/headers/message-id"))
        .recipient(text(record, "/recipient"))
        .from(text(record, "/message/headers/from"))
        .mail_from(text(record, "/envelope/sender"))
        .source_ip(text(record, "/envelope/sending-ip"))
        .campaign(campaign.as_deref().or(tags.first().copied()))
        .note("severity", text(record, "/severity"))
        .note("reason", reason);
    for tag in tags {
        draft.tag(tag, "");
    }
    draft = match event_type {
        EventType::Opened | EventType::Clicked => draft
            .client(text(record, "/ip"), text(record, "/client-info/user-agent"))
            .url(text(record, "/url")),
        EventType::Delivered
        | EventType::Deferred
        | EventType::Bounced
        | EventType::Expired
        | EventType::BouncedAsync => {
            let said = text(record, "/delivery-status/message")
                .or_else(|| text(record, "/delivery-status/description"));
            draft.mx(text(record, "/delivery-status/mx-host"), None).reply(
                number(record, "/delivery-status/code"),
                text(record, "/delivery-status/enhanced-code"),
                said,
            )
        }
        EventType::Rejected => draft.note("rejected", text(record, "/reject/reason")),
        _ => draft,
    };
    let event = &mut draft.event;
    event.size_bytes = number(record, "/message/size").filter(|bytes| *bytes > 0);
    event.attempt =
        number(record, "/delivery-status/attempt-no").and_then(|attempt| i32::try_from(attempt).ok());
    if event_type == EventType::Deferred {
        let pause_s = number(record, "/delivery-status/retry-seconds").filter(|s| (1..864_000).contains(s));
        event.next_attempt_at = pause_s.map(|s| at.plus_secs(s));
    }
    if event_type == EventType::Complained {
        event.feedback_type = Some("abuse".into());
    }
    // "client-info.bot": apple, gmail, generic
    let opened_by = match text(record, "/client-info/bot") {
        Some("apple") => Some("prefetched"),
        Some("gmail") => Some("proxied"),
        Some("generic") => Some("scanner"),
        _ => None,
    };
    if let (EventType::Opened | EventType::Clicked, Some(by)) = (event_type, opened_by) {
        event.open_source = Some(by.into());
    }
    draft.fact()
}
