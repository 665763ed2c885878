//! Reverse ETL of this installation: its connectors put together from configuration, control store and query engine, and the
//! task that runs each of them by its schedule.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sendlake_connectors::reverse::{Ran, Reverse, Row, RowSource, Rows, ledger_name};
use sendlake_connectors::run::{ExportError, Exporter};
use sendlake_connectors::schedule::Schedule;
use sendlake_connectors::target::TargetError;
use sendlake_control::ControlStore;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_query::output::{self, Format};
use sendlake_query::{QueryEngine, QueryError, QueryLimits, Scope};
use sendlake_sender::spool::Spool;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::exports::{self, StoredSecrets};
use crate::node::resolver;
use crate::outside::Outside;

/// How often a connector's state is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The query engine, as what connectors ask.
struct Engine(Arc<QueryEngine>);

#[async_trait]
impl RowSource for Engine {
    async fn rows(&self, tenant: Option<&TenantId>, sql: &str, rows_max: usize) -> Result<Rows, TargetError> {
        #[derive(Deserialize)]
        struct Answer {
            columns: Vec<Column>,
            rows: Vec<Row>,
        }
        #[derive(Deserialize)]
        struct Column {
            name: String,
        }
        let scope = tenant.cloned().map_or(Scope::AllTenants, Scope::Tenant);
        let limits = QueryLimits { rows: rows_max, ..self.0.limits().query };
        let output = self.0.query(&scope, sql, limits).await.map_err(unanswered)?;
        let bytes = output::to_bytes(&output, Format::Json).map_err(unanswered)?;
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|error| TargetError::Local(format!("the query's rows: {error}")))?;
        let columns = answer.columns.into_iter().map(|column| column.name).collect();
        Ok(Rows { columns, rows: answer.rows, truncated: output.truncated })
    }
}

fn unanswered(error: QueryError) -> TargetError {
    let said = format!("the query was not answered: {error}");
    match error {
        QueryError::TooManyQueries { .. } | QueryError::Source(_) | QueryError::Unreadable(_) => {
            TargetError::Away(said)
        }
        QueryError::Internal(_) => TargetError::Local(said),
        _ => TargetError::Refused(said),
    }
}

/// The configured connectors, for a server or for a command beside it.
pub fn connectors(
    config: &Config,
    control: &Arc<ControlStore>,
    engine: &Arc<QueryEngine>,
) -> anyhow::Result<Vec<Reverse>> {
    let mut connectors = Vec::new();
    for (name, settings) in &config.reverse {
        let allow_private = settings.allow_private_addresses;
        connectors.push(Reverse {
            name: name.clone(),
            settings: settings.clone(),
            source: Arc::new(Engine(Arc::clone(engine))),
            secrets: Arc::new(StoredSecrets(Arc::clone(control))),
            guard: Arc::new(Outside { resolver: resolver(config)?, allow_private }),
        });
    }
    Ok(connectors)
}

/// The connectors of a server, each run by a task of its own.
pub struct Reverses {
    pub exporter: Arc<Exporter>,
    pub spool: Arc<Spool>,
    pub connectors: Vec<Reverse>,
}

impl Reverses {
    /// Runs every connector until `stop`. Rows that are not known as sent then are posted after the next start.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = tokio::task::JoinSet::new();
        for connector in self.connectors {
            let (exporter, spool, stop) = (Arc::clone(&self.exporter), Arc::clone(&self.spool), stop.clone());
            tasks
                .spawn(async move { stop.run_until_cancelled(run_one(&connector, &exporter, &spool)).await });
        }
        tasks.join_all().await;
    }
}

async fn run_one(connector: &Reverse, exporter: &Exporter, spool: &Spool) {
    // Checked when the configuration was read.
    let Ok(schedule) = Schedule::parse(&connector.settings.schedule) else { return };
    let began = exporter.ids.now();
    loop {
        if let Err(error) = look(connector, exporter, spool, &schedule, began).await {
            tracing::warn!(connector = connector.name, %error, "the ledger of exports cannot be used; tried again");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn look(
    connector: &Reverse,
    exporter: &Exporter,
    spool: &Spool,
    schedule: &Schedule,
    began: Timestamp,
) -> Result<(), ExportError> {
    let ledger = ledger_name(&connector.name);
    let state = exporter.control.export_connector(&ledger).await?;
    if state.paused_at.is_some() || !exports::is_due(schedule, began, &state, exporter.ids.now()) {
        return Ok(());
    }
    let ran: Result<Ran, ExportError> = connector.run(exporter).await;
    exports::tell(exporter, spool, &ledger, &state, ran.map(drop)).await
}
