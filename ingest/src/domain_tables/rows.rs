//! A report as rows of its table: what it says, a key that names it, and the tenant whose domain it is about.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use arrow::json::ReaderBuilder;
use aws_lc_rs::digest::{Context, SHA256};
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use serde::Serialize;

use super::schema::Kind;
use crate::domain_report::{
    AggregateReport, AuthResult, DomainReport, FailureReport, Record, TlsFailure, TlsPolicy, TlsReport,
};

/// Whose a domain is; `None` for one that nobody here sends from.
pub type Whose<'a> = &'a dyn Fn(&str) -> Option<TenantId>;

/// One report, ready for its table.
#[derive(Clone, Debug)]
pub struct ReportRows {
    pub kind: Kind,
    /// The same for the same report, however often and in whatever form it comes: 32 hexadecimal digits.
    pub key: String,
    /// Days since the epoch: its partition.
    pub day: i32,
    pub rows: RecordBatch,
}

/// Why a report has no rows.
#[derive(Debug, thiserror::Error)]
pub enum NoRows {
    #[error("the failure report says neither when its message arrived nor when it was written")]
    NoDate,
    #[error("the report begins in the future, at {0}")]
    Future(Timestamp),
    #[error("the report cannot be encoded: {0}")]
    Encode(#[from] ArrowError),
}

/// A clock may be wrong, and some reporters end their day in their own zone.
const FUTURE_SECS_MAX: i64 = 2 * 86_400;

impl ReportRows {
    /// The rows of a report that came at `now` by way of `submitter` (the domain in its mail's From).
    ///
    /// A row is the tenant's that `whose` gives for the domain in From, or for the policy's domain where the first is not
    /// told. It is nobody's, that is the tenant `platform`'s, when the two do not belong together.
    pub fn of(
        report: &DomainReport,
        submitter: Option<&str>,
        whose: Whose<'_>,
        now: Timestamp,
    ) -> Result<Self, NoRows> {
        let made = match report {
            DomainReport::Aggregate(report) => of_aggregate(report, submitter, whose, now)?,
            DomainReport::Failure(report) => of_failure(report, submitter, whose, now)?,
            DomainReport::Tls(report) => of_tls(report, submitter, whose, now)?,
        };
        let latest = now.plus_secs(FUTURE_SECS_MAX).days();
        if made.day > latest {
            return Err(NoRows::Future(Timestamp::from_secs(i64::from(made.day).saturating_mul(86_400))));
        }
        Ok(made)
    }
}

/// What both tables begin with; the names are those of the columns.
#[derive(Clone, Serialize)]
struct Head<'a> {
    report_date: i32,
    tenant_id: String,
    report_key: &'a str,
    record: i32,
    recorded_at: i64,
    report_type: &'static str,
    org_name: &'a str,
    org_contact: Option<&'a str>,
    submitter_domain: Option<&'a str>,
    report_id: &'a str,
    begin_at: i64,
    end_at: i64,
    policy_domain: Option<&'a str>,
}

impl Head<'_> {
    fn about(&self, tenant: TenantId, record: usize) -> Self {
        Self {
            tenant_id: tenant.to_string(),
            record: i32::try_from(record).unwrap_or(i32::MAX),
            ..self.clone()
        }
    }
}

#[derive(Default, Serialize)]
struct DmarcColumns<'a> {
    extra_contact_info: Option<&'a str>,
    format_version: Option<&'a str>,
    generator: Option<&'a str>,
    errors: Option<String>,
    adkim: Option<&'a str>,
    aspf: Option<&'a str>,
    p: Option<&'a str>,
    sp: Option<&'a str>,
    np: Option<&'a str>,
    pct: Option<i32>,
    fo: Option<&'a str>,
    testing: Option<&'a str>,
    discovery_method: Option<&'a str>,
    source_ip: Option<String>,
    messages: Option<i64>,
    disposition: Option<&'a str>,
    dkim_aligned: Option<bool>,
    spf_aligned: Option<bool>,
    override_reasons: Option<String>,
    header_from: Option<&'a str>,
    envelope_from: Option<&'a str>,
    envelope_to: Option<&'a str>,
    dkim_domain: Option<&'a str>,
    dkim_selector: Option<&'a str>,
    dkim_result: Option<&'a str>,
    spf_domain: Option<&'a str>,
    spf_scope: Option<&'a str>,
    spf_result: Option<&'a str>,
    auth_results: Option<String>,
    auth_failure: Option<String>,
    identity_alignment: Option<String>,
    delivery_result: Option<&'a str>,
    authentication_results: Option<&'a str>,
    user_agent: Option<&'a str>,
    original_mail_from: Option<&'a str>,
    original_rcpt_to: Option<&'a str>,
    original_envelope_id: Option<&'a str>,
    original_message_id: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct TlsColumns<'a> {
    policy_type: Option<&'a str>,
    policy_strings: Option<String>,
    mx_hosts: Option<String>,
    total_successful_sessions: Option<i64>,
    total_failed_sessions: Option<i64>,
    result_type: Option<&'a str>,
    failed_sessions: Option<i64>,
    sending_mta_ip: Option<&'a str>,
    receiving_ip: Option<&'a str>,
    receiving_mx_hostname: Option<&'a str>,
    receiving_mx_helo: Option<&'a str>,
    failure_reason_code: Option<&'a str>,
    additional_information: Option<&'a str>,
}

#[derive(Serialize)]
struct Row<'a, C> {
    #[serde(flatten)]
    head: Head<'a>,
    #[serde(flatten)]
    columns: C,
}

fn of_aggregate(
    report: &AggregateReport,
    submitter: Option<&str>,
    whose: Whose<'_>,
    now: Timestamp,
) -> Result<ReportRows, NoRows> {
    let policy_domain = report.policy.domain.as_str();
    let from = origin(submitter, report.org_email.as_deref());
    let key = key(&["aggregate", &report.org_name, &report.report_id, policy_domain, from], report.begin_at);
    let head = Head {
        report_date: report.begin_at.days(),
        tenant_id: String::new(),
        report_key: &key,
        record: 0,
        recorded_at: now.0,
        report_type: "aggregate",
        org_name: &report.org_name,
        org_contact: report.org_email.as_deref(),
        submitter_domain: submitter,
        report_id: &report.report_id,
        begin_at: report.begin_at.0,
        end_at: report.end_at.0,
        policy_domain: Some(policy_domain),
    };
    let rows: Vec<_> = report
        .records
        .iter()
        .enumerate()
        .map(|(number, record)| {
            let tenant = owner(record.identifiers.header_from.as_deref(), Some(policy_domain), whose);
            Row { head: head.about(tenant, number), columns: dmarc_columns(report, record) }
        })
        .collect();
    finish(Kind::Dmarc, key.clone(), report.begin_at, &rows)
}

fn dmarc_columns<'a>(report: &'a AggregateReport, record: &'a Record) -> DmarcColumns<'a> {
    let policy = &report.policy;
    let dkim = telling(&record.dkim);
    let spf = telling(&record.spf);
    let listed = |empty: bool, value: serde_json::Value| (!empty).then(|| value.to_string());
    DmarcColumns {
        extra_contact_info: report.extra_contact_info.as_deref(),
        format_version: report.format_version.as_deref(),
        generator: report.generator.as_deref(),
        errors: Some(report.errors.join("; ")).filter(|errors| !errors.is_empty()),
        adkim: policy.adkim.as_deref(),
        aspf: policy.aspf.as_deref(),
        p: policy.p.as_deref(),
        sp: policy.sp.as_deref(),
        np: policy.np.as_deref(),
        pct: policy.pct,
        fo: policy.fo.as_deref(),
        testing: policy.testing.as_deref(),
        discovery_method: policy.discovery_method.as_deref(),
        source_ip: Some(record.source_ip.to_string()),
        messages: Some(record.messages),
        disposition: record.disposition.as_deref(),
        dkim_aligned: Some(record.dkim_aligned),
        spf_aligned: Some(record.spf_aligned),
        override_reasons: listed(record.reasons.is_empty(), serde_json::json!(record.reasons)),
        header_from: record.identifiers.header_from.as_deref(),
        envelope_from: record.identifiers.envelope_from.as_deref(),
        envelope_to: record.identifiers.envelope_to.as_deref(),
        dkim_domain: dkim.map(|result| result.domain.as_str()),
        dkim_selector: dkim.and_then(|result| result.selector.as_deref()),
        dkim_result: dkim.map(|result| result.result.as_str()),
        spf_domain: spf.map(|result| result.domain.as_str()),
        spf_scope: spf.and_then(|result| result.scope.as_deref()),
        spf_result: spf.map(|result| result.result.as_str()),
        auth_results: listed(
            record.dkim.is_empty() && record.spf.is_empty(),
            serde_json::json!({ "dkim": record.dkim, "spf": record.spf }),
        ),
        ..DmarcColumns::default()
    }
}

/// The one result that says most: a pass, else the last.
fn telling(results: &[AuthResult]) -> Option<&AuthResult> {
    results.iter().find(|result| result.result == "pass").or(results.last())
}

fn of_failure(
    report: &FailureReport,
    submitter: Option<&str>,
    whose: Whose<'_>,
    now: Timestamp,
) -> Result<ReportRows, NoRows> {
    let arrived_at = report.arrived_at.ok_or(NoRows::NoDate)?;
    let org_name = report.reporter.as_deref().or(submitter).unwrap_or("unknown");
    let domain = report.reported_domain.as_deref();
    // without an id of its own, a report is what it says
    let told = [
        report.original_message_id.as_deref(),
        report.original_mail_from.as_deref(),
        report.original_rcpt_to.as_deref(),
        report.authentication_results.as_deref(),
    ];
    let told = told.map(|part| part.unwrap_or_default()).join("\n");
    let report_id = report.report_id.clone().unwrap_or_else(|| key(&["failure", &told], arrived_at));
    let from = origin(submitter, None);
    let key = key(&["failure", org_name, &report_id, domain.unwrap_or_default(), from], arrived_at);
    let words = |words: &[String]| Some(words.join(",")).filter(|words| !words.is_empty());
    let head = Head {
        report_date: arrived_at.days(),
        tenant_id: owner(domain, None, whose).to_string(),
        report_key: &key,
        record: 0,
        recorded_at: now.0,
        report_type: "failure",
        org_name,
        org_contact: None,
        submitter_domain: submitter,
        report_id: &report_id,
        begin_at: arrived_at.0,
        end_at: arrived_at.0,
        policy_domain: domain,
    };
    let columns = DmarcColumns {
        format_version: report.version.as_deref(),
        source_ip: report.source_ip.map(|ip| ip.to_string()),
        messages: Some(report.incidents),
        header_from: domain,
        dkim_domain: report.dkim_domain.as_deref(),
        dkim_selector: report.dkim_selector.as_deref(),
        auth_failure: words(&report.auth_failure),
        identity_alignment: words(&report.identity_alignment),
        delivery_result: report.delivery_result.as_deref(),
        authentication_results: report.authentication_results.as_deref(),
        user_agent: report.user_agent.as_deref(),
        original_mail_from: report.original_mail_from.as_deref(),
        original_rcpt_to: report.original_rcpt_to.as_deref(),
        original_envelope_id: report.original_envelope_id.as_deref(),
        original_message_id: report.original_message_id.as_deref(),
        ..DmarcColumns::default()
    };
    finish(Kind::Dmarc, key.clone(), arrived_at, &[Row { head, columns }])
}

fn of_tls(
    report: &TlsReport,
    submitter: Option<&str>,
    whose: Whose<'_>,
    now: Timestamp,
) -> Result<ReportRows, NoRows> {
    let mut domains: Vec<&str> = report.policies.iter().map(|policy| policy.domain.as_str()).collect();
    domains.sort_unstable();
    domains.dedup();
    let named = domains.join(" ");
    let from = origin(submitter, report.contact_info.as_deref());
    let key = key(&["tls", &report.org_name, &report.report_id, &named, from], report.begin_at);
    let head = Head {
        report_date: report.begin_at.days(),
        tenant_id: String::new(),
        report_key: &key,
        record: 0,
        recorded_at: now.0,
        report_type: "summary",
        org_name: &report.org_name,
        org_contact: report.contact_info.as_deref(),
        submitter_domain: submitter,
        report_id: &report.report_id,
        begin_at: report.begin_at.0,
        end_at: report.end_at.0,
        policy_domain: None,
    };
    let mut rows = Vec::new();
    for policy in &report.policies {
        let tenant = owner(Some(&policy.domain), None, whose);
        let head = Head { policy_domain: Some(&policy.domain), ..head.clone() };
        rows.push(Row { head: head.about(tenant.clone(), rows.len()), columns: summary(policy) });
        for found in &policy.failures {
            let head = Head { report_type: "failure", ..head.about(tenant.clone(), rows.len()) };
            rows.push(Row { head, columns: failure(policy, found) });
        }
    }
    finish(Kind::Tls, key.clone(), report.begin_at, &rows)
}

fn summary(policy: &TlsPolicy) -> TlsColumns<'_> {
    let lines = |lines: &[String]| Some(lines.join("\n")).filter(|lines| !lines.is_empty());
    TlsColumns {
        policy_type: Some(&policy.policy_type),
        policy_strings: lines(&policy.policy_strings),
        mx_hosts: lines(&policy.mx_hosts),
        total_successful_sessions: Some(policy.successful_sessions),
        total_failed_sessions: Some(policy.failed_sessions),
        ..TlsColumns::default()
    }
}

fn failure<'a>(policy: &'a TlsPolicy, found: &'a TlsFailure) -> TlsColumns<'a> {
    TlsColumns {
        policy_type: Some(&policy.policy_type),
        result_type: Some(&found.result_type),
        failed_sessions: Some(found.failed_sessions),
        sending_mta_ip: found.sending_mta_ip.as_deref(),
        receiving_ip: found.receiving_ip.as_deref(),
        receiving_mx_hostname: found.receiving_mx_hostname.as_deref(),
        receiving_mx_helo: found.receiving_mx_helo.as_deref(),
        failure_reason_code: found.failure_reason_code.as_deref(),
        additional_information: found.additional_information.as_deref(),
        ..TlsColumns::default()
    }
}

/// Whose a row is. A policy is found at the domain in From or above it; a row that says otherwise is nobody's.
fn owner(header_from: Option<&str>, policy_domain: Option<&str>, whose: Whose<'_>) -> TenantId {
    let belongs = match (header_from, policy_domain) {
        (Some(from), Some(policy)) => {
            from == policy || from.strip_suffix(policy).is_some_and(|front| front.ends_with('.'))
        }
        _ => true,
    };
    let domain = header_from.or(policy_domain).filter(|_| belongs);
    domain.and_then(whose).unwrap_or_else(TenantId::platform)
}

/// From where a report came, for its key: who claims another's name must not displace the other's report. A file without its
/// mail came from where the reporter's contact lies, as most mails do.
fn origin<'a>(submitter: Option<&'a str>, contact: Option<&'a str>) -> &'a str {
    let of_contact = || contact.and_then(|contact| contact.rsplit_once('@')).map(|(_, domain)| domain.trim());
    submitter.or_else(of_contact).unwrap_or_default()
}

/// Parts are told apart by their length: no two different reports have the same text under the hash.
pub(super) fn key(parts: &[&str], begin_at: Timestamp) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.to_lowercase().as_bytes());
    }
    context.update(&begin_at.0.to_be_bytes());
    context.finish().as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

fn finish<C: Serialize>(
    kind: Kind,
    key: String,
    begin_at: Timestamp,
    rows: &[Row<'_, C>],
) -> Result<ReportRows, NoRows> {
    Ok(ReportRows { kind, key, day: begin_at.days(), rows: encoded(kind, rows)? })
}

/// Rows whose fields have the names of the columns.
pub(super) fn encoded<R: Serialize>(kind: Kind, rows: &[R]) -> Result<RecordBatch, ArrowError> {
    let mut decoder = ReaderBuilder::new(kind.schema()).with_batch_size(rows.len().max(1)).build_decoder()?;
    decoder.serialize(rows)?;
    Ok(decoder.flush()?.unwrap_or_else(|| RecordBatch::new_empty(kind.schema())))
}
