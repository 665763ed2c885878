//! How many of a list to write to a day, and for how long: freshest first, within today's ceilings. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

/// By the last delivery; the freshest first.
pub const FRESHNESS: [&str; 5] = ["0-30", "31-90", "91-365", "older", "never"];
/// From here on nothing proves that the mailbox still wants mail: 91 days and more.
pub(super) const UNPROVEN: usize = 2;
/// A day's share of unproven addresses is a tenth, and at least so many.
const UNPROVEN_DAYS: u64 = 10;
const UNPROVEN_MIN: u64 = 10;

/// What may go to one provider on each day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Share {
    pub provider: String,
    /// Today's ceiling; null where the domain has graduated.
    pub daily_limit: Option<u64>,
    pub addresses: u64,
    /// The first and the last day of each freshness, counted from 1.
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub freshness: &'static str,
    pub addresses: u64,
    pub per_day: u64,
    pub first_day: u64,
    pub last_day: u64,
}

/// A plan: `counts` has the addresses that may be written to, by provider and freshness, `limits` today's ceilings.
/// A ceiling rises with good days, so a real run is shorter than this.
pub fn plan(counts: &BTreeMap<String, [u64; 5]>, limits: &BTreeMap<String, Option<u64>>) -> Vec<Share> {
    let shares = counts.iter().filter(|(_, counts)| counts.iter().any(|count| *count > 0));
    shares.map(|(provider, counts)| share(provider, counts, limits)).collect()
}

fn share(provider: &str, counts: &[u64; 5], limits: &BTreeMap<String, Option<u64>>) -> Share {
    let daily_limit = limits.get(provider).or_else(|| limits.get("(others)")).copied().flatten();
    let unproven: u64 = counts.iter().skip(UNPROVEN).sum();
    let careful = (unproven.div_ceil(UNPROVEN_DAYS)).max(UNPROVEN_MIN);
    let (mut day, mut room) = (1, None::<u64>);
    let mut steps = Vec::new();
    for (place, (freshness, addresses)) in FRESHNESS.into_iter().zip(*counts).enumerate() {
        if addresses == 0 {
            continue;
        }
        let per_day = match daily_limit {
            Some(limit) if place >= UNPROVEN => limit.min(careful),
            Some(limit) => limit,
            None if place >= UNPROVEN => careful,
            None => addresses,
        }
        .max(1);
        // what a day has left after fresher ones goes to these
        let first_room = room.map_or(per_day, |room| room.min(per_day));
        let first_day = if first_room == 0 { day + 1 } else { day };
        let first = if first_room == 0 { per_day } else { first_room };
        let more_days = addresses.saturating_sub(first).div_ceil(per_day);
        let last_day = first_day + more_days;
        let on_last = if more_days == 0 { addresses } else { addresses - first - (more_days - 1) * per_day };
        let left = if more_days == 0 { first - on_last.min(first) } else { per_day - on_last };
        (day, room) = (last_day, Some(left));
        steps.push(Step { freshness, addresses, per_day, first_day, last_day });
    }
    Share { provider: provider.to_owned(), daily_limit, addresses: counts.iter().sum(), steps }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(counts: [u64; 5], limit: Option<u64>) -> Vec<(&'static str, u64, u64, u64)> {
        let counts = BTreeMap::from([("google".to_owned(), counts)]);
        let limits = BTreeMap::from([("google".to_owned(), limit)]);
        let plan = plan(&counts, &limits);
        plan[0]
            .steps
            .iter()
            .map(|step| (step.freshness, step.per_day, step.first_day, step.last_day))
            .collect()
    }

    #[test]
    fn the_freshest_go_first_and_share_a_day_with_the_next() {
        assert_eq!(
            steps([500, 100, 0, 0, 1_000], Some(400)),
            [("0-30", 400, 1, 2), ("31-90", 400, 2, 2), ("never", 100, 2, 11)]
        );
        assert_eq!(steps([50_000, 0, 0, 0, 0], None), [("0-30", 50_000, 1, 1)]);
        assert_eq!(steps([0, 0, 0, 0, 900], None), [("never", 90, 1, 10)]);
        assert_eq!(steps([0, 0, 0, 0, 25], None), [("never", 10, 1, 3)], "no fewer than ten a day");
        assert_eq!(steps([0, 0, 0, 4_000, 6_000], None), [("older", 1_000, 1, 4), ("never", 1_000, 5, 10)]);
        assert!(
            steps([0, 0, 0, 0, 1], Some(0)).iter().all(|step| step.3 >= 1),
            "a ceiling of none still ends"
        );
    }

    #[test]
    fn providers_without_a_row_share_the_others_ceiling() {
        let counts = BTreeMap::from([("gmx".to_owned(), [0, 0, 0, 0, 300]), ("x".to_owned(), [0; 5])]);
        let limits = BTreeMap::from([("(others)".to_owned(), Some(100))]);
        let plan = plan(&counts, &limits);
        assert_eq!((plan.len(), plan[0].daily_limit, plan[0].steps[0].last_day), (1, Some(100), 10));
    }
}
