//! What SQL destinations share of a tally: the condition on spools and positions, and reading the answer.

use sendlake_control::clock::Timestamp;

use crate::statement::text;
use crate::target::{Bounds, HourTally};

/// Rows of the bounds' spools up to their positions, as a condition; `None` when there are no spools, so no rows.
pub fn positions(bounds: &Bounds) -> Option<String> {
    let each: Vec<String> = bounds
        .positions
        .iter()
        .map(|(incarnation, lsn)| {
            let (incarnation, lsn) =
                (text(&incarnation.to_string()), i64::try_from(*lsn).unwrap_or(i64::MAX));
            format!("(incarnation = {incarnation} AND lsn <= {lsn})")
        })
        .collect();
    (!each.is_empty()).then(|| each.join(" OR "))
}

/// The first and the last day that have an instant of the bounds, and both instants, as quoted texts: days as
/// `2026-01-31`, instants as `2026-01-31 09:30:00.000000` in UTC.
pub fn edges(bounds: &Bounds) -> [String; 4] {
    // The last instant that is counted is the one before `to`.
    let last = Timestamp(bounds.to.0.saturating_sub(1));
    let written = |at: Timestamp, shape: &str| text(&at.to_chrono().format(shape).to_string());
    let (day, instant) = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S%.6f");
    [
        written(bounds.from, day),
        written(last, day),
        written(bounds.from, instant),
        written(bounds.to, instant),
    ]
}

/// An hour as seconds since the epoch, rows, events, the sum of LSNs.
pub fn hour_tally(row: &[Option<String>]) -> Option<HourTally> {
    let [Some(hour), Some(rows), Some(events), Some(lsn_sum)] = row else { return None };
    // An hour has no fraction, but it may be written with one.
    let whole = |text: &str| text.split_once('.').map_or(text, |(whole, _)| whole).parse::<i64>().ok();
    Some(HourTally {
        hour: Timestamp::from_secs(whole(hour)?),
        rows: rows.parse().ok()?,
        events: events.parse().ok()?,
        lsn_sum: u64::try_from(whole(lsn_sum)?).ok()?,
    })
}
