//! `sendlake classify FILE…` reads bounces, complaints and automatic replies and says what they mean.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use sendlake_ingest::report::{DsnAction, RecipientStatus, Report};
use sendlake_sql::rules::Ruleset;
use serde::Serialize;

use super::{CommandResult, Failure, FormatArg, rows, rules};

#[derive(Args, Debug)]
pub(crate) struct ClassifyArgs {
    /// Mails as they came (RFC 5322); `-` reads standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// A version of the rules, or a file; instead of those in force.
    #[arg(long, value_name = "VERSION|FILE")]
    ruleset: Option<String>,
    #[command(flatten)]
    format: FormatArg,
}

/// One recipient of one mail.
#[derive(Clone, Debug, Default, Serialize)]
struct Row {
    file: String,
    recipient: Option<String>,
    status: Option<String>,
    reply_code: Option<u16>,
    category: String,
    reason: Option<String>,
    class: Option<String>,
    rule: Option<String>,
    ruleset_version: String,
}

const COLUMNS: [&str; 9] =
    ["file", "recipient", "status", "reply_code", "category", "reason", "class", "rule", "ruleset_version"];

/// Prints a row for each recipient. A file that cannot be read fails the command, after the rows of the others.
pub(crate) fn run(args: &ClassifyArgs) -> CommandResult {
    let rules = rules::find(args.ruleset.as_deref())?;
    let mut rows = Vec::new();
    let mut unreadable = Vec::new();
    for file in &args.files {
        match read(file) {
            Ok(mail) => rows.extend(rows_of(&file.display().to_string(), &mail, rules)),
            Err(error) => unreadable.push(format!("{}: {error}", file.display())),
        }
    }
    rows::print(&rows, &COLUMNS, args.format.format)?;
    if unreadable.is_empty() {
        Ok(())
    } else {
        Err(Failure::Other(anyhow::anyhow!("cannot be read: {}", unreadable.join("; "))))
    }
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut mail = Vec::new();
        std::io::stdin().lock().read_to_end(&mut mail)?;
        return Ok(mail);
    }
    std::fs::read(file)
}

/// `complaint`, `auto_reply`, `delivered` and `other` stand where a category of bounces would; `refused` where
/// a mail breaks the bounds within which reports are read.
fn rows_of(file: &str, mail: &[u8], rules: &Ruleset) -> Vec<Row> {
    let plain = |category: &str, reason: Option<String>| Row {
        file: file.into(),
        category: category.into(),
        reason,
        ruleset_version: rules.version().into(),
        ..Row::default()
    };
    match Report::parse(mail) {
        Err(error) => vec![plain("refused", Some(error.to_string()))],
        Ok(Report::Other) => vec![plain("other", None)],
        Ok(Report::AutoReply) => vec![plain("auto_reply", None)],
        Ok(Report::Feedback(feedback)) => {
            let row = plain("complaint", Some(feedback.feedback_type.clone()));
            let named = [&feedback.original_recipients, &feedback.original.to]
                .into_iter()
                .find(|list| !list.is_empty());
            match named {
                Some(list) => {
                    list.iter().map(|to| Row { recipient: Some(to.clone()), ..row.clone() }).collect()
                }
                None => vec![row],
            }
        }
        Ok(Report::Dsn(entries)) => {
            entries.iter().map(|entry| of_recipient(entry, rules, plain("", None))).collect()
        }
    }
}

fn of_recipient(entry: &RecipientStatus, rules: &Ruleset, row: Row) -> Row {
    let row = Row {
        recipient: entry.recipient.clone(),
        status: entry.status.clone(),
        reply_code: entry.reply_code,
        ..row
    };
    match entry.action {
        DsnAction::Delivered | DsnAction::Relayed | DsnAction::Expanded => {
            Row { category: "delivered".into(), ..row }
        }
        DsnAction::Failed | DsnAction::Delayed => {
            let found = entry.classify(rules);
            Row {
                category: found.category.to_string(),
                reason: Some(found.reason),
                class: Some(found.class.to_string()),
                rule: Some(found.rule),
                ..row
            }
        }
    }
}
