//! How readers, their mail programs and their servers answer a mail. Each letter is made from the mail itself, as theirs
//! are: the return path, the Message-ID, the field List-Unsubscribe.

use anyhow::Context;
use sendlake_control::clock::Timestamp;

use crate::demo::letters::Letter;
use crate::demo::receivers::Recorded;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The mail program's button (RFC 8058).
    PressesUnsubscribe,
    /// The mail program writes to the address in List-Unsubscribe (RFC 2369).
    WritesUnsubscribe,
    /// A feedback report (RFC 5965), without the address.
    PressesSpam,
    /// The mailbox turns out not to exist: a DSN as RFC 3464 has it.
    IsGone,
    /// The same, as qmail tells it, in prose.
    IsGoneInProse,
    IsFull,
    /// An automatic answer (RFC 3834).
    IsAway,
    /// A feedback report that somebody made up.
    IsForged,
    None,
}

/// A mail in a mailbox.
pub(super) struct Mail {
    recipient: String,
    return_path: String,
    fields: Vec<(String, String)>,
    now: String,
}

impl Mail {
    pub fn of(kept: &Recorded, now: Timestamp) -> Option<Self> {
        let data = kept.data.as_ref()?;
        let parsed = mail_parser::MessageParser::new().parse_headers(data.as_slice())?;
        let fields = parsed.headers_raw();
        let unfolded = |value: &str| value.split_whitespace().collect::<Vec<_>>().join(" ");
        Some(Self {
            recipient: kept.forward_path.clone(),
            return_path: kept.reverse_path.clone(),
            fields: fields.map(|(name, value)| (name.to_owned(), unfolded(value))).collect(),
            now: now.to_chrono().to_rfc2822(),
        })
    }

    fn field(&self, name: &str) -> anyhow::Result<&str> {
        let found = self.fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).with_context(|| format!("the mail has no field {name}"))
    }

    /// The link below `https://` in List-Unsubscribe, from its path on.
    pub fn one_click_path(&self) -> anyhow::Result<String> {
        let links = self.field("List-Unsubscribe")?;
        let link = links.split(['<', '>']).find(|part| part.starts_with("https://"));
        let url = url::Url::parse(link.context("List-Unsubscribe has no https link")?)?;
        Ok(url.path().to_owned())
    }

    /// Address and subject of the `mailto:` in List-Unsubscribe.
    fn mailto(&self) -> anyhow::Result<(String, String)> {
        let links = self.field("List-Unsubscribe")?;
        let link = links.split(['<', '>']).find(|part| part.starts_with("mailto:"));
        let url = url::Url::parse(link.context("List-Unsubscribe has no mailto link")?)?;
        let subject = url.query_pairs().find(|(name, _)| name == "subject");
        Ok((
            url.path().to_owned(),
            subject.map_or_else(|| "unsubscribe".into(), |(_, value)| value.into_owned()),
        ))
    }

    /// A letter with these fields and this body. `from` is the sender in the envelope.
    fn letter(&self, from: &str, to: &str, fields: &[String], body: &[String]) -> Letter {
        let mut lines = vec![format!("To: <{to}>"), format!("Date: {}", self.now)];
        lines.extend_from_slice(fields);
        lines.push(String::new());
        lines.extend_from_slice(body);
        Letter { from: from.into(), to: to.into(), lines }
    }
}

impl Answer {
    /// Whether it puts the reader on the list.
    pub fn suppresses(self) -> bool {
        use Answer::{IsGone, IsGoneInProse, PressesSpam, PressesUnsubscribe, WritesUnsubscribe};
        matches!(self, PressesUnsubscribe | WritesUnsubscribe | PressesSpam | IsGone | IsGoneInProse)
    }

    /// The mail that comes; none where the answer comes by HTTP, or not at all.
    pub fn letter(self, mail: &Mail) -> anyhow::Result<Option<Letter>> {
        let letter = match self {
            Answer::PressesUnsubscribe | Answer::None => return Ok(None),
            Answer::WritesUnsubscribe => {
                let (to, subject) = mail.mailto()?;
                let fields = [format!("From: <{}>", mail.recipient), format!("Subject: {subject}")];
                mail.letter(&mail.recipient, &to, &fields, &[])
            }
            Answer::PressesSpam => complaint(mail, &mail.return_path, mail.field("Message-ID")?),
            Answer::IsForged => {
                let (token, domain) =
                    mail.return_path.rsplit_once('@').context("a return path has a domain")?;
                // as if about another message: its id is in the middle, and signed
                let change = |(place, letter)| match (place, letter) {
                    (20, 'a') => 'b',
                    (20, _) => 'a',
                    (_, letter) => letter,
                };
                let forged: String = token.chars().enumerate().map(change).collect();
                let forged = format!("{forged}@{domain}");
                complaint(mail, &forged, &format!("<{forged}>"))
            }
            Answer::IsGone => dsn(mail, "5.1.1", "550 5.1.1 No such mailbox here"),
            Answer::IsFull => dsn(mail, "5.2.2", "552 5.2.2 Mailbox full: over its quota"),
            Answer::IsGoneInProse => {
                let fields = ["From: MAILER-DAEMON@readers.test", "Subject: failure notice"];
                let body = [
                    "Hi. This is the qmail-send program at readers.test.".into(),
                    "I'm afraid I wasn't able to deliver your message to the following addresses.".into(),
                    "This is a permanent error; I've given up. Sorry it didn't work out.".into(),
                    String::new(),
                    format!("<{}>:", mail.recipient),
                    "Sorry, no mailbox here by that name. (#5.1.1)".into(),
                ];
                mail.letter("", &mail.return_path, &fields.map(str::to_owned), &body)
            }
            Answer::IsAway => {
                let fields = [
                    format!("From: <{}>", mail.recipient),
                    "Subject: Out of the office: back on Monday".into(),
                    "Auto-Submitted: auto-replied".into(),
                ];
                mail.letter("", &mail.return_path, &fields, &["I am away.".into()])
            }
        };
        Ok(Some(letter))
    }
}

/// RFC 5965, with the recipient cut out.
fn complaint(mail: &Mail, return_path: &str, message_id: &str) -> Letter {
    let fields = [
        "From: <feedback@readers.test>",
        "Subject: Feedback report",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=feedback-report; boundary=\"part\"",
    ];
    let body = [
        "--part",
        "Content-Type: text/plain",
        "",
        "One of our users marked this message as spam.",
        "",
        "--part",
        "Content-Type: message/feedback-report",
        "",
        "Feedback-Type: abuse",
        "User-Agent: readers-isp/1.0",
        "Version: 1",
        &format!("Original-Mail-From: <{return_path}>"),
        "",
        "--part",
        "Content-Type: text/rfc822-headers",
        "",
        &format!("Message-ID: {message_id}"),
        "To: redacted",
        "",
        "--part--",
    ];
    let domain = mail.return_path.rsplit_once('@').map_or("", |(_, domain)| domain);
    mail.letter(
        "feedback@readers.test",
        &format!("fbl@{domain}"),
        &fields.map(str::to_owned),
        &body.map(str::to_owned),
    )
}

/// RFC 3464: the next server refused after this one had taken the mail.
fn dsn(mail: &Mail, status: &str, reply: &str) -> Letter {
    let fields = [
        "From: MAILER-DAEMON@readers.test",
        "Subject: Undelivered Mail Returned to Sender",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status; boundary=\"part\"",
    ];
    let body = [
        "--part",
        "Content-Type: text/plain",
        "",
        "Your message could not be delivered.",
        "",
        "--part",
        "Content-Type: message/delivery-status",
        "",
        "Reporting-MTA: dns; mx.readers.test",
        "",
        &format!("Final-Recipient: rfc822; {}", mail.recipient),
        "Action: failed",
        &format!("Status: {status}"),
        "Remote-MTA: dns; store.readers.test",
        &format!("Diagnostic-Code: smtp; {reply}"),
        "",
        "--part--",
    ];
    mail.letter("", &mail.return_path, &fields.map(str::to_owned), &body.map(str::to_owned))
}
