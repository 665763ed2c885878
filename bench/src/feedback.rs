//! What comes back, read on one core: replies classified, reports parsed and classified.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use sendlake_ingest::report::Report;
use sendlake_sql::rules::{Ruleset, Said};

use crate::machine;

/// Replies that receivers publish, as the rules' tests have them.
const REPLIES: &str = include_str!("../../sql/rules/replies.txt");
/// A DSN of RFC 3464, one of qmail, a transcript of sendmail's, a feedback report.
const REPORTS: [(&str, &[u8]); 4] = [
    ("DSN, RFC 3464", include_bytes!("../../fuzz/seeds/report/dsn.txt")),
    ("DSN, qmail", include_bytes!("../../fuzz/seeds/report/qmail.txt")),
    ("DSN, transcript", include_bytes!("../../fuzz/seeds/report/transcript.txt")),
    ("feedback report, RFC 5965", include_bytes!("../../fuzz/seeds/report/arf.txt")),
];

#[derive(Args, Debug)]
pub(crate) struct FeedbackArgs {
    /// How long each is measured, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

#[expect(clippy::print_stdout, reason = "the answer")]
pub(crate) fn run(args: &FeedbackArgs) -> anyhow::Result<()> {
    ensure!(args.seconds > 0, "there is nothing to measure");
    println!("{} · one thread, {} s each", machine::line(), args.seconds);
    let rules = Ruleset::current();
    let replies: Vec<Said<'_>> = REPLIES.lines().filter_map(said).collect();
    let during = Duration::from_secs(args.seconds);
    let what = format!("replies classified ({} different, ruleset {})", replies.len(), rules.version());
    told(&what, measured(during, &replies, |said| drop(black_box(rules.classify(said)))));
    for (name, mail) in REPORTS {
        let read = |mail: &&[u8]| {
            if let Ok(Report::Dsn(entries)) = black_box(Report::parse(mail)) {
                for entry in entries {
                    drop(black_box(entry.classify(rules)));
                }
            }
        };
        told(
            &format!("{name}, {} octets: parsed and classified", mail.len()),
            measured(during, &[mail], read),
        );
    }
    Ok(())
}

fn said(line: &str) -> Option<Said<'_>> {
    let mut parts = line.splitn(4, " | ");
    let (provider, command, _, text) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    Some(Said { provider: Some(provider), smtp_command: Some(command), text, ..Said::default() })
}

/// How long each call took, ascending, after one round that warms caches up.
fn measured<T>(during: Duration, inputs: &[T], work: impl Fn(&T)) -> Vec<Duration> {
    inputs.iter().for_each(&work);
    let began = Instant::now();
    let mut took = Vec::new();
    while began.elapsed() < during {
        for input in inputs {
            let began = Instant::now();
            work(input);
            took.push(began.elapsed());
        }
    }
    took.sort_unstable();
    took
}

#[expect(clippy::print_stdout, reason = "the answer")]
fn told(what: &str, took: Vec<Duration>) {
    let all: Duration = took.iter().sum();
    let at = |share: usize| took.get(took.len().saturating_sub(1) * share / 100).copied().unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = took.len() as f64 / all.as_secs_f64().max(f64::MIN_POSITIVE);
    println!("{what}: {rate:.0}/s, p50 {:.1?}, p99 {:.1?}", at(50), at(99));
}
