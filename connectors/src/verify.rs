//! Whether a destination holds what the lake holds: counts and sums by hour, compared, with what differs named.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use futures::TryStreamExt;
use sendlake_control::clock::Timestamp;
use sendlake_ingest::table::LakeError;
use sendlake_ingest::table::slice::LsnRange;

use crate::run::{Connector, ExportError, Exporter};
use crate::target::{Bounds, HourTally};

const HOUR_US: i64 = 3_600 * Timestamp::SECOND;

/// What was compared, and what differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Hours with rows on either side.
    pub hours: u64,
    /// Rows in the lake, of those that the connector has taken.
    pub rows: u64,
    pub differences: Vec<Difference>,
    /// Events in the lake that no live load has taken yet: not compared.
    pub behind: u64,
}

/// One hour in which the two differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    pub hour: Timestamp,
    /// What the lake holds; zeros for nothing.
    pub lake: HourTally,
    pub target: HourTally,
}

impl Difference {
    /// What it is, in words.
    pub fn says(&self) -> String {
        let Self { lake, target, .. } = self;
        if target.rows > target.events {
            format!("{} rows are there more than once", target.rows - target.events)
        } else if target.rows < lake.rows {
            format!("{} rows are missing", lake.rows - target.rows)
        } else if target.rows > lake.rows {
            format!("{} rows are there that the lake does not hold", target.rows - lake.rows)
        } else {
            "as many rows, but other ones: the sums of their LSNs differ".to_owned()
        }
    }
}

impl Exporter {
    /// Compares the days from `first_day` to `last_day` (`2026-01-31`, both within), up to what live loads have reached.
    pub async fn verify(
        &self,
        connector: &Connector,
        first_day: &str,
        last_day: &str,
    ) -> Result<Verified, ExportError> {
        let position = self.position(connector).await?;
        let reached = self.lake.reached().await?;
        let files = self.lake.slice_files(&reached.pinned)?;
        let tenants: BTreeSet<&str> = connector.settings.tenants.iter().map(String::as_str).collect();
        let mut lake = BTreeMap::new();
        for (incarnation, through_lsn) in &position.lsn {
            let days = Some((first_day.to_owned(), last_day.to_owned()));
            let range = LsnRange { incarnation: *incarnation, after_lsn: 0, through_lsn: *through_lsn, days };
            let mut rows = self.lake.slice(&files, &range, &["occurred_at", "tenant_id"])?;
            while let Some(batch) = rows.try_next().await? {
                add_up(&mut lake, &batch, &tenants)?;
            }
        }
        let bounds = Bounds {
            from: midnight(first_day)?,
            to: midnight(last_day)?.plus_secs(86_400),
            positions: position.lsn.clone(),
        };
        let target = connector.target.tally(&connector.mapping, &bounds).await?;
        let target = target.into_iter().map(|tally| (tally.hour, tally)).collect();
        let behind = crate::run::behind(&reached, &position);
        Ok(Verified { behind, ..compare(&lake, &target) })
    }
}

fn midnight(day: &str) -> Result<Timestamp, ExportError> {
    Timestamp::parse(&format!("{day}T00:00:00Z"))
        .ok_or_else(|| ExportError::Ledger(format!("{day:?} is no day; one looks like 2026-01-31")))
}

fn add_up(
    hours: &mut BTreeMap<Timestamp, HourTally>,
    batch: &RecordBatch,
    tenants: &BTreeSet<&str>,
) -> Result<(), LakeError> {
    let column = |name: &str| {
        batch.column_by_name(name).ok_or_else(|| {
            LakeError::from(arrow::error::ArrowError::SchemaError(format!("events has no column {name}")))
        })
    };
    let times = column("occurred_at")?.as_primitive::<TimestampMicrosecondType>();
    let lsns = column("lsn")?.as_primitive::<Int64Type>();
    let owners = column("tenant_id")?.as_string::<i32>();
    for row in 0..batch.num_rows() {
        if !tenants.is_empty() && !tenants.contains(owners.value(row)) {
            continue;
        }
        let hour = Timestamp(times.value(row).div_euclid(HOUR_US) * HOUR_US);
        let tally = hours.entry(hour).or_insert(nothing(hour));
        tally.rows += 1;
        // The lake holds each event once: `lake verify` looks after that.
        tally.events += 1;
        tally.lsn_sum += lsns.value(row).unsigned_abs();
    }
    Ok(())
}

fn nothing(hour: Timestamp) -> HourTally {
    HourTally { hour, rows: 0, events: 0, lsn_sum: 0 }
}

fn compare(lake: &BTreeMap<Timestamp, HourTally>, target: &BTreeMap<Timestamp, HourTally>) -> Verified {
    let hours: BTreeSet<Timestamp> = lake.keys().chain(target.keys()).copied().collect();
    let mut verified = Verified { hours: hours.len() as u64, ..Verified::default() };
    for hour in hours {
        let of = |side: &BTreeMap<Timestamp, HourTally>| side.get(&hour).copied().unwrap_or(nothing(hour));
        let (lake, target) = (of(lake), of(target));
        verified.rows += lake.rows;
        if lake != target {
            verified.differences.push(Difference { hour, lake, target });
        }
    }
    verified
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named() {
        let tally = |hour: i64, rows, events, lsn_sum| {
            (Timestamp(hour * HOUR_US), HourTally { hour: Timestamp(hour * HOUR_US), rows, events, lsn_sum })
        };
        let lake = [tally(1, 5, 5, 15), tally(2, 5, 5, 15), tally(3, 5, 5, 15), tally(4, 5, 5, 15)].into();
        let target = [
            tally(1, 5, 5, 15),
            tally(2, 4, 4, 10),
            tally(3, 6, 5, 20),
            tally(4, 5, 5, 16),
            tally(9, 1, 1, 1),
        ];
        let verified = compare(&lake, &target.into());
        assert_eq!((verified.hours, verified.rows), (5, 20));
        let said: Vec<_> = verified.differences.iter().map(Difference::says).collect();
        assert_eq!(
            said,
            [
                "1 rows are missing",
                "1 rows are there more than once",
                "as many rows, but other ones: the sums of their LSNs differ",
                "1 rows are there that the lake does not hold",
            ]
        );
    }
}
