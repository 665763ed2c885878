//! What it costs to keep the rollups up, with much and with little stored: the new events should count, not the old.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use sendlake_control::clock::Timestamp;
use sendlake_ingest::rollups::Rollups;
use sendlake_ingest::store::open_store;
use sendlake_ingest::table::EventsTable;
use uuid::Uuid;

use crate::counting::{CountingStore, Requests};
use crate::events::Traffic;
use crate::machine::{self, median};

/// Events that come between two refreshes.
const NEW_EVENTS: usize = 100_000;
const COMMIT_ROWS: usize = 50_000;
/// The spool whose events come between refreshes.
const SPOOL: Uuid = Uuid::from_u128(77);

/// What it took to bring the rollups of a folder up to all that its lake holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TakenIn {
    pub events: u64,
    pub refresh_s: f64,
    /// Folding the small files that this made.
    pub tidy_s: f64,
}

pub(crate) async fn take_in(dir: &Path, now: Timestamp) -> anyhow::Result<TakenIn> {
    let store = open_store(&dir.to_string_lossy(), &BTreeMap::new())?;
    let events = EventsTable::open(&store).await?;
    let rollups = Rollups::open(&store).await?;
    let began = Instant::now();
    let taken = rollups.refresh(&events, now).await?.events;
    let refresh_s = began.elapsed().as_secs_f64();
    let began = Instant::now();
    rollups.tidy(now).await?;
    Ok(TakenIn { events: taken, refresh_s, tidy_s: began.elapsed().as_secs_f64() })
}

/// A lake with its rollups, and a node whose events arrive late in the day. The node's traffic is the same in every lake.
pub(crate) struct Refreshing {
    counting: Arc<CountingStore>,
    events: EventsTable,
    rollups: Rollups,
    traffic: Traffic,
    now: Timestamp,
    rounds: Vec<Round>,
}

/// One refresh after [`NEW_EVENTS`] more.
#[derive(Clone, Copy, Debug)]
struct Round {
    refresh_s: f64,
    /// Depends less on what else runs.
    cpu_s: f64,
    tidy_s: f64,
    rows: u64,
    requests: Requests,
}

impl Refreshing {
    /// `now` is the time at which new events happen.
    pub(crate) async fn new(dir: &Path, now: Timestamp) -> anyhow::Result<Self> {
        let store = open_store(&dir.to_string_lossy(), &BTreeMap::new())?;
        let (store, counting) = CountingStore::around(&store)?;
        let events = EventsTable::open(&store).await?;
        let rollups = Rollups::open(&store).await?;
        let traffic = Traffic::new(77, SPOOL, now, 2_000);
        Ok(Self { counting, events, rollups, traffic, now, rounds: Vec::new() })
    }

    /// New events, then a refresh as the server does it, timed.
    pub(crate) async fn round(&mut self) -> anyhow::Result<()> {
        for _ in 0..NEW_EVENTS / COMMIT_ROWS {
            self.events.append(SPOOL, self.traffic.take_rows(COMMIT_ROWS)).await?;
        }
        let (before, began_cpu, began) = (self.counting.requests(), machine::cpu_of("self")?, Instant::now());
        let done = self.rollups.refresh(&self.events, self.now).await.context("refresh the rollups")?;
        let refresh_s = began.elapsed().as_secs_f64();
        let cpu_s = machine::cpu_of("self")?.saturating_sub(began_cpu).as_secs_f64();
        let requests = self.counting.requests().since(before);
        ensure!(done.from_log && done.events == NEW_EVENTS as u64, "the log told what is new: {done:?}");
        let began = Instant::now();
        self.rollups.tidy(self.now).await.context("tidy the rollups")?;
        let tidy_s = began.elapsed().as_secs_f64();
        self.rounds.push(Round { refresh_s, cpu_s, tidy_s, rows: done.rows, requests });
        Ok(())
    }

    /// Seconds of the middle refresh, by the clock and by the processor.
    pub(crate) fn seconds(&self) -> (f64, f64) {
        (self.middle(|round| round.refresh_s), self.middle(|round| round.cpu_s))
    }

    fn middle(&self, what: fn(&Round) -> f64) -> f64 {
        median(&self.rounds.iter().map(what).collect::<Vec<_>>())
    }
}

impl fmt::Display for Refreshing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (refresh_s, cpu_s) = self.seconds();
        write!(
            f,
            "{refresh_s:.2} s, {cpu_s:.2} s of processor; {:.0} rows of sums; {:.0} reads of {:.1} MB of files, {:.0} reads \
             and {:.0} lists of logs; tidying {:.3} s",
            self.middle(|round| round.rows as f64),
            self.middle(|round| round.requests.data_reads as f64),
            self.middle(|round| round.requests.data_bytes as f64 / 1e6),
            self.middle(|round| round.requests.log_reads as f64),
            self.middle(|round| round.requests.log_lists as f64),
            self.middle(|round| round.tidy_s),
        )
    }
}
