//! What it costs to keep the rollups up, with much and with little stored: the new events should count, not the old.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use sendlake_control::clock::Timestamp;
use sendlake_ingest::rollups::Rollups;
use sendlake_ingest::store::{LakeStore, open_store};
use sendlake_ingest::table::EventsTable;
use uuid::Uuid;

use crate::counting::{CountingStore, Requests};
use crate::events::Traffic;
use crate::machine::{self, median};

/// Events that come between two refreshes.
const NEW_EVENTS: usize = 100_000;
const COMMIT_ROWS: usize = 50_000;

/// Rollups beside a lake, and nodes whose events arrive late in the day.
pub(crate) struct Refreshing {
    store: LakeStore,
    now: Timestamp,
    /// Nodes so far: each measurement has a new one, whose traffic begins as that of the others did.
    nodes: u128,
}

/// How long refreshes took.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    /// The first, which takes in what was stored before, and the first tidying, which folds its sums.
    pub first_s: f64,
    pub tidy_s: f64,
    pub events_before: u64,
    /// The median of those after [`NEW_EVENTS`] more, and of their processor time, which depends less on what else runs.
    pub refresh_s: f64,
    pub refresh_cpu_s: f64,
    /// The same of looking whether anything is to be tidied, and doing it.
    pub tidying_s: f64,
    /// Rows of sums that one refresh of the middle sort appended.
    pub rows: f64,
    /// What the last refresh asked of the storage.
    pub requests: Requests,
}

impl Refreshing {
    /// `now` is the time at which new events happen.
    pub(crate) fn new(dir: &Path, now: Timestamp) -> anyhow::Result<Self> {
        let store = open_store(&dir.to_string_lossy(), &BTreeMap::new())?;
        Ok(Self { store, now, nodes: 0 })
    }

    pub(crate) async fn measure(&mut self, rounds: usize) -> anyhow::Result<Cost> {
        self.nodes += 1;
        let incarnation = Uuid::from_u128(76 + self.nodes);
        // Other ids, the same mixture: what one refresh has to sum does not depend on how much is stored.
        let seed = 76 + u64::try_from(self.nodes)?;
        let mut traffic = Traffic::new(seed, incarnation, self.now, 2_000);
        let (store, counting) = CountingStore::around(&self.store)?;
        let events = EventsTable::open(&store).await?;
        let rollups = Rollups::open(&store).await?;
        let began = Instant::now();
        let events_before = rollups.refresh(&events, self.now).await?.events;
        let first_s = began.elapsed().as_secs_f64();
        let began = Instant::now();
        rollups.tidy(self.now).await?;
        let tidy_s = began.elapsed().as_secs_f64();
        // What was written until now is not to be written out while others are timed.
        rustix::fs::sync();
        let (mut took, mut cpu, mut tidying, mut rows) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut requests = Requests::default();
        for _ in 0..rounds {
            for _ in 0..NEW_EVENTS / COMMIT_ROWS {
                events.append(incarnation, traffic.take_rows(COMMIT_ROWS)).await?;
            }
            let (before, began_cpu, began) = (counting.requests(), machine::cpu_of("self")?, Instant::now());
            let done = rollups.refresh(&events, self.now).await.context("refresh the rollups")?;
            took.push(began.elapsed().as_secs_f64());
            cpu.push(machine::cpu_of("self")?.saturating_sub(began_cpu).as_secs_f64());
            requests = counting.requests().since(before);
            ensure!(done.from_log, "the log told what is new");
            rows.push(done.rows as f64);
            let began = Instant::now();
            rollups.tidy(self.now).await.context("tidy the rollups")?;
            tidying.push(began.elapsed().as_secs_f64());
        }
        Ok(Cost {
            first_s,
            tidy_s,
            events_before,
            refresh_s: median(&took),
            refresh_cpu_s: median(&cpu),
            tidying_s: median(&tidying),
            rows: median(&rows),
            requests,
        })
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requests { data_reads, data_bytes, log_reads, log_lists, .. } = self.requests;
        write!(
            f,
            "{:.2} s, {:.2} s of processor, {:.0} rows of sums, {data_reads} reads of {:.1} MB, {log_reads} reads and \
             {log_lists} lists of the log; tidying {:.2} s; the first took in {} in {:.1} s and {:.1} s to fold them",
            self.refresh_s,
            self.refresh_cpu_s,
            self.rows,
            data_bytes as f64 / 1e6,
            self.tidying_s,
            self.events_before,
            self.first_s,
            self.tidy_s
        )
    }
}
