//! The table in PostgreSQL: its columns' types, and what is there against what the mapping wants.

use std::collections::BTreeMap;

use crate::fit::NOTE_COLUMN;
use crate::mapping::{Column, KEY_COLUMNS, Kind, Mapping};
use crate::pgwire::Row;
use crate::statement::identifier;
use crate::target::TargetError;

/// A column as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    data_type: String,
    not_null: bool,
    has_default: bool,
}

/// As `format_type` writes it.
pub fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "text",
        Kind::Integer => "integer",
        Kind::BigInt => "bigint",
        Kind::Boolean => "boolean",
        Kind::Timestamp => "timestamp with time zone",
        Kind::Date => "date",
        Kind::Json => "jsonb",
    }
}

/// The columns of a new table, the note last.
pub fn definitions(mapping: &Mapping) -> Vec<String> {
    let columns = mapping.columns.iter().map(|column| {
        let not_null = if column.nullable { "" } else { " NOT NULL" };
        format!("{} {}{not_null}", identifier(&column.name), type_of(column.kind))
    });
    columns.chain([note_definition()]).collect()
}

/// Those of a staging table: what is wrong is told by the table itself.
pub fn staged_definitions(columns: &[Column]) -> Vec<String> {
    let columns =
        columns.iter().map(|column| format!("{} {}", identifier(&column.name), type_of(column.kind)));
    columns.chain([note_definition()]).collect()
}

fn note_definition() -> String {
    format!("{} text", identifier(NOTE_COLUMN))
}

/// The catalog's rows by column; empty when there is no such table.
pub fn found(rows: Vec<Row>) -> BTreeMap<String, Found> {
    let is = |value: &Option<String>| value.as_deref() == Some("t");
    rows.into_iter()
        .filter_map(|row| match row.as_slice() {
            [Some(name), Some(data_type), not_null, default] => Some((
                name.clone(),
                Found { data_type: data_type.clone(), not_null: is(not_null), has_default: is(default) },
            )),
            _ => None,
        })
        .collect()
}

/// Names and definitions of columns to add.
pub fn missing(
    table: &str,
    found: &BTreeMap<String, Found>,
    mapping: &Mapping,
) -> Result<Vec<(String, String)>, TargetError> {
    let refuse = |column: &str, what: String| {
        Err(TargetError::Schema(format!(
            "table {table}, column {column}: {what}; nothing is loaded until it is put right"
        )))
    };
    let mut missing = Vec::new();
    for column in &mapping.columns {
        let (name, wanted) = (&column.name, type_of(column.kind));
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
            None => missing.push((name.clone(), format!("{} {wanted}", identifier(name)))),
            Some(there) if there.data_type != wanted => {
                let there = &there.data_type;
                return refuse(
                    name,
                    format!(
                        "found {there}, wanted {wanted}: change it there, or leave the column out with exclude"
                    ),
                );
            }
            Some(there) if column.nullable && there.not_null => {
                return refuse(
                    name,
                    "it takes no NULL, and events have some: drop NOT NULL there".to_owned(),
                );
            }
            Some(_) => {}
        }
    }
    for (name, there) in found {
        let ours = name == NOTE_COLUMN || mapping.names().any(|known| known == name);
        if !ours && there.not_null && !there.has_default {
            let there = &there.data_type;
            return refuse(name, format!("found {there} NOT NULL without a default, and no event has it"));
        }
    }
    if !found.contains_key(NOTE_COLUMN) {
        missing.push((NOTE_COLUMN.to_owned(), note_definition()));
    }
    Ok(missing)
}
