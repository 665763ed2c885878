//! The sending half: accept, decide, spool, route, sign, deliver. Each step is an event.
//!
//! Accepting
//! - [`address`]: a mailbox of an envelope · [`stream`]: the three kinds of mail
//! - [`submission`]: what a client handed over, checked and composed
//! - [`api`]: the HTTP send API · [`compose`]: from checked parts to the octets of a message
//! - [`identity`]: whom a tenant may send as
//!
//! Keeping
//! - [`spool`]: the durable queue, and the events that wait for the lake
//!
//! Deciding
//! - [`policy`]: whether a message may leave now, and why not
//! - [`suppression`]: whom not to write to, and which events call for that
//!
//! Delivering
//! - [`delivery`]: from due messages to recorded results
//! - [`mx`], [`route`]: where a domain's mail goes; [`site`], [`provider`]: what that place is called
//! - [`source`]: which address and name it leaves from
//! - [`schedule`]: when a deferred message is tried again
//! - [`session`]: one SMTP connection; [`reply`]: what the server answered
//! - [`headers`], [`dkim`]: what is added to each message; [`token`]: how all of it names its message
//! - [`link`]: what a link in a mail knows · [`track`]: which links become such
//!
//! This crate never imports `query`: limits arrive as data.

pub mod address;
pub mod api;
pub mod compose;
pub mod delivery;
pub mod dkim;
pub mod headers;
pub mod identity;
pub mod link;
pub mod mx;
pub mod policy;
pub mod provider;
pub mod reply;
pub mod route;
pub mod schedule;
pub mod session;
pub mod site;
pub mod source;
pub mod spool;
pub mod stream;
pub mod submission;
pub mod suppression;
pub mod token;
pub mod track;
