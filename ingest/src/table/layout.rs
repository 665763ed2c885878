//! How rows lie in files: the partition, the order, what is indexed, and what must never be in an index.

use std::collections::{BTreeSet, HashMap};
use std::sync::LazyLock;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{Row, RowConverter, SortField};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::event::{EVENTS_SCHEMA, LoggedEvent};

/// The table's one partition column: the UTC day of `occurred_at`.
pub const PARTITION_COLUMN: &str = "event_date";

/// Text columns that cannot hold an address, whatever a sender or a receiver writes: our own words, ids and
/// names. Minima and maxima are kept for these alone. Any other text may carry a person's address, and a
/// minimum in a log entry would outlive the erasure of its row.
const ADDRESS_FREE: &[&str] = &[
    "event_id",
    "event_type",
    "tenant_id",
    "node_id",
    "incarnation",
    "message_id",
    "submission_id",
    "stream",
    "provider",
    "ip_pool",
    "site",
    "smtp_command",
    "bounce_category",
    "bounce_class",
];

/// What Delta's log keeps minima and maxima of: what questions narrow by. At most 32, since each is paid for
/// in every log entry.
pub(crate) const SKIPPING: &[&str] = &[
    "event_type",
    "occurred_at",
    "recorded_at",
    "tenant_id",
    "incarnation",
    "lsn",
    "message_id",
    "submission_id",
    "stream",
    "provider",
    "reply_code",
    "bounce_category",
];

/// Columns whose values hardly ever repeat within a file: a dictionary of them is made for nothing.
const MOSTLY_DISTINCT: &[&str] = &[
    "event_id",
    "occurred_at",
    "recorded_at",
    "lsn",
    "message_id",
    "submission_id",
    "recipient",
    "session_id",
    "reply_text",
    "transcript",
    "next_attempt_at",
    "detail",
];

/// A point lookup decodes one row group at most, so they are small.
pub(crate) const ROW_GROUP_ROWS_MAX: usize = 131_072;

/// Delta table properties. None of them asks for a table feature: any reader of protocol 1, any writer of
/// protocol 2 can take part.
pub(crate) fn configuration() -> Vec<(&'static str, String)> {
    vec![
        ("delta.dataSkippingStatsColumns", SKIPPING.join(",")),
        // At one commit in ten seconds: a checkpoint about every quarter of an hour.
        ("delta.checkpointInterval", "100".to_owned()),
        ("delta.logRetentionDuration", "interval 7 days".to_owned()),
    ]
}

/// What every file of the table is sorted by: a message's events lie together, in the order in which this
/// installation learned of them. Rows without a message come first.
pub const SORT_COLUMNS: [&str; 5] = ["tenant_id", "message_id", "recorded_at", "incarnation", "lsn"];

/// The rows in the order of every file of the table, [`SORT_COLUMNS`].
pub fn sort(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = SORT_COLUMNS.iter().map(|name| {
        let column = batch.column_by_name(name).cloned();
        column.ok_or_else(|| ArrowError::SchemaError(format!("a batch of events has no column {name}")))
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    // Ascending, nulls first: the row format's own default.
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let keys = RowConverter::new(fields)?.convert_columns(&columns)?;
    let mut order: Vec<(Row<'_>, u32)> = keys.iter().zip(0..).collect();
    if order.is_sorted_by(|(a, _), (b, _)| a <= b) {
        return Ok(batch.clone());
    }
    order.sort_unstable_by_key(|(key, _)| *key);
    let order = UInt32Array::from_iter_values(order.into_iter().map(|(_, row)| row));
    take_record_batch(batch, &order)
}

/// Whether minima, maxima and filters of a column of `events` may be kept: those of a text that may hold an address
/// may not.
pub fn may_be_indexed(column: &str) -> bool {
    let is_text =
        |field: &arrow::datatypes::Field| matches!(field.data_type(), DataType::Utf8 | DataType::Map(..));
    ADDRESS_FREE.contains(&column) || EVENTS_SCHEMA.field_with_name(column).is_ok_and(|field| !is_text(field))
}

/// Rows in the same order, before they become columns.
pub(crate) fn in_order(rows: &[LoggedEvent]) -> Vec<&LoggedEvent> {
    fn key(row: &LoggedEvent) -> impl Ord {
        (row.event.message_id.as_deref(), row.event.recorded_at, row.incarnation, row.lsn)
    }
    // What mostly decides lies in the entry itself: the tenant's rank, and the start of the id. All but the last four
    // digits of a UUID fit.
    let start = |row: &LoggedEvent| {
        let mut halves = [[0; 16]; 2];
        let id = row.event.message_id.as_deref().unwrap_or_default().as_bytes();
        for (half, part) in halves.iter_mut().zip(id.chunks(16)) {
            half.iter_mut().zip(part).for_each(|(to, from)| *to = *from);
        }
        halves.map(u128::from_be_bytes)
    };
    let tenants: BTreeSet<&str> = rows.iter().map(|row| row.event.tenant_id.as_str()).collect();
    let ranks: HashMap<&str, usize> = tenants.into_iter().zip(0..).collect();
    let rank = |row: &LoggedEvent| ranks.get(row.event.tenant_id.as_str()).copied();
    let mut order: Vec<_> = rows.iter().map(|row| (rank(row), start(row), row)).collect();
    order.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then_with(|| key(a.2).cmp(&key(b.2))));
    order.into_iter().map(|(_, _, row)| row).collect()
}

/// The Parquet settings of every writer of the table, rewrites included: Zstandard, dictionaries, a bloom
/// filter on `message_id`, and statistics only where no address can be.
pub fn writer_properties() -> WriterProperties {
    PROPERTIES.clone()
}

static PROPERTIES: LazyLock<WriterProperties> = LazyLock::new(|| {
    let message_id = ColumnPath::from("message_id");
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("sendlake ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap_or_default()))
        .set_dictionary_enabled(true)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_sorting_columns(Some(sorting_columns()))
        .set_statistics_enabled(EnabledStatistics::None)
        .set_column_bloom_filter_enabled(message_id.clone(), true)
        .set_column_bloom_filter_fpp(message_id.clone(), 0.01)
        // Sized for one row group, folded to what it really holds when written.
        .set_column_bloom_filter_max_ndv(message_id, ROW_GROUP_ROWS_MAX as u64);
    for name in MOSTLY_DISTINCT {
        properties = properties.set_column_dictionary_enabled(ColumnPath::from(*name), false);
    }
    for field in EVENTS_SCHEMA.fields() {
        if may_be_indexed(field.name()) {
            let column = ColumnPath::from(field.name().as_str());
            properties = properties.set_column_statistics_enabled(column, EnabledStatistics::Page);
        }
    }
    properties.build()
});

/// The sort order by Parquet's count of columns: leaves of the file's schema, which has no partition column.
fn sorting_columns() -> Vec<SortingColumn> {
    ["tenant_id", "message_id", "recorded_at"]
        .into_iter()
        .filter_map(|name| {
            let before = EVENTS_SCHEMA.fields().iter().take_while(|field| field.name() != name);
            let leaves: usize = before
                .map(|field| match field.data_type() {
                    DataType::Map(..) => 2,
                    _ if field.name() == PARTITION_COLUMN => 0,
                    _ => 1,
                })
                .sum();
            let column_idx = i32::try_from(leaves).ok()?;
            Some(SortingColumn { column_idx, descending: false, nulls_first: true })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use sendlake_control::id::TenantId;

    use super::*;

    #[test]
    fn listed_columns_exist_and_none_can_hold_an_address() {
        for name in ADDRESS_FREE.iter().chain(SKIPPING).chain(MOSTLY_DISTINCT) {
            assert!(EVENTS_SCHEMA.field_with_name(name).is_ok(), "{name}");
        }
        for name in ["recipient", "reply_text", "transcript", "url", "detail", "campaign_id", "list_id"] {
            let column = ColumnPath::from(name);
            assert_eq!(writer_properties().statistics_enabled(&column), EnabledStatistics::None, "{name}");
            assert!(!SKIPPING.contains(&name), "{name}");
        }
    }

    #[test]
    fn what_the_log_skips_by_has_parquet_statistics_to_take_it_from() {
        for name in SKIPPING {
            let column = ColumnPath::from(*name);
            assert_ne!(writer_properties().statistics_enabled(&column), EnabledStatistics::None, "{name}");
        }
    }

    #[test]
    fn rows_and_batches_are_sorted_alike() {
        let mut rows = crate::testing::events(uuid::Uuid::from_u128(1), 1..=200);
        rows.iter_mut().step_by(7).for_each(|row| row.event.message_id = None);
        for (tenant, step) in [("zeta", 3), ("aa", 4)] {
            let tenant = TenantId::new(tenant).unwrap();
            rows.iter_mut().step_by(step).for_each(|row| row.event.tenant_id = tenant.clone());
        }
        // Alike up to the last digit, and longer than the part that is compared at once.
        let ids = (0..40).map(|digit| format!("01890a5d-ac96-774b-bcce-b302099a80{digit:02}"));
        rows.iter_mut().rev().zip(ids).for_each(|(row, id)| row.event.message_id = Some(id));
        rows.iter_mut()
            .step_by(5)
            .for_each(|row| row.event.message_id = Some("the same long start, 1".into()));
        rows.iter_mut()
            .step_by(9)
            .for_each(|row| row.event.message_id = Some("the same long start, 0".into()));
        rows.reverse();
        let sorted = crate::event::to_batch_of(&in_order(&rows)).unwrap();
        assert_eq!(sorted, sort(&crate::event::to_batch(&rows).unwrap()).unwrap());
    }
}
