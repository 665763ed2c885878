//! In-process SMTP receivers that behave like mailbox providers: real TCP, the providers' own reply codes
//! and texts, and outcomes that a seed repeats.
//!
//! - [`profile`]: how a receiver behaves, and its scripted misbehaviour
//! - [`provider`]: what each provider says, as data
//! - [`mailbox`]: what becomes of an attempt
//! - [`reply`]: replies on the wire
//! - `session`, `connection`: the SMTP server, without and with its I/O
//! - [`ledger`]: what was counted and kept

mod connection;
pub mod ledger;
pub mod mailbox;
pub mod profile;
pub mod provider;
pub mod reply;
mod session;
#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use ledger::{Recorded, Stats};
pub use profile::{Fault, FaultKind, Keep, Profile, Recording, Shares, Step};

use ledger::Ledger;
use mailbox::Mailboxes;

/// A running receiver on a loopback port of its own. Dropped, it stops.
#[derive(Debug)]
pub struct Receiver {
    addr: SocketAddr,
    office: Arc<Office>,
    stopping: CancellationToken,
    accepting: Option<JoinHandle<()>>,
}

/// What the connections of one receiver share.
#[derive(Debug)]
struct Office {
    profile: Profile,
    mailboxes: Mailboxes,
    ledger: Ledger,
    started_at: Instant,
}

impl Office {
    /// Milliseconds since the start.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Receiver {
    /// Listens on 127.0.0.1, on a port that the system chooses. Runs on the Tokio runtime of the caller.
    ///
    /// The same profile and seed give the same outcome for the same mail.
    pub fn start(profile: Profile, seed: u64) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Handle::try_current().with_context(|| {
            format!("the {} receiver must be started inside a Tokio runtime", profile.name)
        })?;
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .with_context(|| format!("the {} receiver found no free port on 127.0.0.1", profile.name))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let addr = listener.local_addr()?;
        let office = Arc::new(Office {
            profile,
            mailboxes: Mailboxes::new(seed),
            ledger: Ledger::default(),
            started_at: Instant::now(),
        });
        let stopping = CancellationToken::new();
        let accepting = runtime.spawn(accept(listener, Arc::clone(&office), stopping.clone()));
        Ok(Self { addr, office, stopping, accepting: Some(accepting) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn profile(&self) -> &Profile {
        &self.office.profile
    }

    /// What was counted so far.
    pub fn stats(&self) -> Stats {
        self.office.ledger.stats()
    }

    /// The messages accepted so far, one entry for each recipient; empty unless the profile records.
    pub fn recorded(&self) -> Vec<Recorded> {
        self.office.ledger.recorded()
    }

    /// Closes the port and all connections, and waits until they are closed.
    pub async fn shutdown(mut self) {
        self.stopping.cancel();
        if let Some(accepting) = self.accepting.take() {
            // It only fails when the runtime is going down, which closes everything as well.
            let _ = accepting.await;
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stopping.cancel();
    }
}

async fn accept(listener: TcpListener, office: Arc<Office>, stopping: CancellationToken) {
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            () = stopping.cancelled() => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, client)) => {
                connections.spawn(connection::serve(Arc::clone(&office), stream, client.ip(), number));
                number += 1;
            }
            Err(error) => {
                // Out of file descriptors, most likely: some come back when connections end.
                tracing::warn!(receiver = office.profile.name, %error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    connections.shutdown().await;
}
