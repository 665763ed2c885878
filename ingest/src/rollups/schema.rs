//! The columns of a rollup: when, what the sums are of (labels), and the sums.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::event::EVENTS_SCHEMA;

/// The one partition column: the UTC day of `bucket_at`.
pub const PARTITION_COLUMN: &str = "bucket_date";

/// What a row's sums are of, besides the time: columns of `events`, and the basis.
pub const LABELS: [&str; 14] = [
    "basis",
    "tenant_id",
    "stream",
    "campaign_id",
    "header_from_domain",
    "dkim_domain",
    "mail_from_domain",
    "ip_pool",
    "source_ip",
    "provider",
    "event_type",
    "bounce_category",
    "bounce_class",
    "open_source",
];

/// What is timed, in milliseconds. `delivery_ms`: from acceptance to the receiver's 250, known of `delivered` events.
pub const MEASURES: [&str; 4] = ["queue_ms", "connect_ms", "attempt_ms", "delivery_ms"];

/// Upper bounds of the latency buckets, in milliseconds. Buckets are cumulative: `queue_ms_le_1000` counts every event
/// that waited a second or less; all that were timed are in `queue_ms_events`.
pub const BOUNDS_MS: [i64; 12] =
    [50, 100, 250, 500, 1_000, 2_500, 10_000, 60_000, 300_000, 1_800_000, 14_400_000, 86_400_000];

/// The Arrow schema of both rollups.
pub static ROLLUP_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let instant = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let mut fields =
        vec![Field::new("bucket_at", instant, false), Field::new(PARTITION_COLUMN, DataType::Date32, false)];
    let always = |name: &str| matches!(name, "basis" | "tenant_id" | "event_type");
    fields.extend(LABELS.iter().map(|name| Field::new(*name, DataType::Utf8, !always(name))));
    fields.extend(sums().into_iter().map(|name| Field::new(name, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
});

/// The names of all sums, in the order of the columns.
pub fn sums() -> Vec<String> {
    let timed = MEASURES.iter().flat_map(|measure| {
        let buckets = BOUNDS_MS.iter().map(move |bound| format!("{measure}_le_{bound}"));
        [format!("{measure}_events"), format!("{measure}_sum")].into_iter().chain(buckets)
    });
    ["events".to_owned(), "size_bytes_sum".to_owned()].into_iter().chain(timed).collect()
}

/// The columns of `events` that a rollup is made of, and what tells whether an event is new.
pub(crate) static SOURCE_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let wanted = |name: &str| {
        let more = ["occurred_at", "delivered_at", "size_bytes", "incarnation", "lsn"];
        LABELS.contains(&name) || MEASURES.contains(&name) || more.contains(&name)
    };
    let fields = EVENTS_SCHEMA.fields().iter().filter(|field| wanted(field.name())).cloned();
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
});

/// Columns whose minima and maxima are kept: what questions narrow by. No text that a sender or a receiver writes.
const SKIPPING: [&str; 6] = ["bucket_at", "basis", "tenant_id", "stream", "provider", "event_type"];

/// Delta table properties; no table feature is asked for.
pub(crate) fn configuration() -> Vec<(&'static str, String)> {
    vec![
        ("delta.dataSkippingStatsColumns", SKIPPING.join(",")),
        ("delta.checkpointInterval", "100".to_owned()),
        ("delta.logRetentionDuration", "interval 7 days".to_owned()),
    ]
}

/// The Parquet settings of both rollups.
pub(crate) fn writer_properties() -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("sendlake ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()))
        .set_dictionary_enabled(true)
        .set_statistics_enabled(EnabledStatistics::None);
    for name in SKIPPING {
        properties =
            properties.set_column_statistics_enabled(ColumnPath::from(name), EnabledStatistics::Chunk);
    }
    properties.build()
}
