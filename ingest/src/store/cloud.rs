//! Clients for S3, Google Cloud Storage and Azure Blob Storage. Settings come from the options, then the environment,
//! then (S3) the vendor's profile files; credentials that none of them has, from the machine's role.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3ConditionalPut};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::client::{ClientConfigKey, StaticCredentialProvider};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::{BackoffConfig, ObjectStore, RetryConfig};
use sendlake_control::clock::Clock;
use url::Url;

use super::StoreError;
use super::profile::{Profile, Source};

/// Opens the service of `url`; messages say `shown` instead.
pub(super) fn open(
    url: &Url,
    shown: &Url,
    options: &BTreeMap<String, String>,
    environment: &BTreeMap<String, String>,
    clock: Option<&Arc<dyn Clock>>,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let place = Place { url, shown, options, environment, clock };
    match url.scheme() {
        "s3" | "s3a" => Ok(Arc::new(place.amazon()?)),
        "gs" => place.google(),
        "az" | "azure" | "adl" | "abfs" | "abfss" => place.azure(),
        scheme => Err(StoreError::UnknownScheme { url: shown.to_string(), scheme: scheme.to_owned() }),
    }
}

/// Opens S3 as what it is, for who also signs requests to other services of Amazon with its credentials.
pub(super) fn open_amazon(
    url: &Url,
    shown: &Url,
    options: &BTreeMap<String, String>,
    environment: &BTreeMap<String, String>,
) -> Result<AmazonS3, StoreError> {
    Place { url, shown, options, environment, clock: None }.amazon()
}

struct Place<'a> {
    url: &'a Url,
    shown: &'a Url,
    options: &'a BTreeMap<String, String>,
    environment: &'a BTreeMap<String, String>,
    clock: Option<&'a Arc<dyn Clock>>,
}

impl Place<'_> {
    fn amazon(&self) -> Result<AmazonS3, StoreError> {
        use AmazonS3ConfigKey as Key;
        let credentials = [Key::AccessKeyId, Key::SecretAccessKey, Key::Token];
        let settings = self.settings::<Key>("AWS_", &[], &credentials, "Amazon S3")?;
        let mut builder = AmazonS3Builder::new().with_url(self.url.as_str()).with_retry(retries());
        for (key, value) in &settings {
            builder = builder.with_config(*key, value);
        }
        let profile = Profile::read(|name| self.environment.get(name).cloned())
            .map_err(|source| StoreError::Profile { url: self.shown.to_string(), source })?;
        let lacks = |builder: &AmazonS3Builder, key: &Key| builder.get_config_value(key).is_none();
        if let Some(region) = profile.region().filter(|_| lacks(&builder, &Key::Region)) {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = profile.endpoint_url()
            && lacks(&builder, &Key::Endpoint)
            && lacks(&builder, &Key::S3Endpoint)
        {
            builder = builder.with_endpoint(endpoint);
        }
        let unsigned = builder.get_config_value(&Key::SkipSignature).is_some_and(|value| value == "true");
        if lacks(&builder, &Key::AccessKeyId) && lacks(&builder, &Key::SecretAccessKey) && !unsigned {
            let source = profile
                .source(self.clock)
                .map_err(|source| StoreError::Profile { url: self.shown.to_string(), source })?;
            builder = with_source(builder, source, &profile);
        }
        // Two writers may never both own one table version: commits need put-if-absent.
        if lacks(&builder, &Key::ConditionalPut) {
            builder = builder.with_conditional_put(S3ConditionalPut::ETagMatch);
        }
        let endpoint = [Key::S3Endpoint, Key::Endpoint].iter().find_map(|key| builder.get_config_value(key));
        let plain = builder.get_config_value(&Key::Client(ClientConfigKey::AllowHttp));
        self.refuse_plain_http(endpoint, plain, "aws_allow_http")?;
        builder.build().map_err(|error| self.failed(error))
    }

    fn google(&self) -> Result<Arc<dyn ObjectStore>, StoreError> {
        use GoogleConfigKey as Key;
        let credentials = [Key::ServiceAccount, Key::ServiceAccountKey, Key::ApplicationCredentials];
        let others = [("SERVICE_ACCOUNT", Key::ServiceAccount)];
        let settings = self.settings("GOOGLE_", &others, &credentials, "Google Cloud Storage")?;
        let mut builder = GoogleCloudStorageBuilder::new().with_url(self.url.as_str()).with_retry(retries());
        for (key, value) in &settings {
            builder = builder.with_config(*key, value);
        }
        Ok(Arc::new(builder.build().map_err(|error| self.failed(error))?))
    }

    fn azure(&self) -> Result<Arc<dyn ObjectStore>, StoreError> {
        use AzureConfigKey as Key;
        let credentials =
            [Key::AccessKey, Key::SasKey, Key::Token, Key::ClientSecret, Key::FederatedTokenFile];
        // What the Azure command line calls them, and what App Service sets.
        let others = [
            ("AZURE_STORAGE_ACCOUNT", Key::AccountName),
            ("AZURE_STORAGE_KEY", Key::AccessKey),
            ("IDENTITY_ENDPOINT", Key::MsiEndpoint),
        ];
        let settings = self.settings("AZURE_", &others, &credentials, "Azure Blob Storage")?;
        let mut builder = MicrosoftAzureBuilder::new().with_url(self.url.as_str()).with_retry(retries());
        for (key, value) in &settings {
            builder = builder.with_config(*key, value);
        }
        let endpoint = builder.get_config_value(&Key::Endpoint);
        let plain = builder.get_config_value(&Key::Client(ClientConfigKey::AllowHttp));
        self.refuse_plain_http(endpoint, plain, "azure_allow_http")?;
        Ok(Arc::new(builder.build().map_err(|error| self.failed(error))?))
    }

    /// The environment's settings, then the options, which win. The `credentials` go together: options that name any
    /// of them are not mixed with those of the environment.
    fn settings<K: FromStr + PartialEq + Copy>(
        &self,
        prefix: &str,
        others: &[(&str, K)],
        credentials: &[K],
        service: &'static str,
    ) -> Result<Vec<(K, String)>, StoreError> {
        let mut options = Vec::new();
        for (key, value) in self.options {
            let known = key.to_ascii_lowercase().parse::<K>();
            let known = known.map_err(|_| StoreError::UnknownOption {
                url: self.shown.to_string(),
                key: key.clone(),
                service,
            })?;
            options.push((known, value.clone()));
        }
        let own_credentials = options.iter().any(|(key, _)| credentials.contains(key));
        let environment = self.environment.iter().filter_map(|(name, value)| {
            let named = others.iter().find(|(other, _)| other == name).map(|(_, key)| *key);
            let key = named.or_else(|| {
                let lower = || name.to_ascii_lowercase();
                name.starts_with(prefix).then(lower).and_then(|name| name.parse::<K>().ok())
            })?;
            (!own_credentials || !credentials.contains(&key)).then(|| (key, value.clone()))
        });
        let mut settings: Vec<(K, String)> = environment.filter(|(_, value)| !value.is_empty()).collect();
        settings.extend(options);
        Ok(settings)
    }

    fn refuse_plain_http(
        &self,
        endpoint: Option<String>,
        allowed: Option<String>,
        option: &'static str,
    ) -> Result<(), StoreError> {
        match endpoint {
            Some(endpoint) if endpoint.starts_with("http://") && allowed.as_deref() != Some("true") => {
                Err(StoreError::PlainHttp { url: self.shown.to_string(), endpoint, option })
            }
            _ => Ok(()),
        }
    }

    fn failed(&self, source: object_store::Error) -> StoreError {
        StoreError::Settings { url: self.shown.to_string(), source: Box::new(source) }
    }
}

fn with_source(builder: AmazonS3Builder, source: Option<Source>, profile: &Profile) -> AmazonS3Builder {
    if source.is_some() {
        tracing::debug!(profile = profile.name(), "the lake's credentials come from an AWS profile");
    }
    match source {
        None => builder,
        Some(Source::Fixed(credential)) => {
            builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)))
        }
        Some(Source::Process(process)) => builder.with_credentials(process),
        Some(Source::WebIdentity { token_file, role_arn, session_name }) => {
            let builder = builder
                .with_config(AmazonS3ConfigKey::WebIdentityTokenFile, token_file)
                .with_config(AmazonS3ConfigKey::RoleArn, role_arn);
            match session_name {
                Some(name) => builder.with_config(AmazonS3ConfigKey::RoleSessionName, name),
                None => builder,
            }
        }
    }
}

/// A request is given up after a few seconds of errors: whoever asked is told, and the lake's writer has a longer
/// patience of its own.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { max_backoff: Duration::from_secs(2), ..BackoffConfig::default() },
        max_retries: 5,
        retry_timeout: Duration::from_secs(30),
    }
}

#[cfg(test)]
mod tests;
