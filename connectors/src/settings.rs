//! One connector as it is configured: `[export.<name>]` and, below it, one section that says where to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::mapping::{Mapping, MappingError, Mask};
use crate::{bigquery, clickhouse, files, postgresql, redshift, snowflake};

/// `[export.<name>]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExportSettings {
    /// When to load, as a cron pattern of five fields, UTC; `manual` for `sendlake export run` alone.
    pub schedule: String,
    /// Where to begin: `beginning`, or `now`, that is with what comes after the connector is first seen.
    pub start: Start,
    /// Tenants whose events leave; empty for all.
    pub tenants: Vec<String>,
    /// Columns that leave; empty for all. Key columns always do.
    pub columns: Vec<String>,
    /// Columns that do not.
    pub exclude: Vec<String>,
    /// What is done to values before they leave: `hash`, `domain` or `null`, by column.
    pub mask: BTreeMap<String, Mask>,
    /// About how large a batch becomes, as Parquet.
    pub batch_bytes: u64,
    /// Batches of a backfill in a minute; those of live loads are not counted.
    pub backfill_batches_per_min: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bigquery: Option<bigquery::Settings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<files::Settings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redshift: Option<redshift::Settings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgresql: Option<postgresql::Settings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clickhouse: Option<clickhouse::Settings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snowflake: Option<snowflake::Settings>,
}

impl Default for ExportSettings {
    fn default() -> Self {
        Self {
            schedule: "*/15 * * * *".to_owned(),
            start: Start::Beginning,
            tenants: Vec::new(),
            columns: Vec::new(),
            exclude: Vec::new(),
            mask: BTreeMap::new(),
            batch_bytes: 160 << 20,
            backfill_batches_per_min: 6,
            bigquery: None,
            files: None,
            redshift: None,
            postgresql: None,
            clickhouse: None,
            snowflake: None,
        }
    }
}

/// Where a connector begins that was never run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    #[default]
    Beginning,
    Now,
}

impl ExportSettings {
    /// The columns that leave.
    pub fn mapping(&self) -> Result<Mapping, MappingError> {
        Mapping::of_events(&self.columns, &self.exclude, &self.mask)
    }
}
