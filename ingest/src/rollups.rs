//! Rollups: events summed by minute and by hour, in two small Delta tables beside `events`, kept up by what is new.
//!
//! A rollup holds *partial sums*: a refresh takes the events that came since the last one, sums them, and appends the
//! sums, so that rows with the same labels are added up by whoever reads. Each commit says in the same breath, as Delta
//! transactions, how far it has come in each spool's log and which version of `events` that was. So every event counts
//! once, whatever fails in between, whoever else refreshes, and in whatever order events arrive: a late one makes a
//! partial sum in its own hour.
//!
//! The transactions in their logs make both of them readers of `events` that retention waits for.
//!
//! - [`schema`]: the columns
//! - [`table`]: one rollup, pinned with its positions; the commit that all changes go through
//! - [`refresh`]: new events to partial sums
//! - [`tidy`]: files that became many are folded into one, days that are over go
//! - [`verify`]: computed anew from events, and compared

pub mod refresh;
pub mod schema;
pub mod table;
pub mod tidy;
pub mod verify;

mod sum;

use self::table::{Grain, RollupTable};
use crate::store::LakeStore;
use crate::table::LakeError;

/// Both rollups of one lake.
#[derive(Debug)]
pub struct Rollups {
    pub minute: RollupTable,
    pub hourly: RollupTable,
}

impl Rollups {
    /// Opens both tables, making what is not there. Safe to call from several processes at once.
    pub async fn open(store: &LakeStore) -> Result<Self, LakeError> {
        Ok(Self {
            minute: RollupTable::open(store, Grain::Minute).await?,
            hourly: RollupTable::open(store, Grain::Hour).await?,
        })
    }

    /// Opens both tables if they are there, for whoever only reads.
    pub async fn open_existing(store: &LakeStore) -> Result<Option<Self>, LakeError> {
        let minute = RollupTable::open_existing(store, Grain::Minute).await?;
        let hourly = RollupTable::open_existing(store, Grain::Hour).await?;
        Ok(minute.zip(hourly).map(|(minute, hourly)| Self { minute, hourly }))
    }

    pub fn tables(&self) -> [&RollupTable; 2] {
        [&self.minute, &self.hourly]
    }
}

#[cfg(test)]
mod tests;
