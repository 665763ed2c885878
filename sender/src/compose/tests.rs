use mail_parser::{MessageParser, MimeHeaders, PartType};
use proptest::prelude::*;
use sendlake_control::clock::SeededEntropy;

use super::*;
use crate::address::Address;

const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

fn mailbox(name: Option<&str>, address: &str) -> Mailbox {
    Mailbox::new(name, Address::parse(address).unwrap()).unwrap()
}

fn draft() -> Draft {
    Draft {
        from: mailbox(Some("Müller, Ann"), "ann@example.com"),
        to: vec![mailbox(Some("Bob"), "bob@example.org"), mailbox(None, "eve@bücher.example")],
        cc: vec![],
        reply_to: vec![],
        subject: Some("Grüße aus Köln, 5 €".to_owned()),
        text: None,
        html: None,
        headers: vec![],
        attachments: vec![],
    }
}

fn file(filename: &str, inline: bool) -> Attachment {
    Attachment {
        filename: filename.to_owned(),
        content_type: "image/png".to_owned(),
        content: (0..=255).collect(),
        content_id: inline.then(|| "logo@x".to_owned()),
        inline,
    }
}

fn octets(draft: &Draft) -> Vec<u8> {
    let content = compose(draft, NOON, &SeededEntropy::new(7));
    [content.headers.as_slice(), b"\r\n", &content.body].concat()
}

#[test]
fn another_reader_finds_the_same_parts() {
    let mut draft = draft();
    draft.text = Some("Hallo Bob,\nschöne Grüße\r\n\n.\nFrom here\n".to_owned());
    draft.html = Some(format!("<p>Hallo <img src=\"cid:logo@x\"> {}</p>", "lang ".repeat(400)));
    draft.attachments = vec![file("logo.png", true), file("Rechnung für März.png", false)];
    let octets = octets(&draft);
    let message = MessageParser::default().parse(&octets).unwrap();

    let from = message.from().unwrap().first().unwrap();
    assert_eq!(
        (from.name.as_deref(), from.address.as_deref()),
        (Some("Müller, Ann"), Some("ann@example.com"))
    );
    let to: Vec<_> = message.to().unwrap().iter().map(|to| to.address.as_deref().unwrap()).collect();
    assert_eq!(to, ["bob@example.org", "eve@xn--bcher-kva.example"]);
    assert_eq!(message.subject(), Some("Grüße aus Köln, 5 €"));
    assert_eq!(message.date().unwrap().to_timestamp(), NOON.as_secs());
    assert_eq!(
        message.body_text(0).unwrap().replace("\r\n", "\n").trim_end(),
        "Hallo Bob,\nschöne Grüße\n\n.\nFrom here"
    );
    assert_eq!(message.body_html(0).unwrap().trim_end(), draft.html.as_deref().unwrap());
    let files: Vec<_> = message.attachments().collect();
    let names: Vec<_> = files.iter().map(|part| part.attachment_name().unwrap()).collect();
    assert_eq!(names, ["logo.png", "Rechnung für März.png"]);
    assert_eq!(files[0].content_id(), Some("logo@x"));
    for part in &files {
        let (PartType::Binary(content) | PartType::InlineBinary(content)) = &part.body else {
            panic!("{:?}", part.body)
        };
        assert_eq!(content.as_ref(), (0..=255).collect::<Vec<u8>>());
    }
}

#[test]
fn the_tree_is_mixed_over_alternative_over_related() {
    let mut draft = draft();
    draft.text = Some("a".to_owned());
    draft.html = Some("<p>a</p>".to_owned());
    draft.attachments = vec![file("logo.png", true), file("b.png", false)];
    let octets = octets(&draft);
    let types: Vec<_> = MessageParser::default()
        .parse(&octets)
        .unwrap()
        .parts
        .iter()
        .map(|part| part.content_type().unwrap().subtype().unwrap().to_owned())
        .collect();
    assert_eq!(types, ["mixed", "alternative", "plain", "related", "html", "png", "png"]);
}

#[test]
fn the_same_randomness_makes_the_same_octets() {
    let mut draft = draft();
    draft.text = Some("a".to_owned());
    draft.html = Some("<p>a</p>".to_owned());
    assert_eq!(octets(&draft), octets(&draft));
    let other = compose(&draft, NOON, &SeededEntropy::new(8));
    assert_ne!(compose(&draft, NOON, &SeededEntropy::new(7)).body, other.body);
}

#[test]
fn a_plain_message_reads_as_it_was_written() {
    let mut draft = draft();
    draft.from = mailbox(Some("Ann"), "ann@example.com");
    draft.to.truncate(1);
    draft.subject = Some("Your receipt".to_owned());
    draft.text = Some("Thank you.\n".to_owned());
    draft.headers = vec![("X-Order".to_owned(), "18".to_owned())];
    assert_eq!(
        String::from_utf8(octets(&draft)).unwrap(),
        "Date: Sun, 22 Nov 2026 12:00:00 +0000\r\n\
         From: Ann <ann@example.com>\r\n\
         To: Bob <bob@example.org>\r\n\
         Subject: Your receipt\r\n\
         X-Order: 18\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=\"utf-8\"\r\n\
         Content-Transfer-Encoding: 7bit\r\n\
         \r\n\
         Thank you.\r\n"
    );
}

#[test]
fn no_message_id_no_bcc_and_a_to_for_everybody_in_bcc() {
    let mut draft = draft();
    draft.to.clear();
    let content = compose(&draft, NOON, &SeededEntropy::new(7));
    let headers = String::from_utf8(content.headers).unwrap();
    assert!(!headers.contains("Message-ID") && !headers.contains("Bcc"), "{headers}");
    assert!(headers.contains("To: undisclosed-recipients:;\r\n"), "{headers}");
    assert!(!content.has_message_id && !content.has_list_unsubscribe);
}

#[test]
fn only_a_local_part_beyond_ascii_needs_smtputf8() {
    let mut draft = draft();
    let content = compose(&draft, NOON, &SeededEntropy::new(7));
    assert!(!content.needs_smtputf8 && content.headers.is_ascii());
    draft.cc = vec![mailbox(None, "用户@example.com")];
    assert!(compose(&draft, NOON, &SeededEntropy::new(7)).needs_smtputf8);
}

/// What every receiver relies on, whatever went in.
fn assert_well_formed(content: &Content) {
    let text = [content.headers.as_slice(), b"\r\n", &content.body].concat();
    assert!(text.ends_with(b"\r\n"));
    assert!(content.headers.ends_with(b"\r\n") && !content.headers.starts_with(b"\r\n"));
    assert!(!content.headers.windows(4).any(|window| window == b"\r\n\r\n"));
    for line in text.split_inclusive(|&b| b == b'\n') {
        let line = line.strip_suffix(b"\r\n").expect("every line ends in CRLF");
        assert!(!line.contains(&b'\r') && !line.contains(&0), "{}", line.escape_ascii());
        assert!(line.len() <= 998, "{} octets", line.len());
    }
    for line in content.headers.split_inclusive(|&b| b == b'\n') {
        assert!(!line.trim_ascii().is_empty(), "a blank line inside the header section");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_input_makes_a_broken_line(
        subject in any::<String>(),
        name in any::<String>(),
        to_names in proptest::collection::vec(any::<String>(), 0..40),
        header in ("[!-9;-~]{1,40}", any::<String>()),
        text in proptest::option::of("[^\0]*"),
        html in proptest::option::of("([^\0]|\r\n|\n\r){0,200}"),
        filename in any::<String>(),
        content in any::<Vec<u8>>(),
        long in 0..3_000_usize,
    ) {
        let mut draft = draft();
        draft.from.name = Some(name);
        // Past the checks on purpose: the writer itself must not let a line be broken.
        draft.to = to_names
            .into_iter()
            .map(|name| Mailbox { name: Some(name), address: Address::parse("b@example.org").unwrap() })
            .collect();
        draft.headers = vec![header, ("X-Long".to_owned(), "x".repeat(long)), ("X-Gap".to_owned(), format!("a{}b", " ".repeat(long)))];
        draft.subject = Some(subject);
        draft.text = text;
        draft.html = html;
        if mime::check_filename(&filename).is_ok() {
            draft.attachments = vec![Attachment { filename, content, ..file("", true) }, file("x.png", false)];
        }
        assert_well_formed(&compose(&draft, NOON, &SeededEntropy::new(1)));
    }

    #[test]
    fn a_subject_comes_back_as_it_was(subject in "[^\\p{C}\\s]{1,20}( [^\\p{C}\\s]{1,20}){0,12}") {
        let mut draft = draft();
        draft.subject = Some(subject.clone());
        let octets = octets(&draft);
        let parsed = MessageParser::default().parse(&octets).unwrap();
        prop_assert_eq!(parsed.subject(), Some(subject.as_str()));
    }

    #[test]
    fn raw_octets_are_refused_or_made_well_formed(message in any::<Vec<u8>>(), body in any::<String>()) {
        let _ = raw::prepare(&message, NOON);
        let message = [b"From: a@example.com\nBcc: x\nX: ", message.as_slice(), b"\n\n", body.as_bytes()].concat();
        if let Ok(raw) = raw::prepare(&message, NOON) {
            assert_well_formed(&raw.content);
            prop_assert!(raw.content.headers.starts_with(b"Date: "));
        }
    }
}
