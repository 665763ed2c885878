//! The columns of the tables, how their files are laid out, and what is kept about values.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

/// The one partition column: the UTC day on which the report's span begins, or on which the message of a failure report
/// arrived.
pub const PARTITION_COLUMN: &str = "report_date";

/// What names a report: a hash of who reports, its id, its domain and where it begins.
pub const KEY_COLUMN: &str = "report_key";

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Dmarc,
    Tls,
    Figures,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Dmarc, Kind::Tls, Kind::Figures];

    /// The table's name, which is its folder below the lake's.
    pub fn table_name(self) -> &'static str {
        match self {
            Kind::Dmarc => "dmarc_records",
            Kind::Tls => "tls_report_records",
            Kind::Figures => "provider_figures",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.table_name() == name)
    }

    /// The Arrow schema.
    pub fn schema(self) -> SchemaRef {
        match self {
            Kind::Dmarc => DMARC_SCHEMA.clone(),
            Kind::Tls => TLS_SCHEMA.clone(),
            Kind::Figures => FIGURES_SCHEMA.clone(),
        }
    }

    pub(super) fn comment(self) -> &'static str {
        match self {
            Kind::Dmarc => "What receivers report of mail in a domain's name (DMARC): one row per record",
            Kind::Tls => {
                "What senders report of TLS to a domain's hosts (RFC 8460): sums, and kinds of failure"
            }
            Kind::Figures => {
                "What providers say of a domain's or an address's mail (Google Postmaster Tools, SNDS): one row per figure"
            }
        }
    }
}

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// What both tables of reports begin with.
fn head() -> Vec<Field> {
    vec![
        Field::new(PARTITION_COLUMN, DataType::Date32, false),
        Field::new("tenant_id", DataType::Utf8, false),
        Field::new(KEY_COLUMN, DataType::Utf8, false),
        Field::new("record", DataType::Int32, false),
        Field::new("recorded_at", instant(), false),
        Field::new("report_type", DataType::Utf8, false),
        Field::new("org_name", DataType::Utf8, false),
        Field::new("org_contact", DataType::Utf8, true),
        Field::new("submitter_domain", DataType::Utf8, true),
        Field::new("report_id", DataType::Utf8, false),
        Field::new("begin_at", instant(), false),
        Field::new("end_at", instant(), false),
        Field::new("policy_domain", DataType::Utf8, true),
    ]
}

/// The head and these columns in their order: texts but for those that are named as numbers and flags.
fn with(order: &[&str], numbers: &[&str], flags: &[&str]) -> SchemaRef {
    let mut fields = head();
    fields.extend(order.iter().map(|name| {
        let kind = if numbers.contains(name) {
            DataType::Int64
        } else if flags.contains(name) {
            DataType::Boolean
        } else {
            DataType::Utf8
        };
        Field::new(*name, kind, true)
    }));
    Arc::new(Schema::new(fields))
}

static DMARC_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let order = [
        "extra_contact_info",
        "format_version",
        "generator",
        "errors",
        "adkim",
        "aspf",
        "p",
        "sp",
        "np",
        "pct",
        "fo",
        "testing",
        "discovery_method",
        "source_ip",
        "messages",
        "disposition",
        "dkim_aligned",
        "spf_aligned",
        "override_reasons",
        "header_from",
        "envelope_from",
        "envelope_to",
        "dkim_domain",
        "dkim_selector",
        "dkim_result",
        "spf_domain",
        "spf_scope",
        "spf_result",
        "auth_results",
        "auth_failure",
        "identity_alignment",
        "delivery_result",
        "authentication_results",
        "user_agent",
        "original_mail_from",
        "original_rcpt_to",
        "original_envelope_id",
        "original_message_id",
    ];
    with(&order, &["pct", "messages"], &["dkim_aligned", "spf_aligned"])
});

static TLS_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let order = [
        "policy_type",
        "policy_strings",
        "mx_hosts",
        "total_successful_sessions",
        "total_failed_sessions",
        "result_type",
        "failed_sessions",
        "sending_mta_ip",
        "receiving_ip",
        "receiving_mx_hostname",
        "receiving_mx_helo",
        "failure_reason_code",
        "additional_information",
    ];
    let numbers = ["total_successful_sessions", "total_failed_sessions", "failed_sessions"];
    with(&order, &numbers, &[])
});

static FIGURES_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let text = |name: &str, is_null: bool| Field::new(name, DataType::Utf8, is_null);
    let number = |name: &str| Field::new(name, DataType::Float64, true);
    Arc::new(Schema::new(vec![
        Field::new(PARTITION_COLUMN, DataType::Date32, false),
        text("tenant_id", false),
        text(KEY_COLUMN, false),
        Field::new("record", DataType::Int32, false),
        Field::new("recorded_at", instant(), false),
        text("report_type", false),
        Field::new("begin_at", instant(), false),
        Field::new("end_at", instant(), false),
        text("provider", false),
        text("identity_kind", false),
        text("identity", false),
        text("metric", false),
        text("label", true),
        number("value"),
        number("value_lower"),
        number("value_upper"),
        text("text", true),
    ]))
});

/// What rows of a file are sorted by.
pub(super) const SORT_COLUMNS: [&str; 3] = ["tenant_id", KEY_COLUMN, "record"];

/// Columns whose minima and maxima are kept: what questions narrow by, and no text that a reporter writes.
const SKIPPING: [&str; 5] = ["tenant_id", KEY_COLUMN, "report_type", "begin_at", "recorded_at"];

/// Delta table properties; no table feature is asked for.
pub(super) fn configuration() -> Vec<(&'static str, String)> {
    vec![
        ("delta.dataSkippingStatsColumns", SKIPPING.join(",")),
        ("delta.checkpointInterval", "100".to_owned()),
        ("delta.logRetentionDuration", "interval 7 days".to_owned()),
    ]
}

/// The Parquet settings of all tables.
pub(super) fn writer_properties() -> WriterProperties {
    let mut properties = WriterProperties::builder()
        .set_created_by(concat!("sendlake ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(3).unwrap_or_default()))
        .set_dictionary_enabled(true)
        .set_statistics_enabled(EnabledStatistics::None);
    for name in SKIPPING {
        let column = ColumnPath::from(name);
        properties = properties.set_column_statistics_enabled(column, EnabledStatistics::Chunk);
    }
    properties.build()
}
