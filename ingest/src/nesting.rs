//! How many mails a mail may hold within one another. The parser's result has a level for each, and taking it down again
//! recurses: some ten thousand levels, which fit into a megabyte, would end the process.

/// Far more than forwarding makes.
pub const MAILS_MAX: usize = 100;

/// Whether a mail announces more mails within it than are looked into, deep or side by side: parts of type message/…, and
/// multipart/digest, whose parts are mails without saying so (RFC 2046, section 5.1.5). To be asked before it is parsed.
pub fn holds_too_many_mails(bytes: &[u8]) -> bool {
    let mut found = 0;
    for (at, byte) in bytes.iter().enumerate() {
        if !matches!(byte, b'm' | b'M') {
            continue;
        }
        let here = bytes.get(at..).unwrap_or_default();
        let is_type = [&b"message/"[..], b"multipart/digest"]
            .iter()
            .any(|kind| here.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind)));
        if is_type && is_value(bytes.get(..at).unwrap_or_default()) {
            found += 1;
            if found > MAILS_MAX {
                return true;
            }
        }
    }
    false
}

/// Whether what follows may be the value of a field: a colon, a comment or a quote stands before it.
fn is_value(before: &[u8]) -> bool {
    matches!(before.trim_ascii_end().last(), Some(b':' | b')' | b'"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_types_of_parts_are_counted() {
        let many = |text: &str| holds_too_many_mails(text.repeat(MAILS_MAX + 1).as_bytes());
        assert!(many("Content-Type: message/rfc822\r\n\r\n"));
        assert!(many("content-type:\r\n\tMESSAGE/Global (x)\r\n\r\n"));
        assert!(many("Content-Type: multipart/digest; boundary=a\r\n\r\n"));
        assert!(!many("see https://example.com/message/1\r\n"));
        assert!(!holds_too_many_mails("Content-Type: message/rfc822\r\n\r\n".repeat(MAILS_MAX).as_bytes()));
    }
}
