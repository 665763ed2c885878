//! Accepting: one durable write for content, queue entries, idempotency key and events.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use redb::ReadableTable;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_ingest::event::{Event, EventType};
use uuid::Uuid;

use super::entry::{QueueEntry, SealedEvent, encode_content, encode_entry, encode_event};
use super::key::Lane;
use super::table::Tables;
use super::{Spool, SpoolError};
use crate::submission::{Accepted, Idempotency, Submission};

/// How long an idempotency key is remembered: 24 hours.
pub const IDEMPOTENCY_TTL_S: i64 = 24 * 3_600;

/// How a submission will leave, as known when it is accepted. For its `accepted` events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendingFacts {
    pub mail_from_domain: Option<String>,
    pub dkim_domain: Option<String>,
    pub dkim_selector: Option<String>,
    pub ip_pool: Option<String>,
    pub spf_aligned: Option<bool>,
    pub dkim_aligned: Option<bool>,
    /// Null when neither alignment is known.
    pub dmarc_expected: Option<bool>,
}

/// Why no new mail is taken now. What is queued still goes out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntakeRefused {
    #[error(
        "the spool's disk has {free_bytes} bytes free, below the floor of {floor_bytes}; free some space, or \
         lower spool.free_space_floor_bytes"
    )]
    FreeSpace { free_bytes: u64, floor_bytes: u64 },
    #[error(
        "{rows} events wait for the lake, the limit is {rows_max}; check that the lake's storage can be reached"
    )]
    OutboxFull { rows: u64, rows_max: u64 },
}

impl Spool {
    /// Whether new mail may be taken now.
    pub fn check_room(&self) -> Result<(), IntakeRefused> {
        if let Some((free_bytes, floor_bytes)) = self.free_space.shortage(self.ids.now()) {
            return Err(IntakeRefused::FreeSpace { free_bytes, floor_bytes });
        }
        // What lies in a file is not counted in the store too, where it stays until it is trimmed.
        let spill = self.reader.spill();
        let waiting = spill.waiting_rows();
        let left_lsn = self.outbox_trimmed.load(Ordering::Relaxed).max(spill.written_lsn());
        let rows = self.writer.last_lsn().borrow().saturating_sub(left_lsn).saturating_add(waiting);
        if rows > self.outbox_rows_max {
            return Err(IntakeRefused::OutboxFull { rows, rows_max: self.outbox_rows_max });
        }
        Ok(())
    }

    /// Takes responsibility for a submission. When this returns `Accepted::New`, it is durable.
    pub async fn accept(&self, submission: Submission, facts: &SendingFacts) -> Result<Accepted, SpoolError> {
        let prepared = self.prepare(&submission, facts)?;
        let lanes = Arc::clone(&self.lanes);
        let due = prepared.lanes.clone();
        let not_before = submission.not_before;
        self.writer
            .write(
                move |tables| prepared.store(tables),
                move |accepted| {
                    if *accepted == Accepted::New {
                        due.iter().for_each(|lane| lanes.touch(lane, not_before));
                    }
                },
            )
            .await
    }

    /// Logs events that change no queue entry (a refusal at submission, say).
    pub async fn log(&self, events: &[Event]) -> Result<(), SpoolError> {
        let sealed = events
            .iter()
            .map(|event| encode_event(self.sealer.as_ref(), event))
            .collect::<Result<Vec<_>, _>>()?;
        self.writer.write(move |tables| sealed.iter().try_for_each(|event| tables.log(event)), |()| ()).await
    }

    /// Forgets idempotency keys, and those of events logged once, past their time; and usage that no limit asks
    /// for any more. Returns how many keys went.
    pub async fn purge_idempotency(&self) -> Result<usize, SpoolError> {
        const PURGE_MAX: usize = 10_000;
        let now = self.ids.now();
        self.writer
            .write(
                move |tables| {
                    tables.purge_usage(now)?;
                    Ok(tables.purge_idempotency(now, PURGE_MAX)? + tables.purge_seen(now, PURGE_MAX)?)
                },
                |_| (),
            )
            .await
    }

    fn prepare(&self, submission: &Submission, facts: &SendingFacts) -> Result<Prepared, SpoolError> {
        let sealer = self.sealer.as_ref();
        let size_bytes = i64::try_from(submission.content.size_bytes()).unwrap_or(i64::MAX);
        let mut messages = Vec::with_capacity(submission.recipients.len());
        let mut lanes = BTreeSet::new();
        for new in &submission.recipients {
            let entry = QueueEntry {
                message_id: new.message_id,
                submission_id: submission.submission_id,
                tenant_id: submission.tenant_id.clone(),
                stream: submission.stream,
                recipient: new.recipient.clone(),
                header_from_domain: submission.header_from_domain.clone(),
                campaign_id: submission.campaign_id.clone(),
                content_fingerprint: submission.content_fingerprint.clone(),
                size_bytes,
                accepted_at: submission.accepted_at,
                not_before: submission.not_before,
                next_attempt_at: submission.not_before,
                attempts: 0,
                seq: 1,
                last_reply: None,
                counted: None,
                was_counted: false,
                held: None,
            };
            let lane = entry.lane();
            messages.push(PreparedMessage {
                key: lane.key(submission.not_before, new.message_id),
                entry: encode_entry(sealer, &entry)?,
                event: encode_event(sealer, &accepted_event(&self.ids, &entry, submission, facts))?,
            });
            lanes.insert(lane);
        }
        Ok(Prepared {
            tenant_id: submission.tenant_id.clone(),
            submission_id: submission.submission_id,
            message_ids: submission.recipients.iter().map(|new| new.message_id).collect(),
            content: encode_content(
                sealer,
                &submission.tenant_id,
                submission.submission_id,
                &submission.content,
            )?,
            idempotency: submission.idempotency,
            now: submission.accepted_at,
            messages,
            lanes,
        })
    }
}

fn accepted_event(
    ids: &sendlake_control::id::Ids,
    entry: &QueueEntry,
    submission: &Submission,
    facts: &SendingFacts,
) -> Event {
    let mut event = entry.event(ids, EventType::Accepted);
    event.occurred_at = submission.accepted_at;
    event.tags = submission.tags.clone();
    event.subject_hash = submission.subject_hash.clone();
    event.idempotency_key_hash =
        submission.idempotency.map(|key| data_encoding::HEXLOWER.encode(&key.key_hash));
    if submission.not_before > submission.accepted_at {
        event.next_attempt_at = Some(submission.not_before);
    }
    event.mail_from_domain = facts.mail_from_domain.clone();
    event.dkim_domain = facts.dkim_domain.clone();
    event.dkim_selector = facts.dkim_selector.clone();
    event.ip_pool = facts.ip_pool.clone();
    event.spf_aligned = facts.spf_aligned;
    event.dkim_aligned = facts.dkim_aligned;
    event.dmarc_expected = facts.dmarc_expected;
    event
}

/// A submission sealed and keyed, so that the writing thread only inserts.
struct Prepared {
    tenant_id: TenantId,
    submission_id: Uuid,
    message_ids: Vec<Uuid>,
    content: Vec<u8>,
    idempotency: Option<Idempotency>,
    now: Timestamp,
    messages: Vec<PreparedMessage>,
    lanes: BTreeSet<Lane>,
}

struct PreparedMessage {
    key: Vec<u8>,
    entry: Vec<u8>,
    event: SealedEvent,
}

impl Prepared {
    fn store(self, tables: &mut Tables<'_>) -> Result<Accepted, SpoolError> {
        if let Some(idempotency) = self.idempotency
            && let Some(repeat) = self.remember(tables, &idempotency)?
        {
            return Ok(repeat);
        }
        tables.admit(self.submission_id, &self.content, self.messages.len() as u64)?;
        for message in &self.messages {
            tables.queue.insert(message.key.as_slice(), message.entry.as_slice())?;
            tables.log(&message.event)?;
        }
        Ok(Accepted::New)
    }

    /// Stores the key with its answer, or returns what an earlier use of it means.
    fn remember(
        &self,
        tables: &mut Tables<'_>,
        idempotency: &Idempotency,
    ) -> Result<Option<Accepted>, SpoolError> {
        let mut key = self.tenant_id.as_str().as_bytes().to_vec();
        key.push(0);
        key.extend_from_slice(&idempotency.key_hash);
        let known = tables.idempotency.get(key.as_slice())?.map(|value| Remembered::parse(value.value()));
        match known {
            Some(None) => return Err(SpoolError::Damaged("an idempotency key's answer".into())),
            Some(Some(known)) if known.expires_at > self.now => {
                return Ok(Some(if known.request_hash == idempotency.request_hash {
                    Accepted::Repeat { submission_id: known.submission_id, message_ids: known.message_ids }
                } else {
                    Accepted::KeyReused
                }));
            }
            Some(Some(expired)) => {
                tables.idempotency_expiry.remove(expired.expiry_key(&key).as_slice())?;
            }
            None => {}
        }
        let remembered = Remembered {
            request_hash: idempotency.request_hash,
            expires_at: self.now.plus_secs(IDEMPOTENCY_TTL_S),
            submission_id: self.submission_id,
            message_ids: self.message_ids.clone(),
        };
        tables.idempotency.insert(key.as_slice(), remembered.bytes().as_slice())?;
        tables.idempotency_expiry.insert(remembered.expiry_key(&key).as_slice(), ())?;
        Ok(None)
    }
}

/// The answer given under an idempotency key.
struct Remembered {
    request_hash: [u8; 32],
    expires_at: Timestamp,
    submission_id: Uuid,
    message_ids: Vec<Uuid>,
}

impl Remembered {
    /// Sorts by expiry, so that purging is one range.
    fn expiry_key(&self, key: &[u8]) -> Vec<u8> {
        let mut expiry = self.expires_at.0.max(0).cast_unsigned().to_be_bytes().to_vec();
        expiry.extend_from_slice(key);
        expiry
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.request_hash.to_vec();
        bytes.extend_from_slice(&self.expires_at.0.to_be_bytes());
        bytes.extend_from_slice(self.submission_id.as_bytes());
        self.message_ids.iter().for_each(|id| bytes.extend_from_slice(id.as_bytes()));
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (request_hash, rest) = bytes.split_first_chunk::<32>()?;
        let (expires_at, rest) = rest.split_first_chunk::<8>()?;
        let (submission_id, ids) = rest.split_first_chunk::<16>()?;
        Some(Self {
            request_hash: *request_hash,
            expires_at: Timestamp(i64::from_be_bytes(*expires_at)),
            submission_id: Uuid::from_bytes(*submission_id),
            message_ids: ids.chunks_exact(16).filter_map(|id| Uuid::from_slice(id).ok()).collect(),
        })
    }
}
