//! A result as bytes: a table for terminals, JSON, CSV, or an Arrow IPC stream.

use std::fmt;
use std::io::Write;
use std::str::FromStr;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, StringArray};
use arrow::csv;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::WriterBuilder;
use arrow::json::writer::{JsonArray, LineDelimited};
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;

use crate::engine::QueryOutput;
use crate::error::QueryError;

/// How a result is written.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For terminals; null shows as empty.
    Table,
    /// `{"columns":[{"name","type"}],"rows":[{…}],"row_count":n,"truncated":false,"elapsed_ms":n}`.
    #[default]
    Json,
    /// RFC 4180 with a header line; null and the empty text look the same.
    Csv,
    /// Arrow IPC stream.
    Arrow,
}

impl Format {
    pub const ALL: [Format; 4] = [Format::Table, Format::Json, Format::Csv, Format::Arrow];

    pub fn as_str(self) -> &'static str {
        match self {
            Format::Table => "table",
            Format::Json => "json",
            Format::Csv => "csv",
            Format::Arrow => "arrow",
        }
    }

    /// The media type, as IANA lists it.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Table => "text/plain; charset=utf-8",
            Format::Json => "application/json",
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not the name of a format.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a format: use table, json, csv or arrow")]
pub struct InvalidFormat(pub String);

impl FromStr for Format {
    type Err = InvalidFormat;
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == name)
            .ok_or_else(|| InvalidFormat(name.to_owned()))
    }
}

/// Writes a result in `format`. Fails on a column type that the format cannot hold, or on the writer.
pub fn write(output: &QueryOutput, format: Format, to: &mut dyn Write) -> Result<(), QueryError> {
    let written = match format {
        Format::Table => write_table(output, to),
        Format::Json => write_json(output, to),
        Format::Csv => write_csv(output, to),
        Format::Arrow => write_arrow(output, to),
    };
    written.map_err(|error| QueryError::Output { format: format.as_str(), detail: error.to_string() })
}

/// The result as bytes in `format`.
pub fn to_bytes(output: &QueryOutput, format: Format) -> Result<Vec<u8>, QueryError> {
    let mut bytes = Vec::new();
    write(output, format, &mut bytes)?;
    Ok(bytes)
}

fn write_table(output: &QueryOutput, to: &mut dyn Write) -> Result<(), ArrowError> {
    let mut batches = output.batches.clone();
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(output.schema.clone()));
    }
    let options = FormatOptions::default().with_display_error(true).with_null("");
    writeln!(to, "{}", pretty_format_batches_with_options(&batches, &options)?)?;
    let rows = output.num_rows();
    let more = if output.truncated { ", and there are more: add a LIMIT or raise the row limit" } else { "" };
    writeln!(to, "{rows} row{}{more}", if rows == 1 { "" } else { "s" })?;
    Ok(())
}

#[derive(serde::Serialize)]
struct JsonColumn<'a> {
    name: &'a str,
    r#type: String,
}

fn write_json(output: &QueryOutput, to: &mut dyn Write) -> Result<(), ArrowError> {
    let columns = output
        .schema
        .fields()
        .iter()
        .map(|field| JsonColumn { name: field.name(), r#type: field.data_type().to_string() })
        .collect::<Vec<_>>();
    let columns =
        serde_json::to_string(&columns).map_err(|error| ArrowError::JsonError(error.to_string()))?;
    write!(to, "{{\"columns\":{columns},\"rows\":")?;
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, JsonArray>(&mut *to);
    for batch in &output.batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    writeln!(
        to,
        ",\"row_count\":{},\"truncated\":{},\"elapsed_ms\":{}}}",
        output.num_rows(),
        output.truncated,
        output.elapsed.as_millis()
    )?;
    Ok(())
}

fn write_csv(output: &QueryOutput, to: &mut dyn Write) -> Result<(), ArrowError> {
    let schema = flat_schema(&output.schema);
    let mut writer = csv::WriterBuilder::new().with_header(true).build(to);
    if output.batches.is_empty() {
        return writer.write(&RecordBatch::new_empty(schema));
    }
    for batch in &output.batches {
        let columns = batch.columns().iter().map(flatten).collect::<Result<Vec<_>, _>>()?;
        writer.write(&RecordBatch::try_new(schema.clone(), columns)?)?;
    }
    Ok(())
}

/// CSV has no maps and lists: they stand there as JSON text.
fn flat_schema(schema: &SchemaRef) -> SchemaRef {
    let flat = |field: &Arc<Field>| {
        if field.data_type().is_nested() {
            Arc::new(Field::new(field.name(), DataType::Utf8, true))
        } else {
            Arc::clone(field)
        }
    };
    Arc::new(Schema::new(schema.fields().iter().map(flat).collect::<Vec<_>>()))
}

fn flatten(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !column.data_type().is_nested() {
        return Ok(Arc::clone(column));
    }
    let field = Field::new("v", column.data_type().clone(), true);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![field])), vec![Arc::clone(column)])?;
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(&batch)?;
    writer.finish()?;
    let lines =
        String::from_utf8(writer.into_inner()).map_err(|error| ArrowError::CsvError(error.to_string()))?;
    let value = |(row, line): (usize, &str)| {
        let value = line.strip_prefix("{\"v\":").and_then(|line| line.strip_suffix('}'));
        value.filter(|_| column.is_valid(row)).map(str::to_owned)
    };
    Ok(Arc::new(lines.lines().enumerate().map(value).collect::<StringArray>()))
}

fn write_arrow(output: &QueryOutput, to: &mut dyn Write) -> Result<(), ArrowError> {
    let mut writer = StreamWriter::try_new(to, &output.schema)?;
    for batch in &output.batches {
        writer.write(batch)?;
    }
    writer.finish()
}

#[cfg(test)]
mod tests;
