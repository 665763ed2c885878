//! SMTP TLS reports: JSON that is read within bounds, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendlake_fuzz::domain_report::{DomainReport, Reading};

fuzz_target!(|bytes: &[u8]| {
    // what begins like JSON is read as such
    let text = [b"{", bytes].concat();
    for report in Reading::of(&text).reports {
        let DomainReport::Tls(report) = report else { panic!("JSON is no other report") };
        assert!(report.begin_at <= report.end_at && !report.policies.is_empty());
        for policy in report.policies {
            assert!(!policy.domain.is_empty() && policy.successful_sessions >= 0 && policy.failed_sessions >= 0);
        }
    }
});
