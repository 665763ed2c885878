//! What the send API asks of the rest of the program: spool, keys and history behind its ports.

use std::sync::Arc;

use async_trait::async_trait;
use sendlake_control::ControlStore;
use sendlake_control::id::{Ids, TenantId, uuid_v7_time};
use sendlake_control::tenant::TenantState;
use sendlake_ingest::event::{Event, EventType};
use sendlake_query::output::{Format, to_bytes};
use sendlake_query::{QueryEngine, QueryError, Scope};
use sendlake_sender::api::ports::{
    Authenticator, Caller, History, Intake, IntakeRefusal, MessageHistory, PortUnavailable, Rejection,
};
use sendlake_sender::identity::{Identities, Identity};
use sendlake_sender::source::Sources;
use sendlake_sender::spool::Spool;
use sendlake_sender::spool::intake::{IntakeRefused, SendingFacts};
use sendlake_sender::submission::{Accepted, Submission};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::identities::ControlIdentities;

/// Refusals waiting to be logged; more are dropped, as a flood of bad requests is no reason for a flood of
/// writes.
const REJECTIONS_MAX: usize = 256;

/// Accepts into the spool.
pub struct SpoolIntake {
    spool: Arc<Spool>,
    control: Arc<ControlStore>,
    identities: Arc<ControlIdentities>,
    sources: Arc<Sources>,
    rejections: mpsc::Sender<Event>,
    ids: Ids,
}

impl SpoolIntake {
    pub fn new(
        spool: Arc<Spool>,
        control: Arc<ControlStore>,
        identities: Arc<ControlIdentities>,
        sources: Arc<Sources>,
        ids: Ids,
    ) -> Self {
        let (rejections, waiting) = mpsc::channel(REJECTIONS_MAX);
        tokio::spawn(log_rejections(Arc::clone(&spool), waiting));
        Self { spool, control, identities, sources, rejections, ids }
    }
}

async fn log_rejections(spool: Arc<Spool>, mut waiting: mpsc::Receiver<Event>) {
    let mut events = Vec::new();
    while waiting.recv_many(&mut events, REJECTIONS_MAX).await > 0 {
        if let Err(error) = spool.log(&events).await {
            tracing::warn!(%error, count = events.len(), "refusals were not logged");
        }
        events.clear();
    }
}

#[async_trait]
impl Intake for SpoolIntake {
    async fn accept(&self, submission: Submission) -> Result<Accepted, IntakeRefusal> {
        self.spool.check_room().map_err(|refused| match refused {
            IntakeRefused::FreeSpace { .. } => IntakeRefusal::FreeSpaceLow,
            IntakeRefused::OutboxFull { .. } => IntakeRefusal::LakeBehind,
        })?;
        let store_failed = |error: &dyn std::fmt::Display| IntakeRefusal::Store(error.to_string());
        self.control.ensure_data_key(&submission.tenant_id).await.map_err(|e| store_failed(&e))?;
        let facts = self.identities.find(&submission.tenant_id, &submission.header_from_domain).map_or_else(
            SendingFacts::default,
            |identity: Arc<Identity>| {
                identity.facts(&submission.header_from_domain, self.sources.pool(submission.stream))
            },
        );
        self.spool.accept(submission, &facts).await.map_err(|e| store_failed(&e))
    }

    async fn reject(&self, rejection: Rejection) {
        let mut event = Event::new(
            self.ids.uuid(),
            EventType::Rejected,
            rejection.rejected_at,
            rejection.tenant_id.clone(),
        );
        event.detail = Some(
            serde_json::json!({
                "problem": rejection.problem,
                "code": rejection.code,
                "pointer": rejection.pointer,
                "detail": rejection.detail,
                "errors": rejection.errors,
                "key_id": rejection.key_id,
            })
            .to_string(),
        );
        // a tenant that never had mail accepted has no data key in memory yet
        if self.control.ensure_data_key(&rejection.tenant_id).await.is_ok() {
            let _ = self.rejections.try_send(event);
        }
    }
}

/// Recognises the keys of the control store.
pub struct ControlAuthenticator(pub Arc<ControlStore>);

#[async_trait]
impl Authenticator for ControlAuthenticator {
    async fn authenticate(&self, presented: &str) -> Result<Option<Caller>, PortUnavailable> {
        let principal =
            self.0.authenticate(presented).await.map_err(|error| PortUnavailable(error.to_string()))?;
        Ok(principal.map(|principal| Caller {
            key_id: principal.key_id,
            suspended: principal.tenant_state == TenantState::Suspended,
            tenant: principal.tenant,
            scopes: principal.scopes.iter().map(ToString::to_string).collect(),
        }))
    }
}

/// Answers from the lake and the spool's events.
pub struct LakeHistory(pub Arc<QueryEngine>);

#[async_trait]
impl History for LakeHistory {
    async fn message(
        &self,
        tenant: Option<&TenantId>,
        message_id: Uuid,
    ) -> Result<Option<MessageHistory>, PortUnavailable> {
        let scope = tenant.map_or(Scope::AllTenants, |tenant| Scope::Tenant(tenant.clone()));
        let rows = events_of(&self.0, &scope, message_id)
            .await
            .map_err(|error| PortUnavailable(error.to_string()))?;
        Ok(history(message_id, rows))
    }
}

/// Every event of a message, oldest first, without null columns. Reads from the day before the id was made.
pub async fn events_of(
    engine: &QueryEngine,
    scope: &Scope,
    message_id: Uuid,
) -> Result<Vec<Map<String, Value>>, QueryError> {
    let since = uuid_v7_time(message_id).map_or_else(
        || "1970-01-01".to_owned(),
        |made_at| made_at.plus_secs(-86_400).to_chrono().format("%Y-%m-%d").to_string(),
    );
    let sql = format!(
        "SELECT * FROM events WHERE message_id = '{message_id}' AND event_date >= DATE '{since}' \
         ORDER BY seq ASC NULLS LAST, recorded_at, event_id"
    );
    let output = engine.query(scope, &sql, engine.limits().query).await?;
    let json: Value = serde_json::from_slice(&to_bytes(&output, Format::Json)?).unwrap_or_default();
    let rows = json.get("rows").and_then(Value::as_array).cloned().unwrap_or_default();
    Ok(rows
        .into_iter()
        .filter_map(|row| match row {
            Value::Object(fields) => Some(fields.into_iter().filter(|(_, value)| !value.is_null()).collect()),
            _ => None,
        })
        .collect())
}

/// The history that `rows` tell; `None` when there are none.
pub fn history(message_id: Uuid, rows: Vec<Map<String, Value>>) -> Option<MessageHistory> {
    const TERMINAL: [&str; 6] = ["delivered", "bounced", "expired", "cancelled", "suppressed", "rejected"];
    let text =
        |column: &str| rows.iter().find_map(|row| row.get(column)).and_then(Value::as_str).map(str::to_owned);
    let kinds = || rows.iter().filter_map(|row| row.get("event_type")).filter_map(Value::as_str);
    let held = kinds().rfind(|kind| ["held", "released"].contains(kind)) == Some("held");
    let outcome =
        kinds().rfind(|kind| TERMINAL.contains(kind)).unwrap_or(if held { "held" } else { "queued" });
    Some(MessageHistory {
        message_id,
        submission_id: text("submission_id").and_then(|id| Uuid::parse_str(&id).ok()),
        tenant_id: text("tenant_id")?,
        recipient: text("recipient"),
        stream: text("stream").and_then(|stream| stream.parse().ok()),
        outcome: outcome.to_owned(),
        events: rows,
    })
}
