//! First act: two tenants send thousands of messages to the four providers, over real SMTP on loopback.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::client::Client;
use super::story::{Sender, Story};
use super::{report, say, traffic};
use crate::node::Running;

/// Longest wait for the last retries.
const DRAIN_MAX: Duration = Duration::from_secs(45);
const CONNECTIONS: usize = 16;

/// How fast it went.
pub(super) struct Pace {
    pub messages: usize,
    /// Until the last message was accepted.
    pub accepting: Duration,
    /// Until nine of ten messages had left the queue; the rest waits for retries, by design.
    pub most_settled: Duration,
    /// Until the queue was empty.
    pub settled: Duration,
    pub left: u64,
}

pub(super) async fn play(story: &Story, senders: &[Sender], messages: usize) -> anyhow::Result<()> {
    say(&format!(
        "== 1. Mail goes out ==\n\n\
         Two tenants send {messages} messages to four make-believe mailbox providers, over SMTP on this machine.\n\
         The providers throttle, greylist and refuse as the real ones say they do.\n"
    ))?;
    let pace = send_all(&story.running, senders, messages).await?;
    report::print(&story.running, &pace).await
}

/// Posts all messages over a few connections, then waits until the queue is empty, and tells how it goes.
async fn send_all(running: &Running, senders: &[Sender], total: usize) -> anyhow::Result<Pace> {
    let started = Instant::now();
    let accepted = Arc::new(AtomicUsize::new(0));
    let next = Arc::new(AtomicUsize::new(0));
    let senders: Arc<[Sender]> = senders.to_vec().into();
    let mut posting = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS.min(total) {
        let (http, accepted, next, senders) = (running.http, accepted.clone(), next.clone(), senders.clone());
        posting.spawn(async move {
            let mut client = Client::connect(http).await?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return anyhow::Ok(());
                }
                let (key, message) = traffic::message(&senders, number)?;
                client.post("/v1/messages", key, &message).await?;
                accepted.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let (mut accepting, mut most_settled) = (None, None);
    let mut progress = report::Progress::new();
    loop {
        while let Some(joined) = posting.try_join_next() {
            joined??;
        }
        let done = accepted.load(Ordering::Relaxed);
        let counts = running.spool.reader().counts()?;
        let left = counts.queued + counts.in_flight;
        let elapsed = started.elapsed();
        if done == total && posting.is_empty() {
            accepting.get_or_insert(elapsed);
        }
        if accepting.is_some() && left <= (total / 10) as u64 {
            most_settled.get_or_insert(elapsed);
        }
        progress.show(elapsed, done, total, left)?;
        let drained = accepting.is_some() && left == 0;
        let waited_enough = accepting.is_some_and(|at| elapsed > at + DRAIN_MAX);
        if drained || waited_enough {
            progress.end()?;
            return Ok(Pace {
                messages: total,
                accepting: accepting.unwrap_or(elapsed),
                most_settled: most_settled.unwrap_or(elapsed),
                settled: elapsed,
                left,
            });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
