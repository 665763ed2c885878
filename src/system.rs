//! The real clock and real randomness: the one place where they are taken from the system.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use sendlake_control::clock::{Clock, Entropy, MonotonicClock, Timestamp};
use sendlake_control::id::Ids;

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is where time comes from")]
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }
}

#[derive(Debug)]
struct SystemEntropy(SystemRandom);

impl Entropy for SystemEntropy {
    #[expect(clippy::expect_used, reason = "without randomness no id or key may be made: better to end")]
    fn fill(&self, bytes: &mut [u8]) {
        self.0.fill(bytes).expect("the system gives no randomness");
    }
}

/// Ids from the system's clock, made monotonic, and its randomness.
pub fn ids() -> Ids {
    Ids {
        clock: Arc::new(MonotonicClock::new(SystemClock)),
        entropy: Arc::new(SystemEntropy(SystemRandom::new())),
    }
}

#[cfg(test)]
mod tests {
    use sendlake_control::clock::{ManualClock, SeededEntropy};
    use sendlake_control::id::uuid_v7_time;

    use super::*;

    #[derive(Debug)]
    struct Shared(Arc<ManualClock>);

    impl Clock for Shared {
        fn now(&self) -> Timestamp {
            self.0.now()
        }
    }

    #[test]
    fn ids_stay_different_and_in_order_when_the_system_clock_steps_back() {
        let system = Arc::new(ManualClock::new(Timestamp::from_secs(1_780_000_000)));
        let clock = Arc::new(MonotonicClock::new(Shared(system.clone())));
        let ids = Ids { clock, entropy: Arc::new(SeededEntropy::new(1)) };
        let mut made = Vec::new();
        for number in 0..20_000 {
            made.push(ids.uuid());
            system.advance_millis(if number % 5_000 == 4_999 { -7_200_000 } else { 1 });
        }
        let times: Vec<_> = made.iter().map(|id| uuid_v7_time(*id).unwrap()).collect();
        assert!(times.is_sorted(), "what is newer sorts behind what is older");
        made.sort_unstable();
        made.dedup();
        assert_eq!(made.len(), 20_000);
    }
}
