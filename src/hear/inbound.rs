//! Mail that comes in: whom it is to, what it is, and what is answered. By SMTP, or from files that another server
//! took (`sendlake ingest`).

use std::sync::Arc;

use async_trait::async_trait;
use sendlake_control::domain::{DMARC_MAILBOX, TLS_MAILBOX};
use sendlake_control::id::TenantId;
use sendlake_ingest::inbound::{InboundMail, Postmaster, Reply};
use sendlake_ingest::report::{RecipientStatus, Report, ReportError};
use sendlake_sender::token::{Purpose, TOKEN_CHARS, TokenError};
use sendlake_sql::rules::{Ruleset, Said};

use super::claim::Claim;
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
                (Err(unread), _) => {
                    self.set_aside(&data, &unread.to_string()).await;
                    Heard::refused(unread.to_string())
                }
            });
            // a letter by a person is refused and not kept: that is nobody's business here
            let is_report = matches!(report, Ok(Report::Dsn(_) | Report::Feedback(_)));
            if let Some(last) = heard.last().filter(|last| is_report && last.must_not_count()) {
                self.set_aside(&data, &last.detail).await;
            }
        }
        Ok(heard)
    }

    /// Puts a mail into the quarantine. A folder that cannot be written does not keep the mail from its answer.
    pub async fn set_aside(&self, data: &Arc<[u8]>, why: &str) {
        let (quarantine, mail, name) = (self.quarantine.clone(), Arc::clone(data), super::hash(data));
        let (reason, now) = (why.to_owned(), self.ids.now());
        let kept = tokio::task::spawn_blocking(move || quarantine.keep(&mail, &name, &reason, now)).await;
        match kept {
            Ok(Ok(path)) => tracing::info!(path = %path.display(), why, "inbound mail is kept in quarantine"),
            Ok(Err(error)) => tracing::warn!(%error, why, "inbound mail cannot be kept in quarantine"),
            Err(error) => tracing::warn!(%error, why, "inbound mail was not kept in quarantine"),
        }
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
        let mut addressees: Vec<Addressee> = addresses_in(&data)
            .iter()
            .filter_map(|address| self.addressee(address).ok())
            .take(ADDRESSEES_MAX)
            .collect();
        addressees.dedup();
        if addressees.is_empty() {
            addressees.push(Addressee::Reports { owner: None });
        }
        self.take_by(Way::File, &addressees, data).await
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
