//! How far endpoints have got in a spool's log, and what they did not take: ids, never content.

use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use super::unreadable;
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::store::ControlStore;

/// Failed events that are kept of one endpoint; the oldest go first.
pub const FAILED_MAX: i64 = 100_000;

/// How far one endpoint has got in one spool's log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct EndpointPosition {
    pub incarnation: String,
    /// Everything at or below it was delivered, is undelivered by name, or was not wanted.
    pub cursor_lsn: i64,
    /// Microseconds: when the last event at or below it was recorded, or when the log's end was reached.
    pub through_at: Option<i64>,
    pub delivered: i64,
    pub skipped: i64,
    pub circuit_open: bool,
    pub next_probe_at: Option<i64>,
    pub failing_since: Option<i64>,
    pub last_error: Option<String>,
    pub last_success_at: Option<i64>,
}

/// Whether an undelivered event is still tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UndeliveredState {
    /// Tried again, or behind an event of its message that is.
    Parked,
    /// Given up.
    Failed,
}

impl UndeliveredState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parked => "parked",
            Self::Failed => "failed",
        }
    }
}

/// An event that an endpoint did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    pub incarnation: Uuid,
    pub lsn: u64,
    pub event_id: Uuid,
    pub event_type: String,
    pub message_id: Option<String>,
    pub state: UndeliveredState,
    pub attempts: u32,
    /// `None` for one that only waits behind another.
    pub first_attempt_at: Option<Timestamp>,
    pub next_attempt_at: Option<Timestamp>,
    pub last_error: Option<String>,
}

/// What changed for one endpoint since it was last saved; later changes of a number replace earlier ones.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub endpoint_id: String,
    pub position: EndpointPosition,
    /// By log number: what to keep of it, or that it is settled.
    pub undelivered: BTreeMap<u64, Option<Undelivered>>,
}

impl Progress {
    /// Takes what came later.
    pub fn absorb(&mut self, later: Progress) {
        self.position = later.position;
        self.undelivered.extend(later.undelivered);
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    incarnation: String,
    lsn: i64,
    event_id: String,
    event_type: String,
    message_id: Option<String>,
    state: String,
    attempts: i64,
    first_attempt_at: Option<i64>,
    next_attempt_at: Option<i64>,
    last_error: Option<String>,
}

const UNDELIVERED: &str = "SELECT incarnation, lsn, event_id, event_type, message_id, state, attempts, first_attempt_at, next_attempt_at, last_error FROM webhook_undelivered WHERE endpoint_id = $1 AND state = $2 AND ($3 IS NULL OR incarnation = $3) AND (incarnation > $4 OR (incarnation = $4 AND lsn > $5)) ORDER BY incarnation, lsn LIMIT $6";
const SAVE_POSITION: &str = "INSERT INTO webhook_positions (endpoint_id, incarnation, cursor_lsn, through_at, delivered, skipped, circuit_open, next_probe_at, failing_since, last_error, last_success_at, saved_at) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12 FROM webhook_endpoints WHERE endpoint_id = $1 AND removed_at IS NULL ON CONFLICT (endpoint_id, incarnation) DO UPDATE SET cursor_lsn = excluded.cursor_lsn, through_at = excluded.through_at, delivered = excluded.delivered, skipped = excluded.skipped, circuit_open = excluded.circuit_open, next_probe_at = excluded.next_probe_at, failing_since = excluded.failing_since, last_error = excluded.last_error, last_success_at = excluded.last_success_at, saved_at = excluded.saved_at";
const SAVE_UNDELIVERED: &str = "INSERT INTO webhook_undelivered (endpoint_id, incarnation, lsn, event_id, event_type, message_id, state, attempts, first_attempt_at, next_attempt_at, last_error) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11 FROM webhook_endpoints WHERE endpoint_id = $1 AND removed_at IS NULL ON CONFLICT (endpoint_id, incarnation, lsn) DO UPDATE SET state = excluded.state, attempts = excluded.attempts, first_attempt_at = excluded.first_attempt_at, next_attempt_at = excluded.next_attempt_at, last_error = excluded.last_error";
const TRIM_FAILED: &str = "DELETE FROM webhook_undelivered WHERE endpoint_id = $1 AND state = 'failed' AND rowid IN (SELECT rowid FROM webhook_undelivered WHERE endpoint_id = $1 AND state = 'failed' ORDER BY first_attempt_at DESC LIMIT -1 OFFSET $2)";

impl ControlStore {
    /// How far an endpoint has got, in each spool's log.
    pub async fn endpoint_positions(&self, endpoint_id: &str) -> Result<Vec<EndpointPosition>, ControlError> {
        sqlx::query_as("SELECT incarnation, cursor_lsn, through_at, delivered, skipped, circuit_open, next_probe_at, failing_since, last_error, last_success_at FROM webhook_positions WHERE endpoint_id = $1 ORDER BY incarnation")
            .bind(endpoint_id)
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read the webhook's position"))
    }

    /// Undelivered events of an endpoint, of one spool or of all, in the order of their numbers, after the one named.
    pub async fn undelivered(
        &self,
        endpoint_id: &str,
        state: UndeliveredState,
        incarnation: Option<Uuid>,
        after: Option<(Uuid, u64)>,
        max: u32,
    ) -> Result<Vec<Undelivered>, ControlError> {
        let (after_incarnation, after_lsn) = after
            .map_or((String::new(), 0), |(incarnation, lsn)| (incarnation.to_string(), lsn.cast_signed()));
        let rows: Vec<Row> = sqlx::query_as(UNDELIVERED)
            .bind(endpoint_id)
            .bind(state.as_str())
            .bind(incarnation.map(|incarnation| incarnation.to_string()))
            .bind(after_incarnation)
            .bind(after_lsn)
            .bind(i64::from(max))
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list what a webhook did not take"))?;
        rows.into_iter().map(|row| undelivered(endpoint_id, row, state)).collect()
    }

    /// How many are parked, and how many have failed.
    pub async fn count_undelivered(&self, endpoint_id: &str) -> Result<(i64, i64), ControlError> {
        sqlx::query_as("SELECT COALESCE(SUM(state = 'parked'), 0), COALESCE(SUM(state = 'failed'), 0) FROM webhook_undelivered WHERE endpoint_id = $1")
            .bind(endpoint_id)
            .fetch_one(&self.pool)
            .await
            .map_err(self.failed("count what a webhook did not take"))
    }

    /// Saves what changed for several endpoints, all of it or nothing. Removed endpoints are passed over.
    pub async fn save_progress(&self, changed: &[Progress]) -> Result<(), ControlError> {
        let doing = "save how far webhooks have got";
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        for Progress { endpoint_id, position, undelivered } in changed {
            sqlx::query(SAVE_POSITION)
                .bind(endpoint_id)
                .bind(&position.incarnation)
                .bind(position.cursor_lsn)
                .bind(position.through_at)
                .bind(position.delivered)
                .bind(position.skipped)
                .bind(position.circuit_open)
                .bind(position.next_probe_at)
                .bind(position.failing_since)
                .bind(&position.last_error)
                .bind(position.last_success_at)
                .bind(now.0)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
            let mut has_failed = false;
            for (lsn, change) in undelivered {
                let Some(event) = change else {
                    sqlx::query("DELETE FROM webhook_undelivered WHERE endpoint_id = $1 AND incarnation = $2 AND lsn = $3")
                        .bind(endpoint_id)
                        .bind(&position.incarnation)
                        .bind(lsn.cast_signed())
                        .execute(&mut *transaction)
                        .await
                        .map_err(self.failed(doing))?;
                    continue;
                };
                has_failed |= event.state == UndeliveredState::Failed;
                sqlx::query(SAVE_UNDELIVERED)
                    .bind(endpoint_id)
                    .bind(event.incarnation.to_string())
                    .bind(lsn.cast_signed())
                    .bind(event.event_id.to_string())
                    .bind(&event.event_type)
                    .bind(&event.message_id)
                    .bind(event.state.as_str())
                    .bind(i64::from(event.attempts))
                    .bind(event.first_attempt_at.map(|at| at.0))
                    .bind(event.next_attempt_at.map(|at| at.0))
                    .bind(&event.last_error)
                    .execute(&mut *transaction)
                    .await
                    .map_err(self.failed(doing))?;
            }
            if has_failed {
                sqlx::query(TRIM_FAILED)
                    .bind(endpoint_id)
                    .bind(FAILED_MAX)
                    .execute(&mut *transaction)
                    .await
                    .map_err(self.failed(doing))?;
            }
        }
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// A failed event that came through after all, or that is no longer there.
    pub async fn settle_failed(&self, endpoint_id: &str, event_id: Uuid) -> Result<(), ControlError> {
        sqlx::query(
            "DELETE FROM webhook_undelivered WHERE endpoint_id = $1 AND event_id = $2 AND state = 'failed'",
        )
        .bind(endpoint_id)
        .bind(event_id.to_string())
        .execute(&self.pool)
        .await
        .map(drop)
        .map_err(self.failed("settle what a webhook did not take"))
    }
}

fn undelivered(endpoint_id: &str, row: Row, state: UndeliveredState) -> Result<Undelivered, ControlError> {
    debug_assert_eq!(row.state, state.as_str());
    let id = |text: &str| Uuid::try_parse(text).map_err(|error| unreadable(endpoint_id, &error));
    Ok(Undelivered {
        incarnation: id(&row.incarnation)?,
        lsn: row.lsn.cast_unsigned(),
        event_id: id(&row.event_id)?,
        event_type: row.event_type,
        message_id: row.message_id,
        state,
        attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
        first_attempt_at: row.first_attempt_at.map(Timestamp),
        next_attempt_at: row.next_attempt_at.map(Timestamp),
        last_error: row.last_error,
    })
}
