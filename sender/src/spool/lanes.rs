//! Which lanes have messages, and when the next one of each is due. In memory: rebuilt from keys at start.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;
use tokio::sync::Notify;

use super::key::Lane;

#[derive(Default)]
struct Inner {
    due: BTreeSet<(Timestamp, Lane)>,
    at: HashMap<Lane, Timestamp>,
}

/// Lanes ordered by when they next have something to send.
#[derive(Default)]
pub struct Lanes {
    inner: Mutex<Inner>,
    changed: Notify,
}

impl Lanes {
    /// A message of `lane` is due at `at`; an earlier time that is known stands.
    pub fn touch(&self, lane: &Lane, at: Timestamp) {
        let mut inner = self.inner.lock();
        match inner.at.get(lane) {
            Some(&known) if known <= at => return,
            Some(&known) => {
                inner.due.remove(&(known, lane.clone()));
            }
            None => {}
        }
        inner.at.insert(lane.clone(), at);
        inner.due.insert((at, lane.clone()));
        drop(inner);
        self.changed.notify_one();
    }

    /// Takes out up to `max` lanes that are due, longest overdue first. Whoever takes a lane looks into the
    /// store afterwards and touches it again for what it leaves there: in that order nothing is missed.
    pub fn take_due(&self, now: Timestamp, max: usize) -> Vec<Lane> {
        let mut inner = self.inner.lock();
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some((at, _)) = inner.due.first()
            && *at <= now
            && let Some((_, lane)) = inner.due.pop_first()
        {
            inner.at.remove(&lane);
            taken.push(lane);
        }
        taken
    }

    pub fn next_due(&self) -> Option<Timestamp> {
        self.inner.lock().due.first().map(|(at, _)| *at)
    }

    /// Resolves after a touch that made some lane due earlier.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use sendlake_control::id::TenantId;

    use super::*;
    use crate::stream::Stream;

    fn lane(domain: &str) -> Lane {
        Lane {
            recipient_domain: domain.into(),
            stream: Stream::Transactional,
            tenant_id: TenantId::new("t").unwrap(),
        }
    }

    #[test]
    fn the_earlier_time_stands_and_a_taken_lane_is_gone() {
        let lanes = Lanes::default();
        lanes.touch(&lane("a.test"), Timestamp(50));
        lanes.touch(&lane("a.test"), Timestamp(90));
        lanes.touch(&lane("b.test"), Timestamp(70));
        assert_eq!(lanes.next_due(), Some(Timestamp(50)));
        assert_eq!(lanes.take_due(Timestamp(49), 9), vec![]);
        assert_eq!(lanes.take_due(Timestamp(70), 9), vec![lane("a.test"), lane("b.test")]);
        assert_eq!(lanes.next_due(), None);
        lanes.touch(&lane("a.test"), Timestamp(90));
        assert_eq!(lanes.next_due(), Some(Timestamp(90)));
    }
}
