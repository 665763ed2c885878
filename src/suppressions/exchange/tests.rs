//! Files of each vendor, by the forms of their documentation, and files that are wrong.

use super::*;

fn entries(text: &str) -> (ListFormat, Vec<(Place, RecordRead)>) {
    entries_as(text, None, None)
}

fn entries_as(
    text: &str,
    format: Option<ListFormat>,
    reason: Option<Reason>,
) -> (ListFormat, Vec<(Place, RecordRead)>) {
    let mut found = Vec::new();
    let format = read(text.as_bytes(), format, reason, &mut |place, one| {
        found.push((place, one));
        true
    });
    (format.unwrap_or_else(|error| panic!("{error}: {text}")), found)
}

/// Address, reason, reach and the second of each good record.
fn said(text: &str) -> (ListFormat, Vec<(String, Reason, Reach, i64)>) {
    let (format, found) = entries(text);
    let good = found.into_iter().map(|(place, one)| match one {
        RecordRead::Entry(entry) => {
            (entry.address, entry.reason, entry.reach, entry.since.map_or(0, Timestamp::as_secs))
        }
        other => panic!("{place}: {other:?}"),
    });
    (format, good.collect())
}

#[track_caller]
fn one(text: &str, format: ListFormat, reason: Reason, reach: Reach, since: i64) {
    assert_eq!(said(text), (format, vec![("ann@a.test".to_owned(), reason, reach, since)]), "{text}");
}

const AT: i64 = 1_575_986_313; // 2019-12-10T13:58:33Z

#[test]
fn each_vendors_files_are_known_by_their_fields() {
    use ListFormat::*;
    use Reason::*;
    let (bulk, all) = (Reach::Bulk, Reach::Tenant);
    one("address,reason,reach\nann@a.test,complaint,bulk\n", Csv, Complaint, bulk, 0);
    one("ann@a.test\n", Csv, Manual, all, 0);
    one("ann@a.test,hard_bounce\r\n", Csv, HardBounce, all, 0);
    one("{\"address\":\"ann@a.test\",\"reason\":\"cold_opt_out\"}\n", Ndjson, ColdOptOut, bulk, 0);
    one("ann@a.test,BOUNCE\n", Ses, HardBounce, all, 0);
    one("{\"emailAddress\":\"ann@a.test\",\"reason\":\"COMPLAINT\"}", Ses, Complaint, bulk, 0);
    one(
        "{\"SuppressedDestinationSummaries\": [\n {\"EmailAddress\": \"ann@a.test\", \"Reason\": \"BOUNCE\",\n  \
         \"LastUpdateTime\": \"2019-12-10T08:58:33-05:00\"}], \"NextToken\": \"x\"}",
        Ses,
        HardBounce,
        all,
        AT,
    );
    one(
        "status,reason,email,created\n5.1.1,550 no such user,ann@a.test,1575986313\n",
        Sendgrid,
        HardBounce,
        all,
        AT,
    );
    one(
        "[{\"created\":1575986313,\"email\":\"ann@a.test\",\"ip\":\"192.0.2.1\"}]",
        Sendgrid,
        Complaint,
        bulk,
        AT,
    );
    one("email,created\nann@a.test,2019-12-10 13:58:33\n", Sendgrid, Unsubscribe, bulk, AT);
    for heading in ["email", "address", "Email Address", "recipient"] {
        one(&format!("{heading}\nann@a.test\n"), Csv, Manual, all, 0);
    }
    one("{\"email\":\"ann@a.test\"}\n", Ndjson, Manual, all, 0);
    one(
        "address,code,error,created_at\nann@a.test,550,\"No such, mailbox\",\"Tue, 10 Dec 2019 13:58:33 UTC\"\n",
        Mailgun,
        HardBounce,
        all,
        AT,
    );
    one(
        "{\"items\":[{\"address\":\"ann@a.test\",\"tags\":[\"*\"],\"created_at\":\"Tue, 10 Dec 2019 13:58:33 GMT\"}],\
         \"paging\":{\"next\":\"https://x\"}}",
        Mailgun,
        Unsubscribe,
        bulk,
        AT,
    );
    one("address,created_at\nann@a.test,2019-12-10T13:58:33Z\n", Mailgun, Complaint, bulk, AT);
    let postmark = |reason: &str, origin: &str| {
        format!(
            "{{\"Suppressions\":[{{\"EmailAddress\":\"ann@a.test\",\"SuppressionReason\":\"{reason}\",\"Origin\":\"{origin}\",\
             \"CreatedAt\":\"2019-12-10T08:58:33-05:00\"}}]}}"
        )
    };
    one(&postmark("HardBounce", "Recipient"), Postmark, HardBounce, all, AT);
    one(&postmark("SpamComplaint", "Recipient"), Postmark, Complaint, bulk, AT);
    one(&postmark("ManualSuppression", "Recipient"), Postmark, Unsubscribe, bulk, AT);
    one(&postmark("ManualSuppression", "Admin"), Postmark, Manual, all, AT);
    one(
        "recipient,transactional,non_transactional,description\nann@a.test,true,true,x\n",
        Sparkpost,
        Manual,
        all,
        0,
    );
    one(
        "{\"results\":[{\"recipient\":\"ann@a.test\",\"type\":\"non_transactional\",\"source\":\"Spam Complaint\",\
         \"description\":\"550\",\"created\":\"2019-12-10T13:58:33+00:00\",\"non_transactional\":true}],\"links\":[]}",
        Sparkpost,
        Complaint,
        bulk,
        AT,
    );
    for (kind, source, reason, reach) in [
        ("transactional", "Bounce Rule", HardBounce, all),
        ("non_transactional", "Bounce Rule", HardBounce, all),
        ("transactional", "Manually Added", Manual, all),
        ("non_transactional", "Manually Added", Manual, bulk),
        ("non_transactional", "List Unsubscribe", Unsubscribe, bulk),
    ] {
        one(&format!("recipient,type,source\nann@a.test,{kind},{source}\n"), Sparkpost, reason, reach, 0);
    }
}

#[test]
fn a_bounce_means_what_its_receiver_said() {
    let sendgrid = |status: &str, words: &str| {
        format!("status,reason,email,created\n{status},\"{words}\",ann@a.test,1575986313\n")
    };
    let mailgun = |code: &str, words: &str| {
        format!("address,code,error,created_at\nann@a.test,{code},\"{words}\",2019-12-10T13:58:33Z\n")
    };
    let sparkpost = |words: &str| {
        format!("recipient,type,source,description\nann@a.test,transactional,Bounce Rule,\"{words}\"\n")
    };
    for (text, meant) in [
        (sendgrid("5.0.0", "550, mailbox full"), Some(Reason::FullMailbox)),
        (sendgrid("5.0.0", "552 5.2.2 Mailbox full"), Some(Reason::FullMailbox)),
        (sendgrid("5.7.1", "550 5.7.1 message blocked for spam"), None),
        (sendgrid("5.0.0", "550 5.7.1 Service unavailable; client host blocked using Spamhaus"), None),
        (sendgrid("5.1.1", "550 5.1.1 no such user here"), Some(Reason::HardBounce)),
        (sendgrid("5.0.0", "what nobody ever said"), Some(Reason::HardBounce)),
        (sendgrid("5.1.1", ""), Some(Reason::HardBounce)),
        (mailgun("550", "No such mailbox"), Some(Reason::HardBounce)),
        (mailgun("552", "mailbox full"), Some(Reason::FullMailbox)),
        (mailgun("554", "5.7.1 message rejected as spam"), None),
        (sparkpost("552 5.2.2 mailbox full"), Some(Reason::FullMailbox)),
    ] {
        let (_, found) = entries(&text);
        match (&found[0].1, meant) {
            (RecordRead::Entry(entry), Some(reason)) => assert_eq!(entry.reason, reason, "{text}"),
            (RecordRead::Skipped(why), None) => assert!(why.contains("_block"), "{text}: {why}"),
            (other, _) => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn sparkpost_gets_an_entry_for_each_type_of_mail() {
    let written = |reason, reach| {
        let mut writer = Writer::new(ListFormat::Sparkpost, Vec::new()).unwrap();
        let (address, since, until) = ("ann@a.test".into(), None, None);
        let entry = Entry { address, reason, reach, since, until, note: None, actor: None, event_id: None };
        writer.entry(&entry).unwrap();
        let (text, entries) = writer.end().unwrap();
        assert_eq!(entries, 1);
        String::from_utf8(text).unwrap()
    };
    let gone = written(Reason::HardBounce, Reach::Tenant);
    assert!(
        gone.contains("ann@a.test,transactional,") && gone.contains("ann@a.test,non_transactional,"),
        "{gone}"
    );
    let left = written(Reason::Unsubscribe, Reach::Bulk);
    assert!(!left.contains(",transactional,") && left.contains("ann@a.test,non_transactional,"), "{left}");
}

#[test]
fn what_is_wrong_is_told_by_its_line_and_the_rest_is_read() {
    let text = "email,reason\nann@a.test,manual\n\nnobody,manual\n\"bob@a.test\",spam\ncarl@a.test,\n,manual\neve@a.test,legal\n";
    let (_, found) = entries_as(text, Some(ListFormat::Csv), None);
    let bad: Vec<String> = found
        .iter()
        .filter_map(|(place, one)| match one {
            RecordRead::Bad(why) => Some(format!("{place}: {why}")),
            _ => None,
        })
        .collect();
    assert_eq!(bad.len(), 3, "{bad:?}");
    assert!(bad[0].starts_with("line 4: \"nobody\"") && bad[1].starts_with("line 5: \"spam\""), "{bad:?}");
    assert!(bad[2].starts_with("line 7: it has no address"), "{bad:?}");
    let (_, found) = entries_as("{\"address\":\"ann@a.test\"}\n[1]\nnot json\n", None, None);
    assert!(matches!(found[1].1, RecordRead::Bad(_)) && found[2].0 == Place::Line(3), "{found:?}");
    let (_, found) = entries("status,reason,email,created\n4.2.2,full,ann@a.test,1575986313\n");
    assert!(matches!(&found[0].1, RecordRead::Skipped(why) if why.contains("status 4")), "{found:?}");
    for (text, why) in [
        ("", "empty"),
        ("colour,shape\nred,round\n", "--format"),
        ("{\"Suppressions\":[{\"EmailAddress\":\"ann@a.test\"},", "after entry"),
    ] {
        let error = read(text.as_bytes(), None, Some(Reason::Manual), &mut |_, _| true).unwrap_err();
        assert!(error.to_string().contains(why), "{text}: {error}");
    }
    // a line without an end does not fill the memory
    let long =
        format!("{{\"address\":\"ann@a.test\"}}\n{}\n{{\"address\":\"bob@a.test\"}}\n", "x".repeat(1 << 20));
    let (_, found) = entries(&long);
    assert!(
        matches!(&found[1].1, RecordRead::Bad(why) if why.contains("64 KiB")) && found.len() == 3,
        "{found:?}"
    );
}

#[test]
fn quoted_fields_may_hold_line_ends_and_an_open_quote_ends_somewhere() {
    let text = "address,note,reason\r\nann@a.test,\"said\r\n\"\"no\"\"\r\n\",manual\r\nbob@a.test,5\" wide,manual\r\nx,y,z\r\n";
    let (_, found) = entries(text);
    let RecordRead::Entry(ann) = &found[0].1 else { panic!("{found:?}") };
    assert_eq!(ann.note.as_deref(), Some("said \"no\""));
    assert!(matches!(&found[1].1, RecordRead::Entry(bob) if bob.address == "bob@a.test"), "{found:?}");
    assert!(matches!((&found[2].0, &found[2].1), (Place::Line(6), RecordRead::Bad(_))), "{found:?}");
    let bob = &format!("ann@a.test,\"manual\n{}bob@a.test,manual\n", "x@a.test,manual\n".repeat(5_000));
    let (_, found) = entries_as(bob, Some(ListFormat::Csv), None);
    assert!(matches!(&found[0].1, RecordRead::Bad(why) if why.contains("64 KiB")), "{:?}", found[0]);
    assert!(matches!(&found.last().unwrap().1, RecordRead::Entry(bob) if bob.address == "bob@a.test"));
    assert_eq!(found.len(), 5_002);
}

/// Addresses of good records, and the lines of bad ones.
fn taken(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (place, one) in entries(text).1 {
        match one {
            RecordRead::Entry(entry) => good.push(entry.address),
            RecordRead::Bad(_) => bad.push(place.to_string()),
            RecordRead::Skipped(why) => panic!("{why}"),
        }
    }
    (good, bad)
}

#[test]
fn a_forgotten_quote_swallows_no_address_after_it() {
    for (text, good, bad) in [
        ("address,note\nq1@x.test,\"open\nq2@x.test,x\nq3@x.test,y\n", "q2 q3", "line 2"),
        ("address,note\nq1@x.test,\"say \"\"hi\nq2@x.test,x\"\nq3@x.test,y\n", "q2 q3", "line 2"),
        ("address,note\nq1@x.test,\"open\nq2@x.test,\"fine\"\nq3@x.test,y", "q2 q3", "line 2"),
        ("address,note\nq1@x.test,x\nq2@x.test,\"open", "q1", "line 3"),
        ("address,note\nq1@x.test,\"two\nlines\"\nq2@x.test,y", "q1 q2", ""),
        ("address,note\nq1@x.test,\"two\nlines\" or\nq2@x.test,y", "q2", "line 2 line 3"),
        ("\"q1@x.test\nq2@x.test\nq3@x.test\n", "q2 q3", "line 1"),
        (
            "status,reason,email,created\n5.1.1,\"550 no,q1@x.test,1\n5.1.1,\"550 no\",q2@x.test,1\n",
            "q2",
            "line 2",
        ),
    ] {
        for text in [text.to_owned(), text.replace('\n', "\r\n"), text.replace('\n', "\r")] {
            let (read, unread) = taken(&text);
            let names: Vec<&str> = read.iter().filter_map(|address| address.split('@').next()).collect();
            assert_eq!((names.join(" ").as_str(), unread.join(" ").as_str()), (good, bad), "{text:?}");
        }
    }
}

#[test]
fn a_file_of_one_long_line_or_none_is_no_success() {
    assert_eq!(taken("address\rann@a.test\rbob@a.test\r").0, ["ann@a.test", "bob@a.test"]);
    let objects = "{\"address\":\"ann@a.test\"}\r{\"address\":\"bob@a.test\"}\r";
    assert_eq!(taken(objects).0, ["ann@a.test", "bob@a.test"]);
    for text in ["address,reason\n", "{\"Suppressions\":[]}", "{\"other\":[{\"address\":\"ann@a.test\"}]}"] {
        let error = read(text.as_bytes(), None, None, &mut |_, _| true).unwrap_err().to_string();
        assert!(error.contains("no record in it"), "{text}: {error}");
        assert!(read_addresses(text.as_bytes(), Some(ListFormat::Csv), &mut |_, _| true).is_err(), "{text}");
    }
}

proptest::proptest! {
    #[test]
    fn any_octets_are_read_to_an_end(octets: Vec<u8>, head in "(address,reason\n|\\{\"a\":|\\[\\{\"email\":\"|email\n|a@b.test,)?") {
        let text = [head.as_bytes(), &octets].concat();
        for format in [None, Some(ListFormat::Mailgun), Some(ListFormat::Csv)] {
            let mut left = 10_000;
            let _ = read(text.as_slice(), format, None, &mut |_, _| { left -= 1; left > 0 });
            assert!(left > 0, "{text:?}");
        }
    }
}

#[test]
fn what_is_written_comes_back_in_every_format() {
    let at = Timestamp::from_secs(AT);
    let list: Vec<Entry> = Reason::ALL
        .iter()
        .enumerate()
        .map(|(number, reason)| Entry {
            address: format!("p{number}@a.test"),
            reason: *reason,
            reach: reach_of(*reason),
            since: Some(at),
            until: (*reason == Reason::FullMailbox).then(|| at.plus_secs(60)),
            note: Some("said \"no, thanks\"".into()),
            actor: Some("cli:anna".into()),
            event_id: Some(uuid::Uuid::from_u128(7)),
        })
        .collect();
    use ListFormat::*;
    for format in [Csv, Ndjson, Ses, Sendgrid, Mailgun, Postmark, Sparkpost] {
        let mut text = Vec::new();
        let mut writer = Writer::new(format, &mut text).unwrap();
        list.iter().for_each(|entry| writer.entry(entry).unwrap());
        assert_eq!(writer.end().unwrap().1, 7);
        let text = String::from_utf8(text).unwrap();
        let (found, mut back) = entries(&text);
        if format == Sparkpost {
            back.dedup_by_key(|(_, read)| match read {
                RecordRead::Entry(entry) => entry.address.clone(),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!((found, back.len()), (format, 7), "{text}");
        for (entry, (place, read)) in list.iter().zip(back) {
            let RecordRead::Entry(read) = read else { panic!("{format} {place}: {read:?} in {text}") };
            if matches!(format, Csv | Ndjson) {
                assert_eq!(&read, entry);
            }
            assert_eq!(read.address, entry.address);
            let clear = matches!(entry.reason, Reason::HardBounce | Reason::Complaint);
            assert!(!clear || read.reason == entry.reason, "{format}: {read:?}");
            assert!(format == Ses || read.since == Some(at), "{format}: {read:?}");
        }
        let mut empty = Vec::new();
        Writer::new(format, &mut empty).unwrap().end().unwrap();
    }
}
