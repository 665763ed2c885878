//! What things are called in BigQuery: tables in statements, jobs, staging tables, objects; and columns' types there.

use std::collections::BTreeMap;

use chrono::NaiveDate;

use super::settings::{LEDGER, Settings};
use crate::mapping::{Column, Kind, Mapping};
use crate::target::{StagedBatch, TargetError};

/// A table in a statement, in backticks; each part was checked to have no such character.
pub fn quoted(project: &str, dataset: &str, table: &str) -> String {
    format!("`{project}`.`{dataset}`.`{table}`")
}

/// The tables that every statement is about.
pub fn tables(settings: &Settings) -> [(&'static str, String); 3] {
    let of = |table: &str| quoted(&settings.project, &settings.dataset, table);
    [("target", of(&settings.table)), ("ledger", of(LEDGER)), ("writer", of(&settings.writer()))]
}

/// The target table as the ledger has it, `project.dataset.table`.
pub fn target(settings: &Settings) -> String {
    format!("{}.{}.{}", settings.project, settings.dataset, settings.table)
}

/// What belongs to one attempt of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub load_job: String,
    pub merge_job: String,
    /// In the staging dataset; the same for each attempt.
    pub stage: String,
    /// Below the bucket's prefix; the same for each attempt.
    pub object: String,
}

impl Names {
    pub fn of(batch: &StagedBatch) -> Result<Self, TargetError> {
        let StagedBatch { connector, batch_id, attempt, .. } = batch;
        let is_word = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
        if !is_word(connector) || !is_word(batch_id) {
            return Err(TargetError::Refused(format!(
                "the connector {connector:?} cannot go into the names of BigQuery's jobs: use letters, digits, - and _"
            )));
        }
        let load_job = format!("sendlake_{connector}_{batch_id}_{attempt}");
        Ok(Self {
            merge_job: format!("{load_job}_merge"),
            stage: format!("sendlake_stage_{connector}_{batch_id}"),
            object: format!("{connector}/{batch_id}.parquet"),
            load_job,
        })
    }
}

/// A day for a literal in a statement.
pub fn day(text: &str) -> Result<String, TargetError> {
    let day = NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .map_err(|_| TargetError::Local(format!("{text:?}, of the batch, is no day")))?;
    Ok(day.format("%Y-%m-%d").to_string())
}

/// `{name}` in a statement replaced by what it stands for; what is put in is not looked at again.
pub fn fill(template: &str, values: &[(&str, String)]) -> String {
    let values: BTreeMap<&str, &str> = values.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        filled.push_str(before);
        match after.split_once('}').and_then(|(name, tail)| Some((values.get(name)?, tail))) {
            Some((value, tail)) => {
                filled.push_str(value);
                rest = tail;
            }
            None => {
                filled.push('{');
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

/// The type of a column in the table, as the API names it.
pub fn type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "STRING",
        Kind::Integer | Kind::BigInt => "INTEGER",
        Kind::Boolean => "BOOLEAN",
        Kind::Timestamp => "TIMESTAMP",
        Kind::Date => "DATE",
        Kind::Json => "JSON",
    }
}

/// The same in the staging table. Load jobs take no JSON from Parquet (BigQuery, "Working with JSON data"): it is text there.
pub fn staged_type_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Json => "STRING",
        kind => type_of(kind),
    }
}

/// The same in a statement.
pub fn sql_type_of(kind: Kind) -> &'static str {
    match type_of(kind) {
        "INTEGER" => "INT64",
        "BOOLEAN" => "BOOL",
        name => name,
    }
}

/// The columns of a MERGE: their list, their values from the staging table, and both as assignments.
pub fn merged_columns(mapping: &Mapping) -> [(&'static str, String); 3] {
    let list = |text: fn(&Column) -> String| mapping.columns.iter().map(text).collect::<Vec<_>>().join(", ");
    [
        ("columns", list(|column| format!("`{}`", column.name))),
        ("values", list(value)),
        ("assignments", list(|column| format!("`{}` = {}", column.name, value(column)))),
    ]
}

/// Text that is no JSON, or has a number that BigQuery cannot hold, becomes a JSON string of that text: nothing is lost.
fn value(column: &Column) -> String {
    let staged = format!("S.`{}`", column.name);
    match column.kind {
        Kind::Json => {
            format!("IF({staged} IS NULL, NULL, COALESCE(SAFE.PARSE_JSON({staged}), TO_JSON({staged})))")
        }
        _ => staged,
    }
}

/// What the table is clustered by, of what the mapping has.
pub fn clustering(mapping: &Mapping) -> Vec<&'static str> {
    let wanted = ["tenant_id", "message_id"];
    wanted.into_iter().filter(|name| mapping.names().any(|column| column == *name)).collect()
}
