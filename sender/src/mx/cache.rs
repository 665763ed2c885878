//! Answers by name, each until its own instant, never more than a fixed number of them.

use std::collections::HashMap;

use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;

#[derive(Debug)]
pub(super) struct Cache<V> {
    entries_max: usize,
    entries: Mutex<HashMap<String, (Timestamp, V)>>,
}

impl<V: Clone> Cache<V> {
    pub(super) fn new(entries_max: usize) -> Self {
        Self { entries_max, entries: Mutex::new(HashMap::new()) }
    }

    pub(super) fn get(&self, key: &str, now: Timestamp) -> Option<V> {
        let entries = self.entries.lock();
        entries.get(key).filter(|(until, _)| now < *until).map(|(_, value)| value.clone())
    }

    pub(super) fn put(&self, key: String, value: V, now: Timestamp, until: Timestamp) {
        let mut entries = self.entries.lock();
        if entries.len() >= self.entries_max && !entries.contains_key(&key) {
            entries.retain(|_, (until, _)| now < *until);
            if entries.len() >= self.entries_max {
                // All are fresh: half of them go, so that the next clean-up is far away.
                let mut keep = false;
                entries.retain(|_, _| {
                    keep = !keep;
                    keep
                });
            }
        }
        entries.insert(key, (until, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_forgets_in_time_and_never_outgrows_its_limit() {
        let cache = Cache::new(10);
        let at = Timestamp::from_secs;
        cache.put("a".into(), 1, at(0), at(60));
        assert_eq!(cache.get("a", at(59)), Some(1));
        assert_eq!(cache.get("a", at(60)), None);
        for n in 0..1000 {
            cache.put(format!("k{n}"), n, at(100), at(200));
            assert_eq!(cache.get(&format!("k{n}"), at(100)), Some(n));
            assert!(cache.entries.lock().len() <= 10);
        }
    }
}
