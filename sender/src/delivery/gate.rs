//! The gate before each batch: suppressions first, then limits. Turns verdicts into decisions that the spool
//! carries out, with the events that say why.

use std::sync::Arc;

use parking_lot::Mutex;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::Ids;
use sendlake_ingest::event::{Event, EventType};
use serde_json::json;

use super::{DeliveryParts, DeliverySettings};
use crate::identity::Identities;
use crate::policy::limits::Limits;
use crate::policy::snapshot::QuotaSnapshot;
use crate::policy::usage::{Counted, Ledger, Scope, hour_of};
use crate::policy::{Hold, HoldKind, Verdict, decide};
use crate::spool::held::HeldLane;
use crate::spool::read::Due;
use crate::spool::work::{Decided, Fate};
use crate::spool::{Held, QueueEntry};
use crate::stream::Stream;
use crate::suppression::{Suppressed, Suppressions};

/// No batch starts on a look at the limits that is older than this.
const LOOK_MAX_AGE_MS: i64 = 1_000;

/// Mail that waits for a complete list of suppressions is looked at again after this.
const INCOMPLETE_LOOK_S: i64 = 5;

pub(super) struct Gate {
    limits: Arc<dyn Limits>,
    suppressions: Arc<dyn Suppressions>,
    identities: Arc<dyn Identities>,
    ids: Ids,
    settings: DeliverySettings,
    book: Mutex<Book>,
}

/// A held message goes on waiting.
pub(super) struct Stay {
    pub until: Timestamp,
    /// Why, when it was told something else.
    pub news: Option<Hold>,
}

/// The limits in force for this batch, and what they have let out.
#[derive(Default)]
struct Book {
    limits: Arc<QuotaSnapshot>,
    ledger: Ledger,
}

impl Gate {
    pub fn new(parts: &DeliveryParts) -> Self {
        Self {
            limits: Arc::clone(&parts.limits),
            suppressions: Arc::clone(&parts.suppressions),
            identities: Arc::clone(&parts.identities),
            ids: parts.ids.clone(),
            settings: parts.settings.clone(),
            book: Mutex::default(),
        }
    }

    /// Takes over what was counted before this start.
    pub fn start(&self, usage: Vec<(Counted, u64)>, now: Timestamp) {
        let limits = self.limits.current();
        let mut ledger = Ledger::new(usage);
        ledger.adopt(&limits, now);
        *self.book.lock() = Book { limits, ledger };
    }

    /// Makes sure that the limits were looked at within the last second. True when there are new ones.
    pub async fn renew(&self, now: Timestamp) -> bool {
        if now.millis_since(self.limits.looked_at()) > LOOK_MAX_AGE_MS {
            self.limits.look().await;
        }
        let newest = self.limits.current();
        let mut book = self.book.lock();
        if Arc::ptr_eq(&newest, &book.limits) {
            return false;
        }
        for sentence in &newest.refused {
            tracing::error!(version = newest.version, "a published limit cannot be obeyed: {sentence}");
        }
        book.ledger.adopt(&newest, now);
        book.limits = newest;
        true
    }

    /// Resolves when there are new limits to look at.
    pub async fn changed(&self) {
        self.limits.changed().await;
    }

    pub fn suppressed(&self, entry: &QueueEntry) -> Option<Suppressed> {
        self.suppressions.find(&entry.tenant_id, entry.stream, &entry.recipient)
    }

    /// Why marketing and cold mail waits, whoever it is for.
    fn incomplete(&self, entry: &QueueEntry, now: Timestamp) -> Option<Hold> {
        let cause = self.suppressions.incomplete().filter(|_| entry.stream != Stream::Transactional)?;
        Some(Hold::suppressions_incomplete(cause, now.plus_secs(INCOMPLETE_LOOK_S)))
    }

    /// Decides over a message that is due. Without a `provider` no host takes its mail: it fails without an
    /// attempt that any limit counts.
    pub fn judge(&self, mut due: Due, provider: Option<&str>, now: Timestamp) -> Decided {
        if let Some(suppressed) = self.suppressed(&due.entry) {
            return self.end_suppressed(due, &suppressed, now);
        }
        let Some(provider) = provider else {
            return Decided { due, fate: Fate::Send, count: None, uncount: None, event: None };
        };
        let scope = self.scope(&due.entry, provider);
        if let Some(hold) = self.incomplete(&due.entry, now) {
            let uncount = self.uncounted(&mut due.entry);
            return self.hold(due, scope, &hold, uncount, now);
        }
        self.weigh(due, scope, now)
    }

    fn weigh(&self, mut due: Due, scope: Scope, now: Timestamp) -> Decided {
        let entry = &mut due.entry;
        let mut book = self.book.lock();
        let Book { limits, ledger } = &mut *book;
        let is_counted = entry
            .counted
            .as_ref()
            .is_some_and(|counted| counted.hour == hour_of(now) && counted.scope == scope);
        let mut uncount = None;
        // counted in an hour that is over, or elsewhere: counted anew, where it leaves now
        if !is_counted && let Some(counted) = entry.counted.take() {
            ledger.give_back(&counted, limits);
            uncount = Some(counted);
        }
        let first_attempt = !is_counted && !entry.was_counted;
        match decide(&scope, first_attempt, None, limits, ledger.counters(), now) {
            Verdict::Held(hold) => {
                if let Some(counted) = entry.counted.take() {
                    ledger.give_back(&counted, limits);
                    uncount = Some(counted);
                }
                drop(book);
                self.hold(due, scope, &hold, uncount, now)
            }
            Verdict::Send | Verdict::Suppressed(_) => {
                let count = first_attempt.then(|| ledger.count(&scope, limits, now));
                let version = limits.version;
                drop(book);
                if count.is_some() {
                    entry.counted.clone_from(&count);
                }
                let event = entry.held.take().map(|held| self.released(entry, &held, version, &scope, now));
                Decided { due, fate: Fate::Send, count, uncount, event }
            }
        }
    }

    /// Decides over a message that is held. `Err` when it has to stay.
    pub fn judge_held(&self, mut due: Due, lane: &HeldLane, now: Timestamp) -> Result<Decided, Box<Stay>> {
        if let Some(suppressed) = self.suppressed(&due.entry) {
            return Ok(self.end_suppressed(due, &suppressed, now));
        }
        let expires_at = self.expires_at(&due.entry);
        if now >= expires_at {
            return Ok(self.end_expired(due, now));
        }
        let told = due.entry.held.as_ref().map(|held| held.kind.as_str());
        if let Some(hold) = self.incomplete(&due.entry, now) {
            let until = hold.until.unwrap_or(expires_at).min(expires_at);
            let is_news = told != Some(hold.kind.as_str());
            return Err(Box::new(Stay { until, news: is_news.then_some(hold) }));
        }
        let mut book = self.book.lock();
        let Book { limits, ledger } = &mut *book;
        let first_attempt = !lane.retries;
        if let Verdict::Held(hold) = decide(&lane.scope, first_attempt, None, limits, ledger.counters(), now)
        {
            // that the table is stale or missing besides is no news for who waits for something else
            let is_news = hold.kind.is_of_identity() && told != Some(hold.kind.as_str());
            return Err(Box::new(Stay {
                until: hold.until.unwrap_or(expires_at).min(expires_at),
                news: is_news.then_some(hold),
            }));
        }
        let count = first_attempt.then(|| ledger.count(&lane.scope, limits, now));
        let version = limits.version;
        drop(book);
        let entry = &mut due.entry;
        entry.counted.clone_from(&count);
        entry.next_attempt_at = now;
        let event = entry.held.take().map(|held| self.released(entry, &held, version, &lane.scope, now));
        Ok(Decided { due, fate: Fate::Queue, count, uncount: None, event })
    }

    /// Tells a held message why it waits now, if it was told another reason.
    pub fn tell(&self, due: Due, lane: &HeldLane, hold: &Hold, now: Timestamp) -> Option<Decided> {
        let told = due.entry.held.as_ref().map(|held| held.kind.as_str());
        (told != Some(hold.kind.as_str())).then(|| self.hold(due, lane.scope.clone(), hold, None, now))
    }

    /// Counts that did not take place after all.
    pub fn give_back<'a>(&self, counted: impl IntoIterator<Item = &'a Counted>) {
        let mut book = self.book.lock();
        let Book { limits, ledger } = &mut *book;
        counted.into_iter().for_each(|counted| ledger.give_back(counted, limits));
    }

    /// The event of a message that a suppression ends.
    pub fn suppressed_event(&self, entry: &mut QueueEntry, suppressed: &Suppressed, now: Timestamp) -> Event {
        entry.seq += 1;
        let mut event = entry.event(&self.ids, EventType::Suppressed);
        let Suppressed { reach, reason, since } = suppressed;
        event.queue_ms = Some(now.millis_since(entry.not_before).max(0));
        event.policy_id = Some("suppression".into());
        event.hold_reason = Some(format!("suppressed: {reason} since {since}, reach {reach}"));
        let detail = json!({"reason": reason, "since": since.to_string(), "reach": reach.to_string()});
        event.detail = Some(detail.to_string());
        event
    }

    fn scope(&self, entry: &QueueEntry, provider: &str) -> Scope {
        let identity = self.identities.find(&entry.tenant_id, &entry.header_from_domain);
        Scope {
            tenant_id: entry.tenant_id.clone(),
            stream: entry.stream,
            sending_domain: identity
                .map_or_else(|| entry.header_from_domain.clone(), |identity| identity.domain.clone()),
            provider: provider.to_owned(),
        }
    }

    pub fn expires_at(&self, entry: &QueueEntry) -> Timestamp {
        self.settings.schedule(entry.stream).expires_at(entry.not_before)
    }

    fn hold(
        &self,
        mut due: Due,
        scope: Scope,
        hold: &Hold,
        uncount: Option<Counted>,
        now: Timestamp,
    ) -> Decided {
        let entry = &mut due.entry;
        let known = entry.held.as_ref().filter(|held| held.kind == hold.kind.as_str());
        let is_new = known.is_none();
        let since = entry.held.as_ref().map_or(now, |held| held.since);
        let reason = hold.reason(&scope);
        entry.held = Some(Held {
            kind: hold.kind.as_str().into(),
            reason: reason.clone(),
            since,
            quota_version: hold.version,
        });
        let expires_at = self.expires_at(entry);
        if now >= expires_at {
            return Decided { uncount, ..self.end_expired(due, now) };
        }
        if is_new && hold.kind == HoldKind::NotJudged {
            self.limits.ask();
        }
        let event = is_new.then(|| {
            entry.seq += 1;
            let mut event = entry.event(&self.ids, EventType::Held);
            event.provider = Some(scope.provider.clone());
            event.policy_id = Some(hold.kind.as_str().into());
            event.hold_reason = Some(reason);
            event.quota_version = hold.version.and_then(|version| i64::try_from(version).ok());
            event.detail = Some(hold.numbers().to_string());
            event
        });
        let look_at = hold.until.unwrap_or(expires_at).min(expires_at);
        let lane = HeldLane::of(entry, scope);
        Decided { due, fate: Fate::Hold(lane, look_at), count: None, uncount, event }
    }

    fn released(
        &self,
        entry: &mut QueueEntry,
        held: &Held,
        version: Option<u64>,
        scope: &Scope,
        now: Timestamp,
    ) -> Event {
        entry.seq += 1;
        let mut event = entry.event(&self.ids, EventType::Released);
        event.provider = Some(scope.provider.clone());
        event.policy_id = Some(held.kind.clone());
        event.hold_reason = Some(held.reason.clone());
        event.quota_version = version.and_then(|version| i64::try_from(version).ok());
        event.detail = Some(held_for(held, now));
        event
    }

    fn end_suppressed(&self, mut due: Due, suppressed: &Suppressed, now: Timestamp) -> Decided {
        let uncount = self.uncounted(&mut due.entry);
        let event = Some(self.suppressed_event(&mut due.entry, suppressed, now));
        Decided { due, fate: Fate::End, count: None, uncount, event }
    }

    /// The lifetime of a message is over while it is held.
    fn end_expired(&self, mut due: Due, now: Timestamp) -> Decided {
        let uncount = self.uncounted(&mut due.entry);
        let entry = &mut due.entry;
        entry.seq += 1;
        let mut event = entry.event(&self.ids, EventType::Expired);
        event.queue_ms = Some(now.millis_since(entry.not_before).max(0));
        if let Some(held) = &entry.held {
            event.policy_id = Some(held.kind.clone());
            event.hold_reason = Some(format!("held until its lifetime was over: {}", held.reason));
            event.quota_version = held.quota_version.and_then(|version| i64::try_from(version).ok());
            event.detail = Some(held_for(held, now));
        }
        Decided { due, fate: Fate::End, count: None, uncount, event: Some(event) }
    }

    fn uncounted(&self, entry: &mut QueueEntry) -> Option<Counted> {
        let counted = entry.counted.take();
        self.give_back(&counted);
        counted
    }
}

fn held_for(held: &Held, now: Timestamp) -> String {
    json!({"held_since": held.since.to_string(), "held_ms": now.millis_since(held.since).max(0)}).to_string()
}
