//! Bounces as mail servers, providers and gateways write them, in `tests-data/bounces/`: recipient, codes, category and
//! class of each must be read as it stands above the mail.

use sendlake_sql::rules::Ruleset;

use super::{DsnAction, RecipientStatus, Report};

const FILES: [(&str, &str); 3] = [
    ("servers", include_str!("../../tests-data/bounces/servers.txt")),
    ("providers", include_str!("../../tests-data/bounces/providers.txt")),
    ("languages", include_str!("../../tests-data/bounces/languages.txt")),
];

/// One mail of a file: its name, what must be read from it, and the mail.
struct Case<'a> {
    name: &'a str,
    expected: Vec<&'a str>,
    mail: String,
}

fn cases(file: &str) -> Vec<Case<'_>> {
    let mut cases: Vec<Case<'_>> = Vec::new();
    for line in file.lines() {
        if let Some(name) = line.strip_prefix("#### ") {
            cases.push(Case { name, expected: Vec::new(), mail: String::new() });
            continue;
        }
        let Some(case) = cases.last_mut() else { continue };
        match line.strip_prefix("#> ") {
            Some(expected) if case.mail.is_empty() => case.expected.push(expected),
            _ => {
                case.mail.push_str(line);
                case.mail.push_str("\r\n");
            }
        }
    }
    cases
}

/// In the form of the files; `like` says which fields are not judged.
fn told(entry: &RecipientStatus, like: Option<&&str>) -> String {
    if !matches!(entry.action, DsnAction::Failed | DsnAction::Delayed) {
        return "delivered".into();
    }
    let found = entry.classify(Ruleset::current());
    let fields = [
        entry.recipient.clone().unwrap_or_else(|| "-".into()),
        entry.status.clone().unwrap_or_else(|| "-".into()),
        entry.reply_code.map_or("-".into(), |code| code.to_string()),
        format!("{} {}", found.category, found.class),
    ];
    let open: Vec<bool> =
        like.map(|like| like.split(" | ").map(|field| field == "?").collect()).unwrap_or_default();
    let fields = fields.into_iter().enumerate().map(|(at, field)| match open.get(at) {
        Some(true) => "?".to_owned(),
        _ => field,
    });
    fields.collect::<Vec<_>>().join(" | ")
}

fn read(case: &Case<'_>, mail: &str) -> (Vec<String>, String) {
    match Report::parse(mail.as_bytes()) {
        Ok(Report::Dsn(entries)) => {
            let found =
                entries.iter().enumerate().map(|(at, entry)| told(entry, case.expected.get(at))).collect();
            let seen = entries.iter().map(|entry| {
                let rule = entry.classify(Ruleset::current()).rule;
                format!("{rule} <- {:?} {:?}", entry.smtp_command, entry.text)
            });
            (found, seen.collect::<Vec<_>>().join("\n      "))
        }
        Ok(Report::Feedback(_)) => (vec!["complaint".into()], String::new()),
        Ok(Report::AutoReply) => (vec!["auto_reply".into()], String::new()),
        Ok(Report::Other) => (vec!["other".into()], String::new()),
        Err(error) => (vec![error.to_string()], String::new()),
    }
}

#[test]
fn each_dialect_is_read_as_it_is_meant() {
    let (mut judged, mut wrong) = (0, Vec::new());
    for (file, text) in FILES {
        for case in cases(text) {
            assert!(!case.expected.is_empty(), "{file}: {} expects nothing", case.name);
            judged += 1;
            let (found, seen) = read(&case, &case.mail);
            if found != case.expected {
                wrong.push(format!(
                    "{file}: {}\n    expected {:?}\n    found    {found:?}\n      {seen}",
                    case.name, case.expected
                ));
            }
        }
    }
    assert!(judged >= 100, "{judged} mails");
    assert!(wrong.is_empty(), "{} of {judged}:\n{}", wrong.len(), wrong.join("\n"));
}

/// Bare line ends, and mail that was indented or cut by another hand, say the same.
#[test]
fn line_ends_change_no_verdict() {
    for (file, text) in FILES {
        for case in cases(text) {
            let (crlf, _) = read(&case, &case.mail);
            let (lf, seen) = read(&case, &case.mail.replace("\r\n", "\n"));
            assert_eq!(crlf, lf, "{file}: {}: {seen}", case.name);
        }
    }
}
