//! Real bounces against known answers: how many are read and classified as they should be. `make corpora` prints it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sendlake_sql::rules::{Class, Ruleset};

use super::{DsnAction, Report};

/// Below this share of right answers the test fails.
const FLOOR_PERCENT: f64 = 95.0;

/// One row as `sendlake classify` prints it: category and class.
fn answers(mail: &[u8]) -> Vec<(String, String, String)> {
    let row = |category: &str| (category.to_owned(), String::new(), String::new());
    match Report::parse(mail) {
        Err(error) => vec![(error.to_string(), String::new(), String::new())],
        Ok(Report::Other) => vec![row("other")],
        Ok(Report::AutoReply) => vec![row("auto_reply")],
        Ok(Report::Feedback(feedback)) => vec![row("complaint"); feedback.original_recipients.len().max(1)],
        Ok(Report::Dsn(entries)) => entries
            .iter()
            .map(|entry| match entry.action {
                DsnAction::Failed | DsnAction::Delayed => {
                    let found = entry.classify(Ruleset::current());
                    let seen = format!(
                        "{} <- {:?} {:?} {:?} {}",
                        found.rule, entry.smtp_command, entry.reply_code, entry.status, entry.text
                    );
                    (found.category.to_string(), found.class.to_string(), seen)
                }
                _ => row("delivered"),
            })
            .collect(),
    }
}

fn corpora() -> PathBuf {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpora");
    std::env::var_os("SENDLAKE_CORPORA").map_or(default, PathBuf::from)
}

#[test]
fn corpus_of_bounces() {
    let folder = corpora().join("bounces");
    let Ok(truth) = std::fs::read_to_string(folder.join("truth.csv")) else {
        println!("no corpus of bounces in {}; set SENDLAKE_CORPORA to have it judged", folder.display());
        return;
    };
    let only: Option<Vec<String>> = std::env::var("SENDLAKE_CORPUS_ONLY")
        .ok()
        .and_then(|list| std::fs::read_to_string(list).ok())
        .map(|list| list.lines().map(str::to_owned).collect());
    let mut seen: BTreeMap<String, Vec<(String, String, String)>> = BTreeMap::new();
    let (mut rows, mut right_category, mut right_hard) = (0_u32, 0_u32, 0_u32);
    for line in truth.lines().skip(1) {
        let columns: Vec<&str> = line.split(',').collect();
        let [file, index, .., reason, category, class] = columns[..] else { panic!("{line}") };
        if only.as_ref().is_some_and(|only| !only.iter().any(|one| one == file)) {
            continue;
        }
        let found = seen
            .entry(file.to_owned())
            .or_insert_with(|| answers(&std::fs::read(folder.join(file)).unwrap()));
        let missing = ("(no such recipient)".to_owned(), String::new(), String::new());
        let found = found.get(index.parse::<usize>().unwrap() - 1).unwrap_or(&missing);
        let category_is_right = found.0 == category;
        let hard = Class::Hard.as_str();
        let hard_is_right = class == "any" || (class == hard) == (found.1 == hard);
        rows += 1;
        right_category += u32::from(category_is_right);
        right_hard += u32::from(hard_is_right);
        if !(category_is_right && hard_is_right) {
            let text: String = found.2.chars().take(300).collect();
            println!("{file} {index}: {reason} = {category} {class}, found {} {}: {text}", found.0, found.1);
        }
    }
    let percent = |right: u32| 100.0 * f64::from(right) / f64::from(rows.max(1));
    println!(
        "{rows} recipients: category right {:.1} %, hard or not right {:.1} %",
        percent(right_category),
        percent(right_hard)
    );
    assert!(percent(right_category) >= FLOOR_PERCENT && percent(right_hard) >= FLOOR_PERCENT);
}
