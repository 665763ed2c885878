//! `sendlake demo`: a story of ten days in five acts, on one node. Mail to make-believe providers and what became
//! of it; what comes back for it; a new domain that warms up; a campaign that people complain about, and the cut that
//! follows.
//!
//! - [`receivers`]: the providers · `traffic`, `deliver`, `report`: first act · `returns`: second · `warmup`: third ·
//!   `incident`: fourth
//! - `story`: node, tenants and time · `clock`: how time passes · `ask`: every number is an answer of SQL
//! - `history`, `usual`: what is simulated as events · `complaints`: the feedback loop · `letters`: mail to ourselves ·
//!   `chart`: the picture

mod ask;
mod chart;
mod client;
mod clock;
mod complaints;
mod deliver;
mod history;
mod incident;
mod leave;
mod letters;
pub mod receivers;
mod report;
mod returns;
mod story;
mod traffic;
mod usual;
mod warmup;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use sendlake_control::clock::Timestamp;
use sendlake_control::key::Scope;

use self::clock::DemoClock;
use self::complaints::{Complainers, Reporter};
use self::history::Mailing;
use self::receivers::{Keep, Profile, Receiver};
use self::story::{Sender, Story};
use self::usual::UsualMail;
use crate::config::{Config, Route};
use crate::node::{Node, Roles, token_keys};
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
    story: Story,
    receivers: Vec<Receiver>,
    key: String,
}

/// Marks a folder as a demo's, which the next demo may remove.
const MARKER: &str = "demo.txt";
/// How long ago the story begins: a week and a day of history, then the incident, which ends now.
const BEHIND_S: i64 = warmup::DAYS * 86_400 + incident::HOURS * 3_600 + 600;

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
    let (clock, ids) = DemoClock::new(&system::ids(), BEHIND_S);
    let readers = Profile::accept_all().record(Keep::Data, ids.clock.clone());
    let of_readers = (returns::READERS_DOMAIN, returns::PROVIDER, readers);
    for (domain, provider, profile) in providers().into_iter().chain([of_readers]) {
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
    let config = demo_config(config, settings, routes);
    let node = Node::open(config.clone(), ids.clone()).await?;
    let running = node.start(Roles::ALL).await?;
    let story = Story { running, clock, ids, dir: settings.dir.clone() };
    let key = story.running.control.create_key("demo", None, &Scope::ALL, "demo").await?.secret;
    let acme = story.sender("acme", "Acme Shoes", "acme.example", true).await?;
    let globex = story.sender("globex", "Globex Weekly", "globex.example", true).await?;

    deliver::play(&story, &[acme.clone(), globex], settings.messages).await?;
    let readers = receivers.last().context("the readers have a provider")?;
    returns::play(&story, readers).await?;
    let mut usual = usual_mail(&story, &acme)?;
    let began = story.ids.now();
    warmup::play(&story, &mut usual, began, settings.seed).await?;
    let incident_began = began.plus_secs(warmup::DAYS * 86_400);
    incident::play(&story, &mut usual, &acme, incident_began).await?;
    // the story has caught up with the present, and what comes now has the present's dates
    story.clock.set_forward(Timestamp(i64::MAX));
    leave::play(&story, &config).await?;
    report::close(&settings.dir, &incident::judged_at(&story).await?)?;
    Ok(Demo { story, receivers, key })
}

fn usual_mail(story: &Story, acme: &Sender) -> anyhow::Result<UsualMail> {
    let control = &story.running.control;
    Ok(UsualMail {
        mailing: Mailing {
            domain: acme.domain.clone(),
            campaign_id: "daily-picks",
            audience: usual::AUDIENCE,
        },
        reporter: Reporter {
            inbound: story.running.inbound.context("the demo's node listens for feedback")?,
            tokens: token_keys(control),
            domain: acme.domain.clone(),
            provider: usual::REPORTING,
        },
        complainers: Complainers::default(),
    })
}

impl Demo {
    /// What one can do while the demo keeps serving.
    pub fn explain(&self) -> anyhow::Result<()> {
        let http = self.story.running.http;
        say(&format!(
            "\nStill serving on http://{http} until Ctrl-C. This key may do everything, while this folder lives:\n  {}\n\n  \
             curl -s http://{http}/v1/sql -H 'Authorization: Bearer {}' \\\n    \
             -d '{{\"sql\": \"SELECT outcome, count(*) AS messages FROM outcomes GROUP BY outcome\"}}'\n",
            self.key, self.key
        ))
    }

    pub async fn stop(self) {
        self.story.running.stop().await;
        for receiver in self.receivers {
            receiver.shutdown().await;
        }
    }
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
    for source in &mut config.source {
        source.ehlo = "mail.example".into();
    }
    // what takes minutes in life takes seconds here
    config.delivery.retry_intervals_s = vec![1, 1, 2, 2, 3];
    config.delivery.retry_intervals_transactional_s = vec![1, 1, 2, 2, 3];
    config.delivery.retry_jitter = 0.3;
    config.delivery.lifetime_s = 30 * 86_400;
    config.delivery.lifetime_transactional_s = 30 * 86_400;
    // feedback comes in here; limits are judged when the story says so
    config.inbound.listen = "127.0.0.1:0".into();
    config.policy.publish_interval_s = 0;
    config.rollups.interval_s = 0;
    config.delivery.site_backoff_s = 1;
    config.delivery.session_idle_ms = 1_000;
    config.export = [(leave::WAREHOUSE.to_owned(), leave::connector(&settings.dir))].into();
    config
}
