//! Keeps rollups small: partial sums that lie in many files are folded into one, and days that are over go.

use std::collections::BTreeMap;

use deltalake::kernel::{Action, Add, LogicalFileView};
use deltalake::protocol::DeltaOperation;
use futures::TryStreamExt;
use sendlake_control::clock::Timestamp;

use super::schema::{PARTITION_COLUMN, ROLLUP_SCHEMA};
use super::table::{PinnedRollup, RollupTable};
use super::{Rollups, sum};
use crate::maintain::source::{self, Columns, DataFile};
use crate::table::LakeError;

/// Only files below this size are folded, so that folding a day never takes more memory than so many small files.
const SMALL_BYTES: u64 = 8 << 20;
/// So many small files of today are folded: at one refresh a minute, twice an hour.
const FILES_MAX: usize = 30;
/// And of a day that is over, which gets few more.
const FILES_MAX_OLD: usize = 4;
const BATCH_ROWS: usize = 8_192;

/// What was tidied up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Files that were replaced, and by how many.
    pub files_folded: u64,
    pub files_written: u64,
    /// Files of days that are no longer kept.
    pub files_expired: u64,
}

impl Rollups {
    /// Folds and expires in both rollups. What somebody else changes at the same moment is left for the next time.
    pub async fn tidy(&self, now: Timestamp) -> Result<Tidied, LakeError> {
        let mut done = Tidied::default();
        for table in self.tables() {
            table.expire(now, &mut done).await?;
            while table.fold_a_day(now, &mut done).await? {}
        }
        Ok(done)
    }
}

impl RollupTable {
    async fn expire(&self, now: Timestamp, done: &mut Tidied) -> Result<(), LakeError> {
        let Some(first) = self.grain().first_day(now) else {
            return Ok(());
        };
        let pinned = self.pin().await?;
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        let over = state.log_data().into_iter().filter(|file| day_of(file).is_some_and(|day| day < first));
        let removes: Vec<Action> = over.map(|file| Action::Remove(file.remove_action(true))).collect();
        if removes.is_empty() {
            return Ok(());
        }
        let files = removes.len() as u64;
        let operation = DeltaOperation::Delete { predicate: None };
        if self.commit(&pinned, removes, &pinned.positions, operation).await?.is_some() {
            done.files_expired += files;
        }
        Ok(())
    }

    /// Folds the first day that needs it. False when none does, or somebody else was faster.
    async fn fold_a_day(&self, now: Timestamp, done: &mut Tidied) -> Result<bool, LakeError> {
        let pinned = self.pin().await?;
        let Some(files) = self.crowded(&pinned, now)? else { return Ok(false) };
        let removes: Vec<Action> =
            files.iter().map(|file| Action::Remove(file.remove_action(false))).collect();
        let files: Vec<DataFile> = files.iter().map(DataFile::of).collect();
        let folded = files.len() as u64;
        let store = self.log_store.object_store(None);
        let rows = source::read(store, files, ROLLUP_SCHEMA.clone(), Columns::All, BATCH_ROWS);
        let partials: Vec<_> = rows.try_collect().await.map_err(|fault| LakeError::Unreadable {
            table: self.url().clone(),
            path: fault.path,
            reason: fault.reason,
        })?;
        let sums = sum::fold(self.grain(), None, partials).await?;
        let adds = self.write(&pinned, &sums).await?;
        let written = adds.len() as u64;
        // The sums are the same, so readers of what changed need not look.
        let adds = adds.into_iter().map(|add| Action::Add(Add { data_change: false, ..add }));
        let operation = DeltaOperation::Optimize {
            predicate: None,
            target_size: i64::try_from(SMALL_BYTES).unwrap_or(i64::MAX),
        };
        let actions = removes.into_iter().chain(adds).collect();
        let landed = self.commit(&pinned, actions, &pinned.positions, operation).await?.is_some();
        if landed {
            done.files_folded += folded;
            done.files_written += written;
        }
        Ok(landed)
    }

    /// The small files of a day that has too many of them.
    fn crowded(
        &self,
        pinned: &PinnedRollup,
        now: Timestamp,
    ) -> Result<Option<Vec<LogicalFileView>>, LakeError> {
        let state = pinned.table.snapshot().map_err(self.failed("read the state of"))?;
        let mut days: BTreeMap<i32, Vec<LogicalFileView>> = BTreeMap::new();
        for file in state.log_data() {
            if u64::try_from(file.size()).is_ok_and(|bytes| bytes < SMALL_BYTES)
                && let Some(day) = day_of(&file)
            {
                days.entry(day).or_default().push(file);
            }
        }
        let most = |day: i32| if day < now.days() { FILES_MAX_OLD } else { FILES_MAX };
        Ok(days.into_iter().find(|(day, files)| files.len() >= most(*day)).map(|(_, files)| files))
    }
}

/// The day of a file's rows, since the epoch.
fn day_of(file: &LogicalFileView) -> Option<i32> {
    let values = file.partition_values_map();
    let midnight = format!("{}T00:00:00Z", values.get(PARTITION_COLUMN)?.as_deref()?);
    Timestamp::parse(&midnight).map(Timestamp::days)
}
