//! What this API asks of the rest of the program, as narrow traits. Tests bring fakes.

use std::collections::BTreeSet;

use async_trait::async_trait;
use futures::future;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::TenantId;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::stream::Stream;
use crate::submission::{Accepted, Submission, Tracking};

/// Takes responsibility for submissions.
#[async_trait]
pub trait Intake: Send + Sync {
    /// Returns after the submission is durable, and only then; or refuses it whole.
    async fn accept(&self, submission: Submission) -> Result<Accepted, IntakeRefusal>;

    /// Takes several, each by itself; one answer per submission, in order. The default hands all of them in
    /// at once, so that they meet in one group commit.
    async fn accept_all(&self, submissions: Vec<Submission>) -> Vec<Result<Accepted, IntakeRefusal>> {
        future::join_all(submissions.into_iter().map(|submission| self.accept(submission))).await
    }

    /// Records that a request was refused. Must not wait for a disk and may drop records when there are many:
    /// a flood of bad requests is not worth a flood of events.
    async fn reject(&self, rejection: Rejection);
}

/// Why nothing was taken. All of these answer 503.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntakeRefusal {
    #[error("the spool's disk is below its floor of free space")]
    FreeSpaceLow,
    /// Events could not be brought to the lake for so long that the spool's share for them is used up.
    #[error("too many events wait for the lake")]
    LakeBehind,
    #[error("the server is stopping")]
    ShuttingDown,
    /// The text goes to the log, not to the client.
    #[error("the spool failed: {0}")]
    Store(String),
}

/// A refused request, for a `rejected` event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub tenant_id: TenantId,
    pub key_id: String,
    pub rejected_at: Timestamp,
    /// The problem's own code, `invalid_request` for instance.
    pub problem: &'static str,
    /// Code of the first field at fault, or the problem's.
    pub code: &'static str,
    /// JSON pointer to the first field at fault.
    pub pointer: Option<String>,
    pub detail: String,
    /// Fields at fault.
    pub errors: usize,
}

/// Knows whose domains are whose. Answers from memory.
pub trait Senders: Send + Sync {
    /// Whether `domain` (ASCII, lower case) or a parent of it is registered to `tenant`.
    fn sending_domain(&self, tenant: &TenantId, domain: &str) -> bool;

    /// What is tracked of this tenant's messages that say nothing themselves.
    fn tracking(&self, _tenant: &TenantId) -> Tracking {
        Tracking::default()
    }
}

/// Answers what became of a message.
#[async_trait]
pub trait History: Send + Sync {
    /// The history of `message_id`, within `tenant` where that is given. `None`: no such message there.
    async fn message(
        &self,
        tenant: Option<&TenantId>,
        message_id: Uuid,
    ) -> Result<Option<MessageHistory>, PortUnavailable>;
}

/// Everything known of one message so far.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct MessageHistory {
    #[schema(value_type = String, format = "uuid")]
    pub message_id: Uuid,
    #[schema(value_type = Option<String>, format = "uuid")]
    pub submission_id: Option<Uuid>,
    pub tenant_id: String,
    pub recipient: Option<String>,
    pub stream: Option<Stream>,
    /// `queued`, `held`, `delivered`, `bounced`, `expired`, `cancelled` or `suppressed`.
    pub outcome: String,
    /// Rows of the events table, oldest first; columns without a value are left out.
    pub events: Vec<serde_json::Map<String, serde_json::Value>>,
}

/// Recognises API keys.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// Whose key `presented` is; `None` for an unknown, revoked or malformed one.
    async fn authenticate(&self, presented: &str) -> Result<Option<Caller>, PortUnavailable>;
}

/// A store behind a port did not answer. The text goes to the log, not to the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PortUnavailable(pub String);

/// Who makes a request. Every authenticated handler finds it in the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub key_id: String,
    /// `None` for a key of the whole installation.
    pub tenant: Option<TenantId>,
    /// The tenant may read, but not send.
    pub suspended: bool,
    /// `send`, `read`, `sql`, `admin`.
    pub scopes: BTreeSet<String>,
}
