//! The wire protocol: a connection for each piece of work, which ends with it.

use std::time::Duration;

use zeroize::Zeroizing;

use super::Done;
use crate::pgwire::{Address, Connection, Row};
use crate::redshift::settings::Wire;
use crate::target::TargetError;

pub struct WireClient {
    pub settings: Wire,
    pub database: String,
    pub password: Option<Zeroizing<String>>,
}

impl WireClient {
    async fn open(&self, within: Duration) -> Result<Connection, TargetError> {
        let connection = Connection::open(&Address {
            host: &self.settings.host,
            port: self.settings.port,
            database: &self.database,
            user: &self.settings.user,
            password: self.password.as_ref().map(|password| password.as_str()),
            sslmode: self.settings.sslmode,
            ca_file: self.settings.ca_file.as_deref(),
        })
        .await?;
        // The server gives up when we do, so that a statement whose answer nobody waits for ends too.
        let limit = format!("SET statement_timeout TO {}", within.as_millis());
        connection.run(&limit, Duration::from_secs(30)).await?;
        Ok(connection)
    }

    pub async fn ask(&self, sql: &str, within: Duration) -> Result<Vec<Row>, TargetError> {
        let connection = self.open(within).await?;
        Ok(connection.run(sql, within).await?.0)
    }

    /// An error, also one of ours, drops the connection: the server rolls back. Only COMMIT can have an unknown end, and
    /// the ledger tells it.
    pub async fn transact(&self, statements: &[String], within: Duration) -> Result<Done, TargetError> {
        let connection = self.open(within).await?;
        let work = async {
            connection.run("BEGIN", within).await?;
            let mut rows = Vec::with_capacity(statements.len());
            for statement in statements {
                rows.push(Some(connection.run(statement, within).await?.1));
            }
            connection.run("COMMIT", within).await?;
            Ok(Done { rows, job_id: None })
        };
        tokio::time::timeout(within, work).await.map_err(|_| {
            TargetError::Away(format!(
                "{}: the batch was not loaded within {} s and is rolled back; raise load_timeout_s, or lower batch_bytes",
                connection.place,
                within.as_secs()
            ))
        })?
    }
}
