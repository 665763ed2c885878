//! A running `sendlake serve`.

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::home::Home;
use crate::http::Http;
use crate::until;

/// A server process. Killed when dropped.
pub struct Server {
    pub http: Http,
    /// What it printed at its start; the first start prints the admin key.
    pub greeting: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    pub(crate) async fn start(home: &Home) -> Self {
        let (out, log) = (home.path().join("serve.out"), home.path().join("serve.log"));
        let append = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut child = home
            .serve()
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(&out).unwrap())
            .stderr(append)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", crate::home::binary().display()));
        let greeting = until("the server to serve", Duration::from_secs(30), async || {
            let said = std::fs::read_to_string(&out).unwrap();
            if let Some(status) = child.try_wait().unwrap() {
                panic!("the server ended ({status}): {said}{}", std::fs::read_to_string(&log).unwrap());
            }
            said.contains("Ctrl-C stops\n").then_some(said)
        })
        .await;
        let address = greeting.split("serving on ").nth(1).unwrap().split(' ').next().unwrap();
        Self { http: Http::new(address), greeting, child, log }
    }

    /// The admin key that a first start prints.
    pub fn admin_key(&self) -> String {
        self.greeting.lines().find(|line| line.starts_with("sl_")).expect("a first start").to_owned()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Asks it to stop, and waits until it has.
    pub async fn stop(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let status =
            until("the server to stop", Duration::from_secs(40), async || self.child.try_wait().unwrap())
                .await;
        assert!(status.success(), "{status}: {}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
