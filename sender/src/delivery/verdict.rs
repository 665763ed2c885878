//! What an attempt's result means for its message. Pure.

use sendlake_control::clock::Timestamp;
use sendlake_ingest::event::EventType;

use crate::reply::ReplyClass;
use crate::schedule::{Next, Schedule, next_attempt};
use crate::spool::QueueEntry;
use crate::spool::work::Outcome;

/// The event of the attempt, whether the message's lifetime ended with it, and what becomes of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub event_type: EventType,
    /// Another event, `expired`, follows the attempt's own.
    pub expired: bool,
    pub outcome: Outcome,
}

/// Decides over the attempt that has just been made. `attempts` counts it. `reply` is the class of the reply
/// that ended it; `None` when there was none (no connection, a timeout, garbage): that is tried again.
pub fn judge(
    reply: Option<ReplyClass>,
    attempts: i32,
    entry: &QueueEntry,
    schedule: &Schedule,
    now: Timestamp,
    entropy: u64,
) -> Verdict {
    match reply {
        Some(ReplyClass::Positive) => {
            Verdict { event_type: EventType::Delivered, expired: false, outcome: Outcome::Terminal }
        }
        Some(ReplyClass::Permanent) => {
            Verdict { event_type: EventType::Bounced, expired: false, outcome: Outcome::Terminal }
        }
        Some(ReplyClass::Transient | ReplyClass::Intermediate) | None => {
            let attempts = u32::try_from(attempts).unwrap_or(1);
            match next_attempt(attempts, now, entry.not_before, schedule, entropy) {
                Next::At(at) => {
                    Verdict { event_type: EventType::Deferred, expired: false, outcome: Outcome::Retry(at) }
                }
                Next::GiveUp => {
                    Verdict { event_type: EventType::Deferred, expired: true, outcome: Outcome::Terminal }
                }
            }
        }
    }
}
