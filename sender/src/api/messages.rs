//! `/v1/messages`: submit one, many or a raw one, and ask what became of it.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use sendlake_control::id::TenantId;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::MediaType;
use super::ports::{IntakeRefusal, MessageHistory, Rejection};
use super::problem::{Faults, Kind, Pointer, Problem};
use super::request::{self, MessageRequest, Rules, raw};
use super::{Api, auth, body, idempotency, json, openapi};
use crate::compose::fingerprint::sha256;
use crate::submission::{Accepted, Submission};

/// The answer to an accepted submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SubmissionReceipt {
    #[schema(value_type = String, format = "uuid")]
    pub submission_id: Uuid,
    /// One per recipient.
    pub messages: Vec<MessageReceipt>,
}

/// One message of a submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct MessageReceipt {
    #[schema(value_type = String, format = "uuid")]
    pub message_id: Uuid,
    pub recipient: String,
}

/// The answer to an accepted batch: one entry per message, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct BatchReceipt {
    pub submissions: Vec<BatchEntry>,
}

/// A message of a batch is accepted. Only when the store fails in the middle of a batch does an entry hold a
/// problem instead; sending the batch again under its Idempotency-Key then accepts what is missing, once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum BatchEntry {
    Accepted(SubmissionReceipt),
    Refused { problem: Problem },
}

/// Submits one message.
///
/// 202 comes after the message is durable. Each recipient is a message of its own, with its own `message_id`.
#[utoipa::path(
    post, path = "/v1/messages", tag = "messages", security(("api_key" = [])),
    params(openapi::SubmitHeaders),
    request_body = openapi::MessageBody,
    responses(
        (status = 202, description = "Accepted and durable", body = SubmissionReceipt),
        (status = "4XX", description = "Refused; nothing was accepted", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn post_message(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let submitter = match Submitter::admit(&api, &parts) {
        Ok(submitter) => submitter,
        Err(problem) => return problem.into_response(),
    };
    let outcome = submitter.submit_message(&parts.headers, body).await;
    submitter.answer(outcome).await
}

/// Submits up to 500 messages.
///
/// If any message is at fault, nothing is accepted and 422 lists every fault with a pointer such as
/// `/messages/3/to/0`.
#[utoipa::path(
    post, path = "/v1/messages/batch", tag = "messages", security(("api_key" = [])),
    params(openapi::SubmitHeaders),
    request_body = openapi::BatchBody,
    responses(
        (status = 202, description = "All accepted and durable", body = BatchReceipt),
        (status = "4XX", description = "Refused; nothing was accepted", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn post_batch(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let submitter = match Submitter::admit(&api, &parts) {
        Ok(submitter) => submitter,
        Err(problem) => return problem.into_response(),
    };
    let outcome = submitter.submit_batch(&parts.headers, body).await;
    submitter.answer(outcome).await
}

/// Submits one message that is composed already (RFC 5322).
///
/// As JSON with base64, or as `message/rfc822` with the envelope in headers. Lone LF becomes CRLF; Bcc and
/// Return-Path are taken out; a missing Date is added; everything else stays as it is.
#[utoipa::path(
    post, path = "/v1/messages/raw", tag = "messages", security(("api_key" = [])),
    params(openapi::SubmitHeaders, openapi::RawHeaders),
    request_body(content(
        (openapi::RawBody = "application/json"),
        (String = "message/rfc822"),
    )),
    responses(
        (status = 202, description = "Accepted and durable", body = SubmissionReceipt),
        (status = "4XX", description = "Refused; nothing was accepted", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not now; see Retry-After", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn post_raw(State(api): State<Arc<Api>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let submitter = match Submitter::admit(&api, &parts) {
        Ok(submitter) => submitter,
        Err(problem) => return problem.into_response(),
    };
    let outcome = submitter.submit_raw(&parts.headers, body).await;
    submitter.answer(outcome).await
}

/// The history of one message so far.
#[utoipa::path(
    get, path = "/v1/messages/{message_id}", tag = "messages", security(("api_key" = [])),
    params(("message_id" = String, Path, description = "From the answer to a submission", format = "uuid")),
    responses(
        (status = 200, description = "Everything known so far", body = MessageHistory),
        (status = "4XX", description = "No such message, or no right to see it", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn get_message(
    State(api): State<Arc<Api>>,
    Path(message_id): Path<String>,
    request: Request,
) -> Response {
    history(&api, &message_id, &request.into_parts().0)
        .await
        .map_or_else(Problem::into_response, IntoResponse::into_response)
}

async fn history(api: &Api, message_id: &str, parts: &Parts) -> Result<Json<MessageHistory>, Problem> {
    let caller = auth::require(&parts.extensions, "read")?;
    let tenant = auth::tenant(caller, &parts.headers)?;
    let absent = |why: &str| {
        let shown: String = message_id.chars().take(60).collect();
        Problem::new(Kind::MessageNotFound, format!("{shown:?}: {why}"))
    };
    let id = Uuid::parse_str(message_id).map_err(|_| absent("not a message_id, which is a UUID"))?;
    match api.history.message(tenant.as_ref(), id).await {
        Ok(history) => history.map(Json).ok_or_else(|| absent("no such message")),
        Err(error) => {
            tracing::error!(%error, message_id = %id, "a message's history cannot be read");
            let detail = "the message's history cannot be read just now";
            Err(Problem::new(Kind::StoreUnavailable, detail).retry_after(5))
        }
    }
}

/// Envelope and options of a `message/rfc822` request, which stand in its headers.
fn described_by(headers: &HeaderMap) -> Value {
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let recipients: Vec<_> = headers
        .get_all("sendlake-recipients")
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    let recipients: Vec<&str> = recipients
        .iter()
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|address| !address.is_empty())
        .collect();
    let options = [
        ("stream", text("sendlake-stream")),
        ("campaign_id", text("sendlake-campaign-id")),
        ("send_at", text("sendlake-send-at")),
    ];
    let options: Vec<_> = options.iter().map(|(name, value)| (*name, value.as_deref())).collect();
    let tracking = [("opens", text("sendlake-track-opens")), ("clicks", text("sendlake-track-clicks"))];
    let tracking: Vec<_> = tracking.iter().map(|(name, value)| (*name, value.as_deref())).collect();
    raw::describe(&recipients, &options, &tracking)
}

/// One request to submit, of one tenant.
struct Submitter<'a> {
    api: &'a Api,
    tenant_id: TenantId,
    key_id: String,
}

impl<'a> Submitter<'a> {
    /// Checks the key's scope and finds the tenant.
    fn admit(api: &'a Api, parts: &Parts) -> Result<Self, Problem> {
        let caller = auth::require(&parts.extensions, "send")?;
        let tenant_id = auth::require_tenant(caller, &parts.headers)?;
        Ok(Self { api, tenant_id, key_id: caller.key_id.clone() })
    }

    async fn submit_message(&self, headers: &HeaderMap, body: Body) -> Result<SubmissionReceipt, Problem> {
        body::media_type(headers, &[MediaType::Json])?;
        let key_hash = idempotency::key_hash(headers)?;
        let value = json::read(&body::read(headers, body, &self.api.limits).await?)?;
        let request = self.with_rules(|rules| request::message_request(&value, rules))?;
        self.take_rate(request.recipients.len())?;
        let mut submission = self.compose(request, &Pointer::root())?;
        submission.idempotency =
            key_hash.map(|key| idempotency::of_message(key, json::request_hash("messages", &value), 0));
        self.accept(submission).await
    }

    async fn submit_batch(&self, headers: &HeaderMap, body: Body) -> Result<BatchReceipt, Problem> {
        body::media_type(headers, &[MediaType::Json])?;
        let key_hash = idempotency::key_hash(headers)?;
        let value = json::read(&body::read(headers, body, &self.api.limits).await?)?;
        let requests = self.with_rules(|rules| request::batch_request(&value, rules))?;
        self.take_rate(requests.iter().map(|request| request.recipients.len()).sum())?;
        let key = key_hash.map(|key| (key, json::request_hash("messages/batch", &value)));
        let mut submissions = Vec::with_capacity(requests.len());
        for (index, request) in requests.into_iter().enumerate() {
            let at = Pointer::root().field("messages").item(index);
            let mut submission = self.compose(request, &at)?;
            submission.idempotency = key.map(|(key, request)| idempotency::of_message(key, request, index));
            submissions.push(submission);
        }
        self.accept_batch(submissions).await
    }

    async fn submit_raw(&self, headers: &HeaderMap, body: Body) -> Result<SubmissionReceipt, Problem> {
        let media_type = body::media_type(headers, &[MediaType::Json, MediaType::Rfc822])?;
        let key_hash = idempotency::key_hash(headers)?;
        let octets = body::read(headers, body, &self.api.limits).await?;
        let (request, request_hash) = match media_type {
            MediaType::Json => {
                let value = json::read(&octets)?;
                let request = self.with_rules(|rules| raw::raw_request(&value, rules))?;
                (request, json::request_hash("messages/raw", &value))
            }
            MediaType::Rfc822 => {
                let described = described_by(headers);
                let request = self.with_rules(|rules| raw::rfc822_request(&octets, &described, rules))?;
                (request, sha256(&[&json::request_hash("messages/raw", &described), &sha256(&[&octets])]))
            }
        };
        self.take_rate(request.recipients.len())?;
        let mut submission = self.api.raw_submission(&self.tenant_id, request);
        submission.idempotency = key_hash.map(|key| idempotency::of_message(key, request_hash, 0));
        self.accept(submission).await
    }

    /// 202, or the problem, which is recorded as a rejection.
    async fn answer<T: Serialize>(&self, outcome: Result<T, Problem>) -> Response {
        match outcome {
            Ok(receipt) => (StatusCode::ACCEPTED, Json(receipt)).into_response(),
            Err(problem) => {
                self.record(&problem).await;
                problem.into_response()
            }
        }
    }

    fn with_rules<T>(&self, read: impl FnOnce(&Rules<'_>) -> T) -> T {
        let owns = |domain: &str| self.api.senders.sending_domain(&self.tenant_id, domain);
        read(&Rules { limits: &self.api.limits, now: self.api.ids.now(), owns: &owns })
    }

    fn take_rate(&self, messages: usize) -> Result<(), Problem> {
        self.api.rates.take(&self.tenant_id, messages, self.api.ids.now()).map_err(|retry_after_s| {
            let limits = &self.api.limits;
            let detail = format!(
                "this tenant may submit {} messages/s, {} at once; retry in {retry_after_s} s",
                limits.messages_per_s, limits.messages_burst
            );
            Problem::new(Kind::RateLimited, detail).retry_after(retry_after_s)
        })
    }

    fn compose(&self, request: MessageRequest, at: &Pointer) -> Result<Submission, Problem> {
        let submission = self.api.submission(&self.tenant_id, request);
        let (octets, most) = (submission.content.size_bytes(), self.api.limits.message_bytes);
        let mut faults = Faults::default();
        if octets > most {
            let detail = format!("the composed message is {octets} octets long; at most {most}");
            faults.limit(at, Kind::MessageTooLarge, detail);
        }
        request::finish(Some(submission), faults)
    }

    async fn accept(&self, submission: Submission) -> Result<SubmissionReceipt, Problem> {
        let receipt = receipt_of(&submission);
        let outcome = self.api.intake.accept(submission).await;
        settle(receipt, outcome)
    }

    /// The first message goes ahead when there is a key: whether that was used for another request is settled
    /// before any other message is taken.
    async fn accept_batch(&self, mut submissions: Vec<Submission>) -> Result<BatchReceipt, Problem> {
        let mut receipts: Vec<_> = submissions.iter().map(receipt_of).collect();
        let mut entries = Vec::with_capacity(receipts.len());
        if submissions.first().is_some_and(|first| first.idempotency.is_some()) {
            let rest = submissions.split_off(1);
            for first in std::mem::replace(&mut submissions, rest) {
                entries.push(BatchEntry::Accepted(self.accept(first).await?));
            }
            receipts.remove(0);
        }
        let outcomes = self.api.intake.accept_all(submissions).await;
        let mut refused = None;
        for (receipt, outcome) in receipts.into_iter().zip(outcomes) {
            entries.push(match settle(receipt, outcome) {
                Ok(receipt) => BatchEntry::Accepted(receipt),
                Err(problem) => {
                    refused.get_or_insert_with(|| problem.clone());
                    BatchEntry::Refused { problem }
                }
            });
        }
        match refused {
            Some(problem) if entries.iter().all(|entry| matches!(entry, BatchEntry::Refused { .. })) => {
                Err(problem)
            }
            _ => Ok(BatchReceipt { submissions: entries }),
        }
    }

    async fn record(&self, problem: &Problem) {
        // A 503 is our failure, and nothing was wrong with the request.
        if problem.status >= 500 {
            return;
        }
        let first = problem.errors.first();
        let rejection = Rejection {
            tenant_id: self.tenant_id.clone(),
            key_id: self.key_id.clone(),
            rejected_at: self.api.ids.now(),
            problem: problem.code(),
            code: first.map_or(problem.code(), |error| error.code),
            pointer: first.map(|error| error.pointer.clone()),
            detail: problem.detail.clone(),
            errors: problem.errors.len(),
        };
        self.api.intake.reject(rejection).await;
    }
}

fn receipt_of(submission: &Submission) -> SubmissionReceipt {
    let messages = submission.recipients.iter().map(|message| MessageReceipt {
        message_id: message.message_id,
        recipient: message.recipient.to_string(),
    });
    SubmissionReceipt { submission_id: submission.submission_id, messages: messages.collect() }
}

/// The answer, once the spool has said what became of a submission. A repeat has the ids given then: the same
/// request has the same recipients in the same order.
fn settle(
    receipt: SubmissionReceipt,
    outcome: Result<Accepted, IntakeRefusal>,
) -> Result<SubmissionReceipt, Problem> {
    match outcome {
        Ok(Accepted::New) => Ok(receipt),
        Ok(Accepted::Repeat { submission_id, message_ids }) => {
            let messages = receipt.messages.into_iter().zip(message_ids);
            let messages =
                messages.map(|(message, message_id)| MessageReceipt { message_id, ..message }).collect();
            Ok(SubmissionReceipt { submission_id, messages })
        }
        Ok(Accepted::KeyReused) => Err(idempotency::reused()),
        Err(IntakeRefusal::LakeBehind) => {
            let detail = "too many events wait for the lake; nothing was accepted";
            Err(Problem::new(Kind::LakeBehind, detail).retry_after(60))
        }
        Err(IntakeRefusal::FreeSpaceLow) => {
            let detail = "the server's disk is nearly full; what it accepted before is safe";
            Err(Problem::new(Kind::FreeSpaceLow, detail).retry_after(60))
        }
        Err(IntakeRefusal::ShuttingDown) => {
            Err(Problem::new(Kind::ShuttingDown, "the server is stopping").retry_after(10))
        }
        Err(IntakeRefusal::Store(error)) => {
            tracing::error!(%error, "a submission could not be made durable");
            let detail = "the message could not be made durable, so it was not accepted";
            Err(Problem::new(Kind::StoreUnavailable, detail).retry_after(30))
        }
    }
}
