use proptest::prelude::*;
use sendlake_sql::rules::{Action, Category, Class, Ruleset};

use super::*;

const DSN: &str = "From: MAILER-DAEMON@mx.example\r\nTo: t@bounce.acme.example\r\nSubject: Undelivered\r\n\
    Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\r\n\
    <ann@c.example>: host mx.c.example[192.0.2.1] said: 550 5.1.1 <ann@c.example>: no such\r\n    user (in reply to \
    RCPT TO command)\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\n\
    Final-Recipient: rfc822; ann@c.example\r\nAction: failed\r\nStatus: 5.1.1\r\nRemote-MTA: dns; mx.c.example\r\n\
    Diagnostic-Code: smtp; 550 5.1.1 <ann@c.example>: no such user\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n\
    Message-ID: <m1@acme.example>\r\nReturn-Path: <t1@bounce.acme.example>\r\nFrom: hello@acme.example\r\n\
    To: ann@c.example\r\nList-Unsubscribe: <https://u.example/1>, <mailto:u@acme.example>\r\n\r\nHi\r\n--b--\r\n";

fn dsn(mail: &str) -> Vec<RecipientStatus> {
    match Report::parse(mail.as_bytes()) {
        Ok(Report::Dsn(entries)) => entries,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_dsn_tells_recipient_codes_command_and_original() {
    let entries = dsn(DSN);
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!(entry.recipient.as_deref(), Some("ann@c.example"));
    assert_eq!((entry.reply_code, entry.status.as_deref()), (Some(550), Some("5.1.1")));
    assert_eq!(entry.smtp_command.as_deref(), Some("RCPT"));
    assert_eq!(entry.original_message_id.as_deref(), Some("m1@acme.example"));
    assert_eq!(entry.remote_mta.as_deref(), Some("mx.c.example"));
    let found = entry.classify(Ruleset::current());
    assert_eq!(
        (found.category, found.class, found.action),
        (Category::BadMailbox, Class::Hard, Action::Suppress)
    );
}

#[test]
fn a_delay_and_a_success_suppress_nobody() {
    let delayed = dsn(&DSN.replace("Action: failed", "Action: delayed"));
    assert_eq!(delayed[0].classify(Ruleset::current()).action, Action::Retry);
    assert_eq!(dsn(&DSN.replace("Action: failed", "Action: delivered"))[0].action, DsnAction::Delivered);
}

#[test]
fn words_alone_are_read() {
    let qmail = "From: MAILER-DAEMON@q.example\r\nTo: t@acme.example\r\nSubject: failure notice\r\n\r\n\
        Hi. This is the qmail-send program at q.example.\r\nThis is a permanent error; I've given up.\r\n\r\n\
        <bob@d.example>:\r\n192.0.2.9 does not like recipient.\r\nRemote host said: 552 over quota\r\n\
        Giving up on 192.0.2.9.\r\n\r\n--- Below this line is a copy of the message.\r\n\r\n\
        Message-ID: <m2@acme.example>\r\nTo: bob@d.example\r\n\r\nHi\r\n";
    let entries = dsn(qmail);
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].recipient.as_deref(), Some("bob@d.example"));
    assert_eq!((entries[0].reply_code, entries[0].smtp_command.as_deref()), (Some(552), Some("RCPT")));
    assert_eq!(entries[0].original_message_id.as_deref(), Some("m2@acme.example"));
    assert_eq!(entries[0].classify(Ruleset::current()).reason, "mailbox_full");
}

const ARF: &str = "From: <fbl@isp.example>\r\nTo: abuse@acme.example\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n--b\r\n\r\nA complaint.\r\n--b\r\n\
    Content-Type: message/feedback-report\r\n\r\nFeedback-Type: Fraud\r\nUser-Agent: Some/1\r\nVersion: 1\r\n\
    Original-Mail-From: <t1@bounce.acme.example>\r\nOriginal-Rcpt-To: <redacted@isp.example>\r\n\
    Arrival-Date: Thu, 08 Mar 2026 14:00:00 +0000\r\nSource-IP: 192.0.2.1\r\nReported-Domain: Acme.example\r\n--b\r\n\
    Content-Type: text/rfc822-headers\r\n\r\nMessage-ID: <m1@acme.example>\r\nFeedback-ID: c:a:b\r\n\
    List-Unsubscribe: <https://u.example/1>,\r\n <mailto:u@acme.example>\r\nFrom: hello@acme.example\r\n--b--\r\n";

fn feedback(mail: &str) -> Feedback {
    match Report::parse(mail.as_bytes()) {
        Ok(Report::Feedback(feedback)) => *feedback,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_feedback_report_tells_type_origin_and_what_is_left_of_the_message() {
    let report = feedback(ARF);
    assert_eq!(report.feedback_type, "fraud");
    assert_eq!(report.reported_by.as_deref(), Some("isp.example"));
    assert_eq!(report.original_mail_from.as_deref(), Some("t1@bounce.acme.example"));
    assert_eq!(report.original_recipients, ["redacted@isp.example"]);
    assert_eq!(report.source_ip.as_deref(), Some("192.0.2.1"));
    assert_eq!(report.arrived_at, Some(Timestamp::from_secs(1_772_978_400)));
    assert_eq!(report.original.message_id.as_deref(), Some("m1@acme.example"));
    assert_eq!(report.original.feedback_id.as_deref(), Some("c:a:b"));
    assert_eq!(report.original.list_unsubscribe, ["https://u.example/1", "mailto:u@acme.example"]);
}

#[test]
fn a_feedback_report_without_the_original_is_one() {
    let cut = ARF.find("--b\r\nContent-Type: text/rfc822").unwrap();
    let report = feedback(&format!("{}--b--\r\n", &ARF[..cut]));
    assert_eq!(report.feedback_type, "fraud");
    assert_eq!(report.original, OriginalFields::default());
    assert_eq!(feedback(&ARF.replace("Feedback-Type: Fraud\r\n", "")).feedback_type, "abuse");
}

#[test]
fn automatic_replies_and_people_are_told_apart() {
    let mail = |headers: &str| {
        format!("From: ann@c.example\r\nTo: t@acme.example\r\n{headers}\r\n\r\nI am away.\r\n")
    };
    for headers in [
        "Subject: Away\r\nAuto-Submitted: auto-replied",
        "Subject: Automatic reply: Hi",
        "Subject: x\r\nX-Autoreply: yes",
    ] {
        assert_eq!(Report::parse(mail(headers).as_bytes()), Ok(Report::AutoReply), "{headers}");
    }
    assert_eq!(Report::parse(mail("Subject: Re: Hi").as_bytes()), Ok(Report::Other));
    assert_eq!(feedback(&mail("Subject: unsubscribe")).feedback_type, "opt-out");
}

#[test]
fn a_transcript_is_read_whichever_way_its_arrows_point() {
    let mail = "From: postmaster@a.example\r\nSubject: Undeliverable\r\n\r\nSent <<< RCPT TO:<bob@b.example>\r\n\
                Received >>> 550 5.1.1 unknown user.\r\n\r\nUnable to deliver message to <bob@b.example>.\r\n";
    let entry = &dsn(mail)[0];
    assert_eq!((entry.smtp_command.as_deref(), entry.reply_code), (Some("RCPT"), Some(550)), "{entry:?}");
    assert_eq!(entry.recipient.as_deref(), Some("bob@b.example"));
}

#[test]
fn a_persons_letter_about_a_bounce_is_not_a_bounce() {
    let letter = |headers: &str| {
        format!(
            "From: Ann <ann@c.example>\r\nTo: t@acme.example\r\n{headers}\r\n\r\nHello, my mail to bob@c.example could not be delivered:\r\n\
             550 5.1.1 <bob@c.example>: user unknown. Do you know why?\r\n"
        )
    };
    for headers in ["Subject: Question", "Subject: Re: Delivery problem", "Subject: AW: Undelivered mail?"] {
        assert_eq!(Report::parse(letter(headers).as_bytes()), Ok(Report::Other), "{headers}");
    }
    for headers in ["Return-Path: <>\r\nSubject: Question", "Subject: Undelivered mail"] {
        let entries = dsn(&letter(headers));
        assert_eq!(entries[0].recipient.as_deref(), Some("bob@c.example"), "{headers}");
    }
}

#[test]
fn what_breaks_the_bounds_is_refused_by_name() {
    let group = "Final-Recipient: rfc822; a@b.example\r\nAction: failed\r\n\r\n";
    let many = DSN.replace("Reporting-MTA: dns; mx.example\r\n\r\n", &group.repeat(10_000));
    assert_eq!(Report::parse(many.as_bytes()), Err(ReportError::TooManyRecipients));
    assert_eq!(Report::parse(b""), Err(ReportError::NotAMail));
    let large = vec![b'a'; BYTES_MAX + 1];
    assert_eq!(Report::parse(&large), Err(ReportError::TooLarge { bytes: BYTES_MAX + 1 }));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        drop(Report::parse(&bytes));
    }

    /// Reports with pieces cut out, doubled and put elsewhere.
    #[test]
    fn broken_reports_do_not_make_it_panic(
        pieces in proptest::collection::vec((0_usize..3, 0_usize..1500, 0_usize..400), 1..8),
        arf in any::<bool>(),
    ) {
        let source = if arf { ARF } else { DSN }.as_bytes();
        let mut bytes = Vec::new();
        for (kind, start, length) in pieces {
            let start = start.min(source.len());
            let piece = &source[start..(start + length).min(source.len())];
            match kind {
                0 => bytes.extend_from_slice(piece),
                1 => bytes.extend_from_slice(&source[..start]),
                _ => bytes.extend(piece.iter().rev()),
            }
        }
        if let Ok(Report::Dsn(entries)) = Report::parse(&bytes) {
            for entry in entries {
                prop_assert!(entry.text.chars().count() <= TEXT_CHARS_MAX);
                drop(entry.classify(Ruleset::current()));
            }
        }
    }
}

#[test]
fn two_hundred_thousand_mails_within_one_another_do_not_end_the_process() {
    let mail = format!(
        "From: a@b.example\r\n{}\r\n",
        "Content-Type: message/rfc822\r\n\r\nFrom: a@b.example\r\n".repeat(200_000)
    );
    assert_eq!(Report::parse(mail.as_bytes()), Err(ReportError::TooManyMails));
}
