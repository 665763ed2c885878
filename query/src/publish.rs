//! From the view `quotas` to rows of the published table, and what changed between two publications. No timers and
//! no tables here: the binary's publisher has those.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::{Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use sendlake_control::clock::Timestamp;
use sendlake_ingest::quotas::QuotaRow;

use crate::engine::{Instants, QueryEngine};
use crate::error::QueryError;
use crate::limits::QueryLimits;

/// How far back the judging views look, in days: `complaint_baseline.sql` and `warmup_ceiling.sql` say the same.
const DAYS_BACK: i32 = 91;

/// What one evaluation may cost. Apart from the limits of people's queries: those must not decide over limits.
const LIMITS: QueryLimits =
    QueryLimits { time: Duration::from_secs(120), memory_bytes: 1 << 30, rows: 1_000_000 };

/// Why there are no new limits. The last good ones stand.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the view quotas cannot be evaluated: {0}")]
    View(#[from] QueryError),
    #[error("the view quotas gives more than {limit} rows")]
    TooMany { limit: usize },
    #[error("the view quotas gives what is no limit: {problem}")]
    Shape { problem: String },
}

impl From<ArrowError> for PublishError {
    fn from(error: ArrowError) -> Self {
        Self::Shape { problem: error.to_string() }
    }
}

/// Evaluates the view as of `at`, for all tenants. The rows come in a stable order.
pub async fn evaluate(engine: &QueryEngine, at: Timestamp) -> Result<Vec<QuotaRow>, PublishError> {
    let instants =
        Instants { as_of: vec![at], since_day: Some(at.days().saturating_sub(DAYS_BACK).saturating_sub(1)) };
    let output = engine.judge("SELECT * FROM quotas", LIMITS, instants).await?;
    if output.truncated {
        return Err(PublishError::TooMany { limit: LIMITS.rows });
    }
    let mut rows = Vec::with_capacity(output.num_rows());
    for batch in &output.batches {
        rows.extend(rows_of(batch)?);
    }
    rows.sort_by(|a, b| key(a).cmp(&key(b)));
    if let Some(twice) = rows.windows(2).find_map(|pair| match pair {
        [a, b] if key(a) == key(b) => Some(a),
        _ => None,
    }) {
        let problem = format!("two rows for {} {} {}", twice.stream, twice.identity, twice.provider);
        return Err(PublishError::Shape { problem });
    }
    Ok(rows)
}

/// The rows of one batch; columns by name, more columns are ignored.
fn rows_of(batch: &RecordBatch) -> Result<Vec<QuotaRow>, PublishError> {
    let column = |name: &str, kind: &DataType| {
        let found = batch.column_by_name(name);
        let found =
            found.ok_or_else(|| PublishError::Shape { problem: format!("there is no column {name}") })?;
        let needed = name != "limit_messages";
        if needed && found.null_count() > 0 {
            return Err(PublishError::Shape { problem: format!("{name} is null in a row") });
        }
        Ok(cast(found, kind)?)
    };
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let text = |name: &str| -> Result<StringArray, PublishError> {
        let array = column(name, &DataType::Utf8)?;
        Ok(StringArray::from(array.to_data()))
    };
    let number = |name: &str| -> Result<Int64Array, PublishError> {
        Ok(Int64Array::from(column(name, &DataType::Int64)?.to_data()))
    };
    let at = |name: &str| -> Result<TimestampMicrosecondArray, PublishError> {
        Ok(TimestampMicrosecondArray::from(column(name, &instant)?.to_data()))
    };
    let (tenant_id, stream, kind) = (text("tenant_id")?, text("stream")?, text("identity_kind")?);
    let (identity, provider, state) = (text("identity")?, text("provider")?, text("state")?);
    let (reason, inputs, view_version) = (text("reason")?, text("inputs")?, text("view_version")?);
    let (window_s, limit) = (number("window_s")?, number("limit_messages")?);
    let (as_of, valid_until) = (at("as_of")?, at("valid_until")?);
    let row = |i: usize| QuotaRow {
        tenant_id: tenant_id.value(i).to_owned(),
        stream: stream.value(i).to_owned(),
        identity_kind: kind.value(i).to_owned(),
        identity: identity.value(i).to_owned(),
        provider: provider.value(i).to_owned(),
        window_s: window_s.value(i),
        limit_messages: limit.is_valid(i).then(|| limit.value(i)),
        state: state.value(i).to_owned(),
        reason: reason.value(i).to_owned(),
        inputs: inputs.value(i).to_owned(),
        view_version: view_version.value(i).to_owned(),
        as_of: Timestamp(as_of.value(i)),
        valid_until: Timestamp(valid_until.value(i)),
    };
    let rows: Vec<QuotaRow> = (0..batch.num_rows()).map(row).collect();
    match rows.iter().find(|row| !is_sane(row)) {
        Some(row) => Err(PublishError::Shape { problem: format!("{row:?}") }),
        None => Ok(rows),
    }
}

fn is_sane(row: &QuotaRow) -> bool {
    matches!(row.state.as_str(), "warming" | "normal" | "throttled" | "paused")
        && row.window_s > 0
        && row.limit_messages.is_none_or(|limit| limit >= 0)
        && row.valid_until > row.as_of
}

type Key<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, i64);

fn key(row: &QuotaRow) -> Key<'_> {
    (&row.tenant_id, &row.identity_kind, &row.identity, &row.stream, &row.provider, row.window_s)
}

/// What a row says, apart from when it was said and from numbers that move all the time.
fn says(row: &QuotaRow) -> (Key<'_>, Option<i64>, &str, &str, &str) {
    (key(row), row.limit_messages, &row.state, &row.reason, &row.view_version)
}

/// Whether the sender would notice.
pub fn differ(old: &[QuotaRow], new: &[QuotaRow]) -> bool {
    let sorted = |rows: &'_ [QuotaRow]| -> Vec<String> {
        let mut said: Vec<String> = rows.iter().map(|row| format!("{:?}", says(row))).collect();
        said.sort_unstable();
        said
    };
    sorted(old) != sorted(new)
}

/// Hosts that are kept in step differ by less.
const AHEAD_MS_MAX: i64 = 60_000;

/// Whether half of the time that `rows` hold for is gone at `now`, so that they have to be said again. Also when they were
/// said in the future, by a clock that was set back since: they would hold for too long.
pub fn half_gone(rows: &[QuotaRow], now: Timestamp) -> bool {
    rows.iter().any(|row| {
        let age_ms = now.millis_since(row.as_of);
        age_ms * 2 >= row.valid_until.millis_since(row.as_of) || age_ms < -AHEAD_MS_MAX
    })
}

/// A limit that is not what it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change<'a> {
    pub old: Option<&'a QuotaRow>,
    /// None when nothing limits any more.
    pub new: Option<&'a QuotaRow>,
}

impl<'a> Change<'a> {
    /// The row that names whom it is about.
    pub fn row(&self) -> Option<&'a QuotaRow> {
        self.new.or(self.old)
    }
}

/// Which limits changed in state or number. A new row that limits nothing is no change, nor is the end of one.
pub fn changes<'a>(old: &'a [QuotaRow], new: &'a [QuotaRow]) -> Vec<Change<'a>> {
    let before: BTreeMap<Key<'_>, &QuotaRow> = old.iter().map(|row| (key(row), row)).collect();
    let after: BTreeMap<Key<'_>, &QuotaRow> = new.iter().map(|row| (key(row), row)).collect();
    let limits = |row: Option<&QuotaRow>| {
        row.filter(|row| row.state != "normal" || row.limit_messages.is_some())
            .map(|row| (row.state.clone(), row.limit_messages))
    };
    let changed = new.iter().map(|row| Change { old: before.get(&key(row)).copied(), new: Some(row) });
    let gone = old.iter().filter(|row| !after.contains_key(&key(row)));
    changed
        .chain(gone.map(|row| Change { old: Some(row), new: None }))
        .filter(|change| limits(change.old) != limits(change.new))
        .collect()
}

/// Which policy a row comes from: what its view wrote into `inputs`.
pub fn policy_of(row: &QuotaRow) -> String {
    input(row, "policy").unwrap_or_else(|| "quota".to_owned())
}

/// Whether the row cuts for complaints while no review is open: then one has to be.
pub fn opens_review(row: &QuotaRow) -> bool {
    policy_of(row) == "complaint_pacing"
        && row.provider == "*"
        && input(row, "review").as_deref() != Some("open")
}

fn input(row: &QuotaRow, name: &str) -> Option<String> {
    let inputs: serde_json::Value = serde_json::from_str(&row.inputs).ok()?;
    inputs.get(name)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests;
