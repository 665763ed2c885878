//! The operator's way in: the send API and changes of the queue, without a key, over a socket in the data folder
//! (mode 0600: whoever can read the master key may do this). Commands use it; without a running server they open
//! the folder themselves and call the same routes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use sendlake_control::ControlStore;
use sendlake_control::id::TenantId;
use sendlake_control::key::Scope;
use sendlake_sender::api::ports::Caller;
use sendlake_sender::api::{self, Api};
use sendlake_sender::spool::key::QueueKey;
use sendlake_sender::spool::{Spool, SpoolError};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use uuid::Uuid;

use super::Node;
use crate::config::Config;

/// Who asks, for the audit log. Believed: whoever reaches the socket could write the log itself.
pub const OPERATOR_HEADER: &str = "sendlake-operator";

/// Which messages an operator means. All given conditions must hold; none given means none meant.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QueueSelection {
    #[serde(default)]
    pub message_id: Option<Uuid>,
    #[serde(default)]
    pub recipient_domain: Option<String>,
    #[serde(default)]
    pub tenant_id: Option<TenantId>,
    /// Really all of them.
    #[serde(default)]
    pub all: bool,
    /// Why, for `bounce`: stands in the events.
    #[serde(default)]
    pub reason: Option<String>,
}

impl QueueSelection {
    pub fn is_empty(&self) -> bool {
        !self.all && self.message_id.is_none() && self.recipient_domain.is_none() && self.tenant_id.is_none()
    }

    pub fn matches(&self, key: &QueueKey) -> bool {
        !self.is_empty()
            && self.message_id.is_none_or(|id| id == key.message_id)
            && self.recipient_domain.as_ref().is_none_or(|domain| *domain == key.lane.recipient_domain)
            && self.tenant_id.as_ref().is_none_or(|tenant| *tenant == key.lane.tenant_id)
    }
}

#[derive(Clone)]
struct Local {
    spool: Arc<Spool>,
    control: Arc<ControlStore>,
}

impl Local {
    /// Names the tenant of the one message that is meant, so that its audit log tells of the change.
    fn with_tenant(&self, mut selection: QueueSelection) -> Result<QueueSelection, LocalError> {
        if selection.tenant_id.is_none() && selection.message_id.is_some() {
            let found = self.spool.reader().list(|key| selection.matches(key), 1)?;
            selection.tenant_id = found.into_iter().next().map(|queued| queued.entry.tenant_id);
        }
        Ok(selection)
    }
}

pub(super) fn routes(api: Arc<Api>, spool: Arc<Spool>, control: Arc<ControlStore>, more: Router) -> Router {
    Router::new()
        .route("/local/status", get(status))
        .route("/local/queue/retry", post(retry))
        .route("/local/queue/bounce", post(bounce))
        .with_state(Local { spool, control })
        .merge(api::message_routes(api))
        .merge(more)
        .layer(middleware::from_fn(as_operator))
}

async fn as_operator(mut request: Request, next: Next) -> axum::response::Response {
    let name = request.headers().get(OPERATOR_HEADER).and_then(|name| name.to_str().ok());
    let key_id = name.unwrap_or("operator").to_owned();
    request.extensions_mut().insert(Caller {
        key_id,
        tenant: None,
        suspended: false,
        scopes: Scope::ALL.iter().map(ToString::to_string).collect(),
    });
    next.run(request).await
}

async fn status(State(local): State<Local>) -> Result<Json<Value>, LocalError> {
    let counts = local.spool.reader().counts()?;
    Ok(Json(json!({
        "queued": counts.queued, "in_flight": counts.in_flight, "held": counts.held, "outbox_rows": counts.outbox_rows,
    })))
}

/// Most messages that one command changes in one go: the store waits for it.
const CHANGED_MAX: usize = 100_000;

async fn retry(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Json(selection): Json<QueueSelection>,
) -> Result<Json<Value>, LocalError> {
    let selection = local.with_tenant(selection)?;
    let wanted = selection.clone();
    let changed = local.spool.retry_now(move |key| wanted.matches(key), CHANGED_MAX).await?;
    audit(&local, &caller, "queue_retried", &selection, changed).await?;
    Ok(Json(json!({ "changed": changed })))
}

async fn bounce(
    State(local): State<Local>,
    Extension(caller): Extension<Caller>,
    Json(selection): Json<QueueSelection>,
) -> Result<Json<Value>, LocalError> {
    let selection = local.with_tenant(selection)?;
    let wanted = selection.clone();
    let reason = selection.reason.clone().unwrap_or_else(|| "given up by an operator".into());
    let changed = local.spool.bounce(move |key| wanted.matches(key), CHANGED_MAX, &reason).await?;
    audit(&local, &caller, "queue_bounced", &selection, changed).await?;
    Ok(Json(json!({ "changed": changed })))
}

async fn audit(
    local: &Local,
    caller: &Caller,
    action: &'static str,
    selection: &QueueSelection,
    changed: usize,
) -> Result<(), LocalError> {
    let subject = selection.message_id.map_or_else(|| "queue".to_owned(), |id| id.to_string());
    let detail = json!({ "selection": selection, "changed": changed });
    local
        .control
        .audit(&caller.key_id, selection.tenant_id.as_ref(), action, &subject, detail)
        .await
        .map_err(|error| LocalError(error.to_string()))
}

/// A local route could not do its work. The text is for the operator.
pub(super) struct LocalError(pub(super) String);

impl From<SpoolError> for LocalError {
    fn from(error: SpoolError) -> Self {
        Self(error.to_string())
    }
}

impl axum::response::IntoResponse for LocalError {
    fn into_response(self) -> axum::response::Response {
        (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "detail": self.0 }))).into_response()
    }
}

/// Listens on the socket until `shutdown`. A socket that another process left behind is replaced; the spool's
/// lock has made sure that none is running.
pub(super) fn serve(
    socket: &Path,
    routes: Router,
    shutdown: CancellationToken,
    tasks: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let _ = std::fs::remove_file(socket);
    let listener = match tokio::net::UnixListener::bind(socket) {
        Ok(listener) => listener,
        Err(error) if socket.as_os_str().len() > 100 => {
            // the kernel takes at most 107 octets (unix(7)); everything but `queue` and `send` works without
            tracing::warn!(path = %socket.display(), %error, "the path is too long for a socket: commands that \
                change the queue need a shorter data folder");
            return Ok(());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot listen on {}", socket.display())),
    };
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot restrict {}", socket.display()))?;
    tasks.spawn(async move {
        if let Err(error) =
            axum::serve(listener, routes).with_graceful_shutdown(shutdown.cancelled_owned()).await
        {
            tracing::error!(%error, "the local socket ended");
        }
    });
    Ok(())
}

/// An answer to [`call`].
pub struct Answer {
    pub status: StatusCode,
    pub body: Vec<u8>,
}

/// Asks the node of this data folder: the running server over its socket, or the folder itself when none runs.
pub async fn call(config: &Config, request: axum::http::Request<Body>) -> anyhow::Result<Answer> {
    let response = match tokio::net::UnixStream::connect(config.socket_path()).await {
        Ok(stream) => over_socket(stream, request).await?,
        Err(_) => {
            if !config.control_path().exists() {
                bail!(
                    "{} is no data folder and no server runs on it; name one with --dir, or start `sendlake serve`",
                    config.storage.dir.display()
                );
            }
            let node = Node::open(config.clone(), crate::system::ids()).await?;
            node.local_routes().oneshot(request).await?
        }
    };
    answer(response).await
}

/// Asks the running server, and nobody else: `None` where it does not answer, or ends before it has.
pub async fn call_running(config: &Config, request: axum::http::Request<Body>) -> Option<Answer> {
    let stream = tokio::net::UnixStream::connect(config.socket_path()).await.ok()?;
    answer(over_socket(stream, request).await.ok()?).await.ok()
}

async fn answer(response: Response<Body>) -> anyhow::Result<Answer> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes().to_vec();
    Ok(Answer { status, body })
}

/// Whether a server runs on this data folder.
pub async fn is_running(config: &Config) -> bool {
    tokio::net::UnixStream::connect(config.socket_path()).await.is_ok()
}

/// Tells a running server to read the sending domains now. Without one there is nobody to tell, and a server
/// that does not hear it reads them within a second.
pub async fn notify(config: &Config) {
    if let Ok(stream) = tokio::net::UnixStream::connect(config.socket_path()).await
        && let Ok(request) = axum::http::Request::post("/local/refresh").body(Body::empty())
    {
        let _ = over_socket(stream, request).await;
    }
}

async fn over_socket(
    stream: tokio::net::UnixStream,
    mut request: axum::http::Request<Body>,
) -> anyhow::Result<Response<Body>> {
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("localhost"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender.send_request(request).await?.map(Body::new))
}
