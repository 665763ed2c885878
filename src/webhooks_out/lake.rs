//! The lake as webhooks ask it: by SQL in the scope of the endpoint's tenant, so that the wall between tenants holds here too.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sendlake_connectors::webhooks::log::{Lake, Place, Unreadable};
use sendlake_control::clock::Timestamp;
use sendlake_control::endpoint::replay::ReplaySelection;
use sendlake_control::id::TenantId;
use sendlake_ingest::event::{Event, LoggedEvent};
use sendlake_query::output::{Format, to_bytes};
use sendlake_query::{Instants, QueryEngine, QueryLimits, Scope};
use serde_json::{Map, Value};
use uuid::Uuid;

const SELECTED: &str = include_str!("selected.sql");
/// Columns that hold instants: JSON has them as text.
const INSTANTS: [&str; 4] = ["occurred_at", "recorded_at", "next_attempt_at", "delivered_at"];
const LIMITS: QueryLimits =
    QueryLimits { time: Duration::from_secs(120), memory_bytes: 256 << 20, rows: 10_000 };

/// Asks the query engine.
pub struct EngineLake(pub Arc<QueryEngine>);

impl EngineLake {
    async fn events(&self, tenant: &TenantId, sql: &str) -> Result<Vec<LoggedEvent>, Unreadable> {
        let scope = Scope::Tenant(tenant.clone());
        let limits = LIMITS.at_most(self.0.limits().query);
        let output = self.0.query(&scope, sql, limits).await.map_err(failed)?;
        // A column of a later version that this one cannot read: such an event is passed over, as nobody could send it.
        Ok(rows(&to_bytes(&output, Format::Json).map_err(failed)?).into_iter().filter_map(logged).collect())
    }
}

#[async_trait]
impl Lake for EngineLake {
    async fn slice(
        &self,
        tenant: &TenantId,
        incarnation: Uuid,
        after_lsn: u64,
        through_lsn: u64,
        max: usize,
    ) -> Result<Vec<LoggedEvent>, Unreadable> {
        let sql = format!(
            "SELECT * FROM events WHERE incarnation = '{incarnation}' AND lsn > {after_lsn} AND lsn <= {through_lsn} \
             ORDER BY lsn LIMIT {max}"
        );
        self.events(tenant, &sql).await
    }

    async fn oldest_lsn(&self, incarnation: Uuid, after_lsn: u64) -> Result<Option<u64>, Unreadable> {
        let sql = format!(
            "SELECT MIN(lsn) AS lsn FROM events WHERE incarnation = '{incarnation}' AND lsn > {after_lsn}"
        );
        let output = self.0.judge(&sql, LIMITS, Instants::default()).await.map_err(failed)?;
        let rows = rows(&to_bytes(&output, Format::Json).map_err(failed)?);
        Ok(rows.first().and_then(|row| row.get("lsn")).and_then(Value::as_u64))
    }

    async fn by_lsn(
        &self,
        tenant: &TenantId,
        incarnation: Uuid,
        lsns: &[u64],
    ) -> Result<Vec<LoggedEvent>, Unreadable> {
        let (Some(first), Some(last)) = (lsns.iter().min(), lsns.iter().max()) else { return Ok(Vec::new()) };
        let list = lsns.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        // The bounds spare files, whatever becomes of the list.
        let sql = format!(
            "SELECT * FROM events WHERE incarnation = '{incarnation}' AND lsn >= {first} AND lsn <= {last} \
             AND lsn IN ({list}) ORDER BY lsn"
        );
        self.events(tenant, &sql).await
    }

    async fn selected(
        &self,
        tenant: &TenantId,
        selection: &ReplaySelection,
        after: Option<Place>,
        max: usize,
    ) -> Result<Vec<LoggedEvent>, Unreadable> {
        let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
        let types: Vec<String> = selection.event_types.iter().map(|kind| quoted(kind)).collect();
        let types = match types.is_empty() {
            true => "TRUE".to_owned(),
            false => format!("event_type IN ({})", types.join(", ")),
        };
        let message = selection.message_id.as_deref();
        let message = message.map_or_else(|| "TRUE".to_owned(), |id| format!("message_id = {}", quoted(id)));
        let start = Place { recorded_at: Timestamp(i64::MIN / 2), lsn: 0, event_id: Uuid::nil() };
        let place = after.unwrap_or(start);
        let from = selection.from.unwrap_or(start.recorded_at).max(place.recorded_at);
        let sql = SELECTED
            .replace("{from}", &from.0.to_string())
            .replace("{to}", &selection.to.unwrap_or(Timestamp(i64::MAX / 2)).0.to_string())
            .replace("{place_at}", &place.recorded_at.0.to_string())
            .replace("{place_lsn}", &place.lsn.to_string())
            .replace("{place_id}", &place.event_id.to_string())
            .replace("{max}", &max.to_string())
            .replace("{types}", &types)
            .replace("{message}", &message);
        self.events(tenant, &sql).await
    }
}

fn failed(error: impl std::fmt::Display) -> Unreadable {
    Unreadable(error.to_string())
}

fn rows(json: &[u8]) -> Vec<Map<String, Value>> {
    let answer: Value = serde_json::from_slice(json).unwrap_or_default();
    let rows = answer.get("rows").and_then(Value::as_array).cloned().unwrap_or_default();
    rows.into_iter().filter_map(|row| if let Value::Object(row) = row { Some(row) } else { None }).collect()
}

/// A row of the lake as the event that it was.
fn logged(mut row: Map<String, Value>) -> Option<LoggedEvent> {
    for name in INSTANTS {
        if let Some(value) = row.get_mut(name)
            && let Some(at) = value.as_str().and_then(Timestamp::parse)
        {
            *value = at.0.into();
        }
    }
    if let Some(Value::Object(tags)) = row.get_mut("tags") {
        tags.retain(|_, value| !value.is_null());
    }
    row.retain(|_, value| !value.is_null());
    let incarnation = Uuid::try_parse(row.get("incarnation")?.as_str()?).ok()?;
    let (lsn, node_id) = (row.get("lsn")?.as_u64()?, row.get("node_id")?.as_str()?.into());
    let event: Event = serde_json::from_value(Value::Object(row)).ok()?;
    Some(LoggedEvent { incarnation, node_id, lsn, event })
}
