//! The Delta log, read entry by entry: whether it is whole, and what its entries say that a table's state does not
//! show: every spool's transactions, files that were replaced, statistics.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type};
use deltalake::kernel::{Action, Add};
use deltalake::logstore::{LogStoreRef, get_actions};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::Depth;
use super::finding::{EXAMPLES_MAX, Finding, some};
use crate::table::EventsTable;
use crate::table::layout::may_be_indexed;

/// Log entries read at the same time.
const READS_MAX: usize = 16;

/// What lies in `_delta_log/`.
#[derive(Debug, Default)]
pub(super) struct LogFolder {
    commits: BTreeSet<u64>,
    /// Entries without an octet: no writer leaves one, a full disk or a copy that was cut short does.
    empty: BTreeSet<u64>,
    /// Complete checkpoints in one file, the only kind that is written here.
    checkpoints: BTreeMap<u64, Path>,
}

/// What the entries say.
#[derive(Debug, Default)]
pub(super) struct LogSays {
    /// The newest version of each Delta application: of spools (their LSN), and of what was removed of them.
    pub txns: HashMap<String, i64>,
    /// Files that an entry replaced.
    pub replaced: HashSet<String>,
}

impl LogFolder {
    /// Sorts out the log's objects among those of a table.
    pub fn of(objects: &[ObjectMeta]) -> Self {
        let mut folder = Self::default();
        for object in objects {
            let Some(name) = object.location.as_ref().strip_prefix("_delta_log/") else { continue };
            let Some((version, kind)) = name.split_once('.') else { continue };
            let Ok(number) = version.parse::<u64>() else { continue };
            match kind {
                "json" if version.len() == 20 => {
                    folder.commits.insert(number);
                    if object.size == 0 {
                        folder.empty.insert(number);
                    }
                }
                "checkpoint.parquet" => drop(folder.checkpoints.insert(number, object.location.clone())),
                _ => {}
            }
        }
        folder
    }

    pub fn newest(&self) -> Option<u64> {
        self.commits.last().copied().max(self.checkpoints.keys().next_back().copied())
    }

    /// Versions that are missing between what the newest checkpoint holds (or the start) and the newest entry.
    pub fn holes(&self) -> Vec<u64> {
        let Some(newest) = self.newest() else { return Vec::new() };
        let first = self.checkpoints.keys().next_back().map_or(0, |version| version + 1);
        (first..=newest).filter(|version| !self.commits.contains(version)).collect()
    }

    /// Tells of holes, and of what follows.
    pub fn check(&self, place: &str, findings: &mut Vec<Finding>) {
        findings.extend(self.empty.iter().map(|version| {
            Finding::error(
                "log",
                format!("{place}_delta_log/{version:020}.json"),
                "the entry is empty".to_owned(),
                "stop the servers that write here, and restore it from a backup or from the bucket's older versions; what \
                 it said is not known otherwise, and nothing should be vacuumed before",
            )
        }));
        let holes = self.holes();
        let Some(first) = holes.first() else { return };
        let missing: Vec<String> = holes.iter().take(EXAMPLES_MAX).map(u64::to_string).collect();
        let newest = self.newest().unwrap_or(0);
        findings.push(Finding::error(
            "log",
            format!("{place}_delta_log/{first:020}.json"),
            format!(
                "the log has a hole: of versions up to {newest}, {} missing ({})",
                if holes.len() == 1 { "one is".to_owned() } else { format!("{} are", holes.len()) },
                some(&missing, holes.len() as u64)
            ),
            "stop the servers that write here, and restore the missing entries from a backup or from the bucket's \
             older versions; no reader can open the table without them, and the Parquet files named there are safe \
             as long as nothing is vacuumed",
        ));
    }

    /// Reads the newest checkpoint and the entries after it, through `version`; in depth also those before.
    pub async fn read(
        &self,
        log_store: &LogStoreRef,
        version: u64,
        depth: Depth,
        findings: &mut Vec<Finding>,
    ) -> LogSays {
        let mut says = LogSays::default();
        let place = log_store.root_url().as_str().to_owned();
        let is_events = place.ends_with(&format!("/{}/", EventsTable::NAME));
        let checkpoint = self.checkpoints.range(..=version).next_back();
        if let Some((number, path)) = checkpoint
            && let Err(problem) =
                read_checkpoint(log_store, path, is_events.then_some(findings), &mut says).await
        {
            findings.push(Finding::error(
                "log",
                format!("{place}_delta_log/{number:020}.checkpoint.parquet"),
                format!("the checkpoint cannot be read: {problem}"),
                "if every entry from version 0 on is still there, move the checkpoint and _last_checkpoint away; \
                 otherwise restore it from a backup or from the bucket's older versions",
            ));
        }
        let after = checkpoint.map_or(0, |(number, _)| number + 1);
        let first = if depth == Depth::Whole { 0 } else { after };
        let mut entries = stream::iter(self.commits.range(first..=version).copied())
            .map(async |number| (number, log_store.read_commit_entry(number).await))
            .buffered(READS_MAX);
        let mut leaks = Leaks::default();
        while let Some((number, entry)) = entries.next().await {
            let actions = match entry {
                Ok(Some(bytes)) => get_actions(number, &bytes),
                // Cleaned up since the listing: what it said is in a checkpoint.
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match actions {
                Ok(actions) => {
                    for action in actions {
                        match action {
                            Action::Txn(txn) if number >= after => {
                                says.txns.insert(txn.app_id, txn.version);
                            }
                            Action::Add(add) if is_events => leaks.look(&add, number),
                            Action::Remove(remove) => drop(says.replaced.insert(remove.path)),
                            _ => {}
                        }
                    }
                }
                Err(error) => findings.push(Finding::error(
                    "log",
                    format!("{place}_delta_log/{number:020}.json"),
                    format!("this entry of the log cannot be read: {error}"),
                    "restore it from a backup or from the bucket's older versions; until then no reader can open \
                     the table past the version before it",
                )),
            }
        }
        leaks.tell(&place, findings);
        says
    }
}

/// Columns that the log keeps minima or maxima of and must not.
#[derive(Default)]
struct Leaks(BTreeMap<String, u64>);

impl Leaks {
    fn look(&mut self, add: &Add, number: u64) {
        for column in add.stats.as_deref().map(indexed_columns).unwrap_or_default() {
            if !may_be_indexed(&column) {
                self.0.entry(column).or_insert(number);
            }
        }
    }

    fn tell(self, place: &str, findings: &mut Vec<Finding>) {
        for (column, number) in self.0 {
            findings.push(leak(format!("{place}_delta_log/{number:020}.json"), &column, "the log"));
        }
    }
}

pub(super) fn leak(place: String, column: &str, keeper: &str) -> Finding {
    Finding::error(
        "statistics",
        place,
        format!(
            "{keeper} keeps values of column {column}, which may be an address: it would outlive an erasure"
        ),
        "find out who wrote it (commitInfo in the log names the engine): write to this table with sendlake alone. \
         `sendlake lake erase` and `lake compact` write such files anew, and expire the log behind them",
    )
}

/// Names of the columns with minima or maxima in an `add` action's statistics.
fn indexed_columns(stats: &str) -> Vec<String> {
    let Ok(stats) = serde_json::from_str::<serde_json::Value>(stats) else { return Vec::new() };
    ["minValues", "maxValues"]
        .into_iter()
        .filter_map(|side| stats.get(side).and_then(serde_json::Value::as_object))
        .flat_map(|columns| columns.keys().cloned())
        .collect()
}

/// Transactions and statistics of a checkpoint, columns by name.
async fn read_checkpoint(
    log_store: &LogStoreRef,
    path: &Path,
    findings: Option<&mut Vec<Finding>>,
    says: &mut LogSays,
) -> Result<(), String> {
    let store = log_store.object_store(None);
    let bytes = async { store.get(path).await?.bytes().await }.await.map_err(|error| error.to_string())?;
    let batches = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.build())
        .map_err(|error| error.to_string())?;
    let mut leaks = BTreeSet::new();
    for batch in batches {
        let batch = batch.map_err(|error| error.to_string())?;
        for (app_id, version) in txns(&batch) {
            says.txns.insert(app_id, version);
        }
        for stats in text_field(&batch, "add", "stats") {
            leaks.extend(indexed_columns(&stats).into_iter().filter(|column| !may_be_indexed(column)));
        }
        says.replaced.extend(text_field(&batch, "remove", "path"));
    }
    if let Some(findings) = findings {
        let place = format!("{}{path}", log_store.root_url());
        findings.extend(leaks.iter().map(|column| leak(place.clone(), column, "the checkpoint")));
    }
    Ok(())
}

fn txns(batch: &RecordBatch) -> Vec<(String, i64)> {
    let Some(txn) = batch.column_by_name("txn").and_then(|column| column.as_struct_opt()) else {
        return Vec::new();
    };
    let ids = txn.column_by_name("appId").and_then(|ids| arrow::compute::cast(ids, &DataType::Utf8).ok());
    let versions =
        txn.column_by_name("version").and_then(|it| arrow::compute::cast(it, &DataType::Int64).ok());
    let (Some(ids), Some(versions)) = (ids, versions) else { return Vec::new() };
    let (ids, versions) = (ids.as_string::<i32>(), versions.as_primitive::<Int64Type>());
    (0..batch.num_rows())
        .filter(|row| txn.is_valid(*row) && ids.is_valid(*row) && versions.is_valid(*row))
        .map(|row| (ids.value(row).to_owned(), versions.value(row)))
        .collect()
}

fn text_field(batch: &RecordBatch, action: &str, field: &str) -> Vec<String> {
    let column = batch
        .column_by_name(action)
        .and_then(|column| column.as_struct_opt())
        .and_then(|column| column.column_by_name(field))
        .and_then(|values| arrow::compute::cast(values, &DataType::Utf8).ok());
    let Some(column) = column else { return Vec::new() };
    column.as_string::<i32>().iter().flatten().map(str::to_owned).collect()
}

/// Every object of a table's folder, its log among them.
pub(crate) async fn objects(log_store: &LogStoreRef) -> Result<Vec<ObjectMeta>, object_store::Error> {
    log_store.object_store(None).list(None).try_collect().await
}

/// Files of a table that its log says were replaced: whoever named them is through with them.
pub(crate) async fn replaced(
    log_store: &LogStoreRef,
    objects: &[ObjectMeta],
    version: u64,
) -> HashSet<String> {
    let mut ignored = Vec::new();
    LogFolder::of(objects).read(log_store, version, Depth::Whole, &mut ignored).await.replaced
}
