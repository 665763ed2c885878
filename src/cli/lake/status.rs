//! `sendlake lake status`: what the lake looks like, in tables for people and as one object for programs.

use comfy_table::{ContentArrangement, Table};
use sendlake_control::clock::Timestamp;
use sendlake_ingest::maintain::status::{LakeReport, TableReport, report};
use sendlake_sender::spool::SpoolReader;
use serde::Serialize;
use uuid::Uuid;

use super::super::{CommandResult, Format, rows};
use super::{failure, missing};
use crate::config::Config;
use crate::node::rollups::who_keeps_up;
use crate::{stores, system};

/// What this node's spool still has.
#[derive(Serialize)]
struct Outbox {
    incarnation: Uuid,
    /// Events that are not trimmed yet.
    rows: u64,
    /// The newest event ever logged.
    last_lsn: u64,
    /// Events that are not in the lake yet.
    behind: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    lake: &'a LakeReport,
    /// Of this data folder; null where there is no spool.
    outbox: Option<Outbox>,
    /// What the configuration of this folder means for the lake, and may not be meant.
    notes: Vec<String>,
}

pub(super) async fn run(config: &Config, format: Format) -> CommandResult {
    let store = stores::open_place(config).map_err(anyhow::Error::from)?;
    let now = system::ids().now();
    let lake = report(&store, &stores::maintenance_settings(config), now).await.map_err(failure)?;
    if lake.tables.is_empty() {
        return Err(missing(config));
    }
    let outbox = outbox(config, &lake).await;
    let notes: Vec<String> = who_keeps_up(config).into_iter().collect();
    match format {
        Format::Json => rows::print_json(&Report { lake: &lake, outbox, notes })?,
        Format::Csv => rows::print(&lake.tables, &TABLE_COLUMNS, Format::Csv)?,
        Format::Table => {
            let notes: String = notes.iter().map(|note| format!("note: {note}\n")).collect();
            rows::emit(format!("{}{notes}", text(&lake, outbox.as_ref(), now)).as_bytes());
        }
    }
    Ok(())
}

const TABLE_COLUMNS: [&str; 14] = [
    "table",
    "version",
    "files",
    "rows",
    "bytes",
    "first_day",
    "last_day",
    "small_files",
    "unnamed_files",
    "unnamed_bytes",
    "checkpoint_version",
    "oldest_entry",
    "log_entries",
    "problem",
];

/// The spool of this folder, if there is one that can be read.
async fn outbox(config: &Config, lake: &LakeReport) -> Option<Outbox> {
    if !config.spool_dir().exists() {
        return None;
    }
    let control = stores::read_control(config, &system::ids()).await.ok()?;
    let spool = SpoolReader::open(&config.spool_dir(), stores::sealer(&control), &config.node.id).ok()?;
    let incarnation = spool.incarnation();
    let committed = lake.spools.iter().find(|spool| spool.incarnation == incarnation);
    let last_lsn = spool.last_lsn().ok()?;
    Some(Outbox {
        incarnation,
        rows: spool.counts().ok()?.outbox_rows,
        last_lsn,
        behind: last_lsn.saturating_sub(committed.map_or(0, |spool| spool.committed_lsn)),
    })
}

fn text(lake: &LakeReport, outbox: Option<&Outbox>, now: Timestamp) -> String {
    let mut text = format!("lake at {}\n\n", lake.url);
    text.push_str(&tables(&lake.tables, now));
    for report in &lake.tables {
        if let Some(problem) = &report.problem {
            text.push_str(&format!("\n{}: {problem}\n", report.table));
        }
        if let Some(first) = report.foreign_files.first() {
            let files = report.foreign_files.len();
            text.push_str(&format!(
                "\n{}: {files} not written by a Delta writer, such as {first}\n",
                report.table
            ));
        }
    }
    text.push('\n');
    let mut spools = table(&["spool", "in the lake up to", "removed", "last logged", "waiting"]);
    for spool in &lake.spools {
        let own = outbox.filter(|outbox| outbox.incarnation == spool.incarnation);
        spools.add_row([
            spool.incarnation.to_string(),
            spool.committed_lsn.to_string(),
            spool.removed_rows.to_string(),
            own.map(|own| own.last_lsn.to_string()).unwrap_or_default(),
            own.map(|own| own.rows.to_string()).unwrap_or_default(),
        ]);
    }
    if let Some(own) = outbox
        && lake.spools.iter().all(|spool| spool.incarnation != own.incarnation)
    {
        let (last_lsn, rows) = (own.last_lsn.to_string(), own.rows.to_string());
        spools.add_row([own.incarnation.to_string(), "0".into(), "0".into(), last_lsn, rows]);
    }
    text.push_str(&format!("{spools}\n"));
    if !lake.readers.is_empty() {
        let mut readers = table(&["reader", "spool", "has read up to", "behind"]);
        for reader in &lake.readers {
            let (spool, lsn) = (reader.incarnation.to_string(), reader.lsn.to_string());
            readers.add_row([reader.reader.clone(), spool, lsn, reader.behind.to_string()]);
        }
        text.push_str(&format!("\n{readers}\n"));
    }
    text.push_str(&match &lake.lease {
        None => "\nmaintenance: never done here\n".to_owned(),
        Some(lease) if lake.lease_held => {
            format!(
                "\nmaintenance: {} is at it (lease {}, until {})\n",
                lease.holder, lease.epoch, lease.expires_at
            )
        }
        Some(lease) => {
            format!(
                "\nmaintenance: last by {} (lease {}, taken {})\n",
                lease.holder, lease.epoch, lease.taken_at
            )
        }
    });
    match lake.next.len() {
        0 => text.push_str("next: nothing to join\n"),
        _ => {
            for step in &lake.next {
                let day = step.day.as_deref().unwrap_or_default();
                let bytes = size(step.bytes);
                text.push_str(&format!("next: join {} files of {day}, {bytes}\n", step.files));
            }
        }
    }
    text
}

fn tables(reports: &[TableReport], now: Timestamp) -> String {
    let mut shown = table(&[
        "table",
        "version",
        "files",
        "small",
        "rows",
        "size",
        "days",
        "unnamed",
        "checkpoint",
        "log since",
    ]);
    for report in reports {
        let days = match (&report.first_day, &report.last_day) {
            (Some(first), Some(last)) if first == last => first.clone(),
            (Some(first), Some(last)) => format!("{first} … {last}"),
            _ => String::new(),
        };
        let unnamed = match report.unnamed_files + report.young_files {
            0 => String::new(),
            _ => format!("{} to go, {} young", report.unnamed_files, report.young_files),
        };
        let entry = |version: Option<u64>, at: Option<Timestamp>| match (version, at) {
            (Some(version), Some(at)) => format!("{version}, {} ago", age(at, now)),
            _ => "none".to_owned(),
        };
        shown.add_row([
            report.table.clone(),
            report.version.to_string(),
            report.files.to_string(),
            report.small_files.to_string(),
            report.rows.to_string(),
            size(report.bytes),
            days,
            unnamed,
            entry(report.checkpoint_version, report.checkpoint_at),
            entry(report.oldest_entry, report.oldest_entry_at),
        ]);
    }
    format!("{shown}\n")
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(rows::PRESET).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header);
    table
}

/// Bytes in the largest unit that leaves a whole number.
fn size(bytes: u64) -> String {
    match bytes {
        0..10_240 => format!("{bytes} B"),
        10_240..10_485_760 => format!("{} KiB", bytes >> 10),
        10_485_760..10_737_418_240 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

/// How long ago, in the largest unit that says something.
fn age(then: Timestamp, now: Timestamp) -> String {
    match now.millis_since(then).max(0) / 1_000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_short() {
        assert_eq!(
            ["900 B", "97 KiB", "50 MiB", "30 GiB"],
            [900, 100_000, 53_000_000, 33_000_000_000].map(size)
        );
        let now = Timestamp::from_secs(1_000_000);
        let ages = [5, 300, 7_300, 900_000].map(|seconds| age(now.plus_secs(-seconds), now));
        assert_eq!(ages, ["5 s", "5 min", "2 h", "10 days"]);
    }
}
