//! SMTP TLS reports, RFC 8460, section 4: what one sender saw of the TLS of one domain's MX hosts.

use std::fmt;
use std::marker::PhantomData;

use sendlake_control::clock::Timestamp;
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use super::{domain, value};

/// Longest document: reports hold sums, so real ones have kilobytes.
const BYTES_MAX: usize = 4 << 20;
const POLICIES_MAX: usize = 1_000;
const FAILURES_MAX: usize = 10_000;
const STRINGS_MAX: usize = 100;
/// More sessions than this in one sum are a mistake, or meant to break sums.
const SESSIONS_MAX: u64 = 1_000_000_000_000;
/// The RFC is of 2018, its drafts of 2016.
const EARLIEST: Timestamp = Timestamp(1_420_070_400_000_000);
const LATEST: Timestamp = Timestamp(4_102_444_800_000_000);

/// One report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsReport {
    pub org_name: String,
    pub contact_info: Option<String>,
    pub report_id: String,
    pub begin_at: Timestamp,
    pub end_at: Timestamp,
    pub policies: Vec<TlsPolicy>,
}

/// What was seen under one policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsPolicy {
    /// Whose mail it is about.
    pub domain: String,
    /// `sts`, `tlsa`, `no-policy-found`.
    pub policy_type: String,
    pub policy_strings: Vec<String>,
    pub mx_hosts: Vec<String>,
    pub successful_sessions: i64,
    pub failed_sessions: i64,
    pub failures: Vec<TlsFailure>,
}

/// Sessions that failed alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFailure {
    /// `starttls-not-supported`, `certificate-expired`, … (section 4.3).
    pub result_type: String,
    pub sending_mta_ip: Option<String>,
    pub receiving_ip: Option<String>,
    pub receiving_mx_hostname: Option<String>,
    pub receiving_mx_helo: Option<String>,
    pub failed_sessions: i64,
    pub additional_information: Option<String>,
    pub failure_reason_code: Option<String>,
}

/// Why a document is not taken for a TLS report.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the JSON has {bytes} bytes; of a TLS report at most {BYTES_MAX} are read")]
    TooLong { bytes: usize },
    #[error("the JSON is no TLS report: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the TLS report lacks {0}")]
    Lacks(&'static str),
    #[error("the TLS report is dated {0:?}, which is no instant (RFC 3339) between 2015 and 2100")]
    Date(String),
    #[error("the TLS report ends before it begins")]
    Backwards,
    #[error("the TLS report counts {0} sessions, which no sender has")]
    Count(u64),
}

/// Reads a report.
pub fn parse(bytes: &[u8]) -> Result<TlsReport, TlsError> {
    if bytes.len() > BYTES_MAX {
        return Err(TlsError::TooLong { bytes: bytes.len() });
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let raw: RawReport = serde_json::from_slice(bytes)?;
    let named = |text: Option<String>| text.as_deref().and_then(value);
    let contact_info = named(raw.contact_info);
    let of_address = contact_info.as_deref().and_then(|contact| domain(contact.rsplit_once('@')?.1));
    let policies: Result<Vec<_>, _> = raw.policies.0.into_iter().map(policy).collect();
    let report = TlsReport {
        org_name: named(raw.organization_name)
            .or(of_address)
            .ok_or(TlsError::Lacks("the reporter's name (organization-name)"))?,
        contact_info,
        report_id: named(raw.report_id).ok_or(TlsError::Lacks("its identifier (report-id)"))?,
        begin_at: instant(&raw.date_range.start)?,
        end_at: instant(&raw.date_range.end)?,
        policies: policies?,
    };
    if report.end_at < report.begin_at {
        return Err(TlsError::Backwards);
    }
    if report.policies.is_empty() {
        return Err(TlsError::Lacks("any policy (policies)"));
    }
    Ok(report)
}

fn policy(raw: RawPolicy) -> Result<TlsPolicy, TlsError> {
    let clean = |texts: Texts| texts.0.iter().filter_map(|text| value(text)).collect();
    let failures: Result<Vec<_>, TlsError> = raw.failures.0.into_iter().map(failure).collect();
    Ok(TlsPolicy {
        domain: domain(&raw.policy.domain)
            .ok_or(TlsError::Lacks("the domain of a policy (policy-domain)"))?,
        policy_type: value(&raw.policy.kind.to_lowercase()).unwrap_or_else(|| "no-policy-found".to_owned()),
        policy_strings: clean(raw.policy.strings),
        mx_hosts: clean(raw.policy.mx_hosts),
        successful_sessions: sessions(raw.summary.successful)?,
        failed_sessions: sessions(raw.summary.failed)?,
        failures: failures?,
    })
}

fn failure(raw: RawFailure) -> Result<TlsFailure, TlsError> {
    let named = |text: Option<String>| text.as_deref().and_then(value);
    Ok(TlsFailure {
        result_type: named(raw.result_type)
            .map(|kind| kind.to_lowercase())
            .ok_or(TlsError::Lacks("the kind of a failure (result-type)"))?,
        sending_mta_ip: named(raw.sending_mta_ip),
        receiving_ip: named(raw.receiving_ip),
        receiving_mx_hostname: named(raw.receiving_mx_hostname).map(|name| name.to_lowercase()),
        receiving_mx_helo: named(raw.receiving_mx_helo),
        failed_sessions: sessions(raw.failed_sessions)?,
        additional_information: named(raw.additional_information),
        failure_reason_code: named(raw.failure_reason_code),
    })
}

fn sessions(count: Count) -> Result<i64, TlsError> {
    if count.0 > SESSIONS_MAX {
        return Err(TlsError::Count(count.0));
    }
    i64::try_from(count.0).map_err(|_| TlsError::Count(count.0))
}

/// RFC 3339; some reporters leave the zone out, and mean UTC.
fn instant(text: &str) -> Result<Timestamp, TlsError> {
    let at = Timestamp::parse(text).or_else(|| Timestamp::parse(&format!("{text}Z")));
    at.filter(|at| (EARLIEST..LATEST).contains(at))
        .ok_or_else(|| TlsError::Date(text.chars().take(60).collect()))
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawReport {
    #[serde(default)]
    organization_name: Option<String>,
    date_range: RawRange,
    #[serde(default)]
    contact_info: Option<String>,
    #[serde(default)]
    report_id: Option<String>,
    policies: Few<RawPolicy, POLICIES_MAX>,
}

#[derive(serde::Deserialize)]
struct RawRange {
    #[serde(rename = "start-datetime")]
    start: String,
    #[serde(rename = "end-datetime")]
    end: String,
}

#[derive(serde::Deserialize)]
struct RawPolicy {
    policy: RawPolicyName,
    #[serde(default)]
    summary: RawSummary,
    #[serde(rename = "failure-details", default)]
    failures: Few<RawFailure, FAILURES_MAX>,
}

#[derive(serde::Deserialize)]
struct RawPolicyName {
    #[serde(rename = "policy-type", default)]
    kind: String,
    #[serde(rename = "policy-domain")]
    domain: String,
    #[serde(rename = "policy-string", default)]
    strings: Texts,
    /// One pattern in the RFC's example, a list in its text.
    #[serde(rename = "mx-host", default)]
    mx_hosts: Texts,
}

#[derive(Default, serde::Deserialize)]
struct RawSummary {
    #[serde(rename = "total-successful-session-count", default)]
    successful: Count,
    #[serde(rename = "total-failure-session-count", default)]
    failed: Count,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawFailure {
    #[serde(default)]
    result_type: Option<String>,
    #[serde(default)]
    sending_mta_ip: Option<String>,
    #[serde(default)]
    receiving_ip: Option<String>,
    #[serde(default)]
    receiving_mx_hostname: Option<String>,
    #[serde(default)]
    receiving_mx_helo: Option<String>,
    #[serde(rename = "failed-session-count", default)]
    failed_sessions: Count,
    /// The RFC has the first name in its table and the second in its words.
    #[serde(default, alias = "additional-info-uri")]
    additional_information: Option<String>,
    #[serde(default)]
    failure_reason_code: Option<String>,
}

/// A list of so many elements at most; null is an empty one.
struct Few<T, const MAX: usize>(Vec<T>);

impl<T, const MAX: usize> Default for Few<T, MAX> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Few<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FewVisitor::<T, MAX>(PhantomData))
    }
}

struct FewVisitor<T, const MAX: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for FewVisitor<T, MAX> {
    type Value = Few<T, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MAX} elements")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Few(Vec::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut found = Vec::new();
        while let Some(element) = list.next_element()? {
            if found.len() == MAX {
                return Err(serde::de::Error::invalid_length(MAX + 1, &self));
            }
            found.push(element);
        }
        Ok(Few(found))
    }
}

/// One text, a list of texts, or null.
#[derive(Default)]
struct Texts(Vec<String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextsVisitor)
    }
}

struct TextsVisitor;

impl<'de> Visitor<'de> for TextsVisitor {
    type Value = Texts;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a text, or a list of at most {STRINGS_MAX} texts")
    }

    fn visit_unit<E>(self) -> Result<Texts, E> {
        Ok(Texts::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<Texts, E> {
        Ok(Texts(vec![text.to_owned()]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Texts, A::Error> {
        let few = FewVisitor::<String, STRINGS_MAX>(PhantomData).visit_seq(list)?;
        Ok(Texts(few.0))
    }
}

/// A number of sessions, also as a text; null is none.
#[derive(Clone, Copy, Default)]
struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of sessions")
    }

    fn visit_unit<E>(self) -> Result<Count, E> {
        Ok(Count(0))
    }

    fn visit_u64<E>(self, count: u64) -> Result<Count, E> {
        Ok(Count(count))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Count, E> {
        let count = text.trim().parse();
        count.map(Count).map_err(|_| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }
}
