//! Text with places for links, in the transfer encoding of its part (RFC 2045, section 6): what can be encoded once per
//! submission is, and a recipient's message is put together from it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Place;
use super::html::Segment;
use super::part::{HtmlPart, Transfer};

/// Longest line of quoted-printable and base64, without its end.
const LINE_BYTES_MAX: usize = 76;

/// A stretch of a message.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    /// Octets as they stand.
    Fixed(Vec<u8>),
    /// Quoted-printable: texts that are encoded, each from the start of a line, and places between.
    QuotedPrintable(Vec<Part>),
    /// Texts in the part's charset, encoded together with what is put in: base64 has no place where it could be cut.
    Base64(Vec<Part>),
}

#[derive(Clone, Debug)]
pub(super) enum Part {
    Octets(Vec<u8>),
    Place(Place),
}

impl Piece {
    /// The piece that stands for an HTML part. Parts without an encoding get quoted-printable.
    pub fn of(part: &HtmlPart, segments: Vec<Segment>) -> Self {
        let octets = |text: &str| part.charset.encode(text).0.into_owned();
        let parts = segments.into_iter();
        match part.transfer {
            Transfer::Base64 => Piece::Base64(
                parts
                    .map(|segment| match segment {
                        Segment::Text(text) => Part::Octets(octets(&text)),
                        Segment::Place(place) => Part::Place(place),
                    })
                    .collect(),
            ),
            Transfer::Plain | Transfer::QuotedPrintable => Piece::QuotedPrintable(
                parts
                    .map(|segment| match segment {
                        Segment::Text(text) => Part::Octets(quoted_printable(&octets(&text))),
                        Segment::Place(place) => Part::Place(place),
                    })
                    .collect(),
            ),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Piece::Fixed(octets) => octets.len(),
            Piece::QuotedPrintable(parts) | Piece::Base64(parts) => parts.iter().map(Part::bytes).sum(),
        }
    }

    /// Writes it out with links in its places.
    pub fn write(&self, body: &mut Vec<u8>, link: &mut impl FnMut(&Place) -> String) {
        match self {
            Piece::Fixed(octets) => body.extend_from_slice(octets),
            Piece::QuotedPrintable(parts) => {
                for part in parts {
                    match part {
                        Part::Octets(encoded) => body.extend_from_slice(encoded),
                        Part::Place(place) => write_link(body, &link(place)),
                    }
                }
            }
            Piece::Base64(parts) => {
                let mut octets = Vec::with_capacity(self.bytes());
                for part in parts {
                    match part {
                        Part::Octets(text) => octets.extend_from_slice(text),
                        Part::Place(place) => octets.extend_from_slice(link(place).as_bytes()),
                    }
                }
                write_base64(body, &octets);
            }
        }
    }
}

impl Part {
    /// A link is longer than what it leads to.
    fn bytes(&self) -> usize {
        match self {
            Part::Octets(octets) => octets.len(),
            Part::Place(Place::Open) => 300,
            Part::Place(Place::Click(url)) => 300 + url.len() * 3 / 2,
        }
    }
}

/// A link on lines of its own, which quoted-printable joins to what is around it. It holds no `=`.
fn write_link(body: &mut Vec<u8>, link: &str) {
    body.extend_from_slice(b"=\r\n");
    for line in link.as_bytes().chunks(LINE_BYTES_MAX - 1) {
        body.extend_from_slice(line);
        body.extend_from_slice(b"=\r\n");
    }
}

/// Octets in quoted-printable, starting on a fresh line. CRLF stays a line end, all else that is not printable is
/// escaped; white space that ends a line, or the whole, is escaped too.
fn quoted_printable(octets: &[u8]) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(octets.len() + octets.len() / 20 + 16);
    let mut column = 0;
    let mut rest = octets.iter().copied().enumerate().peekable();
    while let Some((at, octet)) = rest.next() {
        let next = rest.peek().map(|(_, octet)| *octet);
        if octet == b'\r' && next == Some(b'\n') {
            encoded.extend_from_slice(b"\r\n");
            column = 0;
            rest.next();
            continue;
        }
        let ends_line = next.is_none() || (next == Some(b'\r') && octets.get(at + 2) == Some(&b'\n'));
        let is_plain = match octet {
            b' ' | b'\t' => !ends_line,
            b'=' => false,
            _ => octet.is_ascii_graphic(),
        };
        let width = if is_plain { 1 } else { 3 };
        // one column is kept for the '=' of a soft break
        if column + width > LINE_BYTES_MAX - 1 {
            encoded.extend_from_slice(b"=\r\n");
            column = 0;
        }
        column += width;
        if is_plain {
            encoded.push(octet);
        } else {
            let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
            encoded.extend([b'=', digit(octet >> 4), digit(octet & 15)]);
        }
    }
    encoded
}

fn write_base64(body: &mut Vec<u8>, octets: &[u8]) {
    let encoded = STANDARD.encode(octets);
    let mut lines = encoded.as_bytes().chunks(LINE_BYTES_MAX).peekable();
    while let Some(line) = lines.next() {
        body.extend_from_slice(line);
        if lines.peek().is_some() {
            body.extend_from_slice(b"\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::decoders::quoted_printable::quoted_printable_decode;

    use super::*;

    #[test]
    fn quoted_printable_comes_back_and_keeps_its_lines_short() {
        let long = "Grüße = ".repeat(100);
        for text in ["", "a", "a \r\nb\t\r\n", "x ", "a\nb\rc", "\r\n\r\n", ".\r\n..\r\nFrom x", &long] {
            let encoded = quoted_printable(text.as_bytes());
            assert!(encoded.is_ascii());
            let lines = encoded.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
            assert!(lines.clone().all(|line| line.len() <= LINE_BYTES_MAX));
            assert!(lines.clone().all(|line| !line.ends_with(b" ") && !line.ends_with(b"\t")));
            assert_eq!(quoted_printable_decode(&encoded).unwrap(), text.as_bytes(), "{text:?}");
        }
    }

    #[test]
    fn a_link_joins_what_is_around_it() {
        let mut body = quoted_printable(b"<a href=\"");
        write_link(&mut body, &"x".repeat(200));
        body.extend(quoted_printable(b"\">go</a>\r\n"));
        assert!(body.split(|&b| b == b'\n').all(|line| line.len() <= LINE_BYTES_MAX + 1));
        let decoded = quoted_printable_decode(&body).unwrap();
        assert_eq!(decoded, format!("<a href=\"{}\">go</a>\r\n", "x".repeat(200)).into_bytes());
    }
}
