//! `sendlake lake erase`: a recipient or a tenant, from everything.

use anyhow::Context;
use clap::Args;
use sendlake_control::id::TenantId;

use crate::cli::suppression::post;
use crate::cli::{CommandResult, Failure, Format, FormatArg, rows, tenant_id};
use crate::config::Config;
use crate::erase::{EraseRequest, Receipt};

#[derive(Args, Debug)]
#[command(group = clap::ArgGroup::new("whom").required(true).multiple(true))]
pub(crate) struct EraseArgs {
    /// Every event of messages to this address, and the address wherever else it stands. It is suppressed for good.
    #[arg(long, group = "whom", value_name = "ADDRESS")]
    recipient: Option<String>,
    /// All rows of this tenant, which is suspended; with --recipient, only this tenant's rows.
    #[arg(long, group = "whom", value_parser = tenant_id)]
    tenant: Option<TenantId>,
    #[command(flatten)]
    format: FormatArg,
}

const COLUMNS: [&str; 7] = [
    "table",
    "version",
    "rows_erased",
    "rows_redacted",
    "files_replaced",
    "files_removed",
    "log_entries_expired",
];

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn run(config: &Config, args: EraseArgs) -> CommandResult {
    let request = EraseRequest { recipient: args.recipient, tenant_id: args.tenant };
    let body = serde_json::to_vec(&request).map_err(anyhow::Error::from)?;
    let answer = post(config, "/local/lake/erase", "application/json", body.into()).await?;
    let receipt: Receipt = serde_json::from_value(answer).context("the server's receipt")?;
    match args.format.format {
        Format::Json => rows::print_json(&receipt)?,
        format => {
            if format == Format::Table {
                let found = if receipt.found_any() { "erased" } else { "nothing was left to erase" };
                println!("{found}; receipt {} of {}, by {}", receipt.id, receipt.at, receipt.actor);
                println!("{} waiting messages withdrawn", receipt.messages_withdrawn);
            }
            rows::print(&receipt.lake.tables, &COLUMNS, format)?;
        }
    }
    if receipt.lake.left.is_empty() {
        return Ok(());
    }
    Err(Failure::Other(anyhow::anyhow!("not all could go yet: {}", receipt.lake.left.join("; "))))
}
