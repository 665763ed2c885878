//! Medians of the rounds, as a table for people and as JSON for the README and for comparing later.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use comfy_table::{CellAlignment, ColumnConstraint, Table, presets};
use serde::Serialize;

use crate::machine::{self, median};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    Accepts,
    Loop,
    LoopDkim,
    Postfix,
}

impl Measure {
    pub(crate) const ALL: [Self; 4] = [Self::Accepts, Self::Loop, Self::LoopDkim, Self::Postfix];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Accepts => "accepts",
            Self::Loop => "loop",
            Self::LoopDkim => "loop-dkim",
            Self::Postfix => "postfix",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Accepts => "durable accepts over HTTP",
            Self::Loop => "whole loop, HTTP to SMTP to lake",
            Self::LoopDkim => "whole loop, signed with DKIM (RSA-2048)",
            Self::Postfix => "Postfix relaying the same load",
        }
    }
}

/// What one measurement gave.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Figures {
    pub per_s: f64,
    /// Processor time of the server for each message; depends less than the rate on what else runs here.
    pub cpu_ms: Option<f64>,
}

impl Figures {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(crate) fn of(messages: usize, took: Duration, cpu: Option<Duration>) -> Self {
        let messages = messages as f64;
        Self {
            per_s: messages / took.as_secs_f64(),
            cpu_ms: cpu.map(|cpu| cpu.as_secs_f64() * 1e3 / messages),
        }
    }
}

/// The machine and what was measured on it.
#[derive(Serialize)]
pub(crate) struct Report {
    binary: String,
    cpu: String,
    cores: usize,
    memory_gib: u64,
    /// Work that waited for a core in the minute before: above 0.5 or so, something else ran beside.
    load_before: f64,
    messages: usize,
    body_bytes: usize,
    rounds: usize,
    /// Each round.
    measured: BTreeMap<Measure, Vec<Figures>>,
    median_per_s: BTreeMap<Measure, f64>,
    /// Medians as multiples of Postfix's.
    times_postfix: BTreeMap<Measure, f64>,
    skipped: BTreeMap<Measure, String>,
}

impl Report {
    pub(crate) fn new(binary: &Path, rounds: usize, messages: usize, body_bytes: usize) -> Self {
        Self {
            binary: binary.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            cpu: machine::info("/proc/cpuinfo", "model name"),
            cores: machine::cores(),
            memory_gib: machine::memory_gib(),
            load_before: machine::load_average(),
            messages,
            body_bytes,
            rounds,
            measured: BTreeMap::new(),
            median_per_s: BTreeMap::new(),
            times_postfix: BTreeMap::new(),
            skipped: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, measure: Measure, figures: Figures) {
        self.measured.entry(measure).or_default().push(figures);
    }

    pub(crate) fn skip(&mut self, measure: Measure, why: &str) {
        self.skipped.insert(measure, why.to_owned());
    }

    /// Prints the table and writes the JSON.
    pub(crate) fn finish(mut self, json: &Path) -> anyhow::Result<()> {
        self.median_per_s = self
            .measured
            .keys()
            .map(|measure| (*measure, median(&self.all(*measure, |f| Some(f.per_s)))))
            .collect();
        if let Some(postfix) = self.median_per_s.get(&Measure::Postfix).copied() {
            let ours = self.median_per_s.iter().filter(|(measure, _)| **measure != Measure::Postfix);
            self.times_postfix = ours.map(|(measure, rate)| (*measure, rate / postfix)).collect();
        }
        let mut out = std::io::stdout().lock();
        writeln!(
            out,
            "{} · {} cores, {} GiB, load {} before · {} messages of {} octets · medians of {} rounds",
            self.cpu,
            self.cores,
            self.memory_gib,
            self.load_before,
            self.messages,
            self.body_bytes,
            self.rounds
        )?;
        writeln!(out, "{}", self.table())?;
        for (measure, why) in &self.skipped {
            writeln!(out, "not measured: {}: {why}", measure.title())?;
        }
        std::fs::write(json, serde_json::to_string_pretty(&self)? + "\n")
            .with_context(|| format!("cannot write {}", json.display()))?;
        writeln!(out, "as JSON: {}", json.display())?;
        Ok(())
    }

    fn all(&self, measure: Measure, what: impl Fn(&Figures) -> Option<f64>) -> Vec<f64> {
        self.measured.get(&measure).into_iter().flatten().filter_map(what).collect()
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["measured", "messages/s", "lowest – highest", "× Postfix", "server CPU ms each"]);
        for (measure, rate) in &self.median_per_s {
            let rates = self.all(*measure, |figures| Some(figures.per_s));
            let cpu = self.all(*measure, |figures| figures.cpu_ms);
            let cpu = if cpu.is_empty() { String::new() } else { format!("{:.2}", median(&cpu)) };
            let lowest = rates.iter().copied().fold(f64::INFINITY, f64::min);
            let highest = rates.iter().copied().fold(0.0, f64::max);
            let times =
                self.times_postfix.get(measure).map_or_else(String::new, |times| format!("{times:.1}"));
            table.add_row([
                measure.title().to_owned(),
                format!("{rate:.0}"),
                format!("{lowest:.0} – {highest:.0}"),
                times,
                cpu,
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
        table
    }
}
