//! A batch into the table: a load job into a staging table of its own, then one script that merges it and notes it in the
//! ledger, as one transaction. Both jobs have names made from the batch, so whoever does it again finds what was done.

use reqwest::Method;
use serde_json::{Value, json};

use super::Bigquery;
use super::client::{number_parameter, text_parameter};
use super::names::{Names, day, fill, merged_columns, quoted, staged_type_of, tables, target};
use crate::batch::Change;
use crate::target::{JobLog, Loaded, StagedBatch, TargetError};

const LEDGER_LOOK: &str = include_str!("sql/ledger.sql");
const LOAD: &str = include_str!("sql/load.sql");
const ADD: &str = include_str!("sql/add.sql");
const REPLACE: &str = include_str!("sql/replace.sql");
const DELETE: &str = include_str!("sql/delete.sql");

/// What the ledger says before a batch is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    /// Rows that the batch changed, when it is in.
    done: Option<u64>,
    /// Load jobs of this connector and table since midnight in Pacific time, as far as they led to something.
    load_jobs_today: u64,
    /// Until the next midnight there.
    day_ends_in_s: u64,
}

impl Bigquery {
    pub(super) async fn load_batch(
        &self,
        batch: &StagedBatch,
        log: &dyn JobLog,
    ) -> Result<Loaded, TargetError> {
        let names = Names::of(batch)?;
        let merge_sql = merge_statement(&self.settings, batch, &names)?;
        // A job of an earlier attempt may still run: its end is waited for, whatever it was; the ledger tells.
        if let Some(earlier) = &batch.job_id
            && *earlier != names.load_job
            && *earlier != names.merge_job
            && self.client.job(earlier).await?.is_some_and(|job| !job.is_done())
        {
            let _ = self.client.wait(earlier).await?;
        }
        let look = self.look(batch).await?;
        if let Some(rows) = look.done {
            return self.finish(&names, rows).await;
        }
        if !self.is_over(&names.merge_job).await? {
            if !self.is_over(&names.load_job).await? {
                self.stage(batch, &names, &look, log).await?;
            }
            // One at a time into a table: a second one would be cancelled by BigQuery.
            let _turn = self.turn.lock().await;
            log.submitting(&names.merge_job).await?;
            let configuration = json!({ "query": {
                "query": merge_sql, "useLegacySql": false, "parameterMode": "NAMED",
                "queryParameters": self.merge_parameters(batch),
            } });
            self.client.submit(&names.merge_job, configuration).await?;
            self.client.wait(&names.merge_job).await?.map_err(|error| error.into_error(&names.merge_job))?;
        }
        match self.look(batch).await?.done {
            Some(rows) => self.finish(&names, rows).await,
            // Names of jobs are kept for months; tables and settings may have changed since.
            None => Err(TargetError::JobFailed(format!(
                "BigQuery, job {}: done, but not for {}: the ledger there has no such batch; the next attempt has a new \
                 job",
                names.merge_job,
                target(&self.settings)
            ))),
        }
    }

    /// Whether a job of that name has succeeded; one that runs is waited for, one that had failed is used up.
    async fn is_over(&self, job_id: &str) -> Result<bool, TargetError> {
        let Some(job) = self.client.job(job_id).await? else { return Ok(false) };
        if job.is_done() {
            return job.status.error_result.map_or(Ok(true), |error| Err(error.into_used_up(job_id)));
        }
        self.client.wait(job_id).await?.map_err(|error| error.into_error(job_id))?;
        Ok(true)
    }

    /// The file into the staging table, in place of what may be there of an earlier attempt.
    async fn stage(
        &self,
        batch: &StagedBatch,
        names: &Names,
        look: &Look,
        log: &dyn JobLog,
    ) -> Result<(), TargetError> {
        let used = look.load_jobs_today + u64::from(batch.attempt.saturating_sub(1));
        let budget = u64::from(self.settings.load_jobs_per_day);
        if used >= budget {
            return Err(TargetError::Quota {
                said: format!(
                    "{}: {used} load jobs today, of {budget} (load_jobs_per_day); the day ends at midnight in Pacific \
                     time. Load larger batches (batch_bytes) less often (schedule), or raise it",
                    target(&self.settings)
                ),
                retry_after_s: look.day_ends_in_s.max(1),
            });
        }
        let shape =
            if batch.change == Change::Delete { batch.mapping.keys() } else { (*batch.mapping).clone() };
        let fields: Vec<Value> = shape
            .columns
            .iter()
            .map(|column| json!({ "name": column.name, "type": staged_type_of(column.kind), "mode": "NULLABLE" }))
            .collect();
        let mut load = json!({
            "sourceFormat": "PARQUET", "schema": { "fields": fields },
            "createDisposition": "CREATE_IF_NEEDED", "writeDisposition": "WRITE_TRUNCATE",
            "destinationTable": {
                "projectId": self.settings.project, "datasetId": self.settings.staging_dataset(), "tableId": names.stage,
            },
        });
        log.submitting(&names.load_job).await?;
        match &self.bucket {
            Some(bucket) => {
                let uri = bucket.put(&names.object, &batch.file).await?;
                if let Some(load) = load.as_object_mut() {
                    load.insert("sourceUris".to_owned(), json!([uri]));
                }
                self.client.submit(&names.load_job, json!({ "load": load })).await?;
            }
            None => self.client.upload(&names.load_job, json!({ "load": load }), &batch.file).await?,
        }
        self.client.wait(&names.load_job).await?.map_err(|error| error.into_error(&names.load_job))
    }

    async fn look(&self, batch: &StagedBatch) -> Result<Look, TargetError> {
        let sql = fill(LEDGER_LOOK, &tables(&self.settings));
        let parameters = vec![
            text_parameter("batch_id", &batch.batch_id),
            text_parameter("connector", &batch.connector),
            text_parameter("target", &target(&self.settings)),
        ];
        let rows = self.client.question(&sql, parameters, "asking the ledger").await?;
        let cells = rows.first().map(Vec::as_slice).unwrap_or_default();
        let number = |cell: &Option<String>| cell.as_deref().and_then(|text| text.parse::<u64>().ok());
        match cells.iter().map(number).collect::<Vec<_>>().as_slice() {
            [Some(done), Some(changed), Some(load_jobs_today), Some(day_ends_in_s)] => Ok(Look {
                done: (*done > 0).then_some(*changed),
                load_jobs_today: *load_jobs_today,
                day_ends_in_s: *day_ends_in_s,
            }),
            _ => Err(TargetError::Away(
                "BigQuery, asking the ledger: the answer is not four numbers".to_owned(),
            )),
        }
    }

    /// What the batch left behind goes; then it is done. Fails when it cannot go: the next try finds the ledger's row and
    /// comes here again.
    async fn finish(&self, names: &Names, rows: u64) -> Result<Loaded, TargetError> {
        let doing = format!("dropping the staging table {}", names.stage);
        let path = format!("datasets/{}/tables/{}", self.settings.staging_dataset(), names.stage);
        match self.client.ask(Method::DELETE, &path, &[], None, &doing).await? {
            Ok(_) => {}
            Err(failure) if failure.is_missing() => {}
            Err(failure) => return Err(failure.into_error(&doing)),
        }
        if let Some(bucket) = &self.bucket {
            bucket.remove(&names.object).await?;
        }
        Ok(Loaded { rows: Some(rows), job_id: Some(names.merge_job.clone()) })
    }

    fn merge_parameters(&self, batch: &StagedBatch) -> Vec<Value> {
        vec![
            text_parameter("batch_id", &batch.batch_id),
            text_parameter("connector", &batch.connector),
            text_parameter("target", &target(&self.settings)),
            text_parameter("source_table", &batch.mapping.table),
            text_parameter("change", batch.change.as_str()),
            number_parameter("rows_staged", i128::from(batch.rows)),
            text_parameter("mapping_version", &batch.mapping.version),
            number_parameter("attempt", i128::from(batch.attempt)),
        ]
    }
}

/// The script of the second job.
pub(super) fn merge_statement(
    settings: &super::Settings,
    batch: &StagedBatch,
    names: &Names,
) -> Result<String, TargetError> {
    let merge = match batch.change {
        Change::Add => ADD,
        Change::Replace => REPLACE,
        Change::Delete => DELETE,
    };
    let (first, last) = &batch.days;
    let mut values = Vec::from(tables(settings));
    values.push(("stage", quoted(&settings.project, settings.staging_dataset(), &names.stage)));
    values.push(("first_day", day(first)?));
    values.push(("last_day", day(last)?));
    values.extend(merged_columns(&batch.mapping));
    let merge = fill(merge, &values);
    values.push(("merge", merge.trim_end().to_owned()));
    Ok(fill(LOAD, &values))
}
