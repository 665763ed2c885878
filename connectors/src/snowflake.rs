//! Snowflake: a batch goes as Parquet to a stage, and from there in one request of the SQL API into the table.
//!
//! - `settings`: `[export.<connector>.snowflake]`
//! - `key`: the key pair and the token made of it; `client`: the SQL API; `errors`: what its answers mean
//! - `upload`: the staged file into the bucket, or, by `session`, into a stage of Snowflake's own
//! - `prepare`, `load`, `tally`: what a target does; `statements` and `sql/`: the text of it; [`ddl`]: what to run once

mod client;
pub mod ddl;
mod errors;
mod key;
mod load;
mod prepare;
mod session;
pub mod settings;
mod statements;
mod tally;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;

use async_trait::async_trait;
use sendlake_control::clock::Clock;

use self::client::Client;
pub use self::ddl::ddl;
use self::key::KeyPair;
pub use self::settings::Settings;
use self::statements::Names;
use self::upload::Upload;
use crate::mapping::Mapping;
use crate::secret::SecretSource;
use crate::target::{Bounds, HourTally, JobLog, Loaded, StagedBatch, Target, TargetError};

/// A table in Snowflake and the way to it.
pub struct Snowflake {
    client: Arc<Client>,
    names: Names,
    upload: Upload,
    load_timeout_s: u64,
}

/// Reads the key and opens the bucket. Nothing is asked of Snowflake yet. `clock` dates the tokens.
pub async fn connect(
    settings: &Settings,
    connector: &str,
    secrets: &dyn SecretSource,
    clock: &Arc<dyn Clock>,
) -> Result<Snowflake, TargetError> {
    settings.check().map_err(|(key, problem)| {
        TargetError::Refused(format!("[export.{connector}.snowflake] {key}: {problem}"))
    })?;
    let private_key = settings.private_key.as_ref().ok_or_else(|| {
        TargetError::Credentials(format!("[export.{connector}.snowflake] private_key is not set"))
    })?;
    let pem =
        private_key.resolve(secrets).await.map_err(|error| TargetError::Credentials(error.to_string()))?;
    let key = KeyPair::read(&settings.account, &settings.user, &pem)
        .map_err(|problem| TargetError::Credentials(format!("{private_key}: {problem}")))?;
    let client = Arc::new(Client::new(settings, key, clock.clone())?);
    let names = Names::new(settings, connector);
    let upload = Upload::open(settings, connector, secrets, clock, &client).await?;
    Ok(Snowflake { client, names, upload, load_timeout_s: settings.load_timeout_s })
}

#[async_trait]
impl Target for Snowflake {
    async fn prepare(&self, mapping: &Mapping) -> Result<Vec<String>, TargetError> {
        prepare::prepare(self, mapping).await
    }

    async fn load(&self, batch: &StagedBatch, log: &dyn JobLog) -> Result<Loaded, TargetError> {
        load::load(self, batch, log).await
    }

    async fn tally(&self, _: &Mapping, bounds: &Bounds) -> Result<Vec<HourTally>, TargetError> {
        tally::tally(self, bounds).await
    }
}
