//! kill -9, again and again, at points that a seed chooses: nothing accepted is lost, nothing is recorded twice.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sendlake::demo::receivers::{Keep, Profile, Receiver};
use sendlake_tests::home::Home;
use sendlake_tests::http::{Http, ids};
use sendlake_tests::server::Server;
use tokio::sync::watch;

use crate::message;

const CLIENTS: usize = 8;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }
}

fn recipient(number: usize) -> String {
    format!("bob{number}@sink.test")
}

/// Posts every `CLIENTS`-th message until it is answered, under one Idempotency-Key each.
async fn client(
    mut server: watch::Receiver<Http>,
    key: String,
    first: usize,
    messages: usize,
    accepted: Arc<AtomicUsize>,
) -> Vec<(usize, String)> {
    let mut taken = Vec::new();
    for number in (first..messages).step_by(CLIENTS) {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn torture_by_kill_9_loses_nothing_and_records_nothing_twice() {
    let messages = setting("SENDLAKE_TORTURE_MESSAGES", 5_000);
    let kills = setting("SENDLAKE_TORTURE_KILLS", 10);
    let seed = setting("SENDLAKE_TORTURE_SEED", 1);
    let clock = sendlake::system::ids().clock;
    let gmail = Profile { reply_delay: Duration::ZERO, slow_delay: Duration::ZERO, ..Profile::gmail() };
    let sink = Receiver::start(gmail.record(Keep::Digest, clock), seed as u64).unwrap();
    let home = Home::new()
        .route("sink.test", sink.addr())
        .set("lake.commit_interval_ms", 200)
        .set("policy.enforce", true);
    let mut server: Server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;

    let started = Instant::now();
    let accepted = Arc::new(AtomicUsize::new(0));
    let (announce, announced) = watch::channel(server.http.clone());
    let clients: Vec<_> = (0..CLIENTS.min(messages))
        .map(|first| tokio::spawn(client(announced.clone(), key.clone(), first, messages, accepted.clone())))
        .collect();
    // progress counts each message once when it is accepted, and once when the sink has taken it
    let mut random = Random(seed as u64);
    let mut points: Vec<_> = (0..kills).map(|_| 1 + random.below(messages * 17 / 10)).collect();
    points.sort_unstable();
    for point in points {
        let progress = || accepted.load(Ordering::Relaxed) + usize::try_from(sink.stats().accepted).unwrap();
        let waiting = Instant::now();
        while progress() < point {
            assert!(
                waiting.elapsed() < Duration::from_secs(60),
                "stuck at {} of {point}: {}",
                progress(),
                server.log()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        server.kill();
        server = home.start().await;
        announce.send(server.http.clone()).unwrap();
    }
    let mut taken = Vec::new();
    for client in clients {
        taken.extend(client.await.unwrap());
    }
    let accepted_in = started.elapsed();
    sendlake_tests::until("the queue to empty", Duration::from_secs(60), async || {
        let left = home.ok(&["queue", "ls", "--limit", "1", "--format", "json"]);
        (left.trim() == "[]").then_some(())
    })
    .await;
    let settled_in = started.elapsed();
    assert!(!server.log().contains("panicked"), "{}", server.log());
    server.stop().await;

    let in_doubt = check_lake(&home, &taken, messages);
    let repeats = check_wire(&home, &sink);
    eprintln!(
        "torture: seed {seed}, {kills} kills in {messages} messages: all accepted after {:.1} s, settled after {:.1} s; \
         {in_doubt} attempts in doubt, {repeats} of them repeated on the wire; checked after {:.1} s",
        accepted_in.as_secs_f64(),
        settled_in.as_secs_f64(),
        started.elapsed().as_secs_f64(),
    );
}

/// What the lake must hold, whatever happened. Returns the number of attempts in doubt.
fn check_lake(home: &Home, taken: &[(usize, String)], messages: usize) -> u64 {
    let distinct: HashSet<_> = taken.iter().map(|(_, id)| id).collect();
    assert_eq!(distinct.len(), messages, "each message has an id of its own");
    let rows = home.sql(
        "SELECT message_id, max(recipient) AS recipient, min(seq) AS first, max(seq) AS last, count(seq) AS n, \
         count(DISTINCT seq) AS seqs, sum(CASE WHEN event_type = 'accepted' THEN 1 ELSE 0 END) AS accepted, \
         sum(CASE WHEN event_type IN ('delivered', 'bounced', 'expired', 'cancelled') THEN 1 ELSE 0 END) AS terminal \
         FROM events WHERE message_id IS NOT NULL GROUP BY message_id",
    );
    let by_id: HashMap<_, _> = rows.iter().map(|row| (row["message_id"].as_str().unwrap(), row)).collect();
    assert_eq!(by_id.len(), messages, "no message is missing, and none came from nowhere");
    for (number, id) in taken {
        let row = by_id.get(id.as_str()).unwrap_or_else(|| panic!("message {id} is not in the lake"));
        assert_eq!(row["recipient"], recipient(*number));
        assert_eq!(
            (&row["accepted"], &row["terminal"]),
            (&1.into(), &1.into()),
            "one beginning, one end: {row}"
        );
        assert!(row["first"] == 1 && row["last"] == row["n"] && row["seqs"] == row["n"], "seq 1..n: {row}");
    }
    let events = &home.sql("SELECT count(*) AS n, count(DISTINCT event_id) AS ids FROM events")[0];
    assert_eq!(events["n"], events["ids"], "no event twice");
    for log in home.sql(
        "SELECT incarnation, min(lsn) AS first, max(lsn) AS last, count(*) AS n, count(DISTINCT lsn) AS lsns \
         FROM events GROUP BY incarnation",
    ) {
        assert!(log["first"] == 1 && log["last"] == log["n"] && log["lsns"] == log["n"], "no hole: {log}");
    }
    home.count("SELECT count(*) AS n FROM events WHERE event_type = 'attempt_in_doubt'")
}

/// What went over the wire: once, except where the lake says that it may have been twice. Returns the repeats.
fn check_wire(home: &Home, sink: &Receiver) -> usize {
    let mut arrivals: BTreeMap<String, u64> = BTreeMap::new();
    for recorded in sink.recorded() {
        *arrivals.entry(recorded.forward_path).or_default() += 1;
    }
    let rows = home.sql(
        "SELECT recipient, sum(CASE WHEN event_type = 'delivered' THEN 1 ELSE 0 END) AS delivered, \
         sum(CASE WHEN event_type = 'attempt_in_doubt' THEN 1 ELSE 0 END) AS in_doubt \
         FROM events WHERE message_id IS NOT NULL GROUP BY recipient",
    );
    let mut repeats = 0;
    for row in &rows {
        let recipient = row["recipient"].as_str().unwrap();
        let arrived = arrivals.remove(recipient).unwrap_or_default();
        let (delivered, in_doubt) = (row["delivered"].as_u64().unwrap(), row["in_doubt"].as_u64().unwrap());
        assert!(arrived >= delivered && arrived <= delivered + in_doubt, "{arrived} arrivals: {row}");
        repeats += usize::from(arrived > delivered);
    }
    assert!(arrivals.is_empty(), "mail that nobody sent: {arrivals:?}");
    repeats
}
