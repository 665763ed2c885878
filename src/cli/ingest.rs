//! `sendlake ingest PATH…`: reports that another server took.

mod figures;
mod mails;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::elsewhere::{self, ElsewhereArgs, Origin};
use super::suppression::post;
use super::{CommandResult, Failure, FormatArg, rows};
use crate::config::Config;

#[derive(Args, Debug)]
pub(crate) struct IngestArgs {
    /// Mail as RFC 5322 text: a file, an mbox, a Maildir or another folder, or `-` for standard input. Whom it came to is
    /// read from Delivered-To, X-Original-To or To.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    #[command(flatten)]
    elsewhere: ElsewhereArgs,
    #[command(flatten)]
    format: FormatArg,
}

#[derive(Serialize)]
struct Row {
    file: String,
    #[serde(flatten)]
    heard: Map<String, Value>,
}

const COLUMNS: [&str; 7] =
    ["file", "outcome", "event_type", "message_id", "tenant_id", "recipient", "detail"];

pub(crate) async fn run(config: &Config, args: IngestArgs) -> CommandResult {
    match args.elsewhere.from {
        Some(Origin::Sender(source)) => {
            return elsewhere::run(config, source, args.paths, args.elsewhere, args.format.format).await;
        }
        Some(Origin::Figures(exporter)) => {
            return figures::run(config, exporter, &args.paths, args.elsewhere, args.format.format).await;
        }
        None => {}
    }
    let mut told = Vec::new();
    let mut unread = Vec::new();
    let (mut read, mut refused) = (0, 0);
    for path in &args.paths {
        let stored = match mails::of(path) {
            Ok(stored) => stored,
            Err(error) => {
                unread.push(format!("{} cannot be read: {error}", path.display()));
                continue;
            }
        };
        for mail in stored {
            let mail = match mail {
                Ok(mail) => mail,
                Err(error) => {
                    unread.push(format!("cannot be read: {error}"));
                    continue;
                }
            };
            read += 1;
            let answer = post(config, "/local/ingest", "message/rfc822", mail.data.into()).await?;
            for heard in answer.as_array().into_iter().flatten().filter_map(Value::as_object) {
                refused += usize::from(heard.get("outcome").and_then(Value::as_str) == Some("refused"));
                told.push(Row { file: mail.name.clone(), heard: heard.clone() });
            }
        }
    }
    rows::print(&told, &COLUMNS, args.format.format)?;
    if !unread.is_empty() {
        return Err(Failure::Other(anyhow::anyhow!(unread.join("; "))));
    }
    if refused > 0 {
        return Err(Failure::Refused(format!("{refused} of {read} mails refused")));
    }
    Ok(())
}
