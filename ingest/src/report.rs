//! What comes back by mail, read into plain facts: delivery status notifications (RFC 3464, and the many that
//! are not), feedback reports (RFC 5965), automatic replies. No attribution here: who was written to is the
//! reports' own claim.

mod charset;
mod extract;
mod feedback;
mod fields;
mod kind;
mod mail;
mod notice;
mod said;

use sendlake_control::clock::Timestamp;
use sendlake_sql::rules::{Action, Classified, Ruleset, Said};

use self::mail::Mail;
use crate::nesting::{MAILS_MAX, holds_too_many_mails};

/// Longest mail that is read as a report.
pub const BYTES_MAX: usize = 32 << 20;
/// Most recipients of one report. A message of ours has one; forwarding and lists make it a few.
pub const RECIPIENTS_MAX: usize = 1_000;
/// Longest text kept of what was said, in characters.
pub const TEXT_CHARS_MAX: usize = 2_000;

/// Why a mail is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    #[error("the report has {bytes} bytes; at most {BYTES_MAX} are read")]
    TooLarge { bytes: usize },
    #[error("the report speaks of more than {RECIPIENTS_MAX} recipients; none of them is believed")]
    TooManyRecipients,
    #[error("this is no mail: it has no header section")]
    NotAMail,
    #[error("the mail holds more than {MAILS_MAX} mails within mails; none of them is looked into")]
    TooManyMails,
}

/// What an inbound mail turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// A DSN, one entry per recipient.
    Dsn(Vec<RecipientStatus>),
    Feedback(Box<Feedback>),
    /// A vacation notice or another automatic reply (RFC 3834).
    AutoReply,
    /// None of these: a person's reply, or spam.
    Other,
}

impl Report {
    /// Reads a mail. Takes any bytes without panic, within the bounds above; what it says is the mail's own claim.
    pub fn parse(message: &[u8]) -> Result<Self, ReportError> {
        if message.len() > BYTES_MAX {
            return Err(ReportError::TooLarge { bytes: message.len() });
        }
        if holds_too_many_mails(message) {
            return Err(ReportError::TooManyMails);
        }
        let mail = Mail::read(message)?;
        kind::decide(&mail)
    }
}

/// What became of one recipient, RFC 3464, section 2.3.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecipientStatus {
    pub action: DsnAction,
    /// Final-Recipient, else Original-Recipient, else what the text names. An address, or what stands in its place.
    pub recipient: Option<String>,
    /// Original-Recipient, where it is another one than `recipient`: whom the message was sent to before somebody forwarded it.
    pub original_recipient: Option<String>,
    /// RFC 3463: `5.1.1`.
    pub status: Option<String>,
    /// The remote server's reply code, where one is quoted.
    pub reply_code: Option<u16>,
    /// The command that was refused, where it is told.
    pub smtp_command: Option<String>,
    /// What the remote server or the reporting one said, white space collapsed.
    pub text: String,
    pub remote_mta: Option<String>,
    pub reporting_mta: Option<String>,
    /// Message-ID of the returned message, without brackets.
    pub original_message_id: Option<String>,
}

impl RecipientStatus {
    /// What it says, as the rules read it.
    pub fn said(&self) -> Said<'_> {
        Said {
            provider: None,
            smtp_command: self.smtp_command.as_deref(),
            reply_code: self.reply_code,
            enhanced_status: self.status.as_deref(),
            text: &self.text,
        }
    }

    /// What it means. A delay neither suppresses nor ends: the message is still being tried.
    pub fn classify(&self, rules: &Ruleset) -> Classified {
        let mut found = rules.classify(&self.said());
        if self.action == DsnAction::Delayed {
            found.action = Action::Retry;
        }
        found
    }
}

/// RFC 3464, section 2.3.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DsnAction {
    #[default]
    Failed,
    /// Still being tried.
    Delayed,
    Delivered,
    Relayed,
    Expanded,
}

/// A feedback report, RFC 5965.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Feedback {
    /// `abuse`, `fraud`, `not-spam`, `auth-failure`, …, lower case. Absent values count as `abuse` (section 3.2
    /// requires one; several senders leave it out).
    pub feedback_type: String,
    /// User-Agent of the report's generator.
    pub user_agent: Option<String>,
    /// Domain of the report's own From: who reports.
    pub reported_by: Option<String>,
    pub source_ip: Option<String>,
    pub reported_domain: Option<String>,
    pub arrived_at: Option<Timestamp>,
    /// Original-Rcpt-To, possibly redacted.
    pub original_recipients: Vec<String>,
    /// Original-Mail-From without brackets: our return path, and in it our token.
    pub original_mail_from: Option<String>,
    /// Fields of the returned message or header section, where they were not cut out.
    pub original: OriginalFields,
    /// What further messages say that came with it: a report is about one, and whoever forwards reports may put several
    /// into a mail.
    pub others: Vec<OriginalFields>,
}

/// What a returned message says of itself. Any of it may lead back to our message.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OriginalFields {
    /// Without brackets.
    pub message_id: Option<String>,
    /// Return-Path, without brackets.
    pub return_path: Option<String>,
    /// The URIs of List-Unsubscribe, without brackets.
    pub list_unsubscribe: Vec<String>,
    pub feedback_id: Option<String>,
    /// CFBL-Feedback-ID (RFC 9477, section 3.2), without white space, which means nothing in it.
    pub cfbl_feedback_id: Option<String>,
    /// X-HmXmrOriginalRecipient: who complained, in Microsoft's reports that are not in the form of RFC 5965.
    pub complained_by: Option<String>,
    /// Address in `From:`.
    pub from: Option<String>,
    /// Addresses in `To:`.
    pub to: Vec<String>,
}

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod dialects;
#[cfg(test)]
mod embedded;
#[cfg(test)]
mod loops;
#[cfg(test)]
mod tests;
