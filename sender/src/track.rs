//! Opens and clicks in a composed message: where its HTML parts get links of their own per recipient.
//!
//! - [`html`]: which links, and where the picture goes · [`part`]: HTML parts of a message, however nested and encoded
//! - [`encode`]: text with places for links, in quoted-printable or base64
//!
//! The work is done once per submission: a [`Template`] is the message with places left open. Each recipient's message
//! is the template with links put in, which is copying, and for base64 encoding. Pure. What is signed or encrypted by
//! its client is left alone, and so is what cannot be read without doubt.

mod encode;
pub mod html;
mod part;

use std::ops::Range;

use self::encode::Piece;
use self::html::Segment;
use self::part::{HtmlPart, Transfer};
use crate::submission::{Content, Tracking};

/// HTML parts longer than this are left alone: no mail program shows them whole (Gmail cuts at 102 KB), and rewriting
/// must not hold up others' mail.
const HTML_BYTES_MAX: usize = 1 << 20;
/// HTML parts of one message that are looked at.
const PARTS_MAX: usize = 16;

/// A place for a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The picture that tells of opens.
    Open,
    /// A link, with the address that it leads to.
    Click(String),
}

/// A message with places left open.
#[derive(Clone, Debug)]
pub struct Template {
    headers: Vec<u8>,
    pieces: Vec<Piece>,
    /// What it has places for.
    pub tracking: Tracking,
}

/// One recipient's message: header section and body, as [`Content`] has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub headers: Vec<u8>,
    pub body: Vec<u8>,
}

impl Template {
    /// The places in a message; `None` where there are none, or nothing is tracked. Links that `is_spared` names are
    /// left as they are.
    pub fn new(content: &Content, is_spared: &dyn Fn(&str) -> bool) -> Option<Self> {
        let tracking = content.tracking;
        if !tracking.is_on() {
            return None;
        }
        let message = [content.headers.as_slice(), b"\r\n", &content.body].concat();
        let header_bytes = content.headers.len();
        let leaves = part::unsubscribe_links(&content.headers);
        let is_spared = |url: &str| is_spared(url) || leaves.iter().any(|leave| leave == url);
        let mut found = Tracking::default();
        let mut changes = Changes::default();
        for part in part::html_parts(&message)?.into_iter().take(PARTS_MAX) {
            let is_usable = part.html.len() <= HTML_BYTES_MAX && part.fits(header_bytes);
            let Some(segments) = html::places(&part.html, tracking, &is_spared).filter(|_| is_usable) else {
                continue;
            };
            changes.put(&message, &part, segments, &mut found);
        }
        found.is_on().then(|| changes.into_template(&message, header_bytes, found))
    }

    /// The message with `link` asked for the address at each place, in the order in which they stand. Addresses are of
    /// visible ASCII without quotes, angle brackets, `&` and `=`.
    pub fn render(&self, mut link: impl FnMut(&Place) -> String) -> Rendered {
        let mut body = Vec::with_capacity(self.bytes());
        for piece in &self.pieces {
            piece.write(&mut body, &mut link);
        }
        if !body.is_empty() && !body.ends_with(b"\r\n") {
            body.extend_from_slice(b"\r\n");
        }
        Rendered { headers: self.headers.clone(), body }
    }

    /// About how many octets it takes in memory.
    pub fn bytes(&self) -> usize {
        self.headers.len() + self.pieces.iter().map(Piece::bytes).sum::<usize>()
    }
}

/// What becomes of ranges of a message, in its order.
#[derive(Default)]
struct Changes(Vec<(Range<usize>, Piece)>);

impl Changes {
    fn put(&mut self, message: &[u8], part: &HtmlPart, segments: Vec<Segment>, found: &mut Tracking) {
        for segment in &segments {
            match segment {
                Segment::Place(Place::Open) => found.opens = true,
                Segment::Place(Place::Click(_)) => found.clicks = true,
                Segment::Text(_) => {}
            }
        }
        if part.transfer == Transfer::Plain {
            // lines become longer than they may be (RFC 5322, section 2.1.1): quoted-printable folds them
            let section = message.get(part.header.clone()).unwrap_or_default();
            let header = part::as_quoted_printable(section);
            self.0.push((part.header.clone(), Piece::Fixed(header)));
        }
        self.0.push((part.body.clone(), Piece::of(part, segments)));
    }

    /// Header section and body apart again; all else of the message stands between the changes as it was.
    fn into_template(self, message: &[u8], header_bytes: usize, tracking: Tracking) -> Template {
        let body_at = header_bytes + 2;
        let mut headers = message.get(..header_bytes).unwrap_or_default().to_vec();
        let mut pieces = Vec::new();
        let mut at = body_at;
        for (range, piece) in self.0 {
            if range.end <= header_bytes {
                if let Piece::Fixed(section) = piece {
                    headers = section;
                }
                continue;
            }
            if range.start < at {
                continue; // parts overlap in no message that was read right
            }
            pieces.push(Piece::Fixed(message.get(at..range.start).unwrap_or_default().to_vec()));
            pieces.push(piece);
            at = range.end;
        }
        pieces.push(Piece::Fixed(message.get(at..).unwrap_or_default().to_vec()));
        Template { headers, pieces, tracking }
    }
}

#[cfg(test)]
mod tests;
