//! `sendlake ingest --from google-postmaster|snds PATH…`: providers' own figures, into the lake beside our estimates.

use std::io::Read;
use std::path::PathBuf;

use sendlake_ingest::calibration::{self, EXPORT_BYTES_MAX, Export, Exporter};
use sendlake_ingest::foreign::read::{File, files, open};
use serde::Serialize;

use super::super::elsewhere::ElsewhereArgs;
use super::super::suppression::post;
use super::super::{CommandResult, Failure, Format, rows};
use crate::config::Config;
use crate::domain_reports::figures::TakenFigures;
use crate::node::FiguresWanted;
use crate::system;

#[derive(Serialize)]
struct Row {
    from: &'static str,
    file: String,
    #[serde(flatten)]
    taken: TakenFigures,
}

const COLUMNS: [&str; 6] = ["from", "file", "read", "added", "repeated", "bad"];

#[expect(clippy::print_stderr, reason = "what could not be read, beside the counts")]
pub(super) async fn run(
    config: &Config,
    exporter: Exporter,
    paths: &[PathBuf],
    args: ElsewhereArgs,
    format: Format,
) -> CommandResult {
    if args.suppress || args.stream.is_some() {
        let why =
            "figures of a provider suppress nobody and have no stream: leave out --suppress and --stream";
        return Err(Failure::Usage(anyhow::anyhow!(why)));
    }
    let wanted = FiguresWanted {
        exporter,
        tenant_id: args.tenant,
        domain: args.domain.map(|domain| domain.trim().to_lowercase()).filter(|domain| !domain.is_empty()),
        utc_offset_s: args.utc_offset,
    };
    let mut told = Vec::new();
    for file in files(paths).map_err(anyhow::Error::from)? {
        let data = content(&file)?;
        let taken = if args.dry_run { dry(&wanted, &data) } else { give(config, &wanted, data).await? };
        if format != Format::Json {
            for fault in &taken.faults {
                eprintln!("bad: {}:{}: {}", file.name(), fault.line, fault.why);
            }
            let untold = taken.bad.saturating_sub(taken.faults.len() as u64);
            if untold > 0 {
                eprintln!("bad: {}: {untold} more", file.name());
            }
        }
        told.push(Row { from: exporter.as_str(), file: file.name(), taken });
    }
    let (read, bad) =
        told.iter().fold((0, 0), |(read, bad), row| (read + row.taken.read, bad + row.taken.bad));
    rows::print(&told, &COLUMNS, format)?;
    if read > 0 && bad == read {
        return Err(Failure::Refused(format!("none of it is a record of {exporter}; is --from right?")));
    }
    Ok(())
}

fn content(file: &File) -> anyhow::Result<Vec<u8>> {
    let mut data = Vec::new();
    open(file)?.take(EXPORT_BYTES_MAX as u64 + 1).read_to_end(&mut data)?;
    if data.len() > EXPORT_BYTES_MAX {
        anyhow::bail!("{} has more than {} MiB; give it in parts", file.name(), EXPORT_BYTES_MAX >> 20);
    }
    Ok(data)
}

/// What would be offered to the lake; what it knows already is not asked.
fn dry(wanted: &FiguresWanted, data: &[u8]) -> TakenFigures {
    let export = Export {
        exporter: wanted.exporter,
        domain: wanted.domain.clone(),
        utc_offset_s: wanted.utc_offset_s,
        now: system::ids().now(),
    };
    let reading = calibration::read(&export, data);
    let added = reading.figures.len() as u64;
    TakenFigures { read: reading.read, added, repeated: 0, bad: reading.bad, faults: reading.faults }
}

async fn give(config: &Config, wanted: &FiguresWanted, data: Vec<u8>) -> Result<TakenFigures, Failure> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("exporter", wanted.exporter.as_str());
    query.append_pair("utc_offset_s", &wanted.utc_offset_s.to_string());
    if let Some(tenant_id) = &wanted.tenant_id {
        query.append_pair("tenant_id", tenant_id.as_str());
    }
    if let Some(domain) = &wanted.domain {
        query.append_pair("domain", domain);
    }
    let path = format!("/local/figures?{}", query.finish());
    let answer = post(config, &path, "application/octet-stream", data.into()).await?;
    Ok(serde_json::from_value(answer).map_err(anyhow::Error::from)?)
}
