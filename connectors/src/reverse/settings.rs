//! One reverse connector as it is configured: `[reverse.<name>]`.

use std::collections::BTreeMap;
use std::net::IpAddr;

use reqwest::header::{HeaderName, HeaderValue};
use sendlake_control::id::TenantId;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::{Host, Url};

use super::template::{Template, Text};
use crate::schedule::Schedule;
use crate::secret::SecretRef;

const NAME_CHARS_MAX: usize = 32;
const ROWS_MAX: usize = 1_000_000;
const ROWS_PER_REQUEST_MAX: usize = 1_000;
/// HubSpot, "CRM API: batch upsert"; Salesforce, "Upsert Records Using sObject Collections".
const HUBSPOT_ROWS_MAX: usize = 100;
const SALESFORCE_ROWS_MAX: usize = 200;

/// `[reverse.<name>]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReverseSettings {
    /// When to run, as a cron pattern of five fields, UTC; `manual` for `sendlake reverse run` alone.
    pub schedule: String,
    /// Whose rows the query sees; empty for all tenants'.
    pub tenant: String,
    /// One SELECT.
    pub query: String,
    /// The column that identifies a record.
    pub key: String,
    pub shape: Shape,
    /// HubSpot: empty for its own. Salesforce: `https://` and your domain. Custom: where to, with `{column}`s.
    pub url: String,
    /// `contacts`, `Contact`, …
    pub object: String,
    /// HubSpot: the unique property that `key` is. Salesforce: the external id field.
    pub id_property: String,
    /// Most rows in a request; 0 for the shape's usual: 100, 200, and 1 for `custom`.
    pub batch_rows: usize,
    /// Most rows of the query; more are an error, and nothing is posted.
    pub rows_max: usize,
    pub requests_per_s: u32,
    pub headers: BTreeMap<String, String>,
    pub secret_headers: BTreeMap<String, SecretRef>,
    /// A token for each run, by client credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oauth: Option<Oauth>,
    /// What is posted for a row; without it every column but the key under its own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<Value>,
    /// Custom: `POST`, `PUT` or `PATCH`.
    pub method: String,
    /// Also loopback and private addresses, and loopback ones without TLS.
    pub allow_private_addresses: bool,
}

/// `[reverse.<name>.oauth]`: a token by client credentials (RFC 6749, section 4.4).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Oauth {
    /// Salesforce: `https://<your domain>/services/oauth2/token`.
    pub token_url: String,
    pub client_id: SecretRef,
    pub client_secret: SecretRef,
    #[serde(default)]
    pub scope: String,
}

/// Which API is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    Hubspot,
    Salesforce,
    #[default]
    Custom,
}

impl Shape {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hubspot => "hubspot",
            Self::Salesforce => "salesforce",
            Self::Custom => "custom",
        }
    }
}

impl Default for ReverseSettings {
    fn default() -> Self {
        Self {
            schedule: "*/15 * * * *".to_owned(),
            tenant: String::new(),
            query: String::new(),
            key: String::new(),
            shape: Shape::Custom,
            url: String::new(),
            object: String::new(),
            id_property: String::new(),
            batch_rows: 0,
            rows_max: 100_000,
            requests_per_s: 5,
            headers: BTreeMap::new(),
            secret_headers: BTreeMap::new(),
            oauth: None,
            row: None,
            method: "POST".to_owned(),
            allow_private_addresses: false,
        }
    }
}

type Problem = (&'static str, String);

impl ReverseSettings {
    /// What makes no sense, as the key below the connector's and the problem.
    pub fn check(&self, name: &str) -> Result<(), Problem> {
        let refuse = |key: &'static str, problem: &str| Err((key, problem.to_owned()));
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(is_plain) {
            return refuse("", "a connector's name has up to 32 small letters, digits and underscores");
        }
        Schedule::parse(&self.schedule).map_err(|problem| ("schedule", problem))?;
        if !self.tenant.is_empty() {
            TenantId::new(&self.tenant).map_err(|error| ("tenant", error.to_string()))?;
        }
        if self.query.trim().is_empty() {
            return refuse("query", "which rows? One SELECT");
        }
        if self.key.is_empty() {
            return refuse("key", "which column of the query identifies a record?");
        }
        if !(1..=ROWS_MAX).contains(&self.rows_max) {
            return refuse("rows_max", "it is between 1 and 1000000");
        }
        if !(1..=1_000).contains(&self.requests_per_s) {
            return refuse("requests_per_s", "it is between 1 and 1000");
        }
        self.check_shape()?;
        self.check_headers()?;
        if let Some(row) = &self.row {
            let template = Template::parse(row).map_err(|problem| ("row", problem))?;
            if !template.is_object() && self.shape != Shape::Custom {
                return refuse("row", "it is a table: the record's fields, each with its value");
            }
        }
        if let Some(oauth) = &self.oauth {
            self.check_url("oauth.token_url", &oauth.token_url)?;
        }
        Ok(())
    }

    fn check_shape(&self) -> Result<(), Problem> {
        let refuse = |key: &'static str, problem: &str| Err((key, problem.to_owned()));
        let is_custom = self.shape == Shape::Custom;
        for (key, value) in [("object", &self.object), ("id_property", &self.id_property)] {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
            match (is_custom, value.is_empty()) {
                (true, false) => return refuse(key, "a custom request has none; put it into `url` or `row`"),
                (false, true) if key == "object" => {
                    return refuse(key, "which one? `contacts` for HubSpot, `Contact` for Salesforce");
                }
                (false, true) => {
                    return refuse(
                        key,
                        "what is the key called there? `email` for HubSpot, an external id field for Salesforce",
                    );
                }
                (false, false) if !value.chars().all(is_plain) => {
                    return refuse(key, "it has letters, digits, hyphens and underscores");
                }
                _ => {}
            }
        }
        let most = match self.shape {
            Shape::Hubspot => HUBSPOT_ROWS_MAX,
            Shape::Salesforce => SALESFORCE_ROWS_MAX,
            Shape::Custom => ROWS_PER_REQUEST_MAX,
        };
        if self.batch_rows > most {
            let problem = format!("{} takes up to {most} records in a request", self.shape.as_str());
            return Err(("batch_rows", problem));
        }
        let url = Text::parse(&self.url).map_err(|problem| ("url", problem))?;
        if !url.columns().is_empty() && (!is_custom || self.batch_rows() > 1) {
            return refuse("url", "columns stand in the url of custom requests of one row each");
        }
        if self.shape != Shape::Hubspot || !self.url.is_empty() {
            // Whatever the columns hold, the host is the one that stands here.
            self.check_url("url", &url.with(|_| "0".to_owned()))?;
            if !url.columns().is_empty() && !url.begins_with_host() {
                return refuse(
                    "url",
                    "the host stands here as it is, followed by a slash; columns come after it",
                );
            }
        }
        match self.method.as_str() {
            "POST" => Ok(()),
            "PUT" | "PATCH" if is_custom => Ok(()),
            _ if is_custom => refuse("method", "it is POST, PUT or PATCH"),
            _ => refuse("method", "the shape says which method it is"),
        }
    }

    fn check_url(&self, key: &'static str, text: &str) -> Result<(), Problem> {
        let refuse = |problem: &str| Err((key, problem.to_owned()));
        let Ok(url) = Url::parse(text) else {
            return refuse("write https:// and the rest of the address");
        };
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("a credential does not stand here: use `secret_headers`");
        }
        let is_loopback = match url.host() {
            Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
            Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
            Some(Host::Domain(_)) | None => false,
        };
        match url.scheme() {
            _ if url.host().is_none() => refuse("it names no host"),
            "https" => Ok(()),
            "http" if is_loopback && self.allow_private_addresses => Ok(()),
            _ => refuse(
                "it begins with https:// (http:// only for a loopback address such as 127.0.0.1, with `allow_private_addresses`)",
            ),
        }
    }

    fn check_headers(&self) -> Result<(), Problem> {
        let ours = ["host", "content-length", "content-type", "transfer-encoding", "connection"];
        let check = |key: &'static str, name: &str| {
            if HeaderName::from_bytes(name.as_bytes()).is_err() {
                return Err((key, format!("{name:?} is no name of a header")));
            }
            if ours.contains(&name.to_ascii_lowercase().as_str()) {
                return Err((key, format!("{name} is set by the request itself")));
            }
            Ok(())
        };
        for (name, value) in &self.headers {
            check("headers", name)?;
            // The value may be a credential: it is not repeated.
            let is_secret = ["authorization", "proxy-authorization", "cookie", "x-api-key"];
            if is_secret.contains(&name.to_ascii_lowercase().as_str()) {
                let problem = format!(
                    "{name} is a credential: put it into `secret_headers`, as env:, file: or secret:"
                );
                return Err(("headers", problem));
            }
            HeaderValue::from_str(value).map_err(|_| {
                ("headers", format!("the value of {name} has characters that no header may have"))
            })?;
        }
        self.secret_headers.keys().try_for_each(|name| check("secret_headers", name))
    }

    /// Most rows in a request.
    pub fn batch_rows(&self) -> usize {
        match (self.batch_rows, self.shape) {
            (0, Shape::Hubspot) => HUBSPOT_ROWS_MAX,
            (0, Shape::Salesforce) => SALESFORCE_ROWS_MAX,
            (0, Shape::Custom) => 1,
            (rows, _) => rows,
        }
    }
}
