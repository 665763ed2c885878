//! Reports that a domain's owner asks for in the DNS, read into plain facts: DMARC aggregate reports (RFC 7489,
//! appendix C; RFC 9990) and failure reports (RFC 6591, RFC 9991), SMTP TLS reports (RFC 8460). From a mail, an archive
//! or a bare file. No attribution here: what a report says is its sender's claim.

mod aggregate;
mod failure;
mod tls;
mod tls_written;
mod unpack;
mod xml;
mod zip;

use std::fmt;

pub use self::aggregate::{
    AggregateReport, AuthResult, Identifiers, OverrideReason, PublishedPolicy, Record,
};
pub use self::failure::FailureReport;
pub use self::tls::{TlsFailure, TlsPolicy, TlsReport};
use self::unpack::{Document, Unpacked};

/// Longest file or mail that is looked into.
pub const BYTES_MAX: usize = 32 << 20;
/// Most bytes that all documents of one file may unpack to.
pub const UNPACKED_BYTES_MAX: usize = 64 << 20;
/// Most records of one aggregate report.
pub const RECORDS_MAX: usize = 100_000;
/// Longest text kept of one value, in characters.
pub const TEXT_CHARS_MAX: usize = 1_000;

/// One report.
#[derive(Clone, Debug, PartialEq)]
pub enum DomainReport {
    Aggregate(Box<AggregateReport>),
    Failure(Box<FailureReport>),
    Tls(Box<TlsReport>),
}

/// Who reports on what, for people.
impl fmt::Display for DomainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aggregate(report) => write!(f, "{} on {}", report.org_name, report.policy.domain),
            Self::Failure(report) => {
                let named = |name: &Option<String>| name.clone().unwrap_or_else(|| "somebody".to_owned());
                write!(f, "{} on one message of {}", named(&report.reporter), named(&report.reported_domain))
            }
            Self::Tls(report) => {
                let domain = report.policies.first().map_or("", |policy| policy.domain.as_str());
                write!(f, "{} on TLS of {domain}", report.org_name)
            }
        }
    }
}

/// What a file or a mail holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reading {
    pub reports: Vec<DomainReport>,
    /// Why something in it was not read, in words. Never empty where `reports` is.
    pub problems: Vec<String>,
    /// Domain in the mail's From, lower case: who sent it here.
    pub submitter: Option<String>,
    /// Nothing in it even looks like a report.
    pub is_something_else: bool,
}

impl Reading {
    /// Reads a report's file, or a mail with one. Takes any bytes without panic, within the bounds above.
    pub fn of(bytes: &[u8]) -> Self {
        let Unpacked { documents, mut problems, submitter } = unpack::unpack(bytes);
        let mut reports = Vec::new();
        for document in documents {
            let read = match document {
                Document::Xml(text) => aggregate::parse(&text)
                    .map(|report| DomainReport::Aggregate(Box::new(report)))
                    .map_err(|error| error.to_string()),
                Document::Json(text) => tls::parse(&text)
                    .map(|report| DomainReport::Tls(Box::new(report)))
                    .map_err(|error| error.to_string()),
                Document::Failure(report) => Ok(DomainReport::Failure(report)),
            };
            match read {
                Ok(report) => reports.push(report),
                Err(problem) => problems.push(problem),
            }
        }
        let is_something_else = reports.is_empty() && problems.is_empty();
        if is_something_else {
            problems.push(
                "it holds neither a DMARC report (XML, plain or in zip or gzip; or message/feedback-report of type \
                 auth-failure) nor an SMTP TLS report (JSON, plain or in gzip)"
                    .to_owned(),
            );
        }
        Self { reports, problems, submitter, is_something_else }
    }
}

/// A value as it is kept: without control characters, within bounds; `None` for nothing.
fn value(text: &str) -> Option<String> {
    let kept: String = text.trim().chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect();
    Some(kept).filter(|kept| !kept.is_empty())
}

/// A name of the DNS as it is compared: lower case, without the final dot.
fn domain(text: &str) -> Option<String> {
    value(text).map(|name| name.trim_end_matches('.').to_lowercase()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;
