//! What one request and one tenant may ask for.

use std::collections::HashMap;

use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use serde::Deserialize;

/// Limits of the send API. Each has a problem of its own.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiLimits {
    /// Of a request body, as it arrives.
    pub body_bytes: usize,
    /// Time for a whole request body to arrive.
    pub body_read_s: u64,
    /// Of one message as it is sent.
    pub message_bytes: usize,
    /// `to`, `cc` and `bcc` of one submission together.
    pub recipients: usize,
    /// In one batch request.
    pub batch_messages: usize,
    /// Of one message.
    pub attachments: usize,
    /// All attachments of one message together, decoded.
    pub attachment_bytes: usize,
    /// Fields in `headers` of one message.
    pub headers: usize,
    /// Names and values of `headers`, and the subject, together.
    pub header_bytes: usize,
    /// How far ahead `send_at` may lie.
    pub send_at_days: u32,
    /// What one tenant may submit in the long run, counted per recipient.
    pub messages_per_s: u32,
    /// What one tenant may submit at once after a pause.
    pub messages_burst: u32,
}

impl Default for ApiLimits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            body_bytes: 40 * MIB,
            body_read_s: 60,
            message_bytes: 35 * MIB,
            recipients: 1_000,
            batch_messages: 500,
            attachments: 100,
            attachment_bytes: 25 * MIB,
            headers: 100,
            header_bytes: 32 * 1024,
            send_at_days: 30,
            messages_per_s: 5_000,
            messages_burst: 50_000,
        }
    }
}

/// One token bucket per tenant: a message is a token.
#[derive(Debug)]
pub struct RateLimiter {
    per_s: f64,
    burst: f64,
    buckets: Mutex<Buckets>,
}

/// Full buckets are as good as none, and are thrown away each time the number of buckets has doubled: an installation-wide
/// key may name any tenant.
#[derive(Debug)]
struct Buckets {
    by_tenant: HashMap<TenantId, Bucket>,
    sweep_at: usize,
}

/// Fewer buckets than this are not worth a look.
const BUCKETS_UNSWEPT: usize = 1_024;

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Timestamp,
}

impl RateLimiter {
    pub fn new(limits: &ApiLimits) -> Self {
        Self {
            per_s: f64::from(limits.messages_per_s.max(1)),
            burst: f64::from(limits.messages_burst.max(1)),
            buckets: Mutex::new(Buckets { by_tenant: HashMap::new(), sweep_at: BUCKETS_UNSWEPT }),
        }
    }

    /// Takes `messages` tokens, or says after how many seconds a retry makes sense. A request larger than the
    /// burst passes when the bucket is full, and leaves a debt.
    pub fn take(&self, tenant: &TenantId, messages: usize, now: Timestamp) -> Result<(), u64> {
        let wanted = f64::from(u32::try_from(messages).unwrap_or(u32::MAX));
        let mut buckets = self.buckets.lock();
        if buckets.by_tenant.len() >= buckets.sweep_at && !buckets.by_tenant.contains_key(tenant) {
            buckets.by_tenant.retain(|_, bucket| self.tokens_now(bucket, now) < self.burst);
            buckets.sweep_at = BUCKETS_UNSWEPT.max(buckets.by_tenant.len().saturating_mul(2));
        }
        let bucket =
            buckets.by_tenant.entry(tenant.clone()).or_insert(Bucket { tokens: self.burst, filled_at: now });
        bucket.tokens = self.tokens_now(bucket, now);
        bucket.filled_at = now.max(bucket.filled_at);
        let missing = wanted.min(self.burst) - bucket.tokens;
        if missing > 0.0 {
            return Err(whole_seconds(missing / self.per_s));
        }
        bucket.tokens -= wanted;
        Ok(())
    }

    fn tokens_now(&self, bucket: &Bucket, now: Timestamp) -> f64 {
        let elapsed_ms = i32::try_from(now.millis_since(bucket.filled_at)).unwrap_or(i32::MAX).max(0);
        (bucket.tokens + self.per_s * f64::from(elapsed_ms) / 1_000.0).min(self.burst)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "both ends are clamped to what fits"
)]
fn whole_seconds(seconds: f64) -> u64 {
    seconds.ceil().clamp(1.0, 86_400.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter() -> RateLimiter {
        RateLimiter::new(&ApiLimits { messages_per_s: 10, messages_burst: 20, ..ApiLimits::default() })
    }

    #[test]
    fn burst_then_wait_then_go_on() {
        let (limiter, tenant, start) =
            (limiter(), TenantId::new("acme").unwrap(), Timestamp::from_secs(1_000));
        assert_eq!(limiter.take(&tenant, 20, start), Ok(()));
        assert_eq!(limiter.take(&tenant, 15, start), Err(2));
        assert_eq!(limiter.take(&tenant, 15, start.plus_millis(1_500)), Ok(()));
    }

    #[test]
    fn a_request_above_the_burst_passes_once_and_is_paid_for() {
        let (limiter, tenant, start) =
            (limiter(), TenantId::new("acme").unwrap(), Timestamp::from_secs(1_000));
        assert_eq!(limiter.take(&tenant, 50, start), Ok(()));
        assert_eq!(limiter.take(&tenant, 1, start), Err(4));
    }

    #[test]
    fn names_that_come_once_leave_nothing_behind_and_a_debt_is_not_forgotten() {
        let (limiter, debtor, start) = (limiter(), TenantId::new("debtor").unwrap(), Timestamp::from_secs(0));
        assert!(limiter.take(&debtor, 1_000_000, start).is_ok());
        for second in 0..20_000 {
            let name = TenantId::new(&format!("t{second}")).unwrap();
            assert!(limiter.take(&name, 20, Timestamp::from_secs(second)).is_ok());
        }
        assert!(limiter.buckets.lock().by_tenant.len() <= BUCKETS_UNSWEPT);
        assert!(limiter.take(&debtor, 1, Timestamp::from_secs(20_000)).is_err());
    }

    #[test]
    fn tenants_do_not_share_a_bucket() {
        let (limiter, start) = (limiter(), Timestamp::from_secs(1_000));
        assert!(limiter.take(&TenantId::new("a").unwrap(), 20, start).is_ok());
        assert!(limiter.take(&TenantId::new("b").unwrap(), 20, start).is_ok());
    }
}
