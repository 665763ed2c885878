//! How facts reach the lake: events, the outbox they wait in, Arrow, Parquet and Delta.
//!
//! - [`event`]: what an event is, its columns, and its Arrow form
//! - [`outbox`]: the narrow trait between a spool that holds events and what reads them
//! - [`spill`]: where events go that wait too long for the lake
//! - [`store`]: where the lake lives: a folder that is synced in order, or a bucket
//! - [`table`]: the `events` table: made, opened, refreshed, pinned; how its files are laid out
//! - [`append`]: rows into the table, exactly once
//! - [`writer`]: the loop that carries the outbox to the table
//! - [`read`]: a pinned version plus hot rows, for queries
//! - [`erase`]: a person, or a tenant, out of every table
//! - [`verify`]: whether outbox, log and files agree
//! - [`maintain`]: compaction, retention, vacuum, and the lease of whoever does them
//! - [`rollups`]: events summed by minute and hour, two small tables beside `events`
//! - [`quotas`]: the published limits, a small table beside `events`
//! - [`calibration`]: providers' own figures, read
//! - [`domain_report`]: DMARC and SMTP TLS reports, read; [`domain_tables`]: their tables in the lake
//! - [`inbound`]: the SMTP listener for mail that comes back
//! - [`foreign`]: other senders' logs and events, mapped to our vocabulary
//! - [`report`]: what comes back by mail: DSNs, feedback reports, automatic replies

pub mod append;
pub mod calibration;
pub mod document;
pub mod domain_report;
pub mod domain_tables;
pub mod erase;
pub mod event;
pub mod foreign;
pub mod inbound;
pub mod maintain;
mod nesting;
pub mod outbox;
pub mod quotas;
pub mod read;
pub mod report;
pub mod rollups;
pub mod spill;
pub mod store;
pub mod table;
pub mod verify;
pub mod writer;

#[cfg(test)]
mod testing;
