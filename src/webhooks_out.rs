//! Events pushed to tenants' endpoints: what is asked about endpoints, by the API and by commands; and the parts that the
//! dispatcher works with.
//!
//! - [`lake`]: the lake as it asks it · [`routes`]: `/v1/webhooks`

pub mod lake;
pub mod routes;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sendlake_connectors::webhooks::body;
use sendlake_connectors::webhooks::dispatch::{DispatchSettings, Notices};
use sendlake_connectors::webhooks::lane::{LaneLimits, Outcome};
use sendlake_connectors::webhooks::schedule::Schedule;
use sendlake_connectors::webhooks::send::{Message, SendSettings, Sender};
use sendlake_control::clock::Timestamp;
use sendlake_control::endpoint::progress::{Undelivered, UndeliveredState};
use sendlake_control::endpoint::replay::Replay;
use sendlake_control::endpoint::{Endpoint, EndpointState, EventFilter, UntoldEndpoint};
use sendlake_control::id::Ids;
use sendlake_control::{ControlError, ControlStore};
use sendlake_ingest::event::{Event, EventType};
use sendlake_sender::spool::Spool;
use serde::Serialize;
use serde_json::json;
use url::Url;
use utoipa::ToSchema;

use crate::config::Config;
use crate::node::resolver;
use crate::outside::Outside;

/// How long an old signing secret signs beside a new one.
pub const KEEP_S: u32 = 86_400;

/// What sends, as it is configured.
pub fn sender(config: &Config, ids: &Ids) -> anyhow::Result<Sender> {
    let webhooks = &config.webhooks;
    let guard = Outside { resolver: resolver(config)?, allow_private: webhooks.allow_private_addresses };
    let settings = SendSettings {
        answer_max: Duration::from_millis(webhooks.answer_timeout_ms),
        idle_per_host: webhooks.in_flight_per_endpoint,
        allow_http: webhooks.allow_private_addresses,
        ..SendSettings::default()
    };
    Ok(Sender::new(Arc::new(guard), ids.clock.clone(), settings)?)
}

/// What bounds it, as it is configured.
pub fn dispatch_settings(config: &Config) -> DispatchSettings {
    let webhooks = &config.webhooks;
    DispatchSettings {
        lane: LaneLimits { in_flight_max: webhooks.in_flight_per_endpoint, ..LaneLimits::default() },
        schedule: Schedule {
            retry_s: webhooks.retry_intervals_s.iter().map(|wait| i64::from(*wait)).collect(),
            give_up_s: webhooks.give_up_after_s.into(),
            disable_s: webhooks.disable_after_s.into(),
            ..Schedule::default()
        },
        tenant_in_flight_max: webhooks.in_flight_per_tenant,
        replay_per_s: webhooks.replay_per_s,
    }
}

/// Tells of endpoints that were disabled by an event; the view `alerts` makes an alert of it.
pub struct EventNotices {
    pub control: Arc<ControlStore>,
    pub spool: Arc<Spool>,
    pub ids: Ids,
}

#[async_trait]
impl Notices for EventNotices {
    async fn tell(&self, endpoint: &UntoldEndpoint) -> Result<(), String> {
        let kind = if endpoint.is_disabled { EventType::WebhookDisabled } else { EventType::WebhookEnabled };
        let mut event = Event::new(self.ids.uuid(), kind, self.ids.now(), endpoint.tenant_id.clone());
        event.url = Some(format!("/v1/webhooks/{}", endpoint.endpoint_id));
        let detail = json!({ "endpoint_id": endpoint.endpoint_id, "reason": endpoint.state_reason });
        event.detail = Some(detail.to_string());
        let known = self.control.ensure_data_key(&endpoint.tenant_id).await;
        known.map_err(|error| error.to_string())?;
        self.spool.log(&[event]).await.map(drop).map_err(|error| error.to_string())
    }
}

/// An endpoint as it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndpointView {
    pub endpoint_id: String,
    pub tenant_id: String,
    /// Without its query, which may hold a secret.
    pub url: String,
    pub description: Option<String>,
    #[schema(value_type = Object)]
    pub filter: EventFilter,
    /// What is done to recipients: `hash`, `domain`, `null`.
    pub mask: Option<String>,
    /// `active`, `paused` or `disabled`.
    #[schema(value_type = String)]
    pub state: EndpointState,
    pub state_reason: Option<String>,
    pub state_at: String,
    /// `open` while it takes nothing and is asked only now and then.
    pub circuit: &'static str,
    pub failing_since: Option<String>,
    pub last_error: Option<String>,
    pub last_success_at: Option<String>,
    /// Everything that was recorded before was sent, or is undelivered by name.
    pub through: Option<String>,
    pub delivered: i64,
    /// Events that are tried again, and those behind them in their message.
    pub parked: i64,
    /// Events that were given up.
    pub failed: i64,
    /// Numbers of the log, also of other tenants' events, that the lake did not remember any more.
    pub skipped: i64,
    /// Signing secrets in force.
    pub secrets: usize,
    pub created_at: String,
    pub created_by: String,
}

/// An endpoint with where it is.
pub async fn view(
    control: &ControlStore,
    ids: &Ids,
    endpoint: Endpoint,
) -> Result<EndpointView, ControlError> {
    let positions = control.endpoint_positions(&endpoint.endpoint_id).await?;
    let (parked, failed) = control.count_undelivered(&endpoint.endpoint_id).await?;
    let told = |at: Option<i64>| at.map(|at| Timestamp(at).to_string());
    let newest = positions.iter().max_by_key(|position| position.through_at);
    let now = ids.now();
    let is_open = positions.iter().any(|position| position.circuit_open);
    let settings = endpoint.settings;
    Ok(EndpointView {
        url: shown_url(&settings.url),
        description: settings.description,
        filter: settings.filter,
        mask: settings.mask,
        state: endpoint.state,
        state_reason: endpoint.state_reason,
        state_at: endpoint.state_at.to_string(),
        circuit: if is_open { "open" } else { "closed" },
        failing_since: told(positions.iter().filter_map(|position| position.failing_since).min()),
        last_error: newest.and_then(|position| position.last_error.clone()),
        last_success_at: told(positions.iter().filter_map(|position| position.last_success_at).max()),
        through: told(positions.iter().filter_map(|position| position.through_at).max()),
        delivered: positions.iter().map(|position| position.delivered).sum(),
        skipped: positions.iter().map(|position| position.skipped).sum(),
        parked,
        failed,
        secrets: endpoint.secrets.iter().filter(|secret| secret.is_active(now)).count(),
        created_at: endpoint.created_at.to_string(),
        created_by: endpoint.created_by,
        tenant_id: endpoint.tenant_id.to_string(),
        endpoint_id: endpoint.endpoint_id,
    })
}

fn shown_url(text: &str) -> String {
    match Url::parse(text) {
        Ok(mut url) if url.query().is_some() => {
            url.set_query(None);
            format!("{url}?…")
        }
        _ => text.to_owned(),
    }
}

/// An event that was not taken, as it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct UndeliveredView {
    pub event_id: String,
    pub event_type: String,
    pub message_id: Option<String>,
    #[schema(value_type = String)]
    pub state: UndeliveredState,
    pub attempts: u32,
    pub first_attempt_at: Option<String>,
    pub next_attempt_at: Option<String>,
    pub last_error: Option<String>,
}

impl From<Undelivered> for UndeliveredView {
    fn from(event: Undelivered) -> Self {
        Self {
            event_id: event.event_id.to_string(),
            event_type: event.event_type,
            message_id: event.message_id,
            state: event.state,
            attempts: event.attempts,
            first_attempt_at: event.first_attempt_at.map(|at| at.to_string()),
            next_attempt_at: event.next_attempt_at.map(|at| at.to_string()),
            last_error: event.last_error,
        }
    }
}

/// A replay as it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayView {
    pub replay_id: String,
    pub endpoint_id: String,
    /// `running`, `done`, `cancelled` or `failed`.
    pub state: &'static str,
    pub from: Option<String>,
    pub to: Option<String>,
    pub types: Vec<String>,
    pub message_id: Option<String>,
    pub only_failed: bool,
    pub delivered: u64,
    /// Events that were given up again.
    pub failed: u64,
    /// What was recorded before is over.
    pub through: Option<String>,
    pub last_error: Option<String>,
    pub created_at: String,
    pub created_by: String,
    pub ended_at: Option<String>,
}

impl From<Replay> for ReplayView {
    fn from(replay: Replay) -> Self {
        let position = replay.position.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let position: serde_json::Value = position.unwrap_or_default();
        let through = position.get("recorded_at").and_then(serde_json::Value::as_i64);
        Self {
            replay_id: replay.replay_id,
            endpoint_id: replay.endpoint_id,
            state: replay.state.as_str(),
            from: replay.selection.from.map(|at| at.to_string()),
            to: replay.selection.to.map(|at| at.to_string()),
            types: replay.selection.event_types,
            message_id: replay.selection.message_id,
            only_failed: replay.selection.failed,
            delivered: replay.delivered,
            failed: replay.failed,
            through: through.map(|at| Timestamp(at).to_string()),
            last_error: replay.last_error,
            created_at: replay.created_at.to_string(),
            created_by: replay.created_by,
            ended_at: replay.ended_at.map(|at| at.to_string()),
        }
    }
}

/// What became of a test.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tested {
    pub is_delivered: bool,
    pub status: Option<u16>,
    pub error: Option<String>,
    /// The beginning of the answer.
    pub answer: String,
    pub took_ms: u64,
}

/// Sends one signed message that concerns no mail, whatever state the endpoint is in.
pub async fn test(sender: &Sender, ids: &Ids, endpoint: &Endpoint) -> anyhow::Result<Tested> {
    let (url, id) = (Url::parse(&endpoint.settings.url)?, ids.uuid().to_string());
    let body = body::of_test(&endpoint.endpoint_id, ids.now());
    let began = std::time::Instant::now();
    let message = Message { url: &url, secrets: &endpoint.secrets, id: &id, body, replay_id: None };
    let answer = sender.try_out(message).await;
    let error = match &answer.outcome {
        Outcome::Failed { said, .. } | Outcome::Gone { said } => Some(said.clone()),
        _ => None,
    };
    Ok(Tested {
        is_delivered: answer.outcome == Outcome::Delivered,
        status: answer.status,
        error,
        answer: answer.body,
        took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}
