//! Which links of an HTML text are tracked, and where the picture goes.
//!
//! `html5gum` reads the text as browsers do and says where each attribute stands; nothing but the values of `href` is
//! replaced, in place, so that all else stays as its author wrote it.

use std::convert::Infallible;
use std::ops::Range;

use html5gum::emitters::callback::{CallbackEmitter, CallbackEvent};
use html5gum::{Error, Span, Tokenizer};
use url::Url;

use super::Place;
use crate::submission::Tracking;

/// Attributes by which a link says that it wants to be left alone: ours, and those of services that people come from
/// (SendGrid, SparkPost, Postmark, Amazon SES, Mailgun). The second word is the value that means so, `None` any.
const OPT_OUTS: [(&str, Option<&str>); 6] = [
    ("data-sendlake-track", Some("off")),
    ("clicktracking", Some("off")),
    ("data-msys-clicktrack", Some("0")),
    ("data-pm-no-track", None),
    ("ses:no-track", None),
    ("disable-tracking", Some("true")),
];
/// A longer address is left alone: sealed in a link it would not fit what programs and proxies take.
const URL_BYTES_MAX: usize = 2_000;
/// Links of one text that are tracked.
const LINKS_MAX: usize = 2_000;

const BEFORE_PIXEL: &str = "<img src=\"";
const AFTER_PIXEL: &str =
    "\" width=\"1\" height=\"1\" alt=\"\" style=\"display:block;width:1px;height:1px;border:0\">";

/// A stretch of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    Text(String),
    Place(Place),
}

enum Edit {
    Link(String),
    Remove,
}

/// The text with its places, or `None` when it has none.
pub fn places(html: &str, tracking: Tracking, is_spared: &dyn Fn(&str) -> bool) -> Option<Vec<Segment>> {
    let mut reader = Reader {
        html,
        tracking,
        is_spared,
        tag: None,
        edits: Vec::new(),
        links: 0,
        body_end: None,
        is_cut: false,
    };
    let mut emitter =
        CallbackEmitter::new(|event: CallbackEvent<'_>, span: Span<usize>| -> Option<Infallible> {
            reader.read(event, span.start..span.end);
            None
        });
    // what stands in a style or a textarea is no tag
    emitter.naively_switch_states(true);
    Tokenizer::new_with_emitter(html, emitter).for_each(drop);
    // in a tag or a comment that does not end, a picture would show nothing and swallow what is there
    let end = reader.body_end.or((!reader.is_cut).then_some(html.len()));
    let pixel_at = end.filter(|_| tracking.opens);
    split(html, reader.edits, pixel_at)
}

struct Reader<'a> {
    html: &'a str,
    tracking: Tracking,
    is_spared: &'a dyn Fn(&str) -> bool,
    /// The link whose start tag is being read.
    tag: Option<Tag>,
    edits: Vec<(Range<usize>, Edit)>,
    links: usize,
    /// Where the last `</body>` starts.
    body_end: Option<usize>,
    /// The text ends in the middle of a tag or a comment.
    is_cut: bool,
}

#[derive(Default)]
struct Tag {
    attributes: Vec<Attribute>,
}

struct Attribute {
    name: String,
    name_at: Range<usize>,
    /// Decoded, and where it stands, quotes not included. Nothing for an empty one.
    value: Option<(String, Range<usize>)>,
}

/// Attributes of one tag that are read.
const ATTRIBUTES_MAX: usize = 100;

impl Reader<'_> {
    fn read(&mut self, event: CallbackEvent<'_>, at: Range<usize>) {
        match event {
            CallbackEvent::OpenStartTag { name } => {
                self.tag = matches!(name, b"a" | b"area").then(Tag::default);
            }
            CallbackEvent::AttributeName { name } => {
                if let Some(tag) = self.tag.as_mut().filter(|tag| tag.attributes.len() < ATTRIBUTES_MAX) {
                    let name = String::from_utf8_lossy(name).into_owned();
                    tag.attributes.push(Attribute { name, name_at: at, value: None });
                }
            }
            CallbackEvent::AttributeValue { value } => {
                let last = self.tag.as_mut().and_then(|tag| tag.attributes.last_mut());
                if let Some(attribute) = last.filter(|attribute| attribute.value.is_none()) {
                    attribute.value = Some((String::from_utf8_lossy(value).into_owned(), at));
                }
            }
            CallbackEvent::CloseStartTag { .. } => {
                if let Some(tag) = self.tag.take() {
                    self.close(&tag);
                }
            }
            CallbackEvent::EndTag { name } => {
                self.tag = None;
                if name == b"body" {
                    self.body_end = Some(at.start);
                }
            }
            CallbackEvent::Error(
                Error::EofBeforeTagName
                | Error::EofInTag
                | Error::EofInComment
                | Error::EofInCdata
                | Error::EofInDoctype
                | Error::EofInScriptHtmlCommentLikeText,
            ) => self.is_cut = true,
            CallbackEvent::String { .. }
            | CallbackEvent::Comment { .. }
            | CallbackEvent::Doctype { .. }
            | CallbackEvent::Error(_) => {}
        }
    }

    fn close(&mut self, tag: &Tag) {
        // of two attributes with one name the first counts (HTML, section 13.2.5.33)
        let href = tag.attributes.iter().find(|attribute| attribute.name == "href");
        let Some((value, at)) = href.and_then(|href| href.value.as_ref()) else { return };
        let mut opted_out = false;
        for attribute in tag.attributes.iter().filter(|attribute| attribute.opts_out()) {
            opted_out = true;
            self.edits.extend(attribute.whole(self.html).map(|range| (range, Edit::Remove)));
        }
        if !opted_out
            && self.tracking.clicks
            && self.links < LINKS_MAX
            && let Some(target) = target(value, self.is_spared)
        {
            self.links += 1;
            self.edits.push((at.clone(), Edit::Link(target)));
        }
    }
}

impl Attribute {
    fn opts_out(&self) -> bool {
        let value = self.value.as_ref().map_or("", |(value, _)| value.trim());
        OPT_OUTS.iter().any(|(name, word)| {
            self.name == *name && word.is_none_or(|word| value.eq_ignore_ascii_case(word))
        })
    }

    /// Where it stands, with its quotes; and with the white space before it, unless that keeps apart what stands around.
    fn whole(&self, html: &str) -> Option<Range<usize>> {
        let end = match &self.value {
            Some((_, at)) => at.end + usize::from(html.get(..at.start)?.ends_with(['"', '\''])),
            None => {
                let after = html.get(self.name_at.end..)?;
                let empty = ["=\"\"", "=''"].iter().find(|empty| after.starts_with(**empty));
                self.name_at.end + empty.map_or(0, |empty| empty.len())
            }
        };
        let before = html.get(..self.name_at.start)?;
        let is_apart = html.get(end..)?.starts_with(|c: char| c.is_ascii_whitespace() || c == '>');
        let start = if is_apart { before.trim_ascii_end().len() } else { before.len() };
        Some(start..end)
    }
}

/// The address that a browser would ask for; `None` for what is no address of the web, or is to be left alone.
fn target(href: &str, is_spared: &dyn Fn(&str) -> bool) -> Option<String> {
    if href.len() > URL_BYTES_MAX {
        return None;
    }
    let url = Url::parse(href).ok()?;
    let is_web = matches!(url.scheme(), "http" | "https") && url.has_host();
    let target = String::from(url);
    (is_web && target.len() <= URL_BYTES_MAX && !is_spared(&target)).then_some(target)
}

fn split(html: &str, mut edits: Vec<(Range<usize>, Edit)>, pixel_at: Option<usize>) -> Option<Vec<Segment>> {
    edits.sort_by_key(|(range, _)| range.start);
    let mut segments = Segments::default();
    let mut at = 0;
    let mut pixel_at = pixel_at;
    for (range, edit) in edits {
        if let Some(pixel) = pixel_at.filter(|pixel| *pixel <= range.start) {
            segments.text(html.get(at..pixel)?);
            segments.pixel();
            (at, pixel_at) = (pixel, None);
        }
        segments.text(html.get(at..range.start)?);
        if let Edit::Link(target) = edit {
            segments.place(Place::Click(target));
        }
        at = range.end;
    }
    if let Some(pixel) = pixel_at {
        segments.text(html.get(at..pixel)?);
        segments.pixel();
        at = pixel;
    }
    segments.text(html.get(at..)?);
    segments.finish()
}

#[derive(Default)]
struct Segments {
    segments: Vec<Segment>,
    has_places: bool,
}

impl Segments {
    fn text(&mut self, text: &str) {
        if let Some(Segment::Text(last)) = self.segments.last_mut() {
            last.push_str(text);
        } else if !text.is_empty() {
            self.segments.push(Segment::Text(text.to_owned()));
        }
    }

    fn place(&mut self, place: Place) {
        self.has_places = true;
        self.segments.push(Segment::Place(place));
    }

    fn pixel(&mut self) {
        self.text(BEFORE_PIXEL);
        self.place(Place::Open);
        self.text(AFTER_PIXEL);
    }

    fn finish(self) -> Option<Vec<Segment>> {
        self.has_places.then_some(self.segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Tracking = Tracking { opens: true, clicks: true };
    const CLICKS: Tracking = Tracking { opens: false, clicks: true };

    /// The text with `[address]` at links and `[*]` at the picture.
    fn shown(html: &str, tracking: Tracking) -> String {
        let spared = |url: &str| url.starts_with("https://mail.acme.example/u/");
        let Some(segments) = places(html, tracking, &spared) else { return "nothing".into() };
        let shown = segments.iter().map(|segment| match segment {
            Segment::Text(text) => text.clone(),
            Segment::Place(Place::Open) => "[*]".into(),
            Segment::Place(Place::Click(url)) => format!("[{url}]"),
        });
        shown.collect::<String>().replace(AFTER_PIXEL, "…>").replace(BEFORE_PIXEL, "<img src=")
    }

    #[test]
    fn only_the_value_of_href_changes() {
        for (html, expected) in [
            (
                "<A class=x HREF='http://a.test/'  id=y>go</A>",
                "<A class=x HREF='[http://a.test/]'  id=y>go</A>",
            ),
            ("<a href=http://a.test/x>go</a>", "<a href=[http://a.test/x]>go</a>"),
            ("<area shape=rect href=\"https://a.test\">", "<area shape=rect href=\"[https://a.test/]\">"),
            (
                "<a href=\"https://a.test/?a=1&amp;b=2&copy=3#f\">",
                "<a href=\"[https://a.test/?a=1&b=2&copy=3#f]\">",
            ),
            ("<a href=\" https://ä.test/ö \">", "<a href=\"[https://xn--4ca.test/%C3%B6]\">"),
            ("<a href=\"HTTPS://A.test/Path\">", "<a href=\"[https://a.test/Path]\">"),
            (
                "<p>text &amp; <b>more</p><a\nhref=\"https://a.test/\">\r\n</a><!-- x -->",
                "<p>text &amp; <b>more</p><a\nhref=\"[https://a.test/]\">\r\n</a><!-- x -->",
            ),
            (
                "<a href=\"https://a.test/\" href=\"https://b.test/\">",
                "<a href=\"[https://a.test/]\" href=\"https://b.test/\">",
            ),
        ] {
            assert_eq!(shown(html, CLICKS), expected);
        }
    }

    #[test]
    fn what_is_no_link_of_the_web_is_left_alone() {
        for html in [
            "<a href=\"mailto:ann@a.test\">",
            "<a href=\"tel:+431234\">",
            "<a href=\"#top\">",
            "<a href=\"\">",
            "<a href>",
            "<a name=x>",
            "<a href=\"/relative\">",
            "<a href=\"//a.test/\">",
            "<a href=\"javascript:alert(1)\">",
            "<a href=\"data:text/html,x\">",
            "<a href=\"{{ link }}\">",
            "<a href=\"https://\">",
            "<a href=\"https://mail.acme.example/u/abc\">",
            "<link href=\"https://a.test/x.css\"><img src=\"https://a.test/x.png\">",
            "<!-- <a href=\"https://a.test/\"> -->",
            "<style>a[href=\"https://a.test/\"] {}</style>",
            "<textarea><a href=\"https://a.test/\"></textarea>",
            "plain text https://a.test/",
        ] {
            assert_eq!(shown(html, CLICKS), "nothing", "{html}");
        }
    }

    #[test]
    fn a_link_may_opt_out_and_says_so_to_us_alone() {
        for (html, expected) in [
            ("<a href=\"https://a.test/\" data-sendlake-track=\"off\">", "<a href=\"https://a.test/\">"),
            ("<a data-sendlake-track=off href=\"https://a.test/\">", "<a href=\"https://a.test/\">"),
            (
                "<a DATA-SENDLAKE-TRACK='OFF' href=\"https://a.test/\" id=x>",
                "<a href=\"https://a.test/\" id=x>",
            ),
            ("<a clicktracking=off href=\"https://a.test/\">", "<a href=\"https://a.test/\">"),
            ("<a href=https://a.test/x data-sendlake-track=\"off\"/>", "<a href=https://a.test/x />"),
            ("<a href=https://a.test/ data-sendlake-track=\"off\"id=x>", "<a href=https://a.test/ id=x>"),
            ("<a ses:no-track href=\"https://a.test/\">", "<a href=\"https://a.test/\">"),
            ("<a data-pm-no-track href=\"https://a.test/\">", "<a href=\"https://a.test/\">"),
            ("<a data-pm-no-track=\"\" href=\"https://a.test/\">", "<a href=\"https://a.test/\">"),
        ] {
            // another link, so that there is something to do
            let tail = "<a href=\"https://b.test/\">";
            let shown = shown(&format!("{html}{tail}"), CLICKS);
            assert_eq!(shown, format!("{expected}<a href=\"[https://b.test/]\">"));
        }
        let on = "<a href=\"https://a.test/\" data-sendlake-track=\"on\">";
        assert!(shown(on, CLICKS).contains("[https://a.test/]"));
    }

    #[test]
    fn the_picture_stands_at_the_end_of_the_body() {
        for (html, expected) in [
            ("<html><body><p>x</p></body></html>", "<html><body><p>x</p><img src=[*]…></body></html>"),
            ("<BODY>x</BODY>", "<BODY>x<img src=[*]…></BODY>"),
            ("<p>x</p>", "<p>x</p><img src=[*]…>"),
            ("<body>x", "<body>x<img src=[*]…>"),
            ("", "<img src=[*]…>"),
            (
                "<body><a href=http://a.test/>x</a></body><a href=http://b.test/>y</a>",
                "<body><a href=[http://a.test/]>x</a><img src=[*]…></body><a href=[http://b.test/]>y</a>",
            ),
        ] {
            assert_eq!(shown(html, BOTH), expected);
        }
        for cut in ["x<a href=\"https://a.test/", "x<!-- y", "x<", "x<p class="] {
            assert_eq!(shown(cut, BOTH), "nothing", "{cut}");
        }
        let opens = Tracking { opens: true, clicks: false };
        assert_eq!(
            shown("<a href=http://a.test/>x</a>", opens),
            "<a href=http://a.test/>x</a><img src=[*]…>"
        );
    }

    #[test]
    fn hostile_texts_end_soon_and_lose_nothing() {
        let deep = format!("{}x{}", "<div>".repeat(50_000), "</div>".repeat(50_000));
        assert_eq!(shown(&deep, CLICKS), "nothing");
        let long = format!("<a href=\"https://a.test/{}\">", "x".repeat(5_000));
        assert_eq!(shown(&long, CLICKS), "nothing");
        let many = "<a href=\"https://a.test/\">x</a>".repeat(3_000);
        assert_eq!(shown(&many, CLICKS).matches('[').count(), LINKS_MAX);
        for html in
            ["<a href=\"https://a.test/", "<a href='https://a.test/>", "<", "<a", "</body", "\0<a\0href=x>"]
        {
            let _ = shown(html, BOTH);
        }
    }
}
