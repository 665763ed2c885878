//! What comes back by mail, read into plain facts: delivery status notifications (RFC 3464, and the many that
//! are not), feedback reports (RFC 5965), automatic replies. No attribution here: who was written to is the
//! reports' own claim.

use sendlake_control::clock::Timestamp;

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

/// What became of one recipient, RFC 3464, section 2.3.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecipientStatus {
    pub action: DsnAction,
    /// Final-Recipient, else Original-Recipient, else what the text names. An address, or what stands in its place.
    pub recipient: Option<String>,
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
    /// Address in `From:`.
    pub from: Option<String>,
    /// Addresses in `To:`.
    pub to: Vec<String>,
}
