//! SQL over events and views: read-only, bound to a scope, within limits.
//!
//! Asking
//! - [`engine`]: runs one statement for one scope on one snapshot
//! - [`limits`]: what a query may cost
//! - [`output`]: a result as a table, JSON, CSV or an Arrow stream
//! - [`http`]: `POST /v1/sql`
//! - [`publish`]: the view `quotas` as rows of the published table
//!
//! What is asked
//! - [`source`]: the narrow traits that the lake, the outbox, domains and published limits stand behind
//! - `rollups`: the relations of sums, stored ones and those made on the spot
//! - `classify`: the function over the bounce rules
//! - [`scope`]: whose rows a query sees
//!
//! The trust boundary between tenants is `scan`: every scan of `events`, of a rollup or of a table of reports ends in its plan node, which nothing
//! of the user's passes; `filter` says which comparisons may, `statement` what may be asked at all, and `pause`
//! sees to it that a query ends when told to.
//! There is deliberately no way to register another table, read a file, or write.

mod classify;
pub mod engine;
mod error;
mod filter;
pub mod http;
pub mod limits;
pub mod output;
mod pause;
pub mod publish;
mod relations;
mod rollups;
mod scan;
pub mod scope;
pub mod source;
mod statement;
mod table;

/// What [`source`] hands over tables as.
pub use datafusion::catalog::TableProvider;

pub use engine::{Instants, QueryEngine, QueryOutput};
pub use error::QueryError;
pub use limits::{EngineLimits, QueryLimits};
pub use scope::Scope;
pub use source::{DomainRow, EventSnapshot, EventSource, RollupSnapshot, SourceError, Surroundings};
pub use statement::SQL_BYTES_MAX;

#[cfg(test)]
mod false_alarms;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod views;
