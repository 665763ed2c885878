//! Amazon Redshift: staged files in a bucket, COPY by manifest, and one transaction per batch that holds the staging table,
//! the change and the ledger's row. Provisioned or serverless, over the wire protocol or through the Data API.

mod client;
mod ddl;
mod load;
mod schema;
pub mod settings;
pub mod spectrum;
mod stage;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sendlake_ingest::store::{StoreError, open_amazon};
use url::Url;

use self::client::{Client, DataApiClient, WireClient};
pub use self::ddl::ddl;
pub use self::settings::Settings;
use self::stage::Bucket;
use crate::mapping::Mapping;
use crate::secret::SecretSource;
use crate::statement::{identifier, is_plain};
use crate::target::{Bounds, HourTally, JobLog, Loaded, StagedBatch, Target, TargetError};

/// The ledger, in the table's schema.
const LEDGER: &str = "sendlake_batches";

/// A warehouse, as one connector reaches it.
pub struct Redshift {
    settings: Settings,
    connector: String,
    client: Client,
    bucket: Bucket,
}

/// Makes the clients; asks nothing yet.
pub async fn connect(
    settings: &Settings,
    connector: &str,
    secrets: &dyn SecretSource,
) -> Result<Redshift, TargetError> {
    let of = |key: &str, problem: String| {
        TargetError::Refused(format!("export.{connector}.redshift.{key}: {problem}"))
    };
    settings.check().map_err(|(key, problem)| of(key, problem))?;
    if !is_plain(connector) {
        return Err(TargetError::Refused(format!(
            "export.{connector:?}: quotes cannot stand in a connector's name"
        )));
    }
    let store = open_amazon(&settings.bucket, &settings.options).map_err(|error| match error {
        StoreError::Profile { .. } => TargetError::Credentials(error.to_string()),
        error => of("bucket", error.to_string()),
    })?;
    let store = Arc::new(store);
    let url = Url::parse(&settings.bucket).map_err(|error| of("bucket", error.to_string()))?;
    let client = match (&settings.wire, &settings.data_api) {
        (Some(wire), _) => {
            let password = match &wire.password {
                Some(secret) => Some(secret.resolve(secrets).await.map_err(|error| {
                    TargetError::Credentials(format!("export.{connector}.redshift.wire.password: {error}"))
                })?),
                None => None,
            };
            Client::Wire(WireClient { settings: wire.clone(), database: settings.database.clone(), password })
        }
        (None, Some(api)) => {
            let region = api.region.clone().or_else(|| region(settings)).ok_or_else(|| {
                of(
                    "data_api.region",
                    "it is not set, and neither is AWS_REGION in the environment".to_owned(),
                )
            })?;
            let http = reqwest::Client::builder()
                .connect_timeout(Duration::from_secs(30))
                .build()
                .map_err(|error| TargetError::Local(error.to_string()))?;
            Client::DataApi(DataApiClient {
                settings: api.clone(),
                database: settings.database.clone(),
                region,
                bucket: store.clone(),
                http,
            })
        }
        (None, None) => return Err(of("data_api", "set it, or wire".to_owned())),
    };
    Ok(Redshift {
        settings: settings.clone(),
        connector: connector.to_owned(),
        client,
        bucket: Bucket { store, url },
    })
}

fn region(settings: &Settings) -> Option<String> {
    let options = ["aws_region", "region", "aws_default_region"].iter();
    let environment = ["AWS_REGION", "AWS_DEFAULT_REGION"].iter();
    options
        .filter_map(|key| settings.options.get(*key).cloned())
        .chain(environment.filter_map(|name| std::env::var(name).ok()))
        .find(|region| !region.is_empty())
}

impl Redshift {
    fn ledger(&self) -> String {
        format!("{}.{}", identifier(&self.settings.schema), identifier(LEDGER))
    }

    fn table(&self, mapping: &Mapping) -> String {
        let name = self.settings.table_name(&mapping.table);
        format!("{}.{}", identifier(&self.settings.schema), identifier(name))
    }

    /// For messages.
    fn shown(&self, mapping: &Mapping) -> String {
        format!("{}.{}", self.settings.schema, self.settings.table_name(&mapping.table))
    }
}

#[async_trait]
impl Target for Redshift {
    async fn prepare(&self, mapping: &Mapping) -> Result<Vec<String>, TargetError> {
        self.prepare_table(mapping).await
    }

    async fn load(&self, batch: &StagedBatch, log: &dyn JobLog) -> Result<Loaded, TargetError> {
        self.load_batch(batch, log).await
    }

    async fn tally(&self, mapping: &Mapping, bounds: &Bounds) -> Result<Vec<HourTally>, TargetError> {
        self.tally_hours(mapping, bounds).await
    }
}
