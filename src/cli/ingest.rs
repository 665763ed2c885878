//! `sendlake ingest FILE…`: reports that another server took.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::suppression::post;
use super::{CommandResult, Failure, FormatArg, rows};
use crate::config::Config;

#[derive(Args, Debug)]
pub(crate) struct IngestArgs {
    /// Mail as RFC 5322 text, one per file. Whom it came to is read from Delivered-To, X-Original-To or To.
    #[arg(required = true)]
    files: Vec<PathBuf>,
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
    let mut told = Vec::new();
    let mut unread = Vec::new();
    let mut refused = 0;
    for path in &args.files {
        let mail = match std::fs::read(path) {
            Ok(mail) => mail,
            Err(error) => {
                unread.push(format!("{} cannot be read: {error}", path.display()));
                continue;
            }
        };
        let answer = post(config, "/local/ingest", "message/rfc822", mail.into()).await?;
        for heard in answer.as_array().into_iter().flatten().filter_map(Value::as_object) {
            refused += usize::from(heard.get("outcome").and_then(Value::as_str) == Some("refused"));
            told.push(Row { file: path.display().to_string(), heard: heard.clone() });
        }
    }
    rows::print(&told, &COLUMNS, args.format.format)?;
    if !unread.is_empty() {
        return Err(Failure::Other(anyhow::anyhow!(unread.join("; "))));
    }
    if refused > 0 {
        return Err(Failure::Refused(format!("{refused} of {} mails refused", args.files.len())));
    }
    Ok(())
}
