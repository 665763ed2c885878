//! The relations `rollup_1m` and `rollup_hourly`: the partial sums that the lake holds, and those of events that it has
//! not counted yet, hot ones included, made on the spot. Rows with the same labels are added up by whoever asks.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::datasource::ViewTable;
use datafusion::error::Result;
use datafusion::functions::expr_fn::date_trunc;
use datafusion::prelude::{DataFrame, Expr, SessionContext, col, lit};
use sendlake_control::clock::Timestamp;
use sendlake_ingest::rollups::table::Grain;
use sendlake_sql::rollups::PARTIALS;

use crate::scope::Scope;
use crate::source::RollupSnapshot;
use crate::table::ScopedTable;

/// The names of both.
pub(crate) fn names() -> [&'static str; 2] {
    Grain::ALL.map(Grain::table_name)
}

/// The relation as `scope` sees it at `now`, which decides what is too old to be kept. `scratch` is a session of its own:
/// the table that the statement reads is called `events`, and is only a part of those.
pub(crate) async fn relation(
    scratch: &SessionContext,
    rollup: RollupSnapshot,
    scope: &Scope,
    now: Timestamp,
) -> Result<ViewTable> {
    let RollupSnapshot { grain, stored, uncounted, counted_lsn } = rollup;
    let mut events = scratch.read_table(Arc::new(ScopedTable::new(uncounted, scope.clone(), None)))?;
    for (incarnation, lsn) in counted_lsn {
        let lsn = i64::try_from(lsn).unwrap_or(i64::MAX);
        events = events.filter(col("incarnation").not_eq(lit(incarnation)).or(col("lsn").gt(lit(lsn))))?;
    }
    scratch.deregister_table("events")?;
    scratch.register_table("events", events.into_view())?;
    let bucket = date_trunc(lit(grain.unit()), col("bucket_at"));
    let sums = kept(scratch.sql(PARTIALS).await?, grain, now)?.with_column("bucket_at", bucket)?;
    let all = match stored {
        None => sums,
        Some(stored) => {
            let stored = scratch.read_table(Arc::new(ScopedTable::rollup(stored, scope.clone())))?;
            kept(stored, grain, now)?.union(sums)?
        }
    };
    Ok(ViewTable::new(all.into_unoptimized_plan(), None))
}

/// What a refresh would drop is not shown before it is dropped.
fn kept(rows: DataFrame, grain: Grain, now: Timestamp) -> Result<DataFrame> {
    match grain.first_day(now) {
        None => Ok(rows),
        Some(day) => {
            rows.filter(col("bucket_date").gt_eq(Expr::Literal(ScalarValue::Date32(Some(day)), None)))
        }
    }
}

#[cfg(test)]
mod tests;
