//! Rows to a local file in one of the formats, and back.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::{csv, json};
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::ZstdLevel;
use parquet::file::properties::WriterProperties;
use regex::Regex;

use super::settings::{Compression, FileFormat, Settings};
use crate::mapping::Mapping;

const ROW_GROUP_ROWS: usize = 65_536;
/// How CSV says NULL.
const NULL: &str = "\\N";

/// A file that is being written.
pub(super) enum Writing {
    Parquet(Box<ArrowWriter<File>>),
    Csv(Box<csv::Writer<Sink>>),
    Ndjson(json::LineDelimitedWriter<Sink>),
}

/// Compressed or not.
pub(super) enum Sink {
    Plain(BufWriter<File>),
    Gzip(Box<GzEncoder<BufWriter<File>>>),
}

impl Write for Sink {
    fn write(&mut self, octets: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(sink) => sink.write(octets),
            Self::Gzip(sink) => sink.write(octets),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(sink) => sink.flush(),
            Self::Gzip(sink) => sink.flush(),
        }
    }
}

impl Sink {
    fn close(self) -> std::io::Result<()> {
        match self {
            Self::Plain(mut sink) => sink.flush(),
            Self::Gzip(sink) => sink.finish()?.flush(),
        }
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Writing {
    pub fn create(path: &Path, settings: &Settings, schema: &SchemaRef) -> Result<Self, String> {
        let file = File::create(path).map_err(text)?;
        if settings.format == FileFormat::Parquet {
            let properties = WriterProperties::builder()
                .set_compression(parquet::basic::Compression::ZSTD(ZstdLevel::try_new(3).map_err(text)?))
                .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
                .build();
            let writer = ArrowWriter::try_new(file, Arc::clone(schema), Some(properties)).map_err(text)?;
            return Ok(Self::Parquet(Box::new(writer)));
        }
        let sink = match settings.compression {
            Compression::None => Sink::Plain(BufWriter::new(file)),
            Compression::Gzip => {
                Sink::Gzip(Box::new(GzEncoder::new(BufWriter::new(file), flate2::Compression::fast())))
            }
        };
        Ok(match settings.format {
            FileFormat::Csv => {
                Self::Csv(Box::new(csv::WriterBuilder::new().with_null(NULL.to_owned()).build(sink)))
            }
            _ => Self::Ndjson(json::LineDelimitedWriter::new(sink)),
        })
    }

    pub fn write(&mut self, rows: &RecordBatch) -> Result<(), String> {
        match self {
            Self::Parquet(writer) => writer.write(rows).map_err(text),
            Self::Csv(writer) => writer.write(rows).map_err(text),
            Self::Ndjson(writer) => writer.write(rows).map_err(text),
        }
    }

    /// Writes out what is kept in memory where that is more than so many octets.
    pub fn keep_below(&mut self, bytes: usize) -> Result<(), String> {
        match self {
            Self::Parquet(writer) if writer.in_progress_size() > bytes => writer.flush().map_err(text),
            _ => Ok(()),
        }
    }

    pub fn close(self) -> Result<(), String> {
        match self {
            Self::Parquet(writer) => writer.close().map(drop).map_err(text),
            Self::Csv(writer) => writer.into_inner().close().map_err(text),
            Self::Ndjson(mut writer) => {
                writer.finish().map_err(text)?;
                writer.into_inner().close().map_err(text)
            }
        }
    }
}

/// The rows of a file, a batch at a time.
pub(super) struct Reading(Box<dyn Iterator<Item = Result<RecordBatch, String>> + Send>);

impl Reading {
    pub fn parquet(path: &Path) -> Result<Self, String> {
        let file = File::open(path).map_err(text)?;
        let rows =
            ParquetRecordBatchReaderBuilder::try_new(file).and_then(ParquetRecordBatchReaderBuilder::build);
        Ok(Self(Box::new(rows.map_err(text)?.map(|rows| rows.map_err(text)))))
    }

    /// A file as it was written under `settings`. CSV has the columns of its own header line, NDJSON those of the mapping.
    pub fn open(path: &Path, settings: &Settings, mapping: &Mapping) -> Result<Self, String> {
        if settings.format == FileFormat::Parquet {
            return Self::parquet(path);
        }
        let open = || -> Result<BufReader<Box<dyn Read + Send>>, String> {
            let file = File::open(path).map_err(text)?;
            Ok(BufReader::new(match settings.compression {
                Compression::None => Box::new(file),
                Compression::Gzip => Box::new(MultiGzDecoder::new(file)),
            }))
        };
        let schema = mapping.arrow_schema();
        if settings.format == FileFormat::Ndjson {
            let rows = json::ReaderBuilder::new(schema).build(open()?).map_err(text)?;
            return Ok(Self(Box::new(rows.map(|rows| rows.map_err(text)))));
        }
        let null = Regex::new(r"^\\N$").map_err(text)?;
        let header = csv::reader::Format::default().with_header(true);
        let (found, _) = header.infer_schema(open()?, Some(0)).map_err(text)?;
        // Columns that this mapping does not know are read as text, and written again as they were.
        let fields: Vec<_> = found
            .fields()
            .iter()
            .map(|field| match schema.field_with_name(field.name()) {
                Ok(known) => known.clone(),
                Err(_) => field
                    .as_ref()
                    .clone()
                    .with_data_type(arrow::datatypes::DataType::Utf8)
                    .with_nullable(true),
            })
            .collect();
        let rows = csv::ReaderBuilder::new(Arc::new(Schema::new(fields)))
            .with_header(true)
            .with_null_regex(null)
            .build(open()?)
            .map_err(text)?;
        Ok(Self(Box::new(rows.map(|rows| rows.map_err(text)))))
    }
}

impl Iterator for Reading {
    type Item = Result<RecordBatch, String>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}
