//! Keeps the tables small: files of one day that became many are joined, days past their time go.

use std::collections::BTreeMap;

use deltalake::kernel::{Action, Add, LogicalFileView};
use deltalake::protocol::DeltaOperation;
use sendlake_control::clock::Timestamp;

use super::ReportTables;
use super::table::{ReportTable, day_of};
use crate::maintain::source::{Columns, DataFile};
use crate::table::LakeError;

/// Only files below this size are joined, so that a join never takes more memory than so many small files.
const SMALL_BYTES: i64 = 4 << 20;
/// So many small files of one day are joined: reports of a day come over days.
const FILES_MAX: usize = 8;
/// Most joined at once.
const JOINED_MAX: usize = 64;

/// What was tidied up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Files that were joined into others.
    pub files_joined: u64,
    /// Files of days that are no longer kept.
    pub files_expired: u64,
}

impl ReportTables {
    /// Joins and expires in each table; `retention_days` of 0 keeps all. What somebody else changes at the same moment is
    /// left for the next time.
    pub async fn tidy(&self, now: Timestamp, retention_days: u32) -> Result<Tidied, LakeError> {
        let mut done = Tidied::default();
        for table in self.all() {
            if !table.exists().await? {
                continue;
            }
            if retention_days > 0 {
                let first = now.days().saturating_sub(i32::try_from(retention_days).unwrap_or(i32::MAX));
                table.expire(first, &mut done).await?;
            }
            while table.join_a_day(&mut done).await? {}
        }
        Ok(done)
    }
}

impl ReportTable {
    async fn expire(&self, first_day: i32, done: &mut Tidied) -> Result<(), LakeError> {
        let _turn = self.changing.lock().await;
        let table = self.pin().await?;
        let files = self.files(&table)?;
        let over = files.iter().filter(|file| day_of(file).is_some_and(|day| day < first_day));
        let removes: Vec<Action> = over.map(|file| Action::Remove(file.remove_action(true))).collect();
        let files = removes.len() as u64;
        if files > 0 && self.commit(&table, removes, DeltaOperation::Delete { predicate: None }).await? {
            done.files_expired += files;
        }
        Ok(())
    }

    /// Joins the files of the first day that has too many. False when none has, or somebody else was faster.
    async fn join_a_day(&self, done: &mut Tidied) -> Result<bool, LakeError> {
        let _turn = self.changing.lock().await;
        let table = self.pin().await?;
        let mut days: BTreeMap<i32, Vec<LogicalFileView>> = BTreeMap::new();
        for file in self.files(&table)? {
            if file.size() < SMALL_BYTES
                && let Some(day) = day_of(&file)
            {
                days.entry(day).or_default().push(file);
            }
        }
        let Some(mut crowd) = days.into_values().find(|files| files.len() >= FILES_MAX) else {
            return Ok(false);
        };
        crowd.truncate(JOINED_MAX);
        let state = table.snapshot().map_err(self.failed("read the state of"))?;
        // also columns that a later version added
        let schema = state.snapshot().arrow_schema();
        let files = crowd.iter().map(DataFile::of).collect();
        let rows = self.read(files, schema.clone(), Columns::All).await?;
        let adds = self.write_rows(&table, &schema, &rows).await?;
        let adds = adds.into_iter().map(|add| Action::Add(Add { data_change: false, ..add }));
        let removes = crowd.iter().map(|file| Action::Remove(file.remove_action(false)));
        let operation = DeltaOperation::Optimize { predicate: None, target_size: SMALL_BYTES };
        let joined = self.commit(&table, adds.chain(removes).collect(), operation).await?;
        if joined {
            done.files_joined += crowd.len() as u64;
        }
        Ok(joined)
    }
}
