//! Little space, and none: new mail is refused, and what was accepted is kept and delivered.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use sendlake::demo::receivers::{Keep, Profile, Receiver};
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
