//! A file as records with named fields, one at a time: CSV with or without a header line, JSON lines, or a JSON document
//! with one list in it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::BufRead;

use sendlake_sender::address::Address;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::meaning::ADDRESS;
use super::{Place, UnreadableList};

/// What of a file is looked at to find out its form.
pub(super) const HEAD_BYTES: usize = 64 << 10;
/// Longest line.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Most lines that one record goes on over: what a forgotten quote costs to look at, line after line.
const SPANNED_LINES_MAX: usize = 100;

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
        let first = text.split(['\r', '\n']).next().unwrap_or_default();
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

/// A quoted field may hold line ends, where its quote closes before a separator or a line end and none of the lines
/// has an address of its own. Otherwise the first line is bad, and the next one is a record again: a quote that
/// somebody forgot must not swallow the addresses after it.
fn each_row(file: impl BufRead, header: bool, each: Each<'_>) -> Result<(), UnreadableList> {
    let mut names: Vec<String> = ["address", "reason"].map(str::to_owned).to_vec();
    let mut lines = Lines::new(file);
    let mut is_first = true;
    while let Some((line, mut text)) = lines.next()? {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let mut record = if text.len() > LINE_BYTES_MAX { Err(TOO_LONG.to_owned()) } else { Ok(()) };
        let (mut further, mut quoting) = (Vec::new(), Quoting::default());
        quoting.goes_on(&text);
        while record.is_ok() && quoting.is_open {
            let Some((number, next)) = lines.next()? else {
                record = Err(OPEN.to_owned());
                break;
            };
            text.extend_from_slice(&next);
            quoting.goes_on(&next);
            let is_large = text.len() > LINE_BYTES_MAX || further.len() == SPANNED_LINES_MAX;
            if is_large || quoting.is_astray || has_address(&names, &next) {
                record = Err(OPEN.to_owned());
            }
            further.push((number, next));
        }
        if record.is_err() {
            lines.back(further);
        }
        let fields = match record.and_then(|()| fields_of(&text)) {
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
    Ok(())
}

const TOO_LONG: &str = "it is longer than 64 KiB";
const OPEN: &str = "a quote in it does not end before a comma or a line end within 64 KiB and 100 lines, or lines with addresses come \
    before that; the next line is read as a record of its own";

/// Whether this line alone has an address where records have theirs.
fn has_address(names: &[String], line: &[u8]) -> bool {
    let Ok(fields) = fields_of(line) else { return false };
    let record = Record(names.iter().cloned().zip(fields).collect());
    record.get(&ADDRESS).is_some_and(|address| Address::parse(address.trim_matches('"')).is_ok())
}

/// Where a record stands with its quotes, line by line.
struct Quoting {
    /// A quoted field has begun and not ended.
    is_open: bool,
    at_start: bool,
    /// This field has a line end in it.
    spans: bool,
    /// Such a field goes on after its quote.
    is_astray: bool,
}

impl Default for Quoting {
    fn default() -> Self {
        Self { is_open: false, at_start: true, spans: false, is_astray: false }
    }
}

impl Quoting {
    fn goes_on(&mut self, line: &[u8]) {
        for octet in line {
            match (self.is_open, *octet) {
                // two quotes within a field close and open it
                (true, b'"') => (self.is_open, self.at_start) = (false, true),
                (true, octet) => self.spans |= matches!(octet, b'\r' | b'\n'),
                (false, b'"') if self.at_start => (self.is_open, self.at_start) = (true, false),
                (false, octet) => {
                    let is_end = matches!(octet, b',' | b'\r' | b'\n');
                    self.is_astray |= self.spans && self.at_start && !is_end;
                    self.spans &= !is_end;
                    self.at_start = octet == b',';
                }
            }
        }
    }
}

/// Lines with their ends (CR, LF or both) and their numbers, which may be given back.
struct Lines<R> {
    file: R,
    number: u64,
    ahead: VecDeque<(u64, Vec<u8>)>,
}

impl<R: BufRead> Lines<R> {
    fn new(file: R) -> Self {
        Self { file, number: 0, ahead: VecDeque::new() }
    }

    /// The next line; of one that is too long, only so much that this shows.
    fn next(&mut self) -> std::io::Result<Option<(u64, Vec<u8>)>> {
        if let Some(line) = self.ahead.pop_front() {
            return Ok(Some(line));
        }
        let mut line = Vec::new();
        loop {
            let rest = self.file.fill_buf()?;
            let end = rest.iter().position(|octet| matches!(octet, b'\r' | b'\n'));
            let part = rest.get(..end.map_or(rest.len(), |end| end + 1)).unwrap_or_default();
            let (taken, is_cr) = (part.len(), part.ends_with(b"\r"));
            let room = (LINE_BYTES_MAX + 1).saturating_sub(line.len());
            line.extend_from_slice(part.get(..room).unwrap_or(part));
            self.file.consume(taken);
            if is_cr && self.file.fill_buf()?.first() == Some(&b'\n') {
                self.file.consume(1);
                line.push(b'\n');
            }
            if end.is_some() || taken == 0 {
                break;
            }
        }
        if line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some((self.number, line)))
    }

    fn back(&mut self, lines: Vec<(u64, Vec<u8>)>) {
        for line in lines.into_iter().rev() {
            self.ahead.push_front(line);
        }
    }
}

fn fields_of(text: &[u8]) -> Result<Vec<String>, String> {
    let field = |field| String::from_utf8_lossy(field).trim_start_matches('\u{feff}').to_owned();
    if !text.contains(&b'"') {
        // a reader for one row costs far more than the row
        let row = text.trim_ascii_end();
        let fields = row.split(|octet| *octet == b',').map(field);
        return Ok(if row.is_empty() { Vec::new() } else { fields.collect() });
    }
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(text.len().max(64))
        .from_reader(text);
    let mut row = csv::ByteRecord::new();
    reader.read_byte_record(&mut row).map_err(|error| error.to_string())?;
    Ok(row.iter().map(field).collect())
}

fn each_line(file: impl BufRead, each: Each<'_>) -> Result<(), UnreadableList> {
    let mut lines = Lines::new(file);
    while let Some((number, line)) = lines.next()? {
        let record = if line.len() > LINE_BYTES_MAX {
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
    Ok(())
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
