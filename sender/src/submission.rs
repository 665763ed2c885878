//! What a client handed over, checked and composed: ready to be made durable.

use std::collections::BTreeMap;

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use uuid::Uuid;

use crate::address::Address;
use crate::stream::Stream;

/// One submission: one body, one message per recipient.
#[derive(Clone, Debug)]
pub struct Submission {
    pub submission_id: Uuid,
    pub tenant_id: TenantId,
    pub stream: Stream,
    pub campaign_id: Option<String>,
    pub tags: BTreeMap<String, String>,
    /// Domain of the mailbox in `From:` (RFC 5322), in its ASCII form.
    pub header_from_domain: String,
    /// One message each. Never empty, no address twice.
    pub recipients: Vec<NewMessage>,
    pub accepted_at: Timestamp,
    /// Not attempted before this: `send_at`, or `accepted_at`.
    pub not_before: Timestamp,
    pub content: Content,
    /// SHA-256 of the subject, hex; null when there is none.
    pub subject_hash: Option<String>,
    pub content_fingerprint: Option<String>,
    pub idempotency: Option<Idempotency>,
}

/// What is tracked of a message. Off unless somebody asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tracking {
    /// A picture of one pixel tells when the mail is opened.
    pub opens: bool,
    /// Links lead through this installation.
    pub clicks: bool,
}

impl Tracking {
    pub fn is_on(self) -> bool {
        self.opens || self.clicks
    }
}

/// One recipient of a submission.
#[derive(Clone, Debug)]
pub struct NewMessage {
    pub message_id: Uuid,
    pub recipient: Address,
}

/// A composed message without what is made per recipient at delivery (Message-ID when the client gave none,
/// List-Unsubscribe, Feedback-ID, DKIM-Signature). Lines end in CRLF throughout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The header section: whole lines, without the empty line that ends it.
    pub headers: Vec<u8>,
    /// What follows the empty line. Ends in CRLF unless empty.
    pub body: Vec<u8>,
    /// The client's own Message-ID is among `headers`.
    pub has_message_id: bool,
    /// The client's own Feedback-ID is among `headers`.
    pub has_feedback_id: bool,
    /// The client's own List-Unsubscribe or List-Unsubscribe-Post is among `headers`.
    pub has_list_unsubscribe: bool,
    /// A header field holds non-ASCII text: only an SMTPUTF8 server (RFC 6531) may be given it.
    pub needs_smtputf8: bool,
    /// The body holds octets above 127: announced with `BODY=8BITMIME` (RFC 6152).
    pub needs_8bitmime: bool,
    /// What is tracked in the HTML parts of its messages.
    pub tracking: Tracking,
}

impl Content {
    pub fn size_bytes(&self) -> usize {
        self.headers.len() + 2 + self.body.len()
    }
}

/// A client's `Idempotency-Key`, hashed, with a hash of the request it came with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotency {
    pub key_hash: [u8; 32],
    pub request_hash: [u8; 32],
}

/// What became of a submission that was handed to the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Durable now.
    New,
    /// The same key came with the same request within 24 h; the answer given then.
    Repeat { submission_id: Uuid, message_ids: Vec<Uuid> },
    /// The same key came with another request: nothing was stored.
    KeyReused,
}
