//! The statements that rollups are made of: events summed by minute, and sums added up. Both are additive, so they may
//! run over any part of the rows, in any order, each row once.

/// Partial sums, by minute, of the relation `events`.
pub const PARTIALS: &str = include_str!("../rollups/partials.sql");

/// The relation `partials`, with sums that share their labels added up.
pub const FOLD: &str = include_str!("../rollups/fold.sql");
