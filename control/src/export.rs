//! What each connector has loaded and is to load: its batches with their states, what is in its way, its backfills.
//!
//! The ledger says what was begun, so that a restart goes on there. That no row is loaded twice does not rest on it.

use serde::Serialize;
use serde_json::json;
use sqlx::FromRow;

use crate::audit::{self, Change};
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::id::TenantId;
use crate::store::ControlStore;

/// One batch of one connector.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow, Serialize)]
pub struct ExportBatch {
    pub connector: String,
    /// 32 hexadecimal digits: the same slice has the same.
    pub batch_id: String,
    /// The order in which batches of a connector are loaded: 1, 2, 3 …
    pub number: i64,
    pub source_table: String,
    /// `add`, `replace` or `delete`.
    pub change: String,
    /// The spool's UUID; empty where rows are named one by one.
    pub incarnation: String,
    pub after_lsn: i64,
    pub through_lsn: i64,
    pub first_day: Option<String>,
    pub last_day: Option<String>,
    pub mapping_version: String,
    pub backfill_id: Option<String>,
    pub erasure: Option<String>,
    /// `planned`, `staged`, `submitted` or `committed`.
    pub state: String,
    /// 1 for the first; raised when a job failed for good.
    pub attempt: i64,
    /// The destination's name for the last job submitted.
    pub job_id: Option<String>,
    pub rows_staged: Option<i64>,
    pub bytes_staged: Option<i64>,
    /// As the destination says; fewer than staged when some were there already.
    pub rows_loaded: Option<i64>,
    /// Instants in microseconds since the epoch.
    pub planned_at: i64,
    pub staged_at: Option<i64>,
    pub submitted_at: Option<i64>,
    pub committed_at: Option<i64>,
}

/// How a connector is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow, Serialize)]
pub struct ExportConnector {
    pub connector: String,
    pub paused_at: Option<i64>,
    pub paused_by: Option<String>,
    pub last_run_at: Option<i64>,
    pub error_kind: Option<String>,
    pub error: Option<String>,
    pub error_since: Option<i64>,
    /// Failures in a row.
    pub failures: i64,
    pub retry_at: Option<i64>,
}

/// Days that are loaded again beside live loads.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize)]
pub struct ExportBackfill {
    pub backfill_id: String,
    pub connector: String,
    pub first_day: String,
    pub last_day: String,
    /// Whether rows take the place of those that are there.
    pub replaces: bool,
    /// The day that is planned next; after `last_day` when all are.
    pub next_day: String,
    pub asked_at: i64,
    pub asked_by: String,
    pub ended_at: Option<i64>,
    /// `done` or `cancelled`.
    pub outcome: Option<String>,
}

/// How much of something a connector has loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow, Serialize)]
pub struct ExportSums {
    pub batches: i64,
    pub rows_staged: i64,
    pub bytes_staged: i64,
}

impl ControlStore {
    /// Notes batches in the order given, after those that are there; one that is there stays as it is. Returns how many are
    /// new.
    pub async fn plan_export(&self, batches: &[ExportBatch]) -> Result<u64, ControlError> {
        let doing = "plan an export";
        let mut transaction = self.begin(doing).await?;
        let mut added = 0;
        for batch in batches {
            let result = sqlx::query("INSERT INTO export_batches (connector, batch_id, number, source_table, change, incarnation, after_lsn, through_lsn, first_day, last_day, mapping_version, backfill_id, erasure, state, attempt, planned_at) SELECT $1, $2, coalesce((SELECT max(number) FROM export_batches WHERE connector = $1), 0) + 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'planned', 1, $13 WHERE true ON CONFLICT DO NOTHING")
                .bind(&batch.connector)
                .bind(&batch.batch_id)
                .bind(&batch.source_table)
                .bind(&batch.change)
                .bind(&batch.incarnation)
                .bind(batch.after_lsn)
                .bind(batch.through_lsn)
                .bind(&batch.first_day)
                .bind(&batch.last_day)
                .bind(&batch.mapping_version)
                .bind(&batch.backfill_id)
                .bind(&batch.erasure)
                .bind(self.ids.now().0)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
            added += result.rows_affected();
        }
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(added)
    }

    /// A connector's batches that are not committed, oldest first; a backfill's after all others.
    pub async fn open_export_batches(&self, connector: &str) -> Result<Vec<ExportBatch>, ControlError> {
        sqlx::query_as("SELECT * FROM export_batches WHERE connector = $1 AND state <> 'committed' ORDER BY backfill_id IS NOT NULL, number")
            .bind(connector)
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read the ledger of exports"))
    }

    /// The newest batches of all connectors, or of one, newest first.
    pub async fn export_batches(
        &self,
        connector: Option<&str>,
        limit: i64,
    ) -> Result<Vec<ExportBatch>, ControlError> {
        sqlx::query_as("SELECT * FROM export_batches WHERE $1 IS NULL OR connector = $1 ORDER BY planned_at DESC, number DESC LIMIT $2")
            .bind(connector)
            .bind(limit)
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read the ledger of exports"))
    }

    /// The staged file is on the disk, whole.
    /// `days` are the first and the last of its rows.
    pub async fn export_staged(
        &self,
        batch: &ExportBatch,
        rows: u64,
        bytes: u64,
        days: &(String, String),
    ) -> Result<(), ControlError> {
        let (rows, bytes) =
            (i64::try_from(rows).unwrap_or(i64::MAX), i64::try_from(bytes).unwrap_or(i64::MAX));
        // A batch that was submitted already is staged again after its file was lost: its job stays known.
        sqlx::query("UPDATE export_batches SET state = CASE state WHEN 'planned' THEN 'staged' ELSE state END, rows_staged = $3, bytes_staged = $4, staged_at = $5, first_day = coalesce(first_day, $6), last_day = coalesce(last_day, $7) WHERE connector = $1 AND batch_id = $2")
            .bind(&batch.connector)
            .bind(&batch.batch_id)
            .bind(rows)
            .bind(bytes)
            .bind(self.ids.now().0)
            .bind(&days.0)
            .bind(&days.1)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("note a staged batch"))
    }

    /// A job of that name is about to be submitted.
    pub async fn export_submitting(&self, batch: &ExportBatch, job_id: &str) -> Result<(), ControlError> {
        sqlx::query("UPDATE export_batches SET state = 'submitted', job_id = $3, submitted_at = $4 WHERE connector = $1 AND batch_id = $2")
            .bind(&batch.connector)
            .bind(&batch.batch_id)
            .bind(job_id)
            .bind(self.ids.now().0)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("note a submitted batch"))
    }

    /// The job failed for good: the next one is another attempt, with another name.
    pub async fn export_next_attempt(&self, batch: &ExportBatch) -> Result<(), ControlError> {
        sqlx::query("UPDATE export_batches SET attempt = attempt + 1, job_id = NULL, state = CASE WHEN staged_at IS NULL THEN 'planned' ELSE 'staged' END WHERE connector = $1 AND batch_id = $2")
            .bind(&batch.connector)
            .bind(&batch.batch_id)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("note a failed job"))
    }

    /// The rows are in the destination.
    pub async fn export_committed(
        &self,
        batch: &ExportBatch,
        rows_loaded: Option<u64>,
        job_id: Option<&str>,
    ) -> Result<(), ControlError> {
        let rows_loaded = rows_loaded.map(|rows| i64::try_from(rows).unwrap_or(i64::MAX));
        sqlx::query("UPDATE export_batches SET state = 'committed', rows_loaded = $3, job_id = coalesce($4, job_id), committed_at = $5 WHERE connector = $1 AND batch_id = $2")
            .bind(&batch.connector)
            .bind(&batch.batch_id)
            .bind(rows_loaded)
            .bind(job_id)
            .bind(self.ids.now().0)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("note a loaded batch"))
    }

    /// Batches that nobody needs any more, since the columns that leave are others now. Returns how many.
    pub async fn drop_planned_exports(
        &self,
        connector: &str,
        mapping_version: &str,
    ) -> Result<u64, ControlError> {
        sqlx::query("DELETE FROM export_batches WHERE connector = $1 AND state <> 'committed' AND mapping_version <> $2")
            .bind(connector)
            .bind(mapping_version)
            .execute(&self.pool)
            .await
            .map(|done| done.rows_affected())
            .map_err(self.failed("drop planned batches"))
    }

    /// Per spool the last LSN that live loads have committed.
    pub async fn export_positions(&self, connector: &str) -> Result<Vec<(String, i64)>, ControlError> {
        sqlx::query_as("SELECT incarnation, max(through_lsn) FROM export_batches WHERE connector = $1 AND state = 'committed' AND change = 'add' AND backfill_id IS NULL GROUP BY incarnation ORDER BY incarnation")
            .bind(connector)
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read the ledger of exports"))
    }

    /// The erasures that a connector has batches of.
    pub async fn export_erasures(&self, connector: &str) -> Result<Vec<String>, ControlError> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT DISTINCT erasure FROM export_batches WHERE connector = $1 AND erasure IS NOT NULL",
        )
        .bind(connector)
        .fetch_all(&self.pool)
        .await
        .map_err(self.failed("read the ledger of exports"))?;
        Ok(rows.into_iter().map(|(erasure,)| erasure).collect())
    }

    /// Forgets a connector: its batches, its state, its backfills. What it has loaded stays where it is.
    pub async fn forget_export(&self, actor: &str, connector: &str) -> Result<(), ControlError> {
        let doing = "forget the connector";
        let mut transaction = self.begin(doing).await?;
        for statement in [
            "DELETE FROM export_batches WHERE connector = $1",
            "DELETE FROM export_connectors WHERE connector = $1",
            "DELETE FROM export_backfills WHERE connector = $1",
        ] {
            sqlx::query(statement)
                .bind(connector)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
        }
        let tenant = TenantId::platform();
        let change = Change {
            actor,
            tenant: &tenant,
            action: "export_forgotten",
            subject: connector,
            detail: json!({}),
        };
        audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// What a connector has loaded in all, or in one backfill; and what is planned and not loaded.
    pub async fn export_sums(
        &self,
        connector: &str,
        backfill_id: Option<&str>,
    ) -> Result<(ExportSums, ExportSums), ControlError> {
        let mut sums = [ExportSums::default(); 2];
        for (sum, condition) in sums.iter_mut().zip(["state = 'committed'", "state <> 'committed'"]) {
            *sum = sqlx::query_as(&format!("SELECT count(*) AS batches, coalesce(sum(rows_staged), 0) AS rows_staged, coalesce(sum(bytes_staged), 0) AS bytes_staged FROM export_batches WHERE connector = $1 AND ($2 IS NULL OR backfill_id = $2) AND {condition}"))
                .bind(connector)
                .bind(backfill_id)
                .fetch_one(&self.pool)
                .await
                .map_err(self.failed("read the ledger of exports"))?;
        }
        let [committed, open] = sums;
        Ok((committed, open))
    }

    /// How every connector that was ever run is doing.
    pub async fn export_connectors(&self) -> Result<Vec<ExportConnector>, ControlError> {
        sqlx::query_as("SELECT * FROM export_connectors ORDER BY connector")
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list the connectors"))
    }

    /// How one connector is doing; as new when it was never run.
    pub async fn export_connector(&self, connector: &str) -> Result<ExportConnector, ControlError> {
        let found = sqlx::query_as("SELECT * FROM export_connectors WHERE connector = $1")
            .bind(connector)
            .fetch_optional(&self.pool)
            .await
            .map_err(self.failed("read the connector"))?;
        Ok(found.unwrap_or_else(|| ExportConnector {
            connector: connector.to_owned(),
            ..ExportConnector::default()
        }))
    }

    /// A run ended well.
    pub async fn export_ran(&self, connector: &str) -> Result<(), ControlError> {
        sqlx::query("INSERT INTO export_connectors (connector, last_run_at) VALUES ($1, $2) ON CONFLICT (connector) DO UPDATE SET last_run_at = $2, error_kind = NULL, error = NULL, error_since = NULL, failures = 0, retry_at = NULL")
            .bind(connector)
            .bind(self.ids.now().0)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("note a run"))
    }

    /// A run failed, and is tried again at `retry_at`.
    pub async fn export_failed(
        &self,
        connector: &str,
        kind: &str,
        error: &str,
        retry_at: Timestamp,
    ) -> Result<(), ControlError> {
        sqlx::query("INSERT INTO export_connectors (connector, error_kind, error, error_since, failures, retry_at) VALUES ($1, $2, $3, $4, 1, $5) ON CONFLICT (connector) DO UPDATE SET error_kind = $2, error = $3, error_since = coalesce(error_since, $4), failures = failures + 1, retry_at = $5")
            .bind(connector)
            .bind(kind)
            .bind(error)
            .bind(self.ids.now().0)
            .bind(retry_at.0)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("note a failed run"))
    }

    /// Tries again at once, whatever was in the way.
    pub async fn retry_export(&self, connector: &str) -> Result<(), ControlError> {
        sqlx::query("UPDATE export_connectors SET retry_at = NULL WHERE connector = $1")
            .bind(connector)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("retry the connector"))
    }

    /// Stops a connector after the batch in hand, or lets it go on.
    pub async fn pause_export(&self, actor: &str, connector: &str, paused: bool) -> Result<(), ControlError> {
        let doing = "pause the connector";
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        let (at, by) = if paused { (Some(now.0), Some(actor)) } else { (None, None) };
        sqlx::query("INSERT INTO export_connectors (connector, paused_at, paused_by) VALUES ($1, $2, $3) ON CONFLICT (connector) DO UPDATE SET paused_at = $2, paused_by = $3")
            .bind(connector)
            .bind(at)
            .bind(by)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let action = if paused { "export_paused" } else { "export_resumed" };
        let tenant = TenantId::platform();
        let change = Change { actor, tenant: &tenant, action, subject: connector, detail: json!({}) };
        audit::record(&mut transaction, now, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// Asks for days to be loaded again. Returns the backfill's id.
    pub async fn add_export_backfill(
        &self,
        actor: &str,
        connector: &str,
        days: (&str, &str),
        replaces: bool,
    ) -> Result<String, ControlError> {
        let doing = "ask for a backfill";
        let now = self.ids.now();
        let id = self.ids.uuid().to_string();
        let mut transaction = self.begin(doing).await?;
        sqlx::query("INSERT INTO export_backfills (backfill_id, connector, first_day, last_day, replaces, next_day, asked_at, asked_by) VALUES ($1, $2, $3, $4, $5, $3, $6, $7)")
            .bind(&id)
            .bind(connector)
            .bind(days.0)
            .bind(days.1)
            .bind(replaces)
            .bind(now.0)
            .bind(actor)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let tenant = TenantId::platform();
        let detail = json!({ "backfill_id": id, "from": days.0, "to": days.1, "replaces": replaces });
        let change = Change { actor, tenant: &tenant, action: "export_backfill", subject: connector, detail };
        audit::record(&mut transaction, now, change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(id)
    }

    /// Backfills of one connector or of all, newest first; those that are over too.
    pub async fn export_backfills(
        &self,
        connector: Option<&str>,
    ) -> Result<Vec<ExportBackfill>, ControlError> {
        sqlx::query_as("SELECT * FROM export_backfills WHERE $1 IS NULL OR connector = $1 ORDER BY asked_at DESC, backfill_id DESC")
            .bind(connector)
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("list the backfills"))
    }

    /// The next day to be planned; all before it are in the ledger.
    pub async fn export_backfill_planned(
        &self,
        backfill_id: &str,
        next_day: &str,
    ) -> Result<(), ControlError> {
        sqlx::query("UPDATE export_backfills SET next_day = $2 WHERE backfill_id = $1")
            .bind(backfill_id)
            .bind(next_day)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("note a backfill's progress"))
    }

    /// A backfill is over. Batches of it that were not begun go.
    pub async fn end_export_backfill(&self, backfill_id: &str, outcome: &str) -> Result<bool, ControlError> {
        let doing = "end the backfill";
        let mut transaction = self.begin(doing).await?;
        sqlx::query("DELETE FROM export_batches WHERE backfill_id = $1 AND state IN ('planned', 'staged')")
            .bind(backfill_id)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        let ended = sqlx::query("UPDATE export_backfills SET ended_at = $2, outcome = $3 WHERE backfill_id = $1 AND ended_at IS NULL")
            .bind(backfill_id)
            .bind(self.ids.now().0)
            .bind(outcome)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))?;
        Ok(ended.rows_affected() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::open_temporary;

    fn batch(id: &str) -> ExportBatch {
        ExportBatch {
            connector: "dwh".into(),
            batch_id: id.into(),
            number: 0,
            source_table: "events".into(),
            change: "add".into(),
            incarnation: "i".into(),
            after_lsn: 0,
            through_lsn: 10,
            first_day: None,
            last_day: None,
            mapping_version: "m".into(),
            backfill_id: None,
            erasure: None,
            state: String::new(),
            attempt: 0,
            job_id: None,
            rows_staged: None,
            bytes_staged: None,
            rows_loaded: None,
            planned_at: 0,
            staged_at: None,
            submitted_at: None,
            committed_at: None,
        }
    }

    #[tokio::test]
    async fn a_batch_goes_through_its_states_and_is_planned_once() {
        let (_dir, store) = open_temporary().await;
        let backfill = ExportBatch { backfill_id: Some("b".into()), ..batch("b1") };
        assert_eq!(store.plan_export(&[backfill, batch("a1"), batch("a2")]).await.unwrap(), 3);
        assert_eq!(store.plan_export(&[batch("a1")]).await.unwrap(), 0, "it is there");
        let open = store.open_export_batches("dwh").await.unwrap();
        let ids: Vec<_> = open.iter().map(|batch| (batch.batch_id.as_str(), batch.number)).collect();
        assert_eq!(ids, [("a1", 2), ("a2", 3), ("b1", 1)], "live loads go first");
        let first = &open[0];
        store.export_staged(first, 5, 500, &("2026-01-01".into(), "2026-01-02".into())).await.unwrap();
        store.export_submitting(first, "job-1").await.unwrap();
        let now = store.open_export_batches("dwh").await.unwrap();
        assert_eq!(
            (now[0].state.as_str(), now[0].job_id.as_deref(), now[0].attempt),
            ("submitted", Some("job-1"), 1)
        );
        store.export_next_attempt(first).await.unwrap();
        let now = store.open_export_batches("dwh").await.unwrap();
        assert_eq!((now[0].state.as_str(), now[0].job_id.as_deref(), now[0].attempt), ("staged", None, 2));
        store.export_committed(first, Some(4), Some("job-2")).await.unwrap();
        assert_eq!(store.open_export_batches("dwh").await.unwrap().len(), 2);
        let (done, open) = store.export_sums("dwh", None).await.unwrap();
        assert_eq!((done.batches, done.rows_staged, open.batches), (1, 5, 2));
        assert_eq!(store.export_positions("dwh").await.unwrap(), [("i".to_owned(), 10)]);
        assert_eq!(store.drop_planned_exports("dwh", "m").await.unwrap(), 0);
        assert_eq!(store.drop_planned_exports("dwh", "n").await.unwrap(), 2);
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_known_since_when_and_over_when_it_is_over() {
        let (_dir, store) = open_temporary().await;
        assert_eq!(store.export_connector("dwh").await.unwrap().failures, 0);
        store.export_failed("dwh", "away", "no answer", Timestamp(5)).await.unwrap();
        let first = store.export_connector("dwh").await.unwrap();
        store.export_failed("dwh", "credentials", "401", Timestamp(9)).await.unwrap();
        let second = store.export_connector("dwh").await.unwrap();
        assert_eq!((second.failures, second.error_since), (2, first.error_since));
        assert_eq!((second.error_kind.as_deref(), second.retry_at), (Some("credentials"), Some(9)));
        store.pause_export("cli", "dwh", true).await.unwrap();
        store.export_ran("dwh").await.unwrap();
        let well = store.export_connector("dwh").await.unwrap();
        assert_eq!((well.error, well.failures, well.paused_by.as_deref()), (None, 0, Some("cli")));
        store.pause_export("cli", "dwh", false).await.unwrap();
        assert_eq!(store.export_connectors().await.unwrap()[0].paused_at, None);
    }

    #[tokio::test]
    async fn a_backfill_that_is_cancelled_leaves_nothing_to_do() {
        let (_dir, store) = open_temporary().await;
        let id = store.add_export_backfill("cli", "dwh", ("2026-01-01", "2026-01-03"), false).await.unwrap();
        store.plan_export(&[ExportBatch { backfill_id: Some(id.clone()), ..batch("b1") }]).await.unwrap();
        store.export_backfill_planned(&id, "2026-01-02").await.unwrap();
        assert_eq!(store.export_backfills(Some("dwh")).await.unwrap()[0].next_day, "2026-01-02");
        assert!(store.end_export_backfill(&id, "cancelled").await.unwrap());
        assert!(!store.end_export_backfill(&id, "done").await.unwrap());
        assert!(store.open_export_batches("dwh").await.unwrap().is_empty());
    }
}
