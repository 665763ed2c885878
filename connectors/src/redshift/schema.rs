//! The table in Redshift: its columns' types, and what is there against what the mapping wants.

use std::collections::BTreeMap;

use crate::fit::{Limits, NOTE_COLUMN};
use crate::mapping::{Column, KEY_COLUMNS, Kind, Mapping};
use crate::pgwire::Row;
use crate::statement::identifier;
use crate::target::TargetError;

use super::settings::JsonType;

/// The longest VARCHAR of a stored column, in bytes ("Character types", Database Developer Guide).
pub const LONGEST_VARCHAR: usize = 65_535;
const KEY_VARCHAR: usize = 256;
const NOTE_VARCHAR: usize = 4_096;

/// A column as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub data_type: String,
    pub bytes: Option<usize>,
    pub nullable: bool,
}

/// What must be done so that the table holds the mapping's columns, and what its text columns hold.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// Names and definitions of columns to add.
    pub add: Vec<(String, String)>,
    pub limits: BTreeMap<String, usize>,
}

fn is_key(name: &str) -> bool {
    KEY_COLUMNS.contains(&name)
}

/// A stored column's type.
pub fn type_of(column: &Column, json: JsonType) -> String {
    match column.kind {
        Kind::Text if is_key(&column.name) => format!("VARCHAR({KEY_VARCHAR})"),
        Kind::Json if json == JsonType::Super => "SUPER".to_owned(),
        Kind::Text | Kind::Json => format!("VARCHAR({LONGEST_VARCHAR})"),
        Kind::Integer => "INTEGER".to_owned(),
        Kind::BigInt => "BIGINT".to_owned(),
        Kind::Boolean => "BOOLEAN".to_owned(),
        Kind::Timestamp => "TIMESTAMPTZ".to_owned(),
        Kind::Date => "DATE".to_owned(),
    }
}

/// A column's type where COPY puts it: COPY from Parquet has no TIMESTAMPTZ, and text cannot become SUPER in it.
pub fn staged_type_of(column: &Column) -> String {
    match column.kind {
        Kind::Timestamp => "TIMESTAMP".to_owned(),
        Kind::Json => format!("VARCHAR({LONGEST_VARCHAR})"),
        _ => type_of(column, JsonType::Text),
    }
}

/// A staged column's value for the stored column.
pub fn value_of(column: &Column, stage: &str, json: JsonType) -> String {
    let name = format!("{stage}.{}", identifier(&column.name));
    match column.kind {
        Kind::Timestamp => format!("{name} AT TIME ZONE 'UTC'"),
        Kind::Json if json == JsonType::Super => format!("JSON_PARSE({name})"),
        _ => name,
    }
}

fn catalog_type(column: &Column, json: JsonType) -> &'static str {
    match column.kind {
        Kind::Json if json == JsonType::Super => "super",
        Kind::Text | Kind::Json => "character varying",
        Kind::Integer => "integer",
        Kind::BigInt => "bigint",
        Kind::Boolean => "boolean",
        Kind::Timestamp => "timestamp with time zone",
        Kind::Date => "date",
    }
}

/// The columns of a new table.
pub fn definitions(mapping: &Mapping, json: JsonType) -> Vec<String> {
    let mut all: Vec<String> = mapping
        .columns
        .iter()
        .map(|column| {
            let not_null = if column.nullable { "" } else { " NOT NULL" };
            format!("{} {}{not_null}", identifier(&column.name), type_of(column, json))
        })
        .collect();
    all.push(note_definition());
    all
}

fn note_definition() -> String {
    format!("{} VARCHAR({NOTE_VARCHAR})", identifier(NOTE_COLUMN))
}

/// The catalog's rows by column; empty when there is no such table.
pub fn found(rows: Vec<Row>) -> BTreeMap<String, Found> {
    let mut found = BTreeMap::new();
    for row in rows {
        let [Some(name), Some(data_type), bytes, nullable] = row.as_slice() else { continue };
        found.insert(
            name.clone(),
            Found {
                data_type: data_type.to_lowercase(),
                bytes: bytes.as_deref().and_then(|bytes| bytes.parse().ok()),
                nullable: nullable.as_deref().is_none_or(|word| word.eq_ignore_ascii_case("yes")),
            },
        );
    }
    found
}

/// Compares the table with the mapping. `table` is its name for messages.
pub fn plan(
    table: &str,
    found: &BTreeMap<String, Found>,
    mapping: &Mapping,
    json: JsonType,
) -> Result<Plan, TargetError> {
    let mut plan = Plan { add: Vec::new(), limits: BTreeMap::new() };
    let refuse = |column: &str, what: String| {
        Err(TargetError::Schema(format!(
            "table {table}, column {column}: {what}; nothing is loaded until it is put right"
        )))
    };
    for column in &mapping.columns {
        let name = &column.name;
        let wanted = type_of(column, json);
        let Some(there) = found.get(name) else {
            if is_key(name) {
                return refuse(
                    name,
                    format!(
                        "it is missing, and rows are told apart by it: name another table, or drop this one and load \
                         it again from the beginning (wanted: {wanted})"
                    ),
                );
            }
            plan.add.push((name.clone(), format!("{} {wanted}", identifier(name))));
            continue;
        };
        if there.data_type != catalog_type(column, json) {
            return refuse(
                name,
                format!(
                    "found {}, wanted {wanted}: change it there, or leave the column out with exclude",
                    there.data_type
                ),
            );
        }
        if column.nullable && !there.nullable {
            return refuse(name, "it takes no NULL, and events have some: drop NOT NULL there".to_owned());
        }
        if matches!(column.kind, Kind::Text | Kind::Json) && there.data_type == "character varying" {
            let bytes = there.bytes.unwrap_or(LONGEST_VARCHAR);
            if is_key(name) && bytes < KEY_VARCHAR {
                return refuse(name, format!("found VARCHAR({bytes}), wanted {wanted}: keys are never cut"));
            }
            plan.limits.insert(name.clone(), bytes);
        }
    }
    if !found.contains_key(NOTE_COLUMN) {
        plan.add.push((NOTE_COLUMN.to_owned(), note_definition()));
    }
    for (name, there) in found {
        let ours = name == NOTE_COLUMN || mapping.names().any(|known| known == name);
        if !ours && !there.nullable {
            return refuse(
                name,
                format!(
                    "found {} NOT NULL, and no event has it: drop NOT NULL there, or the column",
                    there.data_type
                ),
            );
        }
    }
    Ok(plan)
}

impl Plan {
    /// What staged values must fit into: the stored columns', and never more than a VARCHAR holds.
    pub fn limits(&self, mapping: &Mapping) -> Limits {
        let texts = mapping.columns.iter().filter(|column| matches!(column.kind, Kind::Text | Kind::Json));
        let bytes = texts.map(|column| {
            let most = self.limits.get(&column.name).copied().unwrap_or(LONGEST_VARCHAR);
            (column.name.clone(), most.min(LONGEST_VARCHAR))
        });
        Limits { bytes: bytes.collect(), parses_json: true }
    }
}
