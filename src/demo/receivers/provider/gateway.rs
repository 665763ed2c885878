//! The replies of a small company's gateway: Postfix with greylisting in front of an Exchange server.
//!
//! Sources: Postfix, `postconf(5)`, `reject_unlisted_recipient` with relay_recipient_maps; Broadcom knowledge
//! base 169944 for the greylisting text that milters share; Microsoft, `Set-ContentFilterConfig`, default
//! RejectionResponse; Dovecot, quota plugin, default quota_exceeded_message as its LMTP server prints it.

use super::super::reply::{Replies, Reply, Stage};

pub const REPLIES: Replies = Replies {
    banner: "gateway.example ESMTP Postfix",
    hello: "gateway.example",
    mail_ok: "2.1.0 Ok",
    rcpt_ok: "2.1.5 Ok",
    data_go: "End data with <CR><LF>.<CR><LF>",
    data_ok: "2.0.0 Ok: queued as {sid}",
    bye: "2.0.0 Bye",
    connection_full: "4.7.0 gateway.example Error: too many messages",
    unknown_user: &[Reply {
        code: 550,
        stage: Stage::Rcpt,
        lines: &["5.1.1 <{rcpt}>: Recipient address rejected: User unknown in relay recipient table"],
    }],
    policy: &[Reply {
        code: 550,
        stage: Stage::DataEnd,
        lines: &["5.7.1 Message rejected as spam by Content Filtering."],
    }],
    throttle: &[],
    full_for_now: Some(Reply {
        code: 452,
        stage: Stage::Rcpt,
        lines: &["4.2.2 <{rcpt}> Quota exceeded (mailbox for user is full)"],
    }),
    full_for_good: None,
    greylist: &[Reply {
        code: 451,
        stage: Stage::Rcpt,
        lines: &["4.7.1 Greylisting in action, please come back later"],
    }],
};
