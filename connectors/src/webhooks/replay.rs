//! What is sent again by a person's wish: from the lake, beside what is live, in order within a message, with the ids that
//! the events have had all along. A job goes on where it was after a restart.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;
use sendlake_control::endpoint::progress::UndeliveredState;
use sendlake_control::endpoint::replay::{Replay, ReplayState};
use sendlake_control::endpoint::{Endpoint, EndpointState};
use sendlake_ingest::event::LoggedEvent;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::lane::Outcome;
use super::log::Place;
use super::worker::{Shared, Target};

/// Replays at once in one process.
const RUNNING_MAX: usize = 4;
/// Messages of one replay at once: what is live goes before.
const AT_ONCE: usize = 4;
/// Events between two saves.
const PAGE_EVENTS: usize = 200;
/// How long a job is its runner's without a save.
const LEASE_S: u32 = 900;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Attempts of one event, with a pause between, before the next of its page.
const ATTEMPTS: u32 = 2;
const ATTEMPT_AGAIN: Duration = Duration::from_secs(2);
/// Failures without a success after which a page waits.
const FAILURES_MAX: u32 = 8;
/// Pauses of a page that gets nowhere: the first, and the longest; and how long all of them may take.
const STALLED: Duration = Duration::from_secs(5);
const STALLED_MAX: Duration = Duration::from_secs(300);
const GIVE_UP: Duration = Duration::from_secs(3 * 86_400);

/// Where a job is, as the control store keeps it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Position {
    Lake { recorded_at: Timestamp, lsn: u64, event_id: Uuid },
    Failed { incarnation: Uuid, lsn: u64 },
}

/// Works on replays.
pub(super) struct Replayer {
    shared: Arc<Shared>,
    runner: String,
    /// Between two events of one replay.
    pace: Duration,
}

/// What became of a page.
#[derive(Default)]
struct Paged {
    delivered: u64,
    failed: u64,
    /// Some were not tried, or nothing came through: the page comes again.
    is_stalled: bool,
    is_gone: bool,
    said: Option<String>,
}

impl Replayer {
    pub fn new(shared: Arc<Shared>, per_s: u32) -> Self {
        let runner = shared.log.incarnation().to_string();
        Self { shared, runner, pace: Duration::from_secs(1) / per_s.max(1) }
    }

    pub async fn run(self, stop: CancellationToken) {
        let this = Arc::new(self);
        let mut running: JoinSet<()> = JoinSet::new();
        let mut is_released = false;
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            while running.try_join_next().is_some() {}
            // Those of the process before this one.
            if !is_released {
                is_released = this.shared.control.release_replays(&this.runner).await.is_ok();
            }
            if !is_released || running.len() >= RUNNING_MAX {
                continue;
            }
            match this.shared.control.claim_replay(&this.runner, LEASE_S).await {
                Ok(Some(replay)) => {
                    let (this, stop) = (Arc::clone(&this), stop.clone());
                    running.spawn(async move {
                        let replay_id = replay.replay_id.clone();
                        if let Some(Err(error)) = stop.run_until_cancelled(this.replay(replay)).await {
                            tracing::warn!(replay_id, error, "a replay stopped; it is taken up again");
                        }
                    });
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "replays cannot be taken up"),
            }
        }
        // Cut off, a page comes again: ids are stable.
        running.shutdown().await;
        let _ = this.shared.control.release_replays(&this.runner).await;
    }

    async fn replay(&self, mut replay: Replay) -> Result<(), String> {
        // Of the page in hand, when it comes again.
        let mut over: HashSet<Uuid> = HashSet::new();
        let mut stalled: Option<(Instant, Duration)> = None;
        while replay.state == ReplayState::Running {
            let control = &self.shared.control;
            let endpoint =
                control.endpoint(None, &replay.endpoint_id).await.map_err(|error| error.to_string())?;
            let Some(endpoint) = endpoint else { return Ok(()) };
            let paged = match endpoint.state {
                EndpointState::Active => self.page(&mut replay, endpoint.clone(), &mut over).await,
                state => Ok(Paged {
                    is_stalled: true,
                    said: Some(format!("the endpoint is {}", state.as_str())),
                    ..Paged::default()
                }),
            };
            let paged = paged.unwrap_or_else(|error| Paged {
                is_stalled: true,
                said: Some(error),
                ..Paged::default()
            });
            replay.delivered += paged.delivered;
            replay.failed += paged.failed;
            replay.last_error = paged.said.or(replay.last_error);
            if paged.is_gone {
                let reason = replay.last_error.as_deref();
                let state = EndpointState::Disabled;
                let disabled = control.set_endpoint_state("webhooks", &endpoint, state, reason).await;
                disabled.map_err(|error| error.to_string())?;
            }
            let pause = match (paged.is_stalled, stalled) {
                (false, _) => {
                    over.clear();
                    stalled = None;
                    None
                }
                (true, None) => {
                    stalled = Some((Instant::now(), STALLED));
                    Some(STALLED)
                }
                (true, Some((since, _))) if since.elapsed() > GIVE_UP => {
                    replay.state = ReplayState::Failed;
                    None
                }
                (true, Some((since, pause))) => {
                    let pause = if paged.delivered > 0 { STALLED } else { (pause * 2).min(STALLED_MAX) };
                    stalled = Some((since, pause));
                    Some(pause)
                }
            };
            let saved = control.save_replay(&self.runner, &replay, LEASE_S).await;
            if !saved.map_err(|error| error.to_string())? {
                return Ok(()); // cancelled, or another node's
            }
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    /// Sends the next events, and moves the position where all of them are over.
    async fn page(
        &self,
        replay: &mut Replay,
        endpoint: Endpoint,
        over: &mut HashSet<Uuid>,
    ) -> Result<Paged, String> {
        let position: Option<Position> = replay
            .position
            .as_deref()
            .map(serde_json::from_str)
            .transpose()
            .map_err(|error| error.to_string())?;
        let target = Target::new(endpoint, &self.shared.control)?;
        let (events, next) = if replay.selection.failed {
            self.failed_events(replay, position).await?
        } else {
            self.lake_events(replay, position).await?
        };
        let Some(next) = next else {
            replay.state = ReplayState::Done;
            replay.last_error = None;
            return Ok(Paged::default());
        };
        let wanted = |event: &LoggedEvent| {
            !over.contains(&event.event.event_id) && (replay.selection.failed || target.takes(event))
        };
        let events = events.into_iter().filter(wanted).collect();
        let paged = self.send(&target, replay, events, over).await;
        if !paged.is_stalled {
            replay.position = Some(serde_json::to_string(&next).map_err(|error| error.to_string())?);
        }
        Ok(paged)
    }

    async fn lake_events(
        &self,
        replay: &Replay,
        position: Option<Position>,
    ) -> Result<(Vec<LoggedEvent>, Option<Position>), String> {
        let after = match position {
            Some(Position::Lake { recorded_at, lsn, event_id }) => Some(Place { recorded_at, lsn, event_id }),
            _ => None,
        };
        let found =
            self.shared.log.lake().selected(&replay.tenant_id, &replay.selection, after, PAGE_EVENTS).await;
        let found = found.map_err(|error| format!("the lake cannot be read: {error}"))?;
        let next = found.last().map(|last| Position::Lake {
            recorded_at: last.event.recorded_at,
            lsn: last.lsn,
            event_id: last.event.event_id,
        });
        Ok((found, next))
    }

    async fn failed_events(
        &self,
        replay: &Replay,
        position: Option<Position>,
    ) -> Result<(Vec<LoggedEvent>, Option<Position>), String> {
        let after = match position {
            Some(Position::Failed { incarnation, lsn }) => Some((incarnation, lsn)),
            _ => None,
        };
        let max = u32::try_from(PAGE_EVENTS).unwrap_or(u32::MAX);
        let (control, state) = (&self.shared.control, UndeliveredState::Failed);
        let failed = control.undelivered(&replay.endpoint_id, state, None, after, max).await;
        let failed = failed.map_err(|error| error.to_string())?;
        let next =
            failed.last().map(|last| Position::Failed { incarnation: last.incarnation, lsn: last.lsn });
        let selection = &replay.selection;
        let wanted = failed.iter().filter(|event| {
            let types = &selection.event_types;
            (types.is_empty() || types.contains(&event.event_type))
                && (selection.message_id.is_none() || selection.message_id == event.message_id)
        });
        let wanted: Vec<(Uuid, u64, Uuid)> =
            wanted.map(|event| (event.incarnation, event.lsn, event.event_id)).collect();
        let mut found = Vec::new();
        let spools: HashSet<Uuid> = wanted.iter().map(|(incarnation, _, _)| *incarnation).collect();
        for spool in spools {
            let own = wanted.iter().filter(|(incarnation, _, _)| *incarnation == spool);
            let lsns: Vec<u64> = own.map(|(_, lsn, _)| *lsn).collect();
            let read = self.shared.log.lake().by_lsn(&replay.tenant_id, spool, &lsns).await;
            found.extend(read.map_err(|error| format!("the lake cannot be read: {error}"))?);
        }
        found.sort_by_key(|event| (event.event.recorded_at, event.lsn));
        let is_gone = |id: &Uuid| found.iter().all(|event| event.event.event_id != *id);
        for id in wanted.iter().map(|(_, _, id)| id).filter(|id| is_gone(id)) {
            // Erased, or past retention: there is nothing to send any more.
            control.settle_failed(&replay.endpoint_id, *id).await.map_err(|error| error.to_string())?;
        }
        let is_within = |event: &LoggedEvent| {
            let at = event.event.recorded_at;
            selection.from.is_none_or(|from| at >= from) && selection.to.is_none_or(|to| at < to)
        };
        found.retain(is_within);
        Ok((found, next))
    }

    async fn send(
        &self,
        target: &Target,
        replay: &Replay,
        events: Vec<LoggedEvent>,
        over: &mut HashSet<Uuid>,
    ) -> Paged {
        let mut messages: Vec<Vec<LoggedEvent>> = Vec::new();
        let mut places: HashMap<String, usize> = HashMap::new();
        for event in events {
            let key = event.event.message_id.clone().unwrap_or_else(|| event.event.event_id.to_string());
            let place = *places.entry(key).or_insert(messages.len());
            match messages.get_mut(place) {
                Some(message) => message.push(event),
                None => messages.push(vec![event]),
            }
        }
        let page = InPage {
            target,
            replay_id: &replay.replay_id,
            next_at: Mutex::new(Instant::now()),
            delivered: AtomicU32::new(0),
            failures: AtomicU32::new(0),
        };
        let ends: Vec<Vec<(Uuid, Option<Outcome>)>> = futures::stream::iter(messages)
            .map(|message| self.message(&page, message))
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let mut paged = Paged::default();
        let mut failed = Vec::new();
        for (event_id, outcome) in ends.into_iter().flatten() {
            match outcome {
                Some(Outcome::Delivered) => {
                    paged.delivered += 1;
                    over.insert(event_id);
                    if replay.selection.failed {
                        // What is settled twice does no harm; what is not comes again with the next replay.
                        let _ = self.shared.control.settle_failed(&replay.endpoint_id, event_id).await;
                    }
                }
                Some(Outcome::Gone { said }) => {
                    paged.is_gone = true;
                    paged.is_stalled = true;
                    paged.said = Some(said);
                }
                Some(Outcome::Failed { said, .. }) => {
                    failed.push(event_id);
                    paged.said = Some(said);
                }
                Some(Outcome::Erased | Outcome::Unread) => {}
                None => paged.is_stalled = true,
            }
        }
        // An endpoint that takes some events is there: it will not have the others.
        paged.is_stalled |= !failed.is_empty() && paged.delivered == 0 && over.is_empty();
        if !paged.is_stalled {
            paged.failed = u64::try_from(failed.len()).unwrap_or_default();
        }
        paged
    }

    /// One message's events, in order; those after one that fails, and those that are not tried any more, have no outcome.
    async fn message(&self, page: &InPage<'_>, events: Vec<LoggedEvent>) -> Vec<(Uuid, Option<Outcome>)> {
        let mut ends = Vec::new();
        for event in events {
            let outcome = if page.is_hopeless() { None } else { Some(self.event(page, &event).await) };
            ends.push((event.event.event_id, outcome));
        }
        ends
    }

    async fn event(&self, page: &InPage<'_>, event: &LoggedEvent) -> Outcome {
        let mut attempt = 1;
        loop {
            page.turn(self.pace).await;
            let outcome = page.target.send(&self.shared.sender, event, Some(page.replay_id)).await;
            let wait = match &outcome {
                Outcome::Delivered => {
                    page.delivered.fetch_add(1, Ordering::Relaxed);
                    return outcome;
                }
                Outcome::Failed { retry_after_s, .. } => {
                    page.failures.fetch_add(1, Ordering::Relaxed);
                    let asked = retry_after_s.and_then(|wait_s| u64::try_from(wait_s.min(60)).ok());
                    asked.map_or(ATTEMPT_AGAIN, Duration::from_secs)
                }
                _ => return outcome,
            };
            if attempt >= ATTEMPTS {
                return outcome;
            }
            attempt += 1;
            tokio::time::sleep(wait).await;
        }
    }
}

/// A page while it is sent.
struct InPage<'a> {
    target: &'a Target,
    replay_id: &'a str,
    /// When the next event may leave.
    next_at: Mutex<Instant>,
    delivered: AtomicU32,
    failures: AtomicU32,
}

impl InPage<'_> {
    fn is_hopeless(&self) -> bool {
        self.delivered.load(Ordering::Relaxed) == 0 && self.failures.load(Ordering::Relaxed) >= FAILURES_MAX
    }

    async fn turn(&self, pace: Duration) {
        let at = {
            let mut next_at = self.next_at.lock();
            let at = (*next_at).max(Instant::now());
            *next_at = at + pace;
            at
        };
        tokio::time::sleep_until(at).await;
    }
}
