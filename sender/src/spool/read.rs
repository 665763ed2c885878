//! Looking into the spool: for dispatch, for operators, and from another process beside a running server.

use std::path::Path;
use std::sync::Arc;

use redb::{Key, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use redb::{TableDefinition, TableError, Value};
use sendlake_control::clock::Timestamp;
use sendlake_ingest::spill::Spill;
use uuid::Uuid;

use super::entry::{QueueEntry, Sealer, decode_content, decode_entry};
use super::held::parse_held;
use super::key::{Lane, QueueKey};
use super::table::{CONTENT, HELD, IN_FLIGHT, META, OUTBOX, QUEUE};
use super::{
    FIRST_LSN, INCARNATION, READ_CACHE_BYTES, SpoolError, builder, database_error, open_database, spill_dir,
    store_path,
};
use crate::submission::Content;

/// Reads one consistent state at a time, each call the latest.
#[derive(Clone)]
pub struct SpoolReader {
    db: Arc<dyn ReadableDatabase + Send + Sync>,
    sealer: Arc<dyn Sealer>,
    incarnation: Uuid,
    node_id: Arc<str>,
    spill: Arc<Spill>,
}

/// How much the spool holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub queued: u64,
    pub in_flight: u64,
    pub held: u64,
    /// Events that have not been trimmed after reaching the lake.
    pub outbox_rows: u64,
}

/// A message in the spool, as an operator sees it.
#[derive(Clone, Debug)]
pub struct Queued {
    pub entry: QueueEntry,
    pub in_flight: bool,
    pub held: bool,
}

/// Where a message lies while it is in no session's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Queue,
    Held,
}

/// A message that is due, or held: its key and what is stored under it.
#[derive(Clone, Debug)]
pub struct Due {
    pub(super) place: Place,
    pub(super) key: Vec<u8>,
    pub(super) sealed: Vec<u8>,
    pub entry: QueueEntry,
}

impl SpoolReader {
    pub(super) fn new(
        db: Arc<dyn ReadableDatabase + Send + Sync>,
        sealer: Arc<dyn Sealer>,
        incarnation: Uuid,
        node_id: &str,
        spill: Spill,
    ) -> Result<Self, SpoolError> {
        Ok(Self { db, sealer, incarnation, node_id: node_id.into(), spill: Arc::new(spill) })
    }

    /// Opens the store of `dir` for reading only; a server may be running on it, or have been killed on it.
    pub fn open(dir: &Path, sealer: Arc<dyn Sealer>, node_id: &str) -> Result<Self, SpoolError> {
        let path = store_path(dir);
        let open = || builder(READ_CACHE_BYTES).open_read_only(&path);
        let db = match open() {
            // the last server did not end in order: opening for writing once puts that right
            Err(redb::DatabaseError::RepairAborted) => {
                drop(open_database(&path, READ_CACHE_BYTES)?);
                open()
            }
            opened => opened,
        };
        let db = db.map_err(|error| database_error(&path, error))?;
        let spill = Spill::beside(spill_dir(dir));
        let mut reader = Self::new(Arc::new(db), sealer, Uuid::nil(), node_id, spill)?;
        reader.incarnation = open_table(&reader.begin()?, META)?
            .and_then(|meta| meta.get(INCARNATION).ok().flatten())
            .and_then(|bytes| Uuid::from_slice(bytes.value()).ok())
            .ok_or_else(|| SpoolError::Damaged("the store's own id".into()))?;
        Ok(reader)
    }

    pub fn incarnation(&self) -> Uuid {
        self.incarnation
    }

    pub(super) fn set_incarnation(&mut self, incarnation: Uuid) {
        self.incarnation = incarnation;
    }

    /// Events that wait in files beside the store.
    pub fn spill(&self) -> &Arc<Spill> {
        &self.spill
    }

    pub(super) fn node_id(&self) -> &Arc<str> {
        &self.node_id
    }

    pub(super) fn sealer(&self) -> &dyn Sealer {
        self.sealer.as_ref()
    }

    pub(super) fn begin(&self) -> Result<ReadTransaction, SpoolError> {
        Ok(self.db.begin_read()?)
    }

    pub fn counts(&self) -> Result<Counts, SpoolError> {
        let txn = self.begin()?;
        Ok(Counts {
            queued: open_table(&txn, QUEUE)?.map_or(Ok(0), |t| t.len())?,
            in_flight: open_table(&txn, IN_FLIGHT)?.map_or(Ok(0), |t| t.len())?,
            held: open_table(&txn, HELD)?.map_or(Ok(0), |t| t.len())?,
            outbox_rows: open_table(&txn, OUTBOX)?.map_or(Ok(0), |t| t.len())?,
        })
    }

    /// The first number under the store's identity; `None` in a store that an older build made.
    pub fn first_lsn(&self) -> Result<Option<u64>, SpoolError> {
        let Some(meta) = open_table(&self.begin()?, META)? else { return Ok(None) };
        Ok(meta.get(FIRST_LSN)?.and_then(|v| v.value().try_into().ok()).map(u64::from_be_bytes))
    }

    /// The newest LSN given out; 0 when there is none.
    pub fn last_lsn(&self) -> Result<u64, SpoolError> {
        let Some(meta) = open_table(&self.begin()?, META)? else { return Ok(0) };
        let next = meta.get("next_lsn")?.and_then(|v| v.value().try_into().ok()).map(u64::from_be_bytes);
        Ok(next.unwrap_or(1).saturating_sub(1))
    }

    /// Every lane with its earliest due time. Skips from lane to lane: its cost is the number of lanes.
    pub fn lanes(&self) -> Result<Vec<(Lane, Timestamp)>, SpoolError> {
        let Some(queue) = open_table(&self.begin()?, QUEUE)? else { return Ok(Vec::new()) };
        let mut lanes = Vec::new();
        let mut from = Vec::new();
        while let Some(row) = queue.range(from.as_slice()..)?.next() {
            let (key, _) = row?;
            let key = parse_key(key.value())?;
            from = key.lane.range().1;
            lanes.push((key.lane, key.next_attempt_at));
        }
        Ok(lanes)
    }

    /// Up to `max` messages of `lane` that are due, the longest waiting first; and when the next one after
    /// them is due.
    pub fn due(
        &self,
        lane: &Lane,
        now: Timestamp,
        max: usize,
    ) -> Result<(Vec<Due>, Option<Timestamp>), SpoolError> {
        let Some(queue) = open_table(&self.begin()?, QUEUE)? else { return Ok((Vec::new(), None)) };
        let (start, end) = lane.range();
        let mut due = Vec::new();
        for row in queue.range(start.as_slice()..end.as_slice())? {
            let (key, sealed) = row?;
            let at = parse_key(key.value())?.next_attempt_at;
            if at > now || due.len() == max {
                return Ok((due, Some(at)));
            }
            let entry = decode_entry(self.sealer(), sealed.value())?;
            let (key, sealed) = (key.value().to_vec(), sealed.value().to_vec());
            due.push(Due { place: Place::Queue, key, sealed, entry });
        }
        Ok((due, None))
    }

    /// The content of a submission; `None` when all its messages are over.
    pub fn content(&self, submission_id: Uuid) -> Result<Option<Content>, SpoolError> {
        let Some(contents) = open_table(&self.begin()?, CONTENT)? else { return Ok(None) };
        let Some(sealed) = contents.get(submission_id.as_bytes().as_slice())? else { return Ok(None) };
        decode_content(self.sealer(), submission_id, sealed.value()).map(Some)
    }

    /// Messages that `wanted` picks by key (in-flight ones have no time of their own and are asked with their
    /// entry's), up to `max`, in queue order, those that are held last.
    pub fn list(&self, wanted: impl Fn(&QueueKey) -> bool, max: usize) -> Result<Vec<Queued>, SpoolError> {
        let txn = self.begin()?;
        let mut found = Vec::new();
        if let Some(in_flight) = open_table(&txn, IN_FLIGHT)? {
            for row in in_flight.iter()? {
                let entry = decode_entry(self.sealer(), row?.1.value())?;
                let key = QueueKey {
                    lane: entry.lane(),
                    next_attempt_at: entry.next_attempt_at,
                    message_id: entry.message_id,
                };
                if found.len() < max && wanted(&key) {
                    found.push(Queued { entry, in_flight: true, held: false });
                }
            }
        }
        if let Some(queue) = open_table(&txn, QUEUE)? {
            for row in queue.iter()? {
                if found.len() >= max {
                    break;
                }
                let (key, sealed) = row?;
                if wanted(&parse_key(key.value())?) {
                    found.push(Queued {
                        entry: decode_entry(self.sealer(), sealed.value())?,
                        in_flight: false,
                        held: false,
                    });
                }
            }
        }
        if let Some(held) = open_table(&txn, HELD)? {
            for row in held.iter()? {
                if found.len() >= max {
                    break;
                }
                let (key, sealed) = row?;
                if wanted(&parse_held(key.value())?.queue_key) {
                    let entry = decode_entry(self.sealer(), sealed.value())?;
                    found.push(Queued { entry, in_flight: false, held: true });
                }
            }
        }
        Ok(found)
    }
}

fn parse_key(key: &[u8]) -> Result<QueueKey, SpoolError> {
    QueueKey::parse(key).ok_or_else(|| SpoolError::Damaged(format!("a queue key of {} octets", key.len())))
}

/// The table, or `None` when nothing was ever written to it.
pub(super) fn open_table<K: Key + 'static, V: Value + 'static>(
    txn: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
) -> Result<Option<ReadOnlyTable<K, V>>, SpoolError> {
    match txn.open_table(table) {
        Ok(table) => Ok(Some(table)),
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
