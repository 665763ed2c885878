//! `[export.<connector>.snowflake]`: which account and as whom, where the rows go, and by which way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::secret::SecretRef;

/// `[export.<connector>.snowflake]`. Names of objects are plain: letters, digits, `_` and `$`; they are taken in upper case,
/// as Snowflake takes names without quotes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The account identifier: `myorg-myaccount`, or a locator with its region, `xy12345.eu-central-1`.
    pub account: String,
    pub user: String,
    /// The user's RSA key: PKCS#8 in PEM, not encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private_key: Option<SecretRef>,
    /// The user's default role, where it is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    pub warehouse: String,
    pub database: String,
    pub schema: String,
    pub table: String,
    /// The stage in `schema` by which files go: with `bucket` an external one with the same URL, else an internal one.
    pub stage: String,
    /// The folder that the stage's URL names, as we reach it: `s3://bucket/folder`, `gs://…`, `az://container/folder`.
    /// Without it files are uploaded to the stage, in Snowflake's own storage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bucket: Option<String>,
    /// Of the bucket, over the environment: the keys of `object_store`, such as `aws_region`.
    pub options: BTreeMap<String, String>,
    /// The same for options that are credentials.
    pub option_secrets: BTreeMap<String, SecretRef>,
    /// The longest that one batch's request may take in Snowflake.
    pub load_timeout_s: u64,
    /// In place of `https://<account>.snowflakecomputing.com`: private connectivity, another domain, a stand-in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Url>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            account: String::new(),
            user: String::new(),
            private_key: None,
            role: None,
            warehouse: String::new(),
            database: String::new(),
            schema: "SENDLAKE".to_owned(),
            table: "EVENTS".to_owned(),
            stage: "SENDLAKE_STAGE".to_owned(),
            bucket: None,
            options: BTreeMap::new(),
            option_secrets: BTreeMap::new(),
            load_timeout_s: 3_600,
            endpoint: None,
        }
    }
}

impl Settings {
    /// What can be said without a network: the key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.account.is_empty() {
            return Err((
                "account",
                "it is not set; in Snowsight it stands below \"Account details\"".to_owned(),
            ));
        }
        let is_account_letter = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
        if !self.account.chars().all(is_account_letter) {
            return Err((
                "account",
                format!(
                    "{:?} is no account identifier; write myorg-myaccount, without https:// and domain",
                    self.account
                ),
            ));
        }
        if self.user.is_empty() {
            return Err(("user", "it is not set".to_owned()));
        }
        if self.private_key.is_none() {
            return Err((
                "private_key",
                "it is not set; write env:NAME, file:/path or secret:name".to_owned(),
            ));
        }
        let role = self.role.as_ref().map(|role| ("role", role));
        let named = [
            ("warehouse", &self.warehouse),
            ("database", &self.database),
            ("schema", &self.schema),
            ("table", &self.table),
            ("stage", &self.stage),
        ];
        for (key, name) in named.into_iter().chain(role) {
            if !is_plain(name) {
                return Err((
                    key,
                    format!(
                        "{name:?} is no plain name; letters, digits, _ and $, with no digit at its beginning"
                    ),
                ));
            }
        }
        if ["SENDLAKE_BATCHES", "SENDLAKE_LOCKS"].contains(&self.table.to_uppercase().as_str()) {
            return Err(("table", format!("{} is the name of a table of sendlake's own", self.table)));
        }
        if is_secret_key(self.options.keys()) {
            return Err((
                "options",
                "a credential does not stand here itself; name it below option_secrets, or in the environment".to_owned(),
            ));
        }
        if !(1..=86_400).contains(&self.load_timeout_s) {
            return Err(("load_timeout_s", "from 1 to 86400, a day".to_owned()));
        }
        if let Some(endpoint) = &self.endpoint {
            let local = matches!(endpoint.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
            if endpoint.scheme() != "https" && !local {
                return Err(("endpoint", format!("{endpoint} is not encrypted; write https://")));
            }
        }
        Ok(())
    }
}

fn is_plain(name: &str) -> bool {
    let begins = name.starts_with(|letter: char| letter.is_ascii_alphabetic() || letter == '_');
    begins
        && name.len() <= 255
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_$".contains(letter))
}

fn is_secret_key<'a>(mut keys: impl Iterator<Item = &'a String>) -> bool {
    keys.any(|key| {
        let key = key.to_ascii_lowercase();
        ["secret", "password", "token", "sas", "account_key", "access_key", "service_account_key"].iter().any(
            |word| {
                key.contains(word)
                    && !key.ends_with("_id")
                    && !key.ends_with("_file")
                    && !key.ends_with("_path")
            },
        )
    })
}
