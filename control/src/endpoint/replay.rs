//! What is sent again by a person's wish: jobs that go on where they were after a restart, one node at a time.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Endpoint, unreadable};
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;

/// Replays of one endpoint that may run at once.
const RUNNING_MAX: i64 = 5;

/// Which events are sent again. Without anything named, all that the endpoint's filter lets through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ReplaySelection {
    /// Recorded at or after, in microseconds.
    pub from: Option<Timestamp>,
    /// Recorded before.
    pub to: Option<Timestamp>,
    pub event_types: Vec<String>,
    pub message_id: Option<String>,
    /// Only those that were given up.
    pub failed: bool,
}

/// Where a replay has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplayState {
    Running,
    Done,
    Cancelled,
    /// Given up.
    Failed,
}

impl ReplayState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }
}

/// One replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    pub replay_id: String,
    pub endpoint_id: String,
    pub tenant_id: TenantId,
    pub selection: ReplaySelection,
    pub state: ReplayState,
    /// JSON, as its runner wrote it.
    pub position: Option<String>,
    pub delivered: u64,
    /// Events that were given up again.
    pub failed: u64,
    pub last_error: Option<String>,
    pub created_at: Timestamp,
    pub created_by: String,
    pub ended_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct Row {
    replay_id: String,
    endpoint_id: String,
    tenant_id: String,
    selection: String,
    state: String,
    position: Option<String>,
    delivered: i64,
    failed: i64,
    last_error: Option<String>,
    created_at: i64,
    created_by: String,
    ended_at: Option<i64>,
}

const COLUMNS: &str = "SELECT replay_id, endpoint_id, tenant_id, selection, state, position, delivered, failed, last_error, created_at, created_by, ended_at FROM webhook_replays";

impl ControlStore {
    /// Has events sent again. A running server takes it up within a second.
    pub async fn add_replay(
        &self,
        actor: &str,
        endpoint: &Endpoint,
        selection: &ReplaySelection,
    ) -> Result<Replay, ControlError> {
        let doing = "add the replay";
        let replay_id = format!("rp_{}", self.ids.uuid().simple());
        let now = self.ids.now();
        // What is recorded from now on is sent anyway.
        let selection = ReplaySelection { to: Some(selection.to.unwrap_or(now)), ..selection.clone() };
        let text = serde_json::to_string(&selection).map_err(|error| unreadable(&replay_id, &error))?;
        let mut transaction = self.begin(doing).await?;
        let (running,): (i64,) = sqlx::query_as(
            "SELECT COUNT(*) FROM webhook_replays WHERE endpoint_id = $1 AND state = 'running'",
        )
        .bind(&endpoint.endpoint_id)
        .fetch_one(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        if running >= RUNNING_MAX {
            return Err(ControlError::TooManyReplays {
                endpoint_id: endpoint.endpoint_id.clone(),
                limit: RUNNING_MAX,
            });
        }
        sqlx::query("INSERT INTO webhook_replays (replay_id, endpoint_id, tenant_id, selection, state, delivered, failed, created_at, created_by) VALUES ($1, $2, $3, $4, 'running', 0, 0, $5, $6)")
            .bind(&replay_id)
            .bind(&endpoint.endpoint_id)
            .bind(endpoint.tenant_id.as_str())
            .bind(text)
            .bind(now.0)
            .bind(actor)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let detail = json!({ "replay_id": replay_id, "selection": selection });
        let (tenant, id) = (&endpoint.tenant_id, &endpoint.endpoint_id);
        self.audit_endpoint(&mut transaction, actor, tenant, "endpoint_replayed", id, detail).await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        self.replay(&endpoint.endpoint_id, &replay_id).await
    }

    /// One replay of an endpoint.
    pub async fn replay(&self, endpoint_id: &str, replay_id: &str) -> Result<Replay, ControlError> {
        let row: Option<Row> =
            sqlx::query_as(&format!("{COLUMNS} WHERE endpoint_id = $1 AND replay_id = $2"))
                .bind(endpoint_id)
                .bind(replay_id)
                .fetch_optional(&self.pool)
                .await
                .map_err(self.failed("read the replay"))?;
        let row = row.ok_or_else(|| ControlError::NoSuchReplay { replay_id: replay_id.to_owned() })?;
        replay(row)
    }

    /// The newest replays of an endpoint.
    pub async fn replays(&self, endpoint_id: &str, max: u32) -> Result<Vec<Replay>, ControlError> {
        let rows: Vec<Row> =
            sqlx::query_as(&format!("{COLUMNS} WHERE endpoint_id = $1 ORDER BY created_at DESC LIMIT $2"))
                .bind(endpoint_id)
                .bind(i64::from(max))
                .fetch_all(&self.pool)
                .await
                .map_err(self.failed("list the replays"))?;
        rows.into_iter().map(replay).collect()
    }

    /// Takes a running replay that nobody works on, for `lease_s` seconds; saving its progress prolongs that.
    pub async fn claim_replay(&self, runner: &str, lease_s: u32) -> Result<Option<Replay>, ControlError> {
        let doing = "take up a replay";
        let now = self.ids.now();
        let row: Option<(String, String)> = sqlx::query_as("UPDATE webhook_replays SET runner = $1, lease_until = $2 WHERE replay_id = (SELECT replay_id FROM webhook_replays WHERE state = 'running' AND (lease_until IS NULL OR lease_until < $3) ORDER BY created_at LIMIT 1) RETURNING endpoint_id, replay_id")
            .bind(runner)
            .bind(now.plus_secs(lease_s.into()).0)
            .bind(now.0)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed(doing))?;
        match row {
            Some((endpoint_id, replay_id)) => self.replay(&endpoint_id, &replay_id).await.map(Some),
            None => Ok(None),
        }
    }

    /// Lets go of what a runner had taken: it ends in order, or starts anew under its name.
    pub async fn release_replays(&self, runner: &str) -> Result<(), ControlError> {
        sqlx::query("UPDATE webhook_replays SET lease_until = NULL WHERE runner = $1 AND state = 'running'")
            .bind(runner)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("let go of replays"))
    }

    /// Saves how far a replay has got, and keeps it for `lease_s` seconds more. False when it is no longer the runner's, or
    /// was cancelled.
    pub async fn save_replay(
        &self,
        runner: &str,
        replay: &Replay,
        lease_s: u32,
    ) -> Result<bool, ControlError> {
        let now = self.ids.now();
        let ended_at = (replay.state != ReplayState::Running).then_some(now.0);
        sqlx::query("UPDATE webhook_replays SET state = $1, position = $2, delivered = $3, failed = $4, last_error = $5, lease_until = $6, ended_at = $7 WHERE replay_id = $8 AND runner = $9 AND state = 'running'")
            .bind(replay.state.as_str())
            .bind(&replay.position)
            .bind(replay.delivered.cast_signed())
            .bind(replay.failed.cast_signed())
            .bind(&replay.last_error)
            .bind(now.plus_secs(lease_s.into()).0)
            .bind(ended_at)
            .bind(&replay.replay_id)
            .bind(runner)
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected() == 1)
            .map_err(self.failed("save the replay"))
    }

    /// Ends a replay. False when it had ended.
    pub async fn cancel_replay(
        &self,
        actor: &str,
        endpoint: &Endpoint,
        replay_id: &str,
    ) -> Result<bool, ControlError> {
        let doing = "cancel the replay";
        self.replay(&endpoint.endpoint_id, replay_id).await?;
        let mut transaction = self.begin(doing).await?;
        let done = sqlx::query("UPDATE webhook_replays SET state = 'cancelled', ended_at = $1 WHERE replay_id = $2 AND state = 'running'")
            .bind(self.ids.now().0)
            .bind(replay_id)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let detail = json!({ "replay_id": replay_id });
        let (tenant, id) = (&endpoint.tenant_id, &endpoint.endpoint_id);
        self.audit_endpoint(&mut transaction, actor, tenant, "endpoint_replay_cancelled", id, detail).await?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(done.rows_affected() == 1)
    }
}

fn replay(row: Row) -> Result<Replay, ControlError> {
    let states = [ReplayState::Running, ReplayState::Done, ReplayState::Cancelled, ReplayState::Failed];
    let state = states.into_iter().find(|state| state.as_str() == row.state);
    let state = state.ok_or_else(|| unreadable(&row.replay_id, &format!("{:?} is no state", row.state)))?;
    Ok(Replay {
        tenant_id: TenantId::new(&row.tenant_id).map_err(|error| unreadable(&row.replay_id, &error))?,
        selection: serde_json::from_str(&row.selection)
            .map_err(|error| unreadable(&row.replay_id, &error))?,
        replay_id: row.replay_id,
        endpoint_id: row.endpoint_id,
        state,
        position: row.position,
        delivered: row.delivered.cast_unsigned(),
        failed: row.failed.cast_unsigned(),
        last_error: row.last_error,
        created_at: Timestamp(row.created_at),
        created_by: row.created_by,
        ended_at: row.ended_at.map(Timestamp),
    })
}
