//! Row groups of one Parquet file into a file per day, as they are: no value is decoded.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::properties::WriterProperties;
use parquet::file::statistics::Statistics;
use parquet::file::writer::SerializedFileWriter;

use crate::stage::day;

/// Files by day, each with its name, and how many rows they have together.
pub(super) type Days = (Vec<(String, PathBuf)>, u64);

/// Writes a file for each day into `dir`, named after it. `None` where a row group holds rows of several days, and then
/// nothing is written.
pub(super) fn by_day(from: &Path, dir: &Path) -> Result<Option<Days>, ParquetError> {
    let input = File::open(from)?;
    let metadata = ParquetMetaDataReader::new()
        .with_page_index_policy(PageIndexPolicy::Optional)
        .parse_and_finish(&input)?;
    let days: Option<Vec<i32>> = metadata.row_groups().iter().map(day_of).collect();
    let Some(days) = days else { return Ok(None) };
    let about = metadata.file_metadata();
    let properties = WriterProperties::builder()
        // The Arrow schema is among it.
        .set_key_value_metadata(about.key_value_metadata().cloned())
        .build();
    let (schema, properties) = (about.schema_descr().root_schema_ptr(), Arc::new(properties));
    let mut files = BTreeMap::new();
    for (group, date) in days.into_iter().enumerate() {
        let (_, writer) = match files.entry(date) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let path = dir.join(day(date));
                let file = BufWriter::new(File::create(&path)?);
                let writer = SerializedFileWriter::new(file, Arc::clone(&schema), Arc::clone(&properties))?;
                unknown.insert((path, writer))
            }
        };
        copy(&input, &metadata, group, writer)?;
    }
    let (mut done, mut rows) = (Vec::new(), 0);
    for (date, (path, writer)) in files {
        rows += writer.flushed_row_groups().iter().map(|group| group.num_rows().unsigned_abs()).sum::<u64>();
        writer.into_inner()?.flush()?;
        done.push((day(date), path));
    }
    Ok(Some((done, rows)))
}

/// The day of all rows, by the statistics of `event_date`.
fn day_of(group: &RowGroupMetaData) -> Option<i32> {
    let dates = group.columns().iter().find(|column| column.column_path().string() == "event_date")?;
    match dates.statistics()? {
        Statistics::Int32(dates) if dates.null_count_opt() == Some(0) => {
            let (first, last) = dates.min_opt().zip(dates.max_opt())?;
            (first == last).then_some(*first)
        }
        _ => None,
    }
}

fn copy(
    input: &File,
    metadata: &ParquetMetaData,
    group: usize,
    writer: &mut SerializedFileWriter<BufWriter<File>>,
) -> Result<(), ParquetError> {
    let about = metadata.row_group(group);
    let column_indexes = metadata.column_index().and_then(|groups| groups.get(group));
    let offset_indexes = metadata.offset_index().and_then(|groups| groups.get(group));
    let mut copied = writer.next_row_group()?;
    for (place, column) in about.columns().iter().enumerate() {
        let written = ColumnCloseResult {
            bytes_written: column.compressed_size().unsigned_abs(),
            rows_written: about.num_rows().unsigned_abs(),
            metadata: column.clone(),
            bloom_filter: None,
            column_index: column_indexes.and_then(|columns| columns.get(place)).cloned(),
            offset_index: offset_indexes.and_then(|columns| columns.get(place)).cloned(),
        };
        copied.append_column(input, written)?;
    }
    copied.close()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, Date32Array, RecordBatch, StringArray};
    use arrow::datatypes::Date32Type;
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    fn rows(dates: &[i32], names: &[Option<&str>]) -> RecordBatch {
        let columns: [(&str, ArrayRef); 2] = [
            ("event_date", Arc::new(Date32Array::from(dates.to_vec()))),
            ("event_id", Arc::new(names.iter().copied().collect::<StringArray>())),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn written(path: &Path, groups: &[RecordBatch]) {
        let schema = groups[0].schema();
        let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), schema, None).unwrap();
        for group in groups {
            writer.write(group).unwrap();
            writer.flush().unwrap();
        }
        writer.close().unwrap();
    }

    #[test]
    fn row_groups_of_one_day_each_become_files_of_days_and_others_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (staged, out) = (dir.path().join("staged"), dir.path().join("out"));
        std::fs::create_dir(&out).unwrap();
        let groups = [
            rows(&[20_484, 20_484], &[Some("a"), None]),
            rows(&[20_485], &[Some("b")]),
            rows(&[20_484], &[Some("c")]),
        ];
        written(&staged, &groups);
        let (days, count) = by_day(&staged, &out).unwrap().unwrap();
        assert_eq!(count, 4);
        let mut held = Vec::new();
        for (date, path) in days {
            let reading = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
            for rows in reading.build().unwrap() {
                let rows = rows.unwrap();
                assert_eq!(rows.schema(), groups[0].schema());
                let dates = rows.column(0).as_primitive::<Date32Type>().clone();
                let names = rows.column(1).as_string::<i32>();
                for (found, name) in dates.values().iter().zip(names.iter()) {
                    assert_eq!(day(*found), date);
                    held.push((date.clone(), name.map(str::to_owned)));
                }
            }
        }
        let of = |date: &str, name: Option<&str>| (date.to_owned(), name.map(str::to_owned));
        let first = "2026-01-31";
        assert_eq!(
            held,
            [of(first, Some("a")), of(first, None), of(first, Some("c")), of("2026-02-01", Some("b"))]
        );

        std::fs::remove_dir_all(&out).unwrap();
        std::fs::create_dir(&out).unwrap();
        written(&staged, &[rows(&[20_484, 20_485], &[Some("a"), Some("b")])]);
        assert!(by_day(&staged, &out).unwrap().is_none());
        assert_eq!(std::fs::read_dir(&out).unwrap().count(), 0);
    }
}
