//! Whether a message may leave now: limits, what they have let out, and the verdict over one message.
//!
//! - [`snapshot`]: the published limits, compiled · [`usage`]: what was let out · [`limits`]: where both come from
//!
//! No I/O and no clock: the same inputs give the same verdict, so a stored month can be judged again.

pub mod limits;
pub mod snapshot;
pub mod usage;

use std::fmt;
use std::sync::Arc;

use sendlake_control::clock::Timestamp;

use self::snapshot::{QuotaSnapshot, Rule, RuleState};
use self::usage::{Counters, Scope};
use crate::stream::Stream;
use crate::suppression::Suppressed;

/// What becomes of a message that is due.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Send,
    /// Never: whoever it is for must not be written to.
    Suppressed(Suppressed),
    /// Not now.
    Held(Hold),
}

/// Why something waits, as a word that stays the same while numbers move: `policy_id` in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HoldKind {
    /// A limit of a domain in good standing is used up.
    Quota,
    /// The ceiling of a domain that is warming up is used up.
    Warmup,
    /// The reduced limit after complaints is used up.
    ComplaintPacing,
    /// Stopped, by a rule or a person.
    Paused,
    /// The published limits are past their time.
    StaleLimits,
    /// Nothing was ever published.
    MissingLimits,
    /// The sending domain is newer than the publication.
    NotJudged,
    /// A published row cannot be obeyed.
    BadLimits,
    /// Entries of the list of suppressions are missing.
    SuppressionsIncomplete,
}

impl HoldKind {
    pub fn as_str(self) -> &'static str {
        match self {
            HoldKind::Quota => "quota",
            HoldKind::Warmup => "warmup",
            HoldKind::ComplaintPacing => "complaint_pacing",
            HoldKind::Paused => "paused",
            HoldKind::StaleLimits => "stale_limits",
            HoldKind::MissingLimits => "missing_limits",
            HoldKind::NotJudged => "not_judged",
            HoldKind::BadLimits => "bad_limits",
            HoldKind::SuppressionsIncomplete => "suppressions_incomplete",
        }
    }
}

impl HoldKind {
    /// It says something of the sending domain, not of the table that speaks of it.
    pub fn is_of_identity(self) -> bool {
        matches!(self, Self::Quota | Self::Warmup | Self::ComplaintPacing | Self::Paused)
    }
}

impl fmt::Display for HoldKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a message waits.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    pub kind: HoldKind,
    /// The row that decides, where one does.
    pub rule: Option<Arc<Rule>>,
    /// First attempts that the row has let out in its window.
    pub used: u64,
    /// When the clock alone may change the verdict; `None` when only a new publication can.
    pub until: Option<Timestamp>,
    /// Version of the limits; `None` when there are none.
    pub version: Option<u64>,
    /// When the limits went stale, or are good until.
    pub valid_until: Option<Timestamp>,
    /// Where no limit is the cause: why, in a sentence.
    pub cause: Option<Arc<str>>,
}

impl Hold {
    /// The list of suppressions cannot be relied on, and `cause` says why. Looked at again at `until`.
    pub fn suppressions_incomplete(cause: Arc<str>, until: Timestamp) -> Self {
        Self {
            kind: HoldKind::SuppressionsIncomplete,
            rule: None,
            used: 0,
            until: Some(until),
            version: None,
            valid_until: None,
            cause: Some(cause),
        }
    }

    fn of(kind: HoldKind, rule: Option<&Arc<Rule>>, limits: &QuotaSnapshot) -> Self {
        Self {
            kind,
            rule: rule.cloned(),
            used: 0,
            until: None,
            version: limits.version,
            valid_until: rule.map(|rule| rule.valid_until).or(limits.valid_until),
            cause: None,
        }
    }

    /// In words, with the numbers.
    pub fn reason(&self, scope: &Scope) -> String {
        let Scope { stream, sending_domain: domain, .. } = scope;
        let version = self.version.unwrap_or(0);
        let good_until = self.valid_until.map(minute).unwrap_or_default();
        if let Some(cause) = &self.cause {
            return format!("suppressions incomplete: {stream} mail waits — {cause}");
        }
        match (self.kind, &self.rule) {
            (HoldKind::Quota | HoldKind::Warmup | HoldKind::ComplaintPacing, Some(rule)) => format!(
                "{}: {} has used {} of {} messages to {} {}; the next window opens {} — {}",
                rule.state,
                rule.whom(domain),
                self.used,
                rule.limit.unwrap_or(0),
                rule.provider.words(),
                rule.window_words(),
                self.until.map(minute).unwrap_or_default(),
                rule.reason,
            ),
            (HoldKind::Paused, Some(rule)) => format!(
                "paused: {stream} mail of {} to {} waits until it is let go again — {}",
                rule.whom(domain),
                rule.provider.words(),
                rule.reason,
            ),
            (HoldKind::BadLimits, Some(rule)) => format!(
                "bad limits: version {version} has a row for {} that cannot be obeyed ({}); {stream} mail waits for a \
                 publication that can",
                rule.whom(domain),
                rule.unusable.as_deref().unwrap_or_default(),
            ),
            (HoldKind::StaleLimits, _) => format!(
                "stale limits: version {version} was good until {good_until}, and nothing newer was published since; \
                 {stream} mail of {domain} waits for a publication"
            ),
            (HoldKind::NotJudged, _) => format!(
                "not judged yet: {domain} is not in version {version} of the limits; its {stream} mail waits for the \
                 next publication"
            ),
            _ => format!(
                "missing limits: no limits have been published yet; {stream} mail of {domain} waits for the first \
                 publication"
            ),
        }
    }

    /// The numbers, for `detail`.
    pub fn numbers(&self) -> serde_json::Value {
        let rule = self.rule.as_deref();
        serde_json::json!({
            "limit": rule.and_then(|rule| rule.limit),
            "used": rule.and_then(|rule| rule.limit).map(|_| self.used),
            "window_s": rule.map(|rule| rule.window_s),
            "until": self.until.map(|at| at.to_string()),
            "provider": rule.map(|rule| rule.provider.as_str()),
        })
    }
}

/// `2026-11-23 00:00 UTC`.
fn minute(at: Timestamp) -> String {
    at.to_chrono().format("%Y-%m-%d %H:%M UTC").to_string()
}

/// How many more messages of a scope may leave now.
#[derive(Clone, Debug, PartialEq)]
pub enum Room {
    /// At least one; `u64::MAX` for no limit.
    Open(u64),
    Shut(Hold),
}

/// Decides one message's fate, in well under a microsecond. `first_attempt` is false for retries, and for
/// messages that were counted already: limits count first attempts, so only a pause stops those.
pub fn decide(
    scope: &Scope,
    first_attempt: bool,
    suppressed: Option<Suppressed>,
    limits: &QuotaSnapshot,
    counters: &Counters,
    now: Timestamp,
) -> Verdict {
    if let Some(suppressed) = suppressed {
        return Verdict::Suppressed(suppressed);
    }
    match room(scope, first_attempt, limits, counters, now) {
        Room::Open(_) => Verdict::Send,
        Room::Shut(hold) => Verdict::Held(hold),
    }
}

/// How much of a scope may leave now. Of all rows that match, each counts: the strictest decides.
///
/// Limits that are missing, stale, unusable, or older than the sending domain hold marketing and cold mail;
/// transactional mail passes at the last known limit.
pub fn room(
    scope: &Scope,
    first_attempt: bool,
    limits: &QuotaSnapshot,
    counters: &Counters,
    now: Timestamp,
) -> Room {
    if !limits.enforced {
        return Room::Open(u64::MAX);
    }
    let bulk = scope.stream != Stream::Transactional;
    let mut open = u64::MAX;
    let mut used_up: Option<(&Arc<Rule>, u64, Timestamp)> = None;
    let (mut paused, mut stale, mut unusable, mut judged) = (None, None, None, false);
    limits.each_match(scope, |rule| {
        judged |= rule.names_identity;
        if rule.state == RuleState::Paused {
            paused = Some(rule);
        } else if bulk && rule.valid_until <= now {
            stale = Some(rule);
        } else if bulk && rule.unusable.is_some() {
            unusable = Some(rule);
        } else if let Some(limit) = rule.limit {
            let used = counters.used(rule, now);
            open = open.min(limit.saturating_sub(used));
            let until = rule.window_end(now);
            let later = used_up.is_none_or(|(_, _, latest)| until > latest);
            if used >= limit && later {
                used_up = Some((rule, used, until));
            }
        }
    });
    if let Some(rule) = paused {
        return Room::Shut(Hold::of(HoldKind::Paused, Some(rule), limits));
    }
    if !first_attempt {
        return Room::Open(u64::MAX);
    }
    let all_stale = limits.valid_until.is_some_and(|at| at <= now);
    let state = match limits.version {
        _ if !bulk => None,
        None => Some((HoldKind::MissingLimits, None)),
        Some(_) if stale.is_some() || all_stale => Some((HoldKind::StaleLimits, stale)),
        Some(_) if !judged => Some((HoldKind::NotJudged, None)),
        Some(_) => unusable.map(|rule| (HoldKind::BadLimits, Some(rule))),
    };
    if let Some((kind, rule)) = state {
        return Room::Shut(Hold::of(kind, rule, limits));
    }
    match used_up {
        Some((rule, used, until)) => {
            let hold = Hold::of(rule.state.kind(), Some(rule), limits);
            Room::Shut(Hold { used, until: Some(until), ..hold })
        }
        None => Room::Open(open),
    }
}

#[cfg(test)]
mod tests;
