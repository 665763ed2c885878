//! Verdicts over tables of rows.

use std::time::Instant;

use sendlake_control::id::TenantId;
use sendlake_ingest::quotas::{PublishedQuotas, QuotaRow};

use super::usage::Ledger;
use super::*;
use crate::suppression::Reach;

/// 2026-11-22T10:30:00Z.
const NOW: Timestamp = Timestamp(1_795_343_400_000_000);

fn row(stream: &str, identity: &str, provider: &str, limit: Option<i64>, state: &str) -> QuotaRow {
    QuotaRow {
        tenant_id: "acme".into(),
        stream: stream.into(),
        identity_kind: "sending_domain".into(),
        identity: identity.into(),
        provider: provider.into(),
        window_s: 86_400,
        limit_messages: limit,
        state: state.into(),
        reason: "stage 2 of 7, 230 of 400 good deliveries".into(),
        inputs: "{}".into(),
        view_version: "1".into(),
        as_of: NOW,
        valid_until: NOW.plus_secs(600),
    }
}

fn compile(rows: Vec<QuotaRow>) -> QuotaSnapshot {
    QuotaSnapshot::compile(Some(&PublishedQuotas { version: 7, rows }))
}

fn scope(stream: Stream, domain: &str, provider: &str) -> Scope {
    Scope {
        tenant_id: TenantId::new("acme").unwrap(),
        stream,
        sending_domain: domain.into(),
        provider: provider.into(),
    }
}

/// Counts until the limits say stop.
fn lets_out(
    limits: &QuotaSnapshot,
    ledger: &mut Ledger,
    scope: &Scope,
    now: Timestamp,
) -> (u64, Option<Hold>) {
    for sent in 0..10_000 {
        match decide(scope, true, None, limits, ledger.counters(), now) {
            Verdict::Send => drop(ledger.count(scope, limits, now)),
            Verdict::Held(hold) => return (sent, Some(hold)),
            Verdict::Suppressed(_) => unreachable!(),
        }
    }
    (10_000, None)
}

fn adopted(limits: &QuotaSnapshot) -> Ledger {
    let mut ledger = Ledger::default();
    ledger.adopt(limits, NOW);
    ledger
}

#[test]
fn a_warming_domain_stops_at_its_ceiling_and_says_so_with_numbers() {
    let limits = compile(vec![row("marketing", "acme.example", "google", Some(500), "warming")]);
    let mut ledger = adopted(&limits);
    let scope = scope(Stream::Marketing, "acme.example", "google");
    let (sent, hold) = lets_out(&limits, &mut ledger, &scope, NOW);
    let hold = hold.unwrap();
    assert_eq!((sent, hold.kind), (500, HoldKind::Warmup));
    assert_eq!(
        hold.reason(&scope),
        "warming: acme.example has used 500 of 500 messages to google today (UTC); the next window opens \
         2026-11-23 00:00 UTC — stage 2 of 7, 230 of 400 good deliveries"
    );
    assert_eq!(hold.numbers()["used"], 500);
    let tomorrow = hold.until.unwrap();
    assert_eq!(tomorrow.to_string(), "2026-11-23T00:00:00.000000Z");
    // the same rows, still good tomorrow: the window turned
    let mut longer = row("marketing", "acme.example", "google", Some(500), "warming");
    longer.valid_until = tomorrow.plus_secs(600);
    let limits = compile(vec![longer]);
    assert_eq!(lets_out(&limits, &mut ledger, &scope, tomorrow).0, 500);
}

#[test]
fn retries_pass_a_used_up_limit_but_not_a_pause() {
    let limits = compile(vec![row("marketing", "acme.example", "*", Some(0), "throttled")]);
    let scope = scope(Stream::Marketing, "acme.example", "google");
    let ledger = adopted(&limits);
    let fate = |limits: &QuotaSnapshot, first| decide(&scope, first, None, limits, ledger.counters(), NOW);
    assert!(matches!(fate(&limits, true), Verdict::Held(Hold { kind: HoldKind::ComplaintPacing, .. })));
    assert_eq!(fate(&limits, false), Verdict::Send);
    let paused = compile(vec![row("marketing", "acme.example", "*", None, "paused")]);
    for first in [true, false] {
        assert!(matches!(
            fate(&paused, first),
            Verdict::Held(Hold { kind: HoldKind::Paused, until: None, .. })
        ));
    }
}

#[test]
fn every_row_counts_and_the_strictest_decides() {
    let limits = compile(vec![
        row("*", "acme.example", "*", Some(300), "normal"),
        row("marketing", "acme.example", "google", Some(100), "normal"),
        QuotaRow { tenant_id: "*".into(), ..row("*", "*", "yahoo", Some(50), "normal") },
    ]);
    let mut ledger = adopted(&limits);
    let sent = |ledger: &mut Ledger, stream, provider| {
        lets_out(&limits, ledger, &scope(stream, "acme.example", provider), NOW).0
    };
    assert_eq!(sent(&mut ledger, Stream::Marketing, "google"), 100);
    assert_eq!(sent(&mut ledger, Stream::Marketing, "yahoo"), 50);
    assert_eq!(sent(&mut ledger, Stream::Transactional, "google"), 150, "what is left of the 300");
}

#[test]
fn the_others_are_one_pool_without_those_that_have_a_row() {
    let limits = compile(vec![
        row("marketing", "acme.example", "google", Some(10), "warming"),
        row("marketing", "acme.example", "(others)", Some(5), "warming"),
    ]);
    let mut ledger = adopted(&limits);
    let sent = |ledger: &mut Ledger, provider: &str| {
        lets_out(&limits, ledger, &scope(Stream::Marketing, "acme.example", provider), NOW).0
    };
    assert_eq!(sent(&mut ledger, "google"), 10);
    let small = scope(Stream::Marketing, "acme.example", "small.example");
    for _ in 0..3 {
        ledger.count(&small, &limits, NOW);
    }
    assert_eq!(sent(&mut ledger, "tiny.example"), 2);
    assert_eq!(sent(&mut ledger, "small.example"), 0);
}

#[test]
fn missing_stale_and_unjudged_hold_bulk_mail_and_let_transactional_pass() {
    let known = || vec![row("*", "acme.example", "*", Some(2), "normal")];
    let late = NOW.plus_secs(601);
    for (limits, domain, now, kind) in [
        (QuotaSnapshot::missing(), "acme.example", NOW, HoldKind::MissingLimits),
        (compile(Vec::new()), "acme.example", NOW, HoldKind::MissingLimits),
        (compile(known()), "acme.example", late, HoldKind::StaleLimits),
        (compile(known()), "new.example", NOW, HoldKind::NotJudged),
        (compile(known()), "new.example", late, HoldKind::StaleLimits),
    ] {
        let ledger = adopted(&limits);
        for stream in [Stream::Marketing, Stream::Cold] {
            let scope = scope(stream, domain, "google");
            let Verdict::Held(hold) = decide(&scope, true, None, &limits, ledger.counters(), now) else {
                panic!("{kind} lets {stream} mail out");
            };
            assert_eq!((hold.kind, hold.until), (kind, None));
            assert!(hold.reason(&scope).contains(domain), "{}", hold.reason(&scope));
            assert_eq!(
                decide(&scope, false, None, &limits, ledger.counters(), now),
                Verdict::Send,
                "a retry"
            );
        }
        let scope = scope(Stream::Transactional, domain, "google");
        assert_eq!(decide(&scope, true, None, &limits, ledger.counters(), now), Verdict::Send, "{kind}");
    }
    let limits = compile(known());
    let scope = scope(Stream::Transactional, "acme.example", "google");
    assert_eq!(lets_out(&limits, &mut adopted(&limits), &scope, late).0, 2, "at the last known limit");
}

#[test]
fn rows_that_cannot_be_obeyed_are_named_and_hold_bulk_mail() {
    let good = row("marketing", "acme.example", "*", Some(5), "normal");
    for bad in [
        QuotaRow { window_s: 600, ..good.clone() },
        QuotaRow { window_s: 0, ..good.clone() },
        QuotaRow { state: "sleepy".into(), ..good.clone() },
        QuotaRow { stream: "carrier pigeon".into(), ..good.clone() },
    ] {
        let limits = compile(vec![good.clone(), bad]);
        assert_eq!(limits.refused.len(), 1, "{:?}", limits.refused);
        let scope = scope(Stream::Marketing, "acme.example", "google");
        let verdict = decide(&scope, true, None, &limits, adopted(&limits).counters(), NOW);
        assert!(matches!(verdict, Verdict::Held(Hold { kind: HoldKind::BadLimits, .. })), "{verdict:?}");
    }
}

#[test]
fn what_was_not_attempted_is_given_back() {
    let limits = compile(vec![row("marketing", "acme.example", "*", Some(2), "normal")]);
    let mut ledger = adopted(&limits);
    let scope = scope(Stream::Marketing, "acme.example", "google");
    let counted = ledger.count(&scope, &limits, NOW);
    ledger.count(&scope, &limits, NOW);
    assert_eq!(lets_out(&limits, &mut ledger, &scope, NOW).0, 0);
    ledger.give_back(&counted, &limits);
    assert_eq!(lets_out(&limits, &mut ledger, &scope, NOW).0, 1);
}

#[test]
fn usage_of_an_earlier_version_counts_under_the_next_one() {
    let scope = scope(Stream::Marketing, "acme.example", "google");
    let hour = usage::hour_of(NOW);
    let stored = [hour, hour - 3, hour - 11].map(|hour| (usage::Counted { scope: scope.clone(), hour }, 10));
    let mut ledger = Ledger::new(stored);
    let of_window = |window_s| {
        compile(vec![QuotaRow { window_s, ..row("marketing", "acme.example", "*", Some(100), "normal") }])
    };
    for (window_s, left) in [(86_400, 80), (3_600, 90), (4 * 3_600, 90), (12 * 3_600, 80)] {
        let limits = of_window(window_s);
        ledger.adopt(&limits, NOW);
        assert_eq!(room(&scope, true, &limits, ledger.counters(), NOW), Room::Open(left), "{window_s}");
    }
}

#[test]
fn suppressed_goes_before_everything_and_off_lets_everything_else_pass() {
    let suppressed =
        Suppressed { reach: Reach::Bulk, reason: "unsubscribe".into(), since: NOW.plus_secs(-60) };
    let scope = scope(Stream::Marketing, "acme.example", "google");
    let off = QuotaSnapshot::off();
    let ledger = adopted(&off);
    let fate = |suppressed| decide(&scope, true, suppressed, &off, ledger.counters(), NOW);
    assert_eq!(fate(Some(suppressed.clone())), Verdict::Suppressed(suppressed));
    assert_eq!(fate(None), Verdict::Send);
}

#[test]
fn a_verdict_takes_less_than_a_microsecond() {
    let mut rows = Vec::new();
    for domain in 0..2_000 {
        for provider in ["google", "microsoft", "yahoo", "apple", "(others)", "*"] {
            rows.push(row("marketing", &format!("d{domain}.example"), provider, Some(1_000_000), "warming"));
        }
    }
    let limits = compile(rows);
    let ledger = adopted(&limits);
    let scopes: Vec<_> =
        (0..2_000).map(|n| scope(Stream::Marketing, &format!("d{n}.example"), "small.example")).collect();
    let started = Instant::now();
    let verdicts = 200_000;
    for n in 0..verdicts {
        let scope = &scopes[n % scopes.len()];
        assert_eq!(decide(scope, true, None, &limits, ledger.counters(), NOW), Verdict::Send);
    }
    let each_ns = started.elapsed().as_nanos() / verdicts as u128;
    eprintln!("a verdict among 12,000 rows takes {each_ns} ns");
    // a busy machine and an unoptimised build: the point is that it is no millisecond
    assert!(each_ns < 20_000, "{each_ns} ns");
}
