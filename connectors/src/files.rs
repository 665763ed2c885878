//! Files in a folder or a bucket: Parquet, CSV or NDJSON, one object per batch and day, under names that say so.
//!
//! `<url>/events/event_date=2026-01-31/<batch_id>.parquet`: every engine that knows Hive partitions reads it as a table. A
//! batch that comes again writes the same objects again, so a repeat changes nothing.

mod format;
mod groups;
pub mod settings;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path as FilePath, PathBuf};

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Date32Type, Int64Type, TimestampMicrosecondType};
use arrow::error::ArrowError;
use async_trait::async_trait;
use futures::TryStreamExt;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use sendlake_control::clock::Timestamp;
use sendlake_ingest::store::{LakeStore, open_store};
use tokio::io::AsyncWriteExt;
use uuid::Uuid;

use self::format::{Reading, Writing};
pub use self::settings::{Compression, FileFormat, Settings};
use crate::batch::Change;
use crate::mapping::Mapping;
use crate::secret::SecretSource;
use crate::stage::day;
use crate::target::{Bounds, HourTally, JobLog, Loaded, StagedBatch, Target, TargetError};

/// What the files of all days of a batch keep in memory together.
const OPEN_BYTES: usize = 48 << 20;
const HOUR_US: i64 = 3_600 * Timestamp::SECOND;

/// A folder of files, wherever it is.
pub struct Files {
    place: LakeStore,
    settings: Settings,
}

/// Opens the place. No request is made yet.
pub async fn connect(settings: &Settings, secrets: &dyn SecretSource) -> Result<Files, TargetError> {
    let mut options = settings.options.clone();
    for (option, secret) in &settings.secret_options {
        let value =
            secret.resolve(secrets).await.map_err(|error| TargetError::Credentials(error.to_string()))?;
        options.insert(option.clone(), value.to_string());
    }
    let place =
        open_store(&settings.url, &options).map_err(|error| TargetError::Refused(error.to_string()))?;
    Ok(Files { place, settings: settings.clone() })
}

/// How the files are read without loading them anywhere.
pub fn ddl(settings: &Settings, mapping: &Mapping) -> String {
    include_str!("files/read.sql")
        .replace("{url}", settings.url.trim_end_matches('/'))
        .replace("{table}", &mapping.table)
        .replace("{extension}", settings.extension())
        .replace("{reader}", settings.format.duckdb_reader())
        .replace("{spark}", settings.format.spark_format())
}

#[async_trait]
impl Target for Files {
    async fn prepare(&self, mapping: &Mapping) -> Result<Vec<String>, TargetError> {
        let about = self.folder(mapping).join("_columns.json");
        let columns = serde_json::to_vec_pretty(&mapping.columns).unwrap_or_default();
        let known = match self.place.root.get(&about).await {
            Ok(found) => Some(found.bytes().await.map_err(|error| self.failed(&error))?),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => return Err(self.failed(&error)),
        };
        if known.as_deref() == Some(columns.as_slice()) {
            return Ok(Vec::new());
        }
        self.place.root.put(&about, columns.into()).await.map_err(|error| self.failed(&error))?;
        let said = match known {
            None => format!("made {}{}/", self.place.url, mapping.table),
            Some(_) => {
                "the list of columns has changed: new files have the new ones, older files keep theirs"
                    .to_owned()
            }
        };
        Ok(vec![said])
    }

    async fn load(&self, batch: &StagedBatch, _: &dyn JobLog) -> Result<Loaded, TargetError> {
        let rows = match batch.change {
            Change::Add => self.add(batch).await?,
            Change::Delete => self.remove(batch).await?,
            // First gone, then there: a stop in between ends with both done at the next try.
            Change::Replace => {
                self.remove(batch).await?;
                self.add(batch).await?
            }
        };
        Ok(Loaded { rows: Some(rows), job_id: None })
    }

    async fn tally(&self, mapping: &Mapping, bounds: &Bounds) -> Result<Vec<HourTally>, TargetError> {
        let mut hours: BTreeMap<i64, (HourTally, HashSet<u128>)> = BTreeMap::new();
        let days = (day(bounds.from.days()), day(Timestamp(bounds.to.0.saturating_sub(1)).days()));
        for object in self.objects(mapping, &days).await? {
            let (_folder, local) = self.fetch(&object).await?;
            let reading = Reading::open(&local, &self.settings, mapping);
            for rows in reading.map_err(|reason| unreadable(&object, &reason))? {
                let rows = rows.map_err(|reason| unreadable(&object, &reason))?;
                tally_rows(&mut hours, &rows, bounds)
                    .map_err(|error| unreadable(&object, &error.to_string()))?;
            }
        }
        Ok(hours
            .into_values()
            .map(|(tally, events)| HourTally { events: events.len() as u64, ..tally })
            .collect())
    }
}

impl Files {
    fn folder(&self, mapping: &Mapping) -> Path {
        Path::from_url_path(self.place.url.path()).unwrap_or_default().join(mapping.table.as_str())
    }

    fn failed(&self, error: &object_store::Error) -> TargetError {
        let said = format!("{} cannot be read or written: {error}", self.place.url);
        match error {
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
                TargetError::Credentials(said)
            }
            _ => TargetError::Away(said),
        }
    }

    /// Writes the batch's rows, a file per day. Returns how many.
    async fn add(&self, batch: &StagedBatch) -> Result<u64, TargetError> {
        let made = tempfile_in(&batch.file, "days")?;
        let split = tokio::task::block_in_place(|| self.split(batch, made.path()));
        let (days, rows) = split.map_err(TargetError::Local)?;
        for (date, local) in days {
            let name = format!("{}.{}", batch.batch_id, self.settings.extension());
            let place = self.folder(&batch.mapping).join(format!("event_date={date}")).join(name);
            self.upload(&local, &place).await?;
        }
        Ok(rows)
    }

    fn split(&self, batch: &StagedBatch, dir: &FilePath) -> Result<groups::Days, String> {
        if self.settings.format == FileFormat::Parquet
            && let Some(done) = groups::by_day(&batch.file, dir).map_err(|error| error.to_string())?
        {
            return Ok(done);
        }
        let mut files: BTreeMap<i32, (PathBuf, Writing)> = BTreeMap::new();
        let mut count = 0;
        for rows in Reading::parquet(&batch.file)? {
            let rows = rows?;
            let dates =
                rows.column_by_name("event_date").map(|column| column.as_primitive::<Date32Type>().clone());
            let dates = dates.ok_or("the staged file has no event_date")?;
            let found: BTreeSet<i32> = dates.values().iter().copied().collect();
            for date in found {
                let of_day: BooleanArray = dates.values().iter().map(|other| Some(*other == date)).collect();
                let part = filter_record_batch(&rows, &of_day).map_err(|error| error.to_string())?;
                count += part.num_rows() as u64;
                let share = OPEN_BYTES / (files.len() + 1);
                let (_, writing) = match files.entry(date) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => {
                        let path = dir.join(day(date));
                        let writing = Writing::create(&path, &self.settings, &rows.schema())?;
                        unknown.insert((path, writing))
                    }
                };
                writing.write(&part)?;
                writing.keep_below(share)?;
            }
        }
        let mut done = Vec::new();
        for (date, (path, writing)) in files {
            writing.close()?;
            done.push((day(date), path));
        }
        Ok((done, count))
    }

    /// Takes the rows with the batch's ids out of every file of its days. Returns how many went.
    async fn remove(&self, batch: &StagedBatch) -> Result<u64, TargetError> {
        let ids = ids_of(&batch.file).map_err(TargetError::Local)?;
        let mut removed = 0;
        for object in self.objects(&batch.mapping, &batch.days).await? {
            let (folder, local) = self.fetch(&object).await?;
            let left = folder.path().join("left");
            let kept = tokio::task::block_in_place(|| self.without(&local, &left, &batch.mapping, &ids));
            let (gone, kept) = kept.map_err(|reason| unreadable(&object, &reason))?;
            match (gone, kept) {
                (0, _) => continue,
                (_, 0) => self.place.root.delete(&object).await.map_err(|error| self.failed(&error))?,
                _ => self.upload(&left, &object).await?,
            }
            removed += gone;
        }
        Ok(removed)
    }

    /// Copies a file without some rows. Returns how many went, and how many stay.
    fn without(
        &self,
        from: &FilePath,
        to: &FilePath,
        mapping: &Mapping,
        ids: &HashSet<String>,
    ) -> Result<(u64, u64), String> {
        let (mut gone, mut kept) = (0, 0);
        let mut writing = None;
        for rows in Reading::open(from, &self.settings, mapping)? {
            let rows = rows?;
            let column = rows.column_by_name("event_id").ok_or("it has no event_id")?.as_string::<i32>();
            let stay: BooleanArray =
                column.iter().map(|id| Some(!id.is_some_and(|id| ids.contains(id)))).collect();
            gone += stay.false_count() as u64;
            kept += stay.true_count() as u64;
            let rows = filter_record_batch(&rows, &stay).map_err(|error| error.to_string())?;
            let writing = match &mut writing {
                Some(writing) => writing,
                None => writing.insert(Writing::create(to, &self.settings, &rows.schema())?),
            };
            writing.write(&rows)?;
        }
        writing.map_or(Ok(()), Writing::close)?;
        Ok((gone, kept))
    }

    /// The files of some days, first and last within.
    async fn objects(&self, mapping: &Mapping, days: &(String, String)) -> Result<Vec<Path>, TargetError> {
        let folder = self.folder(mapping);
        let listed = self.place.root.list_with_delimiter(Some(&folder)).await;
        let mut found = Vec::new();
        for day_folder in listed.map_err(|error| self.failed(&error))?.common_prefixes {
            let date =
                day_folder.filename().and_then(|name| name.strip_prefix("event_date=")).unwrap_or_default();
            if date < days.0.as_str() || date > days.1.as_str() {
                continue;
            }
            let files: Vec<_> = self
                .place
                .root
                .list(Some(&day_folder))
                .map_ok(|meta| meta.location)
                .try_collect()
                .await
                .map_err(|error| self.failed(&error))?;
            let ours = format!(".{}", self.settings.extension());
            found.extend(files.into_iter().filter(|path| path.as_ref().ends_with(&ours)));
        }
        found.sort();
        Ok(found)
    }

    async fn fetch(&self, object: &Path) -> Result<(tempfile::TempDir, PathBuf), TargetError> {
        let local =
            |error: std::io::Error| TargetError::Local(format!("no temporary file can be made: {error}"));
        let dir = tempfile::tempdir().map_err(local)?;
        let path = dir.path().join("object");
        let got = self.place.root.get(object).await.map_err(|error| self.failed(&error))?;
        let mut octets = got.into_stream();
        let mut file = tokio::fs::File::create(&path).await.map_err(local)?;
        while let Some(part) = octets.try_next().await.map_err(|error| self.failed(&error))? {
            file.write_all(&part).await.map_err(local)?;
        }
        file.flush().await.map_err(local)?;
        Ok((dir, path))
    }

    async fn upload(&self, local: &FilePath, place: &Path) -> Result<(), TargetError> {
        let failed = |error: std::io::Error| {
            TargetError::Away(format!("{}{place} cannot be written: {error}", self.place.url))
        };
        let mut file =
            tokio::fs::File::open(local).await.map_err(|error| TargetError::Local(error.to_string()))?;
        let mut writer = BufWriter::new(self.place.root.clone(), place.clone());
        if let Err(error) = tokio::io::copy(&mut file, &mut writer).await {
            // Parts that are there already cost money until they are given up.
            let _ = writer.abort().await;
            return Err(failed(error));
        }
        writer.shutdown().await.map_err(failed)
    }
}

fn unreadable(object: &Path, reason: &str) -> TargetError {
    TargetError::Schema(format!(
        "{object} is not as it was written here: {reason}; move it out of the folder"
    ))
}

fn tempfile_in(beside: &FilePath, what: &str) -> Result<tempfile::TempDir, TargetError> {
    let folder = beside.parent().unwrap_or(FilePath::new("."));
    let made = tempfile::Builder::new().prefix(what).tempdir_in(folder);
    made.map_err(|error| {
        TargetError::Local(format!("no folder can be made in {}: {error}", folder.display()))
    })
}

fn ids_of(path: &FilePath) -> Result<HashSet<String>, String> {
    let mut ids = HashSet::new();
    for rows in Reading::parquet(path)? {
        let rows = rows?;
        let column = rows.column_by_name("event_id").ok_or("the staged file has no event_id")?;
        ids.extend(column.as_string::<i32>().iter().flatten().map(str::to_owned));
    }
    Ok(ids)
}

fn tally_rows(
    hours: &mut BTreeMap<i64, (HourTally, HashSet<u128>)>,
    rows: &RecordBatch,
    bounds: &Bounds,
) -> Result<(), ArrowError> {
    let column = |name: &str| {
        rows.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("it has no column {name}")))
    };
    let times = column("occurred_at")?.as_primitive::<TimestampMicrosecondType>();
    let lsns = column("lsn")?.as_primitive::<Int64Type>();
    let (ids, spools) = (column("event_id")?.as_string::<i32>(), column("incarnation")?.as_string::<i32>());
    for row in 0..rows.num_rows() {
        let (at, lsn) = (times.value(row), lsns.value(row).unsigned_abs());
        let spool = Uuid::parse_str(spools.value(row)).ok();
        let is_counted =
            spool.and_then(|spool| bounds.positions.get(&spool)).is_some_and(|last| lsn <= *last);
        if !is_counted || at < bounds.from.0 || at >= bounds.to.0 {
            continue;
        }
        let hour = at.div_euclid(HOUR_US) * HOUR_US;
        let nothing = HourTally { hour: Timestamp(hour), rows: 0, events: 0, lsn_sum: 0 };
        let (tally, seen) = hours.entry(hour).or_insert_with(|| (nothing, HashSet::new()));
        tally.rows += 1;
        tally.lsn_sum += lsn;
        seen.insert(Uuid::parse_str(ids.value(row)).unwrap_or_default().as_u128());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
