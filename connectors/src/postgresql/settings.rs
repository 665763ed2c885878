//! `[export.<connector>.postgresql]`: which database, as whom, and how its table is cut.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::pgwire::{SslMode, check_ca};
use crate::secret::SecretRef;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    pub sslmode: SslMode,
    /// PEM; without one, the roots that this machine trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    pub schema: String,
    /// Empty for the name of the lake's table, `events`.
    pub table: String,
    pub partition: Partition,
    /// The longest that one batch's transaction may take.
    pub load_timeout_s: u64,
}

/// How a table that we make is partitioned, by `event_date`. A table that is there stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Partition {
    /// A partition per month, made by the load that first needs it: old months are detached or dropped in an instant.
    #[default]
    Month,
    None,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: String::new(),
            port: 5432,
            database: "postgres".to_owned(),
            user: String::new(),
            password: None,
            sslmode: SslMode::Require,
            ca_file: None,
            schema: "sendlake".to_owned(),
            table: String::new(),
            partition: Partition::Month,
            load_timeout_s: 1_800,
        }
    }
}

impl Settings {
    /// What can be said without a network: the key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let named = [
            ("host", &self.host),
            ("database", &self.database),
            ("user", &self.user),
            ("schema", &self.schema),
        ];
        if let Some((key, _)) = named.iter().find(|(_, value)| value.is_empty()) {
            return Err((key, "it is not set".to_owned()));
        }
        for (key, name) in [("schema", &self.schema), ("table", &self.table)] {
            let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            // 63 bytes is what a name may have, and partitions are named after their table.
            if !name.chars().all(plain) || name.len() > 50 {
                return Err((key, "small letters, digits and _ alone, at most 50".to_owned()));
            }
        }
        if self.load_timeout_s == 0 || self.load_timeout_s > 86_400 {
            return Err(("load_timeout_s", "from 1 to 86400".to_owned()));
        }
        check_ca(self.ca_file.as_ref())
    }

    /// The table as it is in the database.
    pub fn table_name<'a>(&'a self, of_lake: &'a str) -> &'a str {
        if self.table.is_empty() { of_lake } else { &self.table }
    }
}
