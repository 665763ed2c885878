use proptest::prelude::*;
use serde_json::{Map, json};

use super::raw::parse_raw_request;
use super::*;

const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

fn small() -> ApiLimits {
    ApiLimits {
        recipients: 5,
        batch_messages: 3,
        attachments: 2,
        attachment_bytes: 10,
        headers: 3,
        header_bytes: 300,
        ..ApiLimits::default()
    }
}

fn rules(limits: &ApiLimits) -> Rules<'_> {
    Rules { limits, now: NOON, owns: &|domain| domain == "example.com" || domain.ends_with(".example.com") }
}

fn good() -> Value {
    json!({"from": "Ann <ann@example.com>", "to": ["bob@example.org"], "subject": "Hi", "text": "Hello"})
}

/// `good()` with members replaced or added.
fn with(changes: Value) -> Value {
    let mut value = good();
    value.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    value
}

fn faults_of(problem: &Problem) -> Vec<(String, &'static str)> {
    problem.errors.iter().map(|error| (error.pointer.clone(), error.code)).collect()
}

#[track_caller]
fn check(changes: Value, expect: &[(&str, &str)]) {
    let found = message_request(&with(changes), &rules(&small())).map(|_| ());
    let found = found.map_or_else(|problem| faults_of(&problem), |()| vec![]);
    let found: Vec<_> = found.iter().map(|(pointer, code)| (pointer.as_str(), *code)).collect();
    assert_eq!(found, expect);
}

#[test]
fn a_whole_message_is_read() {
    let limits = ApiLimits::default();
    let request = message_request(
        &json!({
            "from": {"email": "ann@mail.example.com", "name": "Ann, Lee"},
            "to": ["bob@example.org", {"email": "Eve@example.org", "name": "Eve"}],
            "cc": "Bob <bob@example.org>",
            "bcc": ["zoe@example.net"],
            "reply_to": ["help@example.com"],
            "subject": "Grüße",
            "text": "a", "html": "<p>a</p>",
            "headers": [{"name": "X-A", "value": "1"}, {"name": "X-A", "value": "2"}],
            "attachments": [
                {"filename": "a.txt", "content": "aGVs\r\nbG8", "content_type": "text/plain"},
                {"filename": "b.png", "content": "", "content_id": "<b>", "inline": true},
            ],
            "stream": "marketing", "campaign_id": "spring", "tags": {"plan": "pro"},
            "send_at": "2026-11-23T13:00:00+01:00",
        }),
        &rules(&limits),
    )
    .unwrap();
    let recipients: Vec<_> = request.recipients.iter().map(ToString::to_string).collect();
    assert_eq!(recipients, ["bob@example.org", "Eve@example.org", "zoe@example.net"]);
    assert_eq!(request.draft.attachments[0].content, b"hello");
    assert_eq!(request.draft.attachments[1].content_id.as_deref(), Some("b"));
    assert_eq!(request.draft.headers.len(), 2);
    assert_eq!(request.options.send_at, Some(NOON.plus_secs(86_400)));
    assert_eq!(request.options.stream.as_str(), "marketing");
}

#[test]
fn null_is_absent() {
    check(json!({"cc": null, "html": null, "headers": null, "send_at": null, "tags": null}), &[]);
}

#[test]
fn unknown_fields_are_named_at_every_depth() {
    check(
        json!({"bodyy": 1, "from": {"email": "a@example.com", "mail": 1}, "a/b": 2}),
        &[("/a~1b", "unknown_field"), ("/bodyy", "unknown_field"), ("/from/mail", "unknown_field")],
    );
}

#[test]
fn every_fault_is_told_at_once() {
    check(
        json!({
            "from": "ann", "to": ["ok@example.org", "no", 7], "subject": 5, "stream": "spam",
            "send_at": "tomorrow", "text": null, "headers": {"Bcc": "x@example.org"},
        }),
        &[
            ("/from", "invalid_address"),
            ("/to/1", "invalid_address"),
            ("/to/2", "wrong_type"),
            ("/subject", "wrong_type"),
            ("/headers/Bcc", "header_reserved"),
            ("/stream", "invalid_stream"),
            ("/send_at", "invalid_time"),
            ("", "missing_content"),
        ],
    );
}

#[test]
fn what_is_missing_is_named() {
    let problem = message_request(&json!({}), &rules(&small())).unwrap_err();
    let expected = [("/from", "missing"), ("/to", "missing"), ("", "missing_content")];
    assert_eq!(faults_of(&problem), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
    assert_eq!(faults_of(&message_request(&json!([1]), &rules(&small())).unwrap_err())[0].1, "wrong_type");
}

#[test]
fn header_injection_is_refused_wherever_it_is_tried() {
    check(json!({"subject": "a\r\nBcc: x@example.org"}), &[("/subject", "control_character")]);
    check(json!({"from": "Ann\nX: y <ann@example.com>"}), &[("/from", "control_character")]);
    check(
        json!({"from": {"email": "ann@example.com", "name": "A\r\nX: y"}}),
        &[("/from/name", "control_character")],
    );
    check(
        json!({"to": {"email": "a@example.org\r\nRCPT TO:<x@y.example>"}}),
        &[("/to/email", "invalid_address")],
    );
    check(json!({"reply_to": "a\0@example.org"}), &[("/reply_to", "control_character")]);
    check(json!({"headers": {"X-A": "1\r\n\r\nbody"}}), &[("/headers/X-A", "control_character")]);
    check(
        json!({"headers": [{"name": "X\r\nY", "value": "1"}]}),
        &[("/headers/0/name", "invalid_header_name")],
    );
    check(
        json!({"attachments": [{"filename": "a\r\nX: y", "content": "", "content_type": "a/b\nX: y"}]}),
        &[
            ("/attachments/0/filename", "control_character"),
            ("/attachments/0/content_type", "invalid_content_type"),
        ],
    );
    check(json!({"text": "a\0b"}), &[("/text", "control_character")]);
}

#[test]
fn attachments_must_be_base64_and_complete() {
    check(
        json!({"attachments": [{"filename": "a", "content": "not base64!"}, {"content": "YQ=="}]}),
        &[("/attachments/0/content", "invalid_base64"), ("/attachments/1/filename", "missing")],
    );
    check(
        json!({"attachments": [{"filename": "a.png", "content": "YQ", "inline": true}]}),
        &[("/attachments/0/inline", "inline_without_html")],
    );
}

#[test]
fn each_limit_has_its_own_code() {
    let ten = |value: Value| Value::Array(vec![value; 10]);
    check(json!({"to": ten(json!("b@example.org"))}), &[("/to", "too_many_recipients")]);
    check(json!({"attachments": ten(json!({}))}), &[("/attachments", "too_many_attachments")]);
    check(
        json!({"attachments": [{"filename": "a", "content": "YWFhYWFhYWFhYWFhYWFh"}]}),
        &[("/attachments", "attachments_too_large")],
    );
    check(json!({"headers": ten(json!({"name": "X-A", "value": "1"}))}), &[("/headers", "too_many_headers")]);
    check(json!({"headers": {"X-A": "x ".repeat(200)}}), &[("/headers", "headers_too_large")]);
    check(json!({"subject": "x ".repeat(200)}), &[("/subject", "headers_too_large")]);
    check(json!({"send_at": "2026-12-22T12:00:00Z"}), &[]);
    check(json!({"send_at": "2026-12-22T12:00:01Z"}), &[("/send_at", "send_at_too_far")]);
    let tags: Map<String, Value> = (0..21).map(|tag| (tag.to_string(), "x".into())).collect();
    check(json!({"tags": tags}), &[("/tags", "too_many_tags")]);
}

#[test]
fn ten_thousand_recipients_get_one_clear_error() {
    let limits = ApiLimits::default();
    let many: Vec<_> = (0..10_000).map(|n| format!("r{n}@example.org")).collect();
    let problem = message_request(&with(json!({"to": many})), &rules(&limits)).unwrap_err();
    assert_eq!(problem.code(), "too_many_recipients");
    assert_eq!(problem.detail, "/to: 10000 recipients in one submission; at most 1000: split the submission");
}

#[test]
fn a_foreign_domain_names_the_command_that_adds_it() {
    let problem = message_request(&with(json!({"from": "a@example.net"})), &rules(&small())).unwrap_err();
    assert_eq!(problem.code(), "domain_not_owned");
    assert!(
        problem.errors[0].detail.contains("sendlake domain add --tenant NAME example.net"),
        "{problem:?}"
    );
}

#[test]
fn a_batch_lists_the_faults_of_all_its_messages() {
    let batch = json!({"messages": [good(), with(json!({"to": ["x"]})), with(json!({"from": null}))]});
    let problem = batch_request(&batch, &rules(&small())).unwrap_err();
    assert_eq!(
        faults_of(&problem),
        [("/messages/1/to/0".to_owned(), "invalid_address"), ("/messages/2/from".to_owned(), "missing")]
    );
    let batch = json!({"messages": vec![good(); 4]});
    assert_eq!(batch_request(&batch, &rules(&small())).unwrap_err().code(), "too_many_messages");
    assert_eq!(
        batch_request(&json!({"messages": []}), &rules(&small())).unwrap_err().errors[0].code,
        "empty"
    );
    assert_eq!(batch_request(&json!({"messages": vec![good(); 3]}), &rules(&small())).unwrap().len(), 3);
}

#[test]
fn a_raw_message_needs_headers_an_envelope_and_an_own_domain() {
    let base64 = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    let raw = |text: &str| {
        let body = json!({"envelope": {"to": ["b@example.org"]}, "raw": base64(text)});
        parse_raw_request(body.to_string().as_bytes(), &rules(&small()))
    };
    let request = raw("From: ann@example.com\nBcc: z@example.org\n\nHi").unwrap();
    assert_eq!(request.recipients.len(), 1);
    assert!(!request.message.content.headers.windows(4).any(|window| window == b"Bcc:"));
    for (text, code) in [
        ("Hello, no headers here\n\nHi", "raw_header_line"),
        ("\nHi", "raw_no_headers"),
        ("From: a@example.net\n\nHi", "domain_not_owned"),
    ] {
        let problem = raw(text).unwrap_err();
        assert_eq!(faults_of(&problem), [("/raw".to_owned(), code)]);
    }
    let problem = raw_error(json!({"envelope": {"from": "x@example.net", "to": []}, "raw": "%"}));
    assert_eq!(
        faults_of(&problem),
        [
            ("/envelope/from".to_owned(), "domain_not_owned"),
            ("/envelope/to".to_owned(), "missing"),
            ("/raw".to_owned(), "invalid_base64"),
        ]
    );
}

fn raw_error(body: Value) -> Problem {
    parse_raw_request(body.to_string().as_bytes(), &rules(&small())).unwrap_err()
}

/// Any JSON, with the names that the parsers know turning up often.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from("ann@example.com")),
        Just(Value::from("RnJvbTogYUBleGFtcGxlLmNvbQoKSGk=")),
    ];
    let name = prop_oneof![
        proptest::sample::select(MESSAGE_FIELDS.as_slice()).prop_map(str::to_owned),
        proptest::sample::select(
            ["messages", "email", "name", "value", "filename", "content", "inline", "raw", "envelope"]
                .as_slice()
        )
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    leaf.prop_recursive(4, 60, 8, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_json_makes_a_parser_panic_and_every_pointer_resolves_or_is_missing(value in any_json()) {
        let bytes = value.to_string().into_bytes();
        let limits = small();
        let rules = rules(&limits);
        let _ = parse_message_request(&bytes, &rules);
        let _ = parse_raw_request(&bytes, &rules);
        if let Err(problem) = parse_batch_request(&bytes, &rules) {
            for error in problem.errors.iter().filter(|error| error.code == "unknown_field") {
                prop_assert!(value.pointer(&error.pointer).is_some(), "{}", error.pointer);
            }
        }
    }

    #[test]
    fn no_octets_make_a_parser_panic(bytes in any::<Vec<u8>>()) {
        let limits = small();
        let _ = parse_message_request(&bytes, &rules(&limits));
        let _ = parse_batch_request(&bytes, &rules(&limits));
        let _ = parse_raw_request(&bytes, &rules(&limits));
    }
}
