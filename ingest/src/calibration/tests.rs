use proptest::prelude::*;

use super::*;

fn export(exporter: Exporter) -> Export {
    // 2026-11-20
    Export { exporter, domain: None, utc_offset_s: 0, now: Timestamp::from_secs(1_795_132_800) }
}

fn google(text: &str) -> Reading {
    read(&export(Exporter::GooglePostmaster), text.as_bytes())
}

fn snds(text: &str) -> Reading {
    read(&export(Exporter::Snds), text.as_bytes())
}

/// Each figure in one line: what it is about, its day, the metric and what it says.
fn shown(reading: &Reading) -> Vec<String> {
    let mut lines = Vec::new();
    for figures in &reading.figures {
        let about = match &figures.about {
            About::Domain(domain) => domain.clone(),
            About::Ip(ip) => ip.to_string(),
        };
        let day = Timestamp::from_secs(i64::from(figures.day) * 86_400).to_string();
        for figure in &figures.figures {
            let mut line = format!("{about} {} {}", &day[..10], figure.metric);
            let number = |value: Option<f64>| value.map(|value| format!(" {value}")).unwrap_or_default();
            line += &figure.label.as_ref().map(|label| format!("[{label}]")).unwrap_or_default();
            line += &number(figure.value);
            if figure.value_lower.is_some() || figure.value_upper.is_some() {
                line += &format!(" ({}…{})", number(figure.value_lower), number(figure.value_upper));
            }
            line += &figure.text.as_ref().map(|text| format!(" {text:?}")).unwrap_or_default();
            lines.push(line);
        }
    }
    lines
}

const DAY: &str = r#"{"name": "domains/News.Acme.example/trafficStats/20261109", "userReportedSpamRatio": 0.0013,
  "userReportedSpamRatioLowerBound": 0.001, "userReportedSpamRatioUpperBound": 0.0016, "domainReputation": "HIGH",
  "ipReputations": [{"reputation": "BAD"}, {"reputation": "HIGH", "ipCount": "2", "sampleIps": ["192.0.2.1", "192.0.2.2"]}],
  "spammyFeedbackLoops": [{"id": "spring", "spamRatio": 0.004}],
  "spfSuccessRatio": 0.99, "dkimSuccessRatio": 1, "dmarcSuccessRatio": 0.98, "inboundEncryptionRatio": 1,
  "outboundEncryptionRatio": 1.0,
  "deliveryErrors": [{"errorClass": "TEMPORARY_ERROR", "errorType": "RATE_LIMIT_EXCEEDED", "errorRatio": 0.02}]}"#;

#[test]
fn a_day_of_postmaster_tools_is_read_whether_it_comes_alone_in_a_list_or_in_lines() {
    let alone = google(DAY);
    assert_eq!((alone.read, alone.bad), (1, 0), "{alone:?}");
    assert_eq!(
        shown(&alone),
        [
            "news.acme.example 2026-11-09 spam_rate 0.0013 ( 0.001… 0.0016)",
            "news.acme.example 2026-11-09 spf_success 0.99",
            "news.acme.example 2026-11-09 dkim_success 1",
            "news.acme.example 2026-11-09 dmarc_success 0.98",
            "news.acme.example 2026-11-09 inbound_encryption 1",
            "news.acme.example 2026-11-09 outbound_encryption 1",
            "news.acme.example 2026-11-09 reputation \"HIGH\"",
            "news.acme.example 2026-11-09 ip_reputation[BAD]",
            "news.acme.example 2026-11-09 ip_reputation[HIGH] 2 \"192.0.2.1 192.0.2.2\"",
            "news.acme.example 2026-11-09 feedback_loop_spam_rate[spring] 0.004",
            "news.acme.example 2026-11-09 delivery_error[TEMPORARY_ERROR/RATE_LIMIT_EXCEEDED] 0.02",
        ]
    );
    let list = google(&format!("{{\"trafficStats\": [{DAY}], \"nextPageToken\": \"x\"}}"));
    assert_eq!(list, alone);
    let lines = google(&format!("{}\n{}\n", DAY.replace('\n', " "), DAY.replace('\n', " ")));
    assert_eq!((lines.read, lines.figures.len()), (2, 2));
    // a day with little mail
    let little =
        google("{\"name\": \"domains/acme.example/trafficStats/20261109\", \"dkimSuccessRatio\": 1.0}");
    assert_eq!(shown(&little), ["acme.example 2026-11-09 dkim_success 1"]);
    assert_eq!(google("{}"), Reading::default(), "a page without anything");
}

#[test]
fn version_two_names_its_metrics_as_whoever_asked_did() {
    let stat = |metric: &str, value: &str| {
        format!(
            "{{\"name\": \"domains/acme.example/domainStats/o{metric}\", \"metric\": \"{metric}\", \"value\": {{{value}}}, \
             \"date\": {{\"year\": 2026, \"month\": 11, \"day\": 9}}}}"
        )
    };
    let stats = [
        stat("SPAM_RATE", "\"doubleValue\": 0.002"),
        stat("spfSuccess", "\"floatValue\": 0.5"),
        stat("tls_outbound", "\"doubleValue\": 1"),
        stat("fbl_spring", "\"doubleValue\": 0.01"),
        stat("volume", "\"intValue\": \"5\""),
    ];
    let reading = google(&format!("{{\"domainStats\": [{}]}}", stats.join(",\n")));
    assert_eq!(
        shown(&reading),
        [
            "acme.example 2026-11-09 spam_rate 0.002",
            "acme.example 2026-11-09 spf_success 0.5",
            "acme.example 2026-11-09 outbound_encryption 1",
            "acme.example 2026-11-09 feedback_loop_spam_rate[fbl_spring] 0.01",
        ]
    );
    assert_eq!((reading.read, reading.bad), (5, 1));
    let why = &reading.faults[0].why;
    assert!(
        why.starts_with("/domainStats/4: the metric \"volume\" is not understood: name metrics"),
        "{why}"
    );
    let overall =
        google("{\"name\": \"domains/a.example/domainStats/x\", \"metric\": \"SPAM_RATE\", \"value\": {}}");
    assert!(overall.faults[0].why.contains("DAILY"), "{overall:?}");
}

#[test]
fn a_table_of_the_dashboards_needs_its_domain_from_elsewhere() {
    let table = "Date,User-reported spam rate,Domain reputation\n2026-11-09,0.1%,High\n\"Nov 10, 2026\",,Medium\n11/11/2026,7,Low\n";
    let without = google(table);
    assert!(without.bad == 3 && without.faults[0].why.contains("--domain"), "{without:?}");
    let export = Export { domain: Some("acme.example".into()), ..export(Exporter::GooglePostmaster) };
    let reading = read(&export, table.as_bytes());
    assert_eq!(
        shown(&reading),
        [
            "acme.example 2026-11-09 spam_rate 0.001",
            "acme.example 2026-11-09 reputation \"HIGH\"",
            "acme.example 2026-11-10 reputation \"MEDIUM\"",
        ]
    );
    assert_eq!(
        reading.faults,
        [Fault {
            line: 4,
            why: "user-reported spam rate: \"7\" is no share of 0 to 1, or of 0 % to 100 %".into()
        }]
    );
}

#[test]
fn rows_of_snds_are_read_and_bounds_stay_bounds() {
    let reading = snds(
        "192.0.2.1,11/8/2026 9:00 PM,11/9/2026 8:00 PM,14129,14120,13025,GREEN,< 0.1%,11/9/2026 8:07 AM,11/9/2026 12:03 PM,41,out.acme.example,t@bounces.acme.example,\"blocked, once\"\r\n\
         192.0.2.2,11/9/2026 1:00 AM,11/10/2026 12:00 AM,100,100,99,Yellow,1.3%,,,0,,,\r\n\
         192.0.2.3,11/9/2026 1:00 AM,11/9/2026 8:00 PM,10,10,10,RED,> 10%,,,,,,\r\n\r\n",
    );
    assert_eq!((reading.read, reading.bad), (3, 0), "{reading:?}");
    assert_eq!(
        shown(&reading),
        [
            "192.0.2.1 2026-11-09 rcpt_commands 14129",
            "192.0.2.1 2026-11-09 data_commands 14120",
            "192.0.2.1 2026-11-09 recipients 13025",
            "192.0.2.1 2026-11-09 reputation \"GREEN\"",
            "192.0.2.1 2026-11-09 spam_rate ( 0… 0.001)",
            "192.0.2.1 2026-11-09 trap_hits 41 \"2026-11-09T08:07:00.000000Z 2026-11-09T12:03:00.000000Z\"",
            "192.0.2.1 2026-11-09 sample_helo \"out.acme.example\"",
            "192.0.2.1 2026-11-09 sample_mail_from \"t@bounces.acme.example\"",
            "192.0.2.1 2026-11-09 comments \"blocked, once\"",
            "192.0.2.2 2026-11-09 rcpt_commands 100",
            "192.0.2.2 2026-11-09 data_commands 100",
            "192.0.2.2 2026-11-09 recipients 99",
            "192.0.2.2 2026-11-09 reputation \"YELLOW\"",
            "192.0.2.2 2026-11-09 spam_rate 0.013",
            "192.0.2.2 2026-11-09 trap_hits 0",
            "192.0.2.3 2026-11-09 rcpt_commands 10",
            "192.0.2.3 2026-11-09 data_commands 10",
            "192.0.2.3 2026-11-09 recipients 10",
            "192.0.2.3 2026-11-09 reputation \"RED\"",
            "192.0.2.3 2026-11-09 spam_rate ( 0.1… 1)",
        ]
    );
}

#[test]
fn states_of_snds_are_of_the_day_on_which_they_are_read() {
    let reading =
        snds("192.0.2.1,192.0.2.2,Yes,Blocked due to user complaints\r\n192.0.2.9,192.0.2.9,No\r\n");
    assert_eq!(
        shown(&reading),
        [
            "192.0.2.1 2026-11-20 blocked 1 \"Blocked due to user complaints\"",
            "192.0.2.2 2026-11-20 blocked 1 \"Blocked due to user complaints\"",
            "192.0.2.9 2026-11-20 blocked 0",
        ]
    );
}

#[test]
fn what_cannot_be_read_is_told_by_its_line_and_the_rest_counts() {
    let good = "192.0.2.1,11/9/2026 1:00 AM,11/9/2026 8:00 PM,1,1,1,GREEN,< 0.1%,,,0,,,";
    for (bad, why) in [
        ("192.0.2.300,11/9/2026 1:00 AM,11/9/2026 8:00 PM,1,1,1,GREEN,0%,,,0,,,", "is no IP address"),
        ("192.0.2.1,yesterday,11/9/2026 8:00 PM,1,1,1,GREEN,0%,,,0,,,", "\"yesterday\" is no time"),
        ("192.0.2.1,11/9/2026 1:00 AM,11/9/2027 8:00 PM,1,1,1,GREEN,0%,,,0,,,", "is no day"),
        ("192.0.2.1,11/9/2036 1:00 AM,11/9/2036 8:00 PM,1,1,1,GREEN,0%,,,0,,,", "or to come"),
        ("192.0.2.1,11/9/2026 1:00 AM,11/9/2026 8:00 PM,-1,1,1,GREEN,0%,,,0,,,", "no number"),
        ("192.0.2.1,11/9/2026 1:00 AM,11/9/2026 8:00 PM,1,1,1,PINK,0%,,,0,,,", "none of GREEN"),
        ("192.0.2.1,11/9/2026 1:00 AM,11/9/2026 8:00 PM,1,1,1,GREEN,often,,,0,,,", "no share"),
        ("10.0.0.0,10.255.255.255,Yes,x", "more than 1024"),
        ("192.0.2.1,192.0.2.2,Maybe,x", "neither Yes nor No"),
        ("hello", "1 columns"),
    ] {
        let reading = snds(&format!("{good}\r\n{bad}\r\n{good}\r\n"));
        assert_eq!((reading.read, reading.figures.len(), reading.bad), (3, 2, 1), "{bad}");
        assert_eq!(reading.faults[0].line, 2, "{bad}");
        assert!(reading.faults[0].why.contains(why), "{bad}: {:?}", reading.faults);
    }
    for (bad, why) in [
        ("{\"name\": \"domains/acme.example/trafficStats/2026-11-09\"}", "20261109"),
        ("{\"name\": \"domains/acme/trafficStats/20261109\", \"spfSuccessRatio\": 1}", "is no domain"),
        ("{\"name\": \"domains/acme.example/trafficStats/20261109\"}", "no figure"),
        ("{\"name\": \"domains/acme.example/trafficStats/20261109\", \"spfSuccessRatio\": 1.5}", "no share"),
        (
            "{\"name\": \"domains/acme.example/trafficStats/20261109\", \"spfSuccessRatio\": \"1\"}",
            "no number",
        ),
        ("{\"kind\": 1}", "neither domains/"),
        ("{\"name\": ", "cut off"),
    ] {
        let reading = google(&format!("\n{bad}"));
        assert_eq!((reading.bad, reading.figures.len()), (1, 0), "{bad}");
        assert_eq!(reading.faults[0].line, 2, "{bad}");
        assert!(reading.faults[0].why.contains(why), "{bad}: {:?}", reading.faults);
    }
    assert!(google("Hello").faults[0].why.contains("neither JSON nor a table"));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..500), which in any::<bool>()) {
        let exporter = if which { Exporter::Snds } else { Exporter::GooglePostmaster };
        let reading = read(&export(exporter), &bytes);
        prop_assert!(reading.faults.len() <= 20);
    }
}
