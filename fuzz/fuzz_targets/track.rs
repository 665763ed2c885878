//! A message whose links are tracked: what leaves may go on the wire, holds no link that was not asked for, and keeps
//! every octet outside of its HTML parts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sendlake_fuzz::compose::raw::prepare;
use sendlake_fuzz::submission::Tracking;
use sendlake_fuzz::track::html::{Segment, places};
use sendlake_fuzz::track::{Place, Template};
use sendlake_fuzz::{NOON, assert_crlf, assert_header_section};

const BASE: &str = "https://t.example/";

fn is_own(url: &str) -> bool {
    url.starts_with(BASE)
}

/// The HTML text by itself: put together again, it has no further links to track.
fn text(html: &str, tracking: Tracking) {
    let Some(segments) = places(html, tracking, &is_own) else { return };
    let mut again = String::new();
    for segment in &segments {
        match segment {
            Segment::Text(text) => again.push_str(text),
            Segment::Place(Place::Open) => again.push_str("https://t.example/o"),
            Segment::Place(Place::Click(url)) => {
                assert!(url.starts_with("http://") || url.starts_with("https://"), "{url}");
                again.push_str("https://t.example/c");
            }
        }
    }
    let clicks = Tracking { opens: false, clicks: true };
    // a link that opted out has lost the word by which it did
    if tracking.clicks && !html.to_ascii_lowercase().contains("track") {
        assert_eq!(places(&again, clicks, &is_own), None, "{again:?}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((flags, bytes)) = bytes.split_first() else { return };
    let tracking = Tracking { opens: flags & 1 != 0, clicks: flags & 2 != 0 };
    if flags & 4 == 0 {
        return text(&String::from_utf8_lossy(bytes), tracking);
    }
    let Ok(mut message) = prepare(bytes, NOON) else { return };
    message.content.tracking = tracking;
    if let Some(template) = Template::new(&message.content, &is_own) {
        let rendered = template.render(|_| format!("{BASE}{}", "x".repeat(150)));
        assert_header_section(&rendered.headers);
        assert_crlf(&rendered.body);
    }
});
