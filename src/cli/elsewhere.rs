//! `sendlake ingest --from SENDER PATH…`: another sender's logs or stored events, into the lake beside our own.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use sendlake_control::ControlStore;
use sendlake_control::id::TenantId;
use sendlake_ingest::calibration::Exporter;
use sendlake_ingest::event::Event;
use sendlake_ingest::foreign::read::{Fault, Reading, Tally, files, open};
use sendlake_ingest::foreign::{Setting, Source, UnknownSource};
use sendlake_sender::provider::provider_of;
use sendlake_sender::stream::Stream;
use serde::Serialize;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::control::actor;
use super::suppression::told;
use super::{CommandResult, Failure, Format, rows, stream, tenant_id};
use crate::config::Config;
use crate::hear::elsewhere::{Batch, Taken};
use crate::node::{OPERATOR_HEADER, call_running, is_running};
use crate::{stores, system};

/// Events handed to the server at once.
const BATCH_EVENTS: usize = 10_000;
/// Batches that are ready while one is on its way.
const BATCHES_READY: usize = 2;
/// Ids that a dry run remembers, to tell what comes twice.
const IDS_MAX: usize = 4_000_000;
/// How often a batch is offered while the server cannot take it.
const TRIES_MAX: u32 = 10;
const PAUSE: Duration = Duration::from_secs(3);

#[derive(Args, Debug)]
pub(crate) struct ElsewhereArgs {
    /// Take something else than mail: logs or stored events of another sender (kumomta, powermta, postfix, ses, sendgrid,
    /// mailgun, postmark, sparkpost; they need --tenant), or figures that a provider exports (google-postmaster, snds). PATH
    /// may then be a folder, and be compressed with gzip or Zstandard.
    #[arg(long, value_name = "SENDER")]
    pub(crate) from: Option<Origin>,
    /// Whose mail it was; of figures, whose addresses they are about.
    #[arg(long, value_parser = tenant_id, requires = "from")]
    pub(super) tenant: Option<TenantId>,
    /// transactional, marketing or cold, where the records do not tell.
    #[arg(long, value_parser = stream, requires = "from")]
    pub(super) stream: Option<Stream>,
    /// The sending domain, where the records do not tell.
    #[arg(long, requires = "from", value_name = "DOMAIN")]
    pub(super) domain: Option<String>,
    /// What local times in the log are ahead of UTC, such as +01:00.
    #[arg(long, requires = "from", value_name = "OFFSET", value_parser = offset, default_value = "+00:00", allow_hyphen_values = true)]
    pub(super) utc_offset: i32,
    /// Bring into force what hard bounces, complaints and unsubscribes call for.
    #[arg(long, requires = "from")]
    pub(super) suppress: bool,
    /// Only read and count; no server is needed.
    #[arg(long, requires = "from")]
    pub(super) dry_run: bool,
}

/// What `--from` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Another sender, of events.
    Sender(Source),
    /// A provider, of its own figures.
    Figures(Exporter),
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let figures = text.parse().map(Origin::Figures);
        let unknown =
            |error: UnknownSource| format!("{error}; and figures come from google-postmaster, snds");
        figures.or_else(|_| text.parse().map(Origin::Sender).map_err(unknown))
    }
}

/// `+01:00` in seconds.
fn offset(text: &str) -> Result<i32, String> {
    let wrong = || "an offset looks like +01:00 or -05:30".to_owned();
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (hours, minutes) = rest.split_once(':').ok_or_else(wrong)?;
    let (hours, minutes): (i32, i32) =
        (hours.parse().map_err(|_| wrong())?, minutes.parse().map_err(|_| wrong())?);
    let fits = (0..=14).contains(&hours) && (0..60).contains(&minutes);
    if fits { Ok(sign * (hours * 3_600 + minutes * 60)) } else { Err(wrong()) }
}

/// What was read, and what became of it: `read = mapped + repeated + unmapped + bad`.
#[derive(Serialize)]
struct Row {
    from: &'static str,
    files: u64,
    read: u64,
    /// In a dry run what would be logged, as far as the files alone tell.
    mapped: u64,
    repeated: u64,
    unmapped: u64,
    bad: u64,
    event_types: BTreeMap<&'static str, u64>,
    unmapped_kinds: BTreeMap<String, u64>,
    faults: Vec<Fault>,
}

const COLUMNS: [&str; 7] = ["from", "files", "read", "mapped", "repeated", "unmapped", "bad"];

pub(crate) async fn run(
    config: &Config,
    source: Source,
    paths: Vec<PathBuf>,
    args: ElsewhereArgs,
    format: Format,
) -> CommandResult {
    let Some(tenant_id) = args.tenant else {
        return Err(Failure::Usage(anyhow::anyhow!("--from needs --tenant: whose mail it was")));
    };
    if !args.dry_run && !is_running(config).await {
        return Err(Failure::Unreachable(format!(
            "no server runs on {}: events of other senders go into the lake through it; start `sendlake serve`, or count \
             with --dry-run",
            config.storage.dir.display()
        )));
    }
    let domain = args.domain.map(|domain| domain.trim().to_lowercase()).filter(|domain| !domain.is_empty());
    if let Some(domain) = &domain {
        match stores::read_control(config, &system::ids()).await {
            Ok(control) => belongs(&control, domain, &tenant_id).await?,
            // counting needs no store
            Err(_) if args.dry_run => {}
            Err(error) => return Err(error.into()),
        }
    }
    let setting = Setting {
        source,
        tenant_id: tenant_id.clone(),
        stream: args.stream.map(|stream| stream.as_str().to_owned()),
        domain,
        utc_offset_s: args.utc_offset,
        provider_of,
        now: system::ids().now(),
    };
    let (batches, ready) = mpsc::channel(BATCHES_READY);
    let reading = tokio::task::spawn_blocking(move || read(setting, &paths, &batches));
    let sent =
        if args.dry_run { count(ready).await } else { send(config, &tenant_id, args.suppress, ready).await };
    // a reader whose batches nobody takes ends by itself
    let tally = reading.await.map_err(anyhow::Error::from)??;
    let repeated = sent?;
    tell(source, tally, repeated, format)
}

/// Refuses a domain that another tenant sends as; one that nobody here sends as was sent from elsewhere only.
async fn belongs(control: &ControlStore, domain: &str, tenant: &TenantId) -> CommandResult {
    match control.domain(domain).await.map_err(anyhow::Error::from)? {
        Some(found) if found.tenant_id != *tenant => Err(Failure::Refused(format!(
            "{domain} is a sending domain of another tenant than {tenant}; `sendlake domain ls` lists them"
        ))),
        _ => Ok(()),
    }
}

/// Reads everything into batches, until nobody takes them.
fn read(setting: Setting, paths: &[PathBuf], batches: &mpsc::Sender<Vec<Event>>) -> anyhow::Result<Tally> {
    let mut reading = Reading::new(setting);
    let mut batch = Vec::with_capacity(BATCH_EVENTS);
    for file in files(paths)? {
        let input = open(&file)?;
        let goes_on = reading.read(&file.name(), input, &mut |event| {
            batch.push(event);
            batch.len() < BATCH_EVENTS || batches.blocking_send(std::mem::take(&mut batch)).is_ok()
        });
        if !goes_on {
            break;
        }
    }
    if !batch.is_empty() {
        // whoever takes them tells why they stopped
        let _ = batches.blocking_send(batch);
    }
    Ok(reading.tally)
}

/// Hands batches to the server. Returns how many events it knew.
async fn send(
    config: &Config,
    tenant_id: &TenantId,
    suppress: bool,
    mut ready: mpsc::Receiver<Vec<Event>>,
) -> Result<u64, Failure> {
    let mut repeated = 0;
    while let Some(events) = ready.recv().await {
        let batch = Batch { tenant_id: tenant_id.clone(), suppress, events };
        let body = serde_json::to_vec(&batch).map_err(anyhow::Error::from)?;
        let taken = offer(config, body.into()).await?;
        repeated += taken.repeated;
    }
    Ok(repeated)
}

/// Offers a batch, again while the server is away or cannot take it: what of it was taken is known there.
async fn offer(config: &Config, body: bytes::Bytes) -> Result<Taken, Failure> {
    let mut tries = 1;
    loop {
        let request = axum::http::Request::post("/local/elsewhere")
            .header("content-type", "application/json")
            .header(OPERATOR_HEADER, actor())
            .body(body.clone().into())
            .map_err(anyhow::Error::from)?;
        let answer = match call_running(config, request).await {
            Some(answer) => told(answer),
            None => Err(Failure::Unreachable(
                "the server has gone; start it and run the command again: what was taken is known".into(),
            )),
        };
        match answer {
            Ok(answer) => return Ok(serde_json::from_value(answer).map_err(anyhow::Error::from)?),
            Err(Failure::Unreachable(_)) if tries < TRIES_MAX => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// How many events of a dry run came twice within it.
async fn count(mut ready: mpsc::Receiver<Vec<Event>>) -> Result<u64, Failure> {
    let mut seen: HashSet<Uuid> = HashSet::new();
    let mut repeated = 0;
    while let Some(events) = ready.recv().await {
        for event in events {
            if seen.contains(&event.event_id) {
                repeated += 1;
            } else if seen.len() < IDS_MAX {
                seen.insert(event.event_id);
            }
        }
    }
    Ok(repeated)
}

#[expect(clippy::print_stderr, reason = "what was not mapped, beside the counts")]
fn tell(source: Source, tally: Tally, repeated: u64, format: Format) -> CommandResult {
    let row = Row {
        from: source.as_str(),
        files: tally.files,
        read: tally.read,
        mapped: tally.mapped.saturating_sub(repeated),
        repeated,
        unmapped: tally.unmapped,
        bad: tally.bad,
        event_types: tally.event_types,
        unmapped_kinds: tally.unmapped_kinds,
        faults: tally.faults,
    };
    let is_nothing = row.read > 0 && row.bad == row.read;
    if format != Format::Json {
        for (kind, records) in &row.unmapped_kinds {
            eprintln!("unmapped: {records} × {kind}");
        }
        for fault in &row.faults {
            eprintln!("bad: {}:{}: {}", fault.file, fault.line, fault.why);
        }
        let untold = row.bad.saturating_sub(row.faults.len() as u64);
        if untold > 0 {
            eprintln!("bad: {untold} more");
        }
    }
    rows::print(&[row], &COLUMNS, format)?;
    if is_nothing {
        return Err(Failure::Refused(format!("none of it is a record of {source}; is --from right?")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sendlake_control::domain::DomainOptions;
    use sendlake_control::secret::MasterKey;

    use super::*;

    #[tokio::test]
    async fn another_tenants_domain_is_refused() {
        let (dir, ids) = (tempfile::tempdir().unwrap(), system::ids());
        let master = MasterKey::load_or_create(&dir.path().join("key"), ids.entropy.as_ref()).unwrap();
        let store = ControlStore::open(&dir.path().join("control.db"), master, ids.clone()).await.unwrap();
        let [acme, bolt] = ["acme", "bolt"].map(|name| TenantId::new(name).unwrap());
        store.create_tenant("cli", &bolt, "Bolt").await.unwrap();
        let options = DomainOptions { bounce_domain: None, selector: None, warm: false };
        store.add_domain("cli", &bolt, "bolt.example", options).await.unwrap();
        assert!(belongs(&store, "bolt.example", &bolt).await.is_ok());
        assert!(belongs(&store, "else.example", &acme).await.is_ok(), "sent from elsewhere only");
        let refused = belongs(&store, "bolt.example", &acme).await.unwrap_err();
        assert!(
            matches!(&refused, Failure::Refused(why) if why.contains("another tenant than acme")),
            "{refused}"
        );
    }

    #[test]
    fn offsets_are_those_of_clocks() {
        for (text, seconds) in [("+00:00", 0), ("+01:00", 3_600), ("-05:30", -19_800), ("14:00", 50_400)] {
            assert_eq!(offset(text).unwrap(), seconds, "{text}");
        }
        for text in ["", "1", "+15:00", "+01:60", "CET", "--1:00"] {
            assert!(offset(text).is_err(), "{text}");
        }
    }
}
