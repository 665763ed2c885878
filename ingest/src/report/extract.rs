//! From what a report says, in fields or in words, to one entry per recipient.

mod transcript;

use sendlake_sql::rules::{Ruleset, Said, UNCLASSIFIED};

use super::fields::{self, Recipient};
use super::mail::Mail;
use super::{DsnAction, RECIPIENTS_MAX, RecipientStatus, ReportError, said};
use transcript::Transcript;

/// Entries from the fields of RFC 3464, completed by the words that stand beside them.
pub fn from_fields(mail: &Mail, blocks: &str) -> Result<Vec<RecipientStatus>, ReportError> {
    let status = fields::delivery_status(blocks)?;
    let words = said::before_status_fields(&mail.words);
    let transcript = Transcript::read(words);
    let named: Vec<&str> = status.recipients.iter().filter_map(address).collect();
    let single = status.recipients.len() == 1;
    let entries = status.recipients.iter().map(|recipient| {
        let about = address(recipient).map(|address| paragraph(words, address, &named));
        let about = about.map(|text| said::above_footer(&text).to_owned());
        let about = about.filter(|text| said::is_informative(text) && !said::is_placeholder(text));
        let from_transcript = transcript.of(address(recipient));
        let (text, diagnosed) =
            words_of(recipient, about.as_deref(), from_transcript.as_ref(), words, single);
        let text = said::from_reply(&text).to_owned();
        let (code, quoted) = said::codes_in(&text);
        let told = recipient.status.as_deref().and_then(sendlake_sql::rules::status_in);
        let command = from_transcript
            .and_then(|line| line.command)
            .or_else(|| about.as_deref().and_then(said::command_in))
            .or_else(|| if single { said::command_in(words) } else { None })
            .or_else(|| recipient.diagnostic.as_ref().and_then(|(_, text)| said::command_in(text)));
        RecipientStatus {
            action: recipient.action.unwrap_or_default(),
            recipient: address(recipient).map(str::to_owned),
            original_recipient: recipient
                .original_recipient
                .clone()
                .filter(|original| address(recipient) != Some(original)),
            status: better_status(quoted, told, diagnosed),
            reply_code: code,
            smtp_command: command.map(str::to_owned),
            text,
            remote_mta: recipient.remote_mta.clone(),
            reporting_mta: status.reporting_mta.clone(),
            original_message_id: mail.original.message_id.clone(),
        }
    });
    Ok(entries.collect())
}

/// Entries from words alone. Empty when they name nobody and say nothing.
pub fn from_words(mail: &Mail) -> Result<Vec<RecipientStatus>, ReportError> {
    let transcript = Transcript::read(&mail.words);
    let recipients = recipients_in(mail, &transcript);
    if recipients.len() > RECIPIENTS_MAX {
        return Err(ReportError::TooManyRecipients);
    }
    let named: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let mut entries: Vec<RecipientStatus> = Vec::new();
    for address in &named {
        let line = transcript.of(Some(address));
        let about = telling_paragraph(&mail.words, address, &named);
        let about = if mail.is_from_a_list() {
            mail.words.clone()
        } else {
            or_at_large(or_routine(about, &mail.words), mail, &named)
        };
        let line = line.filter(|line| said::is_informative(&line.text));
        let command = match &line {
            Some(line) if line.in_session => line.command,
            Some(line) => line.command.or_else(|| said::command_in(&about)),
            None => said::command_in(&about),
        };
        let text = line.map_or(about, |line| line.text);
        entries.push(entry(mail, Some((*address).to_owned()), said::from_reply(&text), command));
    }
    if entries.is_empty() && said::is_informative(&mail.words) {
        let line = transcript.of(None);
        let command = line.as_ref().and_then(|line| line.command).or_else(|| said::command_in(&mail.words));
        let text = line.map(|line| line.text).filter(|text| said::is_informative(text));
        let recipient = mail.original.to.first().cloned();
        let text = text.as_deref().unwrap_or(&mail.words);
        entries.push(entry(mail, recipient, said::from_reply(text), command));
    }
    Ok(entries)
}

fn entry(mail: &Mail, recipient: Option<String>, text: &str, command: Option<&str>) -> RecipientStatus {
    let text = said::tidy(text);
    let (reply_code, status) = said::codes_in(&text);
    RecipientStatus {
        action: if is_delay(mail) { DsnAction::Delayed } else { DsnAction::Failed },
        recipient,
        original_recipient: None,
        status,
        reply_code,
        smtp_command: command.map(str::to_owned),
        text,
        remote_mta: None,
        reporting_mta: None,
        original_message_id: mail.original.message_id.clone(),
    }
}

/// Whether the words say that the message is still being tried.
fn is_delay(mail: &Mail) -> bool {
    let subject = mail.subject.to_lowercase();
    let words = mail.words.to_lowercase();
    let warns = subject.contains("warning") && !words.contains("unknown") && !words.contains("no such");
    warns
        || ["delay", "still being retried"].iter().any(|word| subject.contains(word))
        || [
            "warning message only",
            "only a temporary failure",
            "will be retried",
            "has been delayed",
            "will keep trying",
        ]
        .iter()
        .any(|phrase| words.contains(phrase))
}

/// The final recipient, unless only the original one is an address of the Internet.
fn address(recipient: &Recipient) -> Option<&str> {
    let told = || {
        let told = [&recipient.final_recipient, &recipient.original_recipient];
        told.into_iter().flatten().map(String::as_str).filter(|address| !address.is_empty())
    };
    told().find(|address| address.contains('@')).or_else(|| told().next())
}

/// What was said about a recipient, and whether it is the report's own diagnosis.
fn words_of(
    recipient: &Recipient,
    about: Option<&str>,
    line: Option<&transcript::Line>,
    words: &str,
    single: bool,
) -> (String, bool) {
    let diagnosis = recipient.diagnostic.as_ref().map(|(_, text)| said::tidy(text));
    let diagnosis = diagnosis.filter(|text| said::is_informative(text) && !said::is_placeholder(text));
    let line = line.map(|line| said::tidy(&line.text)).filter(|text| said::is_informative(text));
    if let Some(diagnosis) = diagnosis {
        // sendmail tells the first line of a reply only; its transcript has them all
        return match line.filter(|line| line.len() > diagnosis.len() && line.starts_with(&diagnosis)) {
            Some(line) => (line, true),
            None => (diagnosis, true),
        };
    }
    if let Some(line) = line {
        return (line, true);
    }
    // words at large are about anything; a status that says something does better alone
    let status = recipient.status.as_deref().and_then(sendlake_sql::rules::status_in);
    let says_enough = status.is_some_and(|status| !status.ends_with(".0") && !status.starts_with('2'));
    if let Some(about) = about {
        let at_large = single && !says_enough && !tells_why(about) && tells_why(words);
        return (said::tidy(if at_large { words } else { about }), false);
    }
    let comment = recipient.status.as_deref().and_then(|status| status.split_once('('));
    if let Some((_, comment)) = comment.filter(|(_, comment)| said::is_informative(comment)) {
        return (said::tidy(comment.trim_end_matches(')')), false);
    }
    (if single && !says_enough { said::tidy(words) } else { String::new() }, false)
}

/// The status that a remote server gave counts more than what the reporting one made of it, unless it says nothing.
fn better_status(quoted: Option<String>, told: Option<String>, diagnosed: bool) -> Option<String> {
    let empty = |status: &String| status.ends_with(".0.0");
    match (quoted, told) {
        (Some(quoted), Some(told)) if empty(&quoted) || (!diagnosed && !empty(&told)) => Some(told),
        (Some(quoted), _) => Some(quoted),
        (None, told) => told,
    }
}

/// Whom the words speak of.
fn recipients_in(mail: &Mail, transcript: &Transcript) -> Vec<String> {
    if !mail.failed_recipients.is_empty() {
        return mail.failed_recipients.clone();
    }
    let own = |address: &str| {
        mail.to.iter().any(|to| to.eq_ignore_ascii_case(address))
            || mail.from.split(' ').next().is_some_and(|from| from.eq_ignore_ascii_case(address))
    };
    let mut at_front: Vec<String> = Vec::new();
    let mut elsewhere: Vec<String> = Vec::new();
    let mut names_the_sender = false;
    for line in mail.words.lines() {
        let addresses = said::addresses_in(line);
        let Some(first) = addresses.first() else {
            names_the_sender = line.trim_end().to_lowercase().ends_with("sent by");
            continue;
        };
        if std::mem::take(&mut names_the_sender) {
            continue;
        }
        let list = if begins_with(line, first) { &mut at_front } else { &mut elsewhere };
        for address in addresses.iter().take(if begins_with(line, first) { 1 } else { usize::MAX }) {
            if !own(address) && !list.iter().any(|known| known.eq_ignore_ascii_case(address)) {
                list.push(address.clone());
            }
        }
    }
    let told = transcript.recipients();
    if !told.is_empty() {
        return told;
    }
    if !at_front.is_empty() {
        return at_front;
    }
    let helpers = ["postmaster@", "support@", "abuse@", "help@", "helpdesk@", "mailer-daemon@", "admin@"];
    let person = elsewhere
        .iter()
        .find(|address| !helpers.iter().any(|helper| address.to_lowercase().starts_with(helper)));
    person.or(elsewhere.first()).cloned().into_iter().collect()
}

/// Whether a line opens with that address, bare or dressed as lists of recipients have it.
fn begins_with(line: &str, address: &str) -> bool {
    let before = line.split(address).next().unwrap_or_default().trim().to_lowercase();
    let before = before.trim_matches(['<', '"', '\'', '*', '-', '>', ' ', '#', '(', '\t']);
    matches!(
        before,
        "" | "recipient:"
            | "rcpt to:"
            | "to address:"
            | "recipient address:"
            | "addressed to:"
            | "failed recipient:"
            | "address:"
    )
}

/// The first part that speaks of an address and says something that the rules know, else the first one. An address may
/// be named in a list, and again where its fate is told.
fn telling_paragraph(words: &str, address: &str, named: &[&str]) -> String {
    let lower = address.to_lowercase();
    let first = paragraph(words, address, named);
    let mut rest = words;
    for _ in 0..4 {
        let line = rest.split_inclusive('\n').position(|line| line.to_lowercase().contains(&lower));
        let Some(line) = line else { break };
        let about = paragraph(rest, address, named);
        if tells_why(&about) {
            return about;
        }
        let passed: usize = rest.split_inclusive('\n').take(line + 1).map(str::len).sum();
        rest = rest.get(passed..).unwrap_or_default();
    }
    first
}

/// The part of the words that speaks of one of `named`: from the line that names it to the end of its paragraph, or
/// of the next one where its own says nothing; where it stands amid a sentence, to the end of the words.
fn paragraph(words: &str, address: &str, named: &[&str]) -> String {
    let lower = address.to_lowercase();
    let others: Vec<String> =
        named.iter().map(|other| other.to_lowercase()).filter(|other| *other != lower).take(50).collect();
    let mut lines = words.lines().skip_while(|line| !line.to_lowercase().contains(&lower));
    let Some(first) = lines.next() else { return String::new() };
    let at_front = begins_with(first, address) || begins_with(&first.to_lowercase(), &lower);
    let mut about = first.to_owned();
    for line in lines {
        if others.iter().any(|other| line.to_lowercase().contains(other)) {
            break;
        }
        if is_routine(line) {
            continue;
        }
        // a line that ends with a colon announces what comes after the empty one
        let announces = about.trim_end().ends_with(':');
        if at_front && line.trim().is_empty() && said::is_informative(&about) && !announces {
            break;
        }
        about.push('\n');
        about.push_str(line);
    }
    about
}

/// What a server says in every report, whatever happened.
const ROUTINE: [&str; 8] = [
    "i'm not going to try again; this message has been in the queue too long.",
    "i've given up. sorry it didn't work out.",
    "giving up on ",
    "please note that this is only a temporary failure report.",
    "this is a permanent error",
    "no further delivery attempts will be made",
    "message will be retried for ",
    "remote system: ",
];

fn is_routine(line: &str) -> bool {
    let line = line.trim().to_lowercase();
    ROUTINE.iter().any(|routine| line.starts_with(routine))
}

/// Whether a text quotes a reply, or says something that the rules know.
fn tells_why(text: &str) -> bool {
    let said = Said { text, ..Said::default() };
    said::codes_in(text).0.is_some()
        || (said::is_informative(text) && Ruleset::current().classify(&said).rule != UNCLASSIFIED)
}

/// The part about a recipient, unless it says nothing that the rules know: then what stands above the first recipient,
/// and for a single one all words.
fn or_at_large(about: String, mail: &Mail, named: &[&str]) -> String {
    if tells_why(&about) {
        return about;
    }
    let names_one = |line: &&str| {
        let line = line.to_lowercase();
        named.iter().any(|address| line.contains(&address.to_lowercase()))
    };
    let above = mail.words.lines().take_while(|line| !names_one(line));
    let above: Vec<&str> = above.filter(|line| !is_routine(line)).collect();
    let above = above.join("\n");
    match named.len() {
        _ if tells_why(&above) => above,
        1 if tells_why(&mail.words) => mail.words.clone(),
        _ => about,
    }
}

/// The part without routine; where there is nothing else, routine is what happened.
fn or_routine(about: String, words: &str) -> String {
    if said::is_informative(&about) { about } else { words.to_owned() }
}
