//! From what came to the documents in it: mails, mails in mails, zip, gzip, and what is labelled as something else.
//! Content decides, never a name or a declared type. Bytes, ratio, depth and numbers are bounded.

use std::borrow::Cow;
use std::io::Read;

use mail_parser::decoders::base64::base64_decode;
use mail_parser::decoders::quoted_printable::quoted_printable_decode;
use mail_parser::{Encoding, Message, MessageParser, MessagePart, MimeHeaders, PartType};

use super::failure::{self, FailureReport};
use super::{BYTES_MAX, UNPACKED_BYTES_MAX, zip};
use crate::nesting;

/// Archives in archives, and mails in mails, that are looked into.
const DEPTH_MAX: usize = 4;
/// Most documents of one file, entries of one archive and parts of one mail.
const DOCUMENTS_MAX: usize = 50;
const ENTRIES_MAX: usize = 50;
const PARTS_MAX: usize = 500;
/// XML that repeats itself shrinks to a hundredth; what shrinks to less is made to fill memory.
const RATIO_MAX: u64 = 300;
/// Below this size no ratio does harm.
const RATIO_FREE_BYTES: u64 = 4 << 20;
/// Where a document says what it is.
const HEAD_BYTES: usize = 4 << 10;

/// Something that may be a report.
pub(super) enum Document {
    Xml(Vec<u8>),
    Json(Vec<u8>),
    Failure(Box<FailureReport>),
}

/// What was found.
#[derive(Default)]
pub(super) struct Unpacked {
    pub(super) documents: Vec<Document>,
    pub(super) problems: Vec<String>,
    pub(super) submitter: Option<String>,
}

/// Takes a file apart.
pub(super) fn unpack(bytes: &[u8]) -> Unpacked {
    let mut unpacker = Unpacker { found: Unpacked::default(), bytes_left: UNPACKED_BYTES_MAX as u64 };
    if bytes.len() > BYTES_MAX {
        unpacker.problem(format!("it has {} bytes; at most {BYTES_MAX} are looked into", bytes.len()));
    } else if bytes.trim_ascii().is_empty() {
        unpacker.problem("it is empty".to_owned());
    } else if looks(bytes) == Looks::Other {
        unpacker.take_mail(bytes);
    } else {
        unpacker.take(Cow::Borrowed(bytes), DEPTH_MAX);
    }
    unpacker.found
}

/// What bytes look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    Gzip,
    Zip,
    Xml,
    Json,
    Other,
}

fn looks(bytes: &[u8]) -> Looks {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        return Looks::Gzip;
    }
    if bytes.starts_with(b"PK\x03\x04") || bytes.starts_with(b"PK\x05\x06") {
        return Looks::Zip;
    }
    if bytes.starts_with(b"\xff\xfe<\0") || bytes.starts_with(b"\xfe\xff\0<") {
        return Looks::Xml;
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let head = text.get(..text.len().min(HEAD_BYTES)).unwrap_or_default().to_ascii_lowercase();
    // pages for people begin like XML, too
    if head.starts_with(b"<") && !head.starts_with(b"<!doctype html") && !head.starts_with(b"<html") {
        return if is_page(&head) { Looks::Other } else { Looks::Xml };
    }
    if head.starts_with(b"{") { Looks::Json } else { Looks::Other }
}

fn is_page(head: &[u8]) -> bool {
    let root = head
        .split(|byte| *byte == b'<')
        .skip(1)
        .find(|tag| tag.first().is_some_and(|first| first.is_ascii_alphabetic() || *first == b'_'));
    root.is_some_and(|root| {
        [
            &b"html"[..],
            b"div",
            b"p>",
            b"p ",
            b"head",
            b"body",
            b"table",
            b"span",
            b"meta",
            b"br",
            b"pre",
            b"style",
        ]
        .iter()
        .any(|tag| root.starts_with(tag))
    })
}

struct Unpacker {
    found: Unpacked,
    bytes_left: u64,
}

impl Unpacker {
    /// Takes what can be recognised by its first bytes; nothing else.
    fn take(&mut self, bytes: Cow<'_, [u8]>, depth: usize) {
        match looks(&bytes) {
            Looks::Xml => self.push(Document::Xml(bytes.into_owned())),
            Looks::Json => self.push(Document::Json(bytes.into_owned())),
            Looks::Gzip | Looks::Zip if depth == 0 => {
                self.problem(format!("archives lie within archives more than {DEPTH_MAX} deep"));
            }
            Looks::Gzip => self.gunzip(&bytes, depth - 1),
            Looks::Zip => self.unzip(&bytes, depth - 1),
            Looks::Other => {}
        }
    }

    fn push(&mut self, document: Document) {
        if self.found.documents.len() < DOCUMENTS_MAX {
            self.found.documents.push(document);
        } else {
            self.problem(format!("it holds more than {DOCUMENTS_MAX} documents; the others are not read"));
        }
    }

    fn problem(&mut self, problem: String) {
        if self.found.problems.len() < DOCUMENTS_MAX && !self.found.problems.contains(&problem) {
            self.found.problems.push(problem);
        }
    }

    fn gunzip(&mut self, bytes: &[u8], depth: usize) {
        // behind the first member there is often a line end that some mailer added: nothing else is read
        let mut inner = flate2::bufread::GzDecoder::new(bytes);
        match self.read(&mut inner, bytes.len() as u64) {
            Ok(inner) => self.take_inner(inner, depth, "the gzip file"),
            Err(problem) => self.problem(format!("the gzip file cannot be unpacked: {problem}")),
        }
    }

    fn unzip(&mut self, bytes: &[u8], depth: usize) {
        let entries = match zip::entries(bytes, ENTRIES_MAX) {
            Ok(entries) => entries,
            Err(error) => return self.problem(format!("the zip file cannot be unpacked: {error}")),
        };
        if entries.is_empty() {
            self.problem("the zip file is empty".to_owned());
        }
        for entry in entries {
            let packed = entry.packed.len() as u64;
            let read = self
                .read(&mut entry.reader(), packed)
                .and_then(|inner| entry.check(&inner).map(|()| inner).map_err(|error| error.to_string()));
            match read {
                Ok(inner) => self.take_inner(inner, depth, "an entry of the zip file"),
                Err(problem) => {
                    self.problem(format!("an entry of the zip file cannot be unpacked: {problem}"))
                }
            }
        }
    }

    fn take_inner(&mut self, inner: Vec<u8>, depth: usize, what: &str) {
        if inner.trim_ascii().is_empty() {
            self.problem(format!("{what} holds nothing"));
        } else if looks(&inner) == Looks::Other {
            self.problem(format!("{what} holds neither XML nor JSON"));
        } else {
            self.take(Cow::Owned(inner), depth);
        }
    }

    /// Reads what unpacks from `packed` bytes, within what is left of the budget.
    fn read(&mut self, from: &mut dyn Read, packed: u64) -> Result<Vec<u8>, String> {
        let by_ratio = packed.saturating_mul(RATIO_MAX).max(RATIO_FREE_BYTES);
        let most = by_ratio.min(self.bytes_left);
        let mut unpacked = Vec::new();
        let read = from.take(most.saturating_add(1)).read_to_end(&mut unpacked);
        let bytes = unpacked.len() as u64;
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        read.map_err(|error| error.to_string())?;
        if bytes > most {
            return Err(if most == by_ratio {
                format!("{packed} bytes become more than {most}, as only what is meant to fill memory does")
            } else {
                format!("it becomes more than {UNPACKED_BYTES_MAX} bytes")
            });
        }
        Ok(unpacked)
    }

    fn take_mail(&mut self, bytes: &[u8]) {
        if nesting::holds_too_many_mails(bytes) {
            return self.problem(format!("it holds more than {} mails within mails", nesting::MAILS_MAX));
        }
        let bytes = without_envelope(bytes);
        let Some(message) = MessageParser::default().parse(bytes).filter(|mail| !mail.headers().is_empty())
        else {
            return;
        };
        self.found.submitter = failure::from_domain(&message);
        self.take_message(&message, DEPTH_MAX);
        if self.found.documents.is_empty() && self.found.problems.is_empty() {
            // parts that are not where their boundary says, or no MIME at all
            self.take_embedded(bytes);
            self.take_bare(bytes);
        }
    }

    fn take_message(&mut self, message: &Message<'_>, depth: usize) {
        if let Some(report) = failure::read(message) {
            // what lies beside it is the message that failed
            return self.push(Document::Failure(Box::new(report)));
        }
        if message.parts.len() > PARTS_MAX {
            return self.problem(format!("the mail has more than {PARTS_MAX} parts"));
        }
        for part in &message.parts {
            match &part.body {
                PartType::Message(inner) if depth > 0 => self.take_message(inner, depth - 1),
                PartType::Message(_) | PartType::Multipart(_) => {}
                PartType::Text(_) | PartType::Html(_) => {
                    let raw = undecoded(message, part);
                    match looks(&raw) {
                        Looks::Other if is_attachment(part) => self.take_embedded(&raw),
                        _ => self.take(Cow::Owned(raw), DEPTH_MAX),
                    }
                }
                PartType::Binary(bytes) | PartType::InlineBinary(bytes) => match looks(bytes) {
                    Looks::Other => self.take_embedded(bytes),
                    _ => self.take(Cow::Borrowed(bytes), DEPTH_MAX),
                },
            }
        }
    }

    /// XML that lies in a mail as it is, wherever.
    fn take_bare(&mut self, text: &[u8]) {
        let find = |what: &[u8]| text.windows(what.len()).position(|here| here == what);
        let end = text.windows(11).rposition(|here| here == b"</feedback>").map(|end| end + 11);
        let xml = find(b"<feedback").zip(end).and_then(|(start, end)| text.get(start..end));
        if let Some(xml) = xml {
            self.push(Document::Xml(xml.to_vec()));
        }
    }

    /// Base64 that nothing declares: of a zip or gzip file, which begin alike.
    fn take_embedded(&mut self, text: &[u8]) {
        let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).peekable();
        while let Some(line) = lines.next() {
            if !(line.starts_with(b"UEsDB") || line.starts_with(b"H4sI")) || !is_base64(line) {
                continue;
            }
            let mut encoded = line.to_vec();
            while let Some(more) = lines.next_if(|line| !line.is_empty() && is_base64(line)) {
                encoded.extend_from_slice(more);
            }
            match base64_decode(&encoded) {
                Some(bytes) => self.take(Cow::Owned(bytes), DEPTH_MAX),
                None => self.problem("an attachment in base64 is damaged".to_owned()),
            }
        }
    }
}

/// A text part's bytes, as they were before the parser read them as text in some charset.
fn undecoded(message: &Message<'_>, part: &MessagePart<'_>) -> Vec<u8> {
    let range = usize::try_from(part.offset_body).ok().zip(usize::try_from(part.offset_end).ok());
    let raw = range.and_then(|(start, end)| message.raw_message().get(start..end)).unwrap_or_default();
    let decoded = match part.encoding {
        Encoding::Base64 => base64_decode(raw),
        Encoding::QuotedPrintable => quoted_printable_decode(raw),
        Encoding::None => Some(raw.to_vec()),
    };
    decoded.unwrap_or_else(|| part.contents().to_vec())
}

fn is_attachment(part: &MessagePart<'_>) -> bool {
    part.attachment_name().is_some()
        || part.content_disposition().is_some_and(|disposition| disposition.is_attachment())
}

/// Without the line that a mailbox file begins each mail with.
fn without_envelope(bytes: &[u8]) -> &[u8] {
    if !bytes.starts_with(b"From ") {
        return bytes;
    }
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
    bytes.get(end..).unwrap_or_default()
}

fn is_base64(line: &[u8]) -> bool {
    line.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'='))
}
