//! The spool meets the lake at a start: whether its numbers still mean there what they mean here.

use std::time::Duration;

use anyhow::Context;
use sendlake_control::id::Ids;
use sendlake_ingest::outbox::{Outbox, handed_over};
use sendlake_ingest::spill::SpillFile;
use sendlake_ingest::table::{EventsTable, LakeError};
use sendlake_sender::spool::Spool;

/// Longest wait for the lake at a start. Mail does not wait for a bucket.
const LAKE_ANSWER_MAX: Duration = Duration::from_secs(5);
/// Rows compared with the lake's at a time.
const COMPARED_ROWS_MAX: usize = 50_000;

/// What a start is to find in the lake's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing, or a lake of other nodes: there is no data folder yet.
    FirstStart,
    /// The lake that this spool's events went to.
    OurLake,
    /// Nothing, although this spool's events went to a lake elsewhere: `serve --new-lake`.
    NewLake,
}

/// Gives the spool a new identity where the lake, or a spilled file, holds events under the old one that this spool
/// does not know. A lake that does not answer is met later, by its writer; a first start needs it, as whoever
/// sets it up is there to read what is wrong.
pub(super) async fn meet(
    spool: Spool,
    lake: &EventsTable,
    ids: &Ids,
    expected: Expected,
) -> anyhow::Result<Spool> {
    let spool = if expected == Expected::NewLake { begin_anew(spool, lake).await? } else { spool };
    let spilled_lsn = spool.reader().spill().last_lsn(spool.incarnation())?;
    let last_lsn = Outbox::last_lsn(&spool).unwrap_or(0);
    let spool = if spilled_lsn > last_lsn {
        tracing::warn!(
            spilled_lsn,
            last_lsn,
            "the spool is older than its spilled events: it starts a new log"
        );
        // Spilled last means spilled all: what this older copy holds is in those files, or in the lake.
        spool.renew_incarnation(spilled_lsn).await?
    } else {
        spool
    };
    let met = tokio::time::timeout(LAKE_ANSWER_MAX, compare(&spool, lake, ids, expected))
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("it did not answer within {} s", LAKE_ANSWER_MAX.as_secs())));
    match met {
        Ok(None) => Ok(spool),
        Ok(Some(Differs::Behind { committed_lsn })) => {
            tracing::warn!(committed_lsn, "the spool is older than the lake knows it: it starts a new log");
            // All that it holds is in the lake.
            Ok(spool.renew_incarnation(committed_lsn).await?)
        }
        Ok(Some(Differs::Forked { shared_lsn })) => {
            tracing::warn!(
                shared_lsn,
                "the lake holds events of another copy of this spool: it starts a new log with what is its own; see to \
                 it that only one copy runs"
            );
            Ok(spool.renew_incarnation(shared_lsn).await?)
        }
        Err(error) if expected != Expected::OurLake || stays(&error) => {
            Err(error).with_context(|| format!("the lake at {} cannot be used", lake.url()))
        }
        Err(error) => {
            tracing::warn!(
                lake = %lake.url(),
                error = format!("{error:#}"),
                "the lake cannot be used now: mail is accepted and delivered, events wait in the spool"
            );
            Ok(spool)
        }
    }
}

/// A new log for a new lake: numbers whose events are elsewhere would be missed there.
async fn begin_anew(spool: Spool, lake: &EventsTable) -> anyhow::Result<Spool> {
    if lake.exists().await? {
        return Err(LakeError::NotNew { table: lake.url().clone() }.into());
    }
    match handed_over(&spool)? {
        0 => Ok(spool),
        events => {
            let first_lsn = Outbox::first_lsn(&spool).unwrap_or(1);
            tracing::warn!(lake = %lake.url(), events, "a new lake; the events handed over so far are in another");
            Ok(spool.renew_incarnation(first_lsn.saturating_add(events).saturating_sub(1)).await?)
        }
    }
}

/// Whether somebody has to change something before it passes.
fn stays(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(LakeError::stays)
}

/// How the lake knows a spool otherwise than it knows itself.
enum Differs {
    /// It was restored from an older copy, and has nothing of its own since.
    Behind { committed_lsn: u64 },
    /// Another copy has been running: both hold the same events up to here, and others from there on.
    Forked { shared_lsn: u64 },
}

async fn compare(
    spool: &Spool,
    lake: &EventsTable,
    ids: &Ids,
    expected: Expected,
) -> anyhow::Result<Option<Differs>> {
    if expected == Expected::OurLake && !lake.exists().await? {
        let events = handed_over(spool)?;
        if events > 0 {
            return Err(LakeError::Elsewhere { table: lake.url().clone(), events }.into());
        }
        tracing::warn!(lake = %lake.url(), "there is no lake here: an empty one is made");
    }
    let own = spool.incarnation();
    let mut files = spool.reader().spill().files()?;
    files.sort_by_key(|file| (file.incarnation == own, file.incarnation));
    for files in files.chunk_by(|a, b| a.incarnation == b.incarnation) {
        let Some(other) = files.first().map(|file| file.incarnation).filter(|it| *it != own) else {
            continue;
        };
        if let Some(shared_lsn) = fork_among_files(lake, files).await? {
            tracing::warn!(incarnation = %other, shared_lsn, "the lake holds other events than the files of an earlier spool");
            spool.reader().spill().relabel(other, shared_lsn, ids.uuid())?;
        }
    }
    files.retain(|file| file.incarnation == own);
    let forked_files = fork_among_files(lake, &files).await?;
    let forked_rows = fork_among_rows(spool, lake).await?;
    if let Some(shared_lsn) = [forked_files, forked_rows].into_iter().flatten().min() {
        return Ok(Some(Differs::Forked { shared_lsn }));
    }
    let committed_lsn = lake.committed_lsn(own).await?;
    let is_behind = Outbox::last_lsn(spool).is_some_and(|last_lsn| last_lsn < committed_lsn);
    Ok(is_behind.then_some(Differs::Behind { committed_lsn }))
}

/// The last number before the lake has other events than the files of one spool. Copies that have parted stay parted, so
/// a file that agrees speaks for those before it.
async fn fork_among_files(lake: &EventsTable, files: &[SpillFile]) -> anyhow::Result<Option<u64>> {
    let mut forked = None;
    for file in files.iter().rev() {
        let committed_lsn = lake.committed_lsn(file.incarnation).await?;
        if file.first_lsn > committed_lsn {
            continue;
        }
        let read = file.clone();
        let ids = tokio::task::spawn_blocking(move || read.event_ids()).await??;
        let shared_lsn = lake.shared_lsn(file.incarnation, ids).await?;
        if shared_lsn >= file.last_lsn.min(committed_lsn) {
            break;
        }
        forked = Some(shared_lsn);
    }
    Ok(forked)
}

async fn fork_among_rows(spool: &Spool, lake: &EventsTable) -> anyhow::Result<Option<u64>> {
    let incarnation = spool.incarnation();
    let committed_lsn = lake.committed_lsn(incarnation).await?;
    let mut after_lsn = 0;
    loop {
        let rows = spool.reader().events(after_lsn, COMPARED_ROWS_MAX)?;
        let rows = rows.iter().filter(|row| row.lsn <= committed_lsn);
        let ids: Vec<_> = rows.map(|row| (row.lsn, row.event.event_id)).collect();
        let Some((last_lsn, _)) = ids.last().copied() else { return Ok(None) };
        let shared_lsn = lake.shared_lsn(incarnation, ids).await?;
        if shared_lsn < last_lsn {
            return Ok(Some(shared_lsn));
        }
        after_lsn = last_lsn;
    }
}
