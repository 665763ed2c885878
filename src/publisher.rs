//! Publishes the limits: evaluates the view `quotas` and writes the table that the sender obeys. The only way from
//! judging to sending. What cannot be judged leaves the last good limits in place.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::{Ids, TenantId};
use sendlake_ingest::event::{Event, EventType};
use sendlake_ingest::quotas::{PublishedQuotas, QuotaRow, QuotasTable};
use sendlake_query::QueryEngine;
use sendlake_query::publish::{Change, changes, differ, evaluate, half_gone, opens_review, policy_of};
use sendlake_sender::policy::limits::Limits;
use sendlake_sender::spool::Spool;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use crate::limits::TableLimits;

/// Rest between two evaluations, however often somebody asks.
const REST: Duration = Duration::from_millis(500);

/// After a view that failed.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// What an operator decides about an identity under review.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// The cut is lifted; complaints about mail delivered before no longer count.
    Approve,
    /// Nothing goes out until it is approved.
    Stop,
}

impl Decision {
    fn policy_id(self) -> &'static str {
        match self {
            Decision::Approve => "review_approved",
            Decision::Stop => "review_stopped",
        }
    }
}

/// Evaluates and publishes; one at a time.
pub struct Publisher {
    engine: Arc<QueryEngine>,
    table: Arc<QuotasTable>,
    limits: Arc<TableLimits>,
    spool: Arc<Spool>,
    ids: Ids,
    /// Longest time between two evaluations; zero for none but on demand.
    interval: Duration,
    /// What stands in the table. The lock is held from reading events to logging what came of it, so that a decision
    /// never falls between an evaluation and its events.
    published: Mutex<Option<PublishedQuotas>>,
    failing: AtomicBool,
    /// Wakes the publisher: a sending domain was added or changed.
    pub wake: Arc<Notify>,
}

/// What a call of [`Publisher::publish`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publication {
    /// The version that stands now; none when there is nothing to publish.
    pub version: Option<u64>,
    /// Whether this call wrote it.
    pub written: bool,
    /// Limits that changed in state or number.
    pub changes: usize,
}

impl Publisher {
    pub fn new(
        engine: Arc<QueryEngine>,
        table: Arc<QuotasTable>,
        limits: Arc<TableLimits>,
        spool: Arc<Spool>,
        ids: Ids,
        interval: Duration,
    ) -> Self {
        Self {
            engine,
            table,
            limits,
            spool,
            ids,
            interval,
            published: Mutex::new(None),
            failing: AtomicBool::new(false),
            wake: Arc::new(Notify::new()),
        }
    }

    /// Publishes at start, on the interval, when feedback came, when sending domains changed, and when the sender met an
    /// identity that was not judged, until `stop`.
    pub async fn run(self: Arc<Self>, feedback_arrived: Arc<Notify>, stop: CancellationToken) {
        if self.interval.is_zero() {
            return;
        }
        loop {
            let wait = match self.publish().await {
                Ok(_) => self.interval,
                Err(_) => RETRY_AFTER.min(self.interval),
            };
            let rest = async {
                tokio::time::sleep(REST).await;
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = self.wake.notified() => {}
                    () = feedback_arrived.notified() => {}
                    () = self.limits.asked() => {}
                }
            };
            if stop.run_until_cancelled(rest).await.is_none() {
                return;
            }
        }
    }

    /// Evaluates now, and publishes if the sender would notice or half of the validity is gone. An error is told once an
    /// outage, and the last good limits stand.
    pub async fn publish(&self) -> anyhow::Result<Publication> {
        let mut published = self.published.lock().await;
        let result = self.publish_locked(&mut published, self.ids.now()).await;
        self.tell(result.as_ref().err());
        result
    }

    fn tell(&self, error: Option<&anyhow::Error>) {
        match error {
            Some(error) if !self.failing.swap(true, Ordering::Relaxed) => tracing::error!(
                error = format!("{error:#}"),
                "limits could not be judged: the last good ones stand until they are stale, and then hold marketing and cold mail"
            ),
            None if self.failing.swap(false, Ordering::Relaxed) => {
                tracing::info!("limits are judged again");
            }
            _ => {}
        }
    }

    async fn publish_locked(
        &self,
        published: &mut Option<PublishedQuotas>,
        at: Timestamp,
    ) -> anyhow::Result<Publication> {
        // another process may have published: its rows are what the next ones are held against
        let version = self.table.latest_version().await.context("the published limits cannot be read")?;
        if published.as_ref().map(|known| known.version) != version {
            *published = self.table.load().await.context("the published limits cannot be read")?;
        }
        let mut rows = evaluate(&self.engine, at).await?;
        self.outlive_the_interval(&mut rows);
        let old: &[QuotaRow] = published.as_ref().map_or(&[], |known| &known.rows);
        let news = changes(old, &rows);
        let must_open = |row: &&QuotaRow| {
            opens_review(row) && !news.iter().any(|change| change.new.is_some_and(|new| new == *row))
        };
        let reopened: Vec<Change<'_>> =
            rows.iter().filter(must_open).map(|row| Change { old: Some(row), new: Some(row) }).collect();
        let stands = published.as_ref().map(|known| known.version);
        let write = differ(old, &rows) || half_gone(old, at);
        let version = if write {
            Some(self.table.publish(&rows).await.context("limits cannot be published")?)
        } else {
            stands
        };
        let told: Vec<Event> =
            news.iter().chain(&reopened).filter_map(|change| self.event(*change, version)).collect();
        let changes = news.len();
        if !told.is_empty() {
            self.spool.log(&told).await?;
        }
        if let Some(version) = version.filter(|_| write) {
            tracing::info!(version, limits = rows.len(), changes, "limits published");
            self.limits.look().await;
            *published = Some(PublishedQuotas { version, rows });
        }
        Ok(Publication { version, written: write, changes })
    }

    /// A row holds for ten intervals at least: one missed evaluation must not stop mail.
    fn outlive_the_interval(&self, rows: &mut [QuotaRow]) {
        let least_s = i64::try_from(self.interval.as_secs().saturating_mul(10)).unwrap_or(i64::MAX);
        for row in rows {
            row.valid_until = row.valid_until.max(row.as_of.plus_secs(least_s));
        }
    }

    fn event(&self, change: Change<'_>, version: Option<u64>) -> Option<Event> {
        let row = change.row()?;
        let tenant = TenantId::new(&row.tenant_id).unwrap_or_else(|_| TenantId::platform());
        let mut event = Event::new(self.ids.uuid(), EventType::QuotaChanged, self.ids.now(), tenant);
        event.stream = Some(row.stream.clone());
        event.header_from_domain = Some(row.identity.clone());
        event.provider = Some(row.provider.clone());
        event.policy_id = Some(match change.new {
            Some(new) => policy_of(new),
            None => "ended".to_owned(),
        });
        event.hold_reason = Some(match change.new {
            Some(new) => new.reason.clone(),
            None => "no limit applies any more".to_owned(),
        });
        event.quota_version = version.and_then(|version| i64::try_from(version).ok());
        let inputs = serde_json::from_str::<serde_json::Value>(&row.inputs).unwrap_or_default();
        let detail = json!({
            "old_state": change.old.map(|row| &row.state),
            "new_state": change.new.map(|row| &row.state),
            "old_limit": change.old.and_then(|row| row.limit_messages),
            "new_limit": change.new.and_then(|row| row.limit_messages),
            "window_s": row.window_s,
            "inputs": inputs,
        });
        event.detail = Some(detail.to_string());
        Some(event)
    }

    /// Whether a review of this stream and domain is open or was stopped: what an approval may be about.
    pub async fn in_review(&self, tenant: &TenantId, stream: &str, domain: &str) -> anyhow::Result<bool> {
        let quoted = |text: &str| text.replace('\'', "''");
        let sql = format!(
            "SELECT 1 FROM reviews WHERE stream = '{}' AND sending_domain = '{}' AND state <> 'approved'",
            quoted(stream),
            quoted(domain)
        );
        let scope = sendlake_query::Scope::Tenant(tenant.clone());
        let found = self.engine.query(&scope, &sql, self.engine.limits().query).await?;
        Ok(found.num_rows() > 0)
    }

    /// Logs an operator's decision about an identity, and publishes what follows from it.
    pub async fn decide(
        &self,
        tenant: &TenantId,
        stream: &str,
        domain: &str,
        decision: Decision,
        reason: &str,
    ) -> anyhow::Result<Publication> {
        let mut published = self.published.lock().await;
        let now = self.ids.now();
        let mut event = Event::new(self.ids.uuid(), EventType::QuotaChanged, now, tenant.clone());
        event.stream = Some(stream.to_owned());
        event.header_from_domain = Some(domain.to_owned());
        event.provider = Some("*".to_owned());
        event.policy_id = Some(decision.policy_id().to_owned());
        event.hold_reason = Some(reason.to_owned());
        self.spool.log(&[event]).await?;
        let result = self.publish_locked(&mut published, self.ids.now()).await;
        self.tell(result.as_ref().err());
        result
    }
}

#[cfg(test)]
mod tests;
