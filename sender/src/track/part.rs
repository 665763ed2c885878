//! The HTML parts of a message, with the ranges that they take in it.

use std::ops::Range;

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::{Message, MessageParser, MessagePart, MimeHeaders, PartType};

/// How a part's octets stand in the message (RFC 2045, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// 7bit, 8bit, binary, or nothing said.
    Plain,
    QuotedPrintable,
    Base64,
}

/// One HTML part, decoded.
#[derive(Debug)]
pub(super) struct HtmlPart {
    /// Its header section, the empty line not included.
    pub header: Range<usize>,
    pub body: Range<usize>,
    pub transfer: Transfer,
    pub charset: &'static Encoding,
    pub html: String,
}

impl HtmlPart {
    /// Whether it is where a part can be: the first header section is the message's own, all others lie in its body.
    pub fn fits(&self, header_bytes: usize) -> bool {
        let is_root = self.header == (0..header_bytes);
        (is_root || self.header.start >= header_bytes + 2)
            && self.header.end <= self.body.start
            && self.body.start >= header_bytes + 2
    }
}

/// The HTML parts that a reader is shown; `None` for a message that must not be changed, since its client signed or
/// encrypted it.
pub(super) fn html_parts(message: &[u8]) -> Option<Vec<HtmlPart>> {
    let parsed = MessageParser::default().parse(message)?;
    if is_sealed(&parsed) {
        return None;
    }
    Some(parsed.parts.iter().filter_map(|part| html_part(message, part)).collect())
}

/// Signed or encrypted (RFC 1847), or signed by DKIM before it came here.
fn is_sealed(parsed: &Message<'_>) -> bool {
    parsed.header_raw("DKIM-Signature").is_some()
        || parsed.parts.iter().filter_map(MessagePart::content_type).any(|kind| {
            let is = |wanted: &str| kind.ctype().eq_ignore_ascii_case(wanted);
            let subtype = kind.subtype().unwrap_or_default().to_ascii_lowercase();
            (is("multipart") && ["signed", "encrypted"].contains(&subtype.as_str()))
                || (is("application") && subtype.ends_with("pkcs7-mime"))
        })
}

fn html_part(message: &[u8], part: &MessagePart<'_>) -> Option<HtmlPart> {
    if !matches!(part.body, PartType::Html(_)) || part.is_encoding_problem {
        return None;
    }
    if part.content_disposition().is_some_and(|disposition| disposition.is_attachment()) {
        return None;
    }
    let transfer = match part.content_transfer_encoding().map(str::to_ascii_lowercase).as_deref() {
        None | Some("7bit" | "8bit" | "binary") => Transfer::Plain,
        Some("quoted-printable") => Transfer::QuotedPrintable,
        Some("base64") => Transfer::Base64,
        Some(_) => return None,
    };
    let mut body = part.offset_body as usize..part.offset_end as usize;
    let mut octets = message.get(body.clone())?;
    if transfer == Transfer::Base64 {
        // the line end before the next boundary is no part of what is replaced
        octets = octets.trim_ascii_end();
        body.end = body.start + octets.len();
    }
    let decoded = match transfer {
        Transfer::Plain => octets.to_vec(),
        Transfer::QuotedPrintable => quoted_printable_decode(octets)?,
        Transfer::Base64 => base64_decode(octets)?,
    };
    let charset = charset(part, &decoded)?;
    let html = charset.decode_without_bom_handling_and_without_replacement(&decoded)?.into_owned();
    let header = message.get(part.offset_header as usize..part.offset_body as usize)?;
    // the empty line is no part of the section
    let header_bytes = header.strip_suffix(b"\r\n").map_or(header.len(), <[u8]>::len);
    let header = part.offset_header as usize..part.offset_header as usize + header_bytes;
    Some(HtmlPart { header, body, transfer, charset, html })
}

/// The charset that the part names, if what it holds can be written in it again.
fn charset(part: &MessagePart<'_>, decoded: &[u8]) -> Option<&'static Encoding> {
    let named = part.content_type().and_then(|kind| kind.attribute("charset"));
    match named {
        // ASCII is what nothing said means; more than that is read as every mail program does
        None => Some(if std::str::from_utf8(decoded).is_ok() { UTF_8 } else { WINDOWS_1252 }),
        Some(label) if label.eq_ignore_ascii_case("us-ascii") && decoded.is_ascii() => Some(UTF_8),
        Some(label) => {
            let charset = Encoding::for_label(label.as_bytes())?;
            (![UTF_16BE, UTF_16LE].contains(&charset) && charset.output_encoding() == charset)
                .then_some(charset)
        }
    }
}

/// A header section whose part is in quoted-printable.
pub(super) fn as_quoted_printable(section: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"content-transfer-encoding:";
    let mut kept = Vec::with_capacity(section.len() + 50);
    let mut is_it = false;
    for line in section.split_inclusive(|&b| b == b'\n') {
        if !matches!(line.first(), Some(b' ' | b'\t')) {
            is_it = line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME));
        }
        if !is_it {
            kept.extend_from_slice(line);
        }
    }
    if !kept.is_empty() && !kept.ends_with(b"\r\n") {
        kept.extend_from_slice(b"\r\n");
    }
    kept.extend_from_slice(b"Content-Transfer-Encoding: quoted-printable\r\n");
    kept
}

/// The addresses by which a client's own List-Unsubscribe lets people leave.
pub(super) fn unsubscribe_links(headers: &[u8]) -> Vec<String> {
    let Some(parsed) = MessageParser::default().parse_headers(headers) else { return Vec::new() };
    let Some(value) = parsed.header_raw("List-Unsubscribe") else { return Vec::new() };
    let unfolded: String = value.chars().filter(|c| !c.is_whitespace()).collect();
    let uris = unfolded.split(['<', '>', ',']).filter(|uri| uri.starts_with("http"));
    uris.filter_map(|uri| url::Url::parse(uri).ok()).map(String::from).collect()
}
