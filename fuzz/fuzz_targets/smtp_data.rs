//! A message up to its final dot, whole and in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendlake_fuzz::assert_crlf;
use sendlake_fuzz::inbound_data::{DataProgress, DataReader};

fuzz_target!(|bytes: &[u8]| {
    let mut whole = DataReader::new(1_000);
    let (taken, progress) = whole.take(bytes);
    assert!(taken <= bytes.len());
    let mut pieces = DataReader::new(1_000);
    let mut last = DataProgress::Reading;
    for byte in bytes.iter().take(taken) {
        assert_eq!(last, DataProgress::Reading, "the pieces end before the whole");
        last = pieces.take(std::slice::from_ref(byte)).1;
    }
    assert_eq!(last, progress);
    if progress == DataProgress::Done {
        let data = whole.into_data();
        assert_eq!(data, pieces.into_data());
        assert_crlf(&data);
        assert!(data.is_empty() || data.ends_with(b"\r\n"));
        assert!(bytes[..taken].ends_with(b".\r\n"));
    }
});
