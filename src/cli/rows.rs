//! Prints rows of plain values as a table, JSON or CSV.

use std::io::Write;

use comfy_table::{ContentArrangement, Table};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Format;

/// The lines that `sendlake sql` draws, so that every table looks alike.
pub(super) const PRESET: &str = "||--+-++|    ++++++";

/// Prints `rows` with their fields as columns, in the order of the struct. Nothing but the header is printed
/// when there are none.
pub(crate) fn print<T: Serialize>(rows: &[T], columns: &[&str], format: Format) -> anyhow::Result<()> {
    let rows: Vec<Map<String, Value>> = rows
        .iter()
        .map(|row| match serde_json::to_value(row) {
            Ok(Value::Object(fields)) => Ok(fields),
            other => anyhow::bail!("a row is not an object: {other:?}"),
        })
        .collect::<Result<_, _>>()?;
    let mut out = Vec::new();
    match format {
        Format::Json => serde_json::to_writer_pretty(&mut out, &rows)?,
        Format::Csv => write_csv(&mut out, &rows, columns)?,
        Format::Table => {
            let mut table = Table::new();
            table.load_preset(PRESET).set_content_arrangement(ContentArrangement::Dynamic);
            table.set_header(columns);
            for row in &rows {
                table.add_row(columns.iter().map(|column| text(row.get(*column))));
            }
            write!(out, "{table}")?;
        }
    }
    writeln!(out)?;
    emit(&out);
    Ok(())
}

/// Prints one value as JSON.
pub(crate) fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    let mut out = Vec::new();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    emit(&out);
    Ok(())
}

/// Prints text whole. A reader who has left ends the process without a word (see `cli::main`).
#[expect(clippy::print_stdout, reason = "the command's answer")]
pub(crate) fn emit(text: &[u8]) {
    print!("{}", String::from_utf8_lossy(text));
}

fn write_csv(out: &mut dyn Write, rows: &[Map<String, Value>], columns: &[&str]) -> anyhow::Result<()> {
    write!(out, "{}", columns.join(","))?;
    for row in rows {
        let fields: Vec<String> = columns.iter().map(|column| quoted(&text(row.get(*column)))).collect();
        write!(out, "\n{}", fields.join(","))?;
    }
    Ok(())
}

/// RFC 4180, section 2.
fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items.iter().map(|item| text(Some(item))).collect::<Vec<_>>().join(" "),
        Some(other) => other.to_string(),
    }
}
