//! Rows become columns: sorted first, so that each value is moved once, and on several threads, since the rows lie all
//! over memory and a thread mostly waits for it.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::error::ArrowError;

use super::threads;
use crate::event::{EVENTS_SCHEMA, LoggedEvent, to_batch_of};
use crate::table::layout;

/// The rows in the order of every file of the table, as one batch.
pub(super) fn sorted(rows: &[LoggedEvent]) -> Result<RecordBatch, ArrowError> {
    let rows = layout::in_order(rows);
    let share = rows.len().div_ceil(threads()).max(1);
    let batches = std::thread::scope(|scope| {
        let working: Vec<_> = rows.chunks(share).map(|rows| scope.spawn(|| to_batch_of(rows))).collect();
        let ended = |_| ArrowError::ComputeError("a thread that fills columns ended early".to_owned());
        working.into_iter().map(|thread| thread.join().map_err(ended)?).collect::<Result<Vec<_>, _>>()
    })?;
    match <[RecordBatch; 1]>::try_from(batches) {
        Ok([batch]) => Ok(batch),
        Err(batches) => concat_batches(&EVENTS_SCHEMA, &batches),
    }
}
