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
