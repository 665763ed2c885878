//! All endpoints of a node: begins and ends their workers as endpoints come, change and go, and has it told when one was
//! disabled.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sendlake_control::endpoint::progress::Progress;
use sendlake_control::endpoint::{Endpoint, UntoldEndpoint};
use sendlake_control::id::{Ids, TenantId};
use sendlake_control::{ControlError, ControlStore};
use sendlake_ingest::outbox::Outbox;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use super::keeper;
use super::lane::LaneLimits;
use super::log::{EventLog, Lake};
use super::replay::Replayer;
use super::schedule::Schedule;
use super::send::Sender;
use super::worker::{Shared, Target, Worker};

/// How often endpoints are read anew.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// Longest wait for workers at a stop; what they have not saved comes again.
const STOP_MAX: Duration = Duration::from_secs(8);

/// Tells of an endpoint that was disabled, or is used again: durably.
#[async_trait]
pub trait Notices: Send + Sync {
    async fn tell(&self, endpoint: &UntoldEndpoint) -> Result<(), String>;
}

/// What bounds webhooks.
#[derive(Clone, Debug)]
pub struct DispatchSettings {
    pub lane: LaneLimits,
    pub schedule: Schedule,
    /// Requests of one tenant at once.
    pub tenant_in_flight_max: usize,
    /// Events of one replay in a second.
    pub replay_per_s: u32,
}

impl Default for DispatchSettings {
    fn default() -> Self {
        Self {
            lane: LaneLimits::default(),
            schedule: Schedule::default(),
            tenant_in_flight_max: 64,
            replay_per_s: 100,
        }
    }
}

/// What a dispatcher works with.
pub struct DispatchParts {
    pub control: Arc<ControlStore>,
    pub outbox: Arc<dyn Outbox>,
    pub lake: Arc<dyn Lake>,
    pub sender: Arc<Sender>,
    pub notices: Arc<dyn Notices>,
    pub ids: Ids,
    pub settings: DispatchSettings,
}

/// Sends events to endpoints. One in a process, which owns the spool.
pub struct Dispatcher {
    shared: Arc<Shared>,
    notices: Arc<dyn Notices>,
    settings: DispatchSettings,
    permits: HashMap<TenantId, Arc<Semaphore>>,
    running: HashMap<String, Running>,
    workers: JoinSet<()>,
    following: Option<CancellationToken>,
    is_failing: bool,
}

struct Running {
    revision: i64,
    stop: CancellationToken,
    target: watch::Sender<Arc<Target>>,
    task: AbortHandle,
}

impl Dispatcher {
    pub fn new(parts: DispatchParts) -> Self {
        let DispatchParts { control, outbox, lake, sender, notices, ids, settings } = parts;
        let shared = Arc::new(Shared {
            control,
            log: Arc::new(EventLog::new(outbox, lake)),
            sender,
            ids,
            schedule: settings.schedule.clone(),
            limits: settings.lane,
        });
        Self {
            shared,
            notices,
            settings,
            permits: HashMap::new(),
            running: HashMap::new(),
            workers: JoinSet::new(),
            following: None,
            is_failing: false,
        }
    }

    /// Dispatches until `stop`; then lets requests in hand end, and saves where everything is.
    pub async fn run(mut self, stop: CancellationToken) {
        let (tell, told) = mpsc::unbounded_channel();
        let keeper = tokio::spawn(keeper::keep(Arc::clone(&self.shared.control), told));
        let replayer = Replayer::new(Arc::clone(&self.shared), self.settings.replay_per_s);
        let replays = tokio::spawn(replayer.run(stop.child_token()));
        loop {
            match self.refresh(&tell).await {
                Ok(()) => self.is_failing = false,
                Err(error) if !self.is_failing => {
                    self.is_failing = true;
                    tracing::warn!(%error, "webhook endpoints cannot be read; those known go on");
                }
                Err(_) => {}
            }
            if stop.run_until_cancelled(tokio::time::sleep(REFRESH_EVERY)).await.is_none() {
                break;
            }
        }
        self.running.values().for_each(|running| running.stop.cancel());
        let ended = async { while self.workers.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(STOP_MAX, ended).await;
        self.workers.shutdown().await;
        if let Some(following) = self.following.take() {
            following.cancel();
        }
        drop(tell);
        let _ = tokio::time::timeout(STOP_MAX, keeper).await;
        let _ = tokio::time::timeout(STOP_MAX, replays).await;
    }

    async fn refresh(&mut self, keeper: &mpsc::UnboundedSender<Progress>) -> Result<(), ControlError> {
        while self.workers.try_join_next().is_some() {}
        let wanted = self.shared.control.endpoint_revisions().await?;
        let active: HashMap<&str, i64> = wanted
            .iter()
            .filter(|endpoint| endpoint.is_active)
            .map(|endpoint| (endpoint.endpoint_id.as_str(), endpoint.revision))
            .collect();
        self.running.retain(|endpoint_id, running| {
            if !active.contains_key(endpoint_id.as_str()) {
                running.stop.cancel();
            }
            // One that is being ended goes on saving; one that ended by itself is begun anew, unless it was disabled.
            !running.task.is_finished()
        });
        self.follow(!active.is_empty());
        for (endpoint_id, revision) in active {
            let running = self.running.get(endpoint_id);
            if running.is_none_or(|running| running.revision != revision && !running.stop.is_cancelled())
                && let Some(endpoint) = self.shared.control.endpoint(None, endpoint_id).await?
            {
                self.begin(endpoint, keeper);
            }
        }
        for untold in self.shared.control.untold_endpoints().await? {
            match self.notices.tell(&untold).await {
                Ok(()) => self.shared.control.endpoint_told(&untold.endpoint_id, untold.is_disabled).await?,
                Err(error) => {
                    tracing::warn!(error, "it cannot be told that a webhook was disabled; tried again")
                }
            }
        }
        Ok(())
    }

    /// Reads the log as long as somebody wants it.
    fn follow(&mut self, is_wanted: bool) {
        match (&self.following, is_wanted) {
            (None, true) => {
                let (stop, log) = (CancellationToken::new(), Arc::clone(&self.shared.log));
                log.begin();
                let until = stop.clone();
                tokio::spawn(async move { log.follow(until).await });
                self.following = Some(stop);
            }
            (Some(stop), false) => {
                stop.cancel();
                self.following = None;
            }
            _ => {}
        }
    }

    fn begin(&mut self, endpoint: Endpoint, keeper: &mpsc::UnboundedSender<Progress>) {
        let (endpoint_id, revision) = (endpoint.endpoint_id.clone(), endpoint.revision);
        let tenant = endpoint.tenant_id.clone();
        let target = match Target::new(endpoint, &self.shared.control) {
            Ok(target) => Arc::new(target),
            Err(error) => {
                tracing::warn!(endpoint_id, error, "a webhook's settings cannot be used");
                return;
            }
        };
        if let Some(running) = self.running.get_mut(&endpoint_id) {
            running.revision = revision;
            running.target.send_replace(target);
            return;
        }
        let permits = self.permits.entry(tenant);
        let permits = permits.or_insert_with(|| Arc::new(Semaphore::new(self.settings.tenant_in_flight_max)));
        let (target, seen) = watch::channel(target);
        let stop = CancellationToken::new();
        let worker = Worker {
            shared: Arc::clone(&self.shared),
            target: seen,
            permits: Arc::clone(permits),
            keeper: keeper.clone(),
            stop: stop.clone(),
        };
        let task = self.workers.spawn(worker.run());
        self.running.insert(endpoint_id, Running { revision, stop, target, task });
    }
}
