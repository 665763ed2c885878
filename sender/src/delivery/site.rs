//! One site and stream: lanes that wait, messages ready to go, sessions that take them; and all the sites of a node.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;
use tokio::sync::Notify;

use crate::site::SiteName;
use crate::spool::QueueEntry;
use crate::spool::key::Lane;
use crate::stream::Stream;

/// Fewer sites than this are not worth a look for those without work.
const SITES_UNSWEPT: usize = 1_024;

/// The sites that have work, and those that had some lately. What is left over is forgotten each time their number has
/// doubled, so that a year of mail to dead domains leaves nothing behind.
pub(super) struct Sites {
    by_key: HashMap<SiteKey, Arc<Site>>,
    sweep_at: usize,
}

impl Default for Sites {
    fn default() -> Self {
        Self { by_key: HashMap::new(), sweep_at: SITES_UNSWEPT }
    }
}

impl Sites {
    /// The site of this key, made by `new` when it is not known.
    pub fn get(&mut self, key: &SiteKey, now: Timestamp, new: impl FnOnce() -> Site) -> Arc<Site> {
        if let Some(site) = self.by_key.get(key) {
            return Arc::clone(site);
        }
        if self.by_key.len() >= self.sweep_at {
            // Somebody who holds one may be about to give it work: only those that nobody holds can go.
            self.by_key.retain(|_, site| Arc::strong_count(site) > 1 || !site.is_unused(now));
            self.sweep_at = SITES_UNSWEPT.max(self.by_key.len().saturating_mul(2));
        }
        let site = Arc::new(new());
        self.by_key.insert(key.clone(), Arc::clone(&site));
        site
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.by_key.values()
    }
}

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

    /// No work, nobody at it, and no reason to leave it alone any longer.
    fn is_unused(&self, now: Timestamp) -> bool {
        let state = self.state.lock();
        state.workers == 0
            && state.lanes.is_empty()
            && state.ready.is_empty()
            && state.not_before.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use sendlake_control::id::TenantId;

    use super::*;

    fn lane(number: usize) -> Lane {
        Lane {
            recipient_domain: format!("d{number}.test"),
            stream: Stream::Transactional,
            tenant_id: TenantId::new("acme").unwrap(),
        }
    }

    fn get(sites: &mut Sites, number: usize, now: Timestamp) -> Arc<Site> {
        let name = SiteName::of_route(&number.to_string());
        let key = SiteKey { name: Some(name), stream: Stream::Transactional };
        sites.get(&key.clone(), now, || Site::new(key, None, 4))
    }

    #[test]
    fn hosts_that_were_never_reached_are_forgotten_once_they_may_be_tried_again() {
        let mut sites = Sites::default();
        let at = |number: usize| Timestamp::from_secs(i64::try_from(number).unwrap());
        for number in 0..50_000 {
            let site = get(&mut sites, number, at(number));
            site.enqueue(lane(number));
            assert_eq!(site.wanted(at(number)).len(), 1);
            site.back_off(at(number + 60));
        }
        assert!(sites.by_key.len() <= SITES_UNSWEPT, "{} sites are left", sites.by_key.len());
    }

    #[test]
    fn a_site_with_work_or_in_somebodys_hands_stays_the_same_one() {
        let mut sites = Sites::default();
        let now = Timestamp(0);
        let held = get(&mut sites, 0, now);
        get(&mut sites, 1, now).enqueue(lane(1));
        get(&mut sites, 2, now).back_off(Timestamp(9));
        for number in 3..10 * SITES_UNSWEPT {
            get(&mut sites, number, now);
        }
        assert!(Arc::ptr_eq(&held, &get(&mut sites, 0, now)));
        assert_eq!(get(&mut sites, 1, now).wanted(now).len(), 1);
        get(&mut sites, 2, now).enqueue(lane(2));
        assert_eq!(get(&mut sites, 2, now).resumes_at(), Some(Timestamp(9)));
    }
}
