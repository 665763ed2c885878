//! What the table holds, by hour.

use sendlake_control::clock::Timestamp;

use super::Snowflake;
use crate::target::{Bounds, HourTally, TargetError};

pub(super) async fn tally(target: &Snowflake, bounds: &Bounds) -> Result<Vec<HourTally>, TargetError> {
    if bounds.positions.is_empty() {
        return Ok(Vec::new());
    }
    let doing = format!("counting the rows of {}", target.names.table);
    let answer = target.client.query(&target.names.tally(bounds), &doing).await?;
    answer.rows.iter().map(|row| hour(row, &doing)).collect()
}

fn hour(row: &[Option<String>], doing: &str) -> Result<HourTally, TargetError> {
    let value = |at: usize| row.get(at)?.as_deref()?.parse::<i128>().ok();
    let count = |at: usize| u64::try_from(value(at)?).ok();
    let read = || {
        Some(HourTally {
            hour: Timestamp::from_secs(i64::try_from(value(0)?).ok()?),
            rows: count(1)?,
            events: count(2)?,
            lsn_sum: count(3)?,
        })
    };
    read().ok_or_else(|| TargetError::Refused(format!("{doing}: {row:?} is not four whole numbers")))
}
