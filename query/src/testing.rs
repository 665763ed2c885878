//! What the tests of this crate share: events written as JSON lines, and an engine over them.

use std::sync::Arc;
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use sendlake_control::clock::Timestamp;
use sendlake_control::feedback_loop::FeedbackLoop;
use sendlake_control::id::TenantId;
use sendlake_ingest::domain_tables::Kind;
use sendlake_ingest::event::{EVENTS_SCHEMA, Event, LoggedEvent, to_batch};
use sendlake_ingest::quotas::PublishedQuotas;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::engine::QueryEngine;
use crate::limits::{EngineLimits, QueryLimits};
use crate::output::{self, Format};
use crate::scope::Scope;
use crate::source::{DomainRow, EventSnapshot, EventSource, SourceError, Surroundings};

/// Cold and hot rows that stand still.
pub(crate) struct StillSource(pub(crate) EventSnapshot);

#[async_trait]
impl EventSource for StillSource {
    async fn snapshot(&self) -> Result<EventSnapshot, SourceError> {
        Ok(self.0.clone())
    }
}

/// What stands beside the events of a test.
#[derive(Clone, Default)]
pub(crate) struct StillSurroundings {
    pub(crate) now: Timestamp,
    pub(crate) domains: Vec<DomainRow>,
    pub(crate) loops: Vec<FeedbackLoop>,
    pub(crate) published: Option<PublishedQuotas>,
    pub(crate) reports: Vec<(Kind, RecordBatch)>,
}

#[async_trait]
impl Surroundings for StillSurroundings {
    fn now(&self) -> Timestamp {
        self.now
    }

    async fn domains(&self) -> Result<Vec<DomainRow>, SourceError> {
        Ok(self.domains.clone())
    }

    async fn feedback_loops(&self) -> Result<Vec<FeedbackLoop>, SourceError> {
        Ok(self.loops.clone())
    }

    async fn published_quotas(&self) -> Result<Option<PublishedQuotas>, SourceError> {
        Ok(self.published.clone())
    }

    async fn reports(&self, kind: Kind) -> Result<Option<Arc<dyn TableProvider>>, SourceError> {
        let Some((_, rows)) = self.reports.iter().find(|(of, _)| *of == kind) else { return Ok(None) };
        Ok(Some(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).unwrap())))
    }
}

/// Events from JSON lines. `type`, `at` and, where it is later, `recorded` (RFC 3339) stand for the key
/// columns; `tenant_id` is `acme` unless given; the n-th event has the n-th `event_id`.
///
/// A line with `repeat` stands for so many events, `every_s` apart; with `days`, for the same on so many days. `{i}` in a
/// text is the event's number within its line.
pub(crate) fn events(lines: &str) -> Vec<LoggedEvent> {
    let lines = lines.lines().filter(|line| !line.trim().is_empty());
    lines.flat_map(repeated).zip(1_u64..).map(|(line, lsn)| event(&line, lsn)).collect()
}

fn repeated(line: &str) -> Vec<String> {
    let mut fields: Map<String, Value> =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    let mut take = |name: &str| fields.remove(name).map(|value| value.as_i64().unwrap());
    let (repeat, days, every_s) = (take("repeat"), take("days"), take("every_s").unwrap_or(1));
    if repeat.is_none() && days.is_none() {
        return vec![line.to_owned()];
    }
    let repeat = repeat.unwrap_or(1);
    let all = (0..days.unwrap_or(1)).flat_map(|day| (0..repeat).map(move |i| (day * repeat + i, day, i)));
    let one = |(number, day, i): (i64, i64, i64)| {
        let later = TimeDelta::seconds(day * 86_400 + i * every_s);
        let value = |(name, value): (&String, &Value)| {
            let value = match (name.as_str(), value) {
                ("at" | "recorded" | "delivered_at", Value::String(text)) => {
                    let at = DateTime::parse_from_rfc3339(text).unwrap() + later;
                    Value::from(at.to_rfc3339())
                }
                (_, Value::String(text)) => Value::from(text.replace("{i}", &number.to_string())),
                _ => value.clone(),
            };
            (name.clone(), value)
        };
        Value::Object(fields.iter().map(value).collect()).to_string()
    };
    all.map(one).collect()
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

/// Rows of a table of reports from JSON lines with the names of its columns. Instants are RFC 3339; `days` stands for the
/// same row on so many days. What may not be null has a value unless given: `tenant_id` is `acme`, each row has a report of
/// its own.
pub(crate) fn reports(kind: Kind, lines: &[String]) -> RecordBatch {
    let mut rows = Vec::new();
    for line in lines {
        let fields: Map<String, Value> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        let known = |name: &String| name == "days" || kind.schema().field_with_name(name).is_ok();
        assert!(fields.keys().all(known), "a field of {line} is no column");
        for day in 0..fields.get("days").and_then(Value::as_i64).unwrap_or(1) {
            let mut row = fields.clone();
            row.remove("days");
            let number = rows.len();
            let begin = DateTime::parse_from_rfc3339(row["begin_at"].as_str().unwrap()).unwrap()
                + TimeDelta::days(day);
            let end = begin + TimeDelta::seconds(86_399);
            row.insert("begin_at".into(), begin.to_rfc3339().into());
            row.insert("report_date".into(), begin.date_naive().to_string().into());
            for (name, value) in [
                ("tenant_id", Value::from("acme")),
                ("report_key", Value::from(format!("{number:032x}"))),
                ("record", Value::from(0)),
                ("recorded_at", Value::from((end + TimeDelta::hours(3)).to_rfc3339())),
                (
                    "report_type",
                    Value::from(match kind {
                        Kind::Dmarc => "aggregate",
                        Kind::Tls => "summary",
                        Kind::Figures => "google-postmaster",
                    }),
                ),
                ("org_name", Value::from("Receiver")),
                ("report_id", Value::from(format!("r{number}"))),
                ("end_at", Value::from(end.to_rfc3339())),
            ] {
                row.entry(name).or_insert(value);
            }
            rows.push(Value::Object(row));
        }
    }
    let mut decoder = arrow::json::ReaderBuilder::new(kind.schema())
        .with_batch_size(rows.len().max(1))
        .build_decoder()
        .unwrap();
    decoder.serialize(&rows).unwrap();
    decoder.flush().unwrap().unwrap_or_else(|| RecordBatch::new_empty(kind.schema()))
}

pub(crate) fn batches(rows: &[LoggedEvent]) -> Vec<RecordBatch> {
    if rows.is_empty() { vec![] } else { vec![to_batch(rows).unwrap()] }
}

pub(crate) fn snapshot(cold: &[LoggedEvent], hot: &[LoggedEvent]) -> EventSnapshot {
    let cold = MemTable::try_new(EVENTS_SCHEMA.clone(), vec![batches(cold)]).unwrap();
    EventSnapshot { cold: Arc::new(cold), hot: batches(hot), spilled: Vec::new(), version: Some(1) }
}

pub(crate) fn limits() -> EngineLimits {
    EngineLimits {
        query: QueryLimits { time: Duration::from_secs(60), ..QueryLimits::default() },
        ..EngineLimits::default()
    }
}

pub(crate) fn engine_over(snapshot: EventSnapshot, limits: EngineLimits) -> QueryEngine {
    engine_within(snapshot, StillSurroundings::default(), limits)
}

pub(crate) fn engine_within(
    snapshot: EventSnapshot,
    surroundings: StillSurroundings,
    limits: EngineLimits,
) -> QueryEngine {
    QueryEngine::new(Arc::new(StillSource(snapshot)), Arc::new(surroundings), limits).unwrap()
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
    shown_as_of(engine, scope, sql, &[]).await
}

pub(crate) async fn shown_as_of(
    engine: &QueryEngine,
    scope: &Scope,
    sql: &str,
    as_of: &[Timestamp],
) -> String {
    match engine.query_as_of(scope, sql, engine.limits().query, as_of).await {
        Ok(output) => String::from_utf8(output::to_bytes(&output, Format::Table).unwrap()).unwrap(),
        Err(error) => format!("error: {error}\n"),
    }
}
