//! Keeping the lake in shape while it is written and read: the lease of whoever does it, and the one sorted
//! rewrite that compaction, retention and erasure are made of.
//!
//! - [`lease`]: who maintains the lake now
//! - [`rewrite`]: exact files of the table, read, edited, sorted, written anew, and swapped in one commit
//! - [`plan`]: which files are worth joining
//! - [`retention`]: old days go whole
//! - [`reader`]: who reads what is new, and how far it has come
//! - [`log`]: checkpoints, and the end of old log entries
//! - [`vacuum`]: files that nothing names
//! - [`round`]: all of it, once, in order
//! - [`status`]: what the lake looks like to whoever keeps it

pub mod lease;
pub mod log;
pub mod reader;
pub mod retention;
pub mod rewrite;
pub mod round;
pub mod status;
pub mod vacuum;

pub mod plan;

mod commit;
pub(crate) mod source;

use object_store::Error as ObjectError;
use url::Url;

use self::lease::LeaseError;
use crate::document::DocumentError;
use crate::table::LakeError;

/// Why a piece of maintenance was not done. The table is as it was: what was written for it is named by no
/// commit, and vacuum removes it.
#[derive(Debug, thiserror::Error)]
pub enum MaintainError {
    #[error(transparent)]
    Lake(#[from] LakeError),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error(
        "the lake's log knows a maintainer with the later lease {newest}: lease {ours} is over, whatever the \
         clock says. Nothing was changed; the next round takes a new lease"
    )]
    Fenced { ours: u64, newest: u64 },
    #[error(
        "{path} is no longer part of the table: another maintainer has replaced it. Nothing was changed; the next \
         round starts from the files that there are now"
    )]
    Gone { path: String },
    #[error(
        "cannot read {path}: {reason}. The file stays as it is and nothing was changed; restore it from a copy of the \
         lake's storage, and run `sendlake lake verify`, which says what it holds"
    )]
    Source { path: String, reason: String },
    #[error(
        "the log of {table} has no entry {version} (`_delta_log/{version:020}.json`): without it nobody can say which \
         files belong to the table. Nothing was changed or removed; restore the entry from a copy of the storage"
    )]
    Hole { table: Url, version: u64 },
    #[error("{read} rows were read, {dropped} were to go, but {written} were written: nothing was changed")]
    Miscounted { read: u64, dropped: u64, written: u64 },
    #[error("cannot {action}: {source}")]
    Storage { action: String, source: ObjectError },
    #[error("an edit failed: {0}")]
    Edit(String),
    #[error("cannot sort rows within the memory and the temporary folder given: {0}")]
    Sort(String),
}
