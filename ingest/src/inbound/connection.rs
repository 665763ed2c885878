//! One client's socket: lines and messages to the session, its replies back.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::clients::Client;
use super::data::{DataFault, DataProgress, DataReader};
use super::session::{LINE_BYTES_MAX, Next, Session};
use super::{InboundMail, InboundSettings, Postmaster};

const READ_AT_ONCE: usize = 16 * 1_024;
/// A closed connection still reads for so long, as unread octets would turn the close into a reset that can overtake
/// the last reply.
const LINGER: Duration = Duration::from_secs(1);

/// Tells a client that there is no room, and closes.
pub(super) async fn refuse(mut stream: TcpStream) {
    let _ = timeout(LINGER, async {
        stream.write_all(b"421 4.3.2 too many connections; come back later\r\n").await?;
        stream.shutdown().await
    })
    .await;
}

/// Serves one client until either side is done.
pub(super) async fn converse(
    mut stream: TcpStream,
    client: &Client,
    postmaster: &dyn Postmaster,
    settings: &InboundSettings,
    stop: &CancellationToken,
) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut session = Session::new(postmaster, settings, client);
    session.banner();
    let ends_at = Instant::now() + settings.session;
    let talk = Talk { client, postmaster, settings, stop, ends_at };
    if talk.on(&mut stream, &mut session).await? == Ended::Closed {
        return Ok(());
    }
    let Some(tls) = &settings.tls else { return Ok(()) };
    let shaken = timeout(settings.idle, tls.accept(stream)).await;
    let mut stream = shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    session.secured();
    talk.on(&mut stream, &mut session).await.map(drop)
}

/// What both halves of a conversation need, before STARTTLS and after it.
struct Talk<'a> {
    client: &'a Client,
    postmaster: &'a dyn Postmaster,
    settings: &'a InboundSettings,
    stop: &'a CancellationToken,
    /// Nothing new is taken after this.
    ends_at: Instant,
}

/// A mail that is being read.
struct Reading {
    reader: DataReader,
    began: Instant,
    octets: u64,
}

impl Reading {
    /// Whether it takes longer than a mail may.
    fn is_too_slow(&self, settings: &InboundSettings) -> bool {
        let took = self.began.elapsed();
        let least = took.as_secs_f64() * f64::from(settings.data_rate_min);
        #[expect(clippy::cast_precision_loss, reason = "a size, compared with an estimate")]
        let is_trickling = took > settings.idle && (self.octets as f64) < least;
        took > settings.data || is_trickling
    }
}

#[derive(PartialEq, Eq)]
enum Ended {
    Closed,
    StartTls,
}

impl Talk<'_> {
    async fn on<S>(&self, stream: &mut S, session: &mut Session<'_>) -> io::Result<Ended>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { client, postmaster, settings, stop, ends_at } = self;
        let mut input = Vec::new();
        let mut reading: Option<Reading> = None;
        let mut skipping_line = false;
        loop {
            // everything that was read in full is answered in one write
            let mut next = Next::Command;
            while !matches!(next, Next::Close | Next::StartTls) {
                if let Some(mut mail) = reading.take() {
                    let (taken, progress) = mail.reader.take(&input);
                    mail.octets += taken as u64;
                    input.drain(..taken);
                    next = match progress {
                        DataProgress::Reading if mail.is_too_slow(settings) => {
                            session.timed_out();
                            Next::Close
                        }
                        DataProgress::Reading => {
                            reading = Some(mail);
                            break;
                        }
                        DataProgress::Broken(DataFault::BareLineEnd) => session.bare_line_end(),
                        DataProgress::Broken(DataFault::TooBig) => {
                            postmaster.too_large(&session.take_envelope().recipients).await;
                            session.too_big()
                        }
                        DataProgress::Done => {
                            let envelope = session.take_envelope();
                            let mail = InboundMail {
                                reverse_path: envelope.reverse_path,
                                recipients: envelope.recipients,
                                data: mail.reader.into_data(),
                                client: Some(client.address),
                            };
                            let reply = postmaster.message(mail).await;
                            session.answer(&reply)
                        }
                    };
                    continue;
                }
                let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
                    if input.len() > LINE_BYTES_MAX {
                        skipping_line = true;
                        input.clear();
                    }
                    break;
                };
                let line: Vec<u8> = input.drain(..=end).collect();
                next = if std::mem::take(&mut skipping_line) || line.len() > LINE_BYTES_MAX {
                    session.line_too_long()
                } else {
                    session.line(&line)
                };
                if next == Next::Data {
                    reading = Some(Reading {
                        reader: DataReader::new(settings.message_bytes_max),
                        began: Instant::now(),
                        octets: 0,
                    });
                    next = Next::Command;
                }
            }
            if next == Next::StartTls {
                if input.is_empty() {
                    send(stream, &session.take_replies(), settings.idle).await?;
                    return Ok(Ended::StartTls);
                }
                next = session.spoke_too_early();
            }
            // a mail in hand is finished; anything else ends here
            if next != Next::Close && stop.is_cancelled() && reading.is_none() {
                session.stopping();
                next = Next::Close;
            }
            let left = ends_at.saturating_duration_since(Instant::now());
            if next != Next::Close && left.is_zero() && reading.is_none() {
                session.lasted_too_long();
                next = Next::Close;
            }
            send(stream, &session.take_replies(), settings.idle).await?;
            if next == Next::Close {
                return close(stream).await.map(|()| Ended::Closed);
            }
            let mut chunk = [0; READ_AT_ONCE];
            let wait = if reading.is_none() { settings.idle.min(left) } else { settings.idle };
            let read = tokio::select! {
                read = timeout(wait, stream.read(&mut chunk)) => read,
                () = stop.cancelled(), if reading.is_none() => continue,
            };
            match read {
                Ok(Ok(0)) => return Ok(Ended::Closed),
                Ok(Ok(octets)) => input.extend_from_slice(chunk.get(..octets).unwrap_or_default()),
                Ok(Err(error)) => return Err(error),
                // the turn above says why
                Err(_) if wait < settings.idle => {}
                Err(_) => {
                    session.timed_out();
                    send(stream, &session.take_replies(), settings.idle).await?;
                    return close(stream).await.map(|()| Ended::Closed);
                }
            }
        }
    }
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, replies: &[u8], within: Duration) -> io::Result<()> {
    if replies.is_empty() {
        return Ok(());
    }
    timeout(within, stream.write_all(replies)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn close<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<()> {
    stream.shutdown().await?;
    let drained = async {
        let mut chunk = [0; READ_AT_ONCE];
        while stream.read(&mut chunk).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, drained).await;
    Ok(())
}
