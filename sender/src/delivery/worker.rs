//! A worker: takes one message after another of its site, keeps a session while it can, records every result.

use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use sendlake_ingest::event::{Event, EventType};
use serde_json::json;

use super::Delivery;
use super::prepare::Prepared;
use super::refusal;
use super::site::{Site, Taken};
use super::verdict::judge;
use crate::mx::{Destination, Unroutable};
use crate::reply::Reply;
use crate::session::{
    Attempt, AttemptFailure, ConnectFacts, FailureKind, Outcome, Session, SmtpCommand, Transaction, dial,
};
use crate::spool::work::Outcome as QueueOutcome;
use crate::spool::{QueueEntry, SpoolError};
use crate::suppression::Suppressed;

/// What one attempt brought, however far it came.
struct Ended<'a> {
    command: SmtpCommand,
    reply: Option<&'a Reply>,
    failure: Option<&'a AttemptFailure>,
    facts: Option<&'a ConnectFacts>,
    attempt_ms: u64,
}

/// A session with what it was opened for.
struct Open {
    session: Session,
    /// Names it in the events of its attempts.
    session_id: String,
    pool: String,
    /// The domain whose MX hosts this session goes to; others of the same site share them.
    provider: String,
}

impl Delivery {
    /// Starts a worker for which the site has counted a place already.
    pub(super) fn spawn_worker(self: &Arc<Self>, site: &Arc<Site>) {
        let delivery = Arc::clone(self);
        let site = Arc::clone(site);
        self.spawn(async move {
            loop {
                if let Err(error) = delivery.work(&site).await {
                    tracing::error!(%error, "a delivery worker stopped");
                }
                if delivery.shutdown.is_cancelled() || !site.worker_ended() {
                    break;
                }
            }
            delivery.room.notify_one();
        });
    }

    async fn work(self: &Arc<Self>, site: &Arc<Site>) -> Result<(), SpoolError> {
        let Ok(_permit) = self.sessions.acquire().await else { return Ok(()) };
        let mut open: Option<Open> = None;
        loop {
            if self.shutdown.is_cancelled() {
                break;
            }
            let idle = self.settings.session_idle;
            let taken = tokio::select! {
                taken = site.take(idle) => taken,
                () = self.shutdown.cancelled() => Taken::Nothing,
            };
            let Taken::Message(entry) = taken else { break };
            if site.has_room() {
                self.room.notify_one();
            }
            let reached = self.attempt(site, *entry, &mut open).await?;
            if !reached {
                break;
            }
            if let Some(used) = open.take_if(|open| !open.session.is_usable()) {
                used.session.quit().await;
            }
        }
        if let Some(open) = open {
            open.session.quit().await;
        }
        Ok(())
    }

    /// Makes one attempt and records it. False when the site cannot be reached at present.
    async fn attempt(
        self: &Arc<Self>,
        site: &Site,
        entry: QueueEntry,
        open: &mut Option<Open>,
    ) -> Result<bool, SpoolError> {
        let now = self.ids.now();
        if now >= self.settings.schedule(entry.stream).expires_at(entry.not_before) {
            self.expire(entry, now)?;
            return Ok(true);
        }
        if let Some(suppressed) = self.gate.suppressed(&entry) {
            self.withdraw(entry, &suppressed, now)?;
            return Ok(true);
        }
        // no host took this domain's mail when it was marked, so no limit was asked: with a host there is one
        if site.key.name.is_none() && self.router.resolve(entry.recipient.domain()).await.is_ok() {
            self.spool.release(vec![entry], now).await?;
            return Ok(true);
        }
        let prepared = self.preparer.prepare(&entry, site.provider(), now)?;
        for _ in 0..2 {
            if open.is_none() {
                match self.open(site, &entry).await? {
                    Ok(opened) => *open = Some(opened),
                    Err(closed) => {
                        self.record(entry, &prepared, &closed.result(), &closed.about, now)?;
                        return Ok(closed.site_reached);
                    }
                }
            }
            let Some(current) = open.as_mut() else { break };
            let message = prepared.octets();
            let attempt = current
                .session
                .deliver(&Transaction {
                    reverse_path: &prepared.reverse_path,
                    forward_path: &entry.recipient,
                    smtputf8: prepared.shared.content.needs_smtputf8,
                    eightbit: prepared.shared.content.needs_8bitmime,
                    message: &message,
                })
                .await;
            if attempt.wants_fresh_connection() {
                *open = None;
                continue;
            }
            let about = About {
                site: site.name(),
                provider: Some(current.provider.clone()),
                pool: Some(current.pool.clone()),
                session_id: Some(current.session_id.clone()),
            };
            let result = Ended::of(&attempt, current.session.facts());
            self.record(entry, &prepared, &result, &about, now)?;
            return Ok(true);
        }
        // the fresh connection was dropped like the old one, without a word on the message
        let failure = AttemptFailure::dropped();
        let about = About { site: site.name(), ..About::default() };
        let result = Ended {
            command: failure.command,
            reply: None,
            failure: Some(&failure),
            facts: None,
            attempt_ms: 0,
        };
        self.record(entry, &prepared, &result, &about, now)?;
        Ok(true)
    }

    async fn open(&self, site: &Site, entry: &QueueEntry) -> Result<Result<Open, Box<Closed>>, SpoolError> {
        let about = About { site: site.name(), ..About::default() };
        let destination: Destination = match self.router.resolve(entry.recipient.domain()).await {
            Ok(destination) => destination,
            Err(unroutable) => return Ok(Err(Box::new(Closed::unroutable(unroutable, about)))),
        };
        let about = About { provider: Some(destination.provider.clone()), ..about };
        let Some((source, pool)) = self.sources.pick(entry.stream) else {
            let failure = AttemptFailure::no_source(entry.stream.as_str());
            return Ok(Err(Box::new(Closed::failed(failure, ConnectFacts::default(), about))));
        };
        // 48 bits tell the sessions of a day apart, and take little room in the lake
        let session_id = format!("{:012x}", self.ids.entropy.u64() >> 16);
        let about = About { pool: Some(pool.to_owned()), session_id: Some(session_id.clone()), ..about };
        match dial(&destination, &source, &self.connector.tls, &self.connector.settings).await {
            Ok(session) => {
                site.reached();
                Ok(Ok(Open { session, session_id, provider: destination.provider, pool: pool.to_owned() }))
            }
            Err(refused) => {
                let at = self.ids.now().plus_secs(self.settings.site_backoff_s);
                self.spool.release(site.back_off(at), at).await?;
                Ok(Err(Box::new(Closed::failed(refused.failure, refused.facts, about))))
            }
        }
    }

    /// The message's lifetime is over without another attempt.
    fn expire(&self, mut entry: QueueEntry, now: Timestamp) -> Result<(), SpoolError> {
        entry.seq += 1;
        let mut event = entry.event(&self.ids, EventType::Expired);
        refusal::fill(&mut event, refusal::of_expiry(entry.last_reply.as_deref()));
        event.queue_ms = Some(now.millis_since(entry.not_before));
        self.uncount(&entry);
        drop(self.spool.complete(entry, QueueOutcome::Terminal, &[event])?);
        Ok(())
    }

    /// A suppression came between the mark and the attempt: there is none.
    fn withdraw(
        &self,
        mut entry: QueueEntry,
        suppressed: &Suppressed,
        now: Timestamp,
    ) -> Result<(), SpoolError> {
        let event = self.gate.suppressed_event(&mut entry, suppressed, now);
        self.uncount(&entry);
        drop(self.spool.complete(entry, QueueOutcome::Terminal, &[event])?);
        Ok(())
    }

    /// What was counted and is not attempted leaves room for another; the spool does the same.
    fn uncount(&self, entry: &QueueEntry) {
        if entry.attempts == 0 {
            self.gate.give_back(&entry.counted);
        }
    }

    /// Decides over the attempt and hands the outcome to the spool. It is durable with the next group; until
    /// then a crash makes the attempt one in doubt.
    fn record(
        &self,
        mut entry: QueueEntry,
        prepared: &Prepared,
        result: &Ended<'_>,
        about: &About,
        started_at: Timestamp,
    ) -> Result<(), SpoolError> {
        let now = self.ids.now();
        entry.attempts += 1;
        let class = result.reply.map(Reply::class);
        let schedule = self.settings.schedule(entry.stream);
        let verdict = judge(class, entry.attempts, &entry, schedule, now, self.ids.entropy.u64());
        // the final dot left and no reply came: the next attempt may repeat the message, and says so
        let in_doubt = result.failure.is_some_and(|failure| failure.in_doubt);
        let event_type = if in_doubt { EventType::AttemptInDoubt } else { verdict.event_type };
        entry.seq += 1;
        entry.last_reply = Some(result.said());
        let mut event = entry.event(&self.ids, event_type);
        fill(&mut event, &entry, prepared, result, about, started_at);
        if let QueueOutcome::Retry(at) = verdict.outcome {
            event.next_attempt_at = Some(at);
        }
        let mut events = vec![event];
        if verdict.expired {
            entry.seq += 1;
            let mut expired = entry.event(&self.ids, EventType::Expired);
            refusal::fill(&mut expired, refusal::of_expiry(entry.last_reply.as_deref()));
            events.push(expired);
        }
        drop(self.spool.complete(entry, verdict.outcome, &events)?);
        Ok(())
    }
}

/// Where an attempt went, as far as it is known.
#[derive(Clone, Default)]
struct About {
    site: Option<String>,
    provider: Option<String>,
    pool: Option<String>,
    /// Of the connection, made or tried.
    session_id: Option<String>,
}

/// No session came about for a message.
struct Closed {
    command: SmtpCommand,
    reply: Option<Reply>,
    failure: Option<AttemptFailure>,
    facts: ConnectFacts,
    about: About,
    /// False when the worker had better end: the site is left alone.
    site_reached: bool,
}

impl Closed {
    fn unroutable(unroutable: Unroutable, about: About) -> Self {
        Self {
            command: SmtpCommand::Connect,
            reply: Some(unroutable.reply),
            failure: None,
            facts: ConnectFacts::default(),
            about,
            site_reached: true,
        }
    }

    fn failed(failure: AttemptFailure, facts: ConnectFacts, about: About) -> Self {
        Self {
            command: failure.command,
            reply: None,
            failure: Some(failure),
            facts,
            about,
            site_reached: false,
        }
    }

    fn result(&self) -> Ended<'_> {
        Ended {
            command: self.command,
            reply: self.reply.as_ref(),
            failure: self.failure.as_ref(),
            facts: Some(&self.facts),
            attempt_ms: self.facts.connect_ms,
        }
    }
}

impl<'a> Ended<'a> {
    fn of(attempt: &'a Attempt, facts: &'a ConnectFacts) -> Self {
        let (reply, failure) = match &attempt.outcome {
            Outcome::Replied(reply) | Outcome::Local(reply) => (Some(reply), None),
            Outcome::Failed(failure) => (None, Some(failure)),
        };
        Self { command: attempt.command, reply, failure, facts: Some(facts), attempt_ms: attempt.attempt_ms }
    }

    fn said(&self) -> String {
        match (self.reply, self.failure) {
            (Some(reply), _) => reply.to_string(),
            (None, Some(failure)) => failure.to_string(),
            (None, None) => String::new(),
        }
    }
}

fn fill(
    event: &mut Event,
    entry: &QueueEntry,
    prepared: &Prepared,
    result: &Ended<'_>,
    about: &About,
    started_at: Timestamp,
) {
    let millis = |ms: u64| i64::try_from(ms).ok();
    event.attempt = Some(entry.attempts);
    event.site = about.site.clone();
    event.provider = about.provider.clone();
    event.ip_pool = about.pool.clone();
    event.mail_from_domain = Some(prepared.mail_from_domain.clone());
    if let Some(identity) = &prepared.identity {
        let facts = identity.facts(&entry.header_from_domain, None);
        event.dkim_domain = facts.dkim_domain;
        event.dkim_selector = facts.dkim_selector;
        event.spf_aligned = facts.spf_aligned;
        event.dkim_aligned = facts.dkim_aligned;
        event.dmarc_expected = facts.dmarc_expected;
    }
    event.detail = detail(event.event_type, prepared, result.facts);
    event.smtp_command = Some(result.command.to_string());
    let reply = result.reply.or(result.failure.and_then(|failure| failure.reply.as_ref()));
    if let Some(reply) = reply {
        event.reply_code = Some(i32::from(reply.code));
        event.enhanced_status = reply.enhanced_status();
        event.reply_text = Some(reply.text.clone());
    }
    if let Some(failure) = result.failure {
        let (class, subject, detail) = failure.enhanced();
        event.enhanced_status = Some(format!("{class}.{subject}.{detail}"));
        if reply.is_none() {
            event.reply_text = Some(failure.detail.clone());
        }
    }
    let silence = result.failure.filter(|failure| failure.reply.is_none());
    let found = match silence {
        Some(failure) => Some(refusal::of_failure(failure.kind)),
        None => refusal::of_reply(event),
    };
    if let Some(found) = found {
        refusal::fill(event, found);
    }
    event.queue_ms = Some(started_at.millis_since(entry.not_before).max(0));
    event.attempt_ms = millis(result.attempt_ms);
    if let Some(facts) = result.facts.filter(|facts| !facts.mx_host.is_empty()) {
        event.mx_host = Some(facts.mx_host.clone());
        event.mx_ip = facts.mx_ip.map(|ip| ip.to_string());
        event.source_ip = facts.source_ip.map(|ip| ip.to_string());
        event.tls_version = facts.tls_version.clone();
        event.tls_cipher = facts.tls_cipher.clone();
        event.tls_verified = facts.tls_verified;
        event.connect_ms = millis(facts.connect_ms);
        event.session_id = about.session_id.clone();
    }
}

/// What has no column: whether it is tracked, and why its session came to be without TLS. `tls_sessions.sql` reads it.
fn detail(event_type: EventType, prepared: &Prepared, facts: Option<&ConnectFacts>) -> Option<String> {
    let mut told = serde_json::Map::new();
    let tracking = prepared.tracking();
    if event_type == EventType::Delivered && tracking.is_on() {
        let wanted = json!({ "opens": tracking.opens, "clicks": tracking.clicks });
        told.insert("tracking".into(), wanted);
    }
    if let Some(facts) = facts
        && let Some(failure) = facts.tls_failure
    {
        told.insert("tls_failure".into(), failure.as_str().into());
        if let Some(reason) = &facts.tls_failure_reason {
            told.insert("tls_failure_reason".into(), reason.as_str().into());
        }
    }
    (!told.is_empty()).then(|| serde_json::Value::Object(told).to_string())
}

impl AttemptFailure {
    fn dropped() -> Self {
        Self {
            command: SmtpCommand::Mail,
            kind: FailureKind::Closed,
            detail: "the host dropped two connections in a row before the message".into(),
            reply: None,
            in_doubt: false,
        }
    }

    fn no_source(stream: &str) -> Self {
        Self {
            command: SmtpCommand::Connect,
            kind: FailureKind::Source,
            detail: format!("the stream {stream} has no source to send from"),
            reply: None,
            in_doubt: false,
        }
    }
}
