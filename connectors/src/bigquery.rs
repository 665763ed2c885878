//! BigQuery over REST: load jobs into a staging table, one transaction that merges and notes the batch.
//!
//! - [`settings`]: where to, as whom; `auth`: tokens
//! - `client`: jobs, questions, tables; `upload` and `bucket`: the two ways of a file; `failure`: what a refusal means
//! - `load`: a batch; `table`: what it goes into; `tally`: what is there; `ddl`: statements for a person
//! - `names`: of tables, jobs and types; `sql/`: the statements

mod auth;
mod bucket;
mod client;
mod ddl;
mod failure;
mod load;
mod names;
pub mod settings;
mod table;
mod tally;
mod upload;

#[cfg(test)]
mod tests;

use async_trait::async_trait;
use tokio::sync::Mutex;

use self::auth::Auth;
use self::bucket::Bucket;
use self::client::Client;
pub use self::ddl::ddl;
pub use self::settings::Settings;
use crate::mapping::Mapping;
use crate::secret::SecretSource;
use crate::target::{Bounds, HourTally, JobLog, Loaded, StagedBatch, Target, TargetError};

/// One table of BigQuery.
#[derive(Debug)]
pub struct Bigquery {
    settings: Settings,
    connector: String,
    client: Client,
    bucket: Option<Bucket>,
    /// Held by the batch that is being merged.
    turn: Mutex<()>,
}

/// Checks the settings and finds the credentials. Nothing is asked of BigQuery yet; of the metadata server, perhaps.
pub async fn connect(
    settings: &Settings,
    connector: &str,
    secrets: &dyn SecretSource,
) -> Result<Bigquery, TargetError> {
    settings.check().map_err(|(key, problem)| {
        TargetError::Refused(format!("[export.{connector}.bigquery] {key}: {problem}"))
    })?;
    let auth = Auth::of(settings, secrets).await?;
    Ok(Bigquery {
        bucket: Bucket::of(settings, &auth)?,
        client: Client::new(settings, auth)?,
        settings: settings.clone(),
        connector: connector.to_owned(),
        turn: Mutex::new(()),
    })
}

#[async_trait]
impl Target for Bigquery {
    async fn prepare(&self, mapping: &Mapping) -> Result<Vec<String>, TargetError> {
        self.prepare_tables(mapping).await
    }

    async fn load(&self, batch: &StagedBatch, log: &dyn JobLog) -> Result<Loaded, TargetError> {
        self.load_batch(batch, log).await
    }

    async fn tally(&self, _: &Mapping, bounds: &Bounds) -> Result<Vec<HourTally>, TargetError> {
        self.tally_hours(bounds).await
    }
}
