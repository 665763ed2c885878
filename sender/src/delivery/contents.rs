//! The contents of the submissions that were last sent from: so many of them, in so many bytes together.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use uuid::Uuid;

/// The oldest goes first. The newest is kept whatever its size: its other recipients are next.
pub(super) struct Contents<T> {
    contents_max: usize,
    bytes_max: usize,
    bytes: usize,
    by_submission: HashMap<Uuid, (Arc<T>, usize)>,
    order: VecDeque<Uuid>,
}

impl<T> Contents<T> {
    pub fn new(contents_max: usize, bytes_max: usize) -> Self {
        Self { contents_max, bytes_max, bytes: 0, by_submission: HashMap::new(), order: VecDeque::new() }
    }

    pub fn get(&self, submission_id: Uuid) -> Option<Arc<T>> {
        self.by_submission.get(&submission_id).map(|(content, _)| Arc::clone(content))
    }

    /// Keeps a content of so many bytes. Two sessions may both have read it: either will do.
    pub fn keep(&mut self, submission_id: Uuid, content: Arc<T>, bytes: usize) {
        if self.by_submission.contains_key(&submission_id) {
            return;
        }
        self.by_submission.insert(submission_id, (content, bytes));
        self.order.push_back(submission_id);
        self.bytes = self.bytes.saturating_add(bytes);
        while (self.bytes > self.bytes_max || self.order.len() > self.contents_max)
            && self.order.len() > 1
            && let Some(oldest) = self.order.pop_front()
            && let Some((_, bytes)) = self.by_submission.remove(&oldest)
        {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Uuid {
        Uuid::from_u128(number as u128)
    }

    #[test]
    fn large_contents_push_out_older_ones_before_they_fill_the_memory() {
        let mut contents = Contents::new(64, 100);
        for number in 0..1_000 {
            contents.keep(id(number), Arc::new(number), 30);
            assert_eq!(contents.get(id(number)).as_deref(), Some(&number));
        }
        let kept = contents.by_submission.values().map(|(_, bytes)| bytes).sum::<usize>();
        assert_eq!((kept, contents.bytes, contents.order.len()), (90, 90, 3));
        assert!(contents.get(id(996)).is_none() && contents.get(id(997)).is_some());
    }

    #[test]
    fn small_contents_are_kept_up_to_a_number() {
        let mut contents = Contents::new(2, 100);
        for number in 0..10 {
            contents.keep(id(number), Arc::new(number), 1);
        }
        assert_eq!((contents.by_submission.len(), contents.order.len(), contents.bytes), (2, 2, 2));
    }

    #[test]
    fn one_content_above_the_bound_is_there_for_its_next_recipient_and_then_goes() {
        let mut contents = Contents::new(64, 100);
        contents.keep(id(1), Arc::new("large"), 5_000);
        contents.keep(id(1), Arc::new("read twice"), 5_000);
        assert_eq!(contents.get(id(1)).as_deref(), Some(&"large"));
        contents.keep(id(2), Arc::new("small"), 10);
        assert_eq!((contents.get(id(1)), contents.bytes), (None, 10));
    }
}
