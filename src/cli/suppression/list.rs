//! `sendlake suppression import|export|status|rebuild`: the list as a whole.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use sendlake_control::id::TenantId;
use sendlake_control::suppression::{Reach, Reason, SuppressionFilter};
use serde::Deserialize;
use serde_json::Value;

use super::super::control::actor;
use super::super::{CommandResult, Failure, tenant_id};
use super::post;
use crate::config::Config;
use crate::node::{ImportSuppressions, Imported, OPERATOR_HEADER, RebuildSuppressions, call_local};
use crate::suppressions::exchange::{self, Entry, ListFormat, Place, RecordRead};
use crate::suppressions::keeping::Status;
use crate::suppressions::rebuild::Rebuilt;
use crate::{stores, system};

/// Entries handed over in one transaction.
const IMPORTED_AT_ONCE: usize = 5_000;
/// Entries read at a time.
const EXPORTED_AT_ONCE: u32 = 5_000;
/// Bad lines that are told one by one.
const TOLD_MAX: usize = 20;

#[derive(Args, Debug)]
pub(crate) struct ImportArgs {
    /// The list; `-` for standard input.
    file: PathBuf,
    /// Whose mail is kept back.
    #[arg(long, value_parser = tenant_id)]
    tenant: TenantId,
    /// Whose form the file has; found out by its fields when not named.
    #[arg(long, value_enum)]
    format: Option<ListFormat>,
    /// Why, for files that do not say.
    #[arg(long)]
    reason: Option<Reason>,
    /// Say what would be added, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ExportArgs {
    /// Where to; standard output when not named.
    file: Option<PathBuf>,
    #[arg(long, value_parser = tenant_id)]
    tenant: Option<TenantId>,
    #[arg(long, value_enum, default_value = "csv")]
    format: ListFormat,
    #[arg(long)]
    reason: Option<Reason>,
    #[arg(long)]
    reach: Option<Reach>,
}

#[derive(Args, Debug)]
pub(crate) struct RebuildArgs {
    /// Say what would be restored, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Go on although the list has fewer entries than the lake once noted.
    #[arg(long)]
    accept: bool,
}

/// What became of the records of a file.
#[derive(Default)]
struct Sums {
    records: u64,
    imported: Imported,
    skipped: u64,
    bad: Vec<String>,
    bad_more: u64,
}

impl Sums {
    fn bad(&mut self, what: String) {
        if self.bad.len() < TOLD_MAX {
            self.bad.push(what);
        } else {
            self.bad_more += 1;
        }
    }
}

#[expect(clippy::print_stderr, reason = "bad lines are no rows of the answer")]
pub(super) async fn import(config: &Config, args: ImportArgs) -> CommandResult {
    let (sender, mut batches) = tokio::sync::mpsc::channel(2);
    let (path, format, reason) = (args.file.clone(), args.format, args.reason);
    // the file is read on a thread of its own, some batches ahead of the server at most
    let reading = tokio::task::spawn_blocking(move || {
        let file: Box<dyn Read> =
            if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(&path)?) };
        let mut batch = Vec::with_capacity(IMPORTED_AT_ONCE);
        let mut is_wanted = true;
        let format = exchange::read(file, format, reason, &mut |place, record| {
            batch.push((place, record));
            if batch.len() == IMPORTED_AT_ONCE {
                is_wanted = sender.blocking_send(std::mem::take(&mut batch)).is_ok();
            }
            is_wanted
        })?;
        let _ = sender.blocking_send(batch);
        Ok::<_, exchange::UnreadableList>(format)
    });
    let mut sums = Sums::default();
    while let Some(batch) = batches.recv().await {
        hand_over(config, &args, batch, &mut sums).await?;
    }
    let read = reading.await.map_err(anyhow::Error::from)?;
    let format = read.map_err(|error| Failure::Refused(format!("{}: {error}", args.file.display())))?;
    for bad in &sums.bad {
        eprintln!("{bad}");
    }
    if sums.bad_more > 0 {
        eprintln!("… and {} more", sums.bad_more);
    }
    tell(config, &args, format, &sums).await
}

async fn hand_over(
    config: &Config,
    args: &ImportArgs,
    batch: Vec<(Place, RecordRead)>,
    sums: &mut Sums,
) -> CommandResult {
    let mut places = Vec::with_capacity(batch.len());
    let mut entries: Vec<Entry> = Vec::with_capacity(batch.len());
    for (place, record) in batch {
        sums.records += 1;
        match record {
            RecordRead::Entry(entry) => {
                places.push(place);
                entries.push(entry);
            }
            RecordRead::Skipped(_) => sums.skipped += 1,
            RecordRead::Bad(why) => sums.bad(format!("{place}: {why}")),
        }
    }
    if entries.is_empty() {
        return Ok(());
    }
    let wanted = ImportSuppressions { tenant_id: args.tenant.clone(), dry: args.dry_run, entries };
    let body = serde_json::to_vec(&wanted).map_err(anyhow::Error::from)?;
    let answer = post(config, "/local/suppressions/import", "application/json", body.into()).await?;
    let done: Imported = serde_json::from_value(answer).map_err(anyhow::Error::from)?;
    sums.imported.added += done.added;
    sums.imported.known += done.known;
    sums.skipped += done.over;
    for (at, why) in done.refused {
        sums.bad(format!("{}: {why}", places.get(at).map_or_else(String::new, ToString::to_string)));
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
async fn tell(config: &Config, args: &ImportArgs, format: ListFormat, sums: &Sums) -> CommandResult {
    let bad = sums.bad.len() as u64 + sums.bad_more;
    let Imported { added, known, .. } = sums.imported;
    let verb = if args.dry_run { "would be added" } else { "added" };
    println!(
        "{} ({format}): {} records = {added} {verb} + {known} on the list already + {} that call for nothing + {bad} bad",
        args.file.display(),
        sums.records,
        sums.skipped,
    );
    if !args.dry_run {
        let control = stores::read_control(config, &system::ids()).await?;
        let filter =
            SuppressionFilter { tenant_id: Some(args.tenant.clone()), ..SuppressionFilter::default() };
        let entries = control.count_suppressions(&filter).await.map_err(anyhow::Error::from)?;
        println!("{} has {entries} entries now", args.tenant);
    }
    if bad > 0 {
        return Err(Failure::Refused(format!("{bad} records could not be taken; the others were")));
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "the count is no part of the list")]
pub(super) async fn export(config: &Config, args: ExportArgs) -> CommandResult {
    let control = stores::read_control(config, &system::ids()).await?;
    let out: Box<dyn Write> = match &args.file {
        Some(path) => {
            Box::new(File::create(path).with_context(|| format!("{} cannot be made", path.display()))?)
        }
        None => Box::new(io::stdout()),
    };
    let mut writer = exchange::Writer::new(args.format, io::BufWriter::new(out)).map_err(unwritten)?;
    let filter = SuppressionFilter {
        tenant_id: args.tenant,
        reason: args.reason,
        reach: args.reach,
        ..SuppressionFilter::default()
    };
    let (mut after, mut tombstones) = (0, 0_u64);
    loop {
        let page = control.suppressions_page(&filter, after, EXPORTED_AT_ONCE).await;
        let page = page.map_err(anyhow::Error::from)?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        for (_, row) in page {
            match exchange::entry_of(row) {
                Some(entry) => writer.entry(&entry).map_err(unwritten)?,
                None => tombstones += 1,
            }
        }
    }
    let (_, entries) = writer.end().map_err(unwritten)?;
    let without = match tombstones {
        0 => String::new(),
        some => format!("; {some} of persons who were erased have no address and stay here"),
    };
    eprintln!("{entries} entries{without}");
    Ok(())
}

/// A reader that has left (`… | head`) is no fault.
fn unwritten(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        std::process::exit(0);
    }
    Failure::Other(anyhow::Error::new(error).context("the list cannot be written"))
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) async fn status(config: &Config) -> CommandResult {
    let request = axum::http::Request::get("/local/suppressions/status")
        .header(OPERATOR_HEADER, actor())
        .body(axum::body::Body::empty())
        .map_err(anyhow::Error::from)?;
    let answer = call_local(config, request).await?;
    if !answer.status.is_success() {
        let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let detail = said.get("detail").and_then(Value::as_str).unwrap_or("no answer").to_owned();
        return Err(Failure::Unreachable(detail));
    }
    let status: Status = serde_json::from_slice(&answer.body).map_err(anyhow::Error::from)?;
    println!("the list:  {} entries, hash {}", status.entries, status.hash);
    match (status.lake_entries, status.lake_hash, status.kept_at) {
        (Some(entries), Some(hash), Some(at)) => {
            println!("the lake:  {entries} entries, hash {hash}, as of {at}")
        }
        _ => println!("the lake:  knows no list of this node yet"),
    }
    println!("in memory: {} KiB", status.memory_bytes.div_ceil(1_024));
    match status.incomplete {
        Some(why) => Err(Failure::Refused(format!("marketing and cold mail waits: {why}"))),
        None => {
            println!("complete: mail goes out");
            Ok(())
        }
    }
}

#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(super) async fn rebuild(config: &Config, args: RebuildArgs) -> CommandResult {
    let asked = RebuildSuppressions { dry: args.dry_run, accept: args.accept };
    let body = serde_json::to_vec(&asked).map_err(anyhow::Error::from)?;
    let answer = post(config, "/local/suppressions/rebuild", "application/json", body.into()).await?;
    let done = Rebuilt::deserialize(answer).map_err(anyhow::Error::from)?;
    let would = if args.dry_run { "would be " } else { "" };
    println!(
        "{} events read: {} entries {would}restored ({} of them tombstones), {} {would}lifted, {} name nobody",
        done.events, done.restored, done.tombstones, done.lifted, done.nameless
    );
    if done.in_doubt > 0 {
        println!(
            "{} entries {would}put back in doubt: `sendlake review bursts` lists what waits for a decision",
            done.in_doubt
        );
    }
    for tenant in &done.tenants {
        println!("tenant {tenant} was made anew, without keys and domains");
    }
    println!("the events: {} entries, hash {}", done.lake_entries, done.lake_hash);
    println!("the list:   {} entries, hash {}", done.entries, done.hash);
    println!("{}", if done.equal { "they are equal" } else { "they differ" });
    match done.incomplete {
        Some(why) if !args.dry_run => Err(Failure::Refused(format!("marketing and cold mail waits: {why}"))),
        _ => Ok(()),
    }
}
