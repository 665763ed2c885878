//! Held mail: in a range of its own, in the order in which limits let it go. What limits do not tell apart lies
//! together, so a look at a million held messages is a look at a few lanes.

use std::collections::{BTreeSet, HashMap};

use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use uuid::Uuid;

use super::entry::{QueueEntry, decode_entry};
use super::key::{Lane, QueueKey, sortable, unsortable};
use super::read::{Due, Place, SpoolReader, open_table};
use super::table::HELD;
use super::{Spool, SpoolError};
use crate::policy::HoldKind;
use crate::policy::usage::Scope;
use crate::stream::Stream;

/// Held messages that get the same verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldLane {
    pub scope: Scope,
    /// They were attempted and counted before: only a pause holds them.
    pub retries: bool,
}

const SUFFIX_BYTES: usize = 8 + 16;

impl HeldLane {
    pub fn of(entry: &QueueEntry, scope: Scope) -> Self {
        Self { scope, retries: entry.was_counted }
    }

    fn prefix(&self) -> Vec<u8> {
        let scope = &self.scope;
        let mut key = scope.tenant_id.as_str().as_bytes().to_vec();
        key.extend_from_slice(&[0, scope.stream as u8, u8::from(self.retries)]);
        for part in [&scope.sending_domain, &scope.provider] {
            key.extend_from_slice(part.as_bytes());
            key.push(0);
        }
        key
    }

    /// The key of one message: by when it was first due, so the oldest is let go first.
    pub(super) fn key(&self, entry: &QueueEntry) -> Vec<u8> {
        let mut key = self.prefix();
        key.extend_from_slice(&sortable(entry.not_before));
        key.extend_from_slice(entry.message_id.as_bytes());
        key.extend_from_slice(entry.recipient.domain().as_bytes());
        key
    }

    fn range(&self) -> (Vec<u8>, Vec<u8>) {
        let start = self.prefix();
        let end = [start.as_slice(), &[0xff; SUFFIX_BYTES + 1]].concat();
        (start, end)
    }
}

/// A key of held mail taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeldKey {
    pub lane: HeldLane,
    pub not_before: Timestamp,
    /// As operators pick messages.
    pub queue_key: QueueKey,
}

impl HeldKey {
    /// `None` when the bytes are no such key: the store is damaged.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let (tenant, rest) = split_nul(key)?;
        let ([stream, retries], rest) = rest.split_first_chunk::<2>()?;
        let (sending_domain, rest) = split_nul(rest)?;
        let (provider, rest) = split_nul(rest)?;
        let (at, rest) = rest.split_first_chunk::<8>()?;
        let (id, recipient_domain) = rest.split_first_chunk::<16>()?;
        let text = |bytes| std::str::from_utf8(bytes).ok().map(str::to_owned);
        let tenant_id = TenantId::new(std::str::from_utf8(tenant).ok()?).ok()?;
        let stream = Stream::ALL.into_iter().find(|s| *s as u8 == *stream)?;
        let not_before = unsortable(*at);
        let queue_key = QueueKey {
            lane: Lane { recipient_domain: text(recipient_domain)?, stream, tenant_id: tenant_id.clone() },
            next_attempt_at: not_before,
            message_id: Uuid::from_bytes(*id),
        };
        let scope =
            Scope { tenant_id, stream, sending_domain: text(sending_domain)?, provider: text(provider)? };
        Some(Self { lane: HeldLane { scope, retries: *retries != 0 }, not_before, queue_key })
    }
}

fn split_nul(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let nul = bytes.iter().position(|&b| b == 0)?;
    Some((bytes.get(..nul)?, bytes.get(nul + 1..)?))
}

pub(super) fn parse_held(key: &[u8]) -> Result<HeldKey, SpoolError> {
    HeldKey::parse(key)
        .ok_or_else(|| SpoolError::Damaged(format!("a key of held mail of {} octets", key.len())))
}

impl SpoolReader {
    /// Every lane of held mail. Skips from lane to lane: its cost is the number of lanes.
    pub(super) fn held_lanes(&self) -> Result<Vec<HeldLane>, SpoolError> {
        let Some(held) = open_table(&self.begin()?, HELD)? else { return Ok(Vec::new()) };
        let mut lanes = Vec::new();
        let mut from = Vec::new();
        while let Some(row) = held.range(from.as_slice()..)?.next() {
            let lane = parse_held(row?.0.value())?.lane;
            from = lane.range().1;
            lanes.push(lane);
        }
        Ok(lanes)
    }

    /// When the oldest message of a lane was first due; `None` when the lane is empty.
    pub fn held_since(&self, lane: &HeldLane) -> Result<Option<Timestamp>, SpoolError> {
        let Some(held) = open_table(&self.begin()?, HELD)? else { return Ok(None) };
        let (start, end) = lane.range();
        let first = held.range(start.as_slice()..end.as_slice())?.next();
        first.map(|row| Ok(parse_held(row?.0.value())?.not_before)).transpose()
    }

    /// The oldest messages of a lane, up to `max`.
    pub fn held(&self, lane: &HeldLane, max: usize) -> Result<Vec<Due>, SpoolError> {
        let Some(held) = open_table(&self.begin()?, HELD)? else { return Ok(Vec::new()) };
        let (start, end) = lane.range();
        held.range(start.as_slice()..end.as_slice())?
            .take(max)
            .map(|row| {
                let (key, sealed) = row?;
                let entry = decode_entry(self.sealer(), sealed.value())?;
                let (key, sealed) = (key.value().to_vec(), sealed.value().to_vec());
                Ok(Due { place: Place::Held, key, sealed, entry })
            })
            .collect()
    }
}

impl Spool {
    /// Messages of a lane that may have been told another reason than this one, the newest first, in portions;
    /// nothing when all were looked through.
    pub fn next_to_tell(&self, lane: &HeldLane, kind: HoldKind, max: usize) -> Result<Vec<Due>, SpoolError> {
        let cursor = self.held.told(lane, kind);
        let Some(held) = open_table(&self.reader.begin()?, HELD)? else { return Ok(Vec::new()) };
        let (start, end) = lane.range();
        let end = cursor.unwrap_or(end);
        let mut found = Vec::new();
        for row in held.range(start.as_slice()..end.as_slice())?.rev().take(max) {
            let (key, sealed) = row?;
            let entry = decode_entry(self.sealer.as_ref(), sealed.value())?;
            let (key, sealed) = (key.value().to_vec(), sealed.value().to_vec());
            found.push(Due { place: Place::Held, key, sealed, entry });
        }
        self.held.set_told(lane, kind, found.last().map(|due| due.key.clone()));
        Ok(found)
    }
}

/// Which lanes hold mail, and when each is to be looked at again. In memory: rebuilt from keys at start.
#[derive(Default)]
pub struct HeldLanes(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    due: BTreeSet<(Timestamp, HeldLane)>,
    at: HashMap<HeldLane, Timestamp>,
    /// How far the messages of a lane were told a new reason: from this key on.
    told: HashMap<HeldLane, (HoldKind, Vec<u8>)>,
}

impl HeldLanes {
    /// Look at `lane` at this time; an earlier time that is known stands.
    pub fn look(&self, lane: HeldLane, at: Timestamp) {
        let mut inner = self.0.lock();
        match inner.at.get(&lane) {
            Some(&known) if known <= at => return,
            Some(&known) => drop(inner.due.remove(&(known, lane.clone()))),
            None => {}
        }
        inner.at.insert(lane.clone(), at);
        inner.due.insert((at, lane));
    }

    /// Look at every lane at this time, or earlier: limits have changed.
    pub fn look_at_all(&self, at: Timestamp) {
        let mut inner = self.0.lock();
        let Inner { due, at: times, .. } = &mut *inner;
        due.clear();
        for (lane, time) in times.iter_mut() {
            *time = at.min(*time);
            due.insert((*time, lane.clone()));
        }
    }

    /// Takes out lanes that are to be looked at now. Whoever takes one names the next time for it, if it still
    /// holds mail.
    pub fn take_due(&self, now: Timestamp, max: usize) -> Vec<HeldLane> {
        let mut inner = self.0.lock();
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

    /// A lane holds no mail any more: what was told to its messages is no longer of interest.
    pub fn forget(&self, lane: &HeldLane) {
        self.0.lock().told.remove(lane);
    }

    pub fn next_look(&self) -> Option<Timestamp> {
        self.0.lock().due.first().map(|(at, _)| *at)
    }

    fn told(&self, lane: &HeldLane, kind: HoldKind) -> Option<Vec<u8>> {
        self.0.lock().told.get(lane).filter(|(told, _)| *told == kind).map(|(_, key)| key.clone())
    }

    fn set_told(&self, lane: &HeldLane, kind: HoldKind, from: Option<Vec<u8>>) {
        let mut inner = self.0.lock();
        match from {
            Some(key) => drop(inner.told.insert(lane.clone(), (kind, key))),
            None => drop(inner.told.remove(lane)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::Address;

    fn entry(domain: &str, not_before: i64) -> QueueEntry {
        QueueEntry {
            message_id: Uuid::from_u128(7),
            submission_id: Uuid::from_u128(8),
            tenant_id: TenantId::new("acme").unwrap(),
            stream: Stream::Marketing,
            recipient: Address::parse(&format!("ann@{domain}")).unwrap(),
            header_from_domain: "acme.example".into(),
            campaign_id: None,
            content_fingerprint: None,
            size_bytes: 1,
            accepted_at: Timestamp(not_before),
            not_before: Timestamp(not_before),
            next_attempt_at: Timestamp(not_before),
            attempts: 0,
            seq: 1,
            last_reply: None,
            counted: None,
            was_counted: false,
            held: None,
        }
    }

    fn lane(domain: &str, provider: &str, retries: bool) -> HeldLane {
        let tenant_id = TenantId::new("acme").unwrap();
        let (sending_domain, provider) = (domain.into(), provider.into());
        HeldLane { scope: Scope { tenant_id, stream: Stream::Marketing, sending_domain, provider }, retries }
    }

    proptest! {
        #[test]
        fn keys_come_back_and_sort_by_age(
            domain in "[a-z0-9.]{1,9}", provider in "[a-z0-9.()]{0,9}", retries: bool, a: i64, b: i64
        ) {
            let lane = lane(&domain, &provider, retries);
            let (ka, kb) = (lane.key(&entry("x.test", a)), lane.key(&entry("y.test", b)));
            if a != b {
                prop_assert_eq!(a.cmp(&b), ka.cmp(&kb));
            }
            let (start, end) = lane.range();
            prop_assert!(start <= ka && ka < end);
            let parsed = HeldKey::parse(&ka).unwrap();
            prop_assert_eq!(parsed.queue_key.lane.recipient_domain, "x.test");
            prop_assert_eq!((parsed.lane, parsed.not_before), (lane, Timestamp(a)));
        }

        #[test]
        fn parse_takes_any_bytes(bytes: Vec<u8>) {
            let _ = HeldKey::parse(&bytes);
        }
    }

    #[test]
    fn a_lane_that_held_mail_once_leaves_nothing_behind() {
        let (lanes, lane) = (HeldLanes::default(), lane("a.example", "google", false));
        lanes.look(lane.clone(), Timestamp(1));
        lanes.set_told(&lane, HoldKind::StaleLimits, Some(b"from here".into()));
        assert_eq!(lanes.told(&lane, HoldKind::StaleLimits).as_deref(), Some(b"from here".as_slice()));
        assert_eq!(lanes.take_due(Timestamp(1), 9), std::slice::from_ref(&lane));
        lanes.forget(&lane);
        let inner = lanes.0.lock();
        assert_eq!((inner.due.len(), inner.at.len(), inner.told.len()), (0, 0, 0));
    }

    #[test]
    fn new_limits_bring_every_lane_forward() {
        let lanes = HeldLanes::default();
        let (a, b) = (lane("a.example", "google", false), lane("b.example", "google", false));
        lanes.look(a.clone(), Timestamp(50));
        lanes.look(b.clone(), Timestamp(90));
        assert_eq!(lanes.take_due(Timestamp(40), 9), vec![]);
        lanes.look_at_all(Timestamp(60));
        assert_eq!(lanes.next_look(), Some(Timestamp(50)));
        assert_eq!(lanes.take_due(Timestamp(60), 9), vec![a, b]);
        assert_eq!(lanes.next_look(), None);
    }
}
