//! Files of another sender: found, opened whatever compressed them, read piece by piece in bounded memory, and counted.

mod files;

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use serde::Serialize;

pub use self::files::{File, FilesError, files, open};
use super::json::Records;
use super::postfix::Log;
use super::powermta::{Accounting, ROW_LINES_MAX, Row};
use super::{Fact, Setting, Source, facts_of};
use crate::event::Event;

/// Longest line of a log.
const LINE_BYTES_MAX: usize = 1 << 20;
/// Kinds of unmapped records that are told apart; the rest are counted together.
const KINDS_MAX: usize = 100;
/// Faults that are told; all are counted.
const FAULTS_MAX: usize = 20;

/// What was in the files. `read = mapped + unmapped + bad`, each a record of the source, counted once for each
/// recipient that it names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    pub files: u64,
    pub read: u64,
    pub mapped: u64,
    pub unmapped: u64,
    pub bad: u64,
    /// Records without a place in our vocabulary, by what they call themselves.
    pub unmapped_kinds: BTreeMap<String, u64>,
    /// Mapped records by `event_type`.
    pub event_types: BTreeMap<&'static str, u64>,
    /// The first of the bad ones.
    pub faults: Vec<Fault>,
}

/// A record that could not be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    pub file: String,
    /// From 1.
    pub line: u64,
    pub why: String,
}

/// Takes the events as they come; false ends the reading.
pub trait Taker {
    fn take(&mut self, event: Event) -> bool;
}

impl<F: FnMut(Event) -> bool> Taker for F {
    fn take(&mut self, event: Event) -> bool {
        self(event)
    }
}

/// One run over the files of one sender.
pub struct Reading {
    setting: Setting,
    log: Log,
    pub tally: Tally,
}

impl Reading {
    pub fn new(setting: Setting) -> Self {
        Self { setting, log: Log::default(), tally: Tally::default() }
    }

    /// Reads one file to its end, or until `taker` wants no more (then false). What cannot be read is counted as bad.
    pub fn read(&mut self, name: &str, input: impl BufRead, taker: &mut dyn Taker) -> bool {
        self.tally.files += 1;
        let mut counting = Counting { tally: &mut self.tally, file: name, taker };
        match self.setting.source {
            Source::Postfix => counting.lines(input, |text, line, counting| {
                self.log.facts(&self.setting, text).into_iter().all(|fact| counting.fact(fact, line))
            }),
            Source::Powermta => counting.rows(&self.setting, input),
            _ => counting.values(&self.setting, input),
        }
    }
}

struct Counting<'r> {
    tally: &'r mut Tally,
    file: &'r str,
    taker: &'r mut dyn Taker,
}

impl Counting<'_> {
    fn fact(&mut self, fact: Fact, line: u64) -> bool {
        self.tally.read += 1;
        match fact {
            Fact::Event(event) => {
                self.tally.mapped += 1;
                *self.tally.event_types.entry(event.event_type.as_str()).or_default() += 1;
                return self.taker.take(*event);
            }
            Fact::Unmapped(kind) => {
                self.tally.unmapped += 1;
                let kinds = &mut self.tally.unmapped_kinds;
                let kind = if kinds.len() >= KINDS_MAX && !kinds.contains_key(&kind) {
                    "(others)".into()
                } else {
                    kind
                };
                *kinds.entry(kind).or_default() += 1;
            }
            Fact::Bad(why) => {
                self.tally.bad += 1;
                if self.tally.faults.len() < FAULTS_MAX {
                    self.tally.faults.push(Fault { file: self.file.to_owned(), line, why });
                }
            }
        }
        true
    }

    fn unreadable(&mut self, error: &io::Error, line: u64) -> bool {
        self.fact(Fact::Bad(format!("the file cannot be read beyond this: {error}")), line)
    }

    fn values(&mut self, setting: &Setting, input: impl BufRead) -> bool {
        let mut records = Records::new(input);
        loop {
            let record = match records.next() {
                Ok(Some(record)) => record,
                Ok(None) => return true,
                Err(error) => return self.unreadable(&error, records.line()),
            };
            let facts = match record.value() {
                Ok(value) => facts_of(setting, &value),
                Err(why) => vec![Fact::Bad(why)],
            };
            if !facts.into_iter().all(|fact| self.fact(fact, record.line)) {
                return false;
            }
        }
    }

    fn rows(&mut self, setting: &Setting, input: impl BufRead) -> bool {
        let mut accounting = Accounting::default();
        // a row whose quote is open, the line it began on, and how many lines it has
        let mut open: Option<(String, u64, usize)> = None;
        let went_on = self.lines(input, |text, line, counting| {
            let (row, first, lines) = match open.take() {
                Some((row, first, lines)) => (format!("{row}\n{text}"), first, lines + 1),
                None => (text.to_owned(), line, 1),
            };
            match accounting.row(setting, &row) {
                Row::Header => true,
                Row::Fact(fact) => counting.fact(*fact, first),
                Row::Open if lines >= ROW_LINES_MAX || row.len() > LINE_BYTES_MAX => {
                    counting.fact(Fact::Bad("a quote is opened and not closed".into()), first)
                }
                Row::Open => {
                    open = Some((row, first, lines));
                    true
                }
            }
        });
        match open {
            Some((_, first, _)) if went_on => {
                self.fact(Fact::Bad("a quote is opened and not closed".into()), first)
            }
            _ => went_on,
        }
    }

    /// Lines that are not empty, their bytes that are no UTF-8 replaced.
    fn lines(&mut self, mut input: impl BufRead, mut each: impl FnMut(&str, u64, &mut Self) -> bool) -> bool {
        let mut bytes = Vec::new();
        let mut line = 0;
        loop {
            line += 1;
            bytes.clear();
            let goes_on = match next_line(&mut input, &mut bytes) {
                Ok(LineEnd::File) if bytes.is_empty() => return true,
                Ok(LineEnd::TooLong) => {
                    let why = format!("the line is longer than {} MiB", LINE_BYTES_MAX >> 20);
                    self.fact(Fact::Bad(why), line)
                }
                Ok(_) => {
                    let text = String::from_utf8_lossy(&bytes);
                    text.trim().is_empty() || each(&text, line, self)
                }
                Err(error) => return self.unreadable(&error, line),
            };
            if !goes_on {
                return false;
            }
        }
    }
}

enum LineEnd {
    Line,
    File,
    TooLong,
}

/// Reads a line without its end into `bytes`; of one that is too long only the start.
fn next_line(input: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<LineEnd> {
    loop {
        let chunk = input.fill_buf()?;
        if chunk.is_empty() {
            return Ok(if bytes.len() > LINE_BYTES_MAX { LineEnd::TooLong } else { LineEnd::File });
        }
        let end = chunk.iter().position(|&byte| byte == b'\n');
        let taken = end.unwrap_or(chunk.len());
        let room = (LINE_BYTES_MAX + 1).saturating_sub(bytes.len());
        bytes.extend(chunk.iter().take(taken.min(room)));
        input.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Ok(if bytes.len() > LINE_BYTES_MAX { LineEnd::TooLong } else { LineEnd::Line });
        }
    }
}
