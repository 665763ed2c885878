//! Whether the lake's events under some numbers are ours: numbers alone do not tell two copies of one spool apart.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use deltalake::DeltaTableError;
use deltalake::datafusion::prelude::{SessionContext, col, lit};
use uuid::Uuid;

use super::{lsns, text};
use crate::table::{EventsTable, LakeError, Pinned};

impl EventsTable {
    /// Up to which LSN the newest version holds the same events as `ours`, some of one spool's by number. At least
    /// the LSN before the first of them; those above what the lake has committed are left out.
    ///
    /// Events that the lake holds no more (erased, expired) count as the same.
    pub async fn shared_lsn(&self, incarnation: Uuid, ours: Vec<(u64, Uuid)>) -> Result<u64, LakeError> {
        let pinned = self.pin(Some(incarnation)).await?;
        let ours = ours.into_iter().filter(|(lsn, _)| *lsn <= pinned.committed_lsn);
        let ours = ours.map(|(lsn, event_id)| (lsn, event_id.to_string())).collect();
        self.agreement(&pinned, incarnation, ours).await
    }

    /// Fails when the table holds other events than `batch` under the same numbers.
    pub(super) async fn compare(
        &self,
        pinned: &Pinned,
        incarnation: Uuid,
        batch: &RecordBatch,
    ) -> Result<(), LakeError> {
        let committed_lsn = pinned.committed_lsn;
        let ids = text(batch, "event_id")?;
        let numbered = lsns(batch)?.values().iter().zip(ids.iter().flatten());
        let numbered = numbered.map(|(lsn, id)| (lsn.cast_unsigned(), id.to_owned()));
        let ours: Vec<_> = numbered.filter(|(lsn, _)| *lsn <= committed_lsn).collect();
        let Some(last_lsn) = ours.iter().map(|(lsn, _)| *lsn).max() else { return Ok(()) };
        let shared_lsn = self.agreement(pinned, incarnation, ours).await?;
        if shared_lsn >= last_lsn {
            return Ok(());
        }
        Err(LakeError::Forked { table: self.url().clone(), incarnation, shared_lsn, committed_lsn })
    }

    /// The last LSN before the first one under which the table has another event than `ours`.
    async fn agreement(
        &self,
        pinned: &Pinned,
        incarnation: Uuid,
        mut ours: Vec<(u64, String)>,
    ) -> Result<u64, LakeError> {
        ours.sort_unstable();
        let (Some((first_lsn, _)), Some((last_lsn, _))) = (ours.first().cloned(), ours.last().cloned())
        else {
            return Ok(pinned.committed_lsn);
        };
        let theirs = self.ids_in_lake(pinned, incarnation, first_lsn, last_lsn).await?;
        let foreign = ours.iter().find(|(lsn, id)| theirs.get(lsn).is_some_and(|there| there != id));
        Ok(foreign.map_or(last_lsn, |(lsn, _)| lsn.saturating_sub(1)))
    }

    async fn ids_in_lake(
        &self,
        pinned: &Pinned,
        incarnation: Uuid,
        first_lsn: u64,
        last_lsn: u64,
    ) -> Result<HashMap<u64, String>, LakeError> {
        let read = async {
            let provider = pinned.table.table_provider().build().await?;
            let wanted = col("incarnation")
                .eq(lit(incarnation.to_string()))
                .and(col("lsn").between(lit(first_lsn.cast_signed()), lit(last_lsn.cast_signed())));
            let rows = SessionContext::new()
                .read_table(Arc::new(provider))?
                .filter(wanted)?
                .select_columns(&["lsn", "event_id"])?
                .collect()
                .await?;
            Ok::<_, DeltaTableError>(rows)
        };
        let mut found = HashMap::new();
        for batch in read.await.map_err(self.failed("compare events with"))? {
            let ids = cast(batch.column(1), &DataType::Utf8)?;
            let ids = ids.as_string::<i32>();
            let numbered = lsns(&batch)?.values().iter().zip(ids.iter().flatten());
            found.extend(numbered.map(|(lsn, id)| (lsn.cast_unsigned(), id.to_owned())));
        }
        Ok(found)
    }
}
