//! Which rows of a reverse connector were sent, and which the destination refused. Its batches are in the ledger of exports.

use serde::Serialize;
use serde_json::json;
use sqlx::FromRow;

use crate::audit::{self, Change};
use crate::clock::Timestamp;
use crate::error::ControlError;
use crate::export::ExportBatch;
use crate::id::TenantId;
use crate::store::ControlStore;

/// How long batches stay in the ledger.
const BATCHES_KEPT_S: i64 = 30 * 86_400;

/// What is known of one record.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow, Serialize)]
pub struct ReverseRow {
    pub key_hash: String,
    /// Of what the destination took last.
    pub row_hash: Option<String>,
    pub sent_at: Option<i64>,
    /// Of what it refused since.
    pub refused_hash: Option<String>,
    pub error: Option<String>,
    pub refused_at: Option<i64>,
    pub retry_at: Option<i64>,
}

/// What the destination did with one row of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReverseOutcome {
    pub key_hash: String,
    pub row_hash: String,
    /// `None` when it took the row; else what it said, and when the row is tried again as it is.
    pub refusal: Option<(String, Timestamp)>,
}

/// How many rows of a connector are where.
#[derive(Clone, Debug, Default, PartialEq, Eq, FromRow, Serialize)]
pub struct ReverseSums {
    pub rows_sent: i64,
    pub rows_refused: i64,
    /// What was said of the one refused last.
    pub refusal: Option<String>,
}

impl ControlStore {
    /// Everything that is known of a connector's records.
    pub async fn reverse_rows(&self, connector: &str) -> Result<Vec<ReverseRow>, ControlError> {
        sqlx::query_as("SELECT * FROM reverse_rows WHERE connector = $1 ORDER BY key_hash")
            .bind(connector)
            .fetch_all(&self.pool)
            .await
            .map_err(self.failed("read which rows were sent"))
    }

    /// A request is planned. The same rows are the same batch: planned again it is another attempt.
    pub async fn plan_reverse(&self, batch: &ExportBatch) -> Result<(), ControlError> {
        sqlx::query(include_str!("reverse/plan.sql"))
            .bind(&batch.connector)
            .bind(&batch.batch_id)
            .bind(&batch.mapping_version)
            .bind(batch.rows_staged)
            .bind(batch.bytes_staged)
            .bind(self.ids.now().0)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("plan a request"))
    }

    /// The request is about to be made.
    pub async fn reverse_submitting(&self, connector: &str, batch_id: &str) -> Result<(), ControlError> {
        sqlx::query("UPDATE export_batches SET state = 'submitted', submitted_at = $3 WHERE connector = $1 AND batch_id = $2")
            .bind(connector)
            .bind(batch_id)
            .bind(self.ids.now().0)
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(self.failed("note a request"))
    }

    /// The request was answered for each of its rows.
    pub async fn reverse_committed(
        &self,
        connector: &str,
        batch_id: &str,
        outcomes: &[ReverseOutcome],
    ) -> Result<(), ControlError> {
        let doing = "note which rows were sent";
        let now = self.ids.now();
        let mut transaction = self.begin(doing).await?;
        for outcome in outcomes {
            let statement = match outcome.refusal {
                None => include_str!("reverse/taken.sql"),
                Some(_) => include_str!("reverse/refused.sql"),
            };
            let (error, retry_at) = outcome.refusal.as_ref().map(|(said, at)| (said.as_str(), at.0)).unzip();
            let mut query = sqlx::query(statement)
                .bind(connector)
                .bind(&outcome.key_hash)
                .bind(&outcome.row_hash)
                .bind(now.0);
            if outcome.refusal.is_some() {
                query = query.bind(error).bind(retry_at);
            }
            query.execute(&mut *transaction).await.map_err(self.failed(doing))?;
        }
        let taken = outcomes.iter().filter(|outcome| outcome.refusal.is_none()).count();
        sqlx::query("UPDATE export_batches SET state = 'committed', rows_loaded = $3, committed_at = $4 WHERE connector = $1 AND batch_id = $2")
            .bind(connector)
            .bind(batch_id)
            .bind(i64::try_from(taken).unwrap_or(i64::MAX))
            .bind(now.0)
            .execute(&mut *transaction)
            .await
            .map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// A run is over: forgets records that the query gives no more, batches that were given up, and old ones.
    pub async fn reverse_ended(&self, connector: &str, gone: &[&str]) -> Result<(), ControlError> {
        let doing = "end a run";
        let mut transaction = self.begin(doing).await?;
        for key_hash in gone {
            sqlx::query("DELETE FROM reverse_rows WHERE connector = $1 AND key_hash = $2")
                .bind(connector)
                .bind(key_hash)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
        }
        sqlx::query(
            "DELETE FROM export_batches WHERE connector = $1 AND (state <> 'committed' OR committed_at < $2)",
        )
        .bind(connector)
        .bind(self.ids.now().plus_secs(-BATCHES_KEPT_S).0)
        .execute(&mut *transaction)
        .await
        .map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }

    /// How many of a connector's rows were sent, and how many are refused.
    pub async fn reverse_sums(&self, connector: &str) -> Result<ReverseSums, ControlError> {
        sqlx::query_as(include_str!("reverse/sums.sql"))
            .bind(connector)
            .fetch_one(&self.pool)
            .await
            .map_err(self.failed("count which rows were sent"))
    }

    /// Forgets what was sent, so that the next run sends every row again. What the destination has stays there.
    pub async fn forget_reverse(&self, actor: &str, connector: &str) -> Result<(), ControlError> {
        let doing = "forget what was sent";
        let mut transaction = self.begin(doing).await?;
        for statement in [
            "DELETE FROM reverse_rows WHERE connector = $1",
            "DELETE FROM export_batches WHERE connector = $1",
            "DELETE FROM export_connectors WHERE connector = $1",
        ] {
            sqlx::query(statement)
                .bind(connector)
                .execute(&mut *transaction)
                .await
                .map_err(self.failed(doing))?;
        }
        let tenant = TenantId::platform();
        let action = "reverse_forgotten";
        let change = Change { actor, tenant: &tenant, action, subject: connector, detail: json!({}) };
        audit::record(&mut transaction, self.ids.now(), change).await.map_err(self.failed(doing))?;
        transaction.commit().await.map_err(self.failed(doing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::open_temporary;

    fn outcome(key: &str, row: &str, refusal: Option<(&str, i64)>) -> ReverseOutcome {
        let refusal = refusal.map(|(said, at)| (said.to_owned(), Timestamp(at)));
        ReverseOutcome { key_hash: key.into(), row_hash: row.into(), refusal }
    }

    #[tokio::test]
    async fn a_row_is_sent_or_refused_and_forgotten_with_its_query() {
        let (_dir, store) = open_temporary().await;
        let batch = ExportBatch {
            connector: "reverse-crm".into(),
            batch_id: "b".into(),
            mapping_version: "m".into(),
            rows_staged: Some(2),
            bytes_staged: Some(90),
            ..ExportBatch::default()
        };
        for attempt in 1..=2 {
            store.plan_reverse(&batch).await.unwrap();
            store.reverse_submitting("reverse-crm", "b").await.unwrap();
            let open = store.open_export_batches("reverse-crm").await.unwrap();
            assert_eq!(
                (open[0].state.as_str(), open[0].attempt, open[0].rows_staged),
                ("submitted", attempt, Some(2))
            );
            let outcomes = [outcome("k1", "r1", None), outcome("k2", "r2", Some(("no such field", 9)))];
            store.reverse_committed("reverse-crm", "b", &outcomes).await.unwrap();
            let done = store.export_batches(Some("reverse-crm"), 9).await.unwrap();
            assert_eq!((done.len(), done[0].state.as_str(), done[0].rows_loaded), (1, "committed", Some(1)));
        }
        let sums = store.reverse_sums("reverse-crm").await.unwrap();
        assert_eq!(
            (sums.rows_sent, sums.rows_refused, sums.refusal.as_deref()),
            (1, 1, Some("no such field"))
        );
        // A row that was taken as it was stays known by that when it is refused later.
        store
            .reverse_committed("reverse-crm", "b", &[outcome("k1", "r1b", Some(("too long", 5)))])
            .await
            .unwrap();
        let rows = store.reverse_rows("reverse-crm").await.unwrap();
        assert_eq!((rows[0].row_hash.as_deref(), rows[0].refused_hash.as_deref()), (Some("r1"), Some("r1b")));
        store.reverse_committed("reverse-crm", "b", &[outcome("k1", "r1c", None)]).await.unwrap();
        let rows = store.reverse_rows("reverse-crm").await.unwrap();
        assert_eq!(
            (rows[0].row_hash.as_deref(), rows[0].error.as_deref(), rows[0].retry_at),
            (Some("r1c"), None, None)
        );
        store.reverse_ended("reverse-crm", &["k2"]).await.unwrap();
        assert_eq!(store.reverse_rows("reverse-crm").await.unwrap().len(), 1);
        store.forget_reverse("cli", "reverse-crm").await.unwrap();
        assert_eq!(store.reverse_sums("reverse-crm").await.unwrap(), ReverseSums::default());
        assert!(store.export_batches(None, 9).await.unwrap().is_empty());
    }
}
