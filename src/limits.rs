//! The published limits in memory: the lake's `quotas` table, looked at twice a second.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use sendlake_control::clock::{Clock, Timestamp};
use sendlake_ingest::quotas::QuotasTable;
use sendlake_ingest::table::LakeError;
use sendlake_sender::policy::limits::Limits;
use sendlake_sender::policy::snapshot::QuotaSnapshot;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A slow lake must not hold up mail for longer: the last good limits stand until they go stale.
const LOOK_MAX: Duration = Duration::from_secs(1);

/// A copy of the newest publication.
pub struct TableLimits {
    table: Arc<QuotasTable>,
    clock: Arc<dyn Clock>,
    enforce: bool,
    current: ArcSwap<QuotaSnapshot>,
    /// Version of the table that `current` was made of.
    known: AtomicU64,
    looked_at: AtomicI64,
    looking: tokio::sync::Mutex<()>,
    /// Whether the last look failed: each outage is told once.
    failing: AtomicBool,
    changed: Notify,
    asked: Notify,
}

impl TableLimits {
    /// Nothing is known before the first [`Limits::look`]. Without `enforce` nothing ever is.
    pub fn new(table: Arc<QuotasTable>, clock: Arc<dyn Clock>, enforce: bool) -> Self {
        let first = if enforce { QuotaSnapshot::missing() } else { QuotaSnapshot::off() };
        Self {
            table,
            clock,
            enforce,
            current: ArcSwap::from_pointee(first),
            known: AtomicU64::new(0),
            looked_at: AtomicI64::new(i64::MIN),
            looking: tokio::sync::Mutex::default(),
            failing: AtomicBool::default(),
            changed: Notify::new(),
            asked: Notify::new(),
        }
    }

    /// Resolves when mail waits for a sending domain that no publication knows: the publisher's cue.
    pub async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Keeps looking until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            self.look().await;
        }
    }

    async fn read(&self) -> Result<(), LakeError> {
        let _turn = self.looking.lock().await;
        let known = self.known.load(Ordering::Acquire);
        if !self.table.is_newer_than(known).await? {
            return Ok(());
        }
        let published = self.table.load().await?;
        let version = match &published {
            Some(published) => published.version,
            None => self.table.latest_version().await?.unwrap_or(known),
        };
        self.current.store(Arc::new(QuotaSnapshot::compile(published.as_ref())));
        self.known.store(version, Ordering::Release);
        self.changed.notify_one();
        Ok(())
    }
}

#[async_trait]
impl Limits for TableLimits {
    fn current(&self) -> Arc<QuotaSnapshot> {
        self.current.load_full()
    }

    fn looked_at(&self) -> Timestamp {
        Timestamp(self.looked_at.load(Ordering::Acquire))
    }

    async fn look(&self) {
        if self.enforce {
            let failure = match tokio::time::timeout(LOOK_MAX, self.read()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("the lake did not answer within {} s", LOOK_MAX.as_secs())),
            };
            let was_failing = self.failing.swap(failure.is_some(), Ordering::AcqRel);
            match failure {
                Some(error) if !was_failing => {
                    tracing::warn!(%error, "the limits cannot be read; the last ones stand until they go stale");
                }
                None if was_failing => tracing::info!("the limits can be read again"),
                _ => {}
            }
        }
        self.looked_at.fetch_max(self.clock.now().0, Ordering::AcqRel);
    }

    async fn changed(&self) {
        self.changed.notified().await;
    }

    fn ask(&self) {
        self.asked.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use sendlake_control::clock::ManualClock;
    use sendlake_ingest::quotas::QuotaRow;
    use sendlake_ingest::store::open_store;

    use super::*;

    fn row() -> QuotaRow {
        QuotaRow {
            tenant_id: "acme".into(),
            stream: "*".into(),
            identity_kind: "sending_domain".into(),
            identity: "acme.example".into(),
            provider: "*".into(),
            window_s: 86_400,
            limit_messages: Some(5),
            state: "normal".into(),
            reason: "a test".into(),
            inputs: "{}".into(),
            view_version: "1".into(),
            as_of: Timestamp(0),
            valid_until: Timestamp(i64::MAX),
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_publication_is_in_force_after_the_next_look_and_a_look_is_remembered() {
        let store = open_store("memory://", &Default::default()).unwrap();
        let table = Arc::new(QuotasTable::open(&store).await.unwrap());
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(100)));
        let limits = TableLimits::new(table.clone(), clock.clone(), true);
        limits.look().await;
        assert_eq!((limits.current().version, limits.looked_at()), (None, Timestamp::from_secs(100)));

        let version = table.publish(&[row()]).await.unwrap();
        clock.advance_millis(500);
        limits.look().await;
        limits.changed().await;
        assert_eq!(limits.current().version, Some(version));
        let same = limits.current();
        limits.look().await;
        assert!(Arc::ptr_eq(&same, &limits.current()), "nothing new, nothing compiled");

        table.publish(&[]).await.unwrap();
        limits.look().await;
        assert_eq!(limits.current().version, None, "a publication without rows is none");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn switched_off_nothing_is_read() {
        let store = open_store("memory://", &Default::default()).unwrap();
        let table = Arc::new(QuotasTable::open(&store).await.unwrap());
        table.publish(&[row()]).await.unwrap();
        let limits = TableLimits::new(table, Arc::new(ManualClock::new(Timestamp(7))), false);
        limits.look().await;
        assert!(!limits.current().enforced);
        assert_eq!(limits.looked_at(), Timestamp(7));
    }
}
