//! A TLS report as a mail: multipart/report with the fields and the file name of RFC 8460, sections 5.1 and 5.3. Pure; the
//! signature is the delivery's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sendlake_ingest::domain_report::TlsReport;
use sendlake_sender::address::Address;

/// Octets of base64 in a line (RFC 2045, section 6.8).
const LINE: usize = 76;

/// The mail, lines in CRLF, without Date and Message-ID. `unique` is letters and digits that no other report of this domain
/// and day has.
///
/// `TLS-Required: No` (RFC 8689, section 3) because a report on broken TLS must get through where TLS is broken: RFC 8460,
/// section 3, has its sender ignore such failures.
pub fn compose(
    report: &TlsReport,
    about: &str,
    from: &Address,
    to: &Address,
    unique: &str,
) -> std::io::Result<Vec<u8>> {
    let submitter = from.domain();
    let boundary = format!("tlsrpt-{unique}");
    let file = report.file_name(submitter, unique);
    let (begin, end) = (report.begin_at.to_chrono(), report.end_at.to_chrono());
    let sums = report.policies.iter().fold((0_i64, 0_i64), |(good, bad), policy| {
        (good.saturating_add(policy.successful_sessions), bad.saturating_add(policy.failed_sessions))
    });
    let mut lines = vec![
        format!("From: <{from}>"),
        format!("To: <{to}>"),
        format!("Subject: Report Domain: {about}"),
        format!(" Submitter: {submitter}"),
        format!(" Report-ID: <{}>", report.report_id),
        format!("TLS-Report-Domain: {about}"),
        format!("TLS-Report-Submitter: {submitter}"),
        "TLS-Required: No".to_owned(),
        "Auto-Submitted: auto-generated".to_owned(),
        "MIME-Version: 1.0".to_owned(),
        "Content-Type: multipart/report; report-type=\"tlsrpt\";".to_owned(),
        format!(" boundary=\"{boundary}\""),
        String::new(),
        format!("--{boundary}"),
        "Content-Type: text/plain; charset=us-ascii".to_owned(),
        String::new(),
        format!("This is an aggregate TLS report (RFC 8460) about mail sent to {about}"),
        format!(
            "by {submitter}, from {} to {} UTC.",
            begin.format("%Y-%m-%d %H:%M"),
            end.format("%Y-%m-%d %H:%M")
        ),
        String::new(),
        format!("Sessions with TLS: {}; without, or failed: {}.", sums.0, sums.1),
        String::new(),
        format!("--{boundary}"),
        "Content-Type: application/tlsrpt+gzip".to_owned(),
        "Content-Transfer-Encoding: base64".to_owned(),
        "Content-Disposition: attachment;".to_owned(),
        format!(" filename=\"{file}\""),
        String::new(),
    ];
    let encoded = STANDARD.encode(report.to_gzip()?);
    lines.extend(encoded.as_bytes().chunks(LINE).map(|line| String::from_utf8_lossy(line).into_owned()));
    lines.push(format!("--{boundary}--"));
    let mut mail = lines.join("\r\n").into_bytes();
    mail.extend_from_slice(b"\r\n");
    Ok(mail)
}
