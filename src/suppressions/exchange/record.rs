//! A file as records with named fields, one at a time: CSV with or without a header line, JSON lines, or a JSON document
//! with one list in it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::BufRead;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::{Place, UnreadableList};

/// What of a file is looked at to find out its form.
pub(super) const HEAD_BYTES: usize = 64 << 10;
/// Longest line.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Fields by their names in lower case, without signs between words: `EmailAddress` and `email_address` are one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record(BTreeMap<String, String>);

impl Record {
    /// The first of these fields that is there and not empty.
    pub fn get(&self, names: &[&str]) -> Option<&str> {
        names
            .iter()
            .find_map(|name| self.0.get(*name))
            .map(|text| text.trim())
            .filter(|text| !text.is_empty())
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn of_json(value: Value) -> Result<Self, String> {
        match value {
            Value::Object(fields) => {
                Ok(Self(fields.into_iter().map(|(name, value)| (plain(&name), text_of(value))).collect()))
            }
            Value::String(address) => Ok(Self(BTreeMap::from([("address".to_owned(), address)]))),
            other => Err(format!("{} is no object", short(&other.to_string()))),
        }
    }
}

fn text_of(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

pub(super) fn short(text: &str) -> String {
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Csv { header: bool },
    Lines,
    Document,
}

/// The form of a file, by its beginning.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    kind: Kind,
    /// Names of fields, plain; without a header line none.
    pub fields: Vec<String>,
    /// The name of the list in a JSON document.
    pub list: String,
    /// The second field of the first line of a CSV without a header.
    pub second: Option<String>,
}

impl Shape {
    pub fn of(head: &[u8]) -> Result<Self, UnreadableList> {
        let text = String::from_utf8_lossy(head);
        let text = text.trim_start_matches('\u{feff}').trim_start();
        if text.is_empty() {
            return Err(UnreadableList::Shape("the file is empty".into()));
        }
        if text.starts_with(['{', '[']) { Ok(Self::of_json(text)) } else { Self::of_csv(text) }
    }

    /// Whether its records are objects.
    pub fn is_json(&self) -> bool {
        !matches!(self.kind, Kind::Csv { .. })
    }

    fn of_json(text: &str) -> Self {
        let first = text.lines().next().unwrap_or_default();
        if let Ok(Value::Object(fields)) = serde_json::from_str(first)
            && !fields.values().any(Value::is_array)
        {
            let fields = fields.keys().map(|name| plain(name)).collect();
            return Self { kind: Kind::Lines, fields, list: String::new(), second: None };
        }
        // the head may end in the middle of the document: names are looked for in the text
        let list = if text.starts_with('[') {
            String::new()
        } else {
            let before = text.split('[').next().unwrap_or_default();
            plain(before.rsplit('"').nth(1).unwrap_or_default())
        };
        let item = text.split('{').nth(if text.starts_with('[') { 1 } else { 2 }).unwrap_or_default();
        let item = item.split('}').next().unwrap_or_default();
        let fields = item.split("\":").filter_map(|part| part.rsplit('"').next()).map(plain);
        Self { kind: Kind::Document, fields: fields.collect(), list, second: None }
    }

    fn of_csv(text: &str) -> Result<Self, UnreadableList> {
        let mut reader =
            csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
        let mut first = csv::StringRecord::new();
        let read = reader.read_record(&mut first);
        read.map_err(|error| UnreadableList::Shape(error.to_string()))?;
        let header = !first.iter().any(|field| field.contains('@'));
        let fields = if header { first.iter().map(plain).collect() } else { Vec::new() };
        let second = first.get(1).filter(|_| !header).map(|field| field.trim().to_owned());
        Ok(Self { kind: Kind::Csv { header }, fields, list: String::new(), second })
    }
}

type Each<'a> = &'a mut dyn FnMut(Place, Result<Record, String>) -> bool;

pub(super) fn each(file: impl BufRead, shape: &Shape, each: Each<'_>) -> Result<(), UnreadableList> {
    match shape.kind {
        Kind::Csv { header } => each_row(file, header, each),
        Kind::Lines => each_line(file, each),
        Kind::Document => each_item(file, each),
    }
}

fn each_row(mut file: impl BufRead, header: bool, each: Each<'_>) -> Result<(), UnreadableList> {
    let mut names: Vec<String> = ["address", "reason"].map(str::to_owned).to_vec();
    let (mut text, mut next, mut is_first) = (Vec::new(), 1, true);
    loop {
        let line = next;
        text.clear();
        // a quoted field may hold line ends
        let mut whole = false;
        while !whole && text.len() <= LINE_BYTES_MAX {
            let before = text.len();
            let mut limited = std::io::Read::take(&mut file, LINE_BYTES_MAX as u64 + 1);
            if limited.read_until(b'\n', &mut text)? == 0 {
                break;
            }
            if text.last() == Some(&b'\n') {
                next += 1;
            } else if text.len() - before > LINE_BYTES_MAX {
                file.skip_until(b'\n')?;
                next += 1;
            }
            whole = !is_open(&text);
        }
        if text.is_empty() {
            return Ok(());
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let record = if text.len() > LINE_BYTES_MAX {
            Err("it is longer than 64 KiB, or a quote in it does not end".to_owned())
        } else {
            fields_of(&text)
        };
        let fields = match record {
            Ok(fields) if header && std::mem::take(&mut is_first) => {
                names = fields.iter().map(|name| plain(name)).collect();
                continue;
            }
            record => record,
        };
        let record = fields.map(|fields| Record(names.iter().cloned().zip(fields).collect()));
        if !each(Place::Line(line), record) {
            return Ok(());
        }
    }
}

/// Whether a quoted field has begun in this text and not ended.
fn is_open(text: &[u8]) -> bool {
    let (mut quoted, mut at_start) = (false, true);
    for octet in text {
        match (quoted, *octet) {
            // two quotes within a field close and open it
            (true, b'"') => (quoted, at_start) = (false, true),
            (true, _) => {}
            (false, b'"') if at_start => (quoted, at_start) = (true, false),
            (false, octet) => at_start = octet == b',',
        }
    }
    quoted
}

fn fields_of(text: &[u8]) -> Result<Vec<String>, String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(text.len().max(64))
        .from_reader(text);
    let mut row = csv::ByteRecord::new();
    reader.read_byte_record(&mut row).map_err(|error| error.to_string())?;
    let field = |field| String::from_utf8_lossy(field).trim_start_matches('\u{feff}').to_owned();
    Ok(row.iter().map(field).collect())
}

fn each_line(mut file: impl BufRead, each: Each<'_>) -> Result<(), UnreadableList> {
    let (mut line, mut number) = (Vec::new(), 0);
    loop {
        line.clear();
        let mut limited = std::io::Read::take(&mut file, LINE_BYTES_MAX as u64 + 1);
        if limited.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        number += 1;
        let record = if line.len() > LINE_BYTES_MAX {
            if line.last() != Some(&b'\n') {
                file.skip_until(b'\n')?;
            }
            Err("the line is longer than 64 KiB".to_owned())
        } else if line.trim_ascii().is_empty() {
            continue;
        } else {
            serde_json::from_slice(&line)
                .map_err(|error| format!("it is no JSON: {error}"))
                .and_then(Record::of_json)
        };
        if !each(Place::Line(number), record) {
            return Ok(());
        }
    }
}

/// Several documents may stand one after the other: pages of an API.
fn each_item(mut file: impl BufRead, each: Each<'_>) -> Result<(), UnreadableList> {
    let mut items = Items { each, number: 0, stopped: false };
    loop {
        let rest = file.fill_buf()?;
        let spaces = rest.iter().take_while(|octet| octet.is_ascii_whitespace()).count();
        if rest.is_empty() || items.stopped {
            return Ok(());
        }
        if spaces > 0 {
            file.consume(spaces);
            continue;
        }
        let mut document = serde_json::Deserializer::from_reader(&mut file);
        if let Err(error) = ListSeed(&mut items).deserialize(&mut document)
            && !items.stopped
        {
            return Err(UnreadableList::Shape(format!("after entry {}: {error}", items.number)));
        }
    }
}

struct Items<'a> {
    each: Each<'a>,
    number: u64,
    stopped: bool,
}

struct ListSeed<'a, 'b>(&'a mut Items<'b>);

impl<'de> DeserializeSeed<'de> for ListSeed<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ListSeed<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list, or an object with a list in it")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(item) = list.next_element::<Value>()? {
            self.0.number += 1;
            if !(self.0.each)(Place::Item(self.0.number), Record::of_json(item)) {
                self.0.stopped = true;
                return Err(serde::de::Error::custom("stopped"));
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        const LISTS: [&str; 5] =
            ["suppresseddestinationsummaries", "items", "suppressions", "results", "entries"];
        while let Some(name) = fields.next_key::<String>()? {
            if LISTS.contains(&plain(&name).as_str()) {
                fields.next_value_seed(ListSeed(&mut *self.0))?;
            } else {
                fields.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}
