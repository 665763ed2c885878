//! Warehouses that run here, or stand-ins for them, and how a connector is pointed at each.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::buckets::{BUCKET, KEY};
use crate::home::Home;
use crate::peers::{Peer, is_root, missing};

/// A destination of the connector that has its name, up and empty.
pub struct Warehouse {
    pub name: &'static str,
    /// Keys below the connector's with their values in TOML.
    settings: Vec<(String, String)>,
    _peers: Vec<Peer>,
}

impl Warehouse {
    /// Every one whose venv is there; those that are not are said.
    pub fn all(dir: &Path) -> Vec<Self> {
        let made = [Self::postgresql(dir), Self::redshift(dir), Self::bigquery(dir), Self::snowflake(dir)];
        made.into_iter().flatten().collect()
    }

    /// The home with a connector to it, which loads when it is told to, in small batches.
    #[must_use]
    pub fn configure(&self, home: Home) -> Home {
        let of = |key: &str| format!("export.{}.{key}", self.name);
        let home = home.set(&of("schedule"), "\"manual\"").set(&of("batch_bytes"), 65_536);
        self.settings.iter().fold(home, |home, (key, value)| home.set(&of(key), value))
    }

    /// PostgreSQL itself.
    fn postgresql(dir: &Path) -> Option<Self> {
        let python = python("postgresql")?;
        let Some(bin) = postgres_programs() else {
            missing("PostgreSQL's server", "apt-get install postgresql");
            return None;
        };
        let dir = folder(dir, "postgresql");
        std::fs::write(dir.join("password"), "hunter2").unwrap();
        if is_root() {
            finish(Command::new("chown").args(["-R", "nobody"]).arg(&dir));
        }
        let pwfile = format!("--pwfile={}", dir.join("password").display());
        let options =
            ["--username=owner", "--auth=scram-sha-256", "--no-sync", "--locale=C", "--encoding=UTF8"];
        finish(ordinary(&bin.join("initdb")).args(options).args([&pwfile, "-D"]).arg(dir.join("data")));
        let port = free_port();
        let mut command = ordinary(&bin.join("postgres"));
        command.arg("-D").arg(dir.join("data")).args(["-h", "127.0.0.1", "-k", "", "-p", &port.to_string()]);
        let peer = listening(&mut command, port);
        let judge = |sql: &str| {
            let script = script("postgresql_judge.py");
            Command::new(&python)
                .arg(script)
                .args([&port.to_string(), "owner", "hunter2", sql])
                .output()
                .unwrap()
        };
        let begun = Instant::now();
        while !judge("SELECT 1").status.success() {
            assert!(begun.elapsed() < Duration::from_secs(60), "PostgreSQL does not start");
            std::thread::sleep(Duration::from_millis(100));
        }
        for sql in
            ["CREATE ROLE loader LOGIN PASSWORD 'hunter2'", "CREATE SCHEMA sendlake AUTHORIZATION loader"]
        {
            assert!(judge(sql).status.success(), "{sql}");
        }
        let password = dir.parent().unwrap().join("postgresql.password");
        std::fs::write(&password, "hunter2").unwrap();
        let settings = [
            ("host", quoted("127.0.0.1")),
            ("port", port.to_string()),
            ("user", quoted("loader")),
            ("password", quoted(&format!("file:{}", password.display()))),
            ("sslmode", quoted("disable")),
        ];
        Some(Self::new("postgresql", &settings, vec![peer]))
    }

    /// A stand-in for Redshift over the wire, with SeaweedFS for its bucket.
    fn redshift(dir: &Path) -> Option<Self> {
        let python = python("redshift")?;
        let dir = folder(dir, "redshift");
        let (bucket, port) = seaweed(&python.with_file_name("weed"), &dir);
        let endpoint = format!("http://127.0.0.1:{port}");
        finish(
            Command::new(&python).arg(script("bucket.py")).args(["s3-make", &endpoint, KEY.0, KEY.1, BUCKET]),
        );
        let mut command = Command::new(&python);
        command.arg(script("redshift_wire.py")).args([&endpoint, "loader", "hunter2"]);
        command.env("AWS_ACCESS_KEY_ID", KEY.0).env("AWS_SECRET_ACCESS_KEY", KEY.1);
        let (server, ports) = ready(&mut command);
        let wire = ports.split_once(' ').unwrap().0.to_owned();
        std::fs::write(dir.join("password"), "hunter2").unwrap();
        let settings = [
            ("schema", quoted("main")),
            ("bucket", quoted(&format!("s3://{BUCKET}/load"))),
            ("options.endpoint", quoted(&endpoint)),
            ("options.aws_access_key_id", quoted(KEY.0)),
            ("options.aws_secret_access_key", quoted(KEY.1)),
            ("options.aws_region", quoted("us-east-1")),
            ("options.aws_allow_http", quoted("true")),
            ("wire.host", quoted("127.0.0.1")),
            ("wire.port", wire),
            ("wire.user", quoted("loader")),
            ("wire.password", quoted(&format!("file:{}", dir.join("password").display()))),
            ("wire.sslmode", quoted("disable")),
        ];
        Some(Self::new("redshift", &settings, vec![bucket, server]))
    }

    /// A stand-in for BigQuery, by direct upload.
    fn bigquery(dir: &Path) -> Option<Self> {
        let python = python("bigquery")?;
        let home = python.parent().and_then(Path::parent).unwrap().to_owned();
        let port = free_port();
        let mut command = Command::new(&python);
        command
            .arg(script("bigquery.py"))
            .arg(port.to_string())
            .arg(folder(dir, "bigquery"))
            .env("HOME", &home);
        let peer = listening(&mut command, port);
        let endpoint = format!("http://127.0.0.1:{port}");
        let made = Command::new(&python)
            .arg(script("bigquery_ask.py"))
            .args([&endpoint, "acme-data", "make", "email"])
            .env("HOME", &home)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let settings =
            [("project", quoted("acme-data")), ("dataset", quoted("email")), ("endpoint", quoted(&endpoint))];
        Some(Self::new("bigquery", &settings, vec![peer]))
    }

    /// A stand-in for Snowflake, with a folder for the bucket of its external stage.
    fn snowflake(dir: &Path) -> Option<Self> {
        let python = python("fakesnow")?;
        let dir = folder(dir, "snowflake");
        let (key, public, bucket) = (dir.join("key.p8"), dir.join("key.pub"), folder(&dir, "bucket"));
        let openssl = |args: &[&str]| finish(Command::new("openssl").args(args).stderr(Stdio::null()));
        openssl(&[
            "genpkey",
            "-algorithm",
            "RSA",
            "-pkeyopt",
            "rsa_keygen_bits:2048",
            "-out",
            key.to_str().unwrap(),
        ]);
        openssl(&["pkey", "-pubout", "-in", key.to_str().unwrap(), "-out", public.to_str().unwrap()]);
        let port = free_port();
        let mut command = Command::new(&python);
        command.arg(script("snowflake_server.py")).arg(port.to_string());
        command.args(["MAIL", "SENDLAKE", "XY12345", "LOADER"]).arg(&public).env("TMPDIR", &dir);
        let peer = listening(&mut command, port);
        let statement =
            format!("CREATE STAGE MAIL.SENDLAKE.SENDLAKE_STAGE URL = 'file://{}'", bucket.display());
        let mut ask = Command::new(&python)
            .arg(script("snowflake_read.py"))
            .args(["127.0.0.1", &port.to_string(), "xy12345", "loader"])
            .arg(&key)
            .args(["MAIL", "SENDLAKE"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut ask.stdin.take().unwrap(), statement.as_bytes()).unwrap();
        assert!(ask.wait_with_output().unwrap().status.success(), "the stage cannot be made");
        let settings = [
            ("account", quoted("xy12345.eu-central-1")),
            ("user", quoted("loader")),
            ("private_key", quoted(&format!("file:{}", key.display()))),
            ("warehouse", quoted("loader_wh")),
            ("database", quoted("mail")),
            ("schema", quoted("sendlake")),
            ("bucket", quoted(&format!("file://{}", bucket.display()))),
            ("endpoint", quoted(&format!("http://127.0.0.1:{port}"))),
        ];
        Some(Self::new("snowflake", &settings, vec![peer]))
    }

    fn new(name: &'static str, settings: &[(&str, String)], peers: Vec<Peer>) -> Self {
        let settings = settings.iter().map(|(key, value)| (format!("{name}.{key}"), value.clone())).collect();
        Self { name, settings, _peers: peers }
    }
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn folder(dir: &Path, name: &str) -> PathBuf {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The Python of a venv that `make test` makes for one stand-in.
fn python(name: &str) -> Option<PathBuf> {
    let venvs = std::env::var_os("SENDLAKE_TEST_VENVS").map(PathBuf::from);
    let found = venvs.map(|venvs| venvs.join(name).join("bin/python")).filter(|python| python.exists());
    if found.is_none() {
        missing(&format!("the venv {name:?} in SENDLAKE_TEST_VENVS"), "run `make test`, which makes it");
    }
    found
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}

fn free_port() -> u16 {
    crate::peers::free_port()
}

/// As a user that a database server agrees to run as.
fn ordinary(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
    command
}

fn postgres_programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin"));
    found.into_iter().find(|bin| bin.join("initdb").exists() && bin.join("postgres").exists())
}

fn finish(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn listening(command: &mut Command, port: u16) -> Peer {
    let peer = Peer::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    let begun = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(90), "{command:?} does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    peer
}

/// Starts it and returns its first line, which it writes when it can be used.
fn ready(command: &mut Command) -> (Peer, String) {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert!(!line.is_empty(), "{command:?} ended before it was ready");
    (child.into(), line.trim().to_owned())
}

fn seaweed(weed: &Path, dir: &Path) -> (Peer, u16) {
    let ports: Vec<u16> = (0..10).map(|_| free_port()).collect();
    let names = [
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "s3.port",
        "s3.port.grpc",
        "admin.port",
        "admin.port.grpc",
    ];
    let mut command = Command::new(weed);
    command
        .args(["mini", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false"])
        .args(["-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.autoCreateBucket=false"])
        .arg(format!("-dir={}", folder(dir, "weed").display()))
        .args(names.iter().zip(&ports).map(|(name, port)| format!("-{name}={port}")))
        .env("AWS_ACCESS_KEY_ID", KEY.0)
        .env("AWS_SECRET_ACCESS_KEY", KEY.1);
    (listening(&mut command, ports[6]), ports[6])
}
