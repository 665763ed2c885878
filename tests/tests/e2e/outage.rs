//! The bucket is away: a server starts all the same, delivers, keeps every event, and says what it cannot know.

use std::time::{Duration, Instant};

use sendlake::demo::receivers::{Keep, Profile, Receiver};
use sendlake_tests::home::Home;
use sendlake_tests::peers::free_port;
use sendlake_tests::until;

use crate::message;

/// The same data folder, with its lake in a bucket that nobody serves.
fn away(home: &Home) -> Home {
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let options = [
        ("aws_endpoint", endpoint.as_str()),
        ("aws_region", "us-east-1"),
        ("aws_access_key_id", "test"),
        ("aws_secret_access_key", "test"),
        ("aws_allow_http", "true"),
    ];
    options
        .iter()
        .fold(Home::new().with_data(home.data()), |home, (name, value)| {
            home.set(&format!("storage.options.{name}"), format!("{value:?}"))
        })
        .set("storage.lake_url", "\"s3://lake-bucket/prod\"")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_starts_and_delivers_while_its_bucket_is_away() {
    let clock = sendlake::system::ids().clock;
    let sink = Receiver::start(Profile::accept_all().record(Keep::Digest, clock), 1).unwrap();
    let home = Home::new().route("sink.test", sink.addr());
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    server.stop().await;

    let away = away(&home).route("sink.test", sink.addr());
    let server = away.start().await;
    assert!(server.log().contains("the lake cannot be used now"), "{}", server.log());
    let mut sent = Vec::new();
    for number in 0..5 {
        sent.extend(server.http.send(&key, &message(&format!("bob{number}@sink.test"))).await);
    }
    until("the mail to arrive", Duration::from_secs(20), async || (sink.recorded().len() == 5).then_some(()))
        .await;
    let answer = server.http.sql(&key, "SELECT count(*) AS n FROM events").await;
    assert_eq!(answer.problem().0, 503, "no half answers");
    assert_eq!(answer.problem().1, "events_unavailable");
    // The lake's last try does not hold up a stop.
    let asked = Instant::now();
    server.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());

    let server = home.start().await;
    for id in &sent {
        server.http.outcome(&key, id, "delivered").await;
    }
    server.stop().await;
    let ours = home.events_by_type();
    assert_eq!((ours["accepted"], ours["delivered"]), (5, 5));
    assert_eq!(home.count("SELECT count(*) - count(DISTINCT event_id) AS n FROM events"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_start_says_that_its_bucket_cannot_be_used() {
    let said = away(&Home::new()).refused_start();
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("s3://lake-bucket/prod"), "{said:?}");
}
