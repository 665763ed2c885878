//! `sendlake message ID`: what became of one message, step by step.

use clap::Args;
use sendlake_query::Scope;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{CommandResult, Failure, Format, FormatArg, rows};
use crate::config::Config;
use crate::ports::{events_of, history};
use crate::{stores, system};

#[derive(Args, Debug)]
pub(crate) struct MessageArgs {
    /// The message's id, from the answer that accepted it or from `sendlake sql`.
    message_id: Uuid,
    #[command(flatten)]
    format: FormatArg,
}

/// What a person wants to see of each event; JSON has every column.
const COLUMNS: [&str; 8] =
    ["seq", "occurred_at", "event_type", "attempt", "mx_host", "reply_code", "reply_text", "next_attempt_at"];

pub(crate) async fn run(config: &Config, args: MessageArgs) -> CommandResult {
    let (engine, _) = stores::open_reading(config, &system::ids()).await?;
    let events =
        events_of(&engine, &Scope::AllTenants, args.message_id).await.map_err(anyhow::Error::from)?;
    let found = history(args.message_id, events).ok_or_else(|| {
        Failure::Missing(format!(
            "no message {} is known in {}",
            args.message_id,
            config.storage.dir.display()
        ))
    })?;
    match args.format.format {
        Format::Json => rows::print_json(&found)?,
        Format::Csv => rows::print(&found.events, &COLUMNS, Format::Csv)?,
        Format::Table => print(&found)?,
    }
    Ok(())
}

/// The summary in one line, then the steps.
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn print(found: &sendlake_sender::api::ports::MessageHistory) -> anyhow::Result<()> {
    println!(
        "{}  {}  to {}  for {} ({})",
        found.message_id,
        found.outcome,
        found.recipient.as_deref().unwrap_or("?"),
        found.tenant_id,
        found.stream.map_or("no stream", |stream| stream.as_str()),
    );
    let brief: Vec<Map<String, Value>> = found.events.iter().map(brief).collect();
    rows::print(&brief, &COLUMNS, Format::Table)
}

fn brief(event: &Map<String, Value>) -> Map<String, Value> {
    const REPLY_CHARS_MAX: usize = 110;
    let mut brief = event.clone();
    // what was decided here has no reply, but a reason
    if !event.contains_key("reply_text")
        && let Some(why) = event.get("hold_reason").or(event.get("detail"))
    {
        brief.insert("reply_text".into(), why.clone());
    }
    for (column, value) in &mut brief {
        if let Value::String(text) = value {
            if column.ends_with("_at") {
                *text = text.replace('T', " ").trim_end_matches('Z').chars().take(23).collect();
            } else if column == "reply_text" && text.chars().count() > REPLY_CHARS_MAX {
                *text = text.chars().take(REPLY_CHARS_MAX).chain(['…']).collect();
            }
        }
    }
    brief
}
