//! Time and randomness, injected. Only the binary makes the real ones; tests bring their own.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// An instant: microseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub const SECOND: i64 = 1_000_000;

    pub fn from_secs(secs: i64) -> Self {
        Self(secs.saturating_mul(Self::SECOND))
    }

    pub fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    pub fn as_secs(self) -> i64 {
        self.0.div_euclid(Self::SECOND)
    }

    pub fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    pub fn plus_millis(self, millis: i64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1_000)))
    }

    pub fn plus_secs(self, secs: i64) -> Self {
        self.plus_millis(secs.saturating_mul(1_000))
    }

    /// Milliseconds from `earlier` to `self`; negative when `earlier` is later.
    pub fn millis_since(self, earlier: Timestamp) -> i64 {
        (self.0.saturating_sub(earlier.0)).div_euclid(1_000)
    }

    /// Days since the epoch: the value of an Arrow `Date32`.
    pub fn days(self) -> i32 {
        i32::try_from(self.0.div_euclid(86_400 * Self::SECOND)).unwrap_or(i32::MAX)
    }

    /// Reads RFC 3339, to the microsecond.
    pub fn parse(text: &str) -> Option<Self> {
        chrono::DateTime::parse_from_rfc3339(text).ok().map(|at| Self(at.timestamp_micros()))
    }

    /// Reads a date as mail has it (RFC 5322, section 3.3).
    pub fn parse_mail(text: &str) -> Option<Self> {
        chrono::DateTime::parse_from_rfc2822(text).ok().map(|at| Self(at.timestamp_micros()))
    }

    /// The same instant for `chrono`, or the epoch when out of its range.
    pub fn to_chrono(self) -> chrono::DateTime<chrono::Utc> {
        chrono::DateTime::from_timestamp_micros(self.0).unwrap_or_default()
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 with microseconds, `2026-01-31T09:30:00.000000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_chrono().to_rfc3339_opts(chrono::SecondsFormat::Micros, true))
    }
}

/// Where the time comes from.
pub trait Clock: Send + Sync + fmt::Debug {
    fn now(&self) -> Timestamp;
}

/// Where randomness comes from.
pub trait Entropy: Send + Sync + fmt::Debug {
    fn fill(&self, bytes: &mut [u8]);

    fn u64(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }
}

/// Never goes back, and never stands still: after a step of the system clock backwards it goes at half its speed until
/// the system clock has caught up. So what is due in a minute is due in two at the latest, however far the step was.
pub struct MonotonicClock<C> {
    inner: C,
    /// Microseconds since some moment, that no step of the system clock changes.
    steady: Box<dyn Fn() -> i64 + Send + Sync>,
    last: Mutex<Reading>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    told: i64,
    steady: i64,
}

impl<C: Clock> MonotonicClock<C> {
    pub fn new(inner: C) -> Self {
        let since = Instant::now();
        Self::with_steady(inner, move || i64::try_from(since.elapsed().as_micros()).unwrap_or(i64::MAX))
    }

    fn with_steady(inner: C, steady: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        let last = Mutex::new(Reading { told: i64::MIN, steady: 0 });
        Self { inner, steady: Box::new(steady), last }
    }
}

impl<C: Clock> Clock for MonotonicClock<C> {
    fn now(&self) -> Timestamp {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (reading, steady) = (self.inner.now().0, (self.steady)());
        if reading >= last.told {
            *last = Reading { told: reading, steady };
        } else {
            // Whole microseconds only; what is left over counts at the next reading.
            let gained = steady.saturating_sub(last.steady) / 2;
            last.told = last.told.saturating_add(gained);
            last.steady = last.steady.saturating_add(gained.saturating_mul(2));
        }
        Timestamp(last.told)
    }
}

impl<C: fmt::Debug> fmt::Debug for MonotonicClock<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonotonicClock").field("inner", &self.inner).field("last", &self.last).finish()
    }
}

/// A clock that stands still until it is told to move. For tests and simulation.
#[derive(Debug)]
pub struct ManualClock(AtomicI64);

impl ManualClock {
    pub fn new(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.0))
    }

    pub fn advance_millis(&self, millis: i64) {
        self.0.fetch_add(millis * 1_000, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::Relaxed))
    }
}

/// A repeatable sequence from a seed (SplitMix64). Not for secrets: for tests and simulation.
#[derive(Debug)]
pub struct SeededEntropy(AtomicU64);

impl SeededEntropy {
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let mut z = self.0.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            for (to, from) in chunk.iter_mut().zip(z.to_le_bytes()) {
                *to = from;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn clock_never_goes_back() {
        let manual = ManualClock::new(Timestamp::from_secs(100));
        let clock = MonotonicClock::with_steady(manual, || 0);
        assert_eq!(clock.now(), Timestamp::from_secs(100));
        clock.inner.advance_millis(-5_000);
        assert_eq!(clock.now(), Timestamp::from_secs(100));
        clock.inner.advance_millis(7_000);
        assert_eq!(clock.now(), Timestamp::from_secs(102));
    }

    #[test]
    fn clock_goes_on_after_a_step_back_and_is_caught_up_with() {
        let steady = Arc::new(AtomicI64::new(0));
        let read = Arc::clone(&steady);
        let manual = ManualClock::new(Timestamp::from_secs(100_000));
        let clock = MonotonicClock::with_steady(manual, move || read.load(Ordering::Relaxed));
        let second = |seconds: i64| {
            for _ in 0..seconds * 1_000 {
                clock.inner.advance_millis(1);
                // Looked at more often than time passes, and never for two steps at once.
                steady.fetch_add(1_000, Ordering::Relaxed);
                clock.now();
            }
        };
        assert_eq!(clock.now(), Timestamp::from_secs(100_000));
        clock.inner.advance_millis(-60_000);
        second(60);
        assert_eq!(clock.now(), Timestamp::from_secs(100_030), "half of a minute has passed");
        second(59);
        assert!(clock.now() > clock.inner.now());
        second(5);
        assert_eq!(clock.now(), clock.inner.now(), "caught up after twice the step");
        assert_eq!(clock.now(), Timestamp::from_secs(100_064));
    }

    #[test]
    fn days_before_the_epoch_round_down() {
        assert_eq!(Timestamp(-1).days(), -1);
        assert_eq!(Timestamp(0).days(), 0);
    }
}
