//! A message in the form that follows DATA: dots doubled, and the end marked (RFC 5321, section 4.5.2).

/// The pieces of one message, made ready to be written at once. A dot is doubled after a bare CR or LF as well,
/// which receivers that take those for line ends would otherwise read as the end of the message.
pub(super) fn stuffed(pieces: &[&[u8]]) -> Vec<u8> {
    let length: usize = pieces.iter().map(|piece| piece.len()).sum();
    let mut out = Vec::with_capacity(length + length / 64 + 5);
    for piece in pieces {
        let mut from = 0;
        let mut at_line_start = starts_line(&out);
        for (at, &byte) in piece.iter().enumerate() {
            if byte == b'.' && at_line_start {
                out.extend_from_slice(piece.get(from..at).unwrap_or_default());
                out.push(b'.');
                from = at;
            }
            at_line_start = matches!(byte, b'\r' | b'\n');
        }
        out.extend_from_slice(piece.get(from..).unwrap_or_default());
    }
    if !out.is_empty() && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

fn starts_line(written: &[u8]) -> bool {
    written.last().is_none_or(|byte| matches!(byte, b'\r' | b'\n'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(pieces: &[&str]) -> String {
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        String::from_utf8(stuffed(&pieces)).unwrap()
    }

    #[test]
    fn dots_at_line_starts_are_doubled() {
        assert_eq!(text(&["A: b\r\n", "\r\n", ".x\r\n..\r\n.\r\n"]), "A: b\r\n\r\n..x\r\n...\r\n..\r\n.\r\n");
        assert_eq!(text(&["a.b\r\n"]), "a.b\r\n.\r\n");
        assert_eq!(text(&[".", "."]), "...\r\n.\r\n");
        assert_eq!(text(&["no end"]), "no end\r\n.\r\n");
        assert_eq!(text(&[]), ".\r\n");
    }

    #[test]
    fn nothing_can_be_smuggled_past_the_end() {
        for hidden in ["a\n.\nMAIL", "a\r.\rMAIL", "a\n.\r\nMAIL", "a\r\n.\nMAIL", "a\r.\r\nMAIL"] {
            let sent = text(&[hidden]);
            assert!(sent.contains("..") && !sent.contains("\n.\n") && !sent.contains("\r.\r"), "{sent:?}");
        }
    }

    proptest! {
        #[test]
        fn receiver_gets_back_what_was_sent(lines in proptest::collection::vec("[.a]{0,4}", 1..20), cut in 0usize..40) {
            let message: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let cut = cut.min(message.len());
            let wire = text(&[&message[..cut], &message[cut..]]);
            let mut back = String::new();
            for line in wire.split_inclusive("\r\n") {
                if line == ".\r\n" { break; }
                back.push_str(line.strip_prefix('.').unwrap_or(line));
            }
            prop_assert_eq!(back, message);
        }
    }
}
