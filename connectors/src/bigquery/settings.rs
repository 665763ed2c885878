//! Where in BigQuery the rows go, and as whom: `[export.<connector>.bigquery]`.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::secret::SecretRef;

/// `[export.<connector>.bigquery]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The Google Cloud project that has the dataset, and in which the jobs run.
    pub project: String,
    /// The dataset; it must be there.
    pub dataset: String,
    /// The table in it; made when it is missing.
    pub table: String,
    /// Where staging tables live; the dataset itself, where this is not set. One with a default table expiration also
    /// clears away what an abandoned batch left. In the same location as `dataset`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staging_dataset: Option<String>,
    /// The JSON key of a service account. Without it: `GOOGLE_APPLICATION_CREDENTIALS`, the application default
    /// credentials of `gcloud`, the metadata server, in this order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretRef>,
    /// `gs://bucket/prefix` by which staged files go; they are uploaded to BigQuery directly, where this is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Load jobs that this connector may begin on a day of Pacific time.
    pub load_jobs_per_day: u32,
    /// How long a job is waited for; after that the next try goes on waiting for the same job.
    pub job_timeout_s: u64,
    /// An external connection, `eu.sendlake`, for the statement that reads the lake in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
    /// An emulator's address instead of Google's. Nothing is signed then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Url>,
    /// The same for Cloud Storage; only beside `endpoint`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_endpoint: Option<Url>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            project: String::new(),
            dataset: String::new(),
            table: "events".to_owned(),
            staging_dataset: None,
            credentials: None,
            bucket: None,
            load_jobs_per_day: 1000,
            job_timeout_s: 3600,
            connection: None,
            endpoint: None,
            storage_endpoint: None,
        }
    }
}

impl Settings {
    /// What can be said without a network: the key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let is_word = |text: &str, more: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if !is_word(&self.project, "-.:") {
            return Err(("project", "name the Google Cloud project's id, like \"acme-data\"".into()));
        }
        if !is_word(&self.dataset, "_") {
            return Err(("dataset", "name a dataset: letters, digits and _".into()));
        }
        if !is_word(&self.table, "_-") {
            return Err(("table", "name a table: letters, digits, _ and -".into()));
        }
        if self.table.starts_with("sendlake_") {
            return Err((
                "table",
                "names that begin with sendlake_ are for its own tables; choose another".into(),
            ));
        }
        if let Some(dataset) = &self.staging_dataset
            && !is_word(dataset, "_")
        {
            return Err(("staging_dataset", "name a dataset: letters, digits and _".into()));
        }
        if let Some(bucket) = &self.bucket
            && split_bucket(bucket).is_none()
        {
            return Err(("bucket", "write gs://bucket, or gs://bucket/prefix".into()));
        }
        if self.load_jobs_per_day == 0 {
            return Err(("load_jobs_per_day", "0 would never load anything".into()));
        }
        if self.job_timeout_s == 0 {
            return Err(("job_timeout_s", "0 would give up before a job has begun".into()));
        }
        if self.endpoint.is_some() && self.credentials.is_some() {
            return Err((
                "endpoint",
                "is for emulators, which take no credentials: leave one of the two out".into(),
            ));
        }
        if self.storage_endpoint.is_some() && self.endpoint.is_none() {
            return Err(("storage_endpoint", "is for emulators, beside endpoint alone".into()));
        }
        if self.endpoint.is_some() && self.bucket.is_some() && self.storage_endpoint.is_none() {
            return Err(("storage_endpoint", "is needed where endpoint and bucket are set".into()));
        }
        Ok(())
    }

    pub fn staging_dataset(&self) -> &str {
        self.staging_dataset.as_deref().unwrap_or(&self.dataset)
    }

    /// The table beside the target with one row, which every load changes: so two loads of one table conflict. BigQuery
    /// sees conflicts by table, so each target has its own.
    pub fn writer(&self) -> String {
        format!("sendlake_writer_{}", self.table)
    }
}

/// The table with a row for each batch that is in.
pub const LEDGER: &str = "sendlake_batches";

/// `gs://bucket/prefix` as bucket and prefix, which has neither a slash at its begin nor at its end.
pub fn split_bucket(text: &str) -> Option<(&str, &str)> {
    let rest = text.strip_prefix("gs://")?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let is_name = bucket.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    (!bucket.is_empty() && is_name).then(|| (bucket, prefix.trim_matches('/')))
}
