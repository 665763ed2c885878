//! When reports leave: each day's after it, spread over hours, and again what was not taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use sendlake_control::clock::Timestamp;
use sendlake_ingest::domain_report::TlsPolicy;
use sendlake_sender::compose::fingerprint::sha256;
use tokio_util::sync::CancellationToken;

use super::{DAY_S, TlsReports, day_name, sums};

/// A day's events are in the lake, from every node, so long after its end.
const SETTLE_S: i64 = 900;
/// Reports leave spread over so long after that, each domain's at a time of its own (RFC 8460, section 4.1).
const SPREAD_S: u64 = 4 * 3_600;
const LOOK_EVERY: Duration = Duration::from_secs(300);
const FIRST_LOOK: Duration = Duration::from_secs(60);
/// Sums are read anew after this, while reports of the day are still to be sent: a node may have been late.
const SUMS_AGE_MS_MAX: i64 = 3_600_000;

/// What is known of the day that is reported on.
#[derive(Default)]
pub(super) struct Known {
    day: String,
    read_at: Timestamp,
    sums: BTreeMap<String, TlsPolicy>,
    pub done: BTreeSet<String>,
}

impl TlsReports {
    /// Sends the reports of each day after it, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut known = Known::default();
        let mut wait = FIRST_LOOK;
        let mut failing = false;
        while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            wait = LOOK_EVERY;
            match stop.run_until_cancelled(self.round(&mut known)).await {
                Some(Ok(())) => failing = false,
                Some(Err(error)) if !failing => {
                    tracing::warn!(error = format!("{error:#}"), "TLS reports wait; they are tried again");
                    failing = true;
                }
                _ => {}
            }
        }
    }

    /// Sends what is due of yesterday's.
    pub(super) async fn round(&self, known: &mut Known) -> anyhow::Result<()> {
        let now = self.ids.now();
        let day = day_name(now.days() - 1);
        let since_midnight_s = now.as_secs().rem_euclid(DAY_S);
        if since_midnight_s < SETTLE_S {
            return Ok(());
        }
        if known.day != day {
            self.ledger.tidy(now.days()).await?;
            *known = Known { day: day.clone(), ..Known::default() };
        }
        let is_over = known.sums.keys().all(|domain| known.done.contains(domain));
        let is_read = known.read_at != Timestamp::default();
        if !is_read || (!is_over && now.millis_since(known.read_at) > SUMS_AGE_MS_MAX) {
            known.sums = sums::of_day(&self.engine, &day, None, now).await?;
            known.read_at = now;
        }
        let due: Vec<TlsPolicy> = known
            .sums
            .values()
            .filter(|policy| !known.done.contains(&policy.domain))
            .filter(|policy| since_midnight_s >= SETTLE_S + self.delay_s(&policy.domain))
            .cloned()
            .collect();
        let mut first = Ok(());
        for (policy, wished) in self.wishes(due).await {
            match self.handle(&day, &policy, wished, true).await {
                Ok(told) if told.stage.is_final() => {
                    known.done.insert(told.domain);
                }
                Ok(_) => {}
                // one domain's trouble must not hold up the others
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    /// When after the day a domain's report leaves, in seconds: the same for a domain every day, and another for each domain
    /// and each reporter.
    fn delay_s(&self, domain: &str) -> i64 {
        let [a, b, c, d, ..] = sha256(&[self.reporter.from.domain().as_bytes(), domain.as_bytes()]);
        (u64::from(u32::from_be_bytes([a, b, c, d])) % SPREAD_S).cast_signed()
    }
}
