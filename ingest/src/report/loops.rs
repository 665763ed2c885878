//! Complaints in the shapes of many feedback loops, `tests-data/feedback/*.eml`: written after what providers publish,
//! with our tokens where their reports leave them.

use data_encoding::BASE64;

use super::*;

/// A report as it comes: `{path}` and the like are tokens, what stands between `{base64}` and `{end}` is encoded.
fn filled(text: &str) -> Vec<u8> {
    let token = |letter: &str| letter.repeat(45);
    let mut mail = text.replace("{cfbl:20}", &"c".repeat(20)).replace("{cfbl:rest}", &"c".repeat(25));
    for (place, letter) in [
        ("path", "p"),
        ("id", "i"),
        ("leave", "u"),
        ("path2", "q"),
        ("id2", "j"),
        ("leave2", "v"),
        ("forged", "f"),
    ] {
        mail = mail.replace(&format!("{{{place}}}"), &token(letter));
    }
    if let Some((before, rest)) = mail.split_once("{base64}\n") {
        let (plain, after) = rest.split_once("{end}").unwrap();
        mail = format!("{before}{}{after}", BASE64.encode(plain.as_bytes()));
    }
    mail.replace('\n', "\r\n").into_bytes()
}

macro_rules! report {
    ($name:literal) => {{
        let text = include_str!(concat!("../../tests-data/feedback/", $name, ".eml"));
        match Report::parse(&filled(text)) {
            Ok(Report::Feedback(feedback)) => *feedback,
            other => panic!("{}: {other:?}", $name),
        }
    }};
}

/// Which of our tokens a report has kept: the return path among its fields, and of each message the return path, the
/// Message-ID, the links to leave and the identifier for complaints.
fn kept(report: &Feedback) -> String {
    let ours = |text: &Option<String>, letter: &str| {
        text.as_ref().is_some_and(|text| text.to_lowercase().starts_with(&letter.repeat(45)))
    };
    let mut kept = String::new();
    if ours(&report.original_mail_from, "p") {
        kept.push_str("F ");
    }
    for original in std::iter::once(&report.original).chain(&report.others) {
        kept.push('[');
        for (letter, found) in [
            ('p', ours(&original.return_path, "p") || ours(&original.return_path, "q")),
            ('i', ours(&original.message_id, "i") || ours(&original.message_id, "j")),
            ('u', original.list_unsubscribe.len() == 2),
            ('c', ours(&original.cfbl_feedback_id, "c")),
        ] {
            if found {
                kept.push(letter);
            }
        }
        kept.push(']');
    }
    kept
}

#[test]
fn every_loops_reports_are_complaints_and_keep_what_names_the_message() {
    let ip = Some("192.0.2.25");
    for (name, report, reported_by, source_ip, recipients, tokens) in [
        ("yahoo", report!("yahoo"), "arf.mail.yahoo.com", None, vec!["ann@yahoo.test"], "F [piu]"),
        ("microsoft", report!("microsoft-attached"), "hotmail.com", ip, vec!["ann@outlook.test"], "[piu]"),
        (
            "as it was",
            report!("microsoft-as-it-was"),
            "acme.example",
            None,
            vec!["ann@outlook.test"],
            "[piu]",
        ),
        ("microsoft, ARF", report!("microsoft-arf"), "hotmail.com", ip, vec![], "[i]"),
        (
            "comcast",
            report!("comcast"),
            "fbl.comcast.test",
            ip,
            vec!["ca2b45ef141c63af66829a2f346c832b@comcast.test"],
            "F [piu]",
        ),
        (
            "uol",
            report!("uol"),
            "fbl.uol.test",
            ip,
            vec!["5d41402abc4b2a76b9719d911017c592@uol.test"],
            "F [piu]",
        ),
        ("aol", report!("aol"), "aol.test", ip, vec![], "[iu]"),
        (
            "mail.ru",
            report!("mail-ru"),
            "corp.mail.test",
            ip,
            vec!["0f343b0931126a20f133d67c2b018a3b@mail.test"],
            "F [piu]",
        ),
        ("spamcop", report!("spamcop"), "reports.spamcop.net", ip, vec![], "[piu]"),
        ("abusix", report!("abusix"), "abusix.test", ip, vec!["removed"], "[p]"),
        ("base64", report!("only-headers-in-base64"), "isp.test", ip, vec![], "[piu]"),
        ("upper case", report!("upper-case"), "isp.test", ip, vec![], "F []"),
        ("no report-type", report!("no-report-type"), "isp.test", ip, vec![], "[piu]"),
        ("rewritten type", report!("rewritten-type"), "isp.test", ip, vec![], "[piu]"),
        ("RFC 9477", report!("cfbl-minimal"), "mailbox.test", ip, vec![], "[c]"),
        ("forwarded", report!("forwarded"), "isp.test", ip, vec![], "F [i]"),
        ("by a list", report!("forwarded-by-a-list"), "isp.test", ip, vec![], "F [i]"),
        ("two reports", report!("two-reports"), "isp.test", ip, vec![], "F [i][i][p]"),
        ("two messages", report!("two-messages"), "isp.test", ip, vec![], "[piu][piu]"),
        ("no message", report!("without-a-message"), "isp.test", ip, vec![], "[]"),
    ] {
        assert_eq!(report.feedback_type, "abuse", "{name}");
        assert_eq!(report.reported_by.as_deref(), Some(reported_by), "{name}");
        assert_eq!(report.source_ip.as_deref(), source_ip, "{name}");
        assert_eq!(report.original_recipients, recipients, "{name}");
        assert_eq!(kept(&report), tokens, "{name}: {report:?}");
    }
}

#[test]
fn a_letter_with_some_mail_attached_is_no_complaint() {
    let letter = "From: Ann <ann@c.example>\r\nTo: fbl@bounces.acme.example\r\nSubject: Fwd: Spring sale\r\n\
        MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b1\r\n\r\n--b1\r\nContent-Type: text/plain\r\n\r\n\
        What is this?\r\n--b1\r\nContent-Type: message/rfc822\r\n\r\nMessage-ID: <x@acme.example>\r\nSubject: Hi\r\n\r\n\
        Feedback-Type: abuse\r\nVersion: 1\r\n--b1--\r\n";
    assert_eq!(Report::parse(letter.as_bytes()), Ok(Report::Other));
}
