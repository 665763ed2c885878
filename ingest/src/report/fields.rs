//! Fields of message/delivery-status and message/feedback-report: lines `Name: value`, folded, in groups.

use super::{DsnAction, RECIPIENTS_MAX, ReportError};

/// The fields of a report's front and of each recipient (RFC 3464, sections 2.2 and 2.3).
#[derive(Debug, Default)]
pub struct Status {
    pub reporting_mta: Option<String>,
    pub recipients: Vec<Recipient>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipient {
    pub final_recipient: Option<String>,
    pub original_recipient: Option<String>,
    pub action: Option<DsnAction>,
    /// As it came: `5.1.1 (bad destination mailbox address)`.
    pub status: Option<String>,
    pub remote_mta: Option<String>,
    /// `smtp`, `x-unix`, …, lower case, and what was said.
    pub diagnostic: Option<(String, String)>,
}

impl Recipient {
    fn is_named(&self) -> bool {
        self.final_recipient.is_some() || self.original_recipient.is_some()
    }

    fn says_something(&self) -> bool {
        self.action.is_some() || self.status.is_some() || self.diagnostic.is_some()
    }
}

/// Reads the fields of one block, or of several that were told one after another. Groups end at empty lines, or
/// where a field comes again: not every server writes the empty line.
pub fn delivery_status(text: &str) -> Result<Status, ReportError> {
    let mut status = Status::default();
    let mut group = Recipient::default();
    let mut close = |group: &mut Recipient| {
        let closed = std::mem::take(group);
        if closed.is_named() || closed.says_something() {
            if status.recipients.len() == RECIPIENTS_MAX {
                return Err(ReportError::TooManyRecipients);
            }
            status.recipients.push(closed);
        }
        Ok(())
    };
    let mut reporting_mta = None;
    for line in unfolded(text) {
        let Some((name, value)) = line.split_once(':') else {
            if group.is_named() && group.says_something() {
                close(&mut group)?;
            }
            continue;
        };
        let value = value.trim();
        match name.trim().to_lowercase().as_str() {
            "reporting-mta" => reporting_mta = Some(typed(value).1),
            "final-recipient" => {
                if group.final_recipient.is_some() {
                    close(&mut group)?;
                }
                group.final_recipient = Some(mailbox(value));
            }
            "original-recipient" => {
                if group.original_recipient.is_some() {
                    close(&mut group)?;
                }
                group.original_recipient = Some(mailbox(value));
            }
            "action" => group.action = action(value),
            "status" => group.status = Some(value.to_owned()).filter(|value| !value.is_empty()),
            "remote-mta" => group.remote_mta = Some(typed(value).1).filter(|name| !name.is_empty()),
            "diagnostic-code" => group.diagnostic = Some(typed(value)),
            // Exchange 2007: `< #5.1.1 smtp;550 5.1.1 …>`
            "x-supplementary-info" if group.diagnostic.is_none() => {
                group.diagnostic = value
                    .trim_matches(['<', '>', ' '])
                    .split_once("smtp;")
                    .map(|(_, said)| ("smtp".to_owned(), said.trim().to_owned()));
            }
            _ => {}
        }
    }
    close(&mut group)?;
    status.reporting_mta = reporting_mta;
    Ok(status)
}

/// Every field with its name in lower case.
pub fn all(text: &str) -> Vec<(String, String)> {
    unfolded(text)
        .iter()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_lowercase(), value.trim().to_owned()))
        .filter(|(name, _)| !name.is_empty() && name.len() < 80 && !name.contains(' '))
        .take(1_000)
        .collect()
}

/// Lines with their continuations joined; an empty line stays as an empty string.
fn unfolded(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        let continues = line.starts_with([' ', '\t']) && !line.trim().is_empty();
        match lines.last_mut().filter(|last| continues && !last.is_empty()) {
            Some(last) => {
                last.push(' ');
                last.push_str(line.trim());
            }
            None => lines.push(line.trim().to_owned()),
        }
    }
    lines
}

/// `smtp; 550 no` as its type, in lower case, and the rest. Without a type it is taken for words.
fn typed(value: &str) -> (String, String) {
    match value.split_once(';') {
        Some((kind, rest)) if !kind.trim().contains(' ') && kind.len() < 40 => {
            (kind.trim().to_lowercase(), rest.trim().to_owned())
        }
        _ => (String::new(), value.trim().to_owned()),
    }
}

fn mailbox(value: &str) -> String {
    let (_, address) = typed(value);
    address.trim_matches(['<', '>', ' ']).to_owned()
}

fn action(value: &str) -> Option<DsnAction> {
    let word: String = value.chars().take_while(char::is_ascii_alphabetic).collect();
    Some(match word.to_lowercase().as_str() {
        "failed" | "failure" | "fail" => DsnAction::Failed,
        "delayed" | "delay" => DsnAction::Delayed,
        "delivered" | "deliverable" => DsnAction::Delivered,
        "relayed" => DsnAction::Relayed,
        "expanded" => DsnAction::Expanded,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_end_at_empty_lines_or_where_a_field_repeats() {
        let text = "Reporting-MTA: dns; mx.example.com\n\nFinal-Recipient: rfc822;a@b.example\nAction: failed\n\
            Status: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1\n  no such user\n\nFinal-Recipient: RFC822; <c@d.example>\n\
            Action: delayed\nFinal-Recipient: e@f.example\nAction: Failed (bad)\n";
        let status = delivery_status(text).unwrap();
        assert_eq!(status.reporting_mta.as_deref(), Some("mx.example.com"));
        let named: Vec<_> =
            status.recipients.iter().map(|one| one.final_recipient.as_deref().unwrap()).collect();
        assert_eq!(named, ["a@b.example", "c@d.example", "e@f.example"]);
        let diagnostic = Some(("smtp".to_owned(), "550 5.1.1 no such user".to_owned()));
        assert_eq!(status.recipients[0].diagnostic, diagnostic);
        assert_eq!(status.recipients[1].action, Some(DsnAction::Delayed));
        assert_eq!(status.recipients[2].action, Some(DsnAction::Failed));
    }

    #[test]
    fn too_many_recipients_are_refused_by_name() {
        let text = "Final-Recipient: rfc822; a@b.example\nAction: failed\n\n".repeat(10_000);
        assert_eq!(delivery_status(&text).unwrap_err(), ReportError::TooManyRecipients);
    }
}
