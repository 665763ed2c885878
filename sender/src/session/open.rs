//! Opening a session: TCP, greeting, EHLO, and STARTTLS where the policy has it (RFC 3207).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use mail_send::SmtpClient;
use tokio::net::TcpStream;

use super::wire::{Io, Wire, WireError};
use super::{
    AttemptFailure, Capabilities, ConnectFacts, FailureKind, SmtpCommand, Target, Timeouts, Tls, TlsFailure,
};
use crate::reply::{ParsedReply, ReplyClass};
use crate::route::TlsPolicy;
use crate::source::Source;

/// From nothing to a session that has said hello, filling `facts` on the way.
pub(super) async fn open(
    target: Target<'_>,
    source: &Source,
    policy: TlsPolicy,
    tls: &Tls,
    timeouts: &Timeouts,
    facts: &mut ConnectFacts,
) -> Result<(Wire, Capabilities), AttemptFailure> {
    let stream = open_tcp(target.addr, source, timeouts.connect).await?;
    facts.source_ip = stream.local_addr().ok().map(|addr| addr.ip());
    let mut wire = Wire::new(Io::Plain(stream));
    let greeting = wire.reply(timeouts.greeting).await;
    let greeting = greeting.map_err(|err| AttemptFailure::of_wire(SmtpCommand::Connect, &err))?.reply;
    if !greeting.is_positive() {
        return Err(AttemptFailure::with_reply(SmtpCommand::Connect, FailureKind::Rejected, greeting));
    }
    let capabilities = hello(&mut wire, &source.ehlo, timeouts).await?;
    if policy == TlsPolicy::None {
        return Ok((wire, capabilities));
    }
    if !capabilities.starttls {
        facts.tls_failure = Some(TlsFailure::StarttlsNotSupported);
        if policy == TlsPolicy::Opportunistic {
            return Ok((wire, capabilities));
        }
        let detail = "TLS is required, and the host does not announce STARTTLS";
        return Err(AttemptFailure::new(SmtpCommand::StartTls, FailureKind::TlsUnavailable, detail));
    }
    let reply = exchange(&mut wire, SmtpCommand::StartTls, "STARTTLS\r\n", timeouts.ehlo).await?.reply;
    if !reply.is_positive() {
        // a 421 ends any conversation, whatever was asked
        if reply.closes() {
            return Err(AttemptFailure::with_reply(SmtpCommand::StartTls, FailureKind::Rejected, reply));
        }
        facts.tls_failure = Some(TlsFailure::StarttlsNotSupported);
        facts.tls_failure_reason = Some(reply.to_string());
        return match policy {
            TlsPolicy::Opportunistic => Ok((wire, capabilities)),
            _ => Err(AttemptFailure::with_reply(SmtpCommand::StartTls, FailureKind::TlsUnavailable, reply)),
        };
    }
    let tls_failed = |detail: String| AttemptFailure::new(SmtpCommand::StartTls, FailureKind::Tls, detail);
    let Some(stream) = wire.into_plain() else {
        let detail = "the host, or someone between, sent more after its reply to STARTTLS";
        facts.tls_failure = Some(TlsFailure::ValidationFailure);
        facts.tls_failure_reason = Some(detail.to_owned());
        return Err(tls_failed(detail.to_owned()));
    };
    let must_verify = policy == TlsPolicy::Required;
    let ip = target.addr.ip();
    let shaken = tls.handshake(stream, target.host, ip, must_verify, timeouts.tls).await;
    let (stream, agreed) = shaken.map_err(|(failure, detail)| {
        let detail = format!("the TLS handshake failed: {detail}");
        facts.tls_failure = Some(failure);
        facts.tls_failure_reason = Some(detail.clone());
        tls_failed(detail)
    })?;
    facts.tls_version = agreed.version;
    facts.tls_cipher = agreed.cipher;
    facts.tls_verified = Some(agreed.verified);
    let mut wire = Wire::new(Io::Tls(Box::new(stream)));
    // What was announced in clear counts no more (RFC 3207, section 4.2).
    let capabilities = hello(&mut wire, &source.ehlo, timeouts).await?;
    Ok((wire, capabilities))
}

async fn open_tcp(addr: SocketAddr, source: &Source, within: Duration) -> Result<TcpStream, AttemptFailure> {
    let failed = |kind, detail: String| AttemptFailure::new(SmtpCommand::Connect, kind, detail);
    let connected = match source.bind {
        Some(bind) => SmtpClient::connect_using(bind, addr, within).await,
        None => SmtpClient::connect(addr, within).await,
    };
    let stream = connected.map(|client| client.stream).map_err(|err| match err {
        mail_send::Error::Timeout => {
            failed(FailureKind::Timeout, format!("{addr} did not answer within {within:?}"))
        }
        mail_send::Error::Io(err) => match err.kind() {
            io::ErrorKind::AddrNotAvailable => {
                failed(FailureKind::Source, format!("the source {:?} cannot be used: {err}", source.name))
            }
            kind => failed(connect_failure(kind), format!("no connection to {addr}: {err}")),
        },
        other => failed(FailureKind::Unreachable, format!("no connection to {addr}: {other}")),
    })?;
    // Commands are written whole, so waiting to fill packets only adds delay.
    let _ = stream.set_nodelay(true);
    Ok(stream)
}

fn connect_failure(kind: io::ErrorKind) -> FailureKind {
    match kind {
        io::ErrorKind::ConnectionRefused => FailureKind::Refused,
        io::ErrorKind::TimedOut => FailureKind::Timeout,
        io::ErrorKind::ConnectionReset => FailureKind::Closed,
        _ => FailureKind::Unreachable,
    }
}

/// EHLO, and HELO to servers that do not know it (RFC 5321, section 3.2).
async fn hello(wire: &mut Wire, name: &str, timeouts: &Timeouts) -> Result<Capabilities, AttemptFailure> {
    let command = SmtpCommand::Ehlo;
    let ehlo = exchange(wire, command, &format!("EHLO {name}\r\n"), timeouts.ehlo).await?;
    match ehlo.reply.class() {
        ReplyClass::Positive => return Ok(Capabilities::of_ehlo(&ehlo.lines)),
        ReplyClass::Permanent => {}
        _ => return Err(AttemptFailure::with_reply(command, FailureKind::Rejected, ehlo.reply)),
    }
    let helo = exchange(wire, command, &format!("HELO {name}\r\n"), timeouts.ehlo).await?;
    if helo.reply.is_positive() {
        Ok(Capabilities::default())
    } else {
        Err(AttemptFailure::with_reply(command, FailureKind::Rejected, helo.reply))
    }
}

async fn exchange(
    wire: &mut Wire,
    command: SmtpCommand,
    line: &str,
    within: Duration,
) -> Result<ParsedReply, AttemptFailure> {
    let failed = |err: WireError| AttemptFailure::of_wire(command, &err);
    wire.send(line.as_bytes(), within).await.map_err(failed)?;
    wire.reply(within).await.map_err(failed)
}
