//! A TLS report as its reporter writes it: JSON (RFC 8460, section 4.4), gzip, and the name of its file.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use sendlake_control::clock::Timestamp;
use serde_json::{Map, Value, json};

use super::{TlsFailure, TlsPolicy, TlsReport};

impl TlsReport {
    /// The report as a JSON document. What [`Reading`](super::Reading) makes of it is the same report again.
    pub fn to_json(&self) -> Value {
        let policies: Vec<Value> = self.policies.iter().map(policy).collect();
        let mut report = json!({
            "organization-name": self.org_name,
            "date-range": { "start-datetime": seconds(self.begin_at), "end-datetime": seconds(self.end_at) },
            "report-id": self.report_id,
            "policies": policies,
        });
        if let (Some(contact), Value::Object(members)) = (&self.contact_info, &mut report) {
            members.insert("contact-info".into(), contact.as_str().into());
        }
        report
    }

    /// The document in gzip: `application/tlsrpt+gzip`.
    pub fn to_gzip(&self) -> std::io::Result<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(self.to_json().to_string().as_bytes())?;
        encoder.finish()
    }

    /// What the file in gzip is called: reporter's domain, the domain reported on, from and to in seconds, and something that
    /// tells apart reports of the same day (section 5.1; letters and digits only).
    pub fn file_name(&self, reporter: &str, unique: &str) -> String {
        let about = self.policies.first().map_or("", |policy| policy.domain.as_str());
        let unique: String = unique.chars().filter(char::is_ascii_alphanumeric).collect();
        let (begin, end) = (self.begin_at.as_secs(), self.end_at.as_secs());
        format!("{reporter}!{about}!{begin}!{end}!{unique}.json.gz")
    }
}

fn policy(policy: &TlsPolicy) -> Value {
    let mut named = Map::from_iter([
        ("policy-type".to_owned(), json!(policy.policy_type)),
        ("policy-domain".to_owned(), json!(policy.domain)),
    ]);
    for (name, texts) in [("policy-string", &policy.policy_strings), ("mx-host", &policy.mx_hosts)] {
        if !texts.is_empty() {
            named.insert(name.into(), json!(texts));
        }
    }
    let mut written = json!({
        "policy": named,
        "summary": {
            "total-successful-session-count": policy.successful_sessions,
            "total-failure-session-count": policy.failed_sessions,
        },
    });
    if let (false, Value::Object(members)) = (policy.failures.is_empty(), &mut written) {
        members.insert("failure-details".into(), policy.failures.iter().map(failure).collect());
    }
    written
}

fn failure(failure: &TlsFailure) -> Value {
    let mut written = Map::from_iter([
        ("result-type".to_owned(), json!(failure.result_type)),
        ("failed-session-count".to_owned(), json!(failure.failed_sessions)),
    ]);
    for (name, text) in [
        ("sending-mta-ip", &failure.sending_mta_ip),
        ("receiving-ip", &failure.receiving_ip),
        ("receiving-mx-hostname", &failure.receiving_mx_hostname),
        ("receiving-mx-helo", &failure.receiving_mx_helo),
        ("additional-information", &failure.additional_information),
        ("failure-reason-code", &failure.failure_reason_code),
    ] {
        if let Some(text) = text {
            written.insert(name.into(), json!(text));
        }
    }
    Value::Object(written)
}

/// RFC 3339 to the second, as the RFC's own example has it.
fn seconds(at: Timestamp) -> String {
    at.to_chrono().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::super::{DomainReport, Reading};
    use super::*;

    fn report() -> TlsReport {
        TlsReport {
            org_name: "Example, Inc.".into(),
            contact_info: Some("tlsrpt@example.com".into()),
            report_id: "2026-03-02.0f@example.com".into(),
            begin_at: Timestamp::parse("2026-03-02T00:00:00Z").unwrap(),
            end_at: Timestamp::parse("2026-03-02T23:59:59Z").unwrap(),
            policies: vec![TlsPolicy {
                domain: "b.example".into(),
                policy_type: "no-policy-found".into(),
                successful_sessions: 12,
                failed_sessions: 3,
                failures: vec![
                    TlsFailure {
                        result_type: "starttls-not-supported".into(),
                        sending_mta_ip: Some("2001:db8::1".into()),
                        receiving_ip: Some("192.0.2.1".into()),
                        receiving_mx_hostname: Some("mx.b.example".into()),
                        failed_sessions: 2,
                        ..TlsFailure::default()
                    },
                    TlsFailure {
                        result_type: "validation-failure".into(),
                        failed_sessions: 1,
                        failure_reason_code: Some("handshake".into()),
                        additional_information: Some("https://example.com/why".into()),
                        receiving_mx_helo: Some("mx".into()),
                        ..TlsFailure::default()
                    },
                ],
                ..TlsPolicy::default()
            }],
        }
    }

    #[test]
    fn what_is_written_is_read_as_the_same_report() {
        let report = report();
        for octets in [report.to_json().to_string().into_bytes(), report.to_gzip().unwrap()] {
            let reading = Reading::of(&octets);
            assert!(reading.problems.is_empty(), "{:?}", reading.problems);
            assert_eq!(reading.reports, [DomainReport::Tls(Box::new(report.clone()))]);
        }
    }

    #[test]
    fn the_dates_and_the_name_are_those_of_the_rfc() {
        let report = report();
        assert_eq!(report.to_json()["date-range"]["end-datetime"], "2026-03-02T23:59:59Z");
        assert_eq!(
            report.file_name("example.com", "0f-a!b"),
            "example.com!b.example!1772409600!1772495999!0fab.json.gz"
        );
    }
}
