//! SQL over HTTP: formats, limits, read-only, and only the caller's own rows.

use sendlake_tests::home::Home;
use sendlake_tests::peers::free_port;
use serde_json::json;

use crate::message;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_come_as_json_csv_or_arrow_and_stay_within_limits() {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("sql.rows_max", 5)
        .set("sql.time_ms_max", 1_500);
    let server = home.start().await;
    let key = home.tenant("acme", "acme.example");
    server.http.ready(&key, "acme.example").await;
    for number in 0..40 {
        server.http.send(&key, &message(&format!("bob{number}@sink.test"))).await;
    }
    let query =
        "SELECT event_type, count(*) AS n FROM events WHERE event_type = 'accepted' GROUP BY event_type";
    let answer = server.http.sql(&key, query).await.json();
    assert_eq!(answer["rows"], json!([{"event_type": "accepted", "n": 40}]));
    let body = json!({"sql": query}).to_string();
    let csv = server.http.post("/v1/sql", &key, &[("accept", "text/csv")], body.clone()).await;
    assert_eq!(csv.text().replace("\r\n", "\n"), "event_type,n\naccepted,40\n");
    let arrow = server
        .http
        .post("/v1/sql", &key, &[("accept", "application/vnd.apache.arrow.stream")], body.clone())
        .await;
    assert_eq!(arrow.headers["content-type"], "application/vnd.apache.arrow.stream");
    assert!(
        arrow.body.starts_with(&[0xff; 4]) && arrow.body.ends_with(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])
    );
    assert!(arrow.text().contains("accepted"));
    let picture = server.http.post("/v1/sql", &key, &[("accept", "image/png")], body).await;
    assert_eq!(picture.problem().0, 406);

    let many = server.http.sql(&key, "SELECT message_id FROM events").await.json();
    assert_eq!((&many["row_count"], &many["truncated"]), (&json!(5), &json!(true)));
    let slow = "SELECT sum(a.lsn * b.lsn + c.lsn * d.lsn * e.lsn % 7) FROM events a, events b, events c, events d, events e, events f";
    let slow = server.http.sql(&key, slow).await;
    assert_eq!(slow.problem().1, "sql_time_limit");
    for statement in [
        "DELETE FROM events",
        "INSERT INTO events SELECT * FROM events",
        "DROP TABLE events",
        "CREATE TABLE t AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "COPY events TO '/tmp/stolen.csv'",
        "SET datafusion.execution.batch_size = 1",
    ] {
        let answer = server.http.sql(&key, statement).await;
        assert_eq!(answer.problem().0, 403, "{statement}: {}", answer.text());
    }
    for statement in
        ["SELEC 1", "SELECT nothing FROM events", "SELECT 1; SELECT 2", "", "SELECT * FROM '/etc/passwd'"]
    {
        let (status, _, pointer) = server.http.sql(&key, statement).await.problem();
        assert_eq!((status, pointer.as_str()), (422, "/sql"), "{statement}");
    }
    let views = "SELECT (SELECT count(*) FROM attempts) + (SELECT count(*) FROM message_history) AS n, \
                 (SELECT count(*) FROM outcomes) AS outcomes";
    assert_eq!(server.http.sql(&key, views).await.json()["rows"][0]["outcomes"], 40);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_query_of_a_tenant_shows_a_row_of_another() {
    let home = Home::new()
        .route("sink.test", format!("127.0.0.1:{}", free_port()))
        .set("lake.commit_interval_ms", 300);
    let server = home.start().await;
    let admin = server.admin_key();
    let acme = home.tenant("acme", "acme.example");
    let globex = home.tenant("globex", "globex.example");
    server.http.ready(&acme, "acme.example").await;
    server.http.ready(&globex, "globex.example").await;
    let secret = "only-acme-may-know@sink.test";
    let id = server.http.send(&acme, &message(secret)).await.remove(0);
    let committed = format!("SELECT count(*) AS n FROM events WHERE message_id = '{id}'");
    // once while the row is hot, once when it lies in the lake
    for round in 0..2 {
        assert!(server.http.sql(&acme, &committed).await.json()["rows"][0]["n"].as_u64().unwrap() > 0);
        for query in [
            "SELECT CAST(recipient AS INT) FROM events",
            "SELECT * FROM events WHERE CAST(recipient AS INT) > 0",
            "SELECT * FROM events WHERE 1 / (CASE WHEN recipient LIKE 'only%' THEN 0 ELSE 1 END) > 0",
            "SELECT * FROM events WHERE tenant_id = 'acme'",
            "SELECT recipient FROM outcomes",
            "SELECT recipient FROM attempts UNION ALL SELECT recipient FROM message_history",
            "SELECT max(recipient), min(recipient) FROM events",
            "SELECT a.recipient FROM events a FULL JOIN events b ON a.recipient <> b.recipient",
            "EXPLAIN ANALYZE SELECT * FROM events",
        ] {
            let answer = server.http.sql(&globex, query).await;
            assert!(!answer.text().contains("only-acme"), "round {round}: {query}: {}", answer.text());
        }
        let counted =
            server.http.sql(&globex, "SELECT count(*) AS n FROM events WHERE message_id IS NOT NULL").await;
        assert_eq!(counted.json()["rows"][0]["n"], 0);
        assert_eq!(server.http.get(&format!("/v1/messages/{id}"), &globex).await.status, 404);
        let own = server.http.sql(&acme, "SELECT CAST(recipient AS INT) FROM events").await;
        assert_eq!(own.status, 422, "one's own rows may be named: {}", own.text());
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    }
    let all = server.http.sql(&admin, "SELECT DISTINCT tenant_id FROM events ORDER BY tenant_id").await;
    assert_eq!(all.json()["rows"], json!([{"tenant_id": "acme"}, {"tenant_id": "globex"}]));
    let scoped =
        home.ok(&["sql", "--tenant", "globex", "--format", "csv", "SELECT count(recipient) FROM events"]);
    assert_eq!(scoped.lines().nth(1), Some("0"), "{scoped}");
    server.stop().await;
}
