//! One endpoint at work: reads what it wants, sends what its lane says, and has saved where it is.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sendlake_control::endpoint::progress::{EndpointPosition, Progress, UndeliveredState};
use sendlake_control::endpoint::{Endpoint, EndpointState};
use sendlake_control::id::Ids;
use sendlake_control::{ControlError, ControlStore};
use sendlake_ingest::event::LoggedEvent;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::body::{self, Masking};
use super::filter::{self, Wanted};
use super::lane::{Lane, LaneLimits, Outcome, Start, Verdict};
use super::log::{Batch, EventLog, Unreadable};
use super::schedule::Schedule;
use super::send::{Message, Sender};

/// How often it is saved where an endpoint is.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// And where nothing was sent.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// How long a stop waits for requests in hand; what is cut off comes again.
const LAST_ANSWERS_MAX: Duration = Duration::from_secs(5);
/// Events that an endpoint takes from one reading.
const OFFERED_MAX: usize = 1_000;
/// How long reading pauses after it failed.
const READ_AGAIN: Duration = Duration::from_secs(5);
/// Longest sleep, so that a step of the clock is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(30);

/// An endpoint as it is used: changed settings replace it while it works.
pub(super) struct Target {
    pub endpoint: Endpoint,
    pub url: Url,
    pub wanted: Wanted,
    pub masking: Option<Masking>,
}

impl Target {
    /// Fails where the settings cannot be used; they were checked when somebody made them.
    pub fn new(endpoint: Endpoint, control: &ControlStore) -> Result<Self, String> {
        let url = Url::parse(&endpoint.settings.url).map_err(|error| error.to_string())?;
        let mask = filter::mask(&endpoint.settings).map_err(|error| error.to_string())?;
        let purpose = format!("webhook mask {}", endpoint.endpoint_id);
        let masking = mask.map(|mask| Masking::new(mask, &control.keyring().derive(&purpose)));
        Ok(Self { url, wanted: Wanted::from(&endpoint.settings.filter), masking, endpoint })
    }

    pub fn takes(&self, event: &LoggedEvent) -> bool {
        event.event.tenant_id == self.endpoint.tenant_id && self.wanted.takes(&event.event)
    }

    pub async fn send(&self, sender: &Sender, event: &LoggedEvent, replay_id: Option<&str>) -> Outcome {
        let id = event.event.event_id.to_string();
        let body = body::of_event(&event.event, self.masking.as_ref());
        let secrets = &self.endpoint.secrets;
        sender.send(Message { url: &self.url, secrets, id: &id, body, replay_id }).await
    }
}

/// What all workers share.
pub(super) struct Shared {
    pub control: Arc<ControlStore>,
    pub log: Arc<EventLog>,
    pub sender: Arc<Sender>,
    pub ids: Ids,
    pub schedule: Schedule,
    pub limits: LaneLimits,
}

/// One endpoint's task.
pub(super) struct Worker {
    pub shared: Arc<Shared>,
    pub target: watch::Receiver<Arc<Target>>,
    /// Of the tenant: requests at once.
    pub permits: Arc<Semaphore>,
    pub keeper: mpsc::UnboundedSender<Progress>,
    pub stop: CancellationToken,
}

enum Done {
    Sent {
        lsn: u64,
        outcome: Outcome,
    },
    /// What the log still has of parked events that are to be sent.
    Read {
        lsns: Vec<u64>,
        found: Result<Vec<LoggedEvent>, Unreadable>,
    },
}

type Reading = Pin<Box<dyn Future<Output = Result<Batch, Unreadable>> + Send>>;

impl Worker {
    /// Works until it is stopped, or the endpoint is to be disabled.
    pub async fn run(self) {
        let endpoint_id = self.target.borrow().endpoint.endpoint_id.clone();
        let lane = loop {
            match self.lane(&endpoint_id).await {
                Ok(lane) => break lane,
                Err(error) => tracing::warn!(%error, endpoint_id, "a webhook cannot begin; tried again"),
            }
            if self.stop.run_until_cancelled(tokio::time::sleep(READ_AGAIN)).await.is_none() {
                return;
            }
        };
        if let Some(reason) = self.work(lane).await {
            let endpoint = self.target.borrow().endpoint.clone();
            tracing::warn!(endpoint_id, tenant = %endpoint.tenant_id, reason, "a webhook is disabled");
            let state = EndpointState::Disabled;
            let disabled =
                self.shared.control.set_endpoint_state("webhooks", &endpoint, state, Some(&reason)).await;
            if let Err(error) = disabled {
                // It is active still, so the dispatcher begins it anew, and the next answer decides again.
                tracing::warn!(%error, endpoint_id, "a webhook could not be disabled");
            }
        }
    }

    async fn lane(&self, endpoint_id: &str) -> Result<Lane, ControlError> {
        let Shared { control, log, limits, schedule, .. } = self.shared.as_ref();
        let incarnation = log.incarnation();
        let saved = control.endpoint_positions(endpoint_id).await?;
        let own = saved.into_iter().find(|position| position.incarnation == incarnation.to_string());
        let position = own.unwrap_or_else(|| EndpointPosition {
            cursor_lsn: log.beginning().cast_signed(),
            // what was recorded earlier is not to be sent
            through_at: Some(self.target.borrow().endpoint.created_at.0),
            ..EndpointPosition::default()
        });
        let max = u32::try_from(limits.parked_max).unwrap_or(u32::MAX).saturating_mul(2);
        let parked = UndeliveredState::Parked;
        let parked = control.undelivered(endpoint_id, parked, Some(incarnation), None, max).await?;
        Ok(Lane::new(endpoint_id, incarnation, position, parked, *limits, schedule.clone()))
    }

    /// Returns why the endpoint is to be disabled, if it is.
    async fn work(&self, mut lane: Lane) -> Option<String> {
        let mut tasks: JoinSet<Done> = JoinSet::new();
        let mut reading: Option<(u64, Reading)> = None;
        let (mut saved_at, mut touched_at) = (Instant::now(), Instant::now());
        let mut disable = None;
        while disable.is_none() {
            let now = self.shared.ids.now();
            self.begin(lane.start(now), &mut tasks);
            // A reading from another place is of no use any more.
            let wanted = lane.reads_after(now);
            if reading.as_ref().is_some_and(|(after_lsn, _)| wanted != Some(*after_lsn)) {
                reading = None;
            }
            if reading.is_none()
                && let Some(after_lsn) = wanted
            {
                reading = Some((after_lsn, self.reading(after_lsn)));
            }
            let wakes_in = lane.wakes_at().map_or(SLEEP_MAX, |at| {
                Duration::from_millis(u64::try_from(at.millis_since(now).max(1)).unwrap_or(1)).min(SLEEP_MAX)
            });
            let until_save = SAVE_EVERY.saturating_sub(saved_at.elapsed());
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(done) = tasks.join_next(), if !tasks.is_empty() => {
                    disable = self.done(&mut lane, done.ok(), &mut tasks);
                    while disable.is_none() && let Some(done) = tasks.try_join_next() {
                        disable = self.done(&mut lane, done.ok(), &mut tasks);
                    }
                }
                batch = next(&mut reading) => {
                    reading = None;
                    self.offer(&mut lane, batch);
                }
                () = tokio::time::sleep(wakes_in.min(until_save)) => {}
            }
            if touched_at.elapsed() >= TOUCH_EVERY {
                touched_at = Instant::now();
                lane.touch();
            }
            if saved_at.elapsed() >= SAVE_EVERY {
                saved_at = Instant::now();
                self.save(&mut lane);
            }
        }
        let last = async {
            while let Some(done) = tasks.join_next().await {
                if let Ok(Done::Sent { lsn, outcome }) = done {
                    let _ = lane.ended(lsn, outcome, self.shared.ids.now(), self.shared.ids.entropy.u64());
                }
            }
        };
        let _ = tokio::time::timeout(LAST_ANSWERS_MAX, last).await;
        lane.touch();
        self.save(&mut lane);
        disable
    }

    fn save(&self, lane: &mut Lane) {
        if let Some(progress) = lane.progress() {
            // Without a keeper the process ends.
            let _ = self.keeper.send(progress);
        }
    }

    fn reading(&self, after_lsn: u64) -> Reading {
        let (log, tenant) = (Arc::clone(&self.shared.log), self.target.borrow().endpoint.tenant_id.clone());
        Box::pin(async move {
            let read = log.after(&tenant, after_lsn).await;
            if let Err(error) = &read {
                tracing::debug!(%error, "events for a webhook cannot be read; tried again");
                tokio::time::sleep(READ_AGAIN).await;
            }
            read
        })
    }

    fn offer(&self, lane: &mut Lane, batch: Result<Batch, Unreadable>) {
        let Ok(batch) = batch else { return };
        let target = Arc::clone(&self.target.borrow());
        let since = target.endpoint.created_at;
        let wanted = |event: &Arc<LoggedEvent>| event.event.recorded_at >= since && target.takes(event);
        if batch.skipped > 0 {
            tracing::warn!(
                endpoint_id = target.endpoint.endpoint_id,
                numbers = batch.skipped,
                "the lake no longer remembers events that a webhook had not got to"
            );
        }
        let mut events: Vec<_> = batch.events.into_iter().filter(wanted).collect();
        let (mut through_lsn, mut through_at) = (batch.through_lsn, batch.through_at);
        if events.len() > OFFERED_MAX {
            // the rest is read again when there is room
            events.truncate(OFFERED_MAX);
            if let Some(last) = events.last() {
                (through_lsn, through_at) = (last.lsn, Some(last.event.recorded_at));
            }
        }
        lane.offer(events, through_lsn, through_at, batch.skipped);
    }

    fn begin(&self, started: Vec<Start>, tasks: &mut JoinSet<Done>) {
        let mut parked = Vec::new();
        for start in started {
            match start {
                Start::Event(event) => self.send(event, tasks),
                Start::Parked { lsn, .. } => parked.push(lsn),
            }
        }
        if !parked.is_empty() {
            let (log, tenant) =
                (Arc::clone(&self.shared.log), self.target.borrow().endpoint.tenant_id.clone());
            tasks.spawn(async move {
                let found = log.by_lsn(&tenant, &parked).await;
                Done::Read { lsns: parked, found }
            });
        }
    }

    fn send(&self, event: Arc<LoggedEvent>, tasks: &mut JoinSet<Done>) {
        let (shared, permits) = (Arc::clone(&self.shared), Arc::clone(&self.permits));
        let target = Arc::clone(&self.target.borrow());
        tasks.spawn(async move {
            let lsn = event.lsn;
            // Closed never; without a permit nothing is sent.
            let Ok(_permit) = permits.acquire().await else {
                return Done::Sent { lsn, outcome: Outcome::Unread };
            };
            Done::Sent { lsn, outcome: target.send(&shared.sender, &event, None).await }
        });
    }

    fn done(&self, lane: &mut Lane, done: Option<Done>, tasks: &mut JoinSet<Done>) -> Option<String> {
        let ids = &self.shared.ids;
        match done? {
            Done::Sent { lsn, outcome } => match lane.ended(lsn, outcome, ids.now(), ids.entropy.u64()) {
                Verdict::GoOn => None,
                Verdict::Disable { reason } => Some(reason),
            },
            Done::Read { lsns, found: Err(error) } => {
                tracing::debug!(%error, "parked events of a webhook cannot be read; tried again");
                for lsn in lsns {
                    let _ = lane.ended(lsn, Outcome::Unread, ids.now(), 0);
                }
                None
            }
            Done::Read { lsns, found: Ok(found) } => {
                let mut found: HashMap<u64, LoggedEvent> =
                    found.into_iter().map(|event| (event.lsn, event)).collect();
                for lsn in lsns {
                    match found.remove(&lsn) {
                        Some(event) => self.send(Arc::new(event), tasks),
                        None => drop(lane.ended(lsn, Outcome::Erased, ids.now(), 0)),
                    }
                }
                None
            }
        }
    }
}

/// The reading's answer; never where there is none.
async fn next(reading: &mut Option<(u64, Reading)>) -> Result<Batch, Unreadable> {
    match reading {
        Some((_, reading)) => reading.await,
        None => std::future::pending().await,
    }
}
