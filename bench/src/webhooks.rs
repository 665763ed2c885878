//! Events pushed to endpoints on loopback: how long each is on its way while one endpoint of many hangs, beside the same
//! without it. The log is in memory, so that dispatch and HTTP alone are measured.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use clap::Args;
use parking_lot::{Mutex, RwLock};
use sendlake_connectors::guard::Guard;
use sendlake_connectors::webhooks::dispatch::{DispatchParts, DispatchSettings, Dispatcher, Notices};
use sendlake_connectors::webhooks::log::{Lake, Place, Unreadable};
use sendlake_connectors::webhooks::send::{SendSettings, Sender};
use sendlake_control::ControlStore;
use sendlake_control::clock::{Clock, SeededEntropy, Timestamp};
use sendlake_control::endpoint::replay::ReplaySelection;
use sendlake_control::endpoint::{EndpointSettings, EventFilter, UntoldEndpoint};
use sendlake_control::id::{Ids, TenantId};
use sendlake_control::secret::MasterKey;
use sendlake_ingest::event::{Event, EventType, LoggedEvent};
use sendlake_ingest::outbox::{Outbox, OutboxError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::machine;

const NOON: Timestamp = Timestamp(1_795_348_800_000_000);
/// Before anything is counted: connections are made, and the hung endpoint's circuit has opened.
const WARM_UP: Duration = Duration::from_secs(20);

#[derive(Args, Debug)]
pub(crate) struct WebhooksArgs {
    /// Events in a second, of all endpoints together.
    #[arg(long, default_value_t = 5_000)]
    rate: usize,
    #[arg(long, default_value_t = 20)]
    endpoints: usize,
    /// How long each of the two is measured, in seconds.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Count from the first event: what is measured begins with the hung endpoint's circuit closed.
    #[arg(long)]
    cold: bool,
}

#[expect(clippy::print_stdout, reason = "the answer")]
pub(crate) async fn run(args: WebhooksArgs) -> anyhow::Result<()> {
    ensure!(args.endpoints > 1 && args.rate > 0, "there must be two endpoints at least, and a rate");
    println!("{} · {} events/s to {} endpoints of one tenant", machine::line(), args.rate, args.endpoints);
    for hung in [false, true] {
        let measured = measure(&args, hung).await?;
        println!(
            "{}: {:.0} of {:.0} events/s arrived; on their way, p50 {:.1} ms (worst endpoint {:.1}), p99 {:.1} ms (worst endpoint {:.1}), at most {:.0} ms",
            if hung { "one hangs, the others" } else { "all answer" },
            measured.arrived_per_s,
            measured.sent_per_s,
            measured.p50_ms,
            measured.worst_p50_ms,
            measured.p99_ms,
            measured.worst_p99_ms,
            measured.max_ms,
        );
    }
    Ok(())
}

struct Measured {
    sent_per_s: f64,
    arrived_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    worst_p50_ms: f64,
    worst_p99_ms: f64,
    max_ms: f64,
}

async fn measure(args: &WebhooksArgs, hung: bool) -> anyhow::Result<Measured> {
    let dir = std::env::temp_dir().join(format!("sendlake-bench-webhooks-{}", std::process::id()));
    crate::make_anew(&dir)?;
    let ids = Ids { clock: Arc::new(Steady(Instant::now())), entropy: Arc::new(SeededEntropy::new(7)) };
    let master = MasterKey::load_or_create(&dir.join("master.key"), ids.entropy.as_ref())?;
    let control = Arc::new(ControlStore::open(&dir.join("control.db"), master, ids.clone()).await?);
    let tenant = TenantId::new("bench")?;
    control.create_tenant("bench", &tenant, "Bench").await?;
    let got = Arc::new(Got::new(args.endpoints, ids.clone()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    let routes = Router::new().route("/{endpoint}/{mode}", post(take)).with_state(got.clone());
    let sink = tokio::spawn(async move { axum::serve(listener, routes).await });
    for endpoint in 0..args.endpoints {
        let mode = if hung && endpoint == 0 { "hang" } else { "take" };
        let filter = EventFilter { campaign_ids: vec![format!("c{endpoint}")], ..EventFilter::default() };
        let url = format!("http://127.0.0.1:{port}/{endpoint}/{mode}");
        let settings = EndpointSettings { url, filter, ..EndpointSettings::default() };
        control.add_endpoint("bench", &tenant, &settings).await?;
    }
    let log =
        Arc::new(Log { incarnation: ids.uuid(), events: RwLock::default(), last: watch::Sender::new(0) });
    let settings = SendSettings { allow_http: true, ..SendSettings::default() };
    let sender = Sender::new(Arc::new(Anywhere), ids.clock.clone(), settings)?;
    let stop = CancellationToken::new();
    let dispatcher = Dispatcher::new(DispatchParts {
        control: control.clone(),
        outbox: log.clone(),
        lake: log.clone(),
        sender: Arc::new(sender),
        notices: Arc::new(Silent),
        ids: ids.clone(),
        settings: DispatchSettings::default(),
    });
    let dispatching = tokio::spawn(dispatcher.run(stop.clone()));
    tokio::time::sleep(Duration::from_secs(3)).await;
    if !args.cold {
        feed(&log, &ids, &tenant, args, WARM_UP).await;
        got.clear();
    }
    let during = Duration::from_secs(args.seconds);
    let sent = feed(&log, &ids, &tenant, args, during).await;
    // what is under way still counts
    tokio::time::sleep(Duration::from_secs(3)).await;
    let measured = got.measured(usize::from(hung), sent, args, during);
    stop.cancel();
    dispatching.await?;
    sink.abort();
    control.close().await;
    std::fs::remove_dir_all(&dir)?;
    Ok(measured)
}

/// Logs events at the rate, each for the next endpoint; returns how many.
async fn feed(log: &Log, ids: &Ids, tenant: &TenantId, args: &WebhooksArgs, during: Duration) -> usize {
    let began = Instant::now();
    let mut sent = 0;
    while began.elapsed() < during {
        tokio::time::sleep(Duration::from_millis(5)).await;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "some hundred thousand events"
        )]
        let due = (began.elapsed().as_secs_f64() * args.rate as f64) as usize;
        log.add((sent..due).map(|n| {
            let mut event = Event::new(ids.uuid(), EventType::Delivered, ids.now(), tenant.clone());
            event.message_id = Some(ids.uuid().to_string());
            event.campaign_id = Some(format!("c{}", n % args.endpoints));
            event.stream = Some("marketing".into());
            event.recipient = Some(format!("somebody{n}@customer.example"));
            event.recipient_domain = Some("customer.example".into());
            event.provider = Some("google".into());
            event.reply_code = Some(250);
            event.reply_text = Some("250 2.0.0 OK 1795348800 af79cd13be357-sm".into());
            event.mx_host = Some("gmail-smtp-in.l.google.com".into());
            event
        }));
        sent = sent.max(due);
    }
    sent
}

/// What arrived: for each endpoint how long each event was on its way, in microseconds.
struct Got {
    ids: Ids,
    took: Vec<Mutex<Vec<i64>>>,
}

impl Got {
    fn new(endpoints: usize, ids: Ids) -> Self {
        Self { ids, took: (0..endpoints).map(|_| Mutex::default()).collect() }
    }

    fn clear(&self) {
        self.took.iter().for_each(|took| took.lock().clear());
    }

    #[expect(clippy::cast_precision_loss, reason = "rates and milliseconds")]
    fn measured(&self, first: usize, sent: usize, args: &WebhooksArgs, during: Duration) -> Measured {
        let sorted = |mut took: Vec<i64>| {
            took.sort_unstable();
            took
        };
        let at = |took: &[i64], percent: usize| {
            let place = took.len().saturating_sub(1) * percent / 100;
            took.get(place).copied().unwrap_or_default() as f64 / 1_000.0
        };
        let each: Vec<Vec<i64>> =
            self.took.iter().skip(first).map(|took| sorted(took.lock().clone())).collect();
        let all = sorted(each.iter().flatten().copied().collect());
        let worst = |percent| each.iter().map(|took| at(took, percent)).fold(0.0, f64::max);
        let share = (args.endpoints - first) as f64 / args.endpoints as f64;
        Measured {
            sent_per_s: sent as f64 * share / during.as_secs_f64(),
            arrived_per_s: all.len() as f64 / during.as_secs_f64(),
            p50_ms: at(&all, 50),
            p99_ms: at(&all, 99),
            worst_p50_ms: worst(50),
            worst_p99_ms: worst(99),
            max_ms: at(&all, 100),
        }
    }
}

async fn take(
    State(got): State<Arc<Got>>,
    Path((endpoint, mode)): Path<(usize, String)>,
    body: Bytes,
) -> StatusCode {
    if mode == "hang" {
        std::future::pending::<()>().await;
    }
    let now = got.ids.now();
    let said = String::from_utf8_lossy(&body);
    let at =
        said.split_once("\"occurred_at\":\"").and_then(|(_, rest)| rest.get(..27)).and_then(Timestamp::parse);
    if let (Some(at), Some(took)) = (at, got.took.get(endpoint)) {
        took.lock().push(now.0 - at.0);
    }
    StatusCode::NO_CONTENT
}

/// Microseconds since the start, from noon on.
#[derive(Debug)]
struct Steady(Instant);

impl Clock for Steady {
    fn now(&self) -> Timestamp {
        Timestamp(NOON.0 + i64::try_from(self.0.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}

struct Anywhere;

#[async_trait]
impl Guard for Anywhere {
    fn allows(&self, _: IpAddr) -> bool {
        true
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        Err(format!("{name} is not looked up here"))
    }
}

struct Silent;

#[async_trait]
impl Notices for Silent {
    async fn tell(&self, _: &UntoldEndpoint) -> Result<(), String> {
        Ok(())
    }
}

/// A log in memory, which no event leaves.
struct Log {
    incarnation: Uuid,
    events: RwLock<Vec<LoggedEvent>>,
    last: watch::Sender<u64>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({} events)", self.events.read().len())
    }
}

impl Log {
    fn add(&self, events: impl Iterator<Item = Event>) {
        let mut log = self.events.write();
        for event in events {
            let lsn = u64::try_from(log.len()).unwrap_or(u64::MAX) + 1;
            log.push(LoggedEvent { incarnation: self.incarnation, node_id: "bench".into(), lsn, event });
        }
        let last = u64::try_from(log.len()).unwrap_or(u64::MAX);
        drop(log);
        self.last.send_replace(last);
    }

    fn after(&self, after_lsn: u64, max: usize) -> Vec<LoggedEvent> {
        let log = self.events.read();
        let first = usize::try_from(after_lsn).unwrap_or(usize::MAX);
        log.iter().skip(first).take(max).cloned().collect()
    }
}

#[async_trait]
impl Outbox for Log {
    fn incarnation(&self) -> Uuid {
        self.incarnation
    }

    fn read(&self, after_lsn: u64, max_rows: usize) -> Result<Vec<LoggedEvent>, OutboxError> {
        Ok(self.after(after_lsn, max_rows))
    }

    async fn wait(&self, after_lsn: u64) {
        let _ = self.last.subscribe().wait_for(|last| *last > after_lsn).await;
    }

    fn last_lsn(&self) -> Option<u64> {
        Some(*self.last.borrow())
    }

    async fn trim(&self, _: u64) -> Result<(), OutboxError> {
        Ok(())
    }
}

/// Nothing leaves the log, so nobody asks further.
#[async_trait]
impl Lake for Log {
    async fn slice(
        &self,
        _: &TenantId,
        _: Uuid,
        _: u64,
        _: u64,
        _: usize,
    ) -> Result<Vec<LoggedEvent>, Unreadable> {
        Ok(Vec::new())
    }

    async fn oldest_lsn(&self, _: Uuid, _: u64) -> Result<Option<u64>, Unreadable> {
        Ok(None)
    }

    async fn by_lsn(&self, _: &TenantId, _: Uuid, _: &[u64]) -> Result<Vec<LoggedEvent>, Unreadable> {
        Ok(Vec::new())
    }

    async fn selected(
        &self,
        _: &TenantId,
        _: &ReplaySelection,
        _: Option<Place>,
        _: usize,
    ) -> Result<Vec<LoggedEvent>, Unreadable> {
        Ok(Vec::new())
    }
}
