//! What stops a start, and the sentence that says what to do.

use sendlake_tests::home::{Home, Said};

/// The server must end with this code, and say all of this.
#[track_caller]
fn says(said: &Said, code: i32, words: &[&str]) {
    assert_eq!(said.code, code, "{said:?}");
    for word in words {
        assert!(said.err.contains(word), "{word:?} is not said: {}", said.err);
    }
    assert!(!said.err.contains("panicked"), "{}", said.err);
}

const PAGE_BYTES: usize = 4_096;

/// A folder that a server has used, with a message in its queue.
async fn used() -> Home {
    let home = Home::new().route("sink.test", format!("127.0.0.1:{}", sendlake_tests::peers::free_port()));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    server.http.send(&key, &crate::message("bob@sink.test")).await;
    server.stop().await;
    home
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_configuration_is_named_by_file_line_and_key() {
    let unknown = Home::new().set("delivery.retry_jiter", 0.2);
    let line = unknown.config_text().lines().position(|line| line.contains("jiter")).unwrap() + 1;
    let place = format!("sendlake.toml:{line}: ");
    says(&unknown.refused_start(), 2, &[&place, "retry_jiter"]);
    let said = unknown.run(&["config", "check"]);
    says(&said, 2, &[&place, "retry_jiter"]);
    let wrong = Home::new().set("limits.recipients", "\"many\"");
    let line = wrong.config_text().lines().position(|line| line.contains("many")).unwrap() + 1;
    says(&wrong.refused_start(), 2, &[&format!("sendlake.toml:{line}: "), "limits.recipients"]);
    let broken = Home::new().set("http.listen", "= [");
    says(&broken.refused_start(), 2, &["sendlake.toml:"]);
    says(
        &Home::new().set("delivery.retry_jitter", 7).refused_start(),
        2,
        &["delivery.retry_jitter", "between 0 and"],
    );
    says(
        &Home::new().set("pool", "[{ name = \"x\", sources = [\"nowhere\"] }]").refused_start(),
        2,
        &["nowhere"],
    );
    let good = Home::new();
    assert!(good.ok(&["config", "check"]).contains("good"));
    let mut by_environment = good.command(&["config", "check"]);
    let output = by_environment.env("SENDLAKE_DELIVERY__RETRY_JITTER", "7").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("SENDLAKE_DELIVERY__RETRY_JITTER"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_page_of_the_queue_ends_every_process_that_reads_it_with_a_sentence() {
    let home = Home::new().route("sink.test", format!("127.0.0.1:{}", sendlake_tests::peers::free_port()));
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    for _ in 0..50 {
        server.http.send(&key, &crate::message("bob@sink.test")).await;
    }
    server.kill();
    let spool = home.data().join("spool/spool.redb");
    let whole = std::fs::read(&spool).unwrap();
    let pages = whole.len() / PAGE_BYTES;
    let tear = |first: usize, count: usize| {
        let mut torn = whole.clone();
        let junk = (0_u32..).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8);
        let there = torn.iter_mut().skip(first * PAGE_BYTES).take(count * PAGE_BYTES);
        there.zip(junk).for_each(|(byte, junk)| *byte = junk);
        std::fs::write(&spool, &torn).unwrap();
    };
    tear(1, pages - 1);
    says(&home.refused_start(), 1, &["spool", "backup"]);
    let mut found = 0;
    for page in (1..pages.min(64)).step_by(3) {
        tear(page, 1);
        // A page that no tree uses any more may hold anything.
        let said = home.run(&["queue", "ls"]);
        if said.code != 0 {
            found += 1;
            assert!(said.err.contains("backup") && !said.err.contains("panicked"), "page {page}: {said:?}");
        }
    }
    assert!(found > 0, "no page of {pages} mattered");
    std::fs::write(&spool, &whole).unwrap();
    let server = home.start().await;
    let queued = home.ok(&["queue", "ls", "--format", "json"]);
    let queued: Vec<serde_json::Value> = serde_json::from_str(&queued).unwrap();
    assert_eq!(queued.len(), 50, "and everything is still there");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_stores_and_lost_keys_stop_the_start_and_say_what_to_do() {
    let home = used().await;
    let spool = home.data().join("spool/spool.redb");
    let whole = std::fs::read(&spool).unwrap();
    std::fs::write(&spool, b"this is not a store, but some text that came here by mistake ".repeat(200))
        .unwrap();
    says(&home.refused_start(), 1, &["spool", "backup"]);
    let mut torn = whole.clone();
    torn.truncate(whole.len() / 3);
    std::fs::write(&spool, &torn).unwrap();
    says(&home.refused_start(), 1, &["spool", "backup"]);
    std::fs::write(&spool, &whole).unwrap();

    let control = home.data().join("control.db");
    let whole = std::fs::read(&control).unwrap();
    std::fs::write(&control, b"this is not a database either ".repeat(1_000)).unwrap();
    says(&home.refused_start(), 1, &["control.db", "backup"]);
    std::fs::write(&control, &whole).unwrap();

    let master = home.data().join("master.key");
    let hidden = home.data().join("hidden.key");
    std::fs::rename(&master, &hidden).unwrap();
    says(&home.refused_start(), 1, &["master.key", "missing", "backup", "SENDLAKE_MASTER_KEY"]);
    let stranger = used().await;
    std::fs::copy(stranger.data().join("master.key"), &master).unwrap();
    says(&home.refused_start(), 1, &["master key"]);
    std::fs::rename(&hidden, &master).unwrap();

    let server = home.start().await;
    says(&home.refused_start(), 1, &["in use by another process"]);
    let key: serde_json::Value =
        serde_json::from_str(&home.ok(&["queue", "ls", "--format", "json"])).unwrap();
    assert_eq!(key.as_array().unwrap().len(), 1, "and everything is still there");
    server.stop().await;
}
