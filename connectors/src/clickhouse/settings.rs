//! `[export.<connector>.clickhouse]`: which server, as whom, and how its table is made.

use serde::{Deserialize, Serialize};
use url::Url;

use crate::secret::SecretRef;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Of the HTTP interface: `https://host:8443`. One server, or one replica: see `load`.
    pub url: String,
    pub database: String,
    /// Empty for the name of the lake's table, `events`.
    pub table: String,
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<SecretRef>,
    /// Of `ON CLUSTER`: the tables are then replicated. Empty for a single server, and for ClickHouse Cloud, which
    /// replicates by itself.
    pub cluster: String,
    /// How JSON is kept.
    pub json: JsonType,
    /// The longest that one statement of a load may take.
    pub load_timeout_s: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JsonType {
    /// `String`, byte for byte: the JSON type leaves out keys whose value is null and takes a dot in a key for a level.
    #[default]
    Text,
    /// `JSON`, of 25.3 and later.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            url: String::new(),
            database: "sendlake".to_owned(),
            table: String::new(),
            user: "default".to_owned(),
            password: None,
            cluster: String::new(),
            json: JsonType::Text,
            load_timeout_s: 900,
        }
    }
}

impl Settings {
    /// What can be said without a network: the key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let url =
            Url::parse(&self.url).map_err(|error| ("url", format!("{:?} is no URL: {error}", self.url)))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err((
                "url",
                "it begins with https://, or http:// for a server on this machine".to_owned(),
            ));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err((
                "url",
                "user and password do not stand in it: use the keys user and password".to_owned(),
            ));
        }
        let loopback = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if url.scheme() == "http" && !loopback {
            return Err((
                "url",
                "events and the password would go over the network in the clear: use https://".to_owned(),
            ));
        }
        for (key, name) in [
            ("database", &self.database),
            ("table", &self.table),
            ("user", &self.user),
            ("cluster", &self.cluster),
        ] {
            if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
                return Err((key, "letters, digits, - and _ alone".to_owned()));
            }
        }
        if self.database.is_empty() {
            return Err(("database", "it is not set".to_owned()));
        }
        if self.load_timeout_s == 0 || self.load_timeout_s > 86_400 {
            return Err(("load_timeout_s", "from 1 to 86400".to_owned()));
        }
        Ok(())
    }

    /// The table as it is in the server.
    pub fn table_name<'a>(&'a self, of_lake: &'a str) -> &'a str {
        if self.table.is_empty() { of_lake } else { &self.table }
    }
}
