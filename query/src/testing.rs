//! What the tests of this crate share: events written as JSON lines, and an engine over them.

use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use chrono::DateTime;
use datafusion::datasource::MemTable;
use sendlake_control::id::TenantId;
use sendlake_ingest::event::{EVENTS_SCHEMA, Event, LoggedEvent, to_batch};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::engine::QueryEngine;
use crate::limits::{EngineLimits, QueryLimits};
use crate::output::{self, Format};
use crate::scope::Scope;
use crate::source::{EventSnapshot, EventSource, SourceError};

/// Cold and hot rows that stand still.
pub(crate) struct StillSource(pub(crate) EventSnapshot);

#[async_trait]
impl EventSource for StillSource {
    async fn snapshot(&self) -> Result<EventSnapshot, SourceError> {
        Ok(self.0.clone())
    }
}

/// Events from JSON lines. `type`, `at` and, where it is later, `recorded` (RFC 3339) stand for the key
/// columns; `tenant_id` is `acme` unless given; the n-th line has the n-th `event_id`.
pub(crate) fn events(lines: &str) -> Vec<LoggedEvent> {
    let lines = lines.lines().filter(|line| !line.trim().is_empty());
    lines.zip(1_u64..).map(|(line, lsn)| event(line, lsn)).collect()
}

fn event(line: &str, lsn: u64) -> LoggedEvent {
    let mut fields: Map<String, Value> =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    let micros = |text: &Value| {
        let text = text.as_str().unwrap();
        Value::from(
            DateTime::parse_from_rfc3339(text).unwrap_or_else(|_| panic!("{text}")).timestamp_micros(),
        )
    };
    let at = micros(&fields.remove("at").expect("at"));
    let recorded = fields.remove("recorded").map_or_else(|| at.clone(), |text| micros(&text));
    for name in ["next_attempt_at", "delivered_at"] {
        if let Some(text) = fields.get(name) {
            let value = micros(text);
            fields.insert(name.to_owned(), value);
        }
    }
    let kind = fields.remove("type").expect("type");
    fields.insert("event_type".to_owned(), kind);
    fields.insert("occurred_at".to_owned(), at);
    fields.insert("recorded_at".to_owned(), recorded);
    fields.insert("event_id".to_owned(), Value::from(Uuid::from_u128(lsn.into()).to_string()));
    fields.entry("tenant_id").or_insert_with(|| Value::from("acme"));
    let names = fields.keys().cloned().collect::<Vec<_>>();
    let known = |name: &str| EVENTS_SCHEMA.field_with_name(name).is_ok();
    assert!(names.iter().all(|name| known(name)), "a field of {line} is no column");
    let event: Event = serde_json::from_value(Value::Object(fields)).unwrap();
    LoggedEvent { incarnation: Uuid::from_u128(7), node_id: "n1".into(), lsn, event }
}

pub(crate) fn batches(rows: &[LoggedEvent]) -> Vec<RecordBatch> {
    if rows.is_empty() { vec![] } else { vec![to_batch(rows).unwrap()] }
}

pub(crate) fn snapshot(cold: &[LoggedEvent], hot: &[LoggedEvent]) -> EventSnapshot {
    let cold = MemTable::try_new(EVENTS_SCHEMA.clone(), vec![batches(cold)]).unwrap();
    EventSnapshot { cold: Arc::new(cold), hot: batches(hot), version: Some(1) }
}

pub(crate) fn limits() -> EngineLimits {
    EngineLimits {
        query: QueryLimits { time: Duration::from_secs(60), ..QueryLimits::default() },
        ..EngineLimits::default()
    }
}

pub(crate) fn engine_over(snapshot: EventSnapshot, limits: EngineLimits) -> QueryEngine {
    QueryEngine::new(Arc::new(StillSource(snapshot)), limits).unwrap()
}

/// Half of the rows in the lake, half still hot, so that both paths take part.
pub(crate) fn engine(lines: &str) -> QueryEngine {
    let rows = events(lines);
    let (cold, hot) = rows.split_at(rows.len() / 2);
    engine_over(snapshot(cold, hot), limits())
}

pub(crate) fn tenant(name: &str) -> Scope {
    Scope::Tenant(TenantId::new(name).unwrap())
}

/// What a terminal would show: the table, or the error.
pub(crate) async fn shown(engine: &QueryEngine, scope: &Scope, sql: &str) -> String {
    match engine.query(scope, sql, engine.limits().query).await {
        Ok(output) => String::from_utf8(output::to_bytes(&output, Format::Table).unwrap()).unwrap(),
        Err(error) => format!("error: {error}\n"),
    }
}
