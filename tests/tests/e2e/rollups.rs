//! Rollups of a running server: what they sum to, before and after a kill.

use std::time::Duration;

use sendlake_tests::home::Home;
use sendlake_tests::peers::free_port;
use sendlake_tests::until;

use crate::message;

const AGREE: &str = "SELECT count(*) AS n FROM \
    (SELECT event_type, count(*) AS events FROM events GROUP BY event_type) e FULL JOIN \
    (SELECT event_type, sum(events) AS events FROM rollup_hourly WHERE basis = 'occurred' GROUP BY event_type) r \
    ON e.event_type = r.event_type WHERE e.events IS DISTINCT FROM r.events";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_agree_with_events_at_any_moment_and_after_a_kill() {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("lake.commit_interval_ms", 100)
        .set("rollups.interval_s", 1);
    let mut server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    for round in 0..3 {
        for number in 0..8 {
            server.http.send(&key, &message(&format!("bob{round}{number}@sink.test"))).await;
            assert_eq!(home.count(AGREE), 0, "round {round}, message {number}");
        }
        server.kill();
        assert_eq!(home.count(AGREE), 0, "after kill -9");
        server = home.start().await;
    }
    until("a rollup that holds the mail", Duration::from_secs(20), async || {
        let said = home.run(&["lake", "rollup", "--verify", "--format", "json"]);
        let compared: serde_json::Value = serde_json::from_str(&said.out).ok()?;
        (compared[1]["events"].as_u64()? >= 24).then_some(())
    })
    .await;
    server.stop().await;
    let refreshed = home.run(&["lake", "rollup"]);
    assert_eq!(refreshed.code, 0, "{refreshed:?}");
    let said = home.run(&["lake", "rollup", "--verify"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("rollup_1m") && said.out.contains("rollup_hourly"), "{}", said.out);
    assert_eq!(home.count(AGREE), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollups_that_nobody_keeps_up_do_not_stop_retention_unsaid() {
    let home = Home::new().set("rollups.interval_s", 0).set("maintenance.retention_days", 400);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    let said = "events stay for ever unless";
    assert!(server.log().contains(said), "{}", server.log());
    server.stop().await;
    let status = home.ok(&["lake", "status"]);
    assert!(status.contains(said) && status.contains("maintenance.ignored_readers"), "{status}");
}
