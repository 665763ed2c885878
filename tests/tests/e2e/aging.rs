//! A server under steady load for a while: memory and open files stay where they were. Named so that it starts early,
//! and the other tests run beside it.

use std::time::{Duration, Instant};

use sendlake_tests::home::Home;
use sendlake_tests::http::Http;

use crate::message;

/// Messages a second: what leaks, leaks for each of them, and the other tests want the cores too.
const MESSAGES_PER_S: u64 = 25;

/// How much the line fitted through the readings may rise from its start to its end. A longer run is held to a smaller
/// slope.
const RISE_KIB_MAX: f64 = 12_288.0;

/// By how many the fewest open files of the later half may exceed those of the earlier one. Connections come and go; what
/// leaks stays.
const FILES_MORE_MAX: usize = 4;

struct Reading {
    at_s: f64,
    memory_kib: f64,
    files: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aging_under_load_takes_no_more_memory_and_no_more_files() {
    let seconds = std::env::var("SENDLAKE_SOAK_S").map_or(120, |text| text.parse().expect("SENDLAKE_SOAK_S"));
    let sink = super::torture::sink(1);
    // Commits as far apart as in life: what a lake of many small files costs is the business of maintenance.
    let home = Home::new()
        .route("sink.test", sink.addr())
        .set("lake.commit_interval_ms", 10_000)
        .set("policy.enforce", true);
    let key = home.tenant("acme", "acme.example");
    let server = home.start().await;
    server.http.ready(&key, "acme.example").await;

    let (started, length) = (Instant::now(), Duration::from_secs(seconds));
    let load = tokio::spawn(load(server.http.clone(), key, started, length));
    let mut readings = Vec::new();
    while started.elapsed() < length {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // the first half fills caches, pools and the allocator's arenas
        if started.elapsed() >= length / 2 {
            readings.push(read(server.pid(), started));
        }
    }
    let posted = load.await.unwrap();
    assert!(posted > seconds * MESSAGES_PER_S / 4, "the load was real: {posted} messages");
    server.stop().await;

    let slope = slope(&readings);
    let rise = slope * (readings[readings.len() - 1].at_s - readings[0].at_s);
    let (middle, end) = readings.split_at(readings.len() / 2);
    let fewest = |readings: &[Reading]| readings.iter().map(|reading| reading.files).min().unwrap();
    eprintln!(
        "soak: {seconds} s, {posted} messages: memory {:.0} KiB at the end, rising by {slope:.1} KiB/s, {rise:.0} KiB \
         over the time measured; {} open files at the least, {} later",
        end[end.len() - 1].memory_kib,
        fewest(middle),
        fewest(end),
    );
    assert!(rise <= RISE_KIB_MAX, "memory rose by {rise:.0} KiB in {seconds} s ({slope:.1} KiB/s)");
    assert!(
        fewest(end) <= fewest(middle) + FILES_MORE_MAX,
        "{} open files, then {}",
        fewest(middle),
        fewest(end)
    );
}

/// Posts, and asks now and then. Returns how many messages were accepted.
async fn load(http: Http, key: String, started: Instant, length: Duration) -> u64 {
    let mut posted = 0;
    let mut beat = tokio::time::interval(Duration::from_millis(1_000 / MESSAGES_PER_S));
    while started.elapsed() < length {
        beat.tick().await;
        let id = http.send(&key, &message(&format!("bob{posted}@sink.test"))).await.remove(0);
        posted += 1;
        if posted % 50 == 0 {
            assert_eq!(http.history(&key, &id).await["message_id"], id.as_str());
            let sql = "SELECT event_type, count(*) AS n FROM events GROUP BY event_type";
            assert_eq!(http.sql(&key, sql).await.status, 200);
        }
    }
    posted
}

fn read(pid: u32, started: Instant) -> Reading {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    Reading {
        at_s: started.elapsed().as_secs_f64(),
        memory_kib: line.trim().trim_end_matches(" kB").parse().unwrap(),
        files: std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count(),
    }
}

/// KiB a second, by least squares.
fn slope(readings: &[Reading]) -> f64 {
    let count = readings.len() as f64;
    let mean = |of: fn(&Reading) -> f64| readings.iter().map(of).sum::<f64>() / count;
    let (at, memory) = (mean(|reading| reading.at_s), mean(|reading| reading.memory_kib));
    let above: f64 = readings.iter().map(|r| (r.at_s - at) * (r.memory_kib - memory)).sum();
    let below: f64 = readings.iter().map(|r| (r.at_s - at).powi(2)).sum();
    above / below
}
