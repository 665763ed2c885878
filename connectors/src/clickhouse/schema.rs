//! The table in ClickHouse: its columns' types, and what is there against what the mapping wants.

use std::collections::BTreeMap;

use super::settings::JsonType;
use crate::fit::NOTE_COLUMN;
use crate::mapping::{Column, KEY_COLUMNS, Kind, Mapping};
use crate::pgwire::Row;
use crate::statement::identifier;
use crate::target::TargetError;

/// Tells versions of one event apart: 0 as it was added, else the microsecond at which it was replaced.
pub const VERSION_COLUMN: &str = "load_version";

/// As `system.columns` writes it.
pub fn type_of(column: &Column, json: JsonType) -> String {
    let plain = match column.kind {
        Kind::Json if json == JsonType::Json => "JSON",
        Kind::Text | Kind::Json => "String",
        Kind::Integer => "Int32",
        Kind::BigInt => "Int64",
        Kind::Boolean => "Bool",
        Kind::Timestamp => "DateTime64(6, 'UTC')",
        Kind::Date => "Date32",
    };
    if column.nullable { format!("Nullable({plain})") } else { plain.to_owned() }
}

/// The columns of a new table.
pub fn definitions(mapping: &Mapping, json: JsonType) -> Vec<String> {
    let columns = mapping
        .columns
        .iter()
        .map(|column| format!("{} {}", identifier(&column.name), type_of(column, json)));
    columns.chain([note_definition(), format!("{} UInt64", identifier(VERSION_COLUMN))]).collect()
}

/// Those of a staging table: JSON is text until it is put into the table.
pub fn staged_definitions(columns: &[Column]) -> Vec<String> {
    let columns = columns
        .iter()
        .map(|column| format!("{} {}", identifier(&column.name), type_of(column, JsonType::Text)));
    columns.chain([note_definition()]).collect()
}

/// A staged column's value for the stored column.
pub fn value_of(column: &Column, json: JsonType) -> String {
    let name = identifier(&column.name);
    if column.kind == Kind::Json && json == JsonType::Json {
        format!("CAST({name} AS {})", type_of(column, json))
    } else {
        name
    }
}

fn note_definition() -> String {
    format!("{} Nullable(String)", identifier(NOTE_COLUMN))
}

/// The catalog's rows by column, type and kind of default; empty when there is no such table.
pub fn found(rows: Vec<Row>) -> BTreeMap<String, (String, String)> {
    rows.into_iter()
        .filter_map(|row| match row.as_slice() {
            [Some(name), Some(data_type), default] => {
                Some((name.clone(), (data_type.clone(), default.clone().unwrap_or_default())))
            }
            _ => None,
        })
        .collect()
}

/// Whether a stored type holds the column's values as they are: `LowCardinality` is only another way to keep them.
fn holds(found: &str, wanted: &str) -> bool {
    let inside =
        found.strip_prefix("LowCardinality(").and_then(|rest| rest.strip_suffix(')')).unwrap_or(found);
    inside == wanted
}

/// Names and definitions of columns to add.
pub fn missing(
    table: &str,
    found: &BTreeMap<String, (String, String)>,
    mapping: &Mapping,
    json: JsonType,
) -> Result<Vec<(String, String)>, TargetError> {
    let refuse = |column: &str, what: String| {
        Err(TargetError::Schema(format!(
            "table {table}, column {column}: {what}; nothing is loaded until it is put right"
        )))
    };
    let mut missing = Vec::new();
    for column in &mapping.columns {
        let (name, wanted) = (&column.name, type_of(column, json));
        match found.get(name) {
            None if KEY_COLUMNS.contains(&name.as_str()) => {
                return refuse(
                    name,
                    format!(
                        "it is missing, and rows are told apart by it: name another table, or drop this one and load it \
                         again from the beginning (wanted: {wanted})"
                    ),
                );
            }
            // A column that is added has no value in the rows that are there.
            None => missing.push((name.clone(), format!("{} {wanted}", identifier(name)))),
            Some((there, _)) if !holds(there, &wanted) => {
                return refuse(
                    name,
                    format!(
                        "found {there}, wanted {wanted}: change it there, or leave the column out with exclude"
                    ),
                );
            }
            Some((_, default)) if matches!(default.as_str(), "MATERIALIZED" | "ALIAS") => {
                return refuse(name, format!("it is {default}, which takes no values"));
            }
            Some(_) => {}
        }
    }
    match found.get(VERSION_COLUMN) {
        Some((there, _)) if there == "UInt64" => {}
        _ => {
            return refuse(
                VERSION_COLUMN,
                "it must be a UInt64, by which ReplacingMergeTree keeps the newest".to_owned(),
            );
        }
    }
    if !found.contains_key(NOTE_COLUMN) {
        missing.push((NOTE_COLUMN.to_owned(), note_definition()));
    }
    Ok(missing)
}
