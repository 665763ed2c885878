//! One connection: reads, feeds the session, and sends the replies of all that was read in one write.

#[cfg(test)]
mod tests;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use smtp_proto::Request;
use smtp_proto::request::receiver::DataReceiver;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::Office;
use super::ledger::Stats;
use super::profile::{FaultKind, Step};
use super::session::{Next, Session, step_of};

/// Octets of a command line, with room for the extensions' parameters (RFC 5321, section 4.5.3.1.4).
const LINE_MAX: usize = 4_096;
const READ_AT_ONCE: usize = 64 * 1024;
/// Kept for the next message; a bigger buffer is given back.
const DATA_KEPT_MAX: usize = 1024 * 1024;
/// A closed connection still reads for so long, as unread octets would turn the close into a reset that
/// can overtake the last reply.
const LINGER: Duration = Duration::from_secs(1);

/// How a conversation ended.
enum End {
    Done,
    Reset,
    StartTls,
}

/// Serves one client until either side is done. Errors of the connection are its end, not ours.
pub(super) async fn serve(office: Arc<Office>, mut stream: TcpStream, client: IpAddr, number: u64) {
    office.ledger.add(Stats { connections: 1, ..Stats::default() });
    // Replies are small and waited for.
    let _ = stream.set_nodelay(true);
    let mut session = Session::new(Arc::clone(&office), client.to_string(), number, false);
    let mut plain = Conversation::new(&office, &mut stream, number);
    let end = plain.run(&mut session, true).await;
    match end {
        Ok(End::Reset) => {
            let _ = stream.set_zero_linger();
        }
        Ok(End::StartTls) => {
            if let Some(config) = &office.profile.tls
                && let Err(error) = serve_tls(&office, stream, config, client, number).await
            {
                tracing::debug!(%error, "a receiver's TLS connection ended");
            }
        }
        Ok(End::Done) => {}
        Err(error) => tracing::debug!(%error, "a receiver's connection ended"),
    }
}

async fn serve_tls(
    office: &Arc<Office>,
    stream: TcpStream,
    config: &Arc<rustls::ServerConfig>,
    client: IpAddr,
    number: u64,
) -> io::Result<()> {
    let mut stream = TlsAcceptor::from(Arc::clone(config)).accept(stream).await?;
    // Nothing said in the clear counts any more (RFC 3207, section 4.2).
    let mut session = Session::new(Arc::clone(office), client.to_string(), number, true);
    if let End::Reset = Conversation::new(office, &mut stream, number).run(&mut session, false).await? {
        let _ = stream.get_ref().0.set_zero_linger();
    }
    Ok(())
}

struct Conversation<'a, S> {
    office: &'a Office,
    stream: &'a mut S,
    has_fault: bool,
    input: BytesMut,
    /// Reading a message, not commands.
    receiving: Option<DataReceiver>,
    data: Vec<u8>,
    is_too_big: bool,
    /// The rest of a line that is too long.
    skipping_line: bool,
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Conversation<'a, S> {
    fn new(office: &'a Office, stream: &'a mut S, number: u64) -> Self {
        Self {
            office,
            stream,
            has_fault: number < office.profile.fault_connections,
            input: BytesMut::with_capacity(READ_AT_ONCE),
            receiving: None,
            data: Vec::new(),
            is_too_big: false,
            skipping_line: false,
        }
    }

    async fn run(&mut self, session: &mut Session, greets: bool) -> io::Result<End> {
        if greets {
            match self.fault(session, Step::Connect) {
                None => session.banner(),
                Some(FaultKind::Hang) => return self.hang(session).await,
                Some(FaultKind::Reset) => return Ok(End::Reset),
                Some(_) => {}
            }
            self.flush(session).await?;
        }
        loop {
            if let Some(stop) = self.consume(session) {
                return self.stop(stop, session).await;
            }
            self.flush(session).await?;
            self.input.reserve(READ_AT_ONCE);
            let idle_timeout = self.office.profile.idle_timeout;
            match timeout(idle_timeout, self.stream.read_buf(&mut self.input)).await {
                Ok(Ok(0)) => return Ok(End::Done),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(_) => {
                    session.idle();
                    return self.stop(Stop::Close, session).await;
                }
            }
        }
    }

    /// Answers everything that was read in full, or says why the conversation stops.
    fn consume(&mut self, session: &mut Session) -> Option<Stop> {
        loop {
            let next = match self.receiving.take() {
                Some(receiver) => self.consume_data(receiver, session),
                None => self.consume_line(session),
            };
            match next {
                Progress::Next(Next::Command) => {}
                Progress::Next(Next::Data) => {
                    let mut receiver = DataReceiver::new();
                    // The line end of DATA also stands before the first line of the message: without it
                    // an empty message would not end, and a dot on the first line would stay doubled.
                    receiver.ingest(&mut b"\r\n".iter(), &mut self.data);
                    self.data.clear();
                    self.is_too_big = false;
                    self.receiving = Some(receiver);
                }
                Progress::Next(Next::StartTls) if self.input.is_empty() => return Some(Stop::StartTls),
                Progress::Next(Next::StartTls) => {
                    session.pipelined_after_starttls();
                    return Some(Stop::Close);
                }
                Progress::Next(Next::Close) => return Some(Stop::Close),
                Progress::Stop(stop) => return Some(stop),
                Progress::Starved => return None,
            }
        }
    }

    fn consume_line(&mut self, session: &mut Session) -> Progress {
        let Some(end) = self.input.iter().position(|byte| *byte == b'\n') else {
            if self.skipping_line || self.input.len() > LINE_MAX {
                self.skipping_line = true;
                self.input.clear();
            }
            return Progress::Starved;
        };
        let line = self.input.split_to(end + 1);
        if std::mem::take(&mut self.skipping_line) || line.len() > LINE_MAX {
            return Progress::Next(session.line_too_long());
        }
        if !self.office.profile.pipelining && !self.input.is_empty() {
            return Progress::Next(session.out_of_step());
        }
        let parsed = Request::parse(&mut line.iter());
        match step_of(&parsed).and_then(|step| self.fault(session, step)) {
            None => Progress::Next(session.command(parsed, &line, self.office.now_ms())),
            Some(kind) => Progress::from(kind),
        }
    }

    fn consume_data(&mut self, mut receiver: DataReceiver, session: &mut Session) -> Progress {
        let mut unread = self.input.iter();
        let is_whole = receiver.ingest(&mut unread, &mut self.data);
        let read = self.input.len() - unread.len();
        self.input.advance(read);
        if self.data.len() > self.office.profile.size_bytes_max {
            self.is_too_big = true;
        }
        if !is_whole {
            if self.is_too_big {
                self.data.clear();
            }
            self.receiving = Some(receiver);
            return Progress::Starved;
        }
        if let Some(kind) = self.fault(session, Step::DataEnd) {
            return Progress::from(kind);
        }
        let data = (!self.is_too_big).then_some(self.data.as_slice());
        let next = session.message(data, self.office.now_ms());
        if self.data.capacity() > DATA_KEPT_MAX {
            self.data = Vec::new();
        }
        Progress::Next(next)
    }

    /// Says what the script wants said at this step; the caller sees to the rest.
    fn fault(&self, session: &mut Session, step: Step) -> Option<FaultKind> {
        let fault = self.office.profile.fault.filter(|fault| self.has_fault && fault.at == step)?;
        match fault.kind {
            FaultKind::Garbage => session.say_raw(b"\x00\xff\xfe{\"no\": smtp}\x16\x03\x01\r\n"),
            FaultKind::LongLine(octets) => {
                let mut line = b"250 ".to_vec();
                line.resize(octets.max(line.len()), b'x');
                line.extend_from_slice(b"\r\n");
                session.say_raw(&line);
            }
            FaultKind::Hang | FaultKind::Reset => {}
        }
        Some(fault.kind)
    }

    async fn stop(&mut self, stop: Stop, session: &mut Session) -> io::Result<End> {
        match stop {
            Stop::Hang => return self.hang(session).await,
            Stop::Reset => {
                self.flush(session).await?;
                return Ok(End::Reset);
            }
            Stop::StartTls => {
                self.flush(session).await?;
                return Ok(End::StartTls);
            }
            Stop::Close => {}
        }
        self.flush(session).await?;
        self.stream.shutdown().await?;
        let _ = timeout(LINGER, self.drain()).await;
        Ok(End::Done)
    }

    /// Answers nothing more, for as long as the client stays.
    async fn hang(&mut self, session: &mut Session) -> io::Result<End> {
        self.flush(session).await?;
        self.drain().await?;
        Ok(End::Done)
    }

    async fn drain(&mut self) -> io::Result<()> {
        loop {
            self.input.clear();
            self.input.reserve(READ_AT_ONCE);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn flush(&mut self, session: &mut Session) -> io::Result<()> {
        let batch = session.take_batch();
        // Counted before they are sent: who has the reply also finds it in the counts.
        self.office.ledger.add(batch.stats);
        if batch.bytes.is_empty() {
            return Ok(());
        }
        let delay = self.office.profile.reply_delay + batch.delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let written = timeout(self.office.profile.idle_timeout, async {
            self.stream.write_all(&batch.bytes).await?;
            self.stream.flush().await
        });
        written.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Why a conversation stops.
enum Stop {
    Close,
    StartTls,
    Hang,
    Reset,
}

enum Progress {
    Next(Next),
    Stop(Stop),
    /// More has to be read first.
    Starved,
}

impl From<FaultKind> for Progress {
    fn from(kind: FaultKind) -> Self {
        match kind {
            FaultKind::Hang => Self::Stop(Stop::Hang),
            FaultKind::Reset => Self::Stop(Stop::Reset),
            FaultKind::Garbage | FaultKind::LongLine(_) => Self::Next(Next::Command),
        }
    }
}
