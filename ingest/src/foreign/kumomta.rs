//! KumoMTA's log records: "Log Record" of its reference manual (docs.kumomta.com/reference/log_record). One JSON object a
//! line, in segments that are compressed with Zstandard unless told otherwise.

use serde_json::Value;

use super::draft::{Draft, feedback, status_of};
use super::json::{instant, items, number, text, told};
use super::{Fact, RECIPIENTS_MAX, Setting};
use crate::event::EventType;

pub(super) fn facts(setting: &Setting, record: &Value) -> Vec<Fact> {
    let Some(kind) = text(record, "/type") else { return vec![Fact::Bad("it has no \"type\"".into())] };
    if kind == "Feedback" {
        return vec![complaint(setting, record)];
    }
    let event_type = match kind {
        "Reception" => EventType::Accepted,
        "Delivery" => EventType::Delivered,
        "TransientFailure" => EventType::Deferred,
        "Bounce" => EventType::Bounced,
        "Expiration" => EventType::Expired,
        "AdminBounce" => EventType::Cancelled,
        "OOB" => EventType::BouncedAsync,
        "Rejection" => EventType::Rejected,
        // Delay, AdminRebind, DeferredInjectionRebind, XferIn, XferOut: the queue's own business
        other => return vec![Fact::Unmapped(super::draft::name(other))],
    };
    let recipients = items(record, "/recipient");
    if recipients.is_empty() {
        return vec![of_recipient(setting, record, event_type, kind, None)];
    }
    if recipients.len() > RECIPIENTS_MAX {
        return vec![Fact::Bad(format!("it names more than {RECIPIENTS_MAX} recipients"))];
    }
    recipients.iter().map(|to| of_recipient(setting, record, event_type, kind, to.as_str())).collect()
}

fn of_recipient(
    setting: &Setting,
    record: &Value,
    event_type: EventType,
    kind: &str,
    recipient: Option<&str>,
) -> Fact {
    let Some(at) = instant(record, "/event_time").or_else(|| instant(record, "/timestamp")) else {
        return Fact::Bad("it has no \"timestamp\"".into());
    };
    let part = |name: &str| number(record, &format!("/response/enhanced_code/{name}"));
    let status = status_of(part("class"), part("subject"), part("detail"));
    let mut draft = Draft::new(setting, event_type, at, kind)
        .identified_by([record.to_string().as_str()])
        .message(text(record, "/id"))
        .recipient(recipient)
        .mail_from(text(record, "/sender"))
        .from(text(record, "/headers/From").or_else(|| text(record, "/headers/from")))
        .reply(number(record, "/response/code"), status.as_deref(), text(record, "/response/content"))
        .command(text(record, "/response/command"))
        .campaign(text(record, "/meta/campaign").or_else(|| campaign_of(text(record, "/queue"))))
        .note("queue", text(record, "/queue"))
        .note("pool", text(record, "/egress_pool"))
        .note("egress_source", text(record, "/egress_source"))
        .note("bounce_classification", text(record, "/bounce_classification"));
    // who the peer is depends on the record: the receiver's host, or whoever handed the message in
    match event_type {
        EventType::Accepted | EventType::Rejected => {}
        EventType::BouncedAsync => {
            draft.event.reported_by = text(record, "/peer_address/name").map(super::draft::name)
        }
        _ => {
            let source = text(record, "/source_address/address").map(without_port);
            draft = draft
                .mx(text(record, "/peer_address/name"), text(record, "/peer_address/addr"))
                .source_ip(source);
        }
    }
    let event = &mut draft.event;
    event.size_bytes = number(record, "/size").filter(|bytes| *bytes > 0);
    event.session_id = text(record, "/session_id").map(super::draft::name);
    event.tls_version = text(record, "/tls_protocol_version").map(super::draft::name);
    event.tls_cipher = text(record, "/tls_cipher").map(super::draft::name);
    if matches!(event_type, EventType::Delivered | EventType::Deferred | EventType::Bounced) {
        let attempts = number(record, "/num_attempts").and_then(|attempts| i32::try_from(attempts).ok());
        event.attempt = attempts.map(|attempts| attempts.saturating_add(1));
        let created = instant(record, "/created_time").or_else(|| instant(record, "/created"));
        event.queue_ms = created.map(|created| at.millis_since(created)).filter(|ms| *ms >= 0);
    }
    for (key, value) in record.pointer("/meta").and_then(Value::as_object).into_iter().flatten() {
        if let Some(value) = value.as_str() {
            draft.tag(key, value);
        }
    }
    draft.fact()
}

fn complaint(setting: &Setting, record: &Value) -> Fact {
    let feedback_type = text(record, "/feedback_report/feedback_type");
    let Some(event_type) = feedback(feedback_type) else {
        return Fact::Unmapped(super::draft::name(&format!(
            "Feedback/{}",
            feedback_type.unwrap_or_default()
        )));
    };
    let Some(at) = instant(record, "/event_time").or_else(|| instant(record, "/timestamp")) else {
        return Fact::Bad("it has no \"timestamp\"".into());
    };
    let report = |name: &str| format!("/feedback_report/{name}");
    let first = |name: &str| items(record, &report(name)).first().and_then(Value::as_str);
    let recipient = text(record, &report("supplemental_trace/recipient"))
        .or_else(|| first("original_rcpto_to"))
        .or_else(|| first("original_rcpt_to"));
    let mut draft = Draft::new(setting, event_type, at, "Feedback")
        .identified_by([record.to_string().as_str()])
        .message(text(record, &report("supplemental_trace/id")))
        .recipient(recipient)
        .from(first("reported_domain"))
        .mail_from(text(record, &report("original_mail_from")))
        .source_ip(text(record, &report("source_ip")))
        .delivered_at(instant(record, &report("arrival_date")));
    draft.event.feedback_type = Some(feedback_type.unwrap_or("abuse").to_ascii_lowercase());
    draft.event.user_agent = text(record, &report("user_agent")).map(super::draft::phrase);
    draft.event.reported_by =
        told(record, &report("reporting_mta/name")).map(|name| super::draft::name(&name));
    draft.fact()
}

/// The campaign in a queue's name, `campaign:tenant@domain!routing`.
fn campaign_of(queue: Option<&str>) -> Option<&str> {
    let (front, _) = queue?.split_once('@')?;
    front.split_once(':').map(|(campaign, _)| campaign)
}

/// `192.0.2.1:53210`, `[2001:db8::1]:53210` or an address alone, as the address.
fn without_port(address: &str) -> &str {
    match address.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(ip, _)| ip),
        None if address.matches(':').count() == 1 => address.split_once(':').map_or(address, |(ip, _)| ip),
        None => address,
    }
}
