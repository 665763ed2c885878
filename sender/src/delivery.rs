//! Delivery: takes due messages out of the spool, site by site, and records what receivers answer.
//!
//! - `dispatch`: which message next, fairly among lanes · `site`: messages and sessions of one site
//! - `gate`: suppressions and limits before each batch · `hold`: held mail, looked at again
//! - `worker`: one session after another · `prepare`: the bytes of one message · `contents`: what messages of one
//!   submission share · [`verdict`]: what a reply means

mod contents;
mod dispatch;
mod gate;
mod hold;
mod prepare;
mod refusal;
mod site;
pub mod verdict;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sendlake_control::id::Ids;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::gate::Gate;
use self::prepare::Preparer;
use self::site::Sites;
use crate::identity::Identities;
use crate::mx::Router;
use crate::policy::limits::Limits;
use crate::schedule::Schedule;
use crate::session::{SessionSettings, Tls};
use crate::source::Sources;
use crate::spool::{Spool, SpoolError};
use crate::stream::Stream;
use crate::suppression::Suppressions;
use crate::token::TokenKeys;

/// What delivery is told.
#[derive(Clone, Debug)]
pub struct DeliverySettings {
    pub sessions_per_site_max: usize,
    pub sessions_max: usize,
    pub messages_per_session_max: usize,
    /// How long a session without work is kept for the next message.
    pub session_idle: Duration,
    /// How long a site that cannot be reached is left alone, in seconds.
    pub site_backoff_s: i64,
    pub schedule: Schedule,
    pub schedule_transactional: Schedule,
    /// What unsubscribe links start with.
    pub public_url: String,
    /// Name of this installation in `Feedback-ID`.
    pub feedback_sender: String,
    pub sign: bool,
    /// Name an address for complaints in signed mail (RFC 9477).
    pub offer_cfbl: bool,
}

impl DeliverySettings {
    fn schedule(&self, stream: Stream) -> &Schedule {
        match stream {
            Stream::Transactional => &self.schedule_transactional,
            Stream::Marketing | Stream::Cold => &self.schedule,
        }
    }
}

/// How sessions are opened.
pub struct Connector {
    pub tls: Tls,
    pub settings: SessionSettings,
}

/// Everything that delivery works with.
pub struct DeliveryParts {
    pub spool: Arc<Spool>,
    pub router: Arc<Router>,
    pub sources: Arc<Sources>,
    pub connector: Connector,
    pub identities: Arc<dyn Identities>,
    pub suppressions: Arc<dyn Suppressions>,
    pub limits: Arc<dyn Limits>,
    pub tokens: TokenKeys,
    pub ids: Ids,
    pub settings: DeliverySettings,
}

/// Delivery of one node.
pub struct Delivery {
    spool: Arc<Spool>,
    router: Arc<Router>,
    sources: Arc<Sources>,
    connector: Connector,
    preparer: Preparer,
    gate: Gate,
    ids: Ids,
    settings: DeliverySettings,
    sites: Mutex<Sites>,
    /// Some site has room for more messages, or a domain has become routable.
    room: Notify,
    sessions: Arc<Semaphore>,
    workers: Mutex<JoinSet<()>>,
    shutdown: CancellationToken,
}

impl Delivery {
    pub fn new(parts: DeliveryParts, shutdown: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            preparer: Preparer::new(&parts),
            gate: Gate::new(&parts),
            sessions: Arc::new(Semaphore::new(parts.settings.sessions_max)),
            spool: parts.spool,
            router: parts.router,
            sources: parts.sources,
            connector: parts.connector,
            ids: parts.ids,
            settings: parts.settings,
            sites: Mutex::default(),
            room: Notify::new(),
            workers: Mutex::default(),
            shutdown,
        })
    }

    /// Delivers until the shutdown token is cancelled; then lets every session finish its message, puts back
    /// what was not offered to anyone, and returns.
    pub async fn run(self: &Arc<Self>) -> Result<(), SpoolError> {
        let result = self.dispatch().await;
        let mut workers = std::mem::take(&mut *self.workers.lock());
        while workers.join_next().await.is_some() {}
        let idle: Vec<_> = self.sites.lock().all().flat_map(|site| site.drain()).collect();
        self.spool.release(idle, self.ids.now()).await?;
        result
    }

    /// Runs `task` beside the dispatcher; `run` waits for it at the end.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut workers = self.workers.lock();
        while workers.try_join_next().is_some() {}
        workers.spawn(task);
    }
}
