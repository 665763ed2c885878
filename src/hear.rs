//! What comes back: reports, replies and unsubscribes become events about the message that they answer, and what
//! they ask for comes into force.
//!
//! - [`claim`]: which message a report claims to be about, by its tokens · [`delivery`]: what the lake knows of it
//! - [`report`]: a report as an event · [`wishes`]: from events to suppressions in force
//! - [`elsewhere`]: other senders' events · `operator`: what an operator brings
//! - [`inbound`]: mail by SMTP or from a file · [`one_click`]: the page behind List-Unsubscribe (RFC 8058)
//! - [`quarantine`]: what cannot be read, or must not count · `retract`: a complaint that is taken back
//! - [`forget`]: people who were erased do not come back in what others write
//! - `unsubscribe`: somebody leaves, however old the message
//! - [`tracking`]: the pages behind tracked links · [`visits`]: opens and clicks on their way to events
//!
//! Nothing is guessed: a report without a valid token becomes an event without a message, and says why.

pub mod claim;
pub mod delivery;
pub mod elsewhere;
pub mod forget;
pub mod inbound;
pub mod one_click;
mod operator;
pub mod quarantine;
pub mod report;
mod retract;
pub mod tracking;
mod unsubscribe;
pub mod visits;
pub mod wishes;

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use sendlake_control::ControlStore;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::{Ids, TenantId};
use sendlake_ingest::event::{Event, EventType};
use sendlake_ingest::report::Report;
use sendlake_ingest::writer::LakeHandle;
use sendlake_query::QueryEngine;
use sendlake_sender::spool::Spool;
use sendlake_sender::token::TokenKeys;
use serde::Serialize;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::claim::Claim;
use self::delivery::{Deliveries, Delivery};
use self::quarantine::Quarantine;
pub use self::unsubscribe::Leave;
use self::wishes::Wishes;
use crate::domain_reports::DomainReports;
use crate::identities::ControlIdentities;
use crate::suppressions::ControlSuppressions;

/// Events without a message that are taken in one hour: anybody may send such reports.
const UNATTRIBUTED_PER_HOUR_MAX: u32 = 2_000;
/// Names the failure of a message that is final.
const FINAL: &str = "final";
/// Names the complaint about a message, of whatever type: one message counts once.
const COMPLAINT: &str = "abuse";
const NO_DOMAIN_REPORT: &str =
    "only DMARC reports (RFC 7489, RFC 6591) and SMTP TLS reports (RFC 8460) are read at this address";
/// Commits to the lake that feedback hastens are at least so far apart.
const COMMIT_PAUSE: Duration = Duration::from_secs(1);

/// A store or the lake did not answer: whoever brought the report should bring it again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// What became of one thing that came back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Heard {
    /// `recorded`, `repeat`, `unattributed`, `refused`, `ignored`, `quarantined`.
    pub outcome: &'static str,
    /// The event, where one was or had been logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<TenantId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    pub detail: String,
}

impl Heard {
    pub(crate) fn refused(detail: impl Into<String>) -> Self {
        Self { outcome: "refused", detail: detail.into(), ..Self::default() }
    }

    fn ignored(detail: impl Into<String>) -> Self {
        Self { outcome: "ignored", detail: detail.into(), ..Self::default() }
    }

    pub fn is_refused(&self) -> bool {
        self.outcome == "refused"
    }

    /// Somebody claimed what is not so: a forged token, or another tenant's.
    fn must_not_count(&self) -> bool {
        self.is_refused() || (self.outcome == "unattributed" && self.detail.contains("forged"))
    }
}

/// To whom a mail that came in was addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addressee {
    /// The return path of one message.
    ReturnPath { message_id: Uuid, owner: TenantId },
    /// The unsubscribe mailbox of one message.
    Unsubscribe { message_id: Uuid, owner: TenantId },
    /// A mailbox for reports: of a tenant's bounce domain, or of the installation.
    Reports { owner: Option<TenantId> },
    /// A mailbox for DMARC and TLS reports, likewise.
    DomainReports { owner: Option<TenantId> },
}

impl Addressee {
    fn owner(&self) -> Option<&TenantId> {
        match self {
            Addressee::ReturnPath { owner, .. } | Addressee::Unsubscribe { owner, .. } => Some(owner),
            Addressee::Reports { owner } | Addressee::DomainReports { owner } => owner.as_ref(),
        }
    }
}

/// Hears back. Share it in an [`Arc`].
pub struct Hearing {
    spool: Arc<Spool>,
    control: Arc<ControlStore>,
    identities: Arc<ControlIdentities>,
    suppressions: Arc<ControlSuppressions>,
    tokens: TokenKeys,
    deliveries: Deliveries,
    engine: Arc<QueryEngine>,
    pub wishes: Arc<Wishes>,
    /// DMARC and TLS reports go there.
    pub reports: Arc<DomainReports>,
    /// Further addresses for those, lower case.
    report_addresses: Vec<String>,
    /// Further addresses for reports, lower case.
    feedback_addresses: Vec<String>,
    quarantine: Arc<Quarantine>,
    ids: Ids,
    /// The hour, and the events without a message in it.
    unattributed: Mutex<(i64, u32)>,
    /// Told after each complaint and unsubscribe, for whoever judges anew.
    pub feedback_arrived: Arc<Notify>,
    commit_wanted: Notify,
    one_file_at_a_time: tokio::sync::Mutex<()>,
}

/// What [`Hearing`] works with.
pub struct HearingParts {
    pub spool: Arc<Spool>,
    pub control: Arc<ControlStore>,
    pub engine: Arc<QueryEngine>,
    pub identities: Arc<ControlIdentities>,
    pub suppressions: Arc<ControlSuppressions>,
    pub tokens: TokenKeys,
    pub reports: Arc<DomainReports>,
    pub report_addresses: Vec<String>,
    pub feedback_addresses: Vec<String>,
    pub quarantine: Arc<Quarantine>,
    pub ids: Ids,
}

impl Hearing {
    pub fn new(parts: HearingParts) -> Self {
        let wishes = Wishes::new(
            Arc::clone(&parts.spool),
            Arc::clone(&parts.control),
            Arc::clone(&parts.suppressions),
            parts.ids.clone(),
        );
        Self {
            deliveries: Deliveries::new(Arc::clone(&parts.engine)),
            engine: parts.engine,
            wishes: Arc::new(wishes),
            spool: parts.spool,
            control: parts.control,
            identities: parts.identities,
            suppressions: parts.suppressions,
            tokens: parts.tokens,
            reports: parts.reports,
            report_addresses: parts.report_addresses.iter().map(|a| a.to_lowercase()).collect(),
            feedback_addresses: parts.feedback_addresses.iter().map(|a| a.to_lowercase()).collect(),
            quarantine: parts.quarantine,
            ids: parts.ids,
            unattributed: Mutex::default(),
            feedback_arrived: Arc::new(Notify::new()),
            commit_wanted: Notify::new(),
            one_file_at_a_time: tokio::sync::Mutex::default(),
        }
    }

    /// Commits to the lake soon after complaints and unsubscribes, until `stop`.
    pub async fn hasten(self: Arc<Self>, lake: LakeHandle, stop: CancellationToken) {
        while stop.run_until_cancelled(self.commit_wanted.notified()).await.is_some() {
            if let Err(error) = lake.flush().await {
                tracing::debug!(%error, "feedback waits for the lake in the spool");
            }
            if stop.run_until_cancelled(tokio::time::sleep(COMMIT_PAUSE)).await.is_none() {
                break;
            }
        }
    }

    /// Deals with one mail for one addressee.
    pub async fn hear(&self, to: &Addressee, report: &Report, data: &[u8]) -> Result<Heard, Unavailable> {
        match (to, report) {
            // whatever it says: nothing but a wish to leave is sent to that address
            (Addressee::Unsubscribe { message_id, owner }, _) => {
                let whom = unsubscribe::whom_in(&self.tokens, *message_id, data);
                let leave = Leave { whom, owner: Some(owner), ..Leave::new(*message_id, "mailto") };
                self.unsubscribe(leave).await
            }
            (Addressee::DomainReports { .. }, _) => Ok(Heard::refused(NO_DOMAIN_REPORT)),
            (_, Report::Dsn(statuses)) => {
                let Some(status) = report::first_failure(statuses) else {
                    return Ok(Heard::ignored("the DSN tells of no failure"));
                };
                let now = self.ids.now();
                let claim = self.claim(to, || claim::of(&self.tokens, claim::of_dsn(statuses), now));
                match self.attribute(&claim, to.owner()).await? {
                    Ok(delivery) => {
                        let Some(status) = report::status_of(statuses, delivery.recipient.as_deref()) else {
                            let why = format!(
                                "the DSN names {} recipients, none of them this message's",
                                statuses.len()
                            );
                            return self
                                .record_unattributed(to, report::async_bounce(status, None), &why, data)
                                .await;
                        };
                        if !report::is_failure(status) {
                            return Ok(Heard::ignored("the DSN tells of no failure of this recipient"));
                        }
                        let event = report::async_bounce(status, Some(&delivery));
                        self.record(&delivery, event, "").await
                    }
                    Err(Unattributed::Refused(why)) => Ok(Heard::refused(why)),
                    Err(Unattributed::Unknown(why)) => {
                        self.record_unattributed(to, report::async_bounce(status, None), &why, data).await
                    }
                }
            }
            (_, Report::Feedback(feedback)) => {
                let Some(draft) = report::feedback(feedback) else {
                    tracing::info!(
                        feedback_type = feedback.feedback_type,
                        "a feedback report of no complaint"
                    );
                    return Ok(Heard::ignored(format!(
                        "a feedback report of type {:?} is no complaint",
                        feedback.feedback_type
                    )));
                };
                let now = self.ids.now();
                let claim = self.claim(to, || claim::of_feedback(&self.tokens, feedback, now));
                match self.attribute(&claim, to.owner()).await? {
                    Ok(delivery) => {
                        let is_regretted = feedback.feedback_type == "not-spam";
                        let distinction = match draft.event_type {
                            EventType::Complained => COMPLAINT,
                            _ => feedback.feedback_type.as_str(),
                        };
                        let heard = self.record(&delivery, draft, distinction).await?;
                        if is_regretted {
                            self.retract_complaint(&delivery).await?;
                        }
                        Ok(heard)
                    }
                    Err(Unattributed::Refused(why)) => Ok(Heard::refused(why)),
                    Err(Unattributed::Unknown(why)) => self.record_unattributed(to, draft, &why, data).await,
                }
            }
            (Addressee::ReturnPath { message_id, owner }, Report::AutoReply | Report::Other) => {
                let claim = self.fresh(*message_id);
                match self.attribute(&claim, Some(owner)).await? {
                    Ok(delivery) => {
                        let automatic = matches!(report, Report::AutoReply);
                        self.record(&delivery, report::reply(automatic), &hash(data)).await
                    }
                    Err(Unattributed::Refused(why) | Unattributed::Unknown(why)) => Ok(Heard::refused(why)),
                }
            }
            (Addressee::Reports { .. }, Report::AutoReply | Report::Other) => Ok(Heard::refused(
                "only feedback reports (RFC 5965) and delivery status notifications (RFC 3464) are read at this address",
            )),
        }
    }

    /// The message that a mail is about: its envelope's, or what its content claims.
    fn claim(&self, to: &Addressee, content: impl FnOnce() -> Claim) -> Claim {
        match to {
            Addressee::ReturnPath { message_id, .. } | Addressee::Unsubscribe { message_id, .. } => {
                self.fresh(*message_id)
            }
            Addressee::Reports { .. } | Addressee::DomainReports { .. } => content(),
        }
    }

    fn fresh(&self, message_id: Uuid) -> Claim {
        claim::fresh(message_id, self.ids.now())
    }

    async fn attribute(
        &self,
        claim: &Claim,
        owner: Option<&TenantId>,
    ) -> Result<Result<Delivery, Unattributed>, Unavailable> {
        let message_id = match claim {
            Claim::Message(message_id) => *message_id,
            Claim::None(why) => return Ok(Err(Unattributed::Unknown(why.to_string()))),
        };
        let Some(delivery) = self.deliveries.find(message_id).await? else {
            let why = format!("message {message_id} is not in the lake (any more)");
            return Ok(Err(Unattributed::Unknown(why)));
        };
        if owner.is_some_and(|owner| *owner != delivery.tenant_id) {
            tracing::warn!(%message_id, "a report about one tenant's message came to another tenant's address");
            return Ok(Err(Unattributed::Refused(
                "the token is another tenant's: its message did not leave under this domain".into(),
            )));
        }
        Ok(Ok(delivery))
    }

    /// Logs the event of a known message, once under its type and `distinction`.
    async fn record(
        &self,
        delivery: &Delivery,
        draft: report::Draft,
        distinction: &str,
    ) -> Result<Heard, Unavailable> {
        let event_type = draft.event_type;
        let key = |distinction| format!("{}/{}/{distinction}", event_type.as_str(), delivery.message_id);
        // what bounces for now may bounce for good later: that is news, and the other way round it is none
        let keys = if draft.is_final() { vec![key(FINAL), key(distinction)] } else { vec![key(distinction)] };
        let event = draft.about(delivery, &self.ids);
        let is_new = self.log_once(keys, event).await?;
        Ok(Heard {
            outcome: if is_new { "recorded" } else { "repeat" },
            event_type: Some(event_type.as_str()),
            message_id: Some(delivery.message_id),
            tenant_id: Some(delivery.tenant_id.clone()),
            recipient: delivery.recipient.clone(),
            detail: if is_new { String::new() } else { "it was known already".into() },
        })
    }

    /// Logs an event that names no message, for the tenant whose domain the mail came to.
    async fn record_unattributed(
        &self,
        to: &Addressee,
        draft: report::Draft,
        why: &str,
        data: &[u8],
    ) -> Result<Heard, Unavailable> {
        let event_type = draft.event_type;
        let tenant_id = to.owner().cloned().unwrap_or_else(TenantId::platform);
        self.count_unattributed(self.ids.now())?;
        let event = draft.about_nobody(tenant_id.clone(), why, &self.ids);
        let key = format!("unattributed/{}/{tenant_id}/{}", event_type.as_str(), hash(data));
        let is_new = self.log_once(vec![key], event).await?;
        Ok(Heard {
            outcome: if is_new { "unattributed" } else { "repeat" },
            event_type: Some(event_type.as_str()),
            tenant_id: Some(tenant_id),
            detail: why.to_owned(),
            ..Heard::default()
        })
    }

    fn count_unattributed(&self, now: Timestamp) -> Result<(), Unavailable> {
        let hour = now.as_secs().div_euclid(3_600);
        let mut counted = self.unattributed.lock();
        if counted.0 != hour {
            *counted = (hour, 0);
        }
        counted.1 += 1;
        if counted.1 > UNATTRIBUTED_PER_HOUR_MAX {
            return Err(Unavailable("too many reports that name no message of ours in this hour".into()));
        }
        Ok(())
    }

    /// Logs an event unless one is known under the first key; all keys are remembered.
    async fn log_once(&self, keys: Vec<String>, mut event: Event) -> Result<bool, Unavailable> {
        forget::redact(&self.suppressions, &mut event);
        let failed = |error: &dyn std::fmt::Display| Unavailable(error.to_string());
        self.control.ensure_data_key(&event.tenant_id).await.map_err(|e| failed(&e))?;
        let event_type = event.event_type;
        let is_new = self.spool.log_once_under(keys, &event).await.map_err(|e| failed(&e))?;
        // also for a repeat: the first time may have ended before its wish came into force
        self.wishes.drain().await.map_err(|e| failed(&e))?;
        if is_new && matches!(event_type, EventType::Complained | EventType::Unsubscribed) {
            self.commit_wanted.notify_one();
            self.feedback_arrived.notify_one();
        }
        Ok(is_new)
    }
}

/// Why a report is about no message.
enum Unattributed {
    /// It must not count at all.
    Refused(String),
    /// It counts, for nobody in particular.
    Unknown(String),
}

fn hash(data: &[u8]) -> String {
    let mut text = String::with_capacity(32);
    for byte in digest(&SHA256, data).as_ref().iter().take(16) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

#[cfg(test)]
mod tests;
