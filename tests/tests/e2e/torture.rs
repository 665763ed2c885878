//! kill -9, again and again, at points that a seed chooses, of two nodes on one lake: nothing accepted is lost, nothing
//! is recorded twice. The same with the power cut, in `power_cut`.

mod check;
mod power_cut;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sendlake::demo::receivers::{Keep, Profile, Receiver};
use sendlake_tests::home::Home;
use sendlake_tests::http::{Http, ids};
use sendlake_tests::random::Random;
use sendlake_tests::server::Server;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::message;

/// Clients of each node.
const CLIENTS: usize = 4;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

fn recipient(number: usize) -> String {
    format!("bob{number}@sink.test")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torture_by_kill_9_loses_nothing_and_records_nothing_twice() {
    let messages = setting("SENDLAKE_TORTURE_MESSAGES", 5_000);
    let kills = setting("SENDLAKE_TORTURE_KILLS", 10);
    let seed = setting("SENDLAKE_TORTURE_SEED", 1);
    let sink = sink(seed);
    let lake = tempfile::Builder::new().prefix("sl").tempdir().unwrap();
    let home = |node: usize| {
        torn(&sink)
            .set("node.id", format!("\"n{node}\""))
            .set("storage.lake_url", format!("{:?}", lake.path().display().to_string()))
    };
    let mut ordeal = Ordeal::start(vec![home(1), home(2)], sink, messages).await;

    let mut random = Random::new(seed);
    let mut points: Vec<_> = (0..kills).map(|_| 1 + random.below(messages * 17 / 10)).collect();
    points.sort_unstable();
    for point in points {
        ordeal.reach(point).await;
        let victim = random.below(2);
        ordeal.nodes[victim].kill();
        ordeal.nodes[victim].start().await;
    }
    let settled = ordeal.settle().await;
    let (in_doubt, repeats) = settled.check();
    eprintln!(
        "torture: seed {seed}, {kills} kills of two nodes in {messages} messages: all accepted after {:.1} s, settled \
         after {:.1} s; {} events in the lake, {in_doubt} attempts in doubt, {repeats} of them repeated on the wire; \
         checked after {:.1} s",
        settled.accepted_in.as_secs_f64(),
        settled.settled_in.as_secs_f64(),
        settled.homes[0].count("SELECT count(*) AS n FROM events"),
        settled.started.elapsed().as_secs_f64(),
    );
}

/// Takes everything, as fast as it comes.
pub(super) fn sink(seed: usize) -> Receiver {
    let clock = sendlake::system::ids().clock;
    let gmail = Profile { reply_delay: Duration::ZERO, slow_delay: Duration::ZERO, ..Profile::gmail() };
    Receiver::start(gmail.record(Keep::Digest, clock), seed as u64).unwrap()
}

/// A node that sends to the sink, and commits often.
fn torn(sink: &Receiver) -> Home {
    Home::new()
        .route("sink.test", sink.addr())
        .set("lake.commit_interval_ms", 200)
        .set("policy.enforce", true)
}

/// A server that dies and comes back, and the clients that do not notice.
struct Node {
    home: Home,
    server: Option<Server>,
    announce: watch::Sender<Http>,
}

impl Node {
    fn kill(&mut self) {
        self.server.take().unwrap().kill();
    }

    async fn start(&mut self) {
        let server = self.home.start().await;
        self.announce.send(server.http.clone()).unwrap();
        self.server = Some(server);
    }

    fn log(&self) -> String {
        self.server.as_ref().map(Server::log).unwrap_or_default()
    }
}

/// Nodes under load.
struct Ordeal {
    nodes: Vec<Node>,
    sink: Receiver,
    clients: Vec<JoinHandle<Vec<(usize, String)>>>,
    accepted: Arc<AtomicUsize>,
    messages: usize,
    started: Instant,
}

impl Ordeal {
    /// Starts servers, and clients that post `messages` in all.
    async fn start(homes: Vec<Home>, sink: Receiver, messages: usize) -> Self {
        let (mut nodes, mut clients) = (Vec::new(), Vec::new());
        let accepted = Arc::new(AtomicUsize::new(0));
        let (step, started) = (homes.len() * CLIENTS, Instant::now());
        for (place, home) in homes.into_iter().enumerate() {
            let key = home.tenant("acme", "acme.example");
            let server = home.start().await;
            server.http.ready(&key, "acme.example").await;
            let (announce, announced) = watch::channel(server.http.clone());
            clients.extend((0..CLIENTS).map(|client| {
                let numbers = (place * CLIENTS + client..messages).step_by(step).collect();
                tokio::spawn(post(announced.clone(), key.clone(), numbers, accepted.clone()))
            }));
            nodes.push(Node { home, server: Some(server), announce });
        }
        Self { nodes, sink, clients, accepted, messages, started }
    }

    /// Waits until so much has happened. Each message counts once when it is accepted, and once when the sink has
    /// taken it.
    async fn reach(&self, point: usize) {
        let waiting = Instant::now();
        let progress =
            || self.accepted.load(Ordering::Relaxed) + usize::try_from(self.sink.stats().accepted).unwrap();
        while progress() < point {
            let logs = || self.nodes.iter().map(Node::log).collect::<String>();
            assert!(
                waiting.elapsed() < Duration::from_secs(60),
                "stuck at {} of {point}: {}",
                progress(),
                logs()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until everything is accepted and delivered, then stops the servers.
    async fn settle(self) -> Settled {
        let mut taken = Vec::new();
        for client in self.clients {
            taken.extend(client.await.unwrap());
        }
        let accepted_in = self.started.elapsed();
        let mut homes = Vec::new();
        for node in self.nodes {
            sendlake_tests::until("the queue to empty", Duration::from_secs(120), async || {
                let left = node.home.ok(&["queue", "ls", "--limit", "1", "--format", "json"]);
                (left.trim() == "[]").then_some(())
            })
            .await;
            assert!(!node.log().contains("panicked"), "{}", node.log());
            node.server.unwrap().stop().await;
            homes.push(node.home);
        }
        Settled {
            homes,
            sink: self.sink,
            taken,
            messages: self.messages,
            started: self.started,
            accepted_in,
            settled_in: self.started.elapsed(),
        }
    }
}

/// What is left to look at.
struct Settled {
    homes: Vec<Home>,
    sink: Receiver,
    /// Number and id of each accepted message.
    taken: Vec<(usize, String)>,
    messages: usize,
    started: Instant,
    accepted_in: Duration,
    settled_in: Duration,
}

impl Settled {
    /// Returns the number of attempts in doubt, and of those that were repeated on the wire.
    fn check(&self) -> (u64, usize) {
        let home = &self.homes[0];
        (check::lake(home, &self.taken, self.messages, self.homes.len()), check::wire(home, &self.sink))
    }
}

/// Posts messages until each is answered, under one Idempotency-Key each.
async fn post(
    mut server: watch::Receiver<Http>,
    key: String,
    numbers: Vec<usize>,
    accepted: Arc<AtomicUsize>,
) -> Vec<(usize, String)> {
    let mut taken = Vec::new();
    for number in numbers {
        let body = message(&recipient(number)).to_string();
        let idempotency = format!("torture-{number}");
        loop {
            let http = server.borrow_and_update().clone();
            let headers = [("idempotency-key", idempotency.as_str())];
            match http.try_post("/v1/messages", &key, &headers, body.clone()).await {
                Some(answer) if answer.status == 202 => {
                    taken.push((number, ids(&answer.json()).remove(0)));
                    accepted.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Some(answer) => assert_eq!(answer.status, 503, "{}", answer.text()),
                None => {} // no answer: nobody knows, so ask again
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    taken
}
