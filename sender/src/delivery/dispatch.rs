//! The dispatcher: one loop that moves due messages from lanes to sites. Each round is one durable mark.

use std::sync::Arc;
use std::time::Duration;

use sendlake_control::clock::Timestamp;

use super::Delivery;
use super::site::{Site, SiteKey};
use crate::spool::key::Lane;
use crate::spool::read::Due;
use crate::spool::{QueueEntry, SpoolError};

/// Most lanes looked at in one round.
const LANES_PER_ROUND: usize = 4_096;
/// Most messages marked in one round.
const MESSAGES_PER_ROUND: usize = 2_048;
/// Longest sleep when nothing is due: bounds the effect of a clock that jumps.
const SLEEP_MAX: Duration = Duration::from_secs(5);

impl Delivery {
    pub(super) async fn dispatch(self: &Arc<Self>) -> Result<(), SpoolError> {
        while !self.shutdown.is_cancelled() {
            let now = self.ids.now();
            for lane in self.spool.lanes().take_due(now, LANES_PER_ROUND) {
                self.place(lane).await;
            }
            let moved = self.round(now).await?;
            if moved > 0 {
                continue;
            }
            let wake_at = self.spool.lanes().next_due().into_iter().chain(self.next_resumption()).min();
            let sleep = wake_at.map_or(SLEEP_MAX, |at| {
                Duration::from_millis(u64::try_from(at.millis_since(now).max(0) + 1).unwrap_or(0))
                    .min(SLEEP_MAX)
            });
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = self.spool.lanes().changed() => {}
                () = self.room.notified() => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
        Ok(())
    }

    /// Hands a lane to its site. A domain that is not resolved yet is resolved aside, so that a slow name
    /// server holds up nobody else.
    async fn place(self: &Arc<Self>, lane: Lane) {
        let delivery = Arc::clone(self);
        let resolve = async move {
            let name = delivery.router.resolve(&lane.recipient_domain).await.ok().map(|found| found.site);
            let key = SiteKey { name, stream: lane.stream };
            delivery.site(key).enqueue(lane);
            delivery.room.notify_one();
        };
        // what is cached resolves at its first poll; the rest goes on by itself
        let mut resolve = Box::pin(resolve);
        if futures::poll!(resolve.as_mut()).is_pending() {
            self.spawn(resolve);
        }
    }

    fn site(&self, key: SiteKey) -> Arc<Site> {
        let mut sites = self.sites.lock();
        if sites.len() > 10_000 && !sites.contains_key(&key) {
            sites.retain(|_, site| !site.is_unused());
        }
        let site = || Arc::new(Site::new(key.clone(), self.settings.sessions_per_site_max));
        Arc::clone(sites.entry(key.clone()).or_insert_with(site))
    }

    fn next_resumption(&self) -> Option<Timestamp> {
        self.sites.lock().values().filter_map(|site| site.resumes_at()).min()
    }

    /// Fetches what the sites have room for, marks it, hands it over. Returns how many messages moved.
    async fn round(self: &Arc<Self>, now: Timestamp) -> Result<usize, SpoolError> {
        let sites: Vec<Arc<Site>> = self.sites.lock().values().cloned().collect();
        let mut batch: Vec<Due> = Vec::new();
        let mut parts: Vec<(Arc<Site>, usize)> = Vec::new();
        for site in sites {
            if batch.len() >= MESSAGES_PER_ROUND {
                self.room.notify_one(); // the next round goes on at once
                break;
            }
            let before = batch.len();
            for (lane, share) in site.wanted(now) {
                let (due, next) = self.spool.reader().due(&lane, now, share)?;
                batch.extend(due);
                match next {
                    Some(at) if at <= now => site.enqueue(lane),
                    Some(at) => self.spool.lanes().touch(&lane, at),
                    None => {}
                }
            }
            parts.push((site, batch.len() - before));
        }
        if batch.is_empty() {
            return Ok(0);
        }
        let sites_of: Vec<usize> = parts
            .iter()
            .enumerate()
            .flat_map(|(index, (_, count))| std::iter::repeat_n(index, *count))
            .collect();
        let wanted: Vec<_> = batch.iter().map(|due| due.entry.message_id).collect();
        let marked = self.spool.dispatch(batch).await?;
        let moved = marked.len();
        let mut shares: Vec<Vec<QueueEntry>> = parts.iter().map(|_| Vec::new()).collect();
        let mut marked = marked.into_iter().peekable();
        for (id, site) in wanted.into_iter().zip(sites_of) {
            // an operator may have taken some in between
            if let Some(entry) = marked.next_if(|entry| entry.message_id == id)
                && let Some(share) = shares.get_mut(site)
            {
                share.push(entry);
            }
        }
        for ((site, _), share) in parts.into_iter().zip(shares) {
            for _ in 0..site.push(share) {
                self.spawn_worker(&site);
            }
        }
        Ok(moved)
    }
}
