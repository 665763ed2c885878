//! The body of `POST /v1/messages`, and the message that is composed from it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendlake_control::clock::SeededEntropy;
use sendlake_fuzz::api::limits::ApiLimits;
use sendlake_fuzz::api::request::{Rules, parse_message_request};
use sendlake_fuzz::{NOON, assert_crlf, assert_header_section, compose, owns};

fuzz_target!(|bytes: &[u8]| {
    let limits = ApiLimits { recipients: 50, header_bytes: 4_096, ..ApiLimits::default() };
    let rules = Rules { limits: &limits, now: NOON, owns: &owns };
    match parse_message_request(bytes, &rules) {
        Ok(request) => {
            assert!((1..=limits.recipients).contains(&request.recipients.len()));
            let content = compose::compose(&request.draft, NOON, &SeededEntropy::new(1));
            assert_header_section(&content.headers);
            assert_crlf(&content.body);
        }
        Err(problem) => assert!((400..500).contains(&problem.status), "{problem:?}"),
    }
});
