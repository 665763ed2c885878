//! The tables: made when they are missing, columns added, never one changed or dropped.

use reqwest::Method;
use serde_json::{Value, json};

use super::Bigquery;
use super::client::text_parameter;
use super::names::{clustering, fill, tables, target, type_of};
use super::settings::LEDGER;
use crate::mapping::{Column, Mapping};
use crate::target::TargetError;

/// Columns of the ledger: name, type, what it holds.
pub const LEDGER_COLUMNS: [(&str, &str, &str); 10] = [
    ("batch_id", "STRING", "The same for the same rows of the lake."),
    ("connector", "STRING", "Its name in sendlake's configuration."),
    ("target", "STRING", "The table, as project.dataset.table."),
    ("source_table", "STRING", "The table in the lake."),
    ("change", "STRING", "add, replace or delete."),
    ("rows_staged", "INTEGER", "Rows in the file."),
    ("rows_changed", "INTEGER", "Rows added, replaced or deleted; fewer where some were there already."),
    ("mapping_version", "STRING", "Names the list of columns, kinds and masks."),
    ("attempt", "INTEGER", "1 where the first try succeeded: so many load jobs were begun."),
    ("loaded_at", "TIMESTAMP", "When the transaction that loaded it began."),
];
/// Columns of the table that loads meet at.
pub const WRITER_COLUMNS: [(&str, &str, &str); 3] = [
    ("target", "STRING", "The table, as project.dataset.table."),
    ("batch_id", "STRING", "The batch that was last loaded into it."),
    ("written_at", "TIMESTAMP", "When."),
];
/// Of reading and changing a table, when others change it at the same time.
const ROUNDS: u32 = 5;
const SETUP: &str = include_str!("sql/writer.sql");

impl Bigquery {
    pub(super) async fn prepare_tables(&self, mapping: &Mapping) -> Result<Vec<String>, TargetError> {
        let mut lines = Vec::new();
        lines.extend(self.plain_table(LEDGER, &LEDGER_COLUMNS, &["connector", "batch_id"]).await?);
        let writer = self.settings.writer();
        lines.extend(self.plain_table(&writer, &WRITER_COLUMNS, &[]).await?);
        // Asked first: a change outside a transaction would cancel a load that is in one.
        let doing = format!("preparing {writer}");
        let parameters = vec![text_parameter("target", &target(&self.settings))];
        let look = fill("SELECT 1 FROM {writer} WHERE target = @target LIMIT 1", &tables(&self.settings));
        if self.client.question(&look, parameters.clone(), &doing).await?.is_empty() {
            self.client.question(&fill(SETUP, &tables(&self.settings)), parameters, &doing).await?;
        }
        lines.extend(self.target_table(mapping).await?);
        Ok(lines)
    }

    /// One of our own tables. An older version's lacks none of these columns: there is only one so far.
    async fn plain_table(
        &self,
        table: &str,
        columns: &[(&str, &str, &str)],
        clustering: &[&str],
    ) -> Result<Option<String>, TargetError> {
        if self.table(table).await?.is_some() {
            return Ok(None);
        }
        let fields: Vec<Value> = columns
            .iter()
            .map(|(name, kind, about)| json!({ "name": name, "type": kind, "mode": "NULLABLE", "description": about }))
            .collect();
        let mut body = json!({
            "tableReference": self.reference(table), "schema": { "fields": fields },
            "description": "sendlake's own: see docs/connectors/bigquery.md",
        });
        if let (false, Some(body)) = (clustering.is_empty(), body.as_object_mut()) {
            body.insert("clustering".to_owned(), json!({ "fields": clustering }));
        }
        self.make(table, body).await
    }

    async fn target_table(&self, mapping: &Mapping) -> Result<Vec<String>, TargetError> {
        let name = target(&self.settings);
        for _ in 0..ROUNDS {
            let Some(found) = self.table(&self.settings.table).await? else {
                let body = json!({
                    "tableReference": self.reference(&self.settings.table),
                    "schema": { "fields": mapping.columns.iter().map(field).collect::<Vec<_>>() },
                    "timePartitioning": { "type": "DAY", "field": "event_date" },
                    "clustering": { "fields": clustering(mapping) },
                });
                match self.make(&self.settings.table, body).await? {
                    Some(line) => return Ok(vec![line]),
                    // Somebody else made it: it is looked at like any other.
                    None => continue,
                }
            };
            let additions = compare(&name, &found, mapping)?;
            if additions.is_empty() {
                return Ok(Vec::new());
            }
            if self.add_columns(&found, &additions).await? {
                let connector = &self.connector;
                let line = |column: &&Column| {
                    format!(
                        "{name}: column {} added ({}); rows loaded before have NULL in it: `sendlake export backfill \
                         {connector} --from … --to … --replace` fills it",
                        column.name,
                        type_of(column.kind)
                    )
                };
                return Ok(additions.iter().map(line).collect());
            }
        }
        Err(TargetError::Away(format!("BigQuery, {name}: others change its schema all the time")))
    }

    /// `false` when the table was changed since `found` was read.
    async fn add_columns(&self, found: &Value, additions: &[&Column]) -> Result<bool, TargetError> {
        let table = &self.settings.table;
        let doing = format!("adding columns to {}", target(&self.settings));
        let mut fields = fields_of(found).to_vec();
        // A column that joins an existing table cannot be REQUIRED: its older rows have none.
        fields.extend(
            additions.iter().map(
                |column| json!({ "name": column.name, "type": type_of(column.kind), "mode": "NULLABLE" }),
            ),
        );
        let body = json!({ "schema": { "fields": fields } });
        let etag = found.get("etag").and_then(Value::as_str);
        let path = format!("datasets/{}/tables/{table}", self.settings.dataset);
        match self.client.ask_if(Method::PATCH, &path, &[], Some(body), etag, &doing).await? {
            Ok(_) => Ok(true),
            Err(failure) if failure.is_stale() => Ok(false),
            Err(failure) if failure.status == Some(400) => {
                let names: Vec<&str> = additions.iter().map(|column| column.name.as_str()).collect();
                Err(TargetError::Schema(format!(
                    "{}: BigQuery does not add {}: {}; add what `sendlake export ddl` prints by hand, or leave the \
                     column out with `exclude`",
                    target(&self.settings),
                    names.join(", "),
                    failure.message
                )))
            }
            Err(failure) => Err(failure.into_error(&doing)),
        }
    }

    /// Makes a table; `None` when it is there meanwhile.
    async fn make(&self, table: &str, body: Value) -> Result<Option<String>, TargetError> {
        let Self { settings, .. } = self;
        let name = format!("{}.{}.{table}", settings.project, settings.dataset);
        let doing = format!("making the table {name}");
        let path = format!("datasets/{}/tables", settings.dataset);
        match self.client.ask(Method::POST, &path, &[], Some(body), &doing).await? {
            Ok(_) => Ok(Some(format!("{name}: made"))),
            Err(failure) if failure.is_duplicate() => Ok(None),
            Err(failure) => Err(failure.into_error(&doing)),
        }
    }

    /// A table of the dataset; `None` when there is none.
    async fn table(&self, table: &str) -> Result<Option<Value>, TargetError> {
        let dataset = &self.settings.dataset;
        let doing = format!("asking for the table {}.{dataset}.{table}", self.settings.project);
        // A dataset that is not there would be a missing table as well.
        self.client.location().await?;
        let path = format!("datasets/{dataset}/tables/{table}");
        match self.client.ask(Method::GET, &path, &[], None, &doing).await? {
            Ok(found) => Ok(Some(found)),
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(failure.into_error(&doing)),
        }
    }

    fn reference(&self, table: &str) -> Value {
        json!({ "projectId": self.settings.project, "datasetId": self.settings.dataset, "tableId": table })
    }
}

fn field(column: &Column) -> Value {
    let mode = if column.nullable { "NULLABLE" } else { "REQUIRED" };
    json!({ "name": column.name, "type": type_of(column.kind), "mode": mode })
}

fn fields_of(table: &Value) -> &[Value] {
    let fields = table.get("schema").and_then(|schema| schema.get("fields"));
    fields.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The columns that the table lacks; or what keeps rows of the mapping from going into it.
pub(super) fn compare<'a>(
    name: &str,
    table: &Value,
    mapping: &'a Mapping,
) -> Result<Vec<&'a Column>, TargetError> {
    let text =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = text(table, "type");
    if kind != "TABLE" {
        return Err(TargetError::Schema(format!(
            "{name} is a {kind}, not a table that rows can be loaded into: name another in `table`"
        )));
    }
    let fields = fields_of(table);
    let mut additions = Vec::new();
    for column in &mapping.columns {
        // Column names of BigQuery differ by more than case.
        let is_it = |field: &&Value| text(field, "name").eq_ignore_ascii_case(&column.name);
        let Some(field) = fields.iter().find(is_it) else {
            additions.push(column);
            continue;
        };
        let (found, wanted) = (text(field, "type"), type_of(column.kind));
        let mode = text(field, "mode");
        let found = match found.as_str() {
            "INT64" => "INTEGER",
            "BOOL" => "BOOLEAN",
            other => other,
        };
        if found != wanted || mode == "REPEATED" {
            let mode = if mode == "REPEATED" { "REPEATED " } else { "" };
            return Err(TargetError::Schema(format!(
                "{name}, column {}: found {mode}{found}, wanted {wanted}; load into another table, or rename that \
                 column, or leave it out with `exclude`",
                column.name
            )));
        }
        if mode == "REQUIRED" && column.nullable {
            return Err(TargetError::Schema(format!(
                "{name}, column {name_of}: found REQUIRED, wanted NULLABLE; run ALTER TABLE `{name}` ALTER COLUMN \
                 `{name_of}` DROP NOT NULL",
                name_of = column.name
            )));
        }
    }
    let unknown = fields.iter().find(|field| {
        let name = text(field, "name");
        text(field, "mode") == "REQUIRED" && !mapping.names().any(|column| column.eq_ignore_ascii_case(&name))
    });
    if let Some(field) = unknown {
        return Err(TargetError::Schema(format!(
            "{name}, column {column}: found REQUIRED, and it is not exported; run ALTER TABLE `{name}` ALTER COLUMN \
             `{column}` DROP NOT NULL",
            column = text(field, "name")
        )));
    }
    Ok(additions)
}
