//! The replies of `sql/rules/replies.txt` as Postfix, Exim and qmail quote them in a bounce: each must get the verdict that
//! it gets in a session.

use sendlake_sql::rules::Ruleset;

use super::Report;

const REPLIES: &str = include_str!("../../../sql/rules/replies.txt");

/// Writes the bounce that a server makes of a command and the reply to it.
type Form = fn(&str, &str) -> String;

fn postfix(command: &str, reply: &str) -> String {
    let said = match command {
        "CONNECT" => format!("refused to talk to me: {reply}"),
        _ => {
            let command = match command {
                "RCPT" => "RCPT TO",
                "MAIL" => "MAIL FROM",
                "DOT" => "end of DATA",
                other => other,
            };
            format!("said: {reply} (in reply to {command} command)")
        }
    };
    format!(
        "From: MAILER-DAEMON@mx.example\r\nTo: t@acme.example\r\nSubject: Undelivered Mail Returned to Sender\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\n\
         Content-Type: text/plain\r\n\r\nThis is the mail system at host mx.example.\r\n\r\n\
         <jane@example.com>: host mx.b.example[192.0.2.9] {said}\r\n--b\r\n\
         Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\n\
         Final-Recipient: rfc822; jane@example.com\r\nAction: failed\r\nStatus: {}.0.0\r\n\
         Diagnostic-Code: smtp; {reply}\r\n--b--\r\n",
        &reply[..1]
    )
}

fn exim(command: &str, reply: &str) -> String {
    let after = match command {
        "RCPT" => "after RCPT TO:<jane@example.com>",
        "MAIL" => "after MAIL FROM:<t@acme.example>",
        "DOT" => "after end of data",
        "CONNECT" => "after initial connection",
        "EHLO" => "after EHLO mx.example",
        _ => "after DATA",
    };
    format!(
        "From: Mailer-Daemon@mx.example\r\nTo: t@acme.example\r\nSubject: Mail delivery failed\r\n\
         X-Failed-Recipients: jane@example.com\r\n\r\nA message that you sent could not be delivered to one or more \
         of its\r\nrecipients. This is a permanent error. The following address(es) failed:\r\n\r\n  \
         jane@example.com\r\n    SMTP error from remote mail server {after}:\r\n    host mx.b.example [192.0.2.9]: \
         {reply}\r\n"
    )
}

fn qmail(command: &str, reply: &str) -> String {
    let happened = match command {
        "RCPT" => "192.0.2.9 does not like recipient.",
        "MAIL" => "Connected to 192.0.2.9 but sender was rejected.",
        "CONNECT" => "Connected to 192.0.2.9 but greeting failed.",
        "EHLO" => "Connected to 192.0.2.9 but my name was rejected.",
        _ => "192.0.2.9 failed after I sent the message.",
    };
    format!(
        "From: MAILER-DAEMON@mx.example\r\nTo: t@acme.example\r\nSubject: failure notice\r\n\r\n\
         Hi. This is the qmail-send program at mx.example.\r\n\
         This is a permanent error; I've given up. Sorry it didn't work out.\r\n\r\n<jane@example.com>:\r\n{happened}\r\n\
         Remote host said: {reply}\r\n\r\n--- Below this line is a copy of the message.\r\n\r\nReceived: x\r\n"
    )
}

#[test]
fn a_reply_means_within_a_bounce_what_it_means_in_a_session() {
    let forms: [(&str, Form); 3] = [("postfix", postfix), ("exim", exim), ("qmail", qmail)];
    let (mut judged, mut wrong) = (0_usize, Vec::new());
    for line in REPLIES.lines().filter(|line| !line.starts_with('#')) {
        let [_, command, verdict, reply] = line.splitn(4, " | ").collect::<Vec<_>>()[..] else { continue };
        let tells_a_session = ["CONNECT", "EHLO", "MAIL", "RCPT", "DOT"].contains(&command);
        if !tells_a_session || !reply.starts_with(['4', '5']) {
            continue;
        }
        for (form, write) in forms {
            judged += 1;
            let found = match Report::parse(write(command, reply).as_bytes()) {
                Ok(Report::Dsn(entries)) if entries.len() == 1 => {
                    let found = entries[0].classify(Ruleset::current());
                    format!("{} {}", found.category, found.class)
                }
                other => format!("{other:?}"),
            };
            if found != verdict {
                wrong.push(format!("{form}: {line}\n    found {found}"));
            }
        }
    }
    assert!(judged >= 3_000, "{judged}");
    // a reply of many lines may lose its first ones where a server quotes the last
    assert!(wrong.len() * 200 <= judged, "{} of {judged}:\n{}", wrong.len(), wrong.join("\n"));
}
