//! When an event is tried again, when an endpoint that is down is asked again, and when each is given up.

/// Waits before the second, third, … attempt of an event; the last repeats.
const RETRY_S: [i64; 9] = [5, 30, 120, 600, 1_800, 3_600, 7_200, 14_400, 28_800];
/// Longest wait that an endpoint's `Retry-After` gets.
pub const RETRY_AFTER_MAX_S: i64 = 3_600;

/// The pauses, in seconds; tests use shorter ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    pub retry_s: Vec<i64>,
    /// An event that fails for so long after its first attempt has failed for good.
    pub give_up_s: i64,
    /// An endpoint that took nothing for so long is disabled.
    pub disable_s: i64,
    /// Failures without a success between them that open the circuit.
    pub failures_to_open: u32,
    /// The first pause of an open circuit; each is twice the one before.
    pub probe_s: i64,
    pub probe_max_s: i64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            retry_s: RETRY_S.to_vec(),
            give_up_s: 3 * 86_400,
            disable_s: 5 * 86_400,
            failures_to_open: 10,
            probe_s: 5,
            probe_max_s: 300,
        }
    }
}

impl Schedule {
    /// Milliseconds until the next attempt after `attempts` of them; `dice` spreads them by up to a fifth either way.
    pub fn retry_ms(&self, attempts: u32, dice: u64) -> i64 {
        let at = usize::try_from(attempts.saturating_sub(1)).unwrap_or(usize::MAX);
        let wait_s = self.retry_s.get(at).or(self.retry_s.last()).copied().unwrap_or(60);
        spread(wait_s.saturating_mul(1_000), dice)
    }

    /// Milliseconds until an open circuit is tried, after so many tries of it.
    pub fn probe_ms(&self, tries: u32, dice: u64) -> i64 {
        let doubled = self.probe_s.saturating_mul(1 << tries.min(30));
        spread(doubled.min(self.probe_max_s).saturating_mul(1_000), dice)
    }
}

/// 80 to 120 % of a time.
fn spread(millis: i64, dice: u64) -> i64 {
    let percent = 80 + i64::try_from(dice % 41).unwrap_or_default();
    millis.saturating_mul(percent) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_over_days_and_are_spread() {
        let schedule = Schedule::default();
        assert_eq!((schedule.retry_ms(1, 0), schedule.retry_ms(1, 40)), (4_000, 6_000));
        assert_eq!(schedule.retry_ms(2, 20), 30_000);
        assert_eq!(schedule.retry_ms(99, 20), 28_800_000);
        let waits: Vec<i64> = (1..30).map(|attempt| schedule.retry_ms(attempt, 20)).collect();
        assert!(waits.is_sorted());
        let mut elapsed_s = 0;
        let within = waits.iter().take_while(|wait| {
            elapsed_s += *wait / 1_000;
            elapsed_s < schedule.give_up_s
        });
        assert_eq!(within.count(), 16, "attempts after the first, in three days");
        assert_eq!(
            (schedule.probe_ms(0, 20), schedule.probe_ms(3, 20), schedule.probe_ms(60, 20)),
            (5_000, 40_000, 300_000)
        );
    }
}
