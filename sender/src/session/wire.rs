//! The connection itself: bytes out, replies in, each within its time.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::failure::FailureKind;
use crate::reply::{ParsedReply, ReplyBuffer, ReplyError};

/// What is written in one go; each gets the whole block timeout.
const BLOCK_BYTES: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    #[error("nothing came for {0:?}")]
    Timeout(Duration),
    #[error("the host closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(#[source] io::Error),
    #[error(transparent)]
    Reply(#[from] ReplyError),
}

impl WireError {
    pub(super) fn kind(&self) -> FailureKind {
        match self {
            WireError::Timeout(_) => FailureKind::Timeout,
            WireError::Reply(_) => FailureKind::Garbage,
            WireError::Closed | WireError::Io(_) => FailureKind::Closed,
        }
    }
}

impl From<io::Error> for WireError {
    fn from(err: io::Error) -> Self {
        // Many hosts end TLS without its closing alert.
        if err.kind() == io::ErrorKind::UnexpectedEof { WireError::Closed } else { WireError::Io(err) }
    }
}

pub(super) enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

pub(super) struct Wire {
    io: Io,
    replies: ReplyBuffer,
}

impl Wire {
    pub(super) fn new(io: Io) -> Self {
        Self { io, replies: ReplyBuffer::default() }
    }

    pub(super) async fn send(&mut self, bytes: &[u8], each: Duration) -> Result<(), WireError> {
        for block in bytes.chunks(BLOCK_BYTES) {
            let write = async {
                match &mut self.io {
                    Io::Plain(stream) => stream.write_all(block).await,
                    Io::Tls(stream) => {
                        stream.write_all(block).await?;
                        stream.flush().await
                    }
                }
            };
            timeout(each, write).await.map_err(|_| WireError::Timeout(each))??;
        }
        Ok(())
    }

    /// The next reply. The time is for all of it, so that a host that drips octets gains nothing.
    pub(super) async fn reply(&mut self, within: Duration) -> Result<ParsedReply, WireError> {
        timeout(within, self.read_reply()).await.map_err(|_| WireError::Timeout(within))?
    }

    async fn read_reply(&mut self) -> Result<ParsedReply, WireError> {
        let mut buffer = [0; 2048];
        loop {
            if let Some(parsed) = self.replies.next()? {
                return Ok(parsed);
            }
            let room = self.replies.room().min(buffer.len());
            let buffer = buffer.get_mut(..room).unwrap_or_default();
            let read = match &mut self.io {
                Io::Plain(stream) => stream.read(buffer).await?,
                Io::Tls(stream) => stream.read(buffer).await?,
            };
            match buffer.get(..read) {
                None | Some([]) => return Err(WireError::Closed),
                Some(bytes) => self.replies.push(bytes),
            }
        }
    }

    /// The stream, for a TLS handshake; `None` when it is encrypted already, or when the host sent more than
    /// was due, which someone on the way may have put there to be read as if it came encrypted.
    pub(super) fn into_plain(self) -> Option<TcpStream> {
        match self.io {
            Io::Plain(stream) if self.replies.is_empty() => Some(stream),
            _ => None,
        }
    }
}
