//! Opens and clicks on their way to events: judged, bounded, logged in groups. Whoever answers the request hands a visit
//! over and goes on; what does not fit is counted and dropped, since a picture that comes late helps nobody.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use sendlake_control::ControlStore;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::{Ids, TenantId, uuid_v7_time};
use sendlake_ingest::event::{Event, EventType};
use sendlake_sender::link::{Facts, Sent};
use sendlake_sender::spool::Spool;
use sendlake_sql::clients::{self, Asked, ClientRules};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::claim::REPORT_DAYS_MAX;
use super::tracking::{prefix_of, whom_of};
use super::unsubscribe::is_erased;
use crate::suppressions::ControlSuppressions;

/// Visits that wait to be logged.
const WAITING_MAX: usize = 8_192;
/// Visits logged together.
const BATCH_MAX: usize = 512;
/// Opens and clicks of one message that become events in one day: programs may ask again and again.
const OPENS_PER_DAY_MAX: u16 = 20;
const CLICKS_PER_DAY_MAX: u16 = 100;
/// Messages whose visits are counted; twice as many are in memory at most.
const COUNTED_MAX: usize = 100_000;
/// Different links of a message within this time are what a scanner follows.
const BURST_S: i64 = 10;
/// Links of a message that are remembered for that.
const LINKS_MAX: usize = 8;
const USER_AGENT_CHARS_MAX: usize = 300;
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// One request for an open's picture or a link.
#[derive(Clone, Debug)]
pub struct Visit {
    pub message_id: Uuid,
    pub facts: Facts,
    pub is_head: bool,
    pub user_agent: String,
    pub purpose: String,
    pub client: Option<IpAddr>,
}

/// Takes visits.
pub struct Visits {
    waiting: mpsc::Sender<(Visit, Timestamp)>,
    receiver: Mutex<Option<mpsc::Receiver<(Visit, Timestamp)>>>,
    dropped: AtomicU64,
    spool: Arc<Spool>,
    control: Arc<ControlStore>,
    suppressions: Arc<ControlSuppressions>,
    ids: Ids,
    days_max: i64,
}

impl Visits {
    /// `retention_days` as configured: 0 for ever.
    pub fn new(
        spool: Arc<Spool>,
        control: Arc<ControlStore>,
        suppressions: Arc<ControlSuppressions>,
        ids: Ids,
        retention_days: u32,
    ) -> Self {
        let (waiting, receiver) = mpsc::channel(WAITING_MAX);
        let days_max = match i64::from(retention_days) {
            0 => REPORT_DAYS_MAX,
            days => days.min(REPORT_DAYS_MAX),
        };
        let receiver = Mutex::new(Some(receiver));
        Self { waiting, receiver, dropped: AtomicU64::new(0), spool, control, suppressions, ids, days_max }
    }

    /// Takes a visit without waiting.
    pub fn take(&self, visit: Visit) {
        if self.waiting.try_send((visit, self.ids.now())).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Logs visits until `stop`, then what is left. Runs once.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let Some(mut receiver) = self.receiver.lock().take() else { return };
        let mut book = Book::default();
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let mut complain = tokio::time::interval(COMPLAIN_EVERY);
        loop {
            tokio::select! {
                _ = receiver.recv_many(&mut batch, BATCH_MAX) => self.log(&mut book, &mut batch).await,
                _ = complain.tick() => self.complain(),
                () = stop.cancelled() => break,
            }
        }
        while let Ok(visit) = receiver.try_recv() {
            batch.push(visit);
        }
        self.log(&mut book, &mut batch).await;
        self.complain();
    }

    fn complain(&self) {
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(
                dropped,
                "opens and clicks came faster than they can be logged; their pages were answered"
            );
        }
    }

    async fn log(&self, book: &mut Book, batch: &mut Vec<(Visit, Timestamp)>) {
        let mut events = Vec::with_capacity(batch.len());
        for (visit, at) in batch.drain(..) {
            if self.is_worth_an_event(&visit, at)
                && let Some(links) = book.admit(&visit, at)
            {
                events.push(event(&visit, links, at, &self.ids));
            }
        }
        if events.is_empty() {
            return;
        }
        let count = events.len() as u64;
        if let Err(why) = self.write(events).await {
            self.dropped.fetch_add(count, Ordering::Relaxed);
            tracing::warn!(why, "opens and clicks were not logged");
        }
    }

    async fn write(&self, mut events: Vec<Event>) -> Result<(), String> {
        self.spool.check_room().map_err(|refused| refused.to_string())?;
        let mut known: HashMap<TenantId, bool> = HashMap::new();
        for event in &events {
            if !known.contains_key(&event.tenant_id) {
                let is_there = self.control.ensure_data_key(&event.tenant_id).await.is_ok();
                known.insert(event.tenant_id.clone(), is_there);
            }
        }
        events.retain(|event| known.get(&event.tenant_id).copied().unwrap_or(false));
        self.spool.log(&events).await.map_err(|error| error.to_string())
    }

    /// Not of a message past its time, and not of a person who was erased.
    fn is_worth_an_event(&self, visit: &Visit, at: Timestamp) -> bool {
        let made_at = uuid_v7_time(visit.message_id).unwrap_or_default();
        let days = at.as_secs().saturating_sub(made_at.as_secs()) / 86_400;
        let whom = whom_of(&visit.facts);
        days <= self.days_max && !is_erased(&self.suppressions, &whom.tenant_id, &whom.recipient)
    }
}

fn event(visit: &Visit, links: usize, at: Timestamp, ids: &Ids) -> Event {
    let (event_type, asked, sent, url) = match &visit.facts {
        Facts::Click(_, sent, url) => (EventType::Clicked, Asked::Click, sent.clone(), Some(url.clone())),
        Facts::Open(_, sent) => (EventType::Opened, Asked::Open, sent.clone(), None),
        Facts::Unsubscribe(_) => (EventType::Opened, Asked::Open, Sent::default(), None),
    };
    let visitor = ClientRules::current().judge(&clients::Visit {
        of: asked,
        method: if visit.is_head { "HEAD" } else { "GET" },
        user_agent: &visit.user_agent,
        purpose: &visit.purpose,
        after_s: at.as_secs().saturating_sub(sent.sent_at.as_secs()),
        links,
    });
    let whom = whom_of(&visit.facts);
    let mut event = Event::new(ids.uuid(), event_type, at, whom.tenant_id.clone());
    event.recorded_at = ids.now();
    event.message_id = Some(visit.message_id.to_string());
    event.stream = Some(whom.stream.to_string());
    event.recipient = Some(whom.recipient.clone());
    event.recipient_domain = whom.recipient.rsplit_once('@').map(|(_, domain)| domain.to_owned());
    event.campaign_id = sent.campaign_id;
    event.provider = sent.provider;
    event.header_from_domain = sent.header_from_domain;
    event.delivered_at = Some(sent.sent_at);
    event.url = url;
    let user_agent = visit.user_agent.chars().filter(|c| !c.is_control()).take(USER_AGENT_CHARS_MAX);
    event.user_agent = Some(user_agent.collect::<String>()).filter(|agent| !agent.is_empty());
    event.client_ip_prefix = visit.client.and_then(prefix_of);
    event.open_source = Some(visitor.open_source.to_owned());
    event.detail = Some(json!({ "client_rule": visitor.rule, "client_rules": visitor.version }).to_string());
    event
}

/// What came of late, by message. Bounded: when one half is full, the other is forgotten.
#[derive(Default)]
struct Book {
    young: HashMap<Uuid, Seen>,
    old: HashMap<Uuid, Seen>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    day: i32,
    opens: u16,
    clicks: u16,
    /// Links followed lately, each with its last time.
    links: Vec<(u64, Timestamp)>,
}

impl Book {
    /// Counts a visit. Returns how many different links of its message were followed of late, or `None` when enough
    /// of its kind came today.
    fn admit(&mut self, visit: &Visit, at: Timestamp) -> Option<usize> {
        if self.young.len() >= COUNTED_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        let known = self.old.remove(&visit.message_id);
        let seen = self.young.entry(visit.message_id).or_insert_with(|| known.unwrap_or_default());
        if seen.day != at.days() {
            (seen.day, seen.opens, seen.clicks) = (at.days(), 0, 0);
        }
        let (count, most) = match &visit.facts {
            Facts::Click(..) => (&mut seen.clicks, CLICKS_PER_DAY_MAX),
            Facts::Open(..) | Facts::Unsubscribe(_) => (&mut seen.opens, OPENS_PER_DAY_MAX),
        };
        if *count >= most {
            return None;
        }
        *count += 1;
        let Facts::Click(_, _, url) = &visit.facts else { return Some(0) };
        let link = hash(url);
        seen.links.retain(|(other, last)| {
            *other != link && (0..=BURST_S).contains(&at.as_secs().saturating_sub(last.as_secs()))
        });
        if seen.links.len() >= LINKS_MAX {
            seen.links.remove(0);
        }
        seen.links.push((link, at));
        Some(seen.links.len())
    }
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    // the same for the same text in every process, which is all that is asked of it
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use sendlake_sender::link::Whom;
    use sendlake_sender::stream::Stream;

    use super::*;

    const NOON: Timestamp = Timestamp(1_795_348_800_000_000);

    fn whom() -> Whom {
        Whom {
            tenant_id: TenantId::new("acme").unwrap(),
            stream: Stream::Marketing,
            recipient: "ann@a.test".into(),
        }
    }

    fn visit(message: u128, facts: Facts) -> Visit {
        let user_agent = "Mozilla/5.0 (X11; Linux x86_64) Firefox/130.0".into();
        let client = Some("203.0.113.7".parse().unwrap());
        let message_id = Uuid::from_u128(message);
        Visit { message_id, facts, is_head: false, user_agent, purpose: String::new(), client }
    }

    fn click(url: &str) -> Visit {
        visit(1, Facts::Click(whom(), Sent::default(), url.into()))
    }

    fn open(message: u128) -> Visit {
        visit(message, Facts::Open(whom(), Sent::default()))
    }

    #[test]
    fn one_mail_cannot_flood_the_lake() {
        let mut book = Book::default();
        let admitted =
            |book: &mut Book, at| (0..1_000).filter(|_| book.admit(&open(1), at).is_some()).count();
        assert_eq!(admitted(&mut book, NOON), 20);
        assert!(book.admit(&open(2), NOON).is_some(), "another message counts for itself");
        assert!(book.admit(&click("https://a.test/"), NOON).is_some(), "clicks are counted apart");
        assert_eq!(admitted(&mut book, NOON.plus_secs(86_400)), 20, "the next day counts anew");
    }

    #[test]
    fn memory_stays_bounded_and_what_was_asked_lately_is_remembered() {
        let mut book = Book::default();
        for _ in 0..20 {
            book.admit(&open(1), NOON);
        }
        for message in 2..250_000 {
            book.admit(&open(message), NOON);
            if message % 50_000 == 0 {
                assert_eq!(book.admit(&open(1), NOON), None, "at {message}");
            }
        }
        assert!(book.young.len() + book.old.len() <= 2 * COUNTED_MAX);
    }

    #[test]
    fn different_links_in_seconds_are_counted_and_repeats_are_not() {
        let mut book = Book::default();
        let mut at = |url: &str, secs| book.admit(&click(url), NOON.plus_secs(secs)).unwrap();
        assert_eq!(at("https://a.test/1", 0), 1);
        assert_eq!(at("https://a.test/1", 1), 1);
        assert_eq!(at("https://a.test/2", 2), 2);
        assert_eq!(at("https://a.test/3", 3), 3);
        assert_eq!(at("https://a.test/4", 60), 1, "a minute later it is a new look");
        for link in 0..50 {
            assert!(at(&format!("https://a.test/{link}"), 61) <= LINKS_MAX);
        }
    }

    #[test]
    fn an_event_says_who_where_from_and_why_so() {
        let ids = crate::system::ids();
        let sent = Sent {
            sent_at: NOON,
            campaign_id: Some("spring".into()),
            provider: Some("google".into()),
            header_from_domain: Some("acme.example".into()),
        };
        let visit = visit(1, Facts::Click(whom(), sent, "https://shop.example/?q=1".into()));
        let told = event(&visit, 1, NOON.plus_secs(60), &ids);
        assert_eq!((told.event_type, told.delivered_at), (EventType::Clicked, Some(NOON)));
        assert_eq!(told.url.as_deref(), Some("https://shop.example/?q=1"));
        assert_eq!(told.client_ip_prefix.as_deref(), Some("203.0.113.0/24"));
        assert_eq!(told.open_source.as_deref(), Some("direct"));
        assert_eq!((told.campaign_id.as_deref(), told.provider.as_deref()), (Some("spring"), Some("google")));
        assert!(told.detail.unwrap().contains("mail-program-or-browser"));
        let scanner = event(&visit, 3, NOON.plus_secs(60), &ids);
        assert_eq!(scanner.open_source.as_deref(), Some("scanner"));
    }
}
