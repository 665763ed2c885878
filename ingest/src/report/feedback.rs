//! Feedback reports: message/feedback-report (RFC 5965), and the mails that mean the same without being one.

use mail_parser::DateTime;
use sendlake_control::clock::Timestamp;

use super::Feedback;
use super::fields;
use super::mail::Mail;
use super::said;

/// Most Original-Rcpt-To that are kept.
const RECIPIENTS_MAX: usize = 100;

/// The report's fields, completed by what is left of the original message.
pub fn read(mail: &Mail, report: &str) -> Feedback {
    let mut feedback = named(mail, "abuse");
    for (name, value) in fields::all(report) {
        let text = || Some(value.clone()).filter(|text| !text.is_empty());
        match name.as_str() {
            "feedback-type" => {
                let word: String = value.chars().take_while(|letter| !letter.is_whitespace()).collect();
                if !word.is_empty() {
                    feedback.feedback_type = word.to_lowercase();
                }
            }
            "user-agent" => feedback.user_agent = text(),
            "source-ip" => feedback.source_ip = text(),
            "reported-domain" => feedback.reported_domain = text().map(|domain| domain.to_lowercase()),
            "arrival-date" | "received-date" => feedback.arrived_at = feedback.arrived_at.or(instant(&value)),
            "original-rcpt-to" | "removal-recipient" => {
                let address = value.trim_matches(['<', '>', ' ']).to_owned();
                let room = feedback.original_recipients.len() < RECIPIENTS_MAX;
                if room && !address.is_empty() && !feedback.original_recipients.contains(&address) {
                    feedback.original_recipients.push(address);
                }
            }
            "original-mail-from" => {
                feedback.original_mail_from = text()
                    .map(|path| path.trim_matches(['<', '>', ' ']).to_owned())
                    .filter(|path| !path.is_empty());
            }
            _ => {}
        }
    }
    feedback
}

/// A mail that asks to be taken off, as List-Unsubscribe with a mailto has it: type `opt-out`, as the drafts of
/// RFC 5965 called it.
pub fn opt_out(mail: &Mail) -> Feedback {
    named(mail, "opt-out")
}

/// A complaint without machine-readable fields.
pub fn plain_complaint(mail: &Mail) -> Feedback {
    named(mail, "abuse")
}

fn named(mail: &Mail, feedback_type: &str) -> Feedback {
    Feedback {
        feedback_type: feedback_type.into(),
        reported_by: mail.from_domain.clone(),
        original: mail.original.clone(),
        source_ip: said::ip_in(&mail.words),
        ..Feedback::default()
    }
}

fn instant(text: &str) -> Option<Timestamp> {
    let date = DateTime::parse_rfc822(text)?;
    date.is_valid().then(|| Timestamp(date.to_timestamp().saturating_mul(1_000_000)))
}
