//! Days that are loaded again, beside the live loads: planned a day at a time, a batch per call.

use chrono::NaiveDate;
use sendlake_control::export::ExportBackfill;
use sendlake_ingest::maintain::reader::ReaderPosition;

use super::{Connector, ExportError, Exporter, Ran, planned};
use crate::batch::Change;
use crate::plan;

impl Exporter {
    /// The next batch of the oldest backfill that is not over.
    pub(super) async fn load_backfill(
        &self,
        connector: &Connector,
        position: &ReaderPosition,
        ran: &mut Ran,
    ) -> Result<(), ExportError> {
        let backfills = self.control.export_backfills(Some(&connector.name)).await?;
        let Some(mut backfill) = backfills.into_iter().rev().find(|backfill| backfill.ended_at.is_none())
        else {
            return Ok(());
        };
        loop {
            let open = self.control.open_export_batches(&connector.name).await?;
            let of_it = open.iter().find(|batch| batch.backfill_id.as_deref() == Some(&backfill.backfill_id));
            if let Some(batch) = of_it {
                return self.load(connector, batch, &mut position.clone(), ran).await;
            }
            if backfill.next_day > backfill.last_day {
                self.control.end_export_backfill(&backfill.backfill_id, "done").await?;
                return Ok(());
            }
            self.plan_day(connector, position, &mut backfill).await?;
        }
    }

    async fn plan_day(
        &self,
        connector: &Connector,
        position: &ReaderPosition,
        backfill: &mut ExportBackfill,
    ) -> Result<(), ExportError> {
        let reached = self.lake.reached().await?;
        let files = self.lake.slice_files(&reached.pinned)?;
        let rows = plan::rows_per_batch(&files, connector.settings.batch_bytes);
        let change = if backfill.replaces { Change::Replace } else { Change::Add };
        let id = Some(backfill.backfill_id.as_str());
        let ranges = plan::day(&files, &backfill.next_day, &position.lsn, rows);
        let batches: Vec<_> = ranges.iter().map(|range| planned(connector, range, change, id)).collect();
        self.control.plan_export(&batches).await?;
        let day: NaiveDate = backfill.next_day.parse().map_err(|_| {
            ExportError::Ledger(format!(
                "{:?} is no day of backfill {}",
                backfill.next_day, backfill.backfill_id
            ))
        })?;
        // The last day there is has none after it; then this is the last one of any backfill.
        backfill.next_day = day.succ_opt().map_or_else(|| "9999-99-99".to_owned(), |next| next.to_string());
        self.control.export_backfill_planned(&backfill.backfill_id, &backfill.next_day).await?;
        Ok(())
    }
}
