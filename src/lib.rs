//! sendlake: accepts mail, delivers it, and keeps every fact about it in a lake that its user owns.
//!
//! This crate wires the parts together; `main.rs` only calls it. The end-to-end tests use it as well.
//!
//! - [`cli`]: the command line · [`config`]: what can be set
//! - [`node`]: a server's parts, wired and started · [`ports`]: what the send API asks of them
//! - [`hear`]: what comes back, as events and suppressions · [`suppressions`]: whom not to write to, in memory
//! - [`webhooks`]: what other senders push
//! - [`domain_check`]: whether the DNS says what it should of a sending domain
//! - [`domain_reports`]: DMARC and TLS reports on their way to the lake
//! - [`tls_reports`]: TLS reports of our own, for other domains
//! - [`alerts`]: what somebody should look at, told once
//! - [`publisher`]: from judging to sending, the published limits · [`limits`]: those limits in memory
//! - [`erase`]: a person, or a tenant, out of everything that is kept
//! - [`exports`]: connectors to warehouses and buckets, put together and run
//! - [`lists`]: a list checked before anybody sends to it
//! - [`stores`]: opening a data folder · [`identities`]: sending domains in memory · [`system`]: clock and chance
//! - [`demo`]: `sendlake demo`, and the make-believe mailbox providers that it and the tests deliver to

pub mod alerts;
pub mod cli;
pub mod config;
pub mod demo;
pub mod domain_check;
pub mod domain_reports;
pub mod erase;
pub mod exports;
pub mod hear;
pub mod identities;
pub mod limits;
mod list_routes;
pub mod lists;
pub mod node;
pub mod ports;
pub mod publisher;
pub mod reverse;
mod sql_routes;
pub mod stores;
mod suppression_routes;
pub mod suppressions;
mod synced;
pub mod system;
#[cfg(test)]
mod testing;
pub mod tls_reports;
mod tlsrpt_routes;
pub mod webhooks;
