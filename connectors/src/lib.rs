//! Warehouses, files, webhooks: every event to each of them once, on schedule, with backfill.
//!
//! What is the same for all destinations
//! - [`settings`]: one connector as it is configured; [`secret`]: where its credentials are
//! - [`mapping`]: the columns that leave, their kinds, what is masked
//! - [`batch`]: an immutable slice of the log, and its id
//! - [`target`]: the trait that a destination implements, and its errors
//!
//! - [`webhooks`]: each event to each endpoint that wants it, from the log
//!
//! Destinations, one folder each, with the same few files: `settings.rs` what is configured, `client.rs` what is said over
//! the wire, `load.rs` a batch into the table, `sql/` the statements, `tests.rs`.

pub mod batch;
pub mod mapping;
pub mod secret;
pub mod settings;
pub mod target;
pub mod webhooks;
