//! Where limits come from: a narrow trait between the sender and the published table.

use std::sync::Arc;

use async_trait::async_trait;
use sendlake_control::clock::Timestamp;

use super::snapshot::QuotaSnapshot;

/// Keeps a copy of the published limits. No batch starts on a look at the table that is older than a second.
#[async_trait]
pub trait Limits: Send + Sync {
    /// The newest version known. A version that cannot be read leaves the last one in force.
    fn current(&self) -> Arc<QuotaSnapshot>;

    /// When the table was last looked at, with or without success.
    fn looked_at(&self) -> Timestamp;

    /// Looks at the table now. Never takes longer than about a second.
    async fn look(&self);

    /// Resolves when there is another version than the last one that this resolved for.
    async fn changed(&self);

    /// Mail waits for a sending domain that no publication knows: please judge.
    fn ask(&self);
}

/// Limits that never change: none at all, or those of a test.
pub struct FixedLimits(Arc<QuotaSnapshot>);

impl FixedLimits {
    pub fn new(snapshot: QuotaSnapshot) -> Self {
        Self(Arc::new(snapshot))
    }

    /// Lets everything out.
    pub fn off() -> Self {
        Self::new(QuotaSnapshot::off())
    }
}

#[async_trait]
impl Limits for FixedLimits {
    fn current(&self) -> Arc<QuotaSnapshot> {
        Arc::clone(&self.0)
    }

    fn looked_at(&self) -> Timestamp {
        Timestamp(i64::MAX)
    }

    async fn look(&self) {}

    async fn changed(&self) {
        std::future::pending().await
    }

    fn ask(&self) {}
}
