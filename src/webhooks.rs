//! `POST /v1/webhooks/<sender>/<token>`: other senders push their events, and each is durable before its 200.
//!
//! - [`sns`]: what Amazon SNS signs, and the certificates it signs with · `signed`: SendGrid, Mailgun, passwords
//!
//! The token in the address says whose the events are; nothing of a body is read before it is checked. What a push
//! must show besides depends on the sender.

mod signed;
pub mod sns;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use sendlake_control::ControlStore;
use sendlake_control::id::Ids;
use sendlake_control::webhook::Webhook;
use sendlake_ingest::foreign::{Fact, Setting, Source, facts_of_body};
use sendlake_sender::provider::provider_of;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::json;
use utoipa::{OpenApi, ToSchema};

use self::sns::{Certificates, Message, Refused};
use crate::hear::Hearing;
use crate::hear::elsewhere::{Batch, NotTaken};

pub use self::signed::is_verification_key;

/// Largest push: SendGrid's are below 1 MiB, SparkPost's below 10.
const BODY_BYTES_MAX: usize = 12 << 20;
const BODY_TIME_MAX: Duration = Duration::from_secs(60);

/// What pushes are taken with.
pub struct Webhooks {
    pub control: Arc<ControlStore>,
    pub hearing: Arc<Hearing>,
    pub certificates: Certificates,
    pub ids: Ids,
}

pub fn routes(webhooks: Arc<Webhooks>) -> Router {
    Router::new().route("/v1/webhooks/{sender}/{token}", post(push)).with_state(webhooks)
}

#[derive(OpenApi)]
#[openapi(paths(push), components(schemas(Pushed)))]
pub struct ApiDoc;

/// What became of a push: `read` is the sum of the others.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
struct Pushed {
    read: u64,
    /// New events.
    mapped: u64,
    /// Events that were known.
    repeated: u64,
    /// Without a place in our vocabulary.
    unmapped: u64,
    /// Unreadable.
    bad: u64,
}

/// Why a push is not taken.
#[derive(Debug, thiserror::Error)]
enum NotPushed {
    #[error("no webhook has this address; `sendlake webhook-in add` makes one")]
    Unknown,
    #[error("{0}")]
    Unproven(String),
    #[error("the body has more than {} MiB", BODY_BYTES_MAX >> 20)]
    TooLarge,
    #[error("the body took longer than {} s to arrive", BODY_TIME_MAX.as_secs())]
    Late,
    #[error("it ends too early; send it again: events of it that were complete are not taken twice")]
    CutOff,
    #[error("nothing in it is an event of {0}")]
    Nonsense(Source),
    #[error("it could not be recorded now; send it again")]
    Later,
}

impl IntoResponse for NotPushed {
    fn into_response(self) -> Response {
        let status = match &self {
            NotPushed::Unknown => StatusCode::NOT_FOUND,
            NotPushed::Unproven(_) => StatusCode::FORBIDDEN,
            NotPushed::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            NotPushed::Late => StatusCode::REQUEST_TIMEOUT,
            NotPushed::CutOff => StatusCode::BAD_REQUEST,
            NotPushed::Nonsense(_) => StatusCode::UNPROCESSABLE_ENTITY,
            NotPushed::Later => StatusCode::SERVICE_UNAVAILABLE,
        };
        let body = Json(
            json!({ "title": "the push was not taken", "status": status.as_u16(), "detail": self.to_string() }),
        );
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return (status, [(header::RETRY_AFTER, "30")], kind, body).into_response();
        }
        (status, kind, body).into_response()
    }
}

/// Takes what another sender pushes, in that sender's own form. The address is the key: `sendlake webhook-in add` makes it.
/// Each event is durable before the answer.
#[utoipa::path(post, path = "/v1/webhooks/{sender}/{token}", tag = "webhooks",
    params(("sender" = String, Path, description = "`ses`, `sendgrid`, `mailgun`, `postmark` or `sparkpost`"),
        ("token" = String, Path, description = "Says whose the events are")),
    request_body(content = String, content_type = "application/json"),
    responses((status = 200, description = "Taken.", body = Pushed),
        (status = 400, description = "It ends too early: send it again."),
        (status = 403, description = "Its signature, its topic or its password does not fit, or it is too old."),
        (status = 404, description = "No webhook has this address."),
        (status = 408, description = "The body took too long to arrive."),
        (status = 413, description = "The body is too large."),
        (status = 422, description = "Nothing in it is an event of this sender."),
        (status = 503, description = "It could not be recorded now: send it again.")))]
async fn push(
    State(webhooks): State<Arc<Webhooks>>,
    Path((sender, token)): Path<(String, String)>,
    request: Request<Body>,
) -> Response {
    let taken = webhooks.take(&sender, &token, request).await;
    match taken {
        Ok(pushed) => Json(pushed).into_response(),
        Err(refused) => {
            tracing::info!(sender, %refused, "a push was not taken");
            refused.into_response()
        }
    }
}

impl Webhooks {
    async fn take(&self, sender: &str, token: &str, request: Request<Body>) -> Result<Pushed, NotPushed> {
        let webhook = match self.control.webhook(token).await {
            Ok(Some(webhook)) if webhook.source == sender => webhook,
            Ok(_) => return Err(NotPushed::Unknown),
            Err(error) => {
                tracing::error!(%error, "webhooks cannot be looked up");
                return Err(NotPushed::Later);
            }
        };
        let source: Source = webhook.source.parse().map_err(|_| NotPushed::Unknown)?;
        let (parts, body) = request.into_parts();
        signed::password(&webhook, &parts.headers).map_err(NotPushed::Unproven)?;
        let body = tokio::time::timeout(BODY_TIME_MAX, axum::body::to_bytes(body, BODY_BYTES_MAX));
        let body = body.await.map_err(|_| NotPushed::Late)?.map_err(|_| NotPushed::TooLarge)?;
        if self.prove(&webhook, source, &parts.headers, &body).await? == Proof::NothingToDo {
            return Ok(Pushed::default());
        }
        let pushed = self.log(&webhook, source, &body).await?;
        if is_cut_off(&body) {
            tracing::warn!(%source, webhook = webhook.webhook_id, mapped = pushed.mapped, "a push ends too early");
            return Err(NotPushed::CutOff);
        }
        Ok(pushed)
    }

    async fn prove(
        &self,
        webhook: &Webhook,
        source: Source,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Proof, NotPushed> {
        match source {
            Source::Ses => self.of_sns(webhook, body).await,
            Source::Sendgrid => {
                signed::sendgrid(webhook, headers, body, self.ids.now()).map_err(NotPushed::Unproven)?;
                Ok(Proof::Good)
            }
            Source::Mailgun => {
                let keys = signed::mailgun(webhook, body, self.ids.now()).map_err(NotPushed::Unproven)?;
                // the signature does not cover the event: a token is good for one event, however often that comes
                match self.hearing.see_together(keys.token, keys.with_body).await {
                    Ok(true) => Ok(Proof::Good),
                    Ok(false) => Err(NotPushed::Unproven("its token came before, with another event".into())),
                    Err(error) => Err(later(&error)),
                }
            }
            _ => Ok(Proof::Good),
        }
    }

    async fn of_sns(&self, webhook: &Webhook, body: &[u8]) -> Result<Proof, NotPushed> {
        let message = Message::read(body).map_err(|refused| NotPushed::Unproven(refused.to_string()))?;
        let topic = webhook.settings.topic_arn.as_deref().unwrap_or_default();
        if message.topic_arn != topic {
            return Err(NotPushed::Unproven("it is of another topic than this webhook's".into()));
        }
        let proven = |refused: Refused| match refused {
            Refused::Unavailable(why) => {
                tracing::warn!(why, "a push of SNS cannot be checked now");
                NotPushed::Later
            }
            refused => NotPushed::Unproven(refused.to_string()),
        };
        self.certificates.verify(&message, self.ids.now()).await.map_err(proven)?;
        match message.kind.as_str() {
            "SubscriptionConfirmation" => {
                self.certificates.confirm(&message).await.map_err(proven)?;
                tracing::info!(topic, "subscribed to the topic");
                Ok(Proof::NothingToDo)
            }
            "UnsubscribeConfirmation" => {
                tracing::warn!(topic, "the topic no longer sends here");
                Ok(Proof::NothingToDo)
            }
            _ => Ok(Proof::Good),
        }
    }

    async fn log(&self, webhook: &Webhook, source: Source, body: &[u8]) -> Result<Pushed, NotPushed> {
        let setting = Setting {
            source,
            tenant_id: webhook.tenant_id.clone(),
            stream: webhook.settings.stream.clone(),
            domain: webhook.settings.domain.clone(),
            utc_offset_s: 0,
            provider_of,
            now: self.ids.now(),
        };
        let mut pushed = Pushed::default();
        let mut events = Vec::new();
        for fact in facts_of_body(&setting, body) {
            pushed.read += 1;
            match fact {
                Fact::Event(event) => events.push(*event),
                Fact::Unmapped(kind) => {
                    tracing::debug!(%source, kind, "a pushed event has no place in our vocabulary");
                    pushed.unmapped += 1;
                }
                Fact::Bad(_) => pushed.bad += 1,
            }
        }
        if pushed.bad > 0 {
            // not why: it may quote what the event says of a person
            tracing::warn!(%source, webhook = webhook.webhook_id, bad = pushed.bad, "pushed events cannot be read");
        }
        if pushed.bad > 0 && pushed.bad == pushed.read && !is_cut_off(body) {
            return Err(NotPushed::Nonsense(source));
        }
        if !events.is_empty() {
            let batch =
                Batch { tenant_id: webhook.tenant_id.clone(), suppress: webhook.settings.suppress, events };
            let taken = self.hearing.take_pushed_events(batch).await.map_err(|error| later(&error))?;
            pushed.mapped = taken.logged;
            pushed.repeated = taken.repeated;
        }
        Ok(pushed)
    }
}

/// Whether a body of JSON values ends within one of them.
fn is_cut_off(body: &[u8]) -> bool {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<IgnoredAny>();
    values.find_map(Result::err).is_some_and(|error| error.is_eof())
}

fn later(error: &NotTaken) -> NotPushed {
    tracing::warn!(%error, "a push was put off");
    NotPushed::Later
}

/// What is to be done with a push that has shown whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Good,
    NothingToDo,
}

#[cfg(test)]
mod tests;
