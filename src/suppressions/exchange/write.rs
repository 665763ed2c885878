//! Suppressions in the forms that other senders take, an entry at a time.

use std::io::{self, Write};

use sendlake_control::clock::Timestamp;
use sendlake_control::suppression::{Reach, Reason};
use serde_json::json;

use super::{Entry, ListFormat};

/// Writes a list: entries in any number, then the end.
pub struct Writer<W: Write> {
    format: ListFormat,
    out: W,
    entries: u64,
}

const OWN: &str = "address,reason,reach,since,until,note,actor,event_id";

impl<W: Write> Writer<W> {
    pub fn new(format: ListFormat, mut out: W) -> io::Result<Self> {
        let head = match format {
            ListFormat::Csv => OWN,
            // SendGrid and Mailgun keep a list for each kind: the last column says which one
            ListFormat::Sendgrid => "email,created,status,reason,list",
            ListFormat::Mailgun => "address,code,error,created_at,list",
            ListFormat::Sparkpost => "recipient,type,source,description,created",
            ListFormat::Postmark => "{\"Suppressions\":[",
            ListFormat::Ses | ListFormat::Ndjson => "",
        };
        out.write_all(head.as_bytes())?;
        if !head.is_empty() {
            out.write_all(b"\n")?;
        }
        Ok(Self { format, out, entries: 0 })
    }

    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        let since = entry.since.unwrap_or_default();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let first = self.entries == 0;
        self.entries += 1;
        match self.format {
            ListFormat::Csv => self.row(&[
                &entry.address,
                entry.reason.as_str(),
                entry.reach.as_str(),
                &entry.since.map(|at| at.to_string()).unwrap_or_default(),
                &entry.until.map(|at| at.to_string()).unwrap_or_default(),
                &text(&entry.note),
                &text(&entry.actor),
                &entry.event_id.map(|id| id.to_string()).unwrap_or_default(),
            ]),
            ListFormat::Ndjson => {
                let mut fields = json!({
                    "address": entry.address, "reason": entry.reason, "reach": entry.reach,
                    "since": entry.since.map(|at| at.to_string()), "until": entry.until.map(|at| at.to_string()),
                    "note": entry.note, "actor": entry.actor, "event_id": entry.event_id,
                });
                if let Some(fields) = fields.as_object_mut() {
                    fields.retain(|_, value| !value.is_null());
                }
                writeln!(self.out, "{fields}")
            }
            ListFormat::Ses => {
                // the list of an account knows two reasons; what is no bounce must not be tried again either
                let gone = matches!(entry.reason, Reason::HardBounce | Reason::FullMailbox);
                self.row(&[&entry.address, if gone { "BOUNCE" } else { "COMPLAINT" }])
            }
            ListFormat::Sendgrid => {
                let (list, status) = match entry.reason {
                    Reason::HardBounce | Reason::FullMailbox => ("bounces", "5.0.0"),
                    Reason::Complaint => ("spam_reports", ""),
                    _ => ("global_unsubscribes", ""),
                };
                let created = since.as_secs().to_string();
                self.row(&[&entry.address, &created, status, &text(&entry.note), list])
            }
            ListFormat::Mailgun => {
                let (list, code) = match entry.reason {
                    Reason::HardBounce | Reason::FullMailbox => ("bounces", "550"),
                    Reason::Complaint => ("complaints", ""),
                    _ => ("unsubscribes", ""),
                };
                let created = mail_date(since);
                self.row(&[&entry.address, code, &text(&entry.note), &created, list])
            }
            ListFormat::Sparkpost => {
                let source = match entry.reason {
                    Reason::HardBounce | Reason::FullMailbox => "Bounce Rule",
                    Reason::Complaint => "Spam Complaint",
                    Reason::Unsubscribe | Reason::ColdOptOut => "List Unsubscribe",
                    Reason::Manual | Reason::Legal => "Manually Added",
                };
                // a list with an entry for each type of mail
                if entry.reach != Reach::Bulk {
                    let all =
                        [&entry.address, "transactional", source, &text(&entry.note), &since.to_string()];
                    self.row(&all)?;
                }
                self.row(&[
                    &entry.address,
                    "non_transactional",
                    source,
                    &text(&entry.note),
                    &since.to_string(),
                ])
            }
            ListFormat::Postmark => {
                let (reason, origin) = match entry.reason {
                    Reason::HardBounce | Reason::FullMailbox => ("HardBounce", "Recipient"),
                    Reason::Complaint => ("SpamComplaint", "Recipient"),
                    Reason::Unsubscribe | Reason::ColdOptOut => ("ManualSuppression", "Recipient"),
                    Reason::Manual | Reason::Legal => ("ManualSuppression", "Customer"),
                };
                let item = json!({
                    "EmailAddress": entry.address, "SuppressionReason": reason, "Origin": origin,
                    "CreatedAt": since.to_string(),
                });
                write!(self.out, "{}{item}", if first { "" } else { ",\n" })
            }
        }
    }

    /// Ends the list. Returns what it was written to, and how many entries it has.
    pub fn end(mut self) -> io::Result<(W, u64)> {
        if self.format == ListFormat::Postmark {
            self.out.write_all(b"\n]}\n")?;
        }
        self.out.flush()?;
        Ok((self.out, self.entries))
    }

    /// RFC 4180, section 2; line ends in a field become spaces, as not every reader takes them.
    fn row(&mut self, fields: &[&str]) -> io::Result<()> {
        for (place, field) in fields.iter().enumerate() {
            if place > 0 {
                self.out.write_all(b",")?;
            }
            let field = field.replace(['\r', '\n'], " ");
            if field.contains(['"', ',']) {
                write!(self.out, "\"{}\"", field.replace('"', "\"\""))?;
            } else {
                self.out.write_all(field.as_bytes())?;
            }
        }
        self.out.write_all(b"\n")
    }
}

impl Writer<Vec<u8>> {
    /// What was written since the last time.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }
}

fn mail_date(at: Timestamp) -> String {
    at.to_chrono().format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}
