//! Warehouses, files, webhooks: every event to each of them once, on schedule, with backfill.
//!
//! What is the same for all destinations
//! - [`settings`]: one connector as it is configured; [`secret`]: where its credentials are
//! - [`mapping`]: the columns that leave, their kinds, what is masked
//! - [`batch`]: an immutable slice of the log, and its id
//! - [`target`]: the trait that a destination implements, and its errors
//! - [`plan`]: what is to be loaded next · [`stage`]: a slice as a local file · [`run`]: from planned to committed
//! - [`schedule`]: when · [`verify`]: whether the destination holds what the lake holds
//!
//! Beside them: [`webhooks`], each event to each endpoint that wants it, from the log; [`reverse`], a query's rows to a CRM.
//!
//! Destinations, made by [`connect`], one folder each, with the same few files: `settings.rs` what is configured, `client.rs` what is said over
//! the wire, `load.rs` a batch into the table, `sql/` the statements, `tests.rs`.

pub mod batch;
pub mod bigquery;
pub mod clickhouse;
pub mod connect;
pub mod files;
mod fit;
pub mod guard;
pub mod mapping;
mod pgwire;
pub mod plan;
pub mod postgresql;
pub mod redshift;
pub mod reverse;
pub mod run;
pub mod schedule;
pub mod secret;
pub mod settings;
pub mod snowflake;
pub mod stage;
mod statement;
mod tally;
pub mod target;
#[cfg(test)]
mod testing;
pub mod verify;
pub mod webhooks;
