//! What the lake looks like to whoever keeps it: tables, logs, spools, readers, the lease. Only listings and logs
//! are read, no data.

use std::collections::BTreeMap;
use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use serde::Serialize;
use uuid::Uuid;

use super::MaintainError;
use super::lease::{Lease, LeaseRecord};
use super::log::{LogListing, newest_state, transactions};
use super::plan::is_small;
use super::reader::{registered, tables};
use super::rewrite::{DataFile, REMOVED_TXN};
use super::round::{Maintainer, MaintenanceSettings, Step};
use super::vacuum::survey;
use crate::store::LakeStore;
use crate::table::{EventsTable, failed, log_store, version};

/// One lake, as of one moment.
#[derive(Clone, Debug, Serialize)]
pub struct LakeReport {
    pub url: String,
    pub as_of: Timestamp,
    pub tables: Vec<TableReport>,
    pub spools: Vec<SpoolReport>,
    pub readers: Vec<ReaderReport>,
    /// The newest lease, held or not.
    pub lease: Option<LeaseRecord>,
    pub lease_held: bool,
    /// What a round of maintenance would join now.
    pub next: Vec<Step>,
}

/// One table.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TableReport {
    pub table: String,
    pub version: u64,
    pub files: u64,
    /// Of files with statistics.
    pub rows: u64,
    pub bytes: u64,
    pub first_day: Option<String>,
    pub last_day: Option<String>,
    /// Files that joining could make better.
    pub small_files: u64,
    /// Files that nothing names, which vacuum would remove now.
    pub unnamed_files: u64,
    pub unnamed_bytes: u64,
    /// Files that nothing names, which are too young to go.
    pub young_files: u64,
    pub foreign_files: Vec<String>,
    pub checkpoint_version: Option<u64>,
    pub checkpoint_at: Option<Timestamp>,
    pub oldest_entry: Option<u64>,
    pub oldest_entry_at: Option<Timestamp>,
    pub log_entries: u64,
    /// Why the table cannot be read, or not be maintained.
    pub problem: Option<String>,
}

/// One spool whose events are in the lake.
#[derive(Clone, Debug, Serialize)]
pub struct SpoolReport {
    pub incarnation: Uuid,
    /// Its events up to here are in the lake.
    pub committed_lsn: u64,
    /// So many of them were removed by retention or erasure.
    pub removed_rows: u64,
}

/// How far a reader has come with one spool.
#[derive(Clone, Debug, Serialize)]
pub struct ReaderReport {
    pub reader: String,
    pub incarnation: Uuid,
    pub lsn: u64,
    /// Events in the lake that it has not taken.
    pub behind: u64,
}

/// Looks at everything. A table that cannot be read is reported with its problem, beside the others. Needs no
/// lease, and changes nothing.
pub async fn report(
    store: &LakeStore,
    settings: &MaintenanceSettings,
    now: Timestamp,
) -> Result<LakeReport, MaintainError> {
    let mut reports = Vec::new();
    for name in tables(store).await? {
        reports.push(match table_report(store, settings, &name, now).await {
            Ok(report) => report,
            Err(error) => {
                TableReport { table: name, problem: Some(error.to_string()), ..TableReport::default() }
            }
        });
    }
    let known = transactions(&log_store(store, EventsTable::NAME)?).await.unwrap_or_default();
    let spools = spools(&known);
    let mut readers = Vec::new();
    for reader in registered(store).await.unwrap_or_default() {
        for spool in &spools {
            let lsn = reader.lsn.get(&spool.incarnation).copied().unwrap_or(0);
            readers.push(ReaderReport {
                reader: reader.reader.clone(),
                incarnation: spool.incarnation,
                lsn,
                behind: spool.committed_lsn.saturating_sub(lsn),
            });
        }
    }
    let lease = Lease::newest(store).await?;
    let lease_held = lease.as_ref().is_some_and(|lease| lease.holds_at(now));
    let next = match EventsTable::open_existing(store).await {
        Ok(Some(events)) => {
            let (store, settings) = (store.clone(), settings.clone());
            Maintainer { store, events: Arc::new(events), settings }.outlook(now).await?
        }
        // What is wrong with it stands with the table.
        _ => Vec::new(),
    };
    let url = store.url.to_string();
    Ok(LakeReport { url, as_of: now, tables: reports, spools, readers, lease, lease_held, next })
}

async fn table_report(
    store: &LakeStore,
    settings: &MaintenanceSettings,
    name: &str,
    now: Timestamp,
) -> Result<TableReport, MaintainError> {
    let log = log_store(store, name)?;
    let listing = LogListing::of(&log).await?;
    let mut report = TableReport {
        table: name.to_owned(),
        version: listing.newest().unwrap_or(0),
        log_entries: listing.commits.len() as u64,
        ..TableReport::default()
    };
    (report.checkpoint_version, report.checkpoint_at) = listing.last_checkpoint().unzip();
    (report.oldest_entry, report.oldest_entry_at) = listing.oldest_entry().unzip();
    if let Err(error) = listing.check(&log) {
        report.problem = Some(error.to_string());
        return Ok(report);
    }
    let table = newest_state(&log).await?;
    let state = table.snapshot().map_err(failed(log.root_url().clone(), "read the state of"))?;
    report.version = version(&table);
    for view in state.log_data().into_iter() {
        let file = DataFile::of(&view);
        report.files += 1;
        report.bytes += file.bytes;
        report.rows += file.rows.unwrap_or(0);
        report.small_files += u64::from(is_small(&file, &settings.plan));
        let day = Some(file.day().to_owned()).filter(|day| !day.is_empty());
        report.last_day = report.last_day.max(day.clone());
        report.first_day = match (report.first_day, day) {
            (Some(first), Some(day)) => Some(first.min(day)),
            (first, day) => first.or(day),
        };
    }
    let found = survey(&log, now, settings.vacuum_grace_ms).await?;
    report.unnamed_files = (found.files.len() + found.stages.len()) as u64;
    report.unnamed_bytes = found.bytes;
    report.young_files = found.young as u64;
    report.foreign_files = found.foreign;
    Ok(report)
}

fn spools(known: &BTreeMap<String, i64>) -> Vec<SpoolReport> {
    let number = |version: &i64| u64::try_from(*version).unwrap_or(0);
    known
        .iter()
        .filter_map(|(app_id, version)| {
            let incarnation = Uuid::parse_str(app_id).ok()?;
            let removed = known.get(&format!("{REMOVED_TXN}{incarnation}")).map_or(0, number);
            Some(SpoolReport { incarnation, committed_lsn: number(version), removed_rows: removed })
        })
        .collect()
}
