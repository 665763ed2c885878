//! What the end of an attempt means: category, reason, class and rule for its event. Pure.

use sendlake_ingest::event::{Event, EventType};
use sendlake_sql::rules::{Action, Category, Class, Classified, Ruleset, Said};

use crate::session::FailureKind;

/// Stands where no rule was asked: nobody said anything.
const NO_REPLY: &str = "no-reply";
const LIFETIME: &str = "lifetime";

/// What the reply in `event` means; nothing for mail that was delivered.
pub fn of_reply(event: &Event) -> Option<Classified> {
    if event.event_type == EventType::Delivered {
        return None;
    }
    let said = Said {
        provider: event.provider.as_deref(),
        smtp_command: event.smtp_command.as_deref(),
        reply_code: event.reply_code.and_then(|code| u16::try_from(code).ok()),
        enhanced_status: event.enhanced_status.as_deref(),
        text: event.reply_text.as_deref().unwrap_or_default(),
    };
    Some(Ruleset::current().classify(&said))
}

/// A session that failed without a reply says nothing of the recipient.
pub fn of_failure(kind: FailureKind) -> Classified {
    let reason = match kind {
        FailureKind::Source => "no_source",
        FailureKind::Refused => "connection_refused",
        FailureKind::Unreachable => "unreachable",
        FailureKind::Timeout => "timed_out",
        FailureKind::Closed => "connection_lost",
        FailureKind::Garbage | FailureKind::Unexpected | FailureKind::Rejected => "protocol_error",
        FailureKind::Tls | FailureKind::TlsUnavailable => "tls_failed",
    };
    passing(reason, NO_REPLY, Action::Retry)
}

/// A lifetime that ended: what the last reply said, where it said more than to wait.
pub fn of_expiry(last_reply: Option<&str>) -> Classified {
    let last = last_reply.map(|text| Ruleset::current().classify(&Said { text, ..Said::default() }));
    let telling =
        |last: &Classified| !matches!(last.category, Category::TransientNetwork | Category::Unclassified);
    let mut found =
        last.filter(telling).unwrap_or_else(|| passing("lifetime_over", LIFETIME, Action::GiveUp));
    // the receiver only ever asked for another attempt
    found.action = Action::GiveUp;
    found
}

/// Puts the finding into the event's columns.
pub fn fill(event: &mut Event, found: Classified) {
    event.bounce_category = Some(found.category.to_string());
    event.bounce_reason = Some(found.reason);
    event.bounce_class = Some(found.class.to_string());
    event.bounce_rule = Some(found.rule);
    event.ruleset_version = Some(found.ruleset_version);
}

fn passing(reason: &str, rule: &str, action: Action) -> Classified {
    Classified {
        category: Category::TransientNetwork,
        reason: reason.into(),
        class: Class::Soft,
        action,
        rule: rule.into(),
        ruleset_version: Ruleset::current().version().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_tells_what_the_last_reply_told() {
        let full = of_expiry(Some("452 4.2.2 Quota exceeded (mailbox for user is full)"));
        assert_eq!((full.category, full.reason.as_str()), (Category::BadMailbox, "mailbox_full"));
        let unknown = of_expiry(Some("450 4.1.1 <a@b.example>: User unknown"));
        assert_eq!((unknown.class, unknown.action), (Class::Hard, Action::GiveUp));
        for silent in [None, Some("421 Service not available"), Some("CONNECT: nobody listens")] {
            let over = of_expiry(silent);
            assert_eq!((over.category, over.reason.as_str()), (Category::TransientNetwork, "lifetime_over"));
        }
    }

    #[test]
    fn replies_that_sendlake_gives_itself_mean_what_they_say() {
        for (code, status, text, reason) in [
            (550, "5.1.2", "The domain x.example does not exist", "unknown_domain"),
            (556, "5.1.10", "The domain x.example takes no mail (null MX)", "domain_takes_no_mail"),
            (550, "5.4.4", "None of the mail hosts of x.example has an address", "domain_takes_no_mail"),
            (550, "5.1.2", "The domain x.example has neither MX nor address records", "unknown_domain"),
        ] {
            let said = Said {
                smtp_command: Some("CONNECT"),
                reply_code: Some(code),
                enhanced_status: Some(status),
                text,
                ..Said::default()
            };
            let found = Ruleset::current().classify(&said);
            assert_eq!((found.reason.as_str(), found.class), (reason, Class::Hard), "{text}: {}", found.rule);
        }
    }
}
