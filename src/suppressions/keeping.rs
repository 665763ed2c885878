//! Suppressions are sacred: what the list adds up to is kept in the lake after each change, and when the control store
//! holds fewer entries, or others, marketing and cold mail waits until somebody has seen to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sendlake_control::clock::Timestamp;
use sendlake_control::id::Ids;
use sendlake_control::suppression::Totals;
use sendlake_control::suppression::totals::Recorded;
use sendlake_control::{ControlError, ControlStore};
use sendlake_ingest::document::{self, DocumentError};
use sendlake_ingest::outbox::Outbox;
use sendlake_ingest::store::LakeStore;
use sendlake_ingest::writer::LakeHandle;
use sendlake_sender::spool::Spool;
use sendlake_sender::suppression::Suppressions;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::ControlSuppressions;

/// Where documents of lists lie in the lake, one for each node that wrote any.
const FOLDER: &str = "_suppressions";
const KEEP_EVERY: Duration = Duration::from_secs(2);
const CHECK_EVERY_S: i64 = 60;
/// Counting every entry anew takes about a microsecond each.
const RECOUNT_EVERY_S: i64 = 3_600;
/// A list up to this long is counted anew before the first mail goes out.
const RECOUNTED_AT_START_MAX: i64 = 200_000;
/// Longest wait for the lake at a start: mail does not wait for a bucket.
const LAKE_ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a list adds up to, as the lake keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    pub node_id: String,
    /// Names the list by its key.
    pub list_id: String,
    #[serde(flatten)]
    pub totals: Totals,
    pub at: Timestamp,
    /// The key of the list's hashes, sealed under the master key: without it tombstones of erased persons could not be
    /// found again by a control store that is made anew.
    pub list_key: String,
}

/// The lake or the control store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum KeepingError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Document(#[from] DocumentError),
    #[error("what the lake keeps of the suppressions cannot be read: {0}")]
    Unreadable(String),
    #[error("the lake did not answer within {} s", LAKE_ANSWER_MAX.as_secs())]
    Slow,
}

/// Compares the list with what is kept of it, and keeps it.
pub struct Keeping {
    pub control: Arc<ControlStore>,
    pub suppressions: Arc<ControlSuppressions>,
    pub spool: Arc<Spool>,
    pub store: LakeStore,
    pub node_id: String,
    pub ids: Ids,
    /// The line up to which the list is known to be kept.
    kept_seq: AtomicI64,
}

/// What `suppression status` tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    pub entries: i64,
    pub hash: String,
    pub lake_entries: Option<i64>,
    pub lake_hash: Option<String>,
    pub kept_at: Option<Timestamp>,
    pub memory_bytes: usize,
    /// Why marketing and cold mail waits.
    pub incomplete: Option<String>,
}

impl Keeping {
    pub fn new(
        control: Arc<ControlStore>,
        suppressions: Arc<ControlSuppressions>,
        spool: Arc<Spool>,
        store: LakeStore,
        node_id: &str,
        ids: Ids,
    ) -> Self {
        let kept_seq = AtomicI64::new(-1);
        Self { control, suppressions, spool, store, node_id: node_id.to_owned(), ids, kept_seq }
    }

    /// The first look, before mail goes out. A lake that does not answer is looked at later.
    pub async fn start(&self) {
        let entries = match self.control.suppression_totals().await {
            Ok(recorded) => recorded.unwrap_or_default().totals.entries,
            Err(_) => 0,
        };
        let looked = tokio::time::timeout(LAKE_ANSWER_MAX, self.check(entries <= RECOUNTED_AT_START_MAX));
        if let Err(error) = looked.await.unwrap_or(Err(KeepingError::Slow)) {
            tracing::warn!(%error, "whether the list of suppressions is whole is not known yet");
        }
    }

    /// Keeps and checks, until `stop`.
    pub async fn run(self: Arc<Self>, lake: LakeHandle, stop: CancellationToken) {
        let (mut checked_at, mut recounted_at) = (self.ids.now(), Timestamp::default());
        while stop.run_until_cancelled(tokio::time::sleep(KEEP_EVERY)).await.is_some() {
            let now = self.ids.now();
            let due = now.millis_since(checked_at) >= CHECK_EVERY_S * 1_000;
            let stopped = self.suppressions.incomplete().is_some();
            let recount = now.millis_since(recounted_at) >= RECOUNT_EVERY_S * 1_000 || due && stopped;
            let done = if recount || due {
                checked_at = now;
                recounted_at = if recount { now } else { recounted_at };
                self.check(recount).await
            } else {
                Ok(())
            };
            if recount {
                // for a start after a crash: nobody ends in order then
                self.suppressions.save(&self.control).await;
            }
            let done = match done {
                Ok(()) => self.keep(&lake).await,
                failed => failed,
            };
            if let Err(error) = done {
                tracing::debug!(%error, "the sum of the suppressions is not kept in the lake for now");
            }
        }
    }

    /// Looks whether anything is missing, and stops marketing and cold mail where it is. Only a `recount`, which reads
    /// every entry, lets it go again.
    pub async fn check(&self, recount: bool) -> Result<(), KeepingError> {
        let why = self.missing(recount).await?;
        if (recount || why.is_some()) && self.suppressions.set_incomplete(why.clone()) {
            match why {
                Some(why) => tracing::error!("marketing and cold mail waits: {why}"),
                None => tracing::info!("the list of suppressions is whole: marketing and cold mail goes on"),
            }
        }
        Ok(())
    }

    /// Why the list is not the one that it should be; none where it is.
    pub(super) async fn missing(&self, recount: bool) -> Result<Option<String>, KeepingError> {
        let recorded = if recount {
            let (counted, recorded) = self.control.recount_suppressions().await?;
            let recorded = recorded.unwrap_or_default();
            if (counted.entries, counted.digest) != (recorded.totals.entries, recorded.totals.digest) {
                return Ok(Some(format!(
                    "control.db holds {} suppressions, and by its own count of changes there should be {}: some \
                     vanished or were changed by hand; restore it from a backup, or run `sendlake suppression rebuild`",
                    counted.entries, recorded.totals.entries
                )));
            }
            recorded
        } else {
            self.control.suppression_totals().await?.unwrap_or_default()
        };
        let kept = self.kept().await?;
        self.kept_seq.store(kept.as_ref().map_or(-1, |kept| kept.totals.seq), Ordering::Relaxed);
        Ok(kept.and_then(|kept| differs(&kept, &recorded, &self.control.suppression_list_id())))
    }

    /// What the lake keeps of this list: what this node wrote, or another before it was called `node.id`. A list goes by its
    /// key, not by the node's name; of several records the newest counts.
    pub async fn kept(&self) -> Result<Option<Kept>, KeepingError> {
        let unreadable = |error: serde_json::Error| KeepingError::Unreadable(error.to_string());
        let own: Option<Kept> = match document::read(&self.store, FOLDER, &self.document()).await? {
            Some(text) => Some(serde_json::from_slice(&text).map_err(unreadable)?),
            None => None,
        };
        let list_id = self.control.suppression_list_id();
        // whoever made control.db anew finds the former list under the node's name
        if own.as_ref().is_some_and(|own| own.list_id != list_id && own.totals.entries > 0) {
            return Ok(own);
        }
        let all = document::read_all(&self.store, FOLDER).await?;
        // another node's record that cannot be read is that node's to tell
        let all = all.iter().filter_map(|text| serde_json::from_slice::<Kept>(text).ok());
        let newest = all.filter(|kept| kept.list_id == list_id).max_by_key(|kept| (kept.totals.seq, kept.at));
        Ok(newest.or(own))
    }

    fn document(&self) -> String {
        format!("{}.json", self.node_id)
    }

    /// Hands the sum over once the events of all changes are in the lake.
    pub async fn keep(&self, lake: &LakeHandle) -> Result<(), KeepingError> {
        if self.suppressions.incomplete().is_some() {
            return Ok(());
        }
        let Some(recorded) = self.control.suppression_totals().await? else { return Ok(()) };
        let totals = recorded.totals;
        if totals.seq == self.kept_seq.load(Ordering::Relaxed) {
            return Ok(());
        }
        if !self.control.untold_suppressions(1).await?.is_empty() {
            return Ok(()); // told within a second
        }
        if Outbox::last_lsn(self.spool.as_ref()).is_none_or(|lsn| lake.status().lsn < lsn) {
            return Ok(());
        }
        self.hand_over(totals).await
    }

    /// Writes the document. What it may say is noted first, so that whoever finds a later one knows that this store is
    /// an older copy. Another store's document is not written over.
    pub async fn hand_over(&self, totals: Totals) -> Result<(), KeepingError> {
        let recorded = self.control.suppression_totals().await?.unwrap_or_default();
        if let Some(kept) = self.kept().await?
            && let Some(why) = differs(&kept, &recorded, &self.control.suppression_list_id())
        {
            if self.suppressions.set_incomplete(Some(why.clone())) {
                tracing::error!("marketing and cold mail waits: {why}");
            }
            return Ok(());
        }
        self.control.note_totals(totals).await?;
        let kept = Kept {
            node_id: self.node_id.clone(),
            list_id: self.control.suppression_list_id(),
            totals,
            at: self.ids.now(),
            list_key: BASE64.encode(self.control.wrapped_list_key()),
        };
        let text = serde_json::to_vec_pretty(&kept).unwrap_or_default();
        document::write(&self.store, FOLDER, &self.document(), text).await?;
        self.kept_seq.store(totals.seq, Ordering::Relaxed);
        Ok(())
    }

    /// For an operator.
    pub async fn status(&self) -> Result<Status, KeepingError> {
        self.check(true).await?;
        let totals = self.control.suppression_totals().await?.unwrap_or_default().totals;
        let kept = self.kept().await?;
        Ok(Status {
            entries: totals.entries,
            hash: totals.digest.to_string(),
            lake_entries: kept.as_ref().map(|kept| kept.totals.entries),
            lake_hash: kept.as_ref().map(|kept| kept.totals.digest.to_string()),
            kept_at: kept.map(|kept| kept.at),
            memory_bytes: self.suppressions.size().1,
            incomplete: self.suppressions.incomplete().map(|why| why.to_string()),
        })
    }
}

/// Why a control store is not the one whose list the lake keeps, or an older copy of it.
fn differs(kept: &Kept, recorded: &Recorded, list_id: &str) -> Option<String> {
    let (noted_seq, noted_digest) = recorded.noted;
    let rebuild = "restore control.db from a newer backup, or run `sendlake suppression rebuild`";
    if kept.list_id != list_id {
        let entries = kept.totals.entries;
        return (entries > 0).then(|| {
            format!(
                "the lake knows a list of {entries} suppressions of this node (as of {}), and control.db was made anew \
                 since, with {} of its own; {rebuild}",
                kept.at, recorded.totals.entries
            )
        });
    }
    if kept.totals.seq > noted_seq {
        return Some(format!(
            "control.db is older than the list that the lake knows: the lake has {} suppressions as of change {} ({}), \
             control.db handed over none later than {noted_seq}; {rebuild}",
            kept.totals.entries, kept.totals.seq, kept.at
        ));
    }
    (kept.totals.seq == noted_seq && kept.totals.digest != noted_digest).then(|| {
        format!(
            "control.db holds other suppressions than the lake knows as of change {noted_seq} ({} there); {rebuild}",
            kept.totals.entries
        )
    })
}
