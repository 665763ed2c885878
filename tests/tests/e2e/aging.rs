//! A server under steady load for a while: memory and open files stay where they were. Named so that it starts early,
//! and the other tests run beside it.

mod load;

use std::time::{Duration, Instant};

use sendlake_tests::home::Home;
use sendlake_tests::peers::free_port;

/// How much the line fitted through the readings of the second half may rise. Pools fill for the first minutes: two
/// minutes find only gross leaks (680 KiB/s), half an hour those of 23 KiB/s, which is 1 KiB for each message.
const RISE_KIB_MAX: f64 = 20_480.0;
const RISE_OF_SHORT_KIB_MAX: f64 = 40_960.0;
/// A run shorter than this is all warming up.
const SHORT_S: u64 = 540;
/// What the server has of its own in the end, after however long; its caches are set small.
const MEMORY_KIB_MAX: f64 = 196_608.0;

/// glibc's own adjustments keep what large buffers took, and look like a leak for the first quarter of an hour.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "2"), ("MALLOC_MMAP_THRESHOLD_", "262144"), ("MALLOC_TRIM_THRESHOLD_", "1048576")];

/// By how many the fewest open files of the later half may exceed those of the earlier one. Connections come and go; what
/// leaks stays.
const FILES_MORE_MAX: usize = 4;

struct Reading {
    at_s: f64,
    /// What the process has allocated and touched: the pages that no file backs.
    memory_kib: f64,
    resident_kib: f64,
    files: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aging_under_load_takes_no_more_memory_and_no_more_files() {
    let seconds = std::env::var("SENDLAKE_SOAK_S").map_or(120, |text| text.parse().expect("SENDLAKE_SOAK_S"));
    let sink = super::torture::sink(1);
    let inbound = free_port();
    // Everything that a server does by the clock, it does often here: what a round leaves behind is left many times.
    let home = Home::new()
        .route("sink.test", sink.addr())
        .set("inbound.listen", format!("\"127.0.0.1:{inbound}\""))
        .set("lake.commit_interval_ms", 1_000)
        .set("maintenance.interval_s", 10)
        .set("maintenance.settle_s", 2)
        .set("rollups.interval_s", 5)
        .set("policy.enforce", true)
        .set("policy.publish_interval_s", 10)
        // Caches are full early: what grows then is no cache.
        .set("sql.footer_cache_bytes", 2 << 20)
        .set("spool.cache_bytes", 8 << 20)
        // What a compaction reads and sorts stops growing early, too.
        .set("maintenance.target_file_bytes", 1 << 20)
        .set("maintenance.memory_bytes", 32 << 20)
        // As `deploy/sendlake.service` sets it.
        .serve_with(
            ALLOCATOR.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        );
    let key = home.tenant("acme", "acme.example");
    let server = home.start().await;
    server.http.ready(&key, "acme.example").await;

    let (started, length) = (Instant::now(), Duration::from_secs(seconds));
    let load = load::Load { http: server.http.clone(), key, inbound, started, length };
    let load = tokio::spawn(load.run(sink));
    let mut readings = Vec::new();
    let mut told_minutes = 0;
    while started.elapsed() < length {
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Else the rest would be measured on an idle server.
        assert!(!load.is_finished() || started.elapsed() >= length, "the load ended early");
        let reading = read(server.pid(), started);
        if started.elapsed().as_secs() / 60 > told_minutes {
            told_minutes += 1;
            let Reading { memory_kib, resident_kib, files, .. } = reading;
            eprintln!(
                "soak: minute {told_minutes}: {memory_kib} KiB ({resident_kib} resident), {files} open files"
            );
        }
        // the first half fills caches, pools and the allocator's arenas
        if started.elapsed() >= length / 2 {
            readings.push(reading);
        }
    }
    let done = load.await.unwrap();
    assert!(done.posted > seconds * load::MESSAGES_PER_S / 4, "the load was real: {done:?}");
    assert!(done.delivered > done.posted / 2, "the load was real: {done:?}");
    assert!(done.questions > seconds / 4 && done.reports > seconds / 8, "the load was real: {done:?}");
    server.stop().await;

    let slope = slope(&readings);
    let rise = slope * (readings[readings.len() - 1].at_s - readings[0].at_s);
    let (middle, end) = readings.split_at(readings.len() / 2);
    let fewest = |readings: &[Reading]| readings.iter().map(|reading| reading.files).min().unwrap();
    eprintln!(
        "soak: {seconds} s, {done:?}: memory {:.0} KiB, {:.0} at the end, rising by {slope:.1} KiB/s, {rise:.0} KiB \
         over the time measured; {} open files at the least, {} later",
        readings[0].memory_kib,
        end[end.len() - 1].memory_kib,
        fewest(middle),
        fewest(end),
    );
    let rise_max = if seconds < SHORT_S { RISE_OF_SHORT_KIB_MAX } else { RISE_KIB_MAX };
    assert!(rise <= rise_max, "memory rose by {rise:.0} KiB in {seconds} s ({slope:.1} KiB/s)");
    let last_kib = end[end.len() - 1].memory_kib;
    assert!(last_kib <= MEMORY_KIB_MAX, "{last_kib} KiB after {seconds} s");
    assert!(
        fewest(end) <= fewest(middle) + FILES_MORE_MAX,
        "{} open files, then {}",
        fewest(middle),
        fewest(end)
    );
}

fn read(pid: u32, started: Instant) -> Reading {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    Reading {
        at_s: started.elapsed().as_secs_f64(),
        memory_kib: kib("RssAnon:"),
        resident_kib: kib("VmRSS:"),
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
