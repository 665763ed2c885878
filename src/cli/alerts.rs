//! `sendlake alerts ls`: what somebody should look at.

use clap::Subcommand;
use sendlake_control::id::TenantId;

use super::{CommandResult, FormatArg, sql, tenant_id};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(crate) enum AlertsCommand {
    /// List what stands now, the critical first, as the view `alerts` judges it.
    Ls {
        /// Only this tenant's.
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        #[command(flatten)]
        format: FormatArg,
    },
}

const LIST: &str = "SELECT severity, since, tenant_id, kind, subject, reason, advice FROM alerts \
    ORDER BY CASE severity WHEN 'critical' THEN 0 ELSE 1 END, since, alert_id";

pub(crate) async fn run(config: &Config, command: AlertsCommand) -> CommandResult {
    let AlertsCommand::Ls { tenant, format } = command;
    sql::ask(config, tenant, LIST, &[], format.format).await
}
