//! What providers say of our mail in their own figures, by day: exports of Google Postmaster Tools and of Microsoft's SNDS.
//! They come days late and are no events of messages; they are what our own estimates are held against.
//!
//! - `google`: the API's answers, versions 1 and 2, and tables by day · `snds`: both files of its automated data access
//! - [`Figures`]: what one record says, ready for the table `provider_figures` ([`crate::domain_tables`])

mod google;
mod snds;

use std::fmt;
use std::str::FromStr;

use sendlake_control::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// Largest export that is read: a year of a thousand addresses is a tenth of it.
pub const EXPORT_BYTES_MAX: usize = 64 << 20;
/// Faults that are told; all are counted.
const FAULTS_MAX: usize = 20;
/// Longest text kept of one figure, in characters.
const TEXT_CHARS_MAX: usize = 1_000;

/// Whose figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exporter {
    GooglePostmaster,
    Snds,
}

impl Exporter {
    pub const ALL: [Exporter; 2] = [Exporter::GooglePostmaster, Exporter::Snds];

    /// As it is said on the command line, and as `report_type` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Exporter::GooglePostmaster => "google-postmaster",
            Exporter::Snds => "snds",
        }
    }

    /// The provider as events name it.
    pub fn provider(self) -> &'static str {
        match self {
            Exporter::GooglePostmaster => "google",
            Exporter::Snds => "microsoft",
        }
    }
}

impl fmt::Display for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Exporter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Exporter::ALL.into_iter().find(|exporter| exporter.as_str() == text);
        known.ok_or_else(|| format!("{text:?} exports no figures that are read here"))
    }
}

/// How an export is to be read.
#[derive(Clone, Debug)]
pub struct Export {
    pub exporter: Exporter,
    /// The domain of figures that name none: tables of the dashboards.
    pub domain: Option<String>,
    /// What times without a zone are ahead of UTC.
    pub utc_offset_s: i32,
    /// When it is read: the day of what is told without one.
    pub now: Timestamp,
}

/// What one record says of one domain or address in one span.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    pub exporter: Exporter,
    pub about: About,
    /// The day that they count for, since the epoch.
    pub day: i32,
    pub begin_at: Timestamp,
    pub end_at: Timestamp,
    pub figures: Vec<Figure>,
}

/// What figures are about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// ASCII, lower case.
    Domain(String),
    Ip(std::net::IpAddr),
}

/// One figure: a number, bounds where it is not known exactly, or words.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figure {
    /// `spam_rate`, `spf_success`, `trap_hits`, …: `docs/feedback.md` lists them.
    pub metric: &'static str,
    /// Which of several: an identifier, a kind of error, a category.
    pub label: Option<String>,
    /// Shares are 0 to 1.
    pub value: Option<f64>,
    pub value_lower: Option<f64>,
    pub value_upper: Option<f64>,
    pub text: Option<String>,
}

impl Figure {
    fn number(metric: &'static str, value: f64) -> Self {
        Self { metric, value: Some(value), ..Self::default() }
    }

    fn word(metric: &'static str, text: &str) -> Self {
        Self { metric, text: Some(short(text)), ..Self::default() }
    }

    fn of(self, label: &str) -> Self {
        Self { label: Some(short(label)), ..self }
    }
}

/// What was in an export. Each record is either figures or a fault.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    pub read: u64,
    pub figures: Vec<Figures>,
    pub bad: u64,
    /// The first of the bad ones.
    pub faults: Vec<Fault>,
}

/// A record that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// From 1.
    pub line: u64,
    pub why: String,
}

impl Reading {
    fn take(&mut self, line: u64, record: Result<Figures, String>) {
        self.take_all(line, record.map(|figures| vec![figures]));
    }

    /// A record that stands for several addresses.
    fn take_all(&mut self, line: u64, record: Result<Vec<Figures>, String>) {
        self.read += 1;
        match record {
            Ok(figures) => self.figures.extend(figures),
            Err(why) => {
                self.bad += 1;
                if self.faults.len() < FAULTS_MAX {
                    self.faults.push(Fault { line, why });
                }
            }
        }
    }
}

/// Reads an export. Takes any bytes without panic; what cannot be read is told by its line, and the rest counts.
pub fn read(export: &Export, bytes: &[u8]) -> Reading {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    match export.exporter {
        Exporter::GooglePostmaster => google::read(export, bytes),
        Exporter::Snds => snds::read(export, bytes),
    }
}

/// A share of 0 to 1, as a number or with a percent sign.
fn share(text: &str) -> Result<f64, String> {
    let text = text.trim();
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    let value = match text.strip_suffix('%') {
        // in decimal, so that 1.3 % is 0.013 and not the next number to it
        Some(percent) => number(&format!("{}e-2", percent.trim())),
        None => number(text),
    };
    value
        .filter(|value| (0.0..=1.0).contains(value))
        .ok_or_else(|| format!("{:?} is no share of 0 to 1, or of 0 % to 100 %", short(text)))
}

/// The line that a row of a table begins on, from 1. What ends the row before it may be counted to this one.
/// Hands over each row of a table with its line, as far as `each` wants. What is no row is a fault of its line.
fn rows(
    bytes: &[u8],
    reading: &mut Reading,
    mut each: impl FnMut(&mut Reading, u64, &csv::StringRecord) -> bool,
) {
    let mut rows =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(bytes);
    for row in rows.records() {
        let goes_on = match &row {
            Ok(row) => each(reading, line_of(bytes, row.position()), row),
            Err(error) => {
                reading.take(line_of(bytes, error.position()), Err(format!("no row of a table: {error}")));
                true
            }
        };
        if !goes_on {
            return;
        }
    }
}

fn line_of(bytes: &[u8], place: Option<&csv::Position>) -> u64 {
    let Some(place) = place else { return 1 };
    let rest = usize::try_from(place.byte()).ok().and_then(|at| bytes.get(at..)).unwrap_or_default();
    let ends = rest.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).filter(|byte| **byte == b'\n');
    place.line() + ends.count() as u64
}

fn short(text: &str) -> String {
    text.trim().chars().filter(|letter| !letter.is_control()).take(TEXT_CHARS_MAX).collect()
}

/// A whole UTC day that is neither before 2005, when the older of the two began, nor to come.
fn day_span(day: i32, now: Timestamp) -> Result<(Timestamp, Timestamp), String> {
    const FIRST: i32 = 12_784;
    if day < FIRST || day > now.days().saturating_add(1) {
        return Err("the day is before 2005, or to come".into());
    }
    let begin_at = Timestamp::from_secs(i64::from(day) * 86_400);
    Ok((begin_at, begin_at.plus_secs(86_400)))
}

#[cfg(test)]
mod tests;
