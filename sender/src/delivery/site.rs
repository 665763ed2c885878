//! One site and stream: lanes that wait, messages ready to go, sessions that take them.

use std::collections::{HashSet, VecDeque};

use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;
use tokio::sync::Notify;

use crate::site::SiteName;
use crate::spool::QueueEntry;
use crate::spool::key::Lane;
use crate::stream::Stream;

/// Streams never share a connection, a queue or a limit: each has its own part of a site.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SiteKey {
    /// `None` for domains that no host takes mail for: one group, whose messages fail without a session.
    pub name: Option<SiteName>,
    pub stream: Stream,
}

pub(super) struct Site {
    pub key: SiteKey,
    provider: Option<String>,
    state: Mutex<State>,
    work: Notify,
    sessions_max: usize,
}

#[derive(Default)]
struct State {
    /// Lanes with due messages, served in turn.
    lanes: VecDeque<Lane>,
    known: HashSet<Lane>,
    ready: VecDeque<QueueEntry>,
    workers: usize,
    idle: usize,
    /// Nothing is sent before this: the site could not be reached.
    not_before: Option<Timestamp>,
}

/// Messages held ready per session: enough that a session need not wait for the next durable mark.
const READY_PER_SESSION: usize = 8;

/// What a worker gets.
pub(super) enum Taken {
    Message(Box<QueueEntry>),
    /// The site is to be left alone, or nothing came in time.
    Nothing,
}

impl Site {
    pub fn new(key: SiteKey, provider: Option<String>, sessions_max: usize) -> Self {
        Self { key, provider, state: Mutex::default(), work: Notify::new(), sessions_max }
    }

    /// As it stands in events; `None` for the group that no host takes.
    pub fn name(&self) -> Option<String> {
        self.key.name.as_ref().map(ToString::to_string)
    }

    /// Who runs it; `None` for the group that no host takes.
    pub fn provider(&self) -> Option<&str> {
        self.provider.as_deref()
    }

    /// A lane of this site has due messages.
    pub fn enqueue(&self, lane: Lane) {
        let mut state = self.state.lock();
        if state.known.insert(lane.clone()) {
            state.lanes.push_back(lane);
        }
    }

    /// The lanes to fetch from now, each with how many messages: an equal share of the room there is.
    pub fn wanted(&self, now: Timestamp) -> Vec<(Lane, usize)> {
        let mut state = self.state.lock();
        if state.not_before.is_some_and(|at| at > now) {
            return Vec::new();
        }
        let room = (self.sessions_max * READY_PER_SESSION).saturating_sub(state.ready.len());
        let lanes = state.lanes.len();
        if room == 0 || lanes == 0 {
            return Vec::new();
        }
        let share = (room / lanes).max(1);
        let taken: Vec<Lane> = {
            let count = lanes.min(room);
            state.lanes.drain(..count).collect()
        };
        for lane in &taken {
            state.known.remove(lane);
        }
        taken.into_iter().map(|lane| (lane, share)).collect()
    }

    /// When a site that was left alone may be tried again, if lanes wait for that.
    pub fn resumes_at(&self) -> Option<Timestamp> {
        let state = self.state.lock();
        state.not_before.filter(|_| !state.lanes.is_empty())
    }

    /// Adds marked messages. Returns how many new workers they are worth.
    pub fn push(&self, entries: Vec<QueueEntry>) -> usize {
        let mut state = self.state.lock();
        state.ready.extend(entries);
        let missing = state.ready.len().saturating_sub(state.idle);
        let spawn = missing.min(self.sessions_max.saturating_sub(state.workers));
        state.workers += spawn;
        let wake = state.idle.min(state.ready.len());
        drop(state);
        for _ in 0..wake {
            self.work.notify_one();
        }
        spawn
    }

    /// The next message, waiting up to `idle` for one.
    pub async fn take(&self, idle: std::time::Duration) -> Taken {
        if let Some(entry) = self.try_take() {
            return Taken::Message(Box::new(entry));
        }
        self.state.lock().idle += 1;
        let deadline = tokio::time::Instant::now() + idle;
        let taken = loop {
            let in_time = tokio::time::timeout_at(deadline, self.work.notified()).await.is_ok();
            match self.try_take() {
                Some(entry) => break Taken::Message(Box::new(entry)),
                None if in_time => {}
                None => break Taken::Nothing,
            }
        };
        self.state.lock().idle -= 1;
        taken
    }

    fn try_take(&self) -> Option<QueueEntry> {
        self.state.lock().ready.pop_front()
    }

    /// A worker ends. True when messages were left that need another one.
    pub fn worker_ended(&self) -> bool {
        let mut state = self.state.lock();
        state.workers = state.workers.saturating_sub(1);
        let again = !state.ready.is_empty() && state.workers < self.sessions_max;
        if again {
            state.workers += 1;
        }
        again
    }

    /// The site cannot be reached: leave it alone until `at`. Returns the messages that were ready.
    pub fn back_off(&self, at: Timestamp) -> Vec<QueueEntry> {
        let mut state = self.state.lock();
        state.not_before = Some(at);
        state.ready.drain(..).collect()
    }

    pub fn reached(&self) {
        self.state.lock().not_before = None;
    }

    /// Takes out what is ready, for a shutdown.
    pub fn drain(&self) -> Vec<QueueEntry> {
        self.state.lock().ready.drain(..).collect()
    }

    pub fn has_room(&self) -> bool {
        let state = self.state.lock();
        !state.lanes.is_empty() && state.ready.len() < self.sessions_max * READY_PER_SESSION / 2
    }

    pub fn is_unused(&self) -> bool {
        let state = self.state.lock();
        state.workers == 0 && state.lanes.is_empty() && state.ready.is_empty() && state.not_before.is_none()
    }
}
