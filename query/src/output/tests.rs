//! What each format makes of nulls, maps, times and emptiness.

use std::time::Duration;

use super::*;
use crate::testing::{engine, limits, tenant};

const LINE: &str = r#"
{"type":"accepted","at":"2026-03-02T10:00:00.5Z","message_id":"m1","seq":1,"recipient":"a,\"b\"@example.com","tags":{"plan":"pro"}}
{"type":"accepted","at":"2026-03-02T10:00:01Z","message_id":"m2","seq":1}
"#;

async fn output(sql: &str) -> QueryOutput {
    let mut output = engine(LINE).query(&tenant("acme"), sql, limits().query).await.unwrap();
    output.elapsed = Duration::from_millis(12);
    output
}

async fn written(sql: &str, format: Format) -> String {
    String::from_utf8(to_bytes(&output(sql).await, format).unwrap()).unwrap()
}

const SQL: &str = "SELECT message_id, recipient, tags, occurred_at, event_date, seq, tls_verified FROM events ORDER BY message_id";

#[tokio::test]
async fn json_names_columns_and_writes_nulls_out() {
    let json: serde_json::Value = serde_json::from_str(&written(SQL, Format::Json).await).unwrap();
    let expected = serde_json::json!({
        "columns": [
            {"name": "message_id", "type": "Utf8"},
            {"name": "recipient", "type": "Utf8"},
            {"name": "tags", "type": json["columns"][2]["type"]},
            {"name": "occurred_at", "type": "Timestamp(µs, \"UTC\")"},
            {"name": "event_date", "type": "Date32"},
            {"name": "seq", "type": "Int64"},
            {"name": "tls_verified", "type": "Boolean"},
        ],
        "rows": [
            {"message_id": "m1", "recipient": "a,\"b\"@example.com", "tags": {"plan": "pro"},
             "occurred_at": "2026-03-02T10:00:00.500Z", "event_date": "2026-03-02", "seq": 1, "tls_verified": null},
            {"message_id": "m2", "recipient": null, "tags": null,
             "occurred_at": "2026-03-02T10:00:01Z", "event_date": "2026-03-02", "seq": 1, "tls_verified": null},
        ],
        "row_count": 2,
        "truncated": false,
        "elapsed_ms": 12,
    });
    assert_eq!(json, expected);
}

#[tokio::test]
async fn json_of_nothing_is_whole() {
    let json: serde_json::Value =
        serde_json::from_str(&written("SELECT seq FROM events WHERE seq > 9", Format::Json).await).unwrap();
    assert_eq!((&json["rows"], &json["row_count"]), (&serde_json::json!([]), &serde_json::json!(0)));
    assert_eq!(json["columns"][0]["name"], "seq");
}

#[tokio::test]
async fn csv_quotes_and_writes_maps_as_json() {
    let expected = "message_id,recipient,tags,occurred_at,event_date,seq,tls_verified\n\
        m1,\"a,\"\"b\"\"@example.com\",\"{\"\"plan\"\":\"\"pro\"\"}\",2026-03-02T10:00:00.500Z,2026-03-02,1,\n\
        m2,,,2026-03-02T10:00:01Z,2026-03-02,1,\n";
    assert_eq!(written(SQL, Format::Csv).await, expected);
    assert_eq!(written("SELECT seq, tags FROM events WHERE seq > 9", Format::Csv).await, "seq,tags\n");
}

#[tokio::test]
async fn every_column_fits_every_format() {
    for format in Format::ALL {
        assert!(to_bytes(&output("SELECT * FROM events").await, format).is_ok(), "{format}");
        assert!(to_bytes(&output("SELECT * FROM events WHERE false").await, format).is_ok(), "{format}");
    }
}

#[tokio::test]
async fn table_shows_null_as_empty_and_counts_rows() {
    let expected = "\
+------------+---------------------+
| message_id | recipient           |
+------------+---------------------+
| m1         | a,\"b\"@example.com |
| m2         |                     |
+------------+---------------------+
2 rows
"
    .replace("a,\"b\"@example.com |", "a,\"b\"@example.com   |");
    let shown = written("SELECT message_id, recipient FROM events ORDER BY message_id", Format::Table).await;
    let squeeze = |text: &str| text.replace(['-', ' '], "");
    assert_eq!(squeeze(&shown), squeeze(&expected));
}

#[tokio::test]
async fn table_says_when_it_was_cut() {
    let mut cut = output("SELECT seq FROM events LIMIT 1").await;
    cut.truncated = true;
    let shown = String::from_utf8(to_bytes(&cut, Format::Table).unwrap()).unwrap();
    assert!(shown.ends_with("1 row, and there are more: add a LIMIT or raise the row limit\n"), "{shown}");
}

#[tokio::test]
async fn arrow_stream_reads_back_equal() {
    let output = output(SQL).await;
    let bytes = to_bytes(&output, Format::Arrow).unwrap();
    let reader = arrow::ipc::reader::StreamReader::try_new(bytes.as_slice(), None).unwrap();
    assert_eq!(reader.schema(), output.schema);
    assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), output.batches);
}
