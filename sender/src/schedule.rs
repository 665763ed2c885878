//! When a deferred message is tried again. Pure: the same inputs give the same instant.

use sendlake_control::clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::stream::Stream;

/// Steps between attempts, and how long a message may live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Seconds from the first attempt to the second, and so on; the last repeats.
    pub intervals_s: Vec<u32>,
    /// Each step is stretched or shrunk by up to this much, so that what was deferred together does not come
    /// back together. At most 50.
    pub jitter_percent: u8,
    /// From acceptance until a message is given up. RFC 5321, section 4.5.4.1, asks for four to five days.
    pub lifetime_s: u32,
}

/// What to do after an attempt that did not settle the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    At(Timestamp),
    /// The next step would end past the message's lifetime: it is `expired`.
    GiveUp,
}

const FOUR_DAYS_S: u32 = 4 * 24 * 3600;

impl Schedule {
    /// The default of a stream. Transactional mail, often awaited, starts with shorter steps: greylisting
    /// hosts let most of it through after one to five minutes.
    pub fn default_of(stream: Stream) -> Self {
        let minutes: &[u32] = match stream {
            Stream::Transactional => &[1, 2, 5, 10, 15, 30, 60, 60, 120, 240],
            Stream::Marketing | Stream::Cold => &[1, 5, 15, 30, 60, 120, 240],
        };
        Self {
            intervals_s: minutes.iter().map(|minutes| minutes * 60).collect(),
            jitter_percent: 10,
            lifetime_s: FOUR_DAYS_S,
        }
    }

    /// The instant at which a message is no longer tried.
    pub fn expires_at(&self, accepted_at: Timestamp) -> Timestamp {
        accepted_at.plus_secs(i64::from(self.lifetime_s))
    }
}

/// When to try again after attempt number `attempt` (1 for the first) ended at `now`. `entropy` is 64 random
/// bits. Attempts after a hold start from the hold's end: pass that as `accepted_at` if its time should not count.
pub fn next_attempt(
    attempt: u32,
    now: Timestamp,
    accepted_at: Timestamp,
    schedule: &Schedule,
    entropy: u64,
) -> Next {
    let step = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
    // An empty list is a fault of configuration; an hour is what the middle of the default list says.
    let interval_s =
        schedule.intervals_s.get(step).or(schedule.intervals_s.last()).copied().unwrap_or(3600).max(1);
    let at = now.plus_millis(jittered_ms(interval_s, schedule.jitter_percent, entropy));
    if at >= schedule.expires_at(accepted_at) { Next::GiveUp } else { Next::At(at) }
}

fn jittered_ms(interval_s: u32, jitter_percent: u8, entropy: u64) -> i64 {
    let interval_ms = i64::from(interval_s) * 1000;
    let spread_ms = interval_ms * i64::from(jitter_percent.min(50)) / 100;
    // Multiply and shift: no bias worth the name, and no division by a spread of zero.
    let width = u128::from((2 * spread_ms + 1).unsigned_abs());
    let offset = (u128::from(entropy) * width) >> 64;
    interval_ms - spread_ms + i64::try_from(offset).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACCEPTED: Timestamp = Timestamp(1_800_000_000_000_000);

    fn plain(intervals_s: &[u32]) -> Schedule {
        Schedule { intervals_s: intervals_s.to_vec(), jitter_percent: 0, lifetime_s: 3600 }
    }

    #[test]
    fn steps_follow_the_list_and_the_last_repeats() {
        let schedule = plain(&[60, 300]);
        for (attempt, wait_s) in [(0, 60), (1, 60), (2, 300), (3, 300), (u32::MAX, 300)] {
            let next = next_attempt(attempt, ACCEPTED, ACCEPTED, &schedule, 0);
            assert_eq!(next, Next::At(ACCEPTED.plus_secs(wait_s)), "attempt {attempt}");
        }
    }

    #[test]
    fn message_past_its_lifetime_is_given_up() {
        let schedule = plain(&[60]);
        let nearly = ACCEPTED.plus_secs(3539);
        assert_eq!(next_attempt(9, nearly, ACCEPTED, &schedule, 0), Next::At(ACCEPTED.plus_secs(3599)));
        assert_eq!(next_attempt(9, ACCEPTED.plus_secs(3540), ACCEPTED, &schedule, 0), Next::GiveUp);
    }

    #[test]
    fn default_schedules_try_for_four_days() {
        for stream in Stream::ALL {
            let schedule = Schedule::default_of(stream);
            let (mut now, mut attempts) = (ACCEPTED, 1);
            while let Next::At(at) = next_attempt(attempts, now, ACCEPTED, &schedule, u64::MAX / 2) {
                (now, attempts) = (at, attempts + 1);
            }
            let days = now.millis_since(ACCEPTED) as f64 / 86_400_000.0;
            assert!((3.8..4.0).contains(&days), "{stream} gave up after {days} days");
            assert!((20..60).contains(&attempts), "{stream}: {attempts} attempts");
        }
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_percent(attempt in 1u32..50, entropy: u64) {
            let schedule = Schedule::default_of(Stream::Marketing);
            let exact = Schedule { jitter_percent: 0, ..schedule.clone() };
            let Next::At(exact) = next_attempt(attempt, ACCEPTED, ACCEPTED, &exact, 0) else { panic!() };
            let Next::At(at) = next_attempt(attempt, ACCEPTED, ACCEPTED, &schedule, entropy) else { panic!() };
            let wait = exact.millis_since(ACCEPTED);
            prop_assert!((at.millis_since(ACCEPTED) - wait).abs() <= wait / 10);
        }
    }
}
