//! Yahoo's replies (yahoo.com, aol.com and the domains that moved to it).
//!
//! Sources: "SMTP Error Codes", Yahoo Sender Hub, <https://senders.yahooinc.com/smtp-error-codes/>; "Email
//! sent to Yahoo Mail addresses is rejected", <https://help.yahoo.com/kb/SLN3444.html>. Most of them carry
//! no enhanced status.

use super::super::reply::{Replies, Reply, Stage};

pub const REPLIES: Replies = Replies {
    banner: "mtaproxy501.free.mail.gq1.yahoo.com ESMTP ready",
    hello: "mtaproxy501.free.mail.gq1.yahoo.com",
    mail_ok: "sender <{mail_from}> ok",
    rcpt_ok: "recipient <{rcpt}> ok",
    data_go: "go ahead",
    data_ok: "ok dirdel",
    bye: "mtaproxy501.free.mail.gq1.yahoo.com Service closing transmission channel",
    connection_full: "Max message per connection reached, closing transmission channel",
    unknown_user: &[Reply {
        code: 554,
        stage: Stage::DataEnd,
        lines: &["delivery error: dd This user doesn't have a {domain} account ({rcpt}) [0] - \
                  mta1543.mail.ne1.yahoo.com"],
    }],
    policy: &[Reply {
        code: 554,
        stage: Stage::DataEnd,
        lines: &[
            "5.7.9 Message not accepted for policy reasons. See https://senders.yahooinc.com/smtp-error-codes",
        ],
    }],
    throttle: &[Reply {
        code: 421,
        stage: Stage::Rcpt,
        lines: &["4.7.0 [TSS04] Messages from {ip} temporarily deferred due to unexpected volume or user \
                  complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes"],
    }],
    full_for_now: None,
    full_for_good: Some(Reply {
        code: 554,
        stage: Stage::DataEnd,
        lines: &[
            "delivery error: dd Sorry, your message to {rcpt} cannot be delivered. This account is over \
                  quota.",
        ],
    }),
    greylist: &[],
};
