//! What changes the queue after acceptance: dispatch, outcomes, and operators.

use std::sync::Arc;

use redb::ReadableTable;
use sendlake_control::clock::Timestamp;
use sendlake_ingest::event::{Event, EventType};
use uuid::Uuid;

use super::entry::{QueueEntry, decode_entry, encode_entry, encode_event};
use super::key::QueueKey;
use super::read::Due;
use super::{Spool, SpoolError};

/// What becomes of a message after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Delivered, bounced, expired or cancelled: it leaves the queue.
    Terminal,
    /// Another attempt at this time.
    Retry(Timestamp),
}

impl Spool {
    /// Marks messages as in flight and counts their attempts, in one durable write. Only after it may a
    /// session offer them to a receiver. Returns those that were still where they were found.
    pub async fn dispatch(&self, due: Vec<Due>) -> Result<Vec<QueueEntry>, SpoolError> {
        let day = self.ids.now().days();
        self.writer
            .write(
                move |tables| {
                    let mut taken = Vec::with_capacity(due.len());
                    for message in due {
                        if tables.queue.remove(message.key.as_slice())?.is_none() {
                            continue; // an operator was faster
                        }
                        let id = message.entry.message_id;
                        tables.in_flight.insert(id.as_bytes().as_slice(), message.sealed.as_slice())?;
                        tables.add_usage(usage_key(&message.entry, day));
                        taken.push(message.entry);
                    }
                    Ok(taken)
                },
                |_| (),
            )
            .await
    }

    /// Records an attempt's outcome: the queue changes and the events are logged together. `entry` is the
    /// message as it is to be stored (its `seq` counts the given events already).
    ///
    /// The change is queued at once; await the future only to know when it is durable.
    pub fn complete(
        &self,
        mut entry: QueueEntry,
        outcome: Outcome,
        events: &[Event],
    ) -> Result<impl Future<Output = Result<(), SpoolError>> + Send + use<>, SpoolError> {
        let sealer = self.sealer.as_ref();
        let back = match outcome {
            Outcome::Terminal => None,
            Outcome::Retry(at) => {
                entry.next_attempt_at = at;
                Some((entry.lane(), at, encode_entry(sealer, &entry)?))
            }
        };
        let touched = back.as_ref().map(|(lane, at, _)| (lane.clone(), *at));
        let sealed_events =
            events.iter().map(|event| encode_event(sealer, event)).collect::<Result<Vec<_>, _>>()?;
        let lanes = Arc::clone(&self.lanes);
        Ok(self.writer.write(
            move |tables| {
                let id = entry.message_id;
                if tables.in_flight.remove(id.as_bytes().as_slice())?.is_none() {
                    return Err(SpoolError::Damaged(format!(
                        "message {id} has an outcome but was not in flight"
                    )));
                }
                match &back {
                    None => tables.settle(entry.submission_id)?,
                    Some((lane, at, sealed)) => {
                        tables.queue.insert(lane.key(*at, id).as_slice(), sealed.as_slice())?;
                    }
                }
                sealed_events.iter().try_for_each(|event| tables.log(event))
            },
            move |()| {
                if let Some((lane, at)) = &touched {
                    lanes.touch(lane, *at);
                }
            },
        ))
    }

    /// Puts messages back that were in flight but never offered to a receiver. No event: nothing happened.
    pub async fn release(&self, entries: Vec<QueueEntry>, at: Timestamp) -> Result<(), SpoolError> {
        let mut changes = Vec::with_capacity(entries.len());
        for mut entry in entries {
            entry.next_attempt_at = at;
            changes.push((entry.message_id, entry.lane(), encode_entry(self.sealer.as_ref(), &entry)?));
        }
        let lanes = Arc::clone(&self.lanes);
        self.writer
            .write(
                move |tables| {
                    for (id, lane, sealed) in &changes {
                        tables.in_flight.remove(id.as_bytes().as_slice())?;
                        tables.queue.insert(lane.key(at, *id).as_slice(), sealed.as_slice())?;
                    }
                    Ok(changes)
                },
                move |changes| changes.iter().for_each(|(_, lane, _)| lanes.touch(lane, at)),
            )
            .await
            .map(drop)
    }

    /// An operator's wish: attempt these messages now. Those in flight are left alone. Returns how many moved.
    pub async fn retry_now(
        &self,
        wanted: impl Fn(&QueueKey) -> bool + Send + 'static,
        max: usize,
    ) -> Result<usize, SpoolError> {
        let now = self.ids.now();
        let sealer = Arc::clone(&self.sealer);
        let lanes = Arc::clone(&self.lanes);
        self.writer
            .write(
                move |tables| {
                    let found = find(&tables.queue, &wanted, max)?;
                    for (key, parsed) in &found {
                        let Some(sealed) = tables.queue.remove(key.as_slice())?.map(|v| v.value().to_vec())
                        else {
                            continue;
                        };
                        let mut entry = decode_entry(sealer.as_ref(), &sealed)?;
                        entry.next_attempt_at = now;
                        let key = parsed.lane.key(now, parsed.message_id);
                        let sealed = encode_entry(sealer.as_ref(), &entry)?;
                        tables.queue.insert(key.as_slice(), sealed.as_slice())?;
                    }
                    Ok(found)
                },
                move |found| found.iter().for_each(|(_, key)| lanes.touch(&key.lane, now)),
            )
            .await
            .map(|found| found.len())
    }

    /// An operator's wish: give these messages up. Each gets a `bounced` event that names the operator's
    /// reason. Those in flight are left alone. Returns how many were given up.
    pub async fn bounce(
        &self,
        wanted: impl Fn(&QueueKey) -> bool + Send + 'static,
        max: usize,
        reason: &str,
    ) -> Result<usize, SpoolError> {
        let sealer = Arc::clone(&self.sealer);
        let ids = self.ids.clone();
        let detail = serde_json::json!({ "operator_reason": reason }).to_string();
        self.writer
            .write(
                move |tables| {
                    let found = find(&tables.queue, &wanted, max)?;
                    for (key, _) in &found {
                        let Some(sealed) = tables.queue.remove(key.as_slice())?.map(|v| v.value().to_vec())
                        else {
                            continue;
                        };
                        let mut entry = decode_entry(sealer.as_ref(), &sealed)?;
                        entry.seq += 1;
                        let mut event = entry.event(&ids, EventType::Bounced);
                        event.bounce_rule = Some("operator".into());
                        event.detail = Some(detail.clone());
                        tables.log(&encode_event(sealer.as_ref(), &event)?)?;
                        tables.settle(entry.submission_id)?;
                    }
                    Ok(found.len())
                },
                |_| (),
            )
            .await
    }
}

fn find(
    queue: &impl ReadableTable<&'static [u8], &'static [u8]>,
    wanted: &impl Fn(&QueueKey) -> bool,
    max: usize,
) -> Result<Vec<(Vec<u8>, QueueKey)>, SpoolError> {
    let mut found = Vec::new();
    for row in queue.iter()? {
        let (key, _) = row?;
        let key = key.value();
        let parsed = QueueKey::parse(key).ok_or_else(|| SpoolError::Damaged("a queue key".into()))?;
        if wanted(&parsed) {
            found.push((key.to_vec(), parsed));
            if found.len() == max {
                break;
            }
        }
    }
    Ok(found)
}

/// `tenant NUL stream NUL domain NUL day`: what the counters of started attempts are kept by.
fn usage_key(entry: &QueueEntry, day: i32) -> Vec<u8> {
    let mut key = Vec::new();
    for part in [entry.tenant_id.as_str(), entry.stream.as_str(), entry.recipient.domain()] {
        key.extend_from_slice(part.as_bytes());
        key.push(0);
    }
    key.extend_from_slice(&day.to_be_bytes());
    key
}

/// A message id as operators write it.
pub fn parse_message_id(text: &str) -> Result<Uuid, String> {
    Uuid::parse_str(text).map_err(|_| {
        format!("{text:?} is not a message id; ids look like 0197a3c2-…, see `sendlake queue ls` or the 202 answer")
    })
}
