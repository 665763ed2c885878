//! Real reports against parsedmarc: the same figures, record by record. `make corpora` prints how many.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{AggregateReport, AuthResult, DomainReport, FailureReport, Reading, Record, TlsReport};

fn seconds(at: sendlake_control::clock::Timestamp) -> i64 {
    at.as_secs()
}

fn aggregate(report: &AggregateReport) -> Value {
    let policy = &report.policy;
    let relaxed = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "r".into());
    json!({
        "type": "aggregate",
        "version": report.format_version,
        "org_name": report.org_name,
        "org_email": report.org_email,
        "contact": report.extra_contact_info,
        // the peer leaves out what follows an @
        "report_id": report.report_id.trim_matches(['<', '>']).split('@').next(),
        "begin": seconds(report.begin_at),
        "end": seconds(report.end_at),
        "errors": report.errors,
        "generator": report.generator,
        "policy": {
            "domain": policy.domain, "adkim": relaxed(&policy.adkim), "aspf": relaxed(&policy.aspf), "p": policy.p,
            "sp": policy.sp.clone().or(policy.p.clone()), "np": policy.np, "pct": policy.pct, "fo": policy.fo,
            "testing": policy.testing, "discovery_method": policy.discovery_method,
        },
        "records": report.records.iter().map(record).collect::<Vec<_>>(),
    })
}

fn record(record: &Record) -> Value {
    let signature = |result: &AuthResult| {
        let selector = result.selector.as_deref().unwrap_or("none");
        json!({
            "domain": result.domain, "selector": selector, "result": result.result,
            "human_result": result.human_result,
        })
    };
    let check = |result: &AuthResult| {
        let scope = result.scope.as_deref().unwrap_or("mfrom");
        json!({
            "domain": result.domain, "scope": scope, "result": result.result, "human_result": result.human_result,
        })
    };
    let reasons = record.reasons.iter().map(|one| json!({ "type": one.kind, "comment": one.comment }));
    json!({
        "source_ip": record.source_ip,
        "messages": record.messages,
        "disposition": record.disposition,
        "dkim_aligned": record.dkim_aligned,
        "spf_aligned": record.spf_aligned,
        "reasons": reasons.collect::<Vec<_>>(),
        "identifiers": {
            "header_from": record.identifiers.header_from,
            "envelope_from": record.identifiers.envelope_from,
            "envelope_to": record.identifiers.envelope_to,
        },
        "dkim": record.dkim.iter().map(signature).collect::<Vec<_>>(),
        "spf": record.spf.iter().map(check).collect::<Vec<_>>(),
    })
}

fn failure(report: &FailureReport) -> Value {
    json!({
        "type": "failure",
        "user_agent": report.user_agent,
        "version": report.version,
        "delivery_result": report.delivery_result,
        "auth_failure": report.auth_failure,
        "reported_domain": report.reported_domain,
        "authentication_results": report.authentication_results,
        "dkim_domain": report.dkim_domain,
        "original_mail_from": report.original_mail_from,
        "original_rcpt_to": report.original_rcpt_to,
        "original_envelope_id": report.original_envelope_id,
        "arrived": report.arrived_at.map(seconds),
        "source_ip": report.source_ip,
        "identity_alignment": report.identity_alignment,
    })
}

fn tls(report: &TlsReport) -> Value {
    let policies = report.policies.iter().map(|policy| {
        let failures = policy.failures.iter().map(|found| {
            json!({
                "result_type": found.result_type,
                "failed": found.failed_sessions,
                "sending_mta_ip": found.sending_mta_ip,
                "receiving_ip": found.receiving_ip,
                "receiving_mx_hostname": found.receiving_mx_hostname,
                "receiving_mx_helo": found.receiving_mx_helo,
                "additional_info_uri": found.additional_information,
                "failure_reason_code": found.failure_reason_code,
            })
        });
        json!({
            "domain": policy.domain,
            "type": policy.policy_type,
            "strings": policy.policy_strings,
            "successful": policy.successful_sessions,
            "failed": policy.failed_sessions,
            "failures": failures.collect::<Vec<_>>(),
        })
    });
    json!({
        "type": "tls",
        "org_name": report.org_name,
        "contact": report.contact_info,
        "report_id": report.report_id,
        "begin": seconds(report.begin_at),
        "end": seconds(report.end_at),
        "policies": policies.collect::<Vec<_>>(),
    })
}

fn files() -> Vec<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora");
    let corpora = std::env::var_os("SENDLAKE_CORPORA").map_or(default, PathBuf::from);
    let listed =
        ["dmarc", "tlsrpt"].into_iter().filter_map(|name| std::fs::read_dir(corpora.join(name)).ok());
    let mut files: Vec<PathBuf> = listed.flatten().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some());
    files.sort();
    files
}

fn python() -> Option<OsString> {
    let python = std::env::var_os("SENDLAKE_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let found = Command::new(&python).args(["-c", "import parsedmarc"]).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success()).then_some(python)
}

#[test]
fn corpus_of_domain_reports() {
    let files = files();
    if files.is_empty() {
        println!("no corpus of DMARC and TLS reports; set SENDLAKE_CORPORA to have it compared");
        return;
    }
    let Some(python) = python() else {
        eprintln!(
            "not tested: reports as parsedmarc reads them; pip install parsedmarc, and set SENDLAKE_TEST_PYTHON"
        );
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers/read_reports.py");
    let output = Command::new(python).arg(script).args(&files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (mut same, mut refused) = (0, 0);
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let reading = Reading::of(&std::fs::read(file).unwrap());
        // the peer recovers what it can from those; half of a report is worse than none
        if ["invalid", "empty"].iter().any(|start| name.starts_with(start)) {
            assert!(reading.reports.is_empty() && reading.problems.len() == 1, "{name}: {reading:?}");
            println!("{name}: refused, {}", reading.problems.join("; "));
            refused += 1;
            continue;
        }
        assert!(reading.problems.is_empty(), "{name}: {:?}", reading.problems);
        let [report] = reading.reports.as_slice() else {
            panic!("{name}: {} reports", reading.reports.len())
        };
        let ours = match report {
            DomainReport::Aggregate(report) => {
                assert_eq!(report.records_left_out, 0, "{name}: {:?}", report.left_out_because);
                aggregate(report)
            }
            DomainReport::Failure(report) => failure(report),
            DomainReport::Tls(report) => tls(report),
        };
        let theirs = &theirs[file.to_str().unwrap()];
        assert!(ours == *theirs, "{name}:\nhere   {ours:#}\nthere {theirs:#}");
        same += 1;
    }
    println!("{same} reports read as parsedmarc reads them, {refused} refused");
}
