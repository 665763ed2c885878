//! The dispatcher over a log in memory, with receivers on loopback: what they see when events leave the spool's store, when
//! the lake forgets, when a person is erased, when one receiver hangs.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;
use sendlake_control::ControlStore;
use sendlake_control::clock::{Clock, SeededEntropy, Timestamp};
use sendlake_control::endpoint::progress::UndeliveredState;
use sendlake_control::endpoint::replay::{ReplaySelection, ReplayState};
use sendlake_control::endpoint::{Endpoint, EndpointSettings, EndpointState, UntoldEndpoint};
use sendlake_control::id::{Ids, TenantId};
use sendlake_control::secret::MasterKey;
use sendlake_ingest::event::{Event, EventType, LoggedEvent};
use sendlake_ingest::outbox::{Outbox, OutboxError};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::dispatch::{DispatchParts, DispatchSettings, Dispatcher, Notices};
use super::lane::LaneLimits;
use super::log::{Lake, Place, Unreadable};
use super::schedule::Schedule;
use super::send::{SendSettings, Sender};
use crate::guard::Guard;

const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

#[derive(Debug)]
struct Steady(Instant);

impl Clock for Steady {
    fn now(&self) -> Timestamp {
        Timestamp(NOON.0 + i64::try_from(self.0.elapsed().as_micros()).unwrap())
    }
}

/// A spool and a lake: what is trimmed is in the lake alone, what is forgotten nowhere.
struct Log {
    incarnation: Uuid,
    events: Mutex<BTreeMap<u64, LoggedEvent>>,
    trimmed: Mutex<u64>,
    last: watch::Sender<u64>,
    asked: AtomicUsize,
}

impl Log {
    fn add(&self, ids: &Ids, tenant: &TenantId, message: &str, kind: EventType) -> u64 {
        let mut event = Event::new(ids.uuid(), kind, ids.now(), tenant.clone());
        event.message_id = Some(message.into());
        let mut events = self.events.lock();
        let lsn = *self.last.borrow() + 1;
        events.insert(lsn, LoggedEvent { incarnation: self.incarnation, node_id: "n".into(), lsn, event });
        drop(events);
        self.last.send_replace(lsn);
        lsn
    }

    fn found(&self, tenant: &TenantId, wanted: impl Fn(&LoggedEvent) -> bool) -> Vec<LoggedEvent> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let events = self.events.lock();
        events.values().filter(|row| row.event.tenant_id == *tenant && wanted(row)).cloned().collect()
    }
}

#[async_trait]
impl Outbox for Log {
    fn incarnation(&self) -> Uuid {
        self.incarnation
    }

    fn read(&self, after_lsn: u64, max_rows: usize) -> Result<Vec<LoggedEvent>, OutboxError> {
        let after_lsn = after_lsn.max(*self.trimmed.lock());
        let events = self.events.lock();
        Ok(events.range(after_lsn + 1..).take(max_rows).map(|(_, event)| event.clone()).collect())
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

#[async_trait]
impl Lake for Log {
    async fn slice(
        &self,
        tenant: &TenantId,
        _: Uuid,
        after_lsn: u64,
        through_lsn: u64,
        max: usize,
    ) -> Result<Vec<LoggedEvent>, Unreadable> {
        let mut found = self.found(tenant, |row| row.lsn > after_lsn && row.lsn <= through_lsn);
        found.truncate(max);
        Ok(found)
    }

    async fn oldest_lsn(&self, _: Uuid, after_lsn: u64) -> Result<Option<u64>, Unreadable> {
        Ok(self.events.lock().range(after_lsn + 1..).next().map(|(lsn, _)| *lsn))
    }

    async fn by_lsn(&self, tenant: &TenantId, _: Uuid, lsns: &[u64]) -> Result<Vec<LoggedEvent>, Unreadable> {
        Ok(self.found(tenant, |row| lsns.contains(&row.lsn)))
    }

    async fn selected(
        &self,
        tenant: &TenantId,
        selection: &ReplaySelection,
        after: Option<Place>,
        max: usize,
    ) -> Result<Vec<LoggedEvent>, Unreadable> {
        let place = |row: &LoggedEvent| Place {
            recorded_at: row.event.recorded_at,
            lsn: row.lsn,
            event_id: row.event.event_id,
        };
        let types = &selection.event_types;
        let mut found = self.found(tenant, |row| {
            after.is_none_or(|after| place(row) > after)
                && (types.is_empty() || types.iter().any(|name| name == row.event.event_type.as_str()))
        });
        found.sort_by_key(place);
        found.truncate(max);
        Ok(found)
    }
}

/// What receivers saw: for each the ids and messages in order, and the most requests at once.
#[derive(Default)]
struct Got {
    modes: Mutex<BTreeMap<String, StatusCode>>,
    taken: Mutex<BTreeMap<String, Vec<(String, String)>>>,
    replays: AtomicUsize,
    at_once: AtomicUsize,
    at_once_max: AtomicUsize,
}

async fn take(
    State(got): State<Arc<Got>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: String,
) -> StatusCode {
    let at_once = got.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    got.at_once_max.fetch_max(at_once, Ordering::SeqCst);
    if name == "hung" {
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    tokio::time::sleep(Duration::from_millis(2)).await;
    let status = got.modes.lock().get(&name).copied().unwrap_or(StatusCode::OK);
    if status.is_success() {
        let said: serde_json::Value = serde_json::from_str(&body).unwrap();
        let message = said["data"]["message_id"].as_str().unwrap().to_owned();
        let id = headers["webhook-id"].to_str().unwrap().to_owned();
        got.taken.lock().entry(name).or_default().push((id, message));
        got.replays.fetch_add(usize::from(headers.contains_key("webhook-replay")), Ordering::Relaxed);
    }
    got.at_once.fetch_sub(1, Ordering::SeqCst);
    status
}

struct Anywhere;

#[async_trait]
impl Guard for Anywhere {
    fn allows(&self, _: IpAddr) -> bool {
        true
    }

    async fn addresses(&self, _: &str) -> Result<Vec<IpAddr>, String> {
        Err("there are no names here".into())
    }
}

#[derive(Default)]
struct Told(Mutex<Vec<bool>>);

#[async_trait]
impl Notices for Told {
    async fn tell(&self, endpoint: &UntoldEndpoint) -> Result<(), String> {
        self.0.lock().push(endpoint.is_disabled);
        Ok(())
    }
}

struct World {
    _dir: TempDir,
    ids: Ids,
    control: Arc<ControlStore>,
    log: Arc<Log>,
    got: Arc<Got>,
    told: Arc<Told>,
    tenant: TenantId,
    port: u16,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ids = Ids { clock: Arc::new(Steady(Instant::now())), entropy: Arc::new(SeededEntropy::new(3)) };
        let master = MasterKey::load_or_create(&dir.path().join("key"), ids.entropy.as_ref()).unwrap();
        let control = ControlStore::open(&dir.path().join("control.db"), master, ids.clone()).await.unwrap();
        let tenant = TenantId::new("acme").unwrap();
        control.create_tenant("test", &tenant, "Acme").await.unwrap();
        let got = Arc::new(Got::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let routes = Router::new().route("/{name}", post(take)).with_state(got.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let log = Arc::new(Log {
            incarnation: Uuid::from_u128(1),
            events: Mutex::default(),
            trimmed: Mutex::default(),
            last: watch::Sender::new(0),
            asked: AtomicUsize::new(0),
        });
        let told = Arc::new(Told::default());
        Self { _dir: dir, ids, control: Arc::new(control), log, got, told, tenant, port }
    }

    async fn endpoint(&self, name: &str) -> Endpoint {
        let url = format!("http://127.0.0.1:{}/{name}", self.port);
        let settings = EndpointSettings { url, ..EndpointSettings::default() };
        let made = self.control.add_endpoint("test", &self.tenant, &settings).await.unwrap();
        self.control.require_endpoint(None, &made.endpoint_id).await.unwrap()
    }

    fn dispatch(&self, settings: DispatchSettings) -> (CancellationToken, JoinHandle<()>) {
        let send = SendSettings {
            allow_http: true,
            answer_max: Duration::from_millis(500),
            ..SendSettings::default()
        };
        let sender = Sender::new(Arc::new(Anywhere), self.ids.clock.clone(), send).unwrap();
        let dispatcher = Dispatcher::new(DispatchParts {
            control: self.control.clone(),
            outbox: self.log.clone(),
            lake: self.log.clone(),
            sender: Arc::new(sender),
            notices: self.told.clone(),
            ids: self.ids.clone(),
            settings,
        });
        let stop = CancellationToken::new();
        (stop.clone(), tokio::spawn(dispatcher.run(stop)))
    }

    fn add(&self, message: &str, kind: EventType) -> u64 {
        self.log.add(&self.ids, &self.tenant, message, kind)
    }

    fn taken(&self, name: &str) -> Vec<(String, String)> {
        self.got.taken.lock().get(name).cloned().unwrap_or_default()
    }

    async fn until(&self, what: &str, holds: impl AsyncFn() -> bool) {
        for _ in 0..600 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not within 30 s: {what}");
    }

    async fn arrived(&self, name: &str, events: usize) {
        self.until(&format!("{events} at {name}"), async || self.taken(name).len() >= events).await;
    }
}

fn quick() -> DispatchSettings {
    let schedule = Schedule { retry_s: vec![1], probe_s: 1, probe_max_s: 2, ..Schedule::default() };
    DispatchSettings { schedule, replay_per_s: 1_000, ..DispatchSettings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_dispatcher_goes_on_from_the_lake_and_says_what_that_forgot() {
    let world = World::new().await;
    let endpoint = world.endpoint("in").await;
    let (stop, running) = world.dispatch(quick());
    tokio::time::sleep(Duration::from_millis(200)).await;
    for n in 0..50 {
        world.add(&format!("m{n}"), EventType::Delivered);
    }
    world.arrived("in", 50).await;
    stop.cancel();
    running.await.unwrap();
    for n in 50..120 {
        world.add(&format!("m{n}"), EventType::Delivered);
    }
    // the spool's store has none of them any more; the lake lost the first ten
    *world.log.trimmed.lock() = 120;
    world.log.events.lock().retain(|lsn, _| *lsn <= 50 || *lsn > 60);
    let (stop, running) = world.dispatch(quick());
    world.arrived("in", 110).await;
    world.add("m120", EventType::Delivered);
    world.arrived("in", 111).await;
    stop.cancel();
    running.await.unwrap();
    let ids: HashSet<String> = world.taken("in").into_iter().map(|(id, _)| id).collect();
    assert_eq!((ids.len(), world.taken("in").len()), (111, 111), "nothing came twice");
    let position = world.control.endpoint_positions(&endpoint.endpoint_id).await.unwrap().remove(0);
    assert_eq!((position.cursor_lsn, position.delivered, position.skipped), (121, 111, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_receiver_delays_no_other_and_bounds_hold() {
    let world = World::new().await;
    for name in ["hung", "a", "b", "c"] {
        world.endpoint(name).await;
    }
    let lane = LaneLimits { in_flight_max: 4, ..LaneLimits::default() };
    let (stop, running) = world.dispatch(DispatchSettings { lane, tenant_in_flight_max: 10, ..quick() });
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let began = Instant::now();
    for n in 0..300 {
        world.add(&format!("m{}", n % 100), EventType::Delivered);
    }
    for name in ["a", "b", "c"] {
        world.arrived(name, 300).await;
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // four hang there, and the client gives those up before the server does
    let most = world.got.at_once_max.load(Ordering::SeqCst);
    assert!(most > 4, "{most}");
    stop.cancel();
    running.await.unwrap();
    for name in ["a", "b", "c"] {
        let taken = world.taken(name);
        let order: Vec<String> =
            taken.into_iter().filter(|(_, message)| message == "m7").map(|(id, _)| id).collect();
        assert!(order.len() == 3 && order.is_sorted(), "ids are made in order");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_erased_while_it_waits_is_not_sent_and_the_rest_comes_when_the_receiver_is_back() {
    let world = World::new().await;
    let endpoint = world.endpoint("in").await;
    world.got.modes.lock().insert("in".into(), StatusCode::INTERNAL_SERVER_ERROR);
    let (stop, running) = world.dispatch(quick());
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    let lsns: Vec<u64> = (0..30).map(|n| world.add(&format!("m{n}"), EventType::Opened)).collect();
    let id = &endpoint.endpoint_id;
    let open =
        async || world.control.endpoint_positions(id).await.unwrap().iter().any(|place| place.circuit_open);
    world.until("the circuit to open", open).await;
    let state = UndeliveredState::Parked;
    let parked = world.control.undelivered(id, state, None, None, 100).await.unwrap();
    assert!(!parked.is_empty() && parked.len() < 30, "{}", parked.len());
    // one that is parked; the lake alone has the others
    let (first, last) = (parked[0].lsn, lsns[29]);
    world.log.events.lock().retain(|lsn, _| *lsn != first);
    *world.log.trimmed.lock() = last;
    world.got.modes.lock().clear();
    world.arrived("in", 29).await;
    world
        .until("the end of what is parked", async || {
            world.control.count_undelivered(id).await.unwrap() == (0, 0)
        })
        .await;
    stop.cancel();
    running.await.unwrap();
    let messages: HashSet<String> = world.taken("in").into_iter().map(|(_, message)| message).collect();
    let erased = parked[0].message_id.as_deref().unwrap();
    assert!(messages.len() == 29 && !messages.contains(erased), "{messages:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_gone_is_told_once_resumed_and_replayed() {
    let world = World::new().await;
    let endpoint = world.endpoint("in").await;
    world.got.modes.lock().insert("in".into(), StatusCode::GONE);
    let (stop, running) = world.dispatch(quick());
    tokio::time::sleep(Duration::from_millis(200)).await;
    for n in 0..20 {
        world.add(&format!("m{n}"), if n % 2 == 0 { EventType::Opened } else { EventType::Clicked });
    }
    world.until("the notice", async || !world.told.0.lock().is_empty()).await;
    let state = async || world.control.require_endpoint(None, &endpoint.endpoint_id).await.unwrap().state;
    assert_eq!(state().await, EndpointState::Disabled);
    // what is disabled waits, a replay of it too
    let selection = ReplaySelection { event_types: vec!["opened".into()], ..ReplaySelection::default() };
    let replay = world.control.add_replay("test", &endpoint, &selection).await.unwrap();
    let of_replay = async || world.control.replay(&endpoint.endpoint_id, &replay.replay_id).await.unwrap();
    world.until("the replay to wait", async || of_replay().await.last_error.is_some()).await;
    assert_eq!(of_replay().await.state, ReplayState::Running);
    world.got.modes.lock().clear();
    world.control.set_endpoint_state("test", &endpoint, EndpointState::Active, None).await.unwrap();
    world.until("the replay to end", async || of_replay().await.state == ReplayState::Done).await;
    world.arrived("in", 30).await;
    assert_eq!((of_replay().await.delivered, world.got.replays.load(Ordering::Relaxed)), (10, 10));
    assert_eq!(*world.told.0.lock(), [true, false]);
    stop.cancel();
    running.await.unwrap();
    let ids: HashSet<String> = world.taken("in").into_iter().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), 20, "a replay has the ids that there were");
}
