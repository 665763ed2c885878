//! What four kinds of mailbox provider say, one file each, and a receiver that agrees with everything.
//!
//! The texts are the replies that the providers document or print; each file names where. Session ids,
//! host names and dates that vary from reply to reply are left out or replaced by a placeholder.

pub mod gateway;
pub mod gmail;
pub mod microsoft;
pub mod yahoo;

use super::reply::Replies;

/// A receiver that takes all mail.
pub const ACCEPT_ALL: Replies = Replies {
    banner: "sink.example ESMTP",
    hello: "sink.example",
    mail_ok: "2.1.0 Ok",
    rcpt_ok: "2.1.5 Ok",
    data_go: "End data with <CR><LF>.<CR><LF>",
    data_ok: "2.0.0 Ok",
    bye: "2.0.0 Bye",
    connection_full: "4.7.0 Too many messages on this connection",
    unknown_user: &[],
    policy: &[],
    throttle: &[],
    full_for_now: None,
    full_for_good: None,
    greylist: &[],
};
