//! Events that failed, each with those behind it in its message, by when they are tried again.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use sendlake_control::clock::Timestamp;
use sendlake_control::endpoint::progress::{Undelivered, UndeliveredState};
use uuid::Uuid;

use super::super::schedule::Schedule;
use super::Key;

#[derive(Default)]
pub(super) struct Parked {
    messages: HashMap<Key, Message>,
    /// Messages that are not in flight, by the time of their next attempt.
    due: BTreeSet<(Timestamp, Key)>,
    events: usize,
}

#[derive(Default)]
struct Message {
    events: VecDeque<Undelivered>,
    /// Where it stands in `due`; `None` while it is in flight.
    due_at: Option<Timestamp>,
}

impl Parked {
    /// As they were saved, in the order of the log.
    pub fn of(saved: Vec<Undelivered>) -> Self {
        let mut parked = Self::default();
        for event in saved {
            let key: Key = match &event.message_id {
                Some(message_id) => message_id.as_str().into(),
                None => event.event_id.to_string().into(),
            };
            let due_at = event.next_attempt_at.unwrap_or(Timestamp(i64::MIN));
            let is_first = !parked.has(&key);
            parked.add(&key, event);
            if is_first {
                parked.due_at(&key, due_at);
            }
        }
        parked
    }

    pub fn events(&self) -> usize {
        self.events
    }

    pub fn is_empty(&self) -> bool {
        self.events == 0
    }

    pub fn has(&self, key: &Key) -> bool {
        self.messages.contains_key(key)
    }

    pub fn holds(&self, key: &Key, lsn: u64) -> bool {
        self.messages.get(key).is_some_and(|message| message.events.iter().any(|event| event.lsn == lsn))
    }

    /// Whether the first event of some message was never tried.
    pub fn has_untried(&self) -> bool {
        self.messages.values().any(|message| message.events.front().is_some_and(|event| event.attempts == 0))
    }

    pub fn next_due(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Puts an event behind those of its message. Where it is the first, somebody says when it is due.
    pub fn add(&mut self, key: &Key, event: Undelivered) {
        self.messages.entry(key.clone()).or_default().events.push_back(event);
        self.events += 1;
    }

    pub fn due_now(&mut self, key: &Key, now: Timestamp) {
        if self.messages.get(key).is_some_and(|message| message.due_at.is_none()) {
            self.due_at(key, now);
        }
    }

    pub fn due_at(&mut self, key: &Key, at: Timestamp) {
        let Some(message) = self.messages.get_mut(key) else { return };
        if let Some(before) = message.due_at.replace(at) {
            self.due.remove(&(before, key.clone()));
        }
        self.due.insert((at, key.clone()));
    }

    /// Everything that is not in flight is due.
    pub fn all_due(&mut self, now: Timestamp, busy: &HashSet<Key>) {
        self.due.clear();
        for (key, message) in self.messages.iter_mut().filter(|(key, _)| !busy.contains(*key)) {
            message.due_at = Some(now);
            self.due.insert((now, key.clone()));
        }
    }

    /// The first event of the message that is due, if one is; it is in flight then.
    pub fn take_due(&mut self, now: Timestamp) -> Option<(Key, u64, Uuid)> {
        let key = self.due.first().filter(|(at, _)| *at <= now)?.1.clone();
        self.take(&key)
    }

    /// The first event of some message, of those that were tried least the oldest.
    pub fn take_least_tried(&mut self) -> Option<(Key, u64, Uuid)> {
        let heads = self.messages.iter().filter(|(_, message)| message.due_at.is_some());
        let heads = heads.filter_map(|(key, message)| Some((key, message.events.front()?)));
        let (key, _) = heads.min_by_key(|(_, event)| (event.attempts, event.lsn))?;
        self.take(&key.clone())
    }

    fn take(&mut self, key: &Key) -> Option<(Key, u64, Uuid)> {
        let message = self.messages.get_mut(key)?;
        if let Some(at) = message.due_at.take() {
            self.due.remove(&(at, key.clone()));
        }
        let first = message.events.front()?;
        Some((key.clone(), first.lsn, first.event_id))
    }

    /// The first event of a message is over; the next one is due.
    pub fn settle(&mut self, key: &Key, lsn: u64, now: Timestamp) {
        let Some(message) = self.messages.get_mut(key) else { return };
        if message.events.pop_front_if(|event| event.lsn == lsn).is_some() {
            self.events -= 1;
        }
        if message.events.is_empty() {
            if let Some(at) = message.due_at {
                self.due.remove(&(at, key.clone()));
            }
            self.messages.remove(key);
        } else {
            self.due_at(key, now);
        }
    }

    /// The first event of a message failed: when it is tried again, or that it is given up. Returns it as it is to be kept,
    /// and whether it was given up.
    pub fn failed(
        &mut self,
        key: &Key,
        lsn: u64,
        said: &str,
        now: Timestamp,
        dice: u64,
        schedule: &Schedule,
    ) -> (Option<Undelivered>, bool) {
        let Some(message) = self.messages.get_mut(key) else { return (None, false) };
        let Some(event) = message.events.front_mut().filter(|event| event.lsn == lsn) else {
            return (None, false);
        };
        event.attempts = event.attempts.saturating_add(1);
        event.last_error = Some(said.to_owned());
        let first = *event.first_attempt_at.get_or_insert(now);
        let next = now.plus_millis(schedule.retry_ms(event.attempts, dice));
        event.next_attempt_at = Some(next);
        if now.millis_since(first) < schedule.give_up_s * 1_000 {
            let kept = event.clone();
            self.due_at(key, next);
            return (Some(kept), false);
        }
        let given_up =
            Undelivered { state: UndeliveredState::Failed, next_attempt_at: None, ..event.clone() };
        self.settle(key, lsn, now);
        (Some(given_up), true)
    }
}
