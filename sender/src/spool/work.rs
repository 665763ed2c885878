//! What changes the queue after acceptance: dispatch, outcomes, and operators.

use std::sync::Arc;

use redb::ReadableTable;
use sendlake_control::clock::Timestamp;
use sendlake_ingest::event::{Event, EventType};
use uuid::Uuid;

use super::entry::{QueueEntry, SealedEvent, decode_entry, encode_entry, encode_event};
use super::held::{HeldLane, parse_held};
use super::key::{Lane, QueueKey};
use super::read::{Due, Place};
use super::table::Tables;
use super::{Spool, SpoolError};
use crate::policy::usage::Counted;

/// What becomes of a message after an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Delivered, bounced, expired or cancelled: it leaves the queue.
    Terminal,
    /// Another attempt at this time.
    Retry(Timestamp),
}

impl Spool {
    /// Carries out what was decided over messages that are due or held, in one durable write: in-flight marks and
    /// counts, holds, releases, ends, each with its event. Only after it may a session offer to a receiver what
    /// is to be sent. Those that are no longer where they were found are left out.
    pub async fn dispatch(&self, decided: Vec<Decided>) -> Result<Dispatched, SpoolError> {
        let sealer = self.sealer.as_ref();
        let changes =
            decided.into_iter().map(|one| Change::seal(sealer, one)).collect::<Result<Vec<_>, _>>()?;
        let lanes = Arc::clone(&self.lanes);
        let held = Arc::clone(&self.held);
        self.writer
            .write(
                move |tables| {
                    let mut done = Dispatched::default();
                    for change in changes {
                        change.make(tables, &mut done)?;
                    }
                    Ok(done)
                },
                move |done| {
                    done.queued.iter().for_each(|(lane, at)| lanes.touch(lane, *at));
                    done.held.iter().for_each(|(lane, at)| held.look(lane.clone(), *at));
                },
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
        // counted, and over without an attempt
        let counted = entry.counted.take();
        entry.was_counted |= counted.is_some();
        let uncount = counted.filter(|_| entry.attempts == 0 && outcome == Outcome::Terminal);
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
                if let Some(counted) = &uncount {
                    tables.add_usage(counted, -1);
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

    /// Puts messages back that were in flight but never offered to a receiver. No event: nothing happened. They
    /// stay counted, and remember where.
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

    /// An operator's wish: attempt these messages now. Those in flight are left alone; for those held limits are
    /// asked again. Returns how many moved.
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
                    let found = find(tables, &wanted, max)?;
                    for (place, key, parsed) in &found {
                        let Some(sealed) = tables.take(*place, key)? else { continue };
                        let mut entry = decode_entry(sealer.as_ref(), &sealed)?;
                        entry.next_attempt_at = now;
                        let key = parsed.lane.key(now, parsed.message_id);
                        let sealed = encode_entry(sealer.as_ref(), &entry)?;
                        tables.queue.insert(key.as_slice(), sealed.as_slice())?;
                    }
                    Ok(found)
                },
                move |found| found.iter().for_each(|(_, _, key)| lanes.touch(&key.lane, now)),
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
                    let found = find(tables, &wanted, max)?;
                    for (place, key, _) in &found {
                        let Some(sealed) = tables.take(*place, key)? else { continue };
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

/// What was decided over one message.
pub struct Decided {
    /// Its entry is the one to be stored: `seq` counts `event` already.
    pub due: Due,
    pub fate: Fate,
    /// Its first attempt is counted here from now on.
    pub count: Option<Counted>,
    /// It was counted here before, and is no longer.
    pub uncount: Option<Counted>,
    pub event: Option<Event>,
}

/// What becomes of a message without an attempt.
pub enum Fate {
    /// A session gets it.
    Send,
    /// It goes back to the queue, at its entry's `next_attempt_at`.
    Queue,
    /// It waits, and is looked at again at this time.
    Hold(HeldLane, Timestamp),
    /// It is over.
    End,
}

/// What became of a batch.
#[derive(Default)]
pub struct Dispatched {
    /// To be sent, in the order given.
    pub marked: Vec<QueueEntry>,
    /// Counts that did not take place: their messages were gone.
    pub missed: Vec<Counted>,
    queued: Vec<(Lane, Timestamp)>,
    held: Vec<(HeldLane, Timestamp)>,
}

/// A decision with everything sealed, so that the writing thread only inserts.
struct Change {
    decided: Decided,
    sealed: Vec<u8>,
    event: Option<SealedEvent>,
}

impl Change {
    fn seal(sealer: &dyn super::Sealer, mut decided: Decided) -> Result<Self, SpoolError> {
        let event = decided.event.as_ref().map(|event| encode_event(sealer, event)).transpose()?;
        // what only goes to a session is kept as it lies
        let as_it_is = matches!(decided.fate, Fate::Send) && event.is_none();
        let sealed = if as_it_is || matches!(decided.fate, Fate::End) {
            std::mem::take(&mut decided.due.sealed)
        } else {
            encode_entry(sealer, &decided.due.entry)?
        };
        Ok(Self { decided, sealed, event })
    }

    fn make(self, tables: &mut Tables<'_>, done: &mut Dispatched) -> Result<(), SpoolError> {
        let Decided { due, fate, count, uncount, .. } = self.decided;
        let Due { place, key, entry, .. } = due;
        if tables.take(place, &key)?.is_none() {
            done.missed.extend(count); // an operator was faster
            return Ok(());
        }
        if let Some(counted) = &count {
            tables.add_usage(counted, 1);
        }
        if let Some(counted) = &uncount {
            tables.add_usage(counted, -1);
        }
        if let Some(event) = &self.event {
            tables.log(event)?;
        }
        match fate {
            Fate::Send => {
                let id = entry.message_id;
                tables.in_flight.insert(id.as_bytes().as_slice(), self.sealed.as_slice())?;
                done.marked.push(entry);
            }
            Fate::Queue => {
                let (lane, at) = (entry.lane(), entry.next_attempt_at);
                tables.queue.insert(lane.key(at, entry.message_id).as_slice(), self.sealed.as_slice())?;
                if done.queued.last().is_none_or(|(last, _)| *last != lane) {
                    done.queued.push((lane, at));
                }
            }
            Fate::Hold(lane, at) => {
                tables.held.insert(lane.key(&entry).as_slice(), self.sealed.as_slice())?;
                if done.held.last().is_none_or(|(last, _)| *last != lane) {
                    done.held.push((lane, at));
                }
            }
            Fate::End => tables.settle(entry.submission_id)?,
        }
        Ok(())
    }
}

impl Tables<'_> {
    pub(super) fn take(&mut self, place: Place, key: &[u8]) -> Result<Option<Vec<u8>>, SpoolError> {
        let table = match place {
            Place::Queue => &mut self.queue,
            Place::Held => &mut self.held,
        };
        Ok(table.remove(key)?.map(|sealed| sealed.value().to_vec()))
    }
}

type Found = Vec<(Place, Vec<u8>, QueueKey)>;

/// Messages that wait, in the queue and held.
fn find(tables: &Tables<'_>, wanted: &impl Fn(&QueueKey) -> bool, max: usize) -> Result<Found, SpoolError> {
    let mut found = Found::new();
    for place in [Place::Queue, Place::Held] {
        let table = match place {
            Place::Queue => &tables.queue,
            Place::Held => &tables.held,
        };
        for row in table.iter()? {
            if found.len() == max {
                return Ok(found);
            }
            let (key, _) = row?;
            let key = key.value();
            let parsed = match place {
                Place::Queue => {
                    QueueKey::parse(key).ok_or_else(|| SpoolError::Damaged("a queue key".into()))?
                }
                Place::Held => parse_held(key)?.queue_key,
            };
            if wanted(&parsed) {
                found.push((place, key.to_vec(), parsed));
            }
        }
    }
    Ok(found)
}

/// A message id as operators write it.
pub fn parse_message_id(text: &str) -> Result<Uuid, String> {
    Uuid::parse_str(text).map_err(|_| {
        format!("{text:?} is not a message id; ids look like 0197a3c2-…, see `sendlake queue ls` or the 202 answer")
    })
}
