//! Statements to Redshift, by either way: over the wire protocol, or through the Data API.

mod data_api;
mod wire;

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;

pub use self::data_api::DataApiClient;
pub use self::wire::WireClient;
use crate::pgwire::Row;
use crate::target::{JobLog, TargetError};

/// How long a question to the catalog or the ledger may take; a cluster that resumes from a pause takes minutes.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(300);

pub enum Client {
    Wire(WireClient),
    DataApi(DataApiClient),
}

/// What a transaction did.
pub struct Done {
    /// Rows that each of its statements changed, where that is told.
    pub rows: Vec<Option<u64>>,
    pub job_id: Option<String>,
}

impl Client {
    /// The rows of one statement.
    pub async fn ask(&self, sql: &str) -> Result<Vec<Row>, TargetError> {
        match self {
            Self::Wire(wire) => wire.ask(sql, ASK_TIMEOUT).await,
            Self::DataApi(api) => api.ask(sql, ASK_TIMEOUT).await,
        }
    }

    /// One statement by itself, which may be run twice.
    pub async fn change(&self, sql: &str) -> Result<(), TargetError> {
        self.ask(sql).await.map(drop)
    }

    /// All statements or none, in one session. `attempt` makes a new job of the same statements, after one has failed.
    pub async fn transact(
        &self,
        statements: &[String],
        attempt: u32,
        log: &dyn JobLog,
        within: Duration,
    ) -> Result<Done, TargetError> {
        match self {
            Self::Wire(wire) => wire.transact(statements, within).await,
            Self::DataApi(api) => api.transact(statements, &token(statements, attempt), log, within).await,
        }
    }
}

/// Names a transaction by what it does: the same statements in the same attempt have the same token, so the Data API
/// (`ClientToken`) runs them once.
fn token(statements: &[String], attempt: u32) -> String {
    let text = format!("{attempt}\n{}", statements.join(";\n"));
    let digits = HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref());
    format!("sendlake-{:.32}-{attempt}", digits)
}

#[cfg(test)]
mod tests {
    use super::token;

    #[test]
    fn a_transaction_has_one_token_per_attempt() {
        let statements = ["a".to_owned(), "b".to_owned()];
        let first = token(&statements, 1);
        assert_eq!(first, token(&statements, 1));
        assert!(first != token(&statements, 2) && first != token(&["a;\nc".to_owned()], 1));
        // The Data API's limit.
        assert!(first.len() <= 64, "{first}");
    }
}
