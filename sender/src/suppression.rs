//! Whom not to write to. The truth is the control store; here is its copy in memory, asked before each attempt, and
//! which events call for a suppression.

use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
pub use sendlake_control::suppression::{Reach, Reason};
use sendlake_ingest::event::{Event, EventType};
use sendlake_ingest::foreign::ELSEWHERE;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::address::Address;
use crate::stream::Stream;

/// Set in `detail` of a bounce that names an address, and not the message's recipient: somebody else's mailbox failed.
pub const NAMED: &str = "named";
pub const NAMED_OTHER: &str = "other";

/// Whether a suppression of this reach keeps mail of this stream back. Transactional mail goes on after an
/// unsubscribe or a complaint.
pub fn covers(reach: Reach, stream: Stream) -> bool {
    reach != Reach::Bulk || stream != Stream::Transactional
}

/// Why a recipient is not written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suppressed {
    pub reach: Reach,
    /// `unsubscribe`, `cold_opt_out`, `complaint`, `hard_bounce`, `full_mailbox`, `manual`, `legal`.
    pub reason: String,
    pub since: Timestamp,
}

/// Knows every suppression. Answers from memory, in about a microsecond.
pub trait Suppressions: Send + Sync {
    /// The widest suppression that keeps this tenant's mail of this stream from the recipient.
    fn find(&self, tenant: &TenantId, stream: Stream, recipient: &Address) -> Option<Suppressed>;

    /// Why the list cannot be relied on, in a sentence, where entries of it are missing: then marketing and cold mail
    /// waits, whoever it is for.
    fn incomplete(&self) -> Option<Arc<str>> {
        None
    }
}

/// Suppresses nobody: for tests, and for tools without a control store.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSuppressions;

impl Suppressions for NoSuppressions {
    fn find(&self, _: &TenantId, _: Stream, _: &Address) -> Option<Suppressed> {
        None
    }
}

/// A suppression that is called for and not yet in force. It is stored in the transaction that logs its event, so
/// that no crash can lose it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    pub tenant_id: TenantId,
    pub recipient: String,
    pub reach: Reach,
    pub reason: Reason,
    pub since: Timestamp,
    /// The event that calls for it; names the wish.
    pub event_id: Uuid,
    /// Who wishes: `feedback`, or an operator.
    pub actor: String,
    #[serde(default)]
    pub message_id: Option<String>,
    #[serde(default)]
    pub note: Option<String>,
    /// When it ends by itself.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// The mailbox was full: counted, and suppressed for a time once there were enough.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_counted: bool,
}

/// What an event calls for. A block says nothing of the recipient and never suppresses; a full mailbox may be emptied,
/// so it is counted first. What became of mail that another sender sent calls for nothing: that is an operator's decision.
pub fn wish_of(event: &Event) -> Option<Wish> {
    if is_elsewhere(event) { None } else { called_for(event) }
}

/// What an event of another sender calls for, where an operator wants it to count here.
pub fn wish_of_elsewhere(event: &Event) -> Option<Wish> {
    let actor = event.ip_pool.clone().filter(|_| is_elsewhere(event))?;
    called_for(event).map(|wish| Wish { actor, ..wish })
}

fn is_elsewhere(event: &Event) -> bool {
    event.ip_pool.as_deref().is_some_and(|pool| pool.starts_with(ELSEWHERE))
}

fn called_for(event: &Event) -> Option<Wish> {
    let (reach, reason) = match event.event_type {
        EventType::Unsubscribed if event.stream.as_deref() == Some(Stream::Cold.as_str()) => {
            (Reach::Bulk, Reason::ColdOptOut)
        }
        EventType::Unsubscribed => (Reach::Bulk, Reason::Unsubscribe),
        EventType::Complained => (Reach::Bulk, Reason::Complaint),
        EventType::BouncedAsync if names_another(event) => return None,
        _ if is_full(event) => (Reach::Tenant, Reason::FullMailbox),
        EventType::Bounced | EventType::BouncedAsync if is_gone(event) => (Reach::Tenant, Reason::HardBounce),
        _ => return None,
    };
    let recipient = event.recipient.as_ref().filter(|recipient| recipient.contains('@'))?;
    Some(Wish {
        tenant_id: event.tenant_id.clone(),
        recipient: recipient.clone(),
        reach,
        reason,
        since: event.occurred_at,
        event_id: event.event_id,
        actor: "feedback".into(),
        message_id: event.message_id.clone(),
        note: None,
        expires_at: None,
        is_counted: reason == Reason::FullMailbox,
    })
}

fn names_another(event: &Event) -> bool {
    let detail =
        event.detail.as_deref().and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok());
    detail.is_some_and(|detail| detail.get(NAMED).and_then(|named| named.as_str()) == Some(NAMED_OTHER))
}

/// The mailbox takes no more, by the words of the bounce rules: told in a session, by a DSN, or to a message that was
/// tried until its lifetime was over.
fn is_full(event: &Event) -> bool {
    use EventType::{Bounced, BouncedAsync, Deferred, Expired};
    matches!(event.event_type, Deferred | Bounced | BouncedAsync | Expired)
        && event.bounce_reason.as_deref() == Some("mailbox_full")
}

/// The mailbox does not exist, by the words of the bounce rules (`sql/rules/`).
fn is_gone(event: &Event) -> bool {
    event.bounce_category.as_deref() == Some("bad_mailbox") && event.bounce_class.as_deref() == Some("hard")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(event_type: EventType, stream: &str) -> Event {
        let tenant = TenantId::new("acme").unwrap();
        let mut event = Event::new(Uuid::from_u128(7), event_type, Timestamp::from_secs(9), tenant);
        event.recipient = Some("ann@a.test".into());
        event.stream = Some(stream.into());
        event
    }

    fn wished(event: &Event) -> Option<(Reach, Reason)> {
        wish_of(event).map(|wish| (wish.reach, wish.reason))
    }

    #[test]
    fn what_people_say_stops_bulk_mail_and_transactional_goes_on() {
        for (event_type, stream, reason) in [
            (EventType::Unsubscribed, "marketing", Reason::Unsubscribe),
            (EventType::Unsubscribed, "cold", Reason::ColdOptOut),
            (EventType::Complained, "transactional", Reason::Complaint),
        ] {
            assert_eq!(wished(&event(event_type, stream)), Some((Reach::Bulk, reason)));
        }
        assert!(!covers(Reach::Bulk, Stream::Transactional) && covers(Reach::Bulk, Stream::Cold));
        assert!(Stream::ALL.into_iter().all(|stream| covers(Reach::Tenant, stream)));
    }

    #[test]
    fn only_a_mailbox_that_is_gone_suppresses_and_a_block_never_does() {
        for (category, class, wish) in [
            ("bad_mailbox", "hard", Some((Reach::Tenant, Reason::HardBounce))),
            ("bad_mailbox", "soft", None),
            ("policy_block", "block", None),
            ("reputation_block", "hard", None),
        ] {
            for event_type in [EventType::Bounced, EventType::BouncedAsync] {
                let mut event = event(event_type, "marketing");
                event.bounce_category = Some(category.into());
                event.bounce_class = Some(class.into());
                assert_eq!(wished(&event), wish, "{category} {class}");
                event.event_type = EventType::Deferred;
                assert_eq!(wished(&event), None);
            }
        }
    }

    #[test]
    fn a_bounce_that_names_somebody_else_suppresses_nobody() {
        let mut event = event(EventType::BouncedAsync, "marketing");
        event.bounce_category = Some("bad_mailbox".into());
        event.bounce_class = Some("hard".into());
        event.detail = Some(r#"{"remote_mta":"mx.a.test"}"#.into());
        assert!(wish_of(&event).is_some());
        event.detail = Some(r#"{"named":"other"}"#.into());
        assert_eq!(wish_of(&event), None);
    }

    #[test]
    fn what_happened_elsewhere_suppresses_only_where_it_is_asked_for() {
        let mut event = event(EventType::Complained, "marketing");
        event.ip_pool = Some("elsewhere:ses".into());
        assert_eq!(wish_of(&event), None);
        let wish = wish_of_elsewhere(&event).unwrap();
        assert_eq!((wish.reason, wish.actor.as_str()), (Reason::Complaint, "elsewhere:ses"));
        event.ip_pool = Some("marketing".into());
        assert_eq!(wish_of_elsewhere(&event), None, "mail of our own has its own way");
    }

    #[test]
    fn a_full_mailbox_is_counted_however_it_is_told() {
        use EventType::{Bounced, BouncedAsync, Deferred, Delivered, Expired};
        for event_type in [Deferred, Bounced, BouncedAsync, Expired, Delivered] {
            let mut event = event(event_type, "transactional");
            event.bounce_category = Some("bad_mailbox".into());
            event.bounce_class = Some("hard".into()); // whatever class a rule gives it
            event.bounce_reason = Some("mailbox_full".into());
            let wish = wish_of(&event);
            assert_eq!(wish.is_some(), event_type != Delivered, "{event_type:?}");
            assert!(wish.is_none_or(|wish| wish.is_counted && wish.reason == Reason::FullMailbox));
        }
    }

    #[test]
    fn a_complaint_about_nobody_in_particular_suppresses_nobody() {
        let mut event = event(EventType::Complained, "marketing");
        for recipient in [None, Some("redacted".to_owned())] {
            event.recipient = recipient;
            assert_eq!(wished(&event), None);
        }
    }
}
