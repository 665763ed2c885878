//! `sendlake feedback-loop …`: where the installation is enrolled for complaints.

use clap::Subcommand;
use sendlake_control::feedback_loop::LoopIdentity;
use serde::Serialize;

use super::control::{actor, failure, open, read};
use super::{CommandResult, Failure, FormatArg, rows};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(crate) enum FeedbackLoopCommand {
    /// Note that a sending domain, or an address that mail leaves from, is enrolled at a provider.
    Add {
        /// The provider as events name it, such as yahoo or microsoft.
        #[arg(long)]
        provider: String,
        /// A sending domain, or an IP address.
        identity: String,
    },
    /// Note that it is so no more.
    Rm {
        #[arg(long)]
        provider: String,
        identity: String,
    },
    /// List what was noted. Where complaints came from, and where not, tells `sendlake sql "SELECT * FROM fbl_coverage"`.
    Ls {
        #[command(flatten)]
        format: FormatArg,
    },
}

#[derive(Serialize)]
struct Row {
    provider: String,
    identity_kind: String,
    identity: String,
    tenant_id: String,
    since: String,
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) async fn run(config: &Config, command: FeedbackLoopCommand) -> CommandResult {
    match command {
        FeedbackLoopCommand::Add { provider, identity } => {
            let parsed = LoopIdentity::parse(&identity).map_err(failure)?;
            open(config).await?.add_feedback_loop(&actor(), &provider, &parsed).await.map_err(failure)?;
            println!(
                "{identity} is noted as enrolled at {provider}: no complaint from there now counts as none"
            );
        }
        FeedbackLoopCommand::Rm { provider, identity } => {
            let parsed = LoopIdentity::parse(&identity).map_err(failure)?;
            let store = open(config).await?;
            if !store.remove_feedback_loop(&actor(), &provider, &parsed).await.map_err(failure)? {
                return Err(Failure::Missing(format!(
                    "{identity} is not noted as enrolled at {provider}; `sendlake feedback-loop ls` lists all"
                )));
            }
            println!("{identity} is no longer noted as enrolled at {provider}");
        }
        FeedbackLoopCommand::Ls { format } => {
            let found = read(config).await?.feedback_loops().await.map_err(failure)?;
            let found: Vec<Row> = found
                .into_iter()
                .map(|one| Row {
                    provider: one.provider,
                    identity_kind: one.identity_kind,
                    identity: one.identity,
                    tenant_id: one.tenant_id.to_string(),
                    since: one.since.to_string(),
                })
                .collect();
            let columns = ["provider", "identity_kind", "identity", "tenant_id", "since"];
            rows::print(&found, &columns, format.format)?;
        }
    }
    Ok(())
}
