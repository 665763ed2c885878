//! Which events of another sender the lake holds already.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;
use deltalake::DeltaTableError;
use deltalake::datafusion::prelude::{SessionContext, col, lit};
use deltalake::datafusion::scalar::ScalarValue;
use futures::StreamExt;
use uuid::Uuid;

use crate::event::Event;
use crate::table::{EventsTable, LakeError};

impl EventsTable {
    /// The ids among those of `events` (all of one tenant) that the newest version holds. Reads the ids of the days on
    /// which they happened.
    pub async fn known_ids(&self, events: &[Event]) -> Result<HashSet<Uuid>, LakeError> {
        let asked: HashSet<Uuid> = events.iter().map(|event| event.event_id).collect();
        let days = || events.iter().map(|event| event.occurred_at.days());
        let pools: HashSet<&str> = events.iter().filter_map(|event| event.ip_pool.as_deref()).collect();
        let (Some(first), Some(last), Some(tenant)) =
            (days().min(), days().max(), events.first().map(|event| event.tenant_id.as_str()))
        else {
            return Ok(HashSet::new());
        };
        let pinned = self.pin(None).await?;
        let day = |day: i32| lit(ScalarValue::Date32(Some(day)));
        let pools = pools.into_iter().map(lit).collect();
        let wanted = col("event_date")
            .between(day(first), day(last))
            .and(col("tenant_id").eq(lit(tenant)))
            .and(col("ip_pool").in_list(pools, false));
        let read = async {
            let provider = pinned.table.table_provider().build().await?;
            let stream = SessionContext::new()
                .read_table(Arc::new(provider))?
                .filter(wanted)?
                .select_columns(&["event_id"])?
                .execute_stream()
                .await?;
            Ok::<_, DeltaTableError>(stream)
        };
        let mut batches = read.await.map_err(self.failed("look for events in"))?;
        let mut known = HashSet::new();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| self.failed("look for events in")(error.into()))?;
            let ids = cast(batch.column(0), &DataType::Utf8)?;
            let ids = ids.as_string::<i32>().iter().flatten().filter_map(|id| Uuid::parse_str(id).ok());
            known.extend(ids.filter(|id| asked.contains(id)));
        }
        Ok(known)
    }
}
