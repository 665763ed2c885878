//! Amazon SES: event publishing and the older notifications, plain, from SNS, from EventBridge, or as a function got
//! them. "Contents of event data that Amazon SES publishes to Amazon SNS" and "Amazon SNS notification contents for
//! Amazon SES" of its developer guide (docs.aws.amazon.com/ses/latest/dg).

use serde_json::Value;

use super::draft::{Draft, feedback, name, phrase};
use super::json::{instant, items, number, text};
use super::{Fact, RECIPIENTS_MAX, Setting};
use crate::event::EventType;

/// How deep an event may be wrapped: a function's records of SNS's envelopes of EventBridge's.
const WRAPPINGS_MAX: usize = 4;

pub(super) fn facts(setting: &Setting, record: &Value) -> Vec<Fact> {
    unwrapped(setting, record, WRAPPINGS_MAX)
}

fn unwrapped(setting: &Setting, record: &Value, left: usize) -> Vec<Fact> {
    if let Some(kind) = text(record, "/eventType").or_else(|| text(record, "/notificationType")) {
        return of_event(setting, record, kind);
    }
    if left == 0 {
        return vec![Fact::Bad("it is wrapped too often".into())];
    }
    let envelope = record.pointer("/Sns").unwrap_or(record);
    if let Some(message) = text(envelope, "/Message") {
        if let Some(kind @ ("SubscriptionConfirmation" | "UnsubscribeConfirmation")) = text(envelope, "/Type")
        {
            return vec![Fact::Unmapped(format!("SNS {kind}"))];
        }
        return match serde_json::from_str::<Value>(message) {
            Ok(inner) => unwrapped(setting, &inner, left - 1),
            // what SES says to a topic that it was given
            Err(_) => vec![Fact::Unmapped("SNS message that is no event".into())],
        };
    }
    if let Some(detail) = record.pointer("/detail").filter(|detail| detail.is_object()) {
        return unwrapped(setting, detail, left - 1);
    }
    let records = items(record, "/Records");
    if !records.is_empty() {
        return records
            .iter()
            .take(RECIPIENTS_MAX)
            .flat_map(|one| unwrapped(setting, one, left - 1))
            .collect();
    }
    vec![Fact::Bad("it has neither \"eventType\" nor \"notificationType\"".into())]
}

fn of_event(setting: &Setting, record: &Value, kind: &str) -> Vec<Fact> {
    let told = Told { setting, record, kind };
    match kind {
        "Send" => told.each("/mail/destination", |to| told.draft(EventType::Accepted, "/mail", to)),
        "Reject" => told.each("/mail/destination", |to| {
            let draft = told.draft(EventType::Rejected, "/mail", to)?;
            Ok(draft.note("reason", text(record, "/reject/reason")))
        }),
        "Rendering Failure" => told.each("/mail/destination", |to| {
            let draft = told.draft(EventType::Rejected, "/mail", to)?;
            Ok(draft
                .note("reason", text(record, "/failure/errorMessage"))
                .note("template", text(record, "/failure/templateName")))
        }),
        "Delivery" => told.each("/delivery/recipients", |to| {
            let mut draft = told
                .draft(EventType::Delivered, "/delivery", to)?
                .mx(None, text(record, "/delivery/remoteMtaIp"))
                .reply(None, None, text(record, "/delivery/smtpResponse"));
            draft.event.queue_ms = number(record, "/delivery/processingTimeMillis").filter(|ms| *ms >= 0);
            Ok(draft)
        }),
        "DeliveryDelay" => told.each("/deliveryDelay/delayedRecipients", |to| {
            Ok(told
                .draft(EventType::Deferred, "/deliveryDelay", to)?
                .identified_by(text(record, "/deliveryDelay/delayType"))
                .reply(None, text(to, "/status"), text(to, "/diagnosticCode"))
                .note("delay_type", text(record, "/deliveryDelay/delayType")))
        }),
        "Bounce" => told.bounces(),
        "Complaint" => told.complaints(),
        "Open" | "Click" => vec![told.seen()],
        "Subscription" => vec![told.subscription()],
        other => vec![Fact::Unmapped(name(other))],
    }
}

/// One event, as its mail part and its own part tell it.
struct Told<'s> {
    setting: &'s Setting,
    record: &'s Value,
    kind: &'s str,
}

impl<'s> Told<'s> {
    /// A fact for each recipient of a list of addresses, or of objects with `emailAddress`.
    fn each(&self, list: &str, make: impl Fn(&Value) -> Result<Draft<'s>, String>) -> Vec<Fact> {
        let recipients = items(self.record, list);
        match recipients.len() {
            0 => vec![Fact::Bad(format!("it names no recipient in {list}"))],
            1..=RECIPIENTS_MAX => recipients
                .iter()
                .map(|to| match make(to) {
                    Ok(draft) => draft.fact(),
                    Err(why) => Fact::Bad(why),
                })
                .collect(),
            _ => vec![Fact::Bad(format!("it names more than {RECIPIENTS_MAX} recipients"))],
        }
    }

    /// What all events have: the message, whom it was to, and when what `part` tells of took place.
    fn draft(&self, event_type: EventType, part: &str, to: &Value) -> Result<Draft<'s>, String> {
        let record = self.record;
        let at = instant(record, &format!("{part}/timestamp"))
            .ok_or_else(|| format!("it has no {part}/timestamp"))?;
        let id = text(record, "/mail/messageId").ok_or("it has no mail.messageId")?;
        let from = first(record, "/mail/commonHeaders/from")
            .or_else(|| first(record, "/mail/tags/ses:from-domain"))
            .or_else(|| text(record, "/mail/source"));
        let mut draft = Draft::new(self.setting, event_type, at, self.kind)
            .identified_by([id, &at.to_string()])
            .message(Some(id))
            .recipient(to.as_str().or_else(|| text(to, "/emailAddress")))
            .from(from)
            .mail_from(text(record, "/mail/source"))
            .source_ip(first(record, "/mail/tags/ses:outgoing-ip"))
            .campaign(
                first(record, "/mail/tags/campaign").or_else(|| first(record, "/mail/tags/campaign_id")),
            )
            .note("configuration_set", first(record, "/mail/tags/ses:configuration-set"));
        for (key, values) in record.pointer("/mail/tags").and_then(Value::as_object).into_iter().flatten() {
            if let Some(value) = values.get(0).and_then(Value::as_str)
                && !key.starts_with("ses:")
            {
                draft.tag(key, value);
            }
        }
        Ok(draft)
    }

    fn bounces(&self) -> Vec<Fact> {
        let record = self.record;
        let bounce_type = text(record, "/bounce/bounceType").unwrap_or_default();
        let sub_type = text(record, "/bounce/bounceSubType").unwrap_or_default();
        // "dsn; a8-70.smtp-out.amazonses.com": refused to SES itself; another server reports later
        let reporter = text(record, "/bounce/reportingMTA")
            .map(|mta| mta.rsplit_once(';').map_or(mta, |(_, mta)| mta.trim()));
        let event_type = match (sub_type, reporter) {
            ("Suppressed" | "OnAccountSuppressionList" | "UnsubscribedRecipient", _) => EventType::Suppressed,
            (_, Some(mta)) if !mta.to_ascii_lowercase().ends_with("amazonses.com") => EventType::BouncedAsync,
            _ => EventType::Bounced,
        };
        self.each("/bounce/bouncedRecipients", |to| {
            let status = text(to, "/status").or_else(|| status_of(bounce_type, sub_type));
            let mut draft = self
                .draft(event_type, "/bounce", to)?
                .identified_by(text(record, "/bounce/feedbackId"))
                .mx(None, text(record, "/bounce/remoteMtaIp"))
                .reply(None, status, text(to, "/diagnosticCode"))
                .note("bounce_type", format!("{bounce_type}/{sub_type}"));
            if event_type == EventType::BouncedAsync {
                draft.event.reported_by = reporter.map(name);
                draft = draft.delivered_at(instant(record, "/mail/timestamp"));
            }
            Ok(draft)
        })
    }

    fn complaints(&self) -> Vec<Fact> {
        let record = self.record;
        let feedback_type = text(record, "/complaint/complaintFeedbackType");
        let event_type = if text(record, "/complaint/complaintSubType") == Some("OnAccountSuppressionList") {
            EventType::Suppressed
        } else {
            match feedback(feedback_type) {
                Some(event_type) => event_type,
                None => {
                    let kind = format!("Complaint/{}", feedback_type.unwrap_or_default());
                    return vec![Fact::Unmapped(name(&kind))];
                }
            }
        };
        self.each("/complaint/complainedRecipients", |to| {
            let arrived_at =
                instant(record, "/complaint/arrivalDate").or_else(|| instant(record, "/mail/timestamp"));
            let mut draft = self
                .draft(event_type, "/complaint", to)?
                .identified_by(text(record, "/complaint/feedbackId"))
                .delivered_at(arrived_at);
            draft.event.feedback_type = Some(feedback_type.unwrap_or("abuse").to_ascii_lowercase());
            draft.event.user_agent = text(record, "/complaint/userAgent").map(phrase);
            Ok(draft)
        })
    }

    fn seen(&self) -> Fact {
        let record = self.record;
        let (event_type, part) = match self.kind {
            "Open" => (EventType::Opened, "/open"),
            _ => (EventType::Clicked, "/click"),
        };
        let made = self.draft(event_type, part, &self.only_recipient()).map(|draft| {
            draft
                .identified_by(text(record, "/click/link"))
                .identified_by(text(record, &format!("{part}/ipAddress")))
                .client(
                    text(record, &format!("{part}/ipAddress")),
                    text(record, &format!("{part}/userAgent")),
                )
                .url(text(record, "/click/link"))
        });
        made.map_or_else(Fact::Bad, Draft::fact)
    }

    fn subscription(&self) -> Fact {
        let record = self.record;
        let left_all =
            record.pointer("/subscription/newTopicPreferences/unsubscribeAll") == Some(&Value::Bool(true));
        let left_one =
            items(record, "/subscription/newTopicPreferences/topicSubscriptionStatus").iter().any(|topic| {
                text(topic, "/subscriptionStatus").is_some_and(|status| status.eq_ignore_ascii_case("OptOut"))
            });
        if !left_all && !left_one {
            return Fact::Unmapped("Subscription that leaves nothing".into());
        }
        let made =
            self.draft(EventType::Unsubscribed, "/subscription", &self.only_recipient()).map(|mut draft| {
                draft.event.list_id = text(record, "/subscription/contactList").map(name);
                draft.note("by", text(record, "/subscription/source")).note("all", left_all)
            });
        made.map_or_else(Fact::Bad, Draft::fact)
    }

    /// Who opened or left: known where the message had one recipient.
    fn only_recipient(&self) -> Value {
        match items(self.record, "/mail/destination") {
            [only] => only.clone(),
            _ => Value::Null,
        }
    }
}

fn first<'v>(record: &'v Value, pointer: &str) -> Option<&'v str> {
    items(record, pointer).first().and_then(Value::as_str)
}

/// What SES's own types say where the receiver's words are missing: "Bounce types", notification contents.
fn status_of(bounce_type: &str, sub_type: &str) -> Option<&'static str> {
    match (bounce_type, sub_type) {
        ("Permanent", "NoEmail") => Some("5.1.1"),
        (_, "MailboxFull") => Some("4.2.2"),
        (_, "MessageTooLarge") => Some("5.3.4"),
        (_, "ContentRejected" | "AttachmentRejected") => Some("5.6.0"),
        _ => None,
    }
}
