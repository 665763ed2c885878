//! Other senders' events: each into the lake once, and feedback beside the delivery that it answers.
//!
//! An event is known when the spool remembers its id, which covers what is on its way to the lake, or when the lake
//! holds it. So a file may be read again after days or after years, and a spool may be a new one.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_ingest::event::{Event, EventType};
use sendlake_ingest::foreign::ELSEWHERE;
use sendlake_ingest::table::EventsTable;
use sendlake_query::output::{Format, to_bytes};
use sendlake_query::{QueryEngine, Scope};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Hearing, Unavailable};

const QUERY: &str = include_str!("elsewhere.sql");
/// Ids in one query.
const LOOKUP_MAX: usize = 500;
/// Events logged in one transaction: mail waits no longer than that for its own.
const LOGGED_AT_ONCE: usize = 1_000;
/// Feedback comes at most so long after its delivery.
const FEEDBACK_DAYS_MAX: i64 = 90;
/// With so many events waiting for the lake, files wait too: mail comes first.
const WAITING_ROWS_MAX: u64 = 60_000;
const WAIT_STEP: Duration = Duration::from_millis(200);
const WAIT_STEPS_MAX: usize = 300;
/// How long tokens of pushes are remembered: longer than any of them is good for.
const TOKEN_DAYS: i64 = 2;
/// How long ids of files' events are remembered: longer than the lake may be away while others write to it.
const FILE_DAYS: i64 = 14;

/// Events of one tenant that another sender recorded.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    pub tenant_id: TenantId,
    /// Bring into force what hard bounces, complaints and unsubscribes call for.
    #[serde(default)]
    pub suppress: bool,
    pub events: Vec<Event>,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Taken {
    pub logged: u64,
    pub repeated: u64,
}

/// Why a batch is not taken. Nothing of it is, or all up to some event; it may be brought again.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    #[error("an event is not one of tenant {0} and of another sender; nothing was taken")]
    Foreign(TenantId),
    #[error(transparent)]
    Control(#[from] sendlake_control::ControlError),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

fn failed(error: &dyn std::fmt::Display) -> NotTaken {
    NotTaken::Unavailable(Unavailable(error.to_string()))
}

impl Hearing {
    /// Takes events out of files. Those that the lake holds are left out, however old they are.
    pub async fn take_file_events(&self, lake: &EventsTable, batch: Batch) -> Result<Taken, NotTaken> {
        self.check(&batch).await?;
        // one batch at a time: each looks at what the lake holds
        let _alone = self.one_file_at_a_time.lock().await;
        self.room().await?;
        let Batch { tenant_id, suppress, events } = batch;
        let offered = events.len() as u64;
        let known = lake.known_ids(&events).await.map_err(|error| failed(&error))?;
        let (old, mut new): (Vec<Event>, Vec<Event>) =
            events.into_iter().partition(|event| known.contains(&event.event_id));
        self.join_deliveries(&tenant_id, &mut new).await?;
        let mut logged = 0;
        for events in new.chunks(LOGGED_AT_ONCE) {
            logged += self.log_elsewhere(events, suppress, FILE_DAYS).await?;
        }
        if suppress {
            self.wish_again(old).await?;
        }
        Ok(Taken { logged, repeated: offered - logged })
    }

    /// Takes events that a webhook brought. Durable when it returns; what comes again changes nothing.
    pub async fn take_pushed_events(&self, mut batch: Batch) -> Result<Taken, NotTaken> {
        self.check(&batch).await?;
        let offered = batch.events.len() as u64;
        // better without its delivery than not at all
        if let Err(error) = self.join_deliveries(&batch.tenant_id, &mut batch.events).await {
            tracing::debug!(%error, "another sender's feedback is logged without its delivery");
        }
        let mut logged = 0;
        for events in batch.events.chunks(LOGGED_AT_ONCE) {
            logged += self
                .log_elsewhere(events, batch.suppress, sendlake_sender::spool::feedback::SEEN_DAYS)
                .await?;
        }
        Ok(Taken { logged, repeated: offered - logged })
    }

    /// Remembers a token that is good for one push. False where it came before with another one.
    pub async fn see_together(&self, token: Vec<u8>, with_body: Vec<u8>) -> Result<bool, NotTaken> {
        self.spool.see_together(token, with_body, TOKEN_DAYS).await.map_err(|error| failed(&error))
    }

    async fn check(&self, batch: &Batch) -> Result<(), NotTaken> {
        let is_foreign = |event: &Event| {
            let elsewhere = event.ip_pool.as_deref().is_some_and(|pool| pool.starts_with(ELSEWHERE));
            event.tenant_id != batch.tenant_id || !elsewhere
        };
        if batch.events.iter().any(is_foreign) {
            return Err(NotTaken::Foreign(batch.tenant_id.clone()));
        }
        self.spool.check_room().map_err(|error| failed(&error))?;
        Ok(self.control.ensure_data_key(&batch.tenant_id).await?)
    }

    /// Waits until the lake has taken enough of what is on its way.
    async fn room(&self) -> Result<(), NotTaken> {
        for _ in 0..WAIT_STEPS_MAX {
            if self.spool.reader().counts().map_err(|error| failed(&error))?.outbox_rows < WAITING_ROWS_MAX {
                return Ok(());
            }
            tokio::time::sleep(WAIT_STEP).await;
        }
        Err(failed(&format!(
            "more than {WAITING_ROWS_MAX} events wait for the lake: see why it is not written (`sendlake serve` logs it), \
             then go on; what was taken stays"
        )))
    }

    async fn log_elsewhere(&self, events: &[Event], suppress: bool, days: i64) -> Result<u64, NotTaken> {
        let new = self.spool.log_elsewhere(events, suppress, days).await.map_err(|error| failed(&error))?;
        Ok(new.into_iter().filter(|is_new| *is_new).count() as u64)
    }

    /// What events call for that were logged before it was asked for.
    async fn wish_again(&self, known: Vec<Event>) -> Result<(), NotTaken> {
        for wish in known.iter().filter_map(sendlake_sender::suppression::wish_of_elsewhere) {
            self.spool.wish(&wish).await.map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// Gives feedback the time and the identity of its delivery, where the other sender's events tell of it: from
    /// this batch, from the lake, or on its way there.
    async fn join_deliveries(&self, tenant_id: &TenantId, events: &mut [Event]) -> Result<(), NotTaken> {
        let wanted: HashSet<String> = events
            .iter()
            .filter(|event| answers_a_delivery(event))
            .filter_map(|event| event.message_id.clone())
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut found: HashMap<String, Left> = HashMap::new();
        for event in events.iter() {
            if let Some(id) = event.message_id.as_ref().filter(|id| wanted.contains(*id)) {
                found.entry(id.clone()).or_default().learn(event);
            }
        }
        let missing: Vec<&String> = wanted
            .iter()
            .filter(|id| {
                found
                    .get(*id)
                    .is_none_or(|left| left.delivered_at.is_none() || left.header_from_domain.is_none())
            })
            .collect();
        let at = || events.iter().filter(|event| answers_a_delivery(event)).map(|event| event.occurred_at);
        let (first, last) = (at().min().unwrap_or_default(), at().max().unwrap_or_default());
        for ids in missing.chunks(LOOKUP_MAX) {
            for left in lefts_of(self.deliveries.engine(), tenant_id, ids, first, last).await? {
                let known = found.entry(left.message_id.clone()).or_default();
                *known = left.or(std::mem::take(known));
            }
        }
        for event in events.iter_mut().filter(|event| answers_a_delivery(event)) {
            if let Some(left) = event.message_id.as_ref().and_then(|id| found.get(id)) {
                left.complete(event);
            }
        }
        Ok(())
    }
}

/// Feedback that counts for the day of its delivery. Opens and clicks are too many to be looked up, and no view
/// asks it of them.
fn answers_a_delivery(event: &Event) -> bool {
    let answers = matches!(
        event.event_type,
        EventType::Complained | EventType::Unsubscribed | EventType::BouncedAsync | EventType::Replied
    );
    answers && (event.delivered_at.is_none() || event.header_from_domain.is_none())
}

/// A message as another sender's events tell that it left.
#[derive(Clone, Debug, Default, Deserialize)]
struct Left {
    message_id: String,
    stream: Option<String>,
    campaign_id: Option<String>,
    header_from_domain: Option<String>,
    mail_from_domain: Option<String>,
    provider: Option<String>,
    source_ip: Option<String>,
    delivered_at: Option<Timestamp>,
}

impl Left {
    fn learn(&mut self, event: &Event) {
        let told = Self {
            message_id: event.message_id.clone().unwrap_or_default(),
            stream: event.stream.clone(),
            campaign_id: event.campaign_id.clone(),
            header_from_domain: event.header_from_domain.clone(),
            mail_from_domain: event.mail_from_domain.clone(),
            provider: event.provider.clone(),
            source_ip: event.source_ip.clone(),
            delivered_at: Some(event.occurred_at).filter(|_| event.event_type == EventType::Delivered),
        };
        *self = std::mem::take(self).or(told);
    }

    fn or(self, other: Self) -> Self {
        Self {
            message_id: if self.message_id.is_empty() { other.message_id } else { self.message_id },
            stream: self.stream.or(other.stream),
            campaign_id: self.campaign_id.or(other.campaign_id),
            header_from_domain: self.header_from_domain.or(other.header_from_domain),
            mail_from_domain: self.mail_from_domain.or(other.mail_from_domain),
            provider: self.provider.or(other.provider),
            source_ip: self.source_ip.or(other.source_ip),
            delivered_at: self.delivered_at.or(other.delivered_at),
        }
    }

    fn complete(&self, event: &mut Event) {
        let fill = |to: &mut Option<String>, from: &Option<String>| {
            if to.is_none() {
                to.clone_from(from);
            }
        };
        fill(&mut event.stream, &self.stream);
        fill(&mut event.campaign_id, &self.campaign_id);
        fill(&mut event.header_from_domain, &self.header_from_domain);
        fill(&mut event.mail_from_domain, &self.mail_from_domain);
        fill(&mut event.provider, &self.provider);
        fill(&mut event.source_ip, &self.source_ip);
        if event.delivered_at.is_none() {
            event.delivered_at = self.delivered_at.filter(|at| *at <= event.occurred_at);
        }
    }
}

async fn lefts_of(
    engine: &QueryEngine,
    tenant_id: &TenantId,
    ids: &[&String],
    first: Timestamp,
    last: Timestamp,
) -> Result<Vec<Left>, NotTaken> {
    // made by us of hashes; whatever else came in is no id of ours
    let ids = ids.iter().filter_map(|id| Uuid::parse_str(id).ok()).map(|id| format!("'{id}'"));
    let ids = ids.collect::<Vec<_>>().join(", ");
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let day = |at: Timestamp| at.to_chrono().format("%Y-%m-%d").to_string();
    let sql = QUERY
        .replace("{tenant}", tenant_id.as_str())
        .replace("{message_ids}", &ids)
        .replace("{since}", &day(first.plus_secs(-FEEDBACK_DAYS_MAX * 86_400)))
        .replace("{until}", &day(last));
    let output = engine
        .query(&Scope::AllTenants, &sql, engine.limits().query)
        .await
        .map_err(|error| failed(&error))?;
    let json = to_bytes(&output, Format::Json).map_err(|error| failed(&error))?;
    #[derive(Deserialize)]
    struct Rows {
        rows: Vec<Left>,
    }
    let answer: Rows = serde_json::from_slice(&json).map_err(|error| failed(&error))?;
    Ok(answer.rows)
}
