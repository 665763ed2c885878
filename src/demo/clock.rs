//! The demo's clock: it runs at the usual pace, but some days ago, and can be set forward. So ten days pass in a
//! minute, every event has a date of its own, and the story ends now.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use sendlake_control::clock::{Clock, MonotonicClock, Timestamp};
use sendlake_control::id::Ids;

/// Behind the system's clock by an amount that only shrinks.
#[derive(Debug)]
pub(super) struct DemoClock {
    system: Arc<dyn Clock>,
    behind_us: AtomicI64,
}

impl DemoClock {
    /// A clock that starts `behind_s` seconds ago, and ids that are made by it.
    pub fn new(system: &Ids, behind_s: i64) -> (Arc<Self>, Ids) {
        let behind_us = AtomicI64::new(behind_s.saturating_mul(Timestamp::SECOND));
        let clock = Arc::new(Self { system: system.clock.clone(), behind_us });
        let monotonic = MonotonicClock::new(Shared(clock.clone()));
        (clock, Ids { clock: Arc::new(monotonic), entropy: system.entropy.clone() })
    }

    /// Goes on from `at`, if that lies ahead; at most to the present.
    pub fn set_forward(&self, at: Timestamp) {
        let behind = self.system.now().0.saturating_sub(at.0).max(0);
        self.behind_us.fetch_min(behind, Ordering::Relaxed);
    }
}

impl Clock for DemoClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.system.now().0.saturating_sub(self.behind_us.load(Ordering::Relaxed)))
    }
}

#[derive(Debug)]
struct Shared(Arc<DemoClock>);

impl Clock for Shared {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}

#[cfg(test)]
mod tests {
    use sendlake_control::clock::{ManualClock, SeededEntropy};

    use super::*;

    #[test]
    fn the_clock_goes_forward_and_never_past_the_present() {
        let system = Ids {
            clock: Arc::new(ManualClock::new(Timestamp::from_secs(1_000))),
            entropy: Arc::new(SeededEntropy::new(1)),
        };
        let (clock, ids) = DemoClock::new(&system, 600);
        assert_eq!(ids.now(), Timestamp::from_secs(400));
        clock.set_forward(Timestamp::from_secs(700));
        assert_eq!(ids.now(), Timestamp::from_secs(700));
        clock.set_forward(Timestamp::from_secs(500));
        assert_eq!(ids.now(), Timestamp::from_secs(700));
        clock.set_forward(Timestamp::from_secs(9_000));
        assert_eq!(ids.now(), Timestamp::from_secs(1_000));
    }
}
