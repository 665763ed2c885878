//! First attempts, counted by whom and to whom and hour: what limits are measured against.
//!
//! The truth is in the spool, changed together with the queue; this is its copy in memory, and the sums that
//! the rows in force ask for.

use std::collections::{BTreeMap, HashMap};

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use serde::{Deserialize, Serialize};

use super::snapshot::{QuotaSnapshot, Rule};
use crate::stream::Stream;

pub const HOUR_S: i64 = 3_600;
/// How long usage is kept, in hours: today's, and yesterday's.
pub const KEPT_HOURS: i64 = 48;

/// Messages that limits do not tell apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scope {
    pub tenant_id: TenantId,
    pub stream: Stream,
    /// The registered domain that the header's domain belongs to, else the header's domain.
    pub sending_domain: String,
    pub provider: String,
}

/// Where a message was counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub scope: Scope,
    /// Hours since the Unix epoch.
    pub hour: i64,
}

pub fn hour_of(at: Timestamp) -> i64 {
    at.as_secs().div_euclid(HOUR_S)
}

/// What each row of one version has let out in its window.
#[derive(Clone, Debug, Default)]
pub struct Counters(Vec<Counter>);

#[derive(Clone, Copy, Debug, Default)]
struct Counter {
    /// First hour of the window.
    start: i64,
    used: u64,
}

impl Counters {
    pub(super) fn used(&self, rule: &Rule, now: Timestamp) -> u64 {
        let counter = self.0.get(rule.index).copied().unwrap_or_default();
        if counter.start == rule.window_start(now) { counter.used } else { 0 }
    }

    fn add(&mut self, rule: &Rule, now: Timestamp, more: u64) {
        let start = rule.window_start(now);
        if let Some(counter) = self.0.get_mut(rule.index) {
            if counter.start != start {
                *counter = Counter { start, used: 0 };
            }
            counter.used += more;
        }
    }

    fn take_back(&mut self, rule: &Rule, hour: i64) {
        if let Some(counter) = self.0.get_mut(rule.index)
            && hour >= counter.start
        {
            counter.used = counter.used.saturating_sub(1);
        }
    }
}

/// All usage that limits may ask for.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    hours: HashMap<Scope, BTreeMap<i64, u64>>,
    /// The hour in which it was last looked for what is too old.
    swept_in: i64,
    counters: Counters,
}

impl Ledger {
    /// From what the spool holds.
    pub fn new(stored: impl IntoIterator<Item = (Counted, u64)>) -> Self {
        let mut hours: HashMap<Scope, BTreeMap<i64, u64>> = HashMap::new();
        for (counted, attempts) in stored {
            *hours.entry(counted.scope).or_default().entry(counted.hour).or_default() += attempts;
        }
        Self { hours, ..Self::default() }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sums up for the rows of a new version.
    pub fn adopt(&mut self, limits: &QuotaSnapshot, now: Timestamp) {
        self.sweep(hour_of(now));
        let mut counters = Counters(vec![Counter::default(); limits.rules()]);
        for (scope, hours) in &self.hours {
            limits.each_match(scope, |rule| {
                if rule.limit.is_some() {
                    let attempts = hours.range(rule.window_start(now)..).map(|(_, attempts)| attempts).sum();
                    counters.add(rule, now, attempts);
                }
            });
        }
        self.counters = counters;
    }

    /// Counts one first attempt.
    pub fn count(&mut self, scope: &Scope, limits: &QuotaSnapshot, now: Timestamp) -> Counted {
        let hour = hour_of(now);
        self.sweep(hour);
        if let Some(hours) = self.hours.get_mut(scope) {
            *hours.entry(hour).or_default() += 1;
        } else {
            self.hours.insert(scope.clone(), BTreeMap::from([(hour, 1)]));
        }
        limits.each_match(scope, |rule| {
            if rule.limit.is_some() {
                self.counters.add(rule, now, 1);
            }
        });
        Counted { scope: scope.clone(), hour }
    }

    /// Once in an hour: forgets what no window reaches any more.
    fn sweep(&mut self, hour: i64) {
        if hour <= self.swept_in {
            return;
        }
        self.swept_in = hour;
        let kept_from = hour - KEPT_HOURS;
        self.hours.retain(|_, hours| {
            hours.retain(|hour, _| *hour >= kept_from);
            !hours.is_empty()
        });
    }

    /// A message that was counted was not attempted after all.
    pub fn give_back(&mut self, counted: &Counted, limits: &QuotaSnapshot) {
        let Some(attempts) =
            self.hours.get_mut(&counted.scope).and_then(|hours| hours.get_mut(&counted.hour))
        else {
            return;
        };
        *attempts = attempts.saturating_sub(1);
        limits.each_match(&counted.scope, |rule| {
            if rule.limit.is_some() {
                self.counters.take_back(rule, counted.hour);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_window_reaches_is_forgotten_even_if_limits_never_change() {
        let (mut ledger, limits) = (Ledger::default(), QuotaSnapshot::off());
        for hour in 0..500 {
            for number in 0..3 {
                let scope = Scope {
                    tenant_id: TenantId::new("acme").unwrap(),
                    stream: Stream::Marketing,
                    sending_domain: "acme.example".into(),
                    provider: format!("mx.d{hour}-{number}.test"),
                };
                ledger.count(&scope, &limits, Timestamp::from_secs(hour * HOUR_S));
            }
            let kept = usize::try_from(KEPT_HOURS + 1).unwrap() * 3;
            assert!(ledger.hours.len() <= kept, "{} scopes after {hour} hours", ledger.hours.len());
        }
    }
}
