//! A message between DATA and its final dot (RFC 5321, section 4.5.2): dots unstuffed, line ends checked, size
//! bounded.

/// Why a message cannot be taken whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFault {
    /// A CR or an LF by itself: servers disagree on what that is, and mail can be smuggled in between.
    BareLineEnd,
    /// Larger than allowed. The rest is read and thrown away.
    TooBig,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataProgress {
    /// More has to be read.
    Reading,
    /// The final dot was read.
    Done,
    Broken(DataFault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    LineStart,
    /// After a dot at the start of a line.
    Dot,
    /// After that dot and a CR.
    DotCr,
    Text,
    Cr,
}

/// Collects one message.
#[derive(Debug)]
pub struct DataReader {
    at: At,
    data: Vec<u8>,
    bytes_max: usize,
    is_too_big: bool,
}

impl DataReader {
    pub fn new(bytes_max: usize) -> Self {
        Self { at: At::LineStart, data: Vec::new(), bytes_max, is_too_big: false }
    }

    /// Takes octets up to the end of the message. Returns how many, and how far it has come.
    pub fn take(&mut self, input: &[u8]) -> (usize, DataProgress) {
        for (index, &byte) in input.iter().enumerate() {
            self.at = match (self.at, byte) {
                (At::LineStart, b'.') => At::Dot,
                (At::Dot, b'\r') => At::DotCr,
                (At::DotCr, b'\n') => {
                    let progress = if self.is_too_big {
                        DataProgress::Broken(DataFault::TooBig)
                    } else {
                        DataProgress::Done
                    };
                    return (index + 1, progress);
                }
                (At::Cr, b'\n') => {
                    self.push(b"\r\n");
                    At::LineStart
                }
                (At::LineStart | At::Text, b'\r') => At::Cr,
                (At::DotCr | At::Cr, _) | (_, b'\n') => {
                    return (index + 1, DataProgress::Broken(DataFault::BareLineEnd));
                }
                // the dot before it was stuffing
                (At::LineStart | At::Dot | At::Text, byte) => {
                    self.push(&[byte]);
                    At::Text
                }
            };
        }
        (input.len(), DataProgress::Reading)
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.is_too_big {
            return;
        }
        if self.data.len() + bytes.len() > self.bytes_max {
            self.is_too_big = true;
            self.data = Vec::new();
            return;
        }
        self.data.extend_from_slice(bytes);
    }

    /// The message.
    pub fn into_data(self) -> Vec<u8> {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(input: &[u8], bytes_max: usize) -> (usize, DataProgress, Vec<u8>) {
        let mut reader = DataReader::new(bytes_max);
        let (taken, progress) = reader.take(input);
        (taken, progress, reader.into_data())
    }

    #[test]
    fn only_crlf_dot_crlf_ends_a_message() {
        let (taken, progress, data) = read(b"a\r\n..b\r\n.c\r\n.\r\nQUIT\r\n", 99);
        assert_eq!((taken, progress), (15, DataProgress::Done));
        assert_eq!(data, b"a\r\n.b\r\nc\r\n");
        assert_eq!(read(b".\r\n", 9), (3, DataProgress::Done, Vec::new()));
    }

    #[test]
    fn lone_line_ends_are_refused_wherever_they_stand() {
        for text in [
            "a\n.\r\n",
            "a\r\n.\nMAIL",
            "a\r\n.\n",
            "\n",
            "a\rb\r\n",
            "a\r\r\n",
            ".\rx",
            "a\r\n.\r\r\n",
            ".\n",
        ] {
            let (_, progress, _) = read(text.as_bytes(), 99);
            assert_eq!(progress, DataProgress::Broken(DataFault::BareLineEnd), "{text:?}");
        }
    }

    #[test]
    fn a_message_that_is_too_big_is_read_to_its_end_and_not_kept() {
        let (taken, progress, data) = read(b"abcdef\r\nx\r\n.\r\nNOOP", 6);
        assert_eq!((taken, progress), (14, DataProgress::Broken(DataFault::TooBig)));
        assert!(data.is_empty());
        assert_eq!(read(b"abcd\r\n.\r\n", 6).1, DataProgress::Done);
    }

    proptest! {
        #[test]
        fn stuffed_text_comes_back_however_it_is_cut(
            lines in prop::collection::vec("[.a-z ]{0,8}", 0..9), cut in 1..7_usize
        ) {
            let mut wire = Vec::new();
            let mut text = Vec::new();
            for line in &lines {
                text.extend_from_slice(line.as_bytes());
                text.extend_from_slice(b"\r\n");
                if line.starts_with('.') {
                    wire.push(b'.');
                }
                wire.extend_from_slice(line.as_bytes());
                wire.extend_from_slice(b"\r\n");
            }
            wire.extend_from_slice(b".\r\n");
            let mut reader = DataReader::new(1_000);
            let mut last = DataProgress::Reading;
            for part in wire.chunks(cut) {
                prop_assert_eq!(last, DataProgress::Reading);
                last = reader.take(part).1;
            }
            prop_assert_eq!(last, DataProgress::Done);
            prop_assert_eq!(reader.into_data(), text);
        }
    }
}
