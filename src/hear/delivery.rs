//! What the lake knows of the messages that feedback names. Lookups that meet are one query.

use std::collections::HashMap;
use std::sync::Arc;

use sendlake_control::clock::Timestamp;
use sendlake_control::id::{TenantId, uuid_v7_time};
use sendlake_query::output::{Format, to_bytes};
use sendlake_query::{QueryEngine, Scope};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::Unavailable;

const QUERY: &str = include_str!("delivery.sql");
/// Ids in one query.
const BATCH_MAX: usize = 500;
/// Lookups that wait for the query before them.
const WAITING_MAX: usize = 4_096;

/// A message as it left.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Delivery {
    pub message_id: Uuid,
    pub tenant_id: TenantId,
    pub submission_id: Option<String>,
    pub stream: Option<String>,
    pub campaign_id: Option<String>,
    pub content_fingerprint: Option<String>,
    pub recipient: Option<String>,
    pub recipient_domain: Option<String>,
    pub provider: Option<String>,
    pub header_from_domain: Option<String>,
    pub mail_from_domain: Option<String>,
    pub dkim_domain: Option<String>,
    pub dkim_selector: Option<String>,
    pub ip_pool: Option<String>,
    pub source_ip: Option<String>,
    /// Null when it was not delivered, as far as is known.
    pub delivered_at: Option<Timestamp>,
}

type Answer = Result<Option<Delivery>, String>;

struct Lookup {
    message_id: Uuid,
    answer: oneshot::Sender<Answer>,
}

/// Looks messages up.
pub struct Deliveries {
    lookups: mpsc::Sender<Lookup>,
    engine: Arc<QueryEngine>,
}

impl Deliveries {
    /// Starts the task that asks; it ends when this is dropped.
    pub fn new(engine: Arc<QueryEngine>) -> Self {
        let (lookups, waiting) = mpsc::channel(WAITING_MAX);
        tokio::spawn(answer_all(Arc::clone(&engine), waiting));
        Self { lookups, engine }
    }

    /// What is asked.
    pub(super) fn engine(&self) -> &QueryEngine {
        &self.engine
    }

    /// The message, or `None` when the lake does not know it.
    pub async fn find(&self, message_id: Uuid) -> Result<Option<Delivery>, Unavailable> {
        let ended = || Unavailable("the lookup of messages has ended".into());
        let (answer, answered) = oneshot::channel();
        self.lookups.send(Lookup { message_id, answer }).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?.map_err(Unavailable)
    }
}

async fn answer_all(engine: Arc<QueryEngine>, mut waiting: mpsc::Receiver<Lookup>) {
    let mut batch = Vec::new();
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let ids: Vec<Uuid> = batch.iter().map(|lookup| lookup.message_id).collect();
        let found = deliveries_of(&engine, &ids).await;
        for lookup in batch.drain(..) {
            let answer = match &found {
                Ok(found) => Ok(found.get(&lookup.message_id).cloned()),
                Err(error) => Err(error.clone()),
            };
            let _ = lookup.answer.send(answer);
        }
    }
}

async fn deliveries_of(engine: &QueryEngine, ids: &[Uuid]) -> Result<HashMap<Uuid, Delivery>, String> {
    let oldest = ids.iter().filter_map(|id| uuid_v7_time(*id)).min().unwrap_or_default();
    let since = oldest.plus_secs(-86_400).to_chrono().format("%Y-%m-%d").to_string();
    let list = ids.iter().map(|id| format!("'{id}'")).collect::<Vec<_>>().join(", ");
    let sql = QUERY.replace("{message_ids}", &list).replace("{since}", &since);
    let output = engine
        .query(&Scope::AllTenants, &sql, engine.limits().query)
        .await
        .map_err(|error| error.to_string())?;
    let json = to_bytes(&output, Format::Json).map_err(|error| error.to_string())?;
    #[derive(Deserialize)]
    struct Rows {
        rows: Vec<Delivery>,
    }
    let answer: Rows = serde_json::from_slice(&json).map_err(|error| error.to_string())?;
    Ok(answer.rows.into_iter().map(|delivery| (delivery.message_id, delivery)).collect())
}
