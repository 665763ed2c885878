//! What verifying tells: how bad, which check, where, what, and what to do next.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing to do now.
    Note,
    /// Nothing contradicts, and somebody should look.
    Warning,
    /// Outbox, log and files do not agree, or something cannot be read.
    Error,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// `log`, `file`, `rows`, `spool`, `event_id`, `statistics`, `orphan`, `foreign`, `erased`.
    pub check: &'static str,
    /// A URL, a path, or a spool's incarnation.
    pub place: String,
    pub what: String,
    /// What to do.
    pub next: String,
}

impl Finding {
    pub fn error(check: &'static str, place: impl Into<String>, what: String, next: &str) -> Self {
        Self { severity: Severity::Error, check, place: place.into(), what, next: next.to_owned() }
    }

    pub fn warning(check: &'static str, place: impl Into<String>, what: String, next: &str) -> Self {
        Self { severity: Severity::Warning, check, place: place.into(), what, next: next.to_owned() }
    }

    pub fn note(check: &'static str, place: impl Into<String>, what: String, next: &str) -> Self {
        Self { severity: Severity::Note, check, place: place.into(), what, next: next.to_owned() }
    }
}

pub(super) fn unreachable(place: &str, error: &str) -> Finding {
    Finding::error(
        "log",
        place,
        format!("the lake cannot be listed: {error}"),
        "check the location, the credentials and the network, then verify again",
    )
}

pub(super) fn no_events(place: &str) -> Finding {
    Finding::error(
        "log",
        place,
        "there is no events table: no Delta log lies there".to_owned(),
        "see that storage.lake_url names the right place and its volume is mounted; if the log was deleted, restore \
         _delta_log/ from a backup or from the bucket's older versions",
    )
}

/// The first few of many, in words.
pub(super) fn some(all: &[String], total: u64) -> String {
    let shown = all.join(", ");
    let more = total.saturating_sub(all.len() as u64);
    if more == 0 { shown } else { format!("{shown} and {more} more") }
}

/// How many examples one finding shows.
pub(super) const EXAMPLES_MAX: usize = 5;
