//! From a query's rows to what is posted for each, and which of them are due. Pure.

use std::collections::{HashMap, HashSet};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use sendlake_control::clock::Timestamp;
use sendlake_control::reverse::ReverseRow;
use serde_json::Value;

use super::settings::{ReverseSettings, Shape};
use super::template::{Template, Text, as_text};
use super::{Row, Rows, shape};

/// Values of fewer characters are not taken for what a message quotes.
const QUOTED_CHARS_MIN: usize = 3;

/// What is posted for a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub key: String,
    /// Names the record in the ledger, and tells nobody its key.
    pub key_hash: String,
    /// Another one when what is posted is another.
    pub row_hash: String,
    /// Its part of the request's body.
    pub body: Value,
    /// Where to.
    pub url: String,
    row: Row,
}

impl Record {
    /// A message of the destination without the row's values: it is kept, and the row may be of a person.
    pub fn redact(&self, said: &str) -> String {
        let mut said = said.to_owned();
        let mut values: Vec<(&String, String)> =
            self.row.iter().map(|(name, value)| (name, as_text(value))).collect();
        values.sort_by_key(|(_, value)| std::cmp::Reverse(value.len()));
        for (name, value) in values {
            if value.chars().count() >= QUOTED_CHARS_MIN && !matches!(value.as_str(), "true" | "false") {
                said = replace_whole(&said, &value, &format!("{{{name}}}"));
                said = replace_whole(&said, &value.to_lowercase(), &format!("{{{name}}}"));
            }
        }
        said
    }
}

/// Makes records of rows.
pub struct Records {
    pub settings: ReverseSettings,
    row: Option<Template>,
    url: Text,
    key: hmac::Key,
}

/// A query's rows as records.
#[derive(Debug, Default)]
pub struct Made {
    pub records: Vec<Record>,
    /// Rows whose key is null or empty: there is no record to name.
    pub without_key: u64,
}

impl Records {
    /// `key` is the installation's for this connector.
    pub fn new(settings: &ReverseSettings, key: &[u8]) -> Result<Self, String> {
        Ok(Self {
            row: settings.row.as_ref().map(Template::parse).transpose()?,
            url: Text::parse(&shape::address(settings))?,
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            settings: settings.clone(),
        })
    }

    /// What is posted for each row; or why the query does not fit the settings.
    pub fn make(&self, rows: &Rows) -> Result<Made, String> {
        let settings = &self.settings;
        if rows.truncated {
            return Err(format!(
                "the query gives more than {} rows, and nothing was posted: narrow it down, or raise `rows_max` (and sql.rows_max, which bounds every query)",
                rows.rows.len()
            ));
        }
        let needed = self.row.iter().flat_map(Template::columns).chain(self.url.columns());
        for (what, column) in
            needed.map(|name| ("a template", name)).chain([("`key`", settings.key.as_str())])
        {
            if !rows.columns.iter().any(|known| known == column) {
                let known = rows.columns.join(", ");
                return Err(format!(
                    "{what} names the column {column:?}, which the query does not give; it gives {known}"
                ));
            }
        }
        let mut made = Made::default();
        let mut seen = HashSet::new();
        let mut repeated = 0_u64;
        for row in &rows.rows {
            let key = row.get(&settings.key).map(as_text).unwrap_or_default();
            if key.is_empty() {
                made.without_key += 1;
                continue;
            }
            let record = self.record(key, row);
            repeated += u64::from(!seen.insert(record.key_hash.clone()));
            made.records.push(record);
        }
        if repeated > 0 {
            return Err(format!(
                "the query gives {repeated} rows whose `{}` another row has, so that nobody can say which is right: group by it",
                settings.key
            ));
        }
        Ok(made)
    }

    fn record(&self, key: String, row: &Row) -> Record {
        let settings = &self.settings;
        let key_hash = self.hash(&[b"key", key.as_bytes()]);
        let body = match &self.row {
            Some(template) => template.render(row),
            None => {
                let keeps_key = settings.shape == Shape::Custom;
                let others = row.iter().filter(|(name, _)| keeps_key || **name != settings.key);
                Value::Object(others.map(|(name, value)| (name.clone(), value.clone())).collect())
            }
        };
        let body = shape::wrap(settings, &key, &key_hash, body);
        let url = self.url.with(|name| escaped(&row.get(name).map(as_text).unwrap_or_default()));
        let text = body.to_string();
        let row_hash = self.hash(&[b"row", settings.method.as_bytes(), url.as_bytes(), text.as_bytes()]);
        Record { key, key_hash, row_hash, body, url, row: row.clone() }
    }

    fn hash(&self, parts: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(part);
        }
        HEXLOWER.encode(context.sign().as_ref()).chars().take(32).collect()
    }
}

/// Whether a record is to be posted: it was never sent as it is now, and it is not one that was refused a short while ago.
pub fn is_due(record: &Record, known: &HashMap<&str, &ReverseRow>, now: Timestamp) -> bool {
    let Some(known) = known.get(record.key_hash.as_str()) else { return true };
    if known.row_hash.as_ref() == Some(&record.row_hash) {
        return false;
    }
    let is_the_refused = known.refused_hash.as_ref() == Some(&record.row_hash);
    !is_the_refused || known.retry_at.is_none_or(|at| at <= now.0)
}

/// Names the request of these rows: the same rows have the same.
pub fn batch_id(ledger: &str, records: &[Record]) -> String {
    let mut text = format!("reverse 1|{ledger}");
    for record in records {
        text.push('|');
        text.push_str(&record.row_hash);
    }
    HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref()).chars().take(32).collect()
}

/// Replaces a text where it is not part of a longer word.
fn replace_whole(text: &str, wanted: &str, with: &str) -> String {
    let mut replaced = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(wanted) {
        let is_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let is_part = is_word(before.chars().next_back().or_else(|| replaced.chars().next_back()))
            || is_word(after.chars().next());
        replaced.push_str(before);
        replaced.push_str(if is_part { wanted } else { with });
        rest = after;
    }
    replaced.push_str(rest);
    replaced
}

/// A value as one segment of a path, or part of a query: no character of it ends either.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => escaped.push(char::from(byte)),
            // A segment of dots alone would be resolved away; escaped dots are too, so these are escaped twice.
            b'.' if text.bytes().all(|byte| byte == b'.') => escaped.push_str("%252E"),
            b'.' => escaped.push('.'),
            byte => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
