//! A clock that was set back while nobody looked: what waits for a time that was told by the old one is due that much
//! earlier. While a process runs its own clock sees to it that time goes on.

use redb::{Database, ReadableTable};
use sendlake_control::clock::Timestamp;
use sendlake_control::id::Ids;

use super::table::Tables;
use super::{Sealer, SpoolError, entry, write_once};

/// When the store was last written, in microseconds since the epoch.
const WRITTEN_AT: &str = "written_at";
/// Clocks of hosts that are kept in step differ by less.
const STEP_MS_MIN: i64 = 60_000;
/// Messages moved in one transaction.
const BATCH: usize = 4_096;

impl Tables<'_> {
    /// Notes what time it is, with whatever is written now.
    pub(super) fn written_at(&mut self, now: Timestamp) -> Result<(), SpoolError> {
        self.set_meta(WRITTEN_AT, &now.0.to_be_bytes())
    }
}

/// If the store was last written in the future, moves the attempts of what is queued by as much. Mail that was asked
/// to leave at some time (`send_at`) keeps that time. Returns how many messages moved.
///
/// Killed in between, it moves some of them again at the next start: they are tried earlier, and never before now.
pub(super) fn follow_the_clock(db: &Database, sealer: &dyn Sealer, ids: &Ids) -> Result<usize, SpoolError> {
    let now = ids.now();
    let mut step_ms = 0;
    let mut keys: Vec<Vec<u8>> = Vec::new();
    write_once(db, |tables| {
        let written_at =
            tables.meta(WRITTEN_AT)?.and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes);
        step_ms = written_at.map_or(0, |at| Timestamp(at).millis_since(now));
        if step_ms >= STEP_MS_MIN {
            for row in tables.queue.iter()? {
                keys.push(row?.0.value().to_vec());
            }
        }
        Ok(())
    })?;
    let mut moved = 0;
    for batch in keys.chunks(BATCH) {
        moved += write_once(db, |tables| move_by(tables, batch, step_ms, now, sealer))?;
    }
    if step_ms >= STEP_MS_MIN {
        write_once(db, |tables| tables.written_at(now))?;
        tracing::warn!(
            step_s = step_ms / 1_000,
            messages = moved,
            "this host's clock is behind the time at which the spool was last written: it was set back. What waits for a \
             retry is due that much earlier"
        );
    }
    Ok(moved)
}

fn move_by(
    tables: &mut Tables<'_>,
    keys: &[Vec<u8>],
    step_ms: i64,
    now: Timestamp,
    sealer: &dyn Sealer,
) -> Result<usize, SpoolError> {
    let mut moved = 0;
    for key in keys {
        let Some(sealed) = tables.queue.get(key.as_slice())?.map(|value| value.value().to_vec()) else {
            continue;
        };
        let mut entry = entry::decode_entry(sealer, &sealed)?;
        let was_asked_for = entry.attempts == 0 && entry.not_before > entry.accepted_at;
        if was_asked_for || entry.next_attempt_at <= now {
            continue;
        }
        entry.next_attempt_at = entry.next_attempt_at.plus_millis(-step_ms).max(now);
        // The lifetime runs from here.
        entry.not_before = entry.not_before.plus_millis(-step_ms);
        tables.queue.remove(key.as_slice())?;
        let key = entry.lane().key(entry.next_attempt_at, entry.message_id);
        tables.queue.insert(key.as_slice(), entry::encode_entry(sealer, &entry)?.as_slice())?;
        moved += 1;
    }
    Ok(moved)
}
