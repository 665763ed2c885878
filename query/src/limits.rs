//! What one query may cost.

use std::time::Duration;

/// Limits of one query. A caller may ask for less than the engine's own, never for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryLimits {
    /// From the request to the last row, planning included.
    pub time: Duration,
    /// What sorts, joins and aggregates may hold at once, and, apart from that, what the result may take.
    pub memory_bytes: usize,
    /// Rows returned; the result says when there were more.
    pub rows: usize,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self { time: Duration::from_secs(30), memory_bytes: 256 << 20, rows: 10_000 }
    }
}

impl QueryLimits {
    /// The lower of the two in each respect.
    #[must_use]
    pub fn at_most(self, other: QueryLimits) -> QueryLimits {
        QueryLimits {
            time: self.time.min(other.time),
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            rows: self.rows.min(other.rows),
        }
    }
}

/// Limits of the engine as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineLimits {
    /// The most that any one query may cost.
    pub query: QueryLimits,
    /// Queries that run at once; one more is refused, not queued.
    pub concurrent_queries: usize,
    /// What footers of the lake's files may take between queries. The longest unused goes first.
    pub footer_cache_bytes: usize,
    /// Threads that queries share among them, apart from the threads that serve and deliver.
    pub threads: usize,
}

impl Default for EngineLimits {
    fn default() -> Self {
        Self {
            query: QueryLimits::default(),
            concurrent_queries: 8,
            footer_cache_bytes: 48 << 20,
            threads: 2,
        }
    }
}
