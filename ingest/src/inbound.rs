//! Mail that comes in by SMTP (RFC 5321): reports, and nothing that is kept as mail. What to do with one is the
//! [`Postmaster`]'s business; a 250 goes out only after it has said so.
//!
//! - [`session`]: the dialogue, a state machine without I/O · [`data`]: a message up to its final dot
//! - `connection`: one client's socket · [`tls`]: STARTTLS · `clients`: how much each client may do
//!
//! There is deliberately no relaying, no authentication and no SMTPUTF8: every address taken is one that this
//! installation made. Lines end with CRLF and nothing else; a lone CR or LF ends the conversation, so that no two
//! servers can disagree on where a message ends.

mod clients;
mod connection;
pub mod data;
pub mod session;
pub mod tls;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::clients::Clients;

/// How mail is taken in.
#[derive(Clone)]
pub struct InboundSettings {
    /// What the server calls itself.
    pub hostname: String,
    pub message_bytes_max: usize,
    /// Recipients of one mail.
    pub recipients_max: usize,
    pub sessions_max: usize,
    /// Sessions of one client address.
    pub sessions_per_client_max: usize,
    pub messages_per_session_max: u32,
    /// Mails of one client address in a minute; the next ones are answered 451.
    pub messages_per_client_max: u32,
    /// Longest wait for the client's next octets.
    pub idle: Duration,
    /// Longest time for one mail between DATA and the final dot.
    pub data: Duration,
    /// Octets per second that a mail must come with on average, once it is under way for longer than `idle`.
    pub data_rate_min: u32,
    /// Longest conversation: after it a mail in hand is finished, and nothing else is taken.
    pub session: Duration,
    /// Offers STARTTLS; without one it is not offered.
    pub tls: Option<TlsAcceptor>,
}

impl Default for InboundSettings {
    fn default() -> Self {
        Self {
            hostname: "localhost".into(),
            message_bytes_max: 10 << 20,
            recipients_max: 50,
            sessions_max: 100,
            sessions_per_client_max: 20,
            messages_per_session_max: 1_000,
            messages_per_client_max: 3_000,
            idle: Duration::from_secs(60),
            data: Duration::from_secs(600),
            data_rate_min: 256,
            session: Duration::from_secs(600),
            tls: None,
        }
    }
}

/// One mail as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundMail {
    /// Empty for `<>`, as reports have it.
    pub reverse_path: String,
    /// Those that [`Postmaster::recipient`] has taken.
    pub recipients: Vec<String>,
    /// After dot-unstuffing; lines end with CRLF.
    pub data: Vec<u8>,
    pub client: Option<IpAddr>,
}

/// A reply: three digits, then an enhanced status and words in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub code: u16,
    pub text: String,
}

impl Reply {
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }

    pub fn is_positive(&self) -> bool {
        (200..300).contains(&self.code)
    }
}

/// What is done with mail.
#[async_trait]
pub trait Postmaster: Send + Sync {
    /// Whether mail to this address is taken, and if not, the reply. Answers from memory.
    fn recipient(&self, address: &str) -> Result<(), Reply>;

    /// Deals with a mail. A positive reply means that whatever follows from it is durable.
    async fn message(&self, mail: InboundMail) -> Reply;

    /// Hears of a mail to these recipients that was larger than allowed, and is gone.
    async fn too_large(&self, recipients: &[String]);
}

/// Serves clients until `shutdown`; then lets those in a conversation finish their mail in hand.
pub async fn serve(
    listener: TcpListener,
    postmaster: Arc<dyn Postmaster>,
    settings: InboundSettings,
    shutdown: CancellationToken,
) {
    let settings = Arc::new(settings);
    let places = Arc::new(Semaphore::new(settings.sessions_max));
    let clients = Clients::default();
    let mut conversations = JoinSet::new();
    while let Some(accepted) = shutdown.run_until_cancelled(listener.accept()).await {
        while conversations.try_join_next().is_some() {}
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // out of file descriptors, say: the next moment may be better
                tracing::warn!(%error, "a connection to the inbound listener was not taken");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let place = Arc::clone(&places).try_acquire_owned().ok();
        let (Some(place), Some(entered)) = (place, clients.enter(client.ip(), &settings)) else {
            conversations.spawn(connection::refuse(stream));
            continue;
        };
        let (postmaster, settings, stop) = (Arc::clone(&postmaster), Arc::clone(&settings), shutdown.clone());
        conversations.spawn(async move {
            let conversed = connection::converse(stream, &entered, postmaster.as_ref(), &settings, &stop);
            if let Err(error) = conversed.await {
                tracing::debug!(%error, %client, "an inbound conversation broke off");
            }
            drop((place, entered));
        });
    }
    while conversations.join_next().await.is_some() {}
}

#[cfg(test)]
mod tests;
