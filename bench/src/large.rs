//! A lake of many days, sorted as compaction leaves it: what the history of one message costs when nothing of the
//! files is in memory, and what a refresh of the rollups costs early on and in the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use sendlake_control::clock::Timestamp;
use sendlake_ingest::event::{LoggedEvent, to_batch};
use sendlake_ingest::store::open_store;
use sendlake_ingest::table::EventsTable;
use sendlake_ingest::table::layout::writer_properties;
use sendlake_query::Scope;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::events::{Days, Random};
use crate::lookup::{Asked, Lake, forget, scope_of};
use crate::machine::{self, median};
use crate::rollups::{Refreshing, TakenIn, take_in};
use crate::{files, lake};

/// Events per message in the made-up traffic, about.
const EVENTS_PER_MESSAGE: f64 = 2.19;
/// Events of one batch.
const BATCH_ROWS: usize = 32_768;

#[derive(Args, Debug)]
pub(crate) struct LargeArgs {
    /// Events, about.
    #[arg(long, default_value_t = 50_000_000)]
    rows: usize,
    /// Days over which they are spread.
    #[arg(long, default_value_t = 30)]
    days: usize,
    /// Questions of each kind.
    #[arg(long, default_value_t = 40)]
    questions: usize,
    /// Refreshes of the rollups at each size; figures are medians.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Folder for the lake, emptied first and removed at the end; on the disk that is to be measured.
    #[arg(long, default_value = "bench-data/large")]
    dir: PathBuf,
    /// Leaves the lake there.
    #[arg(long)]
    keep: bool,
}

/// A message that is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub tenant: String,
    pub message_id: String,
}

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "the answer, and progress beside it")]
pub(crate) async fn run(args: LargeArgs) -> anyhow::Result<()> {
    ensure!(args.rows > 0 && args.days > 0 && args.questions > 0, "there is nothing to measure");
    let head = machine::line();
    crate::make_anew(&args.dir)?;
    let dir = args.dir.canonicalize()?;
    let (whole, part) = (dir.join("lake"), dir.join("early"));
    let began = Instant::now();
    let mut making = Making::start(&whole, args.rows, args.days, args.questions).await?;
    let early_days = (args.days / 10).max(1);
    let last_day = Timestamp::from_secs(lake::START.as_secs() + 86_400 * i64::try_from(args.days)?);
    making.days(early_days).await?;
    let early_events = making.events();
    let mut taken = vec![take_in(&whole, last_day).await?];
    eprintln!("{early_events} events, and in the rollups, after {:.0} s", began.elapsed().as_secs_f64());
    copy(&whole, &part)?;
    making.days(args.days - early_days).await?;
    let late_events = making.events();
    eprintln!("{late_events} events after {:.0} s", began.elapsed().as_secs_f64());
    taken.push(take_in(&whole, last_day).await?);
    let made_s = began.elapsed().as_secs_f64();
    eprintln!("{taken:?} after {made_s:.0} s");
    let bytes = machine::parquet_bytes(&whole.join(EventsTable::NAME))?;
    let samples = making.samples();
    rustix::fs::sync();

    let mut asked: BTreeMap<&str, Vec<Asked>> = BTreeMap::new();
    for sample in &samples {
        let kinds = [("as the operator", Scope::AllTenants), ("as its tenant", scope_of(&sample.tenant)?)];
        for (kind, scope) in kinds {
            let lake = Lake::open(&whole).await?;
            forget(&whole)?;
            asked.entry(kind).or_default().push(lake.history(&scope, &sample.message_id).await?);
        }
    }
    let lake = Lake::open(&whole).await?;
    let count = lake.rows("SELECT count(*) AS n FROM events").await?;
    println!("{head}");
    println!(
        "events {} in {} days · {:.2} GB of Parquet · made in {made_s:.0} s · files dropped from the page cache before \
         each question",
        count.first().and_then(|row| row.get("n")).map(ToString::to_string).unwrap_or_default(),
        args.days,
        bytes as f64 / 1e9
    );
    println!("{}", table(&asked));
    compare(&part, &whole, (early_events, late_events), last_day, args.rounds).await?;
    for TakenIn { events, refresh_s, tidy_s } in taken {
        println!(
            "rollups: {events} events taken in at once in {refresh_s:.0} s, {tidy_s:.1} s to fold their sums"
        );
    }
    let all = machine::parquet_bytes(&dir)?;
    println!(
        "Parquet in all, rollups and the smaller lake included: {:.2} GB · {:.0} s in all",
        all as f64 / 1e9,
        began.elapsed().as_secs_f64()
    );
    if !args.keep {
        std::fs::remove_dir_all(&dir)?;
    }
    Ok(())
}

/// Refreshes rollups beside few events and beside many, by turns, so that what else the machine does meets both.
#[expect(clippy::print_stdout, reason = "the answer")]
async fn compare(
    part: &Path,
    whole: &Path,
    events: (u64, u64),
    now: Timestamp,
    rounds: usize,
) -> anyhow::Result<()> {
    let mut few = Refreshing::new(part, now).await?;
    let mut many = Refreshing::new(whole, now).await?;
    for round in 0..rounds {
        let order = if round % 2 == 0 { [&mut few, &mut many] } else { [&mut many, &mut few] };
        for lake in order {
            lake.round().await?;
        }
    }
    for (stored, lake) in [(events.0, &few), (events.1, &many)] {
        println!("rollups: a refresh after 100,000 new events beside {stored} stored: {lake}");
    }
    let ((few_s, few_cpu_s), (many_s, many_cpu_s)) = (few.seconds(), many.seconds());
    println!(
        "ratio of the two refreshes: {:.2}, by processor time {:.2} · medians of {rounds} each, by turns",
        many_s / few_s,
        many_cpu_s / few_cpu_s
    );
    Ok(())
}

/// Copies a lake: its paths are relative.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let place = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &place)?;
        } else {
            std::fs::copy(entry.path(), &place)?;
        }
    }
    Ok(())
}

/// A lake that grows day by day.
struct Making {
    table: EventsTable,
    incarnation: Uuid,
    made: Option<(Days, Picker)>,
}

impl Making {
    /// Picks about `samples` messages from all over `rows` events.
    async fn start(dir: &Path, rows: usize, days: usize, samples: usize) -> anyhow::Result<Self> {
        let store = open_store(&dir.to_string_lossy(), &BTreeMap::new())?;
        let table = EventsTable::open(&store).await?;
        let incarnation = Uuid::from_u128(u128::from(lake::SEED));
        let messages_per_day = (rows as f64 / EVENTS_PER_MESSAGE / days as f64).ceil() as usize;
        let made = Days::new(lake::SEED, incarnation, lake::START, messages_per_day);
        let every = (rows / samples).max(1);
        let picker = Picker { random: Random::new(9), every, found: Vec::new(), next: 0, seen: 0 };
        Ok(Self { table, incarnation, made: Some((made, picker)) })
    }

    /// Adds days. One thread makes them, another writes.
    async fn days(&mut self, days: usize) -> anyhow::Result<()> {
        for _ in 0..days {
            let (mut made, mut picker) = self.made.take().context("an earlier day failed")?;
            let (give, take) = mpsc::channel(2);
            let making = tokio::task::spawn_blocking(move || {
                let result = made.day(BATCH_ROWS, |rows| {
                    picker.look_at(&rows);
                    give.blocking_send(to_batch(&rows)?).context("the writer has stopped")
                });
                drop(give);
                (made, picker, result)
            });
            let written = files::commit(&self.table, take, writer_properties(), self.incarnation).await;
            let (made, picker, result) = making.await?;
            written?;
            result?;
            self.made = Some((made, picker));
        }
        Ok(())
    }

    fn events(&self) -> u64 {
        self.made.as_ref().map_or(0, |(made, _)| made.lsn())
    }

    fn samples(self) -> Vec<Sample> {
        self.made.map(|(_, picker)| picker.found).unwrap_or_default()
    }
}

/// Picks messages, evenly spread over the rows that pass.
struct Picker {
    random: Random,
    every: usize,
    next: usize,
    seen: usize,
    found: Vec<Sample>,
}

impl Picker {
    fn look_at(&mut self, rows: &[LoggedEvent]) {
        self.seen += rows.len();
        if self.seen < self.next {
            return;
        }
        let Some(row) = rows.get(self.random.below(rows.len())) else { return };
        if let Some(message_id) = &row.event.message_id {
            self.next = self.seen + self.every;
            self.found
                .push(Sample { tenant: row.event.tenant_id.to_string(), message_id: message_id.clone() });
        }
    }
}

pub(crate) fn table(asked: &BTreeMap<&str, Vec<Asked>>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "message_history of one id",
        "p50 ms",
        "p95 ms",
        "reads p50",
        "reads most",
        "KB read p50",
        "log reads and lists",
    ]);
    for (kind, all) in asked {
        let of = |what: fn(&Asked) -> f64| all.iter().map(what).collect::<Vec<_>>();
        let times = of(|one| one.took.as_secs_f64() * 1e3);
        let reads = of(|one| one.requests.data_reads as f64);
        let bytes = of(|one| one.requests.data_bytes as f64 / 1e3);
        let log = of(|one| (one.requests.log_reads + one.requests.log_lists) as f64);
        table.add_row([
            (*kind).to_owned(),
            format!("{:.0}", median(&times)),
            format!("{:.0}", percentile(&times, 95)),
            format!("{:.0}", median(&reads)),
            format!("{:.0}", percentile(&reads, 100)),
            format!("{:.0}", median(&bytes)),
            format!("{:.0}", median(&log)),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn percentile(readings: &[f64], percent: usize) -> f64 {
    let mut sorted = readings.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).copied().unwrap_or(0.0)
}
