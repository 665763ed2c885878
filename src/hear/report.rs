//! A report as an event: what it says, and what is known of the message that it answers. Pure.

use sendlake_control::id::{Ids, TenantId};
use sendlake_ingest::event::{Event, EventType};
use sendlake_ingest::report::{DsnAction, Feedback, RecipientStatus};
use sendlake_sender::address::Address;
use sendlake_sender::suppression::{NAMED, NAMED_OTHER};
use serde_json::{Value, json};

use super::delivery::Delivery;

/// Longest text that is taken over from a report.
const TEXT_CHARS_MAX: usize = 1_000;

/// An event in the making: what the report says.
#[derive(Clone, Debug, PartialEq)]
pub struct Draft {
    pub event_type: EventType,
    pub feedback_type: Option<String>,
    pub reported_by: Option<String>,
    pub user_agent: Option<String>,
    pub smtp_command: Option<String>,
    pub reply_code: Option<u16>,
    pub enhanced_status: Option<String>,
    pub reply_text: Option<String>,
    pub verdict: Option<Verdict>,
    /// Claims of the report, which count only where nothing better is known.
    pub source_ip: Option<String>,
    pub header_from_domain: Option<String>,
    pub detail: Value,
}

/// What the bounce rules say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub category: String,
    pub reason: String,
    pub class: String,
    pub rule: String,
    pub ruleset_version: String,
}

impl Draft {
    pub fn new(event_type: EventType) -> Self {
        Self {
            event_type,
            feedback_type: None,
            reported_by: None,
            user_agent: None,
            smtp_command: None,
            reply_code: None,
            enhanced_status: None,
            reply_text: None,
            verdict: None,
            source_ip: None,
            header_from_domain: None,
            detail: json!({}),
        }
    }

    /// A failure for good of the message's own recipient.
    pub fn is_final(&self) -> bool {
        self.event_type == EventType::BouncedAsync
            && self.detail.get(NAMED).is_none()
            && self.verdict.as_ref().is_some_and(|verdict| verdict.class == "hard")
    }

    fn event(self, tenant_id: TenantId, ids: &Ids) -> Event {
        let mut event = Event::new(ids.uuid(), self.event_type, ids.now(), tenant_id);
        event.feedback_type = self.feedback_type;
        event.reported_by = self.reported_by;
        event.user_agent = self.user_agent;
        event.smtp_command = self.smtp_command;
        event.reply_code = self.reply_code.map(i32::from);
        event.enhanced_status = self.enhanced_status;
        event.reply_text = self.reply_text;
        if let Some(verdict) = self.verdict {
            event.bounce_category = Some(verdict.category);
            event.bounce_reason = Some(verdict.reason);
            event.bounce_class = Some(verdict.class);
            event.bounce_rule = Some(verdict.rule);
            event.ruleset_version = Some(verdict.ruleset_version);
        }
        event.source_ip = self.source_ip;
        event.header_from_domain = self.header_from_domain;
        if self.detail.as_object().is_some_and(|detail| !detail.is_empty()) {
            event.detail = Some(self.detail.to_string());
        }
        event
    }

    /// The event of a message that is known: what is known of it goes over what the report claims.
    pub fn about(self, delivery: &Delivery, ids: &Ids) -> Event {
        let mut event = self.event(delivery.tenant_id.clone(), ids);
        event.message_id = Some(delivery.message_id.to_string());
        event.submission_id = delivery.submission_id.clone();
        event.stream = delivery.stream.clone();
        event.campaign_id = delivery.campaign_id.clone();
        event.content_fingerprint = delivery.content_fingerprint.clone();
        event.recipient = delivery.recipient.clone();
        event.recipient_domain = delivery.recipient_domain.clone();
        event.provider = delivery.provider.clone();
        event.header_from_domain = delivery.header_from_domain.clone();
        event.mail_from_domain = delivery.mail_from_domain.clone();
        event.dkim_domain = delivery.dkim_domain.clone();
        event.dkim_selector = delivery.dkim_selector.clone();
        event.ip_pool = delivery.ip_pool.clone();
        event.source_ip = delivery.source_ip.clone();
        event.delivered_at = delivery.delivered_at;
        event
    }

    /// The event of a report that names no message of ours: it counts for an identity, an address and a day at
    /// most, and says why.
    pub fn about_nobody(mut self, tenant_id: TenantId, why: &str, ids: &Ids) -> Event {
        if let Some(detail) = self.detail.as_object_mut() {
            detail.insert("unattributed".into(), why.into());
        }
        self.event(tenant_id, ids)
    }
}

pub fn is_failure(status: &RecipientStatus) -> bool {
    status.action == DsnAction::Failed
}

/// What a DSN tells first of a failure; `None` when it tells of none.
pub fn first_failure(statuses: &[RecipientStatus]) -> Option<&RecipientStatus> {
    statuses.iter().find(|status| is_failure(status))
}

/// What a DSN says of one recipient: where it names several, only the one under that address counts. A DSN that
/// names one recipient is about our message even under another address, which is where a forwarder sent it; see
/// [`names_another`].
pub fn status_of<'a>(
    statuses: &'a [RecipientStatus],
    recipient: Option<&str>,
) -> Option<&'a RecipientStatus> {
    if let [only] = statuses {
        return Some(only);
    }
    let recipient = recipient?;
    let is_ours = |status: &&RecipientStatus| named(status).any(|named| is_same(named, recipient));
    statuses.iter().filter(is_ours).find(|status| is_failure(status)).or(statuses.iter().find(is_ours))
}

/// Whether a DSN names addresses, and none of them is the message's recipient: then somebody else's mailbox failed, as behind
/// a forwarder, or the return path was used for it.
pub fn names_another(status: &RecipientStatus, recipient: Option<&str>) -> bool {
    let is_ours = |named: &str| recipient.is_some_and(|ours| is_same(named, ours));
    named(status).next().is_some() && !named(status).any(is_ours)
}

fn named(status: &RecipientStatus) -> impl Iterator<Item = &str> {
    let named = [&status.recipient, &status.original_recipient].into_iter().flatten().map(String::as_str);
    named.filter(|named| named.contains('@'))
}

fn is_same(one: &str, other: &str) -> bool {
    let normal = |text: &str| {
        let text = text.trim();
        Address::parse(text)
            .map_or_else(|_| text.to_lowercase(), |address| address.to_string().to_lowercase())
    };
    normal(one) == normal(other)
}

/// A failure that a DSN tells.
pub fn async_bounce(status: &RecipientStatus, delivery: Option<&Delivery>) -> Draft {
    let mut draft = Draft::new(EventType::BouncedAsync);
    draft.smtp_command = status.smtp_command.clone();
    draft.reply_code = status.reply_code;
    draft.enhanced_status = status.status.clone();
    draft.reply_text = Some(short(&status.text)).filter(|text| !text.is_empty());
    draft.reported_by = status.reporting_mta.as_deref().map(short);
    let provider = delivery.and_then(|delivery| delivery.provider.as_deref());
    draft.verdict = Some(super::inbound::classify(status, provider));
    if let Some(detail) = draft.detail.as_object_mut() {
        if let Some(remote) = &status.remote_mta {
            detail.insert("remote_mta".into(), short(remote).into());
        }
        if delivery.is_some_and(|delivery| names_another(status, delivery.recipient.as_deref())) {
            detail.insert(NAMED.into(), NAMED_OTHER.into());
        }
    }
    draft
}

/// A complaint (abuse or fraud), a wish to leave, or whatever else a recipient's side says of a message, under its type;
/// `None` for a report of failed authentication, which is about a domain.
pub fn feedback(feedback: &Feedback) -> Option<Draft> {
    let mut draft = match feedback.feedback_type.as_str() {
        "abuse" | "fraud" => Draft::new(EventType::Complained),
        // some loops pass on who pressed their provider's button to leave
        "opt-out" | "opt-out-list" => Draft::new(EventType::Unsubscribed),
        // takes back a filter's verdict: somebody read the mail and wants it
        "not-spam" => Draft::new(EventType::Replied),
        "auth-failure" => return None,
        // a virus, another, or a type of a later day: no complaint, but said of this message
        _ => Draft::new(EventType::Replied),
    };
    draft.feedback_type = Some(short(&feedback.feedback_type));
    draft.reported_by = feedback.reported_by.as_deref().map(short);
    draft.user_agent = feedback.user_agent.as_deref().map(short);
    draft.source_ip = feedback.source_ip.as_deref().map(short);
    draft.header_from_domain = feedback
        .original
        .from
        .as_deref()
        .and_then(|from| from.rsplit_once('@'))
        .map(|(_, domain)| short(&domain.to_ascii_lowercase()))
        .or_else(|| feedback.reported_domain.as_deref().map(short));
    Some(draft)
}

/// Somebody or something answered the mail.
pub fn reply(automatic: bool) -> Draft {
    let mut draft = Draft::new(EventType::Replied);
    draft.detail = json!({ "auto": automatic });
    draft
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(recipient: &str, action: DsnAction) -> RecipientStatus {
        RecipientStatus { action, recipient: Some(recipient.into()), ..RecipientStatus::default() }
    }

    #[test]
    fn of_ten_thousand_recipients_only_ours_counts() {
        let mut statuses: Vec<_> =
            (0..10_000).map(|n| status(&format!("user{n}@list.test"), DsnAction::Failed)).collect();
        assert_eq!(status_of(&statuses, Some("ann@list.test")), None);
        assert_eq!(status_of(&statuses, None), None);
        statuses.push(status("Ann@LIST.test", DsnAction::Delayed));
        let found = status_of(&statuses, Some("ann@list.test")).unwrap();
        assert!(!is_failure(found), "others failed, ours is delayed");
        statuses.push(status("ann@list.test", DsnAction::Failed));
        assert!(is_failure(status_of(&statuses, Some("ann@list.test")).unwrap()));
    }

    #[test]
    fn a_forwarders_dsn_about_another_address_is_about_our_message() {
        let statuses = [status("elsewhere@other.test", DsnAction::Failed)];
        assert!(status_of(&statuses, Some("ann@a.test")).is_some());
        assert!(names_another(&statuses[0], Some("ann@a.test")));
        let forwarded = RecipientStatus {
            original_recipient: Some("Ann@A.test".into()),
            ..status("elsewhere@other.test", DsnAction::Failed)
        };
        assert!(!names_another(&forwarded, Some("ann@a.test")));
        assert!(!names_another(&RecipientStatus::default(), Some("ann@a.test")), "names nobody");
        assert!(!names_another(&status("ann", DsnAction::Failed), Some("ann@a.test")), "names no address");
    }

    #[test]
    fn only_abuse_and_fraud_are_complaints() {
        for (feedback_type, event_type) in [
            ("abuse", Some(EventType::Complained)),
            ("fraud", Some(EventType::Complained)),
            ("not-spam", Some(EventType::Replied)),
            ("opt-out", Some(EventType::Unsubscribed)),
            ("auth-failure", None),
            ("virus", Some(EventType::Replied)),
            ("other", Some(EventType::Replied)),
        ] {
            let report = Feedback { feedback_type: feedback_type.into(), ..Feedback::default() };
            assert_eq!(feedback(&report).map(|draft| draft.event_type), event_type, "{feedback_type}");
        }
    }
}
