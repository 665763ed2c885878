//! Webhooks: each event to each endpoint that wants it, at least once, in order within a message, signed, from the log.
//!
//! Pure
//! - [`filter`]: which events an endpoint wants · [`body`]: what is said of one · [`signature`]: Standard Webhooks
//! - [`schedule`]: when to try again · [`lane`]: one endpoint: order, what is parked, its circuit, its cursor
//!
//! The shell around it
//! - [`send`]: one POST, to addresses that may be asked · [`log`]: the events, as they come or from the lake
//! - [`worker`]: one endpoint at work · [`dispatch`]: all of them · [`keeper`]: saves where they are · [`replay`]: what is sent again

pub mod body;
pub mod dispatch;
pub mod filter;
mod keeper;
pub mod lane;
pub mod log;
pub mod replay;
pub mod schedule;
pub mod send;
pub mod signature;
mod worker;

#[cfg(test)]
mod tests;
