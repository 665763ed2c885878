//! What the outbox holds: read before the table's version is pinned, compared with it afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::finding::Finding;
use super::ledger::Ledger;
use crate::outbox::{Outbox, OutboxError};
use crate::spill::{SpillError, SpillFile};

/// Rows read in one go.
const PAGE_ROWS: usize = 20_000;

/// The file number under which events of the outbox stand in the ledger.
pub(super) const IN_OUTBOX: u32 = u32::MAX;

/// The events that wait, by number and id.
pub(super) struct Waiting {
    outbox: Arc<dyn Outbox>,
    pub incarnation: Uuid,
    rows: BTreeMap<u64, Uuid>,
    /// The newest LSN given out before anything was read.
    last_lsn: Option<u64>,
    /// Events that were nowhere when their turn came, as the lake's writer noted.
    missing: Vec<SpillFile>,
}

impl Waiting {
    /// Reads the outbox through. `None`, and a finding, when it cannot be read.
    pub async fn read(outbox: Arc<dyn Outbox>, findings: &mut Vec<Finding>) -> Option<Self> {
        let reader = Arc::clone(&outbox);
        let read = tokio::task::spawn_blocking(move || {
            let last_lsn = reader.last_lsn();
            let (mut rows, mut missing) = (BTreeMap::new(), Vec::new());
            let mut after_lsn = 0;
            loop {
                let page = reader.read(after_lsn, PAGE_ROWS)?;
                rows.extend(page.iter().map(|row| (row.lsn, row.event.event_id)));
                match page.last() {
                    Some(last) if page.len() == PAGE_ROWS => after_lsn = last.lsn,
                    _ => break,
                }
            }
            // Files after rows: what left the store in between is in a file by now.
            if let Some(spill) = reader.spill() {
                let told = |error: SpillError| OutboxError(error.to_string());
                let own = reader.incarnation();
                for file in spill.files().map_err(told)?.iter().filter(|file| file.incarnation == own) {
                    rows.extend(file.event_ids().map_err(told)?);
                }
                missing = spill.missing().map_err(told)?;
            }
            Ok((last_lsn, rows, missing))
        });
        // A store whose pages are torn may fail in ways that its library does not tell as an error.
        let read = match read.await {
            Ok(read) => read.map_err(|error: OutboxError| error.to_string()),
            Err(ended) => Err(format!("its store is damaged ({ended})")),
        };
        match read {
            Ok((last_lsn, rows, missing)) => {
                Some(Self { incarnation: outbox.incarnation(), outbox, rows, last_lsn, missing })
            }
            Err(problem) => {
                findings.push(unreadable(&problem));
                None
            }
        }
    }

    /// Committed events that the outbox has too: what the lake must hold under their numbers.
    pub fn expected(&self, committed_lsn: u64) -> BTreeMap<(Uuid, u64), Uuid> {
        self.rows.range(..=committed_lsn).map(|(lsn, id)| ((self.incarnation, *lsn), *id)).collect()
    }

    pub fn above(&self, committed_lsn: u64) -> u64 {
        self.rows.range(committed_lsn.saturating_add(1)..).count() as u64
    }

    /// Enters what waits in the ledger, so that an event in both places is found.
    pub fn enter(&self, committed_lsn: u64, ledger: &mut Ledger) -> std::io::Result<()> {
        self.rows
            .range(committed_lsn.saturating_add(1)..)
            .try_for_each(|(_, id)| ledger.ids.add(*id, IN_OUTBOX))
    }

    /// Whether the outbox goes on where the lake ends, without a hole.
    pub fn check(&self, committed_lsn: u64, findings: &mut Vec<Finding>) {
        let place = format!("spool {}", self.incarnation);
        for gap in &self.missing {
            findings.push(given_up(gap));
        }
        let mut next = committed_lsn.saturating_add(1).max(self.outbox.first_lsn().unwrap_or(1));
        let mut missing: Option<(u64, u64)> = None;
        for lsn in self.rows.range(next..).map(|(lsn, _)| *lsn) {
            if lsn != next {
                missing = Some((next, lsn - 1));
                break;
            }
            next = lsn + 1;
        }
        if missing.is_none()
            && let Some(last) = self.last_lsn.filter(|last| *last >= next)
        {
            missing = Some((next, last));
        }
        if let Some((from, to)) = missing {
            findings.push(Finding::error(
                "spool",
                place.clone(),
                format!(
                    "events {from} to {to} are neither in the lake, which holds those through {committed_lsn}, nor in \
                     the outbox"
                ),
                "see whether the lake was restored to an older version: its newer log entries and files, or an older \
                 copy of spool/, hold these events. Do not start a server on this folder before they are back",
            ));
        }
        // Asked now, after the version was pinned: commits of a server at work are not above it.
        if let Some(last) = self.outbox.last_lsn()
            && committed_lsn > last
        {
            findings.push(Finding::error(
                "spool",
                place,
                format!("the lake holds this spool's events through {committed_lsn}, but the spool ends at {last}"),
                "the spool is an older copy, or a second copy of it writes under its identity. Make sure that only one \
                 runs; the next start opens a new log under a new identity",
            ));
        }
    }
}

/// Events that nobody had when those after them went to the lake.
fn given_up(gap: &SpillFile) -> Finding {
    let SpillFile { incarnation, first_lsn, last_lsn, path } = gap;
    Finding::error(
        "spool",
        format!("spool {incarnation}"),
        format!(
            "events {first_lsn} to {last_lsn} were neither in the lake nor in the spool when those after them were \
             committed: a file of spilled events was moved away or lost, or the lake was set back to an older version"
        ),
        &format!(
            "if the file {incarnation}-{first_lsn}-… is somewhere, keep it: it is Parquet with the columns of `events`, and \
             the only place that has them. When you have taken note, remove {}",
            path.display()
        ),
    )
}

/// The outbox's store failed.
pub fn unreadable(problem: &str) -> Finding {
    Finding::error(
        "spool",
        "outbox",
        format!("the outbox cannot be read: {problem}"),
        "stop the server, check the disk, and restore spool/ from a backup; events through the lake's committed LSN \
         are safe in the lake, those after it were in this file alone",
    )
}
