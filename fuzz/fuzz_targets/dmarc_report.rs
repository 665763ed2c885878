//! DMARC reports, bare, packed or in a mail: whatever it is, it is read within bounds, and something is said of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendlake_fuzz::domain_report::{DomainReport, RECORDS_MAX, Reading, TEXT_CHARS_MAX};

fuzz_target!(|bytes: &[u8]| {
    let reading = Reading::of(bytes);
    assert!(!reading.reports.is_empty() || !reading.problems.is_empty());
    for report in reading.reports {
        match report {
            DomainReport::Aggregate(report) => {
                assert!((1..=RECORDS_MAX).contains(&report.records.len()));
                assert!(report.begin_at <= report.end_at && report.org_name.chars().count() <= TEXT_CHARS_MAX);
                assert!(report.records.iter().all(|record| record.messages >= 0));
            }
            DomainReport::Failure(report) => assert!(report.incidents >= 1 && !report.auth_failure.is_empty()),
            DomainReport::Tls(report) => assert!(!report.policies.is_empty()),
        }
    }
});
