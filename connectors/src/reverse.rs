//! Reverse ETL: a query's rows, posted as upserts to the HTTP API of a CRM. Only rows that are new or have changed are posted.
//!
//! - [`settings`]: `[reverse.<name>]`; `template`: a row's values put into JSON
//! - `record`: from the query's rows to what is posted for each, and which of them are due
//! - `shape`: what HubSpot, Salesforce and others want to be asked, and how they answer
//! - `post`: one request over HTTPS, to a public address
//! - [`run`]: from planned to committed, in the same ledger as exports

mod post;
mod record;
pub mod run;
pub mod settings;
mod shape;
mod template;

use async_trait::async_trait;
use sendlake_control::id::TenantId;
use serde_json::{Map, Value};

use crate::target::TargetError;

pub use self::run::{Prepared, Ran, Reverse};
pub use self::settings::ReverseSettings;

/// A row by the names of its columns.
pub type Row = Map<String, Value>;

/// What a query gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// Also where there is no row.
    pub columns: Vec<String>,
    pub rows: Vec<Row>,
    /// There were more than were asked for.
    pub truncated: bool,
}

/// Runs the query: read-only, and bound to a tenant's rows where one is named.
#[async_trait]
pub trait RowSource: Send + Sync {
    async fn rows(&self, tenant: Option<&TenantId>, sql: &str, rows_max: usize) -> Result<Rows, TargetError>;
}

/// The name in the ledger of exports. No connector of exports has a hyphen in its name.
pub fn ledger_name(name: &str) -> String {
    format!("{LEDGER_PREFIX}{name}")
}

/// What names in the ledger begin with.
pub const LEDGER_PREFIX: &str = "reverse-";

#[cfg(test)]
mod tests;
