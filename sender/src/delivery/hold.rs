//! Held mail: looked at again when limits change or a window turns, and let go oldest first, no more than there is
//! room for.

use sendlake_control::clock::Timestamp;

use super::Delivery;
use crate::spool::SpoolError;
use crate::spool::held::HeldLane;

/// Most lanes looked at in one go.
const LANES_PER_LOOK: usize = 4_096;
/// Most messages let go in one go.
const MESSAGES_PER_LOOK: usize = 2_048;
/// Most messages of one lane in one go: lanes that share a limit take turns, the oldest first.
const MESSAGES_PER_LANE: usize = 256;

impl Delivery {
    /// Looks at the lanes whose time has come. Returns how many messages moved.
    pub(super) async fn look_at_held(&self, now: Timestamp) -> Result<usize, SpoolError> {
        let mut lanes: Vec<(Timestamp, HeldLane)> = Vec::new();
        for lane in self.spool.held().take_due(now, LANES_PER_LOOK) {
            match self.spool.reader().held_since(&lane)? {
                Some(since) => lanes.push((since, lane)),
                None => self.spool.held().forget(&lane),
            }
        }
        if lanes.is_empty() {
            return Ok(0);
        }
        lanes.sort();
        let mut decided = Vec::new();
        let mut again = Vec::new();
        for (_, lane) in lanes {
            let max = MESSAGES_PER_LANE.min(MESSAGES_PER_LOOK.saturating_sub(decided.len()));
            // one by one would be read from the store for nothing when the first has to stay
            let mut look_at = None;
            let mut found = if max == 0 { Vec::new() } else { self.spool.reader().held(&lane, 1)? };
            match found.pop().map(|first| self.gate.judge_held(first, &lane, now)) {
                None => {}
                Some(Err(stay)) => {
                    look_at = Some(stay.until);
                    if let Some(hold) = &stay.news {
                        let untold = self.spool.next_to_tell(&lane, hold.kind, max)?;
                        decided.extend(
                            untold.into_iter().filter_map(|due| self.gate.tell(due, &lane, hold, now)),
                        );
                        look_at = Some(now); // until the oldest was told, too
                    }
                }
                Some(Ok(first)) => {
                    decided.push(first);
                    for due in self.spool.reader().held(&lane, max)?.into_iter().skip(1) {
                        match self.gate.judge_held(due, &lane, now) {
                            Ok(one) => decided.push(one),
                            Err(stay) => {
                                look_at = Some(stay.until);
                                break;
                            }
                        }
                    }
                }
            }
            again.push((lane, look_at.unwrap_or(now)));
        }
        let moved = decided.len();
        if moved > 0 {
            let done = self.spool.dispatch(decided).await?;
            self.gate.give_back(&done.missed);
        }
        // a lane that has become empty is forgotten at its next look
        for (lane, at) in again {
            self.spool.held().look(lane, at);
        }
        Ok(moved)
    }
}
