//! What a node hears, wired: the SMTP listener, and the operator's routes for suppressions and stored reports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use sendlake_control::ControlError;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use sendlake_control::suppression::{Reach, Reason};
use sendlake_ingest::calibration::{EXPORT_BYTES_MAX, Exporter};
use sendlake_ingest::inbound::tls::Certificate;
use sendlake_ingest::inbound::{self, InboundSettings};
use sendlake_sender::api::ports::Caller;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::domain_reports::figures::TakenFigures;
use crate::hear::{Heard, Hearing, Unavailable};
use crate::suppressions::exchange::Entry;

/// Takes reports by SMTP until `shutdown`. Returns where.
pub(super) async fn listen(
    config: &Config,
    hearing: Arc<Hearing>,
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<SocketAddr> {
    let settings = &config.inbound;
    let listener = tokio::net::TcpListener::bind(&settings.listen)
        .await
        .with_context(|| format!("cannot listen on inbound.listen = {}", settings.listen))?;
    let address = listener.local_addr()?;
    let ehlo = config.source.iter().map(|source| source.ehlo.as_str()).find(|ehlo| !ehlo.is_empty());
    let hostname = match (settings.hostname.as_str(), ehlo) {
        ("", Some(ehlo)) => ehlo.to_owned(),
        ("", None) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        (hostname, _) => hostname.to_owned(),
    };
    let certificate = match (&settings.tls_certificate_file, &settings.tls_key_file) {
        (certificate, key) if certificate.as_os_str().is_empty() && key.as_os_str().is_empty() => {
            Certificate::self_signed(&hostname)?
        }
        (certificate, key) => Certificate::from_files(certificate, key)
            .context("inbound.tls_certificate_file and inbound.tls_key_file")?,
    };
    let settings = InboundSettings {
        hostname,
        message_bytes_max: settings.message_bytes_max,
        sessions_max: settings.sessions_max,
        messages_per_client_max: settings.messages_per_client_per_min,
        idle: Duration::from_secs(u64::from(settings.idle_timeout_s)),
        session: Duration::from_secs(u64::from(settings.session_timeout_s)),
        tls: Some(certificate.acceptor()?),
        ..InboundSettings::default()
    };
    tasks.spawn(renew(certificate, shutdown.clone()));
    tasks.spawn(inbound::serve(listener, hearing, settings, shutdown.clone()));
    Ok(address)
}

/// Takes up a certificate that was renewed.
async fn renew(certificate: Arc<Certificate>, shutdown: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(CERTIFICATE_READ_EVERY)).await.is_some() {
        let certificate = Arc::clone(&certificate);
        match tokio::task::spawn_blocking(move || certificate.refresh()).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => tracing::info!("the certificate of the inbound listener was renewed"),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the new certificate of the inbound listener is not used")
            }
            Err(error) => tracing::warn!(%error, "the certificate of the inbound listener was not looked at"),
        }
    }
}

/// How often the certificate's files are looked at.
const CERTIFICATE_READ_EVERY: Duration = Duration::from_secs(60);
/// Largest stored mail that is taken.
const FILE_BYTES_MAX: usize = 32 << 20;

/// `/local/suppressions/…`, `/local/ingest` and `/local/figures`, for the local socket.
pub(super) fn routes(hearing: Arc<Hearing>) -> Router {
    Router::new()
        .route("/local/suppressions/add", post(add))
        .route("/local/suppressions/rm", post(remove))
        .route("/local/suppressions/import", post(import).layer(DefaultBodyLimit::max(FILE_BYTES_MAX)))
        .route("/local/ingest", post(ingest).layer(DefaultBodyLimit::max(FILE_BYTES_MAX)))
        .route("/local/figures", post(figures).layer(DefaultBodyLimit::max(EXPORT_BYTES_MAX)))
        .with_state(hearing)
}

/// An address that is no longer to be written to.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AddSuppression {
    /// Of no account where the reach is global.
    pub tenant_id: Option<TenantId>,
    pub address: String,
    pub reach: Reach,
    pub reason: Reason,
    #[serde(default)]
    pub note: Option<String>,
    /// When it ends by itself.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
}

/// A suppression that is lifted.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveSuppression {
    /// None for those that are global.
    pub tenant_id: Option<TenantId>,
    pub address: String,
    /// This reason only.
    #[serde(default)]
    pub reason: Option<Reason>,
    #[serde(default)]
    pub note: Option<String>,
}

/// Entries of a file, some at a time.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImportSuppressions {
    /// Whose mail; of no account for global entries.
    pub tenant_id: TenantId,
    /// Change nothing.
    pub dry: bool,
    pub entries: Vec<Entry>,
}

/// What became of them.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Imported {
    pub added: u64,
    /// On the list already, for this reason and as widely.
    pub known: u64,
    /// Their end is past.
    #[serde(default)]
    pub over: u64,
    /// By their places among the entries, each with why.
    pub refused: Vec<(usize, String)>,
}

async fn import(
    State(hearing): State<Arc<Hearing>>,
    Extension(caller): Extension<Caller>,
    Json(wanted): Json<ImportSuppressions>,
) -> Result<Json<Imported>, Refusal> {
    Ok(Json(hearing.import(&caller.key_id, wanted).await?))
}

async fn add(
    State(hearing): State<Arc<Hearing>>,
    Extension(caller): Extension<Caller>,
    Json(wanted): Json<AddSuppression>,
) -> Result<Json<Value>, Refusal> {
    let is_new = hearing.suppress(&caller.key_id, wanted).await?;
    Ok(Json(json!({ "added": is_new })))
}

async fn remove(
    State(hearing): State<Arc<Hearing>>,
    Extension(caller): Extension<Caller>,
    Json(wanted): Json<RemoveSuppression>,
) -> Result<Json<Value>, Refusal> {
    let removed = hearing.unsuppress(&caller.key_id, wanted).await?;
    Ok(Json(json!({ "removed": removed })))
}

async fn ingest(State(hearing): State<Arc<Hearing>>, mail: Bytes) -> Result<Json<Vec<Heard>>, Refusal> {
    Ok(Json(hearing.take_file(mail.to_vec()).await?))
}

/// How an export of a provider's figures is to be read: the query of `/local/figures`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FiguresWanted {
    pub exporter: Exporter,
    #[serde(default)]
    pub tenant_id: Option<TenantId>,
    #[serde(default)]
    pub domain: Option<String>,
    #[serde(default)]
    pub utc_offset_s: i32,
}

async fn figures(
    State(hearing): State<Arc<Hearing>>,
    Query(wanted): Query<FiguresWanted>,
    data: Bytes,
) -> Result<Json<TakenFigures>, Refusal> {
    Ok(Json(hearing.take_figures(wanted, data.to_vec()).await?))
}

/// Why a route did not do what was asked. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match &self {
            Refusal::Control(error) if error.is_missing() => StatusCode::NOT_FOUND,
            Refusal::Control(error) if !error.is_store_failure() => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Control(_) | Refusal::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        (status, Json(json!({ "detail": self.to_string() }))).into_response()
    }
}
