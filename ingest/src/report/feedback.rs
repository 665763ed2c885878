//! Feedback reports: message/feedback-report (RFC 5965), and the mails that mean the same without being one.
//!
//! Read from what providers publish of their loops, and from reports that others published: Yahoo's Complaint Feedback
//! Loop, Microsoft's Junk Mail Reporting Program (a message attached as it was, with X-HmXmrOriginalRecipient, and in later
//! years RFC 5965), the loops that Validity runs for Comcast, Mail.ru, UOL, Yandex and others, SpamCop's reports, RFC 9477.

use mail_parser::DateTime;
use sendlake_control::clock::Timestamp;

use super::fields;
use super::mail::Mail;
use super::said;
use super::{Feedback, OriginalFields};

/// Most Original-Rcpt-To that are kept.
const RECIPIENTS_MAX: usize = 100;

/// The report's fields, completed by what is left of the original message. Further reports of the same mail add what
/// they are about.
pub fn read(mail: &Mail, report: &str, further: &[String]) -> Feedback {
    let mut feedback = named(mail, "abuse");
    feedback.source_ip = None;
    let paths = further
        .iter()
        .flat_map(|report| fields::all(report))
        .filter(|(name, _)| name == "original-mail-from");
    feedback.others.extend(
        paths.map(|(_, path)| OriginalFields { return_path: address(&path), ..OriginalFields::default() }),
    );
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
                if let Some(address) = address(&value) {
                    add_recipient(&mut feedback, address);
                }
            }
            "original-mail-from" => feedback.original_mail_from = address(&value),
            // where only the identifier is passed on (RFC 9477, section 3.5), some put it among the report's fields
            "cfbl-feedback-id" if feedback.original.cfbl_feedback_id.is_none() => {
                let id: String = value.split_whitespace().collect();
                feedback.original.cfbl_feedback_id = Some(id).filter(|id| !id.is_empty());
            }
            _ => {}
        }
    }
    feedback.source_ip = feedback.source_ip.or_else(|| ip_in_words(mail));
    feedback
}

fn address(text: &str) -> Option<String> {
    Some(text.trim_matches(['<', '>', ' ']).to_owned()).filter(|address| !address.is_empty())
}

fn add_recipient(feedback: &mut Feedback, address: String) {
    let room = feedback.original_recipients.len() < RECIPIENTS_MAX;
    if room && !feedback.original_recipients.contains(&address) {
        feedback.original_recipients.push(address);
    }
}

/// The address that mail came from, where words name it: SpamCop and Microsoft put it into the subject.
fn ip_in_words(mail: &Mail) -> Option<String> {
    said::ip_in(&mail.words).or_else(|| said::ip_in(&mail.subject))
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
    let mut originals = mail.originals.iter();
    let first = originals.next().unwrap_or(&mail.original);
    let mut feedback = Feedback {
        feedback_type: feedback_type.into(),
        reported_by: mail.from_domain.clone(),
        original: first.clone(),
        others: originals.cloned().collect(),
        source_ip: ip_in_words(mail),
        ..Feedback::default()
    };
    if let Some(address) = first.complained_by.as_deref().and_then(address) {
        add_recipient(&mut feedback, address);
    }
    feedback
}

fn instant(text: &str) -> Option<Timestamp> {
    let date = DateTime::parse_rfc822(text)?;
    date.is_valid().then(|| Timestamp(date.to_timestamp().saturating_mul(1_000_000)))
}
