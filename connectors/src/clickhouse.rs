//! ClickHouse over HTTP: staged pieces with deduplication tokens into a table of their own, what is new from there into a
//! ReplacingMergeTree, and a ledger.
//!
//! ClickHouse has no transactions, so a batch is steps of which each can be done twice:
//! 1. Pieces of the file go into a staging table named after the batch. A piece always has the same rows and the same
//!    `insert_deduplication_token`: one that is there already is not taken again. The events are counted before the next step.
//! 2. One `INSERT … SELECT` adds those that are not in the table. It has one name (`query_id`) per table, and a server runs
//!    no two statements of one name, so between its look and its insertion nobody else's comes.
//! 3. The ledger gets its row, and the staging table goes.
//!
//! Who dies between two steps is followed by one who does them again and adds nothing twice. Two loaders at two replicas
//! at the same moment are the one case that the name does not cover: both may add an event, with the same key and version,
//! and ReplacingMergeTree makes them one at a merge, and `FINAL` at once. So `url` names one server.

mod client;
mod ddl;
mod load;
mod schema;
pub mod settings;
#[cfg(test)]
mod tests;

use std::time::Duration;

use async_trait::async_trait;

use self::client::Client;
pub use self::ddl::ddl;
pub use self::settings::Settings;
use crate::mapping::Mapping;
use crate::secret::SecretSource;
use crate::statement::is_plain;
use crate::target::{Bounds, HourTally, JobLog, Loaded, StagedBatch, Target, TargetError};

/// A server, as one connector reaches it.
pub struct ClickHouse {
    client: Client,
    connector: String,
}

/// Reads the password; asks the server nothing yet.
pub async fn connect(
    settings: &Settings,
    connector: &str,
    secrets: &dyn SecretSource,
) -> Result<ClickHouse, TargetError> {
    settings.check().map_err(|(key, problem)| {
        TargetError::Refused(format!("export.{connector}.clickhouse.{key}: {problem}"))
    })?;
    if !is_plain(connector) {
        return Err(TargetError::Refused(format!(
            "export.{connector:?}: quotes cannot stand in a connector's name"
        )));
    }
    let password = match &settings.password {
        Some(secret) => Some(secret.resolve(secrets).await.map_err(|error| {
            TargetError::Credentials(format!("export.{connector}.clickhouse.password: {error}"))
        })?),
        None => None,
    };
    let http = reqwest::Client::builder()
        .connect_timeout(Duration::from_secs(30))
        // A password goes where it was meant to.
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| TargetError::Local(error.to_string()))?;
    let client = Client { settings: settings.clone(), password, http };
    Ok(ClickHouse { client, connector: connector.to_owned() })
}

impl ClickHouse {
    /// The ledger, in the table's database.
    const LEDGER: &'static str = "sendlake_batches";

    /// For messages.
    fn shown(&self, mapping: &Mapping) -> String {
        let settings = &self.client.settings;
        format!("{}.{}", settings.database, settings.table_name(&mapping.table))
    }
}

#[async_trait]
impl Target for ClickHouse {
    async fn prepare(&self, mapping: &Mapping) -> Result<Vec<String>, TargetError> {
        self.prepare_table(mapping).await
    }

    async fn load(&self, batch: &StagedBatch, _log: &dyn JobLog) -> Result<Loaded, TargetError> {
        self.load_batch(batch).await
    }

    async fn tally(&self, mapping: &Mapping, bounds: &Bounds) -> Result<Vec<HourTally>, TargetError> {
        self.tally_hours(mapping, bounds).await
    }
}
