//! `sendlake rules …`: the rules by which refusals are read, a file with other rules, and what it would change.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;
use sendlake_control::id::TenantId;
use sendlake_query::Scope;
use sendlake_sql::rules::{Ruleset, Said};
use serde_json::json;

use super::{CommandResult, Failure, FormatArg, day, rows, sql, tenant_id};
use crate::config::Config;
use crate::{stores, system};

#[derive(Debug, Subcommand)]
pub(crate) enum RulesCommand {
    /// List rules in the order in which they are asked.
    Ls {
        /// A version, or a file; instead of the rules in force.
        #[arg(long, value_name = "VERSION|FILE")]
        ruleset: Option<String>,
        #[command(flatten)]
        format: FormatArg,
    },
    /// Read a file of rules, and see whether each rule decides its own example.
    Check { file: PathBuf },
    /// Show what B would say otherwise than A of the refusals in the lake. Nothing is changed.
    Diff {
        /// A version of the rules, or a file.
        a: String,
        /// Another one.
        b: String,
        /// Only what this tenant got to hear.
        #[arg(long, value_parser = tenant_id)]
        tenant: Option<TenantId>,
        /// Only from this UTC day on, such as 2026-01-31.
        #[arg(long, value_parser = day, default_value = "1970-01-01")]
        since: String,
        #[command(flatten)]
        format: FormatArg,
    },
}

const LS_COLUMNS: [&str; 7] = ["rule", "category", "reason", "class", "action", "example", "ruleset_version"];

pub(crate) async fn run(config: &Config, command: RulesCommand) -> CommandResult {
    match command {
        RulesCommand::Ls { ruleset, format } => ls(find(ruleset.as_deref())?, &format),
        RulesCommand::Check { file } => check(&file),
        RulesCommand::Diff { a, b, tenant, since, format } => {
            let (a, b) = (find(Some(&a))?, find(Some(&b))?);
            let statement = include_str!("rules.sql")
                .replace("{a}", a.version())
                .replace("{b}", b.version())
                .replace("{since}", &since);
            let (engine, _) = stores::open_reading(config, &system::ids()).await?;
            let scope = tenant.map_or(Scope::AllTenants, Scope::Tenant);
            let moved =
                engine.query(&scope, &statement, engine.limits().query).await.map_err(sql::failure)?;
            sql::print(&moved, format.format)
        }
    }
}

/// The rules of a version or of a file; those in force when nothing is named.
pub(super) fn find(named: Option<&str>) -> Result<&'static Ruleset, Failure> {
    let Some(named) = named else { return Ok(Ruleset::current()) };
    if let Some(known) = Ruleset::by_version(named) {
        return Ok(known);
    }
    if named.ends_with(".toml") || Path::new(named).exists() {
        return Ok(read(Path::new(named))?.offer());
    }
    let known = Ruleset::versions().join(", ");
    Err(Failure::Missing(format!(
        "no ruleset {named} is in this build, and no such file is here; it has {known}"
    )))
}

/// Reads a file of rules.
pub(crate) fn read(file: &Path) -> anyhow::Result<Ruleset> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ruleset::parse(&text).with_context(|| format!("{} cannot be used", file.display()))
}

fn ls(rules: &Ruleset, format: &FormatArg) -> CommandResult {
    let listed: Vec<serde_json::Value> = rules
        .rules()
        .iter()
        .map(|rule| {
            json!({
                "rule": rule.id,
                "category": rule.category,
                "reason": rule.reason,
                "class": rule.class,
                "action": rule.action,
                "example": rule.example,
                "ruleset_version": rules.version(),
            })
        })
        .collect();
    Ok(rows::print(&listed, &LS_COLUMNS, format.format)?)
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
fn check(file: &Path) -> CommandResult {
    let rules = read(file)?;
    let (mut without, mut wrong) = (0, Vec::new());
    for rule in rules.rules() {
        let Some(example) = &rule.example else {
            without += 1;
            continue;
        };
        let found = rules.classify(&Said::read(example));
        if found.rule != rule.id {
            wrong.push(format!("the example of {} is decided by {}: {example}", rule.id, found.rule));
        }
    }
    if !wrong.is_empty() {
        return Err(Failure::Refused(format!("{}: {}", file.display(), wrong.join("; "))));
    }
    println!(
        "{}: good. Version {}, {} rules, {without} of them without an example.",
        file.display(),
        rules.version(),
        rules.rules().len()
    );
    Ok(())
}
