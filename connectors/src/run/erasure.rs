//! What was erased from the lake, taken out of a destination too: rows that are gone are deleted there, rows in which an address
//! was replaced take the place of theirs.

use std::collections::{BTreeMap, HashSet};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Date32Type, Int64Type};
use aws_lc_rs::digest::{SHA256, digest};
use data_encoding::HEXLOWER;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use sendlake_control::export::ExportBatch;
use sendlake_ingest::erase::keys::{ended, read};
use sendlake_ingest::table::LakeError;
use sendlake_ingest::table::slice::LsnRange;
use uuid::Uuid;

use super::{Connector, ExportError, Exporter};
use crate::batch::Change;
use crate::stage::{Shape, day};

/// Where a spool's replaced rows stand: first and last LSN, first and last day.
type Spans = BTreeMap<Uuid, ((u64, u64), (i32, i32))>;

impl Exporter {
    /// Plans what follows from erasures that have ended since the last run. What is staged already may hold what was erased
    /// meanwhile: it is staged again, from the lake as it is now.
    pub(super) async fn plan_erasures(&self, connector: &Connector) -> Result<(), ExportError> {
        let planned: HashSet<String> =
            self.control.export_erasures(&connector.name).await?.into_iter().collect();
        let mut new = ended(&self.store).await?;
        new.retain(|name| !planned.contains(name));
        if new.is_empty() {
            return Ok(());
        }
        self.clear_staged(&connector.name).await;
        let batches: Vec<ExportBatch> = new
            .iter()
            .flat_map(|name| {
                [Change::Delete, Change::Replace].map(|change| of_erasure(connector, name, change))
            })
            .collect();
        self.control.plan_export(&batches).await?;
        Ok(())
    }

    /// Removes staged files; what needs one makes it again.
    async fn clear_staged(&self, connector: &str) {
        let Ok(mut folder) = tokio::fs::read_dir(self.staging.join(connector)).await else { return };
        while let Ok(Some(file)) = folder.next_entry().await {
            if file.path().extension().is_some() {
                // One that stays is found to be staged by its size, and holds what was true then: tried again next time.
                let _ = tokio::fs::remove_file(file.path()).await;
            }
        }
    }

    /// The rows of one erasure that are deleted (their keys), or that take the place of others (as the lake holds them now).
    pub(super) async fn erased_rows(
        &self,
        erasure: &str,
        change: Change,
        shape: &Shape,
    ) -> Result<BoxStream<'static, Result<RecordBatch, LakeError>>, ExportError> {
        let mut keys = Vec::new();
        for rows in read(&self.store, erasure).await? {
            let changes = rows.column_by_name("change").map(|column| column.as_string::<i32>().clone());
            let wanted = changes.map(|changes| -> BooleanArray {
                changes.iter().map(|of| Some(of == Some(change.as_str()))).collect()
            });
            if let Some(wanted) = wanted {
                keys.push(filter_record_batch(&rows, &wanted).map_err(LakeError::from)?);
            }
        }
        if change == Change::Delete {
            return Ok(stream::iter(keys.into_iter().map(Ok)).boxed());
        }
        let (ids, spans) = where_they_stand(&keys);
        let reached = self.lake.reached().await?;
        let files = self.lake.slice_files(&reached.pinned)?;
        let mut parts = Vec::new();
        for (incarnation, ((first, last), (first_day, last_day))) in spans {
            let range = LsnRange {
                incarnation,
                after_lsn: first.saturating_sub(1),
                through_lsn: last,
                days: Some((day(first_day), day(last_day))),
            };
            parts.push(self.lake.slice(&files, &range, &shape.columns())?);
        }
        let rows = stream::iter(parts).flatten().map(move |rows| {
            let rows = rows?;
            let found = rows.column_by_name("event_id").map(|column| column.as_string::<i32>().clone());
            let wanted: BooleanArray =
                found.iter().flatten().map(|id| Some(id.is_some_and(|id| ids.contains(id)))).collect();
            Ok(filter_record_batch(&rows, &wanted)?)
        });
        Ok(rows.try_filter(|rows| std::future::ready(rows.num_rows() > 0)).boxed())
    }
}

fn where_they_stand(keys: &[RecordBatch]) -> (HashSet<String>, Spans) {
    let (mut ids, mut spans) = (HashSet::new(), Spans::new());
    for rows in keys {
        let column = |name: &str| rows.column_by_name(name);
        let (Some(found), Some(spools), Some(lsns), Some(days)) =
            (column("event_id"), column("incarnation"), column("lsn"), column("event_date"))
        else {
            continue;
        };
        ids.extend(found.as_string::<i32>().iter().flatten().map(str::to_owned));
        let (lsns, days) = (lsns.as_primitive::<Int64Type>(), days.as_primitive::<Date32Type>());
        for (row, spool) in spools.as_string::<i32>().iter().enumerate() {
            let Ok(spool) = Uuid::parse_str(spool.unwrap_or_default()) else { continue };
            let (lsn, day) = (lsns.value(row).unsigned_abs(), days.value(row));
            let ((first, last), (first_day, last_day)) =
                spans.entry(spool).or_insert(((lsn, lsn), (day, day)));
            (*first, *last) = (lsn.min(*first), lsn.max(*last));
            (*first_day, *last_day) = (day.min(*first_day), day.max(*last_day));
        }
    }
    (ids, spans)
}

fn of_erasure(connector: &Connector, erasure: &str, change: Change) -> ExportBatch {
    let version = &connector.mapping.version;
    let text = format!("1|erased|{erasure}|{}|{version}", change.as_str());
    let batch_id = HEXLOWER.encode(digest(&SHA256, text.as_bytes()).as_ref()).chars().take(32).collect();
    ExportBatch {
        batch_id,
        source_table: connector.mapping.table.clone(),
        change: change.as_str().to_owned(),
        erasure: Some(erasure.to_owned()),
        ..super::blank(connector)
    }
}
