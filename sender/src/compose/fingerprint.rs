//! Hashes by which equal content is recognised without keeping it.

use std::collections::HashSet;

use aws_lc_rs::digest;

use crate::address::Address;

/// SHA-256 of `parts`, one after the other.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    hash
}

/// SHA-256 of a subject, hex.
pub fn subject_hash(subject: &str) -> String {
    data_encoding::HEXLOWER.encode(&sha256(&[subject.as_bytes()]))
}

/// A hash that two messages from one template share, hex.
///
/// Subject and text are lower-cased and cut into words. Words that differ from recipient to recipient are
/// replaced by what they are: links, addresses, long tokens with a digit in them, runs of digits, and the
/// parts of the recipients' own addresses and names. The rest is hashed. It is a recognition aid, not a
/// proof: a value that none of these rules catches makes another fingerprint.
pub fn content_fingerprint(subject: Option<&str>, text: &str, personal: &Personal) -> String {
    let mut template = String::with_capacity(text.len() + 128);
    template.push_str("v1");
    for section in [subject.unwrap_or_default(), text] {
        template.push('\n');
        for word in section.split_whitespace() {
            push_normal(&mut template, word, personal);
            template.push(' ');
        }
    }
    data_encoding::HEXLOWER.encode(&sha256(&[template.as_bytes()]))
}

/// The words that belong to recipients: the parts of their local parts and display names, lower case.
#[derive(Clone, Debug)]
pub struct Personal {
    words: HashSet<String>,
    /// The first octets of `words`: most words of a text begin otherwise, and need not be looked up.
    first_octets: [bool; 256],
}

impl Default for Personal {
    fn default() -> Self {
        Self { words: HashSet::new(), first_octets: [false; 256] }
    }
}

impl Personal {
    pub fn add_address(&mut self, address: &Address) {
        self.add_words(address.local());
    }

    pub fn add_name(&mut self, name: &str) {
        self.add_words(name);
    }

    fn add_words(&mut self, text: &str) {
        let words = text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase);
        // Single letters are too common to say whose they are.
        for word in words.filter(|word| word.chars().count() >= 2) {
            if let Some(begins) = word.bytes().next().and_then(|b| self.first_octets.get_mut(usize::from(b)))
            {
                *begins = true;
            }
            self.words.insert(word);
        }
    }

    /// `word` is in lower case.
    fn contains(&self, word: &str) -> bool {
        let begins = word.bytes().next().and_then(|b| self.first_octets.get(usize::from(b)));
        begins.is_some_and(|begins| *begins) && self.words.contains(word)
    }
}

/// Appends `word` as [`normalise`] has it. Nearly all words are plain: ASCII, and nothing in them but letters and
/// punctuation that makes no address or link. Those take no allocation.
fn push_normal(to: &mut String, word: &str, personal: &Personal) {
    let start = to.len();
    let plain = word.bytes().all(|b| b.is_ascii() && !b.is_ascii_digit() && b != b'@' && b != b':');
    if plain {
        to.extend(word.chars().map(|c| c.to_ascii_lowercase()));
        let lower = to.get(start..).unwrap_or_default();
        let core = lower.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        if !personal.contains(core) && !core.starts_with("www.") {
            return;
        }
        to.truncate(start);
    }
    to.push_str(&normalise(word, personal));
}

fn normalise(word: &str, personal: &Personal) -> String {
    const TOKEN_BYTES_MIN: usize = 16;
    let word = word.to_lowercase();
    let core = word.trim_matches(|c: char| !c.is_alphanumeric());
    if word.contains("://") || core.starts_with("www.") {
        return "<url>".to_owned();
    }
    if core.contains('@') {
        return "<address>".to_owned();
    }
    if core.len() >= TOKEN_BYTES_MIN && core.contains(|c: char| c.is_ascii_digit()) {
        return "<token>".to_owned();
    }
    if personal.contains(core) {
        return word.replacen(core, "<name>", 1);
    }
    let mut normal = String::with_capacity(word.len());
    for c in word.chars() {
        match c {
            _ if !c.is_numeric() => normal.push(c),
            _ if normal.ends_with('0') => {}
            _ => normal.push('0'),
        }
    }
    normal
}

/// The text of an HTML document, for the fingerprint: tags out, a space in their place. Entities stay as they
/// are.
pub fn text_of_html(html: &str) -> String {
    let mut text = String::with_capacity(html.len() / 2);
    let mut in_tag = false;
    for c in html.chars() {
        match c {
            '<' => in_tag = true,
            '>' if in_tag => {
                in_tag = false;
                text.push(' ');
            }
            _ if in_tag => {}
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint(to: &str, text: &str) -> String {
        let mut personal = Personal::default();
        personal.add_address(&Address::parse(to).unwrap());
        content_fingerprint(Some("Your order"), text, &personal)
    }

    #[test]
    fn one_template_has_one_fingerprint() {
        let to_ann = "Hi Ann, order 18 is ready: https://shop.example/o/18?t=aa Code: 9f86d081884c7d659a2f";
        let to_bob =
            "Hi Bob, order 2045 is ready: https://shop.example/o/2045?t=b Code: 60303ae22b998861bce3";
        assert_eq!(
            fingerprint("ann.lee@example.com", to_ann),
            fingerprint("bob@example.org", &to_bob.replace(' ', "  "))
        );
        assert_ne!(
            fingerprint("ann.lee@example.com", to_ann),
            fingerprint("ann.lee@example.com", "Hi Ann, your order is late")
        );
    }

    #[test]
    fn plain_words_are_normalised_like_all_others() {
        let mut personal = Personal::default();
        personal.add_name("Ann O'Lee");
        for word in [
            "Hello,",
            "ann",
            "(ANN)",
            "Ann's",
            "lee!",
            "www.shop.example",
            "(www.a)",
            "--",
            "O'Lee",
            "É",
            "a:b",
        ] {
            let mut plain = String::from("before ");
            push_normal(&mut plain, word, &personal);
            assert_eq!(plain, format!("before {}", normalise(word, &personal)), "{word}");
        }
    }

    #[test]
    fn html_is_compared_by_its_text() {
        assert_eq!(text_of_html("<p class=\"x\">Hi <b>Ann</b></p>").split_whitespace().count(), 2);
    }

    #[test]
    fn subject_hash_is_sha256_hex() {
        assert_eq!(subject_hash("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
