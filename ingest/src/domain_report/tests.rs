use std::io::Write;
use std::time::Instant;

use proptest::prelude::*;

use super::*;

/// An aggregate report with these records.
fn xml(records: &str) -> String {
    format!(
        "<?xml version=\"1.0\"?>\n<feedback><report_metadata><org_name>Receiver</org_name>\
         <email>dmarc@receiver.example</email><report_id>r-1</report_id><date_range><begin>1767225600</begin>\
         <end>1767311999</end></date_range></report_metadata><policy_published><domain>Acme.example.</domain>\
         <p>None</p><pct>50</pct></policy_published>{records}</feedback>\n"
    )
}

const RECORD: &str = "<record><row><source_ip>192.0.2.7</source_ip><count>12</count><policy_evaluated>\
    <disposition>none</disposition><dkim>PASS</dkim><spf>fail</spf><reason><type>forwarded</type></reason>\
    </policy_evaluated></row><identifiers><header_from>News.Acme.example</header_from></identifiers><auth_results>\
    <dkim><domain>acme.example</domain><result>pass</result></dkim><spf><domain>list.example</domain>\
    <result>pass</result></spf></auth_results></record>";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An archive as reporters make them: local headers, then the directory, then its end.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        let packed = encoder.finish().unwrap();
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        let mut shared = vec![20, 0, 0, 0, 8, 0, 0, 0, 0, 0];
        for number in [crc.sum(), packed.len() as u32, bytes.len() as u32] {
            shared.extend(number.to_le_bytes());
        }
        shared.extend((name.len() as u32).to_le_bytes());
        let at = archive.len() as u32;
        archive.extend([b"PK\x03\x04", &shared[..], name.as_bytes(), &packed[..]].concat());
        directory.extend(
            [b"PK\x01\x02\x14\0", &shared[..], &[0; 10], &at.to_le_bytes(), name.as_bytes()].concat(),
        );
    }
    let at = archive.len() as u32;
    let count = (entries.len() as u16).to_le_bytes();
    archive.extend(&directory);
    archive.extend(
        [
            b"PK\x05\x06\0\0\0\0",
            &count[..],
            &count[..],
            &(directory.len() as u32).to_le_bytes(),
            &at.to_le_bytes(),
            &[0; 2],
        ]
        .concat(),
    );
    archive
}

fn base64(bytes: &[u8]) -> String {
    let text = data_encoding::BASE64.encode(bytes);
    text.as_bytes().chunks(76).map(|line| format!("{}\r\n", String::from_utf8_lossy(line))).collect()
}

/// A mail whose one part has these fields and this body.
fn mail(fields: &str, body: &str) -> Vec<u8> {
    format!(
        "From: Receiver <dmarc@Receiver.example>\r\nTo: dmarc@bounces.acme.example\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nfor you\r\n\
         --b\r\n{fields}\r\n\r\n{body}\r\n--b--\r\n"
    )
    .into_bytes()
}

fn only(reading: &Reading) -> &AggregateReport {
    match reading.reports.as_slice() {
        [DomainReport::Aggregate(report)] => report,
        _ => panic!("{reading:?}"),
    }
}

fn refusal(bytes: &[u8]) -> String {
    let reading = Reading::of(bytes);
    assert!(reading.reports.is_empty(), "{:?}", reading.reports);
    reading.problems.join("; ")
}

#[test]
fn a_report_says_who_saw_what_of_which_domain() {
    let reading = Reading::of(xml(RECORD).as_bytes());
    let report = only(&reading);
    assert_eq!((report.org_name.as_str(), report.report_id.as_str()), ("Receiver", "r-1"));
    assert_eq!(report.policy.domain, "acme.example");
    assert_eq!((report.policy.p.as_deref(), report.policy.pct), (Some("none"), Some(50)));
    let [record] = report.records.as_slice() else { panic!("{:?}", report.records) };
    assert_eq!((record.messages, record.dkim_aligned, record.spf_aligned), (12, true, false));
    assert_eq!(record.identifiers.header_from.as_deref(), Some("news.acme.example"));
    assert_eq!(record.identifiers.envelope_from.as_deref(), Some("list.example"), "from the SPF result");
    assert_eq!(record.reasons[0].kind.as_deref(), Some("forwarded"));
}

#[test]
fn it_is_found_whatever_it_is_packed_in_and_labelled_as() {
    let plain = xml(RECORD);
    let (zipped, gzipped) = (zip(&[("r.xml", plain.as_bytes())]), gzip(plain.as_bytes()));
    let in_base64 = "Content-Transfer-Encoding: base64";
    let forms: Vec<(&str, Vec<u8>)> = vec![
        ("bare", plain.clone().into_bytes()),
        ("with a mark", [b"\xef\xbb\xbf\r\n", plain.as_bytes()].concat()),
        ("gzip", gzipped.clone()),
        ("gzip, and a line end", [&gzipped[..], b"\r\n"].concat()),
        ("zip", zipped.clone()),
        ("gzip in zip", zip(&[("r.xml.gz", &gzipped)])),
        ("zip", mail(&format!("Content-Type: application/zip\r\n{in_base64}"), &base64(&zipped))),
        ("zip as gzip", mail(&format!("Content-Type: application/gzip\r\n{in_base64}"), &base64(&zipped))),
        (
            "gzip as text",
            mail(&format!("Content-Type: text/plain; charset=utf-8\r\n{in_base64}"), &base64(&gzipped)),
        ),
        ("xml as text", mail("Content-Type: text/plain", &plain)),
        ("xml as a page", mail("Content-Type: text/html", &plain)),
        ("base64, undeclared", mail("Content-Type: text/plain; name=r.zip", &base64(&zipped))),
        ("base64, declared as bytes", mail("Content-Type: application/zip", &base64(&zipped))),
        ("no MIME", format!("From: a@b.example\r\nSubject: r\r\n\r\n{}", base64(&gzipped)).into_bytes()),
        (
            "wrong boundary",
            String::from_utf8(mail(
                &format!("Content-Type: application/zip\r\n{in_base64}"),
                &base64(&zipped),
            ))
            .unwrap()
            .replace("boundary=b", "boundary=other")
            .into_bytes(),
        ),
        (
            "in the middle of a letter",
            mail("Content-Type: text/plain", &format!("See below.\r\n\r\n{plain}\r\nRegards")),
        ),
        (
            "forwarded",
            mail(
                "Content-Type: message/rfc822",
                &String::from_utf8(mail("Content-Type: application/xml", &plain))
                    .unwrap()
                    .replace("--b", "--c")
                    .replace("=b", "=c"),
            ),
        ),
        (
            "a mailbox file's line",
            [b"From x Mon Jan  5 00:00:00 2026\r\n", &mail("Content-Type: text/xml", &plain)[..]].concat(),
        ),
    ];
    let expected = Reading::of(plain.as_bytes()).reports;
    for (form, bytes) in forms {
        let reading = Reading::of(&bytes);
        assert_eq!(reading.reports, expected, "{form}: {:?}", reading.problems);
        assert!(reading.problems.is_empty(), "{form}: {:?}", reading.problems);
    }
}

#[test]
fn the_sender_of_a_mail_is_noted() {
    let reading = Reading::of(&mail("Content-Type: text/xml", &xml(RECORD)));
    assert_eq!(reading.submitter.as_deref(), Some("receiver.example"));
}

#[test]
fn what_reporters_get_wrong_does_not_keep_the_rest_from_being_read() {
    let bad_source = RECORD.replace("192.0.2.7", "unknown");
    let bad_count = RECORD.replace(">12<", ">-1<");
    let huge_count = RECORD.replace(">12<", ">99999999999999999999<");
    let reading = Reading::of(xml(&format!("{bad_source}{bad_count}{RECORD}{huge_count}")).as_bytes());
    let report = only(&reading);
    assert_eq!((report.records.len(), report.records_left_out), (1, 3));
    assert!(report.left_out_because[0].contains("source_ip \"unknown\""), "{:?}", report.left_out_because);

    let nameless = xml(RECORD).replace("<org_name>Receiver</org_name>", "<org_name/>");
    assert_eq!(only(&Reading::of(nameless.as_bytes())).org_name, "receiver.example");
    let fraction = xml(RECORD).replace("1767225600", " 1767225600.0 ");
    assert_eq!(only(&Reading::of(fraction.as_bytes())).begin_at.as_secs(), 1_767_225_600);
    let in_namespace =
        xml(RECORD).replace("<feedback>", "<feedback xmlns=\"urn:ietf:params:xml:ns:dmarc-2.0\">");
    assert_eq!(only(&Reading::of(in_namespace.as_bytes())).records.len(), 1);
    let twice = xml(RECORD).replace(
        "</policy_published>",
        "</policy_published><policy_published><p>reject</p></policy_published>",
    );
    assert_eq!(only(&Reading::of(twice.as_bytes())).policy.p.as_deref(), Some("none"), "the first counts");
}

#[test]
fn what_is_no_report_is_refused_with_a_reason() {
    let bad_date = xml(RECORD).replace("1767225600", "soon");
    let backwards = xml(RECORD).replace("1767311999", "1767000000");
    let entity = xml(RECORD).replace("Receiver", "&receiver;");
    let doctype = format!("<!DOCTYPE feedback [<!ENTITY a \"aaaaaaaaaa\">]>{}", xml(RECORD));
    let latin =
        xml(RECORD).into_bytes().iter().map(|b| if *b == b'R' { 0xe9 } else { *b }).collect::<Vec<_>>();
    let (mut encrypted, mut flipped) =
        (zip(&[("r.xml", b"<a/>")]), zip(&[("r.xml", xml(RECORD).as_bytes())]));
    let directory = encrypted.windows(4).position(|four| four == b"PK\x01\x02").unwrap();
    encrypted[directory + 8] |= 1;
    flipped[60] ^= 0xff;
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "empty"),
        (b" \r\n".to_vec(), "empty"),
        (b"Subject: hello\r\n\r\nhow are you?\r\n".to_vec(), "neither a DMARC report"),
        (b"\x00\x01\x02".to_vec(), "neither a DMARC report"),
        (b"<rss><channel/></rss>".to_vec(), "root is <rss>"),
        (xml(RECORD).as_bytes()[..700].to_vec(), "ends before its last element"),
        (xml("").into_bytes(), "it has none"),
        (xml("<record/>").into_bytes(), "source_ip"),
        (bad_date.into_bytes(), "begin \"soon\""),
        (backwards.into_bytes(), "ends before it begins"),
        (entity.into_bytes(), "entity &receiver;"),
        (doctype.into_bytes(), "document type declaration"),
        (latin, "said to be UTF-8"),
        (gzip(b""), "holds nothing"),
        (gzip(b"hello"), "neither XML nor JSON"),
        (gzip(xml(RECORD).as_bytes())[..100].to_vec(), "cannot be unpacked"),
        (b"PK\x03\x04 rubbish".to_vec(), "cannot be unpacked"),
        (zip(&[]), "empty"),
        (encrypted, "encrypted"),
        (flipped, "cannot be unpacked"),
        (b"{\"policies\": []}".to_vec(), "no TLS report"),
        (b"{\"date-range\"".to_vec(), "no TLS report"),
    ];
    for (bytes, expected) in cases {
        let said = refusal(&bytes);
        assert!(said.contains(expected), "{expected:?} is not in {said:?}");
    }
}

#[test]
fn one_bad_document_does_not_hide_the_good_one() {
    let reading = Reading::of(&zip(&[("a.xml", b"<x/>"), ("b.xml", xml(RECORD).as_bytes())]));
    assert_eq!(reading.reports.len(), 1);
    assert_eq!(reading.problems.len(), 1, "{:?}", reading.problems);
}

#[test]
fn bombs_cost_little_and_are_refused() {
    let began = Instant::now();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&vec![b' '; 8 << 20]).unwrap();
    let zeros = encoder.finish().unwrap();
    assert!(refusal(&zeros).contains("fill memory"), "{}", refusal(&zeros));
    let as_zip = zip(&[("bomb.xml", &vec![b'<'; 8 << 20])]);
    assert!(refusal(&as_zip).contains("fill memory"), "{}", refusal(&as_zip));
    let many: Vec<(String, &[u8])> = (0..200).map(|n| (format!("{n}.xml"), &b"<a/>"[..])).collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    assert!(refusal(&zip(&many)).contains("200 entries"));
    let nested = (0..20).fold(gzip(b"<a/>"), |inner, _| gzip(&inner));
    assert!(refusal(&nested).contains("archives lie within archives"));
    let records = "<record/>".repeat(RECORDS_MAX + 1);
    assert!(refusal(xml(&records).as_bytes()).contains("more than 100000 records"));
    assert!(refusal("<feedback>".repeat(1_000_000).as_bytes()).contains("nested"));
    assert!(refusal("[".repeat(1_000).replacen('[', "{\"a\":", 1).as_bytes()).contains("no TLS report"));
    assert!(began.elapsed().as_secs() < 10, "{:?}", began.elapsed());
}

#[test]
fn deeply_nested_mail_is_looked_into_only_so_far() {
    let parts = |depth: usize| {
        let opening: String = (0..depth)
            .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}b\r\n\r\n--b{n}b\r\n"))
            .collect();
        format!("From: a@b.example\r\n{opening}Content-Type: text/xml\r\n\r\n{}", xml(RECORD))
    };
    assert_eq!(Reading::of(parts(50).as_bytes()).reports.len(), 1, "multiparts cost nothing");
    let mails = |depth: usize| {
        let opening = "Content-Type: message/rfc822\r\n\r\nFrom: a@b.example\r\n".repeat(depth);
        format!("From: a@b.example\r\n{opening}Content-Type: text/xml\r\n\r\n{}", xml(RECORD))
    };
    for depth in [3, 50] {
        let reading = Reading::of(mails(depth).as_bytes());
        assert_eq!(reading.reports.len(), 1, "{reading:?}");
    }
    assert!(refusal(mails(200_000).as_bytes()).contains("mails within mails"));
}

/// A failure report about a message of news.acme.example.
const FAILURE: &str = "From: <reports@receiver.example>\r\nMessage-ID: <f1@receiver.example>\r\n\
    Date: Mon, 5 Jan 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\n\
    Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n--b\r\n\
    Content-Type: text/plain\r\n\r\nIt failed.\r\n--b\r\nContent-Type: message/feedback-report\r\n\r\n\
    Feedback-Type: auth-failure\r\nUser-Agent: Reporter/2\r\nVersion: 1\r\nAuth-Failure: dmarc\r\n\
    Identity-Alignment: none\r\nSource-IP: 192.0.2.9\r\nDelivery-Result: Reject\r\n\
    Arrival-Date: Mon, 5 Jan 2026 11:59:00 +0200\r\nOriginal-Mail-From: <x@evil.example>\r\n\
    Authentication-Results: receiver.example;\r\n dmarc=fail header.from=news.acme.example\r\n--b\r\n\
    Content-Type: text/rfc822-headers\r\n\r\nFrom: A <a@News.acme.example>\r\nMessage-ID: <m1@acme.example>\r\n\r\n--b--\r\n";

#[test]
fn a_failure_report_tells_of_one_message() {
    let reading = Reading::of(FAILURE.as_bytes());
    let [DomainReport::Failure(report)] = reading.reports.as_slice() else { panic!("{reading:?}") };
    assert_eq!(report.report_id.as_deref(), Some("f1@receiver.example"));
    assert_eq!(report.arrived_at.map(|at| at.as_secs()), Some(1_767_607_140), "with its zone");
    assert_eq!(report.delivery_result.as_deref(), Some("reject"));
    assert_eq!(report.original_mail_from.as_deref(), Some("x@evil.example"));
    assert_eq!(
        report.authentication_results.as_deref(),
        Some("receiver.example; dmarc=fail header.from=news.acme.example")
    );
    assert!(report.identity_alignment.is_empty());
    assert_eq!((report.auth_failure.as_slice(), report.incidents), (&["dmarc".to_owned()][..], 1));
}

#[test]
fn a_failure_report_without_a_domain_takes_that_of_the_message() {
    for kind in ["message/rfc822", "text/rfc822-headers"] {
        let text = FAILURE.replace("text/rfc822-headers", kind);
        let reading = Reading::of(text.as_bytes());
        let [DomainReport::Failure(report)] = reading.reports.as_slice() else { panic!("{reading:?}") };
        assert_eq!(report.reported_domain.as_deref(), Some("news.acme.example"), "{kind}");
        assert_eq!(report.original_message_id.as_deref(), Some("m1@acme.example"), "{kind}");
    }
}

#[test]
fn a_complaint_is_none() {
    let complaint = FAILURE.replace("auth-failure", "abuse");
    assert!(refusal(complaint.as_bytes()).contains("neither a DMARC report"));
}

const TLS: &str = r#"{"organization-name":"Sender","date-range":{"start-datetime":"2026-01-05T00:00:00Z",
    "end-datetime":"2026-01-05T23:59:59"},"contact-info":"tls@sender.example","report-id":"t-1","policies":[{"policy":
    {"policy-type":"STS","policy-string":"version: STSv1","policy-domain":"Acme.example","mx-host":["mx.acme.example"]},
    "summary":{"total-successful-session-count":"40","total-failure-session-count":2},"failure-details":[
    {"result-type":"certificate-expired","receiving-mx-hostname":"MX.acme.example","failed-session-count":2,
    "sending-mta-ip":""}]},{"policy":{"policy-type":"no-policy-found","policy-domain":"b.example"},
    "summary":{"total-successful-session-count":1,"total-failure-session-count":0},"failure-details":null}]}"#;

#[test]
fn a_tls_report_is_read_in_its_dialects() {
    let forms = [
        TLS.as_bytes().to_vec(),
        gzip(TLS.as_bytes()),
        mail(
            "Content-Type: application/tlsrpt+gzip\r\nContent-Transfer-Encoding: base64",
            &base64(&gzip(TLS.as_bytes())),
        ),
        mail("Content-Type: application/tlsrpt+json", TLS),
    ];
    for bytes in forms {
        let reading = Reading::of(&bytes);
        let [DomainReport::Tls(report)] = reading.reports.as_slice() else { panic!("{reading:?}") };
        assert_eq!(report.end_at.as_secs(), 1_767_657_599, "a time without a zone is UTC");
        let [first, second] = report.policies.as_slice() else { panic!("{report:?}") };
        assert_eq!((first.domain.as_str(), first.policy_type.as_str()), ("acme.example", "sts"));
        assert_eq!((first.successful_sessions, first.failed_sessions), (40, 2));
        assert_eq!(first.failures[0].receiving_mx_hostname.as_deref(), Some("mx.acme.example"));
        assert_eq!(first.failures[0].sending_mta_ip, None);
        assert!(second.failures.is_empty());
    }
}

#[test]
fn numbers_that_no_sender_has_are_refused() {
    assert!(refusal(TLS.replace("\"40\"", "99999999999999").as_bytes()).contains("which no sender has"));
    assert!(refusal(TLS.replace("\"40\"", "-1").as_bytes()).contains("no TLS report"));
    let failures = format!("[{}]", vec!["{\"result-type\":\"x\"}"; 10_001].join(","));
    assert!(refusal(TLS.replace("null", &failures).as_bytes()).contains("at most 10000"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let reading = Reading::of(&bytes);
        prop_assert!(!reading.reports.is_empty() || !reading.problems.is_empty());
    }

    #[test]
    fn damaged_reports_are_read_without_panic(
        which in 0_usize..6, cut in 0_usize..2_000, flips in prop::collection::vec((0_usize..4_000, any::<u8>()), 0..6)
    ) {
        let mut bytes = match which {
            0 => xml(RECORD).into_bytes(),
            1 => FAILURE.as_bytes().to_vec(),
            2 => TLS.as_bytes().to_vec(),
            3 => gzip(xml(RECORD).as_bytes()),
            4 => zip(&[("r.xml", xml(RECORD).as_bytes())]),
            _ => mail("Content-Type: application/zip\r\nContent-Transfer-Encoding: base64", &base64(&zip(&[("r.xml", xml(RECORD).as_bytes())]))),
        };
        for (at, byte) in flips {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len().saturating_sub(cut % 3 * (cut / 3)));
        let reading = Reading::of(&bytes);
        prop_assert!(!reading.reports.is_empty() || !reading.problems.is_empty());
        for report in &reading.reports {
            if let DomainReport::Aggregate(report) = report {
                prop_assert!(!report.records.is_empty() && report.records.len() <= RECORDS_MAX);
                prop_assert!(report.begin_at <= report.end_at);
            }
        }
    }
}
