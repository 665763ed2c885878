//! The parsers of the sender and of ingest, and what must hold for whatever they let through. The modules are
//! links to their files: a whole crate would have Delta and DataFusion built with instrumentation, for half
//! an hour and to no end.

#![allow(dead_code, reason = "only a part of each module is driven here")]

pub mod address;
pub mod compose;
pub mod domain_report;
pub mod event;
pub mod foreign;
pub mod inbound_data;
pub mod link;
pub mod nesting;
pub mod reply;
pub mod report;
pub mod stream;
pub mod submission;
pub mod token;
pub mod track;

/// The part of the send API that reads requests.
pub mod api {
    pub mod json;
    pub mod limits;
    pub mod problem;
    pub mod request;
}

use sendlake_control::clock::Timestamp;

/// The instant at which all fuzzed requests arrive.
pub const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

/// Whom the fuzzed tenant may send as.
pub fn owns(domain: &str) -> bool {
    domain == "example.com"
}

/// A header section as it may go on the wire: lines that end in CRLF and hold no other CR, LF or NUL, none of them
/// empty, the first with a field's name. Anything else would let a request put fields or a body of its own there.
pub fn assert_header_section(headers: &[u8]) {
    assert!(headers.ends_with(b"\r\n"), "the section does not end with a line: {:?}", text(headers));
    for (index, line) in headers.split_inclusive(|&b| b == b'\n').enumerate() {
        let bare = line.strip_suffix(b"\r\n").unwrap_or_else(|| panic!("a lone LF: {:?}", text(headers)));
        assert!(!bare.is_empty(), "an empty line: {:?}", text(headers));
        assert!(!bare.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)), "CR or NUL: {:?}", text(headers));
        let folded = matches!(bare.first(), Some(b' ' | b'\t'));
        assert!(folded || bare.contains(&b':'), "no field: {:?}", text(bare));
        assert!(index > 0 || !folded, "the section begins folded: {:?}", text(headers));
    }
}

/// A body as it may go on the wire: every CR before an LF, and every LF after a CR.
pub fn assert_crlf(body: &[u8]) {
    let lone_lf = body.iter().enumerate().any(|(i, b)| *b == b'\n' && (i == 0 || body[i - 1] != b'\r'));
    let lone_cr = body.iter().enumerate().any(|(i, b)| *b == b'\r' && body.get(i + 1) != Some(&b'\n'));
    assert!(!lone_lf && !lone_cr, "a lone CR or LF: {:?}", text(body));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
