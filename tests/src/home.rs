//! A data folder with its configuration, and the command line on it.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::server::Server;

/// A folder that a server may run on, again and again. Removed when dropped.
pub struct Home {
    dir: TempDir,
    data: PathBuf,
    settings: BTreeMap<String, String>,
    routes: Vec<String>,
    serve_environment: Vec<(String, String)>,
}

/// What a command answered.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Default for Home {
    fn default() -> Self {
        Self::new()
    }
}

impl Home {
    /// Short retries and timeouts; events reach the lake twice a second.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sl").tempdir().unwrap();
        let data = dir.path().join("data");
        let settings = [
            ("http.listen", "\"127.0.0.1:0\""),
            ("http.public_url", "\"https://mail.acme.example\""),
            ("spool.free_space_floor_bytes", "1048576"),
            ("lake.commit_interval_ms", "500"),
            ("policy.enforce", "false"),
            ("delivery.retry_intervals_s", "[1]"),
            ("delivery.retry_intervals_transactional_s", "[1]"),
            ("delivery.retry_jitter", "0.0"),
            ("delivery.lifetime_s", "300"),
            ("delivery.lifetime_transactional_s", "300"),
            ("delivery.site_backoff_s", "1"),
            ("delivery.session_idle_ms", "500"),
            ("delivery.connect_timeout_ms", "2000"),
            ("delivery.timeout_scale", "0.05"),
        ];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        Self { dir, data, settings, routes: Vec::new(), serve_environment: Vec::new() }
    }

    /// Sets a key to a value in TOML.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Display) -> Self {
        self.settings.insert(key.to_owned(), value.to_string());
        self
    }

    /// Sends mail for a domain to `host:port`.
    #[must_use]
    pub fn route(mut self, domain: &str, host: impl Display) -> Self {
        self.routes
            .push(format!("[[route]]\nname = \"{domain}\"\ndomain = \"{domain}\"\nhosts = [\"{host}\"]\n"));
        self
    }

    /// Keeps the data in a folder that is there already.
    #[must_use]
    pub fn with_data(mut self, data: &Path) -> Self {
        self.data = data.to_owned();
        self
    }

    /// Starts servers with these variables set.
    #[must_use]
    pub fn serve_with(mut self, variables: Vec<(String, String)>) -> Self {
        self.serve_environment = variables;
        self
    }

    /// Holds data folder, configuration and logs.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The configuration's text.
    pub fn config_text(&self) -> String {
        let mut text = format!("storage.dir = {:?}\n", self.data.display().to_string());
        for (key, value) in &self.settings {
            let _ = writeln!(text, "{key} = {value}");
        }
        text.push_str("[[source]]\nname = \"default\"\nehlo = \"mail.acme.example\"\n");
        self.routes.iter().for_each(|route| text.push_str(route));
        text
    }

    fn config(&self) -> PathBuf {
        let (path, text) = (self.dir.path().join("sendlake.toml"), self.config_text());
        // Another command may be reading it right now.
        if std::fs::read_to_string(&path).ok().as_ref() != Some(&text) {
            std::fs::write(&path, text).unwrap();
        }
        path
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command
            .arg("--config")
            .arg(self.config())
            .args(args)
            .env_remove("SENDLAKE_DIR")
            .env("SENDLAKE_LOG", "info");
        command
    }

    pub(crate) fn serve(&self) -> Command {
        let mut command = self.command(&["serve"]);
        command.envs(self.serve_environment.iter().cloned());
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, args: &[&str]) -> Said {
        run(self.command(args).stdin(Stdio::null()))
    }

    /// Runs a command that succeeds, and returns what it printed.
    pub fn ok(&self, args: &[&str]) -> String {
        let said = self.run(args);
        assert_eq!(said.code, 0, "sendlake {args:?}: {said:?}");
        said.out
    }

    /// The rows that `sendlake sql` prints.
    pub fn sql(&self, query: &str) -> Vec<Value> {
        let printed: Value = serde_json::from_str(&self.ok(&["sql", "--format", "json", query])).unwrap();
        printed["rows"].as_array().unwrap().clone()
    }

    /// The one number that a query answers.
    pub fn count(&self, query: &str) -> u64 {
        let rows = self.sql(query);
        let value = rows[0].as_object().unwrap().values().next().unwrap();
        value.as_u64().unwrap_or_else(|| panic!("{query} answered {value}"))
    }

    /// How many events of each type there are.
    pub fn events_by_type(&self) -> BTreeMap<String, u64> {
        self.sql("SELECT event_type, count(*) AS n FROM events GROUP BY event_type")
            .iter()
            .map(|row| (row["event_type"].as_str().unwrap().to_owned(), row["n"].as_u64().unwrap()))
            .collect()
    }

    /// A tenant with a sending domain. Returns a key for everything that tenants may do.
    pub fn tenant(&self, name: &str, domain: &str) -> String {
        self.ok(&["tenant", "add", name]);
        self.ok(&["domain", "add", "--warm", "--tenant", name, domain]);
        self.key(name, &["send", "read", "sql"])
    }

    pub fn key(&self, tenant: &str, scopes: &[&str]) -> String {
        let mut args = vec!["key", "add", "--tenant", tenant, "--label", "test"];
        scopes.iter().for_each(|scope| args.extend(["--scope", scope]));
        self.ok(&args).trim().to_owned()
    }

    /// Starts the server, and returns when it serves.
    pub async fn start(&self) -> Server {
        Server::start(self).await
    }

    /// A server that must not start. Returns what it said.
    pub fn refused_start(&self) -> Said {
        let said = run(Command::new("timeout")
            .arg("20")
            .arg(binary())
            .arg("--config")
            .arg(self.config())
            .arg("serve"));
        assert_ne!(said.code, 124, "the server started although it must not: {said:?}");
        assert_ne!(said.code, 0, "{said:?}");
        said
    }
}

fn run(command: &mut Command) -> Said {
    let output =
        command.output().unwrap_or_else(|error| panic!("{command:?}: {error}; run `make build` first"));
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The binary under test: `SENDLAKE_BIN`, or the one that was built beside this test.
pub fn binary() -> PathBuf {
    if let Some(given) = std::env::var_os("SENDLAKE_BIN") {
        return given.into();
    }
    let test = std::env::current_exe().unwrap();
    test.ancestors().nth(2).unwrap().join("sendlake")
}
