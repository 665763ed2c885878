//! `sendlake demo`: two tenants send thousands of messages to four make-believe mailbox providers, over real
//! SMTP on loopback, and SQL tells what became of them.

mod client;
pub mod receivers;
mod report;
mod traffic;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sendlake_control::domain::DomainOptions;
use sendlake_control::key::Scope;

use self::receivers::{Profile, Receiver};
use self::traffic::Sender;
use crate::config::{Config, Route};
use crate::node::{Node, Roles, Running};
use crate::system;

/// What `sendlake demo` was asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The data folder: made anew, and left for looking at.
    pub dir: PathBuf,
    pub messages: usize,
    /// Decides which mailboxes refuse, and how.
    pub seed: u64,
}

/// A demo that has run, and still serves.
pub struct Demo {
    running: Running,
    receivers: Vec<Receiver>,
    key: String,
}

/// Marks a folder as a demo's, which the next demo may remove.
const MARKER: &str = "demo.txt";
/// Longest wait for the last retries.
const DRAIN_MAX: Duration = Duration::from_secs(45);
const CONNECTIONS: usize = 16;

/// Domain of recipients, name of the provider, and how it behaves.
fn providers() -> [(&'static str, &'static str, Profile); 4] {
    [
        ("gmail.test", "gmail-like", Profile::gmail()),
        ("outlook.test", "microsoft-like", Profile::microsoft()),
        ("yahoo.test", "yahoo-like", Profile::yahoo()),
        ("corp.test", "corporate-gateway", Profile::gateway()),
    ]
}

/// Runs the demo to its end. The folder stays, and so does the server until [`Demo::stop`].
pub async fn run(config: Config, settings: &Settings) -> anyhow::Result<Demo> {
    ensure!(settings.messages > 0, "--messages must be at least 1");
    make_anew(&settings.dir)?;
    let mut receivers = Vec::new();
    let mut routes = Vec::new();
    for (domain, provider, profile) in providers() {
        let receiver = Receiver::start(profile, settings.seed)?;
        routes.push(Route {
            name: provider.into(),
            domain: domain.into(),
            hosts: vec![receiver.addr().to_string()],
            provider: provider.into(),
            ..Route::default()
        });
        receivers.push(receiver);
    }
    let running = start(demo_config(config, settings, routes)).await?;
    let (key, senders) = tenants(&running).await?;
    say(&format!(
        "Two tenants send {} messages to four make-believe mailbox providers, over SMTP on this machine.\n\
         The providers throttle, greylist and refuse as the real ones say they do.\n",
        settings.messages
    ))?;
    let pace = send_all(&running, &senders, settings).await?;
    report::print(&running, &pace, &settings.dir).await?;
    Ok(Demo { running, receivers, key })
}

impl Demo {
    /// What one can do while the demo keeps serving.
    pub fn explain(&self) -> anyhow::Result<()> {
        let http = self.running.http;
        say(&format!(
            "\nStill serving on http://{http} until Ctrl-C. This key may do everything, while this folder lives:\n  {}\n\n  \
             curl -s http://{http}/v1/sql -H 'Authorization: Bearer {}' \\\n    \
             -d '{{\"sql\": \"SELECT outcome, count(*) AS messages FROM outcomes GROUP BY outcome\"}}'\n",
            self.key, self.key
        ))
    }

    pub async fn stop(self) {
        self.running.stop().await;
        for receiver in self.receivers {
            receiver.shutdown().await;
        }
    }
}

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

fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").context("write to standard output")
}

/// Removes what an earlier demo left, and nothing else.
fn make_anew(dir: &Path) -> anyhow::Result<()> {
    let empty = !dir.exists() || std::fs::read_dir(dir)?.next().is_none();
    if !empty {
        if !dir.join(MARKER).exists() {
            bail!(
                "{} holds something that no demo made; name another folder with --dir, or remove it yourself",
                dir.display()
            );
        }
        std::fs::remove_dir_all(dir).with_context(|| {
            format!(
                "cannot remove what the last demo left in {}; does a server still run on it?",
                dir.display()
            )
        })?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    std::fs::write(
        dir.join(MARKER),
        "Made by `sendlake demo`, which removes this folder when it runs again.\n",
    )
    .with_context(|| format!("cannot write into {}", dir.display()))
}

fn demo_config(mut config: Config, settings: &Settings, routes: Vec<Route>) -> Config {
    config.storage.dir = settings.dir.clone();
    config.storage.lake_url = String::new();
    config.http.listen = ([127, 0, 0, 1], 0).into();
    config.http.public_url = "https://mail.example".into();
    config.node.id = "demo".into();
    config.route = routes;
    config.spool.free_space_floor_bytes = 64 << 20;
    config.lake.commit_interval_ms = 1_000;
    config.policy.enforce = false;
    for source in &mut config.source {
        source.ehlo = "mail.example".into();
    }
    // what takes minutes in life takes seconds here
    config.delivery.retry_intervals_s = vec![1, 1, 2, 2, 3];
    config.delivery.retry_intervals_transactional_s = vec![1, 1, 2, 2, 3];
    config.delivery.retry_jitter = 0.3;
    config.delivery.lifetime_s = 600;
    config.delivery.lifetime_transactional_s = 600;
    config.delivery.site_backoff_s = 1;
    config.delivery.session_idle_ms = 1_000;
    config
}

async fn start(config: Config) -> anyhow::Result<Running> {
    let node = Node::open(config, system::ids()).await?;
    node.start(Roles::ALL).await
}

/// Two tenants with a domain and a key each. Returns the key for everything, and the tenants ready to send.
async fn tenants(running: &Running) -> anyhow::Result<(String, Vec<Sender>)> {
    const ACTOR: &str = "demo";
    let admin = running.control.create_key(ACTOR, None, &Scope::ALL, "demo").await?;
    let mut senders = Vec::new();
    for (tenant, display_name, domain) in
        [("acme", "Acme Shoes", "acme.example"), ("globex", "Globex Weekly", "globex.example")]
    {
        let tenant = tenant.parse()?;
        running.control.create_tenant(ACTOR, &tenant, display_name).await?;
        running.control.add_domain(ACTOR, &tenant, domain, DomainOptions::default()).await?;
        let key = running.control.create_key(ACTOR, Some(&tenant), &[Scope::Send], "demo").await?;
        senders.push(Sender {
            key: key.secret,
            domain: domain.to_owned(),
            display_name: display_name.to_owned(),
        });
    }
    running.refresh().await?;
    Ok((admin.secret, senders))
}

/// Posts all messages over a few connections, then waits until the queue is empty, and tells how it goes.
async fn send_all(running: &Running, senders: &[Sender], settings: &Settings) -> anyhow::Result<Pace> {
    let started = Instant::now();
    let total = settings.messages;
    let accepted = Arc::new(AtomicUsize::new(0));
    let next = Arc::new(AtomicUsize::new(0));
    let senders: Arc<[Sender]> = senders.to_vec().into();
    let mut posting = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS.min(total) {
        let (http, accepted, next, senders) = (running.http, accepted.clone(), next.clone(), senders.clone());
        posting.spawn(async move {
            let mut client = client::Client::connect(http).await?;
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
