//! Clients for S3, Google Cloud Storage and Azure Blob Storage, from the environment and the options.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use url::Url;

use super::StoreError;

/// Opens the service of `url`; messages say `shown` instead.
pub(super) fn open(
    url: &Url,
    shown: &Url,
    options: &BTreeMap<String, String>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let failed = |source| StoreError::Settings { url: shown.to_string(), source: Box::new(source) };
    match url.scheme() {
        "s3" | "s3a" => {
            let mut builder = AmazonS3Builder::from_env().with_url(url.as_str());
            for (key, value) in known::<AmazonS3ConfigKey>(shown, options, "Amazon S3")? {
                builder = builder.with_config(key, value);
            }
            // Two writers may never both own one table version: commits need put-if-absent.
            if builder.get_config_value(&AmazonS3ConfigKey::ConditionalPut).is_none() {
                builder = builder.with_conditional_put(S3ConditionalPut::ETagMatch);
            }
            Ok(Arc::new(builder.build().map_err(failed)?))
        }
        "gs" => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url.as_str());
            for (key, value) in known::<GoogleConfigKey>(shown, options, "Google Cloud Storage")? {
                builder = builder.with_config(key, value);
            }
            Ok(Arc::new(builder.build().map_err(failed)?))
        }
        "az" | "azure" | "adl" | "abfs" | "abfss" => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(url.as_str());
            for (key, value) in known::<AzureConfigKey>(shown, options, "Azure Blob Storage")? {
                builder = builder.with_config(key, value);
            }
            Ok(Arc::new(builder.build().map_err(failed)?))
        }
        scheme => Err(StoreError::UnknownScheme { url: shown.to_string(), scheme: scheme.to_owned() }),
    }
}

fn known<K: FromStr>(
    shown: &Url,
    options: &BTreeMap<String, String>,
    service: &'static str,
) -> Result<Vec<(K, String)>, StoreError> {
    options
        .iter()
        .map(|(key, value)| match key.to_ascii_lowercase().parse::<K>() {
            Ok(known) => Ok((known, value.clone())),
            Err(_) => Err(StoreError::UnknownOption { url: shown.to_string(), key: key.clone(), service }),
        })
        .collect()
}
