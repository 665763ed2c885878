//! One table of the lake: its log, its files, and for `events` the books of every spool.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use deltalake::DeltaTable;
use deltalake::logstore::LogStoreRef;
use futures::{StreamExt, stream};
use object_store::ObjectMeta;
use object_store::path::Path;
use sendlake_control::clock::Timestamp;
use uuid::Uuid;

use super::file::Named;
use super::finding::{EXAMPLES_MAX, Finding, some};
use super::ledger::{Account, Ledger};
use super::log::{LogFolder, LogSays, objects};
use super::outbox::{IN_OUTBOX, Waiting};
use super::{Depth, Look, SpoolSeen, TableSeen, Verify, VerifyReport};
use crate::store::LakeStore;
use crate::table::digest::SHA256_TAG;
use crate::table::layout::PARTITION_COLUMN;
use crate::table::{EventsTable, log_store, version};

/// Files read at the same time: so many are in memory.
const FILES_AT_ONCE: usize = 2;
/// A file that no version names may be one that is being committed; after this it is one that was left behind.
const COMMIT_SECS_MAX: i64 = 3_600;

/// Names of the tables below the lake's folder. Folders that start with `_` hold leases and receipts; anything else
/// is told.
pub(crate) async fn names(
    store: &LakeStore,
    findings: &mut Vec<Finding>,
) -> Result<Vec<String>, object_store::Error> {
    let folder = Path::from_url_path(store.url.path()).unwrap_or_default();
    let prefix = if folder.as_ref().is_empty() { None } else { Some(&folder) };
    let listed = store.root.list_with_delimiter(prefix).await?;
    let mut names = Vec::new();
    for found in listed.common_prefixes {
        let Some(name) = found.filename().filter(|name| !name.starts_with('_')) else { continue };
        let log = found.clone().join("_delta_log");
        if store.root.list(Some(&log)).next().await.transpose()?.is_some() {
            names.push(name.to_owned());
        } else {
            findings.push(foreign(&format!("{}{name}/", store.url)));
        }
    }
    findings.extend(
        listed
            .objects
            .iter()
            .filter_map(|object| object.location.filename())
            .map(|name| foreign(&format!("{}{name}", store.url))),
    );
    Ok(names)
}

fn foreign(place: &str) -> Finding {
    Finding::warning(
        "foreign",
        place,
        "this is not part of any table here".to_owned(),
        "sendlake leaves it alone, but a reader that takes folders by pattern would count it: move it elsewhere if \
         nothing needs it here",
    )
}

impl Verify {
    /// Verifies one table. Files that are gone because a newer version replaced them make it [`Look::Moved`].
    pub(super) async fn table(
        &self,
        name: &str,
        waiting: Option<&Waiting>,
        report: &mut VerifyReport,
    ) -> Look {
        let log_store = match log_store(&self.store, name) {
            Ok(log_store) => log_store,
            Err(error) => {
                report
                    .findings
                    .push(super::finding::unreachable(self.store.url.as_str(), &error.to_string()));
                return Look::Steady;
            }
        };
        let place = log_store.root_url().as_str().to_owned();
        // Listed before the version is pinned: what is listed and not in that version was not committed by then.
        let objects = match objects(&log_store).await {
            Ok(objects) => objects,
            Err(error) => {
                report.findings.push(super::finding::unreachable(&place, &error.to_string()));
                return Look::Steady;
            }
        };
        let folder = LogFolder::of(&objects);
        folder.check(&place, &mut report.findings);
        let mut table = DeltaTable::new(Arc::clone(&log_store));
        if let Err(error) = table.load().await {
            // A hole has been told already, with what to do.
            if folder.holes().is_empty() {
                report.findings.push(Finding::error(
                    "log",
                    &place,
                    format!("the table cannot be opened: {error}"),
                    "see the finding about its log, or restore _delta_log/ from a backup",
                ));
            }
            return Look::Steady;
        }
        let version = version(&table);
        let is_events = name == EventsTable::NAME;
        let says = folder.read(&log_store, version, self.depth, &mut report.findings).await;
        let files = live_files(&table, is_events);
        self.orphans(&place, &objects, &files, &says, &mut report.findings);

        let mut seen =
            TableSeen { table: name.to_owned(), version, files: files.len() as u64, rows: 0, bytes: 0 };
        let mut ledger = None;
        if is_events {
            let expected =
                waiting.map(|it| it.expected(committed(&says, it.incarnation))).unwrap_or_default();
            ledger = Some(Ledger::new(&self.scratch, expected));
        }
        let gone =
            self.read_files(&log_store, &files, &mut seen, ledger.as_mut(), &mut report.findings).await;
        if !gone.is_empty() {
            if replaced_since(&mut table, &gone).await {
                return Look::Moved;
            }
            report.findings.extend(gone.iter().map(|file| lost(&place, file)));
        }
        if let Some(mut ledger) = ledger {
            self.balance(&says, waiting, &mut ledger, &files, report);
        }
        report.tables.push(seen);
        Look::Steady
    }

    /// Reads every file. Returns those that are not there.
    async fn read_files(
        &self,
        log_store: &LogStoreRef,
        files: &[Named],
        seen: &mut TableSeen,
        mut ledger: Option<&mut Ledger>,
        findings: &mut Vec<Finding>,
    ) -> Vec<Named> {
        let store = log_store.object_store(None);
        let (store, place) = (&store, log_store.root_url().as_str());
        let mut gone = Vec::new();
        let mut looks = stream::iter(files.iter().enumerate())
            .map(async |(number, file)| {
                (number, file.look(store, self.depth, &format!("{place}{}", file.path)).await)
            })
            .buffered(FILES_AT_ONCE);
        while let Some((number, look)) = looks.next().await {
            seen.rows += look.rows;
            seen.bytes += look.bytes;
            findings.extend(look.findings);
            if look.gone {
                gone.extend(files.get(number).cloned());
            }
            if let Some(ledger) = ledger.as_deref_mut()
                && let Err(error) =
                    ledger.enter(u32::try_from(number).unwrap_or(IN_OUTBOX - 1), &look.entries)
            {
                findings.push(no_scratch(&self.scratch, &error));
            }
        }
        gone
    }

    /// Files below the table that its version does not name.
    fn orphans(
        &self,
        place: &str,
        objects: &[ObjectMeta],
        files: &[Named],
        says: &LogSays,
        findings: &mut Vec<Finding>,
    ) {
        let live: HashSet<&str> = files.iter().map(|file| file.path.as_ref()).collect();
        let (mut replaced, mut fresh, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for object in objects {
            let path = object.location.as_ref();
            // What begins so is another program's beside the table, such as a manifest: no reader takes it for data.
            if path.starts_with('_') || live.contains(path) {
                continue;
            }
            let modified = Timestamp(object.last_modified.timestamp_micros());
            if says.replaced.contains(path) {
                replaced.push(object);
            } else if !is_ours(path) {
                findings.push(foreign(&format!("{place}{path}")));
            } else if modified.plus_secs(COMMIT_SECS_MAX) > self.now {
                fresh.push(object);
            } else {
                left.push(object);
            }
        }
        let vacuum = "nothing needs them: `sendlake lake vacuum` removes them once they are old enough";
        for (objects, why, next) in [
            (replaced, "replaced by newer files", vacuum),
            (
                fresh,
                "not in this version: a commit is on its way, or a writer ended before it",
                "verify again later",
            ),
            (left, "left by a writer that ended before its commit", vacuum),
        ] {
            let bytes: u64 = objects.iter().map(|object| object.size).sum();
            let names: Vec<String> =
                objects.iter().take(EXAMPLES_MAX).map(|object| object.location.to_string()).collect();
            if !names.is_empty() {
                let what = format!(
                    "{} files of {bytes} bytes are {why}: {}",
                    objects.len(),
                    some(&names, objects.len() as u64)
                );
                findings.push(Finding::note("orphan", place, what, next));
            }
        }
    }

    /// Compares what files hold with what the log says of each spool, and with the outbox.
    fn balance(
        &self,
        says: &LogSays,
        waiting: Option<&Waiting>,
        ledger: &mut Ledger,
        files: &[Named],
        report: &mut VerifyReport,
    ) {
        if let Some(waiting) = waiting {
            let committed = committed(says, waiting.incarnation);
            waiting.check(committed, &mut report.findings);
            if self.depth == Depth::Whole
                && let Err(error) = waiting.enter(committed, ledger)
            {
                report.findings.push(no_scratch(&self.scratch, &error));
            }
        }
        let mut spools: HashSet<Uuid> =
            says.txns.keys().filter_map(|app_id| Uuid::try_parse(app_id).ok()).collect();
        spools.extend(ledger.spools.keys());
        spools.extend(waiting.map(|waiting| waiting.incarnation));
        let mut spools: Vec<Uuid> = spools.into_iter().collect();
        spools.sort();
        for incarnation in spools {
            let committed_lsn = committed(says, incarnation);
            let removed = says.txns.get(&format!("removed:{incarnation}")).copied().unwrap_or(0);
            let removed = u64::try_from(removed).unwrap_or(0);
            let account = ledger.spools.remove(&incarnation).unwrap_or_default();
            if self.depth == Depth::Whole {
                settle(incarnation, &account, removed, committed_lsn, &mut report.findings);
            }
            report.spools.push(SpoolSeen {
                incarnation: incarnation.to_string(),
                rows: (self.depth == Depth::Whole).then_some(account.rows),
                removed,
                committed_lsn,
                waiting: waiting.filter(|it| it.incarnation == incarnation).map(|it| it.above(committed_lsn)),
            });
        }
        if self.depth == Depth::Whole {
            self.repeats(ledger, files, &mut report.findings);
        }
    }

    fn repeats(&self, ledger: &mut Ledger, files: &[Named], findings: &mut Vec<Finding>) {
        for (incarnation, lsn, waits, committed) in ledger.contradictions.iter().take(EXAMPLES_MAX) {
            findings.push(Finding::error(
                "spool",
                format!("spool {incarnation}"),
                format!("number {lsn} is event {waits} in the outbox and event {committed} in the lake"),
                "two copies of one spool wrote under one identity. Stop both; keep the outbox, whose events the lake \
                 has not, and open it under a new identity (a start on a spool that is behind the lake does so)",
            ));
        }
        let place = |number: u32| match usize::try_from(number).ok().and_then(|number| files.get(number)) {
            Some(file) => file.path.to_string(),
            None => "the outbox".to_owned(),
        };
        match ledger.ids.repeats() {
            Ok((_, 0)) => {}
            Ok((examples, count)) => {
                let shown: Vec<String> = examples
                    .iter()
                    .map(|repeat| {
                        let (one, two) = repeat.files;
                        format!("{} in {} and {}", repeat.event_id, place(one), place(two))
                    })
                    .collect();
                findings.push(Finding::error(
                    "event_id",
                    self.store.table_url(EventsTable::NAME).as_str(),
                    format!("{count} event ids are there more than once: {}", some(&shown, count)),
                    "if a file was added twice, remove the one that sendlake did not commit (see commitInfo in the log) \
                     with any Delta writer; consumers that drop repeats by event_id are not harmed",
                ));
            }
            Err(error) => findings.push(no_scratch(&self.scratch, &error)),
        }
    }
}

fn committed(says: &LogSays, incarnation: Uuid) -> u64 {
    says.txns.get(&incarnation.to_string()).and_then(|lsn| u64::try_from(*lsn).ok()).unwrap_or(0)
}

/// `rows + removed = committed`, each number once and none above.
fn settle(incarnation: Uuid, account: &Account, removed: u64, committed: u64, findings: &mut Vec<Finding>) {
    let place = format!("spool {incarnation}");
    let mut tell =
        |what: String, next: &str| findings.push(Finding::error("spool", place.clone(), what, next));
    if account.repeats > 0 {
        let examples: Vec<String> = account.repeated.iter().map(u64::to_string).collect();
        let what = format!(
            "{} of its rows carry a number that another row carries: {}",
            account.repeats,
            some(&examples, account.repeats)
        );
        tell(what, "see the finding about event ids for the files; remove the copy");
    }
    if account.highest() > committed {
        let what = format!(
            "a row carries number {}, but the log says that its events are committed through {committed}",
            account.highest()
        );
        tell(
            what,
            "find out who wrote it (commitInfo in the log names the engine): only sendlake may add events",
        );
    }
    let distinct = account.rows - account.repeats;
    if distinct + removed < committed {
        let ranges: Vec<String> = account
            .missing(committed)
            .into_iter()
            .map(|(from, to)| if from == to { from.to_string() } else { format!("{from} to {to}") })
            .collect();
        let what = format!(
            "{} rows are missing: {committed} were committed, {removed} removed by maintenance, {distinct} are there; \
             absent numbers: {}",
            committed - distinct - removed,
            ranges.join(", ")
        );
        tell(
            what,
            "see the findings about files that cannot be read; if there are none, restore the table from a backup",
        );
    } else if distinct + removed > committed && account.highest() <= committed {
        let what = format!(
            "{distinct} rows are there and {removed} were removed, more than the {committed} that were committed"
        );
        tell(
            what,
            "rows that maintenance removed are back: see whether an older file or log entry was restored",
        );
    }
}

/// The files of a version.
fn live_files(table: &DeltaTable, is_events: bool) -> Vec<Named> {
    let Ok(state) = table.snapshot() else { return Vec::new() };
    let files = state.log_data().into_iter().map(|file| {
        #[expect(deprecated, reason = "the one way to an action's tags")]
        let tags = file.add_action().tags;
        let values = file.partition_values_map();
        let day = values.get(PARTITION_COLUMN).and_then(Option::as_deref).and_then(parse_day);
        Named {
            path: file.object_store_path(),
            size: u64::try_from(file.size()).unwrap_or(0),
            rows: file.num_records().map(|rows| rows as u64),
            day: day.filter(|_| is_events),
            sha256: tags.and_then(|tags| tags.get(SHA256_TAG).cloned()).flatten(),
            is_events,
        }
    });
    files.collect()
}

/// `2026-01-31` in days since the epoch.
fn parse_day(text: &str) -> Option<i32> {
    Some(Timestamp::parse(&format!("{text}T00:00:00Z"))?.days())
}

/// Whether none of the missing files is in the newest version any more.
async fn replaced_since(table: &mut DeltaTable, gone: &[Named]) -> bool {
    if table.update_state().await.is_err() {
        return false;
    }
    let live: HashMap<Path, ()> = live_files(table, false).into_iter().map(|file| (file.path, ())).collect();
    gone.iter().all(|file| !live.contains_key(&file.path))
}

fn lost(place: &str, file: &Named) -> Finding {
    let rows = file.rows.map_or_else(|| "its".to_owned(), |rows| format!("its {rows}"));
    Finding::error(
        "file",
        format!("{place}{}", file.path),
        format!("the file is gone, and with it {rows} rows: the table's newest version still names it"),
        "restore it from a backup or from the bucket's older versions, under the same name. Queries that need it fail \
         until then",
    )
}

fn no_scratch(scratch: &std::path::Path, error: &std::io::Error) -> Finding {
    Finding::error(
        "event_id",
        scratch.display().to_string(),
        format!("event ids could not be compared: {error}"),
        "free some space there (20 bytes for each event), then verify again",
    )
}

/// Files as Delta writers name them, and the stages of our own local store.
fn is_ours(path: &str) -> bool {
    path.contains('=') && (path.contains(".parquet") || path.contains('#')) || path.starts_with("part-")
}
