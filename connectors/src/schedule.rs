//! When a connector loads: a cron pattern in UTC, or only when asked.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use croner::Cron;
use sendlake_control::clock::Timestamp;

/// A connector's schedule.
#[derive(Clone, Debug)]
pub enum Schedule {
    /// Only when somebody asks.
    Manual,
    /// Boxed: a pattern is large.
    Cron(Box<Cron>),
}

impl Schedule {
    /// Reads `manual` or a pattern of five fields: minute, hour, day of month, month, day of week.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim() == "manual" {
            return Ok(Self::Manual);
        }
        let advice = "write five fields as in crontab(5), \"*/15 * * * *\" for every quarter of an hour, or \"manual\"";
        if text.split_whitespace().count() != 5 {
            return Err(format!("{text:?} is no schedule: {advice}"));
        }
        let cron =
            Cron::from_str(text).map_err(|error| format!("{text:?} is no schedule ({error}): {advice}"))?;
        Ok(Self::Cron(Box::new(cron)))
    }

    /// The next time after `now`; never for a manual one.
    pub fn next_after(&self, now: Timestamp) -> Option<Timestamp> {
        let Self::Cron(cron) = self else { return None };
        let now: DateTime<Utc> = now.to_chrono();
        let next = cron.find_next_occurrence(&now, false).ok()?;
        Some(Timestamp(next.timestamp_micros()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_says_when_next() {
        let at = |text: &str| Timestamp::parse(text).unwrap();
        let next = |pattern: &str, now: &str| Schedule::parse(pattern).unwrap().next_after(at(now));
        assert_eq!(next("*/15 * * * *", "2026-01-31T23:50:00Z"), Some(at("2026-02-01T00:00:00Z")));
        assert_eq!(next("0 3 * * 1", "2026-11-23T03:00:00Z"), Some(at("2026-11-30T03:00:00Z")));
        assert_eq!(next("manual", "2026-11-23T03:00:00Z"), None);
        for bad in ["", "* * * *", "61 * * * *", "every day", "* * * * * *"] {
            let error = Schedule::parse(bad).unwrap_err();
            assert!(error.contains("*/15"), "{error}");
        }
    }
}
