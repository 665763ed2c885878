//! `sendlake sql "…"`: one read-only statement over the lake and what is on its way there.

use clap::Args;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_query::output::{self, Format as OutputFormat};
use sendlake_query::{QueryError, QueryOutput, Scope};

use super::{CommandResult, Failure, Format, FormatArg, instant, rows, tenant_id};
use crate::config::Config;
use crate::{stores, system};

#[derive(Args, Debug)]
pub(crate) struct SqlArgs {
    /// One SELECT (or WITH, EXPLAIN, SHOW TABLES, DESCRIBE …).
    #[arg(allow_hyphen_values = true)]
    query: String,
    /// See only what this tenant would see.
    #[arg(long, value_parser = tenant_id)]
    tenant: Option<TenantId>,
    /// Judge as of this instant (RFC 3339) instead of now; may be given several times. Views that read `as_of` give the
    /// rows of each.
    #[arg(long, value_parser = instant, value_name = "INSTANT")]
    as_of: Vec<Timestamp>,
    #[command(flatten)]
    format: FormatArg,
}

pub(crate) async fn run(config: &Config, args: SqlArgs) -> CommandResult {
    ask(config, args.tenant, &args.query, &args.as_of, args.format.format).await
}

/// Asks the lake as one tenant sees it, or as the operator, and prints the answer.
pub(crate) async fn ask(
    config: &Config,
    tenant: Option<TenantId>,
    query: &str,
    as_of: &[Timestamp],
    format: Format,
) -> CommandResult {
    if let Some(tenant) = &tenant {
        let control = stores::read_control(config, &system::ids()).await?;
        if control.tenant(tenant).await.map_err(anyhow::Error::from)?.is_none() {
            return Err(Failure::Missing(format!(
                "there is no tenant {tenant}; `sendlake tenant ls` lists them"
            )));
        }
    }
    let (engine, _) = stores::open_reading(config, &system::ids()).await?;
    let scope = tenant.map_or(Scope::AllTenants, Scope::Tenant);
    let output = engine.query_as_of(&scope, query, engine.limits().query, as_of).await.map_err(failure)?;
    print(&output, format)
}

/// Prints what a statement gave.
#[expect(clippy::print_stderr, reason = "a remark that must not mix with the rows")]
pub(crate) fn print(output: &QueryOutput, format: Format) -> CommandResult {
    let format = match format {
        Format::Table => OutputFormat::Table,
        Format::Json => OutputFormat::Json,
        Format::Csv => OutputFormat::Csv,
    };
    rows::emit(&output::to_bytes(output, format).map_err(anyhow::Error::from)?);
    if output.truncated {
        eprintln!("only the first {} rows (sql.rows_max); narrow the query down", output.num_rows());
    }
    Ok(())
}

pub(crate) fn failure(error: QueryError) -> Failure {
    match error {
        QueryError::Source(_) | QueryError::Unreadable(_) => Failure::Unreachable(error.to_string()),
        QueryError::Internal(_) => Failure::Other(error.into()),
        refused => Failure::Refused(refused.to_string()),
    }
}
