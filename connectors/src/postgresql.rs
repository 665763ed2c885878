//! PostgreSQL: staged rows by binary COPY into a temporary table, and one transaction per batch that holds it, the change
//! and the ledger's row.

mod client;
mod ddl;
mod load;
mod schema;
pub mod settings;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use zeroize::Zeroizing;

pub use self::ddl::ddl;
pub use self::settings::Settings;
use crate::mapping::Mapping;
use crate::secret::SecretSource;
use crate::statement::{identifier, is_plain};
use crate::target::{Bounds, HourTally, JobLog, Loaded, StagedBatch, Target, TargetError};

/// The ledger, in the table's schema.
const LEDGER: &str = "sendlake_batches";

/// A database, as one connector reaches it. Each piece of work has a connection of its own.
pub struct PostgreSql {
    settings: Settings,
    connector: String,
    password: Option<Zeroizing<String>>,
}

/// Reads the password; asks the database nothing yet.
pub async fn connect(
    settings: &Settings,
    connector: &str,
    secrets: &dyn SecretSource,
) -> Result<PostgreSql, TargetError> {
    settings.check().map_err(|(key, problem)| {
        TargetError::Refused(format!("export.{connector}.postgresql.{key}: {problem}"))
    })?;
    if !is_plain(connector) {
        return Err(TargetError::Refused(format!(
            "export.{connector:?}: quotes cannot stand in a connector's name"
        )));
    }
    let password = match &settings.password {
        Some(secret) => Some(secret.resolve(secrets).await.map_err(|error| {
            TargetError::Credentials(format!("export.{connector}.postgresql.password: {error}"))
        })?),
        None => None,
    };
    Ok(PostgreSql { settings: settings.clone(), connector: connector.to_owned(), password })
}

impl PostgreSql {
    fn ledger(&self) -> String {
        format!("{}.{}", identifier(&self.settings.schema), identifier(LEDGER))
    }

    fn table(&self, mapping: &Mapping) -> String {
        let name = self.settings.table_name(&mapping.table);
        format!("{}.{}", identifier(&self.settings.schema), identifier(name))
    }

    /// For messages, and for the lock.
    fn shown(&self, mapping: &Mapping) -> String {
        format!("{}.{}", self.settings.schema, self.settings.table_name(&mapping.table))
    }
}

#[async_trait]
impl Target for PostgreSql {
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
