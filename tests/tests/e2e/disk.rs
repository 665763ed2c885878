//! Little space, and none: new mail is refused, and what was accepted is kept and delivered.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sendlake::demo::receivers::{Keep, Profile, Receiver};
use sendlake_tests::full_disk::FullDisk;
use sendlake_tests::home::Home;
use sendlake_tests::peers::{free_port, is_root, missing};
use sendlake_tests::until;
use serde_json::{Value, json};

use crate::{message, message_with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn below_the_floor_new_mail_is_refused_and_queued_mail_goes_out() {
    let sink = Receiver::start(Profile::accept_all(), 1).unwrap();
    let port = free_port();
    let home = Home::new().route("sink.test", format!("127.0.0.1:{port}"));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let id = server.http.send(&key, &message("bob@sink.test")).await.remove(0);
    server.stop().await;

    let full = Home::new()
        .with_data(home.data())
        .route("sink.test", sink.addr())
        .set("spool.free_space_floor_bytes", 1_u64 << 60);
    let server = full.start().await;
    let answer = server.http.post("/v1/messages", &key, &[], message("eve@sink.test").to_string()).await;
    assert_eq!(answer.problem(), (503, "free_space_low".into(), String::new()));
    assert!(answer.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    server.http.outcome(&key, &id, "delivered").await;
    server.stop().await;
    assert_eq!(full.events_by_type()["accepted"], 1);
}

/// A file system of its own, as large as it is told. Unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: PathBuf, size: &str) -> Option<Self> {
        std::fs::create_dir_all(&path).unwrap();
        let options = format!("size={size}");
        let mounted = is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(&path)
                .output()
                .is_ok_and(|output| output.status.success());
        mounted.then_some(Self(path))
    }

    fn resize(&self, size: &str) {
        let options = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_really_full_loses_nothing_that_was_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Tmpfs::mount(folder.path().join("disk"), "24m") else {
        missing("the right to mount a file system", "run as root, where mounting is allowed");
        return;
    };
    let clock = sendlake::system::ids().clock;
    let sink = Receiver::start(Profile::accept_all().record(Keep::Digest, clock), 1).unwrap();
    let data = disk.0.join("data");
    let home = Home::new()
        .with_data(&data)
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("spool.free_space_floor_bytes", 0);
    let mut server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;

    let big = message_with("bob@sink.test", json!({"text": "a line of text\n".repeat(20_000)}));
    let mut accepted = Vec::new();
    let mut refusal = None;
    for number in 0..400 {
        let mut body: Value = big.clone();
        body["to"] = json!([format!("bob{number}@sink.test")]);
        match server.http.try_post("/v1/messages", &key, &[], body.to_string()).await {
            Some(answer) if answer.status == 202 => accepted.push(format!("bob{number}@sink.test")),
            answer => {
                refusal = Some(answer);
                break;
            }
        }
    }
    let refusal = refusal.expect("a disk of 24 MB cannot take 100 MB");
    if let Some(answer) = refusal {
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.headers["content-type"], "application/problem+json");
    }
    assert!(accepted.len() > 3, "only {} messages fit", accepted.len());
    // a store that failed is not trusted again: the process ends, and says so
    tokio::time::sleep(Duration::from_secs(2)).await;
    let ended = server.ended();
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
    if let Some(status) = ended {
        assert!(!status.success());
        assert!(log.contains("sendlake: ") && log.to_lowercase().contains("space"), "{log}");
    }
    eprintln!("full after {} messages; the server {ended:?}", accepted.len());
    drop(server);

    disk.resize("200m");
    let home = Home::new().with_data(&data).route("sink.test", sink.addr());
    let server = home.start().await;
    until("everything accepted to arrive", Duration::from_secs(30), async || {
        let arrived: Vec<_> = sink.recorded().into_iter().map(|recorded| recorded.forward_path).collect();
        accepted.iter().all(|recipient| arrived.contains(recipient)).then_some(())
    })
    .await;
    server.stop().await;
    let outcomes = home.sql("SELECT outcome, count(*) AS n FROM outcomes GROUP BY outcome");
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    assert!(outcomes[0]["n"].as_u64().unwrap() >= accepted.len() as u64, "{outcomes:?}");
}

/// The names of files below a folder that are half written.
fn half_written(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if name.contains('#') || name.ends_with(".staged") {
                found.push(path);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_and_a_spill_without_space_hold_up_no_mail_and_go_on_by_themselves() {
    let Some(disk) = FullDisk::new() else { return };
    let clock = sendlake::system::ids().clock;
    let sink = Receiver::start(Profile::accept_all().record(Keep::Digest, clock), 1).unwrap();
    let home = Home::new()
        .route("sink.test", sink.addr())
        .set("lake.commit_interval_ms", 200)
        .set("lake.spill_rows", 20)
        .serve_with(disk.environment());
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let first = server.http.send(&key, &message("first@sink.test")).await.remove(0);
    server.http.outcome(&key, &first, "delivered").await;

    let (lake, spill) = (home.data().join("lake"), home.data().join("spool/spill"));
    disk.fill(&[&lake, &spill]);
    for number in 0..30 {
        server.http.send(&key, &message(&format!("bob{number}@sink.test"))).await;
    }
    until("mail to go on", Duration::from_secs(20), async || (sink.recorded().len() == 31).then_some(()))
        .await;
    let log = until("both to be told", Duration::from_secs(20), async || {
        let log = server.log();
        (log.contains("the lake cannot be written") && log.contains("cannot be moved")).then_some(log)
    })
    .await;
    for said in [
        lake.join("events").to_str().unwrap(),
        "No space left on device",
        "make room there",
        "free some space",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
    let delivered = "SELECT count(*) AS n FROM events WHERE event_type = 'delivered'";
    let answer = server.http.sql(&key, delivered).await;
    assert_eq!(answer.json()["rows"][0]["n"], 31, "fresh as ever: {}", answer.text());
    assert_eq!((half_written(&lake), half_written(&spill)), (vec![], vec![]));

    // Room for the spill first: events leave the store, and nobody notices.
    disk.fill(&[&lake]);
    until("events to spill", Duration::from_secs(20), async || {
        let files = std::fs::read_dir(&spill).into_iter().flatten();
        (files.count() > 0).then_some(())
    })
    .await;
    assert_eq!(server.http.sql(&key, delivered).await.json()["rows"][0]["n"], 31);
    disk.fill(&[]);
    until("the lake to have it all", Duration::from_secs(40), async || {
        let status = home.ok(&["lake", "status", "--format", "json"]);
        let status: Value = serde_json::from_str(&status).unwrap();
        (status["outbox"]["behind"] == 0).then_some(())
    })
    .await;
    assert!(server.log().contains("the lake can be written again"), "{}", server.log());
    server.stop().await;
    let ours = home.events_by_type();
    assert_eq!((ours["accepted"], ours["delivered"]), (31, 31));
    assert!(home.ok(&["lake", "verify"]).contains("outbox, log and files agree"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_without_space_says_so_and_keeps_what_it_took() {
    let Some(disk) = FullDisk::new() else { return };
    let clock = sendlake::system::ids().clock;
    let sink = Receiver::start(Profile::accept_all().record(Keep::Digest, clock), 1).unwrap();
    let home =
        Home::new().route("sink.test", format!("127.0.0.1:{}", free_port())).serve_with(disk.environment());
    let mut server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let big = message_with("bob@sink.test", json!({"text": "a line of text\n".repeat(20_000)}));
    let mut accepted = Vec::new();
    for number in 0..200 {
        if number == 3 {
            disk.fill(&[&home.data().join("spool")]);
        }
        let mut body: Value = big.clone();
        body["to"] = json!([format!("bob{number}@sink.test")]);
        match server.http.try_post("/v1/messages", &key, &[], body.to_string()).await {
            Some(answer) if answer.status == 202 => accepted.push(format!("bob{number}@sink.test")),
            Some(answer) => {
                assert_eq!(answer.status, 503, "{}", answer.text());
                break;
            }
            None => break,
        }
    }
    assert!((3..200).contains(&accepted.len()), "{} of 60 MB fit into no space", accepted.len());
    let status = until("the server to end", Duration::from_secs(20), async || server.ended()).await;
    let log = server.log();
    assert!(!status.success() && !log.contains("panicked"), "{log}");
    assert!(log.contains("no space left for the spool's store") && log.contains("start again"), "{log}");
    drop(server);

    disk.fill(&[]);
    let home = Home::new().with_data(home.data()).route("sink.test", sink.addr());
    let server = home.start().await;
    until("everything accepted to arrive", Duration::from_secs(30), async || {
        let arrived: Vec<_> = sink.recorded().into_iter().map(|recorded| recorded.forward_path).collect();
        accepted.iter().all(|recipient| arrived.contains(recipient)).then_some(())
    })
    .await;
    server.stop().await;
    assert!(home.ok(&["lake", "verify"]).contains("outbox, log and files agree"));
}
