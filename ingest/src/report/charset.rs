//! Words whose bytes are not in the charset that their part declares, read in one that they are in.

use mail_parser::decoders::charsets::map::charset_decoder;
use mail_parser::{Encoding, Message, MessagePart, MimeHeaders};

/// What the parser puts where bytes mean nothing.
const MEANINGLESS: char = '\u{fffd}';

/// The part's words as another charset has them; none where those that were read make sense.
pub fn read_again(message: &Message<'_>, part: &MessagePart<'_>, words: &str) -> Option<String> {
    if !words.contains(MEANINGLESS) || part.encoding != Encoding::None {
        return None;
    }
    let start = usize::try_from(part.offset_body).ok()?;
    let end = usize::try_from(part.offset_end).ok()?;
    let bytes = message.raw_message().get(start..end)?;
    let declared = part.content_type().and_then(|kind| kind.attribute("charset"));
    decoded(bytes, declared.unwrap_or_default())
}

fn decoded(bytes: &[u8], declared: &str) -> Option<String> {
    let declared = declared.to_ascii_lowercase();
    let is = |starts: &[&str]| starts.iter().any(|start| declared.starts_with(start));
    let others: &[&str] = if is(&["iso-2022-jp", "shift", "x-sjis", "euc-jp", "x-euc-jp"]) {
        &["euc-jp", "shift_jis"]
    } else if is(&["gb", "hz"]) {
        &["gb18030", "big5"]
    } else if is(&["big5"]) {
        &["big5", "gb18030"]
    } else if is(&["ks_c", "euc-kr", "iso-2022-kr"]) {
        &["euc-kr"]
    } else if is(&["koi8", "windows-1251", "iso-8859-5"]) {
        &["windows-1251", "koi8-r"]
    } else {
        &["windows-1252"]
    };
    let in_charset = |name: &&str| charset_decoder(name.as_bytes()).map(|decode| decode(bytes));
    std::str::from_utf8(bytes)
        .ok()
        .map(str::to_owned)
        .or_else(|| others.iter().filter_map(in_charset).find(|words| !words.contains(MEANINGLESS)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_in_a_charset_that_they_are_in() {
        let euc = b"\xc1\xf7\xbf\xae\xa4\xc7\xa4\xad\xa4\xde\xa4\xbb\xa4\xf3";
        assert_eq!(decoded(euc, "ISO-2022-JP").as_deref(), Some("送信できません"));
        assert_eq!(decoded(b"Empf\xe4nger", "").as_deref(), Some("Empfänger"));
        assert_eq!(decoded("Empfänger".as_bytes(), "iso-8859-1").as_deref(), Some("Empfänger"));
        assert_eq!(decoded(b"\xf1\xf9\xe8\xea", "windows-1251").as_deref(), Some("сщик"));
    }
}
