//! Books of what was found in files: which log sequence numbers of each spool, and which event ids, each once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use super::finding::EXAMPLES_MAX;

/// Rows of one batch, as the ledger wants them.
#[derive(Debug, Default)]
pub(super) struct Rows {
    pub event_ids: Vec<Uuid>,
    pub incarnations: Vec<Uuid>,
    pub lsns: Vec<u64>,
}

/// What files hold of each spool, and every event id.
pub(super) struct Ledger {
    pub spools: BTreeMap<Uuid, Account>,
    pub ids: EventIds,
    /// Events that the outbox has too, though they are committed: LSN and event id.
    expected: BTreeMap<(Uuid, u64), Uuid>,
    /// Incarnation, LSN, id in the outbox, id in the lake.
    pub contradictions: Vec<(Uuid, u64, Uuid, Uuid)>,
}

/// The rows of one spool.
#[derive(Debug, Default)]
pub(super) struct Account {
    pub rows: u64,
    seen: LsnSet,
    /// LSNs that came more than once; the first few of them.
    pub repeated: Vec<u64>,
    pub repeats: u64,
}

impl Ledger {
    pub fn new(scratch: &Path, expected: BTreeMap<(Uuid, u64), Uuid>) -> Self {
        let ids = EventIds::new(scratch);
        Self { spools: BTreeMap::new(), ids, expected, contradictions: Vec::new() }
    }

    /// Enters rows of a file. Fails when the scratch folder cannot be written.
    pub fn enter(&mut self, file: u32, rows: &Rows) -> std::io::Result<()> {
        for ((id, incarnation), lsn) in rows.event_ids.iter().zip(&rows.incarnations).zip(&rows.lsns) {
            self.ids.add(*id, file)?;
            let account = self.spools.entry(*incarnation).or_default();
            account.rows += 1;
            if !account.seen.insert(*lsn) {
                account.repeats += 1;
                if account.repeated.len() < EXAMPLES_MAX {
                    account.repeated.push(*lsn);
                }
            }
            if let Some(expected) = self.expected.get(&(*incarnation, *lsn))
                && expected != id
            {
                self.contradictions.push((*incarnation, *lsn, *expected, *id));
            }
        }
        Ok(())
    }
}

impl Account {
    /// Ranges of LSNs from 1 through `last` that are not there: the first few.
    pub fn missing(&self, last: u64) -> Vec<(u64, u64)> {
        self.seen.missing(last, EXAMPLES_MAX)
    }

    pub fn highest(&self) -> u64 {
        self.seen.highest()
    }
}

/// A set of LSNs: one bit each, in pieces that exist where there are any.
#[derive(Debug, Default)]
struct LsnSet(BTreeMap<u64, Box<[u64; PIECE_WORDS]>>);

const PIECE_WORDS: usize = 1_024;
const PIECE_LSNS: u64 = PIECE_WORDS as u64 * 64;

impl LsnSet {
    /// False when it was there.
    fn insert(&mut self, lsn: u64) -> bool {
        let piece = self.0.entry(lsn / PIECE_LSNS).or_insert_with(|| Box::new([0; PIECE_WORDS]));
        let bit = lsn % PIECE_LSNS;
        let Some(word) = piece.get_mut((bit / 64) as usize) else { return false };
        let mask = 1 << (bit % 64);
        let is_new = *word & mask == 0;
        *word |= mask;
        is_new
    }

    fn contains(&self, lsn: u64) -> bool {
        let bit = lsn % PIECE_LSNS;
        let word = self.0.get(&(lsn / PIECE_LSNS)).and_then(|piece| piece.get((bit / 64) as usize));
        word.is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }

    fn highest(&self) -> u64 {
        let Some((piece, words)) = self.0.iter().next_back() else { return 0 };
        let word = words.iter().enumerate().rev().find(|(_, word)| **word != 0);
        word.map_or(0, |(index, word)| {
            piece * PIECE_LSNS + index as u64 * 64 + 63 - u64::from(word.leading_zeros())
        })
    }

    fn missing(&self, last: u64, ranges_max: usize) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut lsn = 1;
        while lsn <= last {
            // A piece that is not there is missing whole.
            if lsn % PIECE_LSNS == 0 && !self.0.contains_key(&(lsn / PIECE_LSNS)) {
                let end = (lsn + PIECE_LSNS - 1).min(last);
                if !extend(&mut ranges, lsn, end, ranges_max) {
                    return ranges;
                }
                lsn = end + 1;
                continue;
            }
            if !self.contains(lsn) && !extend(&mut ranges, lsn, lsn, ranges_max) {
                return ranges;
            }
            lsn += 1;
        }
        ranges
    }
}

/// Adds a range, joined to the one before it where they touch. False when there is no room for it.
fn extend(ranges: &mut Vec<(u64, u64)>, from: u64, to: u64, ranges_max: usize) -> bool {
    if let Some((_, end)) = ranges.last_mut()
        && *end + 1 == from
    {
        *end = to;
        return true;
    }
    if ranges.len() == ranges_max {
        return false;
    }
    ranges.push((from, to));
    true
}

/// Every event id with the file it is in, in 256 heaps by a byte of the id; a heap that grows goes to the disk.
pub(super) struct EventIds {
    heaps: Vec<Heap>,
    scratch: PathBuf,
    made_scratch: bool,
}

#[derive(Default)]
struct Heap {
    buffer: Vec<u8>,
    file: Option<File>,
}

const HEAPS: usize = 256;
const HEAP_BYTES_MAX: usize = 64 << 10;
const ENTRY_BYTES: usize = 16 + 4;

/// An event id that is there more than once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repeat {
    pub event_id: Uuid,
    /// Where, by the caller's numbers of files; the same one twice when both are in it.
    pub files: (u32, u32),
}

impl EventIds {
    fn new(scratch: &Path) -> Self {
        let heaps = (0..HEAPS).map(|_| Heap::default()).collect();
        Self { heaps, scratch: scratch.to_owned(), made_scratch: false }
    }

    pub fn add(&mut self, id: Uuid, file: u32) -> std::io::Result<()> {
        // The last byte of a UUIDv7 is random.
        let number = usize::from(id.as_bytes().last().copied().unwrap_or(0));
        let Some(heap) = self.heaps.get_mut(number) else { return Ok(()) };
        heap.buffer.extend_from_slice(id.as_bytes());
        heap.buffer.extend_from_slice(&file.to_be_bytes());
        if heap.buffer.len() < HEAP_BYTES_MAX {
            return Ok(());
        }
        if !self.made_scratch {
            std::fs::create_dir_all(&self.scratch)?;
            self.made_scratch = true;
        }
        let file = match &mut heap.file {
            Some(file) => file,
            None => {
                let path = self.scratch.join(format!("event-ids-{number:03}"));
                heap.file
                    .insert(File::options().create(true).truncate(true).read(true).write(true).open(path)?)
            }
        };
        file.write_all(&heap.buffer)?;
        heap.buffer.clear();
        Ok(())
    }

    /// The first few ids that came more than once, and how many there are. Empties the books.
    pub fn repeats(&mut self) -> std::io::Result<(Vec<Repeat>, u64)> {
        use std::io::Seek;
        let (mut found, mut count) = (Vec::new(), 0);
        for heap in &mut self.heaps {
            let mut bytes = Vec::new();
            if let Some(mut file) = heap.file.take() {
                file.rewind()?;
                file.read_to_end(&mut bytes)?;
            }
            bytes.append(&mut heap.buffer);
            let mut entries: Vec<&[u8]> = bytes.chunks_exact(ENTRY_BYTES).collect();
            entries.sort_unstable();
            for pair in entries.windows(2) {
                let [one, two] = pair else { continue };
                let (Some((id, one)), Some((other, two))) =
                    (one.split_at_checked(16), two.split_at_checked(16))
                else {
                    continue;
                };
                if id != other {
                    continue;
                }
                count += 1;
                let number = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).unwrap_or(u32::MAX);
                if found.len() < EXAMPLES_MAX {
                    let event_id = Uuid::from_slice(id).unwrap_or_default();
                    found.push(Repeat { event_id, files: (number(one), number(two)) });
                }
            }
        }
        Ok((found, count))
    }
}

impl Drop for EventIds {
    fn drop(&mut self) {
        if self.made_scratch {
            // What stays behind holds ids alone.
            let _ = std::fs::remove_dir_all(&self.scratch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_missing_come_as_ranges() {
        let mut set = LsnSet::default();
        for lsn in (1..=200_000).filter(|lsn| ![1, 7, 8, 9, 65_536, 199_999].contains(lsn)) {
            assert!(set.insert(lsn));
        }
        assert!(!set.insert(2));
        let expected = vec![(1, 1), (7, 9), (65_536, 65_536), (199_999, 199_999), (200_001, 200_002)];
        assert_eq!(set.missing(200_002, 9), expected);
        assert_eq!(set.missing(200_002, 2), expected[..2]);
        assert_eq!(set.highest(), 200_000);
        assert_eq!(LsnSet::default().missing(1_000_000, 3), vec![(1, 1_000_000)]);
    }

    #[test]
    fn a_repeat_among_more_ids_than_fit_in_memory_is_found_with_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().join("scratch");
        let mut ids = EventIds::new(&scratch);
        let id =
            |number: u128| Uuid::from_u128(number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835));
        for number in 0..1_200_000 {
            ids.add(id(number), u32::try_from(number / 100_000).unwrap()).unwrap();
        }
        assert!(scratch.is_dir(), "some went to the disk");
        assert_eq!(ids.repeats().unwrap(), (Vec::new(), 0));
        for number in 0..1_200_000 {
            ids.add(id(number), u32::try_from(number / 100_000).unwrap()).unwrap();
        }
        ids.add(id(5), 77).unwrap();
        let repeat = Repeat { event_id: id(5), files: (0, 77) };
        assert_eq!(ids.repeats().unwrap(), (vec![repeat], 1));
        drop(ids);
        assert!(!scratch.exists());
    }
}
