//! One endpoint's way through one log, without I/O: what is sent next, what waits behind it, what is parked, whether the
//! circuit is open, and up to where all is settled.
//!
//! Events of one message leave one at a time, in the order of the log. One that fails is parked with all that follow it in
//! its message; others go on. Parked events are kept by id, durably; what was merely read is not kept at all: after a
//! restart it is read again from the cursor.

mod circuit;
mod parked;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use sendlake_control::endpoint::progress::{EndpointPosition, Progress, Undelivered, UndeliveredState};
use sendlake_ingest::event::LoggedEvent;
use uuid::Uuid;

use self::circuit::Circuit;
use self::parked::Parked;
use super::schedule::{RETRY_AFTER_MAX_S, Schedule};

/// What bounds one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct LaneLimits {
    /// Requests at once.
    pub in_flight_max: usize,
    /// Events that are read ahead.
    pub waiting_max: usize,
    /// Events that are kept to be tried again; at this many, nothing further is read.
    pub parked_max: usize,
}

impl Default for LaneLimits {
    fn default() -> Self {
        Self { in_flight_max: 16, waiting_max: 256, parked_max: 10_000 }
    }
}

/// What is to be sent now.
#[derive(Clone, Debug)]
pub enum Start {
    Event(Arc<LoggedEvent>),
    /// A parked one, to be read from the log first.
    Parked {
        lsn: u64,
        event_id: Uuid,
    },
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    Failed {
        said: String,
        retry_after_s: Option<i64>,
    },
    /// The endpoint says that it wants nothing any more (410).
    Gone {
        said: String,
    },
    /// The log does not have this event any more: it was erased, or is past retention.
    Erased,
    /// The log could not be read: nobody's attempt.
    Unread,
}

/// What follows for the endpoint as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    GoOn,
    Disable { reason: String },
}

/// Events with the same key are of one message, and leave in order.
type Key = Arc<str>;

struct Flight {
    key: Key,
    /// `None` for one that is parked.
    event: Option<Arc<LoggedEvent>>,
}

/// One endpoint's state.
pub struct Lane {
    endpoint_id: String,
    incarnation: Uuid,
    limits: LaneLimits,
    schedule: Schedule,
    /// Everything up to here was offered.
    read_lsn: u64,
    read_at: Option<Timestamp>,
    waiting: VecDeque<Arc<LoggedEvent>>,
    /// Read, and of a message that is in flight.
    behind: HashMap<Key, VecDeque<Arc<LoggedEvent>>>,
    behind_events: usize,
    in_flight: BTreeMap<u64, Flight>,
    busy: HashSet<Key>,
    /// Above the cursor, and over.
    settled: BTreeSet<u64>,
    parked: Parked,
    circuit: Circuit,
    /// The endpoint asked to be left alone until then.
    hold_until: Timestamp,
    position: EndpointPosition,
    changes: BTreeMap<u64, Option<Undelivered>>,
    is_changed: bool,
}

impl Lane {
    /// Goes on at a saved position, with what was parked there.
    pub fn new(
        endpoint_id: &str,
        incarnation: Uuid,
        position: EndpointPosition,
        parked: Vec<Undelivered>,
        limits: LaneLimits,
        schedule: Schedule,
    ) -> Self {
        let circuit = Circuit::of(&position, &schedule);
        Self {
            endpoint_id: endpoint_id.to_owned(),
            incarnation,
            limits,
            schedule,
            read_lsn: position.cursor_lsn.cast_unsigned(),
            read_at: position.through_at.map(Timestamp),
            waiting: VecDeque::new(),
            behind: HashMap::new(),
            behind_events: 0,
            in_flight: BTreeMap::new(),
            busy: HashSet::new(),
            settled: BTreeSet::new(),
            parked: Parked::of(parked),
            circuit,
            hold_until: Timestamp(i64::MIN),
            position: EndpointPosition { incarnation: incarnation.to_string(), ..position },
            changes: BTreeMap::new(),
            is_changed: true,
        }
    }

    /// Where the next events are read from; `None` when none are wanted now.
    pub fn reads_after(&self, now: Timestamp) -> Option<u64> {
        if now < self.hold_until {
            return None;
        }
        let has_room = self.parked.events() < self.limits.parked_max;
        let wanted = match self.circuit.is_open() {
            false => self.waiting.len() + self.behind_events < self.limits.waiting_max,
            // one event that was never tried, so that an open circuit does not hang on one that nobody would take
            true => self.in_flight.is_empty() && !self.parked.has_untried(),
        };
        (has_room && wanted).then_some(self.read_lsn)
    }

    /// Takes wanted events above [`Lane::reads_after`], in order, and takes note that all up to `through_lsn` was looked at.
    /// `skipped` numbers were no longer in the lake's memory. `at` is when the last of them was recorded.
    pub fn offer(
        &mut self,
        events: Vec<Arc<LoggedEvent>>,
        through_lsn: u64,
        at: Option<Timestamp>,
        skipped: u64,
    ) {
        self.read_at = at.or(self.read_at);
        self.position.skipped = self.position.skipped.saturating_add(skipped.cast_signed());
        self.is_changed |= skipped > 0;
        for event in events {
            let lsn = event.lsn;
            let key = key_of(&event);
            if lsn <= self.read_lsn
                || self.settled.contains(&lsn)
                || self.in_flight.contains_key(&lsn)
                || self.parked.holds(&key, lsn)
            {
                continue;
            }
            if self.circuit.is_open() {
                // the others are read again when somebody takes them
                self.read_lsn = lsn;
                self.park(&key, &event);
                self.parked.due_now(&key, Timestamp(i64::MIN));
                return;
            }
            self.waiting.push_back(event);
        }
        self.read_lsn = self.read_lsn.max(through_lsn);
    }

    /// What can be sent now. Each must be answered by [`Lane::ended`].
    pub fn start(&mut self, now: Timestamp) -> Vec<Start> {
        let mut started = Vec::new();
        if now < self.hold_until {
            return started;
        }
        if let Some(probe_at) = self.circuit.probe_at() {
            if now >= probe_at
                && self.in_flight.is_empty()
                && let Some((key, lsn, event_id)) = self.parked.take_least_tried()
            {
                self.fly(lsn, key, None);
                started.push(Start::Parked { lsn, event_id });
            }
            return started;
        }
        while self.in_flight.len() < self.limits.in_flight_max {
            let Some((key, lsn, event_id)) = self.parked.take_due(now) else { break };
            self.fly(lsn, key, None);
            started.push(Start::Parked { lsn, event_id });
        }
        while self.in_flight.len() < self.limits.in_flight_max {
            let Some(event) = self.waiting.pop_front() else { break };
            let key = key_of(&event);
            if self.parked.has(&key) {
                self.park(&key, &event);
            } else if self.busy.contains(&key) {
                self.behind.entry(key).or_default().push_back(event);
                self.behind_events += 1;
            } else {
                self.fly(event.lsn, key, Some(event.clone()));
                started.push(Start::Event(event));
            }
        }
        started
    }

    fn fly(&mut self, lsn: u64, key: Key, event: Option<Arc<LoggedEvent>>) {
        self.busy.insert(key.clone());
        self.in_flight.insert(lsn, Flight { key, event });
    }

    /// What is in flight now.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// An attempt is over. `dice` spreads pauses.
    pub fn ended(&mut self, lsn: u64, outcome: Outcome, now: Timestamp, dice: u64) -> Verdict {
        let Some(Flight { key, event }) = self.in_flight.remove(&lsn) else { return Verdict::GoOn };
        self.busy.remove(&key);
        self.is_changed = true;
        match outcome {
            Outcome::Delivered => {
                self.position.delivered += 1;
                self.position.last_success_at = Some(now.0);
                self.position.last_error = None;
                if self.circuit.succeeded() {
                    self.parked.all_due(now, &self.busy);
                }
                self.settle(lsn, &key, event.is_some(), now);
                Verdict::GoOn
            }
            Outcome::Erased => {
                self.settle(lsn, &key, event.is_some(), now);
                Verdict::GoOn
            }
            Outcome::Unread => {
                self.parked.due_at(&key, now.plus_secs(5));
                self.circuit.put_off(now.plus_secs(5));
                Verdict::GoOn
            }
            Outcome::Gone { said } => {
                self.failed(lsn, &key, event, &said, None, now, dice);
                Verdict::Disable { reason: said }
            }
            Outcome::Failed { said, retry_after_s } => {
                self.failed(lsn, &key, event, &said, retry_after_s, now, dice);
                let since = self.circuit.failing_since();
                if since.is_some_and(|since| now.millis_since(since) >= self.schedule.disable_s * 1_000) {
                    let days = self.schedule.disable_s / 86_400;
                    return Verdict::Disable { reason: format!("nothing was taken for {days} days: {said}") };
                }
                Verdict::GoOn
            }
        }
    }

    fn settle(&mut self, lsn: u64, key: &Key, was_read: bool, now: Timestamp) {
        if !was_read {
            self.parked.settle(key, lsn, now);
            self.changes.insert(lsn, None);
            return;
        }
        self.settled.insert(lsn);
        if let Some(events) = self.behind.get_mut(key) {
            if let Some(next) = events.pop_front() {
                self.behind_events -= 1;
                self.waiting.push_front(next);
            }
            if events.is_empty() {
                self.behind.remove(key);
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what is known of one failed attempt")]
    fn failed(
        &mut self,
        lsn: u64,
        key: &Key,
        event: Option<Arc<LoggedEvent>>,
        said: &str,
        retry_after_s: Option<i64>,
        now: Timestamp,
        dice: u64,
    ) {
        if let Some(event) = event {
            self.park(key, &event);
            for event in self.behind.remove(key).unwrap_or_default() {
                self.behind_events -= 1;
                self.park(key, &event);
            }
        }
        self.position.last_error = Some(said.to_owned());
        let hold = retry_after_s.map(|wait_s| now.plus_secs(wait_s.clamp(0, RETRY_AFTER_MAX_S)));
        if let Some(until) = hold {
            self.hold_until = until.max(self.hold_until);
            self.drop_waiting();
        }
        let (tried, given_up) = self.parked.failed(key, lsn, said, now, dice, &self.schedule);
        if let Some(tried) = tried {
            self.changes.insert(lsn, Some(tried));
        }
        if given_up && self.parked.is_empty() && !self.circuit.is_open() {
            self.circuit.forget();
        } else if self.circuit.failed(now, dice, &self.schedule) {
            self.drop_waiting();
        }
    }

    fn park(&mut self, key: &Key, event: &LoggedEvent) {
        let undelivered = Undelivered {
            incarnation: self.incarnation,
            lsn: event.lsn,
            event_id: event.event.event_id,
            event_type: event.event.event_type.as_str().to_owned(),
            message_id: event.event.message_id.clone(),
            state: UndeliveredState::Parked,
            attempts: 0,
            first_attempt_at: None,
            next_attempt_at: None,
            last_error: None,
        };
        self.settled.insert(event.lsn);
        self.changes.insert(event.lsn, Some(undelivered.clone()));
        self.parked.add(key, undelivered);
        self.is_changed = true;
    }

    /// Keeps nothing in memory for an endpoint that takes nothing: it is read again.
    fn drop_waiting(&mut self) {
        self.read_lsn = self.cursor();
        self.waiting.clear();
        self.behind.clear();
        self.behind_events = 0;
    }

    /// Everything at or below it is delivered, parked, given up or was not wanted.
    pub fn cursor(&self) -> u64 {
        self.oldest_open().map_or(self.read_lsn, |event| (event.lsn - 1).min(self.read_lsn))
    }

    fn oldest_open(&self) -> Option<&Arc<LoggedEvent>> {
        let flying = self.in_flight.values().filter_map(|flight| flight.event.as_ref());
        let read = self.waiting.iter().chain(self.behind.values().flatten());
        flying.chain(read).min_by_key(|event| event.lsn)
    }

    /// When [`Lane::start`] may have something that it has not now; `None` when only new events or ends can bring it.
    pub fn wakes_at(&self) -> Option<Timestamp> {
        let due = match self.circuit.probe_at() {
            Some(probe_at) => (self.in_flight.is_empty() && !self.parked.is_empty()).then_some(probe_at),
            None if self.in_flight.len() >= self.limits.in_flight_max => None,
            // also when nothing is parked: reading goes on then
            None => Some(self.parked.next_due().unwrap_or(self.hold_until)),
        };
        due.map(|due| due.max(self.hold_until)).filter(|at| at.0 > i64::MIN)
    }

    /// Has the next [`Lane::progress`] say where it is, even if nothing was sent.
    pub fn touch(&mut self) {
        self.is_changed = true;
    }

    /// What changed since the last call, to be saved; `None` when nothing did. Where only unwanted events went by it says
    /// something every 10,000 of them.
    pub fn progress(&mut self) -> Option<Progress> {
        let cursor = self.cursor();
        let moved = cursor.saturating_sub(self.position.cursor_lsn.cast_unsigned());
        if !self.is_changed && self.changes.is_empty() && moved < 10_000 {
            return None;
        }
        self.is_changed = false;
        self.settled = self.settled.split_off(&(cursor + 1));
        self.position.cursor_lsn = cursor.cast_signed();
        let through_at = self.oldest_open().map(|event| event.event.recorded_at).or(self.read_at);
        self.position.through_at = through_at.map(|at| at.0);
        self.circuit.tell(&mut self.position);
        Some(Progress {
            endpoint_id: self.endpoint_id.clone(),
            position: self.position.clone(),
            undelivered: std::mem::take(&mut self.changes),
        })
    }
}

fn key_of(event: &LoggedEvent) -> Key {
    match &event.event.message_id {
        Some(message_id) => message_id.as_str().into(),
        None => event.event.event_id.to_string().into(),
    }
}

#[cfg(test)]
mod tests;
