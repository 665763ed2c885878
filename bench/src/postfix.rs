//! The peer: a private Postfix that relays to the sink, in a folder of its own, with `smtp-source` in front.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::server;

/// A program of Postfix's, if it is installed.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(name))
        .find(|path| path.exists())
}

/// Postfix can be run here: its programs are there, and we are root, which it insists on.
pub(crate) fn installed() -> bool {
    ["postfix", "smtp-source", "smtp-sink"].iter().all(|name| tool(name).is_some())
        && rustix::process::geteuid().is_root()
}

pub(crate) struct Postfix {
    dir: PathBuf,
    port: u16,
}

impl Postfix {
    /// Starts Postfix with the files in `templates`, filled in.
    pub(crate) async fn start(templates: &Path, run_dir: &Path, sink: u16) -> anyhow::Result<Self> {
        let port = server::free_port()?;
        let dir = run_dir.join("postfix");
        for folder in ["queue", "data"] {
            std::fs::create_dir_all(dir.join(folder))?;
        }
        for file in ["main.cf", "master.cf"] {
            let template = templates.join(file);
            let text = std::fs::read_to_string(&template).with_context(|| template.display().to_string())?;
            let text = text
                .replace("DIR", &dir.to_string_lossy())
                .replace("SMTP_PORT", &port.to_string())
                .replace("SINK_PORT", &sink.to_string());
            std::fs::write(dir.join(file), text)?;
        }
        let owned = Command::new("chown").arg("postfix").arg(dir.join("data")).status().await?;
        ensure!(owned.success(), "cannot give {} to the user postfix", dir.display());
        let postfix = Self { dir, port };
        postfix.command("start").await?;
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(postfix);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        postfix.stop().await?;
        bail!("Postfix did not listen on port {port}")
    }

    /// Hands messages over, as many sessions at once as given; returns when Postfix has taken them all.
    pub(crate) async fn offer(
        &self,
        sessions: usize,
        messages: usize,
        body_bytes: usize,
    ) -> anyhow::Result<()> {
        let program = tool("smtp-source").context("smtp-source")?;
        let mut source = Command::new(program);
        source.args([
            "-s",
            &sessions.to_string(),
            "-l",
            &body_bytes.to_string(),
            "-m",
            &messages.to_string(),
        ]);
        source
            .args(["-f", "news@bench.example", "-t", "r@sink.example"])
            .arg(format!("127.0.0.1:{}", self.port));
        let offered = source.kill_on_drop(true).status();
        let status =
            tokio::time::timeout(crate::mail::MEASURE_MAX, offered).await.context("smtp-source to end")??;
        ensure!(status.success(), "smtp-source failed: {status}");
        Ok(())
    }

    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        self.command("abort").await
    }

    async fn command(&self, verb: &str) -> anyhow::Result<()> {
        let program = tool("postfix").context("postfix")?;
        let output = Command::new(program).arg("-c").arg(&self.dir).arg(verb).output().await?;
        ensure!(
            output.status.success(),
            "postfix {verb} failed: {} {}",
            String::from_utf8_lossy(&output.stderr),
            std::fs::read_to_string(self.dir.join("maillog")).unwrap_or_default()
        );
        Ok(())
    }
}
