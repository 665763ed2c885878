//! What a record says, by whose file it is in. The forms are those of the vendors' own pages: SES "Using the
//! account-level suppression list", SendGrid's Suppressions API, Mailgun's Suppressions API, Postmark's Suppressions API,
//! SparkPost's Suppression List API.

use sendlake_control::clock::Timestamp;
use sendlake_control::suppression::{Reach, Reason};
use sendlake_sender::address::Address;
use sendlake_sql::rules::{Category, Ruleset, Said as Refusal};

use super::record::{Record, Shape, short};
use super::{Entry, ListFormat, RecordRead, reach_of};

pub(super) const ADDRESS: [&str; 5] = ["address", "email", "emailaddress", "recipient", "recipientemail"];

/// Whether records of this form have addresses.
pub(super) fn names_addresses(shape: &Shape) -> bool {
    shape.fields.is_empty() || shape.fields.iter().any(|field| ADDRESS.contains(&field.as_str()))
}

/// Whose form the fields are.
pub(super) fn format_of(shape: &Shape) -> Option<ListFormat> {
    let has = |name: &str| shape.fields.iter().any(|field| field == name);
    let ses_reason = |text: &str| matches!(text.trim(), "BOUNCE" | "COMPLAINT");
    if shape.list == "suppresseddestinationsummaries" || shape.second.as_deref().is_some_and(ses_reason) {
        return Some(ListFormat::Ses);
    }
    if has("emailaddress") && has("suppressionreason") || shape.list == "suppressions" {
        return Some(ListFormat::Postmark);
    }
    if has("emailaddress") && has("reason") {
        return Some(ListFormat::Ses);
    }
    if has("recipient") && (has("nontransactional") || has("transactional") || has("type") || has("source")) {
        return Some(ListFormat::Sparkpost);
    }
    if has("email") && (has("created") || has("createdat") || has("status") || has("ip")) {
        return Some(ListFormat::Sendgrid);
    }
    if has("address") && (has("createdat") || has("code") || has("error") || has("tags")) {
        return Some(ListFormat::Mailgun);
    }
    let is_one_column = shape.fields.len() == 1 && names_addresses(shape);
    if has("address") || is_one_column || shape.second.is_some() || shape.fields.is_empty() {
        let is_json = shape.is_json();
        return Some(if is_json { ListFormat::Ndjson } else { ListFormat::Csv });
    }
    None
}

/// What one record says. `named` is what the operator named as the reason.
pub(super) fn of(format: ListFormat, record: &Record, named: Option<Reason>) -> RecordRead {
    let Some(address) = record.get(&ADDRESS) else { return RecordRead::Bad("it has no address".into()) };
    let address = match Address::parse(address) {
        Ok(address) => address.to_string(),
        Err(error) => return RecordRead::Bad(format!("{}: {error}", short(address))),
    };
    let said = match format {
        ListFormat::Csv | ListFormat::Ndjson => own(record, named),
        ListFormat::Ses => ses(record, named),
        ListFormat::Sendgrid => sendgrid(record, named),
        ListFormat::Mailgun => mailgun(record, named),
        ListFormat::Postmark => postmark(record, named),
        ListFormat::Sparkpost => sparkpost(record, named),
    };
    match said {
        Ok(said) => RecordRead::Entry(Entry {
            address,
            reason: said.reason,
            reach: said.reach.unwrap_or_else(|| reach_of(said.reason)),
            since: said.since,
            until: said.until,
            note: said.note.map(|note| note.split_whitespace().collect::<Vec<_>>().join(" ")).map(clip),
            actor: said.actor,
            event_id: said.event_id,
        }),
        Err(other) => other,
    }
}

#[derive(Default)]
struct Said {
    reason: Option<Reason>,
    reach: Option<Reach>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    note: Option<String>,
    actor: Option<String>,
    event_id: Option<uuid::Uuid>,
}

fn clip(note: String) -> String {
    note.chars().take(500).collect()
}

fn own(record: &Record, named: Option<Reason>) -> Result<Checked, RecordRead> {
    let reason = match record.get(&["reason"]) {
        Some(word) => Some(word.parse::<Reason>().map_err(RecordRead::Bad)?),
        None => named.or(Some(Reason::Manual)),
    };
    let reach = record.get(&["reach", "scope"]).map(str::parse).transpose().map_err(RecordRead::Bad)?;
    let event_id = record.get(&["eventid"]).map(str::parse).transpose();
    Said {
        reason,
        reach,
        since: instant(record, &["since", "createdat", "created"])?,
        until: instant(record, &["until"])?,
        note: record.get(&["note"]).map(str::to_owned),
        actor: record.get(&["actor"]).map(str::to_owned),
        event_id: event_id.map_err(|error| RecordRead::Bad(format!("event_id: {error}")))?,
    }
    .checked()
}

fn ses(record: &Record, named: Option<Reason>) -> Result<Checked, RecordRead> {
    let reason = match record.get(&["reason"]) {
        Some("BOUNCE") => Some(Reason::HardBounce),
        Some("COMPLAINT") => Some(Reason::Complaint),
        Some(other) => {
            return Err(RecordRead::Bad(format!(
                "the reason {} is neither BOUNCE nor COMPLAINT",
                short(other)
            )));
        }
        None => named,
    };
    Said { reason, since: instant(record, &["lastupdatetime"])?, ..Said::default() }.checked()
}

/// Lists of their own for each kind, told apart by their fields: a bounce has a status, a spam report an address of the
/// reporter's host, an unsubscribe neither.
fn sendgrid(record: &Record, named: Option<Reason>) -> Result<Checked, RecordRead> {
    let status = record.get(&["status"]);
    let list = record.get(&["list", "type"]).map(str::to_ascii_lowercase);
    let reason = match list.as_deref() {
        Some("blocks" | "block") => {
            return Err(RecordRead::Skipped("a block says nothing of the recipient".into()));
        }
        Some("bounces" | "bounce" | "invalid_emails" | "invalid") => Reason::HardBounce,
        Some("spam_reports" | "spamreport" | "spam") => Reason::Complaint,
        Some(_) => Reason::Unsubscribe,
        None if record.has("status") => Reason::HardBounce,
        None if named.is_some() => named.unwrap_or(Reason::Manual),
        None if record.has("ip") => Reason::Complaint,
        None if record.has("reason") => Reason::HardBounce, // of an address that is none
        None => Reason::Unsubscribe,
    };
    if reason == Reason::HardBounce && status.is_some_and(|status| status.starts_with('4')) {
        return Err(RecordRead::Skipped("a bounce of status 4 is not for good".into()));
    }
    let reason = meant(reason, status, None, record.get(&["reason"]))?;
    let note = record.get(&["reason"]).map(|why| match status {
        Some(status) if !why.contains(status) => format!("{status} {why}"),
        _ => why.to_owned(),
    });
    let since = instant(record, &["created", "createdat"])?;
    Said { reason: Some(reason), since, note, ..Said::default() }.checked()
}

/// Three lists as well: a bounce has a code and an error, an unsubscribe has tags.
fn mailgun(record: &Record, named: Option<Reason>) -> Result<Checked, RecordRead> {
    let list = record.get(&["list", "type"]).map(str::to_ascii_lowercase);
    let reason = match list.as_deref() {
        Some("bounces" | "bounce") => Reason::HardBounce,
        Some("complaints" | "complaint") => Reason::Complaint,
        Some("unsubscribes" | "unsubscribe") => Reason::Unsubscribe,
        _ if record.has("code") || record.has("error") => Reason::HardBounce,
        _ if named.is_some() => named.unwrap_or(Reason::Manual),
        _ if record.has("tags") || record.has("tag") => Reason::Unsubscribe,
        _ => Reason::Complaint,
    };
    let (code, error) = (record.get(&["code"]), record.get(&["error"]));
    if reason == Reason::HardBounce && code.is_some_and(|code| code.starts_with('4')) {
        return Err(RecordRead::Skipped("a bounce with a code of 4yz is not for good".into()));
    }
    let reason = meant(reason, None, code, error)?;
    let note = [code, error].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let note = (!note.is_empty()).then_some(note);
    let since = instant(record, &["createdat", "created"])?;
    Said { reason: Some(reason), since, note, ..Said::default() }.checked()
}

fn postmark(record: &Record, named: Option<Reason>) -> Result<Checked, RecordRead> {
    let reason = match (record.get(&["suppressionreason", "reason"]), record.get(&["origin"])) {
        (Some("HardBounce"), _) => Some(Reason::HardBounce),
        (Some("SpamComplaint"), _) => Some(Reason::Complaint),
        (Some("ManualSuppression"), Some("Recipient")) => Some(Reason::Unsubscribe),
        (Some("ManualSuppression"), _) => Some(Reason::Manual),
        (Some(other), _) => return Err(RecordRead::Bad(format!("the reason {} is not known", short(other)))),
        (None, _) => named,
    };
    Said { reason, since: instant(record, &["createdat"])?, ..Said::default() }.checked()
}

/// One entry for each type of mail: `transactional` keeps back all of a tenant's mail here, as no reach is that of
/// transactional mail alone; `non_transactional` only bulk mail, unless a bounce put it there, since what is gone for
/// one type is gone for the other.
fn sparkpost(record: &Record, named: Option<Reason>) -> Result<Checked, RecordRead> {
    let yes = |name: &str| record.get(&[name]).is_some_and(|word| word.eq_ignore_ascii_case("true"));
    let all = yes("transactional") || record.get(&["type"]) == Some("transactional");
    let source = record.get(&["source"]).map(str::to_ascii_lowercase);
    let reason = match source.as_deref() {
        Some("bounce rule") => Reason::HardBounce,
        Some("spam complaint") => Reason::Complaint,
        Some("list unsubscribe" | "unsubscribe link") => Reason::Unsubscribe,
        Some(_) => Reason::Manual,
        None => named.unwrap_or(if all { Reason::Manual } else { Reason::Unsubscribe }),
    };
    let reason = meant(reason, None, None, record.get(&["description"]))?;
    Said {
        reason: Some(reason),
        reach: Some(if all || reason == Reason::HardBounce { Reach::Tenant } else { Reach::Bulk }),
        since: instant(record, &["created", "updated"])?,
        note: record.get(&["description"]).map(str::to_owned),
        ..Said::default()
    }
    .checked()
}

/// What a bounce of another sender's list means by the words of the receiver, where the bounce rules know them: a full
/// mailbox is no gone one, and what was refused because of the sender or the message calls for nothing. Words that no
/// rule knows mean what the list says.
fn meant(
    reason: Reason,
    status: Option<&str>,
    code: Option<&str>,
    words: Option<&str>,
) -> Result<Reason, RecordRead> {
    let Some(text) = words.filter(|_| reason == Reason::HardBounce) else { return Ok(reason) };
    let found = Ruleset::current().classify(&Refusal {
        reply_code: code.and_then(|code| code.parse().ok()),
        // vendors write a general status beside words that say more
        enhanced_status: status.filter(|status| !status.ends_with(".0.0")),
        text,
        ..Refusal::default()
    });
    if found.reason == "mailbox_full" {
        return Ok(Reason::FullMailbox);
    }
    match found.category {
        Category::Unclassified | Category::BadMailbox => Ok(reason),
        // words that alone are no proof, beside a list that says so
        _ if found.reason.starts_with("unknown_user") => Ok(reason),
        _ => Err(RecordRead::Skipped(format!(
            "the bounce says nothing of the recipient: {} ({})",
            found.category, found.reason
        ))),
    }
}

/// What a record says, its reason known.
struct Checked {
    reason: Reason,
    reach: Option<Reach>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    note: Option<String>,
    actor: Option<String>,
    event_id: Option<uuid::Uuid>,
}

impl Said {
    fn checked(self) -> Result<Checked, RecordRead> {
        let Self { reason, reach, since, until, note, actor, event_id } = self;
        let reason =
            reason.ok_or_else(|| RecordRead::Bad("it does not say why: name it with --reason".into()))?;
        Ok(Checked { reason, reach, since, until, note, actor, event_id })
    }
}

/// An instant as vendors write it: RFC 3339, RFC 2822, seconds since the epoch, or a date with a time in UTC.
fn instant(record: &Record, names: &[&str]) -> Result<Option<Timestamp>, RecordRead> {
    let Some(text) = record.get(names) else { return Ok(None) };
    let at = Timestamp::parse(text)
        .or_else(|| text.parse::<f64>().ok().and_then(seconds))
        .or_else(|| rfc2822(text))
        .or_else(|| Timestamp::parse(&format!("{}Z", text.trim_end_matches(" UTC").replacen(' ', "T", 1))))
        .or_else(|| Timestamp::parse(&format!("{text}T00:00:00Z")));
    match at {
        Some(at) => Ok(Some(at)),
        None => Err(RecordRead::Bad(format!("{} is no instant", short(text)))),
    }
}

fn seconds(number: f64) -> Option<Timestamp> {
    // as the vendors give them: of this century or the last
    #[expect(clippy::cast_possible_truncation, reason = "microseconds of an instant below the year 5138")]
    let micros = (number * 1e6) as i64;
    (0.0..1e11).contains(&number).then_some(Timestamp(micros))
}

/// Mailgun writes `Fri, 21 Oct 2011 11:02:55 UTC`, a zone that RFC 2822 calls GMT.
fn rfc2822(text: &str) -> Option<Timestamp> {
    let text = text.trim_end_matches("UTC").trim_end_matches("GMT").trim();
    let text = if text.ends_with(|c: char| c.is_ascii_digit()) && !text.contains(['+']) {
        format!("{text} +0000")
    } else {
        text.to_owned()
    };
    Timestamp::parse_mail(&text)
}
