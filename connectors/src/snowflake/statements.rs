//! The statements, filled in: the texts are in `sql/`.

use chrono::{DateTime, Utc};
use sendlake_control::clock::Timestamp;
use uuid::Uuid;

use super::settings::Settings;
use crate::batch::Change;
use crate::mapping::{Column, Kind, Mapping};
use crate::target::{Bounds, StagedBatch};

/// Statements in `load.sql`, the MERGE within counted.
pub(super) const LOAD_STATEMENTS: usize = 8;
/// Which of them is the MERGE.
pub(super) const MERGE_STATEMENT: usize = 5;

/// The objects by their names in Snowflake, all in one schema.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub connector: String,
    pub schema: String,
    pub table: String,
    pub stage: String,
}

impl Names {
    pub fn new(settings: &Settings, connector: &str) -> Self {
        Self {
            connector: connector.to_owned(),
            schema: settings.schema.to_uppercase(),
            table: settings.table.to_uppercase(),
            stage: settings.stage.to_uppercase(),
        }
    }

    /// The folder of this connector's files below the stage.
    pub fn folder(&self) -> String {
        folder(&self.connector)
    }

    pub fn create_table(&self, mapping: &Mapping) -> String {
        fill(
            include_str!("sql/create_table.sql"),
            &[("table", &quoted(&self.table)), ("columns", &columns_of(mapping, target_type))],
        )
    }

    pub fn create_ledger() -> String {
        fill(include_str!("sql/create_ledger.sql"), &[])
    }

    pub fn create_locks() -> String {
        fill(include_str!("sql/create_locks.sql"), &[])
    }

    pub fn lock_row(&self) -> String {
        fill(include_str!("sql/lock_row.sql"), &[("table_name", &literal(&self.table))])
    }

    pub fn create_stage(&self) -> String {
        fill(include_str!("sql/create_stage.sql"), &[("stage", &self.stage)])
    }

    pub fn columns(&self) -> String {
        fill(
            include_str!("sql/columns.sql"),
            &[("schema_name", &literal(&self.schema)), ("table_name", &literal(&self.table))],
        )
    }

    pub fn add_column(&self, column: &Column) -> String {
        let (table, name) = (quoted(&self.table), quoted(&column.name));
        format!("ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {}", target_type(column.kind))
    }

    pub fn in_ledger(&self, batch_id: &str) -> String {
        fill(include_str!("sql/in_ledger.sql"), &[("batch_id", &literal(batch_id))])
    }

    pub fn remove(&self, file: &str) -> String {
        format!("REMOVE @{}/{}/{file}", self.stage, self.folder())
    }

    /// The whole of one batch, [`LOAD_STATEMENTS`] of them.
    pub fn load(&self, batch: &StagedBatch) -> String {
        let keys;
        let staged = if batch.change == Change::Delete {
            keys = batch.mapping.keys();
            &keys
        } else {
            &*batch.mapping
        };
        let merge = match batch.change {
            Change::Add => include_str!("sql/merge_add.sql"),
            Change::Replace => include_str!("sql/merge_replace.sql"),
            Change::Delete => include_str!("sql/merge_delete.sql"),
        };
        let list =
            |each: &dyn Fn(&Column) -> String| staged.columns.iter().map(each).collect::<Vec<_>>().join(", ");
        let staging = quoted(&staging(&self.connector, &batch.batch_id));
        let merge = fill(
            merge,
            &[
                ("table", &quoted(&self.table)),
                ("staging", &staging),
                ("staged_values", &list(&staged_value)),
                ("columns", &list(&|column| quoted(&column.name))),
                ("inserted", &list(&|column| format!("s.{}", quoted(&column.name)))),
                ("updated", &list(&|column| format!("{0} = s.{0}", quoted(&column.name)))),
                ("first_day", &day(&batch.days.0)),
                ("last_day", &day(&batch.days.1)),
            ],
        );
        let file = file_name(&batch.batch_id);
        fill(
            include_str!("sql/load.sql"),
            &[
                ("merge", &merge),
                ("staging_columns", &columns_of(staged, staging_type)),
                ("staging", &staging),
                ("stage", &self.stage),
                ("folder", &self.folder()),
                ("file", &literal(&file)),
                ("rows", &batch.rows.to_string()),
                ("batch_id", &literal(&batch.batch_id)),
                ("connector", &literal(&self.connector)),
                ("table_name", &literal(&self.table)),
                ("source_table", &literal(&batch.mapping.table)),
                ("change", &literal(batch.change.as_str())),
                ("mapping_version", &literal(&batch.mapping.version)),
            ],
        )
    }

    pub fn tally(&self, bounds: &Bounds) -> String {
        let positions = bounds.positions.iter().map(|(incarnation, lsn)| position(incarnation, *lsn));
        let positions = positions.collect::<Vec<_>>().join(" OR ");
        fill(
            include_str!("sql/tally.sql"),
            &[
                ("table", &quoted(&self.table)),
                ("from", &instant(bounds.from)),
                ("to", &instant(bounds.to)),
                ("positions", &positions),
            ],
        )
    }
}

/// The folder of a connector's files below the bucket or the stage.
pub(super) fn folder(connector: &str) -> String {
    let plain: String = connector.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    format!("sendlake/{plain}")
}

/// The name of a batch's file: the same for the same rows.
pub(super) fn file_name(batch_id: &str) -> String {
    format!("{batch_id}.parquet")
}

/// Text as a literal. In Snowflake a backslash begins an escape sequence too.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A name of ours as an identifier: upper case, so that whoever writes it without quotes finds it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.to_uppercase().replace('"', "\"\""))
}

/// The type of a column in the table.
pub(super) fn target_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "VARCHAR",
        Kind::Integer => "NUMBER(10, 0)",
        Kind::BigInt => "NUMBER(19, 0)",
        Kind::Boolean => "BOOLEAN",
        Kind::Timestamp => "TIMESTAMP_NTZ(6)",
        Kind::Date => "DATE",
        Kind::Json => "VARIANT",
    }
}

/// In the staging table JSON is the text that it is in the file.
fn staging_type(kind: Kind) -> &'static str {
    if kind == Kind::Json { "VARCHAR" } else { target_type(kind) }
}

fn staged_value(column: &Column) -> String {
    let name = quoted(&column.name);
    if column.kind == Kind::Json { format!("PARSE_JSON({name}) AS {name}") } else { name }
}

fn columns_of(mapping: &Mapping, of: fn(Kind) -> &'static str) -> String {
    let columns = mapping.columns.iter().map(|column| {
        let not_null = if column.nullable { "" } else { " NOT NULL" };
        format!("{} {}{not_null}", quoted(&column.name), of(column.kind))
    });
    columns.collect::<Vec<_>>().join(",\n  ")
}

fn staging(connector: &str, batch_id: &str) -> String {
    let plain: String = connector.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("SENDLAKE_{plain}_{batch_id}")
}

fn position(incarnation: &Uuid, lsn: u64) -> String {
    format!("(\"INCARNATION\" = '{incarnation}' AND \"LSN\" <= {lsn})")
}

fn instant(at: Timestamp) -> String {
    let at: DateTime<Utc> = at.to_chrono();
    format!("'{}'", at.format("%Y-%m-%dT%H:%M:%S%.6f"))
}

fn day(day: &str) -> String {
    format!("{}::DATE", literal(day))
}

/// Puts values in place of `{name}`; comments stay behind, where whoever looks for reasons finds them.
pub(super) fn fill(text: &str, values: &[(&str, &str)]) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("--")).collect();
    fill_all(lines.join("\n").trim(), values)
}

/// [`fill`], with the comments.
pub(super) fn fill_all(text: &str, values: &[(&str, &str)]) -> String {
    let mut filled = text.to_owned();
    for (name, value) in values {
        filled = filled.replace(&format!("{{{name}}}"), value);
    }
    filled
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn names() -> Names {
        let settings = Settings { table: "events".into(), ..Settings::default() };
        Names::new(&settings, "wh-1")
    }

    fn batch(change: Change) -> StagedBatch {
        let only = ["tags".to_owned(), "size_bytes".to_owned()];
        StagedBatch {
            connector: "wh-1".into(),
            batch_id: "0123456789abcdef0123456789abcdef".into(),
            change,
            attempt: 1,
            job_id: None,
            file: "x".into(),
            rows: 3,
            bytes: 1,
            days: ("2026-01-01".into(), "2026-01-02".into()),
            mapping: Arc::new(Mapping::of_events(&only, &[], &std::collections::BTreeMap::new()).unwrap()),
        }
    }

    #[test]
    fn a_load_is_so_many_statements_and_nothing_is_left_to_fill() {
        for change in [Change::Add, Change::Replace, Change::Delete] {
            let text = names().load(&batch(change));
            let statements: Vec<&str> = text.split(';').collect();
            assert_eq!(statements.len(), LOAD_STATEMENTS, "{text}");
            assert!(statements[MERGE_STATEMENT].trim().starts_with("MERGE INTO \"EVENTS\""), "{text}");
            assert!(!text.contains('{') && !text.contains("--"), "{text}");
        }
    }

    #[test]
    fn the_statement_that_copies_from_a_stage_is_this() {
        let text = names().load(&batch(Change::Add));
        let copy = text.split(';').nth(1).unwrap().trim().replace('\n', " ");
        assert_eq!(
            copy,
            "COPY INTO \"SENDLAKE_WH_1_0123456789ABCDEF0123456789ABCDEF\" FROM @SENDLAKE_STAGE/sendlake/wh-1/ FILES = \
             ('0123456789abcdef0123456789abcdef.parquet') FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE \
             BINARY_AS_TEXT = FALSE NULL_IF = ()) MATCH_BY_COLUMN_NAME = CASE_INSENSITIVE ON_ERROR = ABORT_STATEMENT"
        );
    }

    #[test]
    fn a_merge_looks_at_the_days_of_the_batch_and_parses_json() {
        let text = names().load(&batch(Change::Replace));
        let merge = text.split(';').nth(MERGE_STATEMENT).unwrap();
        assert!(merge.contains("BETWEEN '2026-01-01'::DATE AND '2026-01-02'::DATE"), "{merge}");
        assert!(merge.contains("PARSE_JSON(\"TAGS\") AS \"TAGS\""), "{merge}");
        assert!(merge.contains("\"SIZE_BYTES\" = s.\"SIZE_BYTES\""), "{merge}");
        let delete = names().load(&batch(Change::Delete));
        assert!(delete.contains("WHEN MATCHED THEN DELETE") && !delete.contains("SIZE_BYTES"), "{delete}");
    }

    #[test]
    fn text_stays_text_within_a_literal() {
        assert_eq!(literal(r"a'b\c"), r"'a''b\\c'");
        assert_eq!(quoted("tags"), "\"TAGS\"");
    }
}
