//! `sendlake secret …`: credentials of exports, sealed in the control store and never printed.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use clap::Subcommand;
use sendlake_control::ControlError;
use serde::Serialize;
use zeroize::Zeroizing;

use super::control::{actor, open, read};
use super::{CommandResult, Failure, FormatArg, rows};
use crate::config::Config;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Keep a secret, in the place of one of that name. Configuration names it as `secret:NAME`.
    Set {
        /// Letters, digits, -, _ and .
        name: String,
        /// Where to read it; standard input without this. As an argument it would be in the list of processes.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// List the secrets' names.
    Ls {
        #[command(flatten)]
        format: FormatArg,
    },
    /// Forget a secret.
    Rm { name: String },
}

#[derive(Serialize)]
struct Row {
    name: String,
    set_at: String,
    set_by: String,
}

pub(crate) async fn run(config: &Config, command: SecretCommand) -> CommandResult {
    match command {
        SecretCommand::Set { name, file } => set(config, &name, file).await,
        SecretCommand::Ls { format } => {
            let secrets = read(config).await?.secrets().await.map_err(anyhow::Error::from)?;
            let row = |secret: sendlake_control::stored_secret::StoredSecret| Row {
                name: secret.name,
                set_at: secret.created_at.to_string(),
                set_by: secret.created_by,
            };
            let secrets: Vec<Row> = secrets.into_iter().map(row).collect();
            Ok(rows::print(&secrets, &["name", "set_at", "set_by"], format.format)?)
        }
        SecretCommand::Rm { name } => {
            match open(config).await?.remove_secret(&actor(), &name).await.map_err(anyhow::Error::from)? {
                true => Ok(()),
                false => Err(Failure::Missing(format!(
                    "there is no secret {name:?}: `sendlake secret ls` lists them"
                ))),
            }
        }
    }
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command's question and answer")]
async fn set(config: &Config, name: &str, file: Option<PathBuf>) -> CommandResult {
    let mut text = Zeroizing::new(String::new());
    match &file {
        Some(path) => {
            let found = std::fs::read_to_string(path);
            *text = found.map_err(|error| {
                Failure::Usage(anyhow::anyhow!("{} cannot be read: {error}", path.display()))
            })?;
        }
        None => {
            let mut input = std::io::stdin();
            if input.is_terminal() {
                eprintln!("Type or paste the secret, then Enter and Ctrl-D:");
            }
            input.read_to_string(&mut text).map_err(anyhow::Error::from)?;
        }
    }
    match open(config).await?.set_secret(&actor(), name, text.trim_end()).await {
        Ok(()) => {
            println!("kept; configuration names it as \"secret:{name}\"");
            Ok(())
        }
        Err(error @ ControlError::InvalidText { .. }) => Err(Failure::Usage(error.into())),
        Err(error) => Err(Failure::Other(error.into())),
    }
}
