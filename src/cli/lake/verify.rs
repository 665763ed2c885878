//! `sendlake lake verify`: outbox, log and files; or one address, anywhere.

use std::sync::Arc;

use anyhow::Context;
use clap::Args;
use sendlake_ingest::erase::forms::AddressForms;
use sendlake_ingest::outbox::Outbox;
use sendlake_ingest::verify::{
    Depth, Finding, Severity, Traced, Verify, VerifyReport, left_in, trace, trace_file, unreadable_outbox,
};
use sendlake_sender::spool::SpoolReader;
use serde_json::json;

use crate::cli::{CommandResult, Failure, Format, FormatArg, rows};
use crate::config::Config;
use crate::{stores, system};

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Logs, sizes and footers only; rows are not decoded.
    #[arg(long, conflicts_with = "recipient")]
    quick: bool,
    /// Instead: look for this address in everything that is kept, and say where it is.
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    #[command(flatten)]
    format: FormatArg,
}

const COLUMNS: [&str; 5] = ["severity", "check", "place", "what", "next"];

pub(crate) async fn run(config: &Config, args: VerifyArgs) -> CommandResult {
    match &args.recipient {
        Some(address) => find(config, address, args.format.format).await,
        None => verify(config, args.quick, args.format.format).await,
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn verify(config: &Config, quick: bool, format: Format) -> CommandResult {
    let ids = system::ids();
    let mut before = Vec::new();
    let outbox = reader(config, &mut before).await.map(|reader| Arc::new(reader) as Arc<dyn Outbox>);
    let store = stores::open_place(config).map_err(anyhow::Error::from)?;
    let verify = Verify {
        store,
        outbox,
        depth: if quick { Depth::Quick } else { Depth::Whole },
        scratch: config.storage.dir.join(format!("verify-{}", ids.uuid())),
        now: ids.now(),
    };
    let mut report = verify.run().await;
    report.findings.splice(0..0, before);
    match format {
        Format::Json => rows::print_json(&json!({ "agrees": report.agrees(), "report": report }))?,
        Format::Csv => rows::print(&report.findings, &COLUMNS, format)?,
        Format::Table => {
            rows::print(&report.tables, &["table", "version", "files", "rows", "bytes"], format)?;
            rows::print(
                &report.spools,
                &["incarnation", "rows", "removed", "committed_lsn", "waiting"],
                format,
            )?;
            tell(&report.findings)?;
        }
    }
    if report.agrees() {
        if format == Format::Table {
            println!("outbox, log and files agree");
        }
        return Ok(());
    }
    Err(Failure::Other(anyhow::anyhow!("{}", contradictions(&report))))
}

/// Findings one below the other: their sentences are too long for columns.
#[expect(clippy::print_stdout, reason = "the command's answer")]
fn tell(findings: &[Finding]) -> anyhow::Result<()> {
    for finding in findings {
        let severity = serde_json::to_value(finding.severity)?;
        println!("{}: {}: {}", severity.as_str().unwrap_or("finding"), finding.place, finding.what);
        println!("    {}", finding.next);
    }
    Ok(())
}

fn contradictions(report: &VerifyReport) -> String {
    let errors = report.findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    format!("outbox, log and files do not agree: {errors} findings say where, and what to do")
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn find(config: &Config, address: &str, format: Format) -> CommandResult {
    let forms = AddressForms::new(address).map_err(|error| Failure::Refused(error.to_string()))?;
    let mut findings = Vec::new();
    find_in_folder(config, address, &forms, &mut findings).await?;
    let store = stores::open_place(config).map_err(anyhow::Error::from)?;
    let traced: Traced = trace(&store, &forms, &mut findings).await;
    match format {
        Format::Json => rows::print_json(
            &json!({ "found": !findings.is_empty(), "looked_at": traced, "findings": findings }),
        )?,
        Format::Csv => rows::print(&findings, &COLUMNS, format)?,
        Format::Table => {
            tell(&findings)?;
            println!(
                "looked at {} files of {} bytes, {} rows, the spool and the lists",
                traced.files, traced.bytes, traced.rows
            );
        }
    }
    if findings.is_empty() {
        if format == Format::Table {
            println!("the address is nowhere");
        }
        return Ok(());
    }
    Err(Failure::Other(anyhow::anyhow!("the address may be in {} places", findings.len())))
}

/// The data folder: spool, spilled events, reports that wait or cannot be read (as they came: not in archives), control store.
async fn find_in_folder(
    config: &Config,
    address: &str,
    forms: &AddressForms,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<()> {
    let is_in = |text: &[u8]| forms.is_in(text);
    if let Some(spool) = reader(config, findings).await {
        let place = config.spool_dir().display().to_string();
        match spool.mentions(&is_in) {
            Ok(found) => findings.extend(found.iter().map(|what| left_in(&place, what))),
            Err(error) => findings.push(unreadable_outbox(&error.to_string())),
        }
    }
    let reports = ["incoming", "quarantine"].map(|name| config.reports_dir().join(name));
    let more = [config.quarantine_dir(), config.spool_dir().join("spill")];
    for folder in reports.into_iter().chain(more).filter(|path| path.is_dir()) {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let path = entry?.path();
            let place = path.display().to_string();
            // Drained since the folder was listed.
            let Ok(bytes) = std::fs::read(&path) else { continue };
            findings.extend(trace_file(forms, &place, bytes.into()).1);
        }
    }
    let control = stores::read_control(config, &system::ids()).await?;
    let place = control.path().display().to_string();
    findings.extend(control.mentions(address, &is_in).await?.iter().map(|what| left_in(&place, what)));
    Ok(())
}

/// The spool, for reading. `None` where there is none, and, with a finding, where it cannot be opened.
async fn reader(config: &Config, findings: &mut Vec<Finding>) -> Option<SpoolReader> {
    if !config.spool_dir().join("spool.redb").exists() {
        return None;
    }
    let opened = async {
        let control = stores::read_control(config, &system::ids()).await?;
        Ok::<_, anyhow::Error>(SpoolReader::open(
            &config.spool_dir(),
            stores::sealer(&control),
            &config.node.id,
        )?)
    };
    opened.await.map_err(|error| findings.push(unreadable_outbox(&format!("{error:#}")))).ok()
}
