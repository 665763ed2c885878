//! What each choice of the lake's layout buys: one day's rows written once as they are and once for each choice taken
//! back, with the cost of writing them and of asking for one message.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use arrow::array::Int64Array;
use arrow::compute::{SortOptions, concat_batches, sort_to_indices, take_record_batch};
use arrow::record_batch::RecordBatch;
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use sendlake_control::clock::{ManualClock, SeededEntropy, Timestamp};
use sendlake_control::id::Ids;
use sendlake_ingest::event::{EVENTS_SCHEMA, to_batch};
use sendlake_ingest::maintain::lease::Lease;
use sendlake_ingest::maintain::rewrite::RewriteSettings;
use sendlake_ingest::store::open_store;
use sendlake_ingest::table::EventsTable;
use sendlake_ingest::table::layout::writer_properties;
use sendlake_query::Scope;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::events::Days;
use crate::large::Sample;
use crate::lookup::{Lake, forget, scope_of};
use crate::machine::{self, median};
use crate::{files, lake};

#[derive(Args, Debug)]
pub(crate) struct LayoutArgs {
    /// Events of the one day, about.
    #[arg(long, default_value_t = 1_000_000)]
    rows: usize,
    /// Messages asked for.
    #[arg(long, default_value_t = 15)]
    questions: usize,
    /// Events of one commit, for what compaction buys.
    #[arg(long, default_value_t = 10_000)]
    commit_rows: usize,
    /// Folder for the runs, emptied first; on the disk that is to be measured.
    #[arg(long, default_value = "bench-data/layout")]
    dir: PathBuf,
}

/// One way to write the rows.
struct Variant {
    name: &'static str,
    properties: WriterProperties,
    sorted: bool,
}

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "the answer, and progress beside it")]
pub(crate) async fn run(args: LayoutArgs) -> anyhow::Result<()> {
    ensure!(args.rows > 0 && args.questions > 0, "there is nothing to measure");
    let head = machine::line();
    crate::make_anew(&args.dir)?;
    let dir = args.dir.canonicalize()?;
    let (sorted, samples) = rows(args.rows, args.questions)?;
    let logged = in_log_order(&sorted)?;
    let rows: usize = sorted.iter().map(RecordBatch::num_rows).sum();

    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "written",
        "bytes per event",
        "written in s",
        "operator ms",
        "reads",
        "KB",
        "tenant ms",
        "reads",
        "KB",
    ]);
    for variant in variants() {
        let place = dir.join("lake");
        let batches = if variant.sorted { &sorted } else { &logged };
        let took = write(&place, batches.clone(), variant.properties).await?;
        let bytes = machine::parquet_bytes(&place)?;
        let mut row = vec![
            variant.name.to_owned(),
            format!("{:.1}", bytes as f64 / rows as f64),
            format!("{:.2}", took.as_secs_f64()),
        ];
        row.extend(ask(&place, &samples).await?);
        eprintln!("{}", row.join(" · "));
        table.add_row(row);
        std::fs::remove_dir_all(&place)?;
    }
    for row in compaction(&dir, &logged, rows, args.commit_rows, &samples).await? {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{head} · {rows} events of one day in one file · medians of {} questions, cold", samples.len());
    println!("{table}");
    Ok(())
}

/// Asks for each message as the operator and as its tenant, and gives the medians: milliseconds, reads, kilobytes.
async fn ask(place: &Path, samples: &[Sample]) -> anyhow::Result<Vec<String>> {
    let mut cells = Vec::new();
    for as_tenant in [false, true] {
        let (mut times, mut reads, mut kilobytes) = (Vec::new(), Vec::new(), Vec::new());
        for sample in samples {
            let scope = if as_tenant { scope_of(&sample.tenant)? } else { Scope::AllTenants };
            let lake = Lake::open(place).await?;
            forget(place)?;
            let asked = lake.history(&scope, &sample.message_id).await?;
            times.push(asked.took.as_secs_f64() * 1e3);
            reads.push(asked.requests.data_reads as f64);
            kilobytes.push(asked.requests.data_bytes as f64 / 1e3);
        }
        cells.extend([median(&times), median(&reads), median(&kilobytes)].map(|cell| format!("{cell:.0}")));
    }
    Ok(cells)
}

/// The rows as the server commits them, a part at a time, and what its compaction makes of them.
#[expect(clippy::print_stderr, reason = "progress")]
async fn compaction(
    dir: &Path,
    logged: &[RecordBatch],
    rows: usize,
    commit_rows: usize,
    samples: &[Sample],
) -> anyhow::Result<Vec<Vec<String>>> {
    let place = dir.join("lake");
    let store = open_store(&place.to_string_lossy(), &Default::default())?;
    let events = EventsTable::open(&store).await?;
    let (spool, mut lsn) = (Uuid::from_u128(u128::from(lake::SEED)), 0);
    let began = Instant::now();
    for batch in numbered(logged, commit_rows.max(1))? {
        lsn += batch.num_rows() as u64;
        events.append_batch(spool, lsn, vec![batch]).await?;
    }
    let mut told = Vec::new();
    let committed_s = began.elapsed().as_secs_f64();
    let files = events.files(&events.pin(None).await?)?;
    let bytes: u64 = files.iter().map(|file| file.bytes).sum();
    let name = format!("in {} commits of {commit_rows}, before compaction", files.len());
    told.push(vec![name, format!("{:.1}", bytes as f64 / rows as f64), format!("{committed_s:.2}")]);
    told.last_mut().context("a row")?.extend(ask(&place, samples).await?);

    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(lake::START.as_secs() + 172_800)));
    let ids = Ids { clock, entropy: Arc::new(SeededEntropy::new(lake::SEED)) };
    let lease = Lease::take(&store, "bench", &ids, 600_000, 0).await?.context("nobody else has the lease")?;
    let paths: Vec<_> = files.into_iter().map(|file| file.path).collect();
    let settings = RewriteSettings {
        memory_bytes: 256 << 20,
        spill_dir: dir.join("sort"),
        target_file_bytes: 256 << 20,
    };
    let began = Instant::now();
    let done = events.rewrite(&lease, &paths, None, &settings).await?;
    let name = format!("the same after compaction, in {} files", done.files_written);
    let per_event = done.bytes_written as f64 / rows as f64;
    let rewritten_s = began.elapsed().as_secs_f64();
    told.push(vec![name, format!("{per_event:.1}"), format!("{rewritten_s:.2}")]);
    told.last_mut().context("a row")?.extend(ask(&place, samples).await?);
    told.iter().for_each(|row| eprintln!("{}", row.join(" · ")));
    std::fs::remove_dir_all(&place)?;
    Ok(told)
}

/// The rows in parts of so many, with the numbers that a spool would have given them in this order.
fn numbered(batches: &[RecordBatch], part_rows: usize) -> anyhow::Result<Vec<RecordBatch>> {
    let all = concat_batches(&EVENTS_SCHEMA, batches)?;
    let place = EVENTS_SCHEMA.index_of("lsn")?;
    let mut columns = all.columns().to_vec();
    let lsns: Int64Array = (1..).take(all.num_rows()).collect();
    *columns.get_mut(place).context("lsn")? = Arc::new(lsns);
    let all = RecordBatch::try_new(EVENTS_SCHEMA.clone(), columns)?;
    let starts = (0..all.num_rows()).step_by(part_rows);
    Ok(starts.map(|from| all.slice(from, part_rows.min(all.num_rows() - from))).collect())
}

fn variants() -> Vec<Variant> {
    let changed = |change: fn(WriterPropertiesBuilder) -> WriterPropertiesBuilder| {
        change(writer_properties().into_builder()).build()
    };
    let zstd = |level| Compression::ZSTD(ZstdLevel::try_new(level).unwrap_or_default());
    let sorted = |name, properties| Variant { name, properties, sorted: true };
    vec![
        sorted("as the server does", writer_properties()),
        sorted("zstd 1", writer_properties().into_builder().set_compression(zstd(1)).build()),
        sorted("zstd 3", writer_properties().into_builder().set_compression(zstd(3)).build()),
        sorted("zstd 9", writer_properties().into_builder().set_compression(zstd(9)).build()),
        sorted("not compressed", changed(|p| p.set_compression(Compression::UNCOMPRESSED))),
        sorted("dictionaries for all columns", dictionaries(true)),
        sorted("no dictionaries", dictionaries(false)),
        sorted("no bloom filter", changed(|p| p.set_column_bloom_filter_enabled("message_id".into(), false))),
        sorted("with a bloom filter", bloom()),
        Variant { name: "in log order, not sorted", properties: writer_properties(), sorted: false },
        sorted("row groups of 32,768", changed(|p| p.set_max_row_group_row_count(Some(32_768)))),
        sorted("row groups of 131,072", changed(|p| p.set_max_row_group_row_count(Some(131_072)))),
        sorted("row groups of 1,048,576", changed(|p| p.set_max_row_group_row_count(Some(1_048_576)))),
        sorted("pages of 5,000 rows", changed(|p| p.set_data_page_row_count_limit(5_000))),
        sorted("pages of 1,000 rows", changed(|p| p.set_data_page_row_count_limit(1_000))),
        sorted("statistics on all columns", statistics(EnabledStatistics::Page, |_| true)),
        sorted("statistics by row group only", statistics(EnabledStatistics::Chunk, is_indexed)),
    ]
}

fn bloom() -> WriterProperties {
    let id = ColumnPath::from("message_id");
    writer_properties()
        .into_builder()
        .set_column_bloom_filter_enabled(id.clone(), true)
        .set_column_bloom_filter_fpp(id.clone(), 0.01)
        .set_column_bloom_filter_max_ndv(id, 131_072)
        .build()
}

fn dictionaries(enabled: bool) -> WriterProperties {
    let builder = writer_properties().into_builder().set_dictionary_enabled(enabled);
    let all = EVENTS_SCHEMA.fields().iter();
    all.fold(builder, |builder, field| {
        builder.set_column_dictionary_enabled(ColumnPath::from(field.name().as_str()), enabled)
    })
    .build()
}

fn is_indexed(column: &str) -> bool {
    writer_properties().statistics_enabled(&ColumnPath::from(column)) != EnabledStatistics::None
}

fn statistics(level: EnabledStatistics, of: fn(&str) -> bool) -> WriterProperties {
    let columns = EVENTS_SCHEMA.fields().iter().filter(|field| of(field.name()));
    columns
        .fold(writer_properties().into_builder(), |builder, field| {
            builder.set_column_statistics_enabled(ColumnPath::from(field.name().as_str()), level)
        })
        .build()
}

fn rows(rows: usize, samples: usize) -> anyhow::Result<(Vec<RecordBatch>, Vec<Sample>)> {
    let incarnation = Uuid::from_u128(u128::from(lake::SEED));
    let mut days = Days::new(lake::SEED, incarnation, lake::START, rows * 100 / 219);
    let (mut batches, mut found, mut group) = (Vec::new(), Vec::new(), 0);
    let every = (rows / 32_768 / samples).max(1);
    days.day(32_768, |rows| {
        group += 1;
        if group % every == 0
            && let Some(event) = rows.get(rows.len() / 2).map(|row| &row.event)
        {
            let message_id = event.message_id.clone().context("an event without a message")?;
            found.push(Sample { tenant: event.tenant_id.to_string(), message_id });
        }
        batches.push(to_batch(&rows)?);
        Ok(())
    })?;
    Ok((batches, found))
}

/// The same rows as they were logged, before anything sorts them.
fn in_log_order(batches: &[RecordBatch]) -> anyhow::Result<Vec<RecordBatch>> {
    let all = concat_batches(&EVENTS_SCHEMA, batches)?;
    let recorded = all.column_by_name("recorded_at").context("recorded_at")?;
    let order = sort_to_indices(recorded, Some(SortOptions::default()), None)?;
    let (mut parts, mut from) = (Vec::new(), 0);
    while from < order.len() {
        let count = 32_768.min(order.len() - from);
        parts.push(take_record_batch(&all, &order.slice(from, count))?);
        from += count;
    }
    Ok(parts)
}

async fn write(
    place: &Path,
    batches: Vec<RecordBatch>,
    properties: WriterProperties,
) -> anyhow::Result<Duration> {
    let store = open_store(&place.to_string_lossy(), &Default::default())?;
    let table = EventsTable::open(&store).await?;
    let (give, take) = mpsc::channel(2);
    let began = Instant::now();
    let giving = tokio::spawn(async move {
        for batch in batches {
            if give.send(batch).await.is_err() {
                break;
            }
        }
    });
    files::commit(&table, take, properties, Uuid::from_u128(u128::from(lake::SEED))).await?;
    giving.await?;
    Ok(began.elapsed())
}
