//! `[export.<name>.files]`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::secret::SecretRef;

/// Where files go, and in which form.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// A folder, `file:///…`, `s3://…`, `gs://…` or `az://…`.
    pub url: String,
    pub format: FileFormat,
    /// Of CSV and NDJSON; Parquet is compressed inside.
    pub compression: Compression,
    /// Options of the object store (`aws_region`, …), over those of the environment.
    pub options: BTreeMap<String, String>,
    /// The same for those that are secret: `aws_secret_access_key = "secret:name"`.
    pub secret_options: BTreeMap<String, SecretRef>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    #[default]
    Parquet,
    /// RFC 4180 with a header line; NULL is `\N`, so that an empty text stays one.
    Csv,
    /// One JSON object a line; columns that are NULL are left out.
    Ndjson,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    #[default]
    None,
    Gzip,
}

impl FileFormat {
    pub(super) fn spark_format(self) -> &'static str {
        match self {
            Self::Parquet => "parquet",
            Self::Csv => "csv",
            Self::Ndjson => "json",
        }
    }

    pub(super) fn duckdb_reader(self) -> &'static str {
        match self {
            Self::Parquet => "read_parquet",
            Self::Csv => "read_csv",
            Self::Ndjson => "read_json",
        }
    }
}

impl Settings {
    /// What makes no sense, as key and problem.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.url.is_empty() {
            let problem = "where do files go? Name a folder, or s3://bucket/folder, gs://… or az://…";
            return Err(("url", problem.to_owned()));
        }
        if self.format == FileFormat::Parquet && self.compression != Compression::None {
            let problem = "Parquet is compressed inside already: leave it out";
            return Err(("compression", problem.to_owned()));
        }
        Ok(())
    }

    /// What the files' names end with.
    pub fn extension(&self) -> &'static str {
        match (self.format, self.compression) {
            (FileFormat::Parquet, _) => "parquet",
            (FileFormat::Csv, Compression::None) => "csv",
            (FileFormat::Csv, Compression::Gzip) => "csv.gz",
            (FileFormat::Ndjson, Compression::None) => "ndjson",
            (FileFormat::Ndjson, Compression::Gzip) => "ndjson.gz",
        }
    }
}
