//! Somebody leaves: durable and in force before the answer, whether or not the message is still in the lake, and
//! whether or not the lake answers.

use std::time::Duration;

use sendlake_control::id::TenantId;
use sendlake_ingest::event::EventType;
use sendlake_sender::address::Address;
use sendlake_sender::headers::SUBJECT;
use sendlake_sender::link::{Facts, Whom};
use sendlake_sender::stream::Stream;
use sendlake_sender::suppression::Suppressions;
use sendlake_sender::token::{Purpose, TokenKeys};
use serde_json::json;
use uuid::Uuid;

use super::claim::Claim;
use super::delivery::Delivery;
use super::{Heard, Hearing, Unattributed, Unavailable, report};
use crate::suppressions::ControlSuppressions;

/// Longest wait for the lake where the link itself knows whom it is about.
const LOOKUP_MAX: Duration = Duration::from_secs(3);

/// A wish to leave, as it came in.
#[derive(Clone, Debug)]
pub struct Leave<'a> {
    pub message_id: Uuid,
    /// What the link knew beside its token. Links of earlier versions know nothing.
    pub whom: Option<Whom>,
    /// The tenant to whose address it came.
    pub owner: Option<&'a TenantId>,
    /// `one_click`, `link` or `mailto`.
    pub how: &'a str,
    pub user_agent: Option<&'a str>,
}

impl<'a> Leave<'a> {
    pub fn new(message_id: Uuid, how: &'a str) -> Self {
        Self { message_id, whom: None, owner: None, how, user_agent: None }
    }
}

impl Hearing {
    /// Takes somebody's leave of one message's sender. Durable, and in force in this process, when it returns; a
    /// repeat changes nothing.
    pub async fn unsubscribe(&self, leave: Leave<'_>) -> Result<Heard, Unavailable> {
        let delivery = match self.whose(&leave).await? {
            Ok(delivery) => delivery,
            Err(why) => return Ok(Heard::refused(why)),
        };
        let Some(delivery) = self.with_recipient(delivery, leave.whom.as_ref()) else {
            return Ok(Heard {
                outcome: "repeat",
                message_id: Some(leave.message_id),
                detail: "the recipient is on the legal list, and nothing about them is recorded any more"
                    .into(),
                ..Heard::default()
            });
        };
        let mut draft = report::Draft::new(EventType::Unsubscribed);
        draft.detail = json!({ "by": leave.how });
        draft.user_agent = leave.user_agent.map(|agent| agent.chars().take(200).collect());
        let heard = self.record(&delivery, draft.clone(), "").await?;
        if heard.outcome == "repeat" && !self.is_left_alone(&delivery) {
            // somebody lifted the suppression since: this is a new wish
            let again = self.ids.uuid().to_string();
            return self.record(&delivery, draft, &again).await;
        }
        Ok(heard)
    }

    /// The message, from the lake, or as far as its link knows it.
    async fn whose(&self, leave: &Leave<'_>) -> Result<Result<Delivery, String>, Unavailable> {
        // whatever its age: an unsubscribe is honoured for as long as the tenant exists
        let claim = Claim::Message(leave.message_id);
        let lookup = self.attribute(&claim, leave.owner);
        let Some(whom) = &leave.whom else {
            return Ok(match lookup.await? {
                Ok(delivery) => Ok(delivery),
                Err(Unattributed::Refused(why) | Unattributed::Unknown(why)) => Err(why),
            });
        };
        Ok(match tokio::time::timeout(LOOKUP_MAX, lookup).await {
            Ok(Ok(Ok(delivery))) => Ok(delivery),
            Ok(Ok(Err(Unattributed::Refused(why)))) => Err(why),
            _ if leave.owner.is_some_and(|owner| *owner != whom.tenant_id) => {
                Err("the link is another tenant's: its message did not leave under this domain".into())
            }
            _ => Ok(as_sealed(leave.message_id, whom)),
        })
    }

    /// The same with its recipient; `None` for a person who was erased, and must not come back by an old link.
    fn with_recipient(&self, delivery: Delivery, whom: Option<&Whom>) -> Option<Delivery> {
        let Some(whom) = whom.filter(|_| delivery.recipient.is_none()) else { return Some(delivery) };
        if is_erased(&self.suppressions, &delivery.tenant_id, &whom.recipient) {
            return None;
        }
        let recipient_domain = whom.recipient.rsplit_once('@').map(|(_, domain)| domain.to_owned());
        let stream = delivery.stream.clone().or_else(|| Some(whom.stream.to_string()));
        Some(Delivery { recipient: Some(whom.recipient.clone()), recipient_domain, stream, ..delivery })
    }

    fn is_left_alone(&self, delivery: &Delivery) -> bool {
        let recipient = delivery.recipient.as_deref().and_then(|recipient| Address::parse(recipient).ok());
        recipient.is_none_or(|recipient| {
            self.suppressions.find(&delivery.tenant_id, Stream::Marketing, &recipient).is_some()
        })
    }
}

/// Whether an address stands on the legal list, as it does after an erasure: nothing about it is recorded any more.
pub(super) fn is_erased(list: &ControlSuppressions, tenant: &TenantId, recipient: &str) -> bool {
    let address = Address::parse(recipient).ok();
    let listed = address.and_then(|address| list.find(tenant, Stream::Transactional, &address));
    listed.is_some_and(|listed| listed.reason == "legal")
}

/// What a link knows when the lake knows nothing.
fn as_sealed(message_id: Uuid, whom: &Whom) -> Delivery {
    Delivery {
        message_id,
        tenant_id: whom.tenant_id.clone(),
        submission_id: None,
        stream: Some(whom.stream.to_string()),
        campaign_id: None,
        content_fingerprint: None,
        recipient: None,
        recipient_domain: None,
        provider: None,
        header_from_domain: None,
        mail_from_domain: None,
        dkim_domain: None,
        dkim_selector: None,
        ip_pool: None,
        source_ip: None,
        delivered_at: None,
    }
}

/// Whom a mail to the unsubscribe mailbox is about, by its subject, where the subject came back as it was offered.
pub(super) fn whom_in(tokens: &TokenKeys, message_id: Uuid, mail: &[u8]) -> Option<Whom> {
    let parsed = mail_parser::MessageParser::default().parse_headers(mail)?;
    let (_, after) = parsed.subject()?.split_once(SUBJECT)?;
    let sealed: String =
        after.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
    match Facts::open_for(tokens, Purpose::Unsubscribe, message_id, &sealed)? {
        Facts::Unsubscribe(whom) => Some(whom),
        Facts::Open(..) | Facts::Click(..) => None,
    }
}
