//! A sendlake server of its own: its folder, its process, and how far its lake is.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::machine;

/// How often the lake's log is looked at: the precision of the time at which the last row was there.
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub(crate) struct Setup {
    /// Port of the sink; none where nothing is delivered.
    pub sink: Option<u16>,
    pub sessions: usize,
    pub sign: bool,
}

pub(crate) struct Server {
    binary: PathBuf,
    config: PathBuf,
    log: PathBuf,
    http: SocketAddr,
    key: String,
    process: Child,
}

impl Server {
    pub(crate) async fn start(binary: &Path, dir: &Path, setup: &Setup) -> anyhow::Result<Self> {
        let http = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let config = dir.join("sendlake.toml");
        std::fs::write(&config, configuration(dir, http, setup))?;
        run(binary, &config, &["tenant", "add", "bench"]).await?;
        run(binary, &config, &["domain", "add", "--warm", "--tenant", "bench", "bench.example"]).await?;
        let arguments = ["key", "add", "--tenant", "bench", "--scope", "send", "--label", "bench"];
        let key = run(binary, &config, &arguments).await?.trim().to_owned();
        let log = dir.join("serve.log");
        let mut process = Command::new(binary)
            .arg("--config")
            .arg(&config)
            .arg("serve")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log)?)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        let stdout = process.stdout.take().context("the server's standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let listening = async {
            while let Some(line) = lines.next_line().await? {
                if line.starts_with("serving on") {
                    return anyhow::Ok(());
                }
            }
            bail!("sendlake serve ended at its start: {}", std::fs::read_to_string(&log)?)
        };
        tokio::time::timeout(Duration::from_secs(30), listening)
            .await
            .context("sendlake serve to listen")??;
        // whatever else it says must not block it
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { binary: binary.to_owned(), config, log, http, key, process })
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// Processor time that the server has used so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        machine::cpu_of(&self.process.id().context("it has ended")?.to_string())
    }

    /// Waits until `messages` acceptances and as many deliveries are committed to the lake; returns when that
    /// was seen. Counts rows in the lake's own log, which costs the server nothing.
    pub(crate) async fn wait_for_lake(&self, messages: usize, at_most: Duration) -> anyhow::Result<Instant> {
        let log = self.config.with_file_name("data").join("lake/events/_delta_log");
        let deadline = Instant::now() + at_most;
        let (mut version, mut rows) = (0_u64, 0);
        while rows < 2 * messages as u64 {
            match std::fs::read_to_string(log.join(format!("{version:020}.json"))) {
                Ok(commit) => {
                    rows += added_rows(&commit)?;
                    version += 1;
                }
                Err(_) if Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
                Err(_) => bail!(
                    "after {at_most:?} the lake held {rows} events of {}: {}",
                    2 * messages,
                    self.said()
                ),
            }
        }
        Ok(Instant::now())
    }

    /// That the lake says of every message that it was delivered, at the first attempt.
    pub(crate) async fn check_outcomes(&self, messages: usize) -> anyhow::Result<()> {
        let sql = "SELECT outcome, count(*) AS messages FROM outcomes GROUP BY outcome";
        let rows = run(&self.binary, &self.config, &["sql", sql, "--format", "csv"]).await?;
        let expected = format!("delivered,{messages}");
        ensure!(
            rows.lines().skip(1).eq([expected.as_str()]),
            "expected {expected:?} and nothing else, but the lake says {rows:?}: {}",
            self.said()
        );
        Ok(())
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.process.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        rustix::process::kill_process(
            pid.context("the server has ended by itself")?,
            rustix::process::Signal::TERM,
        )?;
        let ended = tokio::time::timeout(Duration::from_secs(40), self.process.wait()).await;
        ensure!(ended.context("the server to stop")??.success(), "sendlake serve failed: {}", self.said());
        Ok(())
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log)
            .unwrap_or_default()
            .lines()
            .rev()
            .take(5)
            .collect::<Vec<_>>()
            .join(" | ")
    }
}

fn configuration(dir: &Path, http: SocketAddr, setup: &Setup) -> String {
    let route = setup.sink.map_or_else(String::new, |port| {
        format!(
            "[[route]]\nname = \"sink\"\ndomain = \"sink.example\"\nhosts = [\"127.0.0.1:{port}\"]\n\
             tls = \"none\"\n"
        )
    });
    format!(
        "# Defaults, but for the places, as many sessions as the peer gets, no limit on the one tenant, and a\n\
         # commit to the lake every second, so that the end of a run is seen.\n\
         [storage]\ndir = {:?}\n[http]\nlisten = \"{http}\"\n\
         [limits]\nrate_per_s = 1000000\nrate_burst = 1000000\n\
         [lake]\ncommit_interval_ms = 1000\n\
         [delivery]\nsessions_per_site_max = {}\n\
         [dkim]\nsign = {}\n\
         [[source]]\nname = \"default\"\nehlo = \"mail.bench.example\"\n{route}",
        dir.join("data").to_string_lossy(),
        setup.sessions,
        setup.sign,
    )
}

/// Rows that one commit of the Delta log adds.
fn added_rows(commit: &str) -> anyhow::Result<u64> {
    let mut rows = 0;
    for line in commit.lines() {
        let action: Value = serde_json::from_str(line).context("a line of the lake's log")?;
        let Some(stats) = action.pointer("/add/stats").and_then(Value::as_str) else { continue };
        let stats: Value = serde_json::from_str(stats)?;
        rows +=
            stats.get("numRecords").and_then(Value::as_u64).context("an added file without its row count")?;
    }
    Ok(rows)
}

async fn run(binary: &Path, config: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(binary).arg("--config").arg(config).args(arguments).output().await?;
    ensure!(
        output.status.success(),
        "sendlake {} failed: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
