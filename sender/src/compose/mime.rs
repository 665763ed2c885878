//! The tree of body parts: alternative for text and HTML, related for inline images, mixed for attachments.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_builder::headers::content_type::ContentType;
use mail_builder::headers::raw::Raw;
use mail_builder::mime::{BodyPart, MimePart};
use sendlake_control::clock::Entropy;

use super::Draft;

/// A file that travels with the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub filename: String,
    /// `type/subtype`, with parameters if any; see [`check_content_type`].
    pub content_type: String,
    pub content: Vec<u8>,
    /// Without angle brackets; what HTML names as `cid:…`.
    pub content_id: Option<String>,
    /// Shown inside the HTML part instead of listed beside it.
    pub inline: bool,
}

/// Longest file name, in octets of UTF-8: percent-encoded it still fits on one line.
pub const FILENAME_BYTES_MAX: usize = 255;

/// Why an attachment's label cannot be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelFault {
    #[error("a content type looks like image/png, with parameters if need be; see RFC 2045, section 5.1")]
    ContentType,
    #[error(
        "{0} may not be base64-encoded (RFC 2046, sections 5.1 and 5.2): attach it as application/octet-stream, \
         or compose the message yourself and use /v1/messages/raw"
    )]
    Composite(String),
    #[error(
        "a file name must not hold CR, LF, NUL or other control characters: they could start a header line"
    )]
    FilenameControl,
    #[error("a file name is 1 to {FILENAME_BYTES_MAX} octets of UTF-8")]
    FilenameLength,
    #[error("a content id is 1 to 200 visible ASCII characters without white space, '<' or '>'")]
    ContentId,
}

/// `type/subtype` of tokens, then `; name=value` of visible ASCII (RFC 2045, section 5.1).
pub fn check_content_type(text: &str) -> Result<(), LabelFault> {
    const CONTENT_TYPE_BYTES_MAX: usize = 200;
    let (essence, parameters) = text.split_once(';').unwrap_or((text, ""));
    let (kind, subtype) = essence.trim().split_once('/').ok_or(LabelFault::ContentType)?;
    let is_token = |token: &str| {
        !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic() && !b"()<>@,;:\\\"/[]?=".contains(&b))
    };
    let parameters_fit = parameters.trim().is_empty()
        || parameters.split(';').all(|parameter| {
            parameter.trim().split_once('=').is_some_and(|(name, value)| {
                let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
                is_token(name)
                    && !value.is_empty()
                    && value.bytes().all(|b| (b.is_ascii_graphic() || b == b' ') && !b"\"\\".contains(&b))
            })
        });
    if text.len() > CONTENT_TYPE_BYTES_MAX || !is_token(kind) || !is_token(subtype) || !parameters_fit {
        return Err(LabelFault::ContentType);
    }
    if ["multipart", "message"].iter().any(|composite| kind.eq_ignore_ascii_case(composite)) {
        return Err(LabelFault::Composite(essence.trim().to_owned()));
    }
    Ok(())
}

pub fn check_filename(name: &str) -> Result<(), LabelFault> {
    if name.chars().any(char::is_control) {
        return Err(LabelFault::FilenameControl);
    }
    if name.trim().is_empty() || name.len() > FILENAME_BYTES_MAX {
        return Err(LabelFault::FilenameLength);
    }
    Ok(())
}

/// Takes a content id with or without angle brackets and gives it without.
pub fn check_content_id(text: &str) -> Result<&str, LabelFault> {
    let id = text.strip_prefix('<').and_then(|rest| rest.strip_suffix('>')).unwrap_or(text);
    let fits =
        (1..=200).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic() && !b"<>".contains(&b));
    if fits { Ok(id) } else { Err(LabelFault::ContentId) }
}

/// The Content-* lines of the message and its body, which ends in CRLF.
pub(super) fn body(draft: &Draft, entropy: &dyn Entropy) -> (Vec<u8>, Vec<u8>) {
    let mut octets = Vec::new();
    // Writing to memory cannot fail.
    let _ = tree(draft, entropy).write_part(&mut octets);
    let end = octets.windows(4).position(|window| window == b"\r\n\r\n").map_or(octets.len(), |at| at + 2);
    let mut body = octets.split_off(end);
    body.drain(..body.len().min(2));
    if !body.is_empty() && !body.ends_with(b"\r\n") {
        body.extend_from_slice(b"\r\n");
    }
    (octets, body)
}

fn tree<'x>(draft: &'x Draft, entropy: &dyn Entropy) -> MimePart<'x> {
    let (inline, attached): (Vec<_>, Vec<_>) = draft.attachments.iter().partition(|file| file.inline);
    let text = draft.text.as_deref().map(|text| text_part("text/plain", text));
    let html = draft.html.as_deref().map(|html| {
        let html = text_part("text/html", html);
        if inline.is_empty() {
            return html;
        }
        let parts = std::iter::once(html).chain(inline.iter().map(|file| file_part(file))).collect();
        let related = ContentType::new("multipart/related").attribute("type", "text/html");
        multipart(related, parts, entropy)
    });
    let content = match (text, html) {
        (Some(text), Some(html)) => {
            Some(multipart(ContentType::new("multipart/alternative"), vec![text, html], entropy))
        }
        (text, html) => text.or(html),
    };
    match content {
        Some(content) if attached.is_empty() => content,
        None if attached.is_empty() => text_part("text/plain", ""),
        content => {
            let parts = content.into_iter().chain(attached.iter().map(|file| file_part(file))).collect();
            multipart(ContentType::new("multipart/mixed"), parts, entropy)
        }
    }
}

/// A boundary of our own: mail-builder would take one from the system clock. "=_" stands in no
/// quoted-printable or base64 line (RFC 2045, section 6.7).
fn multipart<'x>(kind: ContentType<'x>, parts: Vec<MimePart<'x>>, entropy: &dyn Entropy) -> MimePart<'x> {
    let mut random = [0; 15];
    entropy.fill(&mut random);
    let boundary = format!("=_{}", data_encoding::BASE32_NOPAD.encode(&random));
    MimePart::new(kind.attribute("boundary", boundary), BodyPart::Multipart(parts))
}

/// Line ends are made LF first: mail-builder turns each LF into CRLF, but leaves CR CR LF and a lone CR alone.
fn text_part<'x>(content_type: &'static str, text: &'x str) -> MimePart<'x> {
    let text: Cow<'x, str> =
        if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n").into() } else { text.into() };
    MimePart::new(content_type, BodyPart::Text(text))
}

fn file_part(file: &Attachment) -> MimePart<'_> {
    let disposition = if file.inline { "inline" } else { "attachment" };
    // Raw headers are wrapped at white space only, and none of these has any past its first 76 octets but for
    // content type parameters, where a fold is harmless.
    let part = MimePart::raw(base64_lines(&file.content))
        .header("Content-Type", Raw::new(file.content_type.as_str()))
        .header(
            "Content-Disposition",
            Raw::new(format!("{disposition}; {}", filename_parameter(&file.filename))),
        )
        .transfer_encoding("base64");
    match &file.content_id {
        Some(id) => part.header("Content-ID", Raw::new(format!("<{id}>"))),
        None => part,
    }
}

/// RFC 2045, section 6.8: lines of 76.
fn base64_lines(content: &[u8]) -> Vec<u8> {
    let encoded = STANDARD.encode(content);
    let mut lines = Vec::with_capacity(encoded.len() + encoded.len() / 38 + 2);
    for line in encoded.as_bytes().chunks(76) {
        lines.extend_from_slice(line);
        lines.extend_from_slice(b"\r\n");
    }
    lines
}

/// `filename="…"` for plain names, else `filename*=utf-8''…` (RFC 2231, section 4), which has no white space
/// that a fold could change.
fn filename_parameter(name: &str) -> String {
    const SPACED_BYTES_MAX: usize = 32;
    let plain = |b: u8| b.is_ascii_graphic() && !b"\"\\".contains(&b);
    if name.bytes().all(plain)
        || (name.len() <= SPACED_BYTES_MAX && name.bytes().all(|b| b == b' ' || plain(b)))
    {
        return format!("filename=\"{name}\"");
    }
    let mut parameter = String::from("filename*=utf-8''");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._".contains(&byte) {
            parameter.push(char::from(byte));
        } else {
            parameter.push_str(&format!("%{byte:02X}"));
        }
    }
    parameter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for good in ["image/png", "text/csv; charset=utf-8", "text/x; name=\"a b\"; x=1", "application/pdf"] {
            assert_eq!(check_content_type(good), Ok(()), "{good}");
        }
        for bad in ["", "png", "image/", "a b/c", "image/png\r\nX: y", "image/png; x", "image/png; x=\"a\\\""]
        {
            assert_eq!(check_content_type(bad), Err(LabelFault::ContentType), "{bad}");
        }
        assert!(matches!(check_content_type("Message/rfc822"), Err(LabelFault::Composite(_))));
    }

    #[test]
    fn file_names() {
        assert_eq!(filename_parameter("my invoice.pdf"), "filename=\"my invoice.pdf\"");
        assert_eq!(filename_parameter("a\"b"), "filename*=utf-8''a%22b");
        assert_eq!(filename_parameter("größe.pdf"), "filename*=utf-8''gr%C3%B6%C3%9Fe.pdf");
        assert_eq!(check_filename("a\r\nX: y"), Err(LabelFault::FilenameControl));
        assert_eq!(check_filename(&"a".repeat(256)), Err(LabelFault::FilenameLength));
    }

    #[test]
    fn content_ids_lose_their_brackets() {
        assert_eq!(check_content_id("<logo@x>"), Ok("logo@x"));
        assert_eq!(check_content_id("a>\r\nX: y"), Err(LabelFault::ContentId));
    }
}
