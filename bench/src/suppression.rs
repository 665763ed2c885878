//! The list of suppressions at size: memory, lookups with and without the hash of an address, changes beside lookups,
//! and how long a start takes from the file and from the control store's rows.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use sendlake_control::ControlStore;
use sendlake_control::clock::{ManualClock, SeededEntropy, Timestamp};
use sendlake_control::id::{Ids, TenantId};
use sendlake_control::secret::MasterKey;
use sendlake_control::suppression::packed::PackedList;
use sendlake_control::suppression::{AddressHasher, NewSuppression, Reach, Reason, snapshot};
use uuid::Uuid;

use crate::machine;

#[derive(Args, Debug)]
pub(crate) struct SuppressionArgs {
    /// Entries of the list.
    #[arg(long, default_value_t = 50_000_000)]
    entries: u64,
    /// Lookups of each kind.
    #[arg(long, default_value_t = 2_000_000)]
    lookups: u64,
    /// Entries that are brought into a control store and read from its rows; 0 for none.
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Folder for files, emptied first and removed at the end.
    #[arg(long, default_value = "bench-data/suppression")]
    dir: PathBuf,
}

const TENANTS: u64 = 100;

/// Sixteen letters or so, spread over a thousand domains.
fn address(number: u64) -> String {
    format!("person{number:x}@domain{}.example", number % 1_000)
}

fn tenants() -> anyhow::Result<Vec<TenantId>> {
    (0..TENANTS).map(|number| Ok(TenantId::new(&format!("tenant-{number}"))?)).collect()
}

#[expect(clippy::print_stderr, clippy::print_stdout, reason = "the answer, and progress beside it")]
pub(crate) async fn run(args: SuppressionArgs) -> anyhow::Result<()> {
    ensure!(args.entries > 0 && args.lookups > 0, "there is nothing to measure");
    println!("{}", machine::line());
    crate::make_anew(&args.dir)?;
    let (hasher, tenants) = (AddressHasher::new(&[7; 32]), tenants()?);
    let tenant_of = |number: u64| usize::try_from(number % TENANTS).ok().and_then(|n| tenants.get(n));
    let before_kib = resident_kib();
    let began = Instant::now();
    let mut list = PackedList::default();
    for number in 0..args.entries {
        let tenant = tenant_of(number).context("a tenant")?;
        let hash = hasher.hash(&address(number));
        list.push(hash, tenant, Reason::Unsubscribe, Reach::Bulk, Timestamp::from_secs(1_780_000_000));
    }
    eprintln!("{} entries hashed in {:.0} s", args.entries, began.elapsed().as_secs_f64());
    list.sort();
    println!(
        "memory: {} MiB for {} entries, {:.1} octets each; the process grew by {} MiB",
        list.memory_bytes() >> 20,
        list.len(),
        ratio(list.memory_bytes() as u64, args.entries),
        resident_kib().saturating_sub(before_kib) >> 10
    );
    let list = Arc::new(list);
    for (what, first) in [("on the list", 0), ("not on it", args.entries)] {
        // by address, as before each attempt
        let took = timed(args.lookups, |number| {
            let of = first + scattered(number, args.entries);
            let tenant = tenant_of(of);
            tenant.is_some_and(|tenant| list.find(hasher.hash(&address(of)), tenant, |_| true).is_some())
        });
        told(&format!("lookups by address, {what}"), took, if first == 0 { args.lookups } else { 0 })?;
    }
    let hashes: Vec<_> = (0..args.lookups.min(1_000_000))
        .map(|n| (n, hasher.hash(&address(scattered(n, args.entries)))))
        .collect();
    let took = timed(hashes.len() as u64, |number| {
        let one = usize::try_from(number).ok().and_then(|at| hashes.get(at));
        one.is_some_and(|(n, hash)| {
            tenant_of(scattered(*n, args.entries))
                .is_some_and(|tenant| list.find(*hash, tenant, |_| true).is_some())
        })
    });
    told("lookups by hash, on the list", took, hashes.len() as u64)?;
    beside_changes(&args, &list, &hasher, &tenants)?;
    files(&args, &list)?;
    drop(list);
    if args.rows > 0 {
        rows(&args, &tenants).await?;
    }
    std::fs::remove_dir_all(&args.dir)?;
    Ok(())
}

struct Timed {
    nanos: Vec<u32>,
    took: Duration,
    found: u64,
}

/// Each call by itself, for its distribution; the clock costs some 25 ns of each.
fn timed(calls: u64, mut call: impl FnMut(u64) -> bool) -> Timed {
    let mut nanos = Vec::with_capacity(usize::try_from(calls).unwrap_or(0));
    let (began, mut found) = (Instant::now(), 0);
    for number in 0..calls {
        let start = Instant::now();
        found += u64::from(call(number));
        nanos.push(u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX));
    }
    let took = began.elapsed();
    nanos.sort_unstable();
    Timed { nanos, took, found }
}

#[expect(clippy::print_stdout, reason = "the answer")]
fn told(what: &str, timed: Timed, expected: u64) -> anyhow::Result<()> {
    ensure!(timed.found == expected, "{what}: {} found, {expected} expected", timed.found);
    let at = |share: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place"
        )]
        let place = (timed.nanos.len() as f64 * share) as usize;
        f64::from(timed.nanos.get(place).copied().unwrap_or(0)) / 1e3
    };
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let per_s = timed.nanos.len() as f64 / timed.took.as_secs_f64();
    println!(
        "{what}: {per_s:.0}/s on one core; p50 {:.2} µs, p99 {:.2} µs, p99.9 {:.2} µs",
        at(0.5),
        at(0.99),
        at(0.999)
    );
    Ok(())
}

/// Lookups while another thread adds entries as fast as it can.
#[expect(clippy::print_stdout, reason = "the answer")]
fn beside_changes(
    args: &SuppressionArgs,
    list: &Arc<PackedList>,
    hasher: &AddressHasher,
    tenants: &[TenantId],
) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let (stopped, changed, adding) = (Arc::clone(&stop), Arc::clone(list), hasher.clone());
    let (tenant, first) = (tenants.first().cloned().context("a tenant")?, args.entries * 2);
    let writer = std::thread::spawn(move || {
        let (began, mut added) = (Instant::now(), 0_u64);
        while !stopped.load(Ordering::Relaxed) && added < 3_000_000 {
            let hash = adding.hash(&address(first + added));
            changed.insert(hash, &tenant, Reason::Manual, Reach::Tenant, Timestamp::from_secs(1_780_000_000));
            added += 1;
        }
        (added, began.elapsed())
    });
    let tenant = tenants.get(1).context("a tenant")?;
    let took = timed(args.lookups, |number| {
        let of = args.entries + scattered(number, args.entries);
        list.find(hasher.hash(&address(of)), tenant, |_| true).is_some()
    });
    stop.store(true, Ordering::Relaxed);
    let (added, adding) = writer.join().map_err(|_| anyhow::anyhow!("the writer ended early"))?;
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    let per_s = added as f64 / adding.as_secs_f64();
    told("lookups by address beside additions", took, 0)?;
    println!("additions meanwhile: {per_s:.0}/s");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer")]
fn files(args: &SuppressionArgs, list: &PackedList) -> anyhow::Result<()> {
    let path = args.dir.join("suppressions.idx");
    let began = Instant::now();
    snapshot::write(&path, "bench", 1, list)?;
    let written = began.elapsed();
    let began = Instant::now();
    let (again, _) = snapshot::read(&path, "bench")?.context("the file is missing")?;
    let read = began.elapsed();
    ensure!(again.len() == list.len(), "{} of {} entries came back", again.len(), list.len());
    println!(
        "file: {} MiB, written in {:.1} s, read at a start in {:.1} s",
        std::fs::metadata(&path)?.len() >> 20,
        written.as_secs_f64(),
        read.as_secs_f64()
    );
    Ok(())
}

/// A real control store: brought in through transactions, counted anew, and read into memory row by row.
#[expect(clippy::print_stdout, reason = "the answer")]
async fn rows(args: &SuppressionArgs, tenants: &[TenantId]) -> anyhow::Result<()> {
    let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_780_000_000)));
    let ids = Ids { clock, entropy: Arc::new(SeededEntropy::new(1)) };
    let master = || MasterKey::load_or_create(&args.dir.join("master.key"), ids.entropy.as_ref());
    let path = args.dir.join("control.db");
    let store = ControlStore::open(&path, master()?, ids.clone()).await?;
    let tenant = tenants.first().context("a tenant")?;
    store.create_tenant("bench", tenant, "Bench").await?;
    let new = |number: u64| NewSuppression {
        tenant_id: tenant.clone(),
        address: address(number),
        reach: Reach::Bulk,
        reason: Reason::Unsubscribe,
        since: Timestamp::from_secs(1_780_000_000),
        expires_at: None,
        event_id: Uuid::from_u128(u128::from(number)),
        message_id: None,
        note: None,
    };
    let began = Instant::now();
    for first in (0..args.rows).step_by(5_000) {
        let batch: Vec<_> = (first..(first + 5_000).min(args.rows))
            .map(|number| ("import".to_owned(), new(number)))
            .collect();
        for answer in store.suppress_all(&batch).await? {
            answer?;
        }
        // as the server does once their events are in the spool
        let seq = store.last_suppression_seq().await?;
        store.suppressions_told(seq).await?;
    }
    let imported = began.elapsed();
    let began = Instant::now();
    let (counted, noted) = store.recount_suppressions().await?;
    let recounted = began.elapsed();
    ensure!(noted.is_some_and(|noted| noted.totals == counted), "the sum is another: {counted:?}");
    let began = Instant::now();
    let (list, _) = store.load_suppressions().await?;
    let loaded = began.elapsed();
    ensure!(list.len() as u64 == args.rows, "{} of {} rows came back", list.len(), args.rows);
    store.close().await;
    let began = Instant::now();
    let store = ControlStore::open(&path, master()?, ids.clone()).await?;
    let opened = began.elapsed();
    store.close().await;
    println!(
        "control store: {} rows in {} MiB; brought in within {:.1} s, opened in {:.2} s, read into memory in {:.1} s, \
         counted anew in {:.1} s",
        args.rows,
        std::fs::metadata(&path)?.len() >> 20,
        imported.as_secs_f64(),
        opened.as_secs_f64(),
        loaded.as_secs_f64(),
        recounted.as_secs_f64()
    );
    Ok(())
}

/// Numbers below `end` in no order.
fn scattered(number: u64, end: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29) % end
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn ratio(one: u64, other: u64) -> f64 {
    one as f64 / other as f64
}

fn resident_kib() -> u64 {
    machine::info("/proc/self/status", "VmRSS")
        .split(' ')
        .next()
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_small_list_is_measured_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let args =
            SuppressionArgs { entries: 20_000, lookups: 5_000, rows: 6_000, dir: dir.path().join("bench") };
        run(args).await.unwrap();
        assert!(!dir.path().join("bench").exists());
    }
}
