//! Why a query gave no answer, in words for whoever asked.

use std::time::Duration;

use datafusion::error::DataFusionError;

use crate::scan::SourceFailed;
use crate::scope::Scope;
use crate::source::SourceError;

/// Why a query gave no answer. The text never holds a row that the caller may not see.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    #[error("there is no statement: send one SELECT")]
    Empty,
    #[error("the SQL text has {bytes} bytes, the limit is {limit_bytes}: shorten it")]
    TooLong { bytes: usize, limit_bytes: usize },
    #[error("the statement has {found} {what}, the limit is {limit}: split it or simplify it")]
    TooComplex { what: &'static str, found: usize, limit: usize },
    #[error("{0}")]
    Syntax(String),
    #[error("one statement at a time, but the text holds {0}")]
    SeveralStatements(usize),
    #[error(
        "{statement} is not allowed: SQL is read-only here; SELECT, SHOW TABLES, SHOW COLUMNS and DESCRIBE are"
    )]
    ReadOnly { statement: String },
    #[error("{what} is not available here: {instead}")]
    NotAvailable { what: String, instead: &'static str },
    /// The statement names what does not exist or does not fit together.
    #[error("{0}")]
    Invalid(String),
    /// It failed on the caller's own rows, such as a division by zero.
    #[error("the query failed: {0}")]
    Failed(String),
    #[error(
        "the query ran into its time limit of {} s: filter by event_date, or ask for less",
        limit.as_secs_f64()
    )]
    TimeLimit { limit: Duration },
    #[error(
        "the query needs more than its {} MiB of memory: filter by event_date, group by fewer columns, or \
         ask for fewer columns",
        limit_bytes >> 20
    )]
    MemoryLimit { limit_bytes: usize },
    #[error("{limit} queries run already, which is the limit: try again in a moment")]
    TooManyQueries { limit: usize },
    #[error("the events cannot be read at the moment; the server's log says why")]
    Source(#[source] SourceError),
    /// The same to those who see every tenant.
    #[error(
        "the events cannot be read: {0}; `sendlake lake verify` says which file it is, and what to do; where the lake is \
         away, try again when it is back"
    )]
    Unreadable(String),
    #[error("the result cannot be written as {format}: {detail}; cast the column to text")]
    Output { format: &'static str, detail: String },
    #[error("the query engine failed; the server's log says why")]
    Internal(String),
}

impl QueryError {
    /// From an error of planning or of running. What may hold paths or foreign data goes to the log, and
    /// reaches only those who see every tenant.
    pub(crate) fn from_datafusion(error: &DataFusionError, scope: &Scope, limit_bytes: usize) -> Self {
        let detail = || clean(&error.strip_backtrace());
        match error.find_root() {
            DataFusionError::ResourcesExhausted(_) => Self::MemoryLimit { limit_bytes },
            DataFusionError::SQL(..) => Self::Syntax(detail()),
            DataFusionError::Plan(_)
            | DataFusionError::SchemaError(..)
            | DataFusionError::NotImplemented(_)
            | DataFusionError::Configuration(_)
            | DataFusionError::Diagnostic(..)
            | DataFusionError::Collection(_) => Self::Invalid(detail()),
            DataFusionError::Execution(_) | DataFusionError::ArrowError(..) => Self::Failed(detail()),
            DataFusionError::External(cause) if cause.is::<SourceFailed>() => {
                Self::source_failed(cause.to_string(), scope)
            }
            DataFusionError::ParquetError(_)
            | DataFusionError::ObjectStore(_)
            | DataFusionError::IoError(_)
            | DataFusionError::External(_) => Self::source_failed(detail(), scope),
            _ => Self::internal(&detail(), scope),
        }
    }

    pub(crate) fn source_failed(detail: String, scope: &Scope) -> Self {
        tracing::error!(%detail, ?scope, "events cannot be read for a query");
        match scope {
            Scope::AllTenants => Self::Unreadable(detail),
            Scope::Tenant(_) => Self::Source(SourceError(detail)),
        }
    }

    pub(crate) fn internal(detail: &str, scope: &Scope) -> Self {
        tracing::error!(%detail, ?scope, "the query engine failed");
        match scope {
            Scope::AllTenants => Self::Failed(detail.to_owned()),
            Scope::Tenant(_) => Self::Internal(detail.to_owned()),
        }
    }
}

/// Without the engine's own prefixes, which say nothing to whoever wrote the SQL.
fn clean(text: &str) -> String {
    let prefixes =
        ["Error during planning: ", "SQL error: ", "Schema error: ", "Execution error: ", "Arrow error: "];
    // An optimizer rule that failed names itself first; the reason comes last.
    let mut text = text.rsplit("caused by\n").next().unwrap_or(text);
    while let Some(rest) = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        text = rest;
    }
    text.trim().replace("'sendlake.public.", "'")
}
