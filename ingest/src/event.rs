//! An event: one fact about one message or one identity, never updated. Its columns are listed once, here;
//! the Rust field, the Arrow column, the Parquet column and the JSON key share that one name.

mod column;

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{
    Array, ArrayRef, Date32Builder, Int32Array, Int64Builder, MapBuilder, MapFieldNames, RecordBatch,
    StringBuilder,
};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use uuid::fmt::Hyphenated;

use self::column::Column;

/// Version of the column list; stored with each row, raised with each additive change.
pub const SCHEMA_VERSION: i32 = 1;

macro_rules! event_types {
    ($($(#[$doc:meta])* $variant:ident = $name:literal),* $(,)?) => {
        /// The vocabulary of `event_type`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum EventType {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)*
        }

        impl EventType {
            pub const ALL: &'static [EventType] = &[$(EventType::$variant),*];

            pub fn as_str(self) -> &'static str {
                match self { $(EventType::$variant => $name),* }
            }
        }
    };
}

event_types! {
    /// Taken responsibility for.
    Accepted = "accepted",
    /// Refused at submission.
    Rejected = "rejected",
    /// Not sent: on a suppression list.
    Suppressed = "suppressed",
    /// Waiting on quota, pacing, quiet hours, circuit or review.
    Held = "held",
    /// Let go after a hold.
    Released = "released",
    /// Accepted by the receiving MX (2yz after the final dot); not proof of inbox.
    Delivered = "delivered",
    /// 4yz or connection failure; retried at `next_attempt_at`.
    Deferred = "deferred",
    /// 5yz in session, or gave up by rule.
    Bounced = "bounced",
    /// Lifetime over.
    Expired = "expired",
    /// Withdrawn by its sender.
    Cancelled = "cancelled",
    /// A crash hid the reply; the retry may repeat the message.
    AttemptInDoubt = "attempt_in_doubt",
    /// A DSN arrived later.
    BouncedAsync = "bounced_async",
    /// ARF feedback report of type abuse or fraud.
    Complained = "complained",
    /// One-click (RFC 8058), mailto or link.
    Unsubscribed = "unsubscribed",
    Opened = "opened",
    Clicked = "clicked",
    /// Auto-reply or human reply to a tracked reverse-path.
    Replied = "replied",
    SuppressionAdded = "suppression_added",
    SuppressionRemoved = "suppression_removed",
    QuotaChanged = "quota_changed",
    CircuitOpened = "circuit_opened",
    CircuitClosed = "circuit_closed",
    /// Domain verified, DKIM key rotated, DMARC policy moved.
    IdentityChanged = "identity_changed",
    /// What came in and cannot be used: `detail` says why, and where it lies.
    ReportQuarantined = "report_quarantined",
    /// A row of the view `alerts` is there that was not: `detail` says which.
    AlertRaised = "alert_raised",
    /// It is not there any more.
    AlertCleared = "alert_cleared",
    /// A connector's loads do not get through: `reported_by` names it, `reply_text` says why.
    ExportFailing = "export_failing",
    /// They do again.
    ExportRecovered = "export_recovered",
    /// A webhook endpoint took nothing for days, or said that it is gone: `detail` says which and why.
    WebhookDisabled = "webhook_disabled",
    /// It is used again, or was removed.
    WebhookEnabled = "webhook_enabled",
}

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident: $kind:ty,)*) => {
        /// One fact. Key columns are never null, all others may be.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        pub struct Event {
            /// UUIDv7, unique and stable: what every consumer drops repeats by.
            pub event_id: Uuid,
            pub event_type: EventType,
            /// When it happened.
            pub occurred_at: Timestamp,
            /// When this installation learned of it.
            pub recorded_at: Timestamp,
            pub tenant_id: TenantId,
            /// The sender's own labels.
            #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
            pub tags: BTreeMap<String, String>,
            $(
                $(#[$doc])*
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $name: Option<$kind>,
            )*
        }

        impl Event {
            /// An event with its key columns set and every other column null.
            pub fn new(event_id: Uuid, event_type: EventType, at: Timestamp, tenant_id: TenantId) -> Self {
                Self {
                    event_id, event_type, occurred_at: at, recorded_at: at, tenant_id,
                    tags: BTreeMap::new(),
                    $($name: None,)*
                }
            }
        }

        fn nullable_fields() -> Vec<Field> {
            vec![$(Field::new(stringify!($name), <$kind as Column>::data_type(), true)),*]
        }

        /// A builder for each column that may be null.
        struct NullableColumns {
            $($name: <$kind as Column>::Builder,)*
        }

        impl NullableColumns {
            fn new(rows: usize) -> Self {
                Self { $($name: <$kind as Column>::builder(rows),)* }
            }

            fn append(&mut self, rows: &[&LoggedEvent]) {
                $(for row in rows {
                    <$kind as Column>::append(&mut self.$name, row.event.$name.as_ref());
                })*
            }

            fn finish(mut self) -> Vec<ArrayRef> {
                vec![$(Arc::new(self.$name.finish()) as ArrayRef),*]
            }
        }
    };
}

events! {
    // message
    /// UUIDv7 as text; one recipient of one submission.
    message_id: String,
    submission_id: String,
    /// Strict order of the accepting node's events of this message; null for feedback.
    seq: i64,
    /// `transactional`, `marketing` or `cold`.
    stream: String,
    campaign_id: String,
    size_bytes: i64,
    /// Hash of the content with recipient values and tokens normalised out.
    content_fingerprint: String,
    subject_hash: String,
    idempotency_key_hash: String,
    // recipient
    recipient: String,
    recipient_domain: String,
    /// Who runs the recipient's mailbox, by MX: `google`, `microsoft`, …, else the MX's organisational domain.
    provider: String,
    list_id: String,
    // identity
    header_from_domain: String,
    mail_from_domain: String,
    dkim_domain: String,
    dkim_selector: String,
    ip_pool: String,
    source_ip: String,
    // alignment
    spf_aligned: bool,
    dkim_aligned: bool,
    /// Whether DMARC is expected to pass (RFC 9989): at least one aligned mechanism.
    dmarc_expected: bool,
    // attempt
    /// 1 for the first attempt.
    attempt: i32,
    session_id: String,
    mx_host: String,
    mx_ip: String,
    /// The set of MX hosts that shares one connection pool.
    site: String,
    tls_version: String,
    tls_cipher: String,
    tls_verified: bool,
    /// The command that the reply answered: `CONNECT`, `EHLO`, `STARTTLS`, `MAIL`, `RCPT`, `DATA` or `DOT`.
    smtp_command: String,
    reply_code: i32,
    /// RFC 3463, `5.1.1`.
    enhanced_status: String,
    reply_text: String,
    transcript: String,
    /// From acceptance to the start of this attempt.
    queue_ms: i64,
    connect_ms: i64,
    attempt_ms: i64,
    next_attempt_at: Timestamp,
    // verdict
    bounce_category: String,
    bounce_reason: String,
    bounce_class: String,
    bounce_rule: String,
    ruleset_version: String,
    policy_id: String,
    hold_reason: String,
    quota_version: i64,
    // feedback
    feedback_type: String,
    reported_by: String,
    /// When the delivery that this feedback answers took place.
    delivered_at: Timestamp,
    url: String,
    user_agent: String,
    client_ip_prefix: String,
    open_source: String,
    // the rest
    /// JSON, for what has no column yet.
    detail: String,
}

/// An event with its place in a spool's log.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedEvent {
    /// The spool that logged it: a UUID made with the store, so that a restored or new store never
    /// continues another one's numbers.
    pub incarnation: Uuid,
    pub node_id: Arc<str>,
    /// Log sequence number: 1, 2, 3 … within the incarnation, in commit order.
    pub lsn: u64,
    pub event: Event,
}

/// The Arrow schema of the `events` table.
pub static EVENTS_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let mut fields = vec![
        Field::new("event_id", DataType::Utf8, false),
        Field::new("event_type", DataType::Utf8, false),
        Field::new("occurred_at", Timestamp::data_type(), false),
        Field::new("recorded_at", Timestamp::data_type(), false),
        Field::new("event_date", DataType::Date32, false),
        Field::new("tenant_id", DataType::Utf8, false),
        Field::new("node_id", DataType::Utf8, false),
        Field::new("incarnation", DataType::Utf8, false),
        Field::new("lsn", DataType::Int64, false),
        Field::new("schema_version", DataType::Int32, false),
        Field::new("tags", tags_type(), true),
    ];
    fields.extend(nullable_fields());
    Arc::new(Schema::new(fields))
});

fn tags_type() -> DataType {
    let entry = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Utf8, true),
    ]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(entry), false)), false)
}

/// Rows that are taken together, column after column, while they are still in the processor's cache.
const ROWS_AT_ONCE: usize = 128;

/// Rows as one Arrow batch with [`EVENTS_SCHEMA`], in the order given.
pub fn to_batch(rows: &[LoggedEvent]) -> Result<RecordBatch, ArrowError> {
    to_batch_of(&rows.iter().collect::<Vec<_>>())
}

/// The same of rows that lie apart.
pub(crate) fn to_batch_of(rows: &[&LoggedEvent]) -> Result<RecordBatch, ArrowError> {
    let (mut keys, mut nullable) = (KeyColumns::new(rows.len()), NullableColumns::new(rows.len()));
    for rows in rows.chunks(ROWS_AT_ONCE) {
        keys.append(rows)?;
        nullable.append(rows);
    }
    let mut arrays = keys.finish();
    arrays.extend(nullable.finish());
    RecordBatch::try_new(EVENTS_SCHEMA.clone(), arrays)
}

/// A builder for each column that is never null, and for the tags.
struct KeyColumns {
    event_id: StringBuilder,
    event_type: StringBuilder,
    occurred_at: <Timestamp as Column>::Builder,
    recorded_at: <Timestamp as Column>::Builder,
    event_date: Date32Builder,
    tenant_id: StringBuilder,
    node_id: StringBuilder,
    incarnation: StringBuilder,
    lsn: Int64Builder,
    tags: MapBuilder<StringBuilder, StringBuilder>,
    rows: usize,
}

impl KeyColumns {
    fn new(rows: usize) -> Self {
        let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
        let ids = || StringBuilder::with_capacity(rows, rows * Hyphenated::LENGTH);
        let words = || StringBuilder::with_capacity(rows, rows * 12);
        Self {
            event_id: ids(),
            event_type: words(),
            occurred_at: Timestamp::builder(rows),
            recorded_at: Timestamp::builder(rows),
            event_date: Date32Builder::with_capacity(rows),
            tenant_id: words(),
            node_id: words(),
            incarnation: ids(),
            lsn: Int64Builder::with_capacity(rows),
            tags: MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new()),
            rows,
        }
    }

    fn append(&mut self, rows: &[&LoggedEvent]) -> Result<(), ArrowError> {
        let mut id = [0; Hyphenated::LENGTH];
        let mut spool = (Uuid::nil(), Uuid::nil().to_string());
        for row in rows {
            let event = &row.event;
            // Hardly ever another one than the row's before.
            if spool.0 != row.incarnation {
                spool = (row.incarnation, row.incarnation.to_string());
            }
            self.event_id.append_value(event.event_id.hyphenated().encode_lower(&mut id));
            self.event_type.append_value(event.event_type.as_str());
            self.occurred_at.append_value(event.occurred_at.0);
            self.recorded_at.append_value(event.recorded_at.0);
            self.event_date.append_value(event.occurred_at.days());
            self.tenant_id.append_value(event.tenant_id.as_str());
            self.node_id.append_value(&row.node_id);
            self.incarnation.append_value(&spool.1);
            self.lsn.append_value(row.lsn.cast_signed());
            for (key, value) in &event.tags {
                self.tags.keys().append_value(key);
                self.tags.values().append_value(value);
            }
            self.tags.append(!event.tags.is_empty())?;
        }
        Ok(())
    }

    fn finish(mut self) -> Vec<ArrayRef> {
        let tags: ArrayRef = Arc::new(self.tags.finish());
        debug_assert_eq!(tags.data_type(), &tags_type());
        vec![
            Arc::new(self.event_id.finish()),
            Arc::new(self.event_type.finish()),
            Arc::new(self.occurred_at.finish()),
            Arc::new(self.recorded_at.finish()),
            Arc::new(self.event_date.finish()),
            Arc::new(self.tenant_id.finish()),
            Arc::new(self.node_id.finish()),
            Arc::new(self.incarnation.finish()),
            Arc::new(self.lsn.finish()),
            Arc::new(Int32Array::from_value(SCHEMA_VERSION, self.rows)),
            tags,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> LoggedEvent {
        let tenant = TenantId::new("acme").unwrap();
        let mut event = Event::new(Uuid::nil(), EventType::Deferred, Timestamp::from_secs(86_400), tenant);
        event.reply_code = Some(421);
        event.tags.insert("plan".into(), "pro".into());
        LoggedEvent { incarnation: Uuid::nil(), node_id: "n1".into(), lsn: 7, event }
    }

    #[test]
    fn batch_has_every_column_of_the_schema() {
        let batch = to_batch(&[sample()]).unwrap();
        assert_eq!(batch.schema(), *EVENTS_SCHEMA);
        assert_eq!(batch.num_rows(), 1);
    }

    #[test]
    fn json_leaves_nulls_out_and_comes_back_equal() {
        let event = sample().event;
        let json = serde_json::to_string(&event).unwrap();
        assert!(json.contains("\"event_type\":\"deferred\"") && !json.contains("null"), "{json}");
        assert_eq!(serde_json::from_str::<Event>(&json).unwrap(), event);
    }

    #[test]
    fn names_of_types_match_their_json() {
        for kind in EventType::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
