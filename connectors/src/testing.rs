//! What tests of destinations share: staged files made from a closure per row, and stand-ins that end with their test.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::json::ReaderBuilder;
use async_trait::async_trait;
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use crate::batch::Change;
use crate::mapping::Mapping;
use crate::target::{JobLog, StagedBatch, TargetError};

/// Rows of key columns alone, for event `n`: `event_id` is `e<n>`, one per second from the epoch plus 20,000 days, of the
/// second spool where `n` is odd.
pub fn key_row(n: u64) -> Value {
    let at = 20_000 * 86_400 + n;
    json!({
        "event_id": format!("e{n}"),
        "event_type": "delivered",
        "occurred_at": instant(at),
        "recorded_at": instant(at + 1),
        "event_date": instant(at)[..10].to_owned(),
        "tenant_id": format!("t{}", n % 3),
        "incarnation": uuid::Uuid::from_u128(1 + u128::from(n % 2)).to_string(),
        "lsn": n + 1,
    })
}

fn instant(seconds: u64) -> String {
    let at = sendlake_control::clock::Timestamp::from_secs(i64::try_from(seconds).unwrap());
    at.to_string()
}

/// A staged file in `folder` with `rows`, one JSON object each by column name; columns that are not nullable and not
/// given get an empty text, 0 or false. `days` are those of the rows.
pub fn staged(
    folder: &Path,
    batch_id: &str,
    change: Change,
    mapping: &Arc<Mapping>,
    rows: impl IntoIterator<Item = Value>,
) -> StagedBatch {
    let shape = if change == Change::Delete { mapping.keys() } else { (**mapping).clone() };
    let schema = shape.arrow_schema();
    let file = folder.join(format!("{batch_id}-{}.parquet", change.as_str()));
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).unwrap()))
        .set_max_row_group_row_count(Some(50_000))
        .build();
    let mut writer =
        ArrowWriter::try_new(File::create(&file).unwrap(), schema.clone(), Some(properties)).unwrap();
    let (mut count, mut first, mut last) = (0, String::from("9999"), String::new());
    let mut rows = rows.into_iter().peekable();
    while rows.peek().is_some() {
        let mut part: Vec<Value> = rows.by_ref().take(8_192).collect();
        for row in &mut part {
            let day = row["event_date"].as_str().unwrap().to_owned();
            first = first.min(day.clone());
            last = last.max(day);
            fill(row, &shape);
        }
        count += part.len() as u64;
        let mut decoder = ReaderBuilder::new(schema.clone()).with_batch_size(8_192).build_decoder().unwrap();
        decoder.serialize(&part).unwrap();
        let batch = decoder.flush().unwrap().unwrap();
        let columns: Vec<ArrayRef> = batch.columns().to_vec();
        writer.write(&RecordBatch::try_new(schema.clone(), columns).unwrap()).unwrap();
    }
    writer.close().unwrap();
    StagedBatch {
        connector: "warehouse".to_owned(),
        batch_id: batch_id.to_owned(),
        change,
        attempt: 1,
        job_id: None,
        bytes: std::fs::metadata(&file).unwrap().len(),
        file,
        rows: count,
        days: (first, last),
        mapping: mapping.clone(),
    }
}

fn fill(row: &mut Value, shape: &Mapping) {
    use crate::mapping::Kind;
    let row = row.as_object_mut().unwrap();
    row.retain(|name, _| shape.names().any(|column| column == name));
    let missing: Vec<_> =
        shape.columns.iter().filter(|column| !column.nullable && !row.contains_key(&column.name)).collect();
    for column in missing {
        let value = match column.kind {
            Kind::Text => json!(""),
            Kind::Json => json!("{}"),
            Kind::Integer | Kind::BigInt => json!(0),
            Kind::Boolean => json!(false),
            Kind::Timestamp => json!("1970-01-01T00:00:00Z"),
            Kind::Date => json!("1970-01-01"),
        };
        row.insert(column.name.clone(), value);
    }
}

/// Remembers the jobs that it was told of.
#[derive(Default)]
pub struct Jobs(pub Mutex<Vec<String>>);

#[async_trait]
impl JobLog for Jobs {
    async fn submitting(&self, job_id: &str) -> Result<(), TargetError> {
        self.0.lock().push(job_id.to_owned());
        Ok(())
    }
}

/// The Python of the venv `name`, which `make test` makes; without it, says so in one line.
pub fn python(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("SENDLAKE_TEST_VENVS")
        .map(|folder| PathBuf::from(folder).join(name).join("bin/python"));
    match found.filter(|python| python.exists()) {
        Some(python) => Some(python),
        None => {
            println!("left out: no venv {name:?} in SENDLAKE_TEST_VENVS; `make test` makes it");
            None
        }
    }
}

/// A helper program of `tests/peers`.
pub fn peer(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/peers").join(name)
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A program that ends when this is dropped.
pub struct Running(Child);

impl Running {
    /// Starts `command` and waits for its first line, which it writes when it can be used.
    pub fn until_ready(mut command: Command) -> (Self, String) {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let running = Self(child);
        assert!(!line.is_empty(), "{command:?} ended before it was ready");
        (running, line.trim().to_owned())
    }

    /// Starts `command` and waits until something listens on `port`.
    pub fn until_listening(mut command: Command, port: u16) -> Self {
        let running = Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        let begun = std::time::Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed().as_secs() < 60, "{command:?} does not listen on {port}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Forwards to `to` on this machine. The first connection that sends `needle` is cut when the answer to it comes, which
/// nobody gets; all others are left alone. Returns the port that it listens on.
pub fn lose_answer(to: u16, needle: &'static str) -> u16 {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpStream};
    use std::sync::atomic::{AtomicBool, Ordering};

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let armed = Arc::new(AtomicBool::new(true));
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { return };
            let cut = Arc::new(AtomicBool::new(false));
            let (mut from, mut into) = (near.try_clone().unwrap(), far.try_clone().unwrap());
            let (armed, cutting) = (armed.clone(), cut.clone());
            std::thread::spawn(move || {
                let (mut buffer, mut seen) = ([0; 16_384], Vec::new());
                while let Ok(read @ 1..) = from.read(&mut buffer) {
                    seen.extend_from_slice(&buffer[..read]);
                    if seen.windows(needle.len()).any(|window| window == needle.as_bytes())
                        && armed.swap(false, Ordering::SeqCst)
                    {
                        cutting.store(true, Ordering::SeqCst);
                    }
                    seen.drain(..seen.len().saturating_sub(needle.len()));
                    if into.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                let _ = into.shutdown(Shutdown::Write);
            });
            let (mut from, mut into) = (far, near);
            std::thread::spawn(move || {
                let mut buffer = [0; 16_384];
                while let Ok(read @ 1..) = from.read(&mut buffer) {
                    if cut.load(Ordering::SeqCst) || into.write_all(&buffer[..read]).is_err() {
                        break;
                    }
                }
                let _ = from.shutdown(Shutdown::Both);
                let _ = into.shutdown(Shutdown::Both);
            });
        }
    });
    port
}

/// What a program prints, as JSON.
pub fn told(command: &mut Command) -> Value {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The peak of this process's resident memory so far, in MiB.
pub fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1_024
}

/// What a tally must say of events `events` of [`key_row`], each once.
pub fn tallied(events: impl IntoIterator<Item = u64>) -> Vec<crate::target::HourTally> {
    let mut hours: std::collections::BTreeMap<i64, (u64, u64)> = std::collections::BTreeMap::new();
    for n in events {
        let at = 20_000 * 86_400 + i64::try_from(n).unwrap();
        let (rows, sum) = hours.entry(at - at % 3_600).or_default();
        (*rows, *sum) = (*rows + 1, *sum + n + 1);
    }
    hours
        .into_iter()
        .map(|(hour, (rows, lsn_sum))| crate::target::HourTally {
            hour: sendlake_control::clock::Timestamp::from_secs(hour),
            rows,
            events: rows,
            lsn_sum,
        })
        .collect()
}

/// Bounds around all events of [`key_row`].
pub fn all_bounds() -> crate::target::Bounds {
    use sendlake_control::clock::Timestamp;
    crate::target::Bounds {
        from: Timestamp::from_secs(20_000 * 86_400),
        to: Timestamp::from_secs(20_100 * 86_400),
        positions: [1, 2].map(|spool| (uuid::Uuid::from_u128(spool), u64::MAX)).into(),
    }
}

/// All columns of `events`.
pub fn all_columns() -> Arc<Mapping> {
    Arc::new(Mapping::of_events(&[], &[], &Default::default()).unwrap())
}

/// The key columns and `names`.
pub fn columns(names: &[&str]) -> Arc<Mapping> {
    let names: Vec<String> =
        names.iter().chain(&crate::mapping::KEY_COLUMNS).map(|name| (*name).to_owned()).collect();
    Arc::new(Mapping::of_events(&names, &[], &Default::default()).unwrap())
}

/// What every destination must hold: batches that overlap, twice each, a replacement, a deletion, in the order given, end
/// in each event once. The table of `target` is new. Events 0 to 399, without 100 to 149, are there at its end.
pub async fn loads_each_event_once(target: &dyn crate::target::Target, folder: &Path) {
    let mapping = all_columns();
    assert!(!target.prepare(&mapping).await.unwrap().is_empty());
    assert_eq!(target.prepare(&mapping).await.unwrap(), Vec::<String>::new());
    let batches = [
        staged(folder, "aa01", Change::Add, &mapping, (0..200).map(key_row)),
        staged(folder, "aa02", Change::Add, &mapping, (150..300).map(key_row)),
        staged(folder, "aa03", Change::Add, &mapping, (0..400).map(key_row)),
    ];
    let log = Jobs::default();
    let mut rows = Vec::new();
    for batch in &batches {
        rows.push(target.load(batch, &log).await.unwrap().rows);
        target.load(batch, &log).await.unwrap();
    }
    assert!(
        rows.iter().zip([200, 100, 100]).all(|(told, real)| told.is_none_or(|told| told == real)),
        "{rows:?}"
    );
    assert_eq!(target.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..400));

    let corrected = (90..110).map(|n| {
        let mut row = key_row(n);
        row["recipient"] = json!("removed");
        row["recipient_domain"] = json!(null);
        row
    });
    let replaced = staged(folder, "bb01", Change::Replace, &mapping, corrected);
    target.load(&replaced, &log).await.unwrap();
    assert_eq!(target.tally(&mapping, &all_bounds()).await.unwrap(), tallied(0..400));
    let deleted = staged(folder, "cc01", Change::Delete, &mapping, (100..150).map(key_row));
    target.load(&deleted, &log).await.unwrap();
    // What was loaded before stays as it is, though it is asked for again: the deleted events do not come back.
    for batch in batches.iter().chain([&replaced, &deleted]) {
        target.load(batch, &log).await.unwrap();
    }
    let left = (0..100).chain(150..400);
    assert_eq!(target.tally(&mapping, &all_bounds()).await.unwrap(), tallied(left));

    // Of one spool, up to a position.
    let mut bounds = all_bounds();
    bounds.positions = [(uuid::Uuid::from_u128(1), 51)].into();
    assert_eq!(target.tally(&mapping, &bounds).await.unwrap(), tallied((0..=50).filter(|n| n % 2 == 0)));
    bounds.positions.clear();
    assert_eq!(target.tally(&mapping, &bounds).await.unwrap(), Vec::new());
}
