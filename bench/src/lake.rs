//! Events into Parquet, the same rows by several writers in one run: sendlake (sorted, indexed, synced, one Delta commit
//! after another), DuckDB's COPY from memory, and Python's `write_deltalake` from Arrow in memory. Sendlake does it
//! twice: from Arrow, which is where the peers begin, and from events as its outbox hands them over.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use comfy_table::{CellAlignment, Table, presets};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use sendlake_control::clock::Timestamp;
use sendlake_ingest::event::{EVENTS_SCHEMA, to_batch};
use sendlake_ingest::store::open_store;
use sendlake_ingest::table::EventsTable;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::events::Traffic;
use crate::machine::{self, median};

/// 2026-01-31T00:00:00Z; the rows of a run are of this day.
pub(crate) const START: Timestamp = Timestamp(1_769_817_600_000_000);
pub(crate) const SEED: u64 = 42;

#[derive(Args, Debug)]
pub(crate) struct LakeArgs {
    /// Events of one round.
    #[arg(long, default_value_t = 5_000_000)]
    rows: usize,
    /// Events of one commit of sendlake's; its default in life.
    #[arg(long, default_value_t = 50_000)]
    commit_rows: usize,
    /// Events that the peers get at once, in memory.
    #[arg(long, default_value_t = 500_000)]
    part_rows: usize,
    /// Rounds of each; figures are medians.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Folder for the runs, emptied first; on the disk that is to be measured.
    #[arg(long, default_value = "bench-data/lake")]
    dir: PathBuf,
    /// Where the peers' programs lie.
    #[arg(long)]
    peers: PathBuf,
    /// Python with duckdb and deltalake.
    #[arg(long, env = "SENDLAKE_TEST_PYTHON", default_value = "python3")]
    python: PathBuf,
    /// Whom to measure; all by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Writer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Writer {
    Sendlake,
    SendlakeOutbox,
    Duckdb,
    Deltalake,
}

impl Writer {
    const ALL: [Self; 4] = [Self::Sendlake, Self::Duckdb, Self::SendlakeOutbox, Self::Deltalake];

    fn title(self) -> &'static str {
        match self {
            Self::Sendlake => "sendlake: sorted, indexed, synced, Delta",
            Self::SendlakeOutbox => "the same, from the outbox's events",
            Self::Duckdb => "DuckDB: COPY … (FORMAT parquet, COMPRESSION zstd)",
            Self::Deltalake => "Python deltalake: write_deltalake, zstd",
        }
    }
}

/// One round of one writer.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Written {
    wall_s: f64,
    cpu_s: f64,
    bytes: u64,
    /// Of a peer.
    version: Option<String>,
}

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "the answer, and progress beside it")]
pub(crate) async fn run(args: LakeArgs) -> anyhow::Result<()> {
    ensure!(args.rounds > 0 && args.rows > 0 && args.commit_rows > 0, "there is nothing to measure");
    let head = machine::line();
    crate::make_anew(&args.dir)?;
    let dir = args.dir.canonicalize()?;
    let rows = dir.join("rows");
    let began = Instant::now();
    hand_over(&args, &rows)?;
    eprintln!("made {} events in {:.0} s", args.rows, began.elapsed().as_secs_f64());

    let mut written: BTreeMap<Writer, Vec<Written>> = BTreeMap::new();
    for round in 0..args.rounds {
        for place in 0..Writer::ALL.len() {
            let Some(writer) = Writer::ALL.into_iter().cycle().nth(round + place) else { continue };
            if !args.only.is_empty() && !args.only.contains(&writer) {
                continue;
            }
            let out = dir.join("out");
            std::fs::create_dir(&out)?;
            let one = match writer {
                Writer::Sendlake => from_arrow(&args, &rows, &out).await?,
                Writer::SendlakeOutbox => from_outbox(&args, &out).await?,
                Writer::Duckdb => peer(&args, "duckdb_copy.py", &rows, &out).await?,
                Writer::Deltalake => peer(&args, "delta_write.py", &rows, &out).await?,
            };
            eprintln!("round {}: {}: {:.0} events/s", round + 1, writer.title(), per_s(&args, &one));
            written.entry(writer).or_default().push(one);
            std::fs::remove_dir_all(&out)?;
            rustix::fs::sync();
        }
    }
    println!(
        "{head} · {} events, {} a commit · medians of {} rounds",
        args.rows, args.commit_rows, args.rounds
    );
    println!("{}", table(&args, &written));
    let json = dir.join("lake.json");
    std::fs::write(&json, serde_json::to_string_pretty(&written)? + "\n")?;
    println!("as JSON: {}", json.display());
    Ok(())
}

pub(crate) fn traffic() -> Traffic {
    Traffic::new(SEED, Uuid::from_u128(u128::from(SEED)), START, 2_000)
}

/// Writes the rows as the peers get them, in the order in which they were logged.
fn hand_over(args: &LakeArgs, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(folder)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_statistics_enabled(parquet::file::properties::EnabledStatistics::None)
        .build();
    let mut traffic = traffic();
    let mut left = args.rows;
    for number in 0.. {
        if left == 0 {
            break;
        }
        let file = File::create(part_of(folder, number))?;
        let mut writer = ArrowWriter::try_new(file, EVENTS_SCHEMA.clone(), Some(properties.clone()))?;
        let mut of_part = args.part_rows.min(left);
        left -= of_part;
        while of_part > 0 {
            let count = of_part.min(50_000);
            writer.write(&to_batch(&traffic.take_rows(count))?)?;
            of_part -= count;
        }
        writer.close()?;
    }
    Ok(())
}

fn part_of(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number:04}.parquet"))
}

/// What the writing alone took.
#[derive(Default)]
struct Spent {
    wall: Duration,
    cpu: Duration,
}

impl Spent {
    async fn on<T, E>(&mut self, work: impl Future<Output = Result<T, E>>) -> anyhow::Result<T>
    where
        anyhow::Error: From<E>,
    {
        let (began, began_cpu) = (Instant::now(), machine::cpu_of("self")?);
        let done = work.await?;
        self.wall += began.elapsed();
        self.cpu += machine::cpu_of("self")?.saturating_sub(began_cpu);
        Ok(done)
    }

    fn written(&self, out: &Path) -> anyhow::Result<Written> {
        let (wall_s, cpu_s) = (self.wall.as_secs_f64(), self.cpu.as_secs_f64());
        Ok(Written { wall_s, cpu_s, bytes: machine::parquet_bytes(out)?, version: None })
    }
}

/// Commits as the server's writer makes them of spilled events; a part is in memory before the clock runs, as it is for
/// the peers.
async fn from_arrow(args: &LakeArgs, rows: &Path, out: &Path) -> anyhow::Result<Written> {
    let store = open_store(&out.to_string_lossy(), &BTreeMap::new())?;
    let table = EventsTable::open(&store).await?;
    let (mut spent, mut last_lsn) = (Spent::default(), 0);
    for part in 0..args.rows.div_ceil(args.part_rows) {
        let file = File::open(part_of(rows, part))?;
        let reader =
            ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(args.commit_rows).build()?;
        for batch in reader.collect::<Result<Vec<_>, _>>()? {
            last_lsn += batch.num_rows() as u64;
            spent.on(table.append_batch(traffic().incarnation(), last_lsn, vec![batch])).await?;
        }
    }
    spent.written(out)
}

/// Commits as the server's writer makes them of the outbox's events; making those is not counted.
async fn from_outbox(args: &LakeArgs, out: &Path) -> anyhow::Result<Written> {
    let store = open_store(&out.to_string_lossy(), &BTreeMap::new())?;
    let table = EventsTable::open(&store).await?;
    let (mut traffic, mut spent) = (traffic(), Spent::default());
    let mut left = args.rows;
    while left > 0 {
        let rows = traffic.take_rows(args.commit_rows.min(left));
        left -= rows.len();
        spent.on(table.append(traffic.incarnation(), rows)).await?;
    }
    spent.written(out)
}

async fn peer(args: &LakeArgs, program: &str, rows: &Path, out: &Path) -> anyhow::Result<Written> {
    let output = tokio::process::Command::new(&args.python)
        .arg(args.peers.join(program))
        .args([rows, out])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("{}: is the peers' Python there? `make` makes it", args.python.display()))?;
    ensure!(output.status.success(), "{program} failed: {}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("the answer of {program}"))
}

fn per_s(args: &LakeArgs, written: &Written) -> f64 {
    args.rows as f64 / written.wall_s
}

fn table(args: &LakeArgs, written: &BTreeMap<Writer, Vec<Written>>) -> Table {
    let rate = |writer: &Writer| {
        let rounds = written.get(writer)?;
        Some(median(&rounds.iter().map(|one| per_s(args, one)).collect::<Vec<_>>()))
    };
    let fastest = [Writer::Duckdb, Writer::Deltalake].iter().filter_map(rate).fold(0.0, f64::max);
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "written by",
        "events/s",
        "lowest – highest",
        "× faster peer",
        "CPU s per million",
        "bytes per event",
    ]);
    for (writer, rounds) in written {
        let of = |what: fn(&LakeArgs, &Written) -> f64| {
            rounds.iter().map(|one| what(args, one)).collect::<Vec<_>>()
        };
        let rates = of(per_s);
        let cpu = of(|args, one| one.cpu_s * 1e6 / args.rows as f64);
        let bytes = of(|args, one| one.bytes as f64 / args.rows as f64);
        let version = rounds.first().and_then(|one| one.version.clone());
        table.add_row([
            version.map_or_else(|| writer.title().to_owned(), |v| format!("{} ({v})", writer.title())),
            format!("{:.0}", median(&rates)),
            format!(
                "{:.0} – {:.0}",
                rates.iter().copied().fold(f64::INFINITY, f64::min),
                rates.iter().copied().fold(0.0, f64::max)
            ),
            if fastest > 0.0 { format!("{:.2}", median(&rates) / fastest) } else { String::new() },
            format!("{:.2}", median(&cpu)),
            format!("{:.1}", median(&bytes)),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
