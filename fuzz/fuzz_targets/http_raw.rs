//! `POST /v1/messages/raw`: the JSON request, and the RFC 5322 message itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendlake_fuzz::api::limits::ApiLimits;
use sendlake_fuzz::api::request::{Rules, raw::parse_raw_request};
use sendlake_fuzz::compose::raw::prepare;
use sendlake_fuzz::submission::Content;
use sendlake_fuzz::{NOON, assert_crlf, assert_header_section, owns};

fn assert_sendable(content: &Content) {
    assert_header_section(&content.headers);
    assert_crlf(&content.body);
    assert!(content.needs_8bitmime || content.body.is_ascii());
    assert!(content.needs_smtputf8 || content.headers.is_ascii());
}

fuzz_target!(|bytes: &[u8]| {
    // a message as such, or a request that holds one
    if bytes.first() != Some(&b'{') {
        if let Ok(message) = prepare(bytes, NOON) {
            assert_sendable(&message.content);
        }
        return;
    }
    let limits = ApiLimits::default();
    match parse_raw_request(bytes, &Rules { limits: &limits, now: NOON, owns: &owns }) {
        Ok(request) => assert_sendable(&request.message.content),
        Err(problem) => assert!((400..500).contains(&problem.status), "{problem:?}"),
    }
});
