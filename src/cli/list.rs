//! `sendlake list check`: what a list of recipients is worth, and how many of it to write to a day.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use sendlake_control::id::TenantId;
use sendlake_sender::stream::Stream;
use serde::Serialize;

use super::{CommandResult, Failure, Format, FormatArg, rows, stream, tenant_id};
use crate::config::Config;
use crate::lists::check::{AddressRow, Asked, Check, Report, Unchecked};
use crate::lists::traps::Traps;
use crate::suppressions::exchange::{ListFormat, UnreadableList};
use crate::{stores, system};

#[derive(Debug, Subcommand)]
pub(crate) enum ListCommand {
    /// Say what speaks against each kind of address on a list, what the list is worth, and how to send to it slowly.
    Check(CheckArgs),
}

#[derive(Args, Debug)]
pub(crate) struct CheckArgs {
    /// Addresses as CSV (a column named address or email, or addresses alone) or JSON; `-` for standard input.
    file: PathBuf,
    /// Whose suppressions, deliveries and ceilings count.
    #[arg(long, value_parser = tenant_id)]
    tenant: Option<TenantId>,
    #[arg(long, value_parser = stream, default_value = "marketing")]
    stream: Stream,
    /// The sending domain whose ceilings count; without one, the strictest of the tenant's.
    #[arg(long, requires = "tenant")]
    domain: Option<String>,
    /// The file's form, where it cannot be found out.
    #[arg(long, value_enum)]
    file_format: Option<ListFormat>,
    /// Also write a CSV row for every address of the file: score, findings, what was meant, keep, drip or drop. `-` writes
    /// these rows to standard output, and nothing else.
    #[arg(long, value_name = "OUT")]
    addresses: Option<PathBuf>,
    /// Your own traps: addresses and domains, one a line.
    #[arg(long, value_name = "FILE")]
    traps: Option<PathBuf>,
    #[command(flatten)]
    format: FormatArg,
}

pub(crate) async fn run(config: &Config, command: ListCommand) -> CommandResult {
    let ListCommand::Check(args) = command;
    if let Some(out) = &args.addresses {
        writable(&args.file, out)?;
    }
    let traps = match &args.traps {
        Some(path) => {
            let refused =
                |why: &dyn std::fmt::Display| Failure::Refused(format!("{}: {why}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|why| refused(&why))?;
            Traps::parse(&text).map_err(|why| refused(&why))?
        }
        None => Traps::default(),
    };
    let control = Arc::new(stores::read_control(config, &system::ids()).await?);
    let asked = Asked {
        tenant: args.tenant.clone(),
        stream: args.stream,
        domain: args.domain.clone(),
        format: args.file_format,
        traps,
    };
    let (path, mut check) = (args.file.clone(), Check::new(control, asked));
    check.allowed().await.map_err(|error| match error {
        Unchecked::NoTenant(_) | Unchecked::NoDomain { .. } => Failure::Missing(error.to_string()),
        error => Failure::Other(error.into()),
    })?;
    let runtime = tokio::runtime::Handle::current();
    let reading = tokio::task::spawn_blocking(move || {
        let file: Box<dyn Read> = if path == Path::new("-") {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(&path).map_err(UnreadableList::from)?)
        };
        check.read(file, &runtime)?;
        Ok::<_, Unchecked>(check)
    });
    let read = reading.await.map_err(anyhow::Error::from)?;
    let mut check = read.map_err(|error| Failure::Refused(format!("{}: {error}", args.file.display())))?;
    let limits = match stores::open_reading(config, &system::ids()).await {
        Ok((engine, _)) => check.ask_lake(&engine).await,
        Err(error) => {
            check.gap(format!("the lake was not asked, so there is no plan: {error:#}"));
            None
        }
    };
    let report = check.report(limits.as_ref());
    let Some(out) = args.addresses else { return tell(&report, args.format.format) };
    let unwritten =
        |error: anyhow::Error| Failure::Other(error.context(format!("cannot write {}", out.display())));
    if out == Path::new("-") {
        return write_addresses(check, &args.file, io::stdout().lock()).map_err(unwritten);
    }
    let file = File::create(&out).map_err(|error| unwritten(error.into()))?;
    write_addresses(check, &args.file, file).map_err(unwritten)?;
    tell(&report, args.format.format)
}

/// Refuses what would need the list a second time where it is gone.
fn writable(list: &Path, out: &Path) -> CommandResult {
    let refused = |why: String| Err(Failure::Usage(anyhow::anyhow!(why)));
    if list == Path::new("-") {
        return refused("--addresses reads the list twice: give it as a file, not as standard input".into());
    }
    if let (Ok(list), Ok(out)) = (list.canonicalize(), out.canonicalize())
        && list == out
    {
        return refused(format!(
            "--addresses would overwrite the list {}: name another file",
            list.display()
        ));
    }
    Ok(())
}

fn write_addresses(mut check: Check, list: &Path, out: impl Write) -> anyhow::Result<()> {
    let mut out = csv::Writer::from_writer(out);
    let mut written = out.write_record(AddressRow::COLUMNS);
    check.addresses(File::open(list)?, &mut |row| {
        if written.is_ok() {
            written = out.write_record(row.fields());
        }
        written.is_ok()
    })?;
    written?;
    Ok(out.flush()?)
}

#[derive(Serialize)]
struct FoundRow {
    finding: &'static str,
    addresses: u64,
    points: u8,
    examples: String,
}

#[derive(Serialize)]
struct StepRow<'a> {
    provider: &'a str,
    freshness: &'a str,
    addresses: u64,
    per_day: u64,
    first_day: u64,
    last_day: u64,
}

fn tell(report: &Report, format: Format) -> CommandResult {
    if format == Format::Json {
        return Ok(rows::print_json(report)?);
    }
    let found: Vec<FoundRow> = report
        .findings
        .iter()
        .map(|found| FoundRow {
            finding: found.finding.as_str(),
            addresses: found.addresses,
            points: found.points,
            examples: found.examples.join("; "),
        })
        .collect();
    rows::print(&found, &["finding", "addresses", "points", "examples"], format)?;
    if format == Format::Csv {
        return Ok(());
    }
    let fresh: Vec<String> =
        report.freshness.iter().map(|(age, addresses)| format!("{age}: {addresses}")).collect();
    let mut text = format!(
        "{} records: {} addresses, {} duplicates, {} further spellings of one mailbox\nscore {} of 100: {}\n",
        report.records, report.addresses, report.duplicates, report.same_mailbox, report.score, report.advice
    );
    if !fresh.is_empty() {
        text.push_str(&format!("last delivered, in days: {}\n", fresh.join(", ")));
    }
    for gap in &report.gaps {
        text.push_str(&format!("not known: {gap}\n"));
    }
    rows::emit(text.as_bytes());
    let steps: Vec<StepRow<'_>> = report
        .plan
        .iter()
        .flat_map(|share| {
            share.steps.iter().map(|step| StepRow {
                provider: &share.provider,
                freshness: step.freshness,
                addresses: step.addresses,
                per_day: step.per_day,
                first_day: step.first_day,
                last_day: step.last_day,
            })
        })
        .collect();
    if !steps.is_empty() {
        rows::print(
            &steps,
            &["provider", "freshness", "addresses", "per_day", "first_day", "last_day"],
            format,
        )?;
    }
    Ok(())
}
