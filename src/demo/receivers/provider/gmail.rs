//! Gmail's replies.
//!
//! Source: "Gmail SMTP errors and codes", <https://support.google.com/a/answer/3726730>, and the articles
//! that the replies themselves point to (`support.google.com/mail/?p=…`). Gmail breaks its texts into
//! lines and ends each with a session id and `- gsmtp`.

use super::super::reply::{Replies, Reply, Stage};

pub const REPLIES: Replies = Replies {
    banner: "mx.google.com ESMTP {sid} - gsmtp",
    hello: "mx.google.com at your service, [{ip}]",
    mail_ok: "2.1.0 OK {sid} - gsmtp",
    rcpt_ok: "2.1.5 OK {sid} - gsmtp",
    data_go: "Go ahead {sid} - gsmtp",
    data_ok: "2.0.0 OK {sid} - gsmtp",
    bye: "2.0.0 closing connection {sid} - gsmtp",
    connection_full: "4.7.0 Try again later, closing connection. {sid} - gsmtp",
    unknown_user: &[Reply {
        code: 550,
        stage: Stage::Rcpt,
        lines: &[
            "5.1.1 The email account that you tried to reach does not exist. Please try",
            "5.1.1 double-checking the recipient's email address for typos or",
            "5.1.1 unnecessary spaces. For more information, go to",
            "5.1.1  https://support.google.com/mail/?p=NoSuchUser {sid} - gsmtp",
        ],
    }],
    policy: &[Reply {
        code: 550,
        stage: Stage::DataEnd,
        lines: &[
            "5.7.26 Your email has been blocked because the sender is unauthenticated.",
            "5.7.26 Gmail requires all senders to authenticate with either SPF or DKIM.",
            "5.7.26",
            "5.7.26  Authentication results:",
            "5.7.26  DKIM = did not pass",
            "5.7.26  SPF [{from_domain}] with ip: [{ip}] = did not pass",
            "5.7.26",
            "5.7.26  For instructions on setting up authentication, go to",
            "5.7.26  https://support.google.com/mail/answer/81126#authentication {sid} - gsmtp",
        ],
    }],
    throttle: &[
        Reply {
            code: 421,
            stage: Stage::DataEnd,
            lines: &[
                "4.7.28 Gmail has detected an unusual rate of unsolicited mail originating",
                "4.7.28 from your IP address. To protect our users from spam, mail sent from",
                "4.7.28 your IP address has been temporarily rate limited. For more",
                "4.7.28 information, go to",
                "4.7.28  https://support.google.com/mail/?p=UnsolicitedRateLimitError to",
                "4.7.28 review our Bulk Email Senders Guidelines. {sid} - gsmtp",
            ],
        },
        Reply {
            code: 450,
            stage: Stage::Rcpt,
            lines: &[
                "4.2.1 The user you are trying to contact is receiving mail too quickly.",
                "4.2.1 Please resend your message at a later time. If the user is able to",
                "4.2.1 receive mail at that time, your message will be delivered. For more",
                "4.2.1 information, go to",
                "4.2.1  https://support.google.com/mail/?p=ReceivingRate {sid} - gsmtp",
            ],
        },
    ],
    full_for_now: Some(Reply {
        code: 452,
        stage: Stage::Rcpt,
        lines: &[
            "4.2.2 The recipient's inbox is out of storage space. Please direct the",
            "4.2.2 recipient to",
            "4.2.2  https://support.google.com/mail/?p=OverQuotaTemp {sid} - gsmtp",
        ],
    }),
    full_for_good: Some(Reply {
        code: 552,
        stage: Stage::Rcpt,
        lines: &[
            "5.2.2 The recipient's inbox is out of storage space and inactive. Please",
            "5.2.2 direct the recipient to",
            "5.2.2  https://support.google.com/mail/?p=OverQuotaPerm {sid} - gsmtp",
        ],
    }),
    greylist: &[],
};
