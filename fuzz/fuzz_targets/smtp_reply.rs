//! What a receiver answers, whole and in pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendlake_fuzz::reply::{ReplyBuffer, parse_reply};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse_reply(bytes);
    if let Ok(Some(parsed)) = &whole {
        assert!(parsed.bytes > 0 && parsed.bytes <= bytes.len());
        assert!((200..600).contains(&parsed.reply.code));
        assert!(!parsed.lines.is_empty());
        assert!(!parsed.reply.to_string().chars().any(char::is_control), "{}", parsed.reply);
    }
    // the same octets one by one give the same reply
    let mut buffer = ReplyBuffer::default();
    for (index, byte) in bytes.iter().enumerate() {
        buffer.push(std::slice::from_ref(byte));
        match buffer.next() {
            Ok(None) => {}
            Ok(Some(parsed)) => {
                let whole = whole.expect("whole fails where the pieces do not").expect("whole is a reply, too");
                assert_eq!((parsed.bytes, parsed.reply), (whole.bytes, whole.reply));
                assert_eq!(parsed.bytes, index + 1);
                return;
            }
            Err(_) => {
                assert!(whole.is_err(), "the pieces fail where the whole does not");
                return;
            }
        }
    }
    assert!(!matches!(whole, Ok(Some(_))), "the whole is a reply, the pieces are not");
});
