//! The stand-in of an account, and what tests of it share.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use sendlake_control::clock::{Clock, ManualClock, Timestamp};
use serde_json::{Value, json};

use super::super::key::tests::new_pem;
use super::super::statements::folder;
use super::super::{Settings, Snowflake, connect};
use crate::batch::Change;
use crate::secret::SecretRef;
use crate::secret::tests::NoSecrets;
use crate::target::StagedBatch;
use crate::testing::{Running, all_columns, free_port, key_row, peer, python, staged};

const DATABASE: &str = "MAIL";
const SCHEMA: &str = "SENDLAKE";

/// One account, with an external stage over a folder of this machine, in which one user may log in with one key.
pub(super) struct Account {
    python: PathBuf,
    pub port: u16,
    pub folder: tempfile::TempDir,
    _running: Running,
}

impl Account {
    /// None where the venv is not there.
    pub fn start() -> Option<Self> {
        let python = python("fakesnow")?;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bucket")).unwrap();
        std::fs::write(folder.path().join("key.p8"), new_pem()).unwrap();
        let public = folder.path().join("key.pub");
        let openssl = Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(folder.path().join("key.p8"))
            .arg("-out")
            .arg(&public)
            .status();
        assert!(openssl.unwrap().success());
        let port = free_port();
        let mut command = Command::new(&python);
        command
            .arg(peer("snowflake_server.py"))
            .arg(port.to_string())
            .args([DATABASE, SCHEMA, "XY12345", "LOADER"]);
        command.arg(public).env("TMPDIR", folder.path()).stderr(Stdio::null());
        let running = Running::until_listening(command, port);
        let account = Self { python, port, folder, _running: running };
        let url = format!("file://{}", account.bucket().display());
        account.ask(&format!("CREATE STAGE {DATABASE}.{SCHEMA}.SENDLAKE_STAGE URL = '{url}'"));
        Some(account)
    }

    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join("bucket")
    }

    pub fn settings(&self) -> Settings {
        Settings {
            account: "xy12345.eu-central-1".into(),
            user: "loader".into(),
            private_key: Some(SecretRef::File(self.folder.path().join("key.p8"))),
            role: Some("loader_role".into()),
            warehouse: "loader_wh".into(),
            database: DATABASE.to_lowercase(),
            schema: SCHEMA.to_lowercase(),
            table: "events".into(),
            bucket: Some(format!("file://{}", self.bucket().display())),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port).parse().unwrap()),
            load_timeout_s: 60,
            ..Settings::default()
        }
    }

    /// By the external stage.
    pub async fn snowflake(&self) -> Snowflake {
        connected(&self.settings()).await
    }

    /// The rows of a statement, by the official connector.
    pub fn ask(&self, statement: &str) -> Vec<Vec<Value>> {
        let mut child = Command::new(&self.python)
            .arg(peer("snowflake_read.py"))
            .args(["127.0.0.1", &self.port.to_string(), "xy12345", "loader"])
            .arg(self.folder.path().join("key.p8"))
            .args([DATABASE, SCHEMA])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(statement.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{statement}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    pub fn one(&self, statement: &str) -> Value {
        self.ask(statement)[0][0].clone()
    }

    /// Makes the next statement that contains this fail.
    pub async fn fault(&self, contains: &str, code: &str) {
        let body = json!({"contains": contains, "code": code, "times": 1});
        let url = format!("http://127.0.0.1:{}/fault", self.port);
        reqwest::Client::new().post(url).json(&body).send().await.unwrap().error_for_status().unwrap();
    }

    pub fn staged_files(&self) -> usize {
        let folder = self.bucket().join(folder("warehouse"));
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    }
}

pub(super) fn now() -> Timestamp {
    Timestamp::from_secs(i64::try_from(jsonwebtoken::get_current_timestamp()).unwrap())
}

pub(super) async fn connected(settings: &Settings) -> Snowflake {
    connected_at(settings, now()).await
}

pub(super) async fn connected_at(settings: &Settings, at: Timestamp) -> Snowflake {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(at));
    connect(settings, "warehouse", &NoSecrets, &clock).await.unwrap()
}

pub(super) fn batch_of(folder: &Path, id: &str, rows: std::ops::Range<u64>) -> StagedBatch {
    staged(folder, id, Change::Add, &all_columns(), rows.map(key_row))
}
