//! Limits and reviews on the command line, beside a running server.

use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::until;
use serde_json::Value;

fn limits(home: &Home) -> Vec<(String, String, String)> {
    let said = home.run(&["quota", "ls", "--domain", "acme.example", "--format", "json"]);
    let rows: Vec<Value> = serde_json::from_str(&said.out).unwrap_or_default();
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    rows.iter().map(|row| (text(row, "stream"), text(row, "provider"), text(row, "state"))).collect()
}

async fn until_limits(home: &Home, what: &str, holds: impl Fn(&[(String, String, String)]) -> bool) {
    until(what, Duration::from_secs(20), async || holds(&limits(home)).then_some(())).await;
}

fn state_of<'a>(limits: &'a [(String, String, String)], stream: &str) -> &'a str {
    limits.iter().find(|(of, _, _)| of == stream).map_or("", |(_, _, state)| state)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_domain_is_judged_at_once_and_a_review_is_obeyed_after_kill_9() {
    let home = Home::new();
    let server = home.start().await;
    home.ok(&["tenant", "add", "acme"]);
    home.ok(&["domain", "add", "--tenant", "acme", "acme.example"]);
    until_limits(&home, "the new domain's limits", |limits| {
        limits.iter().filter(|(_, _, state)| state == "warming").count() == 15 && limits.len() == 18
    })
    .await;
    let explained = home.run(&["quota", "explain", "--domain", "acme.example", "--provider", "gmx"]);
    assert!(explained.out.contains("at most 200 first attempts per UTC day"), "{explained:?}");
    assert!(explained.out.contains("stage 1 of 5"), "{explained:?}");

    assert_eq!(home.run(&["domain", "warm", "acme.example"]).code, 0);
    until_limits(&home, "the ceilings to go", |limits| limits.len() == 3).await;

    let review = |what: &str| {
        let words =
            ["--tenant", "acme", "--domain", "acme.example", "--stream", "marketing", "--reason", "x-ray"];
        home.run(&[&["review", what], words.as_slice()].concat())
    };
    assert_eq!(review("stop").code, 0);
    assert_eq!(state_of(&limits(&home), "marketing"), "paused");
    assert_eq!(state_of(&limits(&home), "transactional"), "normal");
    let listed = home.run(&["review", "ls"]);
    assert!(listed.out.contains("stopped") && listed.out.contains("x-ray"), "{listed:?}");
    server.kill();
    let server = home.start().await;
    assert_eq!(state_of(&limits(&home), "marketing"), "paused", "the table outlives the server");
    assert_eq!(review("approve").code, 0);
    assert_eq!(state_of(&limits(&home), "marketing"), "normal");
    let nobody = ["review", "stop", "--tenant", "acme", "--domain", "x.example", "--stream", "cold"];
    assert_eq!(home.run(&nobody).code, 3);
    let audit = home.run(&["audit"]);
    assert!(audit.out.contains("review_stopped") && audit.out.contains("review_approved"), "{audit:?}");
    server.stop().await;
}
