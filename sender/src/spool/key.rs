//! Keys of the queue: (recipient_domain, stream, tenant, next_attempt_at, message_id), in an order that a
//! B-tree keeps: one lane's messages lie together, the next one due first.

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use uuid::Uuid;

use crate::stream::Stream;

/// The messages of one tenant, in one stream, to one domain: what is served in turn.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane {
    /// ASCII, lower case; holds no NUL.
    pub recipient_domain: String,
    pub stream: Stream,
    pub tenant_id: TenantId,
}

const SUFFIX_BYTES: usize = 8 + 16;

impl Lane {
    fn prefix(&self) -> Vec<u8> {
        let mut key = Vec::with_capacity(
            self.recipient_domain.len() + self.tenant_id.as_str().len() + 3 + SUFFIX_BYTES,
        );
        key.extend_from_slice(self.recipient_domain.as_bytes());
        key.push(0);
        key.push(self.stream as u8);
        key.extend_from_slice(self.tenant_id.as_str().as_bytes());
        key.push(0);
        key
    }

    /// The key of one message of this lane.
    pub fn key(&self, next_attempt_at: Timestamp, message_id: Uuid) -> Vec<u8> {
        let mut key = self.prefix();
        key.extend_from_slice(&sortable(next_attempt_at));
        key.extend_from_slice(message_id.as_bytes());
        key
    }

    /// First key of the lane, and the first key past it.
    pub fn range(&self) -> (Vec<u8>, Vec<u8>) {
        let mut end = self.prefix();
        let start = end.clone();
        end.extend_from_slice(&[0xff; SUFFIX_BYTES + 1]);
        (start, end)
    }
}

/// Signed microseconds as bytes that sort like the numbers.
pub(super) fn sortable(at: Timestamp) -> [u8; 8] {
    (at.0.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

pub(super) fn unsortable(bytes: [u8; 8]) -> Timestamp {
    Timestamp((u64::from_be_bytes(bytes) ^ (1 << 63)).cast_signed())
}

/// A queue key taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueKey {
    pub lane: Lane,
    pub next_attempt_at: Timestamp,
    pub message_id: Uuid,
}

impl QueueKey {
    /// `None` when the bytes are no queue key: the store is damaged.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let (head, suffix) = key.split_at_checked(key.len().checked_sub(SUFFIX_BYTES)?)?;
        let (at, id) = suffix.split_first_chunk::<8>()?;
        let nul = head.iter().position(|&b| b == 0)?;
        let (domain, rest) = head.split_at_checked(nul)?;
        let [0, stream, tenant @ .., 0] = rest else { return None };
        Some(Self {
            lane: Lane {
                recipient_domain: std::str::from_utf8(domain).ok()?.to_owned(),
                stream: Stream::ALL.into_iter().find(|s| *s as u8 == *stream)?,
                tenant_id: TenantId::new(std::str::from_utf8(tenant).ok()?).ok()?,
            },
            next_attempt_at: unsortable(*at),
            message_id: Uuid::from_slice(id).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lane(domain: &str, tenant: &str) -> Lane {
        Lane {
            recipient_domain: domain.into(),
            stream: Stream::Marketing,
            tenant_id: TenantId::new(tenant).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn keys_come_back_and_sort_by_time(
            domain in "[a-z0-9.-]{1,40}", tenant in "[a-z0-9][a-z0-9-]{0,20}", a: i64, b: i64, id: u128
        ) {
            let lane = lane(&domain, &tenant);
            let id = Uuid::from_u128(id);
            let (ka, kb) = (lane.key(Timestamp(a), id), lane.key(Timestamp(b), id));
            prop_assert_eq!(a.cmp(&b), ka.cmp(&kb));
            let (start, end) = lane.range();
            prop_assert!(start <= ka && ka < end);
            let parsed = QueueKey::parse(&ka).unwrap();
            prop_assert_eq!(parsed, QueueKey { lane, next_attempt_at: Timestamp(a), message_id: id });
        }

        #[test]
        fn parse_takes_any_bytes(bytes: Vec<u8>) {
            let _ = QueueKey::parse(&bytes);
        }

        #[test]
        fn lanes_do_not_overlap(a in "[a-z0-9.]{1,6}", b in "[a-z0-9.]{1,6}", at: i64) {
            let (one, two) = (lane(&a, "t"), lane(&b, "t"));
            let (start, end) = one.range();
            let key = two.key(Timestamp(at), Uuid::nil());
            prop_assert_eq!(one == two, start <= key && key < end);
        }
    }
}
