//! `[export.<connector>.redshift]`: which warehouse, by which way, and the bucket between.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::pgwire::{SslMode, check_ca};
use crate::secret::SecretRef;
use crate::statement::is_plain;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub database: String,
    pub schema: String,
    /// Empty for the name of the lake's table, `events`.
    pub table: String,
    /// `s3://bucket/folder`: where staged files lie until they are loaded. In the warehouse's region.
    pub bucket: String,
    /// Of the bucket and of the Data API, over the environment: the keys of `object_store`, such as `aws_region`.
    pub options: BTreeMap<String, String>,
    /// The role by which COPY reads the bucket, `arn:aws:iam::…:role/…`, or `default` for the warehouse's default role.
    pub iam_role: String,
    /// How JSON is kept.
    pub json: JsonType,
    /// The codec of the file that COPY reads.
    pub compression: Codec,
    /// The longest that one batch's transaction may take.
    pub load_timeout_s: u64,
    /// Keep manifests of the lake's live files beside it at every run, for Redshift Spectrum.
    pub spectrum: bool,
    /// The Data API; exactly one of this and `wire`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_api: Option<DataApi>,
    /// A connection of our own to the warehouse's endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wire: Option<Wire>,
}

/// `[export.<connector>.redshift.data_api]`: HTTPS, signed with the credentials that the bucket is written with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataApi {
    /// Serverless; exactly one of this and `cluster`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workgroup: Option<String>,
    /// Provisioned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// Of a cluster, with temporary credentials: `redshift:GetClusterCredentials`. Without it and `secret_arn` the IAM
    /// identity itself: `redshift:GetClusterCredentialsWithIAM`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub db_user: Option<String>,
    /// User and password in Secrets Manager.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_arn: Option<String>,
    /// Where neither `options` nor the environment says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// In place of `https://redshift-data.<region>.amazonaws.com`: a VPC endpoint, another partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
}

/// `[export.<connector>.redshift.wire]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wire {
    pub host: String,
    pub port: u16,
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    pub sslmode: SslMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JsonType {
    /// `SUPER`, by `JSON_PARSE`.
    #[default]
    Super,
    /// `VARCHAR(65535)`.
    Text,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// As it is staged.
    #[default]
    Zstd,
    /// Written once more before the upload.
    Snappy,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            database: "dev".to_owned(),
            schema: "sendlake".to_owned(),
            table: String::new(),
            bucket: String::new(),
            options: BTreeMap::new(),
            iam_role: "default".to_owned(),
            json: JsonType::Super,
            compression: Codec::Zstd,
            load_timeout_s: 1_800,
            spectrum: false,
            data_api: None,
            wire: None,
        }
    }
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 5439,
            user: String::new(),
            password: None,
            sslmode: SslMode::Require,
            ca_file: None,
        }
    }
}

impl Settings {
    /// What can be said without a network: the key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let named = [
            ("database", &self.database),
            ("schema", &self.schema),
            ("table", &self.table),
            ("bucket", &self.bucket),
            ("iam_role", &self.iam_role),
        ];
        for (key, value) in named {
            if !is_plain(value) {
                return Err((
                    key,
                    "quotes, backslashes, braces and semicolons cannot stand in it".to_owned(),
                ));
            }
            if value.is_empty() && key != "table" {
                return Err((key, "it is not set".to_owned()));
            }
        }
        for (key, name) in [("schema", &self.schema), ("table", &self.table)] {
            if !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_') {
                return Err((
                    key,
                    "small letters, digits and _ alone: Redshift folds names to small letters".to_owned(),
                ));
            }
        }
        if !self.bucket.starts_with("s3://") {
            return Err((
                "bucket",
                format!("{:?} is no s3://bucket/folder; COPY reads S3 alone", self.bucket),
            ));
        }
        if self.iam_role != "default" && !self.iam_role.starts_with("arn:") {
            return Err((
                "iam_role",
                "write the role's ARN, or \"default\" for the warehouse's default role".to_owned(),
            ));
        }
        if self.load_timeout_s == 0 || self.load_timeout_s > 86_400 {
            return Err((
                "load_timeout_s",
                "from 1 to 86400, a day, which is the Data API's own limit".to_owned(),
            ));
        }
        match (&self.data_api, &self.wire) {
            (Some(api), None) => api.check(),
            (None, Some(wire)) => wire.check(),
            _ => Err(("data_api", "set exactly one of the sections data_api and wire".to_owned())),
        }
    }

    /// The table as it is in the warehouse.
    pub fn table_name<'a>(&'a self, of_lake: &'a str) -> &'a str {
        if self.table.is_empty() { of_lake } else { &self.table }
    }
}

impl DataApi {
    fn check(&self) -> Result<(), (&'static str, String)> {
        match (&self.workgroup, &self.cluster) {
            (Some(_), None) if self.db_user.is_some() => Err((
                "data_api.db_user",
                "a workgroup takes the user from the IAM identity, or from secret_arn; leave db_user out"
                    .to_owned(),
            )),
            (Some(_), None) | (None, Some(_)) => Ok(()),
            _ => Err((
                "data_api.workgroup",
                "set exactly one of workgroup (serverless) and cluster (provisioned)".to_owned(),
            )),
        }
    }
}

impl Wire {
    fn check(&self) -> Result<(), (&'static str, String)> {
        if self.host.is_empty() {
            return Err(("wire.host", "it is not set".to_owned()));
        }
        if self.user.is_empty() {
            return Err(("wire.user", "it is not set".to_owned()));
        }
        check_ca(self.ca_file.as_ref())
    }
}
