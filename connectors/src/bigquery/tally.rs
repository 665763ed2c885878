//! What the table holds, hour by hour.

use sendlake_control::clock::Timestamp;
use serde_json::Value;

use super::Bigquery;
use super::client::{number_parameter, text_parameter};
use super::names::{fill, tables};
use crate::target::{Bounds, HourTally, TargetError};

const TALLY: &str = include_str!("sql/tally.sql");

impl Bigquery {
    pub(super) async fn tally_hours(&self, bounds: &Bounds) -> Result<Vec<HourTally>, TargetError> {
        if bounds.positions.is_empty() || bounds.from >= bounds.to {
            return Ok(Vec::new());
        }
        let (sql, parameters) = statement(&self.settings, bounds);
        let doing = format!("counting {}", super::names::target(&self.settings));
        let rows = self.client.question(&sql, parameters, &doing).await?;
        let hours = rows.iter().map(|row| hour(row));
        hours.collect::<Option<_>>().ok_or_else(|| {
            TargetError::Away(format!("BigQuery, {doing}: the answer is not what was asked for"))
        })
    }
}

/// The question, and what is bound to it.
pub(super) fn statement(settings: &super::Settings, bounds: &Bounds) -> (String, Vec<Value>) {
    let mut parameters = vec![
        number_parameter("from_us", i128::from(bounds.from.0)),
        number_parameter("to_us", i128::from(bounds.to.0)),
    ];
    let mut positions = Vec::new();
    for (n, (incarnation, lsn)) in bounds.positions.iter().enumerate() {
        positions.push(format!("(incarnation = @spool_{n} AND lsn <= @lsn_{n})"));
        parameters.push(text_parameter(&format!("spool_{n}"), &incarnation.to_string()));
        // LSNs are INT64 in the table.
        parameters.push(number_parameter(&format!("lsn_{n}"), i128::from((*lsn).min(i64::MAX as u64))));
    }
    let day = |at: Timestamp| at.to_chrono().format("%Y-%m-%d").to_string();
    let mut values = Vec::from(tables(settings));
    values.push(("first_day", day(bounds.from)));
    values.push(("last_day", day(Timestamp(bounds.to.0 - 1))));
    values.push(("positions", positions.join(" OR ")));
    (fill(TALLY, &values), parameters)
}

fn hour(row: &[Option<String>]) -> Option<HourTally> {
    let [Some(hour), Some(rows), Some(events), Some(lsn_sum)] = row else { return None };
    Some(HourTally {
        hour: Timestamp::from_secs(hour.parse().ok()?),
        rows: rows.parse().ok()?,
        events: events.parse().ok()?,
        lsn_sum: lsn_sum.parse().ok()?,
    })
}
