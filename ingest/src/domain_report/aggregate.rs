//! DMARC aggregate reports: RFC 7489, appendix C, RFC 9990, the drafts before them, and what reporters make of these.

use std::net::IpAddr;

use sendlake_control::clock::Timestamp;
use serde::Serialize;

use super::xml::{self, Step, Walk, XmlError};
use super::{RECORDS_MAX, domain, value};

/// Most signatures, SPF results and reasons kept of one record, and errors of one report.
const RESULTS_MAX: usize = 100;
const ERRORS_MAX: usize = 20;
/// More messages than this in one record are a mistake, or meant to break sums.
const MESSAGES_MAX: i64 = 1_000_000_000_000;
/// Records that cannot be read are told by these many examples.
const EXAMPLES_MAX: usize = 3;
/// DMARC was first published in 2012.
const EARLIEST: Timestamp = Timestamp(1_262_304_000_000_000);
const LATEST: Timestamp = Timestamp(4_102_444_800_000_000);

/// One report: what one receiver saw of one domain in one span of time, mostly a day.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AggregateReport {
    /// Who reports, as it calls itself; else the domain of its address.
    pub org_name: String,
    pub org_email: Option<String>,
    pub extra_contact_info: Option<String>,
    /// Unique per reporter (RFC 7489, section 7.2.1.1: together with the domain).
    pub report_id: String,
    pub begin_at: Timestamp,
    pub end_at: Timestamp,
    /// `version` of the report's format; absent in the drafts.
    pub format_version: Option<String>,
    /// The software that made it (RFC 9990).
    pub generator: Option<String>,
    /// What went wrong at the reporter's, in its words.
    pub errors: Vec<String>,
    pub policy: PublishedPolicy,
    pub records: Vec<Record>,
    /// Records that make no sense are left out: how many, and why the first ones.
    pub records_left_out: usize,
    pub left_out_because: Vec<String>,
}

/// The policy that the reporter found. Words are kept as they came, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PublishedPolicy {
    /// Where it was found: the domain in From or one above it.
    pub domain: String,
    pub adkim: Option<String>,
    pub aspf: Option<String>,
    pub p: Option<String>,
    pub sp: Option<String>,
    /// For names that do not exist (RFC 9091).
    pub np: Option<String>,
    /// Percent (RFC 7489; gone in RFC 9989).
    pub pct: Option<i32>,
    pub fo: Option<String>,
    /// `y` or `n` (RFC 9989).
    pub testing: Option<String>,
    /// `psl` or `treewalk` (RFC 9990).
    pub discovery_method: Option<String>,
}

/// Messages that shared source, names and results.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub source_ip: IpAddr,
    pub messages: i64,
    /// What was done: `none`, `quarantine`, `reject`; `pass` of RFC 9990.
    pub disposition: Option<String>,
    pub dkim_aligned: bool,
    pub spf_aligned: bool,
    pub reasons: Vec<OverrideReason>,
    pub identifiers: Identifiers,
    pub dkim: Vec<AuthResult>,
    pub spf: Vec<AuthResult>,
}

/// Why the policy was not applied as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OverrideReason {
    /// `forwarded`, `mailing_list`, `local_policy`, …
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Domains of a record, lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identifiers {
    pub header_from: Option<String>,
    /// As reported, else the domain of the last SPF result.
    pub envelope_from: Option<String>,
    pub envelope_to: Option<String>,
}

/// One DKIM signature, or one SPF check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuthResult {
    pub domain: String,
    /// Of a signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Of an SPF check: `mfrom` or `helo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// `pass`, `fail`, `none`, …; `none` where the reporter says nothing.
    pub result: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub human_result: Option<String>,
}

/// Why a document is not taken for an aggregate report.
#[derive(Debug, thiserror::Error)]
pub enum AggregateError {
    #[error("the XML {0}")]
    Xml(#[from] XmlError),
    #[error("the XML is no DMARC report: its root is <{0}>, not <feedback>")]
    Root(String),
    #[error("the DMARC report lacks {0}")]
    Lacks(&'static str),
    #[error("the DMARC report is dated {what} {given:?}, which is no instant between 2010 and 2100")]
    Date { what: &'static str, given: String },
    #[error("the DMARC report ends before it begins")]
    Backwards,
    #[error("the DMARC report has more than {RECORDS_MAX} records")]
    TooManyRecords,
    #[error("no record of the DMARC report can be read: {0}")]
    NoRecord(String),
}

/// Reads a report. Bounded like [`Walk`], and by the number of records.
pub fn parse(bytes: &[u8]) -> Result<AggregateReport, AggregateError> {
    let text = xml::text(bytes)?;
    let mut walk = Walk::new(&text);
    let mut draft = Draft::default();
    loop {
        let step = walk.step()?;
        let path: Vec<&str> = walk.path().iter().map(String::as_str).collect();
        match (step, path.as_slice()) {
            (Step::End, _) => return draft.finish(),
            (_, [root, ..]) if *root != "feedback" => {
                return Err(AggregateError::Root(root.chars().take(60).collect()));
            }
            (Step::Opened, [_, rest @ ..]) => draft.open(rest),
            (Step::Closed(text), [_, rest @ ..]) => draft.close(rest, &text)?,
            (_, []) => {}
        }
    }
}

/// A report in the making.
#[derive(Default)]
struct Draft {
    report: AggregateReport,
    org_name: Option<String>,
    report_id: Option<String>,
    policy_domain: Option<String>,
    begin: Option<String>,
    end: Option<String>,
    /// Some reporters tell the policy again: the first counts.
    policies: usize,
    record: RecordDraft,
    records: usize,
}

/// A record in the making: all as it came.
#[derive(Default)]
struct RecordDraft {
    source_ip: String,
    count: String,
    disposition: Option<String>,
    dkim: Option<String>,
    spf: Option<String>,
    reasons: Vec<OverrideReason>,
    identifiers: Identifiers,
    signatures: Vec<AuthResult>,
    spf_checks: Vec<AuthResult>,
}

impl Draft {
    fn open(&mut self, path: &[&str]) {
        match path {
            ["policy_published"] => self.policies += 1,
            ["record"] => self.record = RecordDraft::default(),
            ["record", "row", "policy_evaluated", "reason"] => {
                make_room(&mut self.record.reasons, OverrideReason::default())
            }
            ["record", "auth_results", "dkim"] => make_room(&mut self.record.signatures, silent()),
            ["record", "auth_results", "spf"] => make_room(&mut self.record.spf_checks, silent()),
            _ => {}
        }
    }

    fn close(&mut self, path: &[&str], text: &str) -> Result<(), AggregateError> {
        let report = &mut self.report;
        match path {
            ["version"] => first(&mut report.format_version, value(text)),
            ["report_metadata", "org_name"] => first(&mut self.org_name, value(text)),
            ["report_metadata", "email"] => first(&mut report.org_email, value(text)),
            ["report_metadata", "extra_contact_info"] => first(&mut report.extra_contact_info, value(text)),
            ["report_metadata", "report_id"] => first(&mut self.report_id, value(text)),
            ["report_metadata", "generator"] => first(&mut report.generator, value(text)),
            ["report_metadata", "error"] => {
                report.errors.extend(value(text).filter(|_| report.errors.len() < ERRORS_MAX));
            }
            ["report_metadata", "date_range", "begin"] => first(&mut self.begin, value(text)),
            ["report_metadata", "date_range", "end"] => first(&mut self.end, value(text)),
            ["policy_published", "domain"] => first(&mut self.policy_domain, domain(text)),
            ["policy_published", name] if self.policies == 1 => report.policy.take(name, text),
            ["record"] => self.close_record()?,
            ["record", rest @ ..] => self.record.take(rest, text),
            _ => {}
        }
        Ok(())
    }

    fn close_record(&mut self) -> Result<(), AggregateError> {
        self.records += 1;
        if self.records > RECORDS_MAX {
            return Err(AggregateError::TooManyRecords);
        }
        match std::mem::take(&mut self.record).finish() {
            Ok(record) => self.report.records.push(record),
            Err(problem) => {
                self.report.records_left_out += 1;
                if self.report.left_out_because.len() < EXAMPLES_MAX {
                    self.report.left_out_because.push(format!("record {}: {problem}", self.records));
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<AggregateReport, AggregateError> {
        let mut report = self.report;
        let of_address = report.org_email.as_deref().and_then(|email| domain(email.rsplit('@').next()?));
        report.org_name =
            self.org_name.or(of_address).ok_or(AggregateError::Lacks("the reporter's name (org_name)"))?;
        report.report_id = self.report_id.ok_or(AggregateError::Lacks("its identifier (report_id)"))?;
        report.policy.domain =
            self.policy_domain.ok_or(AggregateError::Lacks("the domain of the policy (policy_published)"))?;
        report.begin_at = instant("begin", self.begin)?;
        report.end_at = instant("end", self.end)?;
        if report.end_at < report.begin_at {
            return Err(AggregateError::Backwards);
        }
        if report.records.is_empty() {
            let why = report.left_out_because.into_iter().next();
            return Err(AggregateError::NoRecord(why.unwrap_or_else(|| "it has none".to_owned())));
        }
        Ok(report)
    }
}

impl PublishedPolicy {
    fn take(&mut self, name: &str, text: &str) {
        match name {
            "adkim" => first(&mut self.adkim, word(text)),
            "aspf" => first(&mut self.aspf, word(text)),
            "p" => first(&mut self.p, word(text)),
            "sp" => first(&mut self.sp, word(text)),
            "np" => first(&mut self.np, word(text)),
            "pct" => first(&mut self.pct, text.parse().ok().filter(|pct| (0..=100).contains(pct))),
            "fo" => first(&mut self.fo, word(text)),
            "testing" => first(&mut self.testing, word(text)),
            "discovery_method" => first(&mut self.discovery_method, word(text)),
            _ => {}
        }
    }
}

impl RecordDraft {
    fn take(&mut self, path: &[&str], text: &str) {
        match path {
            ["row", "source_ip"] => self.source_ip = text.to_owned(),
            ["row", "count"] => self.count = text.to_owned(),
            ["row", "policy_evaluated", "disposition"] => first(&mut self.disposition, word(text)),
            ["row", "policy_evaluated", "dkim"] => first(&mut self.dkim, word(text)),
            ["row", "policy_evaluated", "spf"] => first(&mut self.spf, word(text)),
            ["row", "policy_evaluated", "reason", name] => {
                let Some(reason) = self.reasons.last_mut() else { return };
                match *name {
                    "type" => first(&mut reason.kind, word(text)),
                    "comment" => first(&mut reason.comment, value(text)),
                    _ => {}
                }
            }
            // early drafts call them identities
            ["identifiers" | "identities", name] => match *name {
                "header_from" => first(&mut self.identifiers.header_from, domain(text)),
                "envelope_from" => first(&mut self.identifiers.envelope_from, domain(text)),
                "envelope_to" => first(&mut self.identifiers.envelope_to, domain(text)),
                _ => {}
            },
            ["auth_results", "dkim", name] => note(self.signatures.last_mut(), name, text),
            ["auth_results", "spf", name] => note(self.spf_checks.last_mut(), name, text),
            _ => {}
        }
    }

    fn finish(self) -> Result<Record, String> {
        let shown = |text: &str| text.chars().take(60).collect::<String>();
        let source_ip: IpAddr = self
            .source_ip
            .trim_matches(['[', ']'])
            .parse()
            .map_err(|_| format!("source_ip {:?} is no address", shown(&self.source_ip)))?;
        let messages = self
            .count
            .parse()
            .ok()
            .filter(|messages| (0..=MESSAGES_MAX).contains(messages))
            .ok_or_else(|| format!("count {:?} is no number of messages", shown(&self.count)))?;
        if self.reasons.len().max(self.signatures.len()).max(self.spf_checks.len()) > RESULTS_MAX {
            return Err(format!("it has more than {RESULTS_MAX} results or reasons"));
        }
        let mut identifiers = self.identifiers;
        let said = |results: Vec<AuthResult>| -> Vec<AuthResult> {
            results.into_iter().filter(|result| !result.domain.is_empty()).collect()
        };
        let (dkim, spf) = (said(self.signatures), said(self.spf_checks));
        if identifiers.envelope_from.is_none() {
            identifiers.envelope_from = spf.last().map(|check| check.domain.clone());
        }
        let is_pass = |word: Option<String>| word.as_deref() == Some("pass");
        Ok(Record {
            source_ip,
            messages,
            disposition: self.disposition,
            dkim_aligned: is_pass(self.dkim),
            spf_aligned: is_pass(self.spf),
            reasons: self.reasons,
            identifiers,
            dkim,
            spf,
        })
    }
}

/// A result of which nothing is known yet.
fn silent() -> AuthResult {
    AuthResult { result: "none".to_owned(), ..AuthResult::default() }
}

fn note(result: Option<&mut AuthResult>, name: &str, text: &str) {
    let Some(result) = result else { return };
    match name {
        "domain" => result.domain = domain(text).unwrap_or_default(),
        "selector" => first(&mut result.selector, value(text)),
        "scope" => first(&mut result.scope, word(text)),
        "result" => result.result = word(text).unwrap_or_else(|| "none".to_owned()),
        "human_result" => first(&mut result.human_result, value(text)),
        _ => {}
    }
}

/// One beyond the bound shows that there were too many.
fn make_room<T>(list: &mut Vec<T>, fresh: T) {
    if list.len() <= RESULTS_MAX {
        list.push(fresh);
    }
}

fn first<T>(slot: &mut Option<T>, found: Option<T>) {
    if slot.is_none() {
        *slot = found;
    }
}

fn word(text: &str) -> Option<String> {
    value(text).map(|word| word.to_lowercase())
}

/// Seconds since 1970, with or without a fraction; some reporters write RFC 3339.
fn instant(what: &'static str, text: Option<String>) -> Result<Timestamp, AggregateError> {
    let text = text.ok_or(AggregateError::Lacks("its span of time (date_range)"))?;
    let seconds = text.split('.').next().and_then(|whole| whole.parse::<i64>().ok());
    let instant = match seconds {
        Some(seconds) => seconds.checked_mul(1_000_000).map(Timestamp),
        None => Timestamp::parse(&text),
    };
    let in_range = |at: &Timestamp| (EARLIEST..LATEST).contains(at);
    instant.filter(in_range).ok_or(AggregateError::Date { what, given: text })
}
