//! Looks for one address in everything that lies under the lake's folder: every file of every table, named by a
//! version or not, decoded whole; logs and checkpoints; whatever else is there.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::Serialize;

use super::Finding;
use crate::erase::forms::AddressForms;
use crate::erase::holds;
use crate::store::LakeStore;

/// Objects read at the same time: so many are in memory.
const READS_AT_ONCE: usize = 2;

/// What was looked through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Traced {
    pub files: u64,
    pub bytes: u64,
    pub rows: u64,
}

/// Looks through a lake. What cannot be read is a finding as well: nobody knows what it holds.
pub async fn trace(store: &LakeStore, forms: &AddressForms, findings: &mut Vec<Finding>) -> Traced {
    let folder = Path::from_url_path(store.url.path()).unwrap_or_default();
    let prefix = (!folder.as_ref().is_empty()).then_some(&folder);
    let objects: Vec<ObjectMeta> = match store.root.list(prefix).try_collect().await {
        Ok(objects) => objects,
        Err(error) => {
            findings.push(super::finding::unreachable(store.url.as_str(), &error.to_string()));
            return Traced::default();
        }
    };
    let mut seen = Traced::default();
    let mut reads = stream::iter(objects)
        .map(async |object| {
            let bytes = async { store.root.get(&object.location).await?.bytes().await }.await;
            (object.location, bytes)
        })
        .buffered(READS_AT_ONCE);
    let forms = Arc::new(forms.clone());
    while let Some((path, bytes)) = reads.next().await {
        let below = path.as_ref().strip_prefix(folder.as_ref()).unwrap_or(path.as_ref());
        let place = format!("{}{}", store.url, below.trim_start_matches('/'));
        match bytes {
            Ok(bytes) => {
                seen.files += 1;
                seen.bytes += bytes.len() as u64;
                let forms = Arc::clone(&forms);
                let traced = tokio::task::spawn_blocking(move || trace_file(&forms, &place, bytes)).await;
                match traced {
                    Ok((rows, found)) => {
                        seen.rows += rows;
                        findings.extend(found);
                    }
                    Err(ended) => findings.push(unreadable(path.as_ref(), &ended.to_string())),
                }
            }
            // Vacuumed, or a lease that was given back, since the listing.
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => findings.push(unreadable(&place, &error.to_string())),
        }
    }
    seen
}

/// Looks through one file. Returns how many rows it has, and what was found.
pub fn trace_file(forms: &AddressForms, place: &str, bytes: Bytes) -> (u64, Option<Finding>) {
    if !place.ends_with(".parquet") {
        return (0, forms.is_in(&bytes).then(|| left(place, "its text", 1)));
    }
    match trace_parquet(forms, bytes) {
        Ok((rows, columns)) if columns.is_empty() => (rows, None),
        Ok((rows, columns)) => {
            let named: Vec<&str> = columns.keys().map(String::as_str).collect();
            let count = columns.values().sum();
            (rows, Some(left(place, &format!("column {}", named.join(", ")), count)))
        }
        Err(problem) => (0, Some(unreadable(place, &problem))),
    }
}

/// How many batches of each column, or of the footer, hold it.
fn trace_parquet(forms: &AddressForms, bytes: Bytes) -> Result<(u64, BTreeMap<String, u64>), String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| error.to_string())?;
    let mut found: BTreeMap<String, u64> = BTreeMap::new();
    let metadata = builder.metadata();
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let kept = column.statistics().into_iter().flat_map(|it| [it.min_bytes_opt(), it.max_bytes_opt()]);
        if kept.flatten().any(|value| forms.is_in(value)) {
            *found.entry(format!("{} (statistics)", column.column_path())).or_default() += 1;
        }
    }
    let pairs = metadata.file_metadata().key_value_metadata().into_iter().flatten();
    for pair in pairs.filter(|pair| pair.key != "ARROW:schema") {
        if pair.value.as_ref().is_some_and(|value| forms.is_in(value.as_bytes())) {
            *found.entry(format!("{} (footer)", pair.key)).or_default() += 1;
        }
    }
    let mut rows = 0;
    for batch in builder.build().map_err(|error| error.to_string())? {
        let batch = batch.map_err(|error| error.to_string())?;
        rows += batch.num_rows() as u64;
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            if holds(forms, column) {
                *found.entry(field.name().clone()).or_default() += 1;
            }
        }
    }
    Ok((rows, found))
}

/// The address is in a place outside the lake.
pub fn left_in(place: &str, what: &str) -> Finding {
    Finding::error("erased", place, format!("the address is in {what}"), ERASE)
}

fn left(place: &str, what: &str, count: u64) -> Finding {
    let times = if count > 1 { format!(", in {count} places") } else { String::new() };
    Finding::error("erased", place, format!("the address is in {what}{times}"), ERASE)
}

const ERASE: &str = "run `sendlake lake erase --recipient …` (again): it takes what has come since, and what was too \
                     young to be removed";

fn unreadable(place: &str, problem: &str) -> Finding {
    Finding::error(
        "erased",
        place,
        format!("it cannot be read, so nobody knows whether the address is in it: {problem}"),
        "see `sendlake lake verify`; if nothing needs the file, remove it",
    )
}
