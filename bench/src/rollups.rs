//! What it costs to keep the rollups up, with much and with little stored: the new events should count, not the old.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use sendlake_control::clock::Timestamp;
use sendlake_ingest::rollups::Rollups;
use sendlake_ingest::store::{LakeStore, open_store};
use sendlake_ingest::table::EventsTable;
use uuid::Uuid;

use crate::events::Traffic;
use crate::machine::{self, median};

/// Events that come between two refreshes.
const NEW_EVENTS: usize = 100_000;
const COMMIT_ROWS: usize = 50_000;

/// Rollups beside a lake, and a node whose events arrive late in the day.
pub(crate) struct Refreshing {
    store: LakeStore,
    traffic: Traffic,
    incarnation: Uuid,
    now: Timestamp,
}

/// How long refreshes took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// The first, which takes in what was stored before.
    pub first_s: f64,
    pub events_before: u64,
    /// The median of those after [`NEW_EVENTS`] more, and of their processor time, which depends less on what else runs.
    pub refresh_s: f64,
    pub refresh_cpu_s: f64,
}

impl Refreshing {
    /// `now` is the time at which new events happen.
    pub(crate) fn new(dir: &Path, now: Timestamp) -> anyhow::Result<Self> {
        let incarnation = Uuid::from_u128(77);
        let store = open_store(&dir.to_string_lossy(), &BTreeMap::new())?;
        Ok(Self { store, traffic: Traffic::new(77, incarnation, now, 2_000), incarnation, now })
    }

    pub(crate) async fn measure(&mut self, rounds: usize) -> anyhow::Result<Cost> {
        let events = EventsTable::open(&self.store).await?;
        let rollups = Rollups::open(&self.store).await?;
        let began = Instant::now();
        let events_before = rollups.refresh(&events, self.now).await?.events;
        let first_s = began.elapsed().as_secs_f64();
        let (mut took, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            for _ in 0..NEW_EVENTS / COMMIT_ROWS {
                events.append(self.incarnation, self.traffic.take_rows(COMMIT_ROWS)).await?;
            }
            let (began, began_cpu) = (Instant::now(), machine::cpu_of("self")?);
            let done = rollups.refresh(&events, self.now).await.context("refresh the rollups")?;
            took.push(began.elapsed().as_secs_f64());
            cpu.push(machine::cpu_of("self")?.saturating_sub(began_cpu).as_secs_f64());
            ensure!(done.from_log, "the log told what is new");
        }
        Ok(Cost { first_s, events_before, refresh_s: median(&took), refresh_cpu_s: median(&cpu) })
    }
}
