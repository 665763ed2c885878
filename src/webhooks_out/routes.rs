//! `/v1/webhooks`: a tenant's own endpoints over HTTP. Reading needs the scope `read`, anything else `admin`: whoever may say
//! where events go may read all of them.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{Extensions, HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use sendlake_connectors::webhooks::filter;
use sendlake_connectors::webhooks::send::Sender;
use sendlake_control::clock::Timestamp;
use sendlake_control::endpoint::progress::UndeliveredState;
use sendlake_control::endpoint::replay::ReplaySelection;
use sendlake_control::endpoint::{Endpoint, EndpointSettings, EndpointState, EventFilter};
use sendlake_control::id::Ids;
use sendlake_control::{ControlError, ControlStore};
use sendlake_sender::api::auth;
use sendlake_sender::api::ports::Caller;
use sendlake_sender::api::problem::{Kind, Problem};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, OpenApi, ToSchema};
use uuid::Uuid;

use super::{EndpointView, KEEP_S, ReplayView, Tested, UndeliveredView, view};

const PAGE_MAX: u32 = 1_000;
const KEEP_S_MAX: u32 = 30 * 86_400;

#[derive(OpenApi)]
#[openapi(
    paths(
        list,
        add,
        show,
        change,
        remove,
        rotate,
        pause,
        resume,
        test,
        undelivered,
        replays,
        add_replay,
        show_replay,
        cancel_replay
    ),
    components(schemas(
        EndpointBody,
        ChangeBody,
        RotateBody,
        ReplayBody,
        EndpointView,
        UndeliveredView,
        ReplayView,
        Tested,
        Made
    ))
)]
pub struct ApiDoc;

/// What the routes work with.
#[derive(Clone)]
pub struct Endpoints {
    pub control: Arc<ControlStore>,
    pub sender: Arc<Sender>,
    pub ids: Ids,
}

pub fn routes(endpoints: Endpoints) -> Router {
    Router::new()
        .route("/v1/webhooks", get(list).post(add))
        .route("/v1/webhooks/{endpoint_id}", get(show).patch(change).delete(remove))
        .route("/v1/webhooks/{endpoint_id}/rotate", post(rotate))
        .route("/v1/webhooks/{endpoint_id}/pause", post(pause))
        .route("/v1/webhooks/{endpoint_id}/resume", post(resume))
        .route("/v1/webhooks/{endpoint_id}/test", post(test))
        .route("/v1/webhooks/{endpoint_id}/undelivered", get(undelivered))
        .route("/v1/webhooks/{endpoint_id}/replays", get(replays).post(add_replay))
        .route("/v1/webhooks/{endpoint_id}/replays/{replay_id}", get(show_replay).delete(cancel_replay))
        .with_state(endpoints)
}

/// A new endpoint.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct EndpointBody {
    /// `https://…`
    url: String,
    #[serde(default)]
    description: Option<String>,
    /// `event_types`, `streams`, `campaign_ids`, `tags`: each that is given must hold.
    #[serde(default)]
    #[schema(value_type = Object)]
    filter: EventFilter,
    /// What is done to recipients before they leave: `hash`, `domain` or `null`.
    #[serde(default)]
    mask: Option<String>,
}

/// What changes; what is left out stays. `null` takes a description or a mask away.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    #[serde(default)]
    url: Option<String>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    description: Option<Option<String>>,
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    filter: Option<EventFilter>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    mask: Option<Option<String>>,
}

/// Tells `null` from nothing.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(from).map(Some)
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct RotateBody {
    /// How long the old secret signs beside the new one, in seconds; a day where nothing is said, 0 for no longer.
    keep_s: Option<u32>,
}

/// What is sent again. Without anything, all that the endpoint's filter lets through.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
struct ReplayBody {
    /// RFC 3339: recorded at or after.
    from: Option<String>,
    /// Recorded before; now where nothing is said.
    to: Option<String>,
    /// Only events of these types.
    types: Vec<String>,
    /// Only events of this message.
    message_id: Option<String>,
    /// Only events that were given up.
    failed: bool,
}

/// A new endpoint, or its new secret.
#[derive(Serialize, ToSchema)]
struct Made {
    endpoint_id: String,
    /// `whsec_…`: what the receiver checks signatures with.
    secret: String,
}

/// Lists endpoints, oldest first.
#[utoipa::path(get, operation_id = "list_webhooks", path = "/v1/webhooks", tag = "webhooks",
    responses((status = 200, description = "All of them.", body = [EndpointView])))]
async fn list(
    State(state): State<Endpoints>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let caller = auth::require(&extensions, "read")?;
    let tenant = auth::tenant(caller, &headers)?;
    let mut found = Vec::new();
    for endpoint in state.control.endpoints(tenant.as_ref()).await.map_err(failed)? {
        found.push(view(&state.control, &state.ids, endpoint).await.map_err(failed)?);
    }
    Ok(Json(json!({ "endpoints": found })).into_response())
}

/// Makes an endpoint; events that are recorded from now on go there.
#[utoipa::path(post, operation_id = "add_webhook", path = "/v1/webhooks", request_body = EndpointBody, tag = "webhooks",
    responses((status = 201, description = "Made; the secret is for the receiver.", body = Made)))]
async fn add(
    State(state): State<Endpoints>,
    headers: HeaderMap,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, Problem> {
    let caller = auth::require(&extensions, "admin")?;
    let tenant = auth::require_tenant(caller, &headers)?;
    let body: EndpointBody = read(&body)?;
    let EndpointBody { url, description, filter, mask } = body;
    let settings = EndpointSettings { url, description, filter, mask };
    state.check(&settings)?;
    let made = state.control.add_endpoint(&actor(caller), &tenant, &settings).await.map_err(failed)?;
    let made = Made { endpoint_id: made.endpoint_id, secret: made.secret.to_string() };
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// One endpoint, and where it is.
#[utoipa::path(get, path = "/v1/webhooks/{endpoint_id}", params(("endpoint_id" = String, Path)), tag = "webhooks",
    responses((status = 200, description = "Its settings and its state.", body = EndpointView)))]
async fn show(
    State(state): State<Endpoints>,
    Path(endpoint_id): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let (_, endpoint) = state.named(&extensions, &headers, "read", &endpoint_id).await?;
    Ok(Json(view(&state.control, &state.ids, endpoint).await.map_err(failed)?).into_response())
}

/// Changes an endpoint; what is left out stays.
#[utoipa::path(patch, path = "/v1/webhooks/{endpoint_id}", params(("endpoint_id" = String, Path)), request_body = ChangeBody,
    tag = "webhooks", responses((status = 200, description = "As it is now.", body = EndpointView)))]
async fn change(
    State(state): State<Endpoints>,
    Path(endpoint_id): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, Problem> {
    let (actor, endpoint) = state.named(&extensions, &headers, "admin", &endpoint_id).await?;
    let body: ChangeBody = read(&body)?;
    let before = endpoint.settings.clone();
    let settings = EndpointSettings {
        url: body.url.unwrap_or(before.url),
        description: body.description.unwrap_or(before.description),
        filter: body.filter.unwrap_or(before.filter),
        mask: body.mask.unwrap_or(before.mask),
    };
    state.check(&settings)?;
    state.control.change_endpoint(&actor, &endpoint, &settings).await.map_err(failed)?;
    state.shown(&endpoint).await
}

/// Ends an endpoint, and its replays.
#[utoipa::path(delete, operation_id = "remove_webhook", path = "/v1/webhooks/{endpoint_id}", params(("endpoint_id" = String, Path)), tag = "webhooks",
    responses((status = 204, description = "Nothing more is sent there.")))]
async fn remove(
    State(state): State<Endpoints>,
    Path(endpoint_id): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let (actor, endpoint) = state.named(&extensions, &headers, "admin", &endpoint_id).await?;
    state.control.remove_endpoint(&actor, &endpoint).await.map_err(failed)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A new signing secret; the old one signs beside it for a day, or as long as is said.
#[utoipa::path(post, path = "/v1/webhooks/{endpoint_id}/rotate", params(("endpoint_id" = String, Path)), tag = "webhooks",
    request_body = RotateBody, responses((status = 200, description = "The new secret.", body = Made)))]
async fn rotate(
    State(state): State<Endpoints>,
    Path(endpoint_id): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, Problem> {
    let (actor, endpoint) = state.named(&extensions, &headers, "admin", &endpoint_id).await?;
    let body: RotateBody = read_or_default(&body)?;
    let keep_s = body.keep_s.unwrap_or(KEEP_S);
    if keep_s > KEEP_S_MAX {
        return Err(invalid(format!("keep_s is at most {KEEP_S_MAX}")));
    }
    let secret = state.control.rotate_endpoint_secret(&actor, &endpoint, keep_s).await.map_err(failed)?;
    Ok(Json(Made { endpoint_id, secret: secret.to_string() }).into_response())
}

/// Sends nothing until it is resumed; events wait in the lake.
#[utoipa::path(post, path = "/v1/webhooks/{endpoint_id}/pause", params(("endpoint_id" = String, Path)), tag = "webhooks",
    responses((status = 200, description = "As it is now.", body = EndpointView)))]
async fn pause(
    State(state): State<Endpoints>,
    Path(endpoint_id): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    state.set(&extensions, &headers, &endpoint_id, EndpointState::Paused).await
}

/// Goes on where it stopped, also after it was disabled.
#[utoipa::path(post, path = "/v1/webhooks/{endpoint_id}/resume", params(("endpoint_id" = String, Path)), tag = "webhooks",
    responses((status = 200, description = "As it is now.", body = EndpointView)))]
async fn resume(
    State(state): State<Endpoints>,
    Path(endpoint_id): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    state.set(&extensions, &headers, &endpoint_id, EndpointState::Active).await
}

/// Sends one signed message of type `webhook_test` now, and says what was answered.
#[utoipa::path(post, path = "/v1/webhooks/{endpoint_id}/test", params(("endpoint_id" = String, Path)), tag = "webhooks",
    responses((status = 200, description = "What became of it.", body = Tested)))]
async fn test(
    State(state): State<Endpoints>,
    Path(endpoint_id): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let (_, endpoint) = state.named(&extensions, &headers, "admin", &endpoint_id).await?;
    let tested = super::test(&state.sender, &state.ids, &endpoint).await;
    Ok(Json(tested.map_err(|error| invalid(error.to_string()))?).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct UndeliveredQuery {
    /// `failed`, or `parked`.
    state: Option<String>,
    /// Most rows, up to 1,000.
    #[param(default = 100)]
    limit: Option<u32>,
    /// `next` of the page before.
    after: Option<String>,
}

/// Events that the endpoint did not take: given up, or still tried.
#[utoipa::path(get, path = "/v1/webhooks/{endpoint_id}/undelivered", params(("endpoint_id" = String, Path), UndeliveredQuery),
    tag = "webhooks", responses((status = 200, description = "A page; `next` is null with the last one.", body = [UndeliveredView])))]
async fn undelivered(
    State(state): State<Endpoints>,
    Path(endpoint_id): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
    query: Result<Query<UndeliveredQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    state.named(&extensions, &headers, "read", &endpoint_id).await?;
    let Query(asked) = query.map_err(|error| invalid(error.body_text()))?;
    let wanted = match asked.state.as_deref() {
        None | Some("failed") => UndeliveredState::Failed,
        Some("parked") => UndeliveredState::Parked,
        Some(other) => return Err(invalid(format!("{other:?} is no state; there are failed and parked"))),
    };
    let place = |text: &str| {
        let (incarnation, lsn) = text.split_once(':')?;
        Some((Uuid::try_parse(incarnation).ok()?, lsn.parse::<u64>().ok()?))
    };
    let after = match asked.after.as_deref() {
        Some(text) => {
            Some(place(text).ok_or_else(|| invalid("after must be the `next` of an answer".into()))?)
        }
        None => None,
    };
    let limit = asked.limit.unwrap_or(100).clamp(1, PAGE_MAX);
    let found = state.control.undelivered(&endpoint_id, wanted, None, after, limit).await.map_err(failed)?;
    let is_full = found.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let next = found.last().filter(|_| is_full).map(|last| format!("{}:{}", last.incarnation, last.lsn));
    let found: Vec<UndeliveredView> = found.into_iter().map(Into::into).collect();
    Ok(Json(json!({ "undelivered": found, "next": next })).into_response())
}

/// The newest replays.
#[utoipa::path(get, path = "/v1/webhooks/{endpoint_id}/replays", params(("endpoint_id" = String, Path)), tag = "webhooks",
    responses((status = 200, description = "Newest first.", body = [ReplayView])))]
async fn replays(
    State(state): State<Endpoints>,
    Path(endpoint_id): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    state.named(&extensions, &headers, "read", &endpoint_id).await?;
    let found = state.control.replays(&endpoint_id, 100).await.map_err(failed)?;
    let found: Vec<ReplayView> = found.into_iter().map(Into::into).collect();
    Ok(Json(json!({ "replays": found })).into_response())
}

/// Has events sent again, from the lake, with the ids that they have had all along.
#[utoipa::path(post, path = "/v1/webhooks/{endpoint_id}/replays", params(("endpoint_id" = String, Path)), tag = "webhooks",
    request_body = ReplayBody, responses((status = 202, description = "It runs beside what is live.", body = ReplayView)))]
async fn add_replay(
    State(state): State<Endpoints>,
    Path(endpoint_id): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, Problem> {
    let (actor, endpoint) = state.named(&extensions, &headers, "admin", &endpoint_id).await?;
    let body: ReplayBody = read_or_default(&body)?;
    let instant = |name: &str, text: Option<String>| match text {
        Some(text) => Timestamp::parse(&text)
            .map(Some)
            .ok_or_else(|| invalid(format!("{name}: {text:?} is no instant like 2026-11-22T09:30:00Z"))),
        None => Ok(None),
    };
    filter::check_types(&body.types).map_err(|error| invalid(error.to_string()))?;
    let selection = ReplaySelection {
        from: instant("from", body.from)?,
        to: instant("to", body.to)?,
        event_types: body.types,
        message_id: body.message_id,
        failed: body.failed,
    };
    let replay = state.control.add_replay(&actor, &endpoint, &selection).await.map_err(failed)?;
    Ok((StatusCode::ACCEPTED, Json(ReplayView::from(replay))).into_response())
}

/// One replay, and where it is.
#[utoipa::path(get, path = "/v1/webhooks/{endpoint_id}/replays/{replay_id}", tag = "webhooks",
    params(("endpoint_id" = String, Path), ("replay_id" = String, Path)),
    responses((status = 200, description = "Its progress.", body = ReplayView)))]
async fn show_replay(
    State(state): State<Endpoints>,
    Path((endpoint_id, replay_id)): Path<(String, String)>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    state.named(&extensions, &headers, "read", &endpoint_id).await?;
    let replay = state.control.replay(&endpoint_id, &replay_id).await.map_err(failed)?;
    Ok(Json(ReplayView::from(replay)).into_response())
}

/// Ends a replay.
#[utoipa::path(delete, path = "/v1/webhooks/{endpoint_id}/replays/{replay_id}", tag = "webhooks",
    params(("endpoint_id" = String, Path), ("replay_id" = String, Path)),
    responses((status = 200, description = "As it ended.", body = ReplayView)))]
async fn cancel_replay(
    State(state): State<Endpoints>,
    Path((endpoint_id, replay_id)): Path<(String, String)>,
    headers: HeaderMap,
    extensions: Extensions,
) -> Result<Response, Problem> {
    let (actor, endpoint) = state.named(&extensions, &headers, "admin", &endpoint_id).await?;
    state.control.cancel_replay(&actor, &endpoint, &replay_id).await.map_err(failed)?;
    let replay = state.control.replay(&endpoint_id, &replay_id).await.map_err(failed)?;
    Ok(Json(ReplayView::from(replay)).into_response())
}

impl Endpoints {
    /// The endpoint that a request is about, if its key may.
    async fn named(
        &self,
        extensions: &Extensions,
        headers: &HeaderMap,
        scope: &str,
        endpoint_id: &str,
    ) -> Result<(String, Endpoint), Problem> {
        let caller = auth::require(extensions, scope)?;
        let tenant = auth::tenant(caller, headers)?;
        let endpoint = self.control.require_endpoint(tenant.as_ref(), endpoint_id).await.map_err(failed)?;
        Ok((actor(caller), endpoint))
    }

    async fn set(
        &self,
        extensions: &Extensions,
        headers: &HeaderMap,
        endpoint_id: &str,
        to: EndpointState,
    ) -> Result<Response, Problem> {
        let (actor, endpoint) = self.named(extensions, headers, "admin", endpoint_id).await?;
        self.control.set_endpoint_state(&actor, &endpoint, to, None).await.map_err(failed)?;
        self.shown(&endpoint).await
    }

    async fn shown(&self, endpoint: &Endpoint) -> Result<Response, Problem> {
        let endpoint = self.control.require_endpoint(Some(&endpoint.tenant_id), &endpoint.endpoint_id).await;
        let endpoint = endpoint.map_err(failed)?;
        Ok(Json(view(&self.control, &self.ids, endpoint).await.map_err(failed)?).into_response())
    }

    fn check(&self, settings: &EndpointSettings) -> Result<(), Problem> {
        let allows = |ip| self.sender.guard().allows(ip);
        filter::check(settings, self.sender.allows_http(), allows).map_err(|error| invalid(error.to_string()))
    }
}

fn actor(caller: &Caller) -> String {
    format!("key:{}", caller.key_id)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|error| invalid(error.to_string()))
}

fn read_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, Problem> {
    if body.is_empty() { Ok(T::default()) } else { read(body) }
}

fn invalid(detail: String) -> Problem {
    Problem::new(Kind::InvalidRequest, detail)
}

fn failed(error: ControlError) -> Problem {
    if error.is_store_failure() {
        tracing::error!(%error, "webhooks cannot be read or changed");
        return Problem::new(Kind::StoreUnavailable, "webhooks cannot be read or changed just now")
            .retry_after(5);
    }
    let kind = if error.is_missing() { Kind::NotFound } else { Kind::InvalidRequest };
    Problem::new(kind, error.to_string())
}
