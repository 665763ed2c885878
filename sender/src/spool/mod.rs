//! The spool: queue, usage counters, idempotency keys and outbox in one durable store, so that a change of
//! the queue and its event are one atomic write. Nothing is acknowledged before its group is synced.
//!
//! - [`key`]: the order of the queue · `entry`: what is stored, sealed · `table`: one write transaction
//! - `writer`: group commit · [`lanes`]: which lanes are due · [`read`]: looking, also beside a server
//! - [`held`]: mail that limits hold, and when to look at it again · `usage`: first attempts by hour
//! - [`feedback`]: events logged once, and the suppressions that events call for
//! - [`erase`]: withdrawing a person's messages, looking for what is left of them
//! - `stepped`: a clock that was set back between two runs
//! - [`intake`]: accepting · [`work`]: dispatch, outcomes, operators' changes · `outbox`: the lake's side

mod entry;
pub mod erase;
pub mod feedback;
pub mod held;
pub mod intake;
pub mod key;
pub mod lanes;
mod outbox;
pub mod read;
mod space;
mod stepped;
mod table;
mod usage;
pub mod work;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use redb::{Builder, ConcurrencyMode, Database};
use sendlake_control::id::Ids;
use sendlake_ingest::event::{Event, EventType};
use sendlake_ingest::outbox::Outbox;
use sendlake_ingest::spill::{Spill, SpillError};
use sendlake_ingest::store::durable;
use uuid::Uuid;

pub use self::entry::{Held, QueueEntry, Sealer};
use self::held::HeldLanes;
use self::lanes::Lanes;
pub use self::read::SpoolReader;
use self::space::FreeSpace;
pub use self::table::Tables;
pub use self::writer::OnFatal;
use self::writer::Writer;

/// Version of the store's layout, checked at start.
const FORMAT_VERSION: u8 = 1;
const FORMAT: &str = "format";
const INCARNATION: &str = "incarnation";
/// The first number under this incarnation. Stores of older builds do not have it.
const FIRST_LSN: &str = "first_lsn";
/// Memory for pages where a command reads the store beside the server.
const READ_CACHE_BYTES: usize = 64 << 20;

/// Why the spool cannot do something. Anything but `InUse` and `Missing` means: stop, and look.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    #[error("{0} is in use by another process; talk to the running server instead, or stop it first")]
    InUse(PathBuf),
    #[error("there is no spool at {0}; `sendlake serve --dir …` makes one")]
    Missing(PathBuf),
    #[error("could not {0}: {1}")]
    Io(String, #[source] std::io::Error),
    #[error(
        "the spool's store failed ({0}); stop here, check the disk, and restore spool/ from a backup if the \
         file is damaged (moving it away starts an empty queue: mail that waits in it is not sent)"
    )]
    Store(String),
    #[error(
        "there is no space left for the spool's store ({0}); make room on its disk, then start again: what was accepted \
         is kept, and the queue goes on where it was"
    )]
    Full(String),
    #[error("the spool holds a value that cannot be read: {0}; nothing was changed")]
    Damaged(String),
    #[error(
        "the spool has format {0}, this build reads {FORMAT_VERSION}; use the sendlake version that wrote it"
    )]
    Format(u8),
    #[error("a value of the spool cannot be sealed or opened: {0}")]
    Seal(String),
    #[error("the spool has stopped: {0}")]
    Stopped(String),
    #[error(transparent)]
    Spill(#[from] SpillError),
}

macro_rules! store_errors {
    ($($error:ty),*) => {
        $(impl From<$error> for SpoolError {
            fn from(error: $error) -> Self {
                match redb::Error::from(error) {
                    redb::Error::Io(error) if durable::is_full(&error) => Self::Full(error.to_string()),
                    error => Self::Store(error.to_string()),
                }
            }
        })*
    };
}
store_errors!(redb::StorageError, redb::TableError, redb::TransactionError, redb::CommitError);

/// How a spool is set up.
#[derive(Clone, Debug)]
pub struct SpoolSettings {
    /// The folder; holds `spool.redb`.
    pub dir: PathBuf,
    pub node_id: String,
    /// Below this much free space new mail is refused; what is queued still goes out.
    pub free_space_floor_bytes: u64,
    /// Above this many events that have not reached the lake, spilled ones included, new mail is refused.
    pub outbox_rows_max: u64,
    /// Memory that the store may use for pages.
    pub cache_bytes: usize,
}

/// The open store of one node. Cheap to share.
pub struct Spool {
    reader: SpoolReader,
    writer: Writer,
    lanes: Arc<Lanes>,
    held: Arc<HeldLanes>,
    ids: Ids,
    sealer: Arc<dyn Sealer>,
    free_space: FreeSpace,
    outbox_rows_max: u64,
    outbox_trimmed: Arc<AtomicU64>,
    /// Messages that were in flight at a crash, put back at this start.
    recovered: usize,
}

impl Spool {
    /// Opens or makes the store, puts back what was in flight when the last process ended, and starts the
    /// writing thread.
    pub fn open(
        settings: &SpoolSettings,
        sealer: Arc<dyn Sealer>,
        ids: Ids,
        on_fatal: OnFatal,
    ) -> Result<Self, SpoolError> {
        let failed = |error| SpoolError::Io(format!("create {}", settings.dir.display()), error);
        durable::create_dir(&settings.dir).map_err(failed)?;
        let path = store_path(&settings.dir);
        let db = Arc::new(open_database(&path, settings.cache_bytes)?);
        // redb syncs what is in its file, but a new file's name lasts only once its folder was synced.
        durable::sync_dir(&settings.dir).map_err(failed)?;
        let incarnation = prepare(&db, &ids)?;
        stepped::follow_the_clock(&db, sealer.as_ref(), &ids)?;
        let recovered = put_back(&db, sealer.as_ref(), &ids)?;
        let spill = Spill::open(spill_dir(&settings.dir))?;
        let reader = SpoolReader::new(db.clone(), sealer.clone(), incarnation, &settings.node_id, spill)?;
        let last_lsn = reader.last_lsn()?;
        let trimmed = last_lsn.saturating_sub(reader.counts()?.outbox_rows);
        let lanes = Arc::new(Lanes::default());
        for (lane, at) in reader.lanes()? {
            lanes.touch(&lane, at);
        }
        let held = Arc::new(HeldLanes::default());
        for lane in reader.held_lanes()? {
            held.look(lane, ids.now());
        }
        Ok(Self {
            reader,
            writer: Writer::start(db, last_lsn, ids.clock.clone(), on_fatal)?,
            lanes,
            held,
            ids,
            sealer,
            free_space: FreeSpace::new(&settings.dir, settings.free_space_floor_bytes),
            outbox_rows_max: settings.outbox_rows_max,
            outbox_trimmed: Arc::new(AtomicU64::new(trimmed)),
            recovered,
        })
    }

    /// Starts a new log under a new identity. `shared_lsn` is the last number of the old one whose event is
    /// known to be elsewhere under the old identity, in the lake or in a spilled file: what is at or below it is
    /// dropped here, what is above goes on under the new identity, spilled files included. Numbers go on too.
    ///
    /// For a store that was restored from a copy older than what the lake or the files hold, and for one of two
    /// copies that ran at the same time.
    pub async fn renew_incarnation(mut self, shared_lsn: u64) -> Result<Self, SpoolError> {
        let (old, new) = (self.reader.incarnation(), self.ids.uuid());
        self.trim(shared_lsn).await.map_err(|error| SpoolError::Store(error.to_string()))?;
        // Files of the new identity before the store has it are files of another spool, which is what they would
        // stay after a crash here.
        self.reader.spill().relabel(old, shared_lsn, new)?;
        let renew = move |tables: &mut Tables<'_>| {
            tables.set_meta(FIRST_LSN, &shared_lsn.saturating_add(1).to_be_bytes())?;
            tables.set_meta(INCARNATION, new.as_bytes())
        };
        self.writer.write(renew, |()| ()).await?;
        self.reader.set_incarnation(new);
        Ok(self)
    }

    pub fn reader(&self) -> &SpoolReader {
        &self.reader
    }

    pub fn lanes(&self) -> &Lanes {
        &self.lanes
    }

    pub fn held(&self) -> &HeldLanes {
        &self.held
    }

    /// Messages whose attempt was cut off when the last process ended.
    pub fn recovered(&self) -> usize {
        self.recovered
    }
}

fn spill_dir(dir: &Path) -> PathBuf {
    dir.join("spill")
}

fn store_path(dir: &Path) -> PathBuf {
    dir.join("spool.redb")
}

fn builder(cache_bytes: usize) -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    // lets `sendlake queue ls` and `sendlake sql` read beside a running server
    builder.set_concurrency_mode(ConcurrencyMode::SingleWriter);
    builder
}

fn open_database(path: &Path, cache_bytes: usize) -> Result<Database, SpoolError> {
    builder(cache_bytes).create(path).map_err(|error| database_error(path, error))
}

fn database_error(path: &Path, error: redb::DatabaseError) -> SpoolError {
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => SpoolError::InUse(path.to_owned()),
        redb::DatabaseError::Storage(redb::StorageError::Io(e))
            if e.kind() == std::io::ErrorKind::NotFound =>
        {
            SpoolError::Missing(path.to_owned())
        }
        other => SpoolError::Store(format!("{}: {other}", path.display())),
    }
}

/// Runs one change before the writing thread exists.
fn write_once<T>(
    db: &Database,
    change: impl FnOnce(&mut Tables<'_>) -> Result<T, SpoolError>,
) -> Result<T, SpoolError> {
    let mut txn = db.begin_write()?;
    txn.set_quick_repair(true);
    let mut tables = Tables::open(&txn)?;
    let result = change(&mut tables)?;
    tables.finish()?;
    txn.commit()?;
    Ok(result)
}

/// Checks the format, or sets up a new store. Returns its incarnation.
fn prepare(db: &Database, ids: &Ids) -> Result<Uuid, SpoolError> {
    write_once(db, |tables| {
        match tables.meta(FORMAT)?.as_deref() {
            Some([FORMAT_VERSION]) => {}
            Some([other, ..]) => return Err(SpoolError::Format(*other)),
            _ => {
                tables.set_meta(FORMAT, &[FORMAT_VERSION])?;
                tables.set_meta(INCARNATION, ids.uuid().as_bytes())?;
                tables.set_meta(FIRST_LSN, &1_u64.to_be_bytes())?;
            }
        }
        tables
            .meta(INCARNATION)?
            .and_then(|bytes| Uuid::from_slice(&bytes).ok())
            .ok_or_else(|| SpoolError::Damaged("the store's own id".into()))
    })
}

/// After a crash: each message in flight gets an `attempt_in_doubt` and goes back to the queue, due now.
/// The reply was lost, so this retry is the one place where a message may be repeated.
fn put_back(db: &Database, sealer: &dyn Sealer, ids: &Ids) -> Result<usize, SpoolError> {
    const BATCH: usize = 4_096;
    let mut total = 0;
    loop {
        let batch = write_once(db, |tables| {
            let marked: Vec<(Vec<u8>, Vec<u8>)> = tables.take_in_flight(BATCH)?;
            for (_, sealed) in &marked {
                let mut entry = entry::decode_entry(sealer, sealed)?;
                let now = ids.now();
                entry.attempts += 1;
                entry.seq += 1;
                entry.next_attempt_at = now;
                // what was counted stays counted, and the retry counts again: the receiver may see both
                entry.counted = None;
                entry.was_counted = false;
                let mut event = entry.event(ids, EventType::AttemptInDoubt);
                event.attempt = Some(entry.attempts);
                event.next_attempt_at = Some(now);
                tables.log(&entry::encode_event(sealer, &event)?)?;
                let key = entry.lane().key(now, entry.message_id);
                tables.queue.insert(key.as_slice(), entry::encode_entry(sealer, &entry)?.as_slice())?;
            }
            Ok(marked.len())
        })?;
        total += batch;
        if batch < BATCH {
            return Ok(total);
        }
    }
}

impl QueueEntry {
    /// An event about this message, with everything that the entry knows filled in.
    pub fn event(&self, ids: &Ids, event_type: EventType) -> Event {
        let mut event = Event::new(ids.uuid(), event_type, ids.now(), self.tenant_id.clone());
        event.message_id = Some(self.message_id.to_string());
        event.submission_id = Some(self.submission_id.to_string());
        event.seq = Some(self.seq);
        event.stream = Some(self.stream.to_string());
        event.campaign_id = self.campaign_id.clone();
        event.content_fingerprint = self.content_fingerprint.clone();
        event.size_bytes = Some(self.size_bytes);
        event.recipient = Some(self.recipient.to_string());
        event.recipient_domain = Some(self.recipient.domain().to_owned());
        event.header_from_domain = Some(self.header_from_domain.clone());
        event
    }
}

#[cfg(test)]
mod tests;
