//! Microsoft's replies: Outlook.com and Exchange Online, which share their front doors.
//!
//! Sources: "Troubleshooting: SMTP error codes", Outlook.com Postmaster,
//! <https://sendersupport.olc.protection.outlook.com/pm/troubleshooting.aspx>; "Email non-delivery reports
//! and SMTP errors in Exchange Online",
//! <https://learn.microsoft.com/exchange/troubleshoot/email-delivery/ndr/non-delivery-reports-in-exchange-online>;
//! for full mailboxes
//! <https://learn.microsoft.com/exchange/troubleshoot/email-delivery/cannot-send-mail-mepf>.

use super::super::reply::{Replies, Reply, Stage};

pub const REPLIES: Replies = Replies {
    banner: "DB3PEPF0000885E.mail.protection.outlook.com Microsoft ESMTP MAIL Service ready",
    hello: "DB3PEPF0000885E.mail.protection.outlook.com Hello [{ip}]",
    mail_ok: "2.1.0 Sender OK",
    rcpt_ok: "2.1.5 Recipient OK",
    data_go: "Start mail input; end with <CRLF>.<CRLF>",
    data_ok: "2.6.0 [InternalId={sid}] Queued mail for delivery",
    bye: "2.0.0 Service closing transmission channel",
    connection_full: "RP-002 Unfortunately, some messages from {ip} on this connection weren't sent. Please \
                      try again. We have limits for how many messages can be sent per connection.",
    unknown_user: &[
        Reply {
            code: 550,
            stage: Stage::Rcpt,
            lines: &["5.5.0 Requested action not taken: mailbox unavailable (S2017062302)."],
        },
        Reply {
            code: 550,
            stage: Stage::Rcpt,
            lines: &["5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup"],
        },
    ],
    policy: &[Reply {
        code: 550,
        stage: Stage::Rcpt,
        lines: &["5.7.1 Unfortunately, messages from [{ip}] weren't sent. Please contact your Internet \
                  service provider since part of their network is on our block list (S3150). You can also \
                  refer your provider to http://mail.live.com/mail/troubleshooting.aspx#errors."],
    }],
    throttle: &[
        Reply {
            code: 451,
            stage: Stage::Rcpt,
            lines: &["4.7.500 Server busy. Please try again later from [{ip}]. (S77719)"],
        },
        Reply {
            code: 451,
            stage: Stage::Rcpt,
            lines: &["4.7.650 The mail server [{ip}] has been temporarily rate limited due to IP \
                      reputation. For e-mail delivery information, see https://aka.ms/postmaster (S775)"],
        },
        Reply {
            code: 421,
            stage: Stage::Rcpt,
            lines: &["RP-001 Unfortunately, some messages from {ip} weren't sent. Please try again. We \
                      have limits for how many messages can be sent per hour and per day."],
        },
    ],
    full_for_now: None,
    full_for_good: Some(Reply {
        code: 554,
        stage: Stage::DataEnd,
        lines: &["5.2.2 mailbox full; STOREDRV.Deliver.Exception:QuotaExceededException.\
                  MapiExceptionQuotaExceeded"],
    }),
    greylist: &[],
};
