//! What the spool stores, and its bytes: a format version, the tenant in clear, the rest sealed for it.

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_ingest::event::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SpoolError;
use super::key::Lane;
use crate::address::Address;
use crate::policy::usage::Counted;
use crate::stream::Stream;
use crate::submission::{Content, Tracking};
use crate::suppression::{Wish, wish_of};

/// One message waiting for its next attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueEntry {
    pub message_id: Uuid,
    pub submission_id: Uuid,
    pub tenant_id: TenantId,
    pub stream: Stream,
    pub recipient: Address,
    pub header_from_domain: String,
    pub campaign_id: Option<String>,
    pub content_fingerprint: Option<String>,
    pub size_bytes: i64,
    pub accepted_at: Timestamp,
    /// Not attempted before this at first; the lifetime runs from here.
    pub not_before: Timestamp,
    pub next_attempt_at: Timestamp,
    /// Attempts made so far, those in doubt included.
    pub attempts: i32,
    /// `seq` of this message's latest event.
    pub seq: i64,
    /// What the receiver said last, for people who look at the queue.
    pub last_reply: Option<String>,
    /// Its first attempt was counted here, and has not been made yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted: Option<Counted>,
    /// An attempt of it was counted and made: limits have no more to say about it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub was_counted: bool,
    /// Why it waits, or waited until it was put back in the queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
}

/// What a message was told when it was held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// A word of [`HoldKind`](crate::policy::HoldKind).
    pub kind: String,
    /// In words, with numbers.
    pub reason: String,
    pub since: Timestamp,
    pub quota_version: Option<u64>,
}

impl QueueEntry {
    pub fn lane(&self) -> Lane {
        Lane {
            recipient_domain: self.recipient.domain().to_owned(),
            stream: self.stream,
            tenant_id: self.tenant_id.clone(),
        }
    }
}

/// Encrypts and authenticates values, per tenant. `aad` binds a value to its place.
pub trait Sealer: Send + Sync {
    fn seal(&self, tenant: &TenantId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, String>;
    fn open(&self, tenant: &TenantId, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, String>;
}

const FORMAT: u8 = 1;

/// `FORMAT, tenant length, tenant, sealed`.
fn wrap(sealer: &dyn Sealer, tenant: &TenantId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>, SpoolError> {
    let sealed = sealer.seal(tenant, aad, plain).map_err(SpoolError::Seal)?;
    let name = tenant.as_str().as_bytes();
    let mut bytes = Vec::with_capacity(2 + name.len() + sealed.len());
    bytes.push(FORMAT);
    bytes.push(u8::try_from(name.len()).unwrap_or(u8::MAX)); // a tenant's name is at most 63 octets
    bytes.extend_from_slice(name);
    bytes.extend_from_slice(&sealed);
    Ok(bytes)
}

fn unwrap(sealer: &dyn Sealer, aad: &[u8], bytes: &[u8]) -> Result<(TenantId, Vec<u8>), SpoolError> {
    let damaged = |what: &str| SpoolError::Damaged(what.to_owned());
    let [format, len, rest @ ..] = bytes else { return Err(damaged("a value is empty")) };
    if *format != FORMAT {
        return Err(SpoolError::Format(*format));
    }
    let (name, sealed) =
        rest.split_at_checked(usize::from(*len)).ok_or_else(|| damaged("a value is cut short"))?;
    let tenant = std::str::from_utf8(name)
        .ok()
        .and_then(|name| TenantId::new(name).ok())
        .ok_or_else(|| damaged("a value names no tenant"))?;
    let plain = sealer.open(&tenant, aad, sealed).map_err(SpoolError::Seal)?;
    Ok((tenant, plain))
}

pub(super) fn encode_entry(sealer: &dyn Sealer, entry: &QueueEntry) -> Result<Vec<u8>, SpoolError> {
    let json = serde_json::to_vec(entry).map_err(|e| SpoolError::Damaged(e.to_string()))?;
    wrap(sealer, &entry.tenant_id, b"queue", &json)
}

pub(super) fn decode_entry(sealer: &dyn Sealer, bytes: &[u8]) -> Result<QueueEntry, SpoolError> {
    let (_, json) = unwrap(sealer, b"queue", bytes)?;
    serde_json::from_slice(&json).map_err(|e| SpoolError::Damaged(format!("a queue entry: {e}")))
}

/// An event ready to be logged, with the suppression that it calls for: both or neither are stored.
pub(super) struct SealedEvent {
    pub(super) bytes: Vec<u8>,
    pub(super) wish: Option<SealedWish>,
}

/// A wish under the id of its event.
pub(super) struct SealedWish {
    pub(super) event_id: Uuid,
    pub(super) bytes: Vec<u8>,
}

pub(super) fn encode_event(sealer: &dyn Sealer, event: &Event) -> Result<SealedEvent, SpoolError> {
    let json = serde_json::to_vec(event).map_err(|e| SpoolError::Damaged(e.to_string()))?;
    Ok(SealedEvent {
        bytes: wrap(sealer, &event.tenant_id, b"event", &json)?,
        wish: wish_of(event).map(|wish| encode_wish(sealer, &wish)).transpose()?,
    })
}

pub(super) fn encode_wish(sealer: &dyn Sealer, wish: &Wish) -> Result<SealedWish, SpoolError> {
    let json = serde_json::to_vec(wish).map_err(|e| SpoolError::Damaged(e.to_string()))?;
    Ok(SealedWish { event_id: wish.event_id, bytes: wrap(sealer, &wish.tenant_id, b"wish", &json)? })
}

pub(super) fn decode_wish(sealer: &dyn Sealer, bytes: &[u8]) -> Result<Wish, SpoolError> {
    let (_, json) = unwrap(sealer, b"wish", bytes)?;
    serde_json::from_slice(&json).map_err(|e| SpoolError::Damaged(format!("a wish: {e}")))
}

pub(super) fn decode_event(sealer: &dyn Sealer, bytes: &[u8]) -> Result<Event, SpoolError> {
    let (_, json) = unwrap(sealer, b"event", bytes)?;
    serde_json::from_slice(&json).map_err(|e| SpoolError::Damaged(format!("an event: {e}")))
}

const HAS_MESSAGE_ID: u8 = 1;
const HAS_LIST_UNSUBSCRIBE: u8 = 2;
const NEEDS_SMTPUTF8: u8 = 4;
const NEEDS_8BITMIME: u8 = 8;
const HAS_FEEDBACK_ID: u8 = 16;
const TRACKS_OPENS: u8 = 32;
const TRACKS_CLICKS: u8 = 64;

pub(super) fn encode_content(
    sealer: &dyn Sealer,
    tenant: &TenantId,
    submission_id: Uuid,
    content: &Content,
) -> Result<Vec<u8>, SpoolError> {
    let mut flags = 0;
    for (set, flag) in [
        (content.has_message_id, HAS_MESSAGE_ID),
        (content.has_list_unsubscribe, HAS_LIST_UNSUBSCRIBE),
        (content.has_feedback_id, HAS_FEEDBACK_ID),
        (content.needs_smtputf8, NEEDS_SMTPUTF8),
        (content.needs_8bitmime, NEEDS_8BITMIME),
        (content.tracking.opens, TRACKS_OPENS),
        (content.tracking.clicks, TRACKS_CLICKS),
    ] {
        flags |= if set { flag } else { 0 };
    }
    let header_bytes = u32::try_from(content.headers.len())
        .map_err(|_| SpoolError::Damaged("a header section of 4 GiB".into()))?;
    let mut plain = Vec::with_capacity(5 + content.headers.len() + content.body.len());
    plain.push(flags);
    plain.extend_from_slice(&header_bytes.to_be_bytes());
    plain.extend_from_slice(&content.headers);
    plain.extend_from_slice(&content.body);
    wrap(sealer, tenant, submission_id.as_bytes(), &plain)
}

pub(super) fn decode_content(
    sealer: &dyn Sealer,
    submission_id: Uuid,
    bytes: &[u8],
) -> Result<Content, SpoolError> {
    let (_, plain) = unwrap(sealer, submission_id.as_bytes(), bytes)?;
    let short = || SpoolError::Damaged(format!("the content of submission {submission_id} is cut short"));
    let (flags, rest) = plain.split_first().ok_or_else(short)?;
    let (header_bytes, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
    let (headers, body) =
        rest.split_at_checked(u32::from_be_bytes(*header_bytes) as usize).ok_or_else(short)?;
    Ok(Content {
        headers: headers.to_vec(),
        body: body.to_vec(),
        has_message_id: flags & HAS_MESSAGE_ID != 0,
        has_feedback_id: flags & HAS_FEEDBACK_ID != 0,
        has_list_unsubscribe: flags & HAS_LIST_UNSUBSCRIBE != 0,
        needs_smtputf8: flags & NEEDS_SMTPUTF8 != 0,
        needs_8bitmime: flags & NEEDS_8BITMIME != 0,
        tracking: Tracking { opens: flags & TRACKS_OPENS != 0, clicks: flags & TRACKS_CLICKS != 0 },
    })
}
