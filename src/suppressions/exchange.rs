//! Lists of suppressions as files: ours, and those that other senders give and take.
//!
//! - `record`: any of these files as records with named fields, one at a time · `meaning`: what a record says, by format
//! - `write`: the same the other way

mod meaning;
mod record;
mod write;

use std::fmt;
use std::io::{BufRead, Read};

use sendlake_control::clock::Timestamp;
use sendlake_control::suppression::{Reach, Reason, Suppression};
use serde::{Deserialize, Serialize};

pub use self::write::Writer;

/// Whose form a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListFormat {
    /// Ours: a header line, then address, reason, reach, since, until, note, actor, event_id; or addresses alone.
    Csv,
    /// Ours: one JSON object per line with the same fields.
    Ndjson,
    /// Amazon SES: ListSuppressedDestinations (JSON), or the CSV and JSON lines of an import job.
    Ses,
    /// SendGrid: bounces, spam reports and unsubscribes, as CSV or JSON.
    Sendgrid,
    /// Mailgun: bounces, complaints and unsubscribes, as CSV or JSON.
    Mailgun,
    /// Postmark: the suppression dump of a message stream (JSON), or CSV.
    Postmark,
    /// SparkPost: the suppression list, as CSV or JSON.
    Sparkpost,
}

impl ListFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            ListFormat::Csv => "csv",
            ListFormat::Ndjson => "ndjson",
            ListFormat::Ses => "ses",
            ListFormat::Sendgrid => "sendgrid",
            ListFormat::Mailgun => "mailgun",
            ListFormat::Postmark => "postmark",
            ListFormat::Sparkpost => "sparkpost",
        }
    }
}

impl fmt::Display for ListFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One suppression of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub address: String,
    pub reason: Reason,
    pub reach: Reach,
    /// When it began, where the file says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<uuid::Uuid>,
}

/// An entry of the list for a file; none for a tombstone.
pub fn entry_of(row: Suppression) -> Option<Entry> {
    Some(Entry {
        address: row.address?,
        reason: row.reason,
        reach: row.reach,
        since: Some(row.since),
        until: row.expires_at,
        note: row.note,
        actor: Some(row.actor),
        event_id: Some(row.event_id),
    })
}

/// How far a reason reaches, where nothing else is said.
pub fn reach_of(reason: Reason) -> Reach {
    match reason {
        Reason::Unsubscribe | Reason::ColdOptOut | Reason::Complaint => Reach::Bulk,
        Reason::HardBounce | Reason::FullMailbox | Reason::Manual => Reach::Tenant,
        Reason::Legal => Reach::Global,
    }
}

/// What one record of a file came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordRead {
    Entry(Entry),
    /// It says nothing of a person that a suppression could follow from, and why.
    Skipped(String),
    /// It cannot be understood, and why.
    Bad(String),
}

/// Where in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Line(u64),
    /// Of a JSON document, counted from one.
    Item(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(line) => write!(f, "line {line}"),
            Place::Item(item) => write!(f, "entry {item}"),
        }
    }
}

/// The file as a whole cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableList {
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}; name the format with --format")]
    Unknown(String),
    #[error("{0}")]
    Shape(String),
}

/// Hands every record of a file to `each`, in order, holding one at a time; stops where `each` says no. `reason` stands
/// for records whose file does not say why. Returns the format, found out where none was named.
pub fn read(
    file: impl Read,
    format: Option<ListFormat>,
    reason: Option<Reason>,
    each: &mut dyn FnMut(Place, RecordRead) -> bool,
) -> Result<ListFormat, UnreadableList> {
    let mut file = std::io::BufReader::with_capacity(record::HEAD_BYTES, file);
    let head = file.fill_buf()?.to_vec();
    let shape = record::Shape::of(&head)?;
    let format = match format {
        Some(format) => format,
        None => meaning::format_of(&shape).ok_or_else(|| {
            let fields = shape.fields.join(", ");
            UnreadableList::Unknown(format!("no known list has the fields {fields}"))
        })?,
    };
    let mut is_empty = true;
    record::each(file, &shape, &mut |place, record| {
        is_empty = false;
        each(place, record.map_or_else(RecordRead::Bad, |record| meaning::of(format, &record, reason)))
    })?;
    if is_empty {
        return Err(nothing_in_it());
    }
    Ok(format)
}

/// A file with something in it that comes to no record is not the list that somebody meant.
fn nothing_in_it() -> UnreadableList {
    UnreadableList::Shape("there is no record in it: a header line alone, or no list that is known".into())
}

/// Hands over the address of each record of a file, as it stands there, and where; `Err` for a record without one. Stops
/// where `each` says no.
pub fn read_addresses(
    file: impl Read,
    format: Option<ListFormat>,
    each: &mut dyn FnMut(Place, Result<String, String>) -> bool,
) -> Result<(), UnreadableList> {
    let mut file = std::io::BufReader::with_capacity(record::HEAD_BYTES, file);
    let head = file.fill_buf()?.to_vec();
    let shape = record::Shape::of(&head)?;
    if format.is_none() && !meaning::names_addresses(&shape) {
        let fields = shape.fields.join(", ");
        return Err(UnreadableList::Unknown(format!("none of the fields {fields} holds an address")));
    }
    let mut is_empty = true;
    record::each(file, &shape, &mut |place, record| {
        is_empty = false;
        let address = record.map_err(|why| format!("{place}: {why}")).and_then(|record| {
            let address = record.get(&meaning::ADDRESS).map(str::to_owned);
            address.ok_or_else(|| format!("{place}: it has no address"))
        });
        each(place, address)
    })?;
    if is_empty { Err(nothing_in_it()) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
