//! What is to be loaded next: positions cut into batches. Pure; the same inputs give the same batches.

use std::collections::BTreeMap;

use sendlake_ingest::table::slice::{LsnRange, SliceFile};
use uuid::Uuid;

/// The most rows of a batch, however small they are.
const BATCH_ROWS_MAX: u64 = 4_000_000;
/// The octets of a row where no file tells.
const ROW_BYTES_UNKNOWN: u64 = 150;

/// About how many rows make a batch of `batch_bytes`, by what rows take in these files.
pub fn rows_per_batch(files: &[SliceFile], batch_bytes: u64) -> u64 {
    let known = files.iter().filter_map(|file| Some((file.rows()?, file.bytes())));
    let (rows, bytes) = known.fold((0_u64, 0_u64), |(rows, bytes), (r, b)| (rows + r, bytes + b));
    let row_bytes = bytes.checked_div(rows).map_or(ROW_BYTES_UNKNOWN, |bytes| bytes.max(1));
    (batch_bytes / row_bytes).clamp(1, BATCH_ROWS_MAX)
}

/// What each spool has that is not loaded, oldest spool first by id, in parts of about `rows` each.
pub fn live(reached: &BTreeMap<Uuid, u64>, loaded: &BTreeMap<Uuid, u64>, rows: u64) -> Vec<LsnRange> {
    let mut ranges = Vec::new();
    for (incarnation, through_lsn) in reached {
        let after_lsn = loaded.get(incarnation).copied().unwrap_or(0);
        if *through_lsn > after_lsn {
            let parts = (through_lsn - after_lsn).div_ceil(rows.max(1));
            ranges.extend(cut(*incarnation, (after_lsn, *through_lsn), parts, None));
        }
    }
    ranges
}

/// One day of every spool, up to the position that live loads have reached, in parts of about `rows` each. Rows above that
/// position come with the live loads.
pub fn day(files: &[SliceFile], day: &str, loaded: &BTreeMap<Uuid, u64>, rows: u64) -> Vec<LsnRange> {
    let mut ranges = Vec::new();
    for (incarnation, through_lsn) in loaded {
        let days = Some((day.to_owned(), day.to_owned()));
        let whole = LsnRange { incarnation: *incarnation, after_lsn: 0, through_lsn: *through_lsn, days };
        let held: Vec<_> = files.iter().filter(|file| file.may_hold(&whole)).collect();
        if held.is_empty() || *through_lsn == 0 {
            continue;
        }
        // Several spools may share a file: this is more than there are, and batches become smaller for it.
        let count: u64 = held.iter().filter_map(|file| file.rows()).sum();
        let bounds = held.iter().map(|file| file.lsns);
        let bounds = bounds.reduce(|a, b| a.zip(b).map(|((a, b), (c, d))| (a.min(c), b.max(d)))).flatten();
        let (first, last) = bounds.unwrap_or((1, *through_lsn));
        let (after, through) = (first.saturating_sub(1), last.min(*through_lsn));
        if through > after {
            ranges.extend(cut(
                *incarnation,
                (after, through),
                count.div_ceil(rows.max(1)).max(1),
                whole.days.as_ref(),
            ));
        }
    }
    ranges
}

/// `(after, through]` in so many parts of one size, but for the last.
fn cut(
    incarnation: Uuid,
    (after, through): (u64, u64),
    parts: u64,
    days: Option<&(String, String)>,
) -> Vec<LsnRange> {
    let step = (through - after).div_ceil(parts.max(1)).max(1);
    let mut ranges = Vec::new();
    let mut after_lsn = after;
    while after_lsn < through {
        let through_lsn = after_lsn.saturating_add(step).min(through);
        ranges.push(LsnRange { incarnation, after_lsn, through_lsn, days: days.cloned() });
        after_lsn = through_lsn;
    }
    ranges
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: Uuid = Uuid::from_u128(1);
    const TWO: Uuid = Uuid::from_u128(2);

    #[test]
    fn what_is_new_is_cut_into_parts_of_about_a_size() {
        let ranges = live(&[(ONE, 25), (TWO, 5)].into(), &[(ONE, 4)].into(), 10);
        let cuts: Vec<_> = ranges.iter().map(|r| (r.incarnation, r.after_lsn, r.through_lsn)).collect();
        assert_eq!(cuts, [(ONE, 4, 11), (ONE, 11, 18), (ONE, 18, 25), (TWO, 0, 5)]);
        assert!(live(&[(ONE, 4)].into(), &[(ONE, 4)].into(), 10).is_empty());
        // A position ahead of what is there (a lake restored from a copy) asks for nothing.
        assert!(live(&[(ONE, 4)].into(), &[(ONE, 9)].into(), 10).is_empty());
    }

    proptest! {
        #[test]
        fn parts_cover_everything_once(after in 0_u64..1000, len in 1_u64..100_000, rows in 1_u64..5_000) {
            let ranges = live(&[(ONE, after + len)].into(), &[(ONE, after)].into(), rows);
            let mut at = after;
            for range in &ranges {
                prop_assert_eq!(range.after_lsn, at);
                prop_assert!(range.through_lsn > at && range.through_lsn - at <= rows);
                at = range.through_lsn;
            }
            prop_assert_eq!(at, after + len);
        }
    }
}
