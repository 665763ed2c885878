//! Which message a report claims to be about. Only our own tokens count; whoever writes reports can write any
//! address into them, but not a token that he never saw. Pure.

use sendlake_control::clock::Timestamp;
use sendlake_control::id::uuid_v7_time;
use sendlake_ingest::report::{Feedback, OriginalFields, RecipientStatus};
use sendlake_sender::token::{Purpose, TOKEN_CHARS, TokenError, TokenKeys};
use uuid::Uuid;

/// Reports about older messages are refused. Unsubscribes are not reports.
pub const REPORT_DAYS_MAX: i64 = 90;
/// Candidates looked at in one report: a DSN may name thousands of recipients.
const CANDIDATES_MAX: usize = 64;

/// A place in a report where a token of ours may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub purpose: Purpose,
    pub text: String,
}

/// What the candidates come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    Message(Uuid),
    None(NoClaim),
}

impl Claim {
    fn message(&self) -> Option<Uuid> {
        match self {
            Claim::Message(message_id) => Some(*message_id),
            Claim::None(_) => None,
        }
    }
}

/// Why there is no message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoClaim {
    #[error("the report holds no token of ours")]
    NoToken,
    #[error("the token is forged: {0}")]
    Forged(TokenError),
    #[error("the report holds {0} messages of ours; it is not known which of them it is about")]
    Several(usize),
    #[error("the token has expired: its message is {days} days old, reports are taken for {REPORT_DAYS_MAX}")]
    Expired { days: i64 },
}

/// The first candidate that is a token of ours; else the most telling reason why there is none.
pub fn of(tokens: &TokenKeys, candidates: impl Iterator<Item = Candidate>, now: Timestamp) -> Claim {
    let mut why = NoClaim::NoToken;
    for candidate in candidates.take(CANDIDATES_MAX) {
        match tokens.verify(candidate.purpose, &candidate.text) {
            Ok(message_id) => return fresh(message_id, now),
            Err(TokenError::Shape) => {}
            Err(error) => why = NoClaim::Forged(error),
        }
    }
    Claim::None(why)
}

/// The message, unless it is too old for reports.
pub fn fresh(message_id: Uuid, now: Timestamp) -> Claim {
    let made_at = uuid_v7_time(message_id).unwrap_or_default();
    let days = now.as_secs().saturating_sub(made_at.as_secs()) / 86_400;
    if days > REPORT_DAYS_MAX { Claim::None(NoClaim::Expired { days }) } else { Claim::Message(message_id) }
}

/// Where a DSN may name our message: the Message-ID of what it returns.
pub fn of_dsn(statuses: &[RecipientStatus]) -> impl Iterator<Item = Candidate> {
    let ids = statuses.iter().filter_map(|status| status.original_message_id.as_deref());
    ids.filter_map(|id| candidate(Purpose::MessageId, id))
}

/// The message that a feedback report names. A report about several of ours is about none: who complained, and of what,
/// would be a guess.
pub fn of_feedback(tokens: &TokenKeys, feedback: &Feedback, now: Timestamp) -> Claim {
    let path = feedback.original_mail_from.iter().filter_map(|path| candidate(Purpose::ReturnPath, path));
    let mut claim = of(tokens, path.chain(of_original(&feedback.original)), now);
    let mut named: Vec<Uuid> = claim.message().into_iter().collect();
    for other in &feedback.others {
        let further = of(tokens, of_original(other), now);
        if let Some(message_id) = further.message().filter(|id| !named.contains(id)) {
            named.push(message_id);
        }
        if claim == Claim::None(NoClaim::NoToken) {
            claim = further;
        }
    }
    if named.len() > 1 { Claim::None(NoClaim::Several(named.len())) } else { claim }
}

/// Where a returned message may name itself, the surest first: our return path, our Message-ID, the identifier for
/// complaints, our unsubscribe links. Redaction of the recipient leaves all of them.
fn of_original(original: &OriginalFields) -> impl Iterator<Item = Candidate> {
    let path = original.return_path.iter().filter_map(|path| candidate(Purpose::ReturnPath, path));
    let id = original.message_id.iter().filter_map(|id| candidate(Purpose::MessageId, id));
    let complaint = original.cfbl_feedback_id.iter().filter_map(|id| candidate(Purpose::Complaint, id));
    let links = original
        .list_unsubscribe
        .iter()
        .flat_map(|uri| tokens_in(uri))
        .map(|text| Candidate { purpose: Purpose::Unsubscribe, text });
    path.chain(id).chain(complaint).chain(links)
}

/// The left side of an address or Message-ID.
fn candidate(purpose: Purpose, address: &str) -> Option<Candidate> {
    let local = address.trim().trim_start_matches('<').split('@').next()?;
    Some(Candidate { purpose, text: local.to_owned() })
}

/// Runs of letters and digits as long as a token.
fn tokens_in(uri: &str) -> Vec<String> {
    uri.split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|part| part.len() == TOKEN_CHARS)
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use sendlake_control::clock::SeededEntropy;
    use sendlake_control::id::uuid_v7;

    use super::*;

    const NOW: Timestamp = Timestamp(1_780_000_000_000_000);

    fn keys() -> TokenKeys {
        TokenKeys::new(1, [1; 32])
    }

    fn message(days_old: i64) -> Uuid {
        uuid_v7(NOW.plus_secs(-days_old * 86_400), &SeededEntropy::new(1))
    }

    fn claimed(feedback: &Feedback) -> Claim {
        of_feedback(&keys(), feedback, NOW)
    }

    #[test]
    fn any_token_that_survived_redaction_names_the_message() {
        let id = message(3);
        let token = |purpose| keys().issue(purpose, id);
        let path = format!("{}@bounces.acme.example", token(Purpose::ReturnPath)).to_uppercase();
        let by_path = Feedback { original_mail_from: Some(path.clone()), ..Feedback::default() };
        let of_original = |original| Feedback { original, ..Feedback::default() };
        let by_return_path =
            of_original(OriginalFields { return_path: Some(path), ..OriginalFields::default() });
        let by_id = of_original(OriginalFields {
            message_id: Some(format!("{}@acme.example", token(Purpose::MessageId))),
            ..OriginalFields::default()
        });
        let unsubscribe = token(Purpose::Unsubscribe);
        let by_link = of_original(OriginalFields {
            list_unsubscribe: vec![
                format!("mailto:{unsubscribe}@bounces.acme.example?subject=unsubscribe"),
                format!("https://mail.acme.example/u/{unsubscribe}"),
            ],
            ..OriginalFields::default()
        });
        let by_complaint_id = of_original(OriginalFields {
            cfbl_feedback_id: Some(token(Purpose::Complaint)),
            ..OriginalFields::default()
        });
        for feedback in [by_path, by_return_path, by_id, by_link, by_complaint_id] {
            assert_eq!(claimed(&feedback), Claim::Message(id), "{feedback:?}");
        }
    }

    #[test]
    fn a_report_about_two_messages_of_ours_is_about_none() {
        let original = |purpose, id| OriginalFields {
            return_path: Some(format!("{}@bounces.acme.example", keys().issue(purpose, id))),
            ..OriginalFields::default()
        };
        let ours = |days| original(Purpose::ReturnPath, message(days));
        let of = |original: OriginalFields, others: Vec<OriginalFields>| {
            claimed(&Feedback { original, others, ..Feedback::default() })
        };
        let theirs =
            || OriginalFields { message_id: Some("x@y.example".into()), ..OriginalFields::default() };
        assert_eq!(of(ours(1), vec![ours(2)]), Claim::None(NoClaim::Several(2)));
        assert_eq!(of(theirs(), vec![ours(2), ours(3), ours(3)]), Claim::None(NoClaim::Several(2)));
        for (original, others) in [
            (ours(1), vec![theirs(), ours(1)]),
            (theirs(), vec![ours(1)]),
            (OriginalFields::default(), vec![theirs(), ours(1)]),
        ] {
            assert_eq!(of(original, others), Claim::Message(message(1)));
        }
        // who forges one token is not believed in another
        let forged = original(Purpose::MessageId, message(1));
        assert_eq!(of(forged, vec![ours(1)]), Claim::None(NoClaim::Forged(TokenError::Signature)));
    }

    #[test]
    fn forged_expired_and_missing_tokens_have_names() {
        let path = |token: String| Feedback {
            original_mail_from: Some(format!("{token}@bounces.acme.example")),
            ..Feedback::default()
        };
        // a Message-ID's token is seen by everybody, and is no return path
        let forged = claimed(&path(keys().issue(Purpose::MessageId, message(1))));
        assert_eq!(forged, Claim::None(NoClaim::Forged(TokenError::Signature)));
        let expired = claimed(&path(keys().issue(Purpose::ReturnPath, message(91))));
        assert_eq!(expired, Claim::None(NoClaim::Expired { days: 91 }));
        assert_eq!(claimed(&path("ann".into())), Claim::None(NoClaim::NoToken));
        assert_eq!(
            claimed(&path(keys().issue(Purpose::ReturnPath, message(90)))),
            Claim::Message(message(90))
        );
    }

    #[test]
    fn ten_thousand_recipients_are_not_all_looked_at() {
        let nobody =
            RecipientStatus { original_message_id: Some("x@y".into()), ..RecipientStatus::default() };
        let mut statuses = vec![nobody; 10_000];
        let ours = format!("{}@acme.example", keys().issue(Purpose::MessageId, message(1)));
        statuses.push(RecipientStatus { original_message_id: Some(ours), ..RecipientStatus::default() });
        assert_eq!(of(&keys(), of_dsn(&statuses), NOW), Claim::None(NoClaim::NoToken));
        assert_eq!(of(&keys(), of_dsn(&statuses[9_990..]), NOW), Claim::Message(message(1)));
    }
}
