//! The tables of the store, and one write transaction over all of them.

use std::collections::HashMap;

use redb::{ReadableTable, Table, TableDefinition, WriteTransaction};
use sendlake_control::clock::Timestamp;
use uuid::Uuid;

use super::SpoolError;
use super::entry::{SealedEvent, SealedWish};
use super::usage::usage_key;
use crate::policy::usage::Counted;

type Bytes = &'static [u8];

pub(super) const META: TableDefinition<&'static str, Bytes> = TableDefinition::new("meta");
/// Queue key → sealed entry.
pub(super) const QUEUE: TableDefinition<Bytes, Bytes> = TableDefinition::new("queue_v1");
/// Message id → sealed entry, for messages handed to a session.
pub(super) const IN_FLIGHT: TableDefinition<Bytes, Bytes> = TableDefinition::new("in_flight_v1");
/// Submission id → messages of it that have no outcome yet. A submission without a row has one.
pub(super) const REMAINING: TableDefinition<Bytes, u64> = TableDefinition::new("remaining_v1");
/// Submission id → sealed content.
pub(super) const CONTENT: TableDefinition<Bytes, Bytes> = TableDefinition::new("content_v1");
/// LSN → sealed event.
pub(super) const OUTBOX: TableDefinition<u64, Bytes> = TableDefinition::new("outbox_v1");
/// (tenant, key hash) → what was answered.
pub(super) const IDEMPOTENCY: TableDefinition<Bytes, Bytes> = TableDefinition::new("idempotency_v1");
/// (expiry, tenant, key hash) → nothing; for purging in order.
pub(super) const IDEMPOTENCY_EXPIRY: TableDefinition<Bytes, ()> =
    TableDefinition::new("idempotency_expiry_v1");
/// Key of held mail → sealed entry.
pub(super) const HELD: TableDefinition<Bytes, Bytes> = TableDefinition::new("held_v1");
/// (hour, tenant, stream, sending domain, provider) → first attempts. `usage_v1` counted by day and recipient
/// domain; nothing read it.
pub(super) const USAGE: TableDefinition<Bytes, u64> = TableDefinition::new("usage_v2");
/// Event id → sealed suppression that the event calls for, until it is in force.
pub(super) const WISHES: TableDefinition<Bytes, Bytes> = TableDefinition::new("wishes_v1");
/// Key of an event that is logged once → until when the key is remembered.
pub(super) const SEEN: TableDefinition<Bytes, u64> = TableDefinition::new("seen_v1");
/// (expiry, key) → nothing; for purging in order.
pub(super) const SEEN_EXPIRY: TableDefinition<Bytes, ()> = TableDefinition::new("seen_expiry_v1");

/// A message id, and the sealed entry under it.
pub(super) type Marked = (Vec<u8>, Vec<u8>);

const NEXT_LSN: &str = "next_lsn";

/// One write transaction: whatever is done through it becomes durable together, or not at all.
pub struct Tables<'txn> {
    meta: Table<'txn, &'static str, Bytes>,
    pub(super) queue: Table<'txn, Bytes, Bytes>,
    pub(super) in_flight: Table<'txn, Bytes, Bytes>,
    pub(super) held: Table<'txn, Bytes, Bytes>,
    remaining: Table<'txn, Bytes, u64>,
    content: Table<'txn, Bytes, Bytes>,
    outbox: Table<'txn, u64, Bytes>,
    pub(super) idempotency: Table<'txn, Bytes, Bytes>,
    pub(super) idempotency_expiry: Table<'txn, Bytes, ()>,
    pub(super) usage: Table<'txn, Bytes, u64>,
    pub(super) wishes: Table<'txn, Bytes, Bytes>,
    pub(super) seen: Table<'txn, Bytes, u64>,
    pub(super) seen_expiry: Table<'txn, Bytes, ()>,
    /// What this transaction adds to `usage`: many messages count under few keys.
    used: HashMap<Vec<u8>, i64>,
    next_lsn: u64,
    pub(super) has_new_wishes: bool,
}

impl<'txn> Tables<'txn> {
    pub(super) fn open(txn: &'txn WriteTransaction) -> Result<Self, SpoolError> {
        let meta = txn.open_table(META)?;
        let next_lsn = match meta.get(NEXT_LSN)? {
            Some(value) => <[u8; 8]>::try_from(value.value())
                .map(u64::from_be_bytes)
                .map_err(|_| SpoolError::Damaged("the log sequence number".into()))?,
            None => 1,
        };
        Ok(Self {
            meta,
            queue: txn.open_table(QUEUE)?,
            in_flight: txn.open_table(IN_FLIGHT)?,
            held: txn.open_table(HELD)?,
            remaining: txn.open_table(REMAINING)?,
            content: txn.open_table(CONTENT)?,
            outbox: txn.open_table(OUTBOX)?,
            idempotency: txn.open_table(IDEMPOTENCY)?,
            idempotency_expiry: txn.open_table(IDEMPOTENCY_EXPIRY)?,
            usage: txn.open_table(USAGE)?,
            wishes: txn.open_table(WISHES)?,
            seen: txn.open_table(SEEN)?,
            seen_expiry: txn.open_table(SEEN_EXPIRY)?,
            used: HashMap::new(),
            next_lsn,
            has_new_wishes: false,
        })
    }

    /// Writes what is kept in memory during the transaction. Returns the last LSN given out.
    pub(super) fn finish(mut self) -> Result<u64, SpoolError> {
        for (key, more) in &self.used {
            let count = self.usage.get(key.as_slice())?.map_or(0, |value| value.value());
            self.usage.insert(key.as_slice(), count.saturating_add_signed(*more))?;
        }
        self.meta.insert(NEXT_LSN, self.next_lsn.to_be_bytes().as_slice())?;
        Ok(self.next_lsn.saturating_sub(1))
    }

    pub(super) fn meta(&self, key: &'static str) -> Result<Option<Vec<u8>>, SpoolError> {
        Ok(self.meta.get(key)?.map(|value| value.value().to_vec()))
    }

    pub(super) fn set_meta(&mut self, key: &'static str, value: &[u8]) -> Result<(), SpoolError> {
        self.meta.insert(key, value)?;
        Ok(())
    }

    /// Appends a sealed event under the next log sequence number, and keeps the wish that it brings.
    pub(super) fn log(&mut self, event: &SealedEvent) -> Result<(), SpoolError> {
        self.outbox.insert(self.next_lsn, event.bytes.as_slice())?;
        self.next_lsn += 1;
        event.wish.as_ref().map_or(Ok(()), |wish| self.wish(wish))
    }

    pub(super) fn wish(&mut self, wish: &SealedWish) -> Result<(), SpoolError> {
        self.wishes.insert(wish.event_id.as_bytes().as_slice(), wish.bytes.as_slice())?;
        self.has_new_wishes = true;
        Ok(())
    }

    /// Drops up to `max` events at or below `through_lsn`, the oldest. Returns up to where there are none any more.
    pub(super) fn trim(&mut self, through_lsn: u64, max: u64) -> Result<u64, SpoolError> {
        let Some(first_lsn) = self.outbox.first()?.map(|(lsn, _)| lsn.value()) else {
            return Ok(through_lsn);
        };
        let end = first_lsn.saturating_add(max).saturating_sub(1).min(through_lsn);
        if first_lsn <= end {
            self.outbox.retain_in(first_lsn..=end, |_, _| false)?;
        }
        Ok(end.max(first_lsn.saturating_sub(1)).min(through_lsn))
    }

    /// Counts one first attempt more, or (-1) one less.
    pub(super) fn add_usage(&mut self, counted: &Counted, change: i64) {
        *self.used.entry(usage_key(counted)).or_default() += change;
    }

    /// A submission has come in with its content and this many messages.
    pub(super) fn admit(
        &mut self,
        submission_id: Uuid,
        content: &[u8],
        messages: u64,
    ) -> Result<(), SpoolError> {
        let id = submission_id.as_bytes().as_slice();
        self.content.insert(id, content)?;
        if messages > 1 {
            self.remaining.insert(id, messages)?;
        }
        Ok(())
    }

    /// One message of a submission is over; with the last one its content goes.
    pub(super) fn settle(&mut self, submission_id: Uuid) -> Result<(), SpoolError> {
        let id = submission_id.as_bytes().as_slice();
        let remaining = self.remaining.get(id)?.map(|value| value.value());
        match remaining {
            Some(remaining) if remaining > 1 => {
                self.remaining.insert(id, remaining - 1)?;
                return Ok(());
            }
            Some(_) => drop(self.remaining.remove(id)?),
            None => {}
        }
        self.content.remove(id)?;
        Ok(())
    }

    /// Forgets idempotency keys whose time is over, at most `max` of them.
    pub(super) fn purge_idempotency(&mut self, now: Timestamp, max: usize) -> Result<usize, SpoolError> {
        let end = now.0.max(0).cast_unsigned().to_be_bytes();
        let expired: Vec<Vec<u8>> = self
            .idempotency_expiry
            .range::<&[u8]>(..end.as_slice())?
            .take(max)
            .map(|row| row.map(|(key, _)| key.value().to_vec()))
            .collect::<Result<_, _>>()?;
        for key in &expired {
            self.idempotency_expiry.remove(key.as_slice())?;
            if let Some((_, key)) = key.split_at_checked(8) {
                self.idempotency.remove(key)?;
            }
        }
        Ok(expired.len())
    }

    /// Removes up to `max` in-flight marks, and returns them with their sealed entries.
    pub(super) fn take_in_flight(&mut self, max: usize) -> Result<Vec<Marked>, SpoolError> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some((id, entry)) = self.in_flight.pop_first()?
        {
            taken.push((id.value().to_vec(), entry.value().to_vec()));
        }
        Ok(taken)
    }
}
