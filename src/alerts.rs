//! What somebody should look at: the view `alerts`, asked again and again, and an event and a line in the log whenever a row
//! comes or goes. Nothing is decided here; the view has the thresholds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sendlake_control::ControlStore;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::{Ids, TenantId};
use sendlake_ingest::event::{Event, EventType};
use sendlake_query::output::{Format, to_bytes};
use sendlake_query::{Instants, QueryEngine, QueryLimits};
use sendlake_sender::spool::Spool;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

const ALERTS: &str =
    "SELECT alert_id, severity, kind, tenant_id, subject, value, threshold, reason, advice FROM alerts";
const TOLD: &str = "SELECT event_type, tenant_id, detail FROM events \
    WHERE event_type IN ('alert_raised', 'alert_cleared') ORDER BY recorded_at, event_id";
/// An alert is over when it was not there for so long: one that comes and goes is told once.
const CLEARED_AFTER_S: i64 = 600;
/// How far back the view and the events that tell of it are read, in days.
const DAYS_BACK: i32 = 92;
const LIMITS: QueryLimits =
    QueryLimits { time: Duration::from_secs(120), memory_bytes: 1 << 30, rows: 100_000 };

/// A row of the view, as events keep it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// The same for the same kind, tenant and subject.
    pub alert_id: String,
    pub severity: String,
    pub kind: String,
    pub tenant_id: TenantId,
    pub subject: String,
    pub value: f64,
    pub threshold: f64,
    pub reason: String,
    pub advice: String,
}

/// What changed with one look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub raised: usize,
    pub cleared: usize,
}

/// Looks for alerts. Share it in an [`Arc`].
pub struct Alerts {
    engine: Arc<QueryEngine>,
    control: Arc<ControlStore>,
    spool: Arc<Spool>,
    ids: Ids,
    /// Between two looks; zero for none but on demand.
    interval: Duration,
    /// Those that were raised and not cleared, each with when it was last there; unknown before the first look.
    standing: Mutex<Option<BTreeMap<String, (Alert, Timestamp)>>>,
    failing: AtomicBool,
}

impl Alerts {
    pub fn new(
        engine: Arc<QueryEngine>,
        control: Arc<ControlStore>,
        spool: Arc<Spool>,
        ids: Ids,
        interval: Duration,
    ) -> Self {
        Self {
            engine,
            control,
            spool,
            ids,
            interval,
            standing: Mutex::default(),
            failing: AtomicBool::new(false),
        }
    }

    /// Looks on the interval, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        if self.interval.is_zero() {
            return;
        }
        while stop.run_until_cancelled(tokio::time::sleep(self.interval)).await.is_some() {
            match self.look().await {
                Ok(_) => self.failing.store(false, Ordering::Relaxed),
                Err(error) if !self.failing.swap(true, Ordering::Relaxed) => tracing::warn!(
                    error = format!("{error:#}"),
                    "alerts cannot be judged; those that stand stay"
                ),
                Err(_) => {}
            }
        }
    }

    /// Evaluates the view now, and tells what came and what went. What was told before a restart is not told again.
    pub async fn look(&self) -> anyhow::Result<Changes> {
        let mut standing = self.standing.lock().await;
        let mut known = match standing.take() {
            Some(known) => known,
            None => self.told().await?,
        };
        let done = self.compare(&mut known).await;
        *standing = Some(known);
        done
    }

    async fn compare(&self, known: &mut BTreeMap<String, (Alert, Timestamp)>) -> anyhow::Result<Changes> {
        let now = self.ids.now();
        let found: Vec<Alert> = self.ask(ALERTS).await?;
        let mut changes = Changes::default();
        for alert in found {
            let is_new = !known.contains_key(&alert.alert_id);
            if is_new {
                self.log(EventType::AlertRaised, &alert).await?;
                tracing::warn!(
                    alert = alert.alert_id,
                    severity = alert.severity,
                    "{}: {}",
                    alert.reason,
                    alert.advice
                );
                changes.raised += 1;
            }
            known.insert(alert.alert_id.clone(), (alert, now));
        }
        let is_over = |seen: &Timestamp| now.millis_since(*seen) >= CLEARED_AFTER_S * 1_000;
        let over: Vec<Alert> =
            known.values().filter(|(_, seen)| is_over(seen)).map(|(alert, _)| alert.clone()).collect();
        for alert in over {
            self.log(EventType::AlertCleared, &alert).await?;
            tracing::info!(alert = alert.alert_id, "the alert is over");
            known.remove(&alert.alert_id);
            changes.cleared += 1;
        }
        Ok(changes)
    }

    /// Those that events say were raised and not cleared.
    async fn told(&self) -> anyhow::Result<BTreeMap<String, (Alert, Timestamp)>> {
        #[derive(Deserialize)]
        struct Told {
            event_type: String,
            tenant_id: TenantId,
            detail: String,
        }
        let now = self.ids.now();
        let mut standing = BTreeMap::new();
        for told in self.ask::<Told>(TOLD).await? {
            let mut detail: Value = serde_json::from_str(&told.detail).unwrap_or_default();
            if let Some(detail) = detail.as_object_mut() {
                detail.insert("tenant_id".into(), told.tenant_id.as_str().into());
            }
            // a later version may say more or other things: what cannot be read is raised anew
            let Ok(alert) = serde_json::from_value::<Alert>(detail) else { continue };
            if told.event_type == EventType::AlertRaised.as_str() {
                standing.insert(alert.alert_id.clone(), (alert, now));
            } else {
                standing.remove(&alert.alert_id);
            }
        }
        Ok(standing)
    }

    async fn log(&self, event_type: EventType, alert: &Alert) -> anyhow::Result<()> {
        let mut event = Event::new(self.ids.uuid(), event_type, self.ids.now(), alert.tenant_id.clone());
        let mut detail = serde_json::to_value(alert)?;
        if let Some(detail) = detail.as_object_mut() {
            detail.remove("tenant_id");
        }
        event.detail = Some(detail.to_string());
        self.control.ensure_data_key(&alert.tenant_id).await?;
        self.spool.log(&[event]).await?;
        Ok(())
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, sql: &str) -> anyhow::Result<Vec<T>> {
        #[derive(Deserialize)]
        struct Rows<T> {
            rows: Vec<T>,
        }
        let now = self.ids.now();
        let instants = Instants { as_of: vec![now], since_day: Some(now.days().saturating_sub(DAYS_BACK)) };
        let output = self.engine.judge(sql, LIMITS, instants).await?;
        Ok(serde_json::from_slice::<Rows<T>>(&to_bytes(&output, Format::Json)?)?.rows)
    }
}

#[cfg(test)]
mod tests {
    use sendlake_control::clock::{ManualClock, SeededEntropy};

    use super::*;
    use crate::config::Config;
    use crate::node::Node;

    const NOON: Timestamp = Timestamp(1_772_323_200_000_000);

    async fn opened(dir: &tempfile::TempDir, clock: &Arc<ManualClock>, seed: u64) -> Node {
        let mut config = Config::default();
        config.storage.dir = dir.path().join("data");
        let ids = Ids { clock: clock.clone(), entropy: Arc::new(SeededEntropy::new(seed)) };
        loop {
            match Node::open(config.clone(), ids.clone()).await {
                Ok(node) => return node,
                // the one before is about to let go of its store
                Err(error) if format!("{error:#}").contains("in use") => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error:#}"),
            }
        }
    }

    fn told(node: &Node) -> Vec<(EventType, String)> {
        let rows = node.spool.reader().events(0, 1_000).unwrap().into_iter().map(|row| row.event);
        let rows = rows.filter(|event| event.detail.as_deref().is_some_and(|it| it.contains("alert_id")));
        rows.map(|event| (event.event_type, event.tenant_id.to_string())).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_alert_is_told_once_through_restarts_and_cleared_when_it_stays_away() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(NOON));
        let node = opened(&dir, &clock, 1).await;
        let acme = TenantId::new("acme").unwrap();
        node.control.create_tenant("cli", &acme, "Acme").await.unwrap();
        assert_eq!(node.alerts.look().await.unwrap(), Changes::default());
        let unread = |_| {
            let mut event =
                Event::new(node.ids.uuid(), EventType::ReportQuarantined, node.ids.now(), acme.clone());
            event.detail = Some("{\"kind\":\"mail\"}".into());
            event
        };
        node.spool.log(&(0..20).map(unread).collect::<Vec<_>>()).await.unwrap();
        assert_eq!(node.alerts.look().await.unwrap(), Changes { raised: 1, cleared: 0 });
        assert_eq!(node.alerts.look().await.unwrap(), Changes::default(), "it stands");
        drop(node);

        let node = opened(&dir, &clock, 2).await;
        assert_eq!(node.alerts.look().await.unwrap(), Changes::default(), "it was told before");
        clock.advance_millis(86_400_000 + 1_000);
        assert_eq!(node.alerts.look().await.unwrap(), Changes { raised: 0, cleared: 1 });
        let acme = || "acme".to_owned();
        assert_eq!(told(&node), [(EventType::AlertRaised, acme()), (EventType::AlertCleared, acme())]);
        assert_eq!(node.alerts.look().await.unwrap(), Changes::default());
    }
}
