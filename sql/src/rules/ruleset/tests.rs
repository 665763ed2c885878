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
    let started = std::time::Instant::now();
    for _ in 0..20 {
        run();
    }
    let each = started.elapsed() / (20 * u32::try_from(examples.len()).unwrap());
    println!("one refusal takes {each:?}");
    assert!(each < std::time::Duration::from_millis(2), "{each:?}");
}

/// What mail servers generally say, in other words than the rules' own examples.
#[test]
fn replies_of_many_servers_fall_into_place() {
    let cases = [
        ("bad_mailbox hard", "RCPT 550-5.1.1 The email account that you tried to reach does not exist."),
        ("bad_mailbox soft", "RCPT 550-5.2.1 The email account that you tried to reach is inactive."),
        ("bad_mailbox soft", "RCPT 452-4.2.2 The recipient's inbox is out of storage space."),
        ("bad_mailbox soft", "RCPT 452 4.2.2 The email account that you tried to reach is over quota"),
        ("bad_mailbox soft", "RCPT 550 5.2.2 user has exceeded their mailbox quota"),
        ("bad_mailbox soft", "RCPT 554 30 Sorry, cannot be delivered. This mailbox is disabled (554.30)."),
        ("bad_mailbox hard", "RCPT 511 sorry, no mailbox here by that name (#5.1.1 - chkuser)"),
        ("bad_mailbox hard", "RCPT 550 #5.1.0 Address rejected."),
        ("bad_mailbox hard", "RCPT 550 5.1.1 RESOLVER.ADR.RecipNotFound; not found"),
        ("bad_mailbox hard", "RCPT 554 delivery error: dd Not a valid recipient - mta1.mail.example"),
        ("bad_mailbox hard", "RCPT 501 5.1.3 Bad recipient address syntax"),
        ("bad_mailbox hard", "RCPT 550 Unrouteable address"),
        ("bad_mailbox hard", "RCPT 550 Requested action not taken: mailbox unavailable"),
        ("bad_mailbox hard", "RCPT 553 5.3.0 <a@b.example>... No such user here"),
        ("bad_mailbox hard", "RCPT 450 4.1.1 <a@b.example>: Recipient address rejected: User unknown"),
        ("bad_mailbox hard", "RCPT 550 5.1.1 <a@b.example> is not a valid mailbox"),
        ("bad_mailbox hard", "RCPT 550 Invalid Recipient - https://example.com/codes#550 [x]"),
        ("bad_mailbox hard", "RCPT 550 No such person at this address"),
        ("bad_mailbox hard", "all relevant MX records point to non-existent hosts"),
        (
            "bad_mailbox hard",
            "Host or domain name not found. Name service error for name=x.example type=A: Host not found",
        ),
        (
            "transient_network soft",
            "Host or domain name not found. Name service error for name=x.example type=MX: Host not found, try again",
        ),
        ("transient_network soft", "connect to mx.example[192.0.2.1]:25: Connection refused"),
        (
            "transient_network soft",
            "lost connection with mx.example while receiving the initial server greeting",
        ),
        ("transient_network soft", "mail for x.example loops back to myself"),
        ("transient_network soft", "retry timeout exceeded"),
        ("transient_network soft", "421 4.3.2 Service shutting down and closing channel"),
        ("transient_network soft", "451 4.3.0 Temporary lookup failure"),
        (
            "throttling soft",
            "RCPT 450 4.2.0 <a@b.example>: Recipient address rejected: Greylisted, come back in 5 minutes",
        ),
        ("throttling soft", "RCPT 452 4.5.3 Too many recipients"),
        ("throttling soft", "CONNECT 421 Too many connections from your IP"),
        ("throttling soft", "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77719)"),
        (
            "throttling soft",
            "DOT 421-4.7.0 Our system has detected an unusual rate of unsolicited mail from your IP",
        ),
        ("policy_block block", "DOT 550-5.7.26 This mail is unauthenticated, which poses a security risk"),
        ("policy_block block", "RCPT 554 5.7.1 <a@b.example>: Relay access denied"),
        ("policy_block block", "RCPT 550 5.7.1 Unable to relay"),
        ("policy_block block", "RCPT 553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)"),
        (
            "policy_block block",
            "MAIL 553 5.1.8 <a@b.example>... Domain of sender address a@b.example does not exist",
        ),
        ("policy_block block", "RCPT 550-Verification failed for <a@b.example> 550 Sender verify failed"),
        ("policy_block block", "DOT 550 5.7.60 Client does not have permissions to send as this sender"),
        (
            "policy_block block",
            "CONNECT 450 4.7.1 Client host rejected: cannot find your hostname, [192.0.2.1]",
        ),
        ("policy_block block", "DOT 554 5.7.1 Access denied"),
        ("policy_block block", "MAIL 530 5.7.0 Must issue a STARTTLS command first"),
        ("content_block block", "DOT 552 5.3.4 Message size exceeds fixed limit"),
        (
            "content_block block",
            "DOT 550 5.7.1 Our system has detected that this message is likely unsolicited mail.",
        ),
        (
            "content_block block",
            "DOT 554 5.7.1 The message matches a profile the Internet community may consider spam.",
        ),
        ("content_block block", "DOT 550 This message contains a virus (Eicar-Test)"),
        ("content_block block", "DOT 550 5.7.1 Message rejected due to content restrictions"),
        (
            "reputation_block block",
            "CONNECT 554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen",
        ),
        ("reputation_block block", "RCPT 554 5.7.1 Rejected 192.0.2.1 found in dnsbl.example.net"),
        (
            "reputation_block block",
            "MAIL 550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP",
        ),
        (
            "reputation_block block",
            "CONNECT 554 Your access to this mail system has been rejected due to poor reputation",
        ),
        ("reputation_block block", "MAIL 550 5.7.1 Mail from 192.0.2.1 refused, see our blocklist"),
    ];
    let mut wrong = Vec::new();
    for (expected, text) in cases {
        let found = classify(text);
        if format!("{} {}", found.category, found.class) != expected {
            wrong.push(format!(
                "{text}: {expected}, found {} {} by {}",
                found.category, found.class, found.rule
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
