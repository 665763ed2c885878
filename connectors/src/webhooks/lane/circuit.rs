//! Whether an endpoint is asked at all: after failures without a success between them, only by one request now and then.

use sendlake_control::clock::Timestamp;
use sendlake_control::endpoint::progress::EndpointPosition;

use super::super::schedule::Schedule;

pub(super) struct Circuit {
    failures: u32,
    failing_since: Option<Timestamp>,
    open: Option<Open>,
}

struct Open {
    tries: u32,
    probe_at: Timestamp,
}

impl Circuit {
    /// As it was saved. An open one begins with short pauses again.
    pub fn of(position: &EndpointPosition, schedule: &Schedule) -> Self {
        let probe_at = position.next_probe_at.map_or(Timestamp(i64::MIN), Timestamp);
        Self {
            failures: if position.circuit_open { schedule.failures_to_open } else { 0 },
            failing_since: position.failing_since.map(Timestamp),
            open: position.circuit_open.then_some(Open { tries: 0, probe_at }),
        }
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub fn probe_at(&self) -> Option<Timestamp> {
        self.open.as_ref().map(|open| open.probe_at)
    }

    pub fn failing_since(&self) -> Option<Timestamp> {
        self.failing_since
    }

    /// True when it was open and is not any more.
    pub fn succeeded(&mut self) -> bool {
        self.failures = 0;
        self.failing_since = None;
        self.open.take().is_some()
    }

    /// True when it was not open and is now.
    pub fn failed(&mut self, now: Timestamp, dice: u64, schedule: &Schedule) -> bool {
        self.failures = self.failures.saturating_add(1);
        self.failing_since.get_or_insert(now);
        match &mut self.open {
            // requests that were under way when it opened are no probes of it
            Some(open) if now < open.probe_at => false,
            Some(open) => {
                open.tries = open.tries.saturating_add(1);
                open.probe_at = now.plus_millis(schedule.probe_ms(open.tries, dice));
                false
            }
            None if self.failures >= schedule.failures_to_open => {
                self.open = Some(Open { tries: 0, probe_at: now.plus_millis(schedule.probe_ms(0, dice)) });
                true
            }
            None => false,
        }
    }

    /// The next probe was nobody's failure, but cannot be made yet.
    pub fn put_off(&mut self, until: Timestamp) {
        if let Some(open) = &mut self.open {
            open.probe_at = until;
        }
    }

    /// What failed was given up, and nothing else fails.
    pub fn forget(&mut self) {
        self.failures = 0;
        self.failing_since = None;
    }

    pub fn tell(&self, position: &mut EndpointPosition) {
        position.circuit_open = self.is_open();
        position.next_probe_at = self.probe_at().map(|at| at.0);
        position.failing_since = self.failing_since.map(|at| at.0);
    }
}
