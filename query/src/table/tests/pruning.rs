//! What the history of one message reads of a lake as the server writes it, by the scan's own counters.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::physical_plan::metrics::MetricValue;
use datafusion::physical_plan::{ExecutionPlan, collect};
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_ingest::event::{Event, EventType, LoggedEvent};
use sendlake_ingest::store::open_store;
use sendlake_ingest::table::EventsTable;
use uuid::Uuid;

use super::*;
use crate::scan::ScopedScanExec;

const SPOOL: Uuid = Uuid::from_u128(7);
/// 2026-02-01.
const DAY: Timestamp = Timestamp(1_769_904_000_000_000);
const TENANTS: u64 = 5;

/// Rows, row groups and pages of the files that survived what a step of the scan looked at, and how many did not.
type Counts = BTreeMap<String, (usize, usize)>;

/// Message `number`: made at any time of the day, whatever its number.
fn message(number: u64) -> (Uuid, Timestamp, TenantId) {
    let mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let at = DAY.plus_millis((mixed % 86_000_000) as i64);
    let random = (u128::from(mixed) << 16).to_be_bytes();
    let id = uuid::Builder::from_unix_timestamp_millis(
        at.as_millis() as u64,
        random[6..].try_into().expect("ten of sixteen bytes"),
    );
    (id.into_uuid(), at, TenantId::new(&format!("tenant-{}", mixed % TENANTS)).unwrap())
}

/// Two events of each message.
fn rows(messages: std::ops::Range<u64>) -> Vec<LoggedEvent> {
    let events = messages.flat_map(|number| {
        let (id, at, tenant) = message(number);
        [(EventType::Accepted, 1), (EventType::Delivered, 2)].map(|(kind, seq)| {
            let lsn = number * 2 + seq;
            let mut event = Event::new(Uuid::from_u64_pair(7, lsn), kind, at, tenant.clone());
            event.message_id = Some(id.to_string());
            event.recipient = Some(format!("person{number}@x.example"));
            event.seq = Some(seq as i64);
            LoggedEvent { incarnation: SPOOL, node_id: "n1".into(), lsn, event }
        })
    });
    events.collect()
}

/// A lake of `commits`, with so many messages each.
async fn lake_of(folder: &tempfile::TempDir, commits: u64, messages: u64) -> QueryEngine {
    let store = open_store(folder.path().to_str().unwrap(), &Default::default()).unwrap();
    let table = EventsTable::open(&store).await.unwrap();
    for commit in 0..commits {
        table.append(SPOOL, rows(commit * messages..(commit + 1) * messages)).await.unwrap();
    }
    let cold = table.pin(None).await.unwrap().table.table_provider().build().await.unwrap();
    let snapshot = EventSnapshot { cold: Arc::new(cold), hot: vec![], spilled: vec![], version: None };
    engine_over(snapshot, limits())
}

/// Asks for a message and returns how many events it had, with what the scan counted.
async fn history(engine: &QueryEngine, scope: &Scope, id: &str) -> (usize, Counts) {
    let session = engine.session(scope).await.unwrap();
    let sql = format!("SELECT * FROM message_history WHERE message_id = '{id}' ORDER BY step");
    let plan = session.sql(&sql).await.unwrap().create_physical_plan().await.unwrap();
    let found = collect(Arc::clone(&plan), session.task_ctx()).await.unwrap();
    let mut counts = Counts::new();
    count(&plan, &mut counts);
    (found.iter().map(|batch| batch.num_rows()).sum(), counts)
}

fn count(plan: &Arc<dyn ExecutionPlan>, counts: &mut Counts) {
    for metric in plan.metrics().iter().flat_map(|metrics| metrics.iter()) {
        if let MetricValue::PruningMetrics { name, pruning_metrics } = metric.value() {
            let (kept, pruned) = counts.entry(name.to_string()).or_default();
            *kept += pruning_metrics.matched();
            *pruned += pruning_metrics.pruned();
        }
        if let MetricValue::Count { name, count } = metric.value() {
            counts.entry(name.to_string()).or_default().0 += count.value();
        }
    }
    if let Some(scan) = plan.downcast_ref::<ScopedScanExec>() {
        count(scan.source(), counts);
    }
    for child in plan.children() {
        count(child, counts);
    }
}

#[tokio::test]
async fn history_of_a_message_reads_the_row_groups_that_hold_it() {
    let folder = tempfile::tempdir().unwrap();
    let engine = lake_of(&folder, 30, 40).await;
    for number in [3, 611, 1_199] {
        let (id, _, of) = message(number);
        for scope in [Scope::AllTenants, tenant(of.as_str())] {
            let (found, counts) = history(&engine, &scope, &id.to_string()).await;
            assert_eq!(found, 2);
            // Ids of every file are spread over the whole day: no minimum or maximum tells where one is.
            let (kept, pruned) = counts["row_groups_pruned_bloom_filter"];
            assert_eq!(kept + pruned, 30, "{counts:#?}");
            assert!(kept <= 3, "one holds it, and one in a hundred seems to: {counts:#?}");
        }
    }
    let (id, _, _) = message(5_000);
    let (found, counts) = history(&engine, &Scope::AllTenants, &id.to_string()).await;
    assert_eq!(found, 0);
    assert!(counts["row_groups_pruned_bloom_filter"].0 <= 2, "{counts:#?}");
}

#[tokio::test]
async fn within_a_row_group_history_decodes_the_pages_that_can_hold_the_message() {
    let folder = tempfile::tempdir().unwrap();
    let engine = lake_of(&folder, 1, 45_000).await;
    let (id, _, of) = message(31_007);
    let (found, counts) = history(&engine, &tenant(of.as_str()), &id.to_string()).await;
    assert_eq!(found, 2);
    let (kept, pruned) = counts["page_index_rows_pruned"];
    assert_eq!(kept + pruned, 90_000, "{counts:#?}");
    assert!(kept <= 45_000, "rows are sorted by tenant and message: {counts:#?}");
}
