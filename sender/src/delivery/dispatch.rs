//! The dispatcher: one loop that moves due messages from lanes to sites. Each round is one durable mark.

use std::sync::Arc;
use std::time::Duration;

use sendlake_control::clock::Timestamp;

use super::Delivery;
use super::site::{Site, SiteKey};
use crate::spool::key::Lane;
use crate::spool::work::Decided;
use crate::spool::{QueueEntry, SpoolError};

/// Most lanes looked at in one round.
const LANES_PER_ROUND: usize = 4_096;
/// Most messages marked in one round.
const MESSAGES_PER_ROUND: usize = 2_048;
/// Longest sleep when nothing is due: bounds the effect of a clock that jumps.
const SLEEP_MAX: Duration = Duration::from_secs(5);

impl Delivery {
    pub(super) async fn dispatch(self: &Arc<Self>) -> Result<(), SpoolError> {
        let now = self.ids.now();
        self.gate.start(self.spool.reader().usage(now)?, now);
        while !self.shutdown.is_cancelled() {
            let now = self.ids.now();
            if self.gate.renew(now).await {
                self.spool.held().look_at_all(now);
            }
            let let_go = self.look_at_held(now).await?;
            for lane in self.spool.lanes().take_due(now, LANES_PER_ROUND) {
                self.place(lane).await;
            }
            let moved = self.round(now).await?;
            if moved + let_go > 0 {
                continue;
            }
            let wake_ats =
                [self.spool.lanes().next_due(), self.spool.held().next_look(), self.next_resumption()];
            let wake_at = wake_ats.into_iter().flatten().min();
            let sleep = wake_at.map_or(SLEEP_MAX, |at| {
                Duration::from_millis(u64::try_from(at.millis_since(now).max(0) + 1).unwrap_or(0))
                    .min(SLEEP_MAX)
            });
            tokio::select! {
                () = self.shutdown.cancelled() => {}
                () = self.spool.lanes().changed() => {}
                () = self.room.notified() => {}
                () = self.gate.changed() => {}
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
            let found = delivery.router.resolve(&lane.recipient_domain).await.ok();
            let (name, provider) = found.map(|found| (found.site, found.provider)).unzip();
            let key = SiteKey { name, stream: lane.stream };
            delivery.site(key, provider).enqueue(lane);
            delivery.room.notify_one();
        };
        // what is cached resolves at its first poll; the rest goes on by itself
        let mut resolve = Box::pin(resolve);
        if futures::poll!(resolve.as_mut()).is_pending() {
            self.spawn(resolve);
        }
    }

    fn site(&self, key: SiteKey, provider: Option<String>) -> Arc<Site> {
        let site = || Site::new(key.clone(), provider, self.settings.sessions_per_site_max);
        self.sites.lock().get(&key, self.ids.now(), site)
    }

    fn next_resumption(&self) -> Option<Timestamp> {
        self.sites.lock().all().filter_map(|site| site.resumes_at()).min()
    }

    /// Fetches what the sites have room for, asks suppressions and limits, marks what may be sent and hands it
    /// over. Returns how many messages moved.
    async fn round(self: &Arc<Self>, now: Timestamp) -> Result<usize, SpoolError> {
        let sites: Vec<Arc<Site>> = self.sites.lock().all().cloned().collect();
        let mut batch: Vec<Decided> = Vec::new();
        let mut parts: Vec<(Arc<Site>, usize)> = Vec::new();
        for site in sites {
            if batch.len() >= MESSAGES_PER_ROUND {
                self.room.notify_one(); // the next round goes on at once
                break;
            }
            let before = batch.len();
            for (lane, share) in site.wanted(now) {
                let (due, next) = self.spool.reader().due(&lane, now, share)?;
                batch.extend(due.into_iter().map(|due| self.gate.judge(due, site.provider(), now)));
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
        let wanted: Vec<_> = batch.iter().map(|decided| decided.due.entry.message_id).collect();
        let moved = batch.len();
        let done = self.spool.dispatch(batch).await?;
        self.gate.give_back(&done.missed);
        let marked = done.marked;
        let mut shares: Vec<Vec<QueueEntry>> = parts.iter().map(|_| Vec::new()).collect();
        let mut marked = marked.into_iter().peekable();
        for (id, site) in wanted.into_iter().zip(sites_of) {
            // limits may hold some, and an operator may have taken some in between
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
