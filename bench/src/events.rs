//! Made-up events with the variety of real ones: tenants, campaigns, providers, replies, ids that never repeat, every
//! group of columns used as in life. The same seed gives the same events.
//!
//! - `cast`: who sends to whom, and what receivers answer · `life`: what happens to one message

mod cast;
mod life;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use sendlake_ingest::event::{Event, LoggedEvent};
use uuid::Uuid;

use self::cast::Cast;
use self::life::{Message, Step};

/// Microseconds of a day.
const DAY_US: i64 = 86_400 * Timestamp::SECOND;

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Evenly from 0 to `bound - 1`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.u64() % bound.max(1) as u64).unwrap_or(0)
    }

    /// True `per_mille` times in a thousand.
    fn chance(&mut self, per_mille: usize) -> bool {
        self.below(1_000) < per_mille
    }

    /// Milliseconds from `least`, mostly short of `usual` more, sometimes much more.
    fn millis(&mut self, least: i64, usual: i64) -> i64 {
        let spread = |random: &mut Self| i64::try_from(random.below(usize::try_from(usual).unwrap_or(1)));
        let mut total = least + spread(self).unwrap_or(0);
        while self.chance(125) {
            total += spread(self).unwrap_or(0) * 2;
        }
        total
    }

    /// A low place is taken much more often than a high one.
    fn skewed(&mut self, bound: usize) -> usize {
        let first = self.below(bound) + 1;
        self.below(first)
    }

    fn uuid_v7(&mut self, at: Timestamp) -> Uuid {
        let mut random = [0; 10];
        let drawn = (u128::from(self.u64()) << 64) | u128::from(self.u64());
        random.iter_mut().zip(drawn.to_le_bytes()).for_each(|(byte, drawn)| *byte = drawn);
        let millis = u64::try_from(at.as_millis()).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
    }
}

/// The log of one spool.
#[derive(Clone, Debug)]
struct Log {
    incarnation: Uuid,
    node_id: Arc<str>,
    lsn: u64,
}

impl Log {
    fn new(incarnation: Uuid) -> Self {
        Self { incarnation, node_id: "n1".into(), lsn: 0 }
    }

    fn enter(&mut self, event: Event) -> LoggedEvent {
        self.lsn += 1;
        LoggedEvent { incarnation: self.incarnation, node_id: self.node_id.clone(), lsn: self.lsn, event }
    }
}

/// Events without end, in the order in which a spool logs them: many messages are under way at once.
pub(crate) struct Traffic {
    random: Random,
    cast: Cast,
    log: Log,
    next_message_at: Timestamp,
    between_us: usize,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    messages: u64,
}

/// Ordered by time, then by number.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    at: Timestamp,
    number: u64,
    step: Step,
    message: Message,
}

impl Traffic {
    /// From `start` on, at so many messages a second.
    pub(crate) fn new(seed: u64, incarnation: Uuid, start: Timestamp, messages_per_s: usize) -> Self {
        let mut random = Random::new(seed);
        let cast = Cast::new(&mut random);
        Self {
            random,
            cast,
            log: Log::new(incarnation),
            next_message_at: start,
            between_us: 2_000_000 / messages_per_s.max(1),
            under_way: BinaryHeap::new(),
            messages: 0,
        }
    }

    /// The spool that logs them.
    pub(crate) fn incarnation(&self) -> Uuid {
        self.log.incarnation
    }

    /// The next `count` events.
    pub(crate) fn take_rows(&mut self, count: usize) -> Vec<LoggedEvent> {
        self.by_ref().take(count).collect()
    }
}

impl Iterator for Traffic {
    type Item = LoggedEvent;

    fn next(&mut self) -> Option<LoggedEvent> {
        let accepts = self.under_way.peek().is_none_or(|Reverse(first)| first.at > self.next_message_at);
        let (at, step, message) = if accepts {
            let at = self.next_message_at;
            let gap = i64::try_from(self.random.below(self.between_us)).unwrap_or(0);
            self.next_message_at = Timestamp(at.0 + gap);
            (at, Step::Accepted, self.cast.message(None, at, &mut self.random))
        } else {
            let Reverse(first) = self.under_way.pop()?;
            (first.at, first.step, first.message)
        };
        let mut message = message;
        let event = message.event(step, at, &self.cast, &mut self.random);
        for (at, step) in message.after(step, at, &mut self.random).into_iter().flatten() {
            self.messages += 1;
            let message = message.clone();
            self.under_way.push(Reverse(UnderWay { at, number: self.messages, step, message }));
        }
        Some(self.log.enter(event))
    }
}

/// Days of events as compaction leaves them: each day's by tenant, then by message, then by time.
pub(crate) struct Days {
    random: Random,
    cast: Cast,
    log: Log,
    messages_per_day: usize,
    start: Timestamp,
    /// What happened past midnight, by tenant: it stands in front of the next day's.
    late: Vec<Vec<Event>>,
}

impl Days {
    pub(crate) fn new(seed: u64, incarnation: Uuid, start: Timestamp, messages_per_day: usize) -> Self {
        let mut random = Random::new(seed);
        let cast = Cast::new(&mut random);
        let late = vec![Vec::new(); cast.tenants()];
        Self { random, cast, log: Log::new(incarnation), messages_per_day, start, late }
    }

    /// How many events were made so far: the last LSN.
    pub(crate) fn lsn(&self) -> u64 {
        self.log.lsn
    }

    /// Makes the next day, and hands its events over in sorted groups of about `rows`.
    pub(crate) fn day(
        &mut self,
        rows: usize,
        mut give: impl FnMut(Vec<LoggedEvent>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let midnight = Timestamp(self.start.0 + DAY_US);
        let mut group = Vec::with_capacity(rows);
        for tenant in self.cast.tenants_by_name() {
            let late = self.late.get_mut(tenant).map(std::mem::take).unwrap_or_default();
            let (today, later): (Vec<_>, Vec<_>) =
                late.into_iter().partition(|event| event.occurred_at < midnight);
            group.extend(today.into_iter().map(|event| self.log.enter(event)));
            let mut late = later;
            let messages = self.cast.share(tenant, self.messages_per_day);
            let gap_us = DAY_US / i64::try_from(messages.max(1))?;
            for number in 0..messages {
                let at = Timestamp(self.start.0 + gap_us * i64::try_from(number)?);
                for event in self.whole_life(tenant, at) {
                    if event.occurred_at < midnight {
                        group.push(self.log.enter(event));
                    } else {
                        late.push(event);
                    }
                }
                if group.len() >= rows {
                    give(std::mem::replace(&mut group, Vec::with_capacity(rows)))?;
                }
            }
            if let Some(kept) = self.late.get_mut(tenant) {
                *kept = late;
            }
        }
        self.start = midnight;
        if group.is_empty() { Ok(()) } else { give(group) }
    }

    fn whole_life(&mut self, tenant: usize, accepted_at: Timestamp) -> Vec<Event> {
        let mut message = self.cast.message(Some(tenant), accepted_at, &mut self.random);
        let mut steps = vec![(accepted_at, Step::Accepted)];
        let mut events = Vec::new();
        while let Some((at, step)) = steps.pop() {
            events.push(message.event(step, at, &self.cast, &mut self.random));
            steps.extend(message.after(step, at, &mut self.random).into_iter().flatten());
            steps.sort_unstable_by(|a, b| b.cmp(a));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    const NOON: Timestamp = Timestamp(1_769_860_800_000_000);

    #[test]
    fn the_same_seed_gives_the_same_events_and_no_id_twice() {
        let make = || Traffic::new(7, Uuid::from_u128(1), NOON, 500).take_rows(20_000);
        let rows = make();
        assert_eq!(rows, make());
        let ids: BTreeSet<_> = rows.iter().map(|row| row.event.event_id).collect();
        assert_eq!(ids.len(), rows.len());
        assert!(rows.is_sorted_by_key(|row| row.event.recorded_at), "logged as it happened");
        assert!(rows.iter().zip(1..).all(|(row, lsn)| row.lsn == lsn), "no hole");
    }

    #[test]
    fn mail_mostly_arrives_and_the_rest_has_reasons() {
        let rows = Traffic::new(7, Uuid::from_u128(1), NOON, 5).take_rows(100_000);
        let mut types: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &rows {
            *types.entry(row.event.event_type.as_str()).or_default() += 1;
        }
        for kind in ["accepted", "delivered", "deferred", "bounced", "opened", "clicked", "unsubscribed"] {
            assert!(types.contains_key(kind), "{kind}: {types:?}");
        }
        assert!(types["delivered"] * 10 > types["accepted"] * 8, "{types:?}");
        assert!(types["bounced"] * 20 < types["accepted"], "{types:?}");
        let refused = |row: &&LoggedEvent| row.event.event_type.as_str() == "bounced";
        assert!(rows.iter().filter(refused).all(|row| row.event.bounce_category.is_some()));
    }

    #[test]
    fn days_come_sorted_as_files_are() {
        let mut days = Days::new(7, Uuid::from_u128(1), Timestamp(NOON.0 / DAY_US * DAY_US), 5_000);
        for _ in 0..2 {
            let mut rows = Vec::new();
            days.day(1_000, |group| {
                rows.extend(group);
                Ok(())
            })
            .unwrap();
            let key = |row: &LoggedEvent| {
                (row.event.tenant_id.clone(), row.event.message_id.clone(), row.event.recorded_at)
            };
            assert!(rows.len() > 10_000 && rows.is_sorted_by_key(key));
            let days: BTreeSet<_> = rows.iter().map(|row| row.event.occurred_at.days()).collect();
            assert_eq!(days.len(), 1, "one day, one partition");
        }
    }
}
