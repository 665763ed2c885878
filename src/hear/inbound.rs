//! Mail that comes in: whom it is to, what it is, and what is answered. By SMTP, or from files that another server
//! took (`sendlake ingest`).

use std::sync::Arc;

use async_trait::async_trait;
use sendlake_control::domain::{DMARC_MAILBOX, TLS_MAILBOX};
use sendlake_control::id::TenantId;
use sendlake_ingest::event::EventType;
use sendlake_ingest::inbound::{InboundMail, Postmaster, Reply};
use sendlake_ingest::report::{RecipientStatus, Report, ReportError};
use sendlake_sender::token::{Purpose, TOKEN_CHARS, TokenError};
use sendlake_sql::rules::{Ruleset, Said};

use super::claim::Claim;
use super::quarantine::{Kind, Unusable};
use super::report::Verdict;
use super::{Addressee, Heard, Hearing, Unavailable, claim};
use crate::domain_reports::Unreadable;

/// Mailboxes for reports at every bounce domain (RFC 2142).
const REPORT_MAILBOXES: [&str; 3] = ["fbl", "abuse", "postmaster"];
/// Those for DMARC and TLS reports, as `sendlake domain dns` publishes them.
const DOMAIN_REPORT_MAILBOXES: [&str; 2] = [DMARC_MAILBOX, TLS_MAILBOX];
/// Header fields of a stored mail that tell whom it came to, the surest first.
const ADDRESSEE_FIELDS: [&str; 4] = ["delivered-to", "x-original-to", "envelope-to", "to"];
const ADDRESSEES_MAX: usize = 10;

/// Why mail to an address is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHere {
    #[error("5.1.3 not an address")]
    Syntax,
    #[error("5.7.1 {0} is no bounce domain of this server, and it relays nothing")]
    Domain(String),
    #[error("5.1.1 there is no such mailbox")]
    Mailbox,
    #[error("5.1.1 the address is not one that this server made: {0}")]
    Forged(TokenError),
    #[error("5.1.6 the address has expired: {0}")]
    Expired(claim::NoClaim),
}

impl Hearing {
    /// Whom an address stands for.
    pub fn addressee(&self, address: &str) -> Result<Addressee, NotHere> {
        if self.feedback_addresses.iter().any(|known| address.eq_ignore_ascii_case(known)) {
            return Ok(Addressee::Reports { owner: None });
        }
        if address.eq_ignore_ascii_case("postmaster") {
            return Ok(Addressee::Reports { owner: None });
        }
        if self.report_addresses.iter().any(|known| address.eq_ignore_ascii_case(known)) {
            return Ok(Addressee::DomainReports { owner: None });
        }
        let (local, domain) = address.rsplit_once('@').ok_or(NotHere::Syntax)?;
        let domain = domain.to_ascii_lowercase();
        let owner = self
            .identities
            .owner_of_bounce_domain(&domain)
            .ok_or_else(|| NotHere::Domain(domain.chars().take(253).collect()))?;
        if REPORT_MAILBOXES.iter().any(|known| local.eq_ignore_ascii_case(known)) {
            return Ok(Addressee::Reports { owner: Some(owner) });
        }
        if DOMAIN_REPORT_MAILBOXES.iter().any(|known| local.eq_ignore_ascii_case(known)) {
            return Ok(Addressee::DomainReports { owner: Some(owner) });
        }
        self.token_mailbox(local, owner)
    }

    fn token_mailbox(&self, local: &str, owner: TenantId) -> Result<Addressee, NotHere> {
        if local.len() != TOKEN_CHARS {
            return Err(NotHere::Mailbox);
        }
        match self.tokens.verify(Purpose::ReturnPath, local) {
            Ok(message_id) => match self.fresh(message_id) {
                Claim::Message(message_id) => Ok(Addressee::ReturnPath { message_id, owner }),
                Claim::None(why) => Err(NotHere::Expired(why)),
            },
            Err(TokenError::Shape) => Err(NotHere::Mailbox),
            Err(not_a_return_path) => match self.tokens.verify(Purpose::Unsubscribe, local) {
                Ok(message_id) => Ok(Addressee::Unsubscribe { message_id, owner }),
                Err(_) => Err(NotHere::Forged(not_a_return_path)),
            },
        }
    }

    /// Deals with one mail for all its addressees.
    pub async fn take(&self, addressees: &[Addressee], data: Vec<u8>) -> Result<Vec<Heard>, Unavailable> {
        self.take_by(Way::Mail, addressees, data).await
    }

    async fn take_by(
        &self,
        way: Way,
        addressees: &[Addressee],
        data: Vec<u8>,
    ) -> Result<Vec<Heard>, Unavailable> {
        let data: Arc<[u8]> = data.into();
        let text = Arc::clone(&data);
        // a parser at work on megabytes must not keep the server's threads from everything else
        let report = tokio::task::spawn_blocking(move || Report::parse(&text))
            .await
            .map_err(|error| Unavailable(error.to_string()))?;
        let mut heard = Vec::with_capacity(addressees.len());
        for addressee in addressees {
            if tells_of_no_message(&report, addressee)
                && let Some(taken) = self.domain_report(way, addressee, &data).await?
            {
                heard.push(taken);
                continue;
            }
            heard.push(match (&report, addressee) {
                (Ok(report), _) => self.hear(addressee, report, &data).await?,
                (Err(_), Addressee::Unsubscribe { .. }) => {
                    self.hear(addressee, &Report::Other, &data).await?
                }
                (Err(unread), _) => Heard::refused(unread.to_string()),
            });
            // a letter by a person is refused and not kept: that is nobody's business here
            let kind = match &report {
                Ok(Report::Dsn(_)) => Kind::Bounce,
                Ok(Report::Feedback(_)) => Kind::Complaint,
                Ok(Report::AutoReply | Report::Other) => continue,
                Err(_) => Kind::Mail,
            };
            if let Some(last) = heard.last_mut().filter(|last| last.must_not_count()) {
                let why = last.detail.clone();
                self.set_aside(Unusable { kind, owner: addressee.owner(), data: &data, why: &why }, last)
                    .await;
            }
        }
        Ok(heard)
    }

    /// Puts a mail into the quarantine, and says so in what was heard of it. A folder that cannot be written does not keep the
    /// mail from its answer.
    async fn set_aside(&self, it: Unusable<'_>, heard: &mut Heard) {
        let tenant_id = it.owner.cloned().unwrap_or_else(TenantId::platform);
        match self.quarantine.keep(it).await {
            // what was logged of it as well stays the first thing to tell
            Ok(_) if heard.event_type.is_none() => {
                heard.event_type = Some(EventType::ReportQuarantined.as_str());
                heard.tenant_id = Some(tenant_id);
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "inbound mail that cannot be used is lost"),
        }
    }

    /// The same for a stored mail that was refused as a whole, unless it is there already.
    pub async fn set_refused_aside(&self, data: &Arc<[u8]>, heard: &[Heard]) {
        let is_aside =
            heard.iter().any(|heard| heard.event_type == Some(EventType::ReportQuarantined.as_str()));
        let Some(refused) = heard.first().filter(|_| !is_aside && heard.iter().all(Heard::is_refused)) else {
            return;
        };
        let mut heard = refused.clone();
        let why = refused.detail.as_str();
        self.set_aside(Unusable { kind: Kind::Mail, owner: None, data, why }, &mut heard).await;
    }

    /// A DMARC or TLS report; `None` for mail that is none.
    async fn domain_report(
        &self,
        way: Way,
        addressee: &Addressee,
        data: &Arc<[u8]>,
    ) -> Result<Option<Heard>, Unavailable> {
        let owner = addressee.owner();
        match (way, addressee) {
            (Way::File, _) => self.reports.receive_file(owner, data).await,
            // nobody sends anything else there: what cannot be read is worth a look
            (Way::Mail, Addressee::DomainReports { .. }) => {
                self.reports.receive(owner, data, Unreadable::Aside).await
            }
            (Way::Mail, _) => self.reports.receive(owner, data, Unreadable::Pass).await,
        }
    }

    /// Deals with a mail that another server took and that comes as a file: whom it came to, its own header says.
    pub async fn take_file(&self, data: Vec<u8>) -> Result<Vec<Heard>, Unavailable> {
        let addresses = addresses_in(&data);
        let mut addressees: Vec<Addressee> = addresses
            .iter()
            .filter_map(|address| self.addressee(address).ok())
            .take(ADDRESSEES_MAX)
            .collect();
        addressees.dedup();
        if addressees.is_empty() {
            if let Some((owner, why)) = addresses.iter().find_map(|address| self.forged(address)) {
                return Ok(vec![self.refuse_forged(&owner, why, data).await]);
            }
            addressees.push(Addressee::Reports { owner: None });
        }
        self.take_by(Way::File, &addressees, data).await
    }
}

impl Hearing {
    /// The tenant at whose bounce domain a forged address lies, and why it is none of ours.
    fn forged(&self, address: &str) -> Option<(TenantId, TokenError)> {
        let (local, domain) = address.rsplit_once('@')?;
        let why = match self.addressee(address) {
            Err(NotHere::Forged(why)) => why,
            // as long as a token, and with a character that none has there
            Err(NotHere::Mailbox) if local.len() == TOKEN_CHARS => TokenError::Shape,
            _ => return None,
        };
        Some((self.identities.owner_of_bounce_domain(&domain.to_ascii_lowercase())?, why))
    }

    /// What SMTP refuses before it sees it lies here already: kept for a person to look at.
    async fn refuse_forged(&self, owner: &TenantId, why: TokenError, data: Vec<u8>) -> Heard {
        let why = format!("the address that it came to is forged: {why}");
        let mut heard = Heard { tenant_id: Some(owner.clone()), ..Heard::refused(why.as_str()) };
        let unusable = Unusable { kind: Kind::Mail, owner: Some(owner), data: &data.into(), why: &why };
        self.set_aside(unusable, &mut heard).await;
        heard
    }
}

/// How something came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Mail,
    File,
}

/// Whether it may be a report about a domain: at a mailbox for reports, and nothing that tells of one message of ours.
fn tells_of_no_message(report: &Result<Report, ReportError>, addressee: &Addressee) -> bool {
    match addressee {
        Addressee::DomainReports { .. } => true,
        Addressee::Reports { .. } => match report {
            Ok(Report::Feedback(feedback)) => feedback.feedback_type == "auth-failure",
            Ok(Report::Dsn(_)) => false,
            Ok(Report::AutoReply | Report::Other) | Err(_) => true,
        },
        Addressee::ReturnPath { .. } | Addressee::Unsubscribe { .. } => false,
    }
}

#[async_trait]
impl Postmaster for Hearing {
    fn recipient(&self, address: &str) -> Result<(), Reply> {
        self.addressee(address).map(drop).map_err(|refused| {
            tracing::info!(%refused, "inbound mail was refused");
            Reply::new(550, refused.to_string())
        })
    }

    async fn message(&self, mail: InboundMail) -> Reply {
        let addressees: Vec<Addressee> =
            mail.recipients.iter().filter_map(|address| self.addressee(address).ok()).collect();
        match self.take(&addressees, mail.data).await {
            Ok(heard) => {
                for heard in &heard {
                    tracing::debug!(
                        outcome = heard.outcome,
                        event_type = heard.event_type,
                        message_id = heard.message_id.map(tracing::field::display),
                        detail = heard.detail,
                        "inbound mail"
                    );
                }
                answer(&heard)
            }
            Err(error) => {
                tracing::warn!(%error, "inbound mail was put off");
                Reply::new(451, "4.3.0 it could not be recorded; try again later")
            }
        }
    }

    async fn too_large(&self, recipients: &[String]) {
        let addressee = recipients.first().and_then(|address| self.addressee(address).ok());
        let owner = addressee.as_ref().and_then(Addressee::owner);
        let told = self
            .quarantine
            .tell_unkept(owner, "larger than inbound.message_bytes_max; nothing of it is kept");
        if let Err(error) = told.await {
            tracing::warn!(%error, "a mail that was too large is told by no event");
        }
    }
}

/// One answer for all recipients: positive when any of them took it.
fn answer(heard: &[Heard]) -> Reply {
    match heard.iter().find(|heard| heard.is_refused()) {
        Some(refused) if heard.iter().all(Heard::is_refused) => {
            tracing::info!(why = refused.detail, "inbound mail was refused");
            Reply::new(550, format!("5.7.1 {}", refused.detail))
        }
        _ => Reply::new(250, "2.0.0 recorded"),
    }
}

/// What the bounce rules say of a DSN's entry.
pub(super) fn classify(status: &RecipientStatus, provider: Option<&str>) -> Verdict {
    let found = Ruleset::current().classify(&Said { provider, ..status.said() });
    Verdict {
        category: found.category.to_string(),
        class: found.class.to_string(),
        reason: found.reason,
        rule: found.rule,
        ruleset_version: found.ruleset_version,
    }
}

/// Addresses in the header section that may be the envelope's.
fn addresses_in(data: &[u8]) -> Vec<String> {
    let Some(mail) = mail_parser::MessageParser::default().parse_headers(data) else { return Vec::new() };
    let mut found = Vec::new();
    for field in ADDRESSEE_FIELDS {
        for (name, value) in mail.headers_raw() {
            if !name.eq_ignore_ascii_case(field) {
                continue;
            }
            let parts = value.split(|c: char| c.is_whitespace() || "<>,;\"()".contains(c));
            found.extend(
                parts.filter(|part| part.contains('@') && part.len() <= 320).map(str::to_owned).take(100),
            );
        }
    }
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_mail_says_whom_it_came_to() {
        let mail = b"To: \"B, bounces\" <a@b.test>,\r\n\tc@d.test\r\nDelivered-To: x@y.test\r\n\r\nTo: no@body.test\r\n";
        assert_eq!(addresses_in(mail), ["x@y.test", "a@b.test", "c@d.test"]);
        assert!(addresses_in(b"").is_empty());
    }

    #[test]
    fn one_recipient_that_takes_it_is_enough() {
        let recorded = Heard { outcome: "recorded", ..Heard::default() };
        let refused = Heard::refused("the token is another tenant's");
        assert_eq!(answer(&[recorded, refused.clone()]).code, 250);
        let reply = answer(&[refused]);
        assert_eq!(reply.code, 550);
        assert!(reply.text.contains("another tenant's"), "{reply:?}");
    }
}
