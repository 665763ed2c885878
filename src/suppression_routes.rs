//! `/v1/suppressions`: a tenant's own list over HTTP. Keys of the whole installation name the tenant, or see every one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use hyper::body::Frame;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_control::suppression::{Reach, Reason, Suppression, SuppressionFilter};
use sendlake_control::{ControlError, ControlStore};
use sendlake_sender::api::auth;
use sendlake_sender::api::problem::{Kind, Problem};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, OpenApi, ToSchema};

use crate::hear::Hearing;
use crate::node::{AddSuppression, ImportSuppressions, Imported, Refusal, RemoveSuppression};
use crate::suppressions::exchange::{self, Entry, ListFormat, RecordRead};

/// Largest file that one request brings: about half a million addresses.
const FILE_BYTES_MAX: usize = 32 << 20;
const PAGE_MAX: u32 = 1_000;
const IMPORTED_AT_ONCE: usize = 5_000;
/// Bad records that an answer lists.
const BAD_MAX: usize = 100;

#[derive(OpenApi)]
#[openapi(
    paths(list, add, remove, export, import),
    components(schemas(AddBody, SuppressionBody, ImportAnswer))
)]
pub struct ApiDoc;

#[derive(Clone)]
struct Lists {
    hearing: Arc<Hearing>,
    control: Arc<ControlStore>,
}

pub fn routes(hearing: Arc<Hearing>, control: Arc<ControlStore>) -> Router {
    Router::new()
        .route("/v1/suppressions", get(list).post(add))
        .route("/v1/suppressions/export", get(export))
        .route("/v1/suppressions/import", post(import).layer(DefaultBodyLimit::max(FILE_BYTES_MAX)))
        .route("/v1/suppressions/{address}", delete(remove))
        .with_state(Lists { hearing, control })
}

/// A suppression as the API gives it.
#[derive(Serialize, ToSchema)]
struct SuppressionBody {
    tenant_id: String,
    /// Null for a person who was erased.
    address: Option<String>,
    /// `bulk`, `tenant` or `global`.
    reach: String,
    reason: String,
    since: String,
    until: Option<String>,
    actor: String,
    note: Option<String>,
    /// The event that led to it.
    event_id: String,
}

impl From<Suppression> for SuppressionBody {
    fn from(row: Suppression) -> Self {
        Self {
            tenant_id: row.tenant_id.to_string(),
            address: row.address,
            reach: row.reach.to_string(),
            reason: row.reason.to_string(),
            since: row.since.to_string(),
            until: row.expires_at.map(|at| at.to_string()),
            actor: row.actor,
            note: row.note,
            event_id: row.event_id.to_string(),
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// Only this address.
    address: Option<String>,
    reason: Option<String>,
    reach: Option<String>,
    /// Most rows, up to 1,000.
    #[param(default = 100)]
    limit: Option<u32>,
    /// `next` of the page before.
    after: Option<i64>,
}

/// Lists suppressions, a page at a time, oldest first.
#[utoipa::path(get, path = "/v1/suppressions", params(ListQuery), tag = "suppressions",
    responses((status = 200, description = "A page; `next` is null with the last one.", body = [SuppressionBody])))]
async fn list(
    State(lists): State<Lists>,
    headers: HeaderMap,
    extensions: Extensions,
    query: Result<Query<ListQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let caller = auth::require(&extensions, "read")?;
    let Query(asked) = query.map_err(|error| invalid(error.body_text()))?;
    let filter = SuppressionFilter {
        tenant_id: auth::tenant(caller, &headers)?,
        address: asked.address,
        reason: asked.reason.as_deref().map(word::<Reason>).transpose()?,
        reach: asked.reach.as_deref().map(word::<Reach>).transpose()?,
        ..SuppressionFilter::default()
    };
    let (rows, next) = if filter.address.is_some() {
        (lists.control.suppressions(&filter).await.map_err(|error| failed(&error))?, None)
    } else {
        let limit = asked.limit.unwrap_or(100).clamp(1, PAGE_MAX);
        let page = lists.control.suppressions_page(&filter, asked.after.unwrap_or(0), limit).await;
        let page = page.map_err(|error| failed(&error))?;
        let is_full = page.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        let next = page.last().map(|(place, _)| *place).filter(|_| is_full);
        (page.into_iter().map(|(_, row)| row).collect(), next)
    };
    let rows: Vec<SuppressionBody> = rows.into_iter().map(Into::into).collect();
    Ok(Json(json!({ "suppressions": rows, "next": next })).into_response())
}

/// An address that is not to be written to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AddBody {
    address: String,
    /// `manual` where nothing is said.
    #[serde(default)]
    reason: Option<String>,
    /// By default what the reason calls for. `global` needs a key of the installation.
    #[serde(default)]
    reach: Option<String>,
    /// RFC 3339; without it, it does not end by itself.
    #[serde(default)]
    until: Option<String>,
    #[serde(default)]
    note: Option<String>,
}

/// Puts an address on the list; in force when the answer comes.
#[utoipa::path(post, path = "/v1/suppressions", request_body = AddBody, tag = "suppressions",
    responses((status = 200, description = "It was there already, as widely."), (status = 201, description = "Added.")))]
async fn add(
    State(lists): State<Lists>,
    headers: HeaderMap,
    extensions: Extensions,
    body: Bytes,
) -> Result<Response, Problem> {
    let caller = auth::require(&extensions, "send")?;
    let body: AddBody = serde_json::from_slice(&body).map_err(|error| invalid(error.to_string()))?;
    let reason = body.reason.as_deref().map(word::<Reason>).transpose()?.unwrap_or(Reason::Manual);
    let own = caller.tenant.is_some();
    let reach = match body.reach.as_deref().map(word::<Reach>).transpose()? {
        Some(Reach::Global) if own => return Err(not_global()),
        Some(reach) => reach,
        // the law's reach is everybody's mail; a tenant speaks for its own
        None if own => exchange::reach_of(reason).min(Reach::Tenant),
        None => exchange::reach_of(reason),
    };
    let tenant_id = if reach == Reach::Global { None } else { Some(auth::require_tenant(caller, &headers)?) };
    let until = body.until.as_deref().map(instant).transpose()?;
    let wanted = AddSuppression {
        tenant_id,
        address: body.address,
        reach,
        reason,
        note: body.note,
        expires_at: until,
    };
    let added = lists.hearing.suppress(&format!("key:{}", caller.key_id), wanted).await.map_err(refused)?;
    let status = if added { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(json!({ "added": added }))).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct RemoveQuery {
    /// Lift this reason only.
    reason: Option<String>,
    /// Why: needed where the person wished it.
    note: Option<String>,
}

/// Lets mail go to an address again. For a tenant's key what the law or the whole installation suppresses stays; a key of
/// the installation that names no tenant lifts what is global.
#[utoipa::path(delete, path = "/v1/suppressions/{address}", params(("address" = String, Path), RemoveQuery),
    tag = "suppressions", responses((status = 200, description = "How many were lifted."), (status = 404, description = "None.")))]
async fn remove(
    State(lists): State<Lists>,
    Path(address): Path<String>,
    headers: HeaderMap,
    extensions: Extensions,
    query: Result<Query<RemoveQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let caller = auth::require(&extensions, "send")?;
    let Query(asked) = query.map_err(|error| invalid(error.body_text()))?;
    let tenant = auth::tenant(caller, &headers)?.unwrap_or_else(TenantId::platform);
    let reason = asked.reason.as_deref().map(word::<Reason>).transpose()?;
    let filter = SuppressionFilter {
        tenant_id: Some(tenant.clone()),
        address: Some(address.clone()),
        reason,
        ..SuppressionFilter::default()
    };
    let found = lists.control.suppressions(&filter).await.map_err(|error| failed(&error))?;
    if caller.tenant.is_some() && found.iter().any(|row| row.reason == Reason::Legal) {
        let detail =
            "this address is suppressed by law: only the operator lifts that; name another reason to lift";
        return Err(Problem::new(Kind::MissingScope, detail));
    }
    let wanted = RemoveSuppression { tenant_id: Some(tenant), address, reason, note: asked.note };
    let removed =
        lists.hearing.unsuppress(&format!("key:{}", caller.key_id), wanted).await.map_err(refused)?;
    if removed == 0 {
        return Err(Problem::new(Kind::NotFound, "this address is not on this list"));
    }
    Ok(Json(json!({ "removed": removed })).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct FileQuery {
    /// `csv`, `ndjson`, `ses`, `sendgrid`, `mailgun`, `postmark` or `sparkpost`.
    format: Option<String>,
    /// Export: this reason only. Import: why, for files that do not say.
    reason: Option<String>,
    /// Import: change nothing (`1` or `true`).
    #[serde(default, deserialize_with = "yes_or_no")]
    dry_run: bool,
}

/// The list as a file; persons who were erased are left out, as they have no address.
#[utoipa::path(get, path = "/v1/suppressions/export", params(FileQuery), tag = "suppressions",
    responses((status = 200, description = "The list, in the format asked for.")))]
async fn export(
    State(lists): State<Lists>,
    headers: HeaderMap,
    extensions: Extensions,
    query: Result<Query<FileQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, Problem> {
    let caller = auth::require(&extensions, "read")?;
    let Query(asked) = query.map_err(|error| invalid(error.body_text()))?;
    let format = asked.format.as_deref().map(list_format).transpose()?.unwrap_or(ListFormat::Csv);
    let filter = SuppressionFilter {
        tenant_id: auth::tenant(caller, &headers)?,
        reason: asked.reason.as_deref().map(word::<Reason>).transpose()?,
        ..SuppressionFilter::default()
    };
    let media = match format {
        ListFormat::Postmark => "application/json",
        ListFormat::Ndjson => "application/x-ndjson",
        _ => "text/csv; charset=utf-8",
    };
    let (sender, pieces) = tokio::sync::mpsc::channel::<io::Result<Bytes>>(2);
    tokio::spawn(async move {
        if let Err(error) = stream(&lists.control, format, &filter, &sender).await {
            let _ = sender.send(Err(error)).await;
        }
    });
    let body = Body::new(Pieces(pieces));
    Ok(([(header::CONTENT_TYPE, media)], body).into_response())
}

/// A body that is made while it is read.
struct Pieces(tokio::sync::mpsc::Receiver<io::Result<Bytes>>);

impl axum::body::HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

async fn stream(
    control: &ControlStore,
    format: ListFormat,
    filter: &SuppressionFilter,
    sender: &tokio::sync::mpsc::Sender<io::Result<Bytes>>,
) -> io::Result<()> {
    let mut writer = exchange::Writer::new(format, Vec::new())?;
    let mut after = 0;
    loop {
        let page = control.suppressions_page(filter, after, PAGE_MAX).await.map_err(io::Error::other)?;
        let Some((last, _)) = page.last() else { break };
        after = *last;
        for entry in page.into_iter().filter_map(|(_, row)| exchange::entry_of(row)) {
            writer.entry(&entry)?;
        }
        if sender.send(Ok(writer.take().into())).await.is_err() {
            return Ok(()); // whoever asked has left
        }
    }
    let (end, _) = writer.end()?;
    let _ = sender.send(Ok(end.into())).await;
    Ok(())
}

/// What became of a file.
#[derive(Default, Serialize, ToSchema)]
struct ImportAnswer {
    records: u64,
    added: u64,
    /// On the list already, as widely.
    known: u64,
    /// Records that call for nothing, such as bounces that are not for good.
    skipped: u64,
    /// Of what was added or known: legal ones of a tenant's key, which keep back this tenant's mail only.
    narrowed: u64,
    /// How many could not be taken.
    bad: u64,
    /// The first hundred of those: where, and why.
    errors: Vec<String>,
}

impl ImportAnswer {
    fn bad(&mut self, what: String) {
        self.bad += 1;
        if self.errors.len() < BAD_MAX {
            self.errors.push(what);
        }
    }
}

/// Puts a file's addresses on the list. Bad records are told, the others are taken.
#[utoipa::path(post, path = "/v1/suppressions/import", params(FileQuery), tag = "suppressions",
    request_body(content = String, content_type = "application/octet-stream"),
    responses((status = 200, description = "What became of the records.", body = ImportAnswer)))]
async fn import(
    State(lists): State<Lists>,
    headers: HeaderMap,
    extensions: Extensions,
    query: Result<Query<FileQuery>, axum::extract::rejection::QueryRejection>,
    file: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, Problem> {
    let caller = auth::require(&extensions, "send")?;
    let Query(asked) = query.map_err(|error| invalid(error.body_text()))?;
    let tenant_id = auth::require_tenant(caller, &headers)?;
    let own = caller.tenant.is_some();
    let file = file.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(Kind::BodyTooLarge, format!("a file has at most {} MiB", FILE_BYTES_MAX >> 20))
        }
        _ => invalid(error.body_text()),
    })?;
    let format = asked.format.as_deref().map(list_format).transpose()?;
    let reason = asked.reason.as_deref().map(word::<Reason>).transpose()?;
    let actor = format!("key:{}", caller.key_id);
    let mut done = ImportAnswer::default();
    let mut found = Vec::new();
    let read = exchange::read(file.as_ref(), format, reason, &mut |place, record| {
        done.records += 1;
        match record {
            RecordRead::Entry(entry) if own => match of_tenant(entry) {
                Ok((entry, is_narrowed)) => {
                    done.narrowed += u64::from(is_narrowed);
                    found.push((place, entry));
                }
                Err(why) => done.bad(format!("{place}: {why}")),
            },
            RecordRead::Entry(entry) => found.push((place, entry)),
            RecordRead::Skipped(_) => done.skipped += 1,
            RecordRead::Bad(why) => done.bad(format!("{place}: {why}")),
        }
        true
    });
    read.map_err(|error| invalid(error.to_string()))?;
    for batch in found.chunks(IMPORTED_AT_ONCE) {
        let entries = batch.iter().map(|(_, entry)| entry.clone()).collect();
        let wanted = ImportSuppressions { tenant_id: tenant_id.clone(), dry: asked.dry_run, entries };
        let Imported { added, known, over, refused: bad } =
            lists.hearing.import(&actor, wanted).await.map_err(refused)?;
        done.added += added;
        done.known += known;
        done.skipped += over;
        for (at, why) in bad {
            done.bad(format!(
                "{}: {why}",
                batch.get(at).map_or_else(String::new, |(place, _)| place.to_string())
            ));
        }
    }
    Ok(Json(done).into_response())
}

/// A tenant's file speaks for its own mail, and names nobody else as who wished it. The law's reach is everybody's mail,
/// and here this tenant's: true where that made it narrower. Who asks for everybody's mail otherwise gets none of it.
fn of_tenant(entry: Entry) -> Result<(Entry, bool), String> {
    let is_global = entry.reach == Reach::Global;
    if is_global && entry.reason != Reason::Legal {
        return Err("reach global is everybody's mail, and needs a key of the whole installation".into());
    }
    Ok((Entry { reach: entry.reach.min(Reach::Tenant), actor: None, ..entry }, is_global))
}

/// `1`, `0`, `true` or `false`.
fn yes_or_no<'de, D: serde::Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    match String::deserialize(from)?.as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        other => Err(serde::de::Error::custom(format!("{other:?} is none of 1, 0, true and false"))),
    }
}

fn word<T: std::str::FromStr<Err = String>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(invalid)
}

fn list_format(text: &str) -> Result<ListFormat, Problem> {
    <ListFormat as clap::ValueEnum>::from_str(text, false).map_err(|_| {
        invalid(format!(
            "{text:?} is no format: use csv, ndjson, ses, sendgrid, mailgun, postmark or sparkpost"
        ))
    })
}

fn instant(text: &str) -> Result<Timestamp, Problem> {
    Timestamp::parse(text).ok_or_else(|| invalid(format!("{text:?} is no instant like 2026-11-22T09:30:00Z")))
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::InvalidRequest, detail)
}

fn not_global() -> Problem {
    Problem::new(
        Kind::MissingScope,
        "a suppression of everybody's mail needs a key of the whole installation",
    )
}

fn failed(error: &ControlError) -> Problem {
    if error.is_store_failure() {
        tracing::error!(%error, "the list of suppressions cannot be read or changed");
        return Problem::new(Kind::StoreUnavailable, "the list cannot be read or changed just now")
            .retry_after(5);
    }
    let kind = if error.is_missing() { Kind::NotFound } else { Kind::InvalidRequest };
    Problem::new(kind, error.to_string())
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Control(error) => failed(&error),
        Refusal::Invalid(detail) => invalid(detail),
        Refusal::Unavailable(error) => {
            tracing::error!(%error, "the list of suppressions cannot be changed");
            Problem::new(Kind::StoreUnavailable, "the list cannot be changed just now").retry_after(5)
        }
    }
}

#[cfg(test)]
mod tests;
