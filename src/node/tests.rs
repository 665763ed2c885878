//! A node's spool, lake and SQL together: fresh, through outages, and beside copies of itself.

mod copies;
mod fresh;
mod outage;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sendlake_control::clock::{ManualClock, SeededEntropy, Timestamp};
use sendlake_control::id::{Ids, TenantId};
use sendlake_ingest::event::{Event, EventType};
use sendlake_ingest::outbox::Outbox;
use sendlake_ingest::table::EventsTable;
use sendlake_ingest::writer::{LakeHandle, LakeWriter, LakeWriterError, LakeWriterSettings};
use sendlake_query::output::{self, Format};
use sendlake_query::{QueryError, Scope};
use sendlake_sender::spool::SpoolError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Expected, Node};
use crate::config::Config;

const START: Timestamp = Timestamp(1_772_323_200_000_000);

fn config(data: &Path, lake: &Path) -> Config {
    let mut config = Config::default();
    config.storage.dir = data.to_owned();
    config.storage.lake_url = lake.to_string_lossy().into_owned();
    config.spool.free_space_floor_bytes = 1 << 20;
    config
}

fn ids(seed: u64) -> (Arc<ManualClock>, Ids) {
    let clock = Arc::new(ManualClock::new(START));
    (clock.clone(), Ids { clock, entropy: Arc::new(SeededEntropy::new(seed)) })
}

fn acme() -> TenantId {
    TenantId::new("acme").unwrap()
}

/// A node that was dropped keeps its store for as long as a thread of it still reads there.
async fn opened(config: Config, ids: &Ids) -> Node {
    opened_with(config, ids, Expected::OurLake).await.unwrap()
}

async fn opened_with(config: Config, ids: &Ids, expected: Expected) -> anyhow::Result<Node> {
    for _ in 0..500 {
        match Node::open_with(config.clone(), ids.clone(), expected).await {
            Err(error) if matches!(error.downcast_ref(), Some(SpoolError::InUse(_))) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            node => return node,
        }
    }
    panic!("the store stays in use");
}

async fn with_tenant(node: Node) -> Node {
    node.control.create_tenant("test", &acme(), "Acme").await.unwrap();
    node
}

/// Events as wide as those of a delivery.
fn deliveries(ids: &Ids, count: usize) -> Vec<Event> {
    let delivery = |number: usize| {
        let mut event = Event::new(ids.uuid(), EventType::Delivered, ids.now(), acme());
        let id = ids.uuid();
        event.message_id = Some(id.to_string());
        event.submission_id = Some(id.to_string());
        event.seq = Some(2);
        event.stream = Some("marketing".into());
        event.campaign_id = Some("spring".into());
        event.size_bytes = Some(8_000 + number as i64 % 900);
        event.recipient = Some(format!("person{}@mail{}.example", number * 7_919, number % 50));
        event.recipient_domain = Some(format!("mail{}.example", number % 50));
        event.provider = Some(["google", "microsoft", "yahoo"][number % 3].into());
        event.header_from_domain = Some("acme.example".into());
        event.mail_from_domain = Some("bounces.acme.example".into());
        event.dkim_domain = Some("acme.example".into());
        event.dkim_selector = Some("s1".into());
        event.ip_pool = Some("marketing".into());
        event.source_ip = Some("192.0.2.10".into());
        event.attempt = Some(1);
        event.session_id = Some(format!("session-{}", number / 100));
        event.mx_host = Some(format!("mx.mail{}.example", number % 50));
        event.tls_version = Some("TLSv1.3".into());
        event.smtp_command = Some("DOT".into());
        event.reply_code = Some(250);
        event.reply_text = Some(format!("250 2.0.0 OK {number:x} - queued"));
        event.attempt_ms = Some(number as i64 % 400);
        event
    };
    (0..count).map(delivery).collect()
}

/// The node's writer, by itself.
struct Writer {
    handle: LakeHandle,
    stop: CancellationToken,
    task: JoinHandle<Result<(), LakeWriterError>>,
}

impl Writer {
    fn start(node: &Node, settings: LakeWriterSettings) -> Self {
        let outbox: Arc<dyn Outbox> = node.spool.clone();
        let (writer, handle) = LakeWriter::new(outbox, node.lake.clone(), node.ids.clock.clone(), settings);
        let stop = CancellationToken::new();
        let task = tokio::spawn(writer.run(stop.clone()));
        Self { handle, stop, task }
    }

    async fn stop(self) -> Result<(), LakeWriterError> {
        self.stop.cancel();
        self.task.await.unwrap()
    }
}

/// The first row, by the names of its columns.
async fn ask(node: &Node, sql: &str) -> Result<serde_json::Value, QueryError> {
    let output = node.engine.query(&Scope::AllTenants, sql, node.engine.limits().query).await?;
    let json = output::to_bytes(&output, Format::Json).unwrap();
    Ok(serde_json::from_slice::<serde_json::Value>(&json).unwrap()["rows"][0].clone())
}

async fn count(node: &Node) -> u64 {
    ask(node, "SELECT count(*) AS events FROM events").await.unwrap()["events"].as_u64().unwrap()
}

/// How many events there are, and how many different ones.
async fn total(node: &Node) -> (u64, u64) {
    let sql = "SELECT count(*) AS events, count(DISTINCT event_id) AS ids FROM events";
    let row = ask(node, sql).await.unwrap();
    (row["events"].as_u64().unwrap(), row["ids"].as_u64().unwrap())
}

/// A lake's folder that comes and goes, as a bucket behind a network does.
struct Away<'a>(&'a Path);

impl Away<'_> {
    fn leave(&self) {
        std::fs::rename(self.0, self.0.with_extension("away")).unwrap();
        std::fs::write(self.0, b"no folder").unwrap();
    }

    fn come_back(&self) {
        std::fs::remove_file(self.0).unwrap();
        std::fs::rename(self.0.with_extension("away"), self.0).unwrap();
    }
}

async fn committed(node: &Node) -> u64 {
    let table: &EventsTable = &node.lake;
    table.committed_lsn(node.spool.incarnation()).await.unwrap()
}
