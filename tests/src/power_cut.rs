//! A power cut, simulated: `peers/power_cut.c`, loaded before a server, journals how to undo each change to its files;
//! after `kill -9` what was never synced is undone here.
//!
//! The model is harsher than most disks. Content and length of a file last once the *file* was synced, its name once
//! its *folder* was. Of what did not last, [`Lost::Some`] keeps any version of each page of 4 KiB, any state that the
//! length went through, and of each folder's changes the first few; [`Lost::All`] keeps nothing. Not in the model: a
//! page that is torn in itself, changes through mapped memory (SQLite's `-shm`, which it makes anew), and a loss that
//! reaches across two processes.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::peers::preloaded;
use crate::random::Random;

const PAGE: u64 = 4_096;
const MAGIC: u32 = 0x314a_4350;
const HEAD_BYTES: usize = 56;

/// What goes of that which was not synced.
#[derive(Clone, Copy, Debug)]
pub enum Lost {
    All,
    /// What this seed chooses.
    Some(u64),
}

/// What was undone, of what could have been.
#[derive(Debug, Default)]
pub struct Undone {
    pub entries: usize,
    pub entries_open: usize,
    pub bytes: u64,
    pub bytes_open: u64,
    /// Kinds of files that lost content: their extensions.
    pub files: BTreeSet<String>,
}

/// A folder that a power cut may hit.
pub struct PowerCut {
    root: PathBuf,
    work: TempDir,
    lies: bool,
    unknown: std::cell::RefCell<Vec<String>>,
}

impl PowerCut {
    /// Watches a folder, which is made. `None`, with a line that says so, where there is no C compiler.
    pub fn over(root: &Path) -> Option<Self> {
        fs::create_dir_all(root).unwrap();
        let root = root.canonicalize().unwrap();
        // beside the folder: the journal keeps links to files, so it must lie on the same file system
        let work = tempfile::Builder::new().prefix("cut").tempdir_in(root.parent().unwrap()).unwrap();
        fs::create_dir(work.path().join("journal")).unwrap();
        preloaded("power_cut", work.path())?;
        Some(Self { root, work, lies: false, unknown: Default::default() })
    }

    /// From now on a sync makes nothing durable.
    #[must_use]
    pub fn with_a_disk_that_lies(mut self) -> Self {
        self.lies = true;
        self
    }

    /// The variables that a server under watch is started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.display().to_string();
        let mut variables = vec![
            ("LD_PRELOAD".to_owned(), text(&self.work.path().join("power_cut.so"))),
            ("POWER_CUT_ROOT".to_owned(), text(&self.root)),
            ("POWER_CUT_JOURNAL".to_owned(), text(&self.folder())),
        ];
        if self.lies {
            variables.push(("POWER_CUT_IGNORE".to_owned(), "1".to_owned()));
        }
        variables
    }

    /// Calls on watched files whose undoing is not simulated.
    pub fn unknown(&self) -> Vec<String> {
        self.unknown.borrow().clone()
    }

    /// Undoes what was not synced. The server must have been killed.
    pub fn undo(&self, lost: Lost) -> Undone {
        let records = read(&fs::read(self.folder().join("journal")).unwrap());
        let unknown = records.iter().filter(|record| record.kind == b'X');
        self.unknown.borrow_mut().extend(unknown.map(|record| format!("{} {}", record.other, record.path)));

        let mut synced: HashMap<u64, u64> = HashMap::new();
        for record in records.iter().filter(|record| record.kind == b'S') {
            let upto = synced.entry(record.inode).or_default();
            *upto = record.a.max(*upto);
        }
        let lasting = |inode: &u64, at: u64| synced.get(inode).is_some_and(|upto| at < *upto);
        let mut choice = Choice { lost, random: Random::new(0) };
        if let Lost::Some(seed) = lost {
            choice.random = Random::new(seed as usize);
        }
        let mut undone = Undone::default();
        let open = |kinds: &[u8]| {
            let of_kind = records.iter().filter(|record| kinds.contains(&record.kind));
            let open = of_kind.filter(|record| {
                let both = record.kind != b'R' || lasting(&record.b, record.at);
                !(lasting(&record.inode, record.at) && both)
            });
            open.collect::<Vec<_>>()
        };
        undo_entries(&open(b"CRLUM"), &mut choice, &mut undone);
        undo_content(&self.root, &open(b"WT"), &mut choice, &mut undone);
        for entry in fs::read_dir(self.folder()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        undone
    }

    fn folder(&self) -> PathBuf {
        self.work.path().join("journal")
    }
}

/// Decides how many of a row of changes last, each of which stands on the one before.
struct Choice {
    lost: Lost,
    random: Random,
}

impl Choice {
    fn kept_of(&mut self, changes: usize) -> usize {
        match self.lost {
            Lost::All => 0,
            Lost::Some(_) => self.random.below(changes + 1),
        }
    }
}

/// A record of the journal; `struct record` in power_cut.c says what its numbers mean.
#[derive(Debug)]
struct Record {
    at: u64,
    kind: u8,
    inode: u64,
    a: u64,
    b: u64,
    c: u64,
    path: String,
    other: String,
    data: Vec<u8>,
}

/// A record that was cut off by the kill announces a change that did not happen.
fn read(journal: &[u8]) -> Vec<Record> {
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some(head) = journal.get(at..at + HEAD_BYTES) {
        let u32_at = |place: usize| u32::from_le_bytes(head[place..place + 4].try_into().unwrap());
        let u64_at = |place: usize| u64::from_le_bytes(head[place..place + 8].try_into().unwrap());
        assert_eq!(u32_at(0), MAGIC, "the journal is torn at {at}");
        let lengths = [u32_at(40) as usize, u32_at(44) as usize, u64_at(48) as usize];
        let Some(body) = journal.get(at + HEAD_BYTES..at + HEAD_BYTES + lengths.iter().sum::<usize>()) else {
            break;
        };
        let (path, rest) = body.split_at(lengths[0]);
        let (other, data) = rest.split_at(lengths[1]);
        records.push(Record {
            at: at as u64,
            kind: u32_at(4) as u8,
            inode: u64_at(8),
            a: u64_at(16),
            b: u64_at(24),
            c: u64_at(32),
            path: String::from_utf8_lossy(path).into_owned(),
            other: String::from_utf8_lossy(other).into_owned(),
            data: data.to_vec(),
        });
        at += HEAD_BYTES + body.len();
    }
    records
}

fn undo_entries(open: &[&Record], choice: &mut Choice, undone: &mut Undone) {
    undone.entries_open = open.len();
    let mut of_folder: BTreeMap<u64, usize> = BTreeMap::new();
    for record in open {
        *of_folder.entry(record.inode).or_default() += 1;
    }
    let kept: BTreeMap<_, _> =
        of_folder.into_iter().map(|(folder, changes)| (folder, choice.kept_of(changes))).collect();
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    let mut gone = Vec::new();
    for record in open {
        let number = seen.entry(record.inode).or_default();
        *number += 1;
        if *number > kept[&record.inode] {
            gone.push(*record);
        }
    }
    undone.entries = gone.len();
    for record in gone.into_iter().rev() {
        let path = Path::new(&record.path);
        match record.kind {
            b'C' | b'L' => drop(fs::remove_file(path)),
            b'M' => drop(fs::remove_dir_all(path)),
            b'U' => put_back(&record.other, path),
            _ => {
                let (target, kept) = record.other.split_once('\n').unwrap();
                let target = Path::new(target);
                if fs::symlink_metadata(target).is_ok_and(|file| file.ino() == record.a) {
                    fs::rename(target, path).unwrap();
                    put_back(kept, target);
                }
            }
        }
    }
}

/// Gives a file that lost its name that name again, unless the change never came to pass, or its folder is gone too.
fn put_back(kept: &str, path: &Path) {
    if !kept.is_empty() && !path.exists() && path.parent().is_some_and(Path::exists) {
        fs::hard_link(kept, path).unwrap();
    }
}

fn undo_content(root: &Path, open: &[&Record], choice: &mut Choice, undone: &mut Undone) {
    let mut files = HashMap::new();
    find_files(root, &mut files);
    let mut of_file: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
    for record in open {
        of_file.entry(record.inode).or_default().push(record);
    }
    for (inode, changes) in of_file {
        undone.bytes_open += changes.iter().map(|change| change.length()).sum::<u64>();
        // without a name it is gone as a whole
        let Some(path) = files.get(&inode) else { continue };
        let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
        let bytes = undo_file(&file, &changes, choice);
        undone.bytes += bytes;
        if bytes > 0 {
            let kind = path.extension().unwrap_or(path.file_name().unwrap());
            undone.files.insert(kind.to_string_lossy().into_owned());
        }
    }
}

fn find_files(folder: &Path, found: &mut HashMap<u64, PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            find_files(&entry.path(), found);
        } else {
            found.insert(entry.metadata().unwrap().ino(), entry.path());
        }
    }
}

/// Restores pages and length of one file. Returns how many octets went back.
fn undo_file(file: &File, changes: &[&Record], choice: &mut Choice) -> u64 {
    let resizes: Vec<_> = changes.iter().filter(|change| change.resizes()).collect();
    let kept = choice.kept_of(resizes.len());
    let length = resizes.get(kept).map_or_else(|| file.metadata().unwrap().len(), |first| first.b);

    let mut of_page: BTreeMap<u64, usize> = BTreeMap::new();
    for change in changes {
        change.pages().for_each(|page| *of_page.entry(page).or_default() += 1);
    }
    let kept: BTreeMap<_, _> =
        of_page.into_iter().map(|(page, changes)| (page, choice.kept_of(changes))).collect();
    let mut seen: BTreeMap<u64, usize> = BTreeMap::new();
    let mut gone = Vec::new();
    for change in changes {
        for page in change.pages() {
            let number = seen.entry(page).or_default();
            *number += 1;
            if *number > kept[&page] {
                gone.push((change, page));
            }
        }
    }
    let mut bytes = 0;
    for (change, page) in gone.into_iter().rev() {
        let from = change.a.max(page * PAGE);
        let to = (change.a + change.length()).min((page + 1) * PAGE);
        // past its end the file held nothing, which reads as zeros
        let before: Vec<u8> =
            (from..to).map(|at| change.data.get((at - change.a) as usize).copied().unwrap_or(0)).collect();
        file.write_all_at(&before, from).unwrap();
        bytes += to - from;
    }
    file.set_len(length).unwrap();
    bytes
}

impl Record {
    /// Octets from `a` on that changed.
    fn length(&self) -> u64 {
        match self.kind {
            b'T' => self.b.saturating_sub(self.a),
            _ => self.c,
        }
    }

    fn resizes(&self) -> bool {
        if self.kind == b'T' { self.a != self.b } else { self.a + self.c > self.b }
    }

    fn pages(&self) -> std::ops::Range<u64> {
        if self.length() == 0 {
            return 0..0;
        }
        self.a / PAGE..(self.a + self.length()).div_ceil(PAGE)
    }
}
