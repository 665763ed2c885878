//! A walk over an XML document, element by element: bounded in depth, in number and in the length of a text. It reads no
//! document type, so there are no entities to expand but XML's own five.

use std::borrow::Cow;

use mail_parser::decoders::charsets::map::charset_decoder;
use quick_xml::Reader;
use quick_xml::errors::Error;
use quick_xml::events::Event;

/// Elements within elements. RFC 9990 has six levels; extensions some more.
const DEPTH_MAX: usize = 32;
const ELEMENTS_MAX: usize = 6_000_000;
/// Bytes kept of one element's text.
const TEXT_BYTES_MAX: usize = 8 << 10;

/// Why a document is no XML, or none that is read.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    #[error("is encoded as {0:?}, which is not known here")]
    Charset(String),
    #[error("is said to be UTF-8, and is not from byte {at} on")]
    NotUtf8 { at: usize },
    #[error("is no well-formed XML at byte {at}: {what}")]
    Malformed { at: u64, what: String },
    #[error("ends before its last element is closed")]
    CutOff,
    #[error("has a document type declaration, which is not read: entities could expand without end")]
    DocType,
    #[error("refers to the entity &{0};, which XML does not know")]
    Entity(String),
    #[error("has elements nested more than {DEPTH_MAX} deep")]
    TooDeep,
    #[error("has more than {ELEMENTS_MAX} elements")]
    TooMany,
}

/// What comes next.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// The element whose path now stands in [`Walk::path`] begins.
    Opened,
    /// It ends. Its own text, trimmed, without that of elements in it.
    Closed(String),
    /// The root element has ended; what follows it is not looked at.
    End,
}

/// Where in a document one is.
pub struct Walk<'a> {
    reader: Reader<&'a [u8]>,
    path: Vec<String>,
    texts: Vec<String>,
    elements: usize,
    closing: bool,
}

impl<'a> Walk<'a> {
    pub fn new(text: &'a str) -> Self {
        let mut reader = Reader::from_str(text);
        reader.config_mut().expand_empty_elements = true;
        Self { reader, path: Vec::new(), texts: Vec::new(), elements: 0, closing: false }
    }

    /// Names of the open elements from the root on: local names in lower case.
    pub fn path(&self) -> &[String] {
        &self.path
    }

    pub fn step(&mut self) -> Result<Step, XmlError> {
        if self.closing {
            self.closing = false;
            self.path.pop();
            if self.path.is_empty() {
                return Ok(Step::End);
            }
        }
        loop {
            let event = self.reader.read_event().map_err(|error| self.malformed(&error))?;
            match event {
                Event::Start(tag) => {
                    let name = String::from_utf8_lossy(tag.local_name().as_ref()).to_lowercase();
                    return self.open(name);
                }
                Event::End(_) => {
                    self.closing = true;
                    let text = self.texts.pop().unwrap_or_default();
                    return Ok(Step::Closed(text.trim().to_owned()));
                }
                Event::Text(text) => {
                    let text = text.decode().map_err(|error| self.malformed(&error.into()))?;
                    self.push(&text);
                }
                Event::CData(text) => {
                    let text = text.decode().map_err(|error| self.malformed(&error.into()))?;
                    self.push(&text);
                }
                Event::GeneralRef(entity) => {
                    let resolved = entity.resolve_char_ref().map_err(|error| self.malformed(&error))?;
                    let c = match resolved {
                        Some(c) => c,
                        None => named(&entity)?,
                    };
                    self.push(c.encode_utf8(&mut [0; 4]));
                }
                Event::DocType(_) => return Err(XmlError::DocType),
                Event::Eof => return Err(XmlError::CutOff),
                Event::Empty(_) | Event::Comment(_) | Event::Decl(_) | Event::PI(_) => {}
            }
        }
    }

    fn open(&mut self, name: String) -> Result<Step, XmlError> {
        self.elements += 1;
        if self.elements > ELEMENTS_MAX {
            return Err(XmlError::TooMany);
        }
        if self.path.len() == DEPTH_MAX {
            return Err(XmlError::TooDeep);
        }
        self.path.push(name);
        self.texts.push(String::new());
        Ok(Step::Opened)
    }

    fn push(&mut self, more: &str) {
        let Some(text) = self.texts.last_mut() else { return };
        let room = TEXT_BYTES_MAX.saturating_sub(text.len());
        text.push_str(more.get(..more.floor_char_boundary(room)).unwrap_or_default());
    }

    fn malformed(&self, error: &Error) -> XmlError {
        XmlError::Malformed { at: self.reader.error_position(), what: error.to_string() }
    }
}

/// The five entities of XML itself.
fn named(entity: &[u8]) -> Result<char, XmlError> {
    Ok(match entity {
        b"lt" => '<',
        b"gt" => '>',
        b"amp" => '&',
        b"apos" => '\'',
        b"quot" => '"',
        other => {
            return Err(XmlError::Entity(String::from_utf8_lossy(other).chars().take(40).collect()));
        }
    })
}

/// The document as text, in the encoding that its byte order mark or its declaration names; UTF-8 without either.
pub fn text(bytes: &[u8]) -> Result<Cow<'_, str>, XmlError> {
    let text = match bytes {
        [0xff, 0xfe, rest @ ..] => Cow::Owned(utf16(rest, u16::from_le_bytes)),
        [0xfe, 0xff, rest @ ..] => Cow::Owned(utf16(rest, u16::from_be_bytes)),
        _ => {
            let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
            match declared(bytes) {
                Some(name) if !is_utf8(&name) => match charset_decoder(name.as_bytes()) {
                    Some(decode) => Cow::Owned(decode(bytes)),
                    None => return Err(XmlError::Charset(name)),
                },
                _ => Cow::Borrowed(
                    std::str::from_utf8(bytes)
                        .map_err(|error| XmlError::NotUtf8 { at: error.valid_up_to() })?,
                ),
            }
        }
    };
    Ok(text)
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units = bytes.chunks_exact(2).map(|pair| match pair {
        [a, b] => unit([*a, *b]),
        _ => 0xfffd,
    });
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

/// ASCII is UTF-8; so is UTF-16 that came without its mark and was turned into UTF-8 on the way.
fn is_utf8(name: &str) -> bool {
    ["utf-8", "utf8", "us-ascii", "ascii", "utf-16", "utf16"]
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known))
}

/// `encoding` of the XML declaration.
fn declared(bytes: &[u8]) -> Option<String> {
    let head = bytes.get(..bytes.len().min(200))?.trim_ascii_start();
    let head = head.strip_prefix(b"<?xml")?;
    let head = String::from_utf8_lossy(head.split(|byte| *byte == b'>').next()?).into_owned();
    let (_, value) = head.split_once("encoding")?;
    let value = value.trim_start().strip_prefix('=')?.trim_start();
    let quote = value.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let name = value.get(1..)?.split(quote).next()?.trim();
    Some(name.to_owned()).filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(text: &str) -> Result<Vec<(String, String)>, XmlError> {
        let mut walk = Walk::new(text);
        let mut closed = Vec::new();
        loop {
            match walk.step()? {
                Step::Opened => {}
                Step::Closed(text) => closed.push((walk.path().join("/"), text)),
                Step::End => return Ok(closed),
            }
        }
    }

    #[test]
    fn elements_close_with_their_own_text_and_without_prefix() {
        let text = "<?xml version='1.0'?><!-- x --><N:A xmlns:N='urn:x'> a<b lang='en'>&lt;b&#62;<![CDATA[&c;]]></b>d \
            <e/></N:A> rubbish <";
        let expected = [("a/b", "<b>&c;"), ("a/e", ""), ("a", "ad")];
        assert_eq!(walked(text).unwrap(), expected.map(|(path, text)| (path.to_owned(), text.to_owned())));
    }

    #[test]
    fn document_types_unknown_entities_and_depth_are_refused() {
        let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbb\"><!ENTITY c \"&b;&b;\">]><a>&c;</a>";
        assert!(matches!(walked(bomb), Err(XmlError::DocType)));
        assert!(matches!(walked("<a>&c;</a>"), Err(XmlError::Entity(name)) if name == "c"));
        assert!(matches!(walked(&"<a>".repeat(100_000)), Err(XmlError::TooDeep)));
        assert!(matches!(walked("<a><b>"), Err(XmlError::CutOff)));
        assert!(matches!(walked("<a><b></a>"), Err(XmlError::Malformed { .. })));
    }

    #[test]
    fn encodings_are_taken_from_the_mark_or_the_declaration() {
        let latin = b"<?xml version=\"1.0\" encoding='ISO-8859-1'?><a>\xe9</a>";
        assert!(text(latin).unwrap().ends_with("<a>\u{e9}</a>"));
        let utf16: Vec<u8> = "\u{feff}<a>\u{e9}</a>".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(text(&utf16).unwrap(), "<a>\u{e9}</a>");
        assert!(matches!(text(b"<a>\xe9</a>"), Err(XmlError::NotUtf8 { at: 3 })));
        assert!(matches!(
            text(b"<?xml version='1.0' encoding='klingon'?><a/>"),
            Err(XmlError::Charset(name)) if name == "klingon"
        ));
    }
}
