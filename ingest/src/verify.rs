//! Proves that outbox, log and files agree, and that no event is there twice. It reads only, works beside a running
//! server, and tells what it finds as data.
//!
//! - [`finding`]: what is told · `log`: the Delta log, holes and what its entries say · `file`: one Parquet file
//! - `ledger`: which log sequence numbers and which event ids there are · `outbox`: what has not reached the lake
//! - `table`: one table of the lake · `trace`: whether an address is anywhere

mod file;
pub mod finding;
mod ledger;
mod log;
mod outbox;
mod table;
mod trace;

use std::path::PathBuf;
use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use serde::Serialize;

pub use self::finding::{Finding, Severity};
pub(crate) use self::log::{objects, replaced};
use self::outbox::Waiting;
pub use self::outbox::unreadable as unreadable_outbox;
pub(crate) use self::table::names;
pub use self::trace::{Traced, left_in, trace, trace_file};
use crate::outbox::Outbox;
use crate::store::LakeStore;
use crate::table::EventsTable;

/// How often verifying starts over because maintenance replaced files meanwhile.
const ROUNDS_MAX: usize = 3;

/// How deep to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// The log, and each file's presence, size and footer. Rows are taken on trust.
    Quick,
    /// Every file read whole and every row decoded.
    Whole,
}

/// What is verified.
pub struct Verify {
    pub store: LakeStore,
    /// The spool of this node; none where there is none, or where it cannot be opened.
    pub outbox: Option<Arc<dyn Outbox>>,
    pub depth: Depth,
    /// A folder for event ids that do not fit in memory; made when needed, removed at the end.
    pub scratch: PathBuf,
    pub now: Timestamp,
}

/// What was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VerifyReport {
    pub tables: Vec<TableSeen>,
    pub spools: Vec<SpoolSeen>,
    pub findings: Vec<Finding>,
}

/// One table at the version that was verified.
#[derive(Clone, Debug, Serialize)]
pub struct TableSeen {
    pub table: String,
    pub version: u64,
    pub files: u64,
    /// Rows in its files, counted where files were decoded, else as their footers tell.
    pub rows: u64,
    pub bytes: u64,
}

/// One spool's events: `rows + removed = committed_lsn`, and the outbox goes on from there.
#[derive(Clone, Debug, Serialize)]
pub struct SpoolSeen {
    pub incarnation: String,
    /// Null when rows were not decoded.
    pub rows: Option<u64>,
    /// Taken out by retention and erasure, as the log tells.
    pub removed: u64,
    pub committed_lsn: u64,
    /// Waiting above the committed LSN; null for spools of other nodes.
    pub waiting: Option<u64>,
}

impl VerifyReport {
    /// Whether everything agrees. Warnings and notes are not contradictions.
    pub fn agrees(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity != Severity::Error)
    }
}

impl Verify {
    /// Looks at every table of the lake and at the outbox. What cannot be read is a finding, not an error.
    ///
    /// Memory: two files at a time, 64 KiB × 256 for event ids and then 1/256 of them (20 bytes each, through
    /// `scratch`), one bit per LSN, 24 bytes per event in the outbox.
    pub async fn run(&self) -> VerifyReport {
        for round in 1.. {
            let mut report = VerifyReport::default();
            if self.look(&mut report).await == Look::Steady || round == ROUNDS_MAX {
                report.findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
                return report;
            }
        }
        VerifyReport::default()
    }

    async fn look(&self, report: &mut VerifyReport) -> Look {
        // Hot rows first, version second: what is trimmed before is in any version pinned later.
        let waiting = match &self.outbox {
            Some(outbox) => Waiting::read(Arc::clone(outbox), &mut report.findings).await,
            None => None,
        };
        let names = match names(&self.store, &mut report.findings).await {
            Ok(names) => names,
            Err(error) => {
                report.findings.push(finding::unreachable(self.store.url.as_str(), &error.to_string()));
                return Look::Steady;
            }
        };
        if !names.iter().any(|name| name == EventsTable::NAME) {
            report.findings.push(finding::no_events(self.store.table_url(EventsTable::NAME).as_str()));
        }
        let mut look = Look::Steady;
        for name in names {
            if self.table(&name, waiting.as_ref(), report).await == Look::Moved {
                look = Look::Moved;
            }
        }
        look
    }
}

/// Whether files were replaced under the reader's eyes: what it counted then says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Steady,
    Moved,
}

#[cfg(test)]
mod tests;
