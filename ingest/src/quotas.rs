//! The published limits: a small Delta table `quotas` beside `events`. A publisher replaces its rows whole; the
//! sender reads them before each batch. Nothing else passes between judging and sending.

mod table;

use sendlake_control::clock::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::table::{QUOTAS_SCHEMA, QuotasTable};

/// One limit, or a statement that there is none. Of all rows that match a message, each counts: the strictest
/// decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuotaRow {
    /// Whom it binds: a tenant, or `*`.
    pub tenant_id: String,
    /// `transactional`, `marketing`, `cold` or `*`.
    pub stream: String,
    /// `sending_domain` or `*`.
    pub identity_kind: String,
    /// The sending domain, or `*`.
    pub identity: String,
    /// A provider as events name it; `*` for all together; `(others)` for all without a row of their own under
    /// the same tenant, stream, identity and window, pooled.
    pub provider: String,
    /// Length of the window in seconds; windows are aligned to the Unix epoch, so 86400 is the UTC day.
    pub window_s: i64,
    /// First attempts per window; null for no limit.
    pub limit_messages: Option<i64>,
    /// `warming`, `normal`, `throttled` or `paused`. Paused lets nothing out, retries neither.
    pub state: String,
    /// In words, with the numbers that led to it.
    pub reason: String,
    /// The numbers, as JSON.
    pub inputs: String,
    /// Version of the view that computed it.
    pub view_version: String,
    /// The instant that it was judged at.
    pub as_of: Timestamp,
    /// Past this the row is stale.
    pub valid_until: Timestamp,
}

/// One publication.
#[derive(Clone, Debug, PartialEq)]
pub struct PublishedQuotas {
    /// The table's version: what events call `quota_version`.
    pub version: u64,
    pub rows: Vec<QuotaRow>,
}
