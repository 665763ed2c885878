//! Whole messages before and after: what a reader decodes differs in links and the picture, and in nothing else.

use mail_parser::{MessageParser, MimeHeaders};
use sendlake_control::clock::Timestamp;

use super::*;
use crate::compose::raw::prepare;

const NOON: Timestamp = Timestamp(1_795_348_800_000_000);
const BOTH: Tracking = Tracking { opens: true, clicks: true };

fn content(message: &[u8], tracking: Tracking) -> Content {
    let mut content = prepare(message, NOON).unwrap().content;
    content.tracking = tracking;
    content
}

/// The message with short links, as one.
fn tracked(message: &[u8]) -> Option<Vec<u8>> {
    let template = Template::new(&content(message, BOTH), &|_| false)?;
    let rendered = template.render(|place| match place {
        Place::Open => format!("https://t.test/o/{}", "x".repeat(200)),
        Place::Click(url) => format!("https://t.test/c/{}-{}", url.len(), "x".repeat(200)),
    });
    let whole = [rendered.headers.as_slice(), b"\r\n", &rendered.body].concat();
    assert!(whole.split(|&b| b == b'\n').all(|line| line.len() <= 999), "a line is too long");
    assert!(!whole.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r'), "a lone LF");
    assert!(whole.ends_with(b"\r\n"));
    Some(whole)
}

/// What a reader gets of each HTML part, with links and picture undone.
fn undone(message: &[u8]) -> Vec<String> {
    let parsed = MessageParser::default().parse(message).unwrap();
    let html = parsed.parts.iter().filter(|part| part.is_text_html());
    html.map(|part| part.text_contents().unwrap().to_owned()).collect()
}

fn multipart(html_header: &str, html: &[u8]) -> Vec<u8> {
    let head = "From: a@acme.example\r\nSubject: x\r\nMIME-Version: 1.0\r\n\
                Content-Type: multipart/mixed; boundary=\"outer\"\r\n\r\npreamble\r\n--outer\r\n\
                Content-Type: multipart/alternative; boundary=inner\r\n\r\n--inner\r\n\
                Content-Type: text/plain\r\n\r\nSee https://shop.test/ ok\r\n--inner\r\n";
    let tail = "\r\n--inner--\r\n\r\n--outer\r\nContent-Type: application/octet-stream\r\n\
                Content-Transfer-Encoding: base64\r\n\r\nAAAA\r\n--outer--\r\nepilogue\r\n";
    [head.as_bytes(), html_header.as_bytes(), b"\r\n\r\n", html, tail.as_bytes()].concat()
}

const HTML: &str =
    "<html><body><p>Grüße = 100 %</p><a href=\"https://shop.test/?a=1&amp;b=2\">go</a> \r\n</body></html>";
const TARGET: &str = "https://shop.test/?a=1&b=2";

fn link() -> String {
    format!("https://t.test/c/{}-{}", TARGET.len(), "x".repeat(200))
}

fn expected() -> String {
    let pixel = format!(
        "<img src=\"https://t.test/o/{}\" width=\"1\" height=\"1\" alt=\"\" \
         style=\"display:block;width:1px;height:1px;border:0\">",
        "x".repeat(200)
    );
    HTML.replace("https://shop.test/?a=1&amp;b=2", &link()).replace("</body>", &format!("{pixel}</body>"))
}

fn in_base64(octets: &[u8]) -> Vec<u8> {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(octets);
    text.as_bytes().chunks(76).collect::<Vec<_>>().join(&b"\r\n"[..])
}

#[test]
fn nested_parts_in_every_encoding_change_in_links_and_the_picture_only() {
    let quoted =
        HTML.replace('=', "=3D").replace('ü', "=C3=BC").replace('ß', "=C3=9F").replace(" \r\n", "=20\r\n");
    for (header, octets) in [
        (
            "Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: 8bit",
            HTML.as_bytes().to_vec(),
        ),
        ("Content-Type: text/html; charset=UTF-8", HTML.as_bytes().to_vec()),
        (
            "Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable",
            quoted.into_bytes(),
        ),
        (
            "Content-Transfer-Encoding:\r\n BASE64\r\nContent-Type: text/html;\r\n charset=\"utf-8\"",
            in_base64(HTML.as_bytes()),
        ),
        (
            "Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: 8bit",
            encoding_rs::WINDOWS_1252.encode(HTML).0.into_owned(),
        ),
        (
            "Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: base64",
            in_base64(&encoding_rs::WINDOWS_1252.encode(HTML).0),
        ),
    ] {
        let before = multipart(header, &octets);
        let after = tracked(&before).unwrap_or_else(|| panic!("{header}: nothing is tracked"));
        assert_eq!(undone(&after), [expected()], "{header}");
        let text = String::from_utf8_lossy(&after);
        for kept in [
            "preamble\r\n--outer",
            "See https://shop.test/ ok\r\n--inner",
            "AAAA\r\n--outer--\r\nepilogue\r\n",
        ] {
            assert!(text.contains(kept), "{header}: {text}");
        }
        let parsed = MessageParser::default().parse(&after).unwrap();
        assert_eq!(parsed.parts.len(), 5, "{text}");
        assert_eq!(text.matches("Content-Transfer-Encoding").count(), 2, "{header}: {text}");
    }
}

#[test]
fn japanese_in_its_stateful_charset_survives() {
    let html = "<p>こんにちは</p><a href=\"https://shop.test/\">店</a>日本";
    let octets = encoding_rs::ISO_2022_JP.encode(html).0.into_owned();
    let before = multipart("Content-Type: text/html; charset=iso-2022-jp", &octets);
    let after = undone(&tracked(&before).unwrap()).remove(0);
    assert!(after.starts_with("<p>こんにちは</p><a href=\"https://t.test/c/"), "{after}");
    assert!(after.contains(">店</a>日本<img src=\"https://t.test/o/"), "{after}");
}

#[test]
fn a_message_that_is_html_throughout_gets_its_header_changed() {
    let message = b"From: a@acme.example\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: 7bit\r\n\
        Subject: x\r\n\r\n<a href=\"https://shop.test/\">go</a>\r\n";
    let after = tracked(message).unwrap();
    let parsed = MessageParser::default().parse(&after).unwrap();
    assert_eq!(parsed.content_transfer_encoding(), Some("quoted-printable"));
    assert_eq!(parsed.subject(), Some("x"));
    let html = undone(&after).remove(0);
    assert!(html.starts_with("<a href=\"https://t.test/c/18-xxx") && html.contains("/o/"), "{html}");
}

#[test]
fn what_its_client_sealed_or_nobody_can_read_is_left_alone() {
    let html = "Content-Type: text/html; charset=utf-8";
    let signed = String::from_utf8(multipart(html, b"<a href=\"https://shop.test/\">")).unwrap();
    for message in [
        signed.replace("multipart/alternative", "multipart/signed"),
        signed.replace("multipart/mixed", "multipart/encrypted"),
        signed.replace("Subject: x", "DKIM-Signature: v=1; a=rsa-sha256"),
        signed.replace("charset=utf-8", "charset=x-unknown"),
        signed.replace("charset=utf-8", "charset=utf-16"),
        signed.replace(html, &format!("{html}\r\nContent-Transfer-Encoding: x-uuencode")),
        signed.replace(html, &format!("{html}\r\nContent-Disposition: attachment; filename=a.html")),
        signed.replace("text/html", "text/plain"),
        signed.replace(
            "Content-Type: text/html; charset=utf-8\r\n",
            "Content-Type: message/rfc822\r\n\r\nFrom: b@b.test\r\nContent-Type: text/html\r\n",
        ),
    ] {
        assert_eq!(tracked(message.as_bytes()), None, "{message}");
    }
    let bad = multipart(html, b"<a href=\"https://shop.test/\">\xff\xfe</a>");
    assert_eq!(tracked(&bad), None, "octets that the charset does not have");
}

#[test]
fn off_is_off_and_the_clients_way_to_leave_is_spared() {
    let message = "From: a@acme.example\r\nContent-Type: text/html\r\n\
        List-Unsubscribe: <https://shop.test/leave?u=1&v=2>,\r\n <mailto:leave@shop.test>\r\n\r\n\
        <a href=\"https://shop.test/leave?u=1&amp;v=2\">leave</a>\r\n";
    let off = content(message.as_bytes(), Tracking::default());
    assert!(Template::new(&off, &|_| false).is_none());
    let clicks = content(message.as_bytes(), Tracking { opens: false, clicks: true });
    assert!(Template::new(&clicks, &|_| false).is_none(), "the only link is the one to leave");
    let own = content(
        b"From: a@acme.example\r\nContent-Type: text/html\r\n\r\n<a href=\"https://x.test/u/1\">",
        BOTH,
    );
    let template = Template::new(&own, &|url| url.starts_with("https://x.test/u/")).unwrap();
    assert_eq!(template.tracking, Tracking { opens: true, clicks: false }, "what it says it tracks, it does");
}

#[test]
fn a_message_like_our_own_api_composes_comes_through() {
    use sendlake_control::clock::SeededEntropy;

    use crate::compose::{Draft, compose, mailbox::Mailbox};

    for html in
        [HTML.to_owned(), format!("<p>{}</p><a href=\"https://shop.test/\">店</a>", "日本語".repeat(400))]
    {
        let draft = Draft {
            from: Mailbox::parse("a@acme.example").unwrap(),
            to: vec![Mailbox::parse("ann@a.test").unwrap()],
            cc: Vec::new(),
            reply_to: Vec::new(),
            subject: Some("x".into()),
            text: Some("plain".into()),
            html: Some(html.clone()),
            headers: Vec::new(),
            attachments: Vec::new(),
        };
        let mut content = compose(&draft, NOON, &SeededEntropy::new(1));
        content.tracking = BOTH;
        let template = Template::new(&content, &|_| false).unwrap();
        let link = |place: &Place| if *place == Place::Open { "PIXEL".into() } else { "LINK".to_owned() };
        let rendered = template.render(link);
        let whole = [rendered.headers.as_slice(), b"\r\n", &rendered.body].concat();
        let after = undone(&whole).remove(0);
        let before = undone(&[content.headers.as_slice(), b"\r\n", &content.body].concat()).remove(0);
        let restored = after.replace(
            "LINK",
            if html == HTML { "https://shop.test/?a=1&amp;b=2" } else { "https://shop.test/" },
        );
        let picture = "<img src=\"PIXEL\" width=\"1\" height=\"1\" alt=\"\" style=\"display:block;width:1px;height:1px;border:0\">";
        assert_eq!(restored.replace(picture, ""), before);
    }
}

#[test]
fn mangled_messages_neither_crash_nor_lose_octets_outside_of_their_parts() {
    let base = multipart(
        "Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable",
        b"<a href=3D\"https://shop.test/\">x</a>",
    );
    for cut in (60..base.len()).step_by(7) {
        let Ok(message) = prepare(&base[..cut], NOON) else { continue };
        let mut content = message.content;
        content.tracking = BOTH;
        if let Some(template) = Template::new(&content, &|_| false) {
            let rendered = template.render(|_| "L".into());
            assert!(rendered.body.starts_with(b"preamble\r\n--outer"));
        }
    }
}
