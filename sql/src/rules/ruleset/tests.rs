use super::*;

fn classify(example: &str) -> Classified {
    Ruleset::current().classify(&Said::read(example))
}

#[test]
fn the_built_in_rulesets_are_good() {
    let mut known = Vec::new();
    for file in FILES {
        known.push(Ruleset::parse_over(file, &known).unwrap_or_else(|error| panic!("{error}")));
    }
    assert!(Ruleset::current().rules().len() >= 120);
    assert_eq!(Ruleset::versions().last(), Some(&Ruleset::current().version()));
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

#[test]
fn a_file_changes_its_base_rule_by_rule() {
    let base = Ruleset::parse(
        "version = \"1\"\n[[rule]]\nid = \"a\"\npattern = 'gone'\ncategory = \"bad_mailbox\"\nreason = \"b\"\nclass = \"hard\"\naction = \"suppress\"\n\
         [[rule]]\nid = \"z\"\ncategory = \"policy_block\"\nreason = \"b\"\nclass = \"block\"\naction = \"give_up\"\n",
    )
    .unwrap();
    let over = |file: &str| Ruleset::parse_over(file, std::slice::from_ref(&base));
    let rule = |id: &str, line: &str| {
        format!(
            "[[rule]]\nid = \"{id}\"\n{line}\ncategory = \"throttling\"\nreason = \"c\"\nclass = \"soft\"\naction = \"throttle\"\n"
        )
    };
    let ids = |ruleset: &Ruleset| {
        let ids: Vec<&str> = ruleset.rules().iter().map(|rule| rule.id.as_str()).collect();
        ids.join(" ")
    };
    let head = "version = \"2\"\nbase = \"1\"\n";
    let changed = over(&format!(
        "{head}{}{}",
        rule("a", "pattern = 'slow'"),
        rule("n", "before = \"z\"\nreply_code = \"421\"")
    ))
    .unwrap();
    assert_eq!(ids(&changed), "a n z");
    let rule_of = |ruleset: &Ruleset, text: &str| ruleset.classify(&Said { text, ..Said::default() }).rule;
    assert_eq!((rule_of(&base, "550 gone").as_str(), rule_of(&changed, "550 gone").as_str()), ("a", "z"));
    assert_eq!(rule_of(&changed, "421 closing"), "n");
    assert_eq!(ids(&over(&format!("{head}remove = [\"a\"]\n")).unwrap()), "z");
    assert_eq!(ids(&over(&format!("{head}{}", rule("z", "before = \"a\""))).unwrap()), "z a");
    let error = |file: &str| over(file).unwrap_err().to_string();
    assert!(error(&format!("{head}{}", rule("n", ""))).contains("before ="));
    assert!(error(&format!("{head}{}", rule("n", "before = \"q\""))).contains("which is no rule here"));
    assert!(error(&format!("{head}remove = [\"q\"]")).contains("no rule of the base"));
    assert!(error("version = \"2\"\nbase = \"0\"").contains("it has 1"));
    assert!(error("version = \"1\"").contains("taken"));
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
    let started = std::time::Instant::now();
    for _ in 0..20 {
        run();
    }
    let each = started.elapsed() / (20 * u32::try_from(examples.len()).unwrap());
    println!("one refusal takes {each:?}");
    assert!(each < std::time::Duration::from_millis(2), "{each:?}");
}

/// `rules/replies.txt`: what receivers publish that they say, and what it means.
#[test]
fn replies_that_receivers_publish_get_their_verdict() {
    let lines = include_str!("../../../rules/replies.txt").lines();
    let (mut judged, mut wrong) = (0, Vec::new());
    for line in lines.filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let [provider, command, verdict, text] = line.splitn(4, " | ").collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let said = Said {
            provider: (provider != "-").then_some(provider),
            smtp_command: (command != "-").then_some(command),
            text,
            ..Said::default()
        };
        let found = Ruleset::current().classify(&said);
        judged += 1;
        if format!("{} {}", found.category, found.class) != verdict {
            wrong.push(format!("{line}\n    found {} {} by {}", found.category, found.class, found.rule));
        }
    }
    assert!(judged >= 300, "{judged} replies");
    assert!(wrong.is_empty(), "{} of {judged}:\n{}", wrong.len(), wrong.join("\n"));
}
