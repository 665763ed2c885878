//! A rollup shows each event once, stored or not, to its own tenant only.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::datasource::MemTable;
use sendlake_control::clock::Timestamp;
use sendlake_ingest::event::LoggedEvent;
use sendlake_ingest::rollups::schema::ROLLUP_SCHEMA;
use sendlake_ingest::rollups::table::Grain;

use crate::engine::QueryEngine;
use crate::scope::Scope;
use crate::source::{EventSnapshot, EventSource, RollupSnapshot, SourceError};
use crate::testing::{StillSurroundings, engine_over, events, limits, shown, snapshot, tenant};

const LINES: &str = r#"
{"type":"delivered","at":"2026-03-02T10:10:30Z","tenant_id":"acme","provider":"google","queue_ms":40,"attempt_ms":100,"size_bytes":10,"recipient":"17"}
{"type":"delivered","at":"2026-03-02T10:50:30Z","tenant_id":"acme","provider":"google","queue_ms":400,"attempt_ms":700,"size_bytes":20,"recipient":"17"}
{"type":"delivered","at":"2026-03-02T10:10:30Z","tenant_id":"bolt","provider":"secret.example","queue_ms":40,"attempt_ms":100,"size_bytes":90000,"recipient":"x"}
{"type":"bounced","at":"2026-03-02T11:10:30Z","tenant_id":"acme","provider":"yahoo","bounce_category":"bad_mailbox","bounce_class":"hard","recipient":"17"}
{"type":"complained","at":"2026-03-04T09:00:00Z","tenant_id":"acme","provider":"google","delivered_at":"2026-03-02T10:10:30Z","recipient":"17"}
{"type":"complained","at":"2026-03-04T09:00:00Z","tenant_id":"bolt","provider":"secret.example","delivered_at":"2026-03-02T10:10:30Z","recipient":"x"}
"#;

/// Rollups that stand at an LSN, beside all events.
struct HalfCounted {
    events: EventSnapshot,
    stored: Vec<RecordBatch>,
    counted: u64,
}

#[async_trait]
impl EventSource for HalfCounted {
    async fn snapshot(&self) -> Result<EventSnapshot, SourceError> {
        Ok(self.events.clone())
    }

    async fn snapshot_with_rollups(&self) -> Result<(EventSnapshot, Vec<RollupSnapshot>), SourceError> {
        let stored = MemTable::try_new(ROLLUP_SCHEMA.clone(), vec![self.stored.clone()]).unwrap();
        let hourly = RollupSnapshot {
            grain: Grain::Hour,
            stored: Some(Arc::new(stored)),
            uncounted: self.events.clone(),
            counted_lsn: BTreeMap::from([(uuid::Uuid::from_u128(7).to_string(), self.counted)]),
        };
        Ok((self.events.clone(), vec![hourly]))
    }
}

/// The first `counted` events are in the stored rollup; of the others half is hot.
async fn half_counted(rows: &[LoggedEvent], counted: usize) -> QueryEngine {
    let before = engine_over(snapshot(&rows[..counted], &[]), limits());
    let all = Scope::AllTenants;
    let stored = before.query(&all, "SELECT * FROM rollup_hourly", limits().query).await.unwrap();
    let hot_from = counted + (rows.len() - counted) / 2;
    let typed =
        |batch: &RecordBatch| RecordBatch::try_new(ROLLUP_SCHEMA.clone(), batch.columns().to_vec()).unwrap();
    let source = HalfCounted {
        events: snapshot(&rows[..hot_from], &rows[hot_from..]),
        stored: stored.batches.iter().map(typed).collect(),
        counted: counted as u64,
    };
    QueryEngine::new(Arc::new(source), Arc::new(StillSurroundings::default()), limits()).unwrap()
}

#[tokio::test]
async fn sums_are_the_same_wherever_the_rollup_stands() {
    let rows = events(LINES);
    let sql = "SELECT bucket_at, basis, tenant_id, event_type, provider, bounce_category, sum(events) AS events, \
               sum(queue_ms_sum) AS queue_ms, sum(delivery_ms_le_1000) AS fast, sum(size_bytes_sum) AS bytes \
               FROM rollup_hourly GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6";
    let whole = shown(&engine_over(snapshot(&rows, &[]), limits()), &Scope::AllTenants, sql).await;
    assert!(whole.contains("| 2026-03-02T10:00:00Z | occurred | acme      | delivered  | google         |                 | 2      | 440      | 1    | 30    |"), "{whole}");
    assert!(whole.contains("| 2026-03-02T10:00:00Z | cohort   | acme      | complained |"), "{whole}");
    for counted in 0..=rows.len() {
        let engine = half_counted(&rows, counted).await;
        assert_eq!(shown(&engine, &Scope::AllTenants, sql).await, whole, "{counted} counted");
    }
}

#[tokio::test]
async fn a_tenant_sees_its_own_sums_alone() {
    let rows = events(LINES);
    for counted in [0, 4, 6] {
        let engine = half_counted(&rows, counted).await;
        for (sql, cell) in [
            ("SELECT sum(events) FROM rollup_hourly WHERE basis = 'occurred'", "| 4 "),
            ("SELECT max(size_bytes_sum) FROM rollup_hourly WHERE size_bytes_sum > 50", "|   "),
            ("SELECT count(DISTINCT tenant_id) FROM rollup_hourly", "| 1 "),
            ("SELECT sum(events) FROM rollup_hourly WHERE tenant_id = 'bo' || 'lt'", "|   "),
            (
                "SELECT sum(events) FROM rollup_hourly WHERE CAST(events AS INT) / (90000 - size_bytes_sum) = 0",
                "| 5 ",
            ),
            (
                "SELECT sum(events) FROM rollup_hourly WHERE basis = 'occurred' AND bucket_at >= TIMESTAMP '2026-03-02T11:00:00Z' AND bucket_date = DATE '2026-03-02'",
                "| 1 ",
            ),
        ] {
            let shown = shown(&engine, &tenant("acme"), &format!("SELECT * FROM ({sql}) AS t(x)")).await;
            assert!(shown.contains(cell) && shown.contains("1 row"), "{counted}, {sql}:\n{shown}");
            assert!(!shown.contains("secret"), "{sql}:\n{shown}");
        }
        let all = shown(&engine, &tenant("acme"), "SELECT * FROM rollup_hourly").await;
        assert!(all.contains("google") && !all.contains("secret") && !all.contains("bolt"), "{all}");
    }
}

#[tokio::test]
async fn minutes_older_than_fourteen_days_are_not_shown() {
    let rows = events(LINES);
    let surroundings =
        StillSurroundings { now: Timestamp::parse("2026-03-17T00:00:00Z").unwrap(), ..Default::default() };
    let engine = crate::testing::engine_within(snapshot(&rows, &[]), surroundings, limits());
    let minutes = "SELECT DISTINCT bucket_date FROM rollup_1m ORDER BY 1";
    let minutes = shown(&engine, &Scope::AllTenants, minutes).await;
    assert!(minutes.contains("2026-03-04") && !minutes.contains("2026-03-02"), "{minutes}");
    let hours = shown(&engine, &Scope::AllTenants, "SELECT DISTINCT bucket_date FROM rollup_hourly").await;
    assert!(hours.contains("2026-03-02"), "{hours}");
}

#[tokio::test]
async fn the_schema_lists_rollups_like_any_table() {
    let engine = engine_over(snapshot(&events(LINES), &[]), limits());
    let tables = shown(&engine, &tenant("acme"), "SHOW TABLES").await;
    assert!(tables.contains("rollup_1m") && tables.contains("rollup_hourly"), "{tables}");
    let columns = shown(&engine, &tenant("acme"), "DESCRIBE rollup_hourly").await;
    assert!(columns.contains("queue_ms_le_1000") && columns.contains("bucket_at"), "{columns}");
}
