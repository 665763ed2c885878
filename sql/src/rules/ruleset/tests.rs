use super::*;

/// `RCPT 550 5.1.1 words` as a refusal; the command may be left out.
fn classify(example: &str) -> Classified {
    let (command, text) = match example.split_once(' ') {
        Some((word, rest)) if COMMANDS.contains(&word) => (Some(word), rest),
        _ => (None, example),
    };
    Ruleset::current().classify(&Said { smtp_command: command, text, ..Said::default() })
}

#[test]
fn the_built_in_rulesets_are_good() {
    for file in FILES {
        if let Err(error) = Ruleset::parse(file) {
            panic!("{error}");
        }
    }
    assert!(Ruleset::current().rules().len() >= 120);
    assert_eq!(Ruleset::versions().last(), Some(Ruleset::current().version()));
    assert!(Ruleset::by_version(Ruleset::current().version()).is_some());
}

#[test]
fn every_rule_decides_its_example() {
    let mut wrong = Vec::new();
    for rule in Ruleset::current().rules() {
        let example = rule.example.as_deref().unwrap_or_else(|| panic!("{} lacks an example", rule.id));
        let found = classify(example);
        if found.rule != rule.id {
            wrong.push(format!("{}: {example:?} is decided by {}", rule.id, found.rule));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_an_unknown_or_refusing_mailbox_suppresses() {
    for rule in Ruleset::current().rules() {
        let speaks_of_the_recipient = rule.category == Category::BadMailbox && rule.class == Class::Hard;
        assert_eq!(rule.action == Action::Suppress, speaks_of_the_recipient, "{}", rule.id);
        assert_eq!(
            rule.category == Category::BadMailbox,
            rule.class != Class::Block && !passing(rule),
            "{}",
            rule.id
        );
    }
    fn passing(rule: &Rule) -> bool {
        matches!(rule.category, Category::Throttling | Category::TransientNetwork)
    }
}

#[test]
fn a_4yz_never_suppresses_nor_ends() {
    let found = classify("RCPT 450 4.1.1 User unknown");
    assert_eq!((found.class, found.action), (Class::Hard, Action::Retry));
    assert_eq!(classify("450 4.7.1 Relay access denied").action, Action::Retry);
}

#[test]
fn what_no_rule_knows_suppresses_nobody() {
    let found = classify("550 xyzzy");
    assert_eq!(
        (found.rule.as_str(), found.class, found.action),
        (UNCLASSIFIED, Class::Block, Action::GiveUp)
    );
    let found = Ruleset::current().classify(&Said::default());
    assert_eq!(
        (found.category, found.class, found.action),
        (Category::Unclassified, Class::Soft, Action::Retry)
    );
}

#[test]
fn a_faulty_file_names_rule_line_and_remedy() {
    let rule = |line: &str| {
        format!(
            "version = \"x\"\n\n[[rule]]\nid = \"a\"\n{line}\nreason = \"b\"\nclass = \"hard\"\naction = \"suppress\"\n"
        )
    };
    let error = |file: &str| Ruleset::parse(file).unwrap_err().to_string();
    let good = rule("category = \"bad_mailbox\"");
    assert!(Ruleset::parse(&good).is_ok());
    assert_eq!(
        error(&rule("category = \"bad_mailbox\"\npattern = 'a(b'")),
        "rule a, line 4: the pattern cannot be used: error: unclosed group"
    );
    assert!(
        error(&rule("category = \"bad\"")).starts_with(
            "rule a, line 4: category \"bad\" is unknown; it is one of bad_mailbox, policy_block"
        )
    );
    assert!(error(&rule("category = \"bad_mailbox\"\nreply_code = '5'")).contains("write it as 550"));
    assert!(error(&rule("category = \"bad_mailbox\"\nsmtp_command = 'BDAT'")).contains("one of CONNECT"));
    let twice = format!("{good}{}", good.replacen("version = \"x\"", "", 1));
    assert_eq!(error(&twice), "rule a, line 12: the id is taken by an earlier rule; give this one another");
    assert!(error("version = 1").starts_with("the rule file is not TOML of the expected form"));
    assert!(error("version = \"x\"\nrules = 1").contains("rules"));
}

/// Not a benchmark: it fails only where classifying has become slower by orders of magnitude.
#[test]
fn classifying_takes_microseconds() {
    let rules = Ruleset::current();
    let examples: Vec<&str> = rules.rules().iter().filter_map(|rule| rule.example.as_deref()).collect();
    let run = || {
        for text in &examples {
            std::hint::black_box(rules.classify(&Said { text, ..Said::default() }));
        }
    };
    run();
    #[expect(clippy::disallowed_methods, reason = "a measurement")]
    let started = std::time::Instant::now();
    for _ in 0..20 {
        run();
    }
    let each = started.elapsed() / (20 * u32::try_from(examples.len()).unwrap());
    println!("one refusal takes {each:?}");
    assert!(each < std::time::Duration::from_millis(2), "{each:?}");
}
