//! The list in memory: 20 octets an entry, in 65,536 sorted shards, each behind its own lock. A lookup is one binary
//! search among the entries of one shard.
//!
//! Of an address's keyed hash 112 bits count: two choose the shard, twelve octets are kept. That a list of 50 million
//! entries takes some other address for one of its own has a chance of 10^-26 a lookup: exact for all purposes.

use std::collections::HashMap;

use parking_lot::RwLock;

use super::{AddressHash, Reach, Reason};
use crate::clock::Timestamp;
use crate::id::TenantId;

pub(super) const SHARDS: usize = 1 << 16;
pub(super) const RECORD_OCTETS: usize = 20;
const KEY_OCTETS: usize = 12;
/// Of a tenant's number 24 bits are kept: one more is not taken.
const TENANTS_MAX: usize = (1 << 24) - 1;

/// Key, tenant's number with reason and reach, seconds since the epoch; big-endian, so that octets sort as records do.
pub(super) type Record = [u8; RECORD_OCTETS];

/// What the list says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub reach: Reach,
    pub reason: Reason,
    /// To the second.
    pub since: Timestamp,
}

/// The list. Share it in an [`Arc`](std::sync::Arc); readers never wait for more than one change of one shard.
pub struct PackedList {
    shards: Box<[RwLock<Vec<Record>>]>,
    tenants: RwLock<Tenants>,
}

#[derive(Default)]
pub(super) struct Tenants {
    pub(super) names: Vec<TenantId>,
    numbers: HashMap<TenantId, u32>,
}

impl Tenants {
    pub(super) fn number(&mut self, tenant: &TenantId) -> u32 {
        if let Some(number) = self.numbers.get(tenant) {
            return *number;
        }
        let number = u32::try_from(self.names.len().min(TENANTS_MAX)).unwrap_or(u32::MAX);
        self.names.push(tenant.clone());
        self.numbers.insert(tenant.clone(), number);
        number
    }
}

impl Default for PackedList {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { shards, tenants: RwLock::default() }
    }
}

impl PackedList {
    /// Whether any entry keeps mail back: those of the tenant that `counts` says yes to, and global ones of anybody.
    /// The widest and oldest speaks.
    pub fn find(
        &self,
        hash: AddressHash,
        tenant: &TenantId,
        counts: impl Fn(Reach) -> bool,
    ) -> Option<Found> {
        let (shard, key) = split(hash);
        let records = self.shards.get(shard)?.read();
        let first = records.partition_point(|record| key_of(record) < &key);
        let mut records = records.get(first..)?.iter().take_while(|record| key_of(record) == &key).peekable();
        records.peek()?;
        let own = self.tenants.read().numbers.get(tenant).copied();
        records
            .filter_map(unpack)
            .filter(|(number, found)| {
                found.reach == Reach::Global || (Some(*number) == own && counts(found.reach))
            })
            .map(|(_, found)| found)
            .max_by_key(|found| (found.reach, std::cmp::Reverse(found.since)))
    }

    /// Puts an entry on the list, in the place of one of the same tenant, address and reason.
    pub fn insert(
        &self,
        hash: AddressHash,
        tenant: &TenantId,
        reason: Reason,
        reach: Reach,
        since: Timestamp,
    ) {
        let number = self.tenants.write().number(tenant);
        let record = pack(hash, number, reason, reach, since);
        self.change(hash, number, reason, Some(record));
    }

    pub fn remove(&self, hash: AddressHash, tenant: &TenantId, reason: Reason) {
        let number = self.tenants.read().numbers.get(tenant).copied();
        if let Some(number) = number {
            self.change(hash, number, reason, None);
        }
    }

    fn change(&self, hash: AddressHash, number: u32, reason: Reason, new: Option<Record>) {
        let (shard, key) = split(hash);
        let Some(shard) = self.shards.get(shard) else { return };
        let mut records = shard.write();
        let first = records.partition_point(|record| key_of(record) < &key);
        let same =
            records.iter().skip(first).take_while(|record| key_of(record) == &key).position(|record| {
                unpack(record).is_some_and(|(of, found)| of == number && found.reason == reason)
            });
        match (same, new) {
            (Some(place), Some(new)) => {
                if let Some(record) = records.get_mut(first + place) {
                    *record = new;
                }
            }
            (Some(place), None) => drop(records.remove(first + place)),
            (None, Some(new)) => {
                if records.len() == records.capacity() {
                    // an eighth of room: doubling would cost half of the memory
                    let room = (records.len() / 8).max(4);
                    records.reserve_exact(room);
                }
                records.insert(first, new);
            }
            (None, None) => {}
        }
    }

    /// Appends an entry out of order, for a list that is filled first and sorted then.
    pub fn push(
        &mut self,
        hash: AddressHash,
        tenant: &TenantId,
        reason: Reason,
        reach: Reach,
        since: Timestamp,
    ) {
        let number = self.tenants.get_mut().number(tenant);
        if let Some(shard) = self.shards.get_mut(split(hash).0) {
            let records = shard.get_mut();
            if records.len() == records.capacity() {
                let room = (records.len() / 4).max(4);
                records.reserve_exact(room);
            }
            records.push(pack(hash, number, reason, reach, since));
        }
    }

    /// Puts what was pushed in order.
    pub fn sort(&mut self) {
        for shard in &mut self.shards {
            let records = shard.get_mut();
            records.sort_unstable();
            records.shrink_to_fit();
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Octets of memory for entries, room for more included.
    pub fn memory_bytes(&self) -> usize {
        let entries: usize = self.shards.iter().map(|shard| shard.read().capacity()).sum();
        entries * RECORD_OCTETS + SHARDS * size_of::<RwLock<Vec<Record>>>()
    }

    pub(super) fn shards(&self) -> &[RwLock<Vec<Record>>] {
        &self.shards
    }

    pub(super) fn all_mut(&mut self) -> &mut [RwLock<Vec<Record>>] {
        &mut self.shards
    }

    /// Gives a tenant its number, the next.
    pub(super) fn add_tenant(&mut self, tenant: &TenantId) {
        self.tenants.get_mut().number(tenant);
    }

    pub(super) fn tenants(&self) -> &RwLock<Tenants> {
        &self.tenants
    }
}

fn split(hash: AddressHash) -> (usize, [u8; KEY_OCTETS]) {
    let [high, low, key @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = hash.0;
    (usize::from(u16::from_be_bytes([high, low])), key)
}

fn key_of(record: &Record) -> &[u8; KEY_OCTETS] {
    let [key @ .., _, _, _, _, _, _, _, _] = record;
    key
}

fn place<T: PartialEq>(all: &[T], one: &T) -> u8 {
    all.iter().position(|known| known == one).and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
}

fn pack(hash: AddressHash, number: u32, reason: Reason, reach: Reach, since: Timestamp) -> Record {
    let (_, key) = split(hash);
    let words = place(Reason::ALL, &reason) | place(Reach::ALL, &reach) << 4;
    let seconds = u32::try_from(since.as_secs().max(0)).unwrap_or(u32::MAX);
    let mut record = [0; RECORD_OCTETS];
    let rest = (number << 8 | u32::from(words)).to_be_bytes();
    for (to, from) in record.iter_mut().zip(key.into_iter().chain(rest).chain(seconds.to_be_bytes())) {
        *to = from;
    }
    record
}

/// The tenant's number, and what the record says; `None` for one that no version wrote.
pub(super) fn unpack(record: &Record) -> Option<(u32, Found)> {
    let [.., a, b, c, words, s3, s2, s1, s0] = *record;
    let reach = *Reach::ALL.get(usize::from(words >> 4))?;
    let reason = *Reason::ALL.get(usize::from(words & 0x0f))?;
    let since = Timestamp::from_secs(i64::from(u32::from_be_bytes([s3, s2, s1, s0])));
    Some((u32::from_be_bytes([0, a, b, c]), Found { reach, reason, since }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants() -> [TenantId; 2] {
        ["acme", "bolt"].map(|name| TenantId::new(name).unwrap())
    }

    /// Spread over shards and crowded in them.
    fn hash(number: u32) -> AddressHash {
        let mut hash = [0; 32];
        hash[..2].copy_from_slice(&u16::try_from(number % 7).unwrap().to_be_bytes());
        hash[2..6].copy_from_slice(&number.wrapping_mul(2_654_435_761).to_be_bytes());
        AddressHash(hash)
    }

    #[test]
    fn it_knows_what_a_plain_map_knows_after_any_changes() {
        let [acme, bolt] = tenants();
        let (packed, mut plain) = (PackedList::default(), HashMap::new());
        let mut state = 1_u32;
        for _ in 0..20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (address, choice) = (state >> 8 & 0x3ff, state >> 20);
            let tenant = if choice & 1 == 0 { &acme } else { &bolt };
            let reason = Reason::ALL[choice as usize / 2 % 3];
            if choice & 0x100 == 0 {
                let since = Timestamp::from_secs(i64::from(choice));
                packed.insert(hash(address), tenant, reason, Reach::Bulk, since);
                plain.insert((address, tenant.clone(), reason), since);
            } else {
                packed.remove(hash(address), tenant, reason);
                plain.remove(&(address, tenant.clone(), reason));
            }
        }
        assert_eq!(packed.len(), plain.len());
        for address in 0..1_100 {
            for tenant in [&acme, &bolt] {
                let oldest = plain
                    .iter()
                    .filter(|((of, whose, _), _)| *of == address && whose == tenant)
                    .map(|(_, since)| *since)
                    .min();
                let found = packed.find(hash(address), tenant, |_| true);
                assert_eq!(found.map(|found| found.since), oldest, "{address} of {tenant}");
                assert_eq!(packed.find(hash(address), tenant, |_| false), None);
            }
        }
    }

    #[test]
    fn every_reason_and_reach_comes_back_and_global_is_for_everybody() {
        let [acme, bolt] = tenants();
        let mut list = PackedList::default();
        let mut number = 0;
        for reason in Reason::ALL {
            for reach in Reach::ALL {
                number += 1;
                list.push(hash(number), &acme, *reason, *reach, Timestamp::from_secs(1_780_000_000));
            }
        }
        list.sort();
        number = 0;
        for reason in Reason::ALL {
            for reach in Reach::ALL {
                number += 1;
                let found =
                    Found { reach: *reach, reason: *reason, since: Timestamp::from_secs(1_780_000_000) };
                assert_eq!(list.find(hash(number), &acme, |_| true), Some(found));
                let others = (*reach == Reach::Global).then_some(found);
                assert_eq!(list.find(hash(number), &bolt, |_| true), others);
            }
        }
        assert_eq!(list.len(), 21);
        assert!(list.memory_bytes() < 4 << 20, "{}", list.memory_bytes());
    }
}
